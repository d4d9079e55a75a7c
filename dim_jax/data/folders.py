"""Which image files of a folder form which split, and what they hold."""

import collections
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from dim_jax import random
from dim_jax.data import decode, image_cache, splits
from dim_jax.data.stream import Source, Stream

IMAGE_FILES = tuple(
  '.avif .bmp .gif .jfif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp'.split()
)
# Files beside examples that describe them, and that nobody misses.
TEXTS = ('.csv', '.json', '.md', '.txt')
UNLABELLED = 'unlabelled'
WNIDS = 'wnids.txt'  # only Tiny ImageNet has one
_CACHE_FORMAT = 4  # raise it when what cached arrays mean changes


class Files(NamedTuple):
  """The image files of one part of a folder.

  Attributes:
    paths: one an image.
    labels: int32 [n], positions in `class_names`; -1 without classes.
    class_names: one a class; () without classes.
    note: what a reader of a result must know of this part; '' for nothing.
  """

  paths: list[pathlib.Path]
  labels: np.ndarray
  class_names: tuple[str, ...]
  note: str = ''


def path_of(name: Any, names: tuple[str, ...]) -> pathlib.Path | None:
  """The folder that `name` is the path of; None where it is a plain name.

  Args:
    name: a path, or a string.
    names: of data sets, which come before directories that are called so.
  """
  if isinstance(name, os.PathLike):
    return pathlib.Path(name).expanduser()
  if not isinstance(name, str) or name in names or not name:
    return None
  path = pathlib.Path(name).expanduser()
  separated = any(mark in name for mark in (os.sep, os.altsep) if mark)
  return path if separated or path.is_dir() else None


def parts(root: pathlib.Path) -> dict[str, Files]:
  """Finds the files of 'train', 'test' and maybe 'unlabelled', in final order.

  Args:
    root: a folder in one of the layouts that `sources.load` names.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it is laid out otherwise.
  """
  if not root.exists():
    raise FileNotFoundError(
      f'There is no folder of images {root}. (A data set is named without a '
      'separator, such as digits or cifar10.)'
    )
  if not root.is_dir():
    raise ValueError(f'{root} is a file; a folder of images is accepted.')
  if (root / WNIDS).is_file():
    splits_of_root = _tiny_imagenet(root)
  else:
    splits_of_root = _Walk(root).parts()
  return {part: _shuffle(files) for part, files in splits_of_root.items()}


def source(
  root: pathlib.Path, stored: str, size: int | None, cache: pathlib.Path
) -> Source:
  """Finds a split of a folder.

  Args:
    root: the folder.
    stored: 'train', 'test' or 'unlabelled'.
    size: height and width of the images; None for their own.
    cache: the folder that keeps what the headers of all its images say.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it is laid out otherwise, or has no such split.
  """
  splits_of_root = parts(root)
  if stored not in splits_of_root:
    raise ValueError(
      f'{root} has no folder {UNLABELLED!r}, whose images would be '
      'the unlabelled split.'
    )
  files = splits_of_root[stored]
  # All files decide whether images are gray, those of other splits too.
  paths = [path for part in splits_of_root.values() for path in part.paths]
  digest = file_digest(_CACHE_FORMAT, ((os.path.abspath(p), p) for p in paths))
  title = re.sub(r'\W+', '_', root.resolve().name)[:50]
  # The same files for every split.
  kept = cache / f'{title}-headers-{digest.hexdigest()[:16]}.npz'
  digest.update(files.note.encode())
  digest.update(files.labels.tobytes())
  return Source(
    len(files.paths),
    files.class_names,
    f'{title}-{stored}-{size or "stored"}-{digest.hexdigest()[:16]}.npz',
    lambda: _open(root, files, _headers(paths, kept), size),
  )


def file_digest(
  version: int, paths: Iterable[tuple[str, str | os.PathLike[str]]]
) -> Any:
  """Digests the names that files go by, their sizes and times (hashlib)."""
  digest = hashlib.sha256(f'format {version}'.encode())
  for name, path in paths:
    status = os.stat(path)
    digest.update(os.fsencode(f'{name} {status.st_size} {status.st_mtime_ns}'))
  return digest


def _headers(
  paths: list[pathlib.Path], kept: pathlib.Path
) -> dict[pathlib.Path, decode.Header]:
  """Reads the headers of images: of a million, minutes; or what was kept."""
  shape = (len(paths), len(decode.Header._fields))

  def check(arrays: dict[str, np.ndarray]) -> None:
    if arrays['headers'].shape != shape:
      raise ValueError(f'headers {arrays["headers"].shape}')

  if arrays := image_cache.read_arrays(kept, ('headers',), check):
    rows = arrays['headers'].tolist()
    found = [decode.Header(h, w, *map(bool, flags)) for h, w, *flags in rows]
  else:
    found = decode.headers(paths)
    image_cache.write(kept, {'headers': np.array(found, np.int32)})
  return dict(zip(paths, found, strict=True))


def _open(
  root: pathlib.Path,
  files: Files,
  headers: dict[pathlib.Path, decode.Header],
  size: int | None,
) -> Stream:
  """Opens a split; `headers` are of all of the folder's images."""
  sizes = {path: header[:2] for path, header in headers.items()}
  gray = all(header.gray for header in headers.values())
  notes = [files.note]
  if size is None:
    _check_one_size(sizes)
  elif set(sizes.values()) != {(size, size)}:
    notes.append(
      f'shorter side resized to {size} pixels, then the centre {size}x{size} '
      'kept'
    )
  own = [headers[path] for path in files.paths]
  for count, words in (
    (sum(h.turned for h in own), 'turned upright by their EXIF orientation'),
    (sum(h.transparent for h in own), 'with transparency, laid on white'),
    (sum(h.frames for h in own), 'of several frames, the first taken'),
  ):
    if count:
      notes.append(f'images {words}: {count:,} of {len(own):,}')

  def read(rows: np.ndarray) -> dict[str, np.ndarray]:
    images = [decode.file(files.paths[i], size, gray) for i in rows]
    return {'image': np.stack(images), 'label': files.labels[rows]}

  note = '; '.join(filter(None, notes))
  return Stream(len(own), read, files.class_names, os.fspath(root), note)


def _check_one_size(sizes: dict[pathlib.Path, tuple[int, int]]) -> None:
  first, expected = next(iter(sizes.items()))
  for path, size in sizes.items():
    if size != expected:
      raise ValueError(
        f'{first} is an image of {expected[0]}x{expected[1]} pixels and '
        f'{path} one of {size[0]}x{size[1]} (height x width). Set '
        '--config.data.image_size to bring all images to one size.'
      )


class _Walk:
  """One walk through a folder, which counts what it leaves out."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.skipped: collections.Counter[str] = collections.Counter()
    self.nested = 0

  def parts(self) -> dict[str, Files]:
    """Finds the files of each split, sorted by name."""
    root = self.root
    extra: dict[str, Files] = {}
    if (root / UNLABELLED).is_dir():
      files = self.list_images(root / UNLABELLED)
      unknown = np.full([len(files.paths)], -1, np.int32)
      extra[UNLABELLED] = Files(files.paths, unknown, ())
    present = [part for part in ('train', 'test') if (root / part).is_dir()]
    loose, folders = self.entries(root)
    others = [f for f in folders if f.name not in (*present, UNLABELLED)]
    if present == ['train'] and extra and not others:
      train, test = _divide(root, self.list_images(root / 'train'))
    elif len(present) == 1:
      missing = 'test' if present == ['train'] else 'train'
      rename = (
        f' Its folder {others[0].name} may be renamed to it.'
        if present == ['train'] and others
        else ''
      )
      raise ValueError(
        f'{root} has a folder {present[0]} but none called {missing}. Both are '
        f'needed.{rename} Or put the folders of the classes straight into one '
        'folder, and a fifth of each is the test set.'
      )
    elif present:
      train, test = (self.list_images(root / part) for part in present)
      _check_same_classes(root, train, test)
      # A validation set is taken out of train/, so that one beside it is not
      # used: but not in silence.
      self.skip(f'beside {present[0]}/ and {present[1]}/', loose)
      for folder in others:
        self.skip(f'in {folder.name}/', _images_below(folder))
    else:
      train, test = _divide(root, self.list_images(root, loose, folders))
    note = self.note()
    return {
      part: files._replace(note=note)
      for part, files in {'train': train, 'test': test, **extra}.items()
    }

  def note(self) -> str:
    """Says what was left out, and what is not where it should be."""
    notes = []
    if self.skipped:
      listed = ', '.join(f'{n} {what}' for what, n in self.skipped.items())
      notes.append(f'files left out: {listed}')
    if self.nested:
      notes.append(f'images in folders inside those of classes: {self.nested}')
    return '; '.join(notes)

  def skip(self, where: str, images: list[pathlib.Path]) -> None:
    """Counts images that are left out."""
    if images:
      self.skipped[f'images {where}'] += len(images)

  def entries(
    self, folder: pathlib.Path
  ) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Lists the images and the folders in a folder, each sorted by name."""
    images, folders, others = entries(folder)
    self.skipped.update(others)
    return images, folders

  def list_images(
    self,
    folder: pathlib.Path,
    loose: list[pathlib.Path] | None = None,
    classes: list[pathlib.Path] | None = None,
  ) -> Files:
    """Lists the images in a folder and its class folders."""
    if loose is None or classes is None:
      loose, classes = self.entries(folder)
    classes = [path for path in classes if path.name != UNLABELLED]
    if loose and classes:
      raise ValueError(
        f'{folder} holds both images ({loose[0].name}) and folders '
        f'({classes[0].name}). Put every image into the folder of its class, '
        'or all into one folder without classes.'
      )
    if loose:
      return Files(loose, np.full([len(loose)], -1, np.int32), ())
    if not classes:
      raise ValueError(
        f'{folder} holds no images ({", ".join(IMAGE_FILES)}) and no folders '
        f'of images.{self._instead()}'
      )
    return self.of_classes(classes, tuple(path.name for path in classes))

  def of_classes(
    self, folders: list[pathlib.Path], names: tuple[str, ...]
  ) -> Files:
    """Lists the images in folders of which each is of one class."""
    paths: list[pathlib.Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
      images, inside = self.entries(folder) if folder.is_dir() else ([], [])
      if not images:
        hint = 'Fill it or remove it.'
        if inside:
          hint = (
            f'It holds folders ({inside[0].name}): if these are the classes, '
            f'name {folder} instead; else move their images up.'
          )
        raise ValueError(
          f'The folder of a class {folder} holds no images '
          f'({", ".join(IMAGE_FILES)}). {hint}{self._instead()}'
        )
      below = [
        path
        for inner in inside
        if not inner.is_symlink()  # which may lead around in a circle
        for path in _images_below(inner)
      ]
      self.nested += len(below)
      paths += images + below
      labels += [label] * (len(images) + len(below))
    return Files(paths, np.array(labels, np.int32), names)

  def _instead(self) -> str:
    if not self.skipped:
      return ''
    listed = ', '.join(f'{n} {what}' for what, n in self.skipped.items())
    return f' Found instead: {listed}.'


def entries(
  folder: pathlib.Path, endings: tuple[str, ...] = IMAGE_FILES
) -> tuple[list[pathlib.Path], list[pathlib.Path], collections.Counter[str]]:
  """Lists a folder, but for hidden files.

  Args:
    folder: the folder.
    endings: of the files that are wanted, in lower case.

  Returns:
    The wanted files and the folders in it, each sorted by name; and how many
    other files there are, by their endings; texts are not counted.
  """
  wanted: list[pathlib.Path] = []
  folders: list[pathlib.Path] = []
  others: collections.Counter[str] = collections.Counter()
  with os.scandir(folder) as scanned:
    for entry in sorted(scanned, key=lambda entry: entry.name):
      ending = os.path.splitext(entry.name)[1].lower()
      if entry.name.startswith('.'):
        continue
      if entry.is_dir():
        folders.append(folder / entry.name)
      elif ending in endings:
        wanted.append(folder / entry.name)
      elif ending not in TEXTS:
        others[ending or 'without an ending'] += 1
  return wanted, folders, others


def _images_below(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists all images in a folder and in those inside it, sorted by path."""
  images, folders, _ = entries(folder)
  for inner in folders:
    if not inner.is_symlink():  # which may lead around in a circle
      images += _images_below(inner)
  return images


def _check_same_classes(root: pathlib.Path, train: Files, test: Files) -> None:
  if train.class_names == test.class_names:
    return
  odd = sorted({*train.class_names} ^ {*test.class_names})[0]
  names = ['train', 'test']
  has, lacks = names if odd in train.class_names else reversed(names)
  raise ValueError(
    f'{root / has} has a folder of the class {odd!r}, {root / lacks} has '
    'none; both need the same classes.'
  )


def _divide(root: pathlib.Path, files: Files) -> tuple[Files, Files]:
  """Training and test files, where the folder does not tell them apart."""
  test = splits.test_mask(files.labels)
  for label in np.unique(files.labels):
    members = files.labels == label
    if not test[members].any():
      where = root / files.class_names[label] if files.class_names else root
      raise ValueError(
        f'Images in {where}: {members.sum()}. At least 3 are needed to take a '
        f'test set of {splits.TEST:.0%} from them. Add images, or divide all '
        f'into {root / "train"} and {root / "test"}.'
      )
  return _choose(files, np.flatnonzero(~test)), _choose(
    files, np.flatnonzero(test)
  )


def _shuffle(files: Files) -> Files:
  return _choose(
    files, splits.random_ranks(len(files.paths), random.Host.FOLDER)
  )


def _choose(files: Files, index: np.ndarray) -> Files:
  paths = [files.paths[i] for i in index]
  return files._replace(paths=paths, labels=files.labels[index])


# --- Tiny ImageNet ------------------------------------------------------------


def _tiny_imagenet(root: pathlib.Path) -> dict[str, Files]:
  """The parts of an unzipped tiny-imagenet-200.

  The labels of its own test images were never published.
  """
  wnids = sorted(''.join(_lines(root / WNIDS)).split())
  words = dict(
    line.rstrip('\n').split('\t', 1)
    for line in _lines(root / 'words.txt')
    if '\t' in line
  )
  if nameless := [wnid for wnid in wnids if wnid not in words]:
    raise ValueError(
      f'{root / WNIDS} lists the class {nameless[0]!r}, which '
      f'{root / "words.txt"} does not name. {_AGAIN}'
    )
  names = tuple(words[wnid] for wnid in wnids)
  folders = [root / 'train' / wnid / 'images' for wnid in wnids]
  train = _Walk(root).of_classes(folders, names)
  folder, listing = root / 'val' / 'images', root / 'val/val_annotations.txt'
  lines = _lines(listing)
  present = (
    {path.name for path in entries(folder)[0]} if folder.is_dir() else set()
  )
  numbers = {wnid: label for label, wnid in enumerate(wnids)}
  labels: dict[str, int] = {}
  for number, line in enumerate(lines, 1):
    name, wnid, *_ = [*line.split('\t'), '', '']
    where = f'{listing}, line {number}, names the'
    if wnid.strip() not in numbers:
      raise ValueError(
        f'{where} class {wnid.strip()!r}, which {root / WNIDS} does not list. '
        f'{_AGAIN}'
      )
    if name not in present:
      raise ValueError(
        f'{where} image {name!r}, which is not in {folder}. {_AGAIN}'
      )
    labels[name] = numbers[wnid.strip()]
  if odd := sorted(present - set(labels)):
    raise ValueError(f'{listing} does not name {folder / odd[0]}. {_AGAIN}')
  if not labels:
    raise ValueError(f'{listing} names no images. {_AGAIN}')
  test = Files(
    [folder / name for name in sorted(labels)],
    np.array([labels[name] for name in sorted(labels)], np.int32),
    names,
    'its labelled validation set serves as the test set',
  )
  return {'train': train, 'test': test}


_AGAIN = 'Unzip tiny-imagenet-200.zip again.'


def _lines(path: pathlib.Path) -> list[str]:
  try:
    with open(path, encoding='utf-8') as file:
      return list(file)
  except (FileNotFoundError, UnicodeDecodeError) as error:
    reason = 'missing' if isinstance(error, FileNotFoundError) else 'no text'
    raise ValueError(
      f'{path} is {reason}; Tiny ImageNet needs it. {_AGAIN}'
    ) from error
