"""Decodes images, those of a prepared TFDS split or those in files.

A split is read in chunks and on many cores. Pillow decodes a 32x32 image in
about 0.1 ms, most of which holds the interpreter's lock: two threads measured
no faster than one. So a large split is divided among worker processes, each of
which runs this file and writes raw arrays to its standard output. (Workers of
`multiprocessing` would run the caller's script again if it has no `__main__`
guard.)
"""

import concurrent.futures
import contextlib
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_CHUNK = 500  # records read, decoded and reported at a time
_PER_WORKER = 5000  # below this, a worker's start-up costs more than it saves
import_lock = threading.Lock()


class CorruptError(ValueError):
  """A file of a data set is damaged."""


class Split(NamedTuple):
  """Where the records of one split lie.

  Attributes:
    folder: of the prepared data set, ending in its version.
    name: of the split, such as 'train'.
    files: of the split, with the number of examples in each.
    image_shape: [H, W, C] as stored.
    class_names: one a label; () where every label is -1.
  """

  folder: str
  name: str
  files: tuple[tuple[str, int], ...]
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]

  @property
  def num_examples(self) -> int:
    """Examples in all files."""
    return sum(count for _, count in self.files)

  def file_of(self, index: int) -> str:
    """The file that holds example `index`."""
    for path, count in self.files:
      if index < count:
        return path
      index -= count
    return self.files[-1][0]


def import_tfds() -> Any:
  """tensorflow_datasets, imported late (it is slow) and quietly."""
  with import_lock, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import tensorflow_datasets as tfds
  return tfds


def _image(data: bytes, shape: tuple[int, int, int], size: int) -> np.ndarray:
  from PIL import Image

  with Image.open(io.BytesIO(data)) as file:
    mode = {1: 'L', 3: 'RGB'}[shape[2]]
    image = file if file.mode == mode else file.convert(mode)
    if (image.height, image.width) != shape[:2]:
      raise ValueError(
        f'an image of {image.height}x{image.width} instead of '
        f'{shape[0]}x{shape[1]} pixels'
      )
    return resize(np.asarray(image).reshape(shape), size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
  """An image uint8 [H, W, C], C in {1, 3}, bilinearly resized (Pillow)."""
  from PIL import Image

  if image.shape[:2] == (size, size):
    return image
  pixels = image[:, :, 0] if image.shape[2] == 1 else image
  resized = Image.fromarray(pixels).resize(
    (size, size), Image.Resampling.BILINEAR
  )
  return np.asarray(resized).reshape(size, size, image.shape[2])


class Records:
  """The examples of a split, decoded where they are read.

  Threads may share one.
  """

  def __init__(self, split: Split, size: int):
    self._split, self._size = split, size
    tfds = import_tfds()
    try:
      builder = tfds.builder_from_directory(split.folder)
      self._source = builder.as_data_source(
        split=split.name, decoders={'image': tfds.decode.SkipDecoding()}
      )
    except Exception as error:  # TFDS documents no type for a bad file
      raise _corrupt(split.file_of(0), error) from error

  def read(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Decodes the examples at these positions, in this order.

    Returns:
      images uint8 [n, size, size, C], labels int32 [n], and whether any of
      them was stored as JPEG.

    Raises:
      CorruptError: a file is truncated or garbled; names it.
    """
    split, size = self._split, self._size
    images = np.empty([len(rows), size, size, split.image_shape[2]], np.uint8)
    labels = np.empty([len(rows)], np.int32)
    jpeg = False
    row = rows[0]
    # Whatever goes wrong from here on, with whatever type, a record caused it.
    try:
      for i, record in enumerate(self._source.__getitems__(list(rows))):
        row = rows[i]
        data, labels[i] = record['image'], record['label']
        jpeg = jpeg or data[:3] == b'\xff\xd8\xff'
        images[i] = _image(data, split.image_shape, size)
        if not _has_name(labels[i], split.class_names):
          raise ValueError(f'a label {labels[i]}')
    except Exception as error:
      raise _corrupt(split.file_of(row), error) from error
    return images, labels, jpeg


def _corrupt(path: str, error: Exception) -> CorruptError:
  return CorruptError(f'{path} is damaged ({_reason(error)})')


def _reason(error: Exception) -> str:
  return ' '.join(str(error).split())[:200] or type(error).__name__


def chunks(
  split: Split, size: int, first: int, last: int
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
  """Decodes examples `first` to `last - 1` in this process.

  Yields:
    What `Records.read` returns, of some examples at a time.

  Raises:
    CorruptError: a file is truncated or garbled; names it.
  """
  records = Records(split, size)
  for start in range(first, last, _CHUNK):
    yield records.read(range(start, min(start + _CHUNK, last)))


def _has_name(label: int, class_names: tuple[str, ...]) -> bool:
  return 0 <= label < len(class_names) if class_names else label == -1


class _Worker:
  """Decodes one range of a split in a process, into slices of arrays."""

  def __init__(self, split: Split, size: int, first: int, last: int):
    self._range = first, last
    self._errors = tempfile.TemporaryFile()  # a pipe that fills would block
    self._thread: threading.Thread | None = None
    task = json.dumps([split, size, first, last])
    # -P: the modules beside this file must not hide others of the same name.
    self.process = subprocess.Popen(
      [sys.executable, '-P', __file__, task],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=self._errors,
    )
    self.jpeg = False
    self.complete = False
    self.error = ''

  def start(
    self,
    images: np.ndarray,
    labels: np.ndarray,
    advance: Callable[[int], None],
  ) -> None:
    """Begins to fill this worker's slices, in a thread of the parent."""
    self._thread = threading.Thread(
      target=self._read, args=(images, labels, advance), daemon=True
    )
    self._thread.start()

  def _read(
    self,
    images: np.ndarray,
    labels: np.ndarray,
    advance: Callable[[int], None],
  ) -> None:
    first, last = self._range
    flag = np.zeros([1], np.uint8)
    for start in range(first, last, _CHUNK):
      stop = min(start + _CHUNK, last)
      for array in (images[start:stop], labels[start:stop], flag):
        if not _read_into(self.process.stdout, array):
          return
      self.jpeg = self.jpeg or bool(flag[0])
      advance(stop - start)
    self.complete = True

  def wait(self) -> None:
    if self._thread is not None:
      self._thread.join()

  def close(self) -> None:
    """Ends the process where it still runs, and keeps its last words."""
    if not (self.complete or self._thread is None or self._thread.is_alive()):
      # It closed its output: leave it a moment to say why.
      with contextlib.suppress(subprocess.TimeoutExpired):
        self.process.wait(5)
    self.process.kill()
    self.process.wait()
    self.wait()
    if self.process.stdout is not None:
      self.process.stdout.close()
    self._errors.seek(0)
    lines = self._errors.read().decode(errors='replace').strip().splitlines()
    self.error = lines[-1] if lines else ''
    self._errors.close()


def _read_into(pipe: Any, array: np.ndarray) -> bool:
  """Fills a contiguous array from a pipe; False where the pipe ended."""
  view = array.reshape(-1).view(np.uint8).data
  done = 0
  while done < len(view):
    count = pipe.readinto(view[done:])
    if not count:
      return False
    done += count
  return True


def cores() -> int:
  """CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def decode(
  split: Split,
  size: int,
  advance: Callable[[int], None],
  workers: int | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
  """Decodes a whole split.

  Args:
    split: the split.
    size: height and width of the images returned.
    advance: called with the number of examples just done, from any thread.
    workers: processes; None takes one a core where the split is large enough,
      1 decodes in this process.

  Returns:
    images uint8 [n, size, size, C], labels int32 [n], and whether any image
    was stored as JPEG.

  Raises:
    CorruptError: a file is truncated or garbled; names it.
    RuntimeError: a worker died (memory, a signal).
  """
  count = split.num_examples
  images = np.empty([count, size, size, split.image_shape[2]], np.uint8)
  labels = np.empty([count], np.int32)
  if workers is None:
    workers = min(cores(), count // _PER_WORKER) if sys.executable else 1
  if workers <= 1:
    jpeg, start = False, 0
    for some_images, some_labels, some_jpeg in chunks(split, size, 0, count):
      stop = start + len(some_labels)
      images[start:stop], labels[start:stop] = some_images, some_labels
      jpeg = jpeg or some_jpeg
      advance(stop - start)
      start = stop
    return images, labels, jpeg

  edges = np.linspace(0, count, workers + 1).astype(int).tolist()
  pool: list[_Worker] = []
  try:
    for first, last in itertools.pairwise(edges):
      pool.append(_Worker(split, size, first, last))
    for worker in pool:
      worker.start(images, labels, advance)
    for worker in pool:
      worker.wait()
  finally:
    for worker in pool:
      worker.close()
  for worker in pool:
    if worker.error.startswith(_CORRUPT):
      raise CorruptError(worker.error.removeprefix(_CORRUPT))
  for worker in pool:
    if not worker.complete:
      raise RuntimeError(
        f'A process that decodes {split.folder} ended early (exit status '
        f'{worker.process.returncode}): {worker.error or "killed?"}'
      )
  return images, labels, any(worker.jpeg for worker in pool)


# --- files --------------------------------------------------------------------


class Header(NamedTuple):
  """What the first bytes of an image file say.

  Attributes:
    height: pixels.
    width: pixels.
    gray: whether it has one channel, transparency apart.
  """

  height: int
  width: int
  gray: bool


def _each(
  function: Callable[[pathlib.Path], Any],
  paths: Sequence[pathlib.Path],
  threads: int,
) -> Iterator[Any]:
  """`function` of each file, in order, in threads; errors name the file."""

  def named(path: pathlib.Path) -> Any:
    try:
      return function(path)
    except Exception as error:  # Pillow documents no type for a bad file
      raise CorruptError(
        f'{path} cannot be decoded ({_reason(error)}); repair it or remove it.'
      ) from error

  if threads == 1:
    yield from map(named, paths)
    return
  # Unlike tiny images, photographs spend most of their time outside the lock.
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    yield from pool.map(named, paths)


def _header(path: pathlib.Path) -> Header:
  from PIL import Image

  with Image.open(path) as image:
    if image.mode.startswith(('I', 'F')):
      raise ValueError(
        f'its pixels are of mode {image.mode!r}, more than 8 bits; convert it '
        'to 8 bits a channel'
      )
    gray = image.mode in ('1', 'L', 'LA', 'La')
    return Header(image.height, image.width, gray)


def headers(paths: Sequence[pathlib.Path]) -> list[Header]:
  """The sizes and kinds of image files, without decoding them.

  Raises:
    CorruptError: a file is no image, or has more than 8 bits a channel; names
      it.
  """
  return list(_each(_header, paths, cores()))


def _file(path: pathlib.Path, size: int | None, gray: bool) -> np.ndarray:
  from PIL import Image

  with Image.open(path) as file:
    # Straight to RGB, Pillow would warn of a palette's transparency.
    image = file.convert('RGBA') if 'transparency' in file.info else file
    image = image.convert('L' if gray else 'RGB')
  if size is not None:
    shorter = min(image.size)
    width, height = (round(side * size / shorter) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
  return np.asarray(image).reshape(image.height, image.width, -1)


def files(
  paths: Sequence[pathlib.Path],
  size: int | None,
  gray: bool,
  advance: Callable[[int], None] = lambda count: None,
  threads: int | None = None,
) -> np.ndarray:
  """Decodes image files, the first frame of each.

  Args:
    paths: the files, at least one.
    size: the shorter side is resized to it (Pillow, bilinear) and the centre
      [size, size] is kept; None keeps the stored pixels, of one size in all
      files.
    gray: whether to return one channel, else red, green and blue.
    advance: called with the number of files just done.
    threads: that decode; None takes one a core.

  Returns:
    uint8 [n, H, W, C], C is 1 or 3.

  Raises:
    CorruptError: a file is truncated or garbled; names it.
  """
  decoded = _each(
    lambda path: _file(path, size, gray), paths, threads or cores()
  )
  images = np.empty([0], np.uint8)
  for i, image in enumerate(decoded):
    if i == 0:
      images = np.empty([len(paths), *image.shape], np.uint8)
    images[i] = image
    advance(1)
  return images


# --- the worker ---------------------------------------------------------------

_CORRUPT = 'corrupt: '


def _work(task: str, output: BinaryIO) -> int:
  """The worker: decodes the range that `task` names, as JSON."""
  fields, size, first, last = json.loads(task)
  folder, name, files, shape, class_names = fields
  split = Split(
    folder=folder,
    name=name,
    files=tuple((path, count) for path, count in files),
    image_shape=tuple(shape),
    class_names=tuple(class_names),
  )
  try:
    for images, labels, jpeg in chunks(split, size, first, last):
      output.write(images.tobytes())
      output.write(labels.tobytes())
      output.write(bytes([jpeg]))
    output.flush()
  except CorruptError as error:
    print(f'{_CORRUPT}{error}', file=sys.stderr)
    return 1
  except BrokenPipeError:  # the parent has gone
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(_work(sys.argv[1], sys.stdout.buffer))
