"""Stored examples as numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import scale


@pytest.mark.parametrize('array', [np.array, jnp.array])
def test_stored_values_are_in_minus_one_to_one(array):
  # 255 levels lie 2 / 255 apart; 2**15 is the full scale of int16.
  pixels = scale.to_unit(array([0, 51, 255], np.uint8))
  np.testing.assert_allclose(pixels, [-1, -0.6, 1], rtol=1e-6)
  sound = scale.to_unit(array([-(2**15), 0, 2**14], np.int16))
  np.testing.assert_array_equal(sound, [-1, 0, 0.5])
  assert pixels.dtype == sound.dtype == np.float32


def test_floats_pass_as_they_are():
  x = np.array([0.25, 3.0])
  assert scale.to_unit(x) is x


def test_pixels_come_back_and_what_is_beyond_is_clipped():
  pixels = np.arange(256, dtype=np.uint8)
  back = scale.to_pixels(jnp.asarray(scale.to_unit(pixels)))
  np.testing.assert_array_equal(back, pixels)
  assert back.dtype == np.uint8
  # (x + 1) * 127.5 of 0.5 is 191.25.
  beyond = scale.to_pixels(jnp.array([-1.5, 0.5, 2.0]))
  np.testing.assert_array_equal(beyond, [0, 191, 255])
