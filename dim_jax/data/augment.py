"""Random changes to images on the device, seeded per example.

Each example's key comes from its position in the global batch, so the result
does not depend on how the batch is spread over devices:

    keys = augment.example_keys(rng, positions)
    images = augment.random_flip(keys, images)
    images = augment.random_crop(keys, images, padding=4)

The same keys may go to every function here: each derives its own from them.
"""

import functools

import jax
import jax.numpy as jnp

# Domains that keep the functions' draws apart when they get the same keys.
_FLIP, _CROP = 0, 1


def _domain_keys(keys: jax.Array, domain: int) -> jax.Array:
  return jax.vmap(lambda key: jax.random.fold_in(key, domain))(keys)


def _check(keys: jax.Array, images: jax.Array) -> None:
  if images.ndim != 4:
    raise ValueError(
      f'images must be [N, H, W, C]; got shape {tuple(images.shape)}.'
    )
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
