"""Inputs and variables of networks under test, from NumPy.

XLA takes longer to compile its samplers than all else here.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw_images(size, n):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.uniform(-1, 1, (n, size, size, 3)), jnp.float32)


def draw_variables(module, *inputs):
  """Variables in which every scale, shift and average counts."""
  rng = np.random.default_rng(1)

  def draw(x):
    if x.ndim == 1:
      return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
    scale = 1 / math.sqrt(math.prod(x.shape[:-1]))
    return jnp.asarray(rng.normal(0, scale, x.shape), jnp.float32)

  # Not traced: `train`, where it is an input, is a Python bool.
  init = lambda: module.init(jax.random.key(0), *inputs)  # noqa: E731
  return jax.tree.map(draw, jax.eval_shape(init))


def shapes_of(module, *shape, dtype=jnp.float32):
  """Shapes of a module's output and variables, without computing them."""
  x = jax.ShapeDtypeStruct(shape, dtype)
  return jax.eval_shape(
    lambda x: module.init_with_output(jax.random.key(0), x), x
  )


def variables_of(module, *shape):
  """Fixed random variables for inputs of a shape."""
  leaves, tree = jax.tree.flatten(shapes_of(module, *shape)[1])
  values = [normal(*leaf.shape, seed=i) / 2 for i, leaf in enumerate(leaves)]
  return jax.tree.unflatten(tree, values)


def num_parameters(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables))
