"""One trainer a run: two that write into one folder would spoil both."""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator

import jax

from dim_jax import files

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None  # type: ignore[assignment]

# What a filesystem without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold(run_dir: str | os.PathLike) -> Iterator[None]:
  """Keeps other processes from training in `run_dir` while the context is open.

  The lock is the kernel's (flock), on `run_dir`/lock, so that it vanishes with
  a process that is killed. Where the filesystem has none, the process that the
  file names is looked for, on the same host alone. Of several processes of one
  job only the first locks.

  Args:
    run_dir: the run's folder, which exists.

  Raises:
    ValueError: another process holds it; names that.
    OSError: the folder cannot be written to.
  """
  if jax.process_index() != 0:
    yield
    return
  path = os.path.join(run_dir, 'lock')
  try:
    file = open(path, 'a+')
  except OSError as error:
    raise files.unwritable(path, error) from error
  with file:
    _lock(file, run_dir)
    file.truncate(0)
    json.dump({'pid': os.getpid(), 'host': socket.gethostname()}, file)
    file.flush()
    try:
      yield
    finally:
      file.truncate(0)


def check(run_dir: str | os.PathLike) -> None:
  """Raises ValueError, as `hold` does, and leaves nothing behind."""
  path = os.path.join(run_dir, 'lock')
  if jax.process_index() == 0 and os.path.exists(path):
    # To be written to: NFS gives no other file an exclusive lock.
    with open(path, 'r+') as file:
      _lock(file, run_dir)


def _lock(file, run_dir: str | os.PathLike) -> None:
  try:
    if fcntl is None:
      raise OSError(errno.ENOSYS, 'no flock')
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
  except (ValueError, KeyError, TypeError):
    pid, host = 0, ''
  if held or (pid and host == socket.gethostname() and _lives(pid)):
    who = f'process {pid} on {host}' if pid else 'another process'
    raise ValueError(
      f'{os.fspath(run_dir)!r} is being trained by {who}: wait for it, stop '
      'it, or choose another --workdir.'
    )


def _lives(pid: int) -> bool:
  if pid == os.getpid():
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True
  return True
