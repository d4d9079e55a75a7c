"""Processes that take turns, so that what is compared never competes."""

import contextlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Worker:
  """A process that takes steps when asked."""

  def __init__(self, command: list[str], environment: dict[str, str]) -> None:
    """Starts the process and waits until it has warmed up.

    Args:
      command: what to run.
      environment: what to set beside this process's own environment.
    """
    self._process = subprocess.Popen(
      command,
      cwd=ROOT,
      env=os.environ | environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.ready = self._answer()

  def _answer(self) -> Any:
    line = self._process.stdout.readline() if self._process.stdout else ''
    if not line:
      command = ' '.join(str(a) for a in self._process.args)  # type: ignore[union-attr]
      sys.exit(f'Error: {command!r} ended with status {self._process.wait()}.')
    return json.loads(line)

  def ask(self, request: object) -> Any:
    """Sends one line and returns the answer to it."""
    if self._process.stdin:
      print(request, file=self._process.stdin, flush=True)
    return self._answer()

  def stop(self) -> None:
    """Lets the process end."""
    if self._process.stdin:
      self._process.stdin.close()
    self._process.wait()


@contextlib.contextmanager
def working(
  command: list[str], environment: dict[str, str]
) -> Iterator[Worker]:
  """A worker that ends with the block; arguments as of `Worker`."""
  worker = Worker(command, environment)
  try:
    yield worker
  finally:
    worker.stop()


def start_seconds(command: list[str], environment: dict[str, str]) -> float:
  """Seconds that a process takes from its start to its end.

  Args:
    command: what to run.
    environment: what to set beside this process's own environment.
  """
  start = time.perf_counter()
  subprocess.run(
    command,
    cwd=ROOT,
    env=os.environ | environment,
    check=True,
    stdout=subprocess.DEVNULL,
  )
  return time.perf_counter() - start


def processor() -> str:
  """The name of this machine's processor."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except OSError:
    return platform.processor()
  names = [x for x in text.splitlines() if x.startswith('model name')]
  return names[0].split(':')[1].strip() if names else platform.processor()


def machine(threads: int, load: float) -> dict[str, Any]:
  """What a benchmark says of where it ran.

  Args:
    threads: of each side.
    load: the machine's load before it.
  """
  return {
    'processor': processor(),
    'cores': os.cpu_count(),
    'threads': threads,
    'load_before': round(load, 2),
  }


def pin(threads: int) -> None:
  """Keeps this process to so many cores; call it before JAX starts.

  XLA takes a thread for each core that it may run on.

  Args:
    threads: how many.
  """
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
