"""A fixed random order, and the test set that it takes from each class."""

import numpy as np

TEST = 0.2  # of each class, where the source has no test set
_SEED = 0  # of that test set and of every validation set


def random_ranks(num_examples: int, stream: int) -> np.ndarray:
  """A fixed permutation of 0..n-1, the same with every version of NumPy."""
  key = np.array([_SEED, stream], np.uint64)
  bits = np.random.Philox(key=key).random_raw(num_examples)
  ranks = np.empty([num_examples], np.int64)
  ranks[np.argsort(bits, kind='stable')] = np.arange(num_examples)
  return ranks


def test_mask(labels: np.ndarray) -> np.ndarray:
  """Which examples are the test set, a fixed part of each class; bool [n]."""
  # Stratified: within each class, the first fifth of a fixed random order.
  rank = random_ranks(len(labels), stream=1)
  test = np.zeros([len(labels)], bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    members = members[np.argsort(rank[members])]
    test[members[: round(TEST * len(members))]] = True
  return test
