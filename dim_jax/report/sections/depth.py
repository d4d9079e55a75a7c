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
  counts: dict[str, list[int]] = {}
  for p in measured:
    counts.setdefault(p.method, []).append(p.n)
  listed = ', '.join(f'{name} {span(n)}' for name, n in counts.items())
  several = any(p.n > 1 for p in measured)
  sentences = {
    f'Test error of the {figures.probe_name(probe)} probe on the frozen '
    f'features of each module; the vertical axis is logarithmic, and linear '
    f'from its least error to 0.': True,
    f'Points: mean over runs that differ in their seed alone; bars: their '
    f'least and greatest. Runs: {listed}.': several,
    'One run each, so without error bars.': not several,
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
    lambda: _draw(rows, _kinds(runs)),
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


def _protocols(runs: Sequence[Run], label: str, probe: str) -> set[Any]:
  return {
    r.get('protocol_hash')
    for run in runs
    for r in runs_lib.of_label(run.probes or {'results': []}, label)['results']
    if (r['features'], r['probe']) == ('trained', probe)
  }


def _draw(rows: list[tuple[Any, ...]], kinds: Mapping[str, str]) -> Any:
  names = list(dict.fromkeys(row[0] for row in rows if row[1]))
  last = max(_number(row[1]) or 0 for row in rows if row[1])
  figure, axes = figures.blank(figures.WIDTH, 3.4)
  several = any((row[6] or 0) > 1 for row in rows)
  for k, name in enumerate(names):
    # A little apart, or bars would hide one another.
    aside = 0.06 * (k - (len(names) - 1) / 2) if several else 0.0
    _draw_line(axes, name, rows, k, aside)
  for name, _, value, *_ in (row for row in rows if row[1] is None):
    style = figures.DOTTED if name.startswith('raw') else figures.DASHED
    axes.axhline(
      value,
      color=figures.INK,
      linestyle=style,
      zorder=1,
      label=f'{name} {figures.number(value)}',
    )
  values = [value for row in rows for value in row[2:5] if value is not None]
  figures.log_with_zero(axes.yaxis, values)
  axes.set_xlim(-0.4, last + 0.4)
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
  figures.legend(figure)
  return figure


def _draw_line(
  axes: Any, name: str, rows: list[tuple[Any, ...]], k: int, aside: float
) -> None:
  """Draws one method: its means, and bars to the least and the greatest."""
  mine = [r for r in rows if r[0] == name and r[1] and math.isfinite(r[2])]
  untrained = name.startswith('untrained')
  around, place = divmod(k, len(figures.COLOURS))
  x = np.array([_number(row[1]) for row in mine], float) + aside
  mean, low, high = (np.array([r[c] for r in mine], float) for c in (2, 3, 4))
  end = figures.number(mean[-1]) if mine else '(no number)'
  axes.errorbar(
    x,
    mean,
    yerr=np.stack([mean - low, high - mean])
    if any(row[6] > 1 for row in mine)
    else None,
    color=figures.INK if untrained else figures.COLOURS[place],
    # Lines of one colour have other marks.
    marker='X' if untrained else _MARKERS[(place + around) % len(_MARKERS)],
    linewidth=2.0,
    linestyle=(0, (2, 1.5)) if untrained else '-',
    elinewidth=1.2,
    capsize=2.5,
    label=f'{name} {end}',
  )
