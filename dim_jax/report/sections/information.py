"""The information plane: what features keep of the input, and of the labels.

After Tishby and Zaslavsky, Deep Learning and the Information Bottleneck
Principle, 2015, https://arxiv.org/abs/1503.02406; with noise that is stated, as
information of a deterministic network is infinite without (Saxe et al., 2018,
https://openreview.net/forum?id=ry_WPG-A-).
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Part, draw
from dim_jax.report.runs import Run

_LOWER = re.compile(r'information/(.+)_label_lower')


class Point(NamedTuple):
  """What a feature of a run had at a step; nats, NaN for what is unknown.

  The fields from `lower` on are the metrics 'information/FEATURE_...'.
  """

  run: str
  feature: str
  step: int
  lower: float
  upper: float
  gaussian: float
  rate: float
  label_lower: float
  label_upper: float
  lower_ceiling: float
  label_entropy: float
  noise_std: float

  @property
  def tightest(self) -> float:
    """The least upper bound, of those that n rows make no smaller."""
    return float(np.nanmin([self.upper, self.rate]))


def section(runs: Sequence[Run]) -> list[Part]:
  """Draws a plane of all features of one run, or one for each of several."""
  measured = [point for run in runs for point in points(run)]
  if len(runs) == 1:
    return [draw(plane, measured, _settings(runs))] if measured else []
  return [
    draw(
      plane, [p for p in measured if p.feature == name], _settings(runs), name
    )
    for name in dict.fromkeys(point.feature for point in measured)
  ]


def points(run: Run) -> list[Point]:
  """Collects what was measured of each feature, where there are labels."""
  names = dict.fromkeys(
    match[1]
    for line in run.metrics
    for key in line
    if (match := _LOWER.fullmatch(key))
  )
  return [
    Point(
      run.label,
      name,
      line['step'],
      *(
        figures.real(line.get(f'information/{name}_{field}'))
        for field in Point._fields[3:]
      ),
    )
    for name in names
    for line in run.metrics
    if f'information/{name}_label_lower' in line
  ]


def _settings(runs: Sequence[Run]) -> str:
  """Says of which examples and with which noise, as far as runs agree."""
  noises = {(run.config.get('information') or {}).get('noise') for run in runs}
  held_out = {
    bool((run.config.get('data') or {}).get('validation')) for run in runs
  }
  return figures.sentences(
    len(noises) == 1
    and f'Noise: {noises.pop()} standard deviations of the features (root mean '
    'square over columns); of a code, its own.',
    len(held_out) == 1
    and f'Of {("training", "validation")[held_out.pop()]} {runs_lib.noun(runs)}'
    ', always the same.',
  )


def plane(
  measured: Sequence[Point], settings: str = '', feature: str = ''
) -> figures.Picture:
  """Draws the paths of the features of a run, or of one feature in several.

  Args:
    measured: the points.
    settings: sentences for the caption.
    feature: the one, where there are several runs.
  """
  ends = {(p.run, p.feature): p for p in measured}
  words = '; '.join(
    f'{p.run if feature else p.feature}: input {figures.number(p.lower)} to '
    f'{figures.number(p.tightest)}, labels {figures.number(p.label_lower)} to '
    f'{figures.number(p.label_upper)}'
    + ('' if math.isnan(p.rate) else f', rate {figures.number(p.rate)}')
    for p in ends.values()
  )
  ceiling = max(p.lower_ceiling for p in measured)
  entropy = max(p.label_entropy for p in measured)
  return figures.Picture(
    'information_plane' + (feature and f'_{feature}'),
    'Information plane' + (feature and f': {feature}'),
    figures.sentences(
      'What features with noise tell of the input and of the labels while they '
      'train, from the open circle to the full one. Marks are at the lower '
      'bounds; bars reach to the upper ones.',
      settings,
      f'Dashed: {figures.number(ceiling)}, the most that a lower bound can '
      f'show of so many examples, and {figures.number(entropy)}, the entropy '
      'of the labels.',
      any(not math.isnan(p.rate) for p in measured)
      and 'Dotted: the rate, an upper bound too; the horizontal axis is '
      'logarithmic.',
    ),
    f'Paths in the plane of nats of the input and of the labels. At the end, '
    f'lower to upper bounds: {words}.',
    Point._fields,
    [tuple(p) for p in measured],
    lambda: _draw(measured, bool(feature)),
  )


def _draw(measured: Sequence[Point], by_run: bool) -> Any:
  figure, axes = figures.blank(figures.WIDTH, 3.8)
  paths: dict[str, list[Point]] = {}
  for point in measured:
    paths.setdefault(point.run if by_run else point.feature, []).append(point)
  for k, (name, path) in enumerate(paths.items()):
    colour = figures.COLOURS[k % len(figures.COLOURS)]
    _draw_path(axes, path, name, colour)
  ceiling = max(p.lower_ceiling for p in measured)
  entropy = max(p.label_entropy for p in measured)
  axes.axvline(ceiling, **figures.LEVEL)
  axes.axhline(entropy, **figures.LEVEL)
  rates = [p.rate for p in measured if not math.isnan(p.rate)]
  if rates:
    # A rate is many times what a lower bound can show.
    least = min(p.lower for p in measured if p.lower > 0)
    figures.log_with_zero(axes.xaxis, [least, 1.1 * ceiling, *rates])
  else:
    axes.set_xlim(0, 1.1 * ceiling)
  axes.set_ylim(-0.02, 1.08 * entropy)
  axes.set_xlabel('information of the input, nats')
  axes.set_ylabel('information of the labels, nats')
  return figure


def _draw_path(
  axes: Any, path: Sequence[Point], name: str, colour: str
) -> None:
  x = [p.lower for p in path]
  # No information is below 0, whatever a bound says.
  y = np.maximum([p.label_lower for p in path], 0)
  bars = {'color': colour, 'alpha': 0.3, 'lw': 1.2}
  axes.hlines(y, x, [p.tightest for p in path], **bars)
  axes.vlines(x, y, [p.label_upper for p in path], **bars)
  axes.plot(x, y, '.-', color=colour, lw=1.4, ms=4)
  look = {'marker': 'o', 'ms': 8, 'mec': colour, 'ls': '', 'zorder': 3}
  axes.plot(x[:1], y[:1], mfc='none', mew=1.6, **look)
  axes.plot(x[-1:], y[-1:], mfc=colour, label=name, **look)
  rate = [p.rate for p in path]
  if not math.isnan(rate[-1]):
    axes.plot(rate, y, color=colour, lw=1.4, ls=figures.DOTTED)
    axes.plot(rate[:1], y[:1], mfc='none', mew=1.6, **look)
    axes.plot(rate[-1:], y[-1:], mfc=colour, **look)


def warnings(run: Run) -> list[str]:
  """Says whose information is more than its examples can show."""
  last = {point.feature: point for point in points(run)}
  full = [p.feature for p in last.values() if p.lower > 0.95 * p.lower_ceiling]
  if not full:
    return []
  return [
    f'The information of the input in {", ".join(full)} is near the most that '
    'so many examples can show, so it may be any larger number: set '
    'information.noise or information.examples higher.'
  ]
