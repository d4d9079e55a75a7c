"""What a critic sees of x or y: maps that change no information.

An invertible map of x leaves the mutual information as it is, and so does a
function of x beside x itself. So heavy tails are mapped to normal scores, rank
by rank, and norms, which decide where dependence is through a shared scale or a
rotation, are put beside the columns. All is fitted on the pairs that the critic
is fitted on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

# Labels are one-hot: one column each.
MOST_LABELS = 256


class Inputs(NamedTuple):
  """How the rows of one side are shown to a critic.

  Attributes:
    map: `[n, D] -> [n, columns]`, float32, of any rows; images keep their
      shape.
    columns: how many the critic sees; 1 of images.
    labels: how many different values there are, where they are labels.
  """

  map: Callable[[Any], np.ndarray]
  columns: int
  labels: int | None


def fit_inputs(rows: np.ndarray, *, labels: bool = False) -> Inputs:
  """Fits the map of one side.

  Columns become normal scores: the quantile of N(0, 1) at a value's rank among
  the rows. Beside several columns stand the norm of the scores, and the norm of
  the columns, less their medians and over their median absolute deviations, as
  a normal score and as it is (up to three times its median); beside a single
  one its inverse hyperbolic sine. All are standardised. Labels are one-hot, and
  images standardised by one mean and one standard deviation.

  Args:
    rows: float64 [n, D], or images [n, H, W, C], finite.
    labels: whether the only column holds labels.
  """
  if labels:
    values = np.unique(rows)
    return Inputs(
      lambda z: (z == values[None]).astype(np.float32),
      len(values),
      len(values),
    )
  if rows.ndim == 4:
    centre, scale = rows.mean(), rows.std()
    return Inputs(lambda z: ((z - centre) / scale).astype(np.float32), 1, None)
  raw = _raw_inputs(rows)
  seen = raw(rows)
  mean, std = seen.mean(0), np.maximum(seen.std(0), 1e-12)
  return Inputs(
    lambda z: ((raw(z) - mean[None]) / std[None]).astype(np.float32),
    seen.shape[1],
    None,
  )


def fit_columns(rows: np.ndarray) -> Inputs:
  """Fits the map of rows whose columns are taken one by one: normal scores.

  Args:
    rows: float64 [n, D], finite.
  """
  scores = normal_scores(rows)
  std = np.maximum(scores(rows).std(0), 1e-12)
  return Inputs(
    lambda z: (scores(z) / std[None]).astype(np.float32), rows.shape[1], None
  )


def beside(first: Inputs, second: Inputs) -> Inputs:
  """Returns the map of two sides, a pair of rows, to the columns of both."""
  return Inputs(
    lambda pair: np.hstack([first.map(pair[0]), second.map(pair[1])]),
    first.columns + second.columns,
    None,
  )


def _raw_inputs(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the map of `fit_inputs` before it is standardised."""
  scores = normal_scores(rows)
  median = np.median(rows, 0)
  # 1.4826 makes the median absolute deviation of a Gaussian its standard one.
  width = 1.4826 * np.median(np.abs(rows - median[None]), 0)
  # More than half of the rows can be equal.
  width = np.where(width > 0, width, np.maximum(rows.std(0), 1e-12))

  def scaled(z: np.ndarray) -> np.ndarray:
    return (z - median[None]) / width[None]

  if rows.shape[1] == 1:
    return lambda z: np.hstack(
      [scores(z), np.clip(np.arcsinh(scaled(z)), -5, 5)]
    )

  def norm(z: np.ndarray) -> np.ndarray:
    return np.linalg.norm(scaled(z), axis=1, keepdims=True)

  norms = norm(rows)
  norm_scores, most = normal_scores(norms), 3 * np.median(norms)
  return lambda z: np.hstack(
    [scores(z), norm_scores(norm(z)), np.minimum(norm(z), most)]
  )


def normal_scores(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the map of columns to normal scores, by their ranks among rows.

  Ties share their mean rank. Values between two rows are interpolated, and
  those beyond all rows get the score of the last one.

  Args:
    rows: [n, D].
  """
  columns = []
  for column in rows.T:
    values, counts = np.unique(column, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(column)
    columns.append((values, ranks))

  def scores(z: np.ndarray) -> np.ndarray:
    ranks = [
      np.interp(column, values, at)
      for column, (values, at) in zip(z.T, columns, strict=True)
    ]
    return special.ndtri(np.stack(ranks, 1))

  return scores
