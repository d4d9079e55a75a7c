"""f-divergences between joint and independent pairs, from a critic's scores.

Each takes the arguments of the bounds in `bounds.py`, `positive` [A, P],
`negative` [A, K] and `where` [A, K], and returns a scalar to be maximised: in
nats, but for `squared_hellinger` and `chi_squared`, which have no unit.

It is estimated by its dual, E_p[T] - E_q[f*(T)], with the critic T written so
that every real score is allowed. Each is a lower bound on its own divergence
D(p || q), p the joint pairs and q the independent ones, with equality at its
own best critic, given below for the density ratio r = p / q.

Scores beyond 40, of the sign whose exponential would overflow, grow
logarithmically (see `bounds.log_linear_extension`): still a critic, so still a
bound.

Nowozin et al., f-GAN, 2016, table 2. https://arxiv.org/abs/1606.00709
"""

import math

import jax
import jax.numpy as jnp

from dim_jax.losses import bounds


def gan(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Computes the GAN objective in nats: minus the sum of both cross-entropies.

  E_p[-softplus(-T)] - E_q[softplus(T)], which is `bounds.jsd` - 2 ln 2: the
  same gradients, at most 0 for every critic, -2 ln 2 for a constant critic of
  0. Best critic ln r, and then 2 JSD - 2 ln 2.

  References:
    Goodfellow et al., Generative Adversarial Networks, 2014, eq. 1.
    https://arxiv.org/abs/1406.2661
  """
  return bounds.jsd(positive, negative, where=where) - 2 * math.log(2)


def kl(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Computes a lower bound on KL(p || q) in nats, as f-divergences name it.

  This is `bounds.nwj`: the mutual information is the KL divergence of joint
  from independent pairs, and its f-dual is the bound of Nguyen et al. Best
  critic 1 + ln r.
  """
  return bounds.nwj(positive, negative, where=where)


def reverse_kl(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Computes a lower bound on KL(q || p) in nats, the lautum information.

  E_p[-exp(-T)] - E_q[T - 1]. Best critic ln r; a constant critic of 0 gives 0.
  """
  positive, negative, where = bounds.checked_scores(positive, negative, where)
  positive = -bounds.log_linear_extension(-positive)
  negative = -bounds.log_linear_extension(-negative)
  return -jnp.mean(jnp.exp(-positive)) - jnp.mean(negative - 1, where=where)


def squared_hellinger(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Computes a lower bound on the squared Hellinger distance, at most 2.

  The distance is the integral of (sqrt p - sqrt q)^2, and it is at most the KL
  divergence in nats. E_p[1 - exp(-T)] - E_q[exp(T) - 1]. Best critic (ln r) /
  2; a constant critic of 0 gives 0.
  """
  positive, negative, where = bounds.checked_scores(positive, negative, where)
  # Only this side of each term can overflow; the other decays to a constant.
  positive = -bounds.log_linear_extension(
    -bounds.log_linear_extension(positive)
  )
  negative = -bounds.log_linear_extension(
    -bounds.log_linear_extension(negative)
  )
  return -jnp.mean(jnp.expm1(-positive)) - jnp.mean(
    jnp.expm1(negative), where=where
  )


def chi_squared(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Computes a lower bound on Pearson's chi-squared divergence, E_q[(r - 1)^2].

  E_p[T] - E_q[f*(T)], where f* is the conjugate of f(r) = (r - 1)^2 over r >= 0
  (a density ratio is never negative): T + T^2 / 4 for T >= -2, and -1 below. So
  it is bounded above for every p and q with a finite divergence, unlike forms
  that square the positives' scores. Best critic 2 (r - 1); a constant critic of
  0 gives 0. It exceeds the KL divergence, so it is no bound on information.
  """
  positive, negative, where = bounds.checked_scores(positive, negative, where)
  # The parabola's minimum is -1, at -2, so clamping its argument gives both
  # branches, and a derivative that is continuous.
  negative = jnp.maximum(negative, -2.0)
  conjugate = negative + jnp.square(negative) / 4
  return jnp.mean(positive) - jnp.mean(conjugate, where=where)
