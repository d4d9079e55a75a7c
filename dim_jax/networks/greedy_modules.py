"""Modules that Greedy InfoMax trains one by one, each on the last one's output.

Images are cut into overlapping patches, and each patch goes through the modules
alone; sound goes through strided convolutions. The paper's modules do not
normalise; `CropEncoder`, of Deep InfoMax's comparison with contrastive
predictive coding, does. Weights and biases start as PyTorch's do. A module with
the attribute `context` (see `dim_jax.networks.context`) turns the features into
contexts.

Löwe, O'Connor and Veeling, Putting an end to end-to-end: gradient-isolated
learning of representations, NeurIPS 2019. https://arxiv.org/abs/1905.11786
Their code: https://github.com/loeweX/Greedy_InfoMax
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import context, encoders, layers


class ResNetModule(nn.Module):
  """Pre-activation residual blocks without normalisation.

  A block adds convolutions of relu(x) to x itself or, where its stride or width
  changes the shape, to a 1x1 convolution of relu(x). Nothing follows the last
  sum, so outputs are signed: the next module's first ReLU rectifies them.

  He et al., Identity mappings in deep residual networks, 2016:
  https://arxiv.org/abs/1603.05027

  Attributes:
    blocks: number of residual blocks.
    width: channels of the 3x3 convolutions. The output has 4 * width channels
      with bottlenecks and width without.
    strides: step of the first block's 3x3 convolution; others have step 1.
    bottleneck: whether a block is convolutions 1x1, 3x3 and 1x1, rather than
      two of 3x3.
    stem: a convolution in front, as (features, kernel size, strides, padding),
      or None.
    dtype: compute dtype, float32 or bfloat16; parameters are float32.
  """

  blocks: int
  width: int
  strides: int = 1
  bottleneck: bool = True
  stem: tuple[int, int, int, int] | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns maps [P, H', W', C'] of dtype `dtype` for `x` [P, H, W, C]."""
    x = x.astype(self.dtype)
    if self.stem is not None:
      x = self._conv('stem', *self.stem)(x)
    for i in range(self.blocks):
      x = self._block(x, f'block_{i}', self.strides if i == 0 else 1)
    return x

  def _block(self, x: jax.Array, name: str, strides: int) -> jax.Array:
    if self.bottleneck:
      features = 4 * self.width
      convs = [
        (self.width, 1, 1, 0),
        (self.width, 3, strides, 1),
        (features, 1, 1, 0),
      ]
    else:
      features = self.width
      convs = [(features, 3, strides, 1), (features, 3, 1, 1)]
    y = nn.relu(x)
    shortcut = x
    if strides != 1 or x.shape[-1] != features:
      shortcut = self._conv(f'{name}_shortcut', features, 1, strides, 0)(y)
    for i, conv in enumerate(convs):
      y = self._conv(f'{name}_conv_{i}', *conv)(nn.relu(y) if i else y)
    return shortcut + y

  def _conv(
    self, name: str, features: int, kernel_size: int, strides: int, padding: int
  ) -> layers.Conv:
    return layers.Conv(
      features,
      kernel_size=kernel_size,
      strides=strides,
      padding=padding,
      use_bias=True,
      dtype=self.dtype,
      name=name,
    )


class PatchModule(nn.Module):
  """A strided convolution and a residual pair of 1x1 convolutions, normalised.

  Before every ReLU each position is normalised over its channels, so that,
  unlike with batch normalisation, nothing passes from one patch to another. Not
  from the paper.

  Ba, Kiros and Hinton, Layer normalization, 2016:
  https://arxiv.org/abs/1607.06450

  Attributes:
    features: output channels.
    kernel_size: side of the convolution's window.
    strides: step of the window.
    padding: zeros added on all four sides.
    dtype: compute dtype, float32 or bfloat16; parameters are float32.
  """

  features: int
  kernel_size: int
  strides: int
  padding: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns maps [P, H', W', features] >= 0 for `x` [P, H, W, C]."""
    conv = layers.Conv(
      self.features,
      kernel_size=self.kernel_size,
      strides=self.strides,
      padding=self.padding,
      use_bias=True,
      dtype=self.dtype,
      name='conv',
    )
    x = self._rectified(conv(x.astype(self.dtype)), 'norm_0')
    y = self._rectified(self._mix(x, 'mix_0'), 'norm_1')
    return self._rectified(x + self._mix(y, 'mix_1'), 'norm_2')

  def _mix(self, x: jax.Array, name: str) -> jax.Array:
    return layers.Dense(self.features, dtype=self.dtype, name=name)(x)

  def _rectified(self, x: jax.Array, name: str) -> jax.Array:
    x = layers.normalise(x, 'layer', train=False, dtype=self.dtype, name=name)
    return nn.relu(x)


class ConvModule(nn.Module):
  """One convolution over time and a ReLU.

  Attributes:
    features: output channels.
    kernel_size: frames that an output frame sees.
    strides: input frames per output frame.
    padding: zeros added at both ends.
    dtype: compute dtype, float32 or bfloat16; parameters are float32.
  """

  features: int
  kernel_size: int
  strides: int
  padding: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns frames [N, L', features] >= 0 for `x` [N, L, C].

    L' is floor((L + 2 * padding - kernel_size) / strides) + 1. A waveform is
    given as [N, T, 1].
    """
    conv = layers.Conv1D(
      self.features,
      kernel_size=self.kernel_size,
      strides=self.strides,
      padding=self.padding,
      use_bias=True,
      dtype=self.dtype,
      name='conv',
    )
    return nn.relu(conv(x))


class CropEncoder(nn.Module):
  """The layers of Deep InfoMax's folded encoders that see one crop.

  Patches must be the encoder's crops, every half crop. Batch statistics are of
  the crops of all images together, as there.

  Attributes:
    encoder: a name of `encoders.ENCODERS` with a crop.
    norm: of every layer, see `encoders.ConvEncoder`.
    dtype: compute dtype, float32 or bfloat16; parameters are float32.
    axis_name: the `pmap` axis over which batch statistics are averaged.
  """

  encoder: str
  norm: str = 'batch'
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns local features [P, 1, 1, D] >= 0 of crops `x` [P, h, w, C]."""
    encoder = encoders.of_crops(
      self.encoder,
      norm=self.norm,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name='convs',
    )
    size = encoder.image_size
    if x.shape[1:3] != (size, size):
      raise ValueError(
        f'{self.encoder} takes crops of {size}x{size} pixels; got '
        f'{"x".join(map(str, x.shape[1:3]))}. Set objective.patch_size={size} '
        f'and objective.patch_stride={size // 2}.'
      )
    return encoder(x, train=train)['local']


def resnet50(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns the paper's three modules of bottlenecks, for 16x16 patches.

  Channels out: 256, 512 and 1024.

  Args:
    dtype: compute dtype, in every factory here.
  """
  return (
    ResNetModule(3, 64, stem=(64, 5, 1, 2), dtype=dtype),
    ResNetModule(4, 128, 2, dtype=dtype),
    ResNetModule(6, 256, 2, dtype=dtype),
  )


def resnet34(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns three modules of basic blocks; channels out 64, 128 and 256."""
  return (
    ResNetModule(3, 64, 1, False, stem=(64, 5, 1, 2), dtype=dtype),
    ResNetModule(4, 128, 2, False, dtype=dtype),
    ResNetModule(6, 256, 2, False, dtype=dtype),
  )


def resnet_small(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns three modules of one basic block, for 8x8 patches on a CPU.

  Channels out 32, 64 and 128, on maps of 4x4, 2x2 and 1x1. Not from the paper.
  """
  return (
    ResNetModule(1, 32, 1, False, stem=(32, 4, 2, 1), dtype=dtype),
    ResNetModule(1, 64, 2, False, dtype=dtype),
    ResNetModule(1, 128, 2, False, dtype=dtype),
  )


def patch_small(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns three `PatchModule`s for 16x16 patches on a CPU.

  Channels out 64, 128 and 512, on maps of 4x4, 2x2 and 1x1. Not from the paper.
  """
  return (
    PatchModule(64, 4, 4, dtype=dtype),
    PatchModule(128, 4, 2, 1, dtype=dtype),
    PatchModule(512, 2, 1, dtype=dtype),
  )


def resnet50_cpc(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns `resnet50` and the autoregressor that CPC trains with it."""
  return (*resnet50(dtype=dtype), context.PixelCNN(1024, dtype=dtype))


def resnet34_cpc(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns `resnet34` and the autoregressor that CPC trains with it."""
  return (*resnet34(dtype=dtype), context.PixelCNN(256, dtype=dtype))


def resnet_small_cpc(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns `resnet_small` and an autoregressor of two layers, for CPC."""
  return (*resnet_small(dtype=dtype), context.PixelCNN(128, 2, dtype=dtype))


def patch_small_cpc(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns `patch_small` and an autoregressor of two layers, for CPC."""
  return (*patch_small(dtype=dtype), context.PixelCNN(128, 2, dtype=dtype))


def _fold_cpc(encoder: str, features: int) -> Callable[..., Any]:
  """Returns what makes a crop encoder and the PixelRNN of its features."""

  def make(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
    return (
      CropEncoder(encoder, dtype=dtype),
      context.RowGRU(features, dtype=dtype),
    )

  return make


def sound(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns the paper's five convolutions and GRU, for sound at 16 kHz.

  A frame is 160 samples, 10 ms: 20,480 samples give 128 frames.
  """
  shapes = ((10, 5, 2), (8, 4, 2), (4, 2, 2), (4, 2, 2), (4, 2, 1))
  convs = (ConvModule(512, *shape, dtype=dtype) for shape in shapes)
  return (*convs, context.GRU(256, dtype=dtype))


def sound_small(*, dtype: Any = jnp.float32) -> tuple[nn.Module, ...]:
  """Returns five convolutions of 128 channels and a GRU, for sound at 8 kHz.

  A frame is 80 samples, 10 ms. Not from the paper.
  """
  shapes = ((10, 5, 2), (4, 2, 2), (4, 2, 2), (4, 2, 2), (4, 2, 1))
  convs = (ConvModule(128, *shape, dtype=dtype) for shape in shapes)
  return (*convs, context.GRU(128, dtype=dtype))


MODULES: dict[str, Callable[..., tuple[nn.Module, ...]]] = {
  'resnet50': resnet50,
  'resnet34': resnet34,
  'resnet_small': resnet_small,
  'patch_small': patch_small,
  'resnet50_cpc': resnet50_cpc,
  'resnet34_cpc': resnet34_cpc,
  'resnet_small_cpc': resnet_small_cpc,
  'patch_small_cpc': patch_small_cpc,
  # What the paper of Deep InfoMax compares with, on its own encoders.
  'foldresnet34_cpc': _fold_cpc('foldresnet34_32', 1024),
  'foldalex64_cpc': _fold_cpc('foldalex64', 192),
  'foldsmall32_cpc': _fold_cpc('foldsmall32', 128),
  'sound': sound,
  'sound_small': sound_small,
}
