"""Files: written whole, or with an error that says what to do.

Folders of runs may be on this machine, on a disk that is shared, or in a bucket
such as gs://bucket/run, which `etils.epath` reads and writes.
"""

import contextlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np


def reason(error: BaseException) -> str:
  """Describes an error, or the first of its causes, in a few words."""
  while error.__cause__ is not None:
    error = error.__cause__
  if number := system_error(error):
    return os.strerror(number)
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0][:200]


def system_error(error: BaseException) -> int | None:
  """Returns the number of the system's error below all causes, if any."""
  while error.__cause__ is not None:
    error = error.__cause__
  # TensorStore, which writes arrays, ends with the system's error.
  code = re.search(r"os_error_code='(\d+)'", str(error))
  return int(code[1]) if code else getattr(error, 'errno', None)


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path names objects in a bucket, as gs:// does."""
  return '://' in os.fspath(path)


def at(path: str | os.PathLike) -> Any:
  """Returns an `epath.Path`, which is as a `pathlib.Path` but may be remote."""
  # Imported late: most of `import dim_jax` needs no files.
  from etils import epath

  return epath.Path(os.path.expanduser(path))


def absolute(path: str | os.PathLike) -> str:
  """Returns the absolute path, of the user's folder too."""
  path = os.path.expanduser(path)
  return os.fspath(path) if is_remote(path) else os.path.abspath(path)


def names_below(folder: str | os.PathLike) -> list[str]:
  """Lists the files in a folder and its folders, relative to it."""
  found: list[str] = []
  for path in sorted(at(folder).iterdir()):
    if path.is_dir():
      found += (f'{path.name}/{name}' for name in names_below(path))
    else:
      found.append(path.name)
  return found


def unwritable(path: str | os.PathLike, error: BaseException) -> OSError:
  """Makes the error of a write that failed, in one line.

  Args:
    path: of the file or folder.
    error: what was raised; the message is that of its first cause.

  Returns:
    An OSError that names the path and how many bytes are free there.
  """
  if is_remote(path):
    return OSError(
      f'Cannot write {os.fspath(path)!r} ({reason(error)}). When that is '
      'mended, give the same command again.'
    )
  folder = os.path.abspath(path)
  while not os.path.isdir(folder):
    folder = os.path.dirname(folder)
  return OSError(
    f'Cannot write {os.fspath(path)!r} ({reason(error)}; '
    f'{shutil.disk_usage(folder).free:,} bytes are free). When that is mended, '
    'give the same command again.'
  )


def make_folder(path: str | os.PathLike) -> None:
  """Makes a folder where there is none; raises as `unwritable` says."""
  try:
    at(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise unwritable(path, error) from error


@contextlib.contextmanager
def beside(path: str | os.PathLike) -> Iterator[str]:
  """Gives a name for a file that takes the place of `path` in the end.

  The name is its own, so that no reader sees a part and two writers do not
  meet; what fails leaves `path` as it was.

  Raises:
    OSError: as `unwritable` says.
  """
  path = os.fspath(path)
  part = f'{path}.{uuid.uuid4().hex}.tmp'
  try:
    try:
      yield part
      os.replace(part, path)
    except BaseException:
      with contextlib.suppress(OSError):
        os.remove(part)
      raise
  except OSError as error:
    raise unwritable(path, error) from error


@contextlib.contextmanager
def replacing(
  path: str | os.PathLike, mode: str = 'w', *, sync: bool = False
) -> Iterator[IO[Any]]:
  """Opens a file that takes the place of `path` when the context closes.

  Args:
    path: the file; see `beside`.
    mode: 'w' for UTF-8 text, 'wb' for bytes.
    sync: whether the bytes must be on the disk first, for what cannot be made
      again.
  """
  encoding = None if 'b' in mode else 'utf-8'
  if is_remote(path):
    # An object appears whole; its file would be one even after an error.
    buffer: Any = io.BytesIO() if 'b' in mode else io.StringIO()
    yield buffer
    try:
      with at(path).open(mode) as file:
        file.write(buffer.getvalue())
    except OSError as error:
      raise unwritable(path, error) from error
    return
  with (
    beside(path) as part,
    # open() and not mkstemp, so that the umask decides who may read it.
    open(part, mode.replace('w', 'x'), encoding=encoding) as file,
  ):
    yield file
    if sync:
      file.flush()
      os.fsync(file.fileno())


def read_json(path: str | os.PathLike) -> Any:
  """Reads JSON; {} where there is no such file."""
  file = at(path)
  return json.loads(file.read_text()) if file.exists() else {}


def write(path: str | os.PathLike, text: str, *, sync: bool = False) -> None:
  """Replaces a file, whole or not at all; see `replacing`."""
  with replacing(path, sync=sync) as file:
    file.write(text)


def append(path: str | os.PathLike, text: str) -> None:
  """Adds to a file; raises as `unwritable` says.

  An object in a bucket is written again with the text at its end.
  """
  if is_remote(path):
    file = at(path)
    write(path, (file.read_text() if file.exists() else '') + text)
    return
  try:
    with open(path, 'a', encoding='utf-8') as file:
      file.write(text)
  except OSError as error:
    raise unwritable(path, error) from error


def write_json(
  path: str | os.PathLike, data: Any, *, sync: bool = False
) -> None:
  """Replaces a file by `data` as JSON; see `replacing`."""
  write(path, json.dumps(data, indent=2) + '\n', sync=sync)


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
  """Replaces a file by named arrays, compressed; see `replacing`."""
  with replacing(path, 'wb') as file:
    np.savez_compressed(file, **arrays)
