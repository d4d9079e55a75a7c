"""Files of a run: written whole, or with an error that says what to do."""

import json
import os
import re
import shutil
from typing import Any


def reason(error: BaseException) -> str:
  """In a few words what an error, or the first of its causes, says."""
  while error.__cause__ is not None:
    error = error.__cause__
  if number := system_error(error):
    return os.strerror(number)
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0][:200]


def system_error(error: BaseException) -> int | None:
  """The number of the system's error at the bottom of the causes, if any."""
  while error.__cause__ is not None:
    error = error.__cause__
  # How TensorStore, which writes arrays, ends what the system told it.
  code = re.search(r"os_error_code='(\d+)'", str(error))
  return int(code[1]) if code else getattr(error, 'errno', None)


def unwritable(path: str | os.PathLike, error: BaseException) -> OSError:
  """The error of a write that failed, in one line.

  Args:
    path: of the file or folder.
    error: what was raised; the one at the bottom of its causes is told.

  Returns:
    An OSError that names the path and how many bytes are free there.
  """
  folder = os.path.abspath(path)
  while not os.path.isdir(folder):
    folder = os.path.dirname(folder)
  return OSError(
    f'Cannot write {os.fspath(path)!r} ({reason(error)}; '
    f'{shutil.disk_usage(folder).free:,} bytes are free). When that is mended, '
    'the same command goes on from the newest checkpoint.'
  )


def make_folder(path: str | os.PathLike) -> None:
  """Makes a folder where there is none; raises as `unwritable` says."""
  try:
    os.makedirs(path, exist_ok=True)
  except OSError as error:
    raise unwritable(path, error) from error


def write(path: str | os.PathLike, text: str) -> None:
  """Replaces a file, whole or not at all; raises as `unwritable` says."""
  path = os.fspath(path)
  try:
    with open(path + '.tmp', 'w') as file:
      file.write(text)
    os.replace(path + '.tmp', path)
  except OSError as error:
    raise unwritable(path, error) from error


def append(path: str | os.PathLike, text: str) -> None:
  """Adds to a file; raises as `unwritable` says."""
  try:
    with open(path, 'a') as file:
      file.write(text)
  except OSError as error:
    raise unwritable(path, error) from error


def write_json(path: str | os.PathLike, data: Any) -> None:
  """`write`, of `data` as JSON."""
  write(path, json.dumps(data, indent=2) + '\n')
