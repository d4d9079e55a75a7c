"""Tables of estimated mutual information."""

import operator
import statistics
from typing import Any

from experiments.documents import markdown
from experiments.documents.results import grouped, load

_TASKS = {
  'normal': 'one correlated column',
  'bimodal': 'with bimodal marginals',
  'swiss_roll': 'rolled up',
  'additive_0.1': 'hard edges',
  'sparse_5': 'two columns of five',
  'dense_5': 'five columns of five',
  'spiral_5': 'two of five, rotated by their norm',
  'twist_5': 'two of five, rotated by another column',
  'dense_25': '25 columns',
  'student_5_2': "a shared scale (Student's t)",
  'ring': 'a ring',
  'crossed': 'a product of signs',
  'staircase_4': '4 nats',
  'staircase_6': '6 nats',
  'staircase_8': '8 nats',
}


def _grouped(rows: list[dict[str, Any]], *keys: str) -> dict[Any, list[Any]]:
  return grouped(rows, operator.itemgetter(*keys))


def estimators() -> str:
  """Mean errors of the estimators on pairs of known information."""
  groups = _grouped(load('estimators')['rows'], 'task', 'estimator')
  rows = []
  for task, name in _TASKS.items():
    if (task, 'critic') in groups:
      critic = groups[task, 'critic']
      covered = sum(bool(row['covers']) for row in critic)
      rows.append(
        [
          name,
          f'`{task}`',
          f'{statistics.mean(r["truth"] for r in critic):.2f}',
          *(
            f'{statistics.mean(r["error"] for r in groups[task, kind]):+.3f}'
            for kind in ('critic', 'KSG, k = 3', 'Gaussian')
          ),
          f'{covered} of {len(critic)}',
        ]
      )
  return markdown.table(
    [
      'pairs',
      'task',
      'truth, nats',
      'critic',
      'KSG, k = 3',
      'Gaussian',
      'interval covers',
    ],
    rows,
  )


def _width(row: dict[str, Any]) -> float:
  low, high = row['interval']
  return high - low


def coverage() -> str:
  """How often the intervals cover the truth, and their widths."""
  groups = _grouped(load('estimators_coverage')['rows'], 'task', 'pairs')
  return markdown.table(
    [
      'pairs',
      'to fit',
      'to report',
      'intervals that cover',
      'mean width, nats',
    ],
    [
      [
        _TASKS[task],
        f'{pairs:,}',
        f'{rows[0]["report"]:,}',
        f'{sum(bool(row["covers"]) for row in rows)} of {len(rows)}',
        f'{statistics.mean(_width(row) for row in rows):.2f}',
      ]
      for (task, pairs), rows in groups.items()
    ],
  )


def scores() -> str:
  """Errors of estimates by scores beside the critic's on the same pairs."""
  rows = load('diffusion_estimators')['rows']
  groups = _grouped(rows, 'task', 'estimator')
  seeds = {row['seed'] for row in rows}
  critic = {
    row['task']: row['error']
    for row in load('estimators')['rows']
    if row['estimator'] == 'critic' and row['seed'] in seeds
  }
  names = {
    'minde_c': 'MINDE, conditional',
    'minde_j': 'MINDE, joint',
    'mmse': 'gap of mean squared errors',
  }
  tasks = dict.fromkeys(task for task, _ in groups)
  return markdown.table(
    ['estimator', *(_TASKS[task] for task in tasks)],
    [
      *(
        [name, *(f'{groups[task, key][0]["error"]:+.3f}' for task in tasks)]
        for key, name in names.items()
      ),
      ['critic', *(f'{critic[task]:+.3f}' for task in tasks)],
    ],
  )


def staircase() -> str:
  """What each bound reads while the truth climbs, joint critic."""
  file = load('staircase_joint')
  readings = _grouped(file['rows'], 'reading')
  truths = sorted({row['truth'] for row in file['rows']})
  rows = []
  for reading, of_reading in readings.items():
    cells = {
      row['truth']: markdown.plus_minus(row['mean'], row['std'], 2)
      for row in of_reading
    }
    rows.append([f'`{reading}`', *(cells[truth] for truth in truths)])
  return markdown.table(
    ['reading', *(f'truth {truth:.2f}' for truth in truths)], rows
  )


def mi_fit() -> str:
  """Time and error of a fit beside torch-mist's."""
  rows = []
  for pairs in (10000, 5000):
    file = load(f'bench_mi_fit_{pairs}_amd')
    for who, name in (('ours', 'dim_jax'), ('peer', 'torch-mist 0.2.17')):
      rows.append(
        [
          name,
          f'{pairs:,}',
          f'{file[f"{who}_cpu_s"]:.1f}',
          f'{file["first_cpu_s"][who]:.1f}',
          f'{file[f"{who}_error"]:+.3f}',
        ]
      )
  return markdown.table(
    [
      'library',
      'pairs',
      'processor, s',
      'with compilation, s',
      'mean error, nats',
    ],
    rows,
  )


def coverage_of(task: str, pairs: int) -> str:
  """How many intervals of a task cover the truth."""
  rows = _grouped(load('estimators_coverage')['rows'], 'task', 'pairs')
  of_task = rows[task, pairs]
  return f'{sum(bool(row["covers"]) for row in of_task)} of {len(of_task)}'
