"""Layers with PyTorch's default initialisation, and one convolution.

`Conv` and `Conv1D` hold the usual parameters (a kernel laid out HWIO) and
choose their lowering by backend. XLA on CPU runs a convolution's gradients
inside a loop body 10 to 30 times slower than outside it
(https://github.com/jax-ml/jax/issues/12868), and `fit` runs its steps inside
`lax.scan`. So on CPU a convolution is patches and one matrix product, built
from pads, slices and reshapes alone, whose gradients are again pads, slices and
matrix products. Elsewhere it is the native operation. A 1x1 convolution is a
matrix product everywhere.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Initializer = jax.nn.initializers.Initializer

LOWERINGS = ('patches', 'native')


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

  Args:
    fan_in: inputs of one output unit of the weight that the bias belongs to. A
      bias's own shape does not tell it.

  Returns:
    An initialiser that draws from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
  """
  bound = 1 / math.sqrt(fan_in)

  def init(key, shape, dtype=jnp.float32, out_sharding=None):
    del out_sharding  # Biases are small: they follow their weight.
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def normalise_images(images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
  """Maps uint8 images to [-1, 1]; floats pass, cast to `dtype`.

  Args:
    images: [N, H, W, C], uint8 in 0..255 or floats already in [-1, 1].
    dtype: the dtype of the result.

  Returns:
    [N, H, W, C] in [-1, 1].

  Raises:
    ValueError: if the images are neither uint8 nor floats.
  """
  if images.dtype == jnp.uint8:
    # Scaled in float32, as bfloat16 would round twice.
    return (images.astype(jnp.float32) / 127.5 - 1).astype(dtype)
  if jnp.issubdtype(images.dtype, jnp.floating):
    return images.astype(dtype)
  raise ValueError(
    f'images have dtype {images.dtype}; accepted are uint8 in 0..255 and '
    'floats in [-1, 1]. Cast them first.'
  )


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns `x` [..., D] plus `bias` [D], without implicit rank promotion."""
  return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class Dense(nn.Module):
  """A linear map over the last axis, initialised as PyTorch does.

  Attributes:
    features: size of the output.
    use_bias: whether to add a bias.
    dtype: compute dtype, or None to promote inputs and parameters.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of the kernel [D, features].
  """

  features: int
  use_bias: bool = True
  dtype: Any = None
  param_dtype: Any = jnp.float32
  kernel_init: Initializer = torch_uniform()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [..., features] for `x` [..., D]."""
    fan_in = x.shape[-1]
    kernel = self.param(
      'kernel', self.kernel_init, (fan_in, self.features), self.param_dtype
    )
    bias = None
    if self.use_bias:
      bias = self.param(
        'bias', torch_bias(fan_in), (self.features,), self.param_dtype
      )
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = x @ kernel
    return y if bias is None else add_bias(y, bias)


def batch_norm(
  train: bool,
  *,
  dtype: Any = None,
  axis_name: str | None = None,
  name: str | None = None,
) -> nn.BatchNorm:
  """Returns batch normalisation over all axes but the last.

  Epsilon 1e-5; running statistics move by 0.1 a step (PyTorch's momentum 0.1 is
  Flax's 0.9). Statistics are float32 whatever `dtype` is. Unlike PyTorch, Flax
  stores the biased variance, which is smaller by 1 - 1/n.

  Args:
    train: use the batch's statistics and update the running ones.
    dtype: dtype of the result, or None to promote.
    axis_name: the `pmap` axis to average statistics over, or None.
    name: the module's name.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    axis_name=axis_name,
    name=name,
  )


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: int = 1,
  padding: int = 0,
  lowering: str | None = None,
) -> jax.Array:
  """Cross-correlates a batch with a kernel, as neural networks do.

  Args:
    x: [N, H, W, C], or [N, T, C].
    kernel: [K, K, C, D] (HWIO), or [K, C, D].
    strides: step of the window along every spatial axis.
    padding: zeros added at both ends of every spatial axis.
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
    lowering = 'patches' if jax.default_backend() == 'cpu' else 'native'
  if lowering not in LOWERINGS:
    raise ValueError(
      f'unknown lowering {lowering!r}; accepted are None (by backend), '
      + ', '.join(map(repr, LOWERINGS))
      + '.'
    )
  size = kernel.shape[0]
  if min(x.shape[1:-1]) + 2 * padding < size:
    raise ValueError(
      f'a window of {size} does not fit an input of shape {x.shape} padded by '
      f'{padding}; give larger inputs, or more padding.'
    )
  if lowering == 'patches' or size == 1:
    return _convolve_patches(x, kernel, strides, padding)
  letters = 'HW' if spatial == 2 else 'T'
  layout = 'N' + letters + 'C'
  return lax.conv_general_dilated(
    x,
    kernel,
    (strides,) * spatial,
    [(padding, padding)] * spatial,
    dimension_numbers=(layout, letters + 'IO', layout),
  )


def _convolve_patches(
  x: jax.Array, kernel: jax.Array, strides: int, padding: int
) -> jax.Array:
  """Convolves by one matrix product with the windows' contents."""
  size, features = kernel.shape[0], kernel.shape[-1]
  spatial = x.shape[1:-1]
  outputs = tuple((n + 2 * padding - size) // strides + 1 for n in spatial)
  # What the windows reach. The padded tail beyond is never read, so it may be
  # cut: the high padding may be negative.
  pads = [
    (padding, (m - 1) * strides + size - n - padding, 0)
    for n, m in zip(spatial, outputs, strict=True)
  ]
  none = (0, 0, 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), [none, *pads, none])
  if strides > 1 and size % strides == 0:
    # A strided convolution is an unstrided one over blocks of stride^2 pixels.
    # Its slices are fewer and contiguous, above all in the backward pass, where
    # a strided slice becomes a pad with holes: basic32 takes 0.077 s a step
    # instead of 0.104 s.
    x = _space_to_depth(x, strides)
    kernel = _space_to_depth(kernel[None], strides, kernel=True)[0]
    size, strides = size // strides, 1
  columns = []
  for starts in itertools.product(range(size), repeat=len(outputs)):
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
  patches = columns[0] if len(columns) == 1 else jnp.concatenate(columns, -1)
  return patches @ kernel.reshape(-1, features)


def _space_to_depth(
  x: jax.Array, block: int, *, kernel: bool = False
) -> jax.Array:
  """Moves blocks of the spatial axes into the channels: [N, H/b, W/b, bbC].

  Args:
    x: [N, H, W, C] or [N, T, C], spatial sizes multiples of `block`. With
      `kernel`, one more axis follows the channels and stays.
    block: the size of a block.
    kernel: whether x is a kernel, [1, K, K, C, D] or [1, K, C, D].
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


class _ConvND(nn.Module):
  """What `Conv` and `Conv1D` share; see there."""

  features: int
  kernel_size: int = 3
  strides: int = 1
  padding: int = 0
  use_bias: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32
  kernel_init: Initializer = torch_uniform()
  bias_init: Initializer | None = None
  lowering: str | None = None

  def _apply(self, x: jax.Array, spatial: int) -> jax.Array:
    if x.ndim != spatial + 2:
      axes = '[N, H, W, C]' if spatial == 2 else '[N, T, C]'
      raise ValueError(
        f'{type(self).__name__} takes inputs {axes}; got shape {x.shape}.'
      )
    shape = (self.kernel_size,) * spatial + (x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, self.param_dtype)
    bias = None
    if self.use_bias:
      init = self.bias_init or torch_bias(math.prod(shape[:-1]))
      bias = self.param('bias', init, (self.features,), self.param_dtype)
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = convolve(
      x,
      kernel,
      strides=self.strides,
      padding=self.padding,
      lowering=self.lowering,
    )
    return y if bias is None else add_bias(y, bias)


class Conv(_ConvND):
  """A 2-D convolution with square kernels, lowered by backend.

  Attributes:
    features: output channels.
    kernel_size: height and width of the kernel.
    strides: step of the window, along both axes.
    padding: zeros added on all four sides.
    use_bias: whether to add a bias.
    dtype: compute dtype, or None to promote inputs and parameters.
    param_dtype: dtype of the parameters.
    kernel_init: initialiser of 'kernel', laid out HWIO.
    bias_init: initialiser of 'bias', or None for PyTorch's default.
    lowering: 'patches', 'native', or None for patches on CPU and native
      elsewhere. Parameters are the same under each.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, H', W', features] for `x` [N, H, W, C]."""
    return self._apply(x, 2)


class Conv1D(_ConvND):
  """A 1-D convolution, lowered by backend; attributes as in `Conv`.

  The kernel is laid out [K, C, features].
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, T', features] for `x` [N, T, C]."""
    return self._apply(x, 1)
