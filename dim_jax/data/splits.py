"""A fixed random order, and the test set that it takes from each class."""

import numpy as np

from dim_jax import random

TEST = 0.2  # of each class, where the source has no test set
_SEED = 0  # of that test set and of every validation set


def random_ranks(num_examples: int, stream: int) -> np.ndarray:
  """A fixed permutation of 0..n-1, the same with every version of NumPy."""
  ranks = np.empty([num_examples], np.int64)
  ranks[random.order(_SEED, stream, num_examples)] = np.arange(num_examples)
  return ranks


def test_mask(labels: np.ndarray) -> np.ndarray:
  """Which examples are the test set, a fixed part of each class; bool [n]."""
  # Stratified: within each class, the first fifth of a fixed random order.
  rank = random_ranks(len(labels), random.Host.TEST)
  test = np.zeros([len(labels)], bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    members = members[np.argsort(rank[members])]
    test[members[: round(TEST * len(members))]] = True
  return test
