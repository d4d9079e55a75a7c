"""Estimates known mutual information, and prints how far off estimators are.

  python -m experiments.studies.estimators --tasks=normal,spiral_5
  python -m experiments.studies.estimators --seeds=5 --workdir=runs/estimators
  python -m experiments.studies.estimators --estimators=minde_c,minde_j,mmse

Every estimator sees the same pairs: --pairs to fit and select on, and as many
fresh ones as --report says to report on. KSG and the Gaussian formula, which
fit nothing, take the first. The error is against the mean of the exact
pointwise information of the pairs that are reported on, which removes most of
the noise of sampling; intervals are held against the truth itself. Seconds are
of the processor, all cores added up, and of the first task of a shape they
include compilation. The difference of scores (minde_c, minde_j) is no mean of
what each pair says, so that the noise of sampling stays in its error.

Writes WORKDIR/estimators.json after each estimate; the same command goes on
where it was interrupted, and one of other --estimators adds them.
"""

import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

import dim_jax
from dim_jax import checks, files, progress
from dim_jax.commands.command import Command, show
from dim_jax.data import pairs
from dim_jax.evaluation.information import classical, diffusion
from dim_jax.runs import provenance, tables

_COMMAND = Command('studies.estimators', __doc__)
_TASKS = _COMMAND.items('tasks', None, 'Names, with commas; all if left out.')
# Of estimates by scores, the form.
_FORMS = {'minde_c': 'conditional', 'minde_j': 'joint', 'mmse': 'mmse'}
_CLASSICAL = {
  'ksg': ('KSG, k = 3', classical.ksg),
  'gaussian': ('Gaussian', classical.gaussian),
}
ESTIMATORS = ('critic', *_CLASSICAL, *_FORMS)
_ESTIMATORS = _COMMAND.items(
  'estimators',
  ESTIMATORS[:3],
  f'Names, with commas, of {", ".join(ESTIMATORS)}.',
)
_PAIRS = _COMMAND.integer('pairs', 10_000, 'To fit and select on.')
_REPORT = _COMMAND.integer('report', 5_000, 'To report on.')
_SEEDS = _COMMAND.integer('seeds', 1, 'How many draws of each task.')
_FIRST = _COMMAND.integer('first_seed', 0, 'The first of them.')
_WORKDIR = _COMMAND.path('workdir', None, 'Where to write.')


def measure(
  name: str,
  seed: int,
  count: int,
  report: int,
  estimators: Sequence[str] = ESTIMATORS[:3],
) -> list[dict[str, Any]]:
  """Estimates one draw of a task by several estimators.

  Args:
    name: in `pairs.TASKS`.
    seed: of the draw and the fit.
    count: pairs to fit and select on.
    report: pairs to report on.
    estimators: of ESTIMATORS.

  Returns:
    A row for each estimator, in nats: what it is, its error, and where it has
    one an interval, and its correlation with the exact pointwise information.
  """
  task = pairs.find(name)
  rng = np.random.default_rng([seed, len(name), *name.encode()])
  x, y = task.sample(rng, count)
  fresh = task.sample(rng, report)
  same = {
    'task': name,
    'seed': seed,
    'truth': task.mutual_information,
    'exact': float(task.pointwise(*fresh).mean()),
  }
  lines = []
  for estimator in estimators:
    if estimator in _CLASSICAL:
      line = _without_fit(estimator, task, x, y)
    else:
      line = _fitted(estimator, task, (x, y), fresh, seed)
    lines.append(same | line)
  return lines


def _title(estimator: str) -> str:
  return _CLASSICAL[estimator][0] if estimator in _CLASSICAL else estimator


def _without_fit(
  estimator: str, task: pairs.Task, x: np.ndarray, y: np.ndarray
) -> dict[str, Any]:
  function = _CLASSICAL[estimator][1]
  start = time.process_time()
  value = function(x, y)
  seconds = time.process_time() - start
  return {
    'estimator': _title(estimator),
    'value': value,
    'error': value - float(task.pointwise(x, y).mean()),
    'cpu_s': seconds,
  }


def _fitted(
  estimator: str,
  task: pairs.Task,
  given: tuple[np.ndarray, np.ndarray],
  fresh: tuple[np.ndarray, np.ndarray],
  seed: int,
) -> dict[str, Any]:
  result: Any
  start = time.process_time()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', UserWarning)
    if estimator == 'critic':
      result = dim_jax.estimate_mi(
        *given, report=fresh, seeds=(seed,), control=False
      )
      own = {'chosen': result.critic}
    else:
      result = diffusion.estimate_by_scores(
        *given, report=fresh, seeds=(seed,), form=_FORMS[estimator]
      )
      own = {
        'read_outs': result.read_outs,
        'fitted': result.fitted,
        'moved': result.moved,
        'settings': result.settings,
      }
  seconds = time.process_time() - start
  exact = task.pointwise(*fresh)
  low, high = result.interval
  return {
    'estimator': estimator,
    **own,
    'value': result.value,
    'error': result.value - float(exact.mean()),
    'standard_error': result.standard_error,
    'interval': [low, high],
    'covers': low <= task.mutual_information <= high,
    'correlation': _correlation(result.pointwise(*fresh), exact),
    'cpu_s': seconds,
    'warnings': list(result.warnings),
  }


def _correlation(estimated: np.ndarray, exact: np.ndarray) -> float | None:
  if exact.std() == 0:
    return None
  return float(np.corrcoef(estimated, exact)[0, 1])


def table(rows: Sequence[dict[str, Any]]) -> Any:
  """Makes the table of all rows, an estimator of a task a line."""
  groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for row in rows:
    groups.setdefault((row['task'], row['estimator']), []).append(row)
  lines = []
  for (task, estimator), mine in groups.items():
    errors = np.array([row['error'] for row in mine])
    covers = [row['covers'] for row in mine if 'covers' in row]
    near = [
      row['correlation'] for row in mine if row.get('correlation') is not None
    ]
    chosen = sorted({row['chosen'] for row in mine if 'chosen' in row})
    lines.append(
      (
        task,
        estimator,
        ' or '.join(chosen),
        f'{mine[0]["truth"]:.4f}',
        f'{errors.mean():+.4f}',
        f'{np.abs(errors).max():.4f}',
        f'{sum(covers)} of {len(covers)}' if covers else '',
        f'{np.mean(near):.3f}' if near else '',
        f'{np.median([row["cpu_s"] for row in mine]):.1f}',
      )
    )
  return tables.table(
    (
      'task',
      'estimator',
      'chosen',
      'truth',
      'mean error',
      'largest',
      'covered',
      'pointwise r',
      'CPU s',
    ),
    lines,
    words=3,
    caption='In nats, against the exact critic on the same pairs.',
  )


@_COMMAND.main
def main() -> None:
  names = _TASKS.value or tuple(pairs.TASKS)
  for name in names:
    checks.check_choice('task', name, pairs.TASKS)
  for estimator in _ESTIMATORS.value:
    checks.check_choice('estimator', estimator, ESTIMATORS)
  for flag, least in ((_PAIRS, 100), (_REPORT, 100), (_SEEDS, 1)):
    checks.check_range(flag.name, flag.value, f'int [{least}, inf)')
  settings = {'pairs': _PAIRS.value, 'report': _REPORT.value}
  rows: list[dict[str, Any]] = []
  path = None
  if _WORKDIR.value:
    files.make_folder(_WORKDIR.value)
    path = os.path.join(_WORKDIR.value, 'estimators.json')
    rows = _read(path, settings)
  seeds = range(_FIRST.value, _FIRST.value + _SEEDS.value)
  before = {(row['task'], row['seed'], row['estimator']) for row in rows}
  todo = [
    (name, seed, estimator)
    for name in names
    for seed in seeds
    for estimator in _ESTIMATORS.value
    if (name, seed, _title(estimator)) not in before
  ]
  with progress.Progress() as shown, shown.task('estimates', len(todo)) as task:
    for done, (name, seed, estimator) in enumerate(todo):
      task.update(done, f'{name}, {estimator}')
      rows += measure(
        name, seed, settings['pairs'], settings['report'], (estimator,)
      )
      if path:
        content = {**settings, 'rows': rows, **provenance.session()}
        files.write_json(path, content)
      task.update(done + 1)
  titles = [_title(estimator) for estimator in _ESTIMATORS.value]
  shown_rows = [
    row for row in rows if row['task'] in names and row['estimator'] in titles
  ]
  show(table(shown_rows), *([path] if path else []))


def _read(path: str, settings: dict[str, int]) -> list[dict[str, Any]]:
  """Returns the rows that an interrupted command wrote.

  Raises:
    ValueError: they are of other numbers of pairs.
  """
  if not os.path.exists(path):
    return []
  before = files.read_json(path)
  if any(before[key] != value for key, value in settings.items()):
    raise ValueError(
      f'{path} was measured with --pairs={before["pairs"]} and '
      f'--report={before["report"]}; give these, or another --workdir.'
    )
  return before['rows']


if __name__ == '__main__':
  main()
