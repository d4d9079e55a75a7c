"""Markdown tables, and the parts of a document that are generated.

A document marks such a part by comments, which no reader sees:

  <!-- generated: few_labels -->
  ...
  <!-- end -->

One that takes a word has it behind the name: `fields dim_jax.config.Run`.
"""

import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PART = re.compile(
  r'(?P<head>^[ ]*<!-- generated: (?P<name>\w+)(?: (?P<word>\S+))? -->\n)'
  r'.*?'
  r'(?P<tail>^[ ]*<!-- end -->$)',
  re.DOTALL | re.MULTILINE,
)
_NUMBER = re.compile(r'[-+]?\d|—|$')


def documents() -> list[pathlib.Path]:
  """Lists README.md and all pages of docs/."""
  return [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def filled(text: str, parts: Mapping[str, Callable[..., str]]) -> str:
  """Returns a document with its generated parts made anew.

  Args:
    text: Markdown.
    parts: by name, what makes the Markdown of a part.

  Raises:
    ValueError: the document names a part that there is not, or one is not
      closed.
  """

  def make(match: re.Match[str]) -> str:
    name = match['name']
    if name not in parts:
      raise ValueError(f'no part {name!r}: there are {", ".join(parts)}.')
    part = parts[name](*filter(None, [match['word']])).strip()
    # A table of a result to come is left out till then.
    body = f'\n{part}\n\n' if part else ''
    return match['head'] + body + match['tail']

  if text.count('<!-- generated:') != len(_PART.findall(text)):
    raise ValueError('a generated part without its <!-- end -->.')
  return _PART.sub(make, text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Writes a table, columns of words to the left and numbers to the right.

  Args:
    header: names of the columns.
    rows: cells, as many in each. A column behind the first is of numbers if
      each of its cells begins with one, or is '—' or empty.

  Raises:
    ValueError: a row has another number of cells.
  """
  body = list(rows)
  if any(len(row) != len(header) for row in body):
    raise ValueError(f'rows differ in length: {[header, *body]}.')
  rules = ['---']
  for column in list(zip(*body, strict=True))[1:]:
    is_numbers = all(_NUMBER.match(cell) for cell in column)
    rules.append('---:' if is_numbers else '---')
  lines = [header, rules, *body]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def spread(values: Iterable[float], digits: int = 1, scale: float = 1) -> str:
  """Writes the mean, and the standard deviation of a sample if it has several.

  Args:
    values: of the seeds.
    digits: behind the point.
    scale: of both, such as 100 for percent.
  """
  scaled = [scale * value for value in values]
  mean = statistics.mean(scaled)
  if len(scaled) == 1:
    return f'{mean:.{digits}f}'
  return plus_minus(mean, statistics.stdev(scaled), digits)


def plus_minus(
  mean: float, std: float, digits: int = 1, scale: float = 1
) -> str:
  """Writes a mean and a standard deviation that a result keeps.

  Args:
    mean: of the seeds or draws.
    std: of the same.
    digits: behind the point.
    scale: of both, such as 100 for percent.
  """
  return f'{scale * mean:.{digits}f} ± {scale * std:.{digits}f}'


def minutes(seconds: Iterable[float]) -> str:
  """Writes a duration, or the range of several."""
  values = sorted(seconds)
  if values[-1] < 100:
    low, high, unit = f'{values[0]:.0f}', f'{values[-1]:.0f}', 's'
  else:
    low, high = (f'{value / 60:.0f}' for value in (values[0], values[-1]))
    unit = 'min'
  return f'{low} {unit}' if low == high else f'{low} to {high} {unit}'
