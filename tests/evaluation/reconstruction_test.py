"""Decoders of features: what they can tell, and what they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.evaluation import reconstruction
from dim_jax.networks import decoders


class _Linear(nn.Module):
  """One linear map, without batch statistics."""

  shape: tuple[int, int, int]

  @nn.compact
  def __call__(self, x, *, train):
    del train
    return nn.Dense(int(np.prod(self.shape)))(x).reshape(-1, *self.shape)


_SETTINGS = reconstruction.Settings(
  epochs=300, decay_epochs=(200,), learning_rate=0.01, batch_size=50
)


def test_a_linear_decoder_reaches_the_least_squares():
  # Images are linear in two numbers, of which the features hold one: what is
  # left is the variance of the other one's part, by least squares.
  rng = np.random.default_rng(0)
  codes = rng.uniform(-1, 1, (250, 2))
  patterns = rng.uniform(-40, 40, (2, 12 * 12))
  flat = np.round(128 + codes @ patterns)
  images = flat.reshape(-1, 12, 12, 1).astype(np.uint8)
  features = codes[:, :1].astype(np.float32)
  inputs = np.concatenate([np.ones((200, 1)), codes[:200, :1]], axis=1)
  solution, *_ = np.linalg.lstsq(inputs, flat[:200])
  test = np.concatenate([np.ones((50, 1)), codes[200:, :1]], axis=1)
  expected = np.mean((test @ solution - flat[200:]) ** 2) / 127.5**2
  done = []
  reconstruct = reconstruction.fit(
    _Linear((12, 12, 1)), features[:200], images[:200], _SETTINGS, done.append
  )
  assert done == list(range(1, 301))
  result = reconstruction.compare(images[200:], reconstruct(features[200:]))
  assert result.squared_error == pytest.approx(expected, rel=0.02)
  # The same seed gives the same decoder.
  again = reconstruction.fit(
    _Linear((12, 12, 1)), features[:200], images[:200], _SETTINGS
  )
  np.testing.assert_array_equal(again(features), reconstruct(features))


def test_the_decoder_learns_what_features_tell_and_no_more():
  # Left or right half bright, as the first feature says; the second is noise.
  rng = np.random.default_rng(0)
  side = rng.integers(0, 2, 128)
  images = np.zeros((128, 16, 16, 1), np.uint8)
  for i, right in enumerate(side):
    images[i, :, 8 * right : 8 * right + 8] = 255
  known = np.stack([side, rng.normal(size=128)], 1).astype(np.float32)
  decoder = decoders.ConvDecoder((16, 16, 1), channels=8)
  settings = reconstruction.Settings(
    epochs=20, decay_epochs=(), learning_rate=0.02, batch_size=32
  )
  errors = []
  for features in (known, known * np.array([[0, 1]], np.float32)):
    reconstruct = reconstruction.fit(
      decoder, features[:96], images[:96], settings
    )
    result = reconstruction.compare(images[96:], reconstruct(features[96:]))
    errors.append(result.squared_error)
  # Without the side, the best guess is gray: an error of 1 each pixel, and
  # what is learned of the noise is only worse.
  assert errors[0] < 0.1
  assert errors[1] > 0.9


def test_comparison_by_hand():
  # All of 0 against all of 51: 0.4 apart in [-1, 1], -1 against -0.6; without
  # contrast, luminance is all: (2 x y + c1) / (x^2 + y^2 + c1), with c1 of a
  # range of 2, and on 16x16 pixels of one scale.
  images = np.zeros((3, 16, 16, 1), np.uint8)
  result = reconstruction.compare(images, images + np.uint8(51))
  assert result.squared_error == pytest.approx(0.16, rel=1e-5)
  assert result.scales == 1
  expected = (2 * 0.6 + 4e-4) / (1 + 0.36 + 4e-4)
  assert result.multiscale_ssim == pytest.approx(expected, rel=1e-4)
  assert reconstruction.compare(images, images)[:2] == (0, 1)


def test_mean_image_by_hand():
  images = np.array([0, 255, 254], np.uint8)[:, None, None, None]
  # 509 / 3 = 169.67; a sum in uint8 would have overflowed.
  assert reconstruction.mean_image(images) == [[[170]]]


def test_errors():
  decoder = _Linear((8, 8, 1))
  images = np.zeros((3, 8, 8, 1), np.uint8)
  with pytest.raises(ValueError, match=r'got shapes \(2, 1\) and \(3, 8, 8, 1'):
    reconstruction.fit(decoder, np.zeros((2, 1)), images, _SETTINGS)
  with pytest.raises(ValueError, match='epochs must be a whole number >= 1'):
    reconstruction.Settings(epochs=0)
  with pytest.raises(ValueError, match='8x8 pixels are smaller'):
    reconstruction.compare(images, images)
  huge = np.asarray(jnp.array([[0.0], [1.0], [2.0]]))
  diverging = reconstruction.Settings(epochs=50, learning_rate=1e38)
  with (
    pytest.raises(FloatingPointError, match='lower the learning rate, 1e'),
    jax.debug_nans(False),
  ):
    reconstruction.fit(decoder, huge, images, diverging)
