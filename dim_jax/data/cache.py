"""Rows on disk that are computed once and read by steps many times."""

import os
import shutil
from collections.abc import Callable

import numpy as np

from dim_jax import files


def write(
  path: str | os.PathLike,
  rows: int,
  shape: tuple[int, ...],
  dtype: np.dtype,
  produce: Callable[[int, int], np.ndarray],
  *,
  budget: int,
  batch_size: int = 64,
  progress: Callable[[int], None] | None = None,
) -> np.memmap:
  """Writes an array row by row, all of it or nothing.

  Args:
    path: of the .npy file.
    rows: how many.
    shape: of one.
    dtype: that they are stored in.
    produce: `(first, last) -> rows first..last-1`, finite in `dtype`.
    budget: the most bytes that the file may take.
    batch_size: rows that are produced at once.
    progress: called with the number of rows done.

  Returns:
    The file as an array that is read where it is used.

  Raises:
    ValueError: the file would pass the budget or the free disk space, which is
      found out before anything is computed; or a value is not finite.
  """
  path = os.fspath(path)
  needed = size(rows, shape, dtype)
  folder = os.path.dirname(path) or '.'
  os.makedirs(folder, exist_ok=True)
  for limit, what in (
    (budget, 'the budget is'),
    (shutil.disk_usage(folder).free, f'the disk of {folder!r} has free'),
  ):
    if needed > limit:
      raise ValueError(
        f'{rows} rows of shape {shape} in {np.dtype(dtype)} take '
        f'{needed / 2**30:.3g} GiB; {what} {limit / 2**30:.3g} GiB.'
      )
  with files.beside(path) as part:
    stored = np.lib.format.open_memmap(
      part, mode='w+', dtype=dtype, shape=(rows, *shape)
    )
    for first in range(0, rows, batch_size):
      last = min(first + batch_size, rows)
      values = produce(first, last)
      with np.errstate(over='ignore'):
        stored[first:last] = values
      if not np.isfinite(stored[first:last]).all():
        raise ValueError(
          f'Rows {first} to {last - 1} hold values that {np.dtype(dtype)} '
          f'cannot: their largest is {np.abs(values).max():.3g}.'
        )
      if progress is not None:
        progress(last)
    stored.flush()
    del stored
  return read(path)


def read(path: str | os.PathLike) -> np.memmap:
  """Opens the array that `write` stored, left on disk until it is used."""
  return np.load(path, mmap_mode='r')


def size(rows: int, shape: tuple[int, ...], dtype: np.dtype) -> int:
  """Counts the bytes of so many rows."""
  return rows * int(np.prod(shape)) * np.dtype(dtype).itemsize
