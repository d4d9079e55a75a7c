"""Rehearses a job of several hosts on one machine, and compares the losses.

  python -m experiments.studies.rehearsal --processes=2 --devices=4

Trains the demo on digits three times: in one process on one device, in one on
as many devices as all have, and in several processes that meet over loopback,
with simulated CPU devices each. The table shows the loss of each beside that
of the first; a ReLU at zero and Adam let differences of rounding grow with the
steps. The exit status is 1 where the first loss differs by more than rounding.
"""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.commands.command import Command, show
from dim_jax.runs import tables
from dim_jax.training import metrics

_ROOT = pathlib.Path(__file__).parents[2]
_TOLERANCE = 1e-4  # of the first loss, relative

_COMMAND = Command('studies.rehearsal', __doc__)
_PROCESSES = _COMMAND.integer('processes', 2, 'How many.')
_DEVICES = _COMMAND.integer('devices', 4, 'Simulated, of each process.')
_STEPS = _COMMAND.integer('steps', 20, 'Of training; batches of 64.')
_WORKDIR = _COMMAND.path('workdir', None, 'Keeps the runs; none if left out.')


def free_port() -> int:
  """Returns a port of this machine on which nothing listens."""
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def start(
  commands: Sequence[Sequence[str]],
  folder: str | os.PathLike,
  *,
  devices: int,
  distributed: bool = True,
  environment: Mapping[str, str] | None = None,
  homes: Sequence[str | os.PathLike] = (),
) -> list[subprocess.Popen]:
  """Starts a process a command, which form one job.

  Args:
    commands: arguments of Python; each gets a --distributed of its own.
    folder: what process i writes goes to i.out and i.err here.
    devices: simulated CPU devices of each process.
    distributed: False adds no flag, such as for one process alone.
    environment: variables beside those of this process.
    homes: what each has for its user's folder, as hosts have their own.

  Returns:
    The processes; see `wait`.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  flags = os.environ.get('XLA_FLAGS', '')
  count = '--xla_force_host_platform_device_count'
  flags = re.sub(rf'{count}=\d+', '', flags) + f' {count}={devices}'
  variables = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  address = f'127.0.0.1:{free_port()}'
  started = []
  for i, command in enumerate(commands):
    own = {'HOME': os.fspath(homes[i])} if homes else {}
    where = f'--distributed={address},{len(commands)},{i}'
    with (folder / f'{i}.out').open('w') as out:
      with (folder / f'{i}.err').open('w') as err:
        started.append(
          subprocess.Popen(
            [sys.executable, *command, *([where] if distributed else [])],
            cwd=_ROOT,
            env=os.environ | variables | dict(environment or {}) | own,
            stdout=out,
            stderr=err,
          )
        )
  return started


def wait(
  processes: Sequence[subprocess.Popen], seconds: float = 600
) -> list[int | None]:
  """Returns the exit statuses; None of what was still there, and is killed."""
  until = time.monotonic() + seconds
  for process in processes:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(max(0.0, until - time.monotonic()))
  statuses = [process.poll() for process in processes]
  for process in processes:
    process.kill()
    process.wait()
  return statuses


def errors(folder: str | os.PathLike, process: int) -> str:
  """Returns what a process of `start` wrote to standard error."""
  return (pathlib.Path(folder) / f'{process}.err').read_text()


def train(
  workdir: str, processes: int, devices: int, steps: int
) -> dict[str, Any]:
  """Trains the demo; returns its losses by step, seconds and throughput.

  Raises:
    RuntimeError: a process failed; says what it wrote.
  """
  command = [
    *('-m', 'experiments.train'),
    '--config=dim_digits:infonce',
    f'--workdir={workdir}',
    f'--config.steps={steps}',
    '--config.log_every=1',
    f'--config.checkpoint_every={steps}',
  ]
  log = f'{workdir}.log'
  began = time.monotonic()
  started = start(
    [command] * processes,
    log,
    devices=devices,
    distributed=processes > 1,
  )
  for i, status in enumerate(wait(started)):
    if status:
      raise RuntimeError(f'process {i} ended with {status}: {errors(log, i)}')
  seconds = time.monotonic() - began
  lines = metrics.read(os.path.join(workdir, 'metrics.jsonl'))
  rates = sorted(line['images_per_s'] for line in lines)
  return {
    'processes': processes,
    'devices': devices,
    'losses': {line['step']: line['mi/local'] for line in lines},
    'images_per_s': rates[len(rates) // 2],
    'seconds': seconds,
  }


def rehearse(
  workdir: str, processes: int, devices: int, steps: int
) -> list[dict[str, Any]]:
  """Trains in one process twice, and in several; see `train`."""
  kinds = ((1, 1), (1, processes * devices), (processes, devices))
  return [
    train(os.path.join(workdir, f'{p}x{d}'), p, d, steps) for p, d in kinds
  ]


def _table(results: Sequence[dict[str, Any]]) -> tuple[Any, float]:
  """The table, and the largest difference of the first loss, relative."""
  reference = results[0]['losses']
  shown = [s for s in (1, 2, 5, 10) if s < max(reference)] + [max(reference)]
  first = reference[shown[0]]
  rows = []
  for result in results:
    losses = [result['losses'][step] for step in shown]
    kind = f'{result["processes"]} x {result["devices"]}'
    speed = f'{result["images_per_s"]:.0f}', f'{result["seconds"]:.0f}'
    rows.append([kind, *(f'{loss:.6f}' for loss in losses), *speed])
  names = [f'step {step}' for step in shown]
  table = tables.table(
    ['layout', *names, 'images/s', 'seconds'],
    rows,
    title='The local bound in nats by step, on processes x devices.',
  )
  apart = max(abs(r['losses'][shown[0]] / first - 1) for r in results)
  return table, apart


@_COMMAND.main
def main() -> None:
  arguments = _PROCESSES.value, _DEVICES.value, _STEPS.value
  with contextlib.ExitStack() as stack:
    workdir = _WORKDIR.value or stack.enter_context(
      tempfile.TemporaryDirectory()
    )
    table, apart = _table(rehearse(workdir, *arguments))
  show(table, f'The first losses are within {apart:.1e} of one another.')
  if apart > _TOLERANCE:
    raise ValueError(
      f'the first losses differ by {apart:.1e}, more than {_TOLERANCE}: '
      'several processes do not train what one does.'
    )


if __name__ == '__main__':
  main()
