"""Data sets that TFDS prepared: where they lie, and how their images are read.

TFDS reads its array_record files without TensorFlow.
"""

import itertools
import os
import pathlib
import re
import shlex
import threading
import warnings
from typing import Any, NamedTuple

import numpy as np

from dim_jax import files
from dim_jax.data import decode, folders
from dim_jax.data.stream import Source, Stream

import_lock = threading.Lock()
_CACHE_FORMAT = 2  # raise it when what cached arrays mean changes


def import_tfds() -> Any:
  """Imports tensorflow_datasets, late (it is slow) and quietly."""
  with import_lock, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import tensorflow_datasets as tfds
  return tfds


def data_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns the folder of prepared data sets.

  Args:
    data_dir: that folder; None takes $TFDS_DATA_DIR, or else TFDS's default.
  """
  root = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return pathlib.Path(root).expanduser()


def prepare_command(name: str, root: pathlib.Path) -> str:
  """Returns the command that prepares a data set in the folder `root`."""
  return (
    "pip install 'dim_jax[prepare]' && python -m dim_jax.data.prepare "
    f'{name} --data_dir={shlex.quote(os.fspath(root))}'
  )


def newest(
  name: str,
  root: pathlib.Path,
  instead: str = "take 'digits', which needs no files",
) -> pathlib.Path:
  """Finds the folder of the newest prepared version of a data set.

  By itself: TFDS would ask its bucket about what is not here.

  Args:
    name: of the data set.
    root: the folder of prepared data sets.
    instead: what an error tells a user to do where nothing can be prepared.

  Raises:
    FileNotFoundError: it is not there; says how to prepare it.
  """
  versions: list[tuple[tuple[int, ...], pathlib.Path]] = []
  # Of a data set with variants, TFDS's 'default' is the plain one.
  for pattern in (f'{name}/*', f'{name}/default/*'):
    for info in root.glob(f'{pattern}/dataset_info.json'):
      if re.fullmatch(r'\d+\.\d+\.\d+', info.parent.name):
        version = tuple(int(part) for part in info.parent.name.split('.'))
        versions.append((version, info.parent))
  if versions:
    return max(versions)[1]
  infos = root.glob('*/*/dataset_info.json')
  names = ', '.join(sorted({path.parts[-3] for path in infos}))
  present = f'it holds {names or "none"}'
  if not root.is_dir():
    present = 'no such folder'
  raise FileNotFoundError(
    f'The data set {name!r} is not prepared in {root} ({present}). Point '
    'TFDS_DATA_DIR or --config.data.data_dir at a folder that has it, or '
    f'prepare it: {prepare_command(name, root)}; or {instead}.'
  )


class _Split(NamedTuple):
  """One split of a data set, as TFDS's own metadata describe it."""

  name: str
  stored: str
  root: pathlib.Path
  folder: pathlib.Path
  files: dict[str, int]  # examples by path
  shape: tuple[int, int, int]
  class_names: tuple[str, ...]

  def file_of(self, index: int) -> str:
    """Names the file that holds an example."""
    ends = itertools.accumulate(self.files.values())
    pairs = zip(self.files, ends, strict=True)
    return next((path for path, end in pairs if index < end), [*self.files][-1])

  def damaged(self, index: int, error: Exception) -> decode.CorruptError:
    """Returns the error of an example that cannot be read."""
    return decode.CorruptError(
      f'{damaged(self.file_of(index), error)} Delete {self.folder} and prepare '
      f'it again: {prepare_command(self.name, self.root)}'
    )


def source(
  name: str,
  stored: str,
  size: int | None,
  data_dir: str | os.PathLike[str] | None,
) -> Source:
  """Finds a split of images.

  Args:
    name: of the data set.
    stored: the split, as TFDS calls it.
    size: height and width of the images; None for the stored size.
    data_dir: as of `data_root`.

  Raises:
    FileNotFoundError: the data set, or a file of it, is not there.
    ValueError: its metadata cannot be read, or it has another format.
  """
  root = data_root(data_dir)
  split = _describe(name, stored, root, newest(name, root))
  folder, size = split.folder, size or split.shape[0]
  digest = folders.file_digest(
    _CACHE_FORMAT, ((os.path.basename(path), path) for path in split.files)
  )
  for metadata in sorted([*folder.glob('*.json'), *folder.glob('*.txt')]):
    digest.update(metadata.read_bytes())
  return Source(
    sum(split.files.values()),
    split.class_names,
    f'{name}-{folder.name}-{stored}-{size}-{digest.hexdigest()[:16]}.npz',
    lambda: _open(split, size),
  )


def _describe(
  name: str, stored: str, root: pathlib.Path, folder: pathlib.Path
) -> _Split:
  """Reads TFDS's metadata of a split, and checks them against its files."""
  tfds = import_tfds()
  again = f'Prepare it again: {prepare_command(name, root)}'
  try:
    info = tfds.builder_from_directory(folder).info
    kind = info.file_format.value
    shape = tuple(info.features['image'].shape)
    class_names = tuple(info.features['label'].names)
    part = info.splits[stored]
    paths = [os.fspath(path) for path in part.filepaths]
    counts = [int(count) for count in part.shard_lengths]
  except Exception as error:  # TFDS documents no type for bad metadata
    raise ValueError(
      f'The metadata of {name} in {folder} cannot be read '
      f'({files.reason(error)}). {again}'
    ) from error
  check_files(name, root, folder, kind, paths)
  if len(shape) != 3 or shape[2] not in (1, 3) or None in shape:
    raise ValueError(
      f'{folder} holds images of shape {shape}; one fixed [H, W, C] with C 1 '
      f'or 3 is accepted. {again}'
    )
  if stored == folders.UNLABELLED:
    class_names = ()
  located = dict(zip(paths, counts, strict=True))
  return _Split(name, stored, root, folder, located, shape, class_names)


def _open(split: _Split, size: int) -> Stream:
  """Opens a split, whose examples are decoded where they are read."""
  tfds = import_tfds()
  try:
    builder = tfds.builder_from_directory(split.folder)
    records = builder.as_data_source(
      split=split.stored, decoders={'image': tfds.decode.SkipDecoding()}
    )
    jpeg = records[0]['image'][:3] == b'\xff\xd8\xff'
  except Exception as error:  # TFDS documents no type for a bad file
    raise split.damaged(0, error) from error

  def read(rows: np.ndarray) -> dict[str, np.ndarray]:
    images = np.empty([len(rows), size, size, split.shape[2]], np.uint8)
    labels = np.empty([len(rows)], np.int32)
    # Whatever goes wrong from here on, with whatever type, a record caused it.
    try:
      found = iter(records.__getitems__(rows.tolist()))
    except Exception:
      # All are read before the first comes; one by one tell which it is.
      found = (records[row] for row in rows.tolist())
    for i, row in enumerate(rows):
      try:
        record = next(found)
        labels[i] = record['label']
        images[i] = decode.record(record['image'], split.shape, size)
        if not _is_label(labels[i], split.class_names):
          raise ValueError(f'a label {labels[i]}')
      except Exception as error:
        raise split.damaged(row, error) from error
    return {'image': images, 'label': labels}

  notes = [
    'JPEG-recompressed copy, not the original pixels' if jpeg else '',
    decode.resize_note(split.shape, size),
  ]
  return Stream(
    sum(split.files.values()),
    read,
    split.class_names,
    split.name,
    '; '.join(filter(None, notes)),
  )


def _is_label(label: int, class_names: tuple[str, ...]) -> bool:
  return 0 <= label < len(class_names) if class_names else label == -1


def check_files(
  name: str,
  root: pathlib.Path,
  folder: pathlib.Path,
  kind: str,
  paths: list[str],
) -> None:
  """Checks that the files of a data set are there, and of the right format.

  Args:
    name: of the data set.
    root: the folder of prepared data sets.
    folder: of this one, ending in its version.
    kind: the format that its metadata name.
    paths: the files that they list.

  Raises:
    FileNotFoundError: a file is not there.
    ValueError: the format is not array_record.
  """
  if kind != 'array_record':
    raise ValueError(
      f'{folder} is prepared as {kind}; only array_record can be read without '
      'TensorFlow. Prepare it again, in another folder: '
      f'{prepare_command(name, root.parent / "array_record")}'
    )
  for path in paths:
    if not os.path.exists(path):
      raise FileNotFoundError(
        f'{path} is missing, though {folder} lists it. Delete {folder}. '
        f'Prepare it again: {prepare_command(name, root)}'
      )


def damaged(path: object, error: Exception) -> decode.CorruptError:
  """Returns the error of a file that cannot be read."""
  return decode.CorruptError(f'{path} is damaged ({files.reason(error)}).')
