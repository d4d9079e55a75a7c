"""f-divergences against their definitions and quadrature."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dim_jax.losses import (
  bounds,
  f_divergences,
)

LOG_2 = math.log(2)


def softplus(x):
  return np.logaddexp(0, x)


# The two terms E_p[positive_term(T)] - E_q[negative_term(T)] of each dual, as
# in f-GAN, tables 1, 2 and 6 (Pearson's conjugate over r >= 0).
TERMS = {
  'gan': (lambda t: -softplus(-t), softplus),
  'kl': (lambda t: t, lambda t: np.exp(t - 1)),
  'reverse_kl': (lambda t: -np.exp(-t), lambda t: t - 1),
  'squared_hellinger': (lambda t: 1 - np.exp(-t), lambda t: np.exp(t) - 1),
  'chi_squared': (
    lambda t: t,
    lambda t: np.where(t >= -2, t + t**2 / 4, -1.0),
  ),
}


every_divergence = pytest.mark.parametrize('name', list(TERMS))


@functools.cache
def divergence_of(name):
  return jax.jit(getattr(f_divergences, name))


def reference(name, positive, negative, where):
  positive_term, negative_term = TERMS[name]
  return np.mean(positive_term(positive)) - np.mean(
    negative_term(negative[where])
  )


def scores_of(seed, num_anchors=4, num_negatives=6):
  """Scores that reach below -2, where Pearson's conjugate is flat."""
  rng = np.random.default_rng(seed)
  positive = rng.normal(0.5, 1.5, (num_anchors, 2))
  negative = rng.normal(-1.0, 1.5, (num_anchors, num_negatives))
  where = rng.random((num_anchors, num_negatives)) < 0.6
  return positive, negative, where


def as_float32(*arrays):
  return [jnp.asarray(array, jnp.float32) for array in arrays]


def numerical_gradient(function, array, step=1e-5):
  gradient = np.zeros_like(array)
  for index in np.ndindex(array.shape):
    shift = np.zeros_like(array)
    shift[index] = step
    rise = function(array + shift) - function(array - shift)
    gradient[index] = rise / (2 * step)
  return gradient


@every_divergence
def test_equals_its_definition_where_masked_negatives_are_deleted(name):
  positive, negative, where = scores_of(seed=0)
  value = divergence_of(name)(
    *as_float32(positive, negative), where=jnp.asarray(where)
  )
  np.testing.assert_allclose(
    value, reference(name, positive, negative, where), rtol=5e-6
  )


@every_divergence
def test_gradient_is_that_of_the_definition(name):
  positive, negative, where = scores_of(seed=1)
  to_positive, to_negative = jax.grad(divergence_of(name), argnums=(0, 1))(
    *as_float32(positive, negative), where=jnp.asarray(where)
  )
  np.testing.assert_allclose(
    to_positive,
    numerical_gradient(lambda p: reference(name, p, negative, where), positive),
    rtol=1e-5,
    atol=2e-6,
  )
  np.testing.assert_allclose(
    to_negative,
    numerical_gradient(lambda n: reference(name, positive, n, where), negative),
    rtol=1e-5,
    atol=2e-6,
  )


@every_divergence
@pytest.mark.parametrize('junk', [np.inf, -np.inf, np.nan])
def test_masked_entries_have_no_effect(name, junk):
  positive, negative, where = scores_of(seed=2)
  dirty = np.where(where, negative, junk)
  evaluate = functools.partial(
    jax.value_and_grad(divergence_of(name), argnums=(0, 1)),
    where=jnp.asarray(where),
  )
  clean = evaluate(*as_float32(positive, negative))
  chex.assert_trees_all_equal(evaluate(*as_float32(positive, dirty)), clean)
  _, (_, to_negative) = clean
  np.testing.assert_array_equal(np.asarray(to_negative)[~where], 0)


@every_divergence
@pytest.mark.parametrize('positive', [-1e4, 0.0, 1e4])
@pytest.mark.parametrize('negative', [-1e4, 0.0, 1e4])
def test_extreme_scores_are_finite(name, positive, negative):
  value, gradients = jax.value_and_grad(divergence_of(name), argnums=(0, 1))(
    jnp.full((3, 2), positive), jnp.full((3, 5), negative)
  )
  chex.assert_tree_all_finite((value, gradients))
  if negative > positive:
    # The critic is as wrong as can be, and must learn that from both terms.
    assert float(gradients[0].min()) > 0
    assert float(gradients[1].max()) < 0


# p = N(mean, std^2) and q = N(0, 1): not symmetric, so that a divergence in
# the wrong direction shows.
MEAN, STD = 0.6, 0.95
VARIANCE = STD**2


def log_ratio(x):
  return stats.norm.logpdf(x, MEAN, STD) - stats.norm.logpdf(x)


def quadrature(integrand):
  return integrate.quad(
    lambda x: float(integrand(stats.norm.pdf(x, MEAN, STD), x)), -15, 15
  )[0]


def jensen_shannon_objective(p, x):
  q = stats.norm.pdf(x)
  return p * np.log(p / (p + q)) + q * np.log(q / (p + q))


# name -> (the best critic as a function of ln r, the divergence).
GAUSSIAN_TRUTH = {
  # 2 JSD - 2 ln 2; the Jensen-Shannon divergence has no closed form.
  'gan': (lambda log_r: log_r, quadrature(jensen_shannon_objective)),
  # KL of Gaussians, (s^2 + m^2 - 1 - ln s^2) / 2.
  'kl': (
    lambda log_r: 1 + log_r,
    (VARIANCE + MEAN**2 - 1 - math.log(VARIANCE)) / 2,
  ),
  # The other way round, (1/s^2 + m^2/s^2 - 1 + ln s^2) / 2.
  'reverse_kl': (
    lambda log_r: log_r,
    ((1 + MEAN**2) / VARIANCE - 1 + math.log(VARIANCE)) / 2,
  ),
  # 2 - 2 * integral of sqrt(p q).
  'squared_hellinger': (
    lambda log_r: log_r / 2,
    2
    - 2
    * math.sqrt(2 * STD / (1 + VARIANCE))
    * math.exp(-(MEAN**2) / (4 * (1 + VARIANCE))),
  ),
  # Integral of p^2 / q, minus 1, by completing the square; needs s^2 < 2.
  'chi_squared': (
    lambda log_r: 2 * np.expm1(log_r),
    math.exp(MEAN**2 / (2 - VARIANCE)) / (STD * math.sqrt(2 - VARIANCE)) - 1,
  ),
}


@every_divergence
def test_best_critic_reaches_the_divergence_of_gaussians(name):
  best_critic, truth = GAUSSIAN_TRUTH[name]
  # Equally likely points instead of random ones: the middles of n quantiles.
  quantiles = (np.arange(200_000) + 0.5) / 200_000
  normal = stats.norm.ppf(quantiles)
  p_points, q_points = MEAN + STD * normal, normal

  def evaluate(critic):
    positive, negative = as_float32(
      critic(p_points)[None, :], critic(q_points)[None, :]
    )
    return float(divergence_of(name)(positive, negative))

  best = evaluate(lambda x: best_critic(log_ratio(x)))
  np.testing.assert_allclose(best, truth, rtol=2e-3)
  # No critic passes it: neither a shift, nor a scale, nor a tilt.
  for other in (
    lambda x: best_critic(log_ratio(x)) + 0.3,
    lambda x: best_critic(log_ratio(x)) - 0.3,
    lambda x: best_critic(log_ratio(x)) * 0.7,
    lambda x: best_critic(log_ratio(x)) + 0.2 * np.tanh(x),
  ):
    assert evaluate(other) < best - 1e-3


def test_gan_is_jsd_shifted():
  positive, negative = as_float32(*scores_of(seed=3)[:2])
  np.testing.assert_allclose(
    f_divergences.gan(positive, negative),
    bounds.jsd(positive, negative) - 2 * LOG_2,
    rtol=1e-6,
  )


@pytest.mark.parametrize('name', ['gan', 'squared_hellinger'])
def test_perfect_critic_reaches_the_ceiling(name):
  value = divergence_of(name)(jnp.full((2, 1), 1e4), jnp.full((2, 3), -1e4))
  np.testing.assert_allclose(value, bounds.ceiling(name, 3), atol=1e-6)


def test_chi_squared_cannot_be_raised_without_end():
  # For p = q no critic is above 0, however large its scores are. (A pair of
  # terms that are not conjugate to each other grows like T^2 here.)
  scores = jnp.asarray([[-30.0, -2.0, -1.0, 0.0, 1.0, 30.0]])
  for scale in (0.1, 1.0, 100.0):
    assert float(f_divergences.chi_squared(scale * scores, scale * scores)) <= 0


@every_divergence
def test_wrong_rank_is_refused(name):
  with pytest.raises(AssertionError, match='positive'):
    divergence_of(name)(jnp.zeros(4), jnp.zeros((4, 3)))
