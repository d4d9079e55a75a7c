"""Tests of which examples form a step."""

import numpy as np
import pytest

from dim_jax.data import batches


def _indices(step=0, count=1, seed=0, batch_size=4, num_examples=10):
  return batches.batch_indices(
    seed, step, count, batch_size=batch_size, num_examples=num_examples
  )


def test_one_epoch_takes_each_example_at_most_once():
  epoch = _indices(count=2)
  assert epoch.shape == (2, 4)
  assert epoch.dtype == np.int32
  assert len(np.unique(epoch)) == 8
  assert epoch.min() >= 0
  assert epoch.max() < 10


def test_whole_epoch_takes_each_example_once():
  epoch = _indices(count=3, num_examples=12)
  np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(12))


@pytest.mark.parametrize('chunk', [1, 2, 3, 5, 7])
def test_chunks_do_not_matter(chunk):
  whole = _indices(count=21)
  parts = [
    _indices(step, min(chunk, 21 - step)) for step in range(0, 21, chunk)
  ]
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_step_does_not_depend_on_what_was_asked_before():
  late = _indices(step=1000)
  batches.permutation.cache_clear()
  np.testing.assert_array_equal(_indices(step=1000), late)
  np.testing.assert_array_equal(_indices(step=998, count=5)[2:3], late)


def test_epochs_and_seeds_differ():
  first = _indices(batch_size=100, num_examples=100)
  second = _indices(step=1, batch_size=100, num_examples=100)
  other = _indices(seed=1, batch_size=100, num_examples=100)
  assert np.mean(first == second) < 0.1
  assert np.mean(first == other) < 0.1
  assert np.mean(second == other) < 0.1


def test_over_epochs_every_example_comes_equally_often():
  # 10 examples in batches of 4: 2 are dropped in an epoch, others each time.
  counts = np.bincount(_indices(count=4000).ravel(), minlength=10)
  # Binomial(2000, 0.8): mean 1600, standard deviation 18.
  np.testing.assert_allclose(counts, 1600, atol=90)


def test_the_order_is_the_one_of_philox():
  # The definition, with NumPy's bit generator alone: a change breaks resuming.
  bits = np.random.Philox(key=np.array([7, 2], np.uint64)).random_raw(10)
  order = np.argsort(bits, kind='stable')
  got = _indices(step=5, seed=7)  # 2 steps an epoch: epoch 2, second step
  np.testing.assert_array_equal(got[0], order[4:8])


def test_caller_cannot_change_later_batches():
  rows = _indices(count=2)
  before = rows.copy()
  rows[:] = -1
  np.testing.assert_array_equal(_indices(count=2), before)


def test_no_steps():
  assert _indices(count=0).shape == (0, 4)


def test_batch_of_the_whole_set():
  np.testing.assert_array_equal(
    np.sort(_indices(batch_size=10)[0]), np.arange(10)
  )


def test_numpy_integers_are_accepted():
  np.testing.assert_array_equal(
    _indices(step=np.int64(3), seed=np.uint32(1)), _indices(step=3, seed=1)
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'batch_size': 11}, r'batch_size \(11\) .* 10 training examples'),
    ({'batch_size': 0}, 'batch_size must be a whole number >= 1, got 0'),
    ({'batch_size': 2.5}, 'batch_size must be a whole number .* got 2.5'),
    ({'step': -1}, 'step must be a whole number >= 0, got -1'),
    ({'count': -2}, 'count must be a whole number >= 0, got -2'),
    ({'seed': -3}, 'seed must be .* got -3'),
    ({'seed': 2**64}, r'seed must be .*2\*\*64\), got 1844'),
    ({'seed': True}, 'seed must be a whole number'),
    ({'num_examples': 0}, 'num_examples must be .* got 0'),
    ({'num_examples': 2**31}, r'num_examples must be .*got 2147483648'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    _indices(**arguments)


def test_padded_batches_hold_all_rows_and_then_zeros():
  rows, labels = np.arange(1, 11).reshape(5, 2), np.arange(5, dtype=np.int32)
  parts = list(batches.padded(3, rows, labels))
  assert [(r.start, r.stop) for r, _ in parts] == [(0, 3), (3, 5)]
  np.testing.assert_array_equal(parts[0][1][0], rows[:3])
  np.testing.assert_array_equal(parts[1][1][0], [[7, 8], [9, 10], [0, 0]])
  np.testing.assert_array_equal(parts[1][1][1], [3, 4, 0])
  assert parts[1][1][1].dtype == np.int32
  assert list(batches.padded(3, rows[:0])) == []
