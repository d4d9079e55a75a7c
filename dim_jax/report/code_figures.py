"""Pictures of stochastic codes: what each unit keeps, and of which images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dim_jax.evaluation import units as units_lib
from dim_jax.report import figures
from dim_jax.report.figures import Rows


def units(codes: Mapping[str, units_lib.Units]) -> figures.Picture:
  """Draws rate, capacity and variance of the units, those of high rate first.

  Args:
    codes: by their label, at least one.

  Returns:
    The picture; its rows are code, rank from 1, unit from 0, the nats of rate
    and capacity, signal to noise and variance of the mean.
  """
  rows: Rows = []
  for label, code in codes.items():
    for rank, k in enumerate(np.argsort(-code.rate, kind='stable'), 1):
      numbers = (code.rate, code.capacity, code.signal_to_noise, code.variance)
      rows.append((label, rank, int(k), *(float(x[k]) for x in numbers)))
  listed = '; '.join(
    f'{figures.printable(label)} {code.active} of {len(code.variance)}, '
    f'{figures.number(float(code.capacity.sum()))} of '
    f'{figures.number(float(code.rate.sum()))} nats'
    for label, code in codes.items()
  )
  return figures.Picture(
    'units',
    'What each unit of the code keeps',
    'Units in the order of their rate. Top: the rate (KL from N(0, 1)) and, '
    'dashed, the capacity ln(1 + SNR) / 2, its part that a Gaussian channel of '
    'this signal and noise could tell, nats. Bottom: the variance of the '
    f'mean, Var(μ); a unit above {units_lib.ACTIVE:g} is active.',
    f'Units of the code. Active, and capacity of the rate: {listed}.',
    ('code', 'rank', 'unit', 'rate', 'capacity', 'snr', 'variance'),
    rows,
    lambda: _draw_units(rows),
  )


def _draw_units(rows: Rows) -> Any:
  figure, (nats, variances) = figures.blank(
    figures.WIDTH, 4.4, rows=2, sharex=True
  )
  codes = figures.grouped(rows, 0)
  for k, (label, mine) in enumerate(codes.items()):
    rank, rate, capacity, variance = np.array(
      [(row[1], row[3], row[4], row[6]) for row in mine]
    ).T
    look: dict[str, Any] = {'color': figures.COLOURS[k % len(figures.COLOURS)]}
    if len(rank) <= 40:
      look |= {'marker': 'o', 'markersize': 3.5}
    first = figures.printable(label) if len(codes) > 1 else 'rate'
    dashed: dict[str, Any] = {'ls': figures.DASHED, 'mfc': 'none'}
    if len(codes) == 1:
      dashed['label'] = 'capacity'
    nats.plot(rank, rate, lw=2, label=first, **look)
    nats.plot(rank, capacity, lw=1.4, **look, **dashed)
    variances.plot(rank, variance, lw=2, **look)
  variances.axhline(units_lib.ACTIVE, **figures.LEVEL)
  nats.set(ylabel='nats', ylim=(0, None))
  values = [row[6] for row in rows]
  figures.log_with_zero(variances.yaxis, values, units_lib.ACTIVE / 100)
  variances.set(xlabel='unit, sorted', ylabel='Var(μ)')
  variances.xaxis.get_major_locator().set_params(integer=True)
  figure.align_ylabels()
  return figure


def rated(
  codes: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> figures.Picture:
  """Draws the images of the lowest and the highest rate, a row a code.

  Args:
    codes: by their label, images [2 n, H, W, C], uint8, n of the lowest rate
      and then n of the highest, and their nats [2 n].

  Returns:
    The picture; its rows are code, rank from the lowest, and nats.
  """
  rows: Rows = [
    (label, rank, float(x))
    for label, (_, nats) in codes.items()
    for rank, x in enumerate(nats)
  ]
  ends = '; '.join(
    f'{figures.printable(label)} {figures.number(float(nats[0]))} to '
    f'{figures.number(float(nats[-1]))}'
    for label, (_, nats) in codes.items()
  )
  return figures.Picture(
    'rated',
    'Images that cost least and most',
    'Test images of the lowest rate, left, and of the highest, right, with '
    'their nats.',
    f'Rows of test images of the lowest and the highest rate, nats: {ends}.',
    ('code', 'rank', 'nats'),
    rows,
    lambda: _draw_rated(codes),
  )


def _draw_rated(codes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Any:
  # In units of an image: a margin for the rows' names, a gap in the middle.
  start, step, gap, line = 2.6, 1.06, 0.4, 0.35
  count = max(len(nats) for _, nats in codes.values())
  height = step + line
  figure, axes = figures.canvas(start + count * step + gap, len(codes) * height)
  for r, (label, (images, nats)) in enumerate(codes.items()):
    look = {'ha': 'right', 'va': 'center', 'fontsize': 9}
    name = figures.shorten(figures.printable(label), 18)
    axes.text(start - 0.15, r * height + 0.5, name, **look)
    for i, (image, x) in enumerate(zip(images, nats, strict=True)):
      left = start + i * step + gap * (i >= len(nats) // 2)
      figures.tile(axes, image, left, r * height)
      text = figures.number(float(x))
      place = (left + 0.5, r * height + 1.03)
      axes.text(*place, text, ha='center', va='top', fontsize=8)
  return figure
