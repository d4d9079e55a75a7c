"""Encoders with a named feature at every stage.

The convolutional ones are those of Deep InfoMax: every hidden layer is a linear
operation without bias, batch normalisation and ReLU, then perhaps max-pooling.
The code Y is a plain linear map with bias; a sigmoid, where the prior asks for
one, belongs to the objective. Maps are flattened in the order C, H, W, as
PyTorch does, so that weights compare.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
Their code: https://github.com/rdevon/DIM
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import layers

# The log-variance of a stochastic code lies in (-10, 10), that is, standard
# deviations in (0.0067, 148) around a prior's 1.
LOG_VARIANCE_BOUND = 10.0


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


class ConvEncoder(nn.Module):
  """Convolutions, fully connected layers and a linear code.

  Attributes:
    image_size: height and width of the images that it takes.
    convs: the convolutions, first to last.
    fcs: sizes of the fully connected hidden layers.
    local: index in `convs` of the layer whose map is the local features.
    code: size of the code Y.
    stochastic: whether to also return the code's log-variance.
    dtype: compute dtype, float32 or bfloat16. Parameters, batch statistics, 'y'
      and 'log_variance' are float32 in each case.
    axis_name: the `pmap` axis over which batch statistics are averaged.
    lowering: of the convolutions, see `layers.Conv`.
    title: what error messages call this encoder.
  """

  image_size: int
  convs: tuple[ConvLayer, ...]
  fcs: tuple[int, ...]
  local: int
  code: int = 64
  stochastic: bool = False
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
      Taps: 'local' [N, H', W', C'], the map of the layer `local`; 'conv'
      [N, H'', W'', C''], the last map; 'fc' [N, D], the last hidden layer; 'y'
      [N, code], a stochastic code's mean; and 'log_variance' [N, code] if the
      encoder is stochastic. Features are taken after ReLU and pooling.

    Raises:
      ValueError: on images of another shape or dtype.
    """
    self._check(images)
    x = images.astype(self.dtype)
    taps = {}
    for i, conv in enumerate(self.convs):
      x = layers.Conv(
        conv.features,
        kernel_size=conv.kernel_size,
        strides=conv.strides,
        padding=conv.padding,
        dtype=self.dtype,
        lowering=self.lowering,
        name=f'conv_{i}',
      )(x)
      x = self._activate(x, train, f'conv_{i}_norm')
      if conv.pool:
        x = nn.max_pool(x, (3, 3), strides=(2, 2))
      if i == self.local:
        taps['local'] = x
    taps['conv'] = x
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    for i, features in enumerate(self.fcs):
      x = layers.Dense(
        features, use_bias=False, dtype=self.dtype, name=f'fc_{i}'
      )(x)
      x = self._activate(x, train, f'fc_{i}_norm')
    taps['fc'] = x
    y = layers.Dense(self.code, dtype=self.dtype, name='y')(x)
    taps['y'] = y.astype(jnp.float32)
    if self.stochastic:
      raw = layers.Dense(self.code, dtype=self.dtype, name='log_variance')(x)
      taps['log_variance'] = _bounded(raw)
    return taps

  def _activate(self, x: jax.Array, train: bool, name: str) -> jax.Array:
    norm = layers.batch_norm(
      train, dtype=self.dtype, axis_name=self.axis_name, name=name
    )
    return nn.relu(norm(x))

  def _check(self, images: jax.Array) -> None:
    if not -len(self.convs) <= self.local < len(self.convs):
      raise ValueError(
        f'{self.title} has {len(self.convs)} convolutions; local='
        f'{self.local} must be an index in 0..{len(self.convs) - 1}.'
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


def basic28(**overrides: Any) -> ConvEncoder:
  """Returns the encoder of 28x28 images (MNIST); locals 7x7x128.

  Args:
    **overrides: fields of `ConvEncoder` to change, in every factory here.
  """
  return _encoder(
    overrides,
    title='basic28',
    image_size=28,
    convs=(ConvLayer(64, 5, 2, 2), ConvLayer(128, 5, 2, 2)),
    fcs=(1024,),
    local=1,
  )


def basic32(**overrides: Any) -> ConvEncoder:
  """Returns the encoder of 32x32 images (CIFAR); locals 8x8x128."""
  return _encoder(
    overrides,
    title='basic32',
    image_size=32,
    convs=_halving(64, 128, 256),
    fcs=(1024,),
    local=1,
  )


def basic64(**overrides: Any) -> ConvEncoder:
  """Returns the plain encoder of 64x64 images; locals 8x8x256."""
  return _encoder(
    overrides,
    title='basic64',
    image_size=64,
    convs=_halving(64, 128, 256, 512),
    fcs=(1024,),
    local=2,
  )


def alex64(**overrides: Any) -> ConvEncoder:
  """Returns the AlexNet of 64x64 images (STL-10, Tiny); locals 15x15x384."""
  return _encoder(
    overrides,
    title='alex64',
    image_size=64,
    convs=(
      ConvLayer(96, 3, 1, 1, pool=True),
      ConvLayer(192, 3, 1, 1, pool=True),
      ConvLayer(384, 3, 1, 1),
      ConvLayer(384, 3, 1, 1),
      ConvLayer(192, 3, 1, 1, pool=True),
    ),
    fcs=(4096, 4096),
    local=2,
  )


def small32(**overrides: Any) -> ConvEncoder:
  """Returns a small encoder of 32x32 images, for demonstrations on a CPU.

  Half the channels and a quarter of the hidden units of `basic32`; locals
  8x8x64. Not from the paper.
  """
  return _encoder(
    overrides,
    title='small32',
    image_size=32,
    convs=_halving(32, 64, 128),
    fcs=(256,),
    local=1,
  )


class MLPEncoder(nn.Module):
  """Fully connected ReLU layers on the flattened image, of any size.

  Attributes:
    units: sizes of the hidden layers.
    dropout: fraction of hidden units dropped in training (a 'dropout' key).
    kernel_init: of the kernels; biases start at 0.
    dtype: compute dtype; parameters and 'fc' are float32.
  """

  units: Sequence[int] = (1024, 1024)
  dropout: float = 0.0
  kernel_init: Any = nn.initializers.glorot_uniform()
  dtype: Any = None

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the tap 'fc', the last hidden layer, shape [N, units].

    Args:
      images: shape [N, H, W, C].
      train: whether dropout acts.
    """
    x = images.reshape(images.shape[0], -1)
    for i, units in enumerate(self.units):
      dense = nn.Dense(
        units, kernel_init=self.kernel_init, dtype=self.dtype, name=f'fc_{i}'
      )
      x = nn.relu(dense(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return {'fc': x.astype(jnp.float32)}


class MLPCode(nn.Module):
  """An `MLPEncoder` and a linear code, for Deep InfoMax without a map.

  Attributes:
    units: sizes of the hidden layers.
    code: size of the code Y.
    stochastic: whether to also return the code's log-variance.
  """

  units: Sequence[int] = (256, 256)
  code: int = 16
  stochastic: bool = False

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False
  ) -> dict[str, jax.Array]:
    """Encodes images [N, H, W, C].

    Args:
      images: floats in [-1, 1].
      train: not used; nothing is normalised.

    Returns:
      Taps: 'input' [N, H*W*C], the pixels, as what the code may be informative
      of; 'fc' [N, units]; 'y' [N, code]; and 'log_variance' [N, code] if the
      encoder is stochastic.
    """
    taps = MLPEncoder(self.units, name='mlp')(images, train=train)
    taps['input'] = images.reshape(images.shape[0], -1)
    taps['y'] = layers.Dense(self.code, name='y')(taps['fc'])
    if self.stochastic:
      raw = layers.Dense(self.code, name='log_variance')(taps['fc'])
      taps['log_variance'] = _bounded(raw)
    return taps


ENCODERS: dict[str, Callable[..., ConvEncoder]] = {
  'basic28': basic28,
  'basic32': basic32,
  'basic64': basic64,
  'alex64': alex64,
  'small32': small32,
}


def make(name: str, **overrides: Any) -> ConvEncoder:
  """Returns a named encoder.

  Args:
    name: a key of `ENCODERS`.
    **overrides: fields of `ConvEncoder` to change.

  Raises:
    ValueError: on an unknown name or field.
  """
  if name not in ENCODERS:
    accepted = ', '.join(ENCODERS)
    raise ValueError(f'unknown encoder {name!r}; accepted are {accepted}.')
  return ENCODERS[name](**overrides)


def _bounded(raw: jax.Array) -> jax.Array:
  """A log-variance from any real numbers, in float32."""
  # The rate holds exp(log_variance), which overflows float32 above 88. A clip
  # would stop the gradient outside; tanh is near the identity inside and always
  # has a slope.
  raw = raw.astype(jnp.float32) / LOG_VARIANCE_BOUND
  return LOG_VARIANCE_BOUND * jnp.tanh(raw)


def _halving(*features: int) -> tuple[ConvLayer, ...]:
  """Returns convolutions of kernel 4 that halve the map each."""
  return tuple(ConvLayer(n, 4, 2, 1) for n in features)


def _encoder(overrides: dict[str, Any], **fields: Any) -> ConvEncoder:
  accepted = {f.name for f in dataclasses.fields(ConvEncoder)} - {'parent'}
  unknown = sorted(set(overrides) - accepted)
  if unknown:
    raise ValueError(
      f'{fields["title"]} has no field {unknown[0]!r}; accepted are '
      + ', '.join(sorted(accepted))
      + '.'
    )
  return ConvEncoder(**{**fields, **overrides})
