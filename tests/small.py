"""A few images, and an objective's gradients of them, for tests to compare."""

import jax
import jax.numpy as jnp
import numpy as np

KEY = np.asarray([0, 1], np.uint32)


def images(n=8, size=8):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (n, size, size, 1), dtype=np.uint8),
    'label': rng.integers(0, 3, n).astype(np.int32),
  }


def start(objective, batch):
  """Variables from NumPy: XLA takes long to compile the samplers."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  rng = np.random.default_rng(1)

  def draw(x):
    if x.ndim < 2:
      return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
    values = rng.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1]))
    return jnp.asarray(values, x.dtype)

  return jax.tree.map(draw, jax.eval_shape(objective.init, key, batch))


def gradients(objective, variables, batch):
  """((loss, (metrics, model_state)), gradients), all in NumPy."""
  grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  found = grad(*variables, batch, jax.random.wrap_key_data(KEY))
  return jax.tree.map(np.asarray, found)


def assert_same(result, expected, tolerance=1e-5):
  assert jax.tree.structure(result) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
    scale = max(1.0, np.abs(b).max())
    np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)
