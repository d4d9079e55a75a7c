"""The decoder of images, and its transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dim_jax.networks import decoders


def test_transposed_convolution_is_the_gradient_of_a_strided_one():
  # PyTorch's definition: ConvTranspose2d(4, 2, 1) is the transpose of the
  # linear map Conv2d(4, 2, 1), of maps twice the size, with the same kernel.
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
  kernel = rng.normal(size=(4, 4, 4, 6)).astype(np.float32)

  def strided(large):
    # The kernel's last two axes are (input, output) of the transpose.
    return lax.conv_general_dilated(
      large,
      kernel.transpose(0, 1, 3, 2),
      (2, 2),
      [(1, 1), (1, 1)],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  _, transpose = jax.vjp(strided, jnp.zeros((2, 6, 10, 6)))
  (expected,) = transpose(x)
  module = decoders.TransposedConv(6)
  result = module.apply({'params': {'kernel': kernel}}, x)
  np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_decoder_has_the_papers_layers():
  decoder = decoders.ConvDecoder((32, 32, 3))
  variables = jax.eval_shape(
    lambda: decoder.init(jax.random.key(0), jnp.zeros((2, 64)), train=True)
  )
  shapes = {
    f'{name}/{leaf}': x.shape
    for name, part in variables['params'].items()
    for leaf, x in part.items()
    if leaf == 'kernel'
  }
  assert shapes == {
    'input/kernel': (64, 512 * 4 * 4),
    'double_0/kernel': (4, 4, 512, 256),
    'double_1/kernel': (4, 4, 256, 128),
    'double_2/kernel': (4, 4, 128, 64),
    'output/kernel': (3, 3, 64, 3),
  }


@pytest.mark.parametrize(
  ('size', 'first', 'doublings'),
  [(8, 4, 1), (64, 4, 4), (28, 7, 2), (10, 5, 1), (96, 6, 4)],
)
def test_decoder_doubles_as_often_as_needed(size, first, doublings):
  decoder = decoders.ConvDecoder((size, size, 1), channels=4)
  x = jnp.ones((2, 3))
  images, variables = jax.eval_shape(
    lambda: decoder.init_with_output(jax.random.key(0), x, train=True)
  )
  assert images.shape == (2, size, size, 1)
  names = [name for name in variables['params'] if name.startswith('double')]
  assert len(names) == doublings
  assert variables['params']['input']['kernel'].shape == (3, 4 * first**2)
  # And its parameters tell what it is.
  assert decoders.conv_decoder_of(variables['params']) == decoder


@pytest.mark.parametrize('shape', [(30, 30, 1), (32, 64, 1), (4, 4, 1)])
def test_sizes_that_it_cannot_make(shape):
  decoder = decoders.ConvDecoder(shape)
  with pytest.raises(ValueError, match=rf'got shape \({shape[0]}, {shape[1]}'):
    decoder.init(jax.random.key(0), jnp.zeros((1, 2)), train=True)
