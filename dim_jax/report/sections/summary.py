"""What a run is, how it was made, and how several runs differ."""

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Fold, Part, Table, Text, duration
from dim_jax.report.runs import Run

# The commands that evaluate, and the fields of `Run` that they fill.
_EVALUATIONS = {
  'evaluate': 'probes',
  'classify': 'classification',
  'density': 'density',
}


def evaluations(run: Run) -> dict[str, Mapping[str, Any]]:
  """What the commands that evaluated a run have written, by their names."""
  files = {name: getattr(run, field) for name, field in _EVALUATIONS.items()}
  return {name: file for name, file in files.items() if file is not None}


def facts(run: Run) -> list[tuple[str, str]]:
  """Lists terms and descriptions: data, method, times, machines, versions."""
  config = run.config
  data = config.get('data') or {}
  shape: Sequence[int] = config.get('input_shape') or ()
  size = f', {"x".join(map(str, shape))} pixels' if len(shape) > 1 else ''
  done = evaluations(run)
  notes = [str(file['note']) for file in done.values() if file.get('note')]
  rows = [
    ('Data', f'{data.get("name")}{size}' if data else ''),
    ('', next(iter(notes), '')),
    ('Method', run.title),
    *run.known('details', {}).items(),
    ('Settings', runs_lib.scalars(run.objective)),
    ('Patches', _patches(run.objective, shape)),
    ('Window', _window(run.objective, shape)),
    ('Parameters', _parameters(run.known('parameters', {}))),
    ('Optimizer', runs_lib.scalars(config.get('optimizer') or {})),
    *_training(run),
  ]
  for name, file in done.items():
    text = f'step {file.get("step")}'
    if 'seconds' in file:
      text += f', {duration(file["seconds"])}'
    rows.append((f'Time of {name}', text))
  for key in ('hardware', 'versions', 'commit'):
    # What agrees is said once.
    owners: dict[str, list[str]] = {}
    for name, file in [('train', run.info or {}), *done.items()]:
      value = file.get(key) or ''
      if isinstance(value, Mapping):
        value = ', '.join(f'{k} {v}' for k, v in value.items())
      owners.setdefault(str(value), []).append(name)
    rows += [
      (f'{key.capitalize()} ({", ".join(names)})', value)
      for value, names in owners.items()
    ]
  return [(term, text) for term, text in rows if text]


def _training(run: Run) -> list[tuple[str, str]]:
  rows, noun = [], runs_lib.noun([run])
  if run.metrics:
    last = run.metrics[-1]
    planned = run.config.get('steps')
    text = f'{last["step"]:,}'
    if planned and planned != last['step']:
      text += f' of {planned:,} (unfinished, or continuing)'
    if 'images' in last:
      text += f', {last["images"]:,} {noun} seen'
    if 'batch_size' in run.config:
      text += f', batch {run.config["batch_size"]}'
    rows.append(('Steps', f'{text}, seed {run.config.get("seed")}'))
    speeds = [
      figures.real(line['images_per_s'])
      for line in run.metrics
      if 'images_per_s' in line
    ]
    text = duration(last['seconds']) if 'seconds' in last else ''
    if speeds:
      text += f', median {statistics.median(speeds):,.0f} {noun}/s'
    rows.append(('Training time', text))
  if run.summary:
    spent = run.summary['seconds'].items()
    text = ', '.join(f'{k} {duration(v)}' for k, v in spent)
    rows.append(('Where the time went', text))
  return rows


def _patches(objective: Mapping[str, Any], shape: Sequence[int]) -> str:
  size, stride = objective.get('patch_size'), objective.get('patch_stride')
  if len(shape) != 3 or not size or not stride:
    return ''
  high, wide = ((n - size) // stride + 1 for n in shape[:2])
  return f'{high} x {wide} of {size} x {size} pixels, {stride} pixels apart'


def _window(objective: Mapping[str, Any], shape: Sequence[int]) -> str:
  frames = objective.get('window')
  if len(shape) != 1 or not frames:
    return ''
  return f'{shape[0]:,} samples; predictions within at most {frames} frames'


def _parameters(counts: Any) -> str:
  leaves = dict(runs_lib.flatten(counts))
  parts = ', '.join(f'{name} {n:,}' for name, n in leaves.items() if n)
  return f'{sum(leaves.values()):,} ({parts})' if parts else ''


def commands(runs: Sequence[Run]) -> list[str]:
  """Lists the shell commands that made the runs, as they were recorded."""
  lines = []
  for run in runs:
    lines.append(
      command(run.known('command'), f'trained {run.label}, its config is below')
    )
    for name, file in evaluations(run).items():
      what = f'evaluated {run.label} ({name})'
      lines.append(command(file.get('command'), what))
  return lines


def command(recorded: Any, what: str) -> str:
  """Formats a command, recorded as a line or as its arguments."""
  if not recorded:
    return f'# What {what}: the command was not recorded.'
  return recorded if isinstance(recorded, str) else shlex.join(recorded)


def unevaluated(runs: Sequence[Run]) -> list[Part]:
  """Says of each run that was not evaluated how to do it."""
  parts: list[Part] = []
  for run in runs:
    if not evaluations(run):
      listed = ' or '.join(
        f'`python -m experiments.{name} {run.path}`'
        for name in run.known('evaluations', _EVALUATIONS)
      )
      text = (
        f'{run.label} is not evaluated yet: run {listed}, as its method allows.'
      )
      parts.append(Text(text, 'missing'))
  return parts


def settings(runs: Sequence[Run]) -> list[Part]:
  """Folds the configs, and the protocols of the probes."""
  parts: list[Part] = []
  for run in runs:
    owner = run.label if len(runs) > 1 else 'the run'
    if run.probes:
      protocols = run.probes.get('protocols') or run.probes.get('protocol', {})
      title = f'Protocol of the probes of {owner}'
      parts.append(Fold(title, listing=runs_lib.pretty(protocols)))
    parts.append(
      Fold(f'Config of {owner}', listing=runs_lib.pretty(run.config))
    )
  return parts


def overview(runs: Sequence[Run]) -> list[Part]:
  """Tabulates the facts of several runs side by side."""
  columns = {run.label: dict(facts(run)) for run in runs}
  terms = dict.fromkeys(term for column in columns.values() for term in column)
  # What differs in the settings has a table of its own.
  rows = [
    {'': term} | {name: c.get(term, '–') for name, c in columns.items()}
    for term in terms
    if term not in ('Settings', 'Optimizer')
  ]
  note = 'Embeddings and neighbours are on each run’s own page.'
  return [Table(rows), Text(note)]


def differences(runs: Sequence[Run]) -> list[Part]:
  """Tabulates the settings that differ between runs."""
  columns = {run.label: dict(runs_lib.flatten(run.config)) for run in runs}
  for run in runs:
    if run.metrics:
      columns[run.label]['last logged step'] = run.metrics[-1]['step']
  keys = dict.fromkeys(key for column in columns.values() for key in column)
  rows = []
  for key in keys:
    cells = {
      name: runs_lib.plain(column[key]) if key in column else '–'
      for name, column in columns.items()
    }
    # The paper's numbers are no setting; the table of probes has them.
    if len(set(cells.values())) > 1 and not key.startswith('paper'):
      rows.append({'setting': key} | cells)
  return [Table(rows) if rows else Text('Nothing: the configs are equal.')]
