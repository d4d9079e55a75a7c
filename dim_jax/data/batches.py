"""Which examples form step t, a pure function of (seed, t); padded batches."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dim_jax import checks, random


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """Orders the examples of one epoch.

  Args:
    seed: in [0, 2**64).
    epoch: in [0, 2**64).
    num_examples: n.

  Returns:
    A read-only permutation of 0..n-1, int32 [n].
  """
  stream = random.Host.EPOCH + epoch
  order = random.order(seed, stream, num_examples).astype(np.int32)
  order.setflags(write=False)
  return order


def batch_indices(
  seed: int, step: int, count: int, *, batch_size: int, num_examples: int
) -> np.ndarray:
  """Chooses the examples of steps `step` to `step + count - 1`.

  Row i depends on (seed, step + i, batch_size, num_examples) and on nothing
  else: neither on `count` nor on the number of hosts or devices. So a resumed
  run needs the seed and the step, and no iterator's state. Within an epoch of
  `num_examples // batch_size` steps no example comes twice; the examples left
  over (fewer than `batch_size`, different ones in each epoch) are dropped.

  Args:
    seed: the run's seed, in [0, 2**64).
    step: the first step, from 0.
    count: how many steps.
    batch_size: the global number of examples in a step.
    num_examples: how many examples the training set has.

  Returns:
    Positions in the training set, int32 [count, batch_size].

  Raises:
    ValueError: an argument is not a whole number or out of range.
  """
  checks.check_range('seed', seed, 'int [0, 2**64)')
  checks.check_range('step', step, 'int [0, inf)')
  checks.check_range('count', count, 'int [0, inf)')
  checks.check_range('batch_size', batch_size, 'int [1, inf)')
  checks.check_range('num_examples', num_examples, 'int [1, 2**31)')
  step, count, batch_size = int(step), int(count), int(batch_size)
  if batch_size > num_examples:
    raise ValueError(
      f'batch_size ({batch_size}) is larger than the {num_examples} training '
      'examples; lower the batch size or take a larger data set.'
    )
  steps_per_epoch = num_examples // batch_size
  indices = np.empty([count, batch_size], np.int32)
  row = 0
  while row < count:
    epoch, first = divmod(step + row, steps_per_epoch)
    rows = min(steps_per_epoch - first, count - row)
    order = permutation(seed, epoch, num_examples)
    order = order[first * batch_size : (first + rows) * batch_size]
    indices[row : row + rows] = order.reshape(rows, batch_size)
    row += rows
  return indices


def pad(rows: np.ndarray, size: int) -> np.ndarray:
  """Appends zeros to the first axis, up to `size` rows."""
  widths = [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
  return np.pad(rows, widths)


def padded(
  batch_size: int, *arrays: np.ndarray
) -> Iterator[tuple[slice, tuple[np.ndarray, ...]]]:
  """Cuts arrays into batches of one size, for programs compiled for one.

  Args:
    batch_size: rows of each batch.
    *arrays: of the same first axis, [n, ...].

  Yields:
    The rows of the arrays that a batch holds, start:stop, and the batch itself,
    of which the last one ends in rows of zeros. So stop - start rows of what is
    computed from it count.
  """
  for start in range(0, len(arrays[0]), batch_size):
    rows = slice(start, min(start + batch_size, len(arrays[0])))
    yield rows, tuple(pad(x[rows], batch_size) for x in arrays)


def map_padded(
  function: Callable[..., Any],
  batch_size: int,
  *arrays: np.ndarray,
  progress: Callable[[int], None] | None = None,
) -> Any:
  """Computes something of each row, in one compiled program's batches.

  Args:
    function: `(i, *batch) -> tree` of arrays, a row for each of batch i's.
    batch_size: rows of each batch; all of them where there are fewer.
    *arrays: of the same first axis, [n, ...], n >= 1; see `padded`.
    progress: called with the number of rows done after each batch.

  Returns:
    The tree, of NumPy arrays of n rows.

  Raises:
    ValueError: the batch size is not a whole number from 1.
  """
  checks.check_range('batch_size', batch_size, 'int [1, inf)')
  n = len(arrays[0])
  # Filled in place: parts and their concatenation would take twice the memory.
  result: Any = None
  for i, (rows, batch) in enumerate(padded(min(batch_size, n), *arrays)):
    values = jax.tree.map(np.asarray, function(i, *batch))
    if result is None:
      result = jax.tree.map(
        lambda x: np.empty([n, *x.shape[1:]], x.dtype), values
      )
    for x, part in zip(*map(jax.tree.leaves, (result, values)), strict=True):
      x[rows] = part[: rows.stop - rows.start]
    if progress is not None:
      progress(rows.stop)
  return result
