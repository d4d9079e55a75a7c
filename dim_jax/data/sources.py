"""Images by the name of a data set or folder, in memory or as a stream.

'digits' comes with scikit-learn and needs no files: 1,797 images of 8x8
pixels with 17 grey levels, from the test part of the UCI "Optical
Recognition of Handwritten Digits". They are enlarged to `image_size`
(32 by default). A fixed 20 % of each class, 359 images, is the test set;
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
whose images are the test set, as nobody has the labels of test/.

Hidden files and texts are passed over. The note counts other files that are no
images by their ending, and images that are nobody's, as in a folder val/ beside
train/ and test/. Images become gray if all files are gray, else RGB; they are
upright, as EXIF says, and lie on white where they are transparent, which the
note counts too. Their order is random but fixed, so that the first n are of all
classes.

The validation set is a fixed random part of the training set and the same
for every run, whatever its seed; 'train' is the rest. At the default of
0.1: digits 1,294 and 144, mnist 54,000 and 6,000, cifar 45,000 and 5,000,
stl10 4,500 and 500.

References:
  [TFDS catalogue](https://www.tensorflow.org/datasets/catalog/overview);
  [digits](https://archive.ics.uci.edu/dataset/80).
"""

import concurrent.futures
import math
import os
from typing import Any

import numpy as np

from dim_jax import checks
from dim_jax import progress as progress_lib
from dim_jax.data import (
  decode,
  folders,
  image_cache,
  memory,
  prepared,
  splits,
  stream,
)
from dim_jax.data.examples import Examples

NAMES = ('digits', 'mnist', 'cifar10', 'cifar100', 'stl10')
SPLITS = ('train', 'validation', 'test')  # of every data set
UNLABELLED = folders.UNLABELLED  # of stl10, and of folders that have it

_CHUNK = 64  # images that a thread decodes at a time
_THREADS = 16


def load(
  name: str | os.PathLike[str],
  split: str,
  *,
  image_size: int | None = None,
  data_dir: str | os.PathLike[str] | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
  validation: float = 0.1,
  progress: bool = True,
) -> Examples:
  """Loads a split of a data set, which the module describes.

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
  """
  source = find(name, split, image_size, data_dir, validation, cache_dir)
  name = os.fspath(name)
  stored = 'train' if split == 'validation' else split
  kept = splits.rows(split, source.num_examples, validation)
  # Rows are taken out by copying.
  copies = 1 if kept is None else 1 + len(kept) / source.num_examples
  path = image_cache.folder(cache_dir) / source.cache
  if source.cache and path.exists():
    _check_memory(f'{name} {stored}', copies * path.stat().st_size)
    arrays = image_cache.read(path, source.num_examples)
  else:
    arrays = None
  if arrays is None:
    arrays = decode_all(source.open(), f'{name} {stored}', copies, progress)
    if source.cache:
      image_cache.write(path, arrays)
  examples = Examples(
    kind='image',
    inputs=arrays['images'],
    labels={'class': arrays['labels']},
    label='class',
    class_names={'class': source.class_names},
    name=name,
    note=str(arrays['note']),
  )
  return examples if kept is None else examples.take(kept)


def load_stream(
  name: str | os.PathLike[str],
  split: str,
  *,
  image_size: int | None = None,
  data_dir: str | os.PathLike[str] | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
  validation: float = 0.1,
) -> stream.Stream:
  """Opens a split of images, 'image' and 'label', decoded where they are read.

  The same examples in the same order as `load` gives with the same arguments,
  which see. The headers of a folder's images are read at once, and kept in
  `cache_dir` for the next time.

  Raises:
    ValueError: as of `load`; files are decoded later, where one that is damaged
      raises decode.CorruptError, a ValueError that names it.
    FileNotFoundError: the data set or the folder is not there.
  """
  source = find(name, split, image_size, data_dir, validation, cache_dir)
  opened = source.open()._replace(name=os.fspath(name))
  kept = splits.rows(split, source.num_examples, validation)
  return opened if kept is None else opened.take(kept)


def find(
  name: Any,
  split: Any,
  image_size: Any,
  data_dir: Any,
  validation: Any,
  cache_dir: Any = None,
) -> stream.Source:
  """Finds the stored split that holds a split; arguments as of `load`.

  Raises:
    ValueError: an argument is not accepted.
    FileNotFoundError: the data set or the folder is not there.
  """
  check(name, split, image_size, validation)
  stored = 'train' if split == 'validation' else split
  root = folders.path_of(name, NAMES)
  if root is not None:
    cache = image_cache.folder(cache_dir)
    return folders.source(root, stored, image_size, cache)
  if name == 'digits':
    return _digits(stored, image_size or 32)
  return prepared.source(name, stored, image_size, data_dir)


def check(name: Any, split: Any, image_size: Any, validation: Any) -> None:
  """Raises ValueError where an argument of `load` is not accepted."""
  folder = folders.path_of(name, NAMES)
  if folder is None:
    field = 'data.name, unless it is the path of a folder of images,'
    checks.check_choice(field, name, NAMES)
  checks.check_choice('split', split, (*SPLITS, UNLABELLED))
  if split == UNLABELLED and folder is None and name != 'stl10':
    raise ValueError(
      f'Only stl10, and folders of images that have a folder {UNLABELLED!r}, '
      f'have an unlabelled split; got the data set {name!r}. Take one of its '
      f'own: {", ".join(SPLITS)}.'
    )
  checks.check_range('data.image_size', image_size, 'int [1, inf) or None')
  splits.check_validation(validation, split)


def decode_all(
  opened: stream.Stream, title: str, copies: float, progress: bool
) -> dict[str, np.ndarray]:
  """Decodes all images of a stream.

  In threads: Pillow leaves the interpreter's lock while it decodes. Of images
  as small as CIFAR-10's most of the time is spent inside it, but processes
  took as long (50,000 on two shared cores: 7.7 s either way).

  Args:
    opened: the images.
    title: what they are called.
    copies: of them that memory must hold.
    progress: show it on standard error.

  Returns:
    'images', uint8 [n, H, W, C], 'labels', int32 [n], and 'note'.

  Raises:
    ValueError: memory does not hold them, or a file cannot be decoded.
  """
  count = opened.num_examples
  shape = opened.read(np.arange(1))['image'].shape[1:]
  _check_memory(title, copies * count * math.prod(shape))
  images = np.empty([count, *shape], np.uint8)
  labels = np.empty([count], np.int32)

  def fill(start: int) -> None:
    part = np.arange(start, min(start + _CHUNK, count))
    arrays = opened.read(part)
    images[part], labels[part] = arrays['image'], arrays['label']
    task.advance(len(part))

  threads = min(decode.cores(), _THREADS)
  with (
    progress_lib.Progress(progress) as bar,
    bar.task(f'decoding {title}', count) as task,
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
  ):
    for _ in pool.map(fill, range(0, count, _CHUNK)):
      pass
  return {'images': images, 'labels': labels, 'note': np.array(opened.note)}


def _digits(stored: str, size: int) -> stream.Source:
  with prepared.import_lock:
    from sklearn import datasets as sklearn_datasets

  digits = sklearn_datasets.load_digits()
  labels = digits.target.astype(np.int32)
  small = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  test = splits.test_mask(labels)
  kept = test if stored == 'test' else ~test
  class_names = tuple(str(name) for name in digits.target_names)

  def open_split() -> stream.Stream:
    images = np.stack([decode.resize(image, size) for image in small[kept]])
    arrays = {'image': images, 'label': labels[kept]}
    note = decode.resize_note((8, 8, 1), size)
    return stream.of_arrays(arrays)._replace(class_names=class_names, note=note)

  return stream.Source(int(kept.sum()), class_names, '', open_split)


def _check_memory(title: str, size: float) -> None:
  """Raises ValueError where so many bytes of images would not fit."""
  memory.check(
    title,
    size,
    'Train with data.stream=True (--config.data.stream=True), which reads '
    'images as steps need them, and measure fewer (evaluate --max_train, '
    'represent --max_examples); or lower data.image_size.',
  )
