"""What a run is, how it was made, and how several runs differ."""

import glob
import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Fold, Missing, Part, Table, Text, duration
from dim_jax.report.runs import Run

# The commands that evaluate, and the fields of `Run` that they fill.
_EVALUATIONS = {
  'evaluate': 'probes',
  'classify': 'classification',
  'density': 'density',
  'couplet': 'couplets',
}


def evaluations(run: Run) -> dict[str, Mapping[str, Any]]:
  """What the commands that evaluated a run have written, by their names."""
  files = {name: getattr(run, field) for name, field in _EVALUATIONS.items()}
  return {name: file for name, file in files.items() if file}


def facts(run: Run) -> dict[str, str]:
  """Describes data, method, times, machines and versions, by term."""
  config, done = run.config, evaluations(run)
  shape: Sequence[int] = config.get('input_shape') or ()
  unit = 'characters' if run.known('vocabulary') else 'pixels'
  size = f', {"x".join(map(str, shape))} {unit}' if len(shape) > 1 else ''
  notes = [str(file['note']) for file in done.values() if file.get('note')]
  rows = {
    'Data': f'{(config.get("data") or {}).get("name")}{size}',
    'Note': next(iter(notes), ''),
    'Method': run.title,
    'Settings': runs_lib.scalars(run.objective),
    'Inputs': _inputs(run.objective, shape),
    'Parameters': _parameters(run.known('parameters') or _saved(run)),
    'Optimizer': runs_lib.scalars(config.get('optimizer') or {}),
    **_training(run),
  }
  for name, file in done.items():
    time = f', {duration(file["seconds"])}' if 'seconds' in file else ''
    rows[f'Time of {name}'] = f'step {file.get("step")}{time}'
  for key in ('hardware', 'versions', 'commit'):
    # What agrees is said once.
    owners: dict[str, list[str]] = {}
    for name, file in {'train': run.info, **done}.items():
      owners.setdefault(listed(file.get(key) or ''), []).append(name)
    for value, names in owners.items():
      rows[f'{key.capitalize()} ({", ".join(names)})'] = value
  return {term: text for term, text in rows.items() if text}


def listed(value: Any) -> str:
  """Formats a value of a JSON file, such as versions by package."""
  if isinstance(value, Mapping):
    return ', '.join(f'{k} {runs_lib.plain(v)}' for k, v in value.items())
  if isinstance(value, list):
    return ', '.join(map(runs_lib.plain, value))
  return runs_lib.plain(value)


def _training(run: Run) -> dict[str, str]:
  if not run.metrics:
    return {}
  noun, last = runs_lib.noun([run]), run.metrics[-1]
  planned = run.config.get('steps')
  steps = f'{last["step"]:,}'
  if planned and planned != last['step']:
    steps += f' of {planned:,} (unfinished, or continuing)'
  time, key = duration(last.get('seconds')), 'images_per_s'
  if speeds := [figures.real(x[key]) for x in run.metrics if key in x]:
    time += f', median {statistics.median(speeds):,.0f} {noun}/s'
  spent = run.summary.get('seconds', {}).items()
  return {
    'Steps': f'{steps}, {last.get("images", 0):,} {noun} seen, batch '
    f'{run.config.get("batch_size")}, seed {run.config.get("seed")}',
    'Training time': time,
    'Where the time went': ', '.join(f'{k} {duration(v)}' for k, v in spent),
  }


def _inputs(objective: Mapping[str, Any], shape: Sequence[int]) -> str:
  """How an image becomes patches, or how far sound is looked ahead."""
  size, stride = objective.get('patch_size'), objective.get('patch_stride')
  frames = objective.get('window')
  if len(shape) == 3 and size and stride:
    high, wide = ((n - size) // stride + 1 for n in shape[:2])
    return f'{high} x {wide} patches of {size} x {size}, {stride} pixels apart'
  if len(shape) == 1 and frames:
    return f'{shape[0]:,} samples; predictions within at most {frames} frames'
  return ''


def _saved(run: Run) -> dict[str, int]:
  """Counts parameters as a checkpoint lists them, for runs without run.json."""
  counts: dict[str, int] = {}
  for path in glob.glob(f'{glob.escape(run.path)}/checkpoints/*/contents.json'):
    counts = {}
    for name, tensor in runs_lib.read_file(path)['tensors'].items():
      state, *groups = name.split('/')
      if state == 'params':
        key, shape = '.'.join(groups[:2]), tensor.partition('(')[2]
        size = math.prod(map(int, re.findall(r'\d+', shape)))
        counts[key] = counts.get(key, 0) + size
  return counts


def _parameters(counts: Any) -> str:
  leaves = dict(runs_lib.flatten(counts))
  parts = ', '.join(f'{name} {n:,}' for name, n in leaves.items() if n)
  return f'{sum(leaves.values()):,} ({parts})' if parts else ''


def commands(runs: Sequence[Run]) -> list[str]:
  """Lists the shell commands that made the runs, as they were recorded."""
  lines = []
  for run in runs:
    before = [session.get('command') for session in run.known('earlier', [])]
    for recorded in dict.fromkeys([*before, run.known('command')]):
      lines.append(command(recorded, f'trained {run.label}'))
    for name, file in evaluations(run).items():
      what = f'evaluated {run.label} ({name})'
      lines.append(command(file.get('command'), what))
  return lines


def command(recorded: Any, what: str) -> str:
  """Formats a command, recorded as a line or as its arguments."""
  if not recorded:
    return f'# No command was recorded of what {what}.'
  return recorded if isinstance(recorded, str) else shlex.join(recorded)


def warnings(run: Run) -> list[str]:
  """Says what the commands that evaluated the run have left out, and why."""
  return [
    f'Skipped by {name}: {left_out["what"]}: {left_out["reason"]}'
    for name, file in evaluations(run).items()
    for left_out in file.get('skipped') or ()
  ]


def unevaluated(runs: Sequence[Run]) -> list[Part]:
  """Says of each run that was not evaluated how to do it."""
  parts: list[Part] = []
  for run in runs:
    if not evaluations(run):
      names = run.known('evaluations', _EVALUATIONS)
      commands = [f'`dim-jax {x} {run.path}`' for x in names]
      text = f'{run.label} is not evaluated yet: run {" or ".join(commands)}'
      parts.append(Missing(f'{text}, as its method allows.'))
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
    listing = runs_lib.pretty(run.config)
    parts.append(Fold(f'Config of {owner}', listing=listing))
  return parts


def overview(runs: Sequence[Run]) -> list[Part]:
  """Tabulates the facts of several runs side by side."""
  columns = {run.label: facts(run) for run in runs}
  terms = dict.fromkeys(term for column in columns.values() for term in column)
  # What differs in the settings has a table of its own.
  rows = [
    {'': term} | {name: c.get(term, '–') for name, c in columns.items()}
    for term in terms
    if term not in ('Settings', 'Optimizer')
  ]
  note = Text('Embeddings and neighbours are on each run’s own page.')
  return [Table(rows), note] if len(runs) > 1 else []


def differences(runs: Sequence[Run]) -> list[Part]:
  """Tabulates the settings that differ between several runs."""
  if len(runs) == 1:
    return []
  columns = {run.label: dict(runs_lib.flatten(run.config)) for run in runs}
  for run in runs:
    if run.metrics:
      columns[run.label]['last logged step'] = run.metrics[-1]['step']
  rows = []
  for key in dict.fromkeys(k for column in columns.values() for k in column):
    cells = {
      name: runs_lib.plain(column[key]) if key in column else '–'
      for name, column in columns.items()
    }
    # The paper's numbers are no setting; the table of probes has them.
    if len(set(cells.values())) > 1 and not key.startswith('paper'):
      rows.append({'setting': key} | cells)
  return [Table(rows) if rows else Text('Nothing: the configs are equal.')]
