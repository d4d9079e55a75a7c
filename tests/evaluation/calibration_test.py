"""Tests of calibration and detection, against loops and by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from dim_jax.evaluation import calibration


def _predictions(n=200, classes=4, samples=3, seed=0):
  random = np.random.default_rng(seed)
  logits = 2 * random.normal(size=[samples, n, classes])
  p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
  return p.astype(np.float32), random.integers(0, classes, [n])


def test_ece_by_hand():
  p = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.45, 0.55]])
  # Confidences .9 (right) and .8 (wrong), then .6 (right) and .55 (wrong).
  labels = np.array([0, 1, 1, 0])
  result = calibration.reliability(p, labels, bins=4)
  np.testing.assert_allclose(result.edges, [0, 0.25, 0.5, 0.75, 1])
  np.testing.assert_array_equal(result.examples, [0, 0, 2, 2])
  np.testing.assert_allclose(result.confidence, [np.nan] * 2 + [0.575, 0.85])
  np.testing.assert_allclose(result.accuracy, [np.nan] * 2 + [0.5, 0.5])
  expected = 0.5 * 0.075 + 0.5 * 0.35
  assert result.ece == pytest.approx(expected)
  # One bin: the difference of the means.
  assert calibration.reliability(p, labels, bins=1).ece == pytest.approx(
    0.7125 - 0.5
  )


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_bin_holds_its_upper_edge(dtype):
  for bins in (10, 15):
    for k in range(math.ceil(bins / 2), bins + 1):
      top = k / bins
      p = np.array([[top, 1 - top]], dtype)
      result = calibration.reliability(p, np.array([0]), bins=bins)
      assert np.flatnonzero(result.examples) == [k - 1]
      if k == bins:
        continue
      above = np.nextafter(dtype(top), dtype(2))
      p = np.array([[above, 1 - above]], dtype)
      result = calibration.reliability(p, np.array([0]), bins=bins)
      assert np.flatnonzero(result.examples) == [k]


def test_ece_equals_a_loop_over_bins():
  samples, labels = _predictions()
  p = samples.mean(axis=0)
  confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
  expected = 0.0
  for b in range(15):
    inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
    if inside.any():
      gap = abs(right[inside].mean() - confidence[inside].mean(dtype=float))
      expected += inside.mean() * gap
  assert calibration.reliability(p, labels).ece == pytest.approx(
    expected, abs=1e-7
  )


def test_a_calibrated_classifier_has_a_small_error():
  random = np.random.default_rng(1)
  p = random.dirichlet([1, 1, 1], size=20_000)
  labels = (p.cumsum(axis=1) < random.uniform(size=[len(p), 1])).sum(axis=1)
  # About sqrt(2 / pi * 0.25 / n) a bin.
  assert calibration.reliability(p, labels).ece < 0.02
  sharper = p**3 / np.sum(p**3, axis=1, keepdims=True)
  assert calibration.reliability(sharper, labels).ece > 0.1


def test_nll_equals_scikit_learn():
  samples, labels = _predictions()
  p = samples.mean(axis=0).astype(np.float64)
  p /= p.sum(axis=1, keepdims=True)
  expected = metrics.log_loss(labels, p, labels=range(4))
  assert calibration.nll(p, labels) == pytest.approx(expected)
  assert calibration.nll(
    jnp.asarray(p, jnp.bfloat16), jnp.asarray(labels)
  ) == pytest.approx(expected, rel=0.01)


def test_nll_of_impossible_labels_is_finite():
  p = np.array([[1.0, 0.0], [0.5, 0.5]], np.float32)
  result = calibration.nll(p, np.array([1, 0]))
  assert result == pytest.approx((126 * math.log(2) + math.log(2)) / 2)
  sure = calibration.nll(p[:1], np.array([0]))
  assert sure == 0 and math.copysign(1, sure) == 1


def test_brier_sums_over_classes():
  p = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
  result = calibration.brier(p, np.array([0, 1]))
  assert result == pytest.approx((0.09 + 0.04 + 0.01 + 2) / 2)
  two = np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]])
  labels = np.array([0, 0, 1])
  # Scikit-learn's score of two classes looks at one of them.
  expected = 2 * metrics.brier_score_loss(labels, two[:, 1])
  assert calibration.brier(two, labels) == pytest.approx(expected)


def test_scores_by_hand():
  # Both samples sure, and of different classes; both unsure; both agree.
  p = np.array([[[1, 0], [0.5, 0.5], [1, 0]], [[0, 1], [0.5, 0.5], [1, 0]]])
  result = calibration.scores(p, np.array([1.0, 2, 3]))
  assert list(result) == ['entropy', 'max_prob', 'mutual_information', 'rate']
  ln2 = math.log(2)
  np.testing.assert_allclose(result['entropy'], [ln2, ln2, 0])
  np.testing.assert_allclose(result['max_prob'], [0.5, 0.5, 0])
  np.testing.assert_allclose(result['mutual_information'], [ln2, 0, 0])
  np.testing.assert_array_equal(result['rate'], [1, 2, 3])
  assert 'rate' not in calibration.scores(p)


def test_mutual_information_is_a_mean_divergence():
  samples, _ = _predictions()
  p = samples.astype(np.float64)
  expected = np.sum(p * np.log(p / p.mean(axis=0)), axis=2).mean(axis=0)
  result = calibration.scores(samples)['mutual_information']
  np.testing.assert_allclose(result, expected, atol=1e-6)
  alone = calibration.scores(samples[:1])['mutual_information']
  np.testing.assert_array_equal(alone, 0)
  # Rounding does not take it below zero.
  same = np.repeat(samples[:1], 12, axis=0)
  assert (calibration.scores(same)['mutual_information'] >= 0).all()


def test_combined_is_a_sum_of_standard_scores():
  samples, _ = _predictions()
  random = np.random.default_rng(3)
  rate = random.gamma(3, 4, [200])
  result = calibration.reference(samples, rate)
  entropy = calibration.scores(samples)['entropy']
  np.testing.assert_allclose(
    result, [rate.mean(), rate.std(), entropy.mean(), entropy.std()]
  )
  combined = calibration.scores(samples, rate, reference=result)['combined']
  assert combined.mean() == pytest.approx(0, abs=1e-9)
  others, _ = _predictions(50, seed=5)
  other = calibration.scores(others, rate[:50] + 10, reference=result)
  np.testing.assert_allclose(
    other['combined'],
    (rate[:50] + 10 - result.rate_mean) / result.rate_std
    + (other['entropy'] - result.entropy_mean) / result.entropy_std,
  )
  constant = calibration.reference(
    np.tile(samples[:, :1], [1, 5, 1]), [2.0] * 5
  )
  constant = constant._replace(rate_std=0.0, entropy_std=0.0)
  assert np.isfinite(
    calibration.scores(others, rate[:50], reference=constant)['combined']
  ).all()


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('sizes', [(300, 100), (37, 211), (1, 1), (2, 40)])
def test_detection_equals_a_loop_over_thresholds(ties, sizes):
  random = np.random.default_rng(sum(sizes))
  inside = random.normal(size=sizes[0])
  outside = random.normal(0.8, 1.5, size=sizes[1])
  if ties:
    inside, outside = np.round(inside), np.round(outside)
  result = calibration.detection(inside, outside)
  above = outside[:, None] > inside[None]
  equal = outside[:, None] == inside[None]
  assert result['auroc'] == pytest.approx(np.mean(above + equal / 2))
  aupr, recall, fpr95 = 0.0, 0.0, None
  for threshold in np.unique(np.concatenate([inside, outside]))[::-1]:
    true, false = np.sum(outside >= threshold), np.sum(inside >= threshold)
    aupr += true / (true + false) * (true / sizes[1] - recall)
    recall = true / sizes[1]
    if fpr95 is None and 20 * true >= 19 * sizes[1]:
      fpr95 = false / sizes[0]
  assert result['aupr'] == pytest.approx(aupr)
  assert result['fpr95'] == pytest.approx(fpr95)


def test_detection_by_hand():
  result = calibration.detection([0, 1, 2], [3, 4])
  assert result == {'auroc': 1, 'aupr': 1, 'fpr95': 0}
  result = calibration.detection([3, 4], [0, 1, 2])
  assert result['auroc'] == 0 and result['fpr95'] == 1
  # All scores are equal.
  result = calibration.detection([1, 1, 1], [1])
  assert result == {'auroc': 0.5, 'aupr': 0.25, 'fpr95': 1}
  # 19 of 20 outliers are exactly 95 %: the last one may be missed.
  outside = np.arange(20.0)
  result = calibration.detection([0.5, -1], outside)
  assert result['fpr95'] == 0
  assert result['auroc'] == pytest.approx(39 / 40)
  # An infinite rate is the highest score.
  assert calibration.detection([0, 1], [np.inf])['auroc'] == 1


@pytest.mark.parametrize(
  ('p', 'labels', 'message'),
  [
    ([0.5, 0.5], [0], r'\[N, C\].*\(2,\)'),
    (np.zeros([0, 2]), np.zeros([0], int), r'\(0, 2\)'),
    ([[0.5, 0.6]], [0], 'sum to 1.*1.1'),
    ([[1.5, -0.5]], [0], r'in \[0, 1\].*-0.5 to 1.5'),
    ([[np.nan, 0.5]], [0], 'nan'),
    ([[0.5, 0.5]], [2], r'labels must be in 0\.\.1, got 2'),
    ([[0.5, 0.5]], [-1], r'labels must be in 0\.\.1, got -1'),
    ([[0.5, 0.5]], [0, 1], r'integers of shape \(1,\)'),
    ([[0.5, 0.5]], [0.0], 'float64'),
  ],
)
def test_mistakes_are_named(p, labels, message):
  for measure in (calibration.reliability, calibration.nll, calibration.brier):
    with pytest.raises(ValueError, match=message):
      measure(np.asarray(p), np.asarray(labels))


def test_more_mistakes_are_named():
  p = np.array([[0.5, 0.5]])
  for bins in (0, 2.0, True):
    with pytest.raises(ValueError, match='bins'):
      calibration.reliability(p, np.array([0]), bins=bins)
  with pytest.raises(ValueError, match=r'in \[0, 1\]'):
    calibration.nll(np.log(p), np.array([0]))
  with pytest.raises(ValueError, match=r'\[S, N, C\]'):
    calibration.scores(p)
  with pytest.raises(ValueError, match=r'rate.*\(1,\).*\(2,\)'):
    calibration.scores(p[None], [1.0, 2.0])
  with pytest.raises(ValueError, match='1 of it not finite'):
    calibration.scores(p[None], [np.nan])
  with pytest.raises(ValueError, match='in_scores must be'):
    calibration.detection([], [1.0])
  with pytest.raises(ValueError, match='out_scores must be'):
    calibration.detection([1.0], [[1.0]])
  with pytest.raises(ValueError, match='out_scores holds 1 NaN'):
    calibration.detection([1.0], [1.0, np.nan])
