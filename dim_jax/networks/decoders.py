"""Decoders: what reads a code.

Linear by default, as the bottleneck paper's: all that makes classes separable
has to pass through the code.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


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
