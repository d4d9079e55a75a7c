"""Loads data sets as arrays: decoded once, cached, never with TensorFlow."""

import contextlib
import difflib
import hashlib
import logging
import math
import os
import pathlib
import re
import shlex
import time
import zipfile
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from dim_jax import files as files_lib
from dim_jax import progress as progress_lib
from dim_jax import random
from dim_jax.data import decode, folders, splits

_logger = logging.getLogger(__name__)

NAMES = ('digits', 'mnist', 'cifar10', 'cifar100', 'stl10')
SPLITS = ('train', 'validation', 'test')  # of every data set
UNLABELLED = folders.UNLABELLED  # of stl10, and of folders that have it

_CACHE_FORMAT = 2  # raise it when what the cached arrays mean changes
_STALE_SECONDS = 24 * 3600  # a temporary file this old has lost its writer


class Dataset(NamedTuple):
  """One split of a data set, in memory.

  Attributes:
    images: uint8 [n, H, W, C], C is 1 or 3.
    labels: int32 [n], positions in `class_names`; -1 without classes.
    class_names: one a class; () without classes.
    name: of the data set, or the folder it was read from.
    note: what a reader of a result must know about the pixels, such as that
      they were compressed as JPEG or resized; '' for the original pixels.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  name: str
  note: str


class _Arrays(NamedTuple):
  """A stored split before the validation set is taken out of it."""

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  note: str


def load(
  name: str | os.PathLike[str],
  split: str,
  *,
  image_size: int | None = None,
  data_dir: str | os.PathLike[str] | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
  validation: float = 0.1,
  progress: bool = True,
) -> Dataset:
  """Loads a split of a data set.

  'digits' comes with scikit-learn and needs no files: 1,797 images of 8x8
  pixels with 17 grey levels, from the test part of the UCI "Optical
  Recognition of Handwritten Digits". They are enlarged to `image_size`
  (32 unless told). A fixed 20 % of each class, 359 images, is the test set;
  1,438 images are left for training and validation. The split is ours: it
  knows nothing of the writers, so numbers compare only within this library.

  'mnist', 'cifar10', 'cifar100' and 'stl10' are read from a prepared TFDS
  folder in the array_record format. The first load decodes them into a cache;
  later ones read that. Nothing touches the network. 'stl10' has also the split
  'unlabelled': 100,000 images of 96x96 (2.8 GB), all of them whatever
  `validation` is, with labels -1.

  Any other name is a path, if it contains a separator ('./birds') or is an
  existing directory: a folder of images, cached likewise. It holds
  train/CLASS/* and test/CLASS/*; or CLASS/*, of which a fixed random 20 % of
  each class is the test set; or images without classes, in train/ and test/ or
  all in one place, whose labels are -1. A folder unlabelled/ beside them is the
  split 'unlabelled', and train/ needs no test/ then: a fifth of it is. Tiny
  ImageNet is taken as it was unzipped: wnids.txt, words.txt, train/ and val/,
  whose images are the test set, as nobody has the labels of test/. Hidden files
  and files that are no images by their ending are passed over. Images become
  gray if all files are gray, else RGB; transparency and the EXIF orientation
  are ignored. Their order is random but fixed, so that the first n are of all
  classes.

  The validation set is a fixed random part of the training set and the same
  for every run, whatever its seed; 'train' is the rest. At the default of
  0.1: digits 1,294 and 144, mnist 54,000 and 6,000, cifar 45,000 and 5,000,
  stl10 4,500 and 500.

  Args:
    name: digits, mnist, cifar10, cifar100, stl10, or the path of a folder of
      images.
    split: train, validation or test; for stl10 and folders that
      have it also unlabelled.
    image_size: height and width to resize to (Pillow, bilinear). Of the images
      in a folder the shorter side is resized to it, and the centre square is
      kept. None keeps the stored size (28 for mnist, 96 for stl10, 32 for the
      others), which must be the same for all images of a folder.
    data_dir: the folder of prepared TFDS data sets; None takes
      $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    cache_dir: where decoded arrays are kept; None takes $DIM_JAX_CACHE, or
      else ~/.cache/dim_jax.
    validation: the part of the training set kept for validation, in [0, 1);
      0 gives all of it to 'train'.
    progress: shows the progress of a first load on standard error.

  Returns:
    The split. Its order is that of the source, but for folders of images.

  Raises:
    ValueError: an argument that is not accepted, a damaged file, a folder of
      images that is laid out otherwise, or more than fits into memory.
    FileNotFoundError: the data set is not prepared (says how to prepare it),
      or there is no such folder.

  References:
    [TFDS catalogue](https://www.tensorflow.org/datasets/catalog/overview);
    [digits](https://archive.ics.uci.edu/dataset/80).
  """
  request = check(name, split, image_size, validation)
  if request.folder is not None:
    arrays = _in_folder(request, request.folder, cache_dir, progress)
  elif request.name == 'digits':
    arrays = _digits(request.stored, request.image_size or 32)
  else:
    arrays = _prepared(request, data_dir, cache_dir, progress)
  images, labels, class_names, note = arrays
  kept = rows(split, len(labels), validation)
  if kept is not None:
    images, labels = images[kept], labels[kept]
  return Dataset(images, labels, class_names, request.name, note)


class Request(NamedTuple):
  """What a caller of `load` wants, checked.

  Attributes:
    name: of the data set, or the path of a folder.
    folder: that path; None for a data set.
    stored: the split that holds the wanted one.
    image_size: height and width; None for the stored size.
  """

  name: str
  folder: pathlib.Path | None
  stored: str
  image_size: int | None


def check(name: Any, split: Any, image_size: Any, validation: Any) -> Request:
  """A ValueError where an argument of `load` is not accepted."""
  folder = folders.path_of(name, NAMES)
  if folder is None:
    check_choice(
      'data set',
      name,
      NAMES,
      '--config.data.name, or the path of a folder of images',
    )
  name = os.fspath(name)
  check_choice('split', split, (*SPLITS, UNLABELLED), 'split')
  if split == UNLABELLED and folder is None and name != 'stl10':
    raise ValueError(
      f'Only stl10, and folders of images that have a folder {UNLABELLED!r}, '
      f'have an unlabelled split; got the data set {name!r}. Take one of its '
      f'own: {", ".join(SPLITS)}.'
    )
  if image_size is not None:
    image_size = _check_image_size(image_size)
  check_validation(validation, split)
  stored = 'train' if split == 'validation' else split
  return Request(name, folder, stored, image_size)


def rows(split: str, num_examples: int, validation: float) -> np.ndarray | None:
  """Which examples of the stored split form this one, in their order.

  Args:
    split: as `load` takes it.
    num_examples: of the stored split.
    validation: the part of the training set that is held out.

  Returns:
    int64 [n]; None for all of them.

  Raises:
    ValueError: there are none.
  """
  if split not in ('train', 'validation') or validation == 0:
    return None
  held_out = validation_mask(num_examples, validation)
  kept = np.flatnonzero(held_out if split == 'validation' else ~held_out)
  if not len(kept):
    raise ValueError(
      f'validation={validation} of {num_examples} examples leaves none for '
      f'{split!r}.'
    )
  return kept


def validation_mask(num_examples: int, validation: float) -> np.ndarray:
  """Which training examples are the validation set; bool [num_examples].

  A larger fraction contains a smaller one's examples.
  """
  rank = splits.random_ranks(num_examples, random.Host.VALIDATION)
  return rank < round(validation * num_examples)


def check_choice(
  kind: str, value: Any, accepted: tuple[str, ...], option: str
) -> None:
  """A ValueError with a suggestion where `value` is not accepted."""
  if isinstance(value, str) and value in accepted:
    return
  close = difflib.get_close_matches(str(value).lower(), accepted, 1, 0.45)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  raise ValueError(
    f'Unknown {kind} {value!r}.{hint} Accepted ({option}): '
    f'{", ".join(accepted)}.'
  )


def _check_image_size(image_size: Any) -> int:
  whole = isinstance(image_size, (int, np.integer))
  if not whole or isinstance(image_size, bool) or image_size < 1:
    raise ValueError(
      'image_size (--config.data.image_size) must be a whole number of pixels '
      f'of at least 1, or None for the stored size; got {image_size!r}.'
    )
  return int(image_size)


def check_validation(validation: Any, split: str) -> None:
  """A ValueError where the held-out fraction or its split cannot be."""
  number = isinstance(validation, (int, float, np.number))
  if not number or isinstance(validation, bool) or not 0 <= validation < 1:
    raise ValueError(
      'validation must be a fraction of the training set, at least 0 and '
      f'below 1; got {validation!r}.'
    )
  if split == 'validation' and validation == 0:
    raise ValueError(
      "The split 'validation' is empty with validation=0; set it above 0 "
      '(default 0.1).'
    )


# --- digits -------------------------------------------------------------------


def _digits(stored: str, image_size: int) -> _Arrays:
  with decode.import_lock:
    from sklearn import datasets as sklearn_datasets

  digits = sklearn_datasets.load_digits()
  labels = digits.target.astype(np.int32)
  small = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  test = splits.test_mask(labels)
  kept = test if stored == 'test' else ~test
  images = np.stack([decode.resize(image, image_size) for image in small[kept]])
  return _Arrays(
    images,
    labels[kept],
    tuple(str(name) for name in digits.target_names),
    _resize_note((8, 8, 1), image_size),
  )


def _resize_note(shape: tuple[int, ...], size: int) -> str:
  if shape[:2] == (size, size):
    return ''
  return f'resized from {shape[0]}x{shape[1]} to {size}x{size}'


# --- folders of images --------------------------------------------------------


def files(
  request: Request, root: pathlib.Path
) -> tuple[folders.Files, list[pathlib.Path]]:
  """The files of a split, and those of the whole folder.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it is laid out otherwise, or has no such split.
  """
  if not root.exists():
    raise FileNotFoundError(
      f'There is no folder of images {root}. (A data set is named without a '
      f'separator: {", ".join(NAMES)}.)'
    )
  parts = folders.parts(root)
  if request.stored not in parts:
    raise ValueError(
      f'{root} has no folder {UNLABELLED!r}, whose images would be '
      'the unlabelled split.'
    )
  every = [path for part in parts.values() for path in part.paths]
  return parts[request.stored], every


def measure(
  request: Request, every: list[pathlib.Path], note: str
) -> tuple[tuple[int, int, int], str]:
  """The shape [H, W, C] that a folder's images get, and what there is to note.

  All files decide on it, those of other splits too.

  Raises:
    ValueError: a file is no image, or sizes differ and none is asked for.
  """
  headers = decode.headers(every)
  sizes = [header[:2] for header in headers]
  size = request.image_size
  if size is None:
    _check_one_size(every, sizes)
  elif set(sizes) != {(size, size)}:
    resized = (
      f'shorter side resized to {size} pixels, then the centre {size}x{size} '
      'kept'
    )
    note = '; '.join(filter(None, (note, resized)))
  channels = 1 if all(header.gray for header in headers) else 3
  height, width = sizes[0] if size is None else (size, size)
  return (height, width, channels), note


def _in_folder(
  request: Request,
  root: pathlib.Path,
  cache_dir: str | os.PathLike[str] | None,
  progress: bool,
) -> _Arrays:
  stored, size = request.stored, request.image_size
  (paths, labels, class_names, note), every = files(request, root)
  digest = _digest((os.path.abspath(path), path) for path in every)
  title = re.sub(r'\W+', '_', root.resolve().name)[:50]
  path = _cache_folder(cache_dir) / (
    f'{title}-{stored}-{size or "stored"}-{digest.hexdigest()[:16]}.npz'
  )
  if path.exists():
    _check_memory(request, path.stat().st_size)
  arrays = _read_cache(path, (len(paths), size, size, None), class_names)
  if arrays is not None:
    return arrays
  shape, note = measure(request, every, note)
  _check_memory(request, len(paths) * math.prod(shape))
  with (
    progress_lib.Progress(progress) as shown,
    shown.task(f'decoding {root} {stored}', len(paths)) as task,
  ):
    images = decode.files(paths, size, shape[2] == 1, task.advance)
  arrays = _Arrays(images, labels, class_names, note)
  _write_cache(path, arrays)
  return arrays


def _check_one_size(
  paths: list[pathlib.Path], sizes: list[tuple[int, int]]
) -> None:
  for path, size in zip(paths, sizes, strict=True):
    if size != sizes[0]:
      raise ValueError(
        f'{paths[0]} is an image of {sizes[0][0]}x{sizes[0][1]} pixels and '
        f'{path} one of {size[0]}x{size[1]} (height x width). Set '
        '--config.data.image_size to bring all images to one size.'
      )


# --- prepared TFDS data sets --------------------------------------------------


def default_data_dir() -> str:
  """The folder of prepared data sets where none is named."""
  return os.environ.get('TFDS_DATA_DIR') or os.path.join(
    '~', 'tensorflow_datasets'
  )


def describe(
  request: Request, data_dir: str | os.PathLike[str] | None
) -> tuple[decode.Split, str]:
  """Where the records of a split lie, and the command that prepares it again.

  Raises:
    FileNotFoundError: the data set, or a file of it, is not there.
    ValueError: its metadata cannot be read, or it has another format.
  """
  root = pathlib.Path(data_dir or default_data_dir()).expanduser()
  folder = newest(request.name, root)
  split = _describe(request.name, request.stored, root, folder)
  return split, prepare_command(request.name, root)


def record_note(split: decode.Split, size: int, jpeg: bool) -> str:
  """What a reader of a result must know of a prepared split."""
  notes = [
    'JPEG-recompressed copy, not the original pixels' if jpeg else '',
    _resize_note(split.image_shape, size),
  ]
  return '; '.join(filter(None, notes))


def _prepared(
  request: Request,
  data_dir: str | os.PathLike[str] | None,
  cache_dir: str | os.PathLike[str] | None,
  progress: bool,
) -> _Arrays:
  split, again = describe(request, data_dir)
  name, stored = request.name, request.stored
  folder = pathlib.Path(split.folder)
  size = request.image_size or split.image_shape[0]
  path = _cache_folder(cache_dir) / (
    f'{name}-{folder.name}-{stored}-{size}-{_fingerprint(folder, split)}.npz'
  )
  shape = (split.num_examples, size, size, split.image_shape[2])
  _check_memory(request, math.prod(shape))
  arrays = _read_cache(path, shape, split.class_names)
  if arrays is not None:
    return arrays
  try:
    with (
      progress_lib.Progress(progress) as shown,
      shown.task(f'decoding {name} {stored}', shape[0]) as task,
    ):
      images, labels, jpeg = decode.decode(split, size, task.advance)
  except decode.CorruptError as error:
    raise ValueError(
      f'{error}. Delete {folder} and prepare it again: {again}'
    ) from error
  note = record_note(split, size, jpeg)
  arrays = _Arrays(images, labels, split.class_names, note)
  _write_cache(path, arrays)
  return arrays


def prepare_command(name: str, root: pathlib.Path) -> str:
  """The command that prepares a TFDS data set in the folder `root`."""
  return (
    "pip install 'dim_jax[prepare]' && python -m dim_jax.data.prepare "
    f'{name} --data_dir={shlex.quote(os.fspath(root))}'
  )


def newest(
  name: str,
  root: pathlib.Path,
  instead: str = "take 'digits', which needs no files",
) -> pathlib.Path:
  """The folder of the newest prepared version of a data set.

  Looks for itself: TFDS would ask its bucket about what is not here.

  Args:
    name: of the data set.
    root: the folder of prepared data sets.
    instead: what an error tells a user to do where nothing can be prepared.

  Raises:
    FileNotFoundError: it is not there; says how to prepare it.
  """
  found: list[tuple[tuple[int, ...], pathlib.Path]] = []
  # Of a data set with variants, TFDS's 'default' is the plain one.
  for pattern in (f'{name}/*', f'{name}/default/*'):
    for info in root.glob(f'{pattern}/dataset_info.json'):
      if re.fullmatch(r'\d+\.\d+\.\d+', info.parent.name):
        version = tuple(int(part) for part in info.parent.name.split('.'))
        found.append((version, info.parent))
  if found:
    return max(found)[1]
  here = sorted({path.parts[-3] for path in root.glob('*/*/dataset_info.json')})
  there = f'it holds {", ".join(here)}' if here else 'it holds none'
  if not root.is_dir():
    there = 'no such folder'
  raise FileNotFoundError(
    f'The data set {name!r} is not prepared in {root} ({there}). Point '
    'TFDS_DATA_DIR or --config.data.data_dir at a folder that has it, or '
    f'prepare it: {prepare_command(name, root)}; or {instead}.'
  )


def _describe(
  name: str, stored: str, root: pathlib.Path, folder: pathlib.Path
) -> decode.Split:
  """What TFDS's own metadata say of a split, checked against its files."""
  tfds = decode.import_tfds()
  again = f'Prepare it again: {prepare_command(name, root)}'
  try:
    info = tfds.builder_from_directory(folder).info
    kind = info.file_format.value
    shape = tuple(info.features['image'].shape)
    class_names = tuple(info.features['label'].names)
    if stored == UNLABELLED:
      class_names = ()
    part = info.splits[stored]
    files = tuple(
      (os.fspath(path), int(count))
      for path, count in zip(part.filepaths, part.shard_lengths, strict=True)
    )
  except Exception as error:  # TFDS documents no type for bad metadata
    reason = files_lib.reason(error)
    raise ValueError(
      f'The metadata of {name} in {folder} cannot be read ({reason}). {again}'
    ) from error
  if kind != 'array_record':
    raise ValueError(
      f'{folder} is prepared as {kind}; only array_record can be read without '
      f'TensorFlow. Prepare it again, in another folder: '
      f'{prepare_command(name, root.parent / "array_record")}'
    )
  for path, _ in files:
    if not os.path.exists(path):
      raise FileNotFoundError(
        f'{path} is missing, though {folder} lists it. Delete {folder}. {again}'
      )
  if len(shape) != 3 or shape[2] not in (1, 3) or None in shape:
    raise ValueError(
      f'{folder} holds images of shape {shape}; one fixed [H, W, C] with C 1 '
      f'or 3 is accepted. {again}'
    )
  return decode.Split(
    folder=os.fspath(folder),
    name=stored,
    files=files,
    image_shape=shape,
    class_names=class_names,
  )


# --- memory -------------------------------------------------------------------


def _check_memory(request: Request, size: int) -> None:
  """A ValueError where so many bytes of images would not fit."""
  # A validation set is taken out by copying.
  needed = 2 * size if request.stored == 'train' else size
  available = _available_memory()
  if available is not None and needed > available:
    raise ValueError(
      f'{request.name} {request.stored} takes {needed:,} bytes of memory '
      f'({needed / 2**30:.3g} GiB) to load, of which {available:,} '
      f'({available / 2**30:.3g} GiB) are available. Train with '
      'data.stream=True (--config.data.stream=True), which reads images as '
      'steps need them, or lower data.image_size.'
    )


def _available_memory() -> int | None:
  """Bytes; None where the system does not say."""
  try:
    with open('/proc/meminfo', encoding='ascii') as file:
      for line in file:
        if line.startswith('MemAvailable:'):
          return int(line.split()[1]) * 1024
  except OSError:
    pass
  try:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):
    return None


# --- the cache ----------------------------------------------------------------


def _cache_folder(cache_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  return pathlib.Path(
    cache_dir or os.environ.get('DIM_JAX_CACHE') or '~/.cache/dim_jax'
  ).expanduser()


def _digest(files: Iterable[tuple[str, str | os.PathLike[str]]]) -> Any:
  """Of the names that files go by, their sizes and times; a hashlib object."""
  digest = hashlib.sha256(f'format {_CACHE_FORMAT}'.encode())
  for name, path in files:
    status = os.stat(path)
    digest.update(os.fsencode(f'{name} {status.st_size} {status.st_mtime_ns}'))
  return digest


def _fingerprint(folder: pathlib.Path, split: decode.Split) -> str:
  """Changes when the source files do."""
  digest = _digest((os.path.basename(path), path) for path, _ in split.files)
  for metadata in sorted([*folder.glob('*.json'), *folder.glob('*.txt')]):
    digest.update(metadata.read_bytes())
  return digest.hexdigest()[:16]


def _read_cache(
  path: pathlib.Path,
  shape: tuple[int | None, ...],
  class_names: tuple[str, ...],
) -> _Arrays | None:
  """The cached arrays; None where there are none or they are damaged.

  None in `shape` accepts any length of that axis.

  A zip file, so that its checksums show any damage, not only a short file.
  """
  try:
    # np.load(path) would leave the file open where it is no zip file.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      images, labels = file['images'], file['labels']
      note = str(file['note'])
    if not _fits(images.shape, shape) or images.dtype != np.uint8:
      raise ValueError(f'images {images.dtype}{images.shape}')
    if labels.shape != shape[:1] or labels.dtype != np.int32:
      raise ValueError(f'labels {labels.dtype}{labels.shape}')
  except FileNotFoundError:
    return None
  except (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    NotImplementedError,  # a garbled zip header asks for unknown features
    zipfile.BadZipFile,
  ) as error:
    reason = files_lib.reason(error)
    _logger.warning(
      'The cache %s cannot be used (%s); decoding again.', path, reason
    )
    return None
  return _Arrays(images, labels, class_names, note)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
  return len(shape) == len(wanted) and all(
    want in (None, length) for length, want in zip(shape, wanted, strict=True)
  )


def _write_cache(path: pathlib.Path, arrays: _Arrays) -> None:
  """Writes the cache; only warns where that fails."""
  try:
    files_lib.make_folder(path.parent)
    _remove_stale(path.parent)
    with files_lib.replacing(path, 'wb') as file:
      np.savez(
        file,
        images=arrays.images,
        labels=arrays.labels,
        note=np.array(arrays.note),
      )
  except OSError as error:
    _logger.warning(
      '%s The images will be decoded again next time. Set DIM_JAX_CACHE to a '
      'folder that can be written.',
      error,
    )


def _remove_stale(folder: pathlib.Path) -> None:
  """Removes what killed writers left."""
  for path in folder.glob('*.npz.*.tmp'):
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE_SECONDS:
        path.unlink()
