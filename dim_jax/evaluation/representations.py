"""Metrics of representations: collapse, rank, components, neighbours.

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


def rankme(features: np.ndarray, epsilon: float = 1e-7) -> float:
  """Computes RankMe: how many directions of features matter, labels unseen.

  It is exp(-sum p log p), p the singular values divided by their sum, plus
  `epsilon`. Unlike `effective_rank` it does not centre the features.

  Args:
    features: shape [n, D].
    epsilon: added to every fraction.

  Returns:
    A number from 1 to min(n, D), but for epsilon; 0 for features that are 0.

  References:
    Garrido et al., RankMe: Assessing the Downstream Performance of Pretrained
    Self-Supervised Representations by Their Rank, 2023, eq. 1 and 2:
    https://arxiv.org/abs/2210.02885
  """
  x = np.asarray(features, np.float64)
  return _smooth_rank(np.linalg.svd(x, compute_uv=False), epsilon)


def _smooth_rank(values: np.ndarray, epsilon: float) -> float:
  """Computes exp(-sum p log p), p the values by their sum plus epsilon."""
  if not np.any(values > 0):
    return 0.0
  fraction = values / np.sum(values) + epsilon
  return float(np.exp(-np.sum(fraction * np.log(fraction))))


def alpha_req(features: np.ndarray, first: int = 4, last: int = 100) -> float:
  """Fits how fast the eigenvalues of the covariance fall: as rank**-alpha.

  Near 1 is said to go with features that generalise; well above it, a few
  directions hold all variance, well below it, all hold the same. A line is
  fitted to the logarithms, each weighted by 1 / rank, as the authors' code
  does; the paper names no ranks.

  Args:
    features: shape [n, D].
    first: the first rank that is fitted, counted from 1.
    last: the last one, or that of the last eigenvalue above rounding errors.

  Returns:
    alpha; NaN where fewer than two eigenvalues are in that range.

  References:
    Agrawal et al., alpha-ReQ: Assessing Representation Quality in
    Self-Supervised Learning by measuring eigenspectrum decay, 2022:
    https://openreview.net/forum?id=ii9X4vtZGTZ
    Stringer et al., 2019: https://doi.org/10.1038/s41586-019-1346-5
  """
  x = np.asarray(features)
  values = singular_values(x)
  # What rounding leaves in directions that the features do not have.
  kind = x.dtype if np.issubdtype(x.dtype, np.floating) else np.float64
  noise = np.linalg.norm(x) * np.finfo(kind).eps
  values = values[first - 1 : min(last, int(np.sum(values > noise)))]
  if len(values) < 2:
    return math.nan
  ranks = np.arange(first, first + len(values))
  # Variances are the squares, and polyfit squares its weights.
  slope, _ = np.polyfit(np.log(ranks), 2 * np.log(values), 1, w=ranks**-0.5)
  return -float(slope)


def lidar(
  features: np.ndarray, delta: float = 1e-4, epsilon: float = 1e-7
) -> float:
  r"""Computes LiDAR: how many directions tell images from one another.

  .. math:: \Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}

  Its eigenvalues take the place of RankMe's singular values. Sigma_b is the
  covariance of the images' means, Sigma_w that of views about their image's
  mean, plus `delta`; so directions that the augmentation changes count little.
  At most images - 1; values of other numbers of images or views do not compare.

  Args:
    features: of several views of each image, shape [images, views, D].
    delta: added to the diagonal of Sigma_w, in the features' unit squared.
    epsilon: added to every fraction.

  Returns:
    A number from 1 to min(images - 1, D), but for epsilon; 0 where all images
    have one mean.

  Raises:
    ValueError: there are not two images with two views each.

  References:
    Thilak et al., LiDAR: Sensing Linear Probing Performance in Joint Embedding
    SSL Architectures, 2023, section 4: https://arxiv.org/abs/2312.04000
  """
  x = np.asarray(features, np.float64)
  if x.ndim != 3 or min(x.shape[:2]) < 2:
    raise ValueError(
      'LiDAR needs features [images, views, D] of at least 2 images with 2 '
      f'views each, got shape {x.shape}.'
    )
  images, views, size = x.shape
  if size > images * views:
    # In a basis of the rows: both matrices are delta or 0 outside of it.
    _, rows = np.linalg.qr(x.reshape(-1, size).T)
    x = rows.T.reshape(images, views, -1)
  means = np.mean(x, axis=1, keepdims=True)
  within = (x - means).reshape(images * views, -1)
  sigma = within.T @ within / len(within) + delta * np.eye(x.shape[2])
  between = means[:, 0] - np.mean(means[:, 0], axis=0, keepdims=True)
  # L^-1 S_b L^-T has the same eigenvalues, with L L^T = S_w: the squared
  # singular values of the means that L^-1 whitens.
  whitened = np.linalg.solve(np.linalg.cholesky(sigma), between.T)
  values = np.linalg.svd(whitened, compute_uv=False) ** 2
  return _smooth_rank(values, epsilon)


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


def same_class_fraction(
  features: np.ndarray,
  labels: np.ndarray,
  count: int,
  metric: str = 'cosine',
) -> float:
  """Computes how many of the nearest others are of an example's own class.

  Args:
    features: shape [n, ...], flattened.
    labels: classes, int [n].
    count: how many others, below n.
    metric: as of `nearest_neighbours`.

  Returns:
    A fraction, the mean over all examples as queries.

  Raises:
    ValueError: count or metric cannot be used.
  """
  nearest, _ = nearest_neighbours(features, count, metric)
  return float(np.mean(labels[nearest] == labels[:, None]))


def same_class_chance(labels: np.ndarray) -> float:
  """Computes `same_class_fraction` of others that are drawn at random.

  Args:
    labels: classes, int [n], n >= 2.
  """
  counts = np.bincount(labels).astype(np.float64)
  return float(
    np.sum(counts * (counts - 1)) / (len(labels) * (len(labels) - 1))
  )


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
