"""Where a run's numbers go: JSON lines, the terminal, TensorBoard."""

import functools
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dim_jax import files, progress

# TensorBoard's events wait so long for the next ones, at most.
_FLUSH_SECONDS = 5
# Quantities that the terminal shows, whichever parameter group has them.
_SHOWN = re.compile(
  r'(\w+/)*(local|global|rate|infonce|cross_entropy|gap|effective_rank|'
  r'\w*accuracy)'
)


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads a metrics file; leaves out a last line that a kill cut short.

  Args:
    path: a metrics.jsonl, which may not exist yet.

  Raises:
    ValueError: a line other than the last is no JSON.
  """
  file = files.at(path)
  if not file.exists():
    return []
  rows = file.read_text().split('\n')
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


class Log:
  """Where the numbers of a run go; a context manager.

  metrics.jsonl has one line a logged step, in order, each step once. Of several
  processes only the first writes and shows.
  """

  def __init__(
    self,
    run_dir: str | os.PathLike,
    settings: Any,
    images: int,
  ):
    """Prepares to log.

    Args:
      run_dir: the run's folder.
      settings: `loop.Settings`: its steps, tensorboard and show_progress.
      images: examples of a step, over all runs of a grid.
    """
    self.is_writer = jax.process_index() == 0
    self._path = os.path.join(run_dir, 'metrics.jsonl')
    self._steps, self._images = settings.steps, images
    show = settings.show_progress and self.is_writer
    self._progress = progress.Progress(show, stderr=False)
    self._events: Any = None
    self._open_events: Callable[..., Any] | None = None
    if settings.tensorboard and files.is_remote(run_dir):
      raise ValueError(
        f'tensorboard=True writes to a local --workdir, got {run_dir!r}: leave '
        'it out, or copy metrics.jsonl.'
      )
    if settings.tensorboard and self.is_writer:
      try:
        import tensorboardX
      except ImportError as error:
        raise ValueError(
          'tensorboard=True needs tensorboardX: pip install tensorboardX.'
        ) from error
      self._open_events = functools.partial(
        tensorboardX.SummaryWriter,
        os.path.join(run_dir, 'tensorboard'),
        flush_secs=_FLUSH_SECONDS,
      )

  def __enter__(self) -> 'Log':
    self._progress.__enter__()
    self._task = self._progress.task('step', self._steps, seconds=0.0)
    # Until the first interval ends: of a large model for minutes.
    self._task.phase('compiling')
    return self

  def __exit__(self, *error: object) -> None:
    self._progress.__exit__(*error)
    if self._events:
      self._events.close()

  def start(self, step: int) -> None:
    """Drops what was logged after `step`, which a resumed run writes again."""
    seconds = 0.0
    if self.is_writer:
      # A run that starts again writes the line of step 0 again, if it has one.
      last = step or -1
      kept = [line for line in read(self._path) if line['step'] <= last]
      text = ''.join(json.dumps(line) + '\n' for line in kept)
      files.write(self._path, text)
      seconds = kept[-1]['seconds'] if kept else 0.0
      if self._open_events:
        # TensorBoard hides what an earlier session wrote from there on.
        self._events = self._open_events(purge_step=last + 1)
    # Seconds of training count on from those of earlier sessions.
    self._began = time.perf_counter() - seconds
    self._task.restart(step)
    self.lap()

  def lap(self) -> float:
    """Returns the seconds since the last lap."""
    now = time.perf_counter()
    lap, self._lap = now - getattr(self, '_lap', now), now
    return lap

  def write(self, step: int, count: int, numbers: Mapping[str, Any]) -> None:
    """Writes and shows the line of an interval.

    Args:
      step: its last one.
      count: how many steps it has; 0 before the first.
      numbers: by name; lists of those of each run where there are several.
    """
    rate = count * self._images / self.lap()
    line = {
      'step': step,
      'images': step * self._images,
      'seconds': round(time.perf_counter() - self._began, 3),
      'images_per_s': round(rate, 1),
      **numbers,
    }
    if not count:
      line.pop('images_per_s')  # A line of the start is no interval.
    if self.is_writer:
      files.append(self._path, json.dumps(line) + '\n')
    if self._events:
      for name, value in line.items():
        if name != 'step':
          self._events.add_scalar(name, value, step)
      self._events.flush()
    terms = '  '.join(
      f'{name} {np.mean(value):.3f}'
      for name, value in numbers.items()
      if _SHOWN.fullmatch(name)
    )
    self._task.update(step, f'{rate:,.0f} images/s  {terms}')

  def phase(self, text: str) -> None:
    """Shows what goes on until the next line, on a bar alone."""
    if self._progress.bar:
      self._task.phase(text)

  def say(self, text: str) -> None:
    """Shows one plain line."""
    self._progress.say(text)
