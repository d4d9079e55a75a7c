"""Signs of life: a bar on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from typing import Any


class Progress:
  """Shows how far a program is; a context manager.

  Descriptions and texts are data: nothing in them is taken for markup. Any
  thread may report.
  """

  def __init__(self, show: bool = True, *, stderr: bool = True):
    """Prepares to show tasks.

    Args:
      show: False shows nothing at all.
      stderr: write to standard error, where a bar vanishes when it is done;
        else to standard output, where it stays.
    """
    self._show = show
    self._stream = sys.stderr if stderr else sys.stdout
    self.bar: Any = None
    if show and self._stream.isatty():
      # Rich is slow to import.
      import rich.console
      import rich.progress

      self.bar = rich.progress.Progress(
        rich.progress.TextColumn('{task.description}', markup=False),
        rich.progress.MofNCompleteColumn(),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn('ETA'),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn('{task.fields[text]}', markup=False),
        console=rich.console.Console(
          stderr=stderr, soft_wrap=True, highlight=False, markup=False
        ),
        transient=stderr,
      )

  def __enter__(self) -> 'Progress':
    if self.bar:
      self.bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    if self.bar:
      self.bar.stop()

  def say(self, text: str) -> None:
    """Shows one plain line."""
    if self.bar:
      self.bar.console.print(text)
    elif self._show:
      self._stream.write(f'{text}\n')
      self._stream.flush()

  def task(
    self, description: str, total: int, *, done: int = 0, seconds: float = 5.0
  ) -> 'Task':
    """Adds a task; a context manager, which takes its bar away in the end.

    Args:
      description: what is counted.
      total: of how many.
      done: how many were done before.
      seconds: at least so long between two plain lines.
    """
    return Task(self, description, total, done, seconds)


class Task:
  """One task of a `Progress`."""

  def __init__(
    self, shown: Progress, description: str, total: int, done: int, pause: float
  ):
    """See `Progress.task`."""
    self._shown, self._lock = shown, threading.Lock()
    self._description, self._total, self._pause = description, total, pause
    self._first = self._done = done
    self._began = self._last = time.monotonic()
    if shown.bar:
      self._number = shown.bar.add_task(
        description, total=total, completed=done, text=''
      )

  def __enter__(self) -> 'Task':
    return self

  def __exit__(self, *_: object) -> None:
    if self._shown.bar and self._shown.bar.live.transient:
      self._shown.bar.remove_task(self._number)

  def advance(self, count: int = 1) -> None:
    """Reports that so many more are done."""
    with self._lock:
      self._report(self._done + count, '')

  def update(self, done: int, text: str = '') -> None:
    """Reports how many are done in all, and shows a text beside them."""
    with self._lock:
      self._report(done, text)

  def _report(self, done: int, text: str) -> None:
    self._done = done
    if self._shown.bar:
      self._shown.bar.update(self._number, completed=done, text=text)
      return
    now = time.monotonic()
    if now - self._last < self._pause and done < self._total:
      return
    self._last, elapsed = now, now - self._began
    left = elapsed / max(done - self._first, 1) * (self._total - done)
    line = f'{self._description} {done}/{self._total}  {elapsed:.0f} s  '
    self._shown.say(f'{line}ETA {left:.0f} s  {text}'.rstrip())
