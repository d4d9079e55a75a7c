"""Error against the depth of the module whose features a probe reads.

For encoders of numbered modules, 'module_0' and on. Runs that differ in their
seed alone are one method's and make one line.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Part, Table, Text, draw, span, with_error
from dim_jax.report.runs import Run, methods

_MARKERS = 'os^DvP'


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows the errors of every label by module: a picture and a table."""
  modular = [run for run in runs if runs_lib.has_modules(run) and run.probes]
  done = runs_lib.labelled(modular, 'probes')
  parts: list[Part] = []
  for label in dict.fromkeys(x for _, p in done for x in runs_lib.labels(p)):
    if names := probes(modular, label):
      probe = 'linear' if 'linear' in names else names[0]
      parts.append(draw(depth, modular, label, probe))
      parts.append(table(modular, label))
  notes = [
    'Test error, mean ± standard deviation over n runs that differ in their '
    'seed alone. An untrained encoder counts once a seed.'
  ]
  for name, members in methods(modular).items() if len(modular) > 1 else ():
    notes.append(f'{name}: {", ".join(run.label for run in members)}.')
  return [*parts, *map(Text, notes)] if parts else []


class Point(NamedTuple):
  """Test error of one probe on one module's features, over runs; percent."""

  method: str
  feature: str
  mean: float
  least: float
  greatest: float
  std: float
  n: int


def points(
  runs: Sequence[Run], label: str, probe: str = 'linear'
) -> list[Point]:
  """Collects a probe's errors by method and module, of untrained encoders last.

  Runs share an untrained encoder where they start from one seed; it counts
  once. The standard deviation is the sample's, NaN for one run. Runs that are
  not evaluated have no part.
  """
  trained: dict[str, dict[Any, float]] = {}
  untrained: dict[str, dict[Any, float]] = {}
  for name, members in methods(runs).items():
    start: dict[Any, float] = {}
    for run in members:
      for r in _results(run, label):
        if r['probe'] != probe or _number(r['feature']) < 0:
          continue
        feature, mean = r['feature'], figures.real(r['mean'])
        if r['encoder'] == 'trained':
          trained.setdefault(name, {})[feature, run.label] = mean
        elif r['encoder'] == 'untrained':
          start[feature, run.config.get('seed')] = mean
    # Encoders that agree where they share a feature and a seed are one.
    for other in untrained.values():
      shared = other.keys() & start.keys()
      if shared and all(other[key] == start[key] for key in shared):
        other |= start
        break
    else:
      untrained[name] = start
  untrained = {
    f'untrained, {name}': start for name, start in untrained.items() if start
  }
  if len(untrained) == 1:
    untrained = {'untrained': untrained.popitem()[1]}
  return [
    _point(name, feature, [v for (f, _), v in means.items() if f == feature])
    for name, means in (trained | untrained).items()
    for feature in sorted({feature for feature, _ in means}, key=_number)
  ]


def _results(run: Run, label: str) -> list[Mapping[str, Any]]:
  return runs_lib.of_label(run.probes, label)['results']


def _number(feature: str) -> int:
  match = re.fullmatch(r'module_(\d+)', feature)
  return int(match[1]) if match else -1


def _point(name: str, feature: str, means: Sequence[float]) -> Point:
  # Rounding must not turn an error of zero into one above it.
  errors = np.round(100 * (1 - np.array(means)), 9)
  std = float(errors.std(ddof=1)) if len(errors) > 1 else math.nan
  ends = (float(errors.min()), float(errors.max()))
  return Point(name, feature, float(errors.mean()), *ends, std, len(errors))


def probes(runs: Sequence[Run], label: str) -> list[str]:
  """Lists the probes that any of the runs has of modules, for a label."""
  results = [r for run in runs for r in _results(run, label)]
  return list(
    dict.fromkeys(r['probe'] for r in results if _number(r['feature']) >= 0)
  )


def table(runs: Sequence[Run], label: str) -> Table:
  """Tabulates errors in percent: rows of methods, columns of modules."""
  measured = {p: points(runs, label, p) for p in probes(runs, label)}
  everything = [p for mine in measured.values() for p in mine]
  digits = 2 if min((p.mean for p in everything), default=100) < 1 else 1
  rows = []
  for probe, of_probe in measured.items():
    for name in dict.fromkeys(p.method for p in of_probe):
      mine = {p.feature: p for p in of_probe if p.method == name}
      row = {'probe': figures.probe_name(probe), 'method': name}
      row['n'] = span([p.n for p in mine.values()])
      rows.append(
        row | {k: with_error(p.mean, p.std, digits) for k, p in mine.items()}
      )
  return Table(rows, f'Error in %: {label}')


def depth(
  runs: Sequence[Run], label: str, probe: str = 'linear'
) -> figures.Picture:
  """Draws the test error of a probe against the module that it reads.

  After the figure of Löwe et al. 2019, https://arxiv.org/abs/1905.11786.

  The rows are those of `Point`, but for the methods 'commonest label' and 'raw
  ...', which are of no module.
  """
  measured = points(runs, label, probe)
  rows: figures.Rows = [tuple(p) for p in measured]
  rows += [(k, None, v, *[None] * 4) for k, v in _levels(runs, label, probe)]
  ends = '; '.join(
    f'{name}: {figures.number(p.mean)} % at {p.feature}'
    for name, p in {p.method: p for p in measured}.items()
  )
  linear = probe == 'linear'
  return figures.Picture(
    f'depth_{label}' + ('' if linear else f'_{probe}'),
    f'Error by module: {label}' + ('' if linear else f', {probe} probe'),
    f'Test error of the {figures.probe_name(probe)} probe on the frozen '
    f'features of each module; the vertical axis is logarithmic, but for the '
    f'part that ends at 0. Bars: least and greatest of the runs. What is not '
    f'finite is left out.',
    f'Probe error of {label} over modules, one line a method. At the end: '
    f'{ends}.',
    Point._fields,
    rows,
    lambda: _draw(rows),
  )


def _levels(
  runs: Sequence[Run], label: str, probe: str
) -> list[tuple[str, float]]:
  """Errors without any encoder, where the runs agree on them."""
  known: dict[str, set[float]] = {}
  for run in runs:
    chance = runs_lib.of_label(run.probes, label)['chance']
    known.setdefault('commonest label', set()).add(figures.real(chance))
    for r in _results(run, label):
      if (r['encoder'], r['probe']) == ('raw', probe):
        mean = figures.real(r['mean'])
        known.setdefault(f'raw {r["feature"]}', set()).add(mean)
  return [
    (name, round(100 * (1 - means.pop()), 9))
    for name, means in known.items()
    if len(means) == 1 and all(map(math.isfinite, means))
  ]


def _draw(rows: figures.Rows) -> Any:
  figure, axes = figures.blank(figures.WIDTH, 3.4)
  lines = figures.grouped([row for row in rows if row[1]], 0)
  for k, (name, mine) in enumerate(lines.items()):
    untrained = name.startswith('untrained')
    around, place = divmod(k, len(figures.COLOURS))
    numbers = np.array([(_number(row[1]), *row[2:5]) for row in mine])
    x, mean, least, greatest = numbers[np.isfinite(numbers[:, 1])].T
    look = figures.BARS | {
      'color': figures.INK if untrained else figures.COLOURS[place],
      'ls': figures.DOTTED if untrained else '-',
      # Lines of one colour have other marks.
      'marker': 'X' if untrained else _MARKERS[(place + around) % 6],
      'lw': 2,
      'label': f'{name} {figures.last(mean)}',
    }
    # A little apart, or bars would hide one another.
    x = x + 0.06 * (k - (len(lines) - 1) / 2)
    axes.errorbar(x, mean, yerr=np.abs([least - mean, greatest - mean]), **look)
  for name, _, value, *_ in (row for row in rows if row[1] is None):
    style = figures.DOTTED if name.startswith('raw') else figures.DASHED
    label = f'{name} {figures.number(value)}'
    axes.axhline(value, **figures.LEVEL | {'ls': style}, label=label)
  shown = [v for row in rows for v in row[2:5] if v is not None]
  figures.log_with_zero(axes.yaxis, shown)
  # The names of the table; numbers alone where they would touch.
  last = max(_number(row[1]) for row in rows if row[1])
  ticks = [f'module_{m}' if last < 5 else str(m) for m in range(last + 1)]
  axes.set_xticks(range(last + 1), ticks)
  axes.set(xlabel='' if last < 5 else 'module_…', ylabel='error, %')
  axes.set_xlim(-0.4, last + 0.4)
  return figure
