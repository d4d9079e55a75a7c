"""What tests of losses compare with: NumPy, in float64."""

import jax.numpy as jnp
import numpy as np


def as_float32(*arrays):
  return [jnp.asarray(array, jnp.float32) for array in arrays]


def softplus(x):
  return np.logaddexp(0, x)


def numerical_gradient(function, array, step=1e-5):
  """Central differences."""
  gradient = np.zeros_like(array)
  for index in np.ndindex(array.shape):
    shift = np.zeros_like(array)
    shift[index] = step
    rise = function(array + shift) - function(array - shift)
    gradient[index] = rise / (2 * step)
  return gradient
