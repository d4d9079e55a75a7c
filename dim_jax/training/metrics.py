"""Where a run's numbers go: JSON lines, the terminal, TensorBoard."""

import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dim_jax import files, progress

# Quantities that the terminal shows, whichever parameter group has them.
_SHOWN = re.compile(
  r'(\w+/)*(local|global|rate|infonce|cross_entropy|gap|effective_rank|'
  r'\w*accuracy)'
)


class JsonLines:
  """A run's metrics.jsonl: one line a logged step, in order, each step once."""

  def __init__(self, run_dir: str | os.PathLike):
    """Opens `run_dir`/metrics.jsonl."""
    self.path = os.path.join(run_dir, 'metrics.jsonl')

  def truncate(self, step: int) -> float:
    """Drops the lines after `step`, which a resumed run writes again.

    Args:
      step: the restored step; 0 empties the file.

    Returns:
      The seconds of training that the last line kept has counted.
    """
    kept = [line for line in read(self.path) if line['step'] <= step]
    files.write(self.path, ''.join(json.dumps(ln) + '\n' for ln in kept))
    return kept[-1]['seconds'] if kept else 0.0

  def write(self, line: Mapping[str, Any]) -> None:
    """Appends one line and flushes it."""
    files.append(self.path, json.dumps(line) + '\n')


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The lines of a metrics file; a last line cut short by a kill is left out.

  Args:
    path: a metrics.jsonl, which may not exist yet.

  Raises:
    ValueError: a line other than the last is no JSON.
  """
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as file:
    rows = file.read().split('\n')
  lines = []
  for number, row in enumerate(rows, 1):
    # Only what a newline ends was written whole.
    if number == len(rows) or not row:
      continue
    try:
      lines.append(json.loads(row))
    except json.JSONDecodeError as error:
      raise ValueError(
        f'{os.fspath(path)} line {number} is not JSON: {row[:60]!r}.'
      ) from error
  return lines


class TensorBoard:
  """The same scalars as TensorBoard events; needs the extra [tensorboard]."""

  def __init__(self, run_dir: str | os.PathLike):
    """Opens `run_dir`/tensorboard."""
    try:
      import tensorboardX
    except ImportError as error:
      raise ValueError(
        'tensorboard=True needs tensorboardX: '
        "pip install 'dim_jax[tensorboard]'."
      ) from error
    self._writer = tensorboardX.SummaryWriter(
      os.path.join(run_dir, 'tensorboard')
    )

  def write(self, line: Mapping[str, Any]) -> None:
    """Adds a logged line."""
    for name, value in line.items():
      if name != 'step':
        self._writer.add_scalar(name, value, line['step'])
    self._writer.flush()


class Clock:
  """Seconds of training, over all the sessions of a run."""

  def __init__(self, before: float = 0.0):
    """Starts at `before` seconds."""
    self._start = time.perf_counter() - before
    self._lap = time.perf_counter()

  def seconds(self) -> float:
    """Returns the seconds of training so far."""
    return time.perf_counter() - self._start

  def lap(self) -> float:
    """Returns the seconds since the last lap."""
    now = time.perf_counter()
    lap, self._lap = now - self._lap, now
    return lap


class Log:
  """Where the numbers of one session go; a context manager.

  Of several processes only the first writes and shows.
  """

  def __init__(
    self,
    run_dir: str | os.PathLike,
    *,
    steps: int,
    images: int,
    tensorboard: bool = False,
    show: bool = True,
  ):
    """Prepares to log.

    Args:
      run_dir: the run's folder.
      steps: of the run.
      images: examples of a step, over all runs of a grid.
      tensorboard: write events too.
      show: show progress.
    """
    self.is_writer = jax.process_index() == 0
    self._run_dir, self._steps, self._images = run_dir, steps, images
    self._lines = JsonLines(run_dir)
    self._events = None
    if tensorboard and self.is_writer:
      self._events = TensorBoard(run_dir)
    self._progress = progress.Progress(show and self.is_writer, stderr=False)
    self.clock = Clock()

  def __enter__(self) -> 'Log':
    self._progress.__enter__()
    return self

  def __exit__(self, *error: Any) -> None:
    self._progress.__exit__(*error)

  def start(self, step: int) -> None:
    """Starts the clock, and drops what was logged after `step`."""
    before = self._lines.truncate(step) if self.is_writer else 0.0
    self.clock = Clock(before)
    self._task = self._progress.task(
      'step', self._steps, done=step, seconds=0.0
    )

  def write(
    self, step: int, count: int, numbers: Mapping[str, Any]
  ) -> dict[str, Any]:
    """Writes and shows the line of an interval.

    Args:
      step: its last one.
      count: how many steps it has.
      numbers: by name, those of each run where there are several.

    Returns:
      The line.
    """
    rate = count * self._images / self.clock.lap()
    line = {
      'step': step,
      'images': step * self._images,
      'seconds': round(self.clock.seconds(), 3),
      'images_per_s': round(rate, 1),
      **numbers,
    }
    if self.is_writer:
      self._lines.write(line)
    if self._events:
      self._events.write(line)
    terms = '  '.join(
      f'{name} {np.mean(value):.3f}'
      for name, value in numbers.items()
      if _SHOWN.fullmatch(name)
    )
    self._task.update(step, f'{rate:,.0f} images/s  {terms}')
    return line

  def say(self, text: str) -> None:
    """Shows one plain line."""
    self._progress.say(text)
