"""Priors of codes, and divergences from them that need no adversary.

The priors by name, the Gaussian KL, the maximum mean discrepancy (MMD) of two
samples, and the Stein direction towards a density. With an adversary, see
`adversarial.py`.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from dim_jax.losses import kernel_stein

PRIORS = ('uniform', 'gaussian', 'ball', 'sphere')


def sample_prior(
  rng: jax.Array, prior: str, shape: tuple[int, int]
) -> jax.Array:
  """Draws samples of the prior that codes are matched to.

  Args:
    rng: a key.
    prior: 'uniform' on [0, 1]^D (codes then pass through a sigmoid), 'gaussian'
      N(0, I), 'ball' uniform in the unit ball, 'sphere' uniform on its surface.
    shape: (N, D), of the float32 samples.

  Raises:
    ValueError: if the prior is unknown.
  """
  if prior not in PRIORS:
    raise ValueError(f'Unknown prior {prior!r}: accepted are {list(PRIORS)}.')
  if prior == 'uniform':
    return jax.random.uniform(rng, shape, jnp.float32)
  direction_rng, radius_rng = jax.random.split(rng)
  samples = jax.random.normal(direction_rng, shape, jnp.float32)
  if prior == 'gaussian':
    return samples
  norms = jnp.linalg.norm(samples, axis=1, keepdims=True)
  samples = samples / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)
  if prior == 'sphere':
    return samples
  # The ball of radius r holds r^D of the volume.
  volumes = jax.random.uniform(radius_rng, (shape[0], 1), jnp.float32)
  return samples * volumes ** (1 / shape[1])


def gaussian_kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  r"""Computes KL(N(mean, variance) || N(0, I)) of diagonal Gaussian codes.

  .. math:: \frac{1}{2} \sum_d (\mu_d^2 + e^{v_d} - 1 - v_d)

  Args:
    mean: shape [N, D].
    log_variance: natural logarithm of the variances, shape [N, D].

  Returns:
    The divergence in nats, summed over dimensions and averaged over the batch,
    a scalar.

  References:
    Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B.
    https://arxiv.org/abs/1312.6114
  """
  chex.assert_rank(
    [mean, log_variance],
    2,
    custom_message='gaussian_kl takes mean [N, D] and log_variance [N, D].',
  )
  chex.assert_equal_shape([mean, log_variance])
  mean = mean.astype(jnp.float32)
  log_variance = log_variance.astype(jnp.float32)
  # expm1 keeps the precision where the code is almost the prior.
  excess = jnp.expm1(log_variance) - log_variance
  return jnp.mean(jnp.sum(jnp.square(mean) + excess, axis=1)) / 2


def mmd(
  x: jax.Array,
  y: jax.Array,
  *,
  bandwidths: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0),
) -> jax.Array:
  r"""Computes the unbiased squared maximum mean discrepancy of two samples.

  .. math:: k(a, b) = \sum_s \exp(-\|a - b\|^2 / (2 s^2))

  It fluctuates around 0 for equal distributions and may be negative.

  Args:
    x: a sample, shape [N, D], N >= 2.
    y: another, shape [M, D], M >= 2.
    bandwidths: the s of the kernels, in the unit of the samples. Some should be
      near the typical distance, which is sqrt(2 D) for unit Gaussians.

  Returns:
    The discrepancy, a scalar without unit. Minimise it to match distributions.

  Raises:
    ValueError: if a sample has fewer than two rows, or a bandwidth is not
      positive.

  References:
    Gretton et al., A Kernel Two-Sample Test, 2012, eq. 3.
    https://jmlr.org/papers/v13/gretton12a.html
  """
  chex.assert_rank([x, y], 2, custom_message='mmd takes x [N, D] and y [M, D].')
  chex.assert_equal_shape_suffix([x, y], 1)
  if min(x.shape[0], y.shape[0]) < 2:
    raise ValueError(
      f'Samples of {x.shape[0]} and {y.shape[0]} rows, but the unbiased '
      'estimate compares rows within a sample: each needs at least 2.'
    )
  if not bandwidths or min(bandwidths) <= 0:
    raise ValueError(
      f'bandwidths are {tuple(bandwidths)}, but at least one is needed and all '
      'must be positive.'
    )
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)

  def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    squared = kernel_stein.squared_distances(a, b)
    return sum(
      (jnp.exp(-squared / (2 * s**2)) for s in bandwidths),
      start=jnp.zeros_like(squared),
    )

  def mean_without_self(a: jax.Array) -> jax.Array:
    others = ~jnp.eye(a.shape[0], dtype=bool)
    return jnp.mean(kernel(a, a), where=others)

  return (
    mean_without_self(x) + mean_without_self(y) - 2 * jnp.mean(kernel(x, y))
  )


def stein_prior(
  codes: jax.Array,
  bandwidth: float | jax.Array | None = None,
  *,
  score_fn: Callable[[jax.Array], jax.Array] = jnp.negative,
) -> jax.Array:
  """Pulls codes to a prior along the Stein direction; needs no adversary.

  The encoder is a sampler as in SteinGAN, and the prior's score is known: -z
  for N(0, I). The direction leaves out each code's own term, for codes of a
  fresh batch in every step, see `kernel_stein.svgd_direction`. It is not for
  one set of points moved again and again, which spreads too far: 100 points of
  20 dimensions had a variance of 2.4 (`experiments.studies.particles`).

  Args:
    codes: shape [N, D], N >= 2.
    bandwidth: of the kernel, see `kernel_stein.svgd_direction`.
    score_fn: the gradient of the prior's log density, [N, D] -> [N, D].

  Returns:
    A surrogate, a scalar: its gradient is minus the direction over N. Its value
    means nothing. Minimise it over the encoder.

  Raises:
    ValueError: there is one code alone, or the bandwidth is not positive.

  References:
    Wang and Liu, Learning to Draw Samples: With Application to Amortized MLE
    for Generative Adversarial Learning, 2016. https://arxiv.org/abs/1611.01722
  """
  chex.assert_rank(codes, 2, custom_message='stein_prior takes codes [N, D].')
  if len(codes) < 2:
    raise ValueError(
      'the Stein prior compares codes with one another: it needs at least 2, '
      f'got {len(codes)}.'
    )
  codes = codes.astype(jnp.float32)
  fixed = jax.lax.stop_gradient(codes)
  direction = kernel_stein.svgd_direction(
    fixed, score_fn(fixed), bandwidth, self_term=False
  )
  return kernel_stein.stein_surrogate(codes, direction)
