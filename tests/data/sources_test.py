"""Tests of the data sets: what they hold, the cache, and every error."""

import functools
import io
import logging
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dim_jax.data import (
  batches,
  decode,
  folders,
  memory,
  prepared,
  sources,
  splits,
)

_REAL = os.environ.get('TFDS_DATA_DIR')
_LABELS = [str(i) for i in range(10)]


def _needs(name):
  there = _REAL and any(pathlib.Path(_REAL).glob(f'{name}/*/*.array_record*'))
  return pytest.mark.skipif(
    not there, reason=f'TFDS_DATA_DIR names no folder with {name} prepared'
  )


def _pixels(n, channels, seed):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, [n, 12, 12, channels], np.uint8)
  return images, rng.integers(0, 10, [n])


def _write(
  root,
  name,
  channels,
  kind='PNG',
  file_format='array_record',
  n=40,
  unlabelled=False,
  coarse=False,
):
  """Prepares a tiny data set as TFDS would, without TensorFlow."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import tensorflow_datasets as tfds

    def encode(image):
      file = io.BytesIO()
      Image.fromarray(image.squeeze()).save(file, kind)
      return io.BytesIO(file.getvalue())

    def info(self):
      features = {
        'image': tfds.features.Image(shape=(12, 12, channels)),
        'label': tfds.features.ClassLabel(names=_LABELS),
      }
      if coarse:
        features['coarse_label'] = tfds.features.ClassLabel(names=['a', 'b'])
        features['id'] = tfds.features.Text()
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def generate(self, seed):
      images, labels = _pixels(n, channels, seed)
      if seed == 2:
        labels[:] = -1  # as TFDS's stl10 says that there is no label
      extra = {'coarse_label': 1, 'id': 'train_7'} if coarse else {}
      for i in range(n):
        example = {'image': encode(images[i]), 'label': int(labels[i])}
        yield i, example | extra

    def split_generators(self, unused_manager):
      splits = ['train', 'test'] + ['unlabelled'] * unlabelled
      return {split: generate(self, i) for i, split in enumerate(splits)}

    with tfds.core.registered.skip_registration():
      builder = type(
        name.capitalize(),
        (tfds.core.GeneratorBasedBuilder,),
        {
          '__module__': __name__,
          'name': name,
          'VERSION': tfds.core.Version('1.2.0'),
          '_info': info,
          '_split_generators': split_generators,
          '_generate_examples': generate,
        },
      )
    builder(data_dir=root, file_format=file_format).download_and_prepare()
  return pathlib.Path(root) / name / '1.2.0'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  root = tmp_path_factory.mktemp('prepared')
  _write(root, 'mnist', 1)
  _write(root, 'cifar10', 3, kind='JPEG')
  _write(root, 'stl10', 3, unlabelled=True)
  return root


@pytest.fixture(scope='module')
def fine_and_coarse(tmp_path_factory):
  """CIFAR-100 has a second label, of 20 superclasses, and an id."""
  root = tmp_path_factory.mktemp('cifar100')
  _write(root, 'cifar100', 3, coarse=True)
  return root


@pytest.fixture
def root(written, tmp_path):
  """A copy that a test may damage."""
  return pathlib.Path(shutil.copytree(written, tmp_path / 'prepared'))


def _load(root, name='mnist', split='test', **settings):
  settings.setdefault('cache_dir', pathlib.Path(root).parent / 'cache')
  settings.setdefault('progress', False)
  return sources.load(name, split, data_dir=root, **settings)


def _cache_file(root):
  (path,) = (pathlib.Path(root).parent / 'cache').iterdir()
  return path


def _in_any_order(images, labels):
  return sorted(
    (image.tobytes(), int(label))
    for image, label in zip(images, labels, strict=True)
  )


def _equal(a, b):
  np.testing.assert_array_equal(a.inputs, b.inputs)
  np.testing.assert_array_equal(a.labels['class'], b.labels['class'])
  assert (a.class_names, a.name, a.note) == (b.class_names, b.name, b.note)


# --- digits -------------------------------------------------------------------


def test_digits_sizes():
  sizes = {}
  for split in sources.SPLITS:
    data = sources.load('digits', split)
    sizes[split] = len(data.labels['class'])
    assert data.inputs.shape == (sizes[split], 32, 32, 1)
    assert data.inputs.dtype == np.uint8
    assert data.labels['class'].dtype == np.int32
    assert data.class_names['class'] == tuple(_LABELS)
    assert data.note == 'resized from 8x8 to 32x32'
    assert np.bincount(data.labels['class'], minlength=10).min() > 0
  assert sizes == {'train': 1294, 'validation': 144, 'test': 359}


def test_digits_test_set_is_a_fifth_of_each_class():
  test = sources.load('digits', 'test')
  train = sources.load('digits', 'train', validation=0)
  tests, trains = (
    np.bincount(test.labels['class']),
    np.bincount(train.labels['class']),
  )
  np.testing.assert_array_equal(tests, np.rint(0.2 * (tests + trains)))


def test_digits_splits_are_disjoint_and_complete():
  from sklearn import datasets as sklearn_datasets

  digits = sklearn_datasets.load_digits()
  expected = _in_any_order(
    np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
  )
  parts = [
    sources.load('digits', split, image_size=8) for split in sources.SPLITS
  ]
  images = np.concatenate([part.inputs for part in parts])
  labels = np.concatenate([part.labels['class'] for part in parts])
  assert images.max() == 255
  assert _in_any_order(images, labels) == expected
  assert parts[0].note == ''


def test_validation_set_is_fixed_and_grows_with_the_fraction():
  small = splits.validation_mask(1000, 0.1)
  large = splits.validation_mask(1000, 0.3)
  assert small.sum() == 100
  assert large.sum() == 300
  assert (large | ~small).all()
  np.testing.assert_array_equal(small, splits.validation_mask(1000, 0.1))


# --- prepared sets, tiny ------------------------------------------------------


def test_pixels_and_labels_are_those_written(root):
  for split, seed in (('train', 0), ('test', 1)):
    data = _load(root, split=split, validation=0)
    assert _in_any_order(data.inputs, data.labels['class']) == _in_any_order(
      *_pixels(40, 1, seed)
    )
    assert data.note == ''
    assert data.name == 'mnist'


def test_train_and_validation_make_the_training_set(root):
  whole = _load(root, split='train', validation=0)
  parts = [_load(root, split=s, validation=0.25) for s in sources.SPLITS[:2]]
  assert [len(part.labels['class']) for part in parts] == [30, 10]
  assert _in_any_order(
    np.concatenate([part.inputs for part in parts]),
    np.concatenate([part.labels['class'] for part in parts]),
  ) == _in_any_order(whole.inputs, whole.labels['class'])


def test_jpeg_is_noted_decoded_or_cached(root):
  for _ in range(2):
    data = _load(root, 'cifar10', image_size=16)
    assert data.inputs.shape == (40, 16, 16, 3)
    assert data.note == (
      'JPEG-recompressed copy, not the original pixels; '
      'resized from 12x12 to 16x16'
    )


def test_resize_is_pillows_bilinear(root):
  small = _load(root, 'cifar10')
  large = _load(root, 'cifar10', image_size=20)
  expected = [
    np.asarray(Image.fromarray(image).resize((20, 20), Image.BILINEAR))
    for image in small.inputs
  ]
  np.testing.assert_array_equal(large.inputs, np.stack(expected))


def test_a_memory_of_many_threads_is_what_one_read_gives(root, monkeypatch):
  monkeypatch.setattr(sources, '_CHUNK', 7)  # which does not divide 40
  monkeypatch.setattr(decode, 'cores', lambda: 3)
  data = _load(root, 'cifar10', image_size=14)
  opened = sources.load_stream('cifar10', 'test', image_size=14, data_dir=root)
  read = opened.read(np.arange(40))
  np.testing.assert_array_equal(data.inputs, read['image'])
  np.testing.assert_array_equal(data.labels['class'], read['label'])
  assert (data.name, data.note) == (opened.name, opened.note)


def test_newest_version_is_read(root):
  shutil.copytree(root / 'mnist/1.2.0', root / 'mnist/1.10.0')
  (root / 'mnist/1.11.0.incompleteABC').mkdir()
  assert prepared.newest('mnist', root).name == '1.10.0'


def test_stl10_has_unlabelled_images_and_gives_all_of_them(root):
  for split, seed in (('train', 0), ('test', 1), ('unlabelled', 2)):
    images, labels = _pixels(40, 3, seed)
    validation = 0 if split == 'train' else 0.5
    data = _load(root, 'stl10', split, validation=validation)
    if split == 'unlabelled':
      labels[:] = -1
    assert _in_any_order(data.inputs, data.labels['class']) == _in_any_order(
      images, labels
    )
    assert data.labels['class'].dtype == np.int32
    assert data.class_names['class'] == (
      () if split == 'unlabelled' else tuple(_LABELS)
    )
    assert data.note == ''
  assert len(_load(root, 'stl10', 'validation').labels['class']) == 4


def test_cifar100_has_its_fine_labels(fine_and_coarse, tmp_path):
  data = _load(fine_and_coarse, 'cifar100', cache_dir=tmp_path)
  assert _in_any_order(data.inputs, data.labels['class']) == _in_any_order(
    *_pixels(40, 3, 1)
  )
  assert data.class_names['class'] == tuple(_LABELS)


def test_labels_where_there_should_be_none_are_damage(root):
  # TFDS calls the labelled images unlabelled.
  folder = root / 'stl10/1.2.0'
  for name in ('dataset_info.json', *folder.glob('*-test.array_record*')):
    path = folder / name
    new = pathlib.Path(str(path).replace('-test.', '-unlabelled.'))
    if new != path:
      shutil.copy(path, new)
  with pytest.raises(decode.CorruptError, match=r'is damaged \(a label'):
    _load(root, 'stl10', 'unlabelled')


# --- the cache ----------------------------------------------------------------


def test_cache_is_used(root, monkeypatch):
  first = _load(root)
  monkeypatch.setattr(sources, 'decode_all', None)  # a call would raise
  _equal(_load(root), first)


def test_cache_folder_comes_from_the_environment(root, tmp_path, monkeypatch):
  monkeypatch.setenv('DIM_JAX_CACHE', os.fspath(tmp_path / 'elsewhere'))
  _load(root, cache_dir=None)
  assert [p.suffix for p in (tmp_path / 'elsewhere').iterdir()] == ['.npz']


@pytest.mark.parametrize(
  'damage', ['half', 'empty', 'garbled', 'encrypted', 'other']
)
def test_damaged_cache_is_rebuilt(root, damage, caplog):
  first = _load(root)
  path = _cache_file(root)
  content = path.read_bytes()
  middle = len(content) // 2
  if damage == 'other':
    np.savez(
      path, images=first.inputs[:3], labels=first.labels['class'][:3], note=''
    )
  else:
    garbled = bytes(255 - byte for byte in content[middle : middle + 8])
    flags = content.index(b'PK\x01\x02') + 8
    path.write_bytes(
      {
        'half': content[:middle],
        'empty': b'',
        'garbled': content[:middle] + garbled + content[middle + 8 :],
        # The flag of encryption of the first file in the zip's directory.
        'encrypted': content[:flags] + b'\x01' + content[flags + 1 :],
      }[damage]
    )
  with caplog.at_level(logging.WARNING):
    _equal(_load(root), first)
  assert 'decoding again' in caplog.text
  caplog.clear()
  _equal(_load(root), first)
  assert not caplog.text


def test_changed_source_is_decoded_again(root):
  before = _load(root)
  shutil.rmtree(root / 'mnist')
  _write(root, 'mnist', 1, n=41)
  after = _load(root)
  assert (len(before.labels['class']), len(after.labels['class'])) == (40, 41)


def test_a_killed_writers_file_does_no_harm(root):
  first = _load(root)
  path = _cache_file(root)
  fresh = path.with_name(f'{path.name}.aaaa.tmp')
  stale = path.with_name(f'{path.name}.bbbb.tmp')
  fresh.write_bytes(path.read_bytes()[:50])
  stale.write_bytes(b'')
  long_ago = time.time() - 2 * 24 * 3600
  os.utime(stale, (long_ago, long_ago))
  path.unlink()
  _equal(_load(root), first)
  assert fresh.exists()  # its writer may be alive
  assert not stale.exists()


def test_a_failed_write_leaves_nothing_and_only_warns(
  root, monkeypatch, caplog
):
  def full(*unused_args, **unused_kwargs):
    raise OSError(28, 'No space left on device')

  expected = _load(root)
  _cache_file(root).unlink()
  monkeypatch.setattr(np, 'savez', full)
  with caplog.at_level(logging.WARNING):
    _equal(_load(root), expected)
  assert 'No space left' in caplog.text
  assert 'DIM_JAX_CACHE' in caplog.text
  assert not list((root.parent / 'cache').iterdir())


def test_unwritable_cache_only_warns(root, tmp_path, caplog):
  blocked = tmp_path / 'file'  # permissions would not stop a root user
  blocked.write_text('')
  with caplog.at_level(logging.WARNING):
    data = _load(root, cache_dir=blocked / 'cache')
  assert len(data.labels['class']) == 40
  assert 'DIM_JAX_CACHE' in caplog.text


def test_threads_may_load_at_once(root):
  results = []
  threads = [
    threading.Thread(target=lambda: results.append(_load(root)))
    for _ in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(results) == 4
  for result in results:
    _equal(result, results[0])
  assert _cache_file(root).suffix == '.npz'  # and no temporary file


_SCRIPT = """
import hashlib, sys
from dim_jax.data import sources
data = sources.load({name!r}, 'test', data_dir={root!r}, cache_dir={cache!r})
arrays = data.inputs.tobytes() + data.labels['class'].tobytes()
print(hashlib.sha256(arrays).hexdigest())
banned = [m for m in ('tensorflow', 'tensorflow.compat') if m in sys.modules]
sys.exit(f'imported {{banned}}' if banned else 0)
"""


def _start(root, name='mnist'):
  script = _SCRIPT.format(
    name=name, root=str(root), cache=str(pathlib.Path(root).parent / 'cache')
  )
  return subprocess.Popen(
    [sys.executable, '-c', script],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
  )


def test_processes_may_load_at_once_and_import_no_tensorflow(root):
  runs = [_start(root), _start(root), _start(root, 'digits')]
  answers = [run.communicate(timeout=60) for run in runs]
  assert [run.returncode for run in runs] == [0, 0, 0], answers
  assert answers[0][0] == answers[1][0] != answers[2][0]
  # Plain lines where standard error is no terminal, and nothing else.
  lines = answers[0][1].splitlines()
  assert all(line.startswith('decoding mnist test ') for line in lines), lines
  assert _cache_file(root).suffix == '.npz'


# --- folders of images --------------------------------------------------------


def _save(path, shape=(9, 9, 3), seed=0, mode=None, **settings):
  """Writes an image of random pixels; returns them."""
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, shape, np.uint8)
  image = Image.fromarray(pixels)
  (image.convert(mode) if mode else image).save(path, **settings)
  return pixels


def _classes(root, counts, **settings):
  """Class folders of so many images; the pixels of each."""
  return {
    name: [
      _save(root / name / f'{i}.png', seed=(100 * k + i), **settings)
      for i in range(count)
    ]
    for k, (name, count) in enumerate(counts.items())
  }


def _folder(root, split='train', **settings):
  settings.setdefault('cache_dir', root.parent / 'cache')
  settings.setdefault('validation', 0)
  return sources.load(str(root), split, progress=False, **settings)


def test_folder_with_train_and_test(tmp_path):
  root = tmp_path / 'birds'
  written = {
    'train': _classes(root / 'train', {'owl': 4, 'kite': 2}),
    'test': _classes(root / 'test', {'owl': 1, 'kite': 3}),
  }
  (root / 'train/owl/readme.txt').write_text('no image')
  (root / 'train/owl/phone.heic').touch()
  (root / 'train/.hidden').mkdir()
  for split, classes in written.items():
    data = _folder(root, split)
    # In alphabetical order, kite is 0 and owl is 1.
    assert data.class_names['class'] == ('kite', 'owl')
    assert data.labels['class'].dtype == np.int32
    assert (data.name, data.note) == (str(root), 'files left out: 1 .heic')
    assert _in_any_order(data.inputs, data.labels['class']) == _in_any_order(
      classes['kite'] + classes['owl'],
      [0] * len(classes['kite']) + [1] * len(classes['owl']),
    )
  parts = [_folder(root, s, validation=0.5) for s in sources.SPLITS[:2]]
  assert [len(part.labels['class']) for part in parts] == [3, 3]


def test_folder_of_classes_is_divided_within_each_class(tmp_path):
  root = tmp_path / 'birds'
  written = _classes(root, {'kite': 3, 'owl': 20})
  train, test = _folder(root), _folder(root, 'test')
  # A fifth of 3 and of 20, to the nearest whole number.
  assert np.bincount(test.labels['class']).tolist() == [1, 4]
  assert np.bincount(train.labels['class']).tolist() == [2, 16]
  assert _in_any_order(
    np.concatenate([train.inputs, test.inputs]),
    np.concatenate([train.labels['class'], test.labels['class']]),
  ) == _in_any_order(
    written['kite'] + written['owl'],
    [0] * 3 + [1] * 20,
  )
  # Not sorted by class: the two kites are not first, nor last.
  assert (np.diff(train.labels['class']) != 0).sum() > 1
  _equal(_folder(root, cache_dir=tmp_path / 'another'), train)


@pytest.mark.parametrize('parts', [('',), ('train', 'test')])
def test_folder_without_classes(tmp_path, parts, monkeypatch):
  for part in parts:
    for i in range(10):
      _save(tmp_path / 'sea' / part / f'{i}.PNG', seed=i)
  monkeypatch.chdir(tmp_path)
  sizes = []
  for split in ('train', 'test'):
    # An existing directory needs no separator, and a Path is a path.
    data = sources.load(
      'sea' if split == 'train' else pathlib.Path('sea'),
      split,
      cache_dir='cache',
      validation=0,
      progress=False,
    )
    assert data.class_names['class'] == ()
    assert (data.labels['class'] == -1).all()
    assert data.name == 'sea'
    sizes.append(len(data.inputs))
  assert sizes == ([8, 2] if parts == ('',) else [10, 10])


def test_names_of_data_sets_come_before_directories(tmp_path, monkeypatch):
  (tmp_path / 'digits').mkdir()
  monkeypatch.chdir(tmp_path)
  assert len(sources.load('digits', 'test').labels['class']) == 359


def test_no_epoch_goes_through_a_folder_in_the_order_of_its_names(tmp_path):
  for i in range(100):
    (tmp_path / f'{i:03}.png').touch()  # Names alone are looked at.
  train = folders.parts(tmp_path)['train'].paths
  rank = {path: i for i, path in enumerate(sorted(train))}
  files = np.array([rank[path] for path in train])
  for epoch in range(20):
    order = batches.permutation(0, epoch, len(train))
    # At random a name is followed by the next one once in 80 times.
    assert (np.diff(files[order]) == 1).mean() < 0.2


def test_folder_resizes_the_shorter_side_and_keeps_the_centre(tmp_path):
  root = tmp_path / 'mixed'
  wide = _save(root / 'train/a.png', (10, 16, 3))
  tall = _save(root / 'test/a.png', (15, 10, 3))
  # 10 -> 5 makes 16 -> 8, of which columns 1 to 5 are the middle.
  expected = Image.fromarray(wide).resize((8, 5), Image.BILINEAR)
  data = _folder(root, image_size=5)
  np.testing.assert_array_equal(data.inputs[0], np.asarray(expected)[:, 1:6])
  # 10 -> 20 makes 15 -> 30, of which rows 5 to 24 are the middle.
  expected = Image.fromarray(tall).resize((20, 30), Image.BILINEAR)
  data = _folder(root, 'test', image_size=20)
  np.testing.assert_array_equal(data.inputs[0], np.asarray(expected)[5:25])
  assert data.note == (
    'shorter side resized to 20 pixels, then the centre 20x20 kept'
  )


def test_folder_keeps_pixels_of_one_size_that_is_not_square(tmp_path):
  root = tmp_path / 'wide'
  pixels = [_save(root / f'{i}.png', (4, 7, 3), i) for i in range(3)]
  images = np.concatenate([_folder(root, s).inputs for s in ('train', 'test')])
  assert _in_any_order(images, [0] * 3) == _in_any_order(pixels, [0] * 3)


def test_folder_is_gray_if_all_its_images_are(tmp_path):
  root = tmp_path / 'gray'
  pixels = _save(root / 'train/a.png', (9, 9))
  _save(root / 'train/b.png', (9, 9), mode='1')
  _save(root / 'test/a.png', (9, 9), mode='LA')
  data = _folder(root)
  assert data.inputs.shape == (2, 9, 9, 1)
  assert any(np.array_equal(image[..., 0], pixels) for image in data.inputs)
  # One image in colour, though in the other part, makes all RGB.
  _save(root / 'test/b.png')
  data = _folder(root)
  assert data.inputs.shape == (2, 9, 9, 3)
  assert any(
    np.array_equal(image, np.stack([pixels] * 3, -1)) for image in data.inputs
  )


def test_folder_takes_what_pillow_converts(tmp_path):
  root = tmp_path / 'kinds'
  # Lossy codecs keep one colour nearly; 204 is in Pillow's default palette.
  pixels = np.full([9, 9, 3], 204, np.uint8)
  image = Image.fromarray(pixels)
  (root / 'train').mkdir(parents=True)
  shutil.copytree(root / 'train', root / 'test')
  palette = image.convert('P')
  palette.save(root / 'train/a.png', transparency=bytes([0, 128]))
  palette.save(root / 'train/b.gif')
  image.convert('RGBA').save(root / 'train/c.webp')
  image.convert('CMYK').save(root / 'train/d.jpeg')
  image.save(root / 'train/e.bmp')
  image.convert('L').save(root / 'test/f.TIFF')
  for split, count in (('train', 5), ('test', 1)):
    images = _folder(root, split).inputs
    assert images.shape == (count, 9, 9, 3)
    assert abs(images.astype(int) - 204).max() <= 2


def test_folder_is_cached_until_a_file_changes(tmp_path, monkeypatch):
  root = tmp_path / 'birds'
  _classes(root, {'kite': 3, 'owl': 3})
  for path in root.glob('*/*'):
    os.utime(path, (0, 0))  # so that only the names tell them apart
  first = _folder(root, image_size=6)
  with monkeypatch.context() as patch:
    patch.setattr(decode, 'headers', None)  # a call would raise
    patch.setattr(decode, 'file', None)
    _equal(_folder(root, image_size=6), first)
    with pytest.raises(TypeError):
      _folder(root, image_size=7)
  (root / 'owl').rename(root / 'ape')
  renamed = _folder(root, image_size=6)
  assert renamed.class_names['class'] == ('ape', 'kite')
  # The owls, who had been class 1, are now the apes, class 0.
  tests = _folder(root, 'test', image_size=6)
  apes = [
    image.tobytes()
    for part in (renamed, tests)
    for image in part.inputs[part.labels['class'] == 0]
  ]
  owls = [image.tobytes() for image in first.inputs[first.labels['class'] == 1]]
  assert len(apes) == 3
  assert set(owls) < set(apes)
  _save(root / 'kite/0.png', seed=50)
  changed = _folder(root, 'test', image_size=6).inputs.tobytes()
  changed += _folder(root, image_size=6).inputs.tobytes()
  new = Image.fromarray(_save(tmp_path / 'copy.png', seed=50))
  new = np.asarray(new.resize((6, 6), Image.BILINEAR))
  assert new.tobytes() in changed


def test_headers_are_read_once_for_all_splits(tmp_path, monkeypatch):
  root, cache = tmp_path / 'birds', tmp_path / 'cache'
  _classes(root, {'kite': 5, 'owl': 5}, shape=(6, 8))
  open_split = functools.partial(sources.load_stream, root, cache_dir=cache)
  first = open_split('train', image_size=6)
  (kept,) = cache.iterdir()
  with monkeypatch.context() as patch:
    patch.setattr(decode, 'headers', None)  # A call would raise.
    again = open_split('train', image_size=6)
    assert (
      again.note
      == first.note
      == ('shorter side resized to 6 pixels, then the centre 6x6 kept')
    )
    assert again.read(np.arange(2))['image'].shape == (2, 6, 6, 1)
    assert open_split('validation', image_size=None).num_examples == 1
    assert open_split('test', image_size=6).num_examples == 2
  # What is damaged is read again, and a file that changed.
  kept.write_bytes(kept.read_bytes()[:-9])
  assert open_split('test', image_size=6).note == first.note
  _save(root / 'owl/0.png', (9, 9, 3))
  with pytest.raises(ValueError, match='image_size'):
    open_split('train')
  assert open_split('train', image_size=6).read(np.arange(1))[
    'image'
  ].shape == (1, 6, 6, 3)


def test_links_to_folders_inside_a_class_are_passed_over(tmp_path):
  root = tmp_path / 'birds'
  _classes(root, {'kite': 5, 'owl': 5})
  (root / 'kite/again').symlink_to(root / 'kite', target_is_directory=True)
  counts = [len(_folder(root, split).inputs) for split in ('train', 'test')]
  assert counts == [8, 2]


def test_folder_shows_progress(tmp_path, capsys):
  _classes(tmp_path / 'birds', {'kite': 5})
  sources.load(tmp_path / 'birds', 'train', cache_dir=tmp_path, validation=0)
  assert 'train 4/4' in capsys.readouterr().err


def _deep_png(height, width):
  """A PNG of 16-bit colours, which Pillow reads and does not write."""

  def chunk(name, data):
    ends = struct.pack('>I', zlib.crc32(name + data))
    return struct.pack('>I', len(data)) + name + data + ends

  header = struct.pack('>IIBBBBB', width, height, 16, 2, 0, 0, 0)
  rows = (b'\0' + bytes([1, 2] * 3 * width)) * height
  chunks = (b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*x) for x in chunks)


def _make(root, kind):
  """Folders that cannot be loaded."""
  if kind == 'a file':
    root.write_text('')
  elif kind == 'empty':
    root.mkdir()
  elif kind == 'no images':
    root.mkdir()
    (root / 'notes.txt').write_text('')
  elif kind == 'empty class':
    _classes(root, {'kite': 3})
    (root / 'owl').mkdir()
  elif kind == 'nested':
    _classes(root / 'birds', {'kite': 3})
  elif kind == 'one image':
    _save(root / '0.png')
  elif kind == 'two of a class':
    _classes(root, {'kite': 3, 'owl': 2})
  elif kind == 'mixed':
    _classes(root, {'kite': 3})
    _save(root / '0.png')
  elif kind == 'only train':
    _classes(root / 'train', {'kite': 3})
  elif kind == 'empty test':
    _classes(root / 'train', {'kite': 3})
    (root / 'test').mkdir()
  elif kind == 'other classes':
    _classes(root / 'train', {'kite': 3})
    _classes(root / 'test', {'kite': 3, 'owl': 1})
  elif kind == 'sizes':
    for i in range(3):
      _save(root / f'{i}.png', (4, 7 if i == 1 else 6, 3))
  elif kind == '16 bits':
    for i in range(3):
      _save(root / f'{i}.png')
    Image.fromarray(np.full([9, 9], 999, np.uint16)).save(root / '1.png')
  elif kind == '16 bits of colour':
    for i in range(3):
      _save(root / f'{i}.png')
    (root / '1.png').write_bytes(_deep_png(9, 9))
  elif kind in ('truncated', 'no picture'):
    for i in range(3):
      _save(root / f'{i}.png', (30, 30, 3))
    # Both parts' headers are read; only the training part is decoded.
    paths = sorted(root.iterdir())
    for path in paths if kind == 'truncated' else paths[1:2]:
      data = path.read_bytes()
      path.write_bytes(data[:1000] if kind == 'truncated' else b'GIF? no')


@pytest.mark.parametrize(
  ('kind', 'words'),
  [
    ('absent', ['no folder of images {root}.', 'cifar10']),
    ('a file', ['{root} is a file']),
    ('empty', ['{root} holds no images', '.png', 'no folders']),
    ('no images', ['{root} holds no images', '.png']),
    ('empty class', ['{root}/owl holds no images', 'Fill it or remove it']),
    ('nested', ['{root}/birds holds no images']),
    ('one image', ['{root}: 1', 'At least 3', '20%', '{root}/train']),
    ('two of a class', ['{root}/owl: 2', 'At least 3']),
    ('mixed', ['{root} holds both', '(0.png)', '(kite)']),
    ('only train', ['{root} has a folder train', 'none called test']),
    ('empty test', ['{root}/test holds no images']),
    ('other classes', ["{root}/test has a folder of the class 'owl'"]),
    ('sizes', ['{root}/1.png', '4x7', '4x6', '--config.data.image_size']),
    ('16 bits', ['{root}/1.png', "'I;16'", '8 bits']),
    ('16 bits of colour', ['{root}/1.png', '16 bits a channel', '8 bits']),
    ('truncated', ['{root}/', '.png cannot be decoded (', 'truncated']),
    ('no picture', ['{root}/1.png cannot be decoded (', 'identify']),
  ],
)
def test_bad_folders(tmp_path, kind, words):
  root = tmp_path / 'images'
  _make(root, kind)
  wanted = FileNotFoundError if kind == 'absent' else ValueError
  with pytest.raises(wanted) as error:
    _folder(root)
  for word in words:
    assert word.format(root=root) in _message(error)
  # At most what its headers say, which are read before all else.
  kept = [path.name for path in tmp_path.glob('cache/*')]
  assert all('-headers-' in name for name in kept)


def test_one_image_has_no_validation_set(tmp_path):
  root = tmp_path / 'images'
  for part in ('train', 'test'):
    _save(root / part / '0.png')
  with pytest.raises(ValueError, match=r'validation=0.1 of 1 examples leaves'):
    _folder(root, 'validation', validation=0.1)
  with pytest.raises(ValueError, match="images has no folder 'unlabelled'"):
    _folder(root, 'unlabelled')
  with pytest.raises(FileNotFoundError, match='no folder of images stl10'):
    sources.load(pathlib.Path('stl10'), 'unlabelled')


# --- Tiny ImageNet, unlabelled parts, memory ----------------------------------

_WORDS = 'n01\tgoldfish, Carassius auratus\nn02\tking penguin\nn03\tunused\n'


def _tiny_imagenet(root):
  """The archive's own layout: two classes, 64 pixels made 8; its pixels."""
  (root / 'test/images').mkdir(parents=True)
  (root / 'wnids.txt').write_text('n02\nn01\n')
  (root / 'words.txt').write_text(_WORDS)
  train, val = [], []
  for label, wnid in enumerate(('n01', 'n02')):
    for i in range(3):
      path = root / 'train' / wnid / 'images' / f'{wnid}_{i}.JPEG'
      # As there, a few are gray; PNG inside, so that pixels stay what they are.
      shape = (8, 8) if i == 0 else (8, 8, 3)
      pixels = _save(path, shape, 10 * label + i, format='PNG')
      train.append((pixels if i else np.stack([pixels] * 3, -1), label))
    (root / 'train' / wnid / f'{wnid}_boxes.txt').write_text('0\t0\t9\t9\n')
  lines = []
  for i, label in enumerate([1, 0, 1, 1]):
    path = root / 'val/images' / f'val_{i}.JPEG'
    val.append((_save(path, (8, 8, 3), 50 + i, format='PNG'), label))
    lines.append(f'val_{i}.JPEG\tn0{label + 1}\t0\t0\t62\t62\n')
  (root / 'val/val_annotations.txt').write_text(''.join(lines))
  return {'train': train, 'test': val}


def test_tiny_imagenet_is_taken_as_it_was_unzipped(tmp_path):
  root = tmp_path / 'tiny-imagenet-200'
  for split, written in _tiny_imagenet(root).items():
    data = _folder(root, split)
    assert data.inputs.shape == (len(written), 8, 8, 3)
    assert data.class_names['class'] == (
      'goldfish, Carassius auratus',
      'king penguin',
    )
    images, labels = zip(*written, strict=True)
    assert _in_any_order(data.inputs, data.labels['class']) == _in_any_order(
      images, labels
    )
  assert _folder(root, 'train').note == ''
  assert data.note == 'its labelled validation set serves as the test set'
  resized = _folder(root, 'test', image_size=4)
  assert resized.note.startswith(f'{data.note}; shorter side resized to 4')
  with pytest.raises(ValueError, match="has no folder 'unlabelled'"):
    _folder(root, 'unlabelled')


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    ('no annotations', ['{root}/val/val_annotations.txt is missing', 'Unzip']),
    ('no words', ['{root}/words.txt is missing']),
    ('nameless', ["{root}/wnids.txt lists the class 'n09'", 'words.txt']),
    ('unknown class', ['val_annotations.txt, line 5', "class 'n03'"]),
    ('missing image', ["line 5, names the image 'val_9.JPEG'", 'not in']),
    ('no class', ["line 5, names the class ''"]),
    ('not annotated', ['does not name {root}/val/images/val_x.JPEG']),
    ('no folder', ['{root}/train/n02/images holds no images']),
    ('empty', ['val_annotations.txt names no images']),
  ],
)
def test_damaged_tiny_imagenet_is_named(tmp_path, damage, words):
  root = tmp_path / 'tiny'
  _tiny_imagenet(root)
  listing = root / 'val/val_annotations.txt'
  lines = listing.read_text()
  if damage == 'no annotations':
    listing.unlink()
  elif damage == 'no words':
    (root / 'words.txt').unlink()
  elif damage == 'nameless':
    (root / 'wnids.txt').write_text('n01\nn02\nn09\n')
  elif damage == 'unknown class':
    listing.write_text(f'{lines}val_0.JPEG\tn03\t0\t0\t1\t1\n')
  elif damage == 'missing image':
    listing.write_text(f'{lines}val_9.JPEG\tn01\t0\t0\t1\t1\n')
  elif damage == 'no class':
    listing.write_text(f'{lines}val_0.JPEG\n')
  elif damage == 'not annotated':
    _save(root / 'val/images/val_x.JPEG')
  elif damage == 'no folder':
    shutil.rmtree(root / 'train/n02/images')
  elif damage == 'empty':
    shutil.rmtree(root / 'val/images')
    listing.write_text('')
  with pytest.raises(ValueError) as error:
    _folder(root)
  for word in words:
    assert word.format(root=root) in _message(error)


@pytest.mark.parametrize('layout', ['both', 'train', 'classes'])
def test_an_unlabelled_part_of_a_folder(tmp_path, layout):
  root = tmp_path / 'birds'
  _classes(root / ('' if layout == 'classes' else 'train'), {'owl': 5})
  if layout == 'both':
    _classes(root / 'test', {'owl': 2})
  written = [_save(root / f'unlabelled/{i}.png', seed=50 + i) for i in range(3)]
  # All of them, whatever is held out of the labelled ones.
  data = _folder(root, 'unlabelled', validation=0.5)
  assert data.class_names['class'] == ()
  assert _in_any_order(data.inputs, data.labels['class']) == _in_any_order(
    written, [-1] * 3
  )
  train, test = _folder(root), _folder(root, 'test')
  assert train.class_names['class'] == test.class_names['class'] == ('owl',)
  # Where there is no test/, a fifth of five images is.
  sizes = (5, 2) if layout == 'both' else (4, 1)
  assert (len(train.labels['class']), len(test.labels['class'])) == sizes


def test_train_beside_something_else_still_needs_a_test_set(tmp_path):
  root = tmp_path / 'birds'
  for part in ('train', 'val', 'unlabelled'):
    _classes(root / part, {'owl': 3})
  with pytest.raises(ValueError, match='folder train but none called test'):
    _folder(root)


def test_more_than_memory_holds_says_how_much_and_what_to_do(
  root, tmp_path, monkeypatch
):
  monkeypatch.setattr(memory, 'available', lambda: 10_000)
  # 40 images of 12x12 gray pixels.
  assert len(_load(root, split='test').labels['class']) == 40
  with pytest.raises(ValueError) as error:
    _load(root, split='train')  # And nine tenths again, which are copied out.
  for word in ('mnist train', '10,944 bytes', '10,000', 'data.stream=True'):
    assert word in _message(error)
  # A tenth is less, and all of them need no copy.
  assert len(_load(root, split='validation').inputs) == 4
  assert len(_load(root, split='train', validation=0).inputs) == 40
  _classes(tmp_path / 'birds', {'owl': 50, 'kite': 50})
  for _ in range(2):
    # 20 images of 9x9x3 as the test set, decoded and then cached.
    monkeypatch.setattr(memory, 'available', lambda: 4859)
    with pytest.raises(ValueError, match=r'birds test takes [45],\d+ bytes'):
      _folder(tmp_path / 'birds', 'test')
    monkeypatch.setattr(memory, 'available', lambda: None)
    _folder(tmp_path / 'birds', 'test')


# --- errors -------------------------------------------------------------------


def _message(error):
  text = str(error.value)
  assert '\n' not in text
  return text


@pytest.mark.parametrize(
  ('name', 'split', 'settings', 'words'),
  [
    ('cifar', 'train', {}, ["'cifar'", "Did you mean 'cifar10'", 'digits']),
    ('imagenet', 'train', {}, ["'imagenet'", "'mnist', 'cifar10', 'cifar100'"]),
    (None, 'train', {}, ['None', 'digits']),
    ('', 'train', {}, ["''", 'digits', 'path of a folder']),
    ('digits', 'unlabelled', {}, ['Only stl10', "'digits'", 'validation']),
    ('digits', 'val', {}, ["'val'", "'validation'", "'train'"]),
    ('digits', 'train', {'image_size': 0}, ['image_size', 'got 0']),
    ('digits', 'train', {'image_size': -8}, ['image_size', 'got -8']),
    ('digits', 'train', {'image_size': 8.5}, ['image_size', 'got 8.5']),
    ('digits', 'train', {'validation': 1.0}, ['validation', 'got 1.0']),
    ('digits', 'train', {'validation': -0.1}, ['validation', 'got -0.1']),
    ('digits', 'train', {'validation': 'x'}, ['validation', "got 'x'"]),
    ('digits', 'validation', {'validation': 0}, ['empty', '0.1']),
    ('digits', 'validation', {'validation': 1e-5}, ['1e-05', '1438']),
  ],
)
def test_bad_arguments(name, split, settings, words):
  with pytest.raises(ValueError) as error:
    sources.load(name, split, **settings)
  for word in words:
    assert word in _message(error)


def test_not_prepared_fails_at_once_and_says_how(root):
  began = time.monotonic()
  with pytest.raises(FileNotFoundError) as error:
    _load(root, 'cifar100')
  assert time.monotonic() - began < 5
  message = _message(error)
  assert f'{root} (it holds cifar10, mnist, stl10)' in message
  for word in (
    "'cifar100'",
    'TFDS_DATA_DIR',
    '--config.data.data_dir',
    "pip install 'dim_jax[prepare]'",
    f'python -m dim_jax.data.prepare cifar100 --data_dir={root}',
  ):
    assert word in message


def test_no_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', os.fspath(tmp_path / 'absent'))
  with pytest.raises(FileNotFoundError, match=r'absent \(no such folder'):
    sources.load('mnist', 'test')


def _damage(path, kind):
  content = bytearray(path.read_bytes())
  if kind == 'half':
    del content[len(content) // 2 :]
  elif kind == 'empty':
    content.clear()
  else:
    # The records come first; the rest of the 64 KiB block is padding.
    content[1000:1200] = bytes(200)
  path.write_bytes(content)


@pytest.mark.parametrize('kind', ['half', 'empty', 'garbled'])
def test_damaged_record_file_is_named(root, kind):
  (path,) = (root / 'mnist/1.2.0').glob('*-test.array_record*')
  _damage(path, kind)
  with pytest.raises(ValueError, match='is damaged') as error:
    _load(root)
  message = _message(error)
  assert str(path) in message
  assert 'prepare it again' in message
  assert 'dim_jax.data.prepare mnist' in message
  assert not (root.parent / 'cache').exists()


def test_undecodable_image_is_reported(root, monkeypatch):
  def truncated(data, shape, size, intact=decode.record):
    return intact(data[: len(data) // 2], shape, size)

  monkeypatch.setattr(decode, 'record', truncated)
  with pytest.raises(ValueError, match=r'mnist-test.* is damaged .*image'):
    _load(root)


def test_of_several_rows_the_damaged_one_is_named(root, monkeypatch):
  # TFDS reads all of them before it gives one.
  class Records:
    def __getitems__(self, rows):
      return [self[row] for row in rows]

    def __getitem__(self, row):
      if row == 25:
        raise RuntimeError('CRC mismatch')
      return records[row]

  source = sources.find('mnist', 'test', None, root, 0.0)
  tfds = prepared.import_tfds()
  builder = tfds.builder_from_directory(root / 'mnist/1.2.0')
  records = builder.as_data_source(
    split='test', decoders={'image': tfds.decode.SkipDecoding()}
  )
  monkeypatch.setattr(
    type(builder), 'as_data_source', lambda self, **_: Records()
  )
  stream = source.open()
  (path,) = (root / 'mnist/1.2.0').glob('*-test.array_record*')
  # As if of two files.
  monkeypatch.setattr(
    prepared._Split,
    'file_of',
    lambda self, row: f'file {row // 20} of {path.name}',
  )
  assert stream.read(np.array([3, 30]))['image'].shape == (2, 12, 12, 1)
  with pytest.raises(decode.CorruptError, match=r'file 1 of .*CRC mismatch'):
    stream.read(np.array([3, 25]))


def test_missing_shard_is_named(root):
  (path,) = (root / 'mnist/1.2.0').glob('*-train.array_record*')
  path.unlink()
  with pytest.raises(FileNotFoundError) as error:
    _load(root, split='train')
  assert f'{path} is missing' in _message(error)


def test_unreadable_metadata_is_reported(root):
  (root / 'mnist/1.2.0/dataset_info.json').write_text('{"name": "mn')
  with pytest.raises(ValueError) as error:
    _load(root)
  assert 'metadata of mnist' in _message(error)


def test_other_file_format_is_refused(root):
  path = root / 'mnist/1.2.0/dataset_info.json'
  path.write_text(path.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(ValueError) as error:
    _load(root)
  assert 'prepared as tfrecord; only array_record' in _message(error)


# --- the real ones ------------------------------------------------------------


@_needs('mnist')
def test_real_mnist(tmp_path):
  data = sources.load('mnist', 'test', cache_dir=tmp_path, progress=False)
  assert data.inputs.shape == (10000, 28, 28, 1)
  assert data.note == ''
  # The test split's own statistics; 0.1307 and 0.3081 are the training set's.
  np.testing.assert_allclose(data.inputs.mean() / 255, 0.1325, atol=1e-4)
  np.testing.assert_array_equal(
    np.bincount(data.labels['class']),
    [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
  )


@_needs('cifar10')
def test_real_cifar10(tmp_path):
  data = sources.load('cifar10', 'test', cache_dir=tmp_path, progress=False)
  assert data.inputs.shape == (10000, 32, 32, 3)
  np.testing.assert_array_equal(np.bincount(data.labels['class']), [1000] * 10)
  # The published mean of the original test images; JPEG moves it little.
  np.testing.assert_allclose(
    data.inputs.mean(axis=(0, 1, 2)) / 255, [0.4942, 0.4851, 0.4504], atol=1e-3
  )
  assert data.class_names['class'][0] == 'airplane'
  assert data.class_names['class'][9] == 'truck'


# --- what would be silently dropped or changed -------------------------------


def test_images_below_those_of_a_class_are_its_own_and_counted(tmp_path):
  root = tmp_path / 'pets'
  _classes(root, {'cat': 5, 'dog': 5})
  _classes(root / 'cat', {'session2': 5})
  parts = [_folder(root, split) for split in ('train', 'test')]
  labels = np.concatenate([part.labels['class'] for part in parts])
  assert np.bincount(labels).tolist() == [10, 5]
  for part in parts:
    assert part.note == 'images in folders inside those of classes: 5'


def test_what_lies_beside_train_and_test_is_counted(tmp_path):
  root = tmp_path / 'birds'
  for part in ('train', 'test', 'val'):
    _classes(root / part, {'owl': 3})
  _save(root / '0.png')
  (root / 'train/owl/0.mp3').touch()
  (root / 'train/owl/1.HEIC').touch()
  for data in (_folder(root), sources.load_stream(str(root), 'test')):
    assert data.note == (
      'files left out: 1 .mp3, 1 .heic, 1 images beside train/ and test/, '
      '3 images in val/'
    )


@pytest.mark.parametrize('ending', ['jfif', 'avif'])
def test_other_endings_of_known_formats_are_images(tmp_path, ending):
  root = tmp_path / 'sea'
  for i in range(3):
    path = root / f'{i}.{ending}'
    path.parent.mkdir(exist_ok=True)
    kind = 'JPEG' if ending == 'jfif' else 'AVIF'
    Image.new('RGB', (8, 8), (200, 10, 10)).save(path, kind)
  data = _folder(root)
  assert data.inputs.shape == (2, 8, 8, 3)
  assert data.note == ''


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_photographs_are_upright(tmp_path, kind, orientation):
  # As stored, the upper half is white; 3 turns by 180 degrees, 6 by 90.
  stored = np.zeros((8, 16, 3), np.uint8)
  stored[:4] = 255
  exif = Image.Exif()
  exif[0x0112] = orientation
  root = tmp_path / 'photos'
  for part in ('train', 'test'):
    (root / part).mkdir(parents=True)
    Image.fromarray(stored).save(root / part / 'x.png', kind, exif=exif)
  data = _folder(root)
  expected = {1: stored, 3: stored[::-1], 6: np.rot90(stored, -1)}[orientation]
  np.testing.assert_allclose(
    data.inputs[0].astype(int), expected.astype(int), atol=8
  )
  turned = 'images turned upright by their EXIF orientation: 1 of 1'
  assert data.note == ('' if orientation == 1 else turned)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_an_orientation_that_headers_do_not_tell_is_not_followed(
  tmp_path, kind
):
  # Of XMP, and of EXIF that a PNG has behind its pixels.
  root = tmp_path / 'photos'
  for part in ('train', 'test'):
    (root / part).mkdir(parents=True)
    path = root / part / 'x.png'
    image = Image.fromarray(np.zeros((8, 16, 3), np.uint8))
    if kind == 'JPEG':
      xmp = b'<x:xmpmeta tiff:Orientation="6"></x:xmpmeta>'
      image.save(path, kind, xmp=xmp)
      assert ImageOps.exif_transpose(Image.open(path)).size == (8, 16)
    else:
      exif = Image.Exif()
      exif[0x0112] = 6
      image.save(path, kind, exif=exif)
      content = path.read_bytes()
      start = content.index(b'eXIf') - 4
      size = 12 + struct.unpack('>I', content[start : start + 4])[0]
      late = content[start : start + size]
      rest = content[:start] + content[start + size :]
      end = rest.index(b'IEND') - 4
      path.write_bytes(rest[:end] + late + rest[end:])
  data = _folder(root)
  assert (data.inputs.shape, data.note) == ((1, 8, 16, 3), '')


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparent_pixels_are_white(tmp_path, mode):
  root = tmp_path / 'cutouts'
  for part in ('train', 'test'):
    path = root / part / 'x.png'
    pixels = _save(path, (6, 6, {'RGBA': 4, 'LA': 2}[mode]), 0, mode=None)
    pixels[..., -1] = 0
    pixels[:2, ..., -1] = 255
    pixels[2, ..., -1] = 51  # a fifth
    Image.fromarray(pixels, mode).save(path)
  data = _folder(root)
  colours = pixels[..., :-1]
  np.testing.assert_array_equal(data.inputs[0][:2], colours[:2])
  mixed = 0.2 * colours[2] + 0.8 * 255.0
  np.testing.assert_allclose(data.inputs[0][2], mixed, atol=1)
  assert (data.inputs[0][3:] == 255).all()
  assert data.note == 'images with transparency, laid on white: 1 of 1'


def test_frames_after_the_first_are_noted(tmp_path):
  frames = [Image.new('L', (5, 5), 80 * i) for i in (1, 2, 3)]
  for part in ('train', 'test'):
    (tmp_path / 'films' / part).mkdir(parents=True)
    path = tmp_path / 'films' / part / 'x.gif'
    frames[0].save(path, save_all=True, append_images=frames[1:])
  data = _folder(tmp_path / 'films')
  assert data.note == 'images of several frames, the first taken: 1 of 1'


def test_a_folder_one_level_too_high_says_which_to_name(tmp_path):
  root = tmp_path / 'sets'
  _classes(root / 'birds', {'kite': 3, 'owl': 3})
  with pytest.raises(ValueError, match=r'\(kite\).* name .*/birds inst'):
    _folder(root)


def test_other_files_alone_are_named(tmp_path):
  root = tmp_path / 'phone'
  root.mkdir()
  (root / 'a.heic').touch()
  with pytest.raises(ValueError, match=r'no images .*instead: 1 \.heic'):
    _folder(root)


def test_an_image_too_large_to_decode_is_not_to_be_repaired(
  tmp_path, monkeypatch
):
  root = tmp_path / 'maps'
  for i in range(3):
    _save(root / f'{i}.png', (30, 30, 3))
  # Pillow refuses more than twice its limit.
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 400)
  with pytest.raises(ValueError, match='larger than the 800 pixels') as error:
    _folder(root)
  assert 'lower resolution' in str(error.value)
  assert 'repair' not in str(error.value)
