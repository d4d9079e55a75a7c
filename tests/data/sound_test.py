"""Tests of the data sets of speech: windows, splits, labels, every error."""

import collections
import json
import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
from array_record.python import array_record_data_source, array_record_module

from dim_jax.data import prepare, sound
from dim_jax.data import prepared as tfds_sets

_REAL = os.environ.get('TFDS_DATA_DIR')
_needs_spoken_digit = pytest.mark.skipif(
  not (_REAL and any(pathlib.Path(_REAL).glob('spoken_digit/*/*.array_rec*'))),
  reason='TFDS_DATA_DIR names no folder with spoken_digit prepared',
)

# Three speakers of ten recordings, with LibriSpeech's names and folders and
# in the order of these names (as strings). Recording i has 100 + 10 i samples.
_SPEAKERS = ('103', '26', '7')
_IDS = [
  f'{speaker}-{chapter}-{i:04d}'
  for speaker in _SPEAKERS
  for chapter in ('40', '9')
  for i in range(5)
]
_LENGTHS = {name: 100 + 10 * i for i, name in enumerate(_IDS)}


def _samples(name):
  rng = np.random.default_rng(_IDS.index(name))
  return rng.integers(-32768, 32768, [_LENGTHS[name]]).astype(np.int16)


def _flac_path(root, name):
  speaker, chapter, _ = name.split('-')
  return root / speaker / chapter / f'{name}.flac'


@pytest.fixture(scope='module')
def _written(tmp_path_factory):
  root = tmp_path_factory.mktemp('sound') / 'speakers'
  for name in _IDS:
    path = _flac_path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, _samples(name), 16000)
  (root / '103' / '40' / '103-40.trans.txt').write_text('no sound')
  (root / '103' / '40' / '._103-40-0000.flac').write_text('hidden')
  return root


@pytest.fixture
def speakers(_written, tmp_path):
  """A copy that a test may damage."""
  return pathlib.Path(shutil.copytree(_written, tmp_path / 'speakers'))


def _windows(audio, window, hop):
  """All windows that fit, one by one."""
  rows, start = [], 0
  while start + window <= len(audio):
    rows.append(audio[start : start + window])
    start += hop
  return rows


def _equal(a, b):
  np.testing.assert_array_equal(a.inputs, b.inputs)
  np.testing.assert_array_equal(a.recording, b.recording)
  assert a.labels.keys() == b.labels.keys()
  for name in a.labels:
    np.testing.assert_array_equal(a.labels[name], b.labels[name])
  assert a.class_names == b.class_names
  assert (a.rate, a.note) == (b.rate, b.note)


def _message(error):
  return ' '.join(str(error.value).split())


# --- folders ------------------------------------------------------------------


@pytest.mark.parametrize(('window', 'hop'), [(100, None), (64, 16), (32, 50)])
def test_a_folder_gives_all_windows_of_each_recording(speakers, window, hop):
  splits = [
    sound.load(speakers, split, window=window, hop=hop)
    for split in sound.SPLITS
  ]
  seen = collections.Counter()
  for data in splits:
    assert data.inputs.dtype == np.int16
    assert data.labels['speaker'].dtype == data.recording.dtype == np.int32
    assert data.class_names == {'speaker': _SPEAKERS}
    assert data.rate == 16000
    assert data.name == str(speakers)
    for recording in np.unique(data.recording):
      name = _IDS[recording]
      mine = data.recording == recording
      expected = _windows(_samples(name), window, hop or window)
      np.testing.assert_array_equal(data.inputs[mine], expected)
      speaker = _SPEAKERS.index(name.split('-')[0])
      assert set(data.labels['speaker'][mine]) == {speaker}
      seen[name] += 1
    assert np.all(np.diff(data.recording) >= 0)
  # Every recording has at least 100 samples, and is in one split.
  assert seen == dict.fromkeys(_IDS, 1)


def test_splits_are_fixed_parts_of_the_recordings(speakers):
  def recordings(split, **settings):
    settings.setdefault('window', 100)
    return set(sound.load(speakers, split, **settings).recording.tolist())

  test = recordings('test')
  # A fifth of each speaker's ten recordings.
  assert [sum(r // 10 == s for r in test) for s in range(3)] == [2, 2, 2]
  # A tenth of the other 24, and none.
  assert len(recordings('validation')) == 2
  assert len(recordings('validation', validation=0.5)) == 12
  assert recordings('validation') < recordings('validation', validation=0.5)
  assert recordings('train', validation=0) == set(range(30)) - test
  # A longer window leaves recordings out and moves none.
  assert recordings('test', window=250) < test


def test_short_recordings_are_left_out_and_counted(speakers):
  # Recording i has 100 + 10 i samples: those before 15 are shorter than 250.
  data = sound.load(speakers, 'train', window=250, hop=7, validation=0)
  test = sound.load(speakers, 'test', window=100).recording
  short = [i for i in range(15) if i not in test]
  assert min(data.recording) >= 15
  assert data.note == (
    "test set: a fixed 20% of each speaker's recordings; recordings shorter "
    f'than 250 samples left out: {len(short)} of 24'
  )
  # Speaker 0 has recordings 0 to 9 and keeps its place among the classes.
  assert data.class_names['speaker'] == _SPEAKERS
  assert set(data.labels['speaker']) == {1, 2}


def test_no_recording_is_long_enough(speakers):
  with pytest.raises(ValueError, match='window=5000') as error:
    sound.load(speakers, 'train', window=5000, validation=0)
  lengths = re.search(r'they have (\d+) to (\d+)', _message(error))
  train = sound.load(speakers, 'train', window=1, validation=0).recording
  assert [int(n) for n in lengths.groups()] == [
    100 + 10 * min(train),
    100 + 10 * max(train),
  ]


def test_one_speaker_without_a_folder(tmp_path):
  for i in range(5):
    soundfile.write(tmp_path / f'{i}.WAV', np.full([40], i, np.int16), 8000)
  data = sound.load(tmp_path, 'train', window=40, rate=8000, validation=0)
  test = sound.load(f'{tmp_path}/', 'test', window=40)
  assert data.rate == test.rate == 8000
  assert data.class_names == {'speaker': (tmp_path.name,)}
  np.testing.assert_array_equal(data.labels['speaker'], np.zeros(4))
  assert sorted([*data.inputs[:, 0], *test.inputs[:, 0]]) == [0, 1, 2, 3, 4]


def test_a_folder_beside_us_is_found_by_its_bare_name(speakers, monkeypatch):
  monkeypatch.chdir(speakers.parent)
  data = sound.load('speakers', 'test', window=50)
  _equal(data, sound.load(speakers, 'test', window=50))
  assert data.name == 'speakers'


def test_linked_folders_count(speakers, tmp_path):
  linked = tmp_path / 'linked'
  linked.mkdir()
  for speaker in _SPEAKERS:
    (linked / speaker).symlink_to(speakers / speaker)
  _equal(
    sound.load(linked, 'test', window=50),
    sound.load(speakers, 'test', window=50),
  )


def test_finer_samples_are_rounded_to_16_bits(tmp_path):
  # In units of a 16-bit step; 40000 is beyond full scale.
  steps = np.array([0, 1, -3, 100.4, 100.6, -100.6, 32767, -32768])
  expected = [0, 1, -3, 100, 101, -101, 32767, -32768]
  for subtype in ('PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'):
    folder = tmp_path / subtype
    folder.mkdir()
    soundfile.write(folder / 'a.wav', steps / 32768, 8000, subtype)
    data = sound.load(folder, 'train', window=8, validation=0)
    np.testing.assert_array_equal(data.inputs, [expected])
    assert 'files of more than 16 bits, rounded to 16: 1 of 1' in data.note
  loud = tmp_path / 'loud'
  loud.mkdir()
  audio = np.array([40000, -40000, 0]) / 32768
  soundfile.write(loud / 'a.wav', audio, 8000, 'FLOAT')
  data = sound.load(loud, 'train', window=3, validation=0)
  np.testing.assert_array_equal(data.inputs, [[32767, -32768, 0]])


def test_other_rate_is_refused(speakers):
  odd = speakers / '26' / '9' / 'odd.wav'
  soundfile.write(odd, np.zeros([200], np.int16), 8000)
  with pytest.raises(ValueError) as error:
    sound.load(speakers, 'train', window=50)
  first = _flac_path(speakers, '103-40-0000')
  assert (
    f'{odd} has 8000 samples a second and not 16000, that of {first}.'
    in _message(error)
  )
  odd.unlink()
  with pytest.raises(ValueError) as error:
    sound.load(speakers, 'train', window=50, rate=22050)
  assert (
    f'{first} has 16000 samples a second and not 22050, asked for.'
    in _message(error)
  )


def test_stereo_is_refused(speakers):
  path = speakers / '7' / 'both.wav'
  soundfile.write(path, np.zeros([200, 2], np.int16), 16000)
  with pytest.raises(ValueError) as error:
    sound.load(speakers, 'train', window=50)
  assert f'{path} has 2 channels; only mono' in _message(error)


@pytest.mark.parametrize(
  ('content', 'says'),
  [
    (b'', 'is empty (0 bytes)'),
    (b'RIFF, or so it says' * 9, 'is damaged ('),
    ('header', 'holds no samples'),
  ],
)
def test_unreadable_files_are_named(speakers, content, says):
  path = speakers / '7' / 'bad.wav'
  if content == 'header':
    soundfile.write(path, np.zeros([0], np.int16), 16000)
  else:
    path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    sound.load(speakers, 'train', window=50)
  assert f'{path} {says}' in _message(error)


def test_truncated_file_is_named(speakers):
  # Its header is whole; the samples end early.
  path = _flac_path(speakers, '7-9-0004')
  soundfile.write(path, np.tile(_samples('7-9-0004'), 100), 16000)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(ValueError) as error:
    for split in sound.SPLITS:
      sound.load(speakers, split, window=50)
  assert f'{path} is damaged (' in _message(error)


def test_samples_that_are_not_finite_are_refused(tmp_path):
  path = tmp_path / 'a.wav'
  soundfile.write(path, np.array([0, np.nan, 0.5]), 8000, 'FLOAT')
  with pytest.raises(ValueError) as error:
    sound.load(tmp_path, 'train', window=2)
  assert f'{path} holds samples that are not finite' in _message(error)


def test_folders_without_sound(tmp_path, speakers):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'empty holds no sound files \(.wav'):
    sound.load(tmp_path / 'empty', 'train', window=50)
  with pytest.raises(FileNotFoundError, match=r'no folder .*absent'):
    sound.load(tmp_path / 'absent', 'train', window=50)
  file = _flac_path(speakers, '7-9-0004')
  with pytest.raises(ValueError, match='is a file; name the folder'):
    sound.load(file, 'train', window=50)


def test_files_beside_speakers_are_refused(speakers):
  path = speakers / 'whose.wav'
  soundfile.write(path, np.zeros([200], np.int16), 16000)
  with pytest.raises(ValueError) as error:
    sound.load(speakers, 'train', window=50)
  assert f'{path} lies beside the folders of the speakers' in _message(error)


def test_too_few_recordings_for_a_split(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.zeros([99], np.int16), 8000)
  with pytest.raises(ValueError) as error:
    sound.load(tmp_path, 'test', window=50)
  assert (
    "no recordings for 'test': its 1 recordings give 1 to train, 0 to "
    'validation, 0 to test with validation=0.1' in _message(error)
  )


# --- arguments ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    ({'name': 'spoken_digits'}, "Did you mean 'spoken_digit'"),
    ({'name': 3}, 'data.name.* got 3'),
    ({'name': ''}, "data.name.* got ''"),
    ({'split': 'tset'}, "Did you mean 'test'"),
    ({'window': 0}, 'window must be a whole number >= 1.* got 0'),
    ({'window': 2.5}, 'window must be a whole number >= 1.* got 2.5'),
    ({'hop': -1}, 'hop must be a whole number >= 1.* got -1'),
    ({'hop': True}, 'hop must be a whole number >= 1.* got True'),
    ({'rate': 0}, 'rate must be a whole number >= 1.* got 0'),
    ({'rate': 16000}, 'spoken_digit has 8000 samples a second and not rate'),
    ({'validation': 1}, r'validation must be in \[0, 1\), got 1'),
    ({'validation': '0.1'}, r"validation must be in \[0, 1\), got '0.1'"),
    ({'split': 'validation', 'validation': 0}, "'validation' is empty with"),
    ({'lists': 'there'}, "a test set of its own; .* Got lists='there'"),
  ],
)
def test_arguments_that_are_not_accepted(settings, says):
  settings = {'name': 'spoken_digit', 'split': 'test', 'window': 9} | settings
  with pytest.raises(ValueError, match=says):
    sound.load(**settings)


# --- lists and phones ---------------------------------------------------------


def _write_lists(folder, train, test):
  folder.mkdir(exist_ok=True)
  (folder / 'train_split.txt').write_text('\n'.join(train) + '\n')
  (folder / 'test_split.txt').write_text('\n'.join(test))
  return folder


def test_lists_decide_on_the_splits(speakers, tmp_path):
  lists = _write_lists(
    tmp_path / 'lists', [*_IDS[:20], 'unheard-of'], _IDS[22:]
  )
  test = sound.load(speakers, 'test', window=100, hop=999, lists=lists)
  assert test.recording.tolist() == list(range(22, 30))
  assert test.note == 'recordings in no list left out: 2 of 30'
  splits = [
    sound.load(speakers, split, window=100, hop=999, lists=lists).recording
    for split in ('train', 'validation')
  ]
  assert [len(split) for split in splits] == [18, 2]
  assert sorted([*splits[0], *splits[1]]) == list(range(20))


def test_lists_that_are_not_accepted(speakers, tmp_path):
  def load(lists):
    return sound.load(speakers, 'test', window=100, lists=lists)

  lists = _write_lists(tmp_path / 'lists', _IDS[:20], _IDS[19:])
  with pytest.raises(ValueError, match=f'{_IDS[19]} is in both lists'):
    load(lists)
  with pytest.raises(ValueError) as error:
    load(_write_lists(lists, ['foo'], ['bar']))
  message = _message(error)
  assert "such as 'foo'" in message
  assert f"such as '{_IDS[0]}'" in message
  with pytest.raises(ValueError, match=r'train_split\.txt names no recording'):
    load(_write_lists(lists, [], _IDS))
  _write_lists(lists, _IDS[:20], _IDS[20:])
  (lists / 'test_split.txt').unlink()
  with pytest.raises(FileNotFoundError, match=r'test_split\.txt is missing'):
    load(lists)


def test_hidden_folders_and_links_in_circles_are_passed_over(tmp_path):
  for speaker in ('ann', 'bob/.checkpoints', 'bob', '.trash'):
    (tmp_path / speaker).mkdir(parents=True, exist_ok=True)
    for i in range(5):
      path = tmp_path / speaker / f'{i}.wav'
      soundfile.write(path, np.zeros([99], np.int16), 8000)
  # Both lie before the folders that they lead to.
  (tmp_path / 'ann' / 'all').symlink_to(tmp_path)
  (tmp_path / 'all').symlink_to(tmp_path / 'bob')
  train, test = (sound.load(tmp_path, x, window=99) for x in ('train', 'test'))
  assert train.class_names['speaker'] == ('ann', 'bob')
  # A fifth of each speaker's recordings are the test set, a tenth of the rest
  # is held out.
  assert (len(train.inputs), len(test.inputs)) == (7, 2)


def test_names_must_tell_recordings_apart_where_they_count(tmp_path):
  for speaker in 'ab':
    (tmp_path / speaker).mkdir()
    for i in range(5):
      path = tmp_path / speaker / f'{i}.wav'
      soundfile.write(path, np.zeros([99], np.int16), 8000)
  assert len(sound.load(tmp_path, 'test', window=99).inputs) == 2
  with pytest.raises(ValueError) as error:
    sound.load(tmp_path, 'test', window=99, phones='phones.txt')
  assert (
    f"two have the name '0': {tmp_path}/a/0.wav and {tmp_path}/b/0.wav"
    in _message(error)
  )


def test_phones_follow_the_windows(tmp_path):
  # 8,000 samples a second: a label stands for 80 samples. Windows of 200
  # samples hold 200 * 100 // 8000 = 2 labels; they begin at 0, 150, 300 and
  # 450, hence at labels 0, 1 (150 / 80), 3 (300 / 80) and 5 (450 / 80).
  root = tmp_path / 'root'
  root.mkdir()
  for name in ('long', 'unknown'):
    audio = np.arange(650, dtype=np.int16)
    soundfile.write(root / f'{name}.wav', audio, 8000)
  phones = tmp_path / 'phones.txt'
  phones.write_text('other 12\nlong 5 6 7 8 9 10\n\n')
  data = sound.load(
    root, 'train', window=200, hop=150, phones=phones, validation=0
  )
  np.testing.assert_array_equal(data.inputs[:4, 0], [0, 150, 300, 450])
  assert data.labels['phone'].dtype == np.int32
  np.testing.assert_array_equal(
    data.labels['phone'],
    [[5, 6], [6, 7], [8, 9], [10, -1], [-1, -1], [-1, -1], [-1, -1], [-1, -1]],
  )
  # 12 is the highest label of the whole file, whatever the split holds.
  assert data.class_names['phone'] == tuple(str(i) for i in range(13))
  assert 'recordings without phone labels: 1 of 2' in data.note


def test_phones_that_are_not_accepted(speakers, tmp_path):
  def load(text=None, window=160):
    path = tmp_path / 'phones.txt'
    if text is not None:
      path.write_text(text)
    return sound.load(speakers, 'train', window=window, phones=path)

  with pytest.raises(FileNotFoundError, match=r'no file .*phones\.txt'):
    load()
  with pytest.raises(ValueError, match=r'phones\.txt, line 2: .*103-40 1 x'):
    load('26-9 0 1\n103-40 1 x\n')
  with pytest.raises(ValueError, match=r'line 1: .*at least 0'):
    load('26-9 0 -1\n')
  with pytest.raises(ValueError, match=r'labels none of the recordings; .*103'):
    load('26-9 0 1\n')
  with pytest.raises(ValueError, match=r'159 samples at 16000 .* too short'):
    load('26-9 0 1\n', window=159)


# --- prepared TFDS data sets --------------------------------------------------


def _write_records(folder, split, features, examples, shards=1):
  """Writes what TFDS would: records in another order, metadata as JSON."""
  folder.mkdir(parents=True)
  name = folder.relative_to(folder.parents[1]).parts[0]
  order = np.random.default_rng(0).permutation(len(examples))
  parts = np.array_split(order, shards)
  for i, part in enumerate(parts):
    path = folder / f'{name}-{split}.array_record-{i:05d}-of-{shards:05d}'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for j in part:
      writer.write(features.serialize_example(examples[j]))
    writer.close()
  info = {
    'fileFormat': 'array_record',
    'splits': [
      {'name': 'dev_clean', 'shardLengths': ['1']},
      {'name': split, 'shardLengths': [str(len(part)) for part in parts]},
    ],
  }
  (folder / 'dataset_info.json').write_text(json.dumps(info))


@pytest.fixture(scope='module')
def _prepared(tmp_path_factory):
  tfds = tfds_sets.import_tfds()
  root = tmp_path_factory.mktemp('prepared')
  examples = [
    {
      'speech': _samples(name).astype(np.int64),
      'text': 'WORDS',
      'speaker_id': int(name.split('-')[0]),
      'chapter_id': int(name.split('-')[1]),
      'id': name,
    }
    for name in _IDS
  ]
  features = tfds.features.FeaturesDict(
    {
      'speech': tfds.features.Tensor(shape=(None,), dtype=np.int64),
      'text': tfds.features.Text(),
      'speaker_id': tfds.features.Scalar(np.int64),
      'chapter_id': tfds.features.Scalar(np.int64),
      'id': tfds.features.Text(),
    }
  )
  folder = root / 'librispeech' / '2.1.1'
  _write_records(folder, 'train_clean100', features, examples, shards=3)
  return root


@pytest.fixture
def prepared(_prepared, tmp_path):
  return pathlib.Path(shutil.copytree(_prepared, tmp_path / 'prepared'))


@pytest.mark.parametrize('split', sound.SPLITS)
def test_prepared_librispeech_equals_its_files(prepared, speakers, split):
  settings = {'window': 60, 'hop': 25}
  data = sound.load('librispeech', split, data_dir=prepared, **settings)
  _equal(data, sound.load(speakers, split, **settings))
  assert data.name == 'librispeech'
  assert 'tensorflow' not in sys.modules


def test_newest_version_of_the_right_variant(prepared, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', os.fspath(prepared))
  data = sound.load('librispeech', 'test', window=60)
  folder = prepared / 'librispeech'
  (folder / 'default').mkdir()
  (folder / '2.1.1').rename(folder / 'default' / '2.1.1')
  for other in ('default/2.0.9', 'lazy_decode/2.1.2', 'default/2.2.0.tmp'):
    (folder / other).mkdir(parents=True)
    (folder / other / 'dataset_info.json').write_text('{"unreadable')
  _equal(data, sound.load('librispeech', 'test', window=60))


def test_not_prepared_says_how(prepared, tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    sound.load('spoken_digit', 'test', window=60, data_dir=prepared)
  message = _message(error)
  assert f'{prepared} (it holds librispeech)' in message
  assert (
    f'python -m dim_jax.data.prepare spoken_digit --data_dir={prepared}'
    in message
  )
  with pytest.raises(FileNotFoundError, match=r'absent \(no such folder\)'):
    sound.load('librispeech', 'test', window=60, data_dir=tmp_path / 'absent')


@pytest.mark.parametrize('kind', ['half', 'empty', 'garbled'])
def test_damaged_record_file_is_named(prepared, kind):
  paths = sorted((prepared / 'librispeech/2.1.1').glob('*array_record*'))
  content = bytearray(paths[1].read_bytes())
  if kind == 'half':
    del content[len(content) // 2 :]
  elif kind == 'empty':
    content.clear()
  else:
    content[1000:1200] = bytes(200)
  paths[1].write_bytes(content)
  with pytest.raises(ValueError) as error:
    sound.load('librispeech', 'train', window=60, data_dir=prepared)
  message = _message(error)
  assert f'{paths[1]} is damaged (' in message
  assert 'dim_jax.data.prepare librispeech' in message


def test_missing_shard_is_named(prepared):
  path = sorted((prepared / 'librispeech/2.1.1').glob('*array_record*'))[2]
  path.unlink()
  with pytest.raises(FileNotFoundError) as error:
    sound.load('librispeech', 'train', window=60, data_dir=prepared)
  assert f'{path} is missing' in _message(error)


@pytest.mark.parametrize(
  ('old', 'new', 'says'),
  [
    ('array_record', 'tfrecord', 'prepared as tfrecord; only array_record'),
    ('train_clean100', 'train', "list no split 'train_clean100'"),
    ('{', '', 'metadata of librispeech'),
  ],
)
def test_metadata_that_are_not_accepted(prepared, old, new, says):
  path = prepared / 'librispeech/2.1.1/dataset_info.json'
  path.write_text(path.read_text().replace(old, new))
  with pytest.raises(ValueError, match=says):
    sound.load('librispeech', 'train', window=60, data_dir=prepared)


def _spoken_digit(root, **changes):
  tfds = tfds_sets.import_tfds()
  features = tfds.features.FeaturesDict(
    {
      'audio': tfds.features.Tensor(shape=(None,), dtype=np.int64),
      'audio/filename': tfds.features.Text(),
      'label': tfds.features.Scalar(np.int64),
    }
  )
  example = {'audio': np.arange(9), 'audio/filename': '3_ann_4.wav', 'label': 3}
  folder = root / 'spoken_digit' / '1.0.9'
  _write_records(folder, 'train', features, [example | changes])
  return sound.load('spoken_digit', 'test', window=9, data_dir=root)


def test_spoken_digit_labels_come_from_its_fields(tmp_path):
  data = _spoken_digit(tmp_path)
  np.testing.assert_array_equal(data.inputs, np.arange(9)[None])
  assert data.labels['digit'].tolist() == [3]
  assert data.class_names['speaker'] == ('ann',)
  assert data.note == ''


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'audio': np.arange(9) + 32760}, '3_ann_4 has .* 32760 to 32768'),
    ({'audio': np.arange(9) - 32769}, '3_ann_4 has .* -32769 to -32761'),
    ({'audio/filename': '3_ann.wav'}, "damaged .*'3_ann.wav' with label 3"),
    ({'label': 10}, "damaged .*'3_ann_4.wav' with label 10"),
  ],
)
def test_records_that_are_not_accepted(tmp_path, changes, says):
  with pytest.raises(ValueError, match=says):
    _spoken_digit(tmp_path, **changes)


def test_loads_report_on_standard_error(speakers, capfd):
  sound.load(speakers, 'test', window=60)
  out, err = capfd.readouterr()
  assert out == ''
  assert f'reading {speakers} test 6/6' in err
  sound.load(speakers, 'test', window=60, progress=False)
  assert capfd.readouterr() == ('', '')


def test_preparing_sound_needs_pydub_besides(tmp_path, monkeypatch):
  def find(name):
    return None if name == 'pydub' else name

  monkeypatch.setattr(prepare.importlib.util, 'find_spec', find)
  for name in sound.NAMES:
    with pytest.raises(ModuleNotFoundError, match='needs pydub, which'):
      prepare.prepare(name, os.fspath(tmp_path))


# --- the real spoken_digit ----------------------------------------------------


@_needs_spoken_digit
def test_real_spoken_digit_has_the_counts_of_its_publishers():
  # 5 speakers, 10 digits, 50 recordings each, of 1,148 to 18,262 samples: a
  # hop beyond the longest gives one window a recording.
  splits = {
    split: sound.load('spoken_digit', split, window=1148, hop=20000)
    for split in sound.SPLITS
  }
  sizes = {split: len(data.inputs) for split, data in splits.items()}
  # 0-4 of each digit and speaker are the test set; a tenth of the others.
  assert sizes == {'train': 2025, 'validation': 225, 'test': 5 * 10 * 5}
  every = np.concatenate([data.recording for data in splits.values()])
  assert sorted(every) == list(range(2500))
  for data in splits.values():
    assert data.class_names['speaker'] == (
      *('george', 'jackson', 'nicolas', 'theo', 'yweweler'),
    )
    assert data.class_names['digit'] == tuple('0123456789')
    assert (data.rate, data.name, data.note) == (8000, 'spoken_digit', '')
  pairs = collections.Counter(
    zip(
      splits['test'].labels['speaker'].tolist(),
      splits['test'].labels['digit'].tolist(),
      strict=True,
    )
  )
  assert pairs == {(s, d): 5 for s in range(5) for d in range(10)}


@_needs_spoken_digit
def test_real_spoken_digit_windows_are_its_samples():
  tfds = tfds_sets.import_tfds()
  features = tfds.features.FeaturesDict(
    {
      'audio': tfds.features.Tensor(shape=(None,), dtype=np.int64),
      'audio/filename': tfds.features.Text(),
    }
  )
  (path,) = pathlib.Path(_REAL).glob('spoken_digit/1.0.9/*.array_record*')
  source = array_record_data_source.ArrayRecordDataSource([str(path)])
  names = ('george', 'jackson', 'nicolas', 'theo', 'yweweler')
  test, short, short_train = [], 0, 0
  for record in source.__getitems__(list(range(len(source)))):
    example = features.deserialize_example_np(record)
    file = example['audio/filename'].decode().removesuffix('.wav')
    digit, speaker, number = file.split('_')
    if int(number) >= 5:
      short_train += len(example['audio']) < 2048
      continue
    short += len(example['audio']) < 2048
    rows = _windows(example['audio'], 2048, 512)
    assert len(rows) == max(0, (len(example['audio']) - 2048) // 512 + 1)
    for row in rows:
      test.append((names.index(speaker), int(digit), tuple(row.tolist())))
  data = sound.load('spoken_digit', 'test', window=2048, hop=512)
  found = zip(
    data.labels['speaker'].tolist(),
    data.labels['digit'].tolist(),
    map(tuple, data.inputs.tolist()),
    strict=True,
  )
  assert sorted(found) == sorted(test)
  assert data.note == (
    f'recordings shorter than 2048 samples left out: {short} of 250'
  )
  train = sound.load('spoken_digit', 'train', window=2048, validation=0)
  assert train.note == (
    f'recordings shorter than 2048 samples left out: {short_train} of 2250'
  )


# --- what would be silently dropped or changed -------------------------------


def _write_floats(root, peak):
  """Two speakers of five tones, stored as floats."""
  wave = np.sin(np.arange(400) / 10)
  for speaker in ('ann', 'bob'):
    (root / speaker).mkdir(parents=True)
    for i in range(5):
      path = root / speaker / f'{i}.wav'
      soundfile.write(path, peak * wave, 8000, subtype='FLOAT')


def test_floats_on_the_scale_of_integers_are_refused(tmp_path):
  _write_floats(tmp_path / 'loud', 16000.0)
  with pytest.raises(ValueError, match=r'up to 1.*full scale is 1'):
    sound.load(tmp_path / 'loud', 'train', window=400, progress=False)


def test_samples_beyond_full_scale_are_cut_off_and_counted(tmp_path):
  _write_floats(tmp_path / 'peaks', 1.1)
  data = sound.load(
    tmp_path / 'peaks', 'train', window=400, validation=0, progress=False
  )
  above = int(np.sum(np.abs(1.1 * np.sin(np.arange(400) / 10)) > 1))
  # A fifth of each speaker's five recordings is the test set.
  assert f'samples beyond full scale, cut off: {8 * above:,}' in data.note
  assert data.inputs.max() == 2**15 - 1


def test_sound_of_other_formats_is_counted(speakers):
  (speakers / '103' / 'x.mp3').touch()
  data = sound.load(speakers, 'test', window=60, progress=False)
  assert data.note.startswith('files left out: 1 .mp3; ')
  for path in speakers.rglob('*.flac'):
    path.unlink()
  with pytest.raises(ValueError, match=r'no sound files.*instead: 1 \.mp3'):
    sound.load(speakers, 'test', window=60)


def test_a_folder_of_speakers_one_level_too_high_is_refused(speakers):
  with pytest.raises(ValueError, match=r'only speaker: name .*speakers inst'):
    sound.load(speakers.parent, 'test', window=60)
