"""Rows of numbers as pairs: what is refused, and which are held out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.evaluation.information import inputs

LEAST_PAIRS = 100
# Pairs of the report split beyond this would be a quarter of a billion scores.
MOST_REPORTED = 16_384


def checked(
  x: Any, y: Any, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
  """Returns rows of both sides, and which of their columns vary."""
  sides = (as_rows('x', x), as_rows('y', y))
  if len(sides[0]) != len(sides[1]):
    raise ValueError(
      f'x has {len(sides[0])} rows and y {len(sides[1])}; pairs need as many.'
    )
  if len(sides[0]) < LEAST_PAIRS:
    raise ValueError(
      f'{len(sides[0])} pairs are too few to fit, select and report on: give '
      f'at least {LEAST_PAIRS}.'
    )
  kept = []
  for name, side in zip('xy', sides, strict=True):
    if not np.isfinite(side).all():
      bad = int((~np.isfinite(side)).any(1).sum())
      raise ValueError(
        f'{name} has {bad} rows with NaN or infinity; leave them out first.'
      )
    varies = np.ptp(side, axis=0) > 0
    if not varies.any():
      raise ValueError(
        f'{name} is constant, which shares 0 nats with anything.'
      )
    if not varies.all():
      notes.append(
        f'{int((~varies).sum())} of {len(varies)} columns of {name} are '
        'constant and were left out.'
      )
    kept.append(varies)
  x, y = (side[:, keep] for side, keep in zip(sides, kept, strict=True))
  if x.shape == y.shape and np.array_equal(x, y):
    raise ValueError(
      'x and y are equal: what a continuous variable shares with itself is '
      'infinite, and of labels it is their entropy.'
    )
  doubled = len(x) - len(np.unique(np.hstack([x, y]), axis=0))
  if doubled and min(len(np.unique(s, axis=0)) for s in (x, y)) > len(x) / 2:
    notes.append(
      f'{doubled} of {len(x)} pairs are duplicates of others. Copies on both '
      'sides of a split make the value too high.'
    )
  return x, y, (kept[0], kept[1])


def report_pairs(
  report: Any, kept: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the pairs to report on, of the columns that are used."""
  x, y = same_columns('report', report, kept)
  if len(x) < LEAST_PAIRS // 3:
    raise ValueError(
      f'report has {len(x)} pairs; give at least {LEAST_PAIRS // 3}.'
    )
  return x, y


def same_columns(
  what: str, pairs: Any, kept: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns other pairs, checked, of the columns that are used."""
  sides = [
    as_rows(f'{name} of {what}', z) for name, z in zip('xy', pairs, strict=True)
  ]
  for name, side, keep in zip('xy', sides, kept, strict=True):
    if side.shape[1] != len(keep):
      raise ValueError(
        f'{what} has {side.shape[1]} columns of {name}, and {name} '
        f'{len(keep)}; give as many.'
      )
  if len(sides[0]) != len(sides[1]):
    raise ValueError(
      f'{what} has {len(sides[0])} rows of x and {len(sides[1])} of y; pairs '
      'need as many.'
    )
  if not all(np.isfinite(side).all() for side in sides):
    raise ValueError(f'{what} has rows with NaN or infinity; leave them out.')
  x, y = (side[:, keep] for side, keep in zip(sides, kept, strict=True))
  return x, y


def as_rows(name: str, values: Any) -> np.ndarray:
  """Returns numbers as float64 [n, D]."""
  rows = np.asarray(values)
  if rows.dtype.kind not in 'fiub':
    raise ValueError(f'{name} has dtype {rows.dtype}; numbers are accepted.')
  if rows.ndim not in (1, 2):
    raise ValueError(
      f'{name} has shape {rows.shape}; accepted are [n, D] and [n]. Flatten '
      'what else a row has.'
    )
  return rows.reshape(len(rows), -1).astype(np.float64)


def are_labels(name: str, rows: np.ndarray, notes: list[str]) -> bool:
  """Tells whether a side is one column of few whole numbers."""
  if rows.shape[1] > 1 or (rows % 1).any():
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
  x: np.ndarray,
  y: np.ndarray,
  report: tuple[np.ndarray, np.ndarray] | None,
  rng: np.random.Generator,
  notes: list[str],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns the pairs to fit, to select and to report on."""
  order = rng.permutation(len(x))
  if report is None:
    cut = len(x) - len(x) // 3
    report = (x[order[cut:]], y[order[cut:]])
    order = order[:cut]
  if len(report[0]) > MOST_REPORTED:
    notes.append(
      f'of {len(report[0])} pairs to report on, the first {MOST_REPORTED} were '
      'used.'
    )
    report = (report[0][:MOST_REPORTED], report[1][:MOST_REPORTED])
  cut = len(order) - max(len(order) // 10, 30)
  first, second = order[:cut], order[cut:]
  return {
    'fit': (x[first], y[first]),
    'selection': (x[second], y[second]),
    'report': report,
  }
