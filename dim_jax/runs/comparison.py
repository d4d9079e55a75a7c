"""Trains and probes several methods alike: a table of them, a cell at a time.

A cell is one method with one seed: a run in WORKDIR/NAME_seedS, trained for as
many steps as all others and probed by the same protocol. WORKDIR/table.json is
written after each, and the same call goes on where another one stopped.
"""

import csv
import dataclasses
import io
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax import checks, files
from dim_jax import config as config_lib
from dim_jax import progress as progress_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.report.sections import comparison
from dim_jax.report.sections.comparison import FEATURES, PROBES, UNTRAINED
from dim_jax.runs import evaluate, provenance, represent, tables, train

# What a cell's evaluation tells of its data and protocol.
_COMMON = ('dataset', 'note', 'protocol', 'protocol_hash', 'chance')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What all cells of a table have in common."""

  seeds: tuple[int, ...] = (0,)
  """A run each, of every method."""
  steps: int | None = None
  """Of training; None for what the configs say."""
  protocol: probes_lib.Protocol = dataclasses.field(
    # Several seeds of an encoder say more than several of its probe.
    default_factory=lambda: probes_lib.Protocol(seeds=1)
  )
  """Of the probes in PROBES."""
  methods: tuple[str, ...] | None = None
  """Those to train now; all if None."""
  measures: tuple[str, ...] = ()
  """Of `represent.MEASURES`, to take of each code besides."""


def compare(
  name: str,
  configs: Mapping[str, config_lib.ExperimentConfig],
  workdir: str | os.PathLike,
  settings: Settings,
  *,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains and probes what is missing of a table, seed by seed.

  A cell whose training fails is named in 'skipped', and tried again by the next
  call; so is named what a cell's probes and measures left out. One method's
  encoder is probed untrained too.

  Args:
    name: of the table.
    configs: of the methods, in the table's order.
    workdir: a folder for all runs.
    settings: of all cells. A later call may add seeds, methods and measures.
    show_progress: show bars and lines on standard error.

  Returns:
    The contents of table.json: 'rows', a title and a published row for each
    method; 'cells', with 'accuracy' by probe and feature; and 'settings'.

  Raises:
    ValueError: a config cannot be trained, the methods do not see equally many
      images, or the folder holds a table of other settings.
  """
  workdir = os.path.expanduser(os.fspath(workdir))
  path = comparison.file_of(workdir)
  report = _start(name, configs, settings) | provenance.session()
  before = _read(path, report['settings'])
  cells = before.get('cells', [])
  failed: list[dict[str, str]] = []
  report |= {key: before[key] for key in _COMMON if key in before}
  files.make_folder(workdir)
  methods = [m for m in configs if m in (settings.methods or configs)]
  todo = list(itertools.product(settings.seeds, methods))
  # Not entered: each cell has bars of its own.
  bar = progress_lib.Progress(show_progress)
  for count, (seed, method) in enumerate(todo):
    kinds = {'trained': method}
    # Of the method that it was measured of before, as encoders may differ.
    untrained = _cell_of(cells, UNTRAINED, seed) or {}
    there = [m for m in configs if _cell_of(cells, m, seed)]
    if method == untrained.get('method', (there or methods)[0]):
      kinds['untrained'] = UNTRAINED
    # Without those of kinds that were not probed yet.
    old = [
      cell for name in kinds.values() if (cell := _cell_of(cells, name, seed))
    ]
    complete = len(old) == len(kinds)
    if complete and not any(_missing(cell, settings) for cell in old):
      continue
    bar.say(f'{method}, seed {seed}: cell {count + 1} of {len(todo)}')
    folder = os.path.join(workdir, f'{method}_seed{seed}')
    config = _config(configs[method], seed, settings.steps)
    if not complete:
      try:
        new, common = _probed(config, folder, kinds, settings, show_progress)
      except FloatingPointError as error:
        what = f'{method}, seed {seed}'
        failed.append({'what': what, 'reason': str(error)})
        bar.say(f'{what} is skipped: {error}')
        continue
      report |= common
      old = [
        {'row': kinds[k], 'seed': seed, 'method': method} | x
        for k, x in new.items()
      ]
      places = {(cell['row'], seed) for cell in old}
      cells = [c for c in cells if (c['row'], c['seed']) not in places] + old
      # Before the measures: what is probed stays, whatever these do.
      _write(path, report, cells, failed)
    named = dict(zip(kinds, old, strict=True))
    if lacking := {k: x for k, x in named.items() if _missing(x, settings)}:
      _measure(folder, lacking, settings, show_progress)
      _write(path, report, cells, failed)
  return _write(path, report, cells, failed)


def _start(
  name: str,
  configs: Mapping[str, config_lib.ExperimentConfig],
  settings: Settings,
) -> dict[str, Any]:
  """Begins the report, of configs that are checked."""
  if not configs or not settings.seeds:
    raise ValueError('a table needs a method and a seed at least.')
  checks.check_choices('measures', settings.measures, represent.MEASURES)
  checks.check_choices('methods', settings.methods or (), configs)
  seen = {}
  for method, config in configs.items():
    config = _config(config, 0, settings.steps)
    config_lib.check(config)
    seen[method] = config.steps * config.batch_size
  if len(set(seen.values())) > 1:
    raise ValueError(
      f'the methods of a table see equally many images, got {seen}: set '
      '--steps, and one batch_size.'
    )
  rows = [
    {
      'name': method,
      'title': _title(method, config.paper or {}),
      'method': provenance.title(config.objective),
      'paper': config.paper,
    }
    for method, config in configs.items()
  ]
  first = _config(next(iter(configs.values())), 0, settings.steps)
  return {
    'table': name,
    'settings': {
      'table': name,
      'steps': first.steps,
      'batch_size': first.batch_size,
      'protocol': settings.protocol.describe(),
    },
    'rows': rows,
  }


def _title(method: str, paper: Mapping[str, Any]) -> str:
  """Names a row; one whose own error is published has it beside its name."""
  title = str(paper.get('row') or method)
  if 'error_1' in paper:
    title += f' (paper {100 - paper["error_1"]:.1f})'
  return title


def _config(
  config: config_lib.ExperimentConfig, seed: int, steps: int | None
) -> config_lib.ExperimentConfig:
  """Returns a cell's config."""
  return dataclasses.replace(
    config, seed=seed, steps=config.steps if steps is None else steps
  )


def _read(path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
  """Reads an interrupted table; raises ValueError where it is another one."""
  before = files.read_json(path)
  for key, value in settings.items() if before else ():
    old, new = before['settings'].get(key), value
    if isinstance(value, Mapping) and old != new:
      key = next(k for k in value if old.get(k) != value[k])
      old, new = old.get(key), value[key]
    if old != new:
      raise ValueError(
        f'{path!r} holds a table with {key} = {old!r}, this one has {new!r}: '
        'give the same, or another --workdir.'
      )
  return before


def _cell_of(
  cells: Sequence[dict[str, Any]], method: str, seed: int
) -> dict[str, Any] | None:
  for cell in cells:
    if (cell['row'], cell['seed']) == (method, seed):
      return cell
  return None


def _missing(cell: Mapping[str, Any], settings: Settings) -> list[str]:
  return [m for m in settings.measures if m not in cell['measures']]


def _probed(
  config: config_lib.ExperimentConfig,
  folder: str,
  kinds: Mapping[str, str],
  settings: Settings,
  show_progress: bool,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
  """Trains and probes a cell.

  Returns:
    Values by kind of encoder, and what is common to all cells.
  """
  started = time.time()
  train.train(config, folder, show_progress=show_progress)
  trained = time.time()
  report = evaluate.evaluate(
    folder,
    probes=PROBES,
    labels=('class',),
    encoders=tuple(kinds),
    protocol=settings.protocol,
    show_progress=show_progress,
  )
  seconds = {'training': trained - started, 'probes': time.time() - trained}
  values: dict[str, dict[str, Any]] = {}
  for kind in kinds:
    accuracy: dict[str, dict[str, float]] = {probe: {} for probe in PROBES}
    for row in report['results']:
      if row['encoder'] == kind and row['probe'] in PROBES:
        accuracy[row['probe']][row['feature']] = row['mean']
    values[kind] = {'accuracy': accuracy, 'measures': {}}
  values['trained'] |= {'seconds': seconds, 'skipped': report['skipped']}
  return values, {key: report[key] for key in _COMMON if key in report}


def _measure(
  folder: str,
  cells: Mapping[str, dict[str, Any]],
  settings: Settings,
  show_progress: bool,
) -> None:
  """Takes the measures that cells of one run, by kind of encoder, lack."""
  missing = {m for cell in cells.values() for m in _missing(cell, settings)}
  report = represent.represent(
    folder,
    measures=sorted(missing),
    features=FEATURES[-1:],
    encoders=tuple(cells),
    max_examples=settings.protocol.max_examples,
    show_progress=show_progress,
  )
  for row in report['results']:
    # The file may have measures of other features, from calls before.
    if row['encoder'] in cells and row['feature'] == FEATURES[-1]:
      cells[row['encoder']]['measures'][row['measure']] = row['values']
  skipped = next(iter(cells.values())).setdefault('skipped', [])
  skipped += [x for x in report['skipped'] if x not in skipped]


def _write(
  path: str,
  report: Mapping[str, Any],
  cells: Sequence[dict[str, Any]],
  failed: Sequence[dict[str, str]],
) -> dict[str, Any]:
  """Writes the table, as JSON and as CSV."""
  skipped = [
    {**x, 'what': f'{cell["row"]}, seed {cell["seed"]}, {x["what"]}'}
    for cell in cells
    for x in cell.get('skipped', ())
  ]
  report = {**report, 'cells': cells, 'skipped': [*failed, *skipped]}
  report['disagreements'] = comparison.disagreements(report)
  files.write_json(path, report)
  text = io.StringIO()
  lines = comparison.records(report)
  header = dict.fromkeys(key for line in lines for key in line)
  writer = csv.DictWriter(text, [*header], lineterminator='\n')
  writer.writeheader()
  writer.writerows(lines)
  files.write(f'{os.path.splitext(path)[0]}.csv', text.getvalue())
  return report


def summary(report: Mapping[str, Any]) -> list[Any]:
  """Lists the tables of what `compare` returned, and the notes below them."""
  lines = comparison.records(report)
  few = report['settings']['protocol']['few_labels']
  shown = {
    f'{comparison.heading(report)}: MLP probe, test accuracy in %': (
      comparison.compared(lines)
    ),
    f'Linear probe with {few} labels per class, test accuracy in %': (
      comparison.few_labels(lines)
    ),
    'Measures of the code': comparison.measures(report),
  }
  parts: list[Any] = []
  for title, rows in shown.items():
    if rows:
      columns = list(dict.fromkeys(key for row in rows for key in row))
      cells = [[row.get(key, '') for key in columns] for row in rows]
      parts.append(tables.table(columns, cells, title=title))
  parts.append(f'{comparison.describe(report)}.')
  parts += comparison.disagreements(report)
  return [*parts, *tables.notes({'note': '', **report})]
