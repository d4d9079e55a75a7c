"""The spectral penalty against singular values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import spectral
from dim_jax.networks import layers


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


def dense_of(linear, shape):
  """The matrix of a linear map of arrays of a shape, column by column."""
  columns = jax.vmap(linear)(jnp.eye(int(np.prod(shape))).reshape(-1, *shape))
  return np.asarray(columns.reshape(len(columns), -1), np.float64).T


def convolution(kernel, strides=1, padding=1):
  """A convolution of one image [H, W, C], zero-padded."""
  return lambda x: layers.convolve(
    x[None], kernel, strides=strides, padding=padding
  )[0]


def on_torus(kernel):
  """The same with circular padding, of a 3x3 window."""

  def apply(x):
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode='wrap')
    return convolution(kernel, padding=0)(padded)

  return apply


def a_kernel(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(
  ('size', 'strides', 'padding'), [(6, 1, 1), (7, 2, 1), (6, 1, 0)]
)
def test_norm_of_a_convolution_against_its_dense_matrix(size, strides, padding):
  kernel = a_kernel(1, 3, 3, 2, 4).astype(jnp.float32)
  shape = (size, size, 2)
  vector = jax.random.normal(jax.random.key(0), shape)

  def norm(kernel):
    linear = convolution(kernel, strides, padding)
    return spectral.operator_norm(linear, vector, iterations=2000)

  (found, u), gradient = jax.jit(jax.value_and_grad(norm, has_aux=True))(kernel)
  dense = dense_of(convolution(kernel, strides, padding), shape)
  left, sigma, right = np.linalg.svd(dense)
  np.testing.assert_allclose(found, sigma[0], rtol=1e-5)
  np.testing.assert_allclose(np.abs(np.vdot(u, right[0])), 1, rtol=1e-4)
  # d sigma / d kernel = left' (d A / d kernel) right, here along one direction.
  along = a_kernel(2, 3, 3, 2, 4).astype(jnp.float32)
  change = dense_of(convolution(along, strides, padding), shape)
  np.testing.assert_allclose(
    jnp.vdot(gradient, along), left[:, 0] @ change @ right[0], rtol=1e-3
  )


def test_norm_on_a_torus_is_exact_by_fft():
  kernel = a_kernel(3, 3, 3, 2, 4).astype(jnp.float32)
  dense = dense_of(on_torus(kernel), (8, 8, 2))
  exact = np.linalg.svd(dense, compute_uv=False)[0]
  by_fft = spectral.circular_convolution_norm(kernel, (8, 8))
  np.testing.assert_allclose(by_fft, exact, rtol=1e-5)
  found, _ = jax.jit(
    lambda u: spectral.operator_norm(on_torus(kernel), u, iterations=2000)
  )(jax.random.normal(jax.random.key(0), (8, 8, 2)))
  np.testing.assert_allclose(found, exact, rtol=1e-4)
  # What spectral normalisation divides by is less, by no more than sqrt(9).
  reshaped = np.linalg.svd(kernel.reshape(-1, 4), compute_uv=False)[0]
  assert reshaped < exact < 3 * reshaped
  # Zero padding of 8x8 is a part of the torus of 10x10.
  padded = dense_of(convolution(kernel), (8, 8, 2))
  within = np.linalg.svd(padded, compute_uv=False)[0]
  assert within <= spectral.circular_convolution_norm(kernel, (10, 10)) + 1e-4


def test_a_kernel_of_ones_reaches_the_bound():
  # A constant image adds up all nine weights, 9; as a column of ones it has the
  # norm sqrt(9): a factor of 3, the largest there is.
  ones = jnp.ones((3, 3, 1, 1))
  np.testing.assert_allclose(
    spectral.circular_convolution_norm(ones, (8, 8)), 9, rtol=1e-6
  )
  found, again = spectral.operator_norm(
    on_torus(ones), jax.random.normal(jax.random.key(0), (8, 8, 1))
  )
  np.testing.assert_allclose(found, 9, rtol=1e-5)
  np.testing.assert_allclose(np.abs(again), 1 / 8, atol=1e-3)
  # From the vector that came back, one step is enough.
  np.testing.assert_allclose(
    spectral.operator_norm(on_torus(ones), again, iterations=1)[0], 9, rtol=1e-6
  )


def test_convolution_norms_refuse_what_does_not_fit():
  with pytest.raises(ValueError, match='iterations must be >= 1, got 0'):
    spectral.operator_norm(jnp.sin, jnp.ones(3), iterations=0)
  with pytest.raises(ValueError, match=r'no larger than .* 2x8, got shape'):
    spectral.circular_convolution_norm(jnp.ones((3, 3, 1, 1)), (2, 8))


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
