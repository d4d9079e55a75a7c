"""Fixed test and validation sets, the same for every run."""

from typing import Any

import numpy as np

from dim_jax import checks, random

TEST = 0.2  # of each class, where the source has no test set
_SEED = 0  # of that test set and of every validation set


def random_ranks(num_examples: int, stream: int) -> np.ndarray:
  """Returns a fixed permutation of 0..n-1, whatever the version of NumPy."""
  ranks = np.empty([num_examples], np.int64)
  ranks[random.order(_SEED, stream, num_examples)] = np.arange(num_examples)
  return ranks


def test_mask(labels: np.ndarray) -> np.ndarray:
  """Returns which examples are the test set, of each class a fixed part."""
  # Stratified: within each class, the first fifth of a fixed random order.
  rank = random_ranks(len(labels), random.Host.TEST)
  test = np.zeros([len(labels)], bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    members = members[np.argsort(rank[members])]
    test[members[: round(TEST * len(members))]] = True
  return test


def check_validation(validation: Any, split: str) -> None:
  """Raises ValueError where the fraction held out, or its split, cannot be."""
  checks.check_range('data.validation', validation, '[0, 1)')
  if split == 'validation' and validation == 0:
    raise ValueError(
      "The split 'validation' is empty with data.validation=0; set it above 0 "
      '(default 0.1).'
    )


def rows(split: str, num_examples: int, validation: float) -> np.ndarray | None:
  """Returns which examples of the stored split form this one, in their order.

  Args:
    split: as `load` takes it.
    num_examples: of the stored split.
    validation: the part of the training set that is held out.

  Returns:
    int64 [n]; None for all of them.

  Raises:
    ValueError: there are none.
  """
  if split not in ('train', 'validation') or validation == 0:
    return None
  held_out = validation_mask(num_examples, validation)
  kept = np.flatnonzero(held_out if split == 'validation' else ~held_out)
  if not len(kept):
    raise ValueError(
      f'validation={validation} of {num_examples} examples leaves none for '
      f'{split!r}: set --config.data.validation to 0, or so that each part '
      'has one.'
    )
  return kept


def validation_mask(num_examples: int, validation: float) -> np.ndarray:
  """Returns which training examples are held out; bool [num_examples].

  A larger fraction contains a smaller one's examples.
  """
  ranks = random_ranks(num_examples, random.Host.VALIDATION)
  return ranks < round(validation * num_examples)
