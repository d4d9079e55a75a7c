"""Keeps the page of runs up to date while they train, and serves it here."""

import contextlib
import errno
import functools
import http.server
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from dim_jax import checks, progress
from dim_jax.report import figures, page
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import duration
from dim_jax.training import lock, metrics

PORT = 8642
# Of the computer alone: nothing outside it reaches this address.
_HOST = '127.0.0.1'
# What training and evaluation write; checkpoints are not on the page.
_WATCHED = ('metrics.jsonl', 'run.json', 'summary.json', 'evaluation')


def watch(
  paths: Sequence[str | os.PathLike],
  out: str | os.PathLike | None = None,
  *,
  every: float = 10.0,
  show_progress: bool = True,
) -> Iterator[str]:
  """Writes the page again whenever the runs logged, until they have ended.

  While one trains, the page says how far it is and loads itself again. The last
  one, after all ended or Ctrl-C, does not. Where none trains it is written
  once.

  Args:
    paths: folders of runs, as for `page.write`.
    out: likewise.
    every: seconds between two looks, and between two loads of the page.
    show_progress: show a bar, or lines.

  Yields:
    The path of index.html, each time that it was written.

  Raises:
    FileNotFoundError: a folder is no run.
    ValueError: a file of one is damaged, or `every` is below 1.
  """
  checks.check_range('every', every, '[1, inf)')
  seen: Any = None
  folders = [os.fspath(os.path.expanduser(path)) for path in paths]
  with contextlib.ExitStack() as kept:
    shown = kept.enter_context(progress.Progress(show_progress))
    bar: progress.Task | None = None
    drawing = 0.0
    with contextlib.suppress(KeyboardInterrupt):
      while any(lock.state(path) == 'held' for path in folders):
        began, now = time.monotonic(), _stamps(folders)
        if now != seen:
          step, steps, status = _status(folders)
          path = page.write(folders, out, page.Live(every, status))
          drawing = time.monotonic() - began
          yield path
          seen = now
          if bar is None:
            bar = kept.enter_context(
              shown.task('step', steps, done=step, seconds=0.0)
            )
            shown.say('Ctrl-C ends this, and leaves the run alone.')
          else:
            bar.update(step, f'page drawn in {drawing:.1f} s')
        # No more than half of the time, on a machine that trains.
        spent = time.monotonic() - began
        time.sleep(max(every - spent, drawing))
        drawing = 0.0
    path = page.write(folders, out)
  yield path


def _stamps(paths: Sequence[str]) -> list[tuple[str, int, int]]:
  """When what the page shows was last written."""
  found = []
  for path in paths:
    for name in _WATCHED:
      place = os.path.join(path, name)
      parts = [place]
      if os.path.isdir(place):
        parts = [os.path.join(place, x) for x in sorted(os.listdir(place))]
      for part in parts:
        with contextlib.suppress(FileNotFoundError):
          stat = os.stat(part)
          found.append((part, stat.st_mtime_ns, stat.st_size))
  return found


def _status(paths: Sequence[str]) -> tuple[int, int, str]:
  """How many steps were logged, of how many, and that in words."""
  done, planned, left = 0, 0, 0.0
  for path in paths:
    config = runs_lib.read_config(path)
    lines = metrics.read(os.path.join(path, 'metrics.jsonl'))
    step, steps = lines[-1]['step'] if lines else 0, int(config['steps'])
    speeds = [
      figures.real(x['images_per_s']) for x in lines if 'images_per_s' in x
    ]
    if step < steps and speeds:
      # Runs that train side by side end with the slowest.
      examples = (steps - step) * config['batch_size']
      left = max(left, examples / max(statistics.median(speeds), 1e-9))
    done, planned = done + step, planned + steps
  if not done:
    return done, planned, 'Training: the first interval is not over.'
  text = f'Training: step {done:,} of {planned:,}'
  return done, planned, f'{text}, {duration(left)} left.'


class Server:
  """Serves a folder to this computer's own browsers; a context manager.

  Attributes:
    url: where.
    loads: how often the page was loaded.
  """

  def __init__(self, folder: str | os.PathLike, port: int = PORT):
    """Begins to listen.

    Args:
      folder: what is served, and nothing above it.
      port: of the loopback address; 0 takes a free one.

    Raises:
      OSError: the port is not free, or not allowed.
      ValueError: it is no port.
    """
    checks.check_range('port', port, 'int [0, 65535]')
    handler = functools.partial(_Handler, directory=os.fspath(folder))
    try:
      self._server = _Pages((_HOST, port), handler)
    except OSError as error:
      why = 'is in use' if error.errno == errno.EADDRINUSE else error.strerror
      raise OSError(
        f'port {port} of {_HOST} {why}: give another, --port=NUMBER.'
      ) from error
    self.url = f'http://{_HOST}:{self._server.server_port}/'
    self._thread = threading.Thread(target=self._server.serve_forever)
    self._thread.daemon = True

  @property
  def loads(self) -> int:
    """How often the page was loaded."""
    return self._server.loads

  def __enter__(self) -> 'Server':
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()

  def wait(self, seconds: float | None = None) -> None:
    """Waits for one more load, at most so long; or, if None, for Ctrl-C."""
    end, before = time.monotonic() + (seconds or 0.0), self.loads
    with contextlib.suppress(KeyboardInterrupt):
      while seconds is None or (
        self.loads == before and time.monotonic() < end
      ):
        time.sleep(0.1)


class _Pages(http.server.ThreadingHTTPServer):
  """Counts how often the page is loaded."""

  daemon_threads = True
  loads = 0


class _Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files alone, unlisted, to who names this computer as such."""

  def do_GET(self) -> None:
    # A name of somebody else's that leads here would be another origin, whose
    # scripts could read the page.
    name = self.headers.get('Host', '').partition(':')[0]
    if name not in (_HOST, 'localhost'):
      return self.send_error(403)
    super().do_GET()
    if self.path.partition('?')[0] in ('/', '/index.html'):
      self.server.loads += 1  # type: ignore[attr-defined]
    return None

  def end_headers(self) -> None:
    self.send_header('Cache-Control', 'no-store')
    super().end_headers()

  def list_directory(self, path: Any) -> None:
    del path
    self.send_error(404)

  def log_message(self, format: str, *args: Any) -> None:
    del format, args
