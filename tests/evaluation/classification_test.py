"""Errors and information against hand-made predictions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.evaluation import classification

# Two samples of three images over two classes, as probabilities of class 1.
P = np.array([[0.9, 0.2, 0.6], [0.6, 0.6, 0.3]])
LABELS = np.array([1, 0, 1])


def predictions(rate=None):
  logits = np.log(np.stack([1 - P, P], -1)).astype(np.float32)
  return classification.Predictions(logits, logits[0], rate)


def test_summary_by_hand():
  result = classification.summary(
    predictions(rate=np.array([1.0, 2.0, 3.0])), LABELS
  )
  # Sample 0 is right about all; sample 1 about image 0 alone. The averages
  # 0.75, 0.4, 0.45 are wrong about image 2.
  assert result['error_1'] == pytest.approx(100 * 2 / 6)
  assert result['error_2'] == pytest.approx(100 / 3)
  assert result['error_mean'] == 0
  right = np.array([[0.9, 0.8, 0.6], [0.6, 0.4, 0.3]])
  bits = -np.log2(right).mean()
  entropy = -(np.log2(1 / 3) / 3 + 2 * np.log2(2 / 3) / 3)
  assert result['cross_entropy_bits'] == pytest.approx(bits, rel=1e-5)
  assert result['label_entropy_bits'] == pytest.approx(entropy, rel=1e-6)
  assert result['izy_bits'] == pytest.approx(entropy - bits, rel=1e-4)
  assert result['rate_bits'] == pytest.approx(2 / np.log(2))
  nll = -np.log([0.75, 0.6, 0.45]).mean()
  assert result['nll_2'] == pytest.approx(nll, rel=1e-5)
  # Both classes: 2 (1 - p)^2.
  brier = 2 * np.mean([0.25**2, 0.4**2, 0.55**2])
  assert result['brier'] == pytest.approx(brier, rel=1e-5)
  assert classification.summary(predictions(), LABELS)['rate_bits'] is None


def test_predict_pads_keeps_the_order_and_compiles_once():
  traces = []

  def logits(variables, images, rng):
    traces.append(images.shape)
    shift = jax.random.normal(rng, (3, 1, 1))
    score = images.astype(jnp.float32).mean((1, 2)) * variables
    return score[None] + shift

  def at_mean(variables, images, rng):
    return (images.astype(jnp.float32).mean((1, 2)) * variables)[None]

  def rate(variables, images, rng):
    return images[:, 0, 0, 0].astype(jnp.float32)

  random = np.random.default_rng(0)
  images = random.integers(0, 256, (7, 2, 2, 4), np.uint8)
  done = []
  arguments = (2.0, images, jax.random.key(0))
  result = classification.predict(
    *(logits, at_mean, rate, *arguments), batch_size=3, progress=done.append
  )
  assert result.logits.shape == (3, 7, 4)
  expected = 2 * images.astype(np.float32).mean((1, 2))
  np.testing.assert_allclose(result.at_mean, expected, rtol=1e-6)
  np.testing.assert_array_equal(result.rate, images[:, 0, 0, 0])
  # Each batch of three has noise of its own, shared by its images.
  shift = result.logits - result.at_mean[None]
  np.testing.assert_allclose(shift[:, 0], shift[:, 2], atol=1e-3)
  assert np.abs(shift[:, 0] - shift[:, 3]).max() > 1e-2
  assert done == [3, 6, 7]
  classification.predict(*(logits, at_mean, rate, *arguments), batch_size=3)
  assert traces == [(3, 2, 2, 4)]
  none = classification.predict(
    *(logits, at_mean, None, *arguments), batch_size=7
  )
  assert none.rate is None


def test_wrong_shapes_are_refused():
  with pytest.raises(ValueError, match=r'n >= 1, got \(2, 4\)'):
    classification.predict(*(None, None, None, None, np.zeros((2, 4)), None))


@pytest.mark.parametrize('label', [-1, 2])
def test_labels_outside_are_counted(label):
  for measure in (classification.summary, classification.cross_entropy):
    with pytest.raises(
      ValueError, match=rf'in 0\.\.1, got {label}: 2 of 3 are outside'
    ):
      measure(predictions(), np.array([label, 1, label]))


def test_images_out_of_range_are_counted():
  images = np.zeros((3, 2, 2, 1), np.float32)
  images[1, 0, 0], images[2, 1, 1] = 255, np.nan
  with pytest.raises(ValueError, match=r'in \[-1, 1\]: 2 of 12 values'):
    classification.predict(*(None, None, None, None, images, None))


def test_classifier_score_is_the_exponential_of_the_information():
  # The same of all images: I(X; Y) = 0.
  alike = np.log([[0.7, 0.2, 0.1]] * 4)
  assert classification.classifier_score(alike) == pytest.approx(1)
  # Sure of each, and all three as frequent: I = ln 3. Logits may be huge.
  sure = 1e4 * np.tile(np.eye(3), (2, 1))
  assert classification.classifier_score(sure) == pytest.approx(3)
  # Sure of each, but two classes never come: I = 0.
  assert classification.classifier_score(sure[:1]) == pytest.approx(1)
  # (0.9, 0.1) and (0.1, 0.9): I = ln 2 - H(0.9, 0.1).
  mixed = np.log([[0.9, 0.1], [0.1, 0.9]]) + np.array([[5.0], [-3.0]])
  entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
  assert classification.classifier_score(mixed) == pytest.approx(
    2 * math.exp(-entropy)
  )
