"""Where a run's numbers go: JSON lines, the terminal, TensorBoard."""

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from rich import console, progress

from dim_jax import files

_SHOWN = re.compile(
  r'mi/(local|global)|encoder/(rate|effective_rank)|decoder/accuracy|'
  r'module_\d+/(infonce|cross_entropy)|probe/(y|module_\d+)_accuracy'
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
  with open(path) as file:
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


class Progress:
  """Signs of life: a bar on a terminal, a line an interval elsewhere."""

  def __init__(self, steps: int, batch_size: int, enabled: bool = True):
    """Prepares to show `steps` steps of `batch_size` images each."""
    self._steps, self._batch_size = steps, batch_size
    self._enabled = enabled and jax.process_index() == 0
    self._console = console.Console(soft_wrap=True, highlight=False)
    self._bar = None
    if self._enabled and sys.stdout.isatty():
      self._bar = progress.Progress(
        progress.TextColumn('step {task.completed:.0f}/{task.total:.0f}'),
        progress.BarColumn(bar_width=24),
        progress.TimeElapsedColumn(),
        progress.TextColumn('ETA'),
        progress.TimeRemainingColumn(),
        progress.TextColumn('{task.description}'),
        console=self._console,
      )

  def __enter__(self) -> 'Progress':
    if self._bar:
      self._bar.start()
      self._task = self._bar.add_task('compiling', total=self._steps)
    return self

  def __exit__(self, *_: object) -> None:
    if self._bar:
      self._bar.stop()

  def say(self, text: str) -> None:
    """One plain line."""
    if self._enabled:
      self._console.print(text, markup=False)

  def update(self, line: Mapping[str, Any]) -> None:
    """Shows a logged line."""
    if not self._enabled:
      return
    rate = line['images_per_s']
    terms = '  '.join(
      f'{k} {v:.3f}' for k, v in line.items() if _SHOWN.fullmatch(k)
    )
    text = f'{rate:,.0f} images/s  {terms}'
    if self._bar:
      self._bar.update(self._task, completed=line['step'], description=text)
      return
    eta = (self._steps - line['step']) * self._batch_size / max(rate, 1e-9)
    self.say(
      f'step {line["step"]}/{self._steps}  {line["seconds"]:.0f} s  '
      f'ETA {eta:.0f} s  {text}'
    )


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
  """Seconds of training, over all the sittings of a run."""

  def __init__(self, before: float):
    """Starts at `before` seconds."""
    self._start = time.perf_counter() - before
    self._lap = time.perf_counter()

  def seconds(self) -> float:
    """Seconds of training so far."""
    return time.perf_counter() - self._start

  def lap(self) -> float:
    """Seconds since the last lap."""
    now = time.perf_counter()
    lap, self._lap = now - self._lap, now
    return lap
