"""An encoder of convolutions: whole images, or crops of them one by one.

Every hidden layer is a linear operation without bias, a normalisation and ReLU,
then perhaps max-pooling; or a residual block. The code Y is a plain linear map
with bias; a sigmoid, where the prior asks for one, belongs to the objective.
Maps are flattened in the order C, H, W, as PyTorch does, so that weights
compare.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
Their code: https://github.com/rdevon/DIM
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import layers

# The log-variance of a stochastic code lies in (-10, 10), that is, standard
# deviations in (0.0067, 148) around a prior's 1.
LOG_VARIANCE_BOUND = 10.0


def bounded_log_variance(raw: jax.Array) -> jax.Array:
  """Returns a log-variance in float32 of any real numbers `raw`."""
  # The rate holds exp(log_variance), which overflows float32 above 88. A clip
  # would stop the gradient outside; tanh is near the identity inside and always
  # has a slope.
  raw = raw.astype(jnp.float32) / LOG_VARIANCE_BOUND
  return LOG_VARIANCE_BOUND * jnp.tanh(raw)


@dataclasses.dataclass(frozen=True)
class ConvLayer:
  """One hidden convolution.

  Attributes:
    features: output channels.
    kernel_size: height and width of the kernel.
    strides: step of the window.
    padding: zeros on all four sides.
    pool: whether 3x3 max-pooling with stride 2, without padding, follows.
  """

  features: int
  kernel_size: int
  strides: int
  padding: int
  pool: bool = False


@dataclasses.dataclass(frozen=True)
class ResidualLayer:
  """One bottleneck block, with the fields of `ResidualBlock`."""

  width: int
  strides: int = 1


class ResidualBlock(nn.Module):
  """Convolutions 1x1, 3x3 and 1x1 whose sum with the input is rectified.

  A normalisation follows each convolution, and ReLU the first two. The
  input is added as it is or, where the output has another shape, through a 1x1
  convolution of the block's stride and a normalisation.

  He et al., Deep residual learning for image recognition, 2016.
  https://arxiv.org/abs/1512.03385

  Attributes:
    width: channels of the first two convolutions; the output has 4 * width.
    strides: step of the 3x3 convolution.

  The others are those of `ConvEncoder`.
  """

  width: int
  strides: int = 1
  norm: str = 'batch'
  dtype: Any = jnp.float32
  axis_name: str | None = None
  lowering: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Returns [N, H/strides, W/strides, 4*width] of maps x [N, H, W, C]."""
    # `train` has no name in calls: `nn.remat` wants static arguments by place.
    features = 4 * self.width
    y = nn.relu(self._normal(x, train, 'conv_0', self.width))
    y = nn.relu(self._normal(y, train, 'conv_1', self.width, 3, self.strides))
    y = self._normal(y, train, 'conv_2', features)
    if y.shape != x.shape:
      x = self._normal(x, train, 'shortcut', features, 1, self.strides)
    return nn.relu(x + y)

  def _normal(
    self,
    x: jax.Array,
    train: bool,
    name: str,
    features: int,
    kernel_size: int = 1,
    strides: int = 1,
  ) -> jax.Array:
    """Applies a convolution without bias and a normalisation."""
    x = layers.Conv(
      features,
      kernel_size=kernel_size,
      strides=strides,
      padding=kernel_size // 2,
      dtype=self.dtype,
      lowering=self.lowering,
      name=name,
    )(x)
    return layers.normalise(
      x,
      self.norm,
      train=train,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=f'{name}_norm',
    )


class ConvEncoder(nn.Module):
  """Convolutions, fully connected layers and a linear code.

  Attributes:
    image_size: height and width of the images that it takes.
    convs: the convolutions and residual blocks, first to last.
    fcs: sizes of the fully connected hidden layers.
    local: index in `convs` of the layer whose map is the local features.
    crop: if set, the layers up to `local` see crops of so many pixels a side,
      every crop / 2 pixels, each alone, and make one location of each.
    code: size of the code Y; 0 for none, and then the last map is the globals.
    stochastic: whether to also return the code's log-variance.
    dropout: fraction of the channels, or units, that training drops (a
      'dropout' key) before each normalisation after the local features; under
      `pmap` each device draws its own.
    init_std: standard deviation of the hidden layers' normal initial weights;
      None for PyTorch's default.
    remat: compute the inside of residual blocks again in the backward pass
      rather than keep it: the same gradients. Of 64 images resnet19_32 then
      keeps 80 MB instead of 518. For accelerators: XLA on a CPU moves the
      second computation forward, and nothing is saved.
    norm: of every hidden layer: 'batch', as in the paper, or without statistics
      of the batch, so that an image is encoded by itself and batches may be
      encoded in parts, 'layer' or 'group'; see `layers.normalise`.
    dtype: compute dtype, float32 or bfloat16. Parameters, batch statistics, 'y'
      and 'log_variance' are float32 in each case.
    axis_name: the `pmap` axis over which batch statistics are averaged.
    lowering: of the convolutions, see `layers.Conv`.
    title: what error messages call this encoder.
  """

  image_size: int
  convs: tuple[ConvLayer | ResidualLayer, ...]
  fcs: tuple[int, ...]
  local: int
  crop: int | None = None
  code: int = 64
  stochastic: bool = False
  dropout: float = 0.0
  init_std: float | None = None
  remat: bool = False
  norm: str = 'batch'
  dtype: Any = jnp.float32
  axis_name: str | None = None
  lowering: str | None = None
  title: str = 'encoder'

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False
  ) -> dict[str, jax.Array]:
    """Encodes images.

    Args:
      images: [N, H, W, C], floats in [-1, 1].
      train: normalise with the batch's statistics and update the running ones
        (collection 'batch_stats'), rather than use the running ones.

    Returns:
      Features by name: 'local' [N, H', W', C'], the map of the layer `local`;
      'conv' [N, H'', W'', C''], the last map, or with `crop` 'local' again;
      'fc' [N, D], the last hidden layer; 'y' [N, code], a stochastic code's
      mean; and 'log_variance' [N, code] if it is stochastic. Without a code
      there are no 'fc' and 'y' but 'globals' [N, H'', W'', C''], the last map,
      of several globals an image. Features are taken after ReLU and pooling.

    Raises:
      ValueError: on images of another shape or dtype, or fields that do not
        go together.
    """
    self._check(images)
    x = images.astype(self.dtype)
    if self.crop:
      x = layers.patches(x, self.crop, self.crop // 2)
      grid, x = x.shape[:3], x.reshape(-1, *x.shape[3:])
    endpoints = {}
    for i, layer in enumerate(self.convs):
      if isinstance(layer, ResidualLayer):
        x = self._residual(x, layer, train, f'block_{i}')
      else:
        x = self._conv(x, layer, train, f'conv_{i}', after=i > self.local)
      if i == self.local:
        if self.crop:
          x = self._fold(x, grid)
        endpoints['local'] = x
    endpoints['conv'] = endpoints['local'] if self.crop else x
    if not self.code:
      return endpoints | {'globals': x}
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    for i, features in enumerate(self.fcs):
      x = layers.Dense(
        features,
        use_bias=False,
        kernel_init=self._init(),
        dtype=self.dtype,
        name=f'fc_{i}',
      )(x)
      x = self._activate(x, train, f'fc_{i}_norm', after=True)
    endpoints['fc'] = x
    y = layers.Dense(self.code, dtype=self.dtype, name='y')(x)
    endpoints['y'] = y.astype(jnp.float32)
    if self.stochastic:
      raw = layers.Dense(self.code, dtype=self.dtype, name='log_variance')(x)
      endpoints['log_variance'] = bounded_log_variance(raw)
    return endpoints

  def _conv(
    self, x: jax.Array, conv: ConvLayer, train: bool, name: str, after: bool
  ) -> jax.Array:
    x = layers.Conv(
      conv.features,
      kernel_size=conv.kernel_size,
      strides=conv.strides,
      padding=conv.padding,
      kernel_init=self._init(),
      dtype=self.dtype,
      lowering=self.lowering,
      name=name,
    )(x)
    x = self._activate(x, train, f'{name}_norm', after)
    return nn.max_pool(x, (3, 3), strides=(2, 2)) if conv.pool else x

  def _residual(
    self, x: jax.Array, layer: ResidualLayer, train: bool, name: str
  ) -> jax.Array:
    block = ResidualBlock
    if self.remat:
      block = nn.remat(block, static_argnums=(2,))
    return block(
      layer.width,
      layer.strides,
      norm=self.norm,
      dtype=self.dtype,
      axis_name=self.axis_name,
      lowering=self.lowering,
      name=name,
    )(x, train)

  def _activate(
    self, x: jax.Array, train: bool, name: str, after: bool
  ) -> jax.Array:
    if self.dropout and after:
      # Of a map whole channels, at all locations.
      axes = tuple(range(1, x.ndim - 1))
      x = nn.Dropout(self.dropout, axes, deterministic=not train)(x)
    x = layers.normalise(
      x,
      self.norm,
      train=train,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=name,
    )
    return nn.relu(x)

  def _fold(self, x: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Returns crops' features [N * rows * cols, 1, 1, C] as a map."""
    if x.shape[1:3] != (1, 1):
      raise ValueError(
        f'{self.title} makes {x.shape[1]}x{x.shape[2]} locations of a crop of '
        f'{self.crop} pixels and must make one: give other crops, or a later '
        f'layer than local={self.local}.'
      )
    return x.reshape(*grid, x.shape[-1])

  def _init(self) -> layers.Initializer:
    if self.init_std is None:
      return layers.torch_uniform()
    return nn.initializers.normal(self.init_std)

  def _check(self, images: jax.Array) -> None:
    if not 0 <= self.local < len(self.convs):
      raise ValueError(
        f'{self.title} has {len(self.convs)} convolutions; local='
        f'{self.local} must be an index in 0..{len(self.convs) - 1}.'
      )
    if self.stochastic and not self.code:
      raise ValueError(
        f'{self.title} has no code to be stochastic, only globals: choose '
        "another encoder, or a prior other than 'kl'."
      )
    if self.remat and not any(
      isinstance(layer, ResidualLayer) for layer in self.convs
    ):
      raise ValueError(
        f'{self.title} has no residual blocks to compute again: leave remat '
        'out, or choose a ResNet.'
      )
    if images.ndim != 4:
      raise ValueError(
        f'{self.title} takes images [N, H, W, C]; got shape {images.shape}.'
      )
    size = self.image_size
    if images.shape[1:3] != (size, size):
      height, width = images.shape[1:3]
      raise ValueError(
        f'{self.title} takes images of {size}x{size} pixels; got '
        f'{height}x{width}. Set --config.data.image_size={size}, or choose '
        'another encoder.'
      )
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        f'{self.title} takes floats in [-1, 1]; got {images.dtype}. Pass '
        'uint8 images through dim_jax.networks.layers.normalise_images.'
      )
