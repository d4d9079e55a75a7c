"""Random changes to images on the device, seeded per example.

Each example's key comes from its position in the global batch, so the result
does not depend on how the batch is spread over devices:

    keys = augment.example_keys(rng, positions)
    images = augment.random_flip(keys, images)
    images = augment.random_crop(keys, images, padding=4)

The same keys may go to every function here: each derives its own from them.
"""

import functools
import operator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# What goes in as NumPy's comes out as NumPy's, without a device.
_Array = TypeVar('_Array', np.ndarray, jax.Array)

# Domains that keep the functions' draws apart when they get the same keys.
_FLIP, _CROP, _WINDOW = 0, 1, 2


def _domain_keys(keys: jax.Array, domain: int) -> jax.Array:
  return jax.vmap(lambda key: jax.random.fold_in(key, domain))(keys)


def _check_images(images: jax.Array | np.ndarray) -> None:
  if images.ndim != 4:
    raise ValueError(
      f'images must be [N, H, W, C]; got shape {tuple(images.shape)}.'
    )


def _check_size(images: jax.Array | np.ndarray, size: Any) -> int:
  """`size` as an int, if a square of it lies within the images."""
  _check_images(images)
  height, width = images.shape[1:3]
  try:
    whole = operator.index(size)
  except TypeError:
    whole = 0
  if not 1 <= whole <= min(height, width):
    raise ValueError(
      f'size must be a whole number from 1 to {min(height, width)} for images '
      f'of {height}x{width} pixels; got {size!r}.'
    )
  return whole


def _check(keys: jax.Array, images: jax.Array) -> None:
  _check_images(images)
  if keys.shape[:1] != images.shape[:1]:
    raise ValueError(
      f'There must be one key an image; got keys of shape '
      f'{tuple(keys.shape)} for images of shape {tuple(images.shape)}. '
      'Make them with example_keys(rng, positions).'
    )


def example_keys(rng: jax.Array, positions: jax.Array) -> jax.Array:
  """One key an example, from the step's key and the example's position.

  Args:
    rng: the step's key, such as fold_in(seed's key, step).
    positions: the examples' positions in the global batch, int [N]. A device
      that holds a slice of the batch passes that slice of the positions.

  Returns:
    Keys [N] (raw keys: [N, 2]).
  """
  return jax.vmap(functools.partial(jax.random.fold_in, rng))(positions)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors each image left to right with probability 1/2.

  Args:
    keys: from `example_keys`, [N].
    images: [N, H, W, C], any dtype.

  Returns:
    [N, H, W, C] of the same dtype.

  Raises:
    ValueError: the images are not [N, H, W, C], or not one key an image.
  """
  _check(keys, images)
  flip = jax.vmap(jax.random.bernoulli)(_domain_keys(keys, _FLIP))
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(keys: jax.Array, images: jax.Array, padding: int) -> jax.Array:
  """Pads each image with zeros (black in uint8) and crops it at random.

  The crop has the image's own size, and each of the (2 * padding + 1) ** 2
  offsets is equally likely.

  Args:
    keys: from `example_keys`, [N].
    images: [N, H, W, C], any dtype.
    padding: pixels added on each side, a Python int; 0 changes nothing.

  Returns:
    [N, H, W, C] of the same dtype.

  Raises:
    ValueError: the padding is negative, the images are not [N, H, W, C], or
      there is not one key an image.
  """
  _check(keys, images)
  if padding < 0:
    raise ValueError(f'padding must be at least 0; got {padding}.')
  if padding == 0:
    return images
  draw = functools.partial(
    jax.random.randint, shape=(2,), minval=0, maxval=2 * padding + 1
  )
  offsets = jax.vmap(draw)(_domain_keys(keys, _CROP))
  wide = [(0, 0), (padding, padding), (padding, padding), (0, 0)]

  def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
    start = (offset[0], offset[1], 0)
    return jax.lax.dynamic_slice(image, start, images.shape[1:])

  return jax.vmap(crop)(jnp.pad(images, wide), offsets)


def random_window(keys: jax.Array, images: jax.Array, size: int) -> jax.Array:
  """Crops a square out of each image at random, without padding.

  Each of the (H - size + 1) * (W - size + 1) offsets is equally likely.

  Args:
    keys: from `example_keys`, [N].
    images: [N, H, W, C], any dtype.
    size: height and width to keep, a Python int.

  Returns:
    [N, size, size, C] of the same dtype.

  Raises:
    ValueError: the size is below 1 or above H or W, the images are not
      [N, H, W, C], or there is not one key an image.
  """
  size = _check_size(images, size)
  _check(keys, images)
  _, height, width, channels = images.shape
  ends = jnp.array([height - size + 1, width - size + 1])
  draw = functools.partial(
    jax.random.randint, shape=(2,), minval=0, maxval=ends
  )
  offsets = jax.vmap(draw)(_domain_keys(keys, _WINDOW))

  def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
    start = (offset[0], offset[1], 0)
    return jax.lax.dynamic_slice(image, start, (size, size, channels))

  return jax.vmap(crop)(images, offsets)


def center_crop(images: _Array, size: int) -> _Array:
  """The square in the middle of each image.

  Where an odd number of pixels is left over, the extra one is below or to the
  right.

  Args:
    images: [N, H, W, C], any dtype, of NumPy or JAX.
    size: height and width to keep, a Python int.

  Returns:
    [N, size, size, C] of the same dtype and kind.

  Raises:
    ValueError: the size is below 1 or above H or W, or the images are not
      [N, H, W, C].
  """
  size = _check_size(images, size)
  top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
  return images[:, top : top + size, left : left + size]


def grayscale(images: _Array) -> _Array:
  """Luma of ITU-R BT.601, 0.299 red + 0.587 green + 0.114 blue.

  Args:
    images: [N, H, W, 3], uint8 or floating point, of NumPy or JAX.

  Returns:
    [N, H, W, 1] of the same dtype and kind. uint8 is rounded to the nearest
    level, with the weights in units of 2**-16, as by Pillow's convert('L').

  Raises:
    ValueError: the images are not [N, H, W, 3], or of another dtype.
  """
  if images.ndim != 4 or images.shape[3] != 3:
    raise ValueError(
      'images must have the three channels red, green and blue, '
      f'[N, H, W, 3]; got shape {tuple(images.shape)}.'
    )
  red, green, blue = (images[..., i : i + 1] for i in range(3))
  if images.dtype == np.uint8:
    red, green, blue = (x.astype(np.int32) for x in (red, green, blue))
    total = 19595 * red + 38470 * green + 7471 * blue
    return ((total + 2**15) >> 16).astype(np.uint8)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'images must be uint8 or floating point; got {images.dtype}.'
    )
  luma = 0.299 * red + 0.587 * green + 0.114 * blue
  return luma.astype(images.dtype)  # NumPy widens bfloat16
