"""Tests of the augmentations."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from dim_jax.data import augment


def _images(n, size=6, channels=2):
  """Images in which every pixel is different, and none is 0."""
  image = np.arange(size * size * channels).reshape(size, size, channels)
  return np.stack([(image + i) % 251 + 1 for i in range(n)]).astype(np.uint8)


@functools.cache
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


# Colours and resampling.

# Enough images for every case here, so that few shapes are compiled.
_COLOURED = np.random.default_rng(1).integers(0, 256, [8, 20, 24, 3], np.uint8)
_COLOURED[0, 0, :4] = [[0, 0, 0], [255, 255, 255], [9, 9, 9], [255, 0, 0]]
_LUMA = np.array([0.299, 0.587, 0.114])
_FACTORS = np.linspace(0.2, 1.8, 8).astype(np.float32)
_SHIFTS = np.linspace(-0.5, 0.45, 8).astype(np.float32)


def _unit(images):
  """Images in [0, 1], float64."""
  if images.dtype == np.uint8:
    return images / 255
  return np.asarray(images, np.float64) / 2 + 0.5


def _signed(images):
  return (images / 127.5 - 1).astype(np.float32)


def _jittered(images, brightness, contrast, saturation, hue):
  """A second implementation: float64, one image and one pixel at a time."""
  result = []
  for x, b, c, s, h in zip(
    _unit(images), brightness, contrast, saturation, hue, strict=True
  ):
    x = np.clip(b * x, 0, 1)
    x = np.clip(c * x + (1 - c) * (x @ _LUMA).mean(), 0, 1)
    x = np.clip(s * x + (1 - s) * (x @ _LUMA)[..., None], 0, 1)
    for y, row in enumerate(x):
      for z, (red, green, blue) in enumerate(row):
        turn, saturated, value = colorsys.rgb_to_hsv(red, green, blue)
        x[y, z] = colorsys.hsv_to_rgb((turn + h) % 1, saturated, value)
    result.append(x)
  return np.stack(result)


_jitter = jax.jit(augment.jitter)


def test_jitter_is_the_second_implementation():
  factors = (_FACTORS, _FACTORS[::-1], np.roll(_FACTORS, 3))
  arguments = dict(
    zip(('brightness', 'contrast', 'saturation'), factors, strict=True),
    hue=_SHIFTS,
  )
  expected = _jittered(_COLOURED, *factors, _SHIFTS)
  changed = _jitter(_COLOURED, **arguments)
  assert changed.dtype == np.uint8
  # Half a level of rounding; and 1e-4 of a level, as 1e-6 is above ten float32
  # roundings of what is at most 1.
  assert abs(np.asarray(changed, float) - 255 * expected).max() < 0.5001
  changed = _jitter(_signed(_COLOURED), **arguments)
  assert changed.dtype == np.float32
  np.testing.assert_allclose(_unit(changed), expected, atol=2e-6)
  assert changed.min() >= -1 and changed.max() <= 1


@pytest.mark.parametrize(
  ('name', 'enhancer', 'tolerance'),
  [
    ('brightness', ImageEnhance.Brightness, 1),
    # Pillow rounds the mean luma, by at most half a level, which counts
    # |1 - 1.8| times; and then cuts off what is behind the point.
    ('contrast', ImageEnhance.Contrast, 1.5),
    # Pillow rounds each luma.
    ('saturation', ImageEnhance.Color, 1.5),
  ],
)
def test_jitter_is_pillows(name, enhancer, tolerance):
  changed = np.asarray(_jitter(_COLOURED, **{name: _FACTORS}), float)
  for image, factor, ours in zip(_COLOURED, _FACTORS, changed, strict=True):
    theirs = enhancer(Image.fromarray(image)).enhance(float(factor))
    assert abs(ours - np.asarray(theirs)).max() <= tolerance


@pytest.mark.parametrize('kind', [np.asarray, _signed])
def test_jitter_of_nothing_changes_nothing(kind):
  images = kind(_COLOURED)
  ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
  same = _jitter(
    images, brightness=ones, contrast=ones, saturation=ones, hue=zeros
  )
  np.testing.assert_array_equal(same, images)
  np.testing.assert_array_equal(augment.jitter(images), images)


def test_jitter_of_one_channel():
  images = _COLOURED[..., :1]
  changed = np.asarray(_jitter(images, contrast=_FACTORS), float)
  x = images / 1.0
  mean = x.mean((1, 2, 3), keepdims=True)
  expected = mean + _FACTORS[:, None, None, None] * (x - mean)
  assert abs(changed - expected.clip(0, 255)).max() < 0.501


def test_random_jitter_draws_what_it_says():
  n = 2000
  # Red of a quarter: the greatest channel tells the factor f on it, of which
  # the greatest keeps it below 1; and its hue the shift.
  red = np.full([n, 1, 1, 3], -1, np.float32)
  red[..., 0] = -0.5
  change = functools.partial(augment.random_jitter, brightness=1.5, hue=0.1)
  changed = _unit(jax.jit(change)(_keys(n), red))[:, 0, 0]
  factors = 4 * changed.max(1)
  # Uniform in [0, 2.5] and never below; its standard deviation is 2.5 /
  # sqrt(12).
  assert 0 <= factors.min() < 0.02 and 2.48 < factors.max() <= 2.5 + 1e-6
  assert abs(factors.mean() - 1.25) < 4 * 2.5 / np.sqrt(12 * n)
  turns = np.array([colorsys.rgb_to_hsv(*x)[0] for x in changed])
  turns = ((turns + 0.5) % 1 - 0.5)[factors > 0.1]
  assert -0.101 < turns.min() < -0.099
  assert 0.099 < turns.max() < 0.101
  drawn = np.corrcoef(turns, factors[factors > 0.1])
  assert abs(drawn[0, 1]) < 0.1  # 4 standard deviations


def _shares(n=2000, p=0.3):
  """Bounds of 4 standard deviations of Binomial(n, p)."""
  deviation = np.sqrt(n * p * (1 - p))
  return n * p - 4 * deviation, n * p + 4 * deviation


@pytest.mark.parametrize(
  'change',
  [
    lambda k, x, p: augment.random_jitter(k, x, 0.5, 0.5, 0.5, 0.2, p),
    augment.random_grayscale,
    augment.random_blur,
  ],
  ids=['jitter', 'grayscale', 'blur'],
)
def test_probabilities_and_same_draws_anywhere(change):
  n = 2000
  images = np.stack([_COLOURED[1, :5, :4]] * n)
  keys = _keys(n)
  compiled = jax.jit(change, static_argnums=2)
  changed = np.asarray(compiled(keys, images, 0.3))
  assert changed.dtype == np.uint8
  share = (changed != images).any(axis=(1, 2, 3))
  low, high = _shares()
  assert low < share.sum() < high
  # An image's draws are its own key's, wherever it lies.
  np.testing.assert_array_equal(
    compiled(keys[::-1], images, 0.3), changed[::-1]
  )
  with pytest.raises(ValueError, match=r'probability must be in \[0, 1\]'):
    change(keys, images, 1.5)


def test_random_grayscale_is_luma_in_three_channels():
  change = jax.jit(augment.random_grayscale, static_argnums=2)
  gray = change(_keys(8), _COLOURED, 1.0)
  np.testing.assert_array_equal(
    gray, np.repeat(augment.grayscale(_COLOURED), 3, 3)
  )


_WINDOWS = np.array(
  [
    (0, 0, 20, 24),
    (0, 0, 20, 24),
    (3, 5, 9, 7),
    (19, 23, 1, 1),
    (2, 1, 17, 23),
    (0, 10, 16, 12),
    (7, 0, 13, 4),
    (1, 3, 2, 20),
  ],
  np.int32,
)
_WHOLE = np.tile(np.array([[0, 0, 20, 24]], np.int32), (8, 1))
_resize = jax.jit(augment.resize_windows, static_argnums=(2, 3))


def test_resized_windows_are_pillows():
  # Larger along one axis than most windows, smaller along the other.
  resized = np.asarray(_resize(_signed(_COLOURED), _WINDOWS, 18, 10))
  rounded = np.asarray(_resize(_COLOURED, _WINDOWS, 18, 10), float)
  for i, (top, left, height, width) in enumerate(_WINDOWS.tolist()):
    for channel in range(3):
      window = _COLOURED[i, top : top + height, left : left + width, channel]
      # Pillow's own float32 mode, without a rounding between the two axes.
      image = Image.fromarray(window.astype(np.float32))
      theirs = image.resize((10, 18), Image.Resampling.BILINEAR)
      theirs = np.asarray(theirs, float)
      ours = 255 * _unit(resized[i, ..., channel])
      np.testing.assert_allclose(ours, theirs, atol=1e-3)
      assert abs(rounded[i, ..., channel] - theirs).max() < 0.501


def test_resized_windows_are_scale_and_translate():
  window = _signed(_COLOURED)[:, 3:12, 5:12]
  for shape in ((18, 10), (5, 6)):
    theirs = jax.image.resize(window, (8, *shape, 3), 'linear', antialias=True)
    windows = np.stack([np.array([3, 5, 9, 7], np.int32)] * 8)
    ours = _resize(_signed(_COLOURED), windows, *shape)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('kind', [np.asarray, _signed])
def test_whole_windows_change_nothing(kind):
  images = kind(_COLOURED)
  np.testing.assert_array_equal(_resize(images, _WHOLE, 20, 24), images)


def test_random_windows_may_be_whole():
  # All of the area at ratio 1 is all of a square image.
  ones = (1.0, 1.0)
  change = functools.partial(
    augment.random_resized_crop, scale=ones, ratio=ones
  )
  square = _COLOURED[:, :, :20]
  np.testing.assert_array_equal(jax.jit(change)(_keys(8), square), square)


def _drawn(random, height, width, scale, ratio):
  """Windows as torchvision draws them: ten attempts in a loop, and else."""
  for _ in range(10):
    area = height * width * random.uniform(*scale)
    side = np.exp(random.uniform(*np.log(ratio)))
    w, h = round(np.sqrt(area * side)), round(np.sqrt(area / side))
    if 0 < w <= width and 0 < h <= height:
      top = random.integers(0, height - h + 1)
      return top, random.integers(0, width - w + 1), h, w
  w, h = width, height
  if width / height < ratio[0]:
    h = round(width / ratio[0])
  elif width / height > ratio[1]:
    w = round(height * ratio[1])
  return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
  ('height', 'width', 'scale', 'ratio'),
  [
    (32, 32, (0.08, 1.0), augment.RATIO),
    # Most attempts fail, so that the centre is common: taller and wider images.
    (40, 20, (0.7, 1.0), augment.RATIO),
    (17, 40, (0.5, 1.0), (0.9, 1.4)),
  ],
)
def test_windows_are_distributed_as_torchvisions(height, width, scale, ratio):
  n = 2000
  draw = jax.jit(augment.draw_windows, static_argnums=(1, 2, 3, 4))
  ours = np.asarray(draw(_keys(n), height, width, scale, ratio))
  random = np.random.default_rng(0)
  theirs = np.array(
    [_drawn(random, height, width, scale, ratio) for _ in range(n)]
  )
  assert (ours[:, :2] >= 0).all()
  assert (ours[:, :2] + ours[:, 2:] <= [[height, width]]).all()
  for of in (
    lambda x: x[:, 0],
    lambda x: x[:, 1],
    lambda x: x[:, 2] * x[:, 3],
    lambda x: x[:, 3] / x[:, 2],
    # Where the window lies, given its size.
    lambda x: x[:, 1] / np.maximum(width - x[:, 3], 1),
  ):
    # Of two samples of one distribution, p is below 1e-4 once in 10,000.
    found = stats.ks_2samp(of(ours), of(theirs), method='asymp')
    assert found.pvalue > 1e-4


def test_resized_crops_resize_the_windows_drawn():
  keys = _keys(8)
  crop = jax.jit(augment.random_resized_crop, static_argnums=2)
  crops = crop(keys, _signed(_COLOURED), 12)
  windows = jax.jit(augment.draw_windows, static_argnums=(1, 2))(keys, 20, 24)
  np.testing.assert_allclose(
    crops, _resize(_signed(_COLOURED), windows, 12, 12), atol=1e-6
  )


_blur = jax.jit(augment.blur, static_argnums=2)


def test_blur_is_scipys():
  sigmas = np.linspace(0.1, 2, 8).astype(np.float32)
  for radius in (1, 19):
    signed = _blur(_signed(_COLOURED), sigmas, radius)
    rounded = np.asarray(_blur(_COLOURED, sigmas, radius), float)
    for i, sigma in enumerate(sigmas):
      theirs = ndimage.gaussian_filter(
        _COLOURED[i].astype(float),
        float(sigma),
        axes=(0, 1),
        mode='mirror',
        radius=radius,
      )
      ours = 255 * _unit(signed[i])
      np.testing.assert_allclose(ours, theirs, atol=1e-3)
      assert abs(rounded[i] - theirs).max() < 0.501


@pytest.mark.parametrize('kind', [np.asarray, _signed])
def test_narrow_blur_changes_nothing(kind):
  images = kind(_COLOURED)
  # exp(-1 / (2 * 0.05**2)) is 1e-87, which is 0 in float32.
  sigmas = np.full(8, 0.05, np.float32)
  np.testing.assert_array_equal(_blur(images, sigmas, 1), images)
  np.testing.assert_array_equal(_blur(images, sigmas + 1, 0), images)


def test_random_blur_draws_its_deviation_and_its_radius():
  n = 500
  # A point in the middle. 40 // 20 pixels lie to each side of the kernel's, and
  # the middle's own weight is w(sigma) = 1 / (1 + 2 e + 2 e**4), with
  # e = exp(-1 / (2 sigma**2)), along both axes.
  images = np.full([n, 40, 40, 1], -1, np.float32)
  images[:, 20, 20] = 1
  change = jax.jit(augment.random_blur, static_argnums=2)
  blurred = _unit(change(_keys(n), images, 1.0))[..., 0]
  assert ((blurred[:, 20] > 1e-6).sum(1) <= 5).all()
  assert ((blurred[:, 20] > 1e-6).sum(1) == 5).mean() > 0.5
  table = np.linspace(0.05, 2.1, 5000)
  e = np.exp(-1 / (2 * table**2))
  weights = 1 / (1 + 2 * e + 2 * e**4)
  sigmas = np.interp(-np.sqrt(blurred[:, 20, 20]), -weights, table)
  assert 1.98 < sigmas.max() < 2.001
  # Uniform in [0.1, 2]: 9 / 19 of it below 1.
  low, high = _shares(n, 9 / 19)
  assert low < (sigmas < 1).sum() < high


def test_bfloat16_stays():
  images = jax.ShapeDtypeStruct(_COLOURED.shape, jnp.bfloat16)
  change = augment.make(_SIMCLR)
  changed = jax.eval_shape(change, jax.random.key(0), images, jnp.arange(8))
  assert changed.dtype == jnp.bfloat16
  some = jnp.asarray(_signed(_COLOURED), jnp.bfloat16)
  np.testing.assert_array_equal(_resize(some, _WHOLE, 20, 24), some)


# Configs.

_SIMCLR = augment.Config(
  crop_scale=0.08,
  flip=True,
  jitter=0.5,
  grayscale_probability=0.2,
  blur_probability=0.5,
)


def _chained(rng, images, positions):
  """What `_SIMCLR` says, by hand."""
  flip_rng, crop_rng = jax.random.split(rng)
  keys = augment.example_keys(crop_rng, positions)
  x = augment.random_resized_crop(keys, images, scale=(0.08, 1.0))
  x = augment.random_flip(augment.example_keys(flip_rng, positions), x)
  x = augment.random_jitter(keys, x, 0.4, 0.4, 0.4, 0.1, 0.8)
  x = augment.random_grayscale(keys, x, 0.2)
  return augment.random_blur(keys, x, 0.5)


def test_make_chains_what_the_config_says_on_any_devices():
  rng, images = jax.random.key(5), _signed(_COLOURED)
  positions = np.arange(8)
  plain = {'xla_backend_optimization_level': 0}  # Compiles twice as fast.
  by_hand = jax.jit(_chained, compiler_options=plain)
  expected = by_hand(rng, images, positions)
  devices = jax.devices()[:2]
  mesh = jax.make_mesh(
    (len(devices),), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  changed = jax.jit(augment.make(_SIMCLR, 3))(
    rng, *jax.device_put((images, positions), split)
  )
  assert changed.sharding.is_equivalent_to(split, 4)
  # Rounding of float32, which hue divides by small chromas.
  np.testing.assert_allclose(changed, expected, atol=1e-5)


def test_make_crops_to_a_size():
  rng = jax.random.key(0)
  for config in (
    augment.Config(crop=12),
    augment.Config(crop=12, crop_scale=0.3),
  ):
    changed = jax.eval_shape(augment.make(config), rng, _COLOURED, np.arange(8))
    assert changed.shape == (8, 12, 12, 3)
    assert changed.dtype == np.uint8


def test_make_of_nothing_is_nothing():
  assert augment.make(augment.Config()) is None
  assert augment.make(augment.Config(jitter=1.0, jitter_probability=0)) is None
  assert augment.make(object()) is None


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'crop_scale': 0}, r'crop_scale must be in \(0, 1\] or None, got 0'),
    ({'crop_scale': 1.5}, r'crop_scale must be in \(0, 1\] or None, got 1.5'),
    ({'crop_padding': -1}, 'data.crop_padding must be .* >= 0, got -1'),
    ({'jitter': 3}, r'data.jitter must be in \[0, 2.5\].* got 3'),
    ({'jitter': float('nan')}, 'data.jitter must be in .* got nan'),
    ({'blur_probability': 2}, r'data.blur_probability .* \[0, 1\], got 2'),
    ({'grayscale_probability': -0.1}, 'data.grayscale_probability .* got -0.1'),
    ({'jitter_probability': 9}, 'data.jitter_probability .* got 9'),
  ],
)
def test_bad_fields_are_named(fields, words):
  with pytest.raises(ValueError, match=words):
    augment.make(augment.Config(**fields))


@pytest.mark.parametrize('name', ['jitter', 'grayscale_probability'])
def test_images_without_colours_are_named(name):
  words = rf'data.{name}=0.5 changes colours, .* one channel'
  config = augment.Config(**{name: 0.5})
  with pytest.raises(ValueError, match=words):
    augment.make(config, 1)
  assert augment.make(config, 3) is not None


def test_bad_changes_are_named():
  # Raised before anything is drawn.
  keys, one = np.zeros([8, 2], np.uint32), _COLOURED[..., :1]
  for call, words in [
    (lambda: augment.jitter(one, hue=_SHIFTS), 'three channels'),
    (lambda: augment.random_jitter(keys, _COLOURED, hue=0.6), r'hue .* 0.6'),
    (lambda: augment.random_jitter(keys, _COLOURED, -1.0), 'brightness .* -1'),
    (lambda: augment.random_grayscale(keys, one, 0.5), 'three channels'),
    (lambda: augment.random_blur(keys, one, sigma=(0, 1)), r'sigma .*\(0, 1\)'),
    (lambda: augment.random_blur(keys, one, radius=20), 'from 0 to 19 .* 20'),
    (lambda: augment.random_resized_crop(keys, one, 0), 'size .* got 0'),
    (
      lambda: augment.random_resized_crop(keys, one, scale=(0.5, 1.2)),
      r'scale .*\(0.5, 1.2\)',
    ),
    (
      lambda: augment.random_resized_crop(keys, one, ratio=(2, 1)),
      r'ratio .*\(2, 1\)',
    ),
    (lambda: augment.random_blur(keys[:2], one), 'one key an image'),
    (lambda: augment.random_blur(keys, one.astype(np.int32)), 'got int32'),
  ]:
    with pytest.raises(ValueError, match=words):
      call()
