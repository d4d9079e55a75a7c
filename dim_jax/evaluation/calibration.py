"""Whether a classifier knows what it does not know.

Two questions, both about arrays alone. Calibration: do predicted probabilities
agree with how often they are right? Detection: do scores tell examples of
another distribution from those of the training one? All is NumPy in float64.
"""

from typing import Any, NamedTuple

import numpy as np

from dim_jax import checks

# The smallest probability that `nll` takes as it is: float32's smallest normal
# number, below which a stored 0 may be anything. It costs 87.3 nats.
LEAST_PROBABILITY = 2.0**-126


class Reliability(NamedTuple):
  """A reliability diagram of B bins.

  Attributes:
    ece: the expected calibration error, in [0, 1].
    edges: of the bins, [B + 1]; bin b holds edges[b] < confidence <=
      edges[b + 1].
    examples: how many each bin holds, [B].
    confidence: their mean confidence, [B]; NaN where there are none.
    accuracy: the fraction of them predicted right, [B]; NaN likewise.
  """

  ece: float
  edges: np.ndarray
  examples: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray


class Reference(NamedTuple):
  """In-distribution statistics, the unit of a combined score.

  Attributes:
    rate_mean: mean rate, nats.
    rate_std: standard deviation of the rate.
    entropy_mean: mean entropy of the averaged prediction, nats.
    entropy_std: its standard deviation.
  """

  rate_mean: float
  rate_std: float
  entropy_mean: float
  entropy_std: float


def reliability(probabilities: Any, labels: Any, bins: int = 15) -> Reliability:
  """Computes the expected calibration error and the diagram that it sums up.

  Of the most probable class alone (top label; the first of equals). Bins have
  equal width over [0, 1] and hold their upper edge, not their lower one; a
  confidence of 0 would go to the first. The error is the sum over bins of
  |accuracy - confidence|, weighted by the fraction of examples.

  Args:
    probabilities: of the (averaged) prediction, [N, C].
    labels: true classes, integers in 0..C-1, [N].
    bins: how many.

  Returns:
    The error and what each bin holds.

  Raises:
    ValueError: an argument is not as above.

  References:
    Guo et al., "On calibration of modern neural networks", 2017, eq. 3,
    https://arxiv.org/abs/1706.04599
  """
  checks.check_range('bins', bins, 'int [1, inf)')
  p, labels = _checked(probabilities, labels)
  right = np.argmax(p, axis=1) == labels
  top = np.max(p, axis=1)
  edges = np.arange(bins + 1) / bins
  # A float32 that stands for 0.2 is on the edge at 0.2: it is compared with the
  # float32 nearest to it.
  index = np.searchsorted(edges.astype(p.dtype), top, side='left') - 1
  # Rounded probabilities may end a little outside.
  index = np.clip(index, 0, bins - 1)
  count = np.bincount(index, minlength=bins)
  divisor = np.where(count, count, np.nan)
  confidence = np.bincount(index, top.astype(np.float64), bins) / divisor
  accuracy = np.bincount(index, right, bins) / divisor
  ece = float(np.nansum(count * np.abs(accuracy - confidence)) / len(p))
  return Reliability(ece, edges, count, confidence, accuracy)


def nll(probabilities: Any, labels: Any) -> float:
  """Computes the mean negative log-likelihood of the labels, in nats.

  A probability below 2^-126 (about 1e-38, float32's smallest normal number; a
  stored 0 is below) counts as 2^-126, so an example costs at most 87.3 nats and
  the mean is finite. scikit-learn's log_loss stops at 36 nats (16 in float32),
  which flatters a network that is sure of what is wrong.

  Args:
    probabilities: of the (averaged) prediction, [N, C].
    labels: true classes, integers in 0..C-1, [N].

  Returns:
    A number >= 0.

  Raises:
    ValueError: an argument is not as above.
  """
  p, labels = _checked(probabilities, labels)
  own = p[np.arange(len(p)), labels].astype(np.float64)
  # Rounded probabilities may be a little above 1.
  losses = np.maximum(-np.log(np.maximum(own, LEAST_PROBABILITY)), 0.0)
  return float(np.mean(losses))


def brier(probabilities: Any, labels: Any) -> float:
  """Computes the multi-class Brier score: a sum over classes, a mean over rows.

  Of (p - 1)^2 at the label and p^2 elsewhere: twice the score of the two-class
  convention.

  Args:
    probabilities: of the (averaged) prediction, [N, C].
    labels: true classes, integers in 0..C-1, [N].

  Returns:
    A number in [0, 2].

  Raises:
    ValueError: an argument is not as above.
  """
  p, labels = _checked(probabilities, labels)
  error = p.astype(np.float64)
  error[np.arange(len(p)), labels] -= 1
  return float(np.mean(np.sum(np.square(error), axis=1)))


def reference(probabilities: Any, rate: Any) -> Reference:
  """Computes statistics of in-distribution examples, for `scores`.

  Take examples that are not scored afterwards, such as training ones.

  Args:
    probabilities: of each posterior sample, [S, N, C].
    rate: nats of each example, [N].

  Returns:
    Means and (population) standard deviations.

  Raises:
    ValueError: an argument is not as above.
  """
  by_name = scores(probabilities, rate)
  rates, entropies = by_name['rate'], by_name['entropy']
  return Reference(
    float(rates.mean()),
    float(rates.std()),
    float(entropies.mean()),
    float(entropies.std()),
  )


def scores(
  probabilities: Any,
  rate: Any | None = None,
  *,
  reference: Reference | None = None,
) -> dict[str, np.ndarray]:
  """Scores how unlike the training distribution each example looks.

  The higher, the less alike.

  Args:
    probabilities: of each posterior sample, [S, N, C]; S = 1 for a
      deterministic classifier.
    rate: KL(p(z|x) || r(z)) of each example, nats, [N]; None without a code.
    reference: in-distribution statistics, see `reference`.

  Returns:
    For each name, float64 [N]:

    - 'entropy': of the averaged prediction, nats.
    - 'max_prob': 1 - the averaged prediction's largest probability.
    - 'mutual_information': between prediction and code, nats: the entropy of
      the averaged prediction minus the samples' mean entropy. 0 for S = 1;
      rounding below 0 is cut off.
    - 'rate': as given, if given.
    - 'combined': (rate - its mean) / its standard deviation, plus the same of
      the entropy, by the reference's statistics; if both are given. Nothing in
      it is fitted to outliers. A standard deviation of 0 counts as 1.

  Raises:
    ValueError: an argument is not as above.
  """
  p = _checked_probabilities(probabilities, '[S, N, C]').astype(np.float64)
  mean = p.mean(axis=0)
  entropy = _entropy(mean)
  result = {
    'entropy': entropy,
    'max_prob': 1 - mean.max(axis=1),
    'mutual_information': np.maximum(entropy - _entropy(p).mean(axis=0), 0.0),
  }
  if rate is None:
    return result
  rates = np.asarray(rate, np.float64)
  if rates.shape != entropy.shape or not np.isfinite(rates).all():
    raise ValueError(
      f'rate must be finite and of shape {entropy.shape}, got shape '
      f'{rates.shape}, {np.sum(~np.isfinite(rates))} of it not finite.'
    )
  result['rate'] = rates
  if reference is not None:
    result['combined'] = _standard(
      rates, reference.rate_mean, reference.rate_std
    ) + _standard(entropy, reference.entropy_mean, reference.entropy_std)
  return result


def detection(in_scores: Any, out_scores: Any) -> dict[str, float]:
  """Measures how well scores find out-of-distribution examples, the positives.

  Args:
    in_scores: of in-distribution examples, [n], higher for the less likely.
    out_scores: of out-of-distribution examples, [m].

  Returns:
    Fractions in [0, 1]:

    - 'auroc': the probability that a random outlier has the higher score, equal
      ones counting half.
    - 'aupr': average precision, the sum over distinct thresholds of precision
      times the recall gained (no interpolation). Chance is m / (n + m), so it
      compares only within one pair of sizes.
    - 'fpr95': the fraction of in-distribution scores at or above the highest
      threshold that at least 95 % of outliers reach.

  Raises:
    ValueError: there are no scores, they are not [n], or one is NaN.
  """
  # A second of imports, which training does not need.
  from sklearn import metrics

  inside = _checked_scores(in_scores, 'in_scores')
  outside = _checked_scores(out_scores, 'out_scores')
  is_outlier = np.arange(len(inside) + len(outside)) >= len(inside)
  # Ranks, as scikit-learn takes no infinite scores.
  _, ranks = np.unique(np.concatenate([inside, outside]), return_inverse=True)
  false, true, _ = metrics.roc_curve(is_outlier, ranks, drop_intermediate=False)
  # In whole outliers: 0.95 has no exact float.
  enough = 20 * np.round(true * len(outside)) >= 19 * len(outside)
  return {
    'auroc': float(metrics.roc_auc_score(is_outlier, ranks)),
    'aupr': float(metrics.average_precision_score(is_outlier, ranks)),
    'fpr95': float(false[np.argmax(enough)]),
  }


def _entropy(p: np.ndarray) -> np.ndarray:
  """Computes entropies over the last axis, nats; 0 ln 0 = 0."""
  return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _standard(values: np.ndarray, mean: float, std: float) -> np.ndarray:
  return (values - mean) / (std if std > 0 else 1.0)


def _checked_scores(values: Any, name: str) -> np.ndarray:
  scores = np.asarray(values, np.float64)
  if scores.ndim != 1 or not scores.size:
    raise ValueError(f'{name} must be [n] with n >= 1, got {scores.shape}.')
  if np.isnan(scores).any():
    raise ValueError(
      f'{name} holds {np.isnan(scores).sum()} NaN; it needs none.'
    )
  return scores


def _checked_probabilities(values: Any, shape: str) -> np.ndarray:
  p = np.asarray(values)
  if p.ndim != shape.count(',') + 1 or not p.size:
    raise ValueError(
      f'probabilities must be {shape}, none of them 0, got shape {p.shape}.'
    )
  # bfloat16 and the like are no numbers to NumPy's own routines.
  p = p if p.dtype in (np.float32, np.float64) else p.astype(np.float64)
  if wrong := int(np.sum(~((p >= 0) & (p <= 1 + 1e-3)))):
    raise ValueError(
      f'probabilities must be in [0, 1], got values from {p.min():g} to '
      f'{p.max():g}: {wrong} of {p.size} are outside or NaN.'
    )
  total = np.sum(p, axis=-1, dtype=np.float64)
  worst = float(total.flat[np.argmax(np.abs(total - 1))])
  if abs(worst - 1) > 1e-2:
    raise ValueError(
      f'probabilities must sum to 1 over the classes (to 0.01), got a sum of '
      f'{worst:g}.'
    )
  return p


def _checked(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
  p = _checked_probabilities(probabilities, '[N, C]')
  return p, check_labels(labels, *p.shape)


def check_labels(
  labels: Any, n: int, classes: int, name: str = 'labels'
) -> np.ndarray:
  """Returns labels as an array, n integers in 0..classes-1.

  Raises:
    ValueError: they are not; the message counts those that are outside.
  """
  labels = np.asarray(labels)
  if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f'{name} must be integers of shape {(n,)}, got {labels.dtype} of shape '
      f'{labels.shape}.'
    )
  outside = labels[(labels < 0) | (labels >= classes)]
  if outside.size:
    raise ValueError(
      f'{name} must be in 0..{classes - 1}, got {int(outside[0])}: '
      f'{outside.size} of {n} are outside.'
    )
  return labels
