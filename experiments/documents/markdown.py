"""Markdown tables, and the parts of a document that are generated.

A document marks such a part by comments, which no reader sees:

  <!-- generated: few_labels -->
  ...
  <!-- end -->

One that takes a word has it behind the name: `fields dim_jax.config.Run`.
"""

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

_PART = re.compile(
  r'(?P<head>^[ ]*<!-- generated: (?P<name>\w+)(?: (?P<word>\S+))? -->\n)'
  r'.*?'
  r'(?P<tail>^[ ]*<!-- end -->$)',
  re.DOTALL | re.MULTILINE,
)


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
    return f'{match["head"]}\n{part}\n\n{match["tail"]}'

  if text.count('<!-- generated:') != len(_PART.findall(text)):
    raise ValueError('a generated part without its <!-- end -->.')
  return _PART.sub(make, text)


def table(
  header: Sequence[str], rows: Iterable[Sequence[str]], words: int | None = 1
) -> str:
  """Writes a table, columns of words to the left and numbers to the right.

  Args:
    header: names of the columns.
    rows: cells, as many in each.
    words: how many columns are of words, from the first; None for all.

  Raises:
    ValueError: a row has another number of cells.
  """
  numbers = 0 if words is None else len(header) - words
  rules = ['---'] * (len(header) - numbers) + ['---:'] * numbers
  lines = [header, rules, *rows]
  if any(len(line) != len(header) for line in lines):
    raise ValueError(f'rows differ in length: {lines}.')
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def spread(values: Iterable[float], digits: int = 1, scale: float = 1) -> str:
  """Writes the mean, and the standard deviation of a sample if it has several.

  Args:
    values: of the seeds.
    digits: behind the point.
    scale: of both, such as 100 for percent.
  """
  scaled = [scale * value for value in values]
  mean = f'{statistics.mean(scaled):.{digits}f}'
  if len(scaled) == 1:
    return mean
  return f'{mean} ± {statistics.stdev(scaled):.{digits}f}'


def minutes(seconds: Iterable[float]) -> str:
  """Writes a duration, or the range of several."""
  values = sorted(seconds)
  if values[-1] < 100:
    low, high, unit = f'{values[0]:.0f}', f'{values[-1]:.0f}', 's'
  else:
    low, high = (f'{value / 60:.0f}' for value in (values[0], values[-1]))
    unit = 'min'
  return f'{low} {unit}' if low == high else f'{low} to {high} {unit}'
