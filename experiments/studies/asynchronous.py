r"""Compares modules at paces of their own with joint training.

  python -m experiments.studies.asynchronous --workdir=runs/own_pace \
      --config=gim_spoken_digits --seeds=0,1

Each condition of CONDITIONS with each seed is a run in WORKDIR/CONDITION_SEED,
in a process of its own, of equally many steps of every module, which linear
probes then read. WORKDIR/asynchronous.json holds, of each, the accuracy of
every module, staleness and repeated batches by module, wall time of training,
the process's peak memory and the bytes of the buffers; staleness.png draws
them. The same command continues where it was interrupted.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import matplotlib.figure
import numpy as np
import rich.table

from dim_jax import config as config_lib
from dim_jax import configs, files
from dim_jax.commands.command import Command, show
from dim_jax.evaluation import probes as probes_lib
from dim_jax.runs import evaluate, provenance
from dim_jax.training import metrics

CONDITIONS = ('joint', 'slow_first', 'fast_first', 'threads')
"""All modules in one step; the first one takes half as many steps a round as
the others; or twice as many; and a thread for each module, on two devices."""


def pace(condition: str, modules: int) -> tuple[int, ...] | None:
  """Returns the schedule of a condition; None where there is none."""
  if condition == 'slow_first':
    return (1, *(2,) * (modules - 1))
  if condition == 'fast_first':
    return (2, *(1,) * (modules - 1))
  return None


def compare(
  config_file: str,
  workdir: str,
  *,
  seeds: tuple[int, ...],
  steps: int | None,
  max_train: int | None,
) -> dict[str, Any]:
  """Trains and probes every condition that is not finished.

  Args:
    config_file: as --config takes it, of an objective of isolated modules.
    workdir: folder of the runs.
    seeds: of the runs.
    steps: of each module; the config's if None.
    max_train: training examples that the probes see; all of them if None.

  Returns:
    The contents of asynchronous.json.

  Raises:
    ValueError: `workdir` holds rows of other settings.
    RuntimeError: a run fails, in a process of its own.
  """
  rows = []
  for seed in seeds:
    for condition in CONDITIONS:
      folder = os.path.join(workdir, f'{condition}_{seed}')
      rows.append(_row(config_file, folder, condition, seed, steps, max_train))
      report = {
        'config': config_file,
        'steps': rows[0]['made_by']['steps'],
        'seeds': list(seeds),
        'max_train': max_train,
        **provenance.session(),
        'rows': rows,
      }
      files.write_json(os.path.join(workdir, 'asynchronous.json'), report)
  draw(report).savefig(os.path.join(workdir, 'staleness.png'), dpi=120)
  return report


def _row(
  config_file: str,
  folder: str,
  condition: str,
  seed: int,
  steps: int | None,
  max_train: int | None,
) -> dict[str, Any]:
  """One run's results, from its folder if they are there."""
  path = os.path.join(folder, 'row.json')
  config = configs.load(config_file)
  steps = config.steps if steps is None else steps
  made_by = {'config': config_file, 'steps': steps, 'max_train': max_train}
  if row := files.read_json(path):
    if row['made_by'] != made_by:
      raise ValueError(
        f'{path!r} is of {row["made_by"]}, this study of {made_by}: give the '
        'same, or another --workdir.'
      )
    return row
  words = [
    f'--config={config_file}',
    f'--config.seed={seed}',
    f'--config.steps={steps}',
    f'--workdir={folder}',
  ]
  modules = len(config_lib.make_objective(config).stages)
  if own := pace(condition, modules):
    words.append(f'--pace={",".join(map(str, own))}')
  training = _train(condition, words)
  protocol = dataclasses.replace(
    probes_lib.Protocol(seeds=1), max_examples=max_train
  )
  report = evaluate.evaluate(
    folder, probes=('linear',), encoders=('trained',), protocol=protocol
  )
  lines = metrics.read(os.path.join(folder, 'metrics.jsonl'))
  row = {
    'condition': condition,
    'seed': seed,
    'made_by': made_by,
    **training,
    'buffer_bytes': sum(
      file.stat().st_size for file in pathlib.Path(folder).glob('buffers/**/*')
      if file.suffix == '.npz' and not file.parent.name.startswith('saved')
    ),
    'accuracy': {
      f'{x["label"]}/{x["feature"]}': x['mean'] for x in report['results']
    },
    'own_pace': {
      name: float(np.mean([line[name] for line in lines if name in line]))
      for name in lines[-1]
      if name.endswith(('/staleness', '/repeated'))
    },
  }  # fmt: skip
  files.write_json(path, row)
  return row


def _train(condition: str, words: list[str]) -> dict[str, Any]:
  """Trains in a process of its own; its seconds and peak memory."""
  environment = dict(os.environ)
  if condition == 'threads':
    flags = environment.get('XLA_FLAGS', '')
    environment['XLA_FLAGS'] = (
      f'{flags} --xla_force_host_platform_device_count=2'
    )
  command = 'train' if condition == 'joint' else 'asynchronous'
  arguments = [f'experiments.{command}', *words]
  started = time.time()
  process = subprocess.Popen(
    [sys.executable, '-m', *arguments], env=environment
  )
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(f'python -m {" ".join(arguments)} failed: see above.')
  return {
    'seconds': round(time.time() - started, 1),
    'cpu_seconds': round(usage.ru_utime + usage.ru_stime, 1),
    # Kilobytes on Linux.
    'peak_bytes': usage.ru_maxrss * 1024,
  }


def draw(report: dict[str, Any]) -> matplotlib.figure.Figure:
  """Draws accuracy by depth, and staleness and repeats by module."""
  rows = report['rows']
  labels = sorted({name.partition('/')[0] for name in rows[0]['accuracy']})
  figure = matplotlib.figure.Figure(
    (4 * (len(labels) + 2), 3.2), layout='tight'
  )
  axes = figure.subplots(1, len(labels) + 2)
  conditions = dict.fromkeys(row['condition'] for row in rows)
  for number, condition in enumerate(conditions):
    same = [row for row in rows if row['condition'] == condition]
    color = f'C{number}'
    curves = [*(('accuracy', f'{x}/', '') for x in labels)]
    curves += [('own_pace', '', '/staleness'), ('own_pace', '', '/repeated')]
    for axis, (part, start, end) in zip(axes, curves, strict=True):
      names = sorted(
        (
          name
          for name in same[0][part]
          if name.startswith(start) and name.endswith(end)
        ),
        key=_depth,
      )
      if not names:
        continue
      values = np.array([[row[part][name] for name in names] for row in same])
      depth = [_depth(name) for name in names]
      axis.plot(depth, values.mean(0), 'o-', color=color, label=condition)
      low, high = values.min(0), values.max(0)
      axis.fill_between(depth, low, high, color=color, alpha=0.2)
      axis.set_xticks(depth)
  titles = [f'linear probe, {x}' for x in labels]
  titles += ['staleness, batches', 'steps with a batch again']
  for axis, title in zip(axes, titles, strict=True):
    axis.set(title=title, xlabel='module')
  axes[0].legend()
  return figure


def _depth(name: str) -> int:
  """The number of the module that a name is of."""
  return int(re.search(r'module_(\d+)', name)[1])  # type: ignore[index]


def table(report: dict[str, Any]) -> rich.table.Table:
  """Makes the table of a report: a line a condition, means over seeds."""
  rows = report['rows']
  deepest = max(map(_depth, rows[0]['accuracy']))
  shown = [x for x in rows[0]['accuracy'] if _depth(x) == deepest]
  columns = ('condition', *(f'{x}, %' for x in shown), 'staleness')
  result = rich.table.Table(*columns, 'again, %', 'wall s', 'CPU s', 'peak MiB')
  for condition in dict.fromkeys(row['condition'] for row in rows):
    cells = [
      _cells(row, shown) for row in rows if row['condition'] == condition
    ]
    result.add_row(condition, *(f'{x:.4g}' for x in np.mean(cells, axis=0)))
  return result


def _cells(row: dict[str, Any], shown: list[str]) -> list[float]:
  """The numbers of a row's line."""

  def mean(end: str) -> float:
    values = [x for name, x in row['own_pace'].items() if name.endswith(end)]
    return float(np.mean(values or [0.0]))

  return [
    *(100 * row['accuracy'][name] for name in shown),
    mean('/staleness'),
    100 * mean('/repeated'),
    row['seconds'],
    row['cpu_seconds'],
    row['peak_bytes'] / 2**20,
  ]


_COMMAND = Command('studies.asynchronous', __doc__)
_CONFIG = _COMMAND.string('config', None, 'As train takes it.')
_WORKDIR = _COMMAND.folder('The folder of the runs.')
_SEEDS = _COMMAND.items('seeds', (0, 1), 'Of the runs.', int)
_STEPS = _COMMAND.integer('steps', None, "Of each module; the config's if not.")
_MAX_TRAIN = _COMMAND.integer('max_train', 4000, 'Examples that probes see.')


@_COMMAND.main
def main() -> None:
  if not _CONFIG.value:
    raise ValueError('give --config=NAME, such as gim_spoken_digits.')
  workdir = _WORKDIR.value
  report = compare(
    _CONFIG.value,
    workdir,
    seeds=_SEEDS.value,
    steps=_STEPS.value,
    max_train=_MAX_TRAIN.value,
  )
  show(table(report), os.path.join(workdir, 'asynchronous.json'))


if __name__ == '__main__':
  main()
