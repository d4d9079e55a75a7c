"""The buffer between two modules: bounded, whole, of one run alone."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import files
from dim_jax.training import replay_buffer


def write(buffer, *numbers):
  for number in numbers:
    buffer.write(number, np.full((2, 3), number, np.float32), None)


def test_holds_the_newest_and_drops_the_oldest(tmp_path):
  buffer = replay_buffer.ReplayBuffer(str(tmp_path / 'b'), 3, 'run')
  assert buffer.numbers() == []
  write(buffer, 0, 1, 2, 3, 4)
  assert buffer.numbers() == [2, 3, 4]
  batch = buffer.read(3)
  np.testing.assert_array_equal(batch.features, np.full((2, 3), 3))
  assert batch.number == 3 and batch.labels is None
  assert buffer.read(1) is None
  labels = np.array([4, -1], np.int32)
  buffer.write(5, np.zeros((2, 3), np.float32), labels)
  np.testing.assert_array_equal(buffer.read(5).labels, labels)
  assert buffer.last_read() == -1
  buffer.mark_read(4)
  # As another process sees it.
  again = replay_buffer.ReplayBuffer(str(tmp_path / 'b'), 3, 'run')
  assert again.last_read() == 4 and again.numbers() == [3, 4, 5]


def test_features_of_half_precision_come_back(tmp_path):
  buffer = replay_buffer.ReplayBuffer(str(tmp_path), 3, 'run')
  features = jnp.asarray([[1.5, -0.25]], jnp.bfloat16)
  buffer.write(0, np.asarray(features), None)
  read = buffer.read(0).features
  assert read.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(read, np.float32), [[1.5, -0.25]])


def test_comes_back_as_it_was_beside_a_checkpoint(tmp_path):
  buffer = replay_buffer.ReplayBuffer(str(tmp_path), 2, 'run')
  for label, numbers in enumerate(((0, 1), (2,), (3,)), 1):
    write(buffer, *numbers)
    buffer.mark_read(numbers[-1])
    buffer.save(label, keep=2)
  write(buffer, 4, 5)
  assert sorted(x for x in os.listdir(tmp_path) if x.startswith('saved')) == [
    'saved_2',
    'saved_3',
  ]
  (tmp_path / 'saved_4.0.tmp').mkdir()
  (tmp_path / 'saved_4.0.tmp' / '000000000003.npz').touch()
  (tmp_path / '000000000006.npz.0.tmp').touch()
  buffer.restore(2)
  assert not list(tmp_path.glob('*.tmp'))
  assert buffer.numbers() == [1, 2] and buffer.last_read() == 2
  # What was saved after it is of another future.
  assert not (tmp_path / 'saved_3').exists()
  buffer.restore(0)
  assert buffer.numbers() == [] and buffer.last_read() == -1


def test_a_folder_of_another_run_is_refused(tmp_path):
  replay_buffer.ReplayBuffer(str(tmp_path / 'b'), 2, 'run')
  with pytest.raises(ValueError, match='holds features of another run'):
    replay_buffer.ReplayBuffer(str(tmp_path / 'b'), 2, 'other')
  (tmp_path / 'c').mkdir()
  (tmp_path / 'c' / 'thesis.tex').touch()
  with pytest.raises(ValueError, match='is no buffer of features and not empt'):
    replay_buffer.ReplayBuffer(str(tmp_path / 'c'), 2, 'run')


def test_two_processes_may_open_a_buffer_at_once(tmp_path, monkeypatch):
  # The other one made it, and wrote, after this one saw no origin.
  read, calls = files.read_json, []

  def late(path):
    calls.append(path)
    if len(calls) == 1:
      other = replay_buffer.ReplayBuffer(str(tmp_path), 2, 'run')
      write(other, 0)
      return {}
    return read(path)

  monkeypatch.setattr(files, 'read_json', late)
  buffer = replay_buffer.ReplayBuffer(str(tmp_path), 2, 'run')
  assert buffer.numbers() == [0]


def test_the_newest_goes_first_and_then_any():
  assert replay_buffer.choose([3, 4, 5], 4, 0, 1, 10) == 5
  drawn = [
    replay_buffer.choose([3, 4, 5], 5, 0, 1, step) for step in range(600)
  ]
  # Uniform: 200 of each; the standard deviation is sqrt(600 * 2 / 9) = 11.5.
  for number in (3, 4, 5):
    assert abs(drawn.count(number) - 200) < 46
  # A pure function of seed, module and step.
  assert drawn == [
    replay_buffer.choose([3, 4, 5], 5, 0, 1, step) for step in range(600)
  ]
  others = [replay_buffer.choose([3, 4, 5], 5, 1, 1, s) for s in range(600)]
  assert others != drawn
