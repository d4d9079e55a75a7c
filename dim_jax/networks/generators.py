"""Generators: `generator(noise [N, Z]) -> x`, points [N, D] or images.

Images lie in (-1, 1), by a tanh; points are linear in the last layer. Nothing
normalises over the batch, so an example depends on its own noise alone.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import layers


class MLPGenerator(nn.Module):
  """Fully connected layers.

  Attributes:
    shape: of an example, (D,) or (H, W, C).
    units: sizes of the hidden layers; without any, the map is linear.
  """

  shape: Sequence[int]
  units: Sequence[int] = (128, 128)

  @nn.compact
  def __call__(self, noise: jax.Array) -> jax.Array:
    """Returns points [N, D], or images [N, H, W, C] in (-1, 1)."""
    x = noise.astype(jnp.float32)
    for i, units in enumerate(self.units):
      x = layers.Dense(
        units, kernel_init=nn.initializers.he_normal(), name=f'hidden_{i}'
      )(x)
      x = nn.swish(x)
    x = layers.Dense(
      math.prod(self.shape),
      kernel_init=nn.initializers.lecun_normal(),
      name='output',
    )(x)
    x = x.reshape(noise.shape[0], *self.shape)
    return jnp.tanh(x) if len(self.shape) == 3 else x


class ConvGenerator(nn.Module):
  """A small DCGAN: a dense map, doubled twice by nearest neighbours.

  Convolutions after a nearest-neighbour resize stand in for transposed ones:
  they leave no checkerboard and are matrix products on a CPU. 28x28 images come
  from a map of 7x7, those of 32x32 from 8x8.

  Radford et al., 2016: https://arxiv.org/abs/1511.06434; without its batch
  normalisation.
  Odena et al., Deconvolution and checkerboard artifacts, 2016:
  https://distill.pub/2016/deconv-checkerboard

  Attributes:
    shape: of an image, (H, W, C), H and W multiples of 4.
    features: channels of the map of half the image's size; the smallest has
      twice as many.
    lowering: of the convolutions, see `layers.Conv`.
  """

  shape: Sequence[int]
  features: int = 32
  lowering: str | None = None

  @nn.compact
  def __call__(self, noise: jax.Array) -> jax.Array:
    """Returns images [N, H, W, C] in (-1, 1) of noise or codes [N, Z].

    Raises:
      ValueError: the shape is not that of an image with sides of multiples
        of 4.
    """
    if len(self.shape) != 3 or self.shape[0] % 4 or self.shape[1] % 4:
      raise ValueError(
        'a convolutional generator makes images (H, W, C) with H and W '
        f'multiples of 4, got shape {tuple(self.shape)}; use an MLP instead.'
      )
    height, width, channels = self.shape
    init = nn.initializers.he_normal()
    x = noise.astype(jnp.float32)
    small = (height // 4, width // 4, 2 * self.features)
    x = layers.Dense(math.prod(small), kernel_init=init, name='input')(x)
    x = nn.swish(x).reshape(-1, *small)
    x = layers.Conv(
      self.features,
      kernel_size=3,
      padding=1,
      use_bias=True,
      kernel_init=init,
      lowering=self.lowering,
      name='conv_0',
    )(double(x))
    x = layers.Conv(
      channels,
      kernel_size=3,
      padding=1,
      use_bias=True,
      kernel_init=nn.initializers.lecun_normal(),
      lowering=self.lowering,
      name='conv_1',
    )(double(nn.swish(x)))
    return jnp.tanh(x)


def double(x: jax.Array) -> jax.Array:
  """Doubles maps [N, H, W, C] in size, each pixel becoming a block of 2x2."""
  n, height, width, channels = x.shape
  blocks = jnp.broadcast_to(
    x[:, :, None, :, None], (n, height, 2, width, 2, channels)
  )
  return blocks.reshape(n, 2 * height, 2 * width, channels)


GENERATORS = {'mlp': MLPGenerator, 'conv': ConvGenerator}
