"""Where the time of a run goes."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from dim_jax import files

PARTS = ('compile', 'data', 'step', 'monitor', 'save', 'other')
_COMPILED = '/jax/core/compile/backend_compile_duration'


class Times:
  """Seconds by part; each moment belongs to one, so that they sum to the total.

  The parts: 'compile' (tracing too, and drawing the first parameters), 'data'
  (what the devices wait for: reading, and the order of examples), 'step'
  (training), 'monitor' (extra metrics), 'save' (checkpoints), and 'other'.

  Use as a context manager.
  """

  def __init__(self):
    """Starts, with 'other'."""
    self.seconds = dict.fromkeys(PARTS, 0.0)
    self.programs = 0
    self._part = 'other'
    self._since = time.perf_counter()
    self._before: dict[str, Any] = {}

  def __enter__(self) -> 'Times':
    self._thread = threading.get_ident()
    jax.monitoring.register_event_duration_secs_listener(self._on_compiled)
    return self

  def __exit__(self, *_: object) -> None:
    jax.monitoring.unregister_event_duration_listener(self._on_compiled)

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts the time inside as `name`, less what compiles there."""
    outer = self._part
    self._pass_to(name)
    try:
      yield
    finally:
      self._pass_to(outer)

  def resume(self, run_dir: str | os.PathLike) -> None:
    """Counts on from the summary that an earlier session wrote, if any."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      before = files.read_json(os.path.join(run_dir, 'summary.json'))
      # Older summaries have another name for it.
      sessions = 'sittings' if 'sittings' in before else 'sessions'
      # All of it, or nothing: it may be of another version.
      self._before = {
        'sessions': int(before[sessions]),
        'programs': int(before['programs']),
        'seconds': {k: float(before['seconds'][k]) for k in PARTS},
      }

  def summary(self) -> dict[str, Any]:
    """Seconds by part, their 'total', and how many programs were compiled.

    They are of all 'sessions': of one that was killed, up to its last save.
    """
    self._pass_to(self._part)
    before = self._before or {'sessions': 0, 'programs': 0, 'seconds': {}}
    seconds = {
      k: round(v + before['seconds'].get(k, 0.0), 3)
      for k, v in self.seconds.items()
    }
    return {
      'sessions': before['sessions'] + 1,
      'programs': before['programs'] + self.programs,
      'seconds': seconds | {'total': round(sum(seconds.values()), 3)},
    }

  def write(self, run_dir: str | os.PathLike, step: int) -> None:
    """Writes `run_dir`/summary.json: that of `summary`, and the step."""
    data = {'step': step} | self.summary()
    files.write_json(os.path.join(run_dir, 'summary.json'), data)

  def _pass_to(self, name: str) -> None:
    now = time.perf_counter()
    self.seconds[self._part] += now - self._since
    self._part, self._since = name, now

  def _on_compiled(self, event: str, duration_secs: float, **_: Any) -> None:
    """All until a program is compiled went into tracing and compiling it."""
    del duration_secs  # Of the compiler alone.
    if event != _COMPILED or threading.get_ident() != self._thread:
      return
    if self._part == 'step':
      self.programs += 1
    if self._part in ('step', 'monitor'):
      part, self._part = self._part, 'compile'
      self._pass_to(part)


class Tracer:
  """Writes a trace of one interval, the second if there is one."""

  def __init__(self, run_dir: str | os.PathLike | None):
    """Prepares to write into `run_dir`/profile; None writes nothing."""
    self._run_dir = run_dir
    self._seen = 0

  @contextlib.contextmanager
  def interval(self, last: bool) -> Iterator[None]:
    """Traces the interval inside if it is the one; `last` of the run or not."""
    self._seen += 1
    # The first compiles.
    if self._run_dir is None or not (last or self._seen == 2):
      yield
      return
    folder = os.path.join(self._run_dir, 'profile')
    self._run_dir = None
    with jax.profiler.trace(folder):
      yield


def line(summary: dict[str, Any]) -> str:
  """Formats a summary as one line."""
  seconds = dict(summary['seconds'])
  total = seconds.pop('total')
  shares = ', '.join(f'{k} {v:.1f}' for k, v in seconds.items())
  sessions = summary['sessions']
  of = f' in {sessions} sessions' if sessions > 1 else ''
  return f'{total:.1f} s{of}: {shares}'
