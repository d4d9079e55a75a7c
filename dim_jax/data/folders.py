"""Which image files of a folder form which split."""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from dim_jax import random
from dim_jax.data import splits

IMAGE_FILES = tuple(
  '.bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp'.split()
)
UNLABELLED = 'unlabelled'
WNIDS = 'wnids.txt'  # only Tiny ImageNet has one


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
  """The files of 'train', 'test' and maybe 'unlabelled', in their final order.

  Args:
    root: a folder in one of the layouts that `sources.load` names.

  Raises:
    ValueError: it is laid out otherwise.
  """
  if not root.is_dir():
    raise ValueError(f'{root} is a file; a folder of images is accepted.')
  if (root / WNIDS).is_file():
    found = _tiny_imagenet(root)
  else:
    found = _parts(root)
  return {part: _shuffle(files) for part, files in found.items()}


def _parts(root: pathlib.Path) -> dict[str, Files]:
  extra: dict[str, Files] = {}
  if (root / UNLABELLED).is_dir():
    files = _list(root / UNLABELLED)
    none = np.full([len(files.paths)], -1, np.int32)
    extra[UNLABELLED] = Files(files.paths, none, ())
  there = [part for part in ('train', 'test') if (root / part).is_dir()]
  others = {path.name for path in _entries(root)[1]} - {'train', UNLABELLED}
  if there == ['train'] and extra and not others:
    train, test = _divide(root, _list(root / 'train'))
  elif len(there) == 1:
    missing = 'test' if there == ['train'] else 'train'
    raise ValueError(
      f'{root} has a folder {there[0]} but none called {missing}. Both are '
      'needed; or put the folders of the classes straight into one folder, and '
      'a fifth of each is the test set.'
    )
  elif there:
    train, test = (_list(root / part) for part in there)
    if train.class_names != test.class_names:
      odd = sorted({*train.class_names} ^ {*test.class_names})[0]
      has, lacks = there if odd in train.class_names else reversed(there)
      raise ValueError(
        f'{root / has} has a folder of the class {odd!r}, {root / lacks} has '
        'none; both need the same classes.'
      )
  else:
    train, test = _divide(root, _list(root))
  return {'train': train, 'test': test, **extra}


def _list(folder: pathlib.Path) -> Files:
  """The images in a folder and its class folders, sorted by name."""
  loose, classes = _entries(folder)
  classes = [path for path in classes if path.name != UNLABELLED]
  if loose and classes:
    raise ValueError(
      f'{folder} holds both images ({loose[0].name}) and folders '
      f'({classes[0].name}). Put every image into the folder of its class, or '
      'all into one folder without classes.'
    )
  if loose:
    return Files(loose, np.full([len(loose)], -1, np.int32), ())
  if not classes:
    raise ValueError(
      f'{folder} holds no images ({", ".join(IMAGE_FILES)}) and no folders of '
      'images.'
    )
  names = tuple(path.name for path in classes)
  return _of_classes(classes, names)


def _of_classes(folders: list[pathlib.Path], names: tuple[str, ...]) -> Files:
  """The images in folders of which each is of one class."""
  paths: list[pathlib.Path] = []
  labels: list[int] = []
  for label, folder in enumerate(folders):
    images = _entries(folder)[0] if folder.is_dir() else []
    if not images:
      raise ValueError(
        f'The folder of a class {folder} holds no images '
        f'({", ".join(IMAGE_FILES)}). Fill it or remove it.'
      )
    paths += images
    labels += [label] * len(images)
  return Files(paths, np.array(labels, np.int32), names)


def _entries(
  folder: pathlib.Path,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """The images and the folders in a folder, each sorted by name."""
  images, folders = [], []
  with os.scandir(folder) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      if entry.name.startswith('.'):
        continue
      if entry.is_dir():
        folders.append(folder / entry.name)
      elif os.path.splitext(entry.name)[1].lower() in IMAGE_FILES:
        images.append(folder / entry.name)
  return images, folders


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
  train = _of_classes(folders, names)
  folder, listing = root / 'val' / 'images', root / 'val/val_annotations.txt'
  lines = _lines(listing)
  there = {path.name for path in _entries(folder)[0]} if folder.is_dir() else ()
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
    if name not in there:
      raise ValueError(
        f'{where} image {name!r}, which is not in {folder}. {_AGAIN}'
      )
    labels[name] = numbers[wnid.strip()]
  if odd := sorted(set(there) - set(labels)):
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
