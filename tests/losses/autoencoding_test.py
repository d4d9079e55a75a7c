"""The distortion, and the bound that it makes, against a linear model's."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dim_jax.losses import autoencoding, bottleneck

STD, SIZE, CODE = 0.7, 5, 2


def test_it_is_minus_the_log_density_of_all_pixels():
  rng = np.random.default_rng(0)
  x, mean = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
  expected = -scipy.stats.norm.logpdf(x, mean, 0.3).sum((1, 2, 3))
  result = autoencoding.gaussian_distortion(jnp.asarray(x), mean, 0.3)
  np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_half_a_variance_is_the_sum_of_squared_errors():
  rng = np.random.default_rng(0)
  x, mean = rng.normal(size=(2, 3, 6)).astype(np.float32)
  result = autoencoding.gaussian_distortion(x, mean, np.sqrt(0.5))
  # ln sqrt(2 pi / 2) a number.
  constant = 6 * np.log(np.pi) / 2
  np.testing.assert_allclose(
    result - constant, ((x - mean) ** 2).sum(1), rtol=1e-5
  )


def test_a_density_without_width_is_refused():
  with pytest.raises(ValueError, match='std must be above 0, got 0'):
    autoencoding.gaussian_distortion(jnp.zeros((1, 2)), jnp.zeros((1, 2)), 0)


def linear_model():
  """Probabilistic PCA of x = W z + b + s e, and points of it.

  Returns:
    (W, b, x, M): x [n, SIZE] are samples; M = W'W + s^2 I, so that the
    posterior of z is N(M^-1 W'(x - b), s^2 M^-1).
  """
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(SIZE, CODE))
  bias = rng.normal(size=SIZE)
  z = rng.normal(size=(7, CODE))
  x = z @ weights.T + bias + STD * rng.normal(size=(7, SIZE))
  return weights, bias, x, weights.T @ weights + STD**2 * np.eye(CODE)


def bound(weights, bias, x, mean, factor):
  """-(D + R) of the posterior N(mean, factor factor').

  D is averaged over mean +- sqrt(K) times the factor's columns, whose first and
  second moments are the posterior's: exact, as D is quadratic in z.
  """
  steps = np.sqrt(CODE) * np.concatenate([factor.T, -factor.T])
  distortions = [
    autoencoding.gaussian_distortion(
      jnp.asarray(x, jnp.float32),
      jnp.asarray((mean + step) @ weights.T + bias, jnp.float32),
      STD,
    )
    for step in steps
  ]
  chol = jnp.broadcast_to(jnp.asarray(factor, jnp.float32), (len(x), 2, 2))
  log_diagonal = jnp.log(jnp.diagonal(chol, axis1=1, axis2=2))
  rate = bottleneck.rate_cholesky(
    jnp.asarray(mean, jnp.float32), chol, log_diagonal
  )
  return -(np.mean(distortions, axis=0) + np.asarray(rate))


def test_exact_posterior_makes_the_bound_the_evidence():
  weights, bias, x, precision = linear_model()
  mean = (x - bias) @ weights @ np.linalg.inv(precision)
  factor = np.linalg.cholesky(STD**2 * np.linalg.inv(precision))
  # x is Gaussian, of covariance WW' + s^2 I.
  evidence = scipy.stats.multivariate_normal.logpdf(
    x, bias, weights @ weights.T + STD**2 * np.eye(SIZE)
  )
  np.testing.assert_allclose(
    bound(weights, bias, x, mean, factor), evidence, rtol=1e-5
  )


@pytest.mark.parametrize(('shift', 'width'), [(0.3, 1.0), (0.0, 1.7), (0.2, 0)])
def test_another_posterior_is_below_by_its_divergence(shift, width):
  weights, bias, x, precision = linear_model()
  mean = (x - bias) @ weights @ np.linalg.inv(precision)
  covariance = STD**2 * np.linalg.inv(precision)
  factor = np.linalg.cholesky(covariance) * width
  if not width:  # The mean-field one, of the right variances.
    factor = np.diag(np.sqrt(np.diag(covariance)))
  gap = bound(weights, bias, x, mean, np.linalg.cholesky(covariance)) - bound(
    weights, bias, x, mean + shift, factor
  )
  # KL(N(m', S') || N(m, S)) of offset d = m' - m is
  # (tr S^-1 S' + d' S^-1 d - K + ln |S| / |S'|) / 2.
  inverse, other = np.linalg.inv(covariance), factor @ factor.T
  offset = np.full(CODE, shift)
  divergence = (
    np.trace(inverse @ other)
    + offset @ inverse @ offset
    - CODE
    + np.log(np.linalg.det(covariance) / np.linalg.det(other))
  ) / 2
  assert divergence > 0.01
  np.testing.assert_allclose(gap, divergence, rtol=1e-3)
