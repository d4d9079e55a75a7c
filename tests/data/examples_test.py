"""A user's own arrays: what is wrong with them is said before training."""

import numpy as np
import pytest

from dim_jax.data import examples


def _arrays(**changes):
  arrays = {
    'image': np.zeros((4, 2, 2, 1), np.uint8),
    'label': np.array([0, 1, 2, -1], np.int32),
  }
  return arrays | changes


def test_good_arrays_pass():
  examples.check_arrays(_arrays())
  examples.check_arrays({'audio': np.array([[0.5, -1.0, 1.0]])})
  examples.check_arrays({'point': np.array([[1e9, -5.0]], np.float32)})
  # A class that happens not to be there is none that is counted wrongly.
  examples.check_arrays(_arrays(label=np.array([1, 3, 3, 1])))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'label': np.zeros(3, np.int32)}, "same number.*'image' has 4.* has 3"),
    ({'label': np.array([1, 2, 3, -1])}, 'count classes from 0; got 1 to 3'),
    ({'label': np.array([0, -2, 0, 0])}, r'>= 0, or -1 .*got -2'),
    ({'label': np.zeros(4)}, r'one integer an example.*float64\[4\]'),
    ({'label': np.zeros((4, 2), int)}, r'int64\[4, 2\]'),
    ({'image': np.full((4, 2, 2, 1), np.nan)}, 'not finite in 4 of 4'),
    ({'image': np.full((4, 2, 2, 1), 255.0)}, r'in \[-1, 1\], got 255 to 255'),
    (
      {'image': np.zeros((4, 2, 2, 1), int)},
      'uint8, or floats .*int64',
    ),
    ({'image': np.zeros((4, 2, 2), np.uint8)}, r'images \[N, H, W, C\]'),
  ],
)
def test_bad_arrays_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    examples.check_arrays(_arrays(**changes))


def test_no_examples_are_refused():
  for arrays in ({}, {'point': np.zeros((0, 2))}):
    with pytest.raises(ValueError, match='same number of examples, one or'):
      examples.check_arrays(arrays)
