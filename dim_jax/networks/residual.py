"""Residual blocks with batch normalisation.

A block of Greedy InfoMax, which normalises nothing and rectifies first, is in
`dim_jax.networks.modules`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import layers


class Bottleneck(nn.Module):
  """Convolutions 1x1, 3x3 and 1x1 whose sum with the input is rectified.

  Batch normalisation follows each convolution, and ReLU the first two. The
  input is added as it is or, where the output has another shape, through a 1x1
  convolution of the block's stride and batch normalisation.

  He et al., Deep residual learning for image recognition, 2016.
  https://arxiv.org/abs/1512.03385

  Attributes:
    width: channels of the first two convolutions; the output has 4 * width.
    strides: step of the 3x3 convolution.
    dtype: compute dtype; parameters and batch statistics are float32.
    axis_name: the `pmap` axis over which batch statistics are averaged.
    lowering: of the convolutions, see `layers.Conv`.
  """

  width: int
  strides: int = 1
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
    """A convolution without bias, normalised."""
    x = layers.Conv(
      features,
      kernel_size=kernel_size,
      strides=strides,
      padding=kernel_size // 2,
      dtype=self.dtype,
      lowering=self.lowering,
      name=name,
    )(x)
    norm = layers.batch_norm(
      train, dtype=self.dtype, axis_name=self.axis_name, name=f'{name}_norm'
    )
    return norm(x)
