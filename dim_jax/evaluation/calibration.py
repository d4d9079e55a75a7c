"""Whether a classifier knows what it does not know.

Two questions, both about arrays alone. Calibration: do predicted probabilities
agree with how often they are right? Detection: do scores tell examples of
another distribution from those of the training one? All is NumPy in float64.
"""

from typing import Any, NamedTuple

import numpy as np

# The smallest probability that `nll` believes: float32's smallest normal
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
    rate_deviation: standard deviation of the rate.
    entropy_mean: mean entropy of the averaged prediction, nats.
    entropy_deviation: its standard deviation.
  """

  rate_mean: float
  rate_deviation: float
  entropy_mean: float
  entropy_deviation: float


def reliability(probabilities: Any, labels: Any, bins: int = 15) -> Reliability:
  """The expected calibration error, with the diagram that it sums up.

  Of the most probable class alone (top label; the first of equals). Bins have
  equal width over [0, 1] and hold their upper edge, not their lower one; a
  confidence of 0 would go to the first. The error is the sum over bins of
  |accuracy - confidence|, weighted by the share of examples.

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
  if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
    raise ValueError(f'bins must be a whole number >= 1, got {bins!r}.')
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


def ece(probabilities: Any, labels: Any, bins: int = 15) -> float:
  """The expected calibration error alone, see `reliability`.

  Args:
    probabilities: of the (averaged) prediction, [N, C].
    labels: true classes, integers in 0..C-1, [N].
    bins: how many, of equal width, each (lower, upper].

  Returns:
    A number in [0, 1].

  Raises:
    ValueError: an argument is not as above.
  """
  return reliability(probabilities, labels, bins).ece


def nll(probabilities: Any, labels: Any, *, log: bool = False) -> float:
  """Mean negative log-likelihood of the labels, in nats.

  A probability below 2^-126 (about 1e-38, float32's smallest normal number; a
  stored 0 is below) counts as 2^-126, so an example costs at most 87.3 nats and
  the mean is finite. Log-probabilities need no such floor, and get none.

  Args:
    probabilities: of the (averaged) prediction, [N, C], or their natural
      logarithms.
    labels: true classes, integers in 0..C-1, [N].
    log: whether they are logarithms. Those of labels must be finite.

  Returns:
    A number >= 0.

  Raises:
    ValueError: an argument is not as above.
  """
  p, labels = _checked(probabilities, labels, log=log)
  own = p[np.arange(len(p)), labels].astype(np.float64)
  if not log:
    own = np.log(np.maximum(own, LEAST_PROBABILITY))
  elif np.isneginf(own).any():
    row = int(np.flatnonzero(np.isneginf(own))[0])
    raise ValueError(
      f'The log-probability of the label of example {row} is -inf; compute it '
      'in log space, or pass probabilities, whose zeros are floored.'
    )
  # Rounded probabilities may be a little above 1.
  return float(np.mean(np.maximum(-own, 0.0)))


def brier(probabilities: Any, labels: Any) -> float:
  """The multi-class Brier score: a sum over classes, a mean over examples.

  Of (p - 1)^2 at the label and p^2 elsewhere: from 0 to 2, twice the score of
  the two-class convention.

  Args:
    probabilities: of the (averaged) prediction, [N, C].
    labels: true classes, integers in 0..C-1, [N].

  Returns:
    A number in [0, 2].

  Raises:
    ValueError: an argument is not as above.
  """
  p, labels = _checked(probabilities, labels)
  wrong = p.astype(np.float64)
  wrong[np.arange(len(p)), labels] -= 1
  return float(np.mean(np.sum(np.square(wrong), axis=1)))


def reference(probabilities: Any, rate: Any) -> Reference:
  """Statistics of in-distribution examples, for 'combined' in `scores`.

  Take examples that are not scored afterwards, such as training ones.

  Args:
    probabilities: of each posterior sample, [S, N, C].
    rate: nats of each example, [N].

  Returns:
    Means and (population) standard deviations.

  Raises:
    ValueError: an argument is not as above.
  """
  found = scores(probabilities, rate)
  rates, entropies = found['rate'], found['entropy']
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
  """How unlike the training distribution each example looks; higher is less.

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
    - 'combined': (rate - its mean) / its deviation + the same of the entropy,
      by the reference's statistics; if both are given. A sum of two standard
      scores with equal weights: nothing in it is fitted to outliers. A
      deviation of 0 counts as 1.

  Raises:
    ValueError: an argument is not as above.
  """
  p = _checked_probabilities(probabilities, 3).astype(np.float64)
  mean = p.mean(axis=0)
  entropy = _entropy(mean)
  found = {
    'entropy': entropy,
    'max_prob': 1 - mean.max(axis=1),
    'mutual_information': np.maximum(entropy - _entropy(p).mean(axis=0), 0.0),
  }
  if rate is None:
    return found
  rates = np.asarray(rate, np.float64)
  if rates.shape != entropy.shape or not np.isfinite(rates).all():
    raise ValueError(
      f'rate must be finite and of shape {entropy.shape}, got shape '
      f'{rates.shape}, {np.sum(~np.isfinite(rates))} of it not finite.'
    )
  found['rate'] = rates
  if reference is not None:
    found['combined'] = _standard(
      rates, reference.rate_mean, reference.rate_deviation
    ) + _standard(entropy, reference.entropy_mean, reference.entropy_deviation)
  return found


def detection(in_scores: Any, out_scores: Any) -> dict[str, float]:
  """How well scores tell out-of-distribution examples; these are positive.

  Args:
    in_scores: of in-distribution examples, [n], higher for the less likely.
    out_scores: of out-of-distribution examples, [m].

  Returns:
    Fractions in [0, 1]:

    - 'auroc': the probability that a random outlier has the higher score, equal
      ones counting half; by mid-ranks, exactly.
    - 'aupr': average precision, the sum over distinct thresholds of precision
      times the recall gained (no interpolation). Chance is m / (n + m), so it
      compares only within one pair of sizes.
    - 'fpr95': the share of in-distribution scores at or above the highest
      threshold that at least 95 % of outliers reach.

  Raises:
    ValueError: there are no scores, they are not [n], or one is NaN.
  """
  negative = _checked_scores(in_scores, 'in_scores')
  positive = _checked_scores(out_scores, 'out_scores')
  n, m = len(negative), len(positive)
  values, index = np.unique(
    np.concatenate([negative, positive]), return_inverse=True
  )
  # Both counts at each distinct score, highest first.
  out_at = np.bincount(index[n:], minlength=len(values))[::-1]
  in_at = np.bincount(index[:n], minlength=len(values))[::-1]
  true, false = np.cumsum(out_at), np.cumsum(in_at)
  # In-distribution scores below an outlier's, and half of those equal to it.
  above = np.sum(out_at * (n - false + in_at / 2))
  precision = true / (true + false)
  # In whole numbers: 0.95 has no exact float.
  first = np.flatnonzero(20 * true >= 19 * m)[0]
  return {
    'auroc': float(above / (n * m)),
    'aupr': float(np.sum(out_at / m * precision)),
    'fpr95': float(false[first] / n),
  }


def _entropy(p: np.ndarray) -> np.ndarray:
  """Over the last axis, nats; 0 ln 0 = 0."""
  return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _standard(values: np.ndarray, mean: float, deviation: float) -> np.ndarray:
  return (values - mean) / (deviation if deviation > 0 else 1.0)


def _checked_scores(values: Any, name: str) -> np.ndarray:
  found = np.asarray(values, np.float64)
  if found.ndim != 1 or not found.size:
    raise ValueError(f'{name} must be [n] with n >= 1, got {found.shape}.')
  if np.isnan(found).any():
    raise ValueError(
      f'{name} holds {np.isnan(found).sum()} NaN; it needs none.'
    )
  return found


def _checked_probabilities(
  values: Any, ndim: int, log: bool = False
) -> np.ndarray:
  name = 'log-probabilities' if log else 'probabilities'
  shape = '[S, N, C]' if ndim == 3 else '[N, C]'
  p = np.asarray(values)
  if p.ndim != ndim or not p.size:
    raise ValueError(
      f'{name} must be {shape}, none of them 0, got shape {p.shape}.'
    )
  # bfloat16 and the like are no numbers to NumPy's own routines.
  p = p if p.dtype in (np.float32, np.float64) else p.astype(np.float64)
  if not np.all(p <= (1e-3 if log else 1 + 1e-3)) or not (
    log or np.all(p >= 0)
  ):
    raise ValueError(
      f'{name} must be {"at most 0" if log else "in [0, 1]"}, got values from '
      f'{p.min():g} to {p.max():g}.'
    )
  total = np.sum(np.exp(p) if log else p, axis=-1, dtype=np.float64)
  worst = float(total.flat[np.argmax(np.abs(total - 1))])
  if abs(worst - 1) > 1e-2:
    raise ValueError(
      f'{name} must sum to 1 over the classes (to 0.01), got a sum of '
      f'{worst:g}.'
    )
  return p


def _checked(
  probabilities: Any, labels: Any, log: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  p = _checked_probabilities(probabilities, 2, log)
  classes = np.asarray(labels)
  if classes.shape != p.shape[:1] or not np.issubdtype(
    classes.dtype, np.integer
  ):
    raise ValueError(
      f'labels must be integers of shape {p.shape[:1]}, got {classes.dtype} of '
      f'shape {classes.shape}.'
    )
  wrong = classes[(classes < 0) | (classes >= p.shape[1])]
  if wrong.size:
    raise ValueError(
      f'labels must be in 0..{p.shape[1] - 1}, got {int(wrong[0])}.'
    )
  return p, classes
