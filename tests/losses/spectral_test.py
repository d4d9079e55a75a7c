"""The spectral penalty against singular values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import (
  spectral,
)


def spectral_params():
  rng = np.random.default_rng(23)
  return {
    'dense': {'kernel': rng.normal(size=(6, 4)), 'bias': np.ones(4)},
    'conv': {'kernel': rng.normal(size=(3, 3, 2, 5))},
  }


def test_spectral_penalty_against_svd():
  exact = spectral_params()
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), exact)
  vectors = spectral.spectral_vectors(jax.random.key(0), params)
  penalty = functools.partial(
    spectral.spectral_penalty, vectors=vectors, iterations=200
  )
  (value, _), gradient = jax.jit(jax.value_and_grad(penalty, has_aux=True))(
    params
  )
  expected = 0.0
  for name in ('dense', 'conv'):
    kernel = exact[name]['kernel']
    u, sigma, v = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))
    expected += sigma[0] ** 2 / 2
    # d (sigma^2 / 2) / dW = sigma u v'.
    np.testing.assert_allclose(
      gradient[name]['kernel'],
      (sigma[0] * np.outer(u[:, 0], v[0])).reshape(kernel.shape),
      atol=1e-4,
    )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(gradient['dense']['bias'], 0)


def test_spectral_vectors_continue_where_they_were():
  params = jax.tree.map(jnp.asarray, spectral_params())
  params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  vectors = spectral.spectral_vectors(jax.random.key(0), params)
  at_once, _ = spectral.spectral_penalty(params, vectors, iterations=7)
  step = jax.jit(spectral.spectral_penalty)
  for _ in range(7):
    value, vectors = step(params, vectors)
  np.testing.assert_allclose(value, at_once, rtol=1e-5)
  # A power iteration approaches from below.
  first, _ = step(params, spectral.spectral_vectors(jax.random.key(0), params))
  assert first < value


def test_spectral_penalty_refuses_what_does_not_fit():
  params = jax.tree.map(jnp.asarray, spectral_params())
  vectors = spectral.spectral_vectors(jax.random.key(0), params)
  with pytest.raises(
    ValueError, match=r'shapes \[\(5,\), \(4,\)\], got \[\(5,\)'
  ):
    spectral.spectral_penalty(params, vectors[:1])
  with pytest.raises(ValueError, match='iterations must be >= 1, got 0'):
    spectral.spectral_penalty(params, vectors, iterations=0)
  with pytest.raises(ValueError, match='no weight of two or more axes'):
    spectral.spectral_vectors(jax.random.key(0), {'bias': jnp.zeros(3)})
