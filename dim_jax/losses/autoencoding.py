r"""Distortion of images in nats: what a decoder's likelihood adds to a loss.

With the rate R = KL(q(z|x) || p(z)) of `bottleneck` or `priors.gaussian_kl`, it
makes the evidence lower bound of a variational autoencoder,

.. math:: \ln p(x) \ge E_{q(z|x)}[\ln p(x|z)] - R = -(D + R),

with equality where q(z|x) is the posterior of z.

Kingma and Welling, Auto-Encoding Variational Bayes, 2014.
https://arxiv.org/abs/1312.6114
"""

import math

import chex
import jax
import jax.numpy as jnp


def gaussian_distortion(x: jax.Array, mean: jax.Array, std: float) -> jax.Array:
  r"""Computes -ln p(x|z) of a Gaussian around the reconstruction of x from z.

  .. math:: \|x - \mu\|^2 / (2 s^2) + D \ln (s \sqrt{2 \pi})

  A standard deviation s of sqrt(1/2) makes it the sum of squared errors, but
  for a constant.

  Args:
    x: examples, shape [N, ...], of D numbers each.
    mean: their reconstructions, of the same shape.
    std: s, in the unit of x.

  Returns:
    Nats for each example, shape [N], which are of a density: negative where it
    is above 1.

  Raises:
    ValueError: if s is not positive.
  """
  chex.assert_equal_shape([x, mean])
  if not std > 0:
    raise ValueError(f'std must be above 0, got {std}.')
  error = jnp.square(x.astype(jnp.float32) - mean.astype(jnp.float32))
  error = error.reshape(x.shape[0], -1)
  constant = error.shape[1] * (math.log(std) + math.log(2 * math.pi) / 2)
  return error.sum(1) / (2 * std**2) + constant
