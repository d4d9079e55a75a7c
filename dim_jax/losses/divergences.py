"""Divergences between distributions, or between samples of them.

Three kinds: f-divergences between joint and independent pairs from a critic's
scores, with the arguments of `bounds.py`; the terms of adversarial prior
matching; and two divergences that need no critic, the Gaussian KL and MMD.

Each f-divergence is estimated by its dual, E_p[T] - E_q[f*(T)], with the critic
T written so that every real score is allowed. Each is a lower bound on its own
divergence D(p || q), p the joint pairs and q the independent ones, with
equality at its own best critic, given below for the density ratio r = p / q.
"""

import math
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from dim_jax.losses import bounds

_PRIORS = ('uniform', 'gaussian', 'ball', 'sphere')


def gan(
  positive: jax.Array, negative: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """The GAN objective: minus the sum of both binary cross-entropies.

  E_p[-softplus(-T)] - E_q[softplus(T)], which is `bounds.jsd` - 2 ln 2: the
  same gradients, at most 0 for every critic, -2 ln 2 for a constant critic of
  0. Best critic ln r, and then 2 JSD - 2 ln 2.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    where: which negatives are real, bool, shape [A, K]; all of them if None.

  Returns:
    A scalar in nats. Maximise it.

  References:
    Goodfellow et al., Generative Adversarial Networks, 2014, eq. 1.
    https://arxiv.org/abs/1406.2661
  """
  return bounds.jsd(positive, negative, where=where) - 2 * math.log(2)


def kl(
  positive: jax.Array, negative: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Lower bound on KL(p || q), under the name that f-divergences give it.

  This is `bounds.nwj`: the mutual information is the KL divergence of joint
  from independent pairs, and its f-dual is the bound of Nguyen et al. Best
  critic 1 + ln r.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    where: which negatives are real, bool, shape [A, K]; all of them if None.

  Returns:
    A scalar in nats. Maximise it.

  References:
    Nowozin et al., f-GAN, 2016, table 2. https://arxiv.org/abs/1606.00709
  """
  return bounds.nwj(positive, negative, where=where)


def reverse_kl(
  positive: jax.Array, negative: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Lower bound on KL(q || p), the lautum information of dependent pairs.

  E_p[-exp(-T)] - E_q[T - 1]. Best critic ln r; a constant critic of 0 gives 0.
  Scores below -40 grow logarithmically, since exp(-t) would overflow (see
  `bounds.log_above`): still a critic, so still a bound.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    where: which negatives are real, bool, shape [A, K]; all of them if None.

  Returns:
    A scalar in nats. Maximise it.

  References:
    Nowozin et al., f-GAN, 2016, table 2. https://arxiv.org/abs/1606.00709
  """
  positive, negative, where = bounds.checked_scores(positive, negative, where)
  positive = -bounds.log_above(-positive)
  negative = -bounds.log_above(-negative)
  return -jnp.mean(jnp.exp(-positive)) - jnp.mean(negative - 1, where=where)


def squared_hellinger(
  positive: jax.Array, negative: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Lower bound on the squared Hellinger distance, at most 2.

  The distance is the integral of (sqrt p - sqrt q)^2, and it is at most the KL
  divergence in nats. E_p[1 - exp(-T)] - E_q[exp(T) - 1]. Best critic (ln r) /
  2; a constant critic of 0 gives 0. Scores beyond +-40 grow logarithmically,
  since exp would overflow (see `bounds.log_above`): still a critic, so still a
  bound.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    where: which negatives are real, bool, shape [A, K]; all of them if None.

  Returns:
    A scalar without unit. Maximise it.

  References:
    Nowozin et al., f-GAN, 2016, table 2. https://arxiv.org/abs/1606.00709
  """
  positive, negative, where = bounds.checked_scores(positive, negative, where)
  # Only this side of each term can overflow; the other decays to a constant.
  positive = -bounds.log_above(-bounds.log_above(positive))
  negative = -bounds.log_above(-bounds.log_above(negative))
  return -jnp.mean(jnp.expm1(-positive)) - jnp.mean(
    jnp.expm1(negative), where=where
  )


def chi_squared(
  positive: jax.Array, negative: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Lower bound on the Pearson chi-squared divergence, E_q[(r - 1)^2].

  E_p[T] - E_q[f*(T)], where f* is the conjugate of f(r) = (r - 1)^2 over r >= 0
  (a density ratio is never negative): T + T^2 / 4 for T >= -2, and -1 below. So
  it is bounded above for every p and q with a finite divergence, unlike forms
  that square the positives' scores. Best critic 2 (r - 1); a constant critic of
  0 gives 0. It exceeds the KL divergence, so it is no bound on information.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    where: which negatives are real, bool, shape [A, K]; all of them if None.

  Returns:
    A scalar without unit. Maximise it.

  References:
    Nowozin et al., f-GAN, 2016, table 2. https://arxiv.org/abs/1606.00709
  """
  positive, negative, where = bounds.checked_scores(positive, negative, where)
  # The parabola's minimum is -1, at -2, so clamping its argument gives both
  # branches, and a derivative that is continuous.
  negative = jnp.maximum(negative, -2.0)
  conjugate = negative + jnp.square(negative) / 4
  return jnp.mean(positive) - jnp.mean(conjugate, where=where)


def adversary_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """The adversary's term of prior matching: minus the JSD of prior and codes.

  Minimising it trains the adversary to score samples of the prior high and the
  encoder's codes low. It is 0 for a constant adversary of 0 and at least
  -2 ln 2; adding 2 ln 2 gives the sum of both binary cross-entropies. Only the
  adversary's parameters should see it: pass it `stop_gradient` of the codes.

  Args:
    prior_scores: the adversary's scores of samples of the prior, shape [N].
    code_scores: its scores of the encoder's codes, shape [N] (or another
      number of them).

  Returns:
    The loss in nats, a scalar. Minimise it.

  References:
    Hjelm et al., Learning deep representations by mutual information estimation
    and maximization, 2019, eq. 7. https://arxiv.org/abs/1808.06670
  """
  chex.assert_rank(
    [prior_scores, code_scores],
    1,
    custom_message='adversary_loss takes one score for each example.',
  )
  return -bounds.jsd(prior_scores[None, :], code_scores[None, :])


def encoder_prior_loss(code_scores: jax.Array) -> jax.Array:
  """The encoder's term of prior matching: look like the prior to the adversary.

  E[softplus(-T)], the non-saturating form: its gradient with respect to every
  code opposes the adversary's, and is largest where the adversary wins. Only
  the encoder should see it: compute the scores with `stop_gradient` of the
  adversary's parameters.

  Args:
    code_scores: the adversary's scores of the encoder's codes, shape [N].

  Returns:
    The loss in nats, a scalar; ln 2 for a constant adversary of 0. Minimise it.

  References:
    Goodfellow et al., Generative Adversarial Networks, 2014, section 3.
    https://arxiv.org/abs/1406.2661
  """
  chex.assert_rank(
    code_scores,
    1,
    custom_message='encoder_prior_loss takes one score for each example.',
  )
  return jnp.mean(jax.nn.softplus(-code_scores.astype(jnp.float32)))


def gradient_penalty(
  score_fn: Callable[[jax.Array], jax.Array], inputs: jax.Array
) -> jax.Array:
  """Zero-centred gradient penalty: E ||d score / d input||^2 over the batch.

  Args:
    score_fn: the adversary, from [N, D] to scores [N]. Each score must depend
      on its own row alone, so no batch statistics.
    inputs: where to penalise, usually the prior's samples and the codes,
      concatenated, shape [N, D].

  Returns:
    The mean over all N rows of the squared norm, a scalar. Weigh and add it to
    the adversary's loss.

  References:
    Mescheder et al., Which Training Methods for GANs do actually Converge?,
    2018, eq. 9. https://arxiv.org/abs/1801.04406
    Roth et al., Stabilizing Training of Generative Adversarial Networks through
    Regularization, 2017. https://arxiv.org/abs/1705.09367
  """
  chex.assert_rank(inputs, 2, custom_message='inputs must be [N, D].')

  def total_score(rows: jax.Array) -> jax.Array:
    scores = score_fn(rows)
    chex.assert_shape(
      scores, rows.shape[:1], custom_message='score_fn must return [N].'
    )
    return jnp.sum(scores.astype(jnp.float32))

  # Rows are independent, so the gradient of the sum holds every row's own.
  gradients = jax.grad(total_score)(inputs.astype(jnp.float32))
  return jnp.mean(jnp.sum(jnp.square(gradients), axis=1))


def sample_prior(
  rng: jax.Array, prior: str, shape: tuple[int, int]
) -> jax.Array:
  """Samples of the prior that codes are matched to.

  Args:
    rng: a key.
    prior: 'uniform' on [0, 1]^D (codes then pass through a sigmoid), 'gaussian'
      N(0, I), 'ball' uniform in the unit ball, 'sphere' uniform on its surface.
    shape: (N, D).

  Returns:
    Samples, float32, shape [N, D].

  Raises:
    ValueError: if the prior is unknown.
  """
  if prior not in _PRIORS:
    raise ValueError(f'Unknown prior {prior!r}: accepted are {list(_PRIORS)}.')
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
  r"""KL(N(mean, variance) || N(0, I)) of diagonal Gaussian codes.

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
  r"""Unbiased squared maximum mean discrepancy of two samples.

  .. math:: k(a, b) = \sum_s \exp(-\|a - b\|^2 / (2 s^2))

  Unbiased, so it fluctuates around 0 for equal distributions and may be
  negative.

  Args:
    x: a sample, shape [N, D], N >= 2.
    y: another, shape [M, D], M >= 2.
    bandwidths: the s of the kernels, in the unit of the samples. Some should be
      near the typical distance, which is sqrt(2 D) for unit Gaussians.

  Returns:
    The discrepancy, a scalar without unit. Minimise it to match distributions.

  Raises:
    ValueError: if a sample has fewer than two rows, or a bandwidth is not
      positive, or there is none.

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
  # Distances ignore the origin, and are most precise around it.
  centre = jax.lax.stop_gradient(jnp.mean(x, axis=0, keepdims=True))
  x, y = x - centre, y - centre

  def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squared = (
      jnp.sum(jnp.square(a), axis=1)[:, None]
      + jnp.sum(jnp.square(b), axis=1)[None, :]
      - 2 * products
    )
    squared = jnp.maximum(squared, 0.0)
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
