"""What feeds the steps: rows of arrays on the devices, or examples read ahead.

Both give the same steps: which examples form step t is decided by
`data.batches` alone.
"""

import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dim_jax.data import examples, stream
from dim_jax.training import grid, parallel, timing
from dim_jax.training import step as step_lib

# Of a device's memory, at most, for examples. Each device holds them all, and
# the compiled steps may hold one more copy: of STL-10's 100,000 unlabelled
# images 2.8 GB, which take 5.5 GB of a TPU v5e's 16.
RESIDENT = 1 / 4
STREAM_BYTES = 2**28  # of examples that are read for one dispatch
_CHECKED_BYTES = 2**26  # of an array that are looked at together

Data = Mapping[str, np.ndarray] | stream.Stream
Result = tuple[step_lib.TrainState, dict[str, jax.Array]]
Chunk = Callable[[step_lib.TrainState, Any, Any], Result]


class Feed:
  """The examples of a run, on their way to its steps.

  Attributes:
    rows: two examples, as the data has them.
    note: says in a line why data in memory are not placed on the devices; ''
      where they are.
  """

  def __init__(
    self,
    data: Data,
    batch_size: int,
    seeds: Sequence[int],
    mesh: jax.sharding.Mesh,
    form: str = 'jit',
    classes: int = 0,
  ):
    """Chooses how examples reach the devices, and looks at what is in memory.

    Args:
      data: arrays of the same first axis, or a stream; arrays of which one is a
        `numpy.memmap`, or that are too large for a device, are streamed.
      batch_size: examples a step.
      seeds: of the order of the examples; for form 'grid' of each run.
      mesh: the devices that hold them.
      form: of the chunk; see `loop.make_chunk`.
      classes: labels must be below it; 0 takes any.

    Raises:
      ValueError: the data cannot be trained on, or is less than a batch.
    """
    self._seeds, self._batch_size = seeds, batch_size
    self._mesh, self._form = mesh, form
    self._reader: Generator[dict[str, np.ndarray], None, None] | None = None
    self._arrays: dict[str, np.ndarray] | None = None
    self.note = ''
    if isinstance(data, stream.Stream):
      self._stream = data
    else:
      check_arrays(data, classes)
      self._stream = stream.of_arrays(data)
      on_disk = any(isinstance(x, np.memmap) for x in data.values())
      if not on_disk and form != 'grid':
        self.note = too_large(data, parallel.memory(mesh))
      if not on_disk and not self.note:
        self._arrays = dict(data)
    if self._arrays is None and form == 'grid':
      raise ValueError(
        'several runs in one program need data in memory: train them one by '
        'one.'
      )
    self.rows = self._stream.read(np.arange(min(2, self._stream.num_examples)))
    self._indices(0, 1)  # Raises where there are too few.

  def start(self, step: int, steps: int) -> None:
    """Places the arrays, or begins to read ahead, after `step` steps."""
    if self._arrays is not None:
      self._resident = parallel.replicate(self._arrays, self._mesh)
      return
    self._reader = self._stream.batches(
      self._seeds[0],
      step,
      steps - step,
      batch_size=self._batch_size,
      columns=_own_columns(self._batch_size, self._mesh),
    )

  def close(self) -> None:
    """Ends the reader: what it reads ahead would keep a stopped process."""
    if self._reader is not None:
      self._reader.close()

  def advance(
    self,
    chunk: Chunk,
    state: step_lib.TrainState,
    step: int,
    count: int,
    times: timing.Times,
  ) -> Result:
    """Takes `count` steps from `step` on; of a stream, whatever comes next."""
    if self._reader is not None:
      return self._advance_stream(self._reader, chunk, state, count, times)
    with times.part('data'):
      indices = self._indices(step, count)
      if self._form == 'grid':
        rows = grid.place(indices, self._mesh)
      else:
        rows = parallel.put_columns(indices[0], self._mesh)
    return chunk(state, self._resident, rows)

  def bad_inputs(self, step: int, count: int) -> str:
    """Names inputs of `count` steps from `step` on that are not finite."""
    if not any(np.issubdtype(x.dtype, np.inexact) for x in self.rows.values()):
      return ''  # Images, which a stream would decode once more.
    for row in self._indices(step, count)[0]:
      for name, x in self._stream.read(np.sort(row)).items():
        if message := non_finite(name, x):
          return message
    return ''

  def _indices(self, step: int, count: int) -> np.ndarray:
    return grid.batch_indices(
      self._seeds,
      step,
      count,
      batch_size=self._batch_size,
      num_examples=self._stream.num_examples,
    )

  def _advance_stream(
    self,
    reader: Generator[dict[str, np.ndarray], None, None],
    chunk: Chunk,
    state: step_lib.TrainState,
    count: int,
    times: timing.Times,
  ) -> Result:
    """The next steps, in parts that memory holds."""
    with times.part('data'):
      read = [next(reader)]
    step_bytes = sum(x.nbytes for x in read[0].values()) * jax.process_count()
    # Parts of one size, so that they share one compiled program.
    parts = next(
      n
      for n in range(1, count + 1)
      if count % n == 0
      and (count // n * step_bytes <= STREAM_BYTES or n == count)
    )
    sums: list[dict[str, jax.Array]] = []
    for _ in range(parts):
      # Read while the devices still work on the part before.
      with times.part('data'):
        read += itertools.islice(reader, count // parts - len(read))
        rows = {name: np.stack([x[name] for x in read]) for name in read[0]}
        read = []
        # No more than two parts wait on the devices.
        jax.block_until_ready(sums[-2:-1])
      state, values = chunk(state, *self._placed(rows, count // parts))
      sums.append(values)
    return state, jax.tree.map(lambda *x: sum(x) / parts, *sums)

  def _placed(self, rows: dict[str, np.ndarray], steps: int) -> tuple[Any, Any]:
    """A chunk's data and indices, of examples [steps, batch, ...]."""
    shape = (steps, self._batch_size)
    if self._form == 'pipeline':
      data = {k: x.reshape(-1, *x.shape[2:]) for k, x in rows.items()}
      positions = np.arange(steps * self._batch_size, dtype=np.int32)
      return (
        parallel.replicate(data, self._mesh),
        parallel.put_columns(positions.reshape(shape), self._mesh),
      )
    return {}, {
      name: jax.make_array_from_process_local_data(
        parallel.columns(self._mesh), x, (*shape, *x.shape[2:])
      )
      for name, x in rows.items()
    }


def too_large(data: Mapping[str, Any], memory: float | None) -> str:
  """Says, in a line, that data would take too much of a device's memory.

  Args:
    data: arrays, or their shapes.
    memory: of a device, in bytes; None where it is unknown.

  Returns:
    The line; '' where each device can hold the data.
  """
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in data.values())
  if memory is None or size <= RESIDENT * memory:
    return ''
  return (
    f'The data are {size / 1e9:.2f} GB, more than a quarter of the '
    f'{memory / 1e9:.2f} GB of a device: they stay in memory here, and '
    'examples are sent as steps need them, in the same order.'
  )


def check_arrays(data: Mapping[str, np.ndarray], classes: int = 0) -> None:
  """Raises ValueError where arrays cannot be trained on.

  Args:
    data: arrays by name. Those on disk are not read for what is not finite.
    classes: labels must be below it; 0 takes any.
  """
  if not data:
    raise ValueError('the training data has no arrays.')
  sizes = {name: len(x) if np.ndim(x) else 0 for name, x in data.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(
      f'the arrays of the training data have first axes of {sizes}: give one '
      'row of each for every example.'
    )
  for name, x in data.items():
    if not isinstance(x, np.memmap) and (message := non_finite(name, x)):
      raise ValueError(f'{message}: repair these examples, or leave them out.')
  examples.check_values(data, classes)
  label = data.get('label')
  if label is None:
    return
  if not np.issubdtype(label.dtype, np.integer):
    raise ValueError(f"data['label'] must be whole numbers, got {label.dtype}.")
  wrong = (label < -1) | (label >= (classes or np.inf))
  if wrong.any():
    accepted = f'0 to {classes - 1}' if classes else 'class numbers from 0'
    raise ValueError(
      f"data['label'] must be {accepted}, or -1 where unknown; {wrong.sum():,} "
      f'are not, such as {label[wrong.argmax()]} of example {wrong.argmax()}.'
    )


def non_finite(name: str, x: np.ndarray) -> str:
  """Says how much of an array is not finite; '' if all of it is."""
  if not np.issubdtype(x.dtype, np.inexact):
    return ''
  rows = max(1, _CHECKED_BYTES // max(1, x[:1].nbytes))
  count, first = 0, 0
  for start in range(0, len(x), rows):
    bad = ~np.isfinite(np.asarray(x[start : start + rows]))
    if not count and bad.any():
      first = start + int(bad.reshape(len(bad), -1).any(1).argmax())
    count += int(bad.sum())
  if not count:
    return ''
  return (
    f'data[{name!r}] holds {count:,} values that are not finite, the first in '
    f'example {first}'
  )


def _own_columns(batch_size: int, mesh: jax.sharding.Mesh) -> np.ndarray:
  """The positions in the global batch that this process's devices hold."""
  indices = parallel.columns(mesh).addressable_devices_indices_map(
    (1, batch_size)
  )
  own = [np.arange(batch_size)[index[1]] for index in indices.values() if index]
  return np.unique(np.concatenate(own))
