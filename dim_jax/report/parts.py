"""What a section of the page holds: plain data, which the template renders.

A section is a function from runs to a list of parts: pictures (`figures`),
tables, sentences, and folds that hold parts. Nothing here knows HTML.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from dim_jax.report import figures

_NUMBER = re.compile(r'[+−]?\d.*|–|not finite|')

# (label, a file of the evaluation) of runs.
Pairs = Sequence[tuple[str, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph; what stands between backticks is code."""

  text: str
  kind: ClassVar[str] = 'note'


class Missing(Text):
  """A paragraph that says what is not there, and why."""

  kind = 'missing'


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text, from one mapping a row; a row may lack columns.

  The column 'run' is left out where it says the same everywhere.
  """

  records: Sequence[Mapping[str, str]]
  title: str = ''
  kind: ClassVar[str] = 'table'

  @property
  def header(self) -> list[str]:
    """The columns, in the order in which they first come."""
    header = dict.fromkeys(key for record in self.records for key in record)
    if len({record.get('run') for record in self.records}) == 1:
      header.pop('run', None)
    return list(header)

  @property
  def rows(self) -> list[list[str]]:
    """The cells, one list a row."""
    return [[r.get(key, '–') for key in self.header] for r in self.records]

  @property
  def numeric(self) -> list[bool]:
    """Whether a column holds numbers alone, which are set flush right."""
    columns = zip(self.header, zip(*self.rows, strict=True), strict=True)
    return [
      k > 0 and key != 'run' and all(map(_NUMBER.fullmatch, column))
      for k, (key, column) in enumerate(columns)
    ]

  @property
  def wide(self) -> bool:
    """Whether it needs the whole width of a page rather than half."""
    widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
    return sum(max(width, 6) + 2 for width in widths) > 58


@dataclasses.dataclass(frozen=True)
class Fold:
  """Parts, or a listing of plain text, that are shown on demand."""

  title: str
  parts: Sequence[Any] = ()
  listing: str = ''
  kind: ClassVar[str] = 'fold'


Part = Text | Table | Fold | figures.Picture


def attempt(what: str, function: Callable[..., Any], *args: Any, **kw: Any):
  """Calls a function; its failure becomes a line of the page, and of the log.

  The line says that `what` is left out, such as 'The picture of the probes'.
  """
  try:
    return function(*args, **kw)
  # A name or an array that nobody foresaw must not cost the whole page.
  except Exception as error:
    reason = ' '.join(str(error).split())
    text = f'{what} is left out: {type(error).__name__}: {reason}'
    logging.getLogger(__name__).warning(text)
    return Missing(text)


def draw(function: Callable[..., Any], *args: Any, **kw: Any):
  """Makes a picture, or the line that says why there is none."""
  name = kw.get('title') or function.__name__.strip('_').replace('_', ' ')
  return attempt(f'A picture ({name})', function, *args, **kw)


def fixed(value: Any, digits: int, signed: bool = False) -> str:
  """Formats a number with so many decimals; '–' if there is none."""
  number = figures.real(value)
  if not math.isfinite(number):
    return '–'
  return f'{number:{"+" if signed else ""}.{digits}f}'.replace('-', '−')


def with_error(mean: Any, std: Any, digits: int) -> str:
  """Formats mean ± standard deviation, which a line break cannot part."""
  if not math.isfinite(figures.real(mean)):
    return 'not finite'
  error = f' ± {fixed(std, digits)}' if math.isfinite(figures.real(std)) else ''
  return f'{fixed(mean, digits)}{error}'.replace(' ', '\u00a0')


def duration(seconds: Any) -> str:
  """Formats seconds as '90 s', '5 min' or '3 h 2 min'."""
  seconds = figures.real(seconds)
  if not seconds < 120:
    minutes = round(seconds / 60) if math.isfinite(seconds) else 0
    hours = f'{minutes // 60} h {minutes % 60} min'
    return hours if minutes >= 120 else f'{minutes} min' if minutes else '–'
  return f'{seconds:.0f} s'


def span(values: Any) -> str:
  """Formats counts: '3' if they agree, else '2 to 3'."""
  low, high = min(values), max(values)
  return str(low) if low == high else f'{low} to {high}'
