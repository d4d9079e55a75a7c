"""Tests of the augmentations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.data import augment


def _images(n, size=6, channels=2):
  """Images in which every pixel is different, and none is 0."""
  image = np.arange(size * size * channels).reshape(size, size, channels)
  return np.stack([(image + i) % 251 + 1 for i in range(n)]).astype(np.uint8)


def _keys(n, seed=0):
  return augment.example_keys(jax.random.key(seed), jnp.arange(n))


@jax.jit
def _both(rng, images, positions):
  keys = augment.example_keys(rng, positions)
  return augment.random_crop(keys, augment.random_flip(keys, images), 2)


# One shape in most tests, so that they share a compilation.
_N = 64
_POSITIONS = np.arange(_N)


def test_flip_is_identity_or_mirror_about_half_of_the_time():
  images = _images(400)
  flipped = np.asarray(jax.jit(augment.random_flip)(_keys(400), images))
  assert flipped.dtype == np.uint8
  mirror = images[:, :, ::-1]
  is_same = (flipped == images).all(axis=(1, 2, 3))
  is_mirror = (flipped == mirror).all(axis=(1, 2, 3))
  np.testing.assert_array_equal(is_same, ~is_mirror)
  # Binomial(400, 0.5): mean 200, standard deviation 10.
  assert 150 < is_mirror.sum() < 250


def test_crops_are_slices_of_the_padded_image():
  n, size, padding = 300, 6, 2
  images = _images(n, size)
  crop = jax.jit(augment.random_crop, static_argnums=2)
  cropped = np.asarray(crop(_keys(n), images, padding))
  assert cropped.dtype == np.uint8
  assert cropped.shape == images.shape
  wide = np.pad(
    images, [(0, 0), (padding, padding), (padding, padding), (0, 0)]
  )
  counts = np.zeros([2 * padding + 1, 2 * padding + 1], int)
  for i in range(n):
    matches = [
      (y, x)
      for y in range(2 * padding + 1)
      for x in range(2 * padding + 1)
      if np.array_equal(cropped[i], wide[i, y : y + size, x : x + size])
    ]
    assert len(matches) == 1, f'image {i}: {matches}'
    counts[matches[0]] += 1
  # Each of the 25 offsets: Binomial(300, 0.04), mean 12.
  assert counts.min() > 0
  assert counts.max() < 35


def test_crop_without_padding_changes_nothing():
  images = _images(3)
  np.testing.assert_array_equal(
    augment.random_crop(_keys(3), images, 0), images
  )


def test_same_keys_draw_independent_flips_and_crops():
  n = 400
  images = _images(n)
  keys = _keys(n)
  flipped = np.asarray(jax.jit(augment.random_flip)(keys, images))
  flips = (flipped != images).any(axis=(1, 2, 3))
  # One column of white pixels: where it comes to lie tells the offset.
  column = np.zeros([n, 6, 6, 1], np.uint8)
  column[:, :, 2] = 1
  crop = jax.jit(augment.random_crop, static_argnums=2)
  cropped = np.asarray(crop(keys, column, 1))
  offset = cropped.max(axis=(1, 3)).argmax(axis=1)
  assert set(offset.tolist()) == {1, 2, 3}
  assert abs(np.corrcoef(flips, offset)[0, 1]) < 0.2  # 4 standard deviations


def test_halves_equal_the_whole():
  rng = jax.random.key(3)
  images = _images(2 * _N)
  whole = _both(rng, images, np.arange(2 * _N))
  halves = [
    _both(rng, images[:_N], _POSITIONS),
    _both(rng, images[_N:], _POSITIONS + _N),
  ]
  np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_devices_do_not_matter():
  devices = jax.devices()
  if _N % len(devices):
    pytest.skip(f'{_N} images do not divide among {len(devices)} devices')
  rng = jax.random.key(3)
  images = _images(_N)
  alone = _both(rng, images, _POSITIONS)
  mesh = jax.make_mesh(
    (len(devices),), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  spread = _both(
    rng, jax.device_put(images, split), jax.device_put(_POSITIONS, split)
  )
  assert spread.sharding.is_equivalent_to(split, 4)
  np.testing.assert_array_equal(spread, alone)


def test_steps_and_positions_get_different_draws():
  images = _images(_N)
  first = _both(jax.random.key(0), images, _POSITIONS)
  second = _both(jax.random.key(1), images, _POSITIONS)
  later = _both(jax.random.key(0), images, _POSITIONS + _N)
  for other in (second, later):
    changed = (np.asarray(first) != np.asarray(other)).any(axis=(1, 2, 3))
    assert changed.mean() > 0.8


def test_raw_keys_work_like_typed_ones():
  images = _images(_N)
  typed = _both(jax.random.key(9), images, _POSITIONS)
  raw = _both(jax.random.PRNGKey(9), images, _POSITIONS)
  np.testing.assert_array_equal(raw, typed)


def test_bad_arguments():
  images = _images(3)
  with pytest.raises(ValueError, match='padding must be at least 0; got -1'):
    augment.random_crop(_keys(3), images, -1)
  with pytest.raises(ValueError, match=r'images must be \[N, H, W, C\]'):
    augment.random_flip(_keys(3), images[..., 0])
  with pytest.raises(ValueError, match='one key an image'):
    augment.random_flip(_keys(2), images)
