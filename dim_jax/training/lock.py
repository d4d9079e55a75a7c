"""One trainer a run: two that write into one folder would spoil both.

The package filelock does not do all of this: it empties the file before it has
the lock, so that nobody learns who holds it, and knows no way around a
filesystem without locks (ENOLCK).

Buckets (gs://) have no locks. There a trainer renews a note, and another one
that finds a note watches it before it begins: it gives way if the note is
renewed, and takes the place of a trainer that was killed if not. Of two that
begin within the same moment both may go on; the scheduler must not start two.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, TextIO

import jax

from dim_jax import files

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None  # type: ignore[assignment]
try:
  import msvcrt
except ImportError:  # Elsewhere.
  msvcrt: Any = None  # type: ignore[no-redef]

_FAR = 2**30
_RENEWED = 30.0  # seconds between two notes in a bucket
# What a filesystem without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold(run_dir: str | os.PathLike) -> Iterator[None]:
  """Keeps other processes from training in `run_dir` while the context is open.

  The lock is the kernel's, on `run_dir`/lock, and vanishes with a process
  that is killed. Where the filesystem has none, the process that the file names
  is looked for, on the same host alone. Of several processes of one job only
  the first locks.

  Args:
    run_dir: the run's folder, which exists.

  Raises:
    ValueError: another process holds it; names that.
    OSError: the folder cannot be written to.
  """
  if jax.process_index() != 0:
    yield
    return
  path = os.path.join(os.path.expanduser(run_dir), 'lock')
  if files.is_remote(path):
    with _noted(path, run_dir):
      yield
    return
  try:
    file = open(path, 'a+', encoding='utf-8')
  except OSError as error:
    raise files.unwritable(path, error) from error
  with file:
    _lock(file, run_dir)
    file.truncate(0)
    pid = os.getpid()
    owner = {'pid': pid, 'host': socket.gethostname(), 'began': _began(pid)}
    json.dump(owner, file)
    file.flush()
    try:
      yield
    finally:
      file.truncate(0)


def check(run_dir: str | os.PathLike) -> None:
  """Raises ValueError, as `hold` does, and leaves nothing behind.

  In a bucket it watches a note, if there is one, and removes that of a trainer
  that was killed.
  """
  if jax.process_index() != 0:
    return
  path = os.path.join(os.path.expanduser(run_dir), 'lock')
  if files.is_remote(path):
    _watch(path, run_dir)
  elif os.path.exists(path):
    # To be written to: NFS gives no other file an exclusive lock.
    with open(path, 'r+', encoding='utf-8') as file:
      _lock(file, run_dir)


def is_held(run_dir: str | os.PathLike) -> bool:
  """Whether another process trains in the folder."""
  if files.is_remote(run_dir):
    return (files.at(run_dir) / 'lock').exists()
  try:
    check(run_dir)
  except ValueError:
    return True
  return False


def state(run_dir: str | os.PathLike) -> str:
  """Says who is in the folder, without asking JAX for its devices.

  Returns:
    'held' while a process trains there, 'left' where one was killed, and
    'free' where none was, or the last one ended by itself.
  """
  path = os.path.join(os.path.expanduser(run_dir), 'lock')
  if files.is_remote(path):
    return 'held' if files.at(path).exists() else 'free'
  try:
    with open(path, encoding='utf-8') as file:
      if not file.read().strip():
        return 'free'
    # Others' runs may be read but not written to.
    if os.access(path, os.W_OK):
      opened = open(path, 'r+', encoding='utf-8')
    else:
      opened = open(path, encoding='utf-8')
    with opened as file:
      _lock(file, run_dir)
  except ValueError:
    return 'held'
  except OSError:
    return 'free'
  return 'left'


@contextlib.contextmanager
def _noted(path: str, run_dir: str | os.PathLike) -> Iterator[None]:
  """Keeps a note in a bucket, renewed while the context is open."""
  _watch(path, run_dir)
  stop = threading.Event()

  def note() -> None:
    owner = {'pid': os.getpid(), 'host': socket.gethostname()}
    files.write_json(path, owner | {'renewed': uuid.uuid4().hex})

  def renew() -> None:
    while not stop.wait(_RENEWED):
      with contextlib.suppress(OSError):
        note()

  note()
  thread = threading.Thread(target=renew, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()
    with contextlib.suppress(OSError):
      files.at(path).unlink()


def _watch(path: str, run_dir: str | os.PathLike) -> None:
  """Raises ValueError where another process renews a note; else removes it."""
  if not (first := files.read_json(path)):
    return
  who = f'process {first.get("pid")} on {first.get("host")}'
  sys.stderr.write(
    f'{path} is of {who}: waiting {2 * _RENEWED:.0f} s to see whether that '
    'still trains\n'
  )
  until = time.monotonic() + 2 * _RENEWED
  while time.monotonic() < until:
    time.sleep(_RENEWED / 30)
    now = files.read_json(path)
    if now and now != first:
      raise ValueError(
        f'{os.fspath(run_dir)!r} is being trained by {who}: wait for it, stop '
        'it, or choose another --workdir.'
      )
  with contextlib.suppress(FileNotFoundError):
    files.at(path).unlink()


def _lock(file: TextIO, run_dir: str | os.PathLike) -> None:
  """Locks an open file; raises ValueError where another process has."""
  try:
    _lock_by_kernel(file)
    return
  except BlockingIOError:
    held = True
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    held = False
  file.seek(0)
  try:
    owner = json.loads(file.read())
    pid, host = int(owner['pid']), str(owner['host'])
    began = owner.get('began')
  except (ValueError, KeyError, TypeError, AttributeError):
    pid, host, began = 0, '', None
  lives = pid and host == socket.gethostname() and _lives(pid, began)
  if held or lives:
    who = f'process {pid} on {host}' if pid else 'another process'
    raise ValueError(
      f'{os.fspath(run_dir)!r} is being trained by {who}: wait for it, stop '
      'it, or choose another --workdir.'
    )


def _lock_by_kernel(file: TextIO) -> None:
  """Locks a file; raises BlockingIOError where another process has."""
  if fcntl is not None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  elif msvcrt is not None:
    # Windows keeps others from what is locked: a byte behind all that is read.
    os.lseek(file.fileno(), _FAR, os.SEEK_SET)
    try:
      msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
      raise BlockingIOError(*error.args) from error
  else:
    raise OSError(errno.ENOSYS, 'no locks on this system')


def _lives(pid: int, began: str | None) -> bool:
  """Whether another process of this number runs, and is not a later one."""
  # On Windows os.kill(pid, 0) would send it Ctrl-C.
  if pid == os.getpid() or os.name == 'nt':
    return False
  try:
    os.kill(pid, 0)
  except PermissionError:  # Another user's.
    pass
  except OSError:
    return False
  return began is None or _began(pid) in (None, began)


def _began(pid: int) -> str | None:
  """When a process began, in its system's ticks since booting, if known."""
  try:
    with open(f'/proc/{pid}/stat', encoding='utf-8') as file:
      # Behind the name, which may hold anything but ends with a bracket.
      return file.read().rpartition(')')[2].split()[19]
  except (OSError, IndexError, UnicodeDecodeError):
    return None
