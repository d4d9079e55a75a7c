r"""Prepares a data set for `dim_jax.data.load`, with stock TFDS.

    pip install 'dim_jax[prepare]'
    python -m dim_jax.data.prepare cifar10 --data_dir=~/tensorflow_datasets

Downloads the original files and writes them as array_record. This is the only
module that needs TensorFlow: TFDS writes data sets with it. Reading needs none.
"""

import importlib.util
import os
import pathlib
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence

from absl import app, flags

from dim_jax.data import decode, sound, sources

PREPARED_NAMES = (
  *(name for name in sources.NAMES if name != 'digits'),
  *sound.NAMES,
)
_NEEDED = ('tensorflow', 'importlib_resources')


def prepare(name: str, data_dir: str | None = None) -> pathlib.Path:
  """Downloads and prepares a data set.

  Args:
    name: one of PREPARED_NAMES. librispeech needs much room: TFDS downloads
      all 1,000 hours of it, 60 GB, and stores them uncompressed.
    data_dir: the folder of prepared data sets; None takes $TFDS_DATA_DIR, or
      else ~/tensorflow_datasets.

  Returns:
    The folder that holds the prepared version.

  Raises:
    ValueError: an unknown name.
    ModuleNotFoundError: TensorFlow, or pydub for sound, is not installed.
    FileExistsError: this version is already there, in whatever format.
    ConnectionError: the network does not know the host of the original files.
  """
  if name == 'digits':
    raise ValueError("'digits' comes with scikit-learn and needs no files.")
  sources.check_choice('data set', name, PREPARED_NAMES, 'to prepare')
  root = pathlib.Path(data_dir or sources.default_data_dir()).expanduser()
  # TFDS decodes sound with pydub (and the program ffmpeg, where it is FLAC).
  needed = (*_NEEDED, 'pydub') if name in sound.NAMES else _NEEDED
  missing = [m for m in needed if importlib.util.find_spec(m) is None]
  if missing:
    raise ModuleNotFoundError(
      f'Preparing {name} needs {" and ".join(missing)}, which training does '
      "not: pip install 'dim_jax[prepare]' (a separate environment will do; "
      'only the prepared folder matters).'
    )
  tfds = decode.import_tfds()
  builder = tfds.builder(
    name, data_dir=os.fspath(root), file_format='array_record'
  )
  folder = pathlib.Path(builder.data_dir)
  if (folder / 'dataset_info.json').exists():
    raise FileExistsError(
      f'{folder} is already prepared. Delete it to prepare it again, or name '
      'another --data_dir.'
    )
  downloaded = root.glob('downloads/*')
  if not any(p.is_file() and p.suffix != '.INFO' for p in downloaded):
    _check_network(name, builder.url_infos)
  builder.download_and_prepare()
  return folder


def _check_network(name: str, urls: Iterable[str]) -> None:
  """Fails at once where TFDS would retry an unknown host for minutes."""
  if urllib.request.getproxies():  # which resolves names by itself
    return
  for host in sorted({urllib.parse.urlsplit(url).netloc for url in urls}):
    try:
      socket.getaddrinfo(host, 443)
    except OSError as error:
      raise ConnectionError(
        f'Cannot reach {host} for the original files of {name} ({error}). '
        'Prepare it on a machine with internet access and copy the folder '
        "here, or train on 'digits', which needs no files."
      ) from error


def _main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    sys.exit(
      f'Name one data set ({", ".join(PREPARED_NAMES)}); got '
      f'{" ".join(argv[1:]) or "none"}. For example: python -m '
      'dim_jax.data.prepare cifar10 --data_dir=~/tensorflow_datasets'
    )
  try:
    folder = prepare(argv[1], _DATA_DIR.value)
  except (
    ValueError,
    ModuleNotFoundError,
    FileExistsError,
    ConnectionError,
  ) as error:
    sys.exit(str(error))
  print(f'{argv[1]} is prepared in {folder}')


if __name__ == '__main__':
  _DATA_DIR = flags.DEFINE_string(
    'data_dir',
    None,
    'Folder of prepared data sets; TFDS_DATA_DIR or ~/tensorflow_datasets '
    'unless given.',
  )
  app.run(_main)
