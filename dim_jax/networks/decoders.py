"""Decoders: what reads a code, for its class or for the image.

Classifiers are linear by default, as the bottleneck paper's: all that makes
classes separable has to pass through the code.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dim_jax.networks import layers

# Sides of the first map: one of these times 2, 4, and on, is an image's side.
_FIRST = range(4, 8)


class Classifier(nn.Module):
  """Class logits of codes.

  Attributes:
    num_classes: C.
    units: sizes of hidden ReLU layers; none for a linear classifier.
  """

  num_classes: int
  units: Sequence[int] = ()

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Returns logits [..., C], float32, for codes `z` [..., K]."""
    init = nn.initializers.glorot_uniform()
    # As rows, for the reason that `layers.product` gives.
    lead, z = z.shape[:-1], z.astype(jnp.float32).reshape(-1, z.shape[-1])
    for i, units in enumerate(self.units):
      z = nn.relu(nn.Dense(units, kernel_init=init, name=f'hidden_{i}')(z))
    logits = nn.Dense(self.num_classes, kernel_init=init, name='logits')(z)
    return logits.reshape(*lead, self.num_classes)


class TransposedConv(nn.Module):
  """A transposed convolution that doubles maps: 4x4, stride 2, padding 1.

  It is one matrix product, whose 4x4 pixels for each input pixel are added up
  where they overlap: a CPU compiles and runs that far faster than the native
  operation within a scan.

  Attributes:
    features: output channels.
    dtype: compute dtype, or None to promote inputs and parameters.
  """

  features: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, 2H, 2W, features] for `x` [N, H, W, C]."""
    n, height, width, channels = x.shape
    shape = (4, 4, channels, self.features)
    kernel = self.param('kernel', layers.torch_uniform(), shape, jnp.float32)
    x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    # Pixel i reaches 2 (i + a) + p - 1 for a and p of 0 and 1, on each axis:
    # four blocks of a product, each of the 2x2 pixels p.
    kernel = kernel.reshape(2, 2, 2, 2, channels, self.features)
    kernel = kernel.transpose(4, 0, 2, 1, 3, 5).reshape(channels, -1)
    blocks = jnp.split(layers.product(x, kernel), 4, axis=-1)
    y: Any = 0
    for block, (a, b) in zip(blocks, np.ndindex(2, 2), strict=True):
      y += jnp.pad(block, ((0, 0), (a, 1 - a), (b, 1 - b), (0, 0)))
    y = y.reshape(n, height + 1, width + 1, 2, 2, self.features)
    y = y.transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(n, 2 * height + 2, 2 * width + 2, self.features)
    return y[:, 1:-1, 1:-1]


class ConvDecoder(nn.Module):
  """Deep InfoMax's decoder: images of features, to see what these tell.

  A dense layer to a map of 4x4, then transposed convolutions, each to a map of
  twice the size and half the channels, all with a normalisation and a ReLU; a
  3x3 convolution and a tanh end it. Where doubling 4x4 does not lead to the
  image's size, the first map is of 5x5, 6x6 or 7x7.

  `deconvnets.py` of the paper's released code: https://github.com/rdevon/DIM

  Attributes:
    shape: of an image, (S, S, C), S = 4, 5, 6 or 7 times 2, 4, 8, and on.
    channels: of the first map; the paper's are 512.
    norm: of all layers but the last, see `layers.normalise`.
    dtype: compute dtype, or None to promote; parameters, batch statistics and
      images are float32.
    axis_name: the `pmap` axis over which batch statistics are averaged.
    lowering: see `layers.Conv`.
  """

  shape: tuple[int, int, int]
  channels: int = 512
  norm: str = 'batch'
  dtype: Any = None
  axis_name: str | None = None
  lowering: str | None = None

  @nn.compact
  def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
    """Returns images [N, S, S, C] in (-1, 1) of features [N, D].

    Raises:
      ValueError: the shape is none that it can make.
    """
    first, doublings = _plan(self.shape)
    x = layers.Dense(first**2 * self.channels, dtype=self.dtype, name='input')(
      features
    )
    x = self._activate(x, train, 'input_norm')
    x = x.reshape(-1, first, first, self.channels)
    for i in range(doublings):
      channels = max(1, self.channels // 2 ** (i + 1))
      x = TransposedConv(channels, dtype=self.dtype, name=f'double_{i}')(x)
      x = self._activate(x, train, f'norm_{i}')
    x = layers.Conv(
      self.shape[2],
      kernel_size=3,
      padding=1,
      dtype=self.dtype,
      lowering=self.lowering,
      name='output',
    )(x)
    return jnp.tanh(x.astype(jnp.float32))

  def _activate(self, x: jax.Array, train: bool, name: str) -> jax.Array:
    x = layers.normalise(
      x,
      self.norm,
      train=train,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=name,
    )
    return nn.relu(x)


def _plan(shape: tuple[int, int, int]) -> tuple[int, int]:
  """Returns the side of the first map, and how often it doubles."""
  first, doublings = shape[0], 0
  while first % 2 == 0 and first > max(_FIRST):
    first, doublings = first // 2, doublings + 1
  if shape[0] != shape[1] or first not in _FIRST or not doublings:
    sides = ', '.join(str(k * 2**n) for n in (1, 2, 3) for k in _FIRST)
    raise ValueError(
      f'a decoder makes square images of {sides}, and on, pixels a side, got '
      f'shape {tuple(shape)}: resize them, as by --config.data.image_size=32.'
    )
  return first, doublings


def conv_decoder_of(params: Mapping[str, Any], **fields: Any) -> ConvDecoder:
  """Makes the `ConvDecoder` that has these parameters.

  Args:
    params: its own.
    **fields: what they do not tell, such as `norm`.
  """
  doublings = sum(name.startswith('double_') for name in params)
  channels = params['double_0']['kernel'].shape[2]
  first = math.isqrt(params['input']['kernel'].shape[1] // channels)
  side = first * 2**doublings
  colours = params['output']['kernel'].shape[3]
  return ConvDecoder((side, side, colours), channels, **fields)
