"""Random changes to images on the device, seeded per example.

Each example's key comes from its position in the global batch, so the result
does not depend on how the batch is divided over devices:

    keys = augment.example_keys(rng, positions)
    images = augment.random_flip(keys, images)
    images = augment.random_crop(keys, images, padding=4)

The same keys may go to every function here: each derives its own from them.
`make` does what a `Config` says, in this order: crop or resized crop, flip,
padded crop, jitter, grayscale, blur.

Images are uint8, or floats in [-1, 1], and stay what they are: colours and
resampled pixels are computed in float32, then uint8 is rounded to the nearest
level.

Chen et al., A simple framework for contrastive learning of visual
representations (SimCLR), ICML 2020, appendix A: https://arxiv.org/abs/2002.05709
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks, random

# What goes in as NumPy's comes out as NumPy's, without a device.
_Array = TypeVar('_Array', np.ndarray, jax.Array)

# Sides of resized crops, width by height, as everybody has them.
RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10
# SimCLR's greatest changes at strength 1.
_JITTERS = {'brightness': 0.8, 'contrast': 0.8, 'saturation': 0.8, 'hue': 0.2}


@dataclasses.dataclass(kw_only=True)
class Config:
  """What happens to training images at random."""

  crop: int | None = None
  """Training images are random crops of so many pixels a side, all others the
  centre's."""
  crop_scale: float | None = None
  """Random crops cover this fraction of an image to all of it, with sides from
  3:4 to 4:3, and are resized to `crop` pixels a side, or to the image's own
  size. 0.08 in SimCLR."""
  flip: bool = False
  """Mirror training images at random."""
  crop_padding: int = 0
  """Pad training images by this many pixels, then crop at random."""
  jitter: float = 0.0
  """Strength of random changes of brightness, contrast and saturation, each by
  up to 80 % at 1, and hue, by up to a fifth of the circle. 1 in SimCLR, 0.5 on
  CIFAR-10."""
  jitter_probability: float = 0.8
  """The fraction of images that jitter changes."""
  grayscale_probability: float = 0.0
  """The fraction of training images that lose their colours, but keep three
  channels. 0.2 in SimCLR."""
  blur_probability: float = 0.0
  """The fraction of training images blurred by a Gaussian of 0.1 to 2 pixels,
  cut off at a twentieth of the image. 0.5 in SimCLR."""


_RANGES = {
  'crop': 'int [1, inf) or None',
  'crop_scale': '(0, 1] or None',
  'crop_padding': 'int [0, inf)',
  'jitter': '[0, 2.5]',  # beyond which hue goes around
  'jitter_probability': '[0, 1]',
  'grayscale_probability': '[0, 1]',
  'blur_probability': '[0, 1]',
}


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  checks.check_fields(config, _RANGES, 'data.')


def make(
  config: Any, channels: int | None = None
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None:
  """What a config of data does to training images.

  Args:
    config: a `Config`, or that of other data, which nothing changes.
    channels: of the images, if they are known.

  Returns:
    `(rng, images [n, H, W, C], positions [n]) -> images`, where positions count
    within the global batch; None where nothing changes.

  Raises:
    ValueError: a field cannot be used, or the images have no colours to change.
  """
  if not isinstance(config, Config):
    return None
  check(config)
  jitters = config.jitter > 0 and config.jitter_probability > 0
  if channels == 1:
    for name in ('jitter',) * jitters + ('grayscale_probability',):
      if value := getattr(config, name):
        raise ValueError(
          f'data.{name}={value} changes colours, which images of one '
          f'channel do not have: set data.{name}=0.'
        )
  if not (
    config.crop is not None
    or config.crop_scale is not None
    or config.flip
    or config.crop_padding
    or jitters
    or config.grayscale_probability
    or config.blur_probability
  ):
    return None

  def apply(
    rng: jax.Array, images: jax.Array, positions: jax.Array
  ) -> jax.Array:
    flip_rng, crop_rng = jax.random.split(rng)
    keys = example_keys(crop_rng, positions)
    if config.crop_scale is not None:
      scale = (config.crop_scale, 1.0)
      images = random_resized_crop(keys, images, config.crop, scale=scale)
    elif config.crop is not None:
      images = random_window(keys, images, config.crop)
    if config.flip:
      images = random_flip(example_keys(flip_rng, positions), images)
    if config.crop_padding:
      images = random_crop(keys, images, config.crop_padding)
    if jitters:
      most = {name: config.jitter * x for name, x in _JITTERS.items()}
      chance = config.jitter_probability
      images = random_jitter(keys, images, probability=chance, **most)
    if config.grayscale_probability:
      images = random_grayscale(keys, images, config.grayscale_probability)
    if config.blur_probability:
      images = random_blur(keys, images, config.blur_probability)
    return images

  return apply


def _domain_keys(keys: jax.Array, domain: int) -> jax.Array:
  return jax.vmap(lambda key: random.branch(key, domain))(keys)


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
    pixels = operator.index(size)
  except TypeError:
    pixels = 0
  if not 1 <= pixels <= min(height, width):
    raise ValueError(
      f'size must be a whole number from 1 to {min(height, width)} for images '
      f'of {height}x{width} pixels; got {size!r}.'
    )
  return pixels


def _check(keys: jax.Array, images: jax.Array) -> None:
  _check_images(images)
  if keys.shape[:1] != images.shape[:1]:
    raise ValueError(
      f'There must be one key an image; got keys of shape '
      f'{tuple(keys.shape)} for images of shape {tuple(images.shape)}. '
      'Make them with example_keys(rng, positions).'
    )


def _uniform(keys: jax.Array, domain: int, count: int) -> jax.Array:
  """Draws in [0, 1), [N, count]."""
  draw = functools.partial(jax.random.uniform, shape=(count,))
  return jax.vmap(draw)(_domain_keys(keys, domain))


def _check_within(name: str, value: float, low: float, high: float) -> None:
  if not low <= value <= high:
    raise ValueError(f'{name} must be in [{low}, {high}]; got {value}.')


def _as_float(images: jax.Array | np.ndarray) -> jax.Array:
  """Images in [-1, 1], float32."""
  _check_images(images)
  if images.dtype == np.uint8:
    return jnp.asarray(images, jnp.float32) / 127.5 - 1
  if jnp.issubdtype(images.dtype, jnp.floating):
    return jnp.asarray(images, jnp.float32)
  raise ValueError(
    f'images must be uint8 or floating point; got {images.dtype}.'
  )


def _as_given(x: jax.Array, images: jax.Array | np.ndarray) -> jax.Array:
  """Values in [-1, 1] in the dtype of the images that they came from."""
  if images.dtype == np.uint8:
    x = jnp.round((x + 1) * 127.5)
  return x.astype(images.dtype)


def _some(
  draws: jax.Array, probability: float, changed: jax.Array, images: jax.Array
) -> jax.Array:
  """The changed images where draws [N] in [0, 1) are below the probability."""
  chosen = draws < probability
  return jnp.where(chosen[:, None, None, None], changed, images)


def example_keys(rng: jax.Array, positions: jax.Array) -> jax.Array:
  """One key an example, from the step's key and the example's position.

  Args:
    rng: the step's key, such as fold_in(seed's key, step).
    positions: the examples' positions in the global batch, int [N]. A device
      that holds a slice of the batch passes that slice of the positions.

  Returns:
    Keys [N] (raw keys: [N, 2]).
  """
  return jax.vmap(functools.partial(random.branch, rng))(positions)


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
  flip = jax.vmap(jax.random.bernoulli)(
    _domain_keys(keys, random.OfExample.FLIP)
  )
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
  offsets = jax.vmap(draw)(_domain_keys(keys, random.OfExample.CROP))
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
  offsets = jax.vmap(draw)(_domain_keys(keys, random.OfExample.WINDOW))

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
  luma = _luma([red, green, blue])
  return luma.astype(images.dtype)  # NumPy widens bfloat16


# Resampling.


def _resample(
  images: jax.Array, rows: jax.Array, columns: jax.Array
) -> jax.Array:
  """Weighted sums of pixels, along both axes.

  Args:
    images: [N, H, W, C].
    rows: weights [N, h, H], each row of which sums to 1.
    columns: likewise, [N, w, W].

  Returns:
    [N, h, w, C].
  """
  # Other precisions would round pixels to 8 or 10 bits on accelerators.
  sums = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  x = sums('nhH,nHWC->nhWC', rows, _as_float(images))
  x = sums('nwW,nhWC->nhwC', columns, x)
  return _as_given(jnp.clip(x, -1, 1), images)


def _triangles(
  starts: jax.Array, lengths: jax.Array, size: int, out: int
) -> jax.Array:
  """Weights [N, out, size] that resize pixels start..start + length to `out`.

  A triangle around each new pixel's place, as wide as two old pixels or, where
  there are fewer new ones than old, two new ones; cut off at the window.
  """
  step = (lengths / out)[:, None]
  places = starts[:, None] + (jnp.arange(out)[None] + 0.5) * step
  pixels = jnp.arange(size)[None, None]
  distance = jnp.abs(pixels + 0.5 - places[:, :, None])
  weights = jnp.maximum(0, 1 - distance / jnp.maximum(step, 1)[:, :, None])
  first = starts[:, None, None]
  inside = (first <= pixels) & (pixels < first + lengths[:, None, None])
  weights = jnp.where(inside, weights, 0)
  return weights / weights.sum(2, keepdims=True)


def resize_windows(
  images: jax.Array, windows: jax.Array, height: int, width: int
) -> jax.Array:
  """Cuts a window out of each image and resizes it, bilinear with antialiasing.

  As Pillow's crop and resize do; no pixel outside of a window counts.

  Args:
    images: [N, H, W, C], uint8 or floats in [-1, 1].
    windows: top, left, height and width in pixels, int [N, 4], within the
      images.
    height: pixels of the result.
    width: likewise.

  Returns:
    [N, height, width, C] of the same dtype.
  """
  top, left, high, wide = (windows[:, i] for i in range(4))
  return _resample(
    images,
    _triangles(top, high, images.shape[1], height),
    _triangles(left, wide, images.shape[2], width),
  )


def draw_windows(
  keys: jax.Array,
  height: int,
  width: int,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = RATIO,
) -> jax.Array:
  """Draws the windows of random resized crops, with torchvision's distribution.

  A window's area is uniform between `scale` of the image's, and the logarithm
  of its width by its height is uniform too; the first of ten draws that lies
  within the image counts. Where none does, it is the centre's largest window of
  an accepted ratio.

  Args:
    keys: from `example_keys`, [N].
    height: pixels of the images.
    width: likewise.
    scale: least and greatest fraction of the image's area.
    ratio: least and greatest width by height.

  Returns:
    Top, left, height and width in pixels, int32 [N, 4].

  Raises:
    ValueError: scale is not within (0, 1], ratio is not above 0, or either is
      not in order.
  """
  if not 0 < scale[0] <= scale[1] <= 1:
    raise ValueError(
      f'scale must hold two fractions 0 < low <= high <= 1; got {scale}.'
    )
  if not 0 < ratio[0] <= ratio[1] < math.inf:
    raise ValueError(f'ratio must hold 0 < low <= high; got {ratio}.')
  draws = _uniform(keys, random.OfExample.RESIZED, 2 * _ATTEMPTS + 2)
  areas, sides, places = jnp.split(draws, [_ATTEMPTS, 2 * _ATTEMPTS], 1)
  low, high = math.log(ratio[0]), math.log(ratio[1])
  area = height * width * (scale[0] + areas * (scale[1] - scale[0]))
  side = jnp.exp(low + sides * (high - low))
  wide = jnp.round(jnp.sqrt(area * side))
  tall = jnp.round(jnp.sqrt(area / side))
  fits = (0 < wide) & (wide <= width) & (0 < tall) & (tall <= height)

  nearest = min(max(width / height, ratio[0]), ratio[1])
  middle = (
    (round(width / nearest), width)
    if nearest > width / height
    else (height, round(height * nearest))
  )
  first = fits.argmax(1)[:, None]
  any_fits = fits.any(1)[:, None]
  sizes = jnp.concatenate(
    [jnp.take_along_axis(x, first, 1) for x in (tall, wide)], 1
  )
  sizes = jnp.where(any_fits, sizes, jnp.array(middle)[None])
  room = jnp.array([height, width])[None] - sizes
  # Each offset 0..room is equally likely.
  starts = jnp.where(
    any_fits, jnp.floor(places * (room + 1)), jnp.floor(room / 2)
  )
  return jnp.concatenate([starts, sizes], 1).astype(jnp.int32)


def random_resized_crop(
  keys: jax.Array,
  images: jax.Array,
  size: int | None = None,
  *,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = RATIO,
) -> jax.Array:
  """Resizes a random part of each image; see `draw_windows`, `resize_windows`.

  Args:
    keys: from `example_keys`, [N].
    images: [N, H, W, C], uint8 or floats in [-1, 1].
    size: height and width of the result; those of the images if None.
    scale: least and greatest fraction of the image's area.
    ratio: least and greatest width by height.

  Returns:
    [N, size, size, C] of the same dtype.

  Raises:
    ValueError: size, scale or ratio cannot be used, the images are of another
      shape or dtype, or there is not one key an image.
  """
  _check(keys, images)
  if size is not None and operator.index(size) < 1:
    raise ValueError(f'size must be at least 1; got {size}.')
  height, width = images.shape[1:3]
  windows = draw_windows(keys, height, width, scale, ratio)
  return resize_windows(images, windows, size or height, size or width)


def blur(images: jax.Array, sigmas: jax.Array, radius: int) -> jax.Array:
  """Convolves each image with a Gaussian of its own, along both axes.

  Beyond the border lie the pixels before it, mirrored at the outermost one.

  Args:
    images: [N, H, W, C], uint8 or floats in [-1, 1].
    sigmas: standard deviations in pixels, [N].
    radius: pixels to each side of the kernel's middle, below H and W.

  Returns:
    [N, H, W, C] of the same dtype.

  Raises:
    ValueError: the radius or the images cannot be used.
  """
  _check_images(images)
  height, width = images.shape[1:3]
  if not 0 <= operator.index(radius) < min(height, width):
    raise ValueError(
      f'radius must be from 0 to {min(height, width) - 1} for images of '
      f'{height}x{width} pixels; got {radius}.'
    )
  scaled = 1 / (jnp.sqrt(2.0) * sigmas)

  def bell(distance: np.ndarray, counts: np.ndarray) -> jax.Array:
    exponent = (jnp.asarray(distance)[None] * scaled[:, None, None]) ** 2
    near = counts & (np.abs(distance) <= radius)
    return jnp.where(near[None], jnp.exp(-exponent), 0)

  def weights(size: int) -> jax.Array:
    # A pixel counts by its distance, and by that of its mirror images, of which
    # the outermost pixels have none beyond their own border.
    out, pixel = np.mgrid[:size, :size]
    total = bell(out - pixel, pixel >= 0)
    total += bell(out + pixel, pixel > 0)
    total += bell(2 * (size - 1) - out - pixel, pixel < size - 1)
    return total / total.sum(2, keepdims=True)

  return _resample(images, weights(height), weights(width))


def random_blur(
  keys: jax.Array,
  images: jax.Array,
  probability: float = 0.5,
  *,
  sigma: tuple[float, float] = (0.1, 2.0),
  radius: int | None = None,
) -> jax.Array:
  """Blurs images at random, each with a standard deviation of its own.

  Args:
    keys: from `example_keys`, [N].
    images: [N, H, W, C], uint8 or floats in [-1, 1].
    probability: of an image to change.
    sigma: least and greatest standard deviation in pixels, uniform between.
    radius: as of `blur`; a twentieth of the shorter side, but at least 1, if
      None: SimCLR's kernel of a tenth of the image.

  Returns:
    [N, H, W, C] of the same dtype.

  Raises:
    ValueError: an argument cannot be used, or there is not one key an image.
  """
  _check(keys, images)
  _check_within('probability', probability, 0, 1)
  if not 0 < sigma[0] <= sigma[1]:
    raise ValueError(f'sigma must hold 0 < low <= high; got {sigma}.')
  if radius is None:
    radius = max(1, min(images.shape[1:3]) // 20)
  chosen, where = jnp.split(_uniform(keys, random.OfExample.BLUR, 2), 2, 1)
  sigmas = sigma[0] + where[:, 0] * (sigma[1] - sigma[0])
  blurred = blur(images, sigmas, radius)
  return _some(chosen[:, 0], probability, blurred, images)


# Colours.


def _luma(planes: list[Any]) -> Any:
  """Of a red, a green and a blue plane; one plane is its own."""
  if len(planes) == 1:
    return planes[0]
  red, green, blue = planes
  return 0.299 * red + 0.587 * green + 0.114 * blue


def _rotate_hue(planes: list[jax.Array], shifts: jax.Array) -> list[jax.Array]:
  """Planes whose hue of HSV is `shifts` [N, 1, 1] turns further.

  With value v, chroma c and hue h in sixths of the circle, a channel is
  v - c clip(min(k, 4 - k), 0, 1), k = (n + h) mod 6, n = 5, 3, 1. It holds for
  any origin of the values, as c and h are differences.
  """
  red, green, blue = planes
  value = functools.reduce(jnp.maximum, planes)
  chroma = value - functools.reduce(jnp.minimum, planes)
  divisor = jnp.where(chroma > 0, chroma, 1)
  from_green = 2 + (blue - red) / divisor
  from_blue = 4 + (red - green) / divisor
  hue = jnp.where(value == green, from_green, from_blue)
  hue = jnp.where(value == red, (green - blue) / divisor, hue) + 6 * shifts
  rotated = []
  for n, plane in zip((5, 3, 1), planes, strict=True):
    # XLA's remainder is several times slower on a CPU.
    k = n + hue - 6 * jnp.floor((n + hue) / 6)
    x = value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    # Unshifted colours stay bitwise identical.
    rotated.append(jnp.where(shifts == 0, plane, x))
  return rotated


def jitter(
  images: jax.Array,
  *,
  brightness: jax.Array | None = None,
  contrast: jax.Array | None = None,
  saturation: jax.Array | None = None,
  hue: jax.Array | None = None,
) -> jax.Array:
  """Changes colours as asked for, in the order of the arguments.

  Brightness is the factor on an image, black being 0; contrast that on its
  difference from its mean luma; saturation that on its difference from its
  luma, `grayscale`. What lies outside of an image's range is cut off after
  each.

  Args:
    images: [N, H, W, 3], uint8 or floats in [-1, 1]; or [N, H, W, 1] for
      brightness and contrast alone.
    brightness: factors >= 0, [N]; as of those below, None changes nothing.
    contrast: factors >= 0, [N].
    saturation: factors >= 0, [N].
    hue: shifts in turns of HSV's circle, [N].

  Returns:
    Images of the same shape and dtype.

  Raises:
    ValueError: the images cannot be used.
  """
  _check_images(images)
  channels = images.shape[3]
  coloured = saturation is not None or hue is not None
  if channels != 3 and (channels != 1 or coloured):
    raise ValueError(
      'jitter takes images of three channels, or of one for brightness and '
      f'contrast alone; got shape {tuple(images.shape)}.'
    )
  x = _as_float(images)
  # Planes: each step on all channels at once was three times slower on a CPU.
  planes = [x[..., i] for i in range(channels)]

  def scale_from(origin: Any, factors: jax.Array) -> list[jax.Array]:
    # A factor of 1 gives bitwise identical colours.
    more = factors[:, None, None] - 1
    return [jnp.clip(x + more * (x - origin), -1, 1) for x in planes]

  if brightness is not None:
    planes = scale_from(-1, brightness)
  if contrast is not None:
    planes = scale_from(_luma(planes).mean((1, 2), keepdims=True), contrast)
  if saturation is not None:
    planes = scale_from(_luma(planes), saturation)
  if hue is not None:
    planes = _rotate_hue(planes, hue[:, None, None])
  return _as_given(jnp.stack(planes, -1), images)


def random_jitter(
  keys: jax.Array,
  images: jax.Array,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  probability: float = 1.0,
) -> jax.Array:
  """Changes colours at random, in the order of the arguments.

  SimCLR and torchvision draw the order, too. Compiled for a batch, each change
  would be computed four times for that.

  Args:
    keys: from `example_keys`, [N].
    images: [N, H, W, 3], uint8 or floats in [-1, 1]; or [N, H, W, 1] for
      brightness and contrast alone.
    brightness: factors are uniform in [max(0, 1 - brightness), 1 + brightness].
    contrast: likewise.
    saturation: likewise.
    hue: shifts are uniform in [-hue, hue], in turns; at most 0.5.
    probability: of an image to change.

  Returns:
    Images of the same shape and dtype.

  Raises:
    ValueError: an argument cannot be used, or there is not one key an image.
  """
  _check(keys, images)
  _check_within('probability', probability, 0, 1)
  _check_within('hue', hue, 0, 0.5)
  factors = {
    'brightness': brightness,
    'contrast': contrast,
    'saturation': saturation,
  }
  for name, most in factors.items():
    _check_within(name, most, 0, math.inf)
  draws = _uniform(keys, random.OfExample.JITTER, 5)
  values: dict[str, jax.Array] = {}
  if hue:
    values['hue'] = hue * (2 * draws[:, 0] - 1)
  for i, (name, most) in enumerate(factors.items(), start=1):
    if most:
      least = max(0.0, 1 - most)
      values[name] = least + draws[:, i] * (1 + most - least)
  return _some(draws[:, 4], probability, jitter(images, **values), images)


def random_grayscale(
  keys: jax.Array, images: jax.Array, probability: float
) -> jax.Array:
  """Turns images gray at random; they keep three channels.

  Args:
    keys: from `example_keys`, [N].
    images: [N, H, W, 3], uint8 or floating point.
    probability: of an image to change.

  Returns:
    [N, H, W, 3] of the same dtype.

  Raises:
    ValueError: the probability or the images cannot be used, or there is not
      one key an image.
  """
  _check(keys, images)
  _check_within('probability', probability, 0, 1)
  draws = _uniform(keys, random.OfExample.GRAYSCALE, 1)[:, 0]
  return _some(draws, probability, grayscale(images), images)
