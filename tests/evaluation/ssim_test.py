"""Structural similarity against SciPy, and against closed forms."""

import jax
import numpy as np
import pytest
from scipy import ndimage, signal

from dim_jax.evaluation import ssim


def _images(height, width, channels=3, n=2):
  """Smooth images in [-1, 1], and noisy copies of them."""
  rng = np.random.default_rng(0)
  a = ndimage.gaussian_filter(
    rng.uniform(-1, 1, (n, height, width, channels)), (0, 2, 2, 0)
  )
  a = np.clip(4 * a, -1, 1)
  return a, np.clip(a + rng.normal(0, 0.3, a.shape), -1, 1)


def _window(std):
  offsets = np.arange(-5, 6)
  squares = offsets[:, None] ** 2 + offsets[None] ** 2
  window = np.exp(-squares / (2 * std**2))
  return window / window.sum()


def _terms(x, y, data_range, std=1.5, mode='valid'):
  """Luminance and contrast-structure maps of two planes, by their definition.

  Moments are weighted sums over windows; variances are about the window's mean.
  """
  window = _window(std)

  def mean(plane):
    return signal.convolve2d(plane, window, mode=mode)

  c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
  luminance = (2 * mean(x) * mean(y) + c1) / (mean(x) ** 2 + mean(y) ** 2 + c1)
  covariance = mean(x * y) - mean(x) * mean(y)
  variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
  return luminance, (2 * covariance + c2) / (variances + c2)


def _planes(a, b):
  """Pairs of planes, image by image."""
  return [[(x[..., c], y[..., c]) for c in range(a.shape[-1])]
          for x, y in zip(a, b, strict=True)]  # fmt: skip


@pytest.mark.parametrize('data_range', [1.0, 2.0])
def test_ssim_against_scipy(data_range):
  a, b = _images(17, 20)
  expected = [
    np.mean([np.prod(_terms(x, y, data_range), axis=0) for x, y in image])
    for image in _planes(a, b)
  ]
  np.testing.assert_allclose(ssim.ssim(a, b, data_range), expected, rtol=2e-5)


def test_dim_ssim_against_scipy():
  # The released code: zeros around the image, std 11, constants of [0, 1].
  a, b = _images(16, 16)
  expected = [
    np.mean([np.prod(_terms(x, y, 1.0, 11, 'same'), axis=0) for x, y in image])
    for image in _planes(a, b)
  ]
  np.testing.assert_allclose(ssim.dim_ssim(a, b), expected, rtol=2e-5)


def test_multiscale_ssim_against_scipy():
  # 45 -> 23 -> 12 pixels: three scales, with odd sizes on the way.
  a, b = _images(45, 46, channels=2)
  assert ssim.scales_for(45, 46) == 3
  weights = np.array([0.0448, 0.2856, 0.3001])
  weights /= weights.sum()

  def halved(plane):
    # Each output pixel averages itself and its neighbours down and right, of
    # which those outside repeat the edge.
    sums = ndimage.correlate(plane, np.ones((2, 2)), mode='nearest', origin=-1)
    return sums[::2, ::2] / 4

  def of_planes(x, y):
    values = []
    for j in range(3):
      luminance, contrast = _terms(x, y, 2.0)
      values.append(np.mean(luminance * contrast if j == 2 else contrast))
      x, y = halved(x), halved(y)
    return np.prod(np.array(values) ** weights)

  expected = [
    np.mean([of_planes(*p) for p in image]) for image in _planes(a, b)
  ]
  np.testing.assert_allclose(
    jax.jit(ssim.multiscale_ssim, static_argnums=2)(a, b, 2.0),
    expected,
    rtol=5e-5,
  )


def test_identical_images_are_1():
  a, _ = _images(24, 24)
  for value in (ssim.ssim(a, a, 2.0), ssim.multiscale_ssim(a, a, 2.0)):
    np.testing.assert_allclose(value, 1, rtol=1e-5)
  np.testing.assert_allclose(ssim.dim_ssim(a, a), 1, rtol=1e-5)


def test_constant_images_have_a_closed_form():
  # Without variance, contrast and structure are c2 / c2 = 1, and luminance is
  # (2 x y + c1) / (x^2 + y^2 + c1) of every window, with c1 = (0.01 * 2)^2.
  x, y = 0.5, 0.1
  a, b = (np.full((1, 22, 22, 1), value) for value in (x, y))
  luminance = (2 * x * y + 4e-4) / (x**2 + y**2 + 4e-4)
  np.testing.assert_allclose(ssim.ssim(a, b, 2.0), luminance, rtol=1e-4)
  # 22 -> 11 pixels: two scales, and luminance at the second alone.
  weight = 0.2856 / (0.0448 + 0.2856)
  np.testing.assert_allclose(
    ssim.multiscale_ssim(a, b, 2.0), luminance**weight, rtol=1e-4
  )


@pytest.mark.parametrize('gain', [0.9, 0.5, 0.1])
def test_less_contrast_gives_the_derived_value(gain):
  # A checkerboard has a mean of about 0 in every window and variance v = 1;
  # against gain times itself, contrast-structure is
  # (2 g v + c2) / ((1 + g^2) v + c2), and luminance c1 / c1.
  board = np.where(np.indices((16, 16)).sum(0) % 2, 1.0, -1.0)[None, :, :, None]
  c2 = (0.03 * 2) ** 2
  expected = (2 * gain + c2) / (1 + gain**2 + c2)
  np.testing.assert_allclose(
    ssim.ssim(board, gain * board, 2.0), expected, rtol=1e-4
  )


def test_opposite_images_are_0_on_several_scales():
  # Structure is -1, which has no fractional power: it counts as 0.
  board = np.where(np.indices((24, 24)).sum(0) % 2, 1.0, -1.0)[None, :, :, None]
  assert ssim.ssim(board, -board, 2.0) < -0.99
  assert ssim.multiscale_ssim(board, -board, 2.0) == 0


def test_scales_by_hand():
  # 176, 88, 44, 22, 11 are five; 175 is rounded up on the way, and 21 is not.
  sizes = {10: 0, 11: 1, 20: 1, 21: 2, 32: 2, 64: 3, 96: 4, 175: 5, 500: 5}
  assert {n: ssim.scales_for(n, n) for n in sizes} == sizes
  assert ssim.scales_for(64, 11) == 1


def test_errors():
  a = np.zeros((1, 12, 12, 1))
  with pytest.raises(ValueError, match=r'one shape, got .*12, 1\) and .*12, 3'):
    ssim.ssim(a, np.zeros((1, 12, 12, 3)), 2.0)
  with pytest.raises(
    ValueError, match='8x8 pixels are smaller than the window'
  ):
    ssim.ssim(a[:, :8, :8], a[:, :8, :8], 2.0)
  with pytest.raises(ValueError, match='data_range must be > 0, got 0'):
    ssim.ssim(a, a, 0)
  with pytest.raises(ValueError, match='of 12x12 pixels, must be a whole'):
    ssim.multiscale_ssim(a, a, 2.0, scales=2)
