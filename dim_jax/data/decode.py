"""Decodes images with Pillow: records of a prepared data set, and files."""

import concurrent.futures
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from dim_jax import files

_ORIENTATION = 0x0112  # of EXIF
_Result = TypeVar('_Result')


class CorruptError(ValueError):
  """A file of a data set cannot be read."""


def cores() -> int:
  """Counts the CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def record(data: bytes, shape: tuple[int, int, int], size: int) -> np.ndarray:
  """Decodes an image of a known shape.

  Args:
    data: an encoded image.
    shape: [H, W, C] that it must have; C is 1 or 3.
    size: height and width to resize it to.

  Returns:
    uint8 [size, size, C].

  Raises:
    ValueError: it has another height or width; Pillow raises others.
  """
  with Image.open(io.BytesIO(data)) as file:
    mode = {1: 'L', 3: 'RGB'}[shape[2]]
    image = file if file.mode == mode else file.convert(mode)
    if (image.height, image.width) != shape[:2]:
      raise ValueError(
        f'an image of {image.height}x{image.width} instead of '
        f'{shape[0]}x{shape[1]} pixels'
      )
    return resize(np.asarray(image).reshape(shape), size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
  """Resizes an image uint8 [H, W, C], C in {1, 3}, bilinearly (Pillow)."""
  if image.shape[:2] == (size, size):
    return image
  pixels = image[:, :, 0] if image.shape[2] == 1 else image
  resized = Image.fromarray(pixels).resize(
    (size, size), Image.Resampling.BILINEAR
  )
  return np.asarray(resized).reshape(size, size, image.shape[2])


def resize_note(shape: tuple[int, ...], size: int) -> str:
  """Says that images were resized; '' where they were not."""
  if shape[:2] == (size, size):
    return ''
  return f'resized from {shape[0]}x{shape[1]} to {size}x{size}'


class Header(NamedTuple):
  """What the first bytes of an image file say.

  Attributes:
    height: pixels of the upright image.
    width: likewise.
    gray: whether it has one channel, transparency apart.
    turned: whether its EXIF orientation says that it is stored otherwise.
    transparent: whether it has a transparency of any kind.
    frames: whether it holds more than one.
  """

  height: int
  width: int
  gray: bool
  turned: bool = False
  transparent: bool = False
  frames: bool = False


def headers(paths: Sequence[pathlib.Path]) -> list[Header]:
  """Reads the sizes and kinds of image files, without decoding them.

  Raises:
    CorruptError: a file is no image, or has more than 8 bits a channel; names
      it.
  """
  with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
    return list(pool.map(lambda path: _named(_header, path), paths))


def file(path: pathlib.Path, size: int | None, gray: bool) -> np.ndarray:
  """Decodes the first frame of an image file, upright and opaque.

  Args:
    path: the file.
    size: the shorter side is resized to it (Pillow, bilinear) and the centre
      [size, size] is kept; None keeps the stored pixels.
    gray: whether to return one channel, else red, green and blue.

  Returns:
    uint8 [H, W, C], C is 1 or 3; where the file is transparent, on white.

  Raises:
    CorruptError: the file is truncated or garbled; names it.
  """
  return _named(lambda path: _file(path, size, gray), path)


def _named(
  function: Callable[[pathlib.Path], _Result], path: pathlib.Path
) -> _Result:
  """Calls a function of a file; its errors name the file."""
  try:
    return function(path)
  except Image.DecompressionBombError as error:
    raise CorruptError(
      f'{path} is larger than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels '
      'that Pillow decodes, as a file may be made to fill the memory. Store it '
      'at a lower resolution, or leave it out.'
    ) from error
  except MemoryError:
    raise
  except OSError as error:
    if error.errno is None:  # Pillow's own, of what the file holds
      raise _broken(path, error) from error
    raise CorruptError(
      f'{path} cannot be opened ({files.reason(error)}).'
    ) from error
  except Exception as error:  # Pillow documents no type for a bad file
    raise _broken(path, error) from error


def _broken(path: pathlib.Path, error: Exception) -> CorruptError:
  if isinstance(error, _DepthError):
    return CorruptError(f'{path} cannot be decoded: {error}')
  return CorruptError(
    f'{path} cannot be decoded ({files.reason(error)}); repair it or remove it.'
  )


class _DepthError(ValueError):
  """An intact image of more than 8 bits a channel."""


def _header(path: pathlib.Path) -> Header:
  with Image.open(path) as image:
    if image.mode.startswith(('I', 'F')):
      raise _DepthError(
        f'its pixels are of mode {image.mode!r}, more than 8 bits; convert it '
        'to 8 bits a channel.'
      )
    # Of such colours Pillow keeps the high byte alone.
    if any(';16' in str(tile.args) for tile in image.tile):
      raise _DepthError(
        'it has 16 bits a channel; convert it to 8 bits a channel.'
      )
    orientation = _orientation(image)
    height, width = image.height, image.width
    # Pillow gives a TIFF's size as it is upright.
    if orientation in (5, 6, 7, 8) and image.format != 'TIFF':
      height, width = width, height
    return Header(
      height,
      width,
      image.mode in ('1', 'L', 'LA', 'La'),
      orientation in range(2, 9),
      image.has_transparency_data,
      getattr(image, 'is_animated', False),
    )


def _orientation(image: Any) -> int:
  """Returns the EXIF orientation, 1 of what is upright, of an opened file."""
  # A PNG would be decoded to look for EXIF behind its pixels.
  has_exif = 'exif' in image.info or image.format == 'TIFF'
  return image.getexif().get(_ORIENTATION, 1) if has_exif else 1


def _file(path: pathlib.Path, size: int | None, gray: bool) -> np.ndarray:
  mode = 'L' if gray else 'RGB'
  with Image.open(path) as opened:
    # Before it is decoded, as of its header: Pillow then also finds the
    # orientation of XMP, or of EXIF behind a PNG's pixels.
    is_turned = _orientation(opened) != 1
    opened.load()
    image = ImageOps.exif_transpose(opened) if is_turned else opened
    if opened.has_transparency_data:
      image = image.convert('RGBA')
      ground = Image.new('RGBA', image.size, 'white')
      image = Image.alpha_composite(ground, image)
    image = image.convert(mode)
  if size is not None:
    shorter = min(image.size)
    width, height = (round(side * size / shorter) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
  return np.asarray(image).reshape(image.height, image.width, -1)
