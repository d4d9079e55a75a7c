"""f-divergences against quadrature and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dim_jax.losses import bounds, f_divergences
from tests.losses.reference import as_float32

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


@pytest.mark.parametrize('name', list(GAUSSIAN_TRUTH))
def test_best_critic_reaches_the_divergence_of_gaussians(name):
  best_critic, truth = GAUSSIAN_TRUTH[name]
  divergence = jax.jit(getattr(f_divergences, name))
  # Equally likely points instead of random ones: the middles of n quantiles.
  quantiles = (np.arange(200_000) + 0.5) / 200_000
  normal = stats.norm.ppf(quantiles)
  p_points, q_points = MEAN + STD * normal, normal

  def evaluate(critic):
    positive, negative = as_float32(
      critic(p_points)[None, :], critic(q_points)[None, :]
    )
    return float(divergence(positive, negative))

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
  positive, negative = as_float32(
    *np.random.default_rng(3).normal(0.5, 1.5, (2, 4, 6))
  )
  np.testing.assert_allclose(
    f_divergences.gan(positive, negative),
    bounds.jsd(positive, negative) - 2 * math.log(2),
    rtol=1e-6,
  )


@pytest.mark.parametrize('name', ['gan', 'squared_hellinger'])
def test_perfect_critic_reaches_the_ceiling(name):
  divergence = getattr(f_divergences, name)
  value = divergence(jnp.full((2, 1), 1e4), jnp.full((2, 3), -1e4))
  np.testing.assert_allclose(value, bounds.ceiling(name, 3), atol=1e-6)


def test_chi_squared_cannot_be_raised_without_end():
  # For p = q no critic is above 0, however large its scores are. (A pair of
  # terms that are not conjugate to each other grows like T^2 here.)
  scores = jnp.asarray([[-30.0, -2.0, -1.0, 0.0, 1.0, 30.0]])
  for scale in (0.1, 1.0, 100.0):
    assert float(f_divergences.chi_squared(scale * scores, scale * scores)) <= 0
