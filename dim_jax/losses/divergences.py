"""Divergences between distributions, or between samples of them.

Three kinds: f-divergences between joint and independent pairs from a critic's
scores, with the arguments of `bounds.py`; the terms of adversarial prior
matching, by name in `ADVERSARIAL`, and what keeps an adversary smooth; and
divergences that need no critic: the Gaussian KL, MMD and the Stein direction.

Each f-divergence is estimated by its dual, E_p[T] - E_q[f*(T)], with the critic
T written so that every real score is allowed. Each is a lower bound on its own
divergence D(p || q), p the joint pairs and q the independent ones, with
equality at its own best critic, given below for the density ratio r = p / q.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from dim_jax.losses import bounds, stein

Score = Callable[[jax.Array], jax.Array]

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


def gradient_penalty(score_fn: Score, inputs: jax.Array) -> jax.Array:
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
  gradients = _input_gradients(score_fn, inputs)
  return jnp.mean(jnp.sum(jnp.square(gradients), axis=1))


def zero_centred_penalty(
  rng: jax.Array, score_fn: Score, prior: jax.Array, codes: jax.Array
) -> jax.Array:
  """Half the `gradient_penalty` at the prior's samples plus that at the codes.

  R1 and R2 together: the adversary that cannot tell the two apart is flat. The
  mean is over all rows of each side; the released Deep InfoMax code penalises
  one row of the batch instead.

  Args:
    rng: not used.
    score_fn: the adversary, from [N, D] to scores [N], each of its own row.
    prior: samples of the prior, shape [N, D].
    codes: detached codes, shape [M, D].

  Returns:
    A scalar. Weigh it by 1 and add it to the adversary's loss.

  References:
    Mescheder et al. 2018, eq. 9 and 10. https://arxiv.org/abs/1801.04406
  """
  del rng
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
  """WGAN-GP's penalty: weight E (||gradient|| - 1)^2 between the two batches.

  Args:
    rng: a key, for one point on the line between row i of either batch.
    score_fn: the adversary, from [N, D] to scores [N], each of its own row.
    prior: samples of the prior, shape [N, D].
    codes: detached codes, shape [N, D].
    weight: lambda.

  Returns:
    A scalar to add to the adversary's loss. A gradient of exactly 0 is
    penalised, but gets no direction to grow in.

  Raises:
    ValueError: the batches differ in size.

  References:
    Gulrajani et al., Improved Training of Wasserstein GANs, 2017, eq. 3.
    https://arxiv.org/abs/1704.00028
  """
  gradients = _input_gradients(score_fn, _interpolate(rng, prior, codes))
  norms = optax.safe_norm(gradients, 0.0, axis=1)
  return weight * jnp.mean(jnp.square(norms - 1))


def power_penalty(
  rng: jax.Array,
  score_fn: Score,
  prior: jax.Array,
  codes: jax.Array,
  *,
  weight: float = 2.0,
  power: float = 6.0,
) -> jax.Array:
  """WGAN-div's penalty: weight E ||gradient||^power between the two batches.

  With it the critic's game is a divergence for every such weight and power;
  the 6th power explodes for gradients above 2, so clip the adversary's.

  Args:
    rng: a key, for one point on the line between row i of either batch.
    score_fn: the adversary, from [N, D] to scores [N], each of its own row.
    prior: samples of the prior, shape [N, D].
    codes: detached codes, shape [N, D].
    weight: k.
    power: p, at least 2.

  Returns:
    A scalar to add to the adversary's loss.

  Raises:
    ValueError: the batches differ in size, or the power is below 2.

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
  rng: jax.Array,
  score_fn: Score,
  prior: jax.Array,
  codes: jax.Array,
  *,
  norm: str,
  scale: float = 10.0,
) -> jax.Array:
  """GAN-QP's potential: E D^2 / (2 scale d), D the pair's difference in score.

  d is the pair's distance, a mean over its D dimensions and not a sum. The best
  critic then has |D| <= scale d, an adaptive Lipschitz constraint; for two
  points the divergence is scale d / 2. It is the adversary's alone: the encoder
  would bring pairs together in code space by it.

  Args:
    rng: not used.
    score_fn: the adversary, from [N, D] to scores [N].
    prior: samples of the prior, shape [N, D].
    codes: detached codes, shape [N, D]; row i is paired with the prior's.
    norm: d is the mean of |difference| for 'l1', the root of its mean square
      for 'l2'. Below 1e-6 it counts as that.
    scale: lambda, > 0.

  Returns:
    A scalar to add to the adversary's loss.

  Raises:
    ValueError: the batches differ in size, the norm is unknown or the scale not
      positive.

  References:
    Su, GAN-QP: A Novel GAN Framework without Gradient Vanishing and Lipschitz
    Constraint, 2018, eq. 14. https://arxiv.org/abs/1811.07296
  """
  del rng
  if norm not in ('l1', 'l2'):
    raise ValueError(f"norm is 'l1' or 'l2', got {norm!r}.")
  if scale <= 0:
    raise ValueError(f'scale must be > 0, got {scale}.')
  _check_paired(prior, codes)
  difference = prior - codes
  if norm == 'l1':
    distances = jnp.maximum(jnp.mean(jnp.abs(difference), axis=1), 1e-6)
  else:
    # Below the root, whose slope at 0 is infinite.
    squares = jnp.mean(jnp.square(difference), axis=1)
    distances = jnp.sqrt(jnp.maximum(squares, 1e-12))
  scores = score_fn(prior) - score_fn(codes)
  return jnp.mean(jnp.square(scores) / (2 * scale * distances))


def wasserstein_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """E[score of codes] - E[score of the prior], of a critic kept Lipschitz.

  Without a bound on the critic (weights clipped, a penalty, or spectral
  normalisation) it falls without end.

  Args:
    prior_scores: of samples of the prior, shape [N].
    code_scores: of codes, shape [M].

  Returns:
    A scalar without unit. Minimise it over the critic.

  References:
    Arjovsky et al., Wasserstein GAN, 2017. https://arxiv.org/abs/1701.07875
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  return jnp.mean(code_scores) - jnp.mean(prior_scores)


def wasserstein_encoder_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """The encoder's side of a Wasserstein game: minus the mean score of codes.

  Args:
    prior_scores: of samples of the prior, shape [N]; not used.
    code_scores: of codes, shape [M].

  Returns:
    A scalar without unit. Minimise it over the encoder.
  """
  _, code_scores = _as_scores(prior_scores, code_scores)
  return -jnp.mean(code_scores)


def paired_encoder_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """GAN-QP's encoder term: the mean difference in score, prior less codes.

  Its gradient is that of `wasserstein_encoder_loss`; its value estimates the
  divergence, up to the critic's penalty.

  Args:
    prior_scores: of samples of the prior, shape [N].
    code_scores: of codes, shape [N].

  Returns:
    A scalar without unit. Minimise it over the encoder.

  Raises:
    ValueError: the batches differ in size.
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  _check_paired(prior_scores, code_scores)
  return jnp.mean(prior_scores - code_scores)


def paired_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Minus `paired_encoder_loss`, for the critic; see `quadratic_penalty`.

  Args:
    prior_scores: of samples of the prior, shape [N].
    code_scores: of codes, shape [N].

  Returns:
    A scalar without unit. Minimise it over the critic.

  Raises:
    ValueError: the batches differ in size.
  """
  return -paired_encoder_loss(prior_scores, code_scores)


def hinge_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """E relu(1 - prior's score) + E relu(1 + code's score).

  Made for an adversary under spectral normalisation.

  Args:
    prior_scores: of samples of the prior, shape [N].
    code_scores: of codes, shape [M].

  Returns:
    A scalar without unit, 2 for a constant critic of 0. Minimise it over the
    critic.

  References:
    Miyato et al., Spectral Normalization for Generative Adversarial Networks,
    2018, eq. 16. https://arxiv.org/abs/1802.05957
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  return jnp.mean(jax.nn.relu(1 - prior_scores)) + jnp.mean(
    jax.nn.relu(1 + code_scores)
  )


def relativistic_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """E softplus(code's score - prior's score), over pairs of rows.

  Args:
    prior_scores: of samples of the prior, shape [N].
    code_scores: of codes, shape [N].

  Returns:
    The loss in nats, ln 2 for a constant critic. Minimise it over the critic.

  Raises:
    ValueError: the batches differ in size.

  References:
    Jolicoeur-Martineau, The relativistic discriminator, 2018, eq. 3 and 4.
    https://arxiv.org/abs/1807.00734
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  _check_paired(prior_scores, code_scores)
  return jnp.mean(jax.nn.softplus(code_scores - prior_scores))


def relativistic_encoder_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """`relativistic_critic_loss` with the two sides exchanged.

  Args:
    prior_scores: of samples of the prior, shape [N].
    code_scores: of codes, shape [N].

  Returns:
    The loss in nats. Minimise it over the encoder.

  Raises:
    ValueError: the batches differ in size.
  """
  return relativistic_critic_loss(code_scores, prior_scores)


class Adversarial(NamedTuple):
  """A game that matches codes to a prior. Every term is to be minimised.

  The adversary minimises `critic_loss` plus `penalty` and must not see a
  gradient of the codes; the encoder minimises `encoder_loss` and must not see
  one of the adversary's parameters.

  Attributes:
    critic_loss: `(prior_scores [N], code_scores [M]) -> scalar`.
    encoder_loss: `(prior_scores [N], code_scores [M]) -> scalar`.
    penalty: `(rng, score_fn, prior [N, D], codes [M, D]) -> scalar`, with the
      constants of its paper, or None.
    input_gradient: whether the penalty differentiates scores with respect to
      the adversary's input, so that its own gradient is of second order.
    paired: whether row i of the prior meets row i of the codes, so that the two
      batches must be of one size (N = M).
  """

  critic_loss: Callable[[jax.Array, jax.Array], jax.Array]
  encoder_loss: Callable[[jax.Array, jax.Array], jax.Array]
  penalty: Callable[[jax.Array, Score, jax.Array, jax.Array], jax.Array] | None
  input_gradient: bool
  paired: bool


ADVERSARIAL: dict[str, Adversarial] = {
  'jsd': Adversarial(
    adversary_loss,
    lambda prior_scores, code_scores: encoder_prior_loss(code_scores),
    zero_centred_penalty,
    input_gradient=True,
    paired=False,
  ),
  'wgan': Adversarial(
    wasserstein_critic_loss,
    wasserstein_encoder_loss,
    None,
    input_gradient=False,
    paired=False,
  ),
  'wgan_gp': Adversarial(
    wasserstein_critic_loss,
    wasserstein_encoder_loss,
    one_centred_penalty,
    input_gradient=True,
    paired=True,
  ),
  'wgan_div': Adversarial(
    wasserstein_critic_loss,
    wasserstein_encoder_loss,
    power_penalty,
    input_gradient=True,
    paired=True,
  ),
  'gan_qp_l1': Adversarial(
    paired_critic_loss,
    paired_encoder_loss,
    functools.partial(quadratic_penalty, norm='l1'),
    input_gradient=False,
    paired=True,
  ),
  'gan_qp_l2': Adversarial(
    paired_critic_loss,
    paired_encoder_loss,
    functools.partial(quadratic_penalty, norm='l2'),
    input_gradient=False,
    paired=True,
  ),
  'hinge': Adversarial(
    hinge_critic_loss,
    wasserstein_encoder_loss,
    None,
    input_gradient=False,
    paired=False,
  ),
  'rsgan': Adversarial(
    relativistic_critic_loss,
    relativistic_encoder_loss,
    None,
    input_gradient=False,
    paired=True,
  ),
}
"""The games by name. What else their papers ask for: 'wgan', weights clipped to
0.01 after each move, and 5 critic steps per encoder step, as 'wgan_gp' too;
'hinge', spectral normalisation of the adversary; 'gan_qp', 2 critic steps, and
an encoder's weight that is smaller by lambda = 10."""


def spectral_vectors(rng: jax.Array, params: Any) -> tuple[jax.Array, ...]:
  """Random starts of the power iterations of `spectral_penalty`.

  Args:
    rng: a key.
    params: a network's parameters.

  Returns:
    For each weight of two or more axes, in the order of `jax.tree.leaves`, a
    vector of its last axis.

  Raises:
    ValueError: there is no such weight.
  """
  weights = _matrices(params)
  if not weights:
    raise ValueError(
      'params hold no weight of two or more axes, so no spectral norm.'
    )
  rngs = jax.random.split(rng, len(weights))
  return tuple(
    jax.random.normal(key, w.shape[1:])
    for key, w in zip(rngs, weights, strict=True)
  )


def spectral_penalty(
  params: Any, vectors: Sequence[jax.Array], *, iterations: int = 1
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  r"""Spectral norm regularisation: half the sum of squared spectral norms.

  Each weight [..., K] counts as the matrix [-1, K]. Its norm sigma = v'Wu comes
  from power iteration, with u and v taken as constants, so the gradient is
  sigma v u'. Biases, and the scales of normalisations, do not count: a network
  with batch normalisation has no bound on its slope by this. Nor is the norm of
  a reshaped convolution kernel that of the convolution.

  Args:
    params: a network's parameters.
    vectors: those that the step before returned, or `spectral_vectors`.
    iterations: of the power method; one a step is enough where weights move
      slowly.

  Returns:
    The penalty, a scalar, and the vectors for the next step. Weigh it, by
    0.01 say, and add it to the loss.

  Raises:
    ValueError: the vectors are not those of such weights, or iterations < 1.

  References:
    Yoshida and Miyato, Spectral Norm Regularization for Improving the
    Generalizability of Deep Learning, 2017. https://arxiv.org/abs/1705.10941
  """
  weights = _matrices(params)
  if iterations < 1:
    raise ValueError(f'iterations must be >= 1, got {iterations}.')
  wanted = [w.shape[1:] for w in weights]
  if (given := [u.shape for u in vectors]) != wanted:
    raise ValueError(
      f'the weights need vectors of shapes {wanted}, got {given}: make them '
      'with spectral_vectors of the same parameters.'
    )
  total, updated = jnp.zeros(()), []
  for w, u in zip(weights, vectors, strict=True):
    u, v = _power_iteration(jax.lax.stop_gradient(w), u, iterations)
    total += jnp.square(v @ w @ u) / 2
    updated.append(u)
  return total, tuple(updated)


def stein_prior(
  codes: jax.Array,
  bandwidth: float | jax.Array | None = None,
  *,
  score_fn: Callable[[jax.Array], jax.Array] = jnp.negative,
) -> jax.Array:
  """Pulls codes to a prior along the Stein direction; needs no adversary.

  The encoder is a sampler as in SteinGAN, and the prior's score is known: -z
  for N(0, I).
  The direction leaves out each code's own term (the U-form): with it the
  codes' variance collapses in more than a few dimensions. Without it the
  direction is unbiased, at a fixed bandwidth, for codes of a fresh batch in
  every step. It is not for one set of points moved again and again, which
  spreads too far: 100 points of 20 dimensions had a variance of 2.4
  (`experiments.particles`).

  Args:
    codes: shape [N, D], N >= 2.
    bandwidth: of the kernel, see `stein.svgd_direction`.
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
  direction = stein.svgd_direction(
    fixed, score_fn(fixed), bandwidth, self_term=False
  )
  return stein.stein_surrogate(codes, direction)


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

  def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    squared = stein.squared_distances(a, b)
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


def _input_gradients(score_fn: Score, inputs: jax.Array) -> jax.Array:
  """The gradient of each row's score by that row, [N, D]."""
  chex.assert_rank(inputs, 2, custom_message='inputs must be [N, D].')

  def total_score(rows: jax.Array) -> jax.Array:
    scores = score_fn(rows)
    chex.assert_shape(
      scores, rows.shape[:1], custom_message='score_fn must return [N].'
    )
    return jnp.sum(scores.astype(jnp.float32))

  # Rows are independent, so the gradient of the sum holds every row's own.
  return jax.grad(total_score)(inputs.astype(jnp.float32))


def _interpolate(rng: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  """A random point on the line between each pair of rows."""
  _check_paired(x, y)
  share = jax.random.uniform(rng, (x.shape[0], 1))
  return share * x + (1 - share) * y


def _as_scores(
  prior_scores: jax.Array, code_scores: jax.Array
) -> tuple[jax.Array, jax.Array]:
  chex.assert_rank(
    [prior_scores, code_scores],
    1,
    custom_message='losses take one score for each example.',
  )
  return prior_scores.astype(jnp.float32), code_scores.astype(jnp.float32)


def _check_paired(prior: jax.Array, codes: jax.Array) -> None:
  if prior.shape != codes.shape:
    raise ValueError(
      'this divergence pairs sample i of the prior with code i, so it needs as '
      f'many of either: got shapes {prior.shape} and {codes.shape}. Draw as '
      "many samples as there are codes, or choose 'jsd' or 'hinge'."
    )


def _matrices(params: Any) -> list[jax.Array]:
  """The weights of two or more axes, as matrices [-1, K]."""
  return [
    w.reshape(-1, w.shape[-1]) for w in jax.tree.leaves(params) if w.ndim > 1
  ]


def _power_iteration(
  w: jax.Array, u: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
  """The right and left singular vectors of w [n, K], from a right one."""
  u = jax.lax.fori_loop(0, iterations, lambda _, u: _unit(_unit(w @ u) @ w), u)
  return u, _unit(w @ u)


def _unit(x: jax.Array) -> jax.Array:
  """A vector of length 1; zero stays zero."""
  return x / jnp.maximum(jnp.linalg.norm(x), jnp.finfo(jnp.float32).tiny)
