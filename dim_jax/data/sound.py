"""Loads recordings of speech as windows of one length, never with TensorFlow.

How long a recording is tells much of who speaks, so nothing is padded and no
length is passed on: a window holds samples of one recording only.

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
SPEAKER/CHAPTER/x.flac does below train-clean-100; files without such a folder
are of one speaker. Files that are neither sound nor text by their ending are
left out, and the note counts them.

In librispeech and in a folder, every split has every speaker: a fixed 20 %
of each one's recordings is the test set unless `lists` says otherwise. The
validation set is a fixed random part of the training set's recordings. Both
are the same for every window and every run; no recording is in two splits.

References:
  [Free Spoken Digit Dataset](
  https://github.com/Jakobovski/free-spoken-digit-dataset), 1.0.9;
  Panayotov et al., [LibriSpeech](https://www.openslr.org/12), 2015;
  van den Oord et al., [Representation Learning with Contrastive Predictive
  Coding](https://arxiv.org/abs/1807.03748), 2018 (lists, phones).
"""

import bisect
import collections
import concurrent.futures
import functools
import itertools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax import checks, files
from dim_jax import progress as progress_lib
from dim_jax.data import decode, folders, memory, prepared, splits
from dim_jax.data.examples import Examples

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
_PEAK = 2.0  # the highest peak that is taken for sound on the scale of 1


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
  notes: list[str]  # reading may add to them


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
) -> Examples:
  """Loads a split of a data set, which the module describes.

  Args:
    name: spoken_digit, librispeech or the path of a folder.
    split: train, validation or test.
    window: samples in a row.
    hop: samples between the starts of windows; None takes `window`.
    rate: samples a second that are expected; None takes the data set's, or
      that of a folder's first file. Nothing is resampled.
    data_dir: the folder of prepared TFDS data sets; None takes
      $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    validation: the part of the training set held out, in [0, 1).
    phones: a text file with a line 'name label label ...' a recording, one
      whole number at least 0 for each hundredth of a second, such as the CPC
      authors' converted_aligned_phones.txt. Frame f of a window that begins
      at sample s has label s * 100 // rate + f.
    lists: a folder with train_split.txt and test_split.txt, a recording's name
      a line, such as the CPC authors'; recordings in neither are left out.
      Not for spoken_digit.
    progress: shows it on standard error.

  Returns:
    The split. Windows of a recording follow each other, recordings are in the
    order of their names.

  Raises:
    ValueError: an argument that is not accepted, a damaged file, a file that
      is not mono or has another rate, or no recording of at least a window.
    FileNotFoundError: a data set, folder or file is not there; says what to do.
  """
  root = folders.path_of(name, NAMES)
  _check(name, split, window, hop, rate, validation, lists)
  name = os.fspath(name)
  hop = hop or window
  if root is not None:
    source = _folder(root, rate)
  else:
    source = _prepared(name, rate, data_dir, progress)
  notes = source.notes
  members, counts = _members(
    name, split, source.recordings, validation, lists, window, hop, notes
  )
  if lists is not None or phones is not None:
    _check_distinct(source.recordings)
  recordings = [source.recordings[i] for i in members.tolist()]
  labels, class_names = _labels(name, source.recordings, recordings, counts)
  if phones is not None:
    path = pathlib.Path(phones).expanduser()
    phone = _phone_labels(path, recordings, counts, window, hop, source)
    labels['phone'], class_names['phone'], note = phone
    notes.append(note)
  with progress_lib.Progress(progress) as bar:
    with bar.task(f'reading {name} {split}', len(recordings)) as task:
      samples = _reported(source.read([r.key for r in recordings]), task)
      audio = _windows(samples, recordings, counts, window, hop)
  return Examples(
    kind='audio',
    inputs=audio,
    labels=labels,
    label='speaker',
    class_names=class_names,
    name=name,
    # Reading may have added to the notes.
    note='; '.join(filter(None, notes)),
    recording=_repeat(members, counts),
    rate=source.rate,
  )


def _check(
  name: Any,
  split: Any,
  window: Any,
  hop: Any,
  rate: Any,
  validation: Any,
  lists: Any,
) -> None:
  """Raises ValueError where an argument of `load` is not accepted."""
  if folders.path_of(name, NAMES) is None:
    checks.check_choice('data.name, unless it is a path,', name, NAMES)
  checks.check_choice('split', split, SPLITS)
  checks.check_range('data.window', window, 'int [1, inf)')
  checks.check_range('data.hop', hop, 'int [1, inf) or None')
  checks.check_range('data.rate', rate, 'int [1, inf) or None')
  splits.check_validation(validation, split)
  if name == 'spoken_digit' and lists is not None:
    raise ValueError(
      'spoken_digit has a test set of its own; lists are for librispeech and '
      f'for folders. Got lists={os.fspath(lists)!r}.'
    )


def _members(
  name: str,
  split: str,
  recordings: Sequence[_Recording],
  validation: float,
  lists: str | os.PathLike[str] | None,
  window: int,
  hop: int,
  notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the recordings of a split, and how many windows each has.

  Returns:
    Positions in `recordings`, int [m], and the counts, int [m], each above 0.
    What was left out is added to the notes.

  Raises:
    ValueError: there are none.
  """
  parts, some_notes = _parts(name, recordings, validation, lists)
  notes += some_notes
  members = np.flatnonzero(parts == split)
  if not len(members):
    raise ValueError(
      f'{name} has no recordings for {split!r}: its '
      f'{len(recordings):,} recordings give '
      + ', '.join(f'{np.sum(parts == s):,} to {s}' for s in SPLITS)
      + f' with validation={validation}.'
    )
  lengths = np.array([recordings[i].length for i in members.tolist()])
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
  return members[counts > 0], counts[counts > 0]


def _labels(
  name: str,
  recordings: Sequence[_Recording],
  chosen: Sequence[_Recording],
  counts: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
  """Labels windows by the speakers of all recordings, and by their digits."""
  speakers = sorted({recording.speaker for recording in recordings})
  position = {speaker: i for i, speaker in enumerate(speakers)}
  labels = {'speaker': _repeat([position[r.speaker] for r in chosen], counts)}
  class_names = {'speaker': tuple(speakers)}
  if name == 'spoken_digit':
    labels['digit'] = _repeat([r.digit for r in chosen], counts)
    class_names['digit'] = tuple(str(digit) for digit in range(10))
  return labels, class_names


def _reported(
  samples: Iterable[np.ndarray], task: progress_lib.Task
) -> Iterator[np.ndarray]:
  for audio in samples:
    yield audio
    task.advance()


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


def _repeat(values: Any, counts: np.ndarray) -> np.ndarray:
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
  memory.check(
    'the windows of sound',
    2.0 * window * counts.sum(),
    'Raise data.hop (--config.data.hop), so that they overlap less.',
  )
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
      test = splits.validation_mask(len(members), _TEST)
      parts[members[test]] = 'test'
    notes.append(f"test set: a fixed {_TEST:.0%} of each speaker's recordings")
  if validation > 0:
    members = np.flatnonzero(parts == 'train')
    held_out = splits.validation_mask(len(members), validation)
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
    lines = path.read_text(encoding='utf-8').splitlines()
    names = [line.strip() for line in lines if line.strip()]
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
    aligned = known[recording.name]
    for start in range(0, count * hop, hop):
      if aligned is not None:
        begin = start * _PHONES_A_SECOND // source.rate
        some = aligned[begin : begin + frames]
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
  paths, skipped = _sound_files(root)
  others = ', '.join(f'{count} {ending}' for ending, count in skipped.items())
  if not paths:
    instead = f' Found instead: {others}; convert sound to WAV or FLAC.'
    raise ValueError(
      f'{root} holds no sound files ({", ".join(_SUFFIXES)}), nor do the '
      f'folders in it.{instead if others else ""}'
    )
  inside = [path.relative_to(root).parts for path in paths]
  beside = [path for path, p in zip(paths, inside, strict=True) if len(p) == 1]
  if beside and len(beside) < len(paths):
    raise ValueError(
      f'{beside[0]} lies beside the folders of the speakers, so its speaker is '
      'not known. Move it into a folder of its own.'
    )
  if len({parts[0] for parts in inside}) == 1 and min(map(len, inside)) > 2:
    raise ValueError(
      f'All sound of {root} lies in folders below {inside[0][0]}, which would '
      f'be the only speaker: name {root / inside[0][0]} instead, if its '
      'folders are the speakers.'
    )
  with concurrent.futures.ThreadPoolExecutor() as pool:
    facts = list(pool.map(_sound_file, paths))
  expected = rate or facts[0].rate
  for path, fact in zip(paths, facts, strict=True):
    if fact.rate != expected:
      came = 'asked for' if rate else f'that of {paths[0]}'
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
    for path, parts, fact in zip(paths, inside, facts, strict=True)
  ]
  finer = sum(fact.subtype in _FINER for fact in facts)
  notes = [
    f'files left out: {others}' if others else '',
    f'files of more than 16 bits, rounded to 16: {finer} of {len(paths)}'
    if finer
    else '',
  ]
  read = functools.partial(_read_files, notes=notes)
  return _Source(recordings, read, expected, notes)


def _sound_files(
  root: pathlib.Path,
) -> tuple[list[pathlib.Path], collections.Counter[str]]:
  """Lists the sound files below a folder, and counts others by their endings.

  In the order of their paths' parts; what is hidden and texts are passed over,
  and so are links to a folder that is read already.
  """
  paths: list[pathlib.Path] = []
  skipped: collections.Counter[str] = collections.Counter()

  def fail(error: OSError) -> None:
    raise error

  seen = {os.path.realpath(root)}
  for folder, inner, names in os.walk(root, onerror=fail, followlinks=True):
    at = {name: os.path.join(folder, name) for name in inner}
    inner.clear()
    # A link gives way to the folder itself.
    for name, path in sorted(at.items(), key=_links_last):
      where = os.path.realpath(path)
      if not name.startswith('.') and where not in seen:
        seen.add(where)
        inner.append(name)
    for name in names:
      ending = os.path.splitext(name)[1].lower()
      if name.startswith('.'):
        continue
      if ending in _SUFFIXES:
        paths.append(pathlib.Path(folder, name))
      elif ending not in folders.TEXTS:
        skipped[ending or 'without an ending'] += 1
  paths.sort(key=lambda path: path.relative_to(root).parts)
  return paths, skipped


def _links_last(item: tuple[str, str]) -> tuple[bool, str]:
  return os.path.islink(item[1]), item[0]


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
    raise prepared.damaged(path, error) from error
  if info.channels != 1:
    raise ValueError(
      f'{path} has {info.channels} channels; only mono files are accepted.'
    )
  if not info.frames:
    raise ValueError(f'{path} holds no samples.')
  return _SoundFile(info.samplerate, info.frames, info.subtype)


def _read_files(
  paths: Sequence[pathlib.Path], notes: list[str]
) -> Iterator[np.ndarray]:
  clipped = 0
  # Decoding releases the interpreter's lock, so threads help.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for start in range(0, len(paths), _AHEAD):
      for audio, above in pool.map(_read_file, paths[start : start + _AHEAD]):
        clipped += above
        yield audio
  if clipped:
    notes.append(f'samples beyond full scale, cut off: {clipped:,}')


def _read_file(path: pathlib.Path) -> tuple[np.ndarray, int]:
  """Reads the samples of a file, int16 [length]; counts those cut off."""
  import soundfile

  try:
    with soundfile.SoundFile(path) as file:
      finer = file.subtype in _FINER
      audio = file.read(dtype='float64' if finer else 'int16')
      if len(audio) != file.frames:
        raise RuntimeError(f'{len(audio)} of {file.frames} samples')
  except (OSError, RuntimeError) as error:
    raise prepared.damaged(path, error) from error
  if not finer:
    return audio, 0
  if not np.all(np.isfinite(audio)):
    raise ValueError(f'{path} holds samples that are not finite.')
  peak = np.abs(audio).max()
  # A little above 1 is a peak between samples; far above, another scale.
  if peak > _PEAK:
    raise ValueError(
      f'{path} holds floats of up to {peak:g}, but full scale is 1 in files of '
      'floats: divide by that of the source, such as 32768 of 16-bit samples, '
      'or write 16-bit integers.'
    )
  scaled = np.rint(audio * 2**15)
  kept = np.clip(scaled, -(2**15), 2**15 - 1)
  # A sample of exactly 1 has no level of its own: it is not counted.
  above = int(np.sum((scaled > 2**15) | (scaled < -(2**15))))
  return kept.astype(np.int16), above


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
  root = prepared.data_root(data_dir)
  folder = prepared.newest(
    name,
    root,
    "name a folder of .wav or .flac files, such as LibriSpeech's "
    'train-clean-100',
  )
  shards = _shards(name, root, folder)
  stamps = tuple(
    (path, count, os.stat(path).st_size, os.stat(path).st_mtime_ns)
    for path, count in shards
  )
  try:
    recordings = _index(name, stamps, progress)
  except decode.CorruptError as error:
    raise ValueError(
      f'{error} Delete {folder} and prepare it again: '
      f'{prepared.prepare_command(name, root)}'
    ) from error
  read = functools.partial(_read_records, name, shards)
  return _Source(recordings, read, _RATES[name], [])


def _shards(
  name: str, root: pathlib.Path, folder: pathlib.Path
) -> tuple[tuple[str, int], ...]:
  """Finds the files of the split that is read, and how much each holds."""
  split = _SPLITS[name]
  try:
    info = json.loads((folder / 'dataset_info.json').read_text('utf-8'))
    kind = info.get('fileFormat', 'tfrecord')
    (counts,) = (
      [int(length) for length in part['shardLengths']]
      for part in info['splits']
      if part['name'] == split
    )
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'The metadata of {name} in {folder} cannot be read, or list no split '
      f'{split!r} ({files.reason(error)}). Prepare it again: '
      f'{prepared.prepare_command(name, root)}'
    ) from error
  paths = [
    os.fspath(
      folder / f'{name}-{split}.array_record-{i:05d}-of-{len(counts):05d}'
    )
    for i in range(len(counts))
  ]
  prepared.check_files(name, root, folder, kind, paths)
  return tuple(zip(paths, counts, strict=True))


@functools.lru_cache(maxsize=2)
def _index(
  name: str, stamps: tuple[tuple[str, int, int, int], ...], progress: bool
) -> tuple[_Recording, ...]:
  """Lists all recordings, in the order of their names.

  Kept, because it reads every record, and every split needs it. The files'
  sizes and times in `stamps` are there for the cache.
  """
  files = tuple((path, count) for path, count, _, _ in stamps)
  total = sum(count for _, count in files)
  with progress_lib.Progress(progress) as bar:
    with bar.task(f'indexing {name}', total) as task:
      recordings = []
      for key, record in enumerate(_records(name, files, range(total))):
        recordings.append(_recording(name, key, record, files[0][0]))
        task.advance()
  # By field, as LibriSpeech's folders sort: both give the same splits.
  return tuple(sorted(recordings, key=lambda r: re.split('[-_]', r.name)))


def _recording(
  name: str, key: int, record: dict[str, Any], path: str
) -> _Recording:
  """Tells what is known of the recording in a record."""
  length = len(record[_SAMPLES[name]])
  if name == 'librispeech':
    speaker = str(record['speaker_id'])
    return _Recording(record['id'].decode(), speaker, -1, length, key)
  stem = record['audio/filename'].decode()
  match = re.fullmatch(r'([0-9]_([^_]+)_[0-9]+)\.wav', stem)
  digit = int(record['label'])
  if not match or not 0 <= digit <= 9:
    raise decode.CorruptError(
      f'{path} is damaged (the recording {stem!r} with label {digit}).'
    )
  return _Recording(match[1], match[2], digit, length, key)


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
  tfds = prepared.import_tfds()
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
      raise prepared.damaged(path, error) from error
    yield example
