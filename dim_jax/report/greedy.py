"""Encoders of modules: how well each module's features do, method by method.

Greedy InfoMax, contrastive predictive coding and their supervised twins are one
objective with other walls and another loss. Their runs are told apart by their
configs; runs that differ in their seed alone are one method's.
"""

import json
import math
import os
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.report import classifier_figures, figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.runs import Run

# Panels of training curves; patterns are of whole names of metrics.
FAMILIES: tuple[dict[str, Any], ...] = (
  {
    'name': 'module_infonce',
    'title': 'Loss of the modules: InfoNCE',
    'unit': 'nats',
    'pattern': r'module_\d+/infonce',
    'caption': 'On training batches, mean over offsets; lower is better.',
    'dashed': (
      'a guess',
      'ln(K + 1), the loss of a guess between the target and K negatives; what '
      'a loss lies below it bounds information from below',
    ),
  },
  {
    'name': 'module_cross_entropy',
    'title': 'Loss of the modules: cross-entropy',
    'unit': 'nats',
    'pattern': r'module_\d+/cross_entropy',
    'caption': 'Of labels, on training batches; lower is better.',
  },
  {
    'name': 'module_accuracy',
    'title': 'Accuracy of the modules in their own task',
    'unit': 'accuracy, %',
    'pattern': r'module_\d+/accuracy',
    'scale': 100.0,
    'caption': 'On training batches. With InfoNCE: how often the target '
    'outscores all negatives, mean over offsets; supervised: of labels.',
  },
)

# The last module of these names turns features into contexts.
CONTEXTS = {
  'resnet50_cpc': (3, 'PixelCNN'),
  'resnet34_cpc': (3, 'PixelCNN'),
  'resnet_small_cpc': (3, 'PixelCNN'),
  'patch_small_cpc': (3, 'PixelCNN'),
  'sound': (5, 'GRU'),
  'sound_small': (5, 'GRU'),
}

# Labels of single frames: how many were tested is not in the results.
_FRAMEWISE = ('phone',)

# Settings in which two runs of one method may differ.
_NO_SETTING = {
  'checkpoint_every',
  'init_from',
  'input_shape',
  'keep',
  'log_every',
  'paper',
  'parallel',
  'seed',
  'tensorboard',
}
# Settings that an untrained encoder depends on.
_UNTRAINED = (
  'modules',
  'pool',
  'patch_size',
  'patch_stride',
  'audio_std',
  'dtype',
)
_MARKERS = (
  ('o', '●'),
  ('s', '■'),
  ('^', '▲'),
  ('D', '◆'),
  ('v', '▼'),
  ('P', '✚'),
)


def is_greedy(run: Run) -> bool:
  """Whether the run's encoder is one of modules."""
  return runs_lib.objective(run.config) == 'gim'


def module_of(key: str) -> str | None:
  """'module_M' of a metric such as 'module_M/infonce', or None of another."""
  found = re.fullmatch(r'(module_\d+)/.*|probe/(module_\d+)_\w+', key)
  return (found[1] or found[2]) if found else None


def ceiling(key: str) -> str | None:
  """The metric that is the most of another such as 'module_M/infonce'."""
  return f'{module_of(key)}/ceiling' if key.endswith('/infonce') else None


def count(run: Run) -> int:
  """How many modules the run has, as far as its numbers say; 0 if they do not.

  Args:
    run: a run of modules.
  """
  names = [module_of(key) or '' for line in run.metrics[-1:] for key in line]
  names += [r['tap'] for r in (run.probes or {}).get('results', [])]
  found = [
    int(name[7:]) + 1 for name in names if re.fullmatch(r'module_\d+', name)
  ]
  objective = run.config.get('objective') or {}
  return max(found, default=objective.get('depth') or 0)


def method(run: Run) -> str:
  """What the run's walls and loss are called, such as 'Greedy InfoMax'.

  Args:
    run: a run of modules.
  """
  objective = run.config.get('objective') or {}
  supervised = objective.get('loss') == 'supervised'
  frozen = objective.get('frozen') or 0
  inner = _inner_walls(run)
  if inner is None:
    name = 'greedy supervised' if supervised else 'Greedy InfoMax'
  elif not inner:
    name = 'supervised' if supervised else 'CPC'
  else:
    name = 'supervised' if supervised else 'InfoNCE'
    name += f', {_behind(inner)}'
  return f'{name}, one after another' if frozen else name


def _inner_walls(run: Run) -> list[int] | None:
  """Walls between modules, ascending; None if they stand between all."""
  objective = run.config.get('objective') or {}
  walls = objective.get('walls')
  if walls is None:
    return None
  last = count(run) - 1
  # Frozen modules pass no gradient on; a wall behind the last changes nothing.
  found = {*walls, *range(objective.get('frozen') or 0)}
  inner = sorted(wall for wall in found if last < 0 or wall < last)
  return None if inner and inner == list(range(last)) else inner


def _behind(walls: Sequence[int]) -> str:
  names = ', '.join(f'module_{wall}' for wall in walls)
  return f'wall{"s" if len(walls) > 1 else ""} behind {names}'


def methods(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Runs by method; those of one differ in nothing but their seed.

  Args:
    runs: runs of modules.

  Returns:
    The runs of each method, in the order given. Methods of one name have what
    their configs differ in after it.
  """
  found: dict[str, list[Run]] = {}
  for run in runs:
    key = json.dumps(_settings(run), sort_keys=True, default=str)
    found.setdefault(key, []).append(run)
  members = list(found.values())
  names = _told_apart(
    [(method(runs[0]), _settings(runs[0]), runs[0].label) for runs in members]
  )
  return dict(zip(names, members, strict=True))


def _settings(run: Run) -> dict[str, Any]:
  return {
    path: value
    for path, value in runs_lib.flatten(run.config)
    if path.split('.')[0] not in _NO_SETTING
  }


def _told_apart(
  lines: Sequence[tuple[str, Mapping[str, Any], str]],
) -> list[str]:
  """Names of lines; equal ones with their settings, else their last resort."""
  names = []
  for name, settings, resort in lines:
    rivals = [other for twin, other, _ in lines if twin == name]
    paths = [
      path
      for path in dict.fromkeys(p for rival in rivals for p in rival)
      if len({json.dumps(r.get(path), default=str) for r in rivals}) > 1
      and not path.endswith('type')
    ]
    if not rivals[1:]:
      names.append(name)
    elif 1 <= len(paths) <= 2:
      said = ', '.join(
        f'{path.split(".")[-1].replace("_", " ")} '
        f'{runs_lib.plain(settings.get(path))}'
        for path in paths
      )
      names.append(f'{name} ({said})')
    else:
      names.append(f'{name} ({resort})')
  # A last resort for two that even so have one name.
  return [
    n if names.count(n) == 1 else f'{n} [{i + 1}]' for i, n in enumerate(names)
  ]


def mean_line(lines: Sequence[figures.Line], label: str) -> figures.Line:
  """The mean of runs' curves, at the steps that all of them have logged.

  Args:
    lines: at least one.
    label: of the result.
  """
  steps = [
    step
    for step in lines[0].steps
    if all(step in line.steps for line in lines[1:])
  ]

  def mean(values: Iterable[Sequence[float]]) -> list[float]:
    tables = [
      dict(zip(line.steps, found, strict=True))
      for line, found in zip(lines, values, strict=True)
    ]
    return [float(np.mean([table[step] for table in tables])) for step in steps]

  tops = [line.ceiling for line in lines if line.ceiling is not None]
  return figures.Line(
    label,
    steps,
    mean(line.values for line in lines),
    mean(tops) if len(tops) == len(lines) else None,
  )


# Errors by module.


class Point(NamedTuple):
  """Test error of one probe on one module's features; percent.

  Attributes:
    method: whose, such as 'Greedy InfoMax' or 'untrained'.
    module: 1 for the first.
    tap: its name, 'module_0' for the first.
    mean: over runs.
    low: least of the runs.
    high: greatest of them.
    std: the sample's deviation over runs (n - 1), NaN for one run.
    n: how many runs.
    noise: the greatest of this deviation, that over the probe's own seeds, and
      the standard error from the number of test examples where it is known.
  """

  method: str
  module: int
  tap: str
  mean: float
  low: float
  high: float
  std: float
  n: int
  noise: float


def points(
  runs: Sequence[Run], label: str, probe: str = 'linear'
) -> list[Point]:
  """Errors by method and module, the untrained encoders' last.

  Runs share an untrained encoder where they start from one seed; it counts
  once.

  Args:
    runs: runs of modules; those that are not evaluated have no part.
    label: what is predicted, such as 'class' or 'speaker'.
    probe: of which probe.
  """
  found: list[Point] = []
  for name, members in methods(runs).items():
    results: dict[str, list[tuple[Mapping[str, Any], int]]] = {}
    for run in members:
      for r in _results(run, 'trained', label, probe):
        results.setdefault(r['tap'], []).append((r, _tested(run, label)))
    found += _points(name, results)
  starts: dict[str, dict[tuple[str, Any], tuple[Mapping[str, Any], int]]] = {}
  settings: dict[str, tuple[dict[str, Any], str]] = {}
  for run in runs:
    mine = {
      path: value
      for path, value in _settings(run).items()
      if path.startswith('data.')
      or path.removeprefix('objective.').split('.')[0] in _UNTRAINED
    }
    key = json.dumps(mine, sort_keys=True, default=str)
    settings.setdefault(key, (mine, run.label))
    for r in _results(run, 'untrained', label, probe):
      at = r['tap'], run.config.get('seed')
      starts.setdefault(key, {}).setdefault(at, (r, _tested(run, label)))
  values = {
    key: {(at, r['mean']) for at, (r, _) in start.items()}
    for key, start in starts.items()
  }
  # One encoder that begins as another does, the same numbers, is no other.
  keys = [
    key
    for i, key in enumerate(values)
    if not any(
      values[key] < values[other] or (values[key] == values[other] and j < i)
      for j, other in enumerate(values)
    )
  ]
  names = _told_apart([('untrained', *settings[key]) for key in keys])
  for name, key in zip(names, keys, strict=True):
    results = {}
    for (tap, _), measured in starts[key].items():
      results.setdefault(tap, []).append(measured)
    found += _points(name, results)
  return found


def _results(
  run: Run, features: str, label: str, probe: str
) -> list[Mapping[str, Any]]:
  if not run.probes:
    return []
  return [
    r
    for r in runs_lib.of_label(run.probes, label)['results']
    if (r['features'], r['probe']) == (features, probe)
    and (features == 'raw' or re.fullmatch(r'module_\d+', r['tap']))
  ]


def _tested(run: Run, label: str) -> int:
  """How many labels the run's probes were tested on; 0 if that is not known."""
  protocol = (run.probes or {}).get('protocol') or {}
  return 0 if label in _FRAMEWISE else int(protocol.get('test_rows') or 0)


def _points(
  name: str, results: Mapping[str, Sequence[tuple[Mapping[str, Any], int]]]
) -> list[Point]:
  found = []
  for tap in sorted(results, key=lambda tap: int(tap[7:])):
    measured = results[tap]
    errors = [100 * (1 - figures.real(r['mean'])) for r, _ in measured]
    # Rounding must not turn an error of zero into one above it.
    errors = [0.0 if abs(error) < 1e-9 else error for error in errors]
    mean = float(np.mean(errors))
    std = float(np.std(errors, ddof=1)) if len(errors) > 1 else math.nan
    noises = [100 * figures.real(r.get('std')) for r, _ in measured] + [std]
    share = mean / 100
    noises += [
      100 * math.sqrt(share * (1 - share) / rows)
      for _, rows in measured
      if rows and 0 <= share <= 1
    ]
    noise = max((n for n in noises if math.isfinite(n)), default=0.0)
    found.append(
      Point(
        name,
        int(tap[7:]) + 1,
        tap,
        mean,
        min(errors),
        max(errors),
        std,
        len(errors),
        noise,
      )
    )
  return found


def probes(runs: Sequence[Run], label: str) -> list[str]:
  """The probes that were run on modules of any of the runs, for a label."""
  return list(
    dict.fromkeys(
      r['probe']
      for run in runs
      if run.probes
      for r in runs_lib.of_label(run.probes, label)['results']
      if re.fullmatch(r'module_\d+', r['tap'])
    )
  )


def labels(runs: Sequence[Run]) -> list[str]:
  """What the probes of any of the runs predict."""
  return list(
    dict.fromkeys(
      label
      for run in runs
      if run.probes
      for label in runs_lib.labels(run.probes)
    )
  )


def depth(
  runs: Sequence[Run], label: str, probe: str = 'linear'
) -> figures.Picture:
  """Test error of a probe against the module whose features it reads.

  After the figure of Löwe et al. 2019, https://arxiv.org/abs/1905.11786.

  Args:
    runs: runs of modules, of one or more methods and seeds.
    label: what is predicted, such as 'class' or 'speaker'.
    probe: the name of the probe.

  Returns:
    The picture; its rows are method, module (1 for the first), tap, and in
    percent the mean error over runs, the least, the greatest, their deviation,
    and n. The methods 'commonest label' and 'raw ...' are of no module.

  Raises:
    ValueError: no run has such a result.
  """
  found = points(runs, label, probe)
  if not found:
    raise ValueError(
      f'No run has results of the {probe!r} probe for the label {label!r} on a '
      f'module; there are the labels {labels(runs)} and the probes '
      f'{probes(runs, label)}. Run experiments.evaluate on the runs.'
    )
  levels = _levels(runs, label, probe)
  rows: list[tuple[Any, ...]] = [
    (p.method, p.module, p.tap, p.mean, p.low, p.high, p.std, p.n)
    for p in found
  ]
  rows += [
    (name, None, None, value, None, None, None, None)
    for name, value in levels.items()
  ]
  floor, half = _floor(runs, label, [*(row[3] for row in rows)])
  contexts = _context_names(runs)
  counts: dict[str, set[int]] = {}
  for p in found:
    counts.setdefault(p.method, set()).add(p.n)
  several = max(max(n) for n in counts.values()) > 1
  said = [
    f'Test error of the {figures.probe_name(probe)} probe on the frozen '
    f'features of each module; the vertical axis is logarithmic.'
  ]
  if several:
    said.append(
      'Points: mean over runs that differ in their seed alone; bars: their '
      'least and greatest. Runs: '
      + ', '.join(f'{name} {_span(n)}' for name, n in counts.items())
      + '.'
    )
  else:
    each = ' each' if len(methods(runs)) > 1 else ''
    said.append(f'One run{each}, so without a spread.')
  if any(p.mean == 0 for p in found):
    said.append(
      f'▽: no error in the test set; drawn at {figures.number(floor)} %, '
      f'{half}, as 0 has no place on this axis.'
    )
  if any(p.low == 0 < p.mean for p in found):
    said.append(f'Bars that reach 0 end at {figures.number(floor)} %, {half}.')
  if any(not math.isfinite(p.mean) for p in found):
    said.append('Errors that are not finite are left out.')
  said += _warnings(runs, label, probe)
  ends = {p.method: p for p in found}
  text = '; '.join(
    f'{name}: {figures.number(p.mean)} % at {p.tap}' for name, p in ends.items()
  )
  return figures.Picture(
    f'depth_{label}' + ('' if probe == 'linear' else f'_{probe}'),
    f'Error by module: {label}'
    + ('' if probe == 'linear' else f', {figures.probe_name(probe)} probe'),
    ' '.join(said),
    f'Probe error of {label} over modules, one line a method. At the end: '
    f'{text}.',
    (
      'method',
      'module',
      'tap',
      'error_percent',
      'least_percent',
      'greatest_percent',
      'std_percent',
      'n',
    ),
    rows,
    lambda theme: _draw_depth(rows, floor, contexts, theme),
  )


def _levels(runs: Sequence[Run], label: str, probe: str) -> dict[str, float]:
  """Errors without any encoder, where the runs agree on them."""
  chances = {
    round(100 * (1 - figures.real(found['chance'])), 6)
    for run in runs
    if run.probes
    and 'chance' in (found := runs_lib.of_label(run.probes, label))
  }
  raws = {
    (r['tap'], round(100 * (1 - figures.real(r['mean'])), 6))
    for run in runs
    for r in _results(run, 'raw', label, probe)
  }
  levels = {}
  if len(chances) == 1:
    levels['commonest label'] = chances.pop()
  if len(raws) == 1:
    tap, value = raws.pop()
    levels[f'raw {tap}'] = value
  return {name: v for name, v in levels.items() if math.isfinite(v)}


def _floor(
  runs: Sequence[Run], label: str, errors: Sequence[float]
) -> tuple[float, str]:
  """Where an error of 0 is drawn, in percent, and in words."""
  rows = max((_tested(run, label) for run in runs), default=0)
  positive = min((e for e in errors if e > 0), default=1.0)
  if rows and 50 / rows < positive:
    return 50 / rows, 'half a test example'
  return positive / 2, 'half the least error'


def _warnings(runs: Sequence[Run], label: str, probe: str) -> list[str]:
  said = []
  hashes = {
    r.get('protocol_hash')
    for run in runs
    for r in _results(run, 'trained', label, probe)
  }
  if len(hashes) > 1:
    said.append('The numbers come from different protocols: not comparable.')
  for name, members in methods(runs).items():
    steps = sorted({run.probes['step'] for run in members if run.probes})
    if len(steps) > 1:
      listed = ' and '.join(f'{step:,}' for step in steps)
      said.append(f'Runs of {name} were probed after {listed} steps.')
  return said


def _context_names(runs: Sequence[Run]) -> dict[int, str]:
  """Modules (1 for the first) that are autoregressors in every run, named."""
  every = []
  for run in runs:
    modules = (run.config.get('objective') or {}).get('modules')
    mine: dict[int, str] = {}
    if isinstance(modules, str) and modules in CONTEXTS:
      index, name = CONTEXTS[modules]
      mine[index + 1] = name
    elif isinstance(modules, list):
      for i, module in enumerate(modules):
        kind = str(module.get('type') if isinstance(module, dict) else '')
        if '.context:' in kind:
          mine[i + 1] = kind.rpartition(':')[2]
    every.append((count(run), mine))
  return {
    module: name
    for _, mine in every
    for module, name in mine.items()
    if all(other.get(module) == name or n < module for n, other in every)
  }


def _span(values: Collection[int]) -> str:
  low, high = min(values), max(values)
  return str(low) if low == high else f'{low} to {high}'


def _draw_depth(
  rows: list[tuple[Any, ...]],
  floor: float,
  contexts: Mapping[int, str],
  theme: figures.Theme,
) -> Any:
  from matplotlib import ticker

  names = list(dict.fromkeys(r[0] for r in rows))
  lines = [n for n in names if any(r[0] == n and r[1] for r in rows)]
  last = max(r[1] for r in rows if r[1])
  texts: list[tuple[float, str, str, str]] = []
  figure, axes = figures.blank(
    theme, figures.WIDTH, max(3.6, 1.2 + 0.42 * len(names))
  )
  axes.set_yscale('log')
  drawn: list[float] = []
  bars = any((r[7] or 0) > 1 for r in rows)
  trained = 0
  for k, name in enumerate(lines):
    mine = [r for r in rows if r[0] == name and math.isfinite(r[3])]
    plain = name.startswith('untrained')
    if plain:
      colour, (marker, symbol) = theme.faint, ('X', '✖')
    else:
      around, place = divmod(trained, len(theme.colours))
      colour = theme.colours[place]
      # Lines of one colour have other marks.
      marker, symbol = _MARKERS[(place + around) % len(_MARKERS)]
      trained += 1
    # A little apart, or bars would hide one another.
    aside = 0.06 * (k - (len(lines) - 1) / 2) if bars else 0.0
    x = np.array([r[1] + aside for r in mine], float)
    mean, low, high = (
      np.maximum([r[c] for r in mine], floor) for c in (3, 4, 5)
    )
    axes.errorbar(
      x,
      mean,
      yerr=np.stack([mean - low, high - mean]) if bars and len(mine) else None,
      color=colour,
      linewidth=1.6 if plain else 2.2,
      linestyle=(0, (2, 1.5)) if plain else '-',
      elinewidth=1.2,
      capsize=2.5,
      zorder=2 if plain else 3,
    )
    zero = np.array([r[3] == 0 for r in mine], bool)
    for chosen, mark, face in (
      (~zero, marker, colour),
      (zero, 'v', theme.ground),
    ):
      axes.plot(
        x[chosen],
        mean[chosen],
        mark,
        color=colour,
        markerfacecolor=face,
        markersize=6 if face == colour else 8,
        markeredgewidth=1.6 if face != colour else None,
        zorder=4,
      )
    drawn += [*low, *high]
    end = mean[-1] if len(mean) else math.nan
    value = figures.number(mine[-1][3]) if mine else '(no number)'
    if mine and mine[-1][3] == 0:
      value = '0'
    wrapped = textwrap.wrap(f'{symbol}\u00a0{name} {value}', 26)
    weight = 'normal' if plain else 'bold'
    texts.append((end, '\n'.join(wrapped), colour, weight))
  for name, _, _, value, *_ in (r for r in rows if r[1] is None):
    height = max(value, floor)
    style = (0, (1, 2)) if name.startswith('raw') else (0, (5, 3))
    axes.axhline(height, color=theme.faint, linestyle=style, zorder=1)
    wrapped = textwrap.wrap(f'{name} {figures.number(value)}', 26)
    texts.append((height, '\n'.join(wrapped), theme.faint, 'normal'))
    drawn.append(height)
  axes.set_xlim(0.6, last + 0.4)
  axes.set_ylim(min(drawn, default=1) / 1.2, max(drawn, default=100) * 1.2)
  classifier_figures.log_ticks(axes.yaxis)
  low, high = axes.get_ylim()
  if high < 10 * low:
    # Of 1, 2 and 5 too few would be in view.
    subs = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
  axes.set_xticks(
    range(1, last + 1),
    [
      f'{m}\n{contexts[m]}' if m in contexts else str(m)
      for m in range(1, last + 1)
    ],
  )
  axes.set_xlabel('module (1 is module_0)')
  axes.set_ylabel('error, %')
  most = max(text.count('\n') + 1 for _, text, _, _ in texts)
  figures.label_right(figure, axes, texts, gap=13.5 * most + 1)
  return figure


def table(runs: Sequence[Run], label: str) -> tuple[list[str], list[list[str]]]:
  """Errors of every probe by method and module.

  Args:
    runs: runs of modules.
    label: what is predicted.

  Returns:
    Header and rows. A row is (probe, method, n, one cell a module): error in
    percent, mean ± the sample's deviation over n runs.
  """
  every = {probe: points(runs, label, probe) for probe in probes(runs, label)}
  last = max((p.module for found in every.values() for p in found), default=0)
  means = [p.mean for found in every.values() for p in found]
  digits = 2 if min(means, default=100) < 1 else 1
  contexts = _context_names(runs)
  header = ['probe', 'method', 'n']
  for m in range(1, last + 1):
    note = f' ({contexts[m]})' if m in contexts else ''
    header.append(f'module_{m - 1}{note}')
  rows = []
  for probe, found in every.items():
    for name in dict.fromkeys(p.method for p in found):
      mine = {p.module: p for p in found if p.method == name}
      cells = [
        _cell(mine[m], digits) if m in mine else '–' for m in range(1, last + 1)
      ]
      n = _span([p.n for p in mine.values()])
      rows.append([figures.probe_name(probe), name, n, *cells])
  return header, rows


def _cell(point: Point, digits: int) -> str:
  if not math.isfinite(point.mean):
    return 'not finite'
  text = f'{point.mean:.{digits}f}'
  if math.isfinite(point.std):
    text += f' ± {point.std:.{digits}f}'
  return text.replace(' ', '\u00a0')


# In words.


def findings(runs: Sequence[Run], *, named: bool = False) -> list[str]:
  """What the linear probe says of depth, in sentences made from the numbers.

  Args:
    runs: runs of modules.
    named: say the method's name even where there is one alone.

  Returns:
    A sentence for each label and method that has been probed.
  """
  sentences = []
  several = named or len(methods(runs)) > 1
  clear: dict[str, list[str]] = {}
  for label in labels(runs):
    found = points(runs, label)
    trained = [p for p in found if not p.method.startswith('untrained')]
    blank = [p for p in found if p.method.startswith('untrained')]
    # Methods of several encoders have several that are untrained.
    if len({p.method for p in blank}) > 1:
      blank = []
    start = {p.tap: p for p in blank}
    raw = _raw(runs, label)
    for name in dict.fromkeys(p.method for p in trained):
      mine = [p for p in trained if p.method == name and math.isfinite(p.mean)]
      text = f'Linear probe of {label}'
      if several or any(p.n > 1 for p in mine):
        text += f', {name} (n = {_span([p.n for p in mine] or [0])})'
      if not mine:
        sentences.append(f'{text}: the errors are not finite.')
        continue
      text += f': {_fall(mine)}'
      if any(p.tap in start for p in mine):
        better = [p for p in mine if p.tap in start and _below(p, start[p.tap])]
        worse = [p for p in mine if p.tap in start and _below(start[p.tap], p)]
        text += f'. Clearly lower than untrained at {_taps(better, len(mine))}'
        if worse:
          text += f', clearly higher at {_taps(worse, len(mine))}'
      if raw and (lower := [p for p in mine if _below(raw, p)]):
        text += (
          f'. Clearly higher than {raw.method} at {_taps(lower, len(mine))}'
        )
      sentences.append(f'{text}.')
    if blank:
      text = f'Linear probe of {label}, untrained'
      if any(p.n > 1 for p in blank):
        text += f' (n = {_span([p.n for p in blank])})'
      text += f': {_errors(blank)}'
      sentences.append(f'{text}; {_level(raw)}.' if raw else f'{text}.')
    elif raw:
      sentences.append(f'Linear probe of {label}, {_level(raw)}.')
    if trained:
      rows = max(_tested(run, label) for run in runs)
      by = 'the spreads over seeds'
      if rows:
        by += f' or the standard errors of {rows:,} test examples'
      clear.setdefault(by, []).append(label)
  for by, found_for in clear.items():
    where = f' of {", ".join(found_for)}' if len(clear) > 1 else ''
    sentences.append(f'“Clearly”{where}: by more than {by} together.')
  return sentences


def _raw(runs: Sequence[Run], label: str) -> Point | None:
  """The linear probe's error on the raw data, if the runs agree on it."""
  measured = [
    (r, _tested(run, label))
    for run in runs
    for r in _results(run, 'raw', label, 'linear')
  ]
  if len({(r['tap'], r['mean']) for r, _ in measured}) != 1:
    return None
  name = f'raw {measured[0][0]["tap"]}'
  return _points(name, {'module_0': measured[:1]})[0]


def _below(a: Point, b: Point) -> bool:
  return b.mean - a.mean > a.noise + b.noise


def _error(point: Point) -> str:
  if not point.mean:
    return '0\u00a0%'
  return f'{point.mean:.{1 if point.mean >= 1 else 2}f}\u00a0%'


def _level(raw: Point) -> str:
  return f'{raw.method}: {_error(raw)}'


def _errors(found: Sequence[Point]) -> str:
  return ', '.join(f'{_error(p)} ({p.tap})' for p in found)


def _taps(found: Sequence[Point], of: int) -> str:
  if not found:
    return 'no module'
  if len(found) == of > 1:
    return 'every module'
  return ', '.join(p.tap for p in found)


def _fall(found: Sequence[Point]) -> str:
  """How the error goes with depth; points of one method, from the first on."""
  first, last = found[0], found[-1]
  if len(found) == 1:
    return f'error {_error(first)} ({first.tap}, the only module)'
  # The first module that no later one clearly betters.
  turn = next(
    p
    for i, p in enumerate(found)
    if not any(_below(q, p) for q in found[i + 1 :])
  )
  at = f'{_error(turn)} ({turn.tap})'
  if turn is first:
    text = f'error does not clearly fall after {first.tap}: {_errors(found)}'
    if _below(first, last):
      text += f'; it clearly rises to {last.tap}'
    return text
  start = f'error falls from {_error(first)} ({first.tap})'
  if not _below(turn, first):
    # It rose on the way, and only from there does it fall.
    start = f'error goes from {_error(first)} ({first.tap})'
  if turn is last:
    return f'{start} to {at}, clearly lower than at any module before'
  end = f'{_error(last)} ({last.tap})'
  if _below(turn, last):
    return f'{start} to {at}, and clearly rises again to {end}'
  return f'{start} to {at}, and does not clearly fall after it: {end}'


def loss_findings(run: Run) -> list[str]:
  """Where the modules' own losses ended, in sentences.

  Args:
    run: a run of modules.
  """
  sentences = []
  for loss, said in (
    ('infonce', 'InfoNCE'),
    ('cross_entropy', 'Cross-entropy'),
  ):
    ends, tops = {}, {}
    for key in dict.fromkeys(key for line in run.metrics for key in line):
      if not re.fullmatch(rf'module_\d+/{loss}', key):
        continue
      values = [figures.real(line[key]) for line in run.metrics if key in line]
      average = figures.ema(values, figures.smoothing(len(values)))
      good = average[np.isfinite(average)]
      name = key.split('/')[0]
      ends[name] = float(good[-1]) if len(good) else math.nan
      tops[name] = figures.real(run.metrics[-1].get(f'{name}/ceiling'))
    if not ends:
      continue
    text = f'{said} ends at ' + ', '.join(
      f'{figures.number(value)} ({name})' for name, value in ends.items()
    )
    text += ' nats'
    known = {round(top, 6) for top in tops.values() if math.isfinite(top)}
    if len(known) == 1:
      text += f'; a guess costs {figures.number(known.pop())}'
    idle = [name for name, value in ends.items() if value > 0.99 * tops[name]]
    if idle:
      text += f'. No better than a guess: {", ".join(idle)}'
    sentences.append(f'{text}.')
  return sentences


def summary(run: Run) -> list[tuple[str, str]]:
  """Terms and descriptions of the run's method.

  Args:
    run: a run of modules.
  """
  objective = run.config.get('objective') or {}
  shape: Sequence[int] = run.config.get('input_shape') or ()
  modules = objective.get('modules')
  if objective.get('loss') == 'supervised':
    loss = f'cross-entropy of {objective.get("num_classes")} classes'
  else:
    negatives = objective.get('negatives')
    loss = (
      f'InfoNCE, {objective.get("offsets")} offsets, '
      f'{"all" if negatives is None else negatives} negatives'
    )
  rows = [('Method', f'{method(run)} ({loss})')]
  total = count(run)
  inner = _inner_walls(run)
  walls = 'walls behind every module'
  if inner is not None:
    walls = _behind(inner) if inner else 'no wall'
  text = f'{total or "number unknown"}, {walls}'
  if isinstance(modules, str):
    text = f'{modules}: {text}'
  if frozen := objective.get('frozen'):
    frozen_names = ', '.join(f'module_{i}' for i in range(frozen))
    text += f'; {frozen_names} frozen, from {run.config.get("init_from")}'
  if (pool := objective.get('pool') or 1) > 1:
    text += f'; means of {pool} neighbours between them'
  rows.append(('Modules', text))
  if len(shape) == 3:
    size, stride = objective.get('patch_size'), objective.get('patch_stride')
    if size and stride:
      high, wide = ((n - size) // stride + 1 for n in shape[:2])
      rows.append(
        (
          'Patches',
          f'{high} x {wide} of {size} x {size} pixels, {stride} pixels apart',
        )
      )
  elif len(shape) == 1:
    text = f'{shape[0]:,} samples'
    if objective.get('loss') != 'supervised' and objective.get('window'):
      text += f'; predictions within at most {objective["window"]} frames'
    rows.append(('Window', text))
  if counts := parameters(run):
    parts = ', '.join(f'{name} {n:,}' for name, n in counts['modules'].items())
    rows.append(
      (
        'Parameters',
        f'{sum(counts["modules"].values()):,} of the encoder ({parts}); '
        f'{counts["losses"]:,} more of the losses',
      )
    )
  return rows


def parameters(run: Run) -> dict[str, Any] | None:
  """How many parameters the newest checkpoint has, without restoring it.

  Args:
    run: a run of modules.

  Returns:
    'modules': of each module's network; 'losses': of scores and classifiers.
    None if there is no checkpoint that tells.
  """
  folder = os.path.join(run.path, 'checkpoints')
  steps = os.listdir(folder) if os.path.isdir(folder) else []
  for step in sorted(filter(str.isdecimal, steps), key=int, reverse=True):
    path = os.path.join(folder, step, 'state', '_METADATA')
    if not os.path.isfile(path):
      continue
    modules: dict[str, int] = {}
    losses = 0
    leaves = runs_lib.read_json(path).get('tree_metadata') or {}
    for leaf in leaves.values():
      keys = [str(part.get('key')) for part in leaf.get('key_metadata', [])]
      shape = (leaf.get('value_metadata') or {}).get('write_shape')
      found = re.fullmatch(
        r'(?:params|model_state/frozen)/(module_\d+)/(\w+)(?:/.*)?',
        '/'.join(keys),
      )
      if not found or shape is None:
        continue
      if found[2] == 'network':
        modules[found[1]] = modules.get(found[1], 0) + math.prod(shape)
      else:
        losses += math.prod(shape)
    if modules:
      order = sorted(modules, key=lambda name: int(name[7:]))
      return {'modules': {n: modules[n] for n in order}, 'losses': losses}
  return None
