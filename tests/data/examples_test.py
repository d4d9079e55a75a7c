"""A user's own arrays: what is wrong with them is said before training."""

import numpy as np
import pytest

from dim_jax.data import examples


def test_good_arrays_pass():
  label = np.array([0, 1, 2, -1], np.int32)
  examples.check_values({'image': np.zeros((4, 2, 2, 1), np.uint8)})
  examples.check_values({'audio': np.array([[0.5, -1.0, 1.0]]), 'label': label})
  examples.check_values({'point': np.array([[1e9, -5.0]], np.float32)})
  # Not to know class 0 and 2 is not to count from 1.
  examples.check_values({'label': np.array([1, 3, 3, 1])})
  # Of four classes the first one has no example, as where it is left out.
  examples.check_values({'label': np.array([1, 2, 3])}, classes=4)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'label': np.array([1, 2, 3, -1])}, 'count classes from 0; got 1 to 3'),
    ({'image': np.full((4, 2, 2, 1), 255.0)}, r'in \[-1, 1\], got 255 to 255'),
    ({'image': np.zeros((4, 2, 2, 1), int)}, 'uint8, or floats .*int64'),
    ({'audio': np.full((4, 9), -3.0)}, r'in \[-1, 1\], got -3 to -3'),
    ({'point': np.zeros((4, 2), int)}, "'point' must be floats, got int64"),
  ],
)
def test_bad_arrays_are_named(arrays, message):
  with pytest.raises(ValueError, match=message):
    examples.check_values(arrays)


@pytest.mark.parametrize('labelled', [True, False])
def test_taking_examples_takes_all_that_is_of_them(labelled):
  whole = examples.Examples(
    kind='audio',
    inputs=np.arange(12, dtype=np.int16).reshape(4, 3),
    labels={'speaker': np.arange(4, dtype=np.int32)} if labelled else {},
    label='speaker' if labelled else '',
    class_names={'speaker': tuple('abcd')} if labelled else {},
    name='x',
    recording=np.array([0, 0, 1, 1], np.int32),
  )
  part = whole.take(np.array([3, 0]))
  np.testing.assert_array_equal(part.inputs, [[9, 10, 11], [0, 1, 2]])
  np.testing.assert_array_equal(part.recording, [1, 0])
  batch = examples.batch(part)
  assert set(batch) == ({'audio', 'label'} if labelled else {'audio'})
  if labelled:
    np.testing.assert_array_equal(batch['label'], [3, 0])
