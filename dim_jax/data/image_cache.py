"""What was read of images, on disk, so that the next run need not do so."""

import contextlib
import logging
import os
import pathlib
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dim_jax import files

_logger = logging.getLogger(__name__)
_STALE_SECONDS = 24 * 3600  # a temporary file this old has lost its writer


def folder(cache_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns `cache_dir`, or else $DIM_JAX_CACHE, or else ~/.cache/dim_jax."""
  path = cache_dir or os.environ.get('DIM_JAX_CACHE') or '~/.cache/dim_jax'
  return pathlib.Path(path).expanduser()


def read(path: pathlib.Path, num_examples: int) -> dict[str, np.ndarray] | None:
  """Reads cached images; None where there are none or they are damaged.

  A zip file, so that its checksums show any damage, not only a short file.

  Args:
    path: of the file.
    num_examples: that it must hold.

  Returns:
    'images', uint8 [n, H, W, C], 'labels', int32 [n], and 'note'.
  """

  def check(arrays: dict[str, np.ndarray]) -> None:
    images, labels = arrays['images'], arrays['labels']
    if images.ndim != 4 or images.dtype != np.uint8:
      raise ValueError(f'images {images.dtype}{images.shape}')
    if labels.shape != (num_examples,) or labels.dtype != np.int32:
      raise ValueError(f'labels {labels.dtype}{labels.shape}')
    if len(images) != num_examples:
      raise ValueError(f'{len(images)} images')

  return read_arrays(path, ('images', 'labels', 'note'), check)


def read_arrays(
  path: pathlib.Path,
  names: Sequence[str],
  check: Callable[[dict[str, np.ndarray]], None],
) -> dict[str, np.ndarray] | None:
  """Reads cached arrays; None where there are none or they are damaged.

  Args:
    path: of the file.
    names: of the arrays.
    check: raises ValueError where they are not what was written.
  """
  try:
    # np.load(path) would leave the file open where it is no zip file.
    with open(path, 'rb') as raw, np.load(raw, allow_pickle=False) as file:
      arrays = {name: file[name] for name in names}
    check(arrays)
  except FileNotFoundError:
    return None
  except (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,  # a garbled zip header asks for a password, or new features
    zipfile.BadZipFile,
  ) as error:
    _logger.warning(
      'The cache %s cannot be used (%s); decoding again.',
      path,
      files.reason(error),
    )
    return None
  return arrays


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes what is read again, all of it or nothing; a failure only warns."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    with files.replacing(path, 'wb') as file:
      np.savez(file, allow_pickle=False, **arrays)
  except OSError as error:
    _logger.warning(
      'Cannot write the cache %s (%s); the images will be read again next '
      'time. Set DIM_JAX_CACHE to a folder that can be written.',
      path,
      files.reason(error),
    )


def _remove_stale(folder: pathlib.Path) -> None:
  """Removes what killed writers left."""
  for path in folder.glob('*.npz.*.tmp'):
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE_SECONDS:
        path.unlink()
