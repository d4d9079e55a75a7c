"""Rows on disk: whole or not at all, and never more than was agreed."""

import numpy as np
import pytest

from dim_jax.data import cache

SHAPE = (3, 2)


def values(rows):
  return np.random.default_rng(0).normal(size=(rows, *SHAPE))


def write(path, rows=10, dtype=np.float32, produce=None, **changes):
  every = values(rows)
  settings = {'budget': 10**6, 'batch_size': 4} | changes
  return cache.write(
    path,
    rows,
    SHAPE,
    np.dtype(dtype),
    produce or (lambda first, last: every[first:last]),
    **settings,
  )


def refuse(first, last):
  raise AssertionError(f'rows {first} to {last} were computed')


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_rows_come_back_from_disk_as_they_were(tmp_path, dtype):
  path, done = tmp_path / 'deep' / 'rows.npy', []
  stored = write(path, dtype=dtype, progress=done.append)
  # 10 rows, 4 at a time.
  assert done == [4, 8, 10]
  expected = values(10).astype(dtype)
  for found in (stored, cache.read(path)):
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, expected)
  assert [p.name for p in path.parent.iterdir()] == ['rows.npy']
  size = cache.size(10, SHAPE, np.dtype(dtype))
  # 60 numbers of 4 or 2 bytes, after a header of 128.
  assert size == 60 * np.dtype(dtype).itemsize
  assert path.stat().st_size == size + 128


def test_a_file_beyond_the_budget_is_refused_before_anything(tmp_path):
  path = tmp_path / 'rows.npy'
  with pytest.raises(
    ValueError,
    match=r'1000000 rows of shape \(3, 2\) in float32 take 0.0224 GiB; '
    r'the budget is 0.00195 GiB',
  ):
    # 24 MB; 2 MiB.
    write(path, 1_000_000, produce=refuse, budget=2**21)
  assert not list(tmp_path.iterdir())
  write(path, 10, budget=240)
  with pytest.raises(ValueError, match='the budget is'):
    write(path, 10, budget=239)


def test_a_file_beyond_the_disk_is_refused_before_anything(tmp_path):
  rows = 10**15
  with pytest.raises(ValueError, match=rf'the disk of .{tmp_path}. has free'):
    cache.write(
      tmp_path / 'rows.npy',
      rows,
      SHAPE,
      np.dtype(np.float32),
      refuse,
      budget=10**18,
    )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  # The largest float16 is 65504.
  ('value', 'shown'),
  [(70_000.0, '7e[+]04'), (np.nan, 'nan'), (-1e6, '1e[+]06')],
)
def test_what_float16_cannot_hold_is_refused(tmp_path, value, shown):
  def produce(first, last):
    rows = np.zeros((last - first, *SHAPE), np.float32)
    if first == 4:
      rows[1, 2, 0] = value
    return rows

  with pytest.raises(
    ValueError, match=f'Rows 4 to 7 .* float16 cannot.*largest is {shown}'
  ):
    write(tmp_path / 'rows.npy', dtype=np.float16, produce=produce)
  assert not list(tmp_path.iterdir())


def test_an_interrupted_writer_leaves_what_was_there(tmp_path):
  path = tmp_path / 'rows.npy'

  def interrupted(first, last):
    if first == 8:
      raise KeyboardInterrupt
    return np.zeros((last - first, *SHAPE))

  with pytest.raises(KeyboardInterrupt):
    write(path, produce=interrupted)
  assert not list(tmp_path.iterdir())
  write(path)
  with pytest.raises(KeyboardInterrupt):
    write(path, produce=interrupted)
  assert [p.name for p in tmp_path.iterdir()] == ['rows.npy']
  np.testing.assert_array_equal(cache.read(path), values(10).astype(np.float32))
