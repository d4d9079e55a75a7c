"""Rows of numbers as pairs: what is refused, and which are held out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dim_jax import random
from dim_jax.evaluation.information import inputs

LEAST_PAIRS = 100
# Pairs of the report split beyond this would be a quarter of a billion scores.
MOST_REPORTED = 16_384

# The rows of each side by its name, 'x', 'y' and perhaps 'given'.
Sides = Mapping[str, np.ndarray]


class Columns(NamedTuple):
  """What a row of one side is.

  Attributes:
    shape: of a row as it was given, (D,) or (H, W, C).
    kept: the columns that vary; of images all.
  """

  shape: tuple[int, ...]
  kept: Any


def checked(
  sides: Mapping[str, Any], notes: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, Columns]]:
  """Checks the rows of all sides, and leaves out columns that are constant.

  Args:
    sides: what was given, by name.
    notes: gets what speaks against an estimate.

  Returns:
    Rows by name, and what each row is.

  Raises:
    ValueError: lengths differ, a number is not finite, there are too few rows
      or only constant columns, or x equals another side.
  """
  rows = {name: as_rows(name, side) for name, side in sides.items()}
  _check_lengths(rows, '')
  count = len(rows['x'])
  if count < LEAST_PAIRS:
    raise ValueError(
      f'{count} pairs are too few to fit, select and report on: give at least '
      f'{LEAST_PAIRS}.'
    )
  columns = {name: _columns(name, side, notes) for name, side in rows.items()}
  rows = {name: side[:, columns[name].kept] for name, side in rows.items()}
  for name, side in rows.items():
    if name != 'x' and np.array_equal(rows['x'], side):
      raise ValueError(
        f'x and {name} are equal: what a continuous variable shares with '
        'itself is infinite, and of labels it is their entropy.'
      )
  _note_duplicates(rows, notes)
  return rows, columns


def _columns(name: str, side: np.ndarray, notes: list[str]) -> Columns:
  if not np.isfinite(side).all():
    bad = int((~np.isfinite(side)).reshape(len(side), -1).any(1).sum())
    raise ValueError(
      f'{name} has {bad} rows with NaN or infinity; leave them out first.'
    )
  varies = np.ptp(side, axis=0) > 0
  if not varies.any():
    raise ValueError(f'{name} is constant, which shares 0 nats with anything.')
  if side.ndim == 4:
    return Columns(side.shape[1:], slice(None))
  if not varies.all():
    notes.append(
      f'{int((~varies).sum())} of {len(varies)} columns of {name} are '
      'constant and were left out.'
    )
  return Columns(side.shape[1:], varies)


def _note_duplicates(rows: Sides, notes: list[str]) -> None:
  hashes = {
    name: [hash(row.tobytes()) for row in side] for name, side in rows.items()
  }
  count = len(rows['x'])
  pairs = len(set(zip(*hashes.values(), strict=True)))
  doubled = count - pairs
  values = max(len(set(side)) for side in hashes.values())
  # Where sides have few values, pairs repeat by chance, and a value comes with
  # several others.
  if doubled and values >= max(count / 20, pairs / 1.1):
    notes.append(
      f'{doubled} of {count} pairs are duplicates of others. Copies on both '
      'sides of a split make the value too high.'
    )


def report_sides(
  report: Sequence[Any], columns: Mapping[str, Columns]
) -> dict[str, np.ndarray]:
  """Returns the pairs to report on, of the columns that are used."""
  rows = same_columns('report', report, columns)
  if len(rows['x']) < LEAST_PAIRS // 3:
    raise ValueError(
      f'report has {len(rows["x"])} pairs; give at least {LEAST_PAIRS // 3}.'
    )
  return rows


def same_columns(
  what: str, sides: Sequence[Any], columns: Mapping[str, Columns]
) -> dict[str, np.ndarray]:
  """Returns other rows, checked, of the columns that are used.

  Args:
    what: they are for, such as 'report'.
    sides: as many as `columns`, in that order.
    columns: of the rows before.
  """
  if len(sides) != len(columns):
    raise ValueError(
      f'{what} has {len(sides)} sides; give {", ".join(columns)}.'
    )
  rows = {
    name: as_rows(f'{name} of {what}', z)
    for name, z in zip(columns, sides, strict=True)
  }
  for name, side in rows.items():
    shape = columns[name].shape
    if side.shape[1:] != shape:
      if len(shape) == side.ndim - 1 == 1:
        raise ValueError(
          f'{what} has {side.shape[1]} columns of {name}, and {name} '
          f'{shape[0]}; give as many.'
        )
      raise ValueError(
        f'{what} has rows of {name} of shape {side.shape[1:]}, and {name} of '
        f'{shape}; give rows of the same shape.'
      )
  _check_lengths(rows, f'{what} has ')
  if not all(np.isfinite(side).all() for side in rows.values()):
    raise ValueError(f'{what} has rows with NaN or infinity; leave them out.')
  return {name: side[:, columns[name].kept] for name, side in rows.items()}


def _check_lengths(rows: Sides, what: str) -> None:
  count = len(rows['x'])
  for name, side in rows.items():
    if len(side) != count:
      first = f'{count} rows of x' if what else f'x has {count} rows'
      other = f'{len(side)} of {name}' if what else f'{name} {len(side)}'
      raise ValueError(
        f'{what}{first} and {other}: row i of one belongs to row i of the '
        'other, so give as many of both.'
      )


def as_rows(name: str, values: Any) -> np.ndarray:
  """Returns numbers as float64 [n, D], or images as float32 [n, H, W, C]."""
  rows = np.asarray(values)
  if jnp.issubdtype(rows.dtype, jnp.floating):  # bfloat16 too
    rows = rows.astype(np.float32 if rows.dtype.itemsize < 4 else rows.dtype)
  if rows.dtype.kind not in 'fiub':
    raise ValueError(f'{name} has dtype {rows.dtype}; numbers are accepted.')
  if rows.ndim == 4:
    return rows.astype(np.float32)
  if rows.ndim not in (1, 2):
    raise ValueError(
      f'{name} has shape {rows.shape}; accepted are [n, D] and [n], and images '
      '[n, H, W, C]. Flatten what else a row has.'
    )
  return rows.reshape(len(rows), -1).astype(np.float64)


def are_labels(name: str, rows: np.ndarray, notes: list[str]) -> bool:
  """Tells whether a side is one column of few whole numbers."""
  if rows.ndim > 2 or rows.shape[1] > 1 or (rows % 1).any():
    return False
  values = len(np.unique(rows))
  if values > min(inputs.MOST_LABELS, len(rows) / 20):
    return False
  notes.append(
    f'{name} has {values} different whole numbers, which are taken for labels; '
    'their order is not used.'
  )
  return True


def split(
  rows: Sides,
  report: Sides | None,
  rng: np.random.Generator,
  notes: list[str],
) -> Mapping[str, Sides]:
  """Returns the rows to fit, to select and to report on.

  Args:
    rows: of all sides.
    report: those to report on; by default a third of `rows`.
    rng: draws which.
    notes: gets what speaks against an estimate.
  """
  order = rng.permutation(len(rows['x']))
  if report is None:
    cut = len(order) - len(order) // 3
    report = take(rows, order[cut:])
    order = order[:cut]
  count = len(report['x'])
  if count > MOST_REPORTED:
    notes.append(
      f'of {count} pairs to report on, {MOST_REPORTED} were used, a fixed '
      'random choice.'
    )
    # What is measured may lie by class or by name.
    report = take(report, random.some(MOST_REPORTED, count))
  return _held_out(rows, order, report)


def _held_out(
  rows: Sides, order: np.ndarray, report: Sides
) -> Mapping[str, Sides]:
  """Returns the splits; a tenth of `order`, at least 30, is to select on."""
  cut = len(order) - max(len(order) // 10, 30)
  return {
    'fit': take(rows, order[:cut]),
    'selection': take(rows, order[cut:]),
    'report': report,
  }


def folds(
  rows: Sides, count: int, rng: np.random.Generator
) -> list[Mapping[str, Sides]]:
  """Returns `count` splits, each of which reports on rows of its own.

  Args:
    rows: of all sides.
    count: of folds, at least 2.
    rng: draws which.

  Raises:
    ValueError: a fold has fewer than LEAST_PAIRS // 3 rows, or more than
      MOST_REPORTED.
  """
  size = len(rows['x'])
  least, most = -(-size // MOST_REPORTED), size // (LEAST_PAIRS // 3)
  if not least <= count <= most:
    raise ValueError(
      f'{count} folds of {size} rows; give {max(least, 2)} to {most}, so that '
      f'each has {LEAST_PAIRS // 3} to {MOST_REPORTED} rows.'
    )
  parts = np.array_split(rng.permutation(size), count)
  return [
    _held_out(
      rows, np.concatenate(parts[:i] + parts[i + 1 :]), take(rows, part)
    )
    for i, part in enumerate(parts)
  ]


def take(rows: Sides, at: Any) -> dict[str, np.ndarray]:
  """Returns some rows of all sides."""
  return {name: side[at] for name, side in rows.items()}
