"""Generators: `generator(noise [N, Z]) -> x`, points [N, D] or images.

Images lie in (-1, 1), by a tanh; points are linear in the last layer. Nothing
normalises over the batch, so an example depends on its own noise alone.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
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


class DoubledConv(nn.Module):
  """Doubles maps by nearest neighbours, then convolves them 3x3, padding 1.

  Any two neighbours of the four pixels that a pixel becomes see the same 2x2
  pixels of the map before, some of them twice: so it is one 2x2 convolution of
  the small map, to all four, with sums of the kernel, at 4/9 of the
  multiplications and a ninth of the windows' memory.

  Attributes:
    features: output channels.
    kernel_init: initialiser of 'kernel', laid out [3, 3, C, features].
    lowering: see `layers.Conv`.
  """

  features: int
  kernel_init: layers.Initializer = layers.torch_uniform()
  lowering: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, 2H, 2W, features] for float32 `x` [N, H, W, C]."""
    n, height, width, channels = x.shape
    shape = (3, 3, channels, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    init = layers.torch_bias(9 * channels)
    bias = self.param('bias', init, (self.features,), jnp.float32)
    # Along an axis, pixels 2k - 1 and 2k see k - 1 and k alone: the first sees
    # k - 1 by two taps and k by one, the second the other way round.
    taps = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]])
    sums = np.einsum('pit,qju->ijpqtu', taps, taps).reshape(16, 9)
    # One product, as its gradient contracts one axis too.
    kernel = jnp.asarray(sums, jnp.float32) @ kernel.reshape(9, -1)
    kernel = kernel.reshape(2, 2, 2, 2, channels, self.features)
    kernel = kernel.transpose(0, 1, 4, 2, 3, 5)
    y = layers.convolve(
      x,
      kernel.reshape(2, 2, channels, -1),
      padding=1,
      lowering=self.lowering,
    )
    y = y.reshape(n, height + 1, width + 1, 2, 2, self.features)
    y = y.transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(n, 2 * height + 2, 2 * width + 2, self.features)
    return layers.add_bias(y[:, 1:-1, 1:-1], bias)


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
    x = DoubledConv(
      self.features, kernel_init=init, lowering=self.lowering, name='conv_0'
    )(x)
    x = DoubledConv(
      channels,
      kernel_init=nn.initializers.lecun_normal(),
      lowering=self.lowering,
      name='conv_1',
    )(nn.swish(x))
    return jnp.tanh(x)


GENERATORS = {'mlp': MLPGenerator, 'conv': ConvGenerator}
