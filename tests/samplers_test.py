"""Chains against known distributions and algebra."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import samplers

hmc = jax.jit(samplers.hmc, static_argnums=(2, 4))


mala = jax.jit(samplers.mala, static_argnums=2)


def points(n, d, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


def gaussian(x):
  """Log density of N(0, I) up to a constant."""
  return -0.5 * jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))


def chains(transition, n=10_000, steps=40, seed=0):
  """Ends of chains in two dimensions from a start at 1.5."""
  start = jnp.full((n, 2), 1.5)
  run = jax.jit(lambda rng: samplers.run_chain(rng, start, transition, steps))
  return run(jax.random.key(seed))


@pytest.mark.parametrize('temperature', [1.0, 0.25])
def test_langevin_has_the_variance_of_its_recursion(temperature):
  # x' = (1 - step) x + noise xi has the stationary variance
  # noise^2 / (1 - (1 - step)^2) = 2 T step / (2 step - step^2)
  # = T / (1 - step / 2), which 40 steps reach to 0.7^80.
  noise = None if temperature == 1 else math.sqrt(2 * 0.3 * temperature)
  end = chains(lambda rng, x: samplers.langevin(rng, x, gaussian, 0.3, noise))
  np.testing.assert_allclose(end.temperature, temperature, rtol=1e-5)
  np.testing.assert_array_equal(end.acceptance, 1)
  # 20,000 numbers: the variance's relative error is sqrt(2 / 20,000) = 1 %.
  expected = temperature / (1 - 0.3 / 2)
  np.testing.assert_allclose(end.position.var(), expected, rtol=0.04)
  np.testing.assert_allclose(end.position.mean(), 0, atol=0.03)


def test_langevin_without_noise_climbs():
  x = jnp.asarray([[2.0, -4.0]])
  step = samplers.langevin(jax.random.key(0), x, gaussian, 0.25, 0.0)
  np.testing.assert_allclose(step.position, 0.75 * x, rtol=1e-6)
  assert step.temperature == 0


@pytest.mark.parametrize('leapfrogs', [None, 4])
def test_metropolis_removes_the_bias(leapfrogs):
  # At these steps Langevin's own variance would be 1 / (1 - 0.8 / 2) = 1.67.
  if leapfrogs is None:
    move = lambda rng, x: samplers.mala(rng, x, gaussian, 0.8)  # noqa: E731
  else:
    move = lambda rng, x: samplers.hmc(rng, x, gaussian, 0.9, leapfrogs)  # noqa: E731
  end = chains(move)
  np.testing.assert_allclose(end.position.var(), 1, rtol=0.04)
  np.testing.assert_allclose(end.position.mean(), 0, atol=0.03)
  assert end.acceptance.shape == (10_000,)
  assert 0.3 < end.acceptance.mean() < 0.99
  assert end.temperature == 1


def quartic(x):
  return -0.25 * jnp.sum(x**4, axis=1) + jnp.sum(x, axis=1)


def test_mala_accepts_by_the_ratio_of_its_gaussian_proposals():
  x, size = jnp.asarray(points(400, 2), jnp.float32), 0.15
  step = mala(jax.random.key(1), x, quartic, size)
  moved = np.asarray(jnp.any(step.position != x, axis=1))
  a = np.asarray(x, np.float64)[moved]
  b = np.asarray(step.position, np.float64)[moved]
  f = lambda x: np.sum(-0.25 * x**4 + x, axis=1)  # noqa: E731
  # log q(to | from) of N(from + size * score, 2 size).
  log_q = lambda to, x: (  # noqa: E731
    -np.sum((to - x - size * (1 - x**3)) ** 2, axis=1) / (4 * size)
  )
  ratio = np.exp(f(b) - f(a) + log_q(a, b) - log_q(b, a))
  np.testing.assert_allclose(
    step.acceptance[moved], np.minimum(ratio, 1), rtol=1e-3, atol=1e-5
  )
  assert step.acceptance.min() < 0.5
  # As many moved as the probabilities say, to four standard deviations.
  p = np.asarray(step.acceptance)
  assert abs(moved.sum() - p.sum()) < 4 * np.sqrt(np.sum(p * (1 - p))) + 1


def test_mala_is_hmc_of_one_leapfrog():
  x, rng = jnp.asarray(points(50, 3), jnp.float32), jax.random.key(0)
  ours = mala(rng, x, quartic, 0.3**2 / 2)
  other = hmc(rng, x, quartic, 0.3, 1)
  np.testing.assert_allclose(ours.position, other.position, rtol=1e-5)
  np.testing.assert_allclose(ours.acceptance, other.acceptance, rtol=1e-4)


def test_leapfrogs_keep_the_energy_of_images():
  # A quarter of a turn of the oscillator, in 100 steps: the error of the
  # energy is of the order of step^2 = 0.0002.
  x = jnp.asarray(points(3, 8).reshape(3, 2, 2, 2), jnp.float32)
  step = hmc(jax.random.key(0), x, gaussian, math.pi / 200, 100)
  assert step.position.shape == x.shape
  np.testing.assert_allclose(step.acceptance, 1, atol=0.01)
  assert jnp.all(step.position != x)


def test_proposals_that_are_not_finite_are_refused():
  x = jnp.ones((64, 1))

  @jax.jit
  def move(beyond):
    half = lambda x: jnp.where(x[:, 0] > 0, 0.0, beyond)  # noqa: E731
    return samplers.mala(jax.random.key(0), x, half, 2.0)

  for beyond in (jnp.nan, -jnp.inf, jnp.inf):
    step = move(beyond)
    refused = np.asarray(step.position == x)[:, 0]
    np.testing.assert_array_equal(step.acceptance, ~refused)
    assert 0 < refused.sum() < 64
    assert jnp.all(step.position > 0)


def test_run_chain_repeats_its_transition():
  def halve(rng, x):
    return samplers.Step(x / 2, x[:, 0] / 8, jnp.asarray(0.5))

  end = samplers.run_chain(jax.random.key(0), jnp.asarray([[8.0]]), halve, 3)
  np.testing.assert_array_equal(end.position, [[1]])
  np.testing.assert_allclose(end.acceptance, [(1 + 0.5 + 0.25) / 3])
  assert end.temperature == 0.5


def test_chains_refuse_steps_that_are_not_positive():
  x, rng = jnp.zeros((2, 1)), jax.random.key(0)
  for move in (samplers.langevin, samplers.mala, samplers.hmc):
    with pytest.raises(ValueError, match='step_size is'):
      move(rng, x, gaussian, 0.0)
  with pytest.raises(ValueError, match='noise is -1'):
    samplers.langevin(rng, x, gaussian, 0.1, -1.0)
  with pytest.raises(ValueError, match='leapfrogs is 0'):
    samplers.hmc(rng, x, gaussian, 0.1, 0)
  with pytest.raises(ValueError, match='steps is 0'):
    samplers.run_chain(rng, x, lambda rng, x: None, 0)
