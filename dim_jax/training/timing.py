"""Where the time of a run goes."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from dim_jax import files
from dim_jax.training import metrics

PARTS = (
  *('compile', 'data', 'step', 'monitor', 'save', 'restore', 'lost'),
  'other',
)
_OF_RESTARTS = ('restore', 'lost')
_COMPILED = '/jax/core/compile/backend_compile_duration'


class Times:
  """Seconds by part; each moment belongs to one, so that they sum to the total.

  The parts: 'compile' (tracing too, and drawing the first parameters), 'data'
  (what the devices wait for: reading, and the order of examples), 'step'
  (training), 'monitor' (evaluation while it trains), 'save' and 'restore'
  (checkpoints), 'lost' (of a session that was killed, what it did after the
  checkpoint that the next one found), and 'other'.

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

  def resume(self, run_dir: str | os.PathLike, step: int) -> None:
    """Counts on from what earlier sessions wrote, if any.

    Steps after `step` are taken again: what they took is lost.

    Args:
      run_dir: the run's folder, with its summary.json and metrics.jsonl.
      step: that of the checkpoint; 0 starts again.
    """
    saved, before = 0, dict.fromkeys(PARTS, 0.0)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      summary = files.read_json(os.path.join(run_dir, 'summary.json'))
      # Older summaries have another name for it, and fewer parts.
      sessions = 'sittings' if 'sittings' in summary else 'sessions'
      # All of it, or nothing: it may be of another version.
      read = {k: float(summary['seconds'].get(k, 0.0)) for k in PARTS}
      self._before = {
        'sessions': int(summary[sessions]),
        'programs': int(summary['programs']),
        'seconds': read,
      }
      saved, before = int(summary['step']), read
    logged = metrics.read(os.path.join(run_dir, 'metrics.jsonl'))

    def clock(last: float) -> float:
      return max((x['seconds'] for x in logged if x['step'] <= last), default=0)

    # Counted as steps until a checkpoint that cannot be read any more.
    wasted = min(before['step'], max(0.0, clock(saved) - clock(step)))
    before['step'] -= wasted
    after = clock(math.inf) - clock(max(saved, step))
    self.seconds['lost'] += wasted + max(0.0, after)

  def summary(self) -> dict[str, Any]:
    """Seconds by part, their 'total', and how many programs were compiled.

    They are of all 'sessions'. 'goodput' is the fraction of the total that went
    into steps that were not lost.
    """
    self._pass_to(self._part)
    before = self._before or {'sessions': 0, 'programs': 0, 'seconds': {}}
    seconds = {
      k: round(v + before['seconds'].get(k, 0.0), 3)
      for k, v in self.seconds.items()
    }
    total = sum(seconds.values())
    return {
      'sessions': before['sessions'] + 1,
      'programs': before['programs'] + self.programs,
      'goodput': round(seconds['step'] / total, 4) if total else 0.0,
      'seconds': seconds | {'total': round(total, 3)},
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
  shown = {k: v for k, v in seconds.items() if v or k not in _OF_RESTARTS}
  shares = ', '.join(f'{k} {v:.1f}' for k, v in shown.items())
  sessions = summary['sessions']
  of = f' in {sessions} sessions' if sessions > 1 else ''
  goodput = f'{100 * summary["goodput"]:.1f} % in steps'
  return f'{total:.1f} s{of}, {goodput}: {shares}'
