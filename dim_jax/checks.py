"""Checks of what a user gave: what came, what is accepted, what was meant."""

import difflib
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any

_INTERVAL = re.compile(
  r'(?P<whole>int )?(?P<left>[\[(])(?P<low>\S+), (?P<high>[^\])]+)'
  r'(?P<right>[\])])(?P<optional> or None)?'
)


def check_choice(name: str, value: Any, accepted: Iterable[Any]) -> None:
  """Checks that a value is one of those that are accepted.

  Args:
    name: of the field or argument.
    value: what was given.
    accepted: all values that may be.

  Raises:
    ValueError: it is none of them; the message suggests one that is close.
  """
  accepted = list(accepted)
  # No 1 for True, and nothing that cannot be compared.
  if any(type(value) is type(x) and value == x for x in accepted):
    return
  hint = ''
  words = [x for x in accepted if isinstance(x, str)]
  if close := difflib.get_close_matches(str(value).lower(), words, 1):
    hint = f' Did you mean {close[0]!r}?'
  listed = ', '.join(map(repr, accepted))
  raise ValueError(f'{name} must be one of {listed}, got {value!r}.{hint}')


def check_choices(
  name: str, values: Iterable[Any], accepted: Iterable[Any]
) -> None:
  """Checks that each of several values is one of those accepted.

  Args:
    name: of the argument.
    values: what was given.
    accepted: all values that may be.

  Raises:
    ValueError: it is a string and no list of names, or one is none of them.
  """
  if isinstance(values, str):
    raise ValueError(
      f'{name} must be a list of names, got the string {values!r}: give '
      f'[{values!r}].'
    )
  for value in values:
    check_choice(name, value, accepted)


def check_range(name: str, value: Any, interval: str) -> None:
  """Checks that a value is a number within an interval.

  Args:
    name: of the field or argument.
    value: what was given.
    interval: such as '(0, 1]' or '[0, inf)'; 'int [1, inf)' takes whole numbers
      alone, and '(0, inf) or None' takes None too.

  Raises:
    ValueError: it is no number, not finite, or outside.
  """
  parts = _INTERVAL.fullmatch(interval)
  if parts is None:
    raise TypeError(f'{interval!r} is no interval.')
  if value is None and parts['optional']:
    return
  low, high = _number(parts['low']), _number(parts['high'])
  kind = numbers.Integral if parts['whole'] else numbers.Real
  if isinstance(value, kind) and not isinstance(value, bool):
    number: Any = value
    above = number >= low if parts['left'] == '[' else number > low
    below = number <= high if parts['right'] == ']' else number < high
    if above and below and math.isfinite(number):
      return
  if high == math.inf:
    words = f'{">=" if parts["left"] == "[" else ">"} {parts["low"]}'
  else:
    words = f'in {parts["left"]}{parts["low"]}, {parts["high"]}{parts["right"]}'
  if low == -math.inf and high == math.inf:
    words = 'a finite number'
  whole = 'a whole number ' if parts['whole'] else ''
  optional = parts['optional'] or ''
  raise ValueError(f'{name} must be {whole}{words}{optional}, got {value!r}.')


def _number(text: str) -> float:
  """Reads a number, which may be a power such as '2**31'."""
  base, _, exponent = text.partition('**')
  return float(base) ** float(exponent) if exponent else float(base)


def check_fields(
  config: Any, intervals: Mapping[str, str], where: str = ''
) -> None:
  """Checks the numeric fields of a config.

  Args:
    config: holds them as attributes.
    intervals: of each, by name; see `check_range`.
    where: what the names begin with in messages, such as 'optimizer.'.

  Raises:
    ValueError: one is outside of its interval.
  """
  for name, interval in intervals.items():
    check_range(where + name, getattr(config, name), interval)
