"""The staircase: its pairs, its critics, what is read, and that it goes on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from dim_jax.data import pairs
from dim_jax.losses import bounds
from dim_jax.runs import staircase

SMALL = staircase.Protocol(
  steps=4, batch_size=6, size=3, units=8, embedding=4, baseline_units=8
)


def batch():
  x, y = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
  return x, y


def scored(scores, side=None):
  side = jnp.zeros(len(scores)) if side is None else side
  split = bounds.split_pairs(jnp.float32(scores)[:, :, None])
  return staircase.Scored(split, side, jnp.float32(-jnp.inf))


def test_pairs_share_what_they_should():
  many = staircase.Protocol(batch_size=4000)
  x, y = staircase.sample(jax.random.key(0), 4.0, False, many)
  task = pairs.find('staircase_4')
  values = task.pointwise(np.asarray(x, float), np.asarray(y, float))
  # The variance of pointwise information is the sum of rho^2, and
  # rho^2 = 1 - e^(-2 * 4 / 20).
  std = math.sqrt(20 * (1 - math.exp(-0.4)))
  assert abs(values.mean() - 4) < 3 * std / math.sqrt(4000)
  np.testing.assert_allclose(values.std(), std, rtol=0.1)
  same, cubes = staircase.sample(jax.random.key(0), 4.0, True, many)
  np.testing.assert_array_equal(same, x)
  np.testing.assert_allclose(np.cbrt(cubes), y, rtol=1e-5)


def test_nothing_is_shared_at_zero_nats():
  # y is the noise alone, whatever x.
  x, y = staircase.sample(
    jax.random.key(0), 0.0, False, staircase.Protocol(batch_size=1000)
  )
  correlations = np.corrcoef(x, y, rowvar=False)[:20, 20:]
  # 400 of them, each with a standard error of 1 / sqrt(1000).
  assert np.abs(correlations).max() < 5 / math.sqrt(1000)


def relu(z):
  return np.maximum(z, 0)


def test_the_joint_critic_is_an_mlp_of_the_concatenation():
  params = staircase.init('joint', 'infonce', SMALL, 0).params
  x, y = batch()
  layers = jax.tree.map(np.asarray, params['params'])
  z = np.array([[np.hstack([b, a]) for a in x] for b in y])
  z = relu(z @ layers['kernel'] + layers['bias'])
  for name in ('fc_1', 'fc_2'):
    z = relu(z @ layers[name]['kernel'] + layers[name]['bias'])
  # Three hidden layers, and no more.
  assert set(layers) == {'kernel', 'bias', 'fc_1', 'fc_2', 'score'}
  assert layers['kernel'].shape == (6, 8)
  expected = (z @ layers['score']['kernel'] + layers['score']['bias'])[:, :, 0]
  scores = staircase.scores('joint', params, x, y, SMALL)
  np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def by_hand(layers, z):
  for i, layer in enumerate(layers):
    z = (relu(z) if i else z) @ layer['kernel'] + layer['bias']
  return z


def test_the_separable_critic_is_a_product_of_two_mlps():
  params = staircase.init('separable', 'infonce', SMALL, 0).params
  x, y = batch()
  scores = staircase.scores('separable', params, x, y, SMALL)
  # Row 2 is y, column 4 is x.
  expected = by_hand(params['y'], y[2]) @ by_hand(params['x'], x[4])
  np.testing.assert_allclose(scores[2, 4], expected, rtol=1e-5)
  shapes = [layer['kernel'].shape for layer in params['x']]
  assert shapes == [(3, 8), (8, 8), (8, 8), (8, 4)]


def test_the_conditional_model_scores_log_densities():
  params = staircase.init('conditional', 'likelihood', SMALL, 0).params
  x, y = batch()
  scores = staircase.scores('conditional', params, x, y, SMALL)
  out = by_hand(params['conditional'], x[4])
  expected = stats.norm.logpdf(y[2], out[:3], np.exp(out[3:])).sum()
  np.testing.assert_allclose(scores[2, 4], expected, rtol=1e-5)


def test_readings_of_a_critic_that_jsd_trained():
  rng = np.random.default_rng(1)
  scores = rng.normal(size=(5, 5)) * 3
  joint, off = np.diagonal(scores), scores[~np.eye(5, dtype=bool)]

  def log_mean(values):
    return special.logsumexp(values) - math.log(20)

  expected = {
    'jsd_nwj': 1 + joint.mean() - np.exp(off).mean(),
    'jsd_nwj_unshifted': joint.mean() - np.exp(off - 1).mean(),
    'jsd_donsker_varadhan': joint.mean() - log_mean(off),
    'jsd_smile_1': joint.mean() - log_mean(np.clip(off, -1, 1)),
    'jsd_smile_5': joint.mean() - log_mean(np.clip(off, -5, 5)),
  }
  readings = staircase.METHODS['jsd'].readings
  assert readings.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(
      readings[name](scored(scores)), value, rtol=1e-4, err_msg=name
    )


def test_readings_with_a_side_and_of_densities():
  scores = np.random.default_rng(2).normal(size=(4, 4))
  side = jnp.float32([0.1, -0.4, 0.3, 0.8])
  joint, off = np.diagonal(scores), ~np.eye(4, dtype=bool)
  of = staircase.METHODS['likelihood'].readings
  read = scored(scores, side)
  np.testing.assert_allclose(
    of['difference_of_entropies'](read), joint.mean() - 0.2, rtol=1e-5
  )
  np.testing.assert_allclose(
    of['club'](read), joint.mean() - scores[off].mean(), rtol=1e-5
  )
  # Baselines are of rows.
  shifted = scores - np.asarray(side)[:, None]
  expected = 1 + np.diagonal(shifted).mean() - np.exp(shifted[off]).mean()
  tuba = staircase.METHODS['tuba'].readings['tuba'](read)
  np.testing.assert_allclose(tuba, expected, rtol=1e-5)


def test_only_the_regularised_bound_has_a_maximum():
  # T is c on a set that holds 1 in 4 of the positives, and a negative of 1 in 8
  # batches: the mean over batches grows as c (1/4 - 1/8) without end. Less
  # 0.1 (c - ln 12)^2 / 8 it falls beyond c = ln 12 + 5 (1/4 - 1/8) * 8 = 7.5.

  def mean_over_batches(method, c):
    values = []
    for k in range(8):
      scores = np.zeros((4, 4))
      scores[0, 0] = c
      scores[1, 2] = c if k == 0 else 0
      values.append(staircase.METHODS[method].objective(scored(scores))[0])
    return float(np.mean(values))

  plain, regularised = (
    [mean_over_batches(m, c) for c in (8.0, 50.0, 100.0)]
    for m in ('donsker_varadhan_unregularised', 'donsker_varadhan')
  )
  # 50 / 8 more, exactly up to what ln(11 + e^c) lacks.
  np.testing.assert_allclose(plain[2] - plain[1], 50 / 8, rtol=1e-3)
  assert regularised[0] > regularised[1] > regularised[2]
  read = staircase.METHODS['donsker_varadhan'].readings['donsker_varadhan']
  scores = scored(np.eye(4))
  np.testing.assert_allclose(read(scores), 1.0, rtol=1e-6)


def test_a_summary_is_of_the_second_half_of_each_level():
  curve = np.array([[9, 9, 1, 3], [7, 7, 2, 8]], np.float32)
  first, second = staircase.summary(curve, [0.5, 1.0])
  assert first == {'truth': 0.5, 'mean': 2.0, 'std': 1.0, 'median': 2.0}
  assert second == {'truth': 1.0, 'mean': 5.0, 'std': 3.0, 'median': 5.0}


def test_an_interrupted_climb_ends_bitwise_the_same(tmp_path):
  levels, path = [0.5, 1.0, 2.0], str(tmp_path / 'curve.npz')
  whole = staircase.train('separable', 'mine', levels, SMALL)

  def interrupt(steps):
    if steps == 2 * SMALL.steps:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    staircase.train(
      'separable', 'mine', levels, SMALL, path=path, update=interrupt
    )
  reports = []
  continued = staircase.train(
    'separable', 'mine', levels, SMALL, path=path, update=reports.append
  )
  assert reports == [8, 12]
  assert whole['mine'].shape == (3, 4)
  np.testing.assert_array_equal(continued['mine'], whole['mine'])
  again = staircase.train('separable', 'mine', levels, SMALL, path=path)
  np.testing.assert_array_equal(again['mine'], whole['mine'])


def test_training_comes_near_the_best_critic():
  protocol = staircase.Protocol(
    steps=600, size=1, units=32, embedding=8, learning_rate=5e-3
  )
  curves = staircase.train('separable', 'infonce', [0.0, 1.0], protocol)
  nothing, something = staircase.summary(curves['infonce'], [0.0, 1.0])
  assert abs(nothing['mean']) < 0.05
  # InfoNCE of the exact ln r on the same kind of batches.
  rho = math.sqrt(1 - math.exp(-2))
  rng = np.random.default_rng(0)
  x, e = rng.standard_normal((2, 300, 64))
  y = rho * x + math.sqrt(1 - rho**2) * e
  squares = x[:, None, :] ** 2 + y[:, :, None] ** 2
  products = rho * x[:, None, :] * y[:, :, None]
  scores = 1 + (products - rho**2 * squares / 2) / (1 - rho**2)
  joint = np.diagonal(scores, axis1=1, axis2=2)
  best = np.mean(joint - special.logsumexp(scores, axis=2)) + math.log(64)
  # Of 300 batches each, with the standard deviation of one: 0.008.
  error = 4 * something['std'] * math.sqrt(2 / 300)
  assert best - 0.1 < something['mean'] < best + error


def test_arguments_are_checked():
  with pytest.raises(ValueError, match='of a conditional critic must be one'):
    staircase.train('conditional', 'infonce', [1.0], SMALL)
  with pytest.raises(ValueError, match=r"critic must be one of .* got 'both'"):
    staircase.methods_of('both')
  with pytest.raises(ValueError, match='a level must be >= 0, got -1'):
    staircase.train('joint', 'infonce', [-1.0], SMALL)
