"""Lists the runs below a folder, read from the folders themselves.

Nothing is trained, loaded onto a device or written, so that it can be done
while a run trains.
"""

import ast
import csv
import difflib
import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import rich.table

from dim_jax.evaluation import probes as probes_lib
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import duration
from dim_jax.report.sections import classification
from dim_jax.runs import tables
from dim_jax.training import lock, metrics

# In the order in which one is preferred where several were measured.
_PROBES = ('linear', 'mlp', 'linear_few', 'svm', 'knn')
# Of a run's folder, what holds no runs; of any other, what nobody trains in.
_INSIDE = {'checkpoints', 'evaluation', 'profile', 'report', 'tensorboard'}
_DEPTH = 5
COLUMNS = ('run', 'state', 'step', 'method', 'data', 'probe', 'age')


class Listed(NamedTuple):
  """A run, or a sweep, as its folder tells.

  Attributes:
    run: the path.
    state: 'training', 'finished', 'stopped' before its last step, 'died' (its
      process ended without a word), 'started' (no step is logged), or
      'damaged'.
    step: the last logged.
    steps: how many it is to have.
    method: its name.
    data: the data set's name.
    probe: the headline accuracy in percent; NaN where nothing was measured.
    measured: what that accuracy is of, such as 'linear y' or 'online y'.
    age: seconds since it last logged.
    config: as config.json has it.
    problem: what is damaged, or ''.
  """

  run: str
  state: str
  step: int = 0
  steps: int = 0
  method: str = ''
  data: str = ''
  probe: float = math.nan
  measured: str = ''
  age: float = math.nan
  config: Mapping[str, Any] = {}
  problem: str = ''


def find(folder: str | os.PathLike) -> tuple[list[Listed], list[str]]:
  """Reads all runs in a folder, and in folders of it.

  Args:
    folder: of runs; or a run itself.

  Returns:
    The runs by path; and a line for each folder that has a config.json of
    something else.

  Raises:
    FileNotFoundError: there is no such folder, or no run in it.
  """
  folder = os.path.expanduser(os.fspath(folder))
  runs: list[Listed] = []
  skipped: list[str] = []
  for path in _folders(folder):
    try:
      runs.append(_read(path))
    except LookupError as error:
      skipped.append(f'Skipped: {path}: {error.args[0]}')
  if not runs and not skipped:
    what = 'no runs in' if os.path.isdir(folder) else 'no folder'
    raise FileNotFoundError(
      f'{what} {folder!r}: dim-jax train --config=dim_digits '
      f'--workdir={os.path.join(folder, "digits")} makes one.'
    )
  return sorted(runs), skipped


def _folders(folder: str) -> Iterator[str]:
  """Walks to all that may be a run or sweep."""
  for path, inner, names in os.walk(folder):
    is_run = bool({'config.json', 'sweep_config.json'} & {*names})
    if is_run:
      yield path
    depth = os.path.relpath(path, folder).count(os.sep)
    inner[:] = [
      name
      for name in sorted(inner)
      if not name.startswith('.')
      and depth < _DEPTH
      and not (is_run and name in _INSIDE)
    ]


def _read(path: str) -> Listed:
  """Reads one run; raises LookupError where the folder is of something else."""
  is_sweep = os.path.isfile(os.path.join(path, 'sweep_config.json'))
  file = os.path.join(path, f'{"sweep_" * is_sweep}config.json')
  try:
    config: Any = runs_lib.read_file(file)
  except ValueError as error:
    return Listed(path, 'damaged', problem=str(error))
  if is_sweep and isinstance(config, dict):
    config = config.get('run')
  if not isinstance(config, dict) or not {'objective', 'data', 'steps'} <= {
    *config
  }:
    raise LookupError(f'its {os.path.basename(file)} is of something else.')
  try:
    return _described(path, config, is_sweep)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    return Listed(path, 'damaged', config=config, problem=str(error))


def _described(path: str, config: dict[str, Any], is_sweep: bool) -> Listed:
  info = _json(path, 'run.json')
  lines = metrics.read(os.path.join(path, 'metrics.jsonl'))
  step, steps = lines[-1]['step'] if lines else 0, int(config['steps'])
  held = lock.state(path)
  if held == 'held':
    state = 'training'
  elif lines and step >= steps:
    state = 'finished'
  elif held == 'left':
    state = 'died'
  else:
    state = 'stopped' if lines else 'started'
  logged = os.path.join(path, 'metrics.jsonl')
  written = os.path.getmtime(logged if os.path.exists(logged) else path)
  method = info.get('title') or runs_lib.module_name(config['objective'])
  probe, measured = _headline(path, info, lines)
  return Listed(
    path,
    state,
    step,
    steps,
    f'{method}, sweep' if is_sweep else str(method),
    os.path.basename(str(config['data'].get('name')).rstrip('/')),
    probe,
    measured,
    max(time.time() - written, 0.0),
    config,
  )


def _json(path: str, name: str) -> dict[str, Any]:
  file = os.path.join(path, *name.split('/'))
  return runs_lib.read_file(file) if os.path.exists(file) else {}


def _headline(
  path: str, info: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> tuple[float, str]:
  """Picks one accuracy in percent, and says what it is of.

  That of a probe after training on what stands for the encoder; or of the
  run's own classifier on the test set; or the last one during training.
  """
  feature = info.get('representation')
  results = _json(path, 'evaluation/probes.json').get('results', ())
  rows = [
    (_PROBES.index(row['probe']), row)
    for row in probes_lib.migrate_rows(results)
    if row['encoder'] == 'trained' and row['probe'] in _PROBES
  ]
  # Where no feature stands for the encoder: any, by the same probe.
  rows = [x for x in rows if x[1].get('feature') == feature] or rows
  if rows:
    _, row = min(rows, key=lambda x: x[0])
    of = '' if row['label'] == 'class' else f' {row["label"]}'
    return 100 * row['mean'], f'{row["probe"]} {row.get("feature")}{of}'
  if measured := _json(path, 'evaluation/classification.json'):
    error = classification.error(classification.headline(measured))
    return 100 - error, 'classifier, test'
  last = lines[-1] if lines else {}
  found = {
    name: value
    for name, value in last.items()
    if name.endswith('accuracy') and isinstance(value, int | float)
  }
  name = f'probe/{feature}_accuracy'
  if name not in found:
    name = next(reversed(found), '')
  if not name:
    return math.nan, ''
  short = name.removesuffix('accuracy').rpartition('/')[2].strip('_')
  return 100 * found[name], f'online {short}'.strip()


def select(
  runs: Sequence[Listed], where: Sequence[str] = (), sort: str = 'run'
) -> list[Listed]:
  """Keeps the runs that meet all conditions, in the order of a column.

  Args:
    runs: as `find` returns them.
    where: conditions 'FIELD=VALUE', of a column or a field of the config such
      as 'objective.bound'.
    sort: a column of COLUMNS. Of 'probe' and 'step' the largest is first, of
      'age' the newest.

  Raises:
    ValueError: a condition is none, or no run has such a field or column.
  """
  if sort not in COLUMNS:
    raise ValueError(f'--sort={sort}: give one of {", ".join(COLUMNS)}.')
  fields = [_fields(run) for run in runs]
  for condition in where:
    name, equals, text = condition.partition('=')
    if not equals or not name:
      raise ValueError(f'--where={condition}: give FIELD=VALUE.')
    known = {key for values in fields for key in values}
    if fields and name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      raise ValueError(f'--where={condition}: no run has {name!r}.{hint}')
    fields = [x for x in fields if name in x and _equal(x[name], text)]
  kept = [values['run'] for values in fields]
  chosen = [run for run in runs if run.run in kept]

  def order(run: Listed) -> tuple[Any, ...]:
    value = getattr(run, sort)
    if isinstance(value, str):
      return (value, run.run)
    missing = math.isnan(value)
    sign = 1 if sort == 'age' else -1
    return (missing, 0 if missing else sign * value, run.run)

  return sorted(chosen, key=order)


def _fields(run: Listed) -> dict[str, Any]:
  """What a condition can name, by name."""
  columns = {name: getattr(run, name) for name in COLUMNS}
  return dict(runs_lib.flatten(run.config)) | columns


def _equal(value: Any, text: str) -> bool:
  """Whether a field has the value that a text says."""
  if text in (str(value), runs_lib.plain(value)):
    return True
  for read in (ast.literal_eval, json.loads):
    try:
      meant = read(text)
    except (ValueError, SyntaxError):
      continue
    if (list(meant) if isinstance(meant, tuple) else meant) == value:
      return True
  return False


def table(runs: Sequence[Listed]) -> rich.table.Table:
  """Makes the table for a terminal."""
  rows = [
    (
      run.run,
      run.state,
      run.method,
      run.data,
      f'{run.step:,} / {run.steps:,}' if run.steps else '',
      '' if math.isnan(run.probe) else f'{run.probe:.1f} %',
      run.measured,
      '' if math.isnan(run.age) else _age(run.age),
    )
    for run in runs
  ]
  columns = (
    *('run', 'state', 'method', 'data', 'step', 'probe'),
    *('probe of', 'age'),
  )
  shown = tables.table(columns, rows, words=4)
  shown.columns[0].no_wrap = True  # To be copied into a command.
  return shown


def _age(seconds: float) -> str:
  days = seconds / 86_400
  return f'{days:.0f} d' if days >= 2 else duration(seconds)


def as_csv(runs: Sequence[Listed]) -> str:
  """Formats the runs as CSV: numbers plain, age in seconds."""
  text = io.StringIO()
  names = [name for name in Listed._fields if name != 'config']
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(names)
  for run in runs:
    values = [getattr(run, name) for name in names]
    writer.writerow(
      [
        round(x, 3) if isinstance(x, float) and not math.isnan(x) else x
        for x in ('' if x != x else x for x in values)
      ]
    )
  return text.getvalue()
