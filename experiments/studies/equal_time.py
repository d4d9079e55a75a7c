r"""Probes Deep InfoMax in PyTorch after the seconds that our training took.

  python -m experiments.studies.equal_time --workdir=runs/torch \
      --peer_python=/path/to/an/environment/bin/python --seconds=4411

PyTorch trains DIM(L) with InfoNCE on CIFAR-10 (TFDS_DATA_DIR) as the paper's
released code does, but for the prior: a critic of 2,048 units, Adam 1e-4 with
b1 0.5, batches of 64 (`benchmarks/torch_accuracy.py`). Only training is timed.
At the start and after each of --points equal parts of --seconds, what the paper
probes (conv, fc, y) is probed on all test images as by `studies.checkpoints
--probes=mlp --max_train=10000 --mlp_epochs=20`, and at the end also as by
`dim-jax evaluate --probes=mlp`.

WORKDIR/equal_time.json has a row for each step, feature and probe, as
checkpoints.json of that study has. A killed study goes on from its last row
when the command is repeated.
"""

import argparse
import functools
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dim_jax import checks, files
from dim_jax import progress as progress_lib
from dim_jax.commands.command import Command, show
from dim_jax.data import load
from dim_jax.evaluation import probes
from dim_jax.runs import provenance
from experiments.benchmarks import harness, time_to_accuracy
from experiments.studies import checkpoints

FEATURES = ('conv', 'fc', 'y')
# Of checkpoints, and of the end: as of the results that they are put beside.
OFTEN = probes.Protocol(
  seeds=1,
  max_examples=10_000,
  mlp_epochs=20,
  mlp_decay_epochs=probes.decay_epochs(20),
)
LAST = probes.Protocol(seeds=1)
_CASE = time_to_accuracy.CASES['cifar10']
_TRAINING_IMAGES = 50_000
_STEPS_A_REQUEST = 20
# The order of 128 epochs, which then begins anew.
_ORDERED_STEPS = 100_000


def study(
  workdir: str,
  peer_python: str,
  seconds: float,
  *,
  points: int = 5,
  threads: int = 1,
  seed: int = 0,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains the PyTorch side for some seconds and probes it meanwhile.

  Args:
    workdir: the study's folder.
    peer_python: an interpreter that imports torch.
    seconds: of training.
    points: how often it is probed after the start.
    threads: of PyTorch.
    seed: of its weights; the batches are those of `time_to_accuracy`.
    show_progress: show a bar, or lines.

  Returns:
    The contents of equal_time.json; accuracies are fractions.

  Raises:
    ValueError: a number is out of range, or the folder holds a study of other
      settings.
  """
  checks.check_range('--seconds', seconds, '(0, inf)')
  checks.check_range('--points', points, 'int [1, inf)')
  checks.check_range('--threads', threads, 'int [1, inf)')
  folder = pathlib.Path(workdir)
  path = folder / 'equal_time.json'
  asked = {'seconds': seconds, 'points': points, 'threads': threads}
  asked |= {'seed': seed, 'units': _CASE.units}
  report = files.read_json(str(path)) or {'asked': asked, 'rows': []}
  if report['asked'] != asked:
    raise ValueError(
      f'{workdir!r} holds a study with {report["asked"]}: choose another '
      '--workdir, or delete that folder.'
    )
  files.make_folder(workdir)
  args = argparse.Namespace(peer_python=peer_python, threads=threads, seed=seed)
  report |= {'processor': harness.processor(), **provenance.session()}
  with tempfile.TemporaryDirectory() as name:
    arrays = pathlib.Path(name)
    labels = time_to_accuracy.write_inputs(
      _CASE, arrays, _ORDERED_STEPS, probed=_TRAINING_IMAGES
    )
    command = time_to_accuracy.peer(_CASE, args, arrays)
    with (
      harness.working({'peer': command}, threads) as workers,
      progress_lib.Progress(show_progress) as bar,
    ):
      report['torch'] = workers['peer'].ready['versions']
      for rows in _points(report, workers['peer'], folder, arrays, labels, bar):
        report['rows'] += rows
        files.write_json(str(path), report)
  return report


def _points(
  report: Mapping[str, Any],
  peer: harness.Worker,
  folder: pathlib.Path,
  arrays: pathlib.Path,
  labels: tuple[np.ndarray, np.ndarray],
  bar: progress_lib.Progress,
) -> Iterator[list[dict[str, Any]]]:
  """Yields the rows of one point after the other that has none yet."""
  asked, rows = report['asked'], report['rows']
  times = np.linspace(0, asked['seconds'], asked['points'] + 1)
  step, taken = 0, 0.0
  if rows:
    step, taken = rows[-1]['step'], rows[-1]['training_seconds']
    peer.ask(f'load {folder / f"peer_{step}.pt"}')
  for until in times:
    if rows and until <= taken:
      continue  # Measured before, or passed within one request.
    with bar.task('training', round(asked['seconds'])) as task:
      while taken < until:
        begin = step % _ORDERED_STEPS
        taken += peer.ask(f'train {begin} {begin + _STEPS_A_REQUEST}')
        step += _STEPS_A_REQUEST
        task.update(min(round(taken), round(asked['seconds'])))
    peer.ask(f'save {folder / f"peer_{step}.pt"}')
    peer.ask(f'encode {arrays} {" ".join(FEATURES)}')
    protocols = [OFTEN, LAST] if taken >= times[-1] else [OFTEN]
    by_then = {
      'step': step,
      'examples': step * time_to_accuracy.BATCH_SIZE,
      'training_seconds': round(taken, 3),
    }
    new = [
      by_then | row
      for protocol in protocols
      for row in probe(arrays, labels, protocol, bar)
    ]
    yield new
    for old in folder.glob('peer_*.pt'):
      if old.name != f'peer_{step}.pt':
        old.unlink()


def probe(
  folder: pathlib.Path,
  labels: tuple[np.ndarray, np.ndarray],
  protocol: probes.Protocol,
  bar: progress_lib.Progress,
) -> Iterator[dict[str, Any]]:
  """Yields the accuracy of the paper's probe of each feature.

  Args:
    folder: with FEATURE.npy, [T + M, D] of training and then of test images.
    labels: [T] and [M].
    protocol: of the probe; max_examples are those that `evaluate` draws.
    bar: says what was measured.
  """
  train_labels, test_labels = labels
  count = len(train_labels)
  rows = np.arange(count)[load.choose(count, sample=protocol.max_examples)]
  for feature in FEATURES:
    values = np.load(folder / f'{feature}.npy', mmap_mode='r')
    train = probes.Examples(np.asarray(values[rows]), train_labels[rows])
    test = probes.Examples(np.asarray(values[count:]), test_labels)
    began = time.time()
    with bar.task(f'probing {feature}', 100) as task:
      result = probes.mlp_probe(
        train, test, protocol, functools.partial(_tell, task)
      )
    accuracy = float(result.accuracies.mean())
    bar.say(f'{feature}: {100 * accuracy:.1f} % of {len(rows):,} labels')
    yield {
      'feature': feature,
      'label': 'class',
      'probe': 'mlp',
      'train_rows': len(rows),
      'mlp_epochs': protocol.mlp_epochs,
      'mean': accuracy,
      'seconds': time.time() - began,
    }


def _tell(task: progress_lib.Task, fraction: float) -> None:
  task.update(round(100 * fraction))


_COMMAND = Command('studies.equal_time', __doc__)
_WORKDIR = _COMMAND.folder('The folder of the study.')
_PEER = _COMMAND.path(
  'peer_python', sys.executable, 'An interpreter with torch.'
)
_SECONDS = _COMMAND.real('seconds', 4411.0, 'Of training.')
_POINTS = _COMMAND.integer('points', 5, 'How often to probe.')
_THREADS = _COMMAND.integer('threads', 1, 'Of PyTorch.')
_SEED = _COMMAND.integer('seed', 0, 'Of its weights.')


@_COMMAND.main
def main() -> None:
  report = study(
    _WORKDIR.value,
    _PEER.value,
    _SECONDS.value,
    points=_POINTS.value,
    threads=_THREADS.value,
    seed=_SEED.value,
  )
  rows = [row for row in report['rows'] if row['train_rows'] == 10_000]
  path = os.path.join(_WORKDIR.value, 'equal_time.json')
  show(checkpoints.table({'rows': rows}), path)


if __name__ == '__main__':
  main()
