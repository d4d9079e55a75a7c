"""Spectral norm regularisation: a penalty on the norms of weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def spectral_vectors(rng: jax.Array, params: Any) -> tuple[jax.Array, ...]:
  """Draws random starts of the power iterations of `spectral_penalty`.

  For each weight of two or more axes, in the order of `jax.tree.leaves`, a
  vector of its last axis; without such a weight it raises ValueError.
  """
  weights = _matrices(params)
  if not weights:
    raise ValueError(
      'params hold no weight of two or more axes, so no spectral norm.'
    )
  rngs = jax.random.split(rng, len(weights))
  return tuple(
    jax.random.normal(key, w.shape[1:])
    for key, w in zip(rngs, weights, strict=True)
  )


def spectral_penalty(
  params: Any, vectors: Sequence[jax.Array], *, iterations: int = 1
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  r"""Computes half the sum of the squared spectral norms of weights.

  Each weight [..., K] counts as the matrix [-1, K]. Its norm sigma = v'Wu comes
  from power iteration, with u and v taken as constants, so the gradient is
  sigma v u'. Biases, and the scales of normalisations, do not count: a network
  with batch normalisation has no bound on its slope by this. Nor is the norm of
  a reshaped convolution kernel that of the convolution.

  Args:
    params: a network's parameters.
    vectors: those that the step before returned, or `spectral_vectors`.
    iterations: of the power method; one a step is enough where weights move
      slowly.

  Returns:
    The penalty, a scalar, and the vectors for the next step. Weigh it, by
    0.01 say, and add it to the loss.

  Raises:
    ValueError: the vectors are not those of such weights, or iterations < 1.

  References:
    Yoshida and Miyato, Spectral Norm Regularization for Improving the
    Generalizability of Deep Learning, 2017. https://arxiv.org/abs/1705.10941
  """
  weights = _matrices(params)
  if iterations < 1:
    raise ValueError(f'iterations must be >= 1, got {iterations}.')
  wanted = [w.shape[1:] for w in weights]
  if (given := [u.shape for u in vectors]) != wanted:
    raise ValueError(
      f'the weights need vectors of shapes {wanted}, got {given}: make them '
      'with spectral_vectors of the same parameters.'
    )
  total, updated = jnp.zeros(()), []
  for w, u in zip(weights, vectors, strict=True):
    u, v = _power_iteration(jax.lax.stop_gradient(w), u, iterations)
    total += jnp.square(v @ w @ u) / 2
    updated.append(u)
  return total, tuple(updated)


def _matrices(params: Any) -> list[jax.Array]:
  """Returns the weights of two or more axes, as matrices [-1, K]."""
  return [
    w.reshape(-1, w.shape[-1]) for w in jax.tree.leaves(params) if w.ndim > 1
  ]


def _power_iteration(
  w: jax.Array, u: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the right and left singular vectors of w [n, K]."""
  # In `shard_map` a loop's first values must vary over devices as its last do.
  u += jnp.zeros_like(w[0])
  u = jax.lax.fori_loop(0, iterations, lambda _, u: _unit(_unit(w @ u) @ w), u)
  return u, _unit(w @ u)


def _unit(x: jax.Array) -> jax.Array:
  """Scales a vector to length 1; zero stays zero."""
  return x / jnp.maximum(jnp.linalg.norm(x), jnp.finfo(jnp.float32).tiny)
