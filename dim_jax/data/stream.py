"""Examples that are read as steps need them, for sets larger than memory.

Which examples form step t is `batches.batch_indices`, as in memory; grain's
threads only read ahead of the step. So a run resumes from its step alone.
"""

import itertools
import math
from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

import numpy as np

from dim_jax.data import batches, decode

BYTES = 2**28  # read ahead of the step
_THREADS = 16
_STEPS = 500  # read ahead at most
_PIECE = 32  # examples that a thread reads at a time


class Stream(NamedTuple):
  """One split of a data set, of which nothing is in memory.

  Attributes:
    num_examples: of the split.
    read: `positions [n] -> {name: array [n, ...]}`, from any thread.
    class_names: one a class; () without classes.
    name: of the data set, or the folder it is read from.
    note: as of `examples.Examples`.
  """

  num_examples: int
  read: Callable[[np.ndarray], dict[str, np.ndarray]]
  class_names: tuple[str, ...] = ()
  name: str = ''
  note: str = ''

  def take(self, rows: np.ndarray) -> 'Stream':
    """Selects examples by their positions."""
    return self._replace(
      num_examples=len(rows), read=lambda chosen: self.read(rows[chosen])
    )

  def batches(
    self,
    seed: int,
    step: int,
    count: int,
    *,
    batch_size: int,
    columns: slice | np.ndarray = slice(None),
  ) -> Generator[dict[str, np.ndarray], None, None]:
    """Reads the batches of steps `step` to `step + count - 1`, ahead of time.

    Args:
      seed: the run's.
      step: the first step, from 0.
      count: how many steps.
      batch_size: the global number of examples in a step.
      columns: the positions in the global batch that this process reads.

    Yields:
      {name: array [n, ...]} of one step, the columns alone.

    Raises:
      ValueError: sizes do not fit, or a file cannot be decoded; names it.
    """
    # Imported late: it is slow, and most runs have their examples in memory.
    import grain

    own = np.arange(batch_size)[columns]
    # Not whole steps: of large ones few are read ahead, by as few threads.
    pieces = max(1, math.ceil(len(own) / _PIECE))

    def read(i: int) -> dict[str, np.ndarray]:
      (rows,) = batches.batch_indices(
        seed,
        step + i // pieces,
        1,
        batch_size=batch_size,
        num_examples=self.num_examples,
      )
      return self.read(np.array_split(rows[own], pieces)[i % pieces])

    if not count:
      return
    row_bytes = sum(x.nbytes for x in self.read(np.arange(1)).values())
    step_bytes = row_bytes * len(own)
    ahead = pieces * min(max(2, BYTES // max(1, step_bytes)), _STEPS)
    threads = min(decode.cores() + 1, _THREADS, ahead)
    parts = iter(
      grain.MapDataset.range(count * pieces)
      .map(read)
      .to_iter_dataset(grain.ReadOptions(threads, ahead))
    )
    try:
      while step_parts := list(itertools.islice(parts, pieces)):
        yield {
          name: np.concatenate([part[name] for part in step_parts])
          for name in step_parts[0]
        }
    finally:
      parts.close()


def of_arrays(data: Mapping[str, np.ndarray]) -> Stream:
  """Streams the rows of arrays, some of them on disk (`numpy.memmap`)."""
  return Stream(
    len(next(iter(data.values()))),
    lambda rows: {name: np.asarray(x[rows]) for name, x in data.items()},
  )


class Source(NamedTuple):
  """A stored split of images, before a validation set is taken out of it.

  Attributes:
    num_examples: of the stored split.
    class_names: one a class; () without classes.
    cache: name of the file that keeps the decoded images; '' for none. It
      changes when what it holds would.
    open: the split as a stream of 'image' and 'label'. It looks at all files
      first, of which an intact cache has no need.
  """

  num_examples: int
  class_names: tuple[str, ...]
  cache: str
  open: Callable[[], Stream]
