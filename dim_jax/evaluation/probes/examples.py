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
  """Integers from 0, shape [n]."""


class Result(NamedTuple):
  """What a probe measured in each of S repetitions."""

  accuracies: np.ndarray
  """Test accuracies in [0, 1], shape [S]; a row of a class that no training row
  has counts as wrong."""
  predictions: np.ndarray
  """Predicted test labels (of the last epoch), shape [S, n_test]."""
  weights: Any
  """The fitted weights, repetitions first; None for kNN."""
  chosen: np.ndarray | None = None
  """The selected l2 (or C), shape [S]."""


# Called with the fraction that is done.
Progress = Callable[[float], None]


def validation_rows(n: int, fraction: float, seed: int) -> np.ndarray:
  """Draws the training rows that a seed holds out, at least one on a side.

  Args:
    n: how many rows there are.
    fraction: of the rows to hold out.
    seed: the repetition.

  Returns:
    A mask, bool, shape [n].

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
  """Draws as many rows from every class at random.

  Args:
    labels: shape [n].
    per_class: rows of each class.
    draw: which draw.

  Returns:
    Row numbers, classes one after the other, shape [C * per_class].

  Raises:
    ValueError: a class has too few rows.
  """
  classes, counts = np.unique(labels, return_counts=True)
  if rare := int(np.sum(counts < per_class)):
    least = int(counts.argmin())
    raise ValueError(
      f'{rare} of {len(classes)} classes have fewer than few_labels = '
      f'{per_class} training rows, class {classes[least]} only '
      f'{counts[least]}: lower few_labels to {counts[least]}, or keep more '
      'rows.'
    )
  random = np.random.default_rng(draw)
  rows = [
    random.permutation(np.flatnonzero(labels == label))[:per_class]
    for label in classes
  ]
  return np.concatenate(rows)


def standardisation(
  features: np.ndarray, scaling: str = 'dimension'
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the shift and scale that standardise features.

  Args:
    features: the training rows, shape [n, D].
    scaling: 'dimension' scales each dimension by its standard deviation, but
      by no less than 1 % of the standard deviations' root mean square;
      'overall' scales all dimensions by that root mean square.

  Returns:
    Mean and scale, float32, shape [D]; standardised is (x - mean) / scale.
  """
  mean = np.asarray(np.mean(features, axis=0, dtype=np.float64))
  std = np.asarray(np.std(features, axis=0, dtype=np.float64))
  overall = float(np.sqrt(np.mean(np.square(std)))) or 1.0
  if scaling == 'overall':
    scale = np.full_like(std, overall)
  else:
    scale = np.maximum(std, 0.01 * overall)
  return mean.astype(np.float32), scale.astype(np.float32)


def standardise(
  x: np.ndarray, shift: np.ndarray, scale: np.ndarray
) -> np.ndarray:
  """Returns standardised rows, in one new float32 array."""
  x = np.asarray(x, np.float32) - shift
  x /= scale
  return x


def last_best(scores: Any) -> int:
  """Finds the last of the best scores, so that the larger l2 wins a tie."""
  return len(scores) - 1 - int(np.argmax(scores[::-1]))


def count_correct(
  predictions: Any,
  test: Examples,
  weights: Any,
  chosen: np.ndarray | None = None,
) -> Result:
  """Counts the accuracy: the one place that reads the test labels."""
  predictions = np.asarray(predictions)
  accuracies = np.mean(predictions == np.asarray(test.labels), axis=1)
  weights = jax.tree.map(np.asarray, weights)
  return Result(accuracies, predictions, weights, chosen)


def check_examples(train: Examples, test: Examples) -> int:
  """Checks the shapes and values of both parts.

  Args:
    train: rows to fit.
    test: rows to test on.

  Returns:
    How many classes there are: one more than the largest training label.

  Raises:
    ValueError: rows and labels do not match, features are not finite, or labels
      are not integers from 0. The message counts the rows that are wrong.
  """
  for name, (features, labels) in (('train', train), ('test', test)):
    if features.ndim != 2 or not len(features):
      raise ValueError(
        f'{name} features must be [n, D] with n >= 1, got shape '
        f'{features.shape}.'
      )
    if labels.shape != features.shape[:1]:
      raise ValueError(
        f'{name} has {len(features)} rows of features, but labels of shape '
        f'{labels.shape}.'
      )
    if not np.issubdtype(labels.dtype, np.integer):
      raise ValueError(f'{name} labels must be integers, got {labels.dtype}.')
    # As float32, to which all are cast: 1e39 is infinite there.
    with np.errstate(over='ignore'):
      finite = np.isfinite(np.asarray(features, np.float32))
    bad = ~np.all(finite, axis=1)
    if bad.any():
      raise ValueError(
        f'{bad.sum()} of {len(features)} {name} rows hold NaN or infinity, the '
        f'first is row {bad.argmax()}: the encoder diverged, or its inputs are '
        'not finite.'
      )
    if negative := int(np.sum(labels < 0)):
      raise ValueError(
        f'{negative} of {len(labels)} {name} labels are below 0: leave '
        'unlabelled (-1) rows out.'
      )
  if train.features.shape[1] != test.features.shape[1]:
    raise ValueError(
      f'train features have {train.features.shape[1]} dimensions, test '
      f'features {test.features.shape[1]}.'
    )
  lowest, highest = (
    int(function([function(train.labels), function(test.labels)]))
    for function in (np.min, np.max)
  )
  if lowest > 0:
    raise ValueError(
      f'All {len(train.labels) + len(test.labels)} labels are from {lowest} to '
      f'{highest}, but classes count from 0: subtract {lowest}.'
    )
  if highest >= 2**31:
    raise ValueError(f'Labels must be below 2**31, got {highest}.')
  return int(np.max(train.labels)) + 1
