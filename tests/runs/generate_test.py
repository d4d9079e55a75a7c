"""What is generated of a run, with an encoder whose codes are the pixels."""

import types

import jax.numpy as jnp
import numpy as np

from dim_jax.config import DataConfig
from dim_jax.objective import Generator, Objective
from dim_jax.runs import generate

SIZE = 4


def make_encoder(codes=None, **parts):
  """Codes are pixels in [-1, 1], and the generator shows them as they are."""

  def encode(variables, batch):
    pixels = batch['image'].reshape(len(batch['image']), -1)
    return {'other': jnp.zeros((len(pixels), 3)), 'y': pixels / 127.5 - 1}

  def images(variables, codes):
    return variables * codes.reshape(-1, SIZE, SIZE, 1)

  parts = {'generator': Generator(images, codes), 'features': ('y',)} | parts
  return types.SimpleNamespace(
    encode=encode,
    variables=1.0,
    config=types.SimpleNamespace(data=DataConfig()),
    objective=Objective(None, None, None, **parts),
  )


def make_images(count):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, SIZE, SIZE, 1), dtype=np.uint8)


def test_codes_of_images_reconstruct_them():
  images = make_images(70)
  arrays = generate.generate(make_encoder(), images)
  assert arrays.keys() == {'reconstructions', 'interpolations'}
  # The first 64.
  np.testing.assert_array_equal(arrays['reconstructions'], images[:64])


def test_interpolations_lead_from_one_image_to_the_next():
  images = make_images(7)
  result = generate.generate(make_encoder(), images)['interpolations']
  # Seven images have three pairs.
  for row, first, second in zip(
    result, images[0:6:2], images[1:6:2], strict=True
  ):
    expected = np.linspace(first, second, len(row), dtype=np.float64)
    np.testing.assert_allclose(row, expected, atol=0.51)


def test_samples_are_of_the_priors_codes():
  def codes(rng, count):
    # Out of the range of images, which cut them off.
    return jnp.broadcast_to(jnp.linspace(-2, 1, count)[:, None], (count, 16))

  samples = generate.generate(make_encoder(codes), make_images(2))['samples']
  levels = np.clip(np.linspace(-2, 1, len(samples)), -1, 1)
  expected = np.round((levels + 1) * 127.5)[:, None, None, None]
  np.testing.assert_allclose(
    samples, np.broadcast_to(expected, samples.shape), atol=1
  )


def test_a_method_without_a_generator_makes_nothing():
  encoder = make_encoder(generator=None)
  assert generate.generate(encoder, make_images(2)) == {}
