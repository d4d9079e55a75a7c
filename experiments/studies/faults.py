"""Injects faults into a job of two processes, and sees what is lost.

  python -m experiments.studies.faults --workdir=runs/faults

Each fault happens to a pair that trains the bottleneck on digits over
loopback, with simulated CPU devices. The table says how each process ended
and after how long, how many steps the newest checkpoint lacks of those that
were taken, and whether the same command then ends where an uninterrupted pair
does, to the bit. WORKDIR/faults.json holds all of it; the same command goes on
behind the faults that it has measured.
"""

import os
import pathlib
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

import dim_jax
from dim_jax import files
from dim_jax.commands.command import Command, show
from dim_jax.runs import provenance, tables
from dim_jax.training import hosts, metrics
from experiments.studies import rehearsal

STEPS, SAVE, LOG = 200, 20, 5
_DEVICES = 2
_SECONDS = 100  # that a host waits for others; a tenth of it for an answer
_HOST = f'on {socket.gethostname()}'
_AT = 50  # the step behind which faults of a running pair happen

_COMMAND = Command('studies.faults', __doc__)
_WORKDIR = _COMMAND.path('workdir', 'runs/faults', 'Keeps the runs.')


class Pair:
  """Two processes that train in one folder, or in one each."""

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    own: Sequence[str] = ('', ''),
    homes: Sequence[pathlib.Path] = (),
    workdirs: Sequence[str] = ('run', 'run'),
    count: int = 2,
  ):
    """Starts them.

    Args:
      folder: of their runs and of what they write.
      own: arguments of each, separated by spaces.
      homes: what '~' is for each.
      workdirs: the run's folder in `folder`, as each names it.
      count: how many are started of the two.
    """
    self.run = folder / workdirs[0]
    self._log = folder / 'log'
    fields = {
      'steps': STEPS,
      'log_every': LOG,
      'checkpoint_every': SAVE,
      'keep': 3,
      'batch_size': 16,
    }
    common = [
      *('-m', 'experiments.train'),
      '--config=vib_digits:vib',
      *(f'--config.{name}={value}' for name, value in fields.items()),
    ]
    address = f'127.0.0.1:{rehearsal.free_port()}'
    commands = [
      [
        *common,
        f'--workdir={folder / workdirs[i]}',
        f'--distributed={address},2,{i}',
        *own[i].split(),
      ]
      for i in range(count)
    ]
    self.processes = rehearsal.start(
      commands,
      self._log,
      devices=_DEVICES,
      distributed=False,
      environment={hosts.SECONDS: str(_SECONDS)},
      homes=homes,
    )

  def steps(self) -> int:
    """Returns the last step whose numbers were written."""
    lines = metrics.read(self.run / 'metrics.jsonl')
    return lines[-1]['step'] if lines else 0

  def saving(self) -> bool:
    """Whether a checkpoint is being written."""
    return self.steps() > _AT and any(self.run.glob('checkpoints/*tmp*'))

  def wait_for(self, condition: Callable[[], bool]) -> None:
    """Waits; raises RuntimeError where a process ends first."""
    while not condition():
      for i, process in enumerate(self.processes):
        if process.poll() is not None:
          raise RuntimeError(f'process {i} ended: {self.last(i)}')
      time.sleep(0.002)

  def last(self, process: int) -> str:
    """Returns the line that a process says its end with; '' if none."""
    for stream, start in (('err', 'Error:'), ('out', 'SIGTERM:')):
      text = (self._log / f'{process}.{stream}').read_text()
      lines = [line for line in text.splitlines() if line.startswith(start)]
      if lines:
        return lines[-1]
    return ''

  def end(self, began: float) -> dict[str, Any]:
    """Waits for the end, and describes it."""
    ended: dict[int, float] = {}
    while len(ended) < len(self.processes):
      for i, process in enumerate(self.processes):
        if process.poll() is not None:
          ended.setdefault(i, time.monotonic() - began)
      if time.monotonic() - began > 600:
        break
      time.sleep(0.05)
    statuses = rehearsal.wait(self.processes, 0)
    return {
      'statuses': statuses,
      'seconds': [round(ended.get(i, 600), 1) for i in range(len(statuses))],
      'lines': [self.last(i) for i in range(len(statuses))],
    }


def _signalled(which: int, number: int, in_save: bool = False) -> Any:
  """A fault: a signal to a process that trains or saves."""

  def fault(folder: pathlib.Path) -> tuple[Pair, float]:
    pair = Pair(folder)
    pair.wait_for(pair.saving if in_save else lambda: pair.steps() > _AT)
    pair.processes[which].send_signal(number)
    return pair, time.monotonic()

  return fault


def _frozen(folder: pathlib.Path) -> tuple[Pair, float]:
  pair, began = _signalled(1, signal.SIGSTOP)(folder)
  pair.processes[0].wait()
  pair.processes[1].send_signal(signal.SIGCONT)
  return pair, began


def _started(**options: Any) -> Any:
  """A fault that is there from the start."""

  def fault(folder: pathlib.Path) -> tuple[Pair, float]:
    began = time.monotonic()
    return Pair(folder, **options), began

  return fault


def _other_data(folder: pathlib.Path) -> tuple[Pair, float]:
  """Two folders of images under one name, one of which has another image."""
  homes = [folder / f'home_{host}' for host in range(2)]
  for host, home in enumerate(homes):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    pixels[7] += host
    for i, x in enumerate(pixels):
      for split in ('train', 'test'):
        place = home / 'set' / split / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(place / f'{i}.png')
  own = '--config.data.name=~/set --config.objective.num_classes=2'
  began = time.monotonic()
  return Pair(folder, own=[own, own], homes=homes), began


# By what happens; and what refuses the start, where the same command cannot go
# on behind it.
FAULTS: Mapping[str, tuple[Any, str]] = {
  'SIGTERM to process 1': (_signalled(1, signal.SIGTERM), ''),
  'SIGKILL of process 1': (_signalled(1, signal.SIGKILL), ''),
  'SIGKILL of process 0': (_signalled(0, signal.SIGKILL), ''),
  'SIGKILL of process 0 in a save': (
    _signalled(0, signal.SIGKILL, in_save=True),
    '',
  ),
  'process 1 stops answering (SIGSTOP)': (_frozen, ''),
  'workdir not shared': (
    _started(workdirs=('run', 'other_disk')),
    'is not one folder',
  ),
  'another config in process 1': (
    _started(own=('', '--config.seed=1')),
    'config.seed is 0',
  ),
  'other data in process 1': (_other_data, 'the examples is'),
  'process 1 is missing': (_started(count=1), 'for process 1 of 2'),
}


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
  """Whether two runs ended with the same parameters and numbers, to the bit."""
  timing = ('seconds', 'images_per_s')
  numbers = [
    [
      {k: v for k, v in line.items() if k not in timing}
      for line in metrics.read(run / 'metrics.jsonl')
    ]
    for run in (one, other)
  ]
  variables = [dim_jax.load(str(run)).variables for run in (one, other)]
  equal = jax.tree.map(lambda a, b: bool((a == b).all()), *variables)
  return numbers[0] == numbers[1] and all(jax.tree.leaves(equal))


def measure(
  name: str, folder: pathlib.Path, undisturbed: pathlib.Path
) -> dict[str, Any]:
  """Lets one fault happen and, where it can, the same command go on.

  Raises:
    RuntimeError: a start was refused for something else.
  """
  fault, refusal = FAULTS[name]
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  pair, began = fault(folder)
  result = {'fault': name, **pair.end(began)}
  if refusal:
    if not all(refusal in line for line in result['lines']):
      raise RuntimeError(f'{name}: the pair ended otherwise: {result}')
    return result | {'folder left': pair.run.exists()}
  reached = pair.steps()
  saved = max(
    int(path.name)
    for path in pair.run.glob('checkpoints/*')
    if path.name.isdigit()
  )
  again = Pair(folder)
  statuses = again.end(time.monotonic())['statuses']
  return result | {
    'steps lost': reached - saved,
    'resumed': statuses == [0, 0],
    'bitwise equal': _same(pair.run, undisturbed),
  }


def _table(results: Sequence[Mapping[str, Any]]) -> Any:
  names = ('fault', 'statuses', 'seconds', 'steps lost', 'resumed')
  rows = [
    [str(result.get(n, '')) for n in (*names, 'bitwise equal')]
    for result in results
  ]
  return tables.table([*names, 'bitwise equal'], rows)


@_COMMAND.main
def main() -> None:
  workdir = pathlib.Path(_WORKDIR.value).absolute()
  path = workdir / 'faults.json'
  results = list(files.read_json(path).get('faults', []))
  undisturbed = workdir / 'undisturbed'
  if not (undisturbed / 'run' / 'checkpoints' / str(STEPS)).exists():
    result = Pair(undisturbed).end(time.monotonic())
    if result['statuses'] != [0, 0]:
      raise RuntimeError(f'the undisturbed pair ended: {result}')
  done = {result['fault'] for result in results}
  for i, name in enumerate(FAULTS):
    if name in done:
      continue
    folder = workdir / str(i)
    result = measure(name, folder, undisturbed / 'run')
    # What is told is of no machine.
    result['lines'] = [
      line.replace(f'{folder}{os.sep}', '').replace(_HOST, 'on HOST')
      for line in result['lines']
    ]
    results.append(result)
    files.write_json(
      path,
      {
        **provenance.session(),
        'processes': 2,
        'devices of each': _DEVICES,
        'steps': STEPS,
        'checkpoint_every': SAVE,
        'log_every': LOG,
        'DIM_JAX_HOST_SECONDS': _SECONDS,
        'faults': results,
      },
    )
    show(f'{name}: {result}')
  show(_table(results), str(path))


if __name__ == '__main__':
  main()
