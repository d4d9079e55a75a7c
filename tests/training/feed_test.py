"""What feeds the steps: data that cannot be trained on is refused."""

import numpy as np
import pytest

from dim_jax.data import stream
from dim_jax.training import feed, parallel


def make_data():
  return {
    'image': np.zeros((10, 2, 2, 1), np.float32),
    'label': np.arange(10, dtype=np.int32) % 3 - 1,
  }


def changed(name, position, value):
  data = make_data()
  data[name][position] = value
  return data


def test_good_data_pass():
  feed.check_arrays(make_data(), classes=2)
  feed.check_arrays({'image': np.zeros((3, 2), np.uint8)})
  # Of four classes the first one has no example.
  feed.check_arrays({'label': np.array([1, 2, 3], np.int32)}, classes=4)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    ({}, 'has no arrays'),
    (
      make_data() | {'label': np.zeros(9, np.int32)},
      r"first axes of \{'image': 10, 'label': 9\}: give one row",
    ),
    (
      changed('image', (slice(4, 6), 0), np.nan),
      r"data\['image'\] holds 4 values that are not finite, the first in "
      'example 4: repair',
    ),
    (changed('image', 9, -np.inf), 'holds 4 values .* example 9'),
    (
      make_data() | {'label': np.zeros(10, np.float32)},
      'must be whole numbers, got float32',
    ),
    (
      changed('label', slice(2, 4), 2),
      r'must be 0 to 1, or -1 where unknown; 2 are not, such as 2 of example 2',
    ),
    (changed('label', 7, -2), '1 are not, such as -2 of example 7'),
  ],
)
def test_what_cannot_be_trained_on_is_refused(data, message):
  with pytest.raises(ValueError, match=message):
    feed.check_arrays(data, classes=2)


def test_values_on_disk_are_looked_at_when_something_broke(tmp_path):
  path = tmp_path / 'x.npy'
  np.save(path, changed('image', 3, np.nan)['image'])
  data = {'image': np.load(path, mmap_mode='r')}
  settings = {'batch_size': 5, 'seeds': (0,), 'mesh': parallel.make_mesh(1)}
  source = feed.Feed(data, **settings)
  # All ten examples are in the two steps of an epoch.
  assert source.bad_inputs(0, 2).startswith("data['image'] holds 4 values")
  good = feed.Feed(stream.of_arrays(make_data()), **settings)
  assert good.bad_inputs(0, 2) == ''


def test_images_of_a_stream_are_not_decoded_again_when_something_broke():
  read = []

  def images(rows):
    read.append(rows)
    return {'image': np.zeros((len(rows), 2, 2, 1), np.uint8)}

  source = feed.Feed(
    stream.Stream(10, images),
    batch_size=5,
    seeds=(0,),
    mesh=parallel.make_mesh(1),
  )
  read.clear()
  assert source.bad_inputs(0, 2) == ''
  assert read == []
