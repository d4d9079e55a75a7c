"""Structural similarity of images: SSIM on one scale and on several.

The similarity of two windows is a product of luminance, contrast and structure,
1 for equal windows; an image's is the mean over windows and channels. Images
are of any float range, whose length `data_range` tells: 2 for [-1, 1], 1 for
[0, 1], 255 for bytes.

Wang et al., Image quality assessment: from error visibility to structural
similarity, 2004: https://doi.org/10.1109/TIP.2003.819861
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks

WINDOW = 11
_STD = 1.5
_K1, _K2 = 0.01, 0.03
# Of the scales, the finest first; Wang, Simoncelli and Bovik measured them.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim(a: jax.Array, b: jax.Array, data_range: float) -> jax.Array:
  """Computes the structural similarity of pairs of images.

  The windows are Gaussians of 11x11 pixels and a standard deviation of 1.5
  pixels, and lie within the image.

  Args:
    a: images, float [n, H, W, C], H and W at least 11.
    b: images, of the same shape.
    data_range: the length of the range that pixels can be in.

  Returns:
    [n], at most 1.

  Raises:
    ValueError: the shapes differ or are too small, or the range is not above 0.
  """
  _check(a, b, data_range)
  luminance, contrast = _similarities(a, b, data_range, gaussian(_STD))
  return jnp.mean(luminance * contrast, axis=(1, 2, 3))


def scales_for(height: int, width: int) -> int:
  """Counts the scales, at most five, at which a window fits an image."""
  side, scales = min(height, width), 0
  while side >= WINDOW and scales < len(WEIGHTS):
    side, scales = -(-side // 2), scales + 1
  return scales


def multiscale_ssim(
  a: jax.Array, b: jax.Array, data_range: float, scales: int | None = None
) -> jax.Array:
  r"""Computes the multi-scale structural similarity of pairs of images.

  .. math:: l_M^{w_M} \prod_{j=1}^{M} (cs)_j^{w_j}

  cs is contrast times structure, averaged over the windows of scale j; l the
  luminance, which counts at the coarsest scale M alone. An image is halved by
  means of 2x2 pixels. Where fewer than the five scales fit, the weights of the
  finest ones are divided by their sum: values of other numbers of scales do not
  compare. A negative mean counts as 0, which has no fractional power.

  Args:
    a: images, float [n, H, W, C].
    b: images, of the same shape.
    data_range: the length of the range that pixels can be in.
    scales: M; by default `scales_for` the size.

  Returns:
    [n], from 0 to 1; the mean over channels.

  Raises:
    ValueError: as `ssim`, or so many scales do not fit.

  References:
    Wang, Simoncelli and Bovik, Multi-scale structural similarity for image
    quality assessment, 2003: https://doi.org/10.1109/ACSSC.2003.1292216
  """
  _check(a, b, data_range)
  most = scales_for(*a.shape[1:3])
  scales = most if scales is None else scales
  checks.check_range(
    f'scales, of images of {a.shape[1]}x{a.shape[2]} pixels,',
    scales,
    f'int [1, {most}]',
  )
  weights = np.asarray(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
  product = jnp.ones((len(a), a.shape[-1]), jnp.float32)
  for j, weight in enumerate(weights.tolist()):
    luminance, contrast = _similarities(a, b, data_range, gaussian(_STD))
    last = j == scales - 1
    of_scale = luminance * contrast if last else contrast
    mean = jnp.maximum(jnp.mean(of_scale, axis=(1, 2)), 0.0)
    product *= mean**weight
    if not last:
      a, b = _halved(a), _halved(b)
  return jnp.mean(product, axis=1)


def dim_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes what Deep InfoMax's released code calls MS-SSIM.

  It has one scale, constants for pixels in [0, 1] though they are in [-1, 1],
  windows that reach beyond the image into zeros, and a standard deviation of 11
  pixels, the window's size, which that code gives in the place of 1.5.

  Args:
    a: images in [-1, 1], float [n, H, W, C].
    b: images, of the same shape.

  Returns:
    [n], at most 1.

  Raises:
    ValueError: the shapes differ.

  References:
    `ms_ssim` of cortex_DIM/functions/misc.py, https://github.com/rdevon/DIM
  """
  _check(a, b, 1.0, least=1)
  luminance, contrast = _similarities(a, b, 1.0, gaussian(WINDOW), WINDOW // 2)
  return jnp.mean(luminance * contrast, axis=(1, 2, 3))


def gaussian(std: float, size: int = WINDOW) -> np.ndarray:
  """Computes the weights [size] of a Gaussian window, which sum to 1."""
  offsets = np.arange(size) - size // 2
  weights = np.exp(-(offsets**2) / (2 * std**2))
  return weights / np.sum(weights)


def _check(
  a: jax.Array, b: jax.Array, data_range: float, least: int = WINDOW
) -> None:
  checks.check_range('data_range', data_range, '(0, inf)')
  if a.ndim != 4 or a.shape != b.shape:
    raise ValueError(
      'images are compared as two arrays [n, H, W, C] of one shape, got '
      f'{tuple(a.shape)} and {tuple(b.shape)}.'
    )
  if min(a.shape[1:3]) < least:
    raise ValueError(
      f'images of {a.shape[1]}x{a.shape[2]} pixels are smaller than the window '
      f'of {WINDOW}x{WINDOW}: enlarge them.'
    )


def _similarities(
  a: jax.Array,
  b: jax.Array,
  data_range: float,
  window: np.ndarray,
  padding: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Computes luminance, and contrast times structure, of every window."""
  c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  maps = jnp.stack([a, b, a * a, b * b, a * b])
  mean_a, mean_b, square_a, square_b, product = _blurred(maps, window, padding)
  variances = square_a - mean_a**2 + square_b - mean_b**2
  covariance = product - mean_a * mean_b
  luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  return luminance, (2 * covariance + c2) / (variances + c2)


def _blurred(x: jax.Array, window: np.ndarray, padding: int) -> jax.Array:
  """Blurs maps [..., H, W, C] along both axes, by matrix products."""
  rows, columns = (
    _band(size, window, padding).astype(np.float32) for size in x.shape[-3:-1]
  )
  # Variances are small differences of what is computed here.
  return jnp.einsum(
    'oh,...hwc,pw->...opc', rows, x, columns, precision='highest'
  )


def _band(size: int, window: np.ndarray, padding: int) -> np.ndarray:
  """Returns the matrix of a convolution of [size], padded by zeros."""
  outputs = size + 2 * padding - len(window) + 1
  at = np.arange(size)[None] - np.arange(outputs)[:, None] + padding
  inside = (at >= 0) & (at < len(window))
  return np.where(inside, window[np.clip(at, 0, len(window) - 1)], 0.0)


def _halved(x: jax.Array) -> jax.Array:
  """Averages 2x2 pixels; an odd last row or column is repeated."""
  n, height, width, channels = x.shape
  x = jnp.pad(x, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], 'edge')
  shape = (n, math.ceil(height / 2), 2, math.ceil(width / 2), 2, channels)
  return jnp.mean(x.reshape(shape), axis=(2, 4))
