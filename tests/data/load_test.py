"""Examples of every kind, under the names that objectives know them by."""

import numpy as np
import PIL.Image
import pytest
import soundfile

from dim_jax.config import DataConfig, PointConfig, SoundConfig
from dim_jax.data import load as data
from dim_jax.data import sources


@pytest.fixture(scope='module')
def speakers(tmp_path_factory):
  """Two speakers of ten recordings of 400 samples."""
  root = tmp_path_factory.mktemp('speakers')
  rng = np.random.default_rng(0)
  for speaker in ('ann', 'bob'):
    (root / speaker).mkdir()
    for i in range(10):
      samples = rng.integers(-(2**15), 2**15, 400).astype(np.int16)
      soundfile.write(root / speaker / f'{i}.wav', samples, 8000)
  return root


@pytest.fixture(scope='module')
def colours(tmp_path_factory):
  """A folder of images: ten of either class, 6 rows of 8 pixels."""
  root = tmp_path_factory.mktemp('colours')
  rng = np.random.default_rng(0)
  for name in ('a', 'b'):
    (root / name).mkdir()
    for i in range(10):
      pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
      PIL.Image.fromarray(pixels).save(root / name / f'{i}.png')
  return root


def test_images_are_labelled_with_their_class():
  config = DataConfig(name='digits', image_size=8, validation=0.0)
  found = data.load(config, 'test')
  assert found.inputs.shape == (359, 8, 8, 1)
  assert found.inputs.dtype == np.uint8
  assert (found.name, found.label) == ('digits', 'class')
  assert found.class_names['class'] == tuple('0123456789')
  batch = data.batch(found)
  assert set(batch) == {'image', 'label'}
  assert batch['image'] is found.inputs
  assert batch['label'] is found.labels['class']


def test_held_out_images_are_as_many_as_asked():
  config = DataConfig(name='digits', image_size=8, validation=0.5)
  half = len(data.load(config, 'train').inputs)
  # 1,797 less 359 to test.
  assert half == 719
  assert len(data.load(config, 'train', validation=0.0).inputs) == 1438


def test_colours_become_grey_and_crops_their_centre(colours):
  plain = DataConfig(name=str(colours), image_size=8)
  grey = DataConfig(name=str(colours), image_size=8, grayscale=True, crop=5)
  before, after, whole = (
    data.load(plain, 'test'),
    data.load(grey, 'test'),
    data.load(grey, 'test', crop=False),
  )
  n = len(before.inputs)
  assert n > 0
  assert after.inputs.shape == (n, 5, 5, 1)
  assert whole.inputs.shape == (n, 8, 8, 1)
  # Of 3 pixels that are left over, 1 is above.
  np.testing.assert_array_equal(after.inputs, whole.inputs[:, 1:6, 1:6])
  luma = before.inputs @ np.array([0.299, 0.587, 0.114])
  assert np.abs(whole.inputs[..., 0] - luma).max() <= 0.51
  assert after.note.endswith('colours as one channel; centre 5 pixels')
  np.testing.assert_array_equal(before.labels['class'], after.labels['class'])


@pytest.mark.parametrize('grayscale', [False, True])
def test_a_streamed_set_is_what_would_be_in_memory(colours, grayscale):
  config = DataConfig(
    name=str(colours), image_size=8, crop=5, grayscale=grayscale
  )
  whole = data.train_set(config, progress=False)
  watched = data.load(config, 'validation', validation=0.5, progress=False)
  config.stream = True
  found = data.train_set(config, progress=False)
  # 20 images, of which 4 are for tests and a tenth of 16 for validation.
  assert found.num_examples == 14
  read = found.read(np.arange(14))
  assert set(read) == set(whole) == {'image', 'label'}
  for name, values in whole.items():
    np.testing.assert_array_equal(read[name], values)
  first = data.load(config, 'validation', validation=0.5, first=3)
  np.testing.assert_array_equal(first.inputs, watched.inputs[:3])
  np.testing.assert_array_equal(
    first.labels['class'], watched.labels['class'][:3]
  )
  assert first._replace(inputs=0, labels=0) == watched._replace(
    inputs=0, labels=0
  )
  # Without a limit it is in memory, as probes need it.
  np.testing.assert_array_equal(
    data.load(config, 'test', progress=False).inputs,
    data.load(config, 'test', first=99, progress=False).inputs,
  )


@pytest.mark.parametrize('stream', [False, True])
def test_a_sample_is_the_same_in_memory_and_streamed(
  colours, stream, monkeypatch
):
  config = DataConfig(
    name=str(colours), image_size=8, grayscale=True, stream=stream
  )
  whole = data.load(config, 'train', validation=0.0, progress=False)
  with monkeypatch.context() as patch:
    if stream:  # Then the rest is not even decoded.
      patch.setattr(sources, 'load', None)
    some, all_of_them, first = (
      data.load(config, 'train', validation=0.0, progress=False, **limits)
      for limits in ({'sample': 5}, {'sample': 99}, {'first': 8, 'sample': 5})
    )
  # Of 16, and of the first 8 of them.
  for part, count in ((some, 16), (first, 8)):
    rows = np.sort(np.random.default_rng(0).permutation(count)[:5])
    np.testing.assert_array_equal(part.inputs, whole.inputs[rows])
    np.testing.assert_array_equal(
      part.labels['class'], whole.labels['class'][rows]
    )
  np.testing.assert_array_equal(all_of_them.inputs, whole.inputs)


def test_a_stream_of_unlabelled_images(colours, tmp_path):
  for i in range(3):
    path = tmp_path / 'unlabelled' / f'{i}.png'
    path.parent.mkdir(exist_ok=True)
    PIL.Image.new('RGB', (4, 4), (i, i, i)).save(path)
  (tmp_path / 'train').symlink_to(colours, target_is_directory=True)
  config = DataConfig(
    name=str(tmp_path), image_size=4, unlabelled=True, stream=True
  )
  found = data.train_set(config)
  read = found.read(np.arange(found.num_examples))
  assert sorted(read['image'][:, 0, 0, 0].tolist()) == [0, 1, 2]
  assert read['label'].tolist() == [-1, -1, -1]


def test_labelled_images_that_are_not_trained_on_are_noted(colours, tmp_path):
  (tmp_path / 'unlabelled').mkdir()
  PIL.Image.new('RGB', (8, 8)).save(tmp_path / 'unlabelled' / '0.png')
  (tmp_path / 'train').symlink_to(colours, target_is_directory=True)
  config = DataConfig(name=str(tmp_path), image_size=8, unlabelled=True)
  assert 'unlabelled images alone' in data.load(config, 'train').note
  assert len(data.training(config).inputs) == 1
  config.labelled = 1.0
  # With 20 labelled images less 4 for tests and 2 for validation.
  assert len(data.training(config).inputs) == 15
  assert data.load(config, 'train').note == ''


def test_sound_is_labelled_with_what_is_asked(speakers):
  config = SoundConfig(name=str(speakers), window=200, validation=0.0)
  found = data.load(config, 'test', progress=False)
  # A fifth of each speaker's ten recordings, of two windows each.
  assert found.inputs.shape == (8, 200)
  assert found.inputs.dtype == np.int16
  assert found.label == 'speaker'
  assert found.class_names['speaker'] == ('ann', 'bob')
  batch = data.batch(found)
  assert set(batch) == {'audio', 'label'}
  assert np.bincount(batch['label']).tolist() == [4, 4]


def test_a_label_that_sound_does_not_have_is_named(speakers):
  config = SoundConfig(name=str(speakers), window=200, label='digit')
  with pytest.raises(
    ValueError, match=r"data.label must be one of \['speaker'\] .*got 'digit'"
  ):
    data.load(config, 'train', progress=False)


def test_labels_of_frames_are_for_probes_alone(speakers, tmp_path):
  # 400 samples at 8 kHz are 5 hundredths of a second.
  lines = [f'{i} 0 1 0 1 1' for i in range(10)]
  path = tmp_path / 'phones.txt'
  path.write_text('\n'.join(lines) + '\n')
  folder = speakers / 'ann'
  config = SoundConfig(
    name=str(folder), window=400, phones=str(path), validation=0.0
  )
  found = data.load(config, 'train', progress=False)
  assert found.labels['phone'].shape == (8, 5)
  np.testing.assert_array_equal(found.labels['phone'][0], [0, 1, 0, 1, 1])
  assert data.batch(found)['label'] is found.labels['speaker']
  config.label = 'phone'
  with pytest.raises(ValueError, match=r"one of \['speaker'\].*got 'phone'"):
    data.load(config, 'train', progress=False)


def test_points_have_no_labels_and_splits_do_not_overlap():
  config = PointConfig(name='banana', count=50, validation=0.2)
  parts = {
    split: data.load(config, split) for split in ('train', 'validation', 'test')
  }
  assert {k: x.inputs.shape for k, x in parts.items()} == {
    'train': (40, 2),
    'validation': (10, 2),
    'test': (50, 2),
  }
  rows = np.concatenate([x.inputs for x in parts.values()])
  assert len(np.unique(rows, axis=0)) == 100
  whole = data.load(config, 'train', validation=0.0)
  np.testing.assert_array_equal(
    whole.inputs, rows[[*range(40, 50), *range(40)]]
  )
  assert (whole.labels, whole.name, whole.kind) == ({}, 'banana', 'point')
  batch = data.batch(whole)
  assert set(batch) == {'point'}
  assert batch['point'] is whole.inputs


@pytest.mark.parametrize(
  ('changes', 'split', 'message'),
  [
    ({'name': 'bananas'}, 'train', r"'bananas'.* mean 'banana'"),
    ({}, 'unlabelled', "got 'unlabelled'"),
    ({'count': 0}, 'train', 'data.count must be a whole number >= 1, got 0'),
    ({'count': 4}, 'validation', r'validation=0.1 of data.count=4 .* none out'),
    ({'validation': 1.5}, 'train', 'validation must be .* got 1.5'),
  ],
)
def test_points_that_cannot_be_are_refused(changes, split, message):
  with pytest.raises(ValueError, match=message):
    data.load(PointConfig(**changes), split)


def test_points_are_no_images():
  with pytest.raises(ValueError, match="'ring' is points; this needs images"):
    data.of_images(PointConfig(name='ring'))
