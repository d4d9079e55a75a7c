"""Examples that are read as steps need them, for sets larger than memory.

Which examples form step t is `batches.batch_indices`, as in memory; grain's
threads only read ahead of the step. So a run resumes from its step alone.
"""

import os
import pathlib
from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

import numpy as np

from dim_jax.data import batches, decode, sources

BYTES = 2**28  # read ahead of the step
_THREADS = 16
_STEPS = 500  # read ahead at most


class Stream(NamedTuple):
  """One split, of which nothing is in memory.

  Attributes:
    num_examples: of the split.
    read: `positions [n] -> {name: array [n, ...]}`, from any thread.
    class_names: one a class; () without classes.
    name: of the data set, or the folder it is read from.
    note: what a reader of a result must know of the pixels, as of
      `sources.Dataset`.
  """

  num_examples: int
  read: Callable[[np.ndarray], dict[str, np.ndarray]]
  class_names: tuple[str, ...] = ()
  name: str = ''
  note: str = ''

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

    def read(i: int) -> dict[str, np.ndarray]:
      (rows,) = batches.batch_indices(
        seed, step + i, 1, batch_size=batch_size, num_examples=self.num_examples
      )
      return self.read(rows[columns])

    if not count:
      return
    row_bytes = sum(x.nbytes for x in self.read(np.arange(1)).values())
    step_bytes = row_bytes * len(np.arange(batch_size)[columns])
    ahead = min(max(2, BYTES // max(1, step_bytes)), _STEPS)
    threads = min(decode.cores() + 1, _THREADS, ahead)
    steps = iter(
      grain.MapDataset.range(count)
      .map(read)
      .to_iter_dataset(grain.ReadOptions(threads, ahead))
    )
    try:
      yield from steps
    finally:
      steps.close()


def of_arrays(data: Mapping[str, np.ndarray]) -> Stream:
  """The rows of arrays, some of which are on disk (`numpy.memmap`)."""
  return Stream(
    len(next(iter(data.values()))),
    lambda rows: {name: np.asarray(x[rows]) for name, x in data.items()},
  )


def load(
  name: str | os.PathLike[str],
  split: str,
  *,
  image_size: int | None = None,
  data_dir: str | os.PathLike[str] | None = None,
  validation: float = 0.1,
) -> Stream:
  """A split of images, 'image' and 'label', decoded where they are read.

  The same examples in the same order as `sources.load` gives with the same
  arguments, which see. The headers of a folder's images are read at once.

  Raises:
    ValueError: as of `sources.load`; files are decoded later, where one that
      is damaged raises decode.CorruptError, a ValueError that names it.
    FileNotFoundError: the data set or the folder is not there.
  """
  request = sources.check(name, split, image_size, validation)
  if request.name == 'digits':
    found = sources.load(
      name, split, image_size=image_size, validation=validation
    )
    data = {'image': found.images, 'label': found.labels}
    return of_arrays(data)._replace(
      class_names=found.class_names, name=found.name, note=found.note
    )
  if request.folder is not None:
    return _of_files(request, request.folder, split, validation)
  stored, _ = sources.describe(request, data_dir)
  size = request.image_size or stored.image_shape[0]
  records = decode.Records(stored, size)
  kept = sources.rows(split, stored.num_examples, validation)

  def read(rows: np.ndarray) -> dict[str, np.ndarray]:
    wanted = rows if kept is None else kept[rows]
    images, labels, _ = records.read(wanted.tolist())
    return {'image': images, 'label': labels}

  _, _, jpeg = records.read([0])
  return Stream(
    stored.num_examples if kept is None else len(kept),
    read,
    stored.class_names,
    request.name,
    sources.record_note(stored, size, jpeg),
  )


def _of_files(
  request: sources.Request, root: pathlib.Path, split: str, validation: float
) -> Stream:
  (paths, labels, class_names, note), every = sources.files(request, root)
  (_, _, channels), note = sources.measure(request, every, note)
  kept = sources.rows(split, len(paths), validation)

  def read(rows: np.ndarray) -> dict[str, np.ndarray]:
    wanted = rows if kept is None else kept[rows]
    images = decode.files(
      [paths[i] for i in wanted], request.image_size, channels == 1, threads=1
    )
    return {'image': images, 'label': labels[wanted]}

  return Stream(
    len(paths) if kept is None else len(kept),
    read,
    class_names,
    request.name,
    note,
  )
