r"""Prepares a data set for `dim_jax.data.load`, with stock TFDS.

    pip install 'dim_jax[prepare]'
    python -m dim_jax.data.prepare cifar10 --data_dir=~/tensorflow_datasets

Downloads the original files and writes them as array_record. This is the only
module that needs TensorFlow: TFDS writes data sets with it. Reading needs none.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from dim_jax import checks
from dim_jax.data import prepared, sound, sources

PREPARED_NAMES = (
  *(name for name in sources.NAMES if name != 'digits'),
  *sound.NAMES,
)
_NEEDED = ('tensorflow', 'importlib_resources')


def prepare(name: str, data_dir: str | None = None) -> pathlib.Path:
  """Downloads and prepares a data set.

  In a process of its own, so that TensorFlow stays out of this one. Original
  files that lie in DATA_DIR/downloads/manual are taken instead of downloaded;
  all are checked against the checksums that TFDS knows.

  Args:
    name: one of PREPARED_NAMES. librispeech needs much room: TFDS downloads
      all 1,000 hours of it, 60 GB, and stores them uncompressed.
    data_dir: the folder of prepared data sets; None takes $TFDS_DATA_DIR, or
      else ~/tensorflow_datasets.

  Returns:
    The folder that holds the prepared version.

  Raises:
    ValueError: an unknown name, or a file that is not the original one.
    ModuleNotFoundError: TensorFlow, or pydub for sound, is not installed.
    FileExistsError: this version is already there, in whatever format.
    ConnectionError: the network does not know the host of the original files;
      says where to place them by hand.
    OSError: the disk has too little room.
    RuntimeError: TFDS failed otherwise.
  """
  if name == 'digits':
    raise ValueError("'digits' comes with scikit-learn and needs no files.")
  checks.check_choice('the data set to prepare', name, PREPARED_NAMES)
  root = prepared.data_root(data_dir)
  # TFDS decodes sound with pydub (and the program ffmpeg, where it is FLAC).
  needed = (*_NEEDED, 'pydub') if name in sound.NAMES else _NEEDED
  missing = [m for m in needed if importlib.util.find_spec(m) is None]
  if missing:
    raise ModuleNotFoundError(
      f'Preparing {name} needs {" and ".join(missing)}, which training does '
      f'not: pip install {" ".join(missing)} (a separate environment will do; '
      'only the prepared folder matters).'
    )
  run = subprocess.run(
    [sys.executable, '-P', __file__, f'--worker={root}', name],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
  )
  # TFDS may print too: the answer is the last line.
  lines = run.stdout.strip().splitlines()
  try:
    kind, text = json.loads(lines[-1] if lines else '')
  except ValueError:
    raise RuntimeError(
      f'The process that prepares {name} ended early (exit status '
      f'{run.returncode}): {lines[-1] if lines else "killed?"}'
    ) from None
  if kind in _ERRORS:
    raise _ERRORS[kind](text)
  return pathlib.Path(text)


_ERRORS = {
  kind.__name__: kind
  for kind in (
    ValueError,
    FileExistsError,
    ConnectionError,
    OSError,
    RuntimeError,
  )
}


def _work(name: str, root: pathlib.Path) -> tuple[str, str]:
  """The worker's answer: ('', folder), or the kind of an error and its text."""
  try:
    return '', os.fspath(_prepare(name, root))
  except Exception as error:  # TFDS documents no type for what fails in it
    kind = type(error).__name__
    text = ' '.join(str(error).split()) or kind
    if kind in _ERRORS:
      return kind, text
    return 'RuntimeError', f'TFDS cannot prepare {name} ({kind}): {text[:500]}'


def _prepare(name: str, root: pathlib.Path) -> pathlib.Path:
  """What `prepare` does, in this process."""
  tfds = prepared.import_tfds()
  version = tfds.builder_cls(name).VERSION
  # First: TFDS refuses to look at one in another format.
  for info in root.glob(f'{name}/**/{version}/dataset_info.json'):
    raise FileExistsError(
      f'{info.parent} is already prepared. Delete it to prepare it again, or '
      'name another --data_dir.'
    )
  builder = tfds.builder(
    name, data_dir=os.fspath(root), file_format='array_record'
  )
  _check_disk(name, root, builder)
  manual = root / 'downloads' / 'manual'
  downloaded = root.glob('downloads/*')
  if not any(p.is_file() and p.suffix != '.INFO' for p in downloaded):
    absent = {
      url: info.filename
      for url, info in builder.url_infos.items()
      if not (manual / info.filename).exists()
    }
    _check_network(name, absent, manual)
  try:
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        manual_dir=manual,
        # A file that TFDS knows no checksum of is refused, not written down.
        register_checksums=False,
        force_checksums_validation=True,
      )
    )
  except Exception as error:
    if type(error).__name__ != 'NonMatchingChecksumError':
      raise
    reason, _, _ = str(error).partition('To debug')
    raise ValueError(
      f'{" ".join(reason.split())} Delete that file and run the command again.'
    ) from error
  return pathlib.Path(builder.data_dir)


def _check_disk(name: str, root: pathlib.Path, builder: Any) -> None:
  """An OSError where the original and the prepared files would not fit."""
  download = sum(int(info.size) for info in builder.url_infos.values())
  # Without the network TFDS does not know the prepared size; the files are
  # unpacked too, which is about as much again.
  prepared = int(builder.info.dataset_size or 0) or download
  there = next(path for path in (root, *root.parents) if path.exists())
  free = shutil.disk_usage(there).free
  if download + prepared > free:
    raise OSError(
      f'{name} needs {_gib(download + prepared)} of disk '
      f'({_gib(download)} to download, {_gib(prepared)} prepared); {root} has '
      f'{_gib(free)} free. Make room, or name another --data_dir.'
    )


def _gib(size: int) -> str:
  return f'{size / 2**30:.3g} GiB'


def _check_network(
  name: str, absent: dict[str, str], manual: pathlib.Path
) -> None:
  """Fails at once where TFDS would retry an unknown host for minutes."""
  if urllib.request.getproxies():  # which resolves names by itself
    return
  for host in sorted({urllib.parse.urlsplit(url).netloc for url in absent}):
    try:
      socket.getaddrinfo(host, 443)
    except OSError as error:
      raise ConnectionError(
        f'Cannot reach {host} for the original files of {name} ({error}). '
        f'Place {", ".join(sorted(absent.values()))} in {manual} (from '
        f'{", ".join(sorted(absent))}), or prepare it on a machine with '
        "internet access and copy the folder here, or train on 'digits', which "
        'needs no files.'
      ) from error


def _main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    sys.exit(
      f'Name one data set ({", ".join(PREPARED_NAMES)}); got '
      f'{" ".join(argv[1:]) or "none"}. For example: python -m '
      'dim_jax.data.prepare cifar10 --data_dir=~/tensorflow_datasets'
    )
  if _WORKER.value is not None:
    print(json.dumps(_work(argv[1], pathlib.Path(_WORKER.value))))
    return
  try:
    folder = prepare(argv[1], _DATA_DIR.value)
  except (ValueError, ImportError, OSError, RuntimeError) as error:
    sys.exit(str(error))
  print(f'{argv[1]} is prepared in {folder}')


if __name__ == '__main__':
  _DATA_DIR = flags.DEFINE_string(
    'data_dir',
    None,
    'Folder of prepared data sets; TFDS_DATA_DIR or ~/tensorflow_datasets '
    'unless given.',
  )
  _WORKER = flags.DEFINE_string(
    'worker', None, 'Used by this program: prepare in this process, there.'
  )
  app.run(_main)
