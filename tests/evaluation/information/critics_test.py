"""Critics: what they report, its error, and what padding does (nothing)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.data import pairs
from dim_jax.evaluation.information import critics, fit
from dim_jax.losses import bounds


def exact_scores(x, y):
  """ln r of all pairs of 'normal' (rho 0.75), [n, n]."""
  rho = 0.75
  xx, yy = x, y.T
  scores = (rho * xx * yy - rho**2 * (xx**2 + yy**2) / 2) / (1 - rho**2)
  return scores - math.log(1 - rho**2) / 2


def test_normalised_scores_have_unit_means_and_forget_shifts():
  rng = np.random.default_rng(0)
  x, y = pairs.find('normal').sample(rng, 300)
  scores = exact_scores(x, y)
  shifted = scores + rng.normal(size=(300, 1)) + rng.normal(size=(1, 300))
  padded = np.full((320, 320), 7.0, np.float32)
  padded[:300, :300] = shifted
  rows, columns = jax.jit(critics.normalised)(padded, jnp.int32(300))
  np.testing.assert_array_equal(rows[300:], 0)
  np.testing.assert_array_equal(columns[300:], 0)
  ratios = np.exp(shifted + rows[:300, None] + columns[None, :300])
  np.testing.assert_allclose(ratios.mean(1), 1, atol=1e-4)
  # The rows came last.
  np.testing.assert_allclose(ratios.mean(0), 1, atol=4e-3)
  # The exact critic's mean, from scores that were shifted by N(0, 1).
  value = np.mean(np.diagonal(shifted) + rows[:300] + columns[:300])
  assert value == pytest.approx(np.diagonal(scores).mean(), abs=0.01)


def random_critic(name, columns=(2, 3)):
  """A critic with random parameters whose scores vary by about one nat."""
  params = critics.CRITICS[name].init(
    jax.random.key(0), ((4,), (4,)), tuple(map(jnp.float32, columns))
  )
  if name == 'separable':
    return params | {'x': params['x'] | {'out': 20.0 * params['x']['out']}}
  return params | {'out': 5.0 * params['out']}


def split_of(rng, n, rows):
  """`n` dependent pairs of 2 and 3 columns, padded to `rows` and 4 columns."""
  z = rng.normal(size=(n, 4))
  x, y = z[:, :2], np.hstack([z[:, :1] + z[:, 2:3], z[:, 2:]])
  shapes = ((0, rows - n), (0, 2)), ((0, rows - n), (0, 1))
  sides = (
    jnp.asarray(np.pad(side, shape), jnp.float32)
    for side, shape in zip((x, y), shapes, strict=True)
  )
  return fit.Split(*sides, jnp.int32(n))


@pytest.mark.parametrize('name', critics.CRITICS)
def test_padding_and_the_pairs_themselves(name):
  critic, params = critics.CRITICS[name], random_critic(name)
  split = split_of(np.random.default_rng(0), 90, 90)
  padded = split_of(np.random.default_rng(0), 90, 128)
  run = jax.jit(critic.measure)
  values, influence, state = run(params, *split)
  more, more_influence, _ = run(params, *padded)
  np.testing.assert_allclose(more[:90], values, atol=2e-4)
  np.testing.assert_allclose(more_influence[:90], influence, atol=2e-3)
  # As other pairs, they get what they got as these.
  again = jax.jit(critic.pointwise)(params, state, split.x, split.y)
  np.testing.assert_allclose(again, values, atol=2e-3)


@pytest.mark.parametrize('name', critics.PAIR_CRITICS)
def test_standard_error_is_the_spread_of_samples(name):
  params, rng = random_critic(name), np.random.default_rng(0)
  splits = [split_of(rng, 200, 200) for _ in range(200)]
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *splits)
  values, influences = jax.jit(
    lambda splits: jax.lax.map(
      lambda split: fit.measured(name, params, split)[:2], splits
    )
  )(stacked)
  errors = np.std(influences, axis=1) / math.sqrt(200)
  # A standard deviation of 200 draws is known to 5 %; its small-sample bias
  # and that of the linearisation are of order 1/200.
  assert np.std(values) == pytest.approx(float(errors.mean()), rel=0.2)
  assert errors.mean() > 0.01


def test_total_correlation_of_the_exact_critic(monkeypatch):
  # x and its copy with noise, correlation 0.75: -ln(1 - 0.75^2) / 2 nats, and
  # a third column, independent, which the critic does not look at.
  monkeypatch.setattr(
    critics,
    '_tower',
    lambda params, x: jnp.diagonal(exact_scores(x[:, :1], x[:, 1:2]))[:, None],
  )
  truth = -math.log(1 - 0.75**2) / 2
  values, errors = [], []
  measure = jax.jit(critics.CRITICS['columns'].measure)
  for seed in range(40):
    rng = np.random.default_rng(seed)
    x, y = pairs.find('normal').sample(rng, 450)
    rows = np.hstack([x, y, rng.normal(size=(450, 1))])
    rows = np.pad(rows, ((0, 62), (0, 1))).astype(np.float32)
    of_rows, influence, _ = measure({}, rows, rows, jnp.int32(450))
    values.append(of_rows[:450].mean())
    errors.append(influence[:450].std() / math.sqrt(450))
  # Forty means, each with that error.
  of_mean = float(np.mean(errors)) / math.sqrt(40)
  assert np.mean(values) == pytest.approx(truth, abs=3 * of_mean)
  # A standard deviation of 40 draws is known to 11 %.
  assert np.std(values) == pytest.approx(float(np.mean(errors)), rel=0.35)


def test_much_total_correlation_of_the_exact_critic(monkeypatch):
  # Ten columns of which any two are correlated by 0.5.
  covariance = np.full((10, 10), 0.5) + 0.5 * np.eye(10)
  quadratic = np.linalg.inv(covariance) - np.eye(10)
  truth = -np.linalg.slogdet(covariance)[1] / 2

  def exact(params, x):
    del params
    squares = jnp.einsum('ni,ij,nj->n', x, quadratic, x)
    return truth - squares[:, None] / 2

  monkeypatch.setattr(critics, '_tower', exact)
  measure = jax.jit(critics.CRITICS['columns'].measure)
  factor = np.linalg.cholesky(covariance)
  differences = []
  for seed in range(16):
    rows = np.random.default_rng(seed).normal(size=(1000, 10)) @ factor.T
    rows = rows.astype(np.float32)
    found, _, _ = measure({}, rows, rows, jnp.int32(1000))
    differences.append(float(np.mean(found - exact({}, rows)[:, 0])))
  # Ratios of torn rows reach thousands: were a row's own score one of 1,000 of
  # them and not of 64,000, the mean would be 0.3 nats too low.
  error = np.std(differences) / 4
  assert np.mean(differences) == pytest.approx(0, abs=0.1 + 2 * error)
  assert error < 0.05


def test_joint_value_is_donsker_varadhans_over_its_shifts():
  params = random_critic('joint')
  split = split_of(np.random.default_rng(0), 200, 200)
  values, _, _ = jax.jit(critics.CRITICS['joint'].measure)(params, *split)

  def scores(x, y):
    return critics._joint_scores(params, x @ params['x'] + y @ params['y'])

  # 128 shifts from 1 to 199, as spread over the split.
  shifts = [1 + k * 199 // 128 for k in range(128)]
  negative = jnp.stack(
    [scores(split.x, jnp.roll(split.y, -s, 0)) for s in shifts], 1
  )
  positive = scores(split.x, split.y)[:, None]
  expected = bounds.donsker_varadhan(positive, negative)
  np.testing.assert_allclose(values.mean(), expected, rtol=1e-4)


def test_separable_bound_is_infonce_both_ways():
  params = random_critic('separable')
  split = split_of(np.random.default_rng(0), 50, 50)
  scores = critics._all_scores(params, split.x, split.y)
  value = critics.CRITICS['separable'].bound(
    params, split.x, split.y, 'infonce'
  )
  both = [
    bounds.infonce(*bounds.split_pairs(s[:, :, None]))
    for s in (scores, scores.T)
  ]
  np.testing.assert_allclose(value, np.mean(both), atol=2e-6)


def test_scores_may_span_more_than_an_exponential_can():
  # exp underflows 87 nats below the maximum of a batch.
  params = random_critic('separable')
  out = {'out': 1e4 * params['x']['out']}
  params |= {'x': params['x'] | out}
  split = split_of(np.random.default_rng(0), 50, 50)
  scores = critics._all_scores(params, split.x, split.y)
  assert np.ptp(scores) > 200
  bound = critics.CRITICS['separable'].bound
  value, gradient = jax.value_and_grad(bound)(
    params, split.x, split.y, 'infonce'
  )
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_sizes_of_padding():
  x = np.zeros((1100, 5))
  split = fit.pad(x, x[:, :2])
  # An eighth of 2048 is 256: five of them. Columns: 8, and 4 at least.
  assert split.x.shape == (1280, 8)
  assert split.y.shape == (1280, 4)
  assert split.size == 1100
