"""Loads recordings of speech as windows of one length, never with TensorFlow.

How long a recording is tells much of who speaks, so nothing is padded and no
length is passed on: a window holds samples of one recording only.
"""

import bisect
import concurrent.futures
import functools
import itertools
import json
import operator
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dim_jax import files as files_lib
from dim_jax.data import decode, sources

_Item = TypeVar('_Item')

NAMES = ('spoken_digit', 'librispeech')
SPLITS = ('train', 'validation', 'test')

_TEST = 0.2  # of each speaker's recordings, where nobody says which
_RATES = {'spoken_digit': 8000, 'librispeech': 16000}
_SPLITS = {'spoken_digit': 'train', 'librispeech': 'train_clean100'}
_SAMPLES = {'spoken_digit': 'audio', 'librispeech': 'speech'}
_PHONES_A_SECOND = 100
_SUFFIXES = ('.wav', '.flac')
# Stored with more than the 16 bits that are kept.
_FINER = ('PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE')
_AHEAD = 32  # files in memory beside their windows
_REPORT_SECONDS = 5


class Sound(NamedTuple):
  """One split of a data set, cut into windows, in memory.

  Attributes:
    audio: int16 [n, window], mono; 32768 is full scale.
    labels: int32. 'speaker' [n]; 'digit' [n] of spoken_digit; 'phone'
      [n, frames], one a hundredth of a second, -1 where it is not known.
    class_names: of each label, one a class.
    recording: int32 [n], which recording a window was cut from, counted over
      all splits in the order of their names.
    rate: samples a second.
    name: of the data set, or its folder as it was given.
    note: what a reader of a result must know, such as how many recordings
      were too short for a window; '' for nothing.
  """

  audio: np.ndarray
  labels: dict[str, np.ndarray]
  class_names: dict[str, tuple[str, ...]]
  recording: np.ndarray
  rate: int
  name: str
  note: str


class _Recording(NamedTuple):
  """What is known of a recording before its samples are kept.

  Attributes:
    name: that lists and phone labels call it by.
    speaker: its name.
    digit: spoken, or -1.
    length: in samples.
    key: by which its source reads it.
  """

  name: str
  speaker: str
  digit: int
  length: int
  key: Any


class _Source(NamedTuple):
  """All recordings of a data set, in the order of their names."""

  recordings: Sequence[_Recording]
  # The samples of recordings, given their keys; [length] each.
  read: Callable[[Sequence[Any]], Iterable[np.ndarray]]
  rate: int
  notes: tuple[str, ...]


def load(
  name: str | os.PathLike[str],
  split: str,
  *,
  window: int,
  hop: int | None = None,
  rate: int | None = None,
  data_dir: str | os.PathLike[str] | None = None,
  validation: float = 0.1,
  phones: str | os.PathLike[str] | None = None,
  lists: str | os.PathLike[str] | None = None,
  progress: bool = True,
) -> Sound:
  """Loads a split of a data set of speech.

  Each recording gives all windows of `window` samples that begin at multiples
  of `hop` and fit into it. One shorter than a window gives none; the note
  counts them.

  'spoken_digit' is the Free Spoken Digit Dataset at 8 kHz: 5 speakers say each
  digit 50 times. By its own convention the recordings numbered 0 to 4 are the
  test set (250) and the others the training set (2,250).

  'librispeech' is train-clean-100 at 16 kHz: 251 speakers read 100 hours of
  books. Both are read from a prepared TFDS folder in the array_record format.

  Any other name is a folder of .wav and .flac files, mono and all of one rate.
  Its first level of folders names the speakers, as LibriSpeech's own
  SPEAKER/CHAPTER/x.flac does below train-clean-100; files without such a
  folder are of one speaker.

  In librispeech and in a folder, every split has every speaker: a fixed 20 %
  of each one's recordings is the test set unless `lists` says otherwise. The
  validation set is a fixed random part of the training set's recordings. Both
  are the same for every window and every run; no recording is in two splits.

  Args:
    name: spoken_digit, librispeech or the path of a folder.
    split: train, validation or test.
    window: samples in a row.
    hop: samples from the start of a window to that of the next; None takes
      `window`, so that windows neither overlap nor leave gaps.
    rate: samples a second that are expected; None takes the data set's, or
      that of a folder's first file. Nothing is resampled.
    data_dir: the folder of prepared TFDS data sets; None takes
      $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    validation: the part of the training set kept for validation, in [0, 1);
      0 gives all of it to 'train'.
    phones: a text file with a line 'name label label ...' a recording, one
      whole number at least 0 for each hundredth of a second, such as the CPC
      authors' converted_aligned_phones.txt. Frame f of a window that begins
      at sample s has label s * 100 // rate + f.
    lists: a folder with train_split.txt and test_split.txt, a recording's name
      a line, such as the CPC authors'; recordings in neither are left out.
      Not for spoken_digit.
    progress: reports every 5 seconds on standard error.

  Returns:
    The split. Windows of a recording follow each other, recordings are in the
    order of their names.

  Raises:
    ValueError: an argument that is not accepted, a damaged file, a file that
      is not mono or has another rate, or no recording of at least a window.
    FileNotFoundError: a data set, folder or file is not there; says what to do.

  References:
    [Free Spoken Digit Dataset](
    https://github.com/Jakobovski/free-spoken-digit-dataset), 1.0.9;
    Panayotov et al., [LibriSpeech](https://www.openslr.org/12), 2015;
    van den Oord et al., [Representation Learning with Contrastive Predictive
    Coding](https://arxiv.org/abs/1807.03748), 2018 (lists, phones).
  """
  folder = _is_path(name)
  if not folder:
    sources.check_choice('data set', name, NAMES, 'or the path of a folder')
  name = os.fspath(name)
  sources.check_choice('split', split, SPLITS, 'split')
  window = _whole('window', window)
  hop = window if hop is None else _whole('hop', hop)
  rate = None if rate is None else _whole('rate', rate)
  sources.check_validation(validation, split)
  if name == 'spoken_digit' and lists is not None:
    raise ValueError(
      'spoken_digit has a test set of its own; lists are for librispeech and '
      f'for folders. Got lists={os.fspath(lists)!r}.'
    )
  if folder:
    source = _folder(pathlib.Path(name).expanduser(), rate)
  else:
    source = _prepared(name, rate, data_dir, progress)
  if lists is not None or phones is not None:
    _check_distinct(source.recordings)
  notes = list(source.notes)
  parts, some_notes = _parts(name, source.recordings, validation, lists)
  notes += some_notes
  members = np.flatnonzero(parts == split)  # in source.recordings
  if not len(members):
    raise ValueError(
      f'{name} has no recordings for {split!r}: its '
      f'{len(source.recordings):,} recordings give '
      + ', '.join(f'{np.sum(parts == s):,} to {s}' for s in SPLITS)
      + f' with validation={validation}.'
    )
  lengths = np.array([source.recordings[i].length for i in members.tolist()])
  counts = np.maximum((lengths - window) // hop + 1, 0)
  if not counts.any():
    raise ValueError(
      f'No recording of {name}, {split}, has window={window} samples: they '
      f'have {lengths.min()} to {lengths.max()}. Take a shorter window.'
    )
  if not counts.all():
    notes.append(
      f'recordings shorter than {window} samples left out: '
      f'{np.sum(counts == 0)} of {len(counts)}'
    )
  members, counts = members[counts > 0], counts[counts > 0]
  chosen = [source.recordings[i] for i in members.tolist()]

  labels, class_names = {}, {}
  speakers = sorted({recording.speaker for recording in source.recordings})
  position = {speaker: i for i, speaker in enumerate(speakers)}
  labels['speaker'] = _repeat([position[r.speaker] for r in chosen], counts)
  class_names['speaker'] = tuple(speakers)
  if name == 'spoken_digit':
    labels['digit'] = _repeat([r.digit for r in chosen], counts)
    class_names['digit'] = tuple(str(digit) for digit in range(10))
  if phones is not None:
    labels['phone'], class_names['phone'], note = _phone_labels(
      pathlib.Path(phones).expanduser(), chosen, counts, window, hop, source
    )
    notes.append(note)
  said = f'reading {name} {split}'
  samples = _report(
    source.read([r.key for r in chosen]), said, len(chosen), progress
  )
  return Sound(
    audio=_windows(samples, chosen, counts, window, hop),
    labels=labels,
    class_names=class_names,
    recording=_repeat(members, counts),
    rate=source.rate,
    name=name,
    note='; '.join(filter(None, notes)),
  )


def _is_path(name: Any) -> bool:
  if isinstance(name, os.PathLike):
    return True
  if not isinstance(name, str) or name in NAMES or not name:
    return False
  separated = any(mark in name for mark in (os.sep, os.altsep) if mark)
  return separated or os.path.isdir(name)


def _whole(what: str, value: Any) -> int:
  try:
    if isinstance(value, (bool, np.bool_)):
      raise TypeError
    whole = operator.index(value)
  except TypeError:
    whole = 0
  if whole < 1:
    raise ValueError(
      f'{what} must be a whole number of at least 1; got {value!r}.'
    )
  return whole


def _check_distinct(recordings: Sequence[_Recording]) -> None:
  seen: dict[str, Any] = {}
  for recording in recordings:
    if recording.name in seen:
      raise ValueError(
        'lists and phones know recordings by the names of their files, and two '
        f'have the name {recording.name!r}: {seen[recording.name]} and '
        f'{recording.key}.'
      )
    seen[recording.name] = recording.key


def _repeat(values: Sequence[int], counts: np.ndarray) -> np.ndarray:
  """A recording's value for each of its windows; int32 [n]."""
  return np.repeat(np.asarray(values, np.int32), counts)


def _windows(
  samples: Iterable[np.ndarray],
  recordings: Sequence[_Recording],
  counts: np.ndarray,
  window: int,
  hop: int,
) -> np.ndarray:
  """Cuts recordings into int16 [sum of counts, window]."""
  # Written in place: of hours of speech there is room for one copy.
  rows = np.empty([counts.sum(), window], np.int16)
  limits = np.iinfo(np.int16)
  first = 0
  for audio, recording, count in zip(samples, recordings, counts, strict=True):
    if audio.min() < limits.min or audio.max() > limits.max:
      raise ValueError(
        f'The recording {recording.name} has samples of {audio.min()} to '
        f'{audio.max()}, which are no 16-bit samples.'
      )
    views = np.lib.stride_tricks.sliding_window_view(audio, window)[::hop]
    rows[first : first + count] = views
    first += count
  return rows


def _report(
  items: Iterable[_Item], what: str, total: int, show: bool
) -> Iterator[_Item]:
  """Passes items on; says how many on standard error where it takes long."""
  began = said = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    now = time.monotonic()
    if show and now - said >= _REPORT_SECONDS:
      said = now
      print(
        f'{what}: {done:,} of {total:,} recordings, {now - began:.0f} s',
        file=sys.stderr,
        flush=True,
      )


# --- splits -------------------------------------------------------------------


def _parts(
  name: str,
  recordings: Sequence[_Recording],
  validation: float,
  lists: str | os.PathLike[str] | None,
) -> tuple[np.ndarray, list[str]]:
  """The split of each recording ('' for none), and notes.

  By recording and not by window, and before short ones are left out, so that
  a recording's split depends on no window.
  """
  notes = []
  parts = np.full([len(recordings)], 'train', 'U10')
  if lists is not None:
    listed = _lists(pathlib.Path(lists).expanduser())
    parts[:] = [listed.get(r.name, '') for r in recordings]
    if not np.any(parts != ''):
      raise ValueError(
        f'The lists in {lists} name no recording of {name}. They name such as '
        f'{next(iter(listed))!r}; it has such as {recordings[0].name!r}.'
      )
    if np.any(parts == ''):
      notes.append(
        f'recordings in no list left out: {np.sum(parts == "")} of {len(parts)}'
      )
  elif name == 'spoken_digit':
    for i, recording in enumerate(recordings):
      if int(recording.name.split('_')[-1]) < 5:
        parts[i] = 'test'
  else:
    speakers = np.array([recording.speaker for recording in recordings])
    for speaker in np.unique(speakers):
      members = np.flatnonzero(speakers == speaker)
      test = sources.validation_mask(len(members), _TEST)
      parts[members[test]] = 'test'
    notes.append(f"test set: a fixed {_TEST:.0%} of each speaker's recordings")
  if validation > 0:
    members = np.flatnonzero(parts == 'train')
    held_out = sources.validation_mask(len(members), validation)
    parts[members[held_out]] = 'validation'
  return parts, notes


def _lists(folder: pathlib.Path) -> dict[str, str]:
  """The split of each recording that lists name."""
  listed: dict[str, str] = {}
  for split in ('train', 'test'):
    path = folder / f'{split}_split.txt'
    if not path.is_file():
      raise FileNotFoundError(
        f'{path} is missing: lists must be a folder with train_split.txt and '
        "test_split.txt, a recording's name a line."
      )
    names = path.read_text(encoding='utf-8').split()
    if not names:
      raise ValueError(f'{path} names no recording.')
    for name in names:
      if listed.setdefault(name, split) != split:
        raise ValueError(f'{name} is in both lists of {folder}.')
  return listed


# --- phones -------------------------------------------------------------------


def _phone_labels(
  path: pathlib.Path,
  recordings: Sequence[_Recording],
  counts: np.ndarray,
  window: int,
  hop: int,
  source: _Source,
) -> tuple[np.ndarray, tuple[str, ...], str]:
  """Phone labels int32 [n, frames] of windows, the classes, and a note."""
  frames = window * _PHONES_A_SECOND // source.rate
  if not frames:
    raise ValueError(
      f'A window of {window} samples at {source.rate} a second is too short '
      'for a phone label, which stands for 1/100 s.'
    )
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {path} of phone labels.')
  known: dict[str, np.ndarray | None] = {r.name: None for r in recordings}
  highest = -1
  with open(path, encoding='utf-8') as file:
    for number, line in enumerate(file, 1):
      name, *values = line.split() or ['']
      try:
        phones = np.array([int(value) for value in values], np.int32)
        if phones.min(initial=0) < 0:
          raise ValueError
      except (ValueError, OverflowError):
        raise ValueError(
          f"{path}, line {number}: 'name label label ...' with whole numbers "
          f'of at least 0 is accepted; got {line.strip()[:60]!r}.'
        ) from None
      highest = max(highest, phones.max(initial=-1))
      if name in known:
        known[name] = phones
  missing = sum(phones is None for phones in known.values())
  if missing == len(known):
    raise ValueError(
      f'{path} labels none of the recordings; they have names such as '
      f'{recordings[0].name!r}.'
    )
  labels = np.full([counts.sum(), frames], -1, np.int32)
  row = 0
  for recording, count in zip(recordings, counts, strict=True):
    found = known[recording.name]
    for start in range(0, count * hop, hop):
      if found is not None:
        begin = start * _PHONES_A_SECOND // source.rate
        some = found[begin : begin + frames]
        labels[row, : len(some)] = some
      row += 1
  note = f'recordings without phone labels: {missing} of {len(known)}'
  class_names = tuple(str(phone) for phone in range(highest + 1))
  return labels, class_names, note if missing else ''


# --- folders ------------------------------------------------------------------


def _folder(root: pathlib.Path, rate: int | None) -> _Source:
  """The sound files below a folder."""
  if not root.exists():
    raise FileNotFoundError(
      f'There is no folder {root} of sound files; {" and ".join(NAMES)} are '
      'the data sets known by name.'
    )
  if not root.is_dir():
    raise ValueError(f'{root} is a file; name the folder that holds it.')

  def fail(error: OSError) -> None:
    raise error

  files = sorted(
    (
      pathlib.Path(folder, file)
      for folder, _, names in os.walk(root, onerror=fail, followlinks=True)
      for file in names
      if file.lower().endswith(_SUFFIXES) and not file.startswith('.')
    ),
    key=lambda path: path.relative_to(root).parts,
  )
  if not files:
    raise ValueError(
      f'{root} holds no sound files ({", ".join(_SUFFIXES)}), nor do the '
      'folders in it.'
    )
  inside = [path.relative_to(root).parts for path in files]
  beside = [path for path, p in zip(files, inside, strict=True) if len(p) == 1]
  if beside and len(beside) < len(files):
    raise ValueError(
      f'{beside[0]} lies beside the folders of the speakers, so its speaker is '
      'not known. Move it into a folder of its own.'
    )
  with concurrent.futures.ThreadPoolExecutor() as pool:
    facts = list(pool.map(_sound_file, files))
  expected = rate or facts[0].rate
  for path, fact in zip(files, facts, strict=True):
    if fact.rate != expected:
      came = 'asked for' if rate else f'that of {files[0]}'
      raise ValueError(
        f'{path} has {fact.rate} samples a second and not {expected}, {came}. '
        'Nothing is resampled here: convert the files to one rate.'
      )
  recordings = [
    _Recording(
      name=path.stem,
      speaker=parts[0] if len(parts) > 1 else root.resolve().name,
      digit=-1,
      length=fact.length,
      key=path,
    )
    for path, parts, fact in zip(files, inside, facts, strict=True)
  ]
  finer = sum(fact.subtype in _FINER for fact in facts)
  note = f'files of more than 16 bits, rounded to 16: {finer} of {len(files)}'
  return _Source(recordings, _read_files, expected, (note,) if finer else ())


class _SoundFile(NamedTuple):
  rate: int
  length: int
  subtype: str


def _sound_file(path: pathlib.Path) -> _SoundFile:
  """What the header of a file says."""
  import soundfile

  try:
    if not path.stat().st_size:
      raise ValueError(f'{path} is empty (0 bytes).')
    info = soundfile.info(path)
  except (OSError, RuntimeError) as error:
    raise _damaged(path, error) from error
  if info.channels != 1:
    raise ValueError(
      f'{path} has {info.channels} channels; only mono files are accepted.'
    )
  if not info.frames:
    raise ValueError(f'{path} holds no samples.')
  return _SoundFile(info.samplerate, info.frames, info.subtype)


def _read_files(paths: Sequence[pathlib.Path]) -> Iterator[np.ndarray]:
  # Decoding releases the interpreter's lock, so threads help.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for start in range(0, len(paths), _AHEAD):
      yield from pool.map(_read_file, paths[start : start + _AHEAD])


def _read_file(path: pathlib.Path) -> np.ndarray:
  """The samples of a file, rounded to int16 [length]."""
  import soundfile

  try:
    with soundfile.SoundFile(path) as file:
      if file.subtype in _FINER:
        scaled = np.rint(file.read() * 32768)
        audio = np.clip(scaled, -32768, 32767)
      else:
        audio = file.read(dtype='int16')
      if len(audio) != file.frames:
        raise RuntimeError(f'{len(audio)} of {file.frames} samples')
  except (OSError, RuntimeError) as error:
    raise _damaged(path, error) from error
  if not np.all(np.isfinite(audio)):
    raise ValueError(f'{path} holds samples that are not finite.')
  return audio.astype(np.int16, copy=False)


def _damaged(path: object, error: Exception) -> ValueError:
  return ValueError(f'{path} is damaged ({files_lib.reason(error)}).')


# --- prepared TFDS data sets --------------------------------------------------


def _prepared(
  name: str,
  rate: int | None,
  data_dir: str | os.PathLike[str] | None,
  progress: bool,
) -> _Source:
  """The recordings of a TFDS data set.

  Not through TFDS's builders: their audio feature imports TensorFlow.
  """
  if rate not in (None, _RATES[name]):
    raise ValueError(
      f'{name} has {_RATES[name]} samples a second and not rate={rate}; '
      'nothing is resampled here.'
    )
  root = pathlib.Path(data_dir or sources.default_data_dir()).expanduser()
  folder = sources.newest(
    name,
    root,
    "name a folder of .wav or .flac files, such as LibriSpeech's "
    'train-clean-100',
  )
  files = _files(name, root, folder)
  stamps = tuple(
    (path, count, os.stat(path).st_size, os.stat(path).st_mtime_ns)
    for path, count in files
  )
  try:
    recordings = _index(name, stamps, progress)
  except decode.CorruptError as error:
    raise ValueError(
      f'{error} Delete {folder} and prepare it again: '
      f'{sources.prepare_command(name, root)}'
    ) from error
  read = functools.partial(_read_records, name, files)
  return _Source(recordings, read, _RATES[name], ())


def _files(
  name: str, root: pathlib.Path, folder: pathlib.Path
) -> tuple[tuple[str, int], ...]:
  """The files of the split that is read, with the recordings in each."""
  again = f'Prepare it again: {sources.prepare_command(name, root)}'
  split = _SPLITS[name]
  try:
    info = json.loads((folder / 'dataset_info.json').read_text('utf-8'))
    kind = info.get('fileFormat', 'tfrecord')
    (shards,) = (
      [int(length) for length in part['shardLengths']]
      for part in info['splits']
      if part['name'] == split
    )
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    reason = files_lib.reason(error)
    raise ValueError(
      f'The metadata of {name} in {folder} cannot be read, or list no split '
      f'{split!r} ({reason}). {again}'
    ) from error
  if kind != 'array_record':
    raise ValueError(
      f'{folder} is prepared as {kind}; only array_record can be read without '
      'TensorFlow. Prepare it again, in another folder: '
      f'{sources.prepare_command(name, root.parent / "array_record")}'
    )
  files = []
  for i, count in enumerate(shards):
    path = folder / (
      f'{name}-{split}.array_record-{i:05d}-of-{len(shards):05d}'
    )
    if not path.exists():
      raise FileNotFoundError(
        f'{path} is missing, though {folder} lists it. Delete {folder}. {again}'
      )
    files.append((os.fspath(path), count))
  return tuple(files)


@functools.lru_cache(maxsize=2)
def _index(
  name: str, stamps: tuple[tuple[str, int, int, int], ...], progress: bool
) -> tuple[_Recording, ...]:
  """All recordings, in the order of their names.

  Kept, because it reads every record, and every split needs it. The files'
  sizes and times in `stamps` are there for the cache.
  """
  recordings = []
  files = tuple((path, count) for path, count, _, _ in stamps)
  total = sum(count for _, count in files)
  records = _records(name, files, range(total))
  for key, record in enumerate(
    _report(records, f'indexing {name}', total, progress)
  ):
    length = len(record[_SAMPLES[name]])
    if name == 'librispeech':
      recordings.append(
        _Recording(
          name=record['id'].decode(),
          speaker=str(record['speaker_id']),
          digit=-1,
          length=length,
          key=key,
        )
      )
      continue
    stem = record['audio/filename'].decode()
    match = re.fullmatch(r'([0-9]_([^_]+)_[0-9]+)\.wav', stem)
    digit = int(record['label'])
    if not match or not 0 <= digit <= 9:
      raise decode.CorruptError(
        f'{files[0][0]} is damaged (the recording {stem!r} with label {digit}).'
      )
    recordings.append(
      _Recording(match[1], match[2], digit, length=length, key=key)
    )
  # By field, as LibriSpeech's folders sort: both give the same splits.
  return tuple(sorted(recordings, key=lambda r: re.split('[-_]', r.name)))


def _read_records(
  name: str, files: tuple[tuple[str, int], ...], keys: Sequence[int]
) -> Iterator[np.ndarray]:
  for record in _records(name, files, keys):
    yield record[_SAMPLES[name]]


def _records(
  name: str, files: tuple[tuple[str, int], ...], keys: Sequence[int]
) -> Iterator[dict[str, Any]]:
  """Reads records by their positions.

  Raises:
    CorruptError: a file is truncated or garbled; names it.
  """
  tfds = decode.import_tfds()
  from array_record.python import array_record_data_source

  number = tfds.features.Scalar(np.int64)
  kinds = {_SAMPLES[name]: tfds.features.Tensor(shape=(None,), dtype=np.int64)}
  if name == 'spoken_digit':
    kinds |= {'audio/filename': tfds.features.Text(), 'label': number}
  else:
    kinds |= {'id': tfds.features.Text(), 'speaker_id': number}
  features = tfds.features.FeaturesDict(kinds)
  ends = list(itertools.accumulate(count for _, count in files))
  opened: dict[str, Any] = {}
  for key in keys:
    at = bisect.bisect_right(ends, key)
    path, count = files[at]
    try:
      if path not in opened:
        opened[path] = array_record_data_source.ArrayRecordDataSource([path])
      if len(opened[path]) != count:
        raise ValueError(f'{len(opened[path])} recordings instead of {count}')
      record = opened[path][key - ends[at] + count]
      example = features.deserialize_example_np(record)
    except Exception as error:  # no types for bad files are documented
      raise decode.CorruptError(f'{_damaged(path, error)}') from error
    yield example
