"""Loads pairs of lines of one length, character by character.

A folder holds pairs in either form, in UTF-8:

- FILE.tsv, a pair a line with a tab between: NAMEtrain.tsv to train on,
  NAMEtest.tsv to test on, any number of each. Pairs are labelled with the file
  that they are from, its 'source', which is NAME without the marks at its end:
  `tang_test.tsv` is the source 'tang'.
- train/in.txt, the first lines, and train/out.txt, the second ones, with blanks
  between characters; test/ likewise. The source is the folder's name. So is the
  set of 740,000 couplets laid out that
  https://github.com/wb14123/couplet-dataset gives.

Blanks are no characters. The vocabulary is of the training pairs alone, of both
lines, the most frequent first, and the same whatever part of them is trained
on. Number 0 is padding, behind the end of a line; 1 stands for characters that
are not in the vocabulary. The pairs are in the order of the files' names and of
their lines. A folder without test pairs gives a fixed random fifth of the
others, and the validation set is a fixed random part of the training set, the
same for every run.
"""

import collections
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dim_jax import checks, random
from dim_jax.data import splits
from dim_jax.data.examples import Examples

SPLITS = ('train', 'validation', 'test')
PADDING, UNKNOWN = 0, 1
SPECIAL = 2  # numbers below are no characters
_PARTS = ('train', 'test')


class _Pairs(NamedTuple):
  """The pairs of one file, and the source that it names."""

  source: str
  pairs: list[tuple[str, str]]


def load(
  name: str | os.PathLike[str],
  split: str,
  *,
  length: int | None = None,
  vocabulary: int,
  pairs: int | None = None,
  validation: float = 0.1,
) -> Examples:
  """Loads a split of a folder, which the module describes.

  Args:
    name: the folder's path.
    split: train, validation or test.
    length: L, the most characters of a line; longer pairs are left out. None
      takes the longest line of the split.
    vocabulary: how many numbers there are, padding and the unknown character
      included.
    pairs: how many training pairs to keep, a fixed random choice; None for all.
      The vocabulary and the validation set do not depend on it.
    validation: the fraction of the training pairs held out, in [0, 1).

  Returns:
    The split: 'text', int32 [n, 2, L], and 'source'.

  Raises:
    ValueError: an argument is not accepted, or a file is not in UTF-8, or holds
      an empty line, lines of unequal length or no pairs; names the line.
    FileNotFoundError: the folder is not there, or holds no training pairs.
  """
  checks.check_choice('split', split, SPLITS)
  checks.check_range('data.length', length, 'int [1, inf) or None')
  checks.check_range('data.vocabulary', vocabulary, f'int ({SPECIAL}, 2**31)')
  checks.check_range('data.pairs', pairs, 'int [1, inf) or None')
  splits.check_validation(validation, split)
  root = pathlib.Path(name).expanduser()
  parts = {part: _read(root, part) for part in _PARTS}
  if not parts['train']:
    raise FileNotFoundError(
      f'{os.fspath(name)!r} holds no pairs to train on: give a folder with '
      'files *train.tsv, or with train/in.txt and train/out.txt.'
    )
  sources = sorted({file.source for files in parts.values() for file in files})
  known, _ = _of_split(parts, sources, 'train', 0.0)
  characters = vocabulary_of(
    (line for pair in known for line in pair), vocabulary
  )
  lines, of = _of_split(parts, sources, split, validation)
  longest = max(len(first) for first, _ in lines)
  length = length or longest
  fits = np.array([len(first) <= length for first, _ in lines])
  if not fits.any():
    raise ValueError(
      f'No line of {os.fspath(name)!r}, {split}, has at most '
      f'data.length={length} characters: raise it, up to {longest}.'
    )
  note = ''
  if not fits.all():
    note = f'pairs longer than {length} characters left out: {np.sum(~fits):,}'
    note += f' of {len(fits):,}'
  numbers = {character: i for i, character in enumerate(characters, SPECIAL)}
  kept = np.flatnonzero(fits)
  if split == 'train' and pairs is not None and pairs < len(kept):
    order = random.order(0, random.Host.PAIRS, len(lines))
    kept = np.sort(order[fits[order]][:pairs])
  chosen = [lines[i] for i in kept]
  rows = [encode(line, numbers, length) for pair in chosen for line in pair]
  return Examples(
    kind='text',
    inputs=np.stack(rows).reshape(-1, 2, length),
    labels={'source': of[kept]},
    label='',
    class_names={'source': tuple(sources)},
    name=os.fspath(name),
    note=note,
    vocabulary=characters,
  )


def vocabulary_of(lines: Iterable[str], size: int) -> str:
  """Lists the most frequent characters, those as frequent by code point.

  Args:
    lines: of text.
    size: of the vocabulary; `SPECIAL` numbers of it are no characters.
  """
  counts: collections.Counter[str] = collections.Counter()
  for line in lines:
    counts.update(line)
  order = sorted(counts, key=lambda c: (-counts[c], c))
  return ''.join(order[: size - SPECIAL])


def encode(line: str, numbers: dict[str, int], length: int) -> np.ndarray:
  """Returns the numbers of a line's characters, padded; int32 [length].

  Args:
    line: of at most `length` characters.
    numbers: by character.
    length: L.
  """
  row = np.full(length, PADDING, np.int32)
  row[: len(line)] = [numbers.get(c, UNKNOWN) for c in line]
  return row


def decode(row: Iterable[int], vocabulary: str, unknown: str = '□') -> str:
  """Returns the line of a row of numbers, up to its padding.

  Args:
    row: of numbers; those that no character has, as where the lines have fewer
      than `data.vocabulary`, are unknown.
    vocabulary: of the training lines.
    unknown: what stands for an unknown character.
  """
  shown = dict(enumerate(['', unknown, *vocabulary]))
  return ''.join(shown.get(int(i), unknown) for i in row)


def typed(line: str, vocabulary: str, length: int | None = None) -> np.ndarray:
  """Returns the numbers of a line that a user typed, int32 [1, 2, its length].

  The second line is of unknown characters.

  Args:
    line: what came.
    vocabulary: of the training lines.
    length: the most characters that are accepted.

  Raises:
    ValueError: it has no characters, more than `length`, some that cannot be
      printed, or none of the vocabulary.
  """
  joined = ''.join(line.split())
  if not joined:
    raise ValueError('the line is empty: give one, such as --line=明月松间照.')
  if not joined.isprintable():
    odd = next(c for c in joined if not c.isprintable())
    raise ValueError(
      f'the line holds {odd!r}, which cannot be printed: give characters alone.'
    )
  if length is not None and len(joined) > length:
    raise ValueError(
      f'the line has {len(joined)} characters: give at most {length}.'
    )
  numbers = {c: i for i, c in enumerate(vocabulary, SPECIAL)}
  if not set(joined) & set(vocabulary):
    raise ValueError(
      f'no training line has a character of {joined!r}: give a line of Chinese '
      'characters, such as --line=明月松间照.'
    )
  first = encode(joined, numbers, len(joined))
  return np.stack([first, np.full_like(first, UNKNOWN)])[None]


def _of_split(
  parts: dict[str, list[_Pairs]],
  sources: list[str],
  split: str,
  validation: float,
) -> tuple[list[tuple[str, str]], np.ndarray]:
  """The pairs of a split, and the number of each one's source; int32 [n]."""
  files = parts['test' if split == 'test' and parts['test'] else 'train']
  lines = [pair for file in files for pair in file.pairs]
  of = np.repeat(
    np.array([sources.index(file.source) for file in files], np.int32),
    [len(file.pairs) for file in files],
  )
  if not parts['test']:
    test = splits.test_mask(np.zeros(len(lines), np.int32))
    members = np.flatnonzero(test if split == 'test' else ~test)
    lines, of = [lines[i] for i in members], of[members]
  kept = splits.rows(split, len(lines), validation)
  if kept is not None:
    lines, of = [lines[i] for i in kept], of[kept]
  if not lines:
    raise ValueError(f'There are no pairs for {split!r}.')
  return lines, of


# --- files --------------------------------------------------------------------


def _read(root: pathlib.Path, part: str) -> list[_Pairs]:
  """Reads the files of a part, 'train' or 'test', of a folder."""
  if not root.is_dir():
    raise FileNotFoundError(
      f'There is no folder {os.fspath(root)!r}: set data.name to one that '
      'holds pairs of lines (--config.data.name=FOLDER).'
    )
  found = []
  for path in sorted(root.glob('*.tsv')):
    if path.stem.endswith(part):
      source = path.stem.removesuffix(part).rstrip('_-. ')
      found.append(_Pairs(source or root.resolve().name, _tabbed(path)))
  folder = root / part
  if (folder / 'in.txt').exists() or (folder / 'out.txt').exists():
    found.append(_Pairs(root.resolve().name, _two_files(folder)))
  return found


def _tabbed(path: pathlib.Path) -> list[tuple[str, str]]:
  pairs = []
  for number, line in enumerate(_lines(path), 1):
    sides = line.split('\t')
    if len(sides) != 2:
      what = 'is empty' if not line.strip() else f'has {len(sides)} parts'
      raise ValueError(
        f'{path}, line {number}, {what}: a pair is two lines with a tab '
        'between.'
      )
    pairs.append(_pair(sides[0], sides[1], f'{path}, line {number}'))
  return _some(pairs, path)


def _two_files(folder: pathlib.Path) -> list[tuple[str, str]]:
  first, second = (_lines(folder / name) for name in ('in.txt', 'out.txt'))
  if len(first) != len(second):
    raise ValueError(
      f'{folder / "in.txt"} has {len(first):,} lines and out.txt '
      f'{len(second):,}: line i of one belongs to line i of the other.'
    )
  pairs = [
    _pair(a, b, f'{folder}, line {number} of in.txt and out.txt')
    for number, (a, b) in enumerate(zip(first, second, strict=True), 1)
  ]
  return _some(pairs, folder)


def _pair(first: str, second: str, where: str) -> tuple[str, str]:
  """Two lines without blanks; raises where they are no pair."""
  a, b = (''.join(side.split()) for side in (first, second))
  if not a or not b:
    raise ValueError(
      f'{where}: the {"first" if not a else "second"} line is empty; leave the '
      'pair out, or complete it.'
    )
  if len(a) != len(b):
    raise ValueError(
      f'{where}: the lines have {len(a)} and {len(b)} characters ({a[:20]!r} '
      f'and {b[:20]!r}), and a pair needs as many; mend it, or leave it out.'
    )
  return a, b


def _some(
  pairs: list[tuple[str, str]], path: pathlib.Path
) -> list[tuple[str, str]]:
  if not pairs:
    raise ValueError(f'{path} holds no pairs of lines.')
  return pairs


def _lines(path: pathlib.Path) -> list[str]:
  """The lines of a text in UTF-8, less blank ones at its end."""
  if not path.exists():
    raise FileNotFoundError(
      f'There is no {path}, which belongs to the other file beside it.'
    )
  data = path.read_bytes()
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    number = data[: error.start].count(b'\n') + 1
    hint = 'save it as UTF-8.'
    try:
      data.decode('gb18030')
      hint = f'it may be GB18030: iconv -f GB18030 -t UTF-8 {path.name}'
    except UnicodeDecodeError:
      pass
    raise ValueError(f'{path}, line {number}, is not UTF-8: {hint}') from error
  # Not splitlines(), which also breaks at marks that may stand inside a line.
  lines = text.replace('\r\n', '\n').split('\n')
  while lines and not lines[-1].strip():
    lines.pop()
  return lines
