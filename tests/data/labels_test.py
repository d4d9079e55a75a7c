"""Which labels are kept: how many, of which class, and by what alone."""

import numpy as np
import pytest

from dim_jax.data import batches, labels

# 20 of class 0, 10 of 1, 4 of 2, and 6 unknown, in no order.
LABELS = np.random.default_rng(0).permutation(
  np.repeat([0, 1, 2, -1], [20, 10, 4, 6]).astype(np.int32)
)


def counts(found):
  return [int((found == label).sum()) for label in (0, 1, 2)]


@pytest.mark.parametrize(
  ('amount', 'expected'),
  [
    ({'fraction': 0.5}, [10, 5, 2]),
    ({'fraction': 0.2}, [4, 2, 1]),
    # 0.2, 0.1 and 0.04 of an example: one at least.
    ({'fraction': 0.01}, [1, 1, 1]),
    ({'fraction': 1.0}, [20, 10, 4]),
    ({'per_class': 1}, [1, 1, 1]),
    ({'per_class': 4}, [4, 4, 4]),
    ({}, [20, 10, 4]),
  ],
)
def test_each_class_keeps_its_part(amount, expected):
  found = labels.keep(LABELS, **amount)
  assert counts(found) == expected
  # What is kept is what it was; nothing unknown becomes known.
  known = found >= 0
  np.testing.assert_array_equal(found[known], LABELS[known])
  assert found.dtype == np.int32 and (found[~known] == -1).all()


def test_choice_is_of_the_seed_and_the_labels_alone():
  before = LABELS.copy()
  first = labels.keep(LABELS, per_class=2, seed=3)
  np.random.seed(1)
  np.testing.assert_array_equal(first, labels.keep(LABELS, per_class=2, seed=3))
  assert (first != labels.keep(LABELS, per_class=2, seed=4)).any()
  np.testing.assert_array_equal(LABELS, before)
  # The same on every machine: written down from one.
  assert np.flatnonzero(first == 2).tolist() == KEPT_OF_CLASS_2


KEPT_OF_CLASS_2 = [15, 24]


def test_no_epoch_has_the_labelled_examples_together():
  many = np.repeat(np.arange(10, dtype=np.int32), 100)
  for seed in range(3):
    kept = labels.keep(many, fraction=0.1, seed=seed) >= 0
    for epoch in range(20):
      order = batches.permutation(seed, epoch, 1000)
      # Of 100 in a random half: 50, sd sqrt(100 / 4 * 900 / 999) = 4.7.
      assert abs(kept[order[:500]].sum() - 50) < 5 * 4.7


def test_more_labels_include_fewer():
  few = labels.keep(LABELS, fraction=0.1) >= 0
  many = labels.keep(LABELS, fraction=0.6) >= 0
  assert few.sum() < many.sum()
  assert many[few].all()


def test_every_example_of_a_class_is_as_likely():
  # 4 of 20 over 2,000 seeds: each is kept 400 times, sd 18.
  kept = sum(
    (labels.keep(LABELS, per_class=4, seed=seed) == 0).astype(int)
    for seed in range(2000)
  )
  times = kept[LABELS == 0]
  assert times.sum() == 8000
  assert np.abs(times - 400).max() < 5 * 18


@pytest.mark.parametrize(
  ('amount', 'message'),
  [
    ({'fraction': 0.0}, r'data.labelled must be .* in \(0, 1\].*got 0.0'),
    ({'fraction': 1.5}, r'data.labelled must be .* in \(0, 1\].*got 1.5'),
    ({'fraction': float('nan')}, r'got nan'),
    ({'per_class': 0}, r'labels_per_class must be >= 1 or None, got 0'),
    ({'per_class': 5}, r'=5, but class 2 has 4 training labels: .* at most 4'),
    ({'fraction': 0.5, 'per_class': 1}, r'set one of them to None'),
    ({'fraction': 0.5, 'seed': -1}, r'label_seed must be in .*, got -1'),
  ],
)
def test_what_cannot_be_kept_is_named(amount, message):
  with pytest.raises(ValueError, match=message):
    labels.keep(LABELS, **amount)


@pytest.mark.parametrize('only', [[3, 3, -1], [-1, -1]])
def test_labels_of_one_class_are_refused(only):
  with pytest.raises(ValueError, match=r'are of [01] class\(es\)'):
    labels.keep(np.asarray(only, np.int32), fraction=0.5)
