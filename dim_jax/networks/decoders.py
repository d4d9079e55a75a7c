"""Decoders: what reads a code, for its class or for the image.

Classifiers are linear by default, as the bottleneck paper's: all that makes
classes separable has to pass through the code.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import layers

_SMALLEST = 4


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
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, 2H, 2W, features] for `x` [N, H, W, C]."""
    n, height, width, channels = x.shape
    shape = (4, 4, channels, self.features)
    kernel = self.param('kernel', layers.torch_uniform(), shape, jnp.float32)
    y = layers.product(x, kernel.transpose(2, 0, 1, 3).reshape(channels, -1))
    # Pixel i reaches 2 (i + a) + p - 1 for a and p of 0 and 1, on each axis.
    y = y.reshape(n, height, width, 2, 2, 2, 2, self.features)
    y = _shifted_sum(y, 1, 3)
    y = _shifted_sum(y, 2, 4)
    y = y.transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(n, 2 * height + 2, 2 * width + 2, self.features)
    return y[:, 1:-1, 1:-1]


def _shifted_sum(y: jax.Array, axis: int, shift: int) -> jax.Array:
  """Adds entry 1 of the axis `shift` to entry 0, one further along `axis`."""
  first, second = (
    jax.lax.index_in_dim(y, i, shift, keepdims=False) for i in (0, 1)
  )
  none = [(0, 0)] * (y.ndim - 1)
  ends = [[(0, 1) if k == axis else x for k, x in enumerate(none)],
          [(1, 0) if k == axis else x for k, x in enumerate(none)]]  # fmt: skip
  return jnp.pad(first, ends[0]) + jnp.pad(second, ends[1])


class ConvDecoder(nn.Module):
  """Deep InfoMax's decoder: images of features, to see what these tell.

  A dense layer to a map of 4x4, then transposed convolutions, each to a map of
  twice the size and half the channels, all with batch normalisation and a ReLU;
  a 3x3 convolution and a tanh end it.

  `deconvnets.py` of the paper's released code: https://github.com/rdevon/DIM

  Attributes:
    shape: of an image, (S, S, C), S = 8, 16, 32, and on.
    channels: of the 4x4 map; the paper's are 512.
    lowering: see `layers.Conv`.
    axis_name: the `pmap` axis over which batch statistics are averaged.
  """

  shape: tuple[int, int, int]
  channels: int = 512
  lowering: str | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
    """Returns images [N, S, S, C] in (-1, 1) of features [N, D].

    Raises:
      ValueError: the shape is none that it can make.
    """
    height, width, colours = self.shape
    doublings = (height // _SMALLEST).bit_length() - 1
    if doublings < 1 or not height == width == _SMALLEST * 2**doublings:
      raise ValueError(
        'a decoder makes square images of 8, 16, 32 and on pixels a side, got '
        f'shape {self.shape}: resize them.'
      )
    x = layers.Dense(_SMALLEST**2 * self.channels, name='input')(features)
    x = nn.relu(
      layers.normalise(
        x, train=train, axis_name=self.axis_name, name='input_norm'
      )
    )
    x = x.reshape(-1, _SMALLEST, _SMALLEST, self.channels)
    for i in range(doublings):
      channels = max(1, self.channels // 2 ** (i + 1))
      x = TransposedConv(channels, name=f'double_{i}')(x)
      x = nn.relu(
        layers.normalise(
          x, train=train, axis_name=self.axis_name, name=f'norm_{i}'
        )
      )
    x = layers.Conv(
      colours, kernel_size=3, padding=1, lowering=self.lowering, name='output'
    )(x)
    return jnp.tanh(x)
