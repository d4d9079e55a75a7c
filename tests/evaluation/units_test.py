"""Units of codes whose information is known."""

import math

import numpy as np
import pytest
from scipy import stats

from dim_jax.evaluation import units


def linear_codes(weights, noise, offset=0.0, count=20_000):
  """Codes w x + c + s e of examples x at the quantiles of N(0, 1)."""
  x = stats.norm.ppf((np.arange(count) + 0.5) / count)
  # Exactly of unit variance, as quantiles of a finite number are not.
  x = x / x.std()
  mean = np.outer(x, weights) + offset
  scale = np.broadcast_to(np.asarray(noise, float), mean.shape)
  return mean, scale, np.log(scale)


def test_a_linear_gaussian_encoder_has_the_information_of_its_channel():
  weights = np.array([3.0, 0.5, 0.09, 0.0])
  noise = np.array([1.0, 0.5, 0.1, 2.0])
  found = units.measure(*linear_codes(weights, noise))
  np.testing.assert_allclose(found.variance, weights**2, atol=1e-9)
  np.testing.assert_allclose(found.signal_to_noise, (weights / noise) ** 2)
  # I(Z; X) = H(Z) - H(Z | X) = ln(sqrt(w^2 + s^2) / s).
  total = np.sqrt(weights**2 + noise**2)
  np.testing.assert_allclose(found.capacity, np.log(total / noise), atol=1e-9)
  # KL(N(w x, s^2) || N(0, 1)), averaged, is that and KL(N(0, t^2) || N(0, 1)).
  gap = (total**2 - 1) / 2 - np.log(total)
  np.testing.assert_allclose(found.rate, found.capacity + gap, atol=1e-9)
  # 0.09^2 = 0.0081 is below 0.01, although its channel is as clear as any.
  assert found.active == 2
  assert found.summary() == {
    'active': 2,
    'units': 4,
    'capacity': pytest.approx(np.log(total / noise).sum()),
    'rate': pytest.approx(found.rate.sum()),
    'largest_variance': pytest.approx(9.0),
  }


def test_capacity_knows_no_marginal_and_the_rate_does():
  # An offset is no signal, but N(c, s^2) is not N(0, 1): c^2 / 2 more nats.
  plain, moved = (
    units.measure(*linear_codes([1.0], [0.5], offset)) for offset in (0.0, 2.0)
  )
  np.testing.assert_allclose(moved.capacity, plain.capacity)
  np.testing.assert_allclose(moved.rate - plain.rate, 2.0)
  # A code that is the prior of every example keeps nothing.
  nothing = units.measure(*linear_codes([0.0], [1.0]))
  assert nothing.active == nothing.capacity[0] == nothing.rate[0] == 0


def test_information_is_below_capacity_and_capacity_below_rate():
  # A mean of -1 or 1 at noise s: of all signals of variance 1 a Gaussian tells
  # most, so the integral of -p ln p less the noise's entropy is less.
  mean, s = np.array([[-1.0], [1.0]]), 0.6
  scale = np.full_like(mean, s)
  found = units.measure(mean, scale, np.log(scale))
  z = np.linspace(-6, 6, 20_001)
  density = (stats.norm.pdf(z, -1, s) + stats.norm.pdf(z, 1, s)) / 2
  entropy = -np.trapezoid(density * np.log(density), z)
  information = entropy - math.log(s * math.sqrt(2 * math.pi * math.e))
  assert 0.5 < information < 0.9 * found.capacity[0] < found.rate[0]
  np.testing.assert_allclose(found.capacity, math.log(1 + 1 / 0.36) / 2)
  # Whatever the noise of single examples is.
  random = np.random.default_rng(0)
  mean, log_scale = random.normal(size=(2, 100, 40))
  found = units.measure(mean, np.exp(log_scale), log_scale)
  assert np.all(found.capacity < found.rate)


def test_full_covariances_count_unit_by_unit():
  # Rotating a diagonal code mixes its units: covariance R diag(s^2) R'.
  angle = 0.3
  turn = np.array(
    [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
  )
  covariance = turn @ np.diag([0.25, 4.0]) @ turn.T
  chol = np.linalg.cholesky(covariance)
  mean = np.random.default_rng(0).normal(size=(50, 2))
  factors = np.broadcast_to(chol, (50, 2, 2))
  found = units.measure(mean, factors, np.zeros((50, 2)))
  std = np.sqrt(np.diag(covariance))
  scale = np.broadcast_to(std, mean.shape)
  expected = units.measure(mean, scale, np.log(scale))
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b)


def test_shapes_that_do_not_fit_are_refused():
  for mean, scale in (
    (np.zeros((1, 3)), np.ones((1, 3))),
    (np.zeros((4, 3)), np.ones((4, 2))),
    (np.zeros((4, 3)), np.ones((4, 3, 2))),
  ):
    with pytest.raises(ValueError, match='at least 2 examples'):
      units.measure(mean, scale, np.zeros((4, 3)))
