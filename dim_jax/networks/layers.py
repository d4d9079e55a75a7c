"""Layers with PyTorch's default initialisation, and one convolution.

`Conv` and `Conv1D` hold the usual parameters (a kernel laid out HWIO) and
choose their lowering by platform. XLA on CPU runs a convolution's gradients
inside a loop body 10 to 30 times slower than outside it
(https://github.com/jax-ml/jax/issues/12868), and `fit` runs its steps inside
`lax.scan`. So on CPU a convolution is patches and one matrix product, built
from pads, slices and reshapes alone, whose gradients are again pads, slices and
matrix products; a large 3x3 convolution is Winograd's 16 smaller products.
Elsewhere it is the native operation. A 1x1 convolution is a matrix product
everywhere.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from dim_jax import scale

Initializer = jax.nn.initializers.Initializer

LOWERINGS = ('patches', 'native')
NORMS = ('batch', 'layer', 'group')
# Numbers in the windows that a product takes at a time, 8 MiB: few enough for
# the cache, and enough for several threads. The 3x3 convolutions of ResNet-50
# took 135, 101 and 74 ms so, and 241, 104 and 78 ms with 256 rows (two cores).
WINDOWS = 2**21
# Multiplications in each of Winograd's 16 products from which they save time.
# With gradients, 196 maps of 8x8 with 64 channels (12.8 million) took 20 ms and
# not 33; 128 of them (8.4 million) took 32 and not 26.
WINOGRAD = 12 * 10**6


def platform() -> str:
  """Returns the platform that is compiled for, such as 'cpu' or 'tpu'.

  It is that of the mesh in context (`jax.sharding.use_abstract_mesh`), which
  may be of devices that this host does not have; without one, JAX's default.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def by_example(
  function: Callable[[Any, jax.Array], jax.Array],
) -> Callable[[Any, jax.Array], jax.Array]:
  """Applies a network with a loop to the examples of each device apart.

  The gradient of what all devices have, such as weights, is then summed over
  them once, after the loop. Left to itself, XLA exchanges it in every turn.

  Args:
    function: `(shared, x [N, ...]) -> [N, ...]`, an example at a time.

  Returns:
    `function`; over the devices of the mesh in context, if it has several whose
    work XLA divides, and they divide the examples.
  """

  def apply(shared: Any, x: jax.Array) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    if mesh.size < 2 or not automatic or x.shape[0] % mesh.size:
      return function(shared, x)
    own = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
      function,
      in_specs=(PartitionSpec(), own),
      out_specs=own,
      check_vma=False,
    )(shared, x)

  return apply


def torch_uniform() -> Initializer:
  """Returns PyTorch's default initialiser of weights.

  Kaiming-uniform with a = sqrt(5), which is U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

  References:
    He et al., Delving Deep into Rectifiers, 2015:
    https://arxiv.org/abs/1502.01852
  """
  return jax.nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def torch_bias(fan_in: int) -> Initializer:
  """Returns PyTorch's default initialiser of biases.

  It draws from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the fan-in being that of one
  output unit of the weight, which a bias's own shape does not tell.
  """
  bound = 1 / math.sqrt(fan_in)

  def init(key, shape, dtype=jnp.float32, out_sharding=None):
    del out_sharding  # Biases are small: they follow their weight.
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def normalise_images(images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
  """Maps uint8 images to [-1, 1]; floats, already there, are cast to `dtype`.

  Of any shape; another dtype raises ValueError.
  """
  if images.dtype == jnp.uint8:
    return scale.to_unit(images).astype(dtype)
  if jnp.issubdtype(images.dtype, jnp.floating):
    return images.astype(dtype)
  raise ValueError(
    f'images have dtype {images.dtype}; accepted are uint8 in 0..255 and '
    'floats in [-1, 1]. Cast them first.'
  )


def patches(images: jax.Array, size: int, stride: int) -> jax.Array:
  """Cuts images into a grid of square patches that may overlap.

  Args:
    images: [N, H, W, C], of any dtype.
    size: height and width of a patch.
    stride: step from one patch to the next, along both axes.

  Returns:
    [N, rows, cols, size, size, C], rows from the top and columns from the left.

  Raises:
    ValueError: if the patches do not cover the images exactly.
  """
  if images.ndim != 4:
    raise ValueError(
      f'patches are cut from images [N, H, W, C]; got shape {images.shape}.'
    )
  height, width = images.shape[1:3]
  for n in (height, width):
    if n < size or (n - size) % stride:
      fits = size + max(0, round((n - size) / stride)) * stride
      raise ValueError(
        f'patches of {size} pixels every {stride} do not cover images of '
        f'{height}x{width}; accepted sizes are {size} plus multiples of '
        f'{stride}. The nearest to {n} is {fits}: crop or resize to it, or '
        'choose other patches.'
      )
  # Slices of rows, then of columns: rows + cols operations, and no gather.
  starts = range(0, height - size + 1, stride)
  x = jnp.stack([images[:, i : i + size] for i in starts], 1)
  starts = range(0, width - size + 1, stride)
  return jnp.stack([x[:, :, :, i : i + size] for i in starts], 2)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns `x` [..., D] plus `bias` [D], without implicit rank promotion."""
  return add(x, bias.reshape((1,) * (x.ndim - 1) + (-1,)))


def add(x: jax.Array, *others: jax.Array) -> jax.Array:
  """Returns the sum of arrays of as many axes, of which some have one row.

  In float32 at least, and rounded to the dtype of `x`: the gradient of what is
  broadcast is a sum over all its uses, and one in bfloat16 stops growing after
  some hundreds.

  Args:
    x: an array.
    *others: whose axes are as long as those of the sum, or 1.
  """
  wide = x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32
  total = x.astype(wide)
  for other in others:
    total = total + other.astype(wide)
  return total.astype(x.dtype)


def product(x: jax.Array, kernel: jax.Array, dtype: Any = None) -> jax.Array:
  """Multiplies the last axis of an array with a matrix, as one product of rows.

  With several leading axes the gradient of the kernel would be a product that
  contracts them all, for which XLA on a CPU transposes all rows first: of
  [64, 64, 128] with [128, 2048], 90 ms rather than 47 (two cores, sine after
  it).

  Args:
    x: [..., D].
    kernel: [D, K].
    dtype: to accumulate in and to return, or None for that of the arguments.

  Returns:
    [..., K].
  """
  rows = x.reshape(-1, x.shape[-1])
  y = jnp.matmul(rows, kernel, preferred_element_type=dtype)
  return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
  """A linear map over the last axis, initialised as PyTorch does.

  Attributes:
    features: size of the output.
    use_bias: whether to add a bias.
    dtype: compute dtype, or None to promote inputs and parameters.
    kernel_init: initialiser of the kernel [D, features].
  """

  features: int
  use_bias: bool = True
  dtype: Any = None
  kernel_init: Initializer = torch_uniform()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [..., features] for `x` [..., D]."""
    fan_in = x.shape[-1]
    kernel = self.param(
      'kernel', self.kernel_init, (fan_in, self.features), jnp.float32
    )
    bias = None
    if self.use_bias:
      bias = self.param(
        'bias', torch_bias(fan_in), (self.features,), jnp.float32
      )
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = product(x, kernel)
    return y if bias is None else add_bias(y, bias)


def normalise(
  x: jax.Array,
  norm: str = 'batch',
  *,
  train: bool,
  dtype: Any = None,
  axis_name: str | None = None,
  name: str | None = None,
) -> jax.Array:
  """Normalises features, within the compact call of a module.

  Statistics and parameters are float32 whatever `dtype` is; epsilon is 1e-5.

  Args:
    x: [N, ..., D].
    norm: one of `NORMS`. 'batch' normalises each channel over all other axes;
      its running statistics move by 0.1 a step (PyTorch's momentum 0.1 is
      Flax's 0.9), but store the biased variance, which is smaller by 1 - 1/n.
      The others have no state, and an example depends on itself alone: 'layer'
      normalises each position over its channels, 'group' each example over its
      positions and a 32nd of its channels.
    train: whether 'batch' uses the batch's statistics and updates the running
      ones, rather than use the running ones.
    dtype: dtype of the result, or None to promote.
    axis_name: the `pmap` axis to average the batch's statistics over, or None.
    name: the submodule's name.

  Returns:
    Of the shape of `x`.

  Raises:
    ValueError: on an unknown norm.

  References:
    Ioffe and Szegedy, 2015: https://arxiv.org/abs/1502.03167
    Ba, Kiros and Hinton, 2016: https://arxiv.org/abs/1607.06450
    Wu and He, 2018: https://arxiv.org/abs/1803.08494
  """
  fields: dict[str, Any] = {'epsilon': 1e-5, 'dtype': dtype, 'name': name}
  if norm == 'batch':
    fields |= {'momentum': 0.9, 'axis_name': axis_name}
    module = nn.BatchNorm(use_running_average=not train, **fields)
  elif norm == 'layer':
    module = nn.LayerNorm(**fields)
  elif norm == 'group':
    # As many groups as divide the channels, where 32 do not.
    module = nn.GroupNorm(math.gcd(32, x.shape[-1]), **fields)
  else:
    raise ValueError(f'norm must be one of {NORMS}, got {norm!r}.')
  # Flax subtracts float32 statistics from bfloat16 features, which strict
  # promotion would refuse.
  with jax.numpy_dtype_promotion('standard'):
    return module(x)


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: int = 1,
  padding: int | Sequence[tuple[int, int]] = 0,
  lowering: str | None = None,
) -> jax.Array:
  """Cross-correlates a batch with a kernel, as neural networks do.

  Args:
    x: [N, H, W, C], or [N, T, C].
    kernel: [K, K', C, D] (HWIO), or [K, C, D].
    strides: step of the window along every spatial axis.
    padding: zeros added at both ends of every spatial axis, or a pair (before,
      after) for each.
    lowering: 'patches', 'native', or None for patches on CPU and native
      elsewhere. A kernel of size 1 is a matrix product in each case.

  Returns:
    [N, H', W', D], or [N, T', D]. Inputs smaller than the window give an error.

  Raises:
    ValueError: on an unknown lowering, on ranks or channels that do not match,
      or if the window does not fit.
  """
  spatial = kernel.ndim - 2
  if x.ndim != kernel.ndim:
    axes = '[N, H, W, C]' if spatial == 2 else '[N, T, C]'
    raise ValueError(
      f'a {spatial}-D convolution takes inputs {axes}; got shape {x.shape}.'
    )
  if x.shape[-1] != kernel.shape[-2]:
    raise ValueError(
      f'the kernel {kernel.shape} takes {kernel.shape[-2]} channels; the input '
      f'{x.shape} has {x.shape[-1]} (the last axis).'
    )
  if lowering is None:
    lowering = 'patches' if platform() == 'cpu' else 'native'
  if lowering not in LOWERINGS:
    raise ValueError(
      f'unknown lowering {lowering!r}; accepted are None (by platform), '
      + ', '.join(map(repr, LOWERINGS))
      + '.'
    )
  sizes = kernel.shape[:spatial]
  if isinstance(padding, int):
    pads = [(padding, padding)] * spatial
  else:
    pads = [(low, high) for low, high in padding]
  if any(
    n + low + high < size
    for n, (low, high), size in zip(x.shape[1:-1], pads, sizes, strict=True)
  ):
    window = 'x'.join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))
    raise ValueError(
      f'a window of {window} does not fit an input of shape {x.shape} padded '
      f'by {padding}; give larger inputs, or more padding.'
    )
  if lowering == 'patches' or max(sizes) == 1:
    return _convolve_patches(x, kernel, strides, pads)
  letters = 'HW' if spatial == 2 else 'T'
  layout = 'N' + letters + 'C'
  return lax.conv_general_dilated(
    x,
    kernel,
    (strides,) * spatial,
    pads,
    dimension_numbers=(layout, letters + 'IO', layout),
  )


def _convolve_patches(
  x: jax.Array,
  kernel: jax.Array,
  strides: int,
  padding: Sequence[tuple[int, int]],
) -> jax.Array:
  """Convolves by one matrix product with the windows' contents."""
  sizes, features = kernel.shape[:-2], kernel.shape[-1]
  spatial = x.shape[1:-1]
  outputs = tuple(
    (n + low + high - size) // strides + 1
    for n, (low, high), size in zip(spatial, padding, sizes, strict=True)
  )
  # What the windows reach. The padded tail beyond is never read, so it may be
  # cut: the high padding may be negative.
  pads = [
    (low, (m - 1) * strides + size - n - low, 0)
    for n, m, (low, _), size in zip(
      spatial, outputs, padding, sizes, strict=True
    )
  ]
  # With thin channels it pays even where it multiplies more.
  thin = 16 if max(kernel.shape[-2:]) <= 64 else 0
  if max(sizes) > 1 and math.prod(spatial) <= max(math.prod(sizes), thin):
    return _convolve_small(x, kernel, strides, padding, outputs)
  channels = kernel.shape[-2]
  if (
    strides == 1 < max(sizes)
    and 4 * features <= channels
    and _is_full(kernel.dtype)
  ):
    return _convolve_sums(x, kernel, [low for low, _, _ in pads], outputs)
  if strides > 1 and not any(size % strides for size in sizes):
    # A strided convolution is an unstrided one over blocks of stride^2 pixels.
    # Its slices are fewer and contiguous, above all in the backward pass, where
    # a strided slice becomes a pad with holes: basic32 takes 0.077 s a step
    # instead of 0.104 s.
    x = _space_to_depth(_pad(x, pads), strides)
    kernel = _space_to_depth(kernel[None], strides, kernel=True)[0]
    return _convolve_windows(x, kernel, 1, outputs)
  if _winograd_pays(x, kernel, strides, outputs):
    pads = [
      (low, high + m % 2, 0)
      for (low, high, _), m in zip(pads, outputs, strict=True)
    ]
    window = 16 * kernel.shape[-2]
    positions = math.prod(-(-m // 2) for m in outputs)
    convolve_maps = functools.partial(_convolve_winograd, outputs=outputs)
  else:
    window, positions = math.prod(kernel.shape[:-1]), math.prod(outputs)
    convolve_maps = functools.partial(
      _convolve_windows, strides=strides, outputs=outputs
    )
  group = _group_size(x.shape[0], positions, window, features)
  if max(sizes) == 1 or not group:
    return convolve_maps(_pad(x, pads), kernel)
  # A few maps at a time: their windows stay in the cache, and are cut out again
  # in the backward pass instead of kept. 3x3 windows of 64 channels on 16x16
  # take half the time, and a seventh of the memory.
  wide = kernel if _is_full(kernel.dtype) else kernel.astype(jnp.float32)

  @jax.checkpoint
  def of_group(maps):
    # Narrowed in here, gradients of half precision add up in float32.
    return convolve_maps(_pad(maps, pads), wide.astype(kernel.dtype))

  y = lax.map(of_group, x.reshape(-1, group, *x.shape[1:]))
  return y.reshape(x.shape[0], *outputs, features)


def _convolve_sums(
  x: jax.Array, kernel: jax.Array, lows: Sequence[int], outputs: Sequence[int]
) -> jax.Array:
  """Convolves by one product whose outputs are shifted and added up.

  With few of them that moves less memory than windows of all input channels.
  """
  sizes, features = kernel.shape[:-2], kernel.shape[-1]
  spatial = x.shape[1:-1]
  kernel = jnp.moveaxis(kernel, -2, 0).reshape(x.shape[-1], -1)
  parts = jnp.split(product(x, kernel), math.prod(sizes), axis=-1)
  total: Any = 0
  for part, starts in zip(parts, np.ndindex(*sizes), strict=True):
    # Output o reads input o + start - low; a negative padding cuts off.
    firsts = [low - start for low, start in zip(lows, starts, strict=True)]
    pads = [
      (first, m - n - first, 0)
      for first, m, n in zip(firsts, outputs, spatial, strict=True)
    ]
    total += _pad(part, pads)
  return total.reshape(x.shape[0], *outputs, features)


def _group_size(
  count: int, positions: int, window: int, features: int
) -> int | None:
  """Returns how many of `count` maps to convolve at a time; None for all.

  Each of a map's `positions` is a row of the product: it takes a window of
  `window` numbers and gives `features`.
  """
  rows = max(256, WINDOWS // window)
  # Each group reads the kernel and adds to its gradient, which costs more than
  # windows that are smaller than the kernel.
  if count * positions <= max(rows, 4 * features):
    return None
  least = max(1, rows // (2 * positions))
  most = max(1, 2 * rows // positions)
  divisors = [n for n in range(least, most + 1) if count % n == 0]
  return min(divisors, key=lambda n: abs(n * positions - rows), default=None)


def _pad(x: jax.Array, pads: Sequence[tuple[int, int, int]]) -> jax.Array:
  """Pads the spatial axes with zeros."""
  none = (0, 0, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), [none, *pads, none])


def _convolve_windows(
  x: jax.Array, kernel: jax.Array, strides: int, outputs: Sequence[int]
) -> jax.Array:
  """Convolves padded maps by one product of all windows with the kernel."""
  windows = _windows(x, kernel.shape[:-2], strides, outputs)
  return product(windows, kernel.reshape(-1, kernel.shape[-1]))


def _windows(
  x: jax.Array, sizes: Sequence[int], strides: int, outputs: Sequence[int]
) -> jax.Array:
  """Returns the contents of each window, [N, H', W', K K' C]."""
  columns = []
  for starts in itertools.product(*map(range, sizes)):
    stops = [
      start + (n - 1) * strides + 1
      for start, n in zip(starts, outputs, strict=True)
    ]
    columns.append(
      lax.slice(
        x,
        (0, *starts, 0),
        (x.shape[0], *stops, x.shape[-1]),
        (1, *(strides for _ in outputs), 1),
      )
    )
  return columns[0] if len(columns) == 1 else jnp.concatenate(columns, -1)


def _is_full(dtype: Any) -> bool:
  return jnp.finfo(dtype).bits >= 32


def _winograd_pays(
  x: jax.Array, kernel: jax.Array, strides: int, outputs: Sequence[int]
) -> bool:
  """Tells whether `_convolve_winograd` computes this, and in less time."""
  channels, features = kernel.shape[-2:]
  tiles = x.shape[0] * math.prod(-(-m // 2) for m in outputs)
  return (
    kernel.shape[:-2] == (3, 3)
    and strides == 1
    and min(channels, features) >= 32
    and tiles * channels * features >= WINOGRAD
    and _is_full(kernel.dtype)
  )


def _convolve_winograd(
  x: jax.Array, kernel: jax.Array, outputs: Sequence[int]
) -> jax.Array:
  """Convolves with a 3x3 kernel by 16 products of a quarter of the positions.

  A tile of 2x2 outputs takes 16 multiplications for each pair of channels where
  windows take 36: of linear combinations of its 4x4 inputs with those of the
  kernel. Errors of rounding grow to a few times those of windows.

  Args:
    x: [N, H, W, C], of the outputs and what windows reach beyond, one zero more
      at the end of an odd axis.
    kernel: [3, 3, C, D].
    outputs: H' and W'.

  Returns:
    [N, H', W', D].

  References:
    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016,
    F(2x2, 3x3): https://arxiv.org/abs/1509.09308
  """
  # Four along the first axis for the rows, as one array each: a product and a
  # few passes for each four, where 16 would take twice as long to compile.
  maps = _tile_inputs(jnp.stack(_tile_inputs(x, 1)), 3)
  kernels = _tile_kernels(jnp.stack(_tile_kernels(kernel), 1))
  parts = [
    jnp.matmul(m.reshape(4, -1, m.shape[-1]), g)
    for m, g in zip(maps, kernels, strict=True)
  ]
  rows = _tile_outputs(*jnp.concatenate(_tile_outputs(*parts), -1))
  y = jnp.stack([row.reshape(*maps[0].shape[1:3], -1) for row in rows], 2)
  y = y.reshape(x.shape[0], 2 * y.shape[1], -1, kernel.shape[-1])
  return y[:, : outputs[0], : outputs[1]]


def _tile_inputs(x: jax.Array, axis: int) -> tuple[jax.Array, ...]:
  """Returns four combinations of a tile's inputs along an axis."""
  shape = (*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
  even, odd = (
    jnp.squeeze(half, axis + 1)
    for half in lax.split(x.reshape(shape), (1, 1), axis + 1)
  )
  count = even.shape[axis] - 1
  a, c = (lax.slice_in_dim(even, i, i + count, axis=axis) for i in (0, 1))
  b, d = (lax.slice_in_dim(odd, i, i + count, axis=axis) for i in (0, 1))
  return a - c, b + c, c - b, b - d


def _tile_kernels(kernel: jax.Array) -> tuple[jax.Array, ...]:
  """Returns the four combinations of a kernel along its first axis, of 3."""
  a, b, c = kernel
  return a, (a + b + c) / 2, (a - b + c) / 2, c


def _tile_outputs(
  a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns a tile's two outputs along an axis, from the four products."""
  return a + b + c, b - c - d


def _convolve_small(
  x: jax.Array,
  kernel: jax.Array,
  strides: int,
  padding: Sequence[tuple[int, int]],
  outputs: tuple[int, ...],
) -> jax.Array:
  """Convolves by one matrix product with the whole map, which must be small.

  The kernel is laid out as the matrix from all inputs to all outputs of a map:
  no windows are cut out, and none of their padding is multiplied.
  """
  channels, features = kernel.shape[-2:]
  matrix = kernel
  for axis, (n, m, (low, _)) in enumerate(
    zip(x.shape[1:-1], outputs, padding, strict=True)
  ):
    # Which of the kernel's elements joins input i and output j, if any does.
    element = np.arange(n)[:, None] - strides * np.arange(m)[None] + low
    joins = element.reshape(-1, 1) == np.arange(kernel.shape[axis])
    matrix = jnp.tensordot(matrix, joins.astype(kernel.dtype), axes=([0], [1]))
  # [C, D, H H', ...] to [H, ..., C, H', ..., D].
  sides = itertools.chain(*zip(x.shape[1:-1], outputs, strict=True))
  matrix = matrix.reshape(channels, features, *sides)
  pairs = range(2, matrix.ndim, 2)
  matrix = matrix.transpose(*pairs, 0, *(i + 1 for i in pairs), 1)
  matrix = matrix.reshape(
    math.prod(x.shape[1:-1]) * channels, math.prod(outputs) * features
  )
  y = x.reshape(x.shape[0], -1) @ matrix
  return y.reshape(x.shape[0], *outputs, features)


def _space_to_depth(
  x: jax.Array, block: int, *, kernel: bool = False
) -> jax.Array:
  """Moves blocks of the spatial axes into the channels: [N, H/b, W/b, bbC].

  Of [N, H, W, C] or [N, T, C], spatial sizes multiples of `block`; or of a
  kernel [1, K, K', C, D] or [1, K, C, D], whose last axis stays.
  """
  tail = x.shape[-1:] if kernel else ()
  n, *spatial, c = x.shape[:-1] if kernel else x.shape
  k = len(spatial)
  split: list[int] = []
  for size in spatial:
    split += [size // block, block]
  x = x.reshape(n, *split, c, *tail)
  outer = [1 + 2 * i for i in range(k)]
  inner = [2 + 2 * i for i in range(k)]
  x = x.transpose(0, *outer, *inner, *range(2 * k + 1, x.ndim))
  return x.reshape(n, *(s // block for s in spatial), block**k * c, *tail)


class Conv(nn.Module):
  """A 2-D convolution, lowered by backend.

  Attributes:
    features: output channels.
    kernel_size: side of a square kernel, or its height and width.
    strides: step of the window, along both axes.
    padding: zeros added on all four sides, or pairs ((top, bottom), (left,
      right)).
    use_bias: whether to add a bias.
    dtype: compute dtype, or None to promote inputs and parameters.
    kernel_init: initialiser of 'kernel', laid out HWIO.
    bias_init: initialiser of 'bias', or None for PyTorch's default.
    lowering: 'patches', 'native', or None for patches on CPU and native
      elsewhere. Parameters are the same under each.
  """

  features: int
  kernel_size: int | Sequence[int] = 3
  strides: int = 1
  padding: int | Sequence[tuple[int, int]] = 0
  use_bias: bool = False
  dtype: Any = None
  kernel_init: Initializer = torch_uniform()
  bias_init: Initializer | None = None
  lowering: str | None = None
  spatial: ClassVar[int] = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, H', W', features] for `x` [N, H, W, C]."""
    size = self.kernel_size
    sizes = (size,) * self.spatial if isinstance(size, int) else tuple(size)
    shape = (*sizes, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    bias = None
    if self.use_bias:
      init = self.bias_init or torch_bias(math.prod(shape[:-1]))
      bias = self.param('bias', init, (self.features,), jnp.float32)
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = convolve(
      x,
      kernel,
      strides=self.strides,
      padding=self.padding,
      lowering=self.lowering,
    )
    return y if bias is None else add_bias(y, bias)


class Conv1D(Conv):
  """A 1-D convolution: [N, T', features] for [N, T, C]; else as `Conv`.

  The kernel is laid out [K, C, features].
  """

  spatial: ClassVar[int] = 1
