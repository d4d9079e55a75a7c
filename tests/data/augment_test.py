"""Tests of the augmentations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

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


def test_windows_are_slices_with_every_offset():
  n, height, width, size = 400, 6, 8, 5
  # Every pixel tells its position, so one pixel tells the offset.
  row, column = np.mgrid[:height, :width]
  image = np.stack([row, column], -1).astype(np.uint8)
  images = np.stack([image] * n)
  window = jax.jit(augment.random_window, static_argnums=2)
  cropped = np.asarray(window(_keys(n), images, size))
  assert cropped.shape == (n, size, size, 2)
  assert cropped.dtype == np.uint8
  counts = np.zeros([height - size + 1, width - size + 1], int)
  for crop in cropped:
    y, x = crop[0, 0]
    np.testing.assert_array_equal(crop, image[y : y + size, x : x + size])
    counts[y, x] += 1
  # Each of the 2 * 4 offsets: Binomial(400, 1/8), mean 50, standard deviation
  # 6.6.
  assert counts.shape == (2, 4)
  assert counts.min() > 20
  assert counts.max() < 80


def test_windows_depend_on_the_key_alone_and_differ_from_other_draws():
  n = 400
  column = np.zeros([n, 6, 7, 1], np.uint8)
  column[...] = np.arange(7, dtype=np.uint8)[:, None]
  keys = _keys(n)

  window = jax.jit(augment.random_window, static_argnums=2)

  def offsets(keys, images):
    return np.asarray(window(keys, images, 5))[:, 0, 0, 0]

  whole = offsets(keys, column)
  halves = [
    offsets(keys[:200], column[:200]),
    offsets(keys[200:], column[200:]),
  ]
  np.testing.assert_array_equal(np.concatenate(halves), whole)
  flipped = np.asarray(jax.jit(augment.random_flip)(keys, column))
  flips = flipped[:, 0, 0, 0] != 0
  # Where crops of zeros begin: the first column of the padded image or later.
  crop = jax.jit(augment.random_crop, static_argnums=2)
  crops = np.asarray(crop(keys, column + 1, 1))[:, 2, 0, 0]
  assert set(whole.tolist()) == {0, 1, 2} == set(crops.tolist())
  for other in (flips, crops):
    # 4 standard deviations.
    assert abs(np.corrcoef(whole, other)[0, 1]) < 0.2


def test_window_of_the_whole_image_changes_nothing():
  images = _images(3)
  window = jax.jit(augment.random_window, static_argnums=2)
  np.testing.assert_array_equal(window(_keys(3), images, 6), images)


def test_center_crop():
  images = np.arange(2 * 7 * 6).reshape(2, 7, 6, 1)
  # 7 - 4 leaves one row above and two below, 6 - 4 one column at each side.
  expected = images[:, 1:5, 1:5]
  assert expected[0, 0, 0, 0] == 7
  for kind in (np.asarray, jnp.asarray):
    cropped = augment.center_crop(kind(images), 4)
    assert type(cropped) is type(kind(images))
    np.testing.assert_array_equal(cropped, expected)
  np.testing.assert_array_equal(augment.center_crop(_images(2), 6), _images(2))


def test_grayscale_is_luma():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, [4, 16, 16, 3], np.uint8)
  images[0, 0, :3] = [[0, 0, 0], [255, 255, 255], [255, 0, 0]]
  gray = augment.grayscale(images)
  assert (gray.shape, gray.dtype) == ((4, 16, 16, 1), np.uint8)
  exact = images @ np.array([0.299, 0.587, 0.114])
  # Half a level of rounding, and weights in units of 2**-16.
  assert abs(gray[..., 0] - exact).max() < 0.51
  # 0.299 * 255 = 76.2.
  assert gray[0, 0, :3, 0].tolist() == [0, 255, 76]
  pillow = np.stack([Image.fromarray(image).convert('L') for image in images])
  assert abs(gray[..., 0].astype(int) - pillow).max() <= 1
  on_device = jax.jit(augment.grayscale)(images)
  assert on_device.dtype == np.uint8
  np.testing.assert_array_equal(on_device, gray)


@pytest.mark.parametrize('kind', [np.asarray, jnp.asarray])
def test_grayscale_keeps_floating_point(kind):
  images = kind(_images(2, channels=3).astype(np.float32) / 127.5 - 1)
  gray = augment.grayscale(images)
  assert type(gray) is type(images)
  assert gray.dtype == np.float32
  exact = np.asarray(images, np.float64) @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(gray[..., 0], exact, atol=1e-6)
  assert augment.grayscale(images.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize('size', [0, -3, 7, 2.5, None])
def test_bad_sizes_are_named(size):
  images = _images(3)[:, :, :5]
  words = rf'from 1 to 5 for images of 6x5 pixels; got {size}\.'
  with pytest.raises(ValueError, match=words):
    augment.center_crop(images, size)
  with pytest.raises(ValueError, match=words):
    augment.random_window(_keys(3), images, size)


def test_bad_images_are_named():
  images = _images(3)
  with pytest.raises(ValueError, match=r'got shape \(3, 6, 6, 2\)'):
    augment.grayscale(images)
  with pytest.raises(ValueError, match=r'got shape \(6, 6, 3\)'):
    augment.grayscale(_images(1, channels=3)[0])
  with pytest.raises(ValueError, match='got int32'):
    augment.grayscale(_images(1, channels=3).astype(np.int32))
  with pytest.raises(ValueError, match=r'got shape \(3, 6, 6\)'):
    augment.center_crop(images[..., 0], 2)
  with pytest.raises(ValueError, match='one key an image'):
    augment.random_window(_keys(2), images, 3)


def test_bad_arguments():
  images = _images(3)
  with pytest.raises(ValueError, match='padding must be at least 0; got -1'):
    augment.random_crop(_keys(3), images, -1)
  with pytest.raises(ValueError, match=r'images must be \[N, H, W, C\]'):
    augment.random_flip(_keys(3), images[..., 0])
  with pytest.raises(ValueError, match='one key an image'):
    augment.random_flip(_keys(2), images)
