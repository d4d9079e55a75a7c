"""Metrics of representations: collapse, principal components, neighbours.

`report` draws what these functions compute. They take and return NumPy arrays;
`standard_deviation`, `singular_values` and the effective rank also take JAX
arrays, traced ones too. The bins of a calibration diagram are those of
`calibration.reliability`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def standard_deviation(features: Array) -> Any:
  """Computes the standard deviation of each dimension: near zero = collapse.

  Args:
    features: shape [n, D].

  Returns:
    Shape [D], in the features' own unit.
  """
  return features.__array_namespace__().std(features, axis=0)


def singular_values(features: Array) -> Any:
  """Computes the singular values of the centred features, largest first.

  Args:
    features: shape [n, D]; NumPy arrays are taken as float64.

  Returns:
    Shape [min(n, D)].
  """
  if isinstance(features, np.ndarray):
    features = features.astype(np.float64)
  xp = features.__array_namespace__()
  centred = features - xp.mean(features, axis=0, keepdims=True)
  return xp.linalg.svd(centred, compute_uv=False)


def effective_rank(features: Array) -> Any:
  """Computes how many dimensions the features use, from 1 to min(n - 1, D).

  Args:
    features: shape [n, D].

  Returns:
    A scalar, see `effective_rank_of_spectrum`; 0 for constant features.

  References:
    Roy and Vetterli, "The effective rank: a measure of effective
    dimensionality", EUSIPCO 2007,
    https://ieeexplore.ieee.org/document/7098875
  """
  return effective_rank_of_spectrum(singular_values(features))


def effective_rank_of_spectrum(values: Array) -> Any:
  """Computes exp(-sum p log p), p the singular values divided by their sum.

  Args:
    values: singular values, shape [d]. r equal ones beside zeros give r.

  Returns:
    A scalar between 1 and d; 0 if all values are 0.
  """
  xp = values.__array_namespace__()
  total = xp.sum(values)
  fraction = values / xp.where(total > 0, total, 1.0)
  logarithm = xp.log(xp.where(fraction > 0, fraction, 1.0))
  entropy = -xp.sum(fraction * logarithm)
  return xp.where(total > 0, xp.exp(entropy), 0.0)


def collapse_indicators(features: np.ndarray) -> dict[str, float]:
  """Summarises whether features have collapsed.

  Args:
    features: shape [n, D].

  Returns:
    'effective_rank', 'dimensions' D, 'examples' n, and 'std_mean' and 'std_min'
    over dimensions.
  """
  # In float32 like the monitor of a training run, so that the two agree.
  part = jnp.asarray(features, jnp.float32)
  std = np.asarray(standard_deviation(part))
  return {
    'effective_rank': float(effective_rank(part)),
    'dimensions': int(part.shape[1]),
    'examples': len(part),
    'std_mean': float(np.mean(std)),
    'std_min': float(np.min(std)),
  }


def collapse_monitor(
  encode: Callable[..., dict[str, jax.Array]],
  batch: Mapping[str, Any],
  feature: str = 'y',
) -> Callable[[Any, Any], dict[str, jax.Array]]:
  """Makes a function that measures collapse on a fixed batch, for `fit` to log.

  Args:
    encode: (params, model_state, batch) -> {name: features}, an objective's.
    batch: held-out images, always the same.
    feature: the name of those to watch.

  Returns:
    A function of (params, model_state), compiled, that gives 'encoder/std', the
    standard deviation averaged over dimensions, and 'encoder/effective_rank'.
  """

  # The batch is an argument: XLA would fold what is done to a constant while it
  # compiles, which takes longer than to do it.
  @jax.jit
  def measured(
    params: Any, model_state: Any, batch: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    features = encode(params, model_state, batch)[feature]
    features = features.reshape(features.shape[0], -1).astype(jnp.float32)
    return {
      'encoder/std': standard_deviation(features).mean(),
      'encoder/effective_rank': effective_rank(features),
    }

  return lambda params, model_state: measured(params, model_state, batch)


def pca(features: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
  """Computes principal components, with a sign that no machine changes.

  Args:
    features: shape [n, D].
    count: how many components.

  Returns:
    Coordinates [n, count], whose largest entry by magnitude is positive, and
    the fraction of the variance [count] that each explains.
  """
  centred = features - features.mean(0, keepdims=True)
  u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
  points = u[:, :count] * s[None, :count]
  peaks = points[np.abs(points).argmax(0), np.arange(points.shape[1])]
  points = points * np.where(peaks < 0, -1.0, 1.0)[None]
  total = float((s**2).sum())
  return points, s[:count] ** 2 / (total if total > 0 else 1.0)


def nearest_neighbours(
  features: np.ndarray, count: int, metric: str = 'cosine'
) -> tuple[np.ndarray, np.ndarray]:
  """Finds every example's nearest others; ties go to the lower index.

  Args:
    features: shape [n, ...], flattened.
    count: how many neighbours, below n.
    metric: 'cosine', or 'euclidean'.

  Returns:
    Indices [n, count], nearest first, and their distances [n, count]: one minus
    the cosine, or Euclidean.

  Raises:
    ValueError: count or metric cannot be used.
  """
  x = np.asarray(features, np.float64).reshape(len(features), -1)
  if not 1 <= count < len(x):
    raise ValueError(
      f'count must be between 1 and {len(x) - 1} for {len(x)} examples, got '
      f'{count}.'
    )
  if metric == 'cosine':
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = x / np.maximum(length, np.finfo(np.float64).tiny)
    distance = 1 - x @ x.T
  elif metric == 'euclidean':
    square = (x**2).sum(1)
    distance = square[:, None] + square[None] - 2 * x @ x.T
    distance = np.sqrt(np.maximum(distance, 0))
  else:
    raise ValueError(f"metric is 'cosine' or 'euclidean', got {metric!r}.")
  np.fill_diagonal(distance, np.inf)
  order = distance.argsort(1, kind='stable')[:, :count]
  return order, np.take_along_axis(distance, order, 1)


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
  """Computes the probability that a positive score exceeds a negative one.

  Equal scores count half.

  Args:
    positive: finite scores, shape [p].
    negative: finite scores, shape [k].

  Returns:
    A number from 0 to 1; NaN if either is empty.
  """
  if not len(positive) or not len(negative):
    return math.nan
  # A second of imports, which training does not need.
  from sklearn import metrics

  is_positive = np.arange(len(positive) + len(negative)) < len(positive)
  scores = np.concatenate([positive, negative])
  return float(metrics.roc_auc_score(is_positive, scores))
