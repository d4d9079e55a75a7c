"""What all probes share: rows, their checks, splits, scales and results."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Examples(NamedTuple):
  """Rows that a probe fits, or is tested on."""

  features: np.ndarray
  """float32, shape [n, D]."""
  labels: np.ndarray
  """Whole numbers from 0, shape [n]."""


class Result(NamedTuple):
  """What a probe found, for each of S repetitions."""

  accuracies: np.ndarray
  """Test accuracies in [0, 1], shape [S]."""
  predictions: np.ndarray
  """Predicted test labels (of the last epoch), shape [S, n_test]."""
  weights: Any
  """The fitted weights, repetitions first; None for kNN."""
  chosen: np.ndarray | None = None
  """The selected l2 (or C), shape [S]."""


Progress = Callable[[float], None]


def validation_rows(n: int, fraction: float, seed: int) -> np.ndarray:
  """Which training rows a seed holds out: a mask [n], at least one on a side.

  Args:
    n: how many rows there are.
    fraction: the share to hold out.
    seed: the repetition.

  Returns:
    bool, shape [n].

  Raises:
    ValueError: there is only one row.
  """
  if n < 2:
    raise ValueError(f'A split needs at least 2 training rows, got {n}.')
  count = min(max(1, round(n * fraction)), n - 1)
  mask = np.zeros([n], bool)
  mask[np.random.default_rng(seed).permutation(n)[:count]] = True
  return mask


def balanced_rows(labels: np.ndarray, per_class: int, draw: int) -> np.ndarray:
  """A random draw of as many rows from every class.

  Args:
    labels: shape [n].
    per_class: rows of each class.
    draw: which draw.

  Returns:
    Row numbers, classes one after the other, shape [C * per_class].

  Raises:
    ValueError: a class has too few rows.
  """
  random = np.random.default_rng(draw)
  rows = []
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    if len(members) < per_class:
      raise ValueError(
        f'Class {label} has {len(members)} training rows, fewer than '
        f'few_labels = {per_class}: lower few_labels or keep more rows.'
      )
    rows.append(random.permutation(members)[:per_class])
  return np.concatenate(rows)


def standardisation(
  features: np.ndarray, scaling: str = 'dimension'
) -> tuple[np.ndarray, np.ndarray]:
  """The shift and scale that standardise features.

  Args:
    features: the training rows, shape [n, D].
    scaling: 'dimension' scales each dimension by its deviation, but those that
      hardly move by no less than 1 % of the deviations' root mean square;
      'overall' scales all dimensions by that root mean square.

  Returns:
    Mean and scale, float32, shape [D]; standardised is (x - mean) / scale.
  """
  mean = np.asarray(np.mean(features, axis=0, dtype=np.float64))
  deviation = np.asarray(np.std(features, axis=0, dtype=np.float64))
  overall = float(np.sqrt(np.mean(np.square(deviation)))) or 1.0
  if scaling == 'overall':
    scale = np.full_like(deviation, overall)
  else:
    scale = np.maximum(deviation, 0.01 * overall)
  return mean.astype(np.float32), scale.astype(np.float32)


def standardise(x, shift, scale):
  """Standardised rows, in one new float32 array."""
  x = np.asarray(x, np.float32) - shift
  x /= scale
  return x


def last_best(accuracies) -> int:
  """The last of the best: the larger l2 wins a tie."""
  return len(accuracies) - 1 - int(np.argmax(accuracies[::-1]))


def count_correct(found, test, weights, chosen=None):
  """Counts the accuracy: the one place that reads the test labels."""
  found = np.asarray(found)
  accuracies = np.mean(found == np.asarray(test.labels), axis=1)
  return Result(accuracies, found, jax.tree.map(np.asarray, weights), chosen)


def check_examples(train: Examples, test: Examples) -> int:
  """How many classes there are, after checks of shapes and labels."""
  for name, part in (('train', train), ('test', test)):
    if part.features.ndim != 2 or not len(part.features):
      raise ValueError(
        f'{name} features must be [n, D] with n >= 1, got shape '
        f'{part.features.shape}.'
      )
    if part.labels.shape != part.features.shape[:1]:
      raise ValueError(
        f'{name} has {len(part.features)} rows of features, but labels of '
        f'shape {part.labels.shape}.'
      )
    if not np.isfinite(part.features).all():
      raise ValueError(
        f'{name} features hold NaN or infinity: the encoder diverged.'
      )
  if train.features.shape[1] != test.features.shape[1]:
    raise ValueError(
      f'train features have {train.features.shape[1]} dimensions, test '
      f'features {test.features.shape[1]}.'
    )
  if min(train.labels) < 0:
    raise ValueError(
      'Training labels must be >= 0: leave unlabelled (-1) rows out.'
    )
  return int(max(train.labels)) + 1
