"""What a run's generator makes: reconstructions, interpolations and samples."""

import jax
import jax.numpy as jnp
import numpy as np

import dim_jax
from dim_jax import scale
from dim_jax.data.load import as_batch
from dim_jax.objective import probed

_RECONSTRUCTED = 64
_PAIRS, _STEPS = 4, 8
_SAMPLES = 25


def generate(
  encoder: dim_jax.Encoder, images: np.ndarray, *, seed: int = 0
) -> dict[str, np.ndarray]:
  """Decodes the codes of images, codes between them, and codes of the prior.

  Args:
    encoder: of a run.
    images: uint8 [n, H, W, C], of which the first 64 are looked at.
    seed: of the samples.

  Returns:
    uint8 images by name. 'reconstructions' [m, H, W, C] are of the first m
    images. 'interpolations' [k, 8, H, W, C] lead from the code of the first
    image to that of the second, from the third's to the fourth's and on, in
    equal steps, both ends included. 'samples' [25, H, W, C] are of the prior,
    if there is one. Nothing of a run whose method has no generator.
  """
  generator = encoder.objective.generator
  if generator is None:
    return {}
  images = images[:_RECONSTRUCTED]
  count, pairs = len(images), min(len(images) // 2, _PAIRS)
  steps = jnp.linspace(0, 1, _STEPS)[None, :, None]

  @jax.jit
  def run(variables, batch, rng):
    features = encoder.encode(variables, batch)
    name = probed(encoder.objective, features)[-1]
    codes = features[name].astype(jnp.float32)
    first, second = (codes[i : 2 * pairs : 2, None] for i in (0, 1))
    between = (1 - steps) * first + steps * second
    parts = [codes, between.reshape(-1, codes.shape[1])]
    if generator.codes is not None:
      parts.append(generator.codes(rng, _SAMPLES))
    return scale.to_pixels(generator.images(variables, jnp.concatenate(parts)))

  batch = as_batch(images, encoder.config.data.kind)
  x = np.asarray(run(encoder.variables, batch, jax.random.key(seed)))
  reconstructions, between, samples = np.split(
    x, [count, count + pairs * _STEPS]
  )
  arrays = {
    'reconstructions': reconstructions,
    'interpolations': between.reshape(pairs, _STEPS, *x.shape[1:]),
  }
  return arrays | ({'samples': samples} if len(samples) else {})
