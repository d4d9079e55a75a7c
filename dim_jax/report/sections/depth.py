"""Error against the depth of the module whose features a probe reads.

For encoders of numbered modules, 'module_0' and on. Runs that differ in their
seed alone are one method's and make one line.
"""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.report import classifier_figures, figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Part, Table, Text, draw, span, with_error
from dim_jax.report.runs import Run, methods
from dim_jax.report.sections import probes as probes_section

_MARKERS = 'os^DvP'
_NUMBERS = ('error', 'least', 'greatest', 'std')


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows the errors of every label by module: a picture and a table."""
  modular = [run for run in runs if runs_lib.has_modules(run) and run.probes]
  pictures: list[Part] = []
  tables: list[Part] = []
  done = runs_lib.labelled(modular, 'probes')
  known = [label for _, p in done for label in runs_lib.labels(p)]
  for label in dict.fromkeys(known):
    names = probes(modular, label)
    if names:
      probe = 'linear' if 'linear' in names else names[0]
      pictures.append(draw(depth, modular, label, probe))
      tables.append(table(modular, label))
  if tables:
    notes = [
      'Test error, mean ± standard deviation over n runs that differ in their '
      'seed alone. An untrained encoder counts once a seed.'
    ]
    notes += [
      f'{name}: {", ".join(run.label for run in members)}.'
      for name, members in methods(modular).items()
      if len(modular) > 1
    ]
    tables += map(Text, notes)
  return [*pictures, *tables]


class Point(NamedTuple):
  """Test error of one probe on one module's features; percent.

  Attributes:
    method: whose: the method's name, or 'untrained'.
    feature: 'module_0' for the first.
    mean: over runs.
    low: least of the runs.
    high: greatest of them.
    std: standard deviation over runs (n - 1), NaN for one run.
    n: how many runs.
  """

  method: str
  feature: str
  mean: float
  low: float
  high: float
  std: float
  n: int


def points(
  runs: Sequence[Run], label: str, probe: str = 'linear'
) -> list[Point]:
  """Collects errors by method and module, the untrained encoders' last.

  Runs share an untrained encoder where they start from one seed; it counts
  once.

  Args:
    runs: runs of modules; those that are not evaluated have no part.
    label: what is predicted, such as 'class' or 'speaker'.
    probe: of which probe.
  """
  result: list[Point] = []
  # Accuracies by feature and seed, of each method's untrained encoders.
  starts: dict[str, dict[tuple[str, Any], float]] = {}
  for name, members in methods(runs).items():
    trained: dict[str, list[float]] = {}
    for run in members:
      for feature, mean in _means(run, 'trained', label, probe):
        trained.setdefault(feature, []).append(mean)
      for feature, mean in _means(run, 'untrained', label, probe):
        starts.setdefault(name, {})[feature, run.config.get('seed')] = mean
    result += _points(name, trained)
  # Encoders that agree where they share a feature and a seed are one.
  merged: dict[str, dict[tuple[str, Any], float]] = {}
  for name, start in starts.items():
    same = [
      other
      for other in merged.values()
      if (shared := other.keys() & start.keys())
      and all(other[key] == start[key] for key in shared)
    ]
    if same:
      same[0].update(start)
    else:
      merged[name] = dict(start)
  for name, start in merged.items():
    features: dict[str, list[float]] = {}
    for (feature, _), mean in start.items():
      features.setdefault(feature, []).append(mean)
    own = 'untrained' if len(merged) == 1 else f'untrained, {name}'
    result += _points(own, features)
  return result


def _means(
  run: Run, encoder: str, label: str, probe: str
) -> list[tuple[str, float]]:
  """Features and mean accuracies of the results of one kind."""
  if not run.probes:
    return []
  return [
    (r['feature'], figures.real(r['mean']))
    for r in runs_lib.of_label(run.probes, label)['results']
    if (r['features'], r['probe']) == (encoder, probe)
    and (encoder == 'raw' or _number(r['feature']) is not None)
  ]


def _number(feature: str) -> int | None:
  match = re.fullmatch(r'module_(\d+)', feature)
  return int(match[1]) if match else None


def _points(name: str, measured: Mapping[str, Sequence[float]]) -> list[Point]:
  result = []
  for feature in sorted(measured, key=lambda feature: _number(feature) or 0):
    errors = [100 * (1 - mean) for mean in measured[feature]]
    # Rounding must not turn an error of zero into one above it.
    errors = [0.0 if abs(error) < 1e-9 else error for error in errors]
    std = float(np.std(errors, ddof=1)) if len(errors) > 1 else math.nan
    low, high, mean = min(errors), max(errors), float(np.mean(errors))
    result.append(Point(name, feature, mean, low, high, std, len(errors)))
  return result


def probes(runs: Sequence[Run], label: str) -> list[str]:
  """Lists the probes that any of the runs has of modules, for a label."""
  results = [
    r
    for run in runs
    for r in runs_lib.of_label(run.probes or {'results': []}, label)['results']
  ]
  modular = [r for r in results if _number(r['feature']) is not None]
  return list(dict.fromkeys(r['probe'] for r in modular))


def table(runs: Sequence[Run], label: str) -> Table:
  """Tabulates errors in percent: a row a probe and method, a column a module.

  Args:
    runs: runs of modules.
    label: what is predicted.
  """
  measured = {p: points(runs, label, p) for p in probes(runs, label)}
  everything = [p for mine in measured.values() for p in mine]
  features = dict.fromkeys(p.feature for p in everything)
  digits = 2 if min((p.mean for p in everything), default=100) < 1 else 1
  kinds = _kinds(runs)
  rows = []
  for probe, found in measured.items():
    for name in dict.fromkeys(p.method for p in found):
      mine = {p.feature: p for p in found if p.method == name}
      row = {'probe': figures.probe_name(probe), 'method': name}
      row['n'] = span([p.n for p in mine.values()])
      for f in sorted(features, key=lambda feature: _number(feature) or 0):
        cell = (
          with_error(mine[f].mean, mine[f].std, digits) if f in mine else '–'
        )
        row[f'{f} ({kinds[f]})' if f in kinds else f] = cell
      rows.append(row)
  return Table(rows, f'Error in %: {label}')


def _kinds(runs: Sequence[Run]) -> dict[str, str]:
  """What run.json says of modules, such as 'PixelCNN', where runs agree."""
  agreed: dict[str, set[str]] = {}
  for run in runs:
    described = run.known('features')
    for name in described if isinstance(described, Mapping) else ():
      agreed.setdefault(name, set()).add(str(described[name]))
  return {
    name: text
    for name, texts in agreed.items()
    if len(texts) == 1 and (text := texts.pop())
  }


def depth(
  runs: Sequence[Run], label: str, probe: str = 'linear'
) -> figures.Picture:
  """Draws the test error of a probe against the module that it reads.

  After the figure of Löwe et al. 2019, https://arxiv.org/abs/1905.11786.

  Args:
    runs: runs of modules, of one or more methods and seeds.
    label: what is predicted, such as 'class' or 'speaker'.
    probe: the name of the probe.

  Returns:
    The picture; its rows are method, feature, and in percent the mean error
    over runs, the least, the greatest, their standard deviation, and n. The
    methods 'commonest label' and 'raw ...' are of no module.

  Raises:
    ValueError: no run has such a result.
  """
  measured = points(runs, label, probe)
  if not measured:
    raise ValueError(
      f'No run has results of the {probe!r} probe for the label {label!r} on a '
      f'module; for it there are the probes {probes(runs, label)}. Run '
      f'experiments.evaluate on the runs.'
    )
  levels = _levels(runs, label, probe)
  rows: list[tuple[Any, ...]] = [tuple(p) for p in measured]
  rows += [(name, None, value, *[None] * 4) for name, value in levels.items()]
  floor, floor_name = _floor(runs, label, [row[2] for row in rows])
  counts: dict[str, list[int]] = {}
  for p in measured:
    counts.setdefault(p.method, []).append(p.n)
  listed = ', '.join(f'{name} {span(n)}' for name, n in counts.items())
  several = any(p.n > 1 for p in measured)
  sentences = {
    f'Test error of the {figures.probe_name(probe)} probe on the frozen '
    f'features of each module; the vertical axis is logarithmic.': True,
    f'Points: mean over runs that differ in their seed alone; bars: their '
    f'least and greatest. Runs: {listed}.': several,
    'One run each, so without error bars.': not several,
    f'▽: no error in the test set; drawn at {figures.number(floor)} %, '
    f'{floor_name}, as 0 has no place on this axis.': any(
      p.mean == 0 for p in measured
    ),
    f'Bars that reach 0 end at {figures.number(floor)} %, {floor_name}.': any(
      p.low == 0 < p.mean for p in measured
    ),
    'Errors that are not finite are left out.': not all(
      math.isfinite(p.mean) for p in measured
    ),
    'The numbers come from different protocols: not comparable.': (
      len(_protocols(runs, label, probe)) > 1
    ),
  }
  for name, members in methods(runs).items():
    steps = sorted({run.probes['step'] for run in members if run.probes})
    after = ' and '.join(f'{step:,}' for step in steps)
    text = f'Runs of {name} were probed after {after} steps.'
    sentences[text] = len(steps) > 1
  ends = {
    p.method: f'{figures.number(p.mean)} % at {p.feature}' for p in measured
  }
  suffix = '' if probe == 'linear' else f', {figures.probe_name(probe)} probe'
  return figures.Picture(
    f'depth_{label}' + ('' if probe == 'linear' else f'_{probe}'),
    f'Error by module: {label}{suffix}',
    ' '.join(text for text, holds in sentences.items() if holds),
    f'Probe error of {label} over modules, one line a method. At the end: '
    f'{"; ".join(f"{name}: {end}" for name, end in ends.items())}.',
    ('method', 'feature', *(f'{x}_percent' for x in _NUMBERS), 'n'),
    rows,
    lambda theme: _draw(rows, floor, _kinds(runs), theme),
  )


def _levels(runs: Sequence[Run], label: str, probe: str) -> dict[str, float]:
  """Errors without any encoder, where the runs agree on them."""
  chances, raws = set(), set()
  for run in runs:
    mine = runs_lib.of_label(run.probes or {'results': []}, label)
    if 'chance' in mine:
      chances.add(('commonest label', figures.real(mine['chance'])))
    for feature, mean in _means(run, 'raw', label, probe):
      raws.add((f'raw {feature}', mean))
  known = [next(iter(found)) for found in (chances, raws) if len(found) == 1]
  levels = {name: round(100 * (1 - mean), 6) for name, mean in known}
  return {name: v for name, v in levels.items() if math.isfinite(v)}


def _floor(
  runs: Sequence[Run], label: str, errors: Sequence[float]
) -> tuple[float, str]:
  """Where an error of 0 is drawn, in percent, and in words."""
  rows = max((probes_section.tested(run, label) for run in runs), default=0)
  positive = min((e for e in errors if e > 0), default=1.0)
  if rows and 50 / rows < positive:
    return 50 / rows, 'half a test example'
  return positive / 2, 'half the least error'


def _protocols(runs: Sequence[Run], label: str, probe: str) -> set[Any]:
  return {
    r.get('protocol_hash')
    for run in runs
    for r in runs_lib.of_label(run.probes or {'results': []}, label)['results']
    if (r['features'], r['probe']) == ('trained', probe)
  }


def _draw(
  rows: list[tuple[Any, ...]],
  floor: float,
  kinds: Mapping[str, str],
  theme: figures.Theme,
) -> Any:
  from matplotlib import ticker

  names = list(dict.fromkeys(row[0] for row in rows))
  lines = [n for n in names if any(r[0] == n and r[1] for r in rows)]
  last = max(_number(row[1]) or 0 for row in rows if row[1])
  figure, axes = figures.blank(
    theme, figures.WIDTH, max(3.6, 1.2 + 0.42 * len(names))
  )
  axes.set_yscale('log')
  bars = any((row[6] or 0) > 1 for row in rows)
  texts: list[Any] = []
  for k, name in enumerate(lines):
    # A little apart, or bars would hide one another.
    aside = 0.06 * (k - (len(lines) - 1) / 2) if bars else 0.0
    texts.append(_draw_line(axes, name, rows, k, aside, floor, theme))
  for name, _, value, *_ in (row for row in rows if row[1] is None):
    style = (0, (1, 2)) if name.startswith('raw') else (0, (5, 3))
    at = max(value, floor)
    axes.axhline(at, color=theme.faint, linestyle=style, zorder=1)
    texts.append((at, f'{name} {figures.number(value)}', theme.faint, 'normal'))
  drawn = [
    max(value, floor) for row in rows for value in row[2:5] if value is not None
  ]
  drawn = [value for value in drawn if math.isfinite(value)] or [1.0, 100.0]
  axes.set_xlim(-0.4, last + 0.4)
  axes.set_ylim(min(drawn) / 1.2, max(drawn) * 1.2)
  classifier_figures.log_ticks(axes.yaxis)
  low, high = axes.get_ylim()
  if high < 10 * low:
    # Of 1, 2 and 5 too few would be in view.
    subs = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
  # The names of the table, where there is room for them.
  ticks = [f'module_{m}' for m in range(last + 1)]
  axes.set_xticks(
    range(last + 1),
    [
      '\n'.join([t if last < 5 else t[7:], *filter(None, [kinds.get(t)])])
      for t in ticks
    ],
  )
  axes.set_xlabel('' if last < 5 else 'module_…')
  axes.set_ylabel('error, %')
  texts = [(at, textwrap.fill(t, 26), *look) for at, t, *look in texts]
  most = max(label[1].count('\n') + 1 for label in texts)
  figures.label_right(figure, axes, texts, gap=13.5 * most + 1)
  return figure


def _draw_line(
  axes: Any,
  name: str,
  rows: list[tuple[Any, ...]],
  k: int,
  aside: float,
  floor: float,
  theme: figures.Theme,
) -> tuple[float, str, str, str]:
  """Draws one method and returns its label: height, text, colour, weight."""
  mine = [r for r in rows if r[0] == name and r[1] and math.isfinite(r[2])]
  untrained = name.startswith('untrained')
  around, place = divmod(k, len(theme.colours))
  colour = theme.faint if untrained else theme.colours[place]
  # Lines of one colour have other marks.
  marker = 'X' if untrained else _MARKERS[(place + around) % len(_MARKERS)]
  x = np.array([_number(row[1]) for row in mine], float) + aside
  mean, low, high = (np.maximum([r[c] for r in mine], floor) for c in (2, 3, 4))
  if any(row[6] > 1 for row in mine):
    bars = np.stack([mean - low, high - mean])
    look = {'elinewidth': 1.2, 'capsize': 2.5, 'fmt': 'none', 'zorder': 3}
    axes.errorbar(x, mean, yerr=bars, color=colour, **look)
  style = (0, (2, 1.5)) if untrained else '-'
  axes.plot(x, mean, color=colour, linewidth=2.0, linestyle=style, zorder=3)
  zero = np.array([row[2] == 0 for row in mine], bool)
  axes.plot(x[~zero], mean[~zero], marker, color=colour, zorder=4)
  hollow = {'markerfacecolor': theme.ground, 'markersize': 8, 'zorder': 4}
  axes.plot(x[zero], mean[zero], 'v', color=colour, **hollow)
  value = figures.number(mine[-1][2]) if mine else '(no number)'
  end = mean[-1] if len(mean) else math.nan
  return end, f'{name} {value}', colour, 'normal' if untrained else 'bold'
