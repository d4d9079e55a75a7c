"""Penalties on the slope of an adversary's score between two batches.

`score_fn` is the adversary, from rows [N, D] to scores [N], each of its own row
alone, so without batch statistics. `prior` [N, D] holds samples of the prior,
`codes` [M, D] the encoder's, detached. Each penalty is a scalar, to be added to
the adversary's loss. All but the zero-centred ones compare row i of one batch
with row i of the other, and raise ValueError where the two differ in size.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

Score = Callable[[jax.Array], jax.Array]


def gradient_penalty(score_fn: Score, inputs: jax.Array) -> jax.Array:
  """Computes the zero-centred gradient penalty, E ||d score / d input||^2.

  The mean over all N rows of the squared norm at `inputs` [N, D], usually the
  prior's samples or the codes.

  References:
    Mescheder et al., Which Training Methods for GANs do actually Converge?,
    2018, eq. 9. https://arxiv.org/abs/1801.04406
    Roth et al., Stabilizing Training of Generative Adversarial Networks through
    Regularization, 2017. https://arxiv.org/abs/1705.09367
  """
  gradients = _input_gradients(score_fn, inputs)
  return jnp.mean(jnp.sum(jnp.square(gradients), axis=1))


def zero_centred_penalty(
  score_fn: Score, prior: jax.Array, codes: jax.Array
) -> jax.Array:
  """Computes the mean `gradient_penalty` of the prior's samples and the codes.

  Half of each, R1 and R2 together: an adversary that cannot tell the two apart
  is flat. The mean is over all rows of each side; the released Deep InfoMax
  code penalises one row of the batch instead. Its weight is 1.

  References:
    Mescheder et al. 2018, eq. 9 and 10. https://arxiv.org/abs/1801.04406
  """
  return 0.5 * (
    gradient_penalty(score_fn, prior) + gradient_penalty(score_fn, codes)
  )


def one_centred_penalty(
  rng: jax.Array,
  score_fn: Score,
  prior: jax.Array,
  codes: jax.Array,
  *,
  weight: float = 10.0,
) -> jax.Array:
  """Computes WGAN-GP's penalty, weight E (||gradient|| - 1)^2 in between.

  The gradient is that at a random point on the line between row i of the prior
  and row i of the codes; the weight is the paper's lambda. A gradient of
  exactly 0 is penalised, but gets no direction to grow in.

  References:
    Gulrajani et al., Improved Training of Wasserstein GANs, 2017, eq. 3.
    https://arxiv.org/abs/1704.00028
  """
  norms = _slopes_between(rng, score_fn, prior, codes)
  return weight * jnp.mean(jnp.square(norms - 1))


def one_sided_penalty(
  rng: jax.Array,
  score_fn: Score,
  prior: jax.Array,
  codes: jax.Array,
  *,
  weight: float = 10.0,
) -> jax.Array:
  """Computes WGAN-LP's penalty, weight E max(0, ||gradient|| - 1)^2 in between.

  A critic of slope below 1 is Lipschitz as it should be, and pays nothing.
  Points and weight are as in `one_centred_penalty`.

  References:
    Petzka, Fischer and Lukovnikov, On the regularization of Wasserstein GANs,
    2018, eq. 8. https://arxiv.org/abs/1709.08894
  """
  norms = _slopes_between(rng, score_fn, prior, codes)
  return weight * jnp.mean(jnp.square(jax.nn.relu(norms - 1)))


def power_penalty(
  rng: jax.Array,
  score_fn: Score,
  prior: jax.Array,
  codes: jax.Array,
  *,
  weight: float = 2.0,
  power: float = 6.0,
) -> jax.Array:
  """Computes WGAN-div's penalty, weight E ||gradient||^power in between.

  With it the critic's loss is a divergence for every weight k and every power
  p of at least 2 (a lower one raises ValueError); the 6th power explodes for
  gradients above 2, so clip the adversary's. Points are as in
  `one_centred_penalty`.

  References:
    Wu et al., Wasserstein Divergence for GANs, 2018, eq. 7.
    https://arxiv.org/abs/1712.01026
  """
  if power < 2:
    raise ValueError(f'power must be >= 2, got {power}.')
  gradients = _input_gradients(score_fn, _interpolate(rng, prior, codes))
  squares = jnp.sum(jnp.square(gradients), axis=1)
  return weight * jnp.mean(squares ** (power / 2))


def quadratic_penalty(
  score_fn: Score,
  prior: jax.Array,
  codes: jax.Array,
  *,
  norm: str,
  scale: float = 10.0,
) -> jax.Array:
  """Computes GAN-QP's potential, E D^2 / (2 scale d), D the scores' difference.

  d is the pair's distance: for norm 'l1' the mean over dimensions of
  |difference|, for 'l2' the root of its mean square. Below 1e-6 it counts as
  that. The best critic then has |D| <= scale d, an adaptive Lipschitz
  constraint (the paper's lambda is the scale); for two points the divergence is
  scale d / 2. The potential is the adversary's alone: the encoder would bring
  pairs together in code space by it.

  Raises:
    ValueError: the batches differ in size, the norm is unknown or the scale not
      positive.

  References:
    Su, GAN-QP: A Novel GAN Framework without Gradient Vanishing and Lipschitz
    Constraint, 2018, eq. 14. https://arxiv.org/abs/1811.07296
  """
  if norm not in ('l1', 'l2'):
    raise ValueError(f"norm is 'l1' or 'l2', got {norm!r}.")
  if scale <= 0:
    raise ValueError(f'scale must be > 0, got {scale}.')
  check_paired(prior, codes)
  difference = prior - codes
  if norm == 'l1':
    distances = jnp.maximum(jnp.mean(jnp.abs(difference), axis=1), 1e-6)
  else:
    # Below the root, whose slope at 0 is infinite.
    squares = jnp.mean(jnp.square(difference), axis=1)
    distances = jnp.sqrt(jnp.maximum(squares, 1e-12))
  scores = score_fn(prior) - score_fn(codes)
  return jnp.mean(jnp.square(scores) / (2 * scale * distances))


def check_paired(prior: jax.Array, codes: jax.Array) -> None:
  """Raises ValueError where two batches are not of one shape."""
  if prior.shape != codes.shape:
    raise ValueError(
      'this divergence pairs sample i of the prior with code i, so it needs as '
      f'many of either: got shapes {prior.shape} and {codes.shape}. Draw as '
      "many samples as there are codes, or choose 'jsd' or 'hinge'."
    )


def _input_gradients(score_fn: Score, inputs: jax.Array) -> jax.Array:
  """Returns the gradient of each row's score by that row, [N, D]."""
  chex.assert_rank(inputs, 2, custom_message='inputs must be [N, D].')

  def total_score(rows: jax.Array) -> jax.Array:
    scores = score_fn(rows)
    chex.assert_shape(
      scores, rows.shape[:1], custom_message='score_fn must return [N].'
    )
    return jnp.sum(scores.astype(jnp.float32))

  # Rows are independent, so the gradient of the sum holds every row's own.
  return jax.grad(total_score)(inputs.astype(jnp.float32))


def _slopes_between(
  rng: jax.Array, score_fn: Score, prior: jax.Array, codes: jax.Array
) -> jax.Array:
  """Returns the norms of the gradients at random points in between, [N]."""
  gradients = _input_gradients(score_fn, _interpolate(rng, prior, codes))
  return optax.safe_norm(gradients, 0.0, axis=1)


def _interpolate(rng: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """Draws a random point on the line between each pair of rows."""
  check_paired(x, y)
  weight = jax.random.uniform(rng, (x.shape[0], 1))
  return weight * x + (1 - weight) * y
