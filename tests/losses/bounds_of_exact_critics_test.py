"""Bounds with the best critic there is, where the information is known.

Correlated Gaussians of 20 dimensions, y = rho x + sqrt(1 - rho^2) e, whose
information is -10 ln(1 - rho^2): no training, so that what is off is a formula.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dim_jax.losses import bounds

DIMENSIONS = 20
BATCHES = 600


@functools.cache
def exact_scores(information, batch_size=64, batches=BATCHES):
  """ln r of all pairs in batches [B, N, N], row x and column y."""
  rng = np.random.default_rng(int(10 * information) + batch_size)
  rho = math.sqrt(1 - math.exp(-information / 10))
  shape = (batches, batch_size, DIMENSIONS)
  x = rng.standard_normal(shape)
  y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal(shape)
  squares = np.sum(x**2, -1)[:, :, None] + np.sum(y**2, -1)[:, None, :]
  products = x @ y.swapaxes(1, 2)
  scores = (rho * products - rho**2 * squares / 2) / (1 - rho**2)
  return (scores + information).astype(np.float32)


def test_exact_scores_are_log_ratios():
  # By SciPy's densities, of one pair in 2 x 20 dimensions.
  rho = 0.5
  information = -10 * math.log(1 - rho**2)
  rng = np.random.default_rng(int(10 * information) + 2)
  x, e = rng.standard_normal((2, 1, 2, DIMENSIONS))
  y = rho * x + math.sqrt(1 - rho**2) * e
  expected = sum(
    stats.multivariate_normal.logpdf(
      [x[0, 0, k], y[0, 1, k]], cov=[[1, rho], [rho, 1]]
    )
    - stats.norm.logpdf(x[0, 0, k])
    - stats.norm.logpdf(y[0, 1, k])
    for k in range(DIMENSIONS)
  )
  scores = exact_scores(information, 2, 1)
  np.testing.assert_allclose(scores[0, 0, 1], expected, rtol=1e-4)


def values_of(name, information, batch_size=64, **settings):
  """A bound's value of each batch."""
  shift = {'nwj': 1.0}.get(name, 0.0)

  def value(scores):
    pairs = bounds.split_pairs(scores[:, :, None] + shift)
    return getattr(bounds, name)(*pairs[:2], where=pairs[2], **settings)

  scores = exact_scores(information, batch_size)
  return np.asarray(jax.jit(jax.vmap(value))(scores))


# Means and standard deviations of 3,000 batches (1,500 with 128) by another
# implementation of the same setting. InfoNCE's ceiling with 64 is 4.16.
PUBLISHED = [
  ('infonce', 64, {}, {2: (1.81, 0.19), 6: (3.74, 0.12), 10: (4.12, 0.04)}),
  ('infonce', 128, {}, {2: (1.89, 0.15), 6: (4.21, 0.11), 10: (4.79, 0.04)}),
  ('nwj', 64, {}, {2: (2.00, 0.25), 4: (3.99, 0.62), 6: (6.01, 1.79)}),
  ('jsd_nwj', 64, {}, {2: (2.00, 0.25), 4: (3.99, 0.62), 6: (6.01, 1.79)}),
  (
    'donsker_varadhan',
    64,
    {},
    {2: (2.01, 0.25), 6: (6.24, 0.67), 10: (11.27, 1.34)},
  ),
  (
    'smile',
    64,
    {'limit': 1.0},
    {2: (2.38, 0.24), 6: (6.83, 0.38), 10: (10.96, 0.45)},
  ),
  (
    'smile',
    64,
    {'limit': 5.0},
    {2: (2.03, 0.25), 6: (6.72, 0.46), 10: (12.05, 0.70)},
  ),
]


@pytest.mark.parametrize(
  ('name', 'batch_size', 'settings', 'published'), PUBLISHED
)
def test_values_are_the_published_ones(name, batch_size, settings, published):
  theirs = 3000 if batch_size == 64 else 1500
  for information, (mean, std) in published.items():
    values = values_of(name, information, batch_size, **settings)
    # Three standard errors of both means, and half of the last digit.
    error = std * math.sqrt(1 / BATCHES + 1 / theirs)
    assert abs(values.mean() - mean) < 3 * error + 0.005, information


def test_nwj_without_the_shift_is_low_by_one_over_e():
  # What evaluating a critic trained by `jsd` as it is gives: I - 1/e, since
  # E_q[r / e] = 1/e while E_p[ln r] = I.
  pairs = bounds.split_pairs(exact_scores(2.0)[0][:, :, None])
  scores = exact_scores(2.0)
  low = jax.vmap(lambda s: bounds.nwj(*bounds.split_pairs(s[:, :, None])))(
    scores
  )
  high = values_of('jsd_nwj', 2.0)
  assert pairs[0].shape == (64, 1)
  # The batches are the same, so the difference is E_q[r] (1 - 1/e) - 1.
  np.testing.assert_allclose(
    np.mean(low - high), (1 - 1 / math.e) - 1, atol=0.02
  )


def test_mine_has_the_value_of_donsker_varadhan():
  pairs = bounds.split_pairs(exact_scores(2.0)[0][:, :, None])
  value, average = bounds.mine(*pairs[:2], jnp.float32(-jnp.inf), pairs[2])
  np.testing.assert_allclose(value, bounds.donsker_varadhan(*pairs), rtol=1e-6)
  # Started with the first batch: the log mean of e^T itself.
  negatives = np.asarray(pairs[1])[np.asarray(pairs[2])].astype(np.float64)
  np.testing.assert_allclose(
    average, np.log(np.mean(np.exp(negatives))), rtol=1e-4, atol=1e-5
  )


def test_mines_gradient_has_the_moving_average():
  rng = np.random.default_rng(0)
  positive, negative = rng.normal(size=(2, 5, 3)).astype(np.float32)
  before, decay = 0.7, 0.9

  def value(p, n, log_average):
    return bounds.mine(p, n, log_average, decay=decay)[0]

  ascent = jax.grad(value, (0, 1))(positive, negative, jnp.float32(before))
  mean = np.mean(np.exp(negative.astype(np.float64)))
  average = decay * math.exp(before) + (1 - decay) * mean
  np.testing.assert_allclose(ascent[0], np.full((5, 3), 1 / 15), rtol=1e-5)
  np.testing.assert_allclose(
    ascent[1], -np.exp(negative) / 15 / average, rtol=1e-5
  )
  # Of the first batch, and without memory, it is that of the bound itself.
  for log_average, weight in ((-jnp.inf, 0.9), (0.7, 0.0)):
    first = jax.grad(
      lambda n, a=log_average, w=weight: bounds.mine(
        positive, n, jnp.float32(a), decay=w
      )[0]
    )(negative)
    expected = jax.grad(lambda n: bounds.donsker_varadhan(positive, n))(
      negative
    )
    np.testing.assert_allclose(first, expected, rtol=1e-5)


def test_mine_checks_its_decay():
  with pytest.raises(
    ValueError, match=r'decay is 1, but it must be in \[0, 1\)'
  ):
    bounds.mine(jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.zeros(()), decay=1)


def test_tuba_joins_nwj_and_forgives_a_shift_of_each_anchor():
  scores = exact_scores(2.0)[0]
  positive, negative, where = bounds.split_pairs(scores[:, :, None])
  ones = jnp.ones(64)
  np.testing.assert_allclose(
    bounds.tuba(positive, negative, ones, where),
    bounds.nwj(positive, negative, where),
    rtol=1e-5,
  )
  shift = np.random.default_rng(0).normal(size=64).astype(np.float32)
  np.testing.assert_allclose(
    bounds.tuba(
      positive + shift[:, None], negative + shift[:, None], shift, where
    ),
    bounds.jsd_nwj(positive, negative, where),
    rtol=1e-4,
  )


def by_loops(positive, negative, log_baseline, alpha):
  """The definition, in NumPy, with one negative left out beside a positive."""
  joint, independent = [], []
  for p, n, a in zip(positive, negative, np.exp(log_baseline), strict=True):
    count = len(n)
    mean = np.mean(np.exp(n))
    for score in p:
      m = (np.exp(score) + (count - 1) * mean) / count
      joint.append(score - np.log(alpha * m + (1 - alpha) * a))
    independent.append(mean / (alpha * mean + (1 - alpha) * a))
  return 1 + np.mean(joint) - np.mean(independent)


@pytest.mark.parametrize('alpha', [0.0, 0.01, 0.5, 1.0])
def test_interpolated_equals_its_definition(alpha):
  rng = np.random.default_rng(0)
  positive, negative = rng.normal(size=(6, 2)), rng.normal(size=(6, 5))
  baseline = rng.normal(size=6)
  given = [jnp.float32(x) for x in (positive, negative, baseline)]
  value = bounds.interpolated(*given, alpha=alpha)
  np.testing.assert_allclose(
    value, by_loops(positive, negative, baseline, alpha), rtol=1e-5
  )
  gradient = jax.grad(
    lambda n: bounds.interpolated(given[0], n, given[2], alpha=alpha)
  )(given[1])
  step = 1e-5
  moved = negative.copy()
  moved[2, 3] += step
  difference = by_loops(positive, moved, baseline, alpha) - by_loops(
    positive, negative, baseline, alpha
  )
  np.testing.assert_allclose(gradient[2, 3], difference / step, rtol=1e-2)


def test_interpolated_ends_at_its_ceiling():
  # A critic that tells every pair: ln(K / alpha) of 8 pairs.
  positive, negative = jnp.full((4, 1), 50.0), jnp.full((4, 8), -50.0)
  for alpha in (0.1, 1.0):
    value = bounds.interpolated(positive, negative, jnp.zeros(4), alpha=alpha)
    # Nothing is subtracted where the negatives' mean is nothing beside a = 1.
    left = 1 - float(alpha == 1.0)
    np.testing.assert_allclose(value, math.log(8 / alpha) + left, rtol=1e-5)
  with pytest.raises(ValueError, match=r'alpha is 1.5'):
    bounds.interpolated(positive, negative, jnp.zeros(4), alpha=1.5)


def test_interpolated_keeps_below_the_truth():
  # E over batches of a lower bound, with the best baseline, 1.
  for alpha in (0.1, 0.5, 0.9):
    values = np.asarray(
      jax.vmap(
        lambda s, alpha=alpha: bounds.interpolated(
          *bounds.split_pairs(s[:, :, None])[:2],
          jnp.zeros(64),
          bounds.split_pairs(s[:, :, None])[2],
          alpha=alpha,
        )
      )(exact_scores(6.0))
    )
    error = values.std() / math.sqrt(BATCHES)
    assert values.mean() < 6.0 + 3 * error
    # InfoNCE has 3.74 of the 6 nats.
    assert values.mean() > 3.74 - 3 * error


def test_club_of_the_exact_conditional_is_its_closed_form():
  # E_p[ln q] - E_q[ln q] of y | x ~ N(rho x, 1 - rho^2): the squared distance
  # is 1 - rho^2 of joint pairs and 1 + rho^2 of independent ones.
  rho = 0.6
  rng = np.random.default_rng(0)
  x, e = rng.standard_normal((2, 2000))
  y = rho * x + math.sqrt(1 - rho**2) * e
  scores = -((y[None, :] - rho * x[:, None]) ** 2) / (2 * (1 - rho**2))
  value = bounds.club(*bounds.split_pairs(jnp.float32(scores)[:, :, None]))
  expected = rho**2 / (1 - rho**2)
  assert expected > -math.log(1 - rho**2) / 2
  # Its standard error: that of rho x y / (1 - rho^2), roughly 0.94 / sqrt(N).
  np.testing.assert_allclose(value, expected, atol=3 * 0.94 / math.sqrt(2000))


def test_difference_of_entropies_of_exact_models_is_pointwise_information():
  rho = 0.6
  rng = np.random.default_rng(1)
  x, e = rng.standard_normal((2, 4000))
  y = rho * x + math.sqrt(1 - rho**2) * e
  value = bounds.difference_of_entropies(
    jnp.float32(stats.norm.logpdf(y, rho * x, math.sqrt(1 - rho**2))),
    jnp.float32(stats.norm.logpdf(y)),
  )
  # Pointwise information of one Gaussian pair has standard deviation rho.
  np.testing.assert_allclose(
    value, -math.log(1 - rho**2) / 2, atol=3 * rho / math.sqrt(4000)
  )
