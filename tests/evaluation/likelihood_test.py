"""Estimates of log Z against closed forms and enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dim_jax.evaluation import likelihood


def wide(x):
  """exp(f) of two variances, 4 and 1/4, unnormalised, around (1, -1)."""
  scaled = (x - jnp.asarray([[1.0, -1.0]])) / jnp.asarray([[2.0, 0.5]])
  return 3 - 0.5 * jnp.sum(jnp.square(scaled), axis=1)


# 3 + log of sqrt(2 pi)^2 * 2 * 0.5.
WIDE = 3 + math.log(2 * math.pi)


def rbm(pixels=6, hidden=4):
  """A Gaussian-Bernoulli machine, hidden +-1, and its exact log Z."""
  random = np.random.default_rng(0)
  b = random.normal(size=pixels)
  c = random.normal(size=hidden)
  weights = 0.5 * random.normal(size=(pixels, hidden))
  # Summing x out first: sum_h exp(c'h) (2 pi)^(d / 2) exp(||b + B h||^2 / 2).
  terms = [
    c @ h + np.sum((b + weights @ h) ** 2) / 2
    for h in map(np.asarray, itertools.product((-1, 1), repeat=hidden))
  ]
  exact = pixels / 2 * math.log(2 * math.pi) + special.logsumexp(terms)
  b, c, weights = (jnp.asarray(a, jnp.float32) for a in (b, c, weights))

  def log_density(x):
    y = x @ weights + c[None]
    return (
      x @ b
      - jnp.sum(jnp.square(x), axis=1) / 2
      + jnp.sum(jnp.logaddexp(y, -y), axis=1)
    )

  return log_density, exact


def test_annealing_finds_the_normaliser_of_a_gaussian():
  result = likelihood.annealed_importance(
    jax.random.key(0),
    wide,
    (2,),
    mean=0.5,
    std=[2.0, 1.0],
    chains=200,
    temperatures=100,
  )
  error = float(result.standard_error)
  assert error < 0.1
  np.testing.assert_allclose(result.log_z, WIDE, atol=4 * error)
  assert 20 < result.effective_sample_size <= 200
  np.testing.assert_allclose(result.acceptance, 0.65, atol=0.25)


def test_annealing_agrees_with_enumeration_of_a_boltzmann_machine():
  log_density, exact = rbm()
  result = likelihood.annealed_importance(
    jax.random.key(1),
    log_density,
    (6,),
    std=2.0,
    chains=300,
    temperatures=200,
    leapfrogs=2,
  )
  error = float(result.standard_error)
  assert error < 0.1
  np.testing.assert_allclose(result.log_z, exact, atol=4 * error)


def test_a_base_that_is_the_density_is_exact():
  # Every weight is Z itself, whatever the chains do: d / 2 log(2 pi) + 7.
  def log_density(x):
    return 7 - 0.5 * jnp.sum(jnp.square(x), axis=(1, 2))

  result = likelihood.annealed_importance(
    jax.random.key(0), log_density, (3, 2), chains=10, temperatures=20
  )
  expected = 7 + 3 * math.log(2 * math.pi)
  np.testing.assert_allclose(result.log_z, expected, rtol=1e-5)
  np.testing.assert_allclose(result.standard_error, 0, atol=1e-3)
  np.testing.assert_allclose(result.effective_sample_size, 10, rtol=1e-4)


def test_one_temperature_is_importance_sampling_with_its_errors():
  # Weights are exp(f) / base at the base's own samples; the estimate, its
  # sample's relative standard error and the effective size from NumPy.
  key, n = jax.random.key(3), 50
  start, _ = jax.random.split(key)
  u = np.asarray(jax.random.normal(start, (n, 2)), np.float64)
  x = 0.5 + 2 * u
  log_base = -np.sum(u**2, axis=1) / 2 - math.log(2 * math.pi) - 2 * math.log(2)
  weight = np.exp(np.asarray(wide(jnp.asarray(x, jnp.float32))) - log_base)
  result = likelihood.annealed_importance(
    key, wide, (2,), mean=0.5, std=2.0, chains=n, temperatures=1
  )
  np.testing.assert_allclose(result.log_z, np.log(weight.mean()), rtol=1e-4)
  error = weight.std(ddof=1) / math.sqrt(n) / weight.mean()
  np.testing.assert_allclose(result.standard_error, error, rtol=1e-3)
  size = weight.sum() ** 2 / np.sum(weight**2)
  np.testing.assert_allclose(result.effective_sample_size, size, rtol=1e-3)


def test_few_temperatures_are_low_on_average_and_say_so():
  # Twenty chains and two temperatures in 20 dimensions, around a mean that is
  # two standard deviations away: log Z = 10 log(2 pi), mostly underestimated.
  def log_density(x):
    return -0.5 * jnp.sum(jnp.square(x - 2), axis=1)

  result = [
    likelihood.annealed_importance(
      jax.random.key(i), log_density, (20,), chains=20, temperatures=2
    )
    for i in range(10)
  ]
  estimates = np.asarray([x.log_z for x in result])
  assert np.mean(estimates < 10 * math.log(2 * math.pi)) >= 0.9
  assert np.mean([x.effective_sample_size for x in result]) < 5


def test_annealing_shows_a_density_that_is_not_a_number():
  result = likelihood.annealed_importance(
    jax.random.key(0),
    lambda x: jnp.where(x[:, 0] > 0, 0.0, jnp.nan),
    (1,),
    chains=8,
    temperatures=2,
  )
  assert jnp.isnan(result.log_z)


@pytest.mark.parametrize(
  'fields, match',
  [
    ({'chains': 1}, 'chains must be a whole number >= 2, got 1'),
    ({'temperatures': 0}, 'temperatures must be'),
    ({'leapfrogs': True}, 'leapfrogs must be'),
    ({'std': 0.0}, 'std must be finite and above 0'),
    ({'mean': math.nan}, 'mean must be finite'),
    ({'mean': [0.0] * 3}, 'does not broadcast'),
    ({'step_size': 0.0}, 'step_size must be'),
  ],
)
def test_annealing_refuses(fields, match):
  with pytest.raises(ValueError, match=match):
    likelihood.annealed_importance(jax.random.key(0), wide, (2,), **fields)


def test_grid_is_exact_for_smooth_densities():
  result = likelihood.grid_log_partition(wide, (-15.0, -5.0), (17.0, 3.0), 200)
  np.testing.assert_allclose(result, WIDE, rtol=1e-5)

  # A mixture in one dimension, weights 3 and 5 of normalised densities: 8.
  def mixture(x):
    log_weight = jnp.log(jnp.asarray([[3.0, 5.0]]))
    std = jnp.asarray([[1.0, 0.5]])
    scaled = (x - jnp.asarray([[-2.0, 2.0]])) / std
    terms = log_weight - jnp.log(std) - 0.5 * jnp.square(scaled)
    return jax.nn.logsumexp(terms, axis=1) - 0.5 * math.log(2 * math.pi)

  result = likelihood.grid_log_partition(mixture, (-10.0,), (10.0,), 200)
  np.testing.assert_allclose(result, math.log(8), rtol=1e-5)


def test_grid_takes_the_middle_of_each_cell():
  # exp(f) = x on [0, 2] in two cells, at 0.5 and 1.5: 2, the exact integral.
  result = likelihood.grid_log_partition(
    lambda x: jnp.log(x[:, 0]), (0.0,), (2.0,), 2
  )
  np.testing.assert_allclose(result, math.log(2), rtol=1e-6)
  # x * y^2 on [0, 2] x [0, 4]: 2 * (1^2 + 3^2) * 2 = 40.
  result = likelihood.grid_log_partition(
    lambda x: jnp.log(x[:, 0]) + 2 * jnp.log(x[:, 1]), (0.0, 0.0), (2.0, 4.0), 2
  )
  np.testing.assert_allclose(result, math.log(40), rtol=1e-6)


@pytest.mark.parametrize(
  'low, high, points, match',
  [
    ((0.0,) * 3, (1.0,) * 3, 4, '1 or 2 dimensions'),
    ((0.0,), (1.0, 1.0), 4, '1 or 2 dimensions'),
    ((1.0,), (1.0,), 4, 'must be below'),
    ((0.0,), (math.inf,), 4, 'both finite'),
    ((0.0,), (1.0,), 0, 'points must be'),
  ],
)
def test_grid_refuses(low, high, points, match):
  with pytest.raises(ValueError, match=match):
    likelihood.grid_log_partition(lambda x: x[:, 0], low, high, points)
