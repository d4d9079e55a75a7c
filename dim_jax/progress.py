"""Signs of life: a bar on a terminal or in Jupyter, plain lines elsewhere."""

import importlib.util
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
    if show and (self._stream.isatty() or _shows_widgets()):
      self.bar = _make_bar(stderr)

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
      self.bar.console.print(text, soft_wrap=True)
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


def _shows_widgets() -> bool:
  """Whether this is a notebook whose cells can show a bar."""
  if 'IPython' not in sys.modules:
    return False
  import rich.console

  # Without that package rich would warn, and show nothing.
  widgets = importlib.util.find_spec('ipywidgets') is not None
  return widgets and rich.console.Console().is_jupyter


def _make_bar(stderr: bool) -> Any:
  """Makes the bars, with the texts of the tasks on lines below them."""
  # Rich is slow to import.
  import rich.console
  import rich.progress
  import rich.text

  class TimeLeft(rich.progress.ProgressColumn):
    """Counts down between reports, which may be minutes apart."""

    max_refresh = 0.5

    def render(self, task: Any) -> rich.text.Text:
      end = task.fields['end']
      if end is None:
        return rich.text.Text('ETA -:--:--')
      left = round(max(end - time.monotonic(), 0))
      minutes, seconds = divmod(left, 60)
      hours, minutes = divmod(minutes, 60)
      return rich.text.Text(f'ETA {hours}:{minutes:02d}:{seconds:02d}')

  class Parts:
    """A text in lines of the terminal, broken at two spaces alone."""

    def __init__(self, text: str):
      self._parts = text.split('  ')

    def __rich_console__(self, console: Any, options: Any) -> Any:
      lines = ['']
      for part in self._parts:
        longer = f'{lines[-1]}  {part}'.strip()
        if len(longer) <= options.max_width:
          lines[-1] = longer
        else:
          lines.append(part)
      shown = '\n'.join(filter(None, lines))
      yield rich.text.Text(shown, 'dim', no_wrap=True, overflow='ellipsis')

  class Bars(rich.progress.Progress):
    """Bars, and texts below that have the whole width."""

    def get_renderables(self) -> Any:
      yield self.make_tasks_table(self.tasks)
      for task in self.tasks:
        if text := task.fields['text']:
          yield Parts(text)

  return Bars(
    rich.progress.TextColumn('{task.description}', markup=False),
    rich.progress.MofNCompleteColumn(),
    rich.progress.BarColumn(bar_width=24),
    rich.progress.TimeElapsedColumn(),
    TimeLeft(),
    console=rich.console.Console(stderr=stderr, highlight=False, markup=False),
    transient=stderr,
  )


class Task:
  """One task of a `Progress`."""

  def __init__(
    self, shown: Progress, description: str, total: int, done: int, pause: float
  ):
    """See `Progress.task`."""
    self._shown, self._lock = shown, threading.Lock()
    self._description, self._total, self._pause = description, total, pause
    self._text = ''
    if shown.bar:
      self._number = shown.bar.add_task(
        description, total=total, completed=done, text='', end=None
      )
    self.restart(done)

  def __enter__(self) -> 'Task':
    return self

  def __exit__(self, *_: object) -> None:
    if self._shown.bar and self._shown.bar.live.transient:
      self._shown.bar.remove_task(self._number)

  def restart(self, done: int) -> None:
    """Counts from here on, with so many done before."""
    self._done = done
    self._began = self._last = time.monotonic()
    # Of the rate: the first report alone has to start anew, as it may have
    # compiled what all do.
    self._since, self._at = self._began, done
    if self._shown.bar:
      self._shown.bar.reset(
        self._number, completed=done, end=None, text=self._text
      )

  def phase(self, text: str) -> None:
    """Shows what goes on until the next report, such as 'compiling'."""
    if self._shown.bar:
      self._text = text
      self._shown.bar.update(self._number, text=text)
    else:
      self._shown.say(f'{self._description} {self._done}/{self._total}  {text}')

  def advance(self, count: int = 1) -> None:
    """Reports that so many more are done."""
    with self._lock:
      self._report(self._done + count, '')

  def update(self, done: int, text: str = '') -> None:
    """Reports how many are done in all, and shows a text beside them."""
    with self._lock:
      self._report(done, text)

  def _report(self, done: int, text: str) -> None:
    now, first = time.monotonic(), self._since == self._began
    rate = (now - self._since) / max(done - self._at, 1)
    left = rate * (self._total - done)
    if first and done > self._done:
      self._since, self._at = now, done
    self._done = done
    if self._shown.bar:
      self._shown.bar.update(
        self._number, completed=done, text=text, end=now + left
      )
      return
    if now - self._last < self._pause and done < self._total:
      return
    self._last, elapsed = now, now - self._began
    line = f'{self._description} {done}/{self._total}  {elapsed:.0f} s  '
    self._shown.say(f'{line}ETA {left:.0f} s  {text}'.rstrip())
