"""Adversarial losses that match codes to a prior, by name in `ADVERSARIAL`.

An adversary scores samples of the prior against codes; each loss has a term for
it and a term for the encoder. What keeps an adversary smooth is in
`gradient_penalties.py` and `spectral.py`; priors that need no adversary are
matched by `priors.py`.

Each term takes `prior_scores` [N], the adversary's scores of samples of the
prior, and `code_scores` [M], those of the encoder's codes, and returns a scalar
to be minimised over one of the two, without a unit where none is given. Only
the adversary's parameters should see its term: pass it `stop_gradient` of the
codes. Only the encoder should see its own: compute its scores with
`stop_gradient` of the adversary's parameters.

Paired losses compare row i of the prior with row i of the codes: they need
N = M, and raise ValueError otherwise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from dim_jax.losses import bounds, gradient_penalties

Penalty = Callable[
  [jax.Array, gradient_penalties.Score, jax.Array, jax.Array], jax.Array
]


def adversary_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes the adversary's loss, minus the JSD of the prior and the codes.

  In nats: 0 for a constant adversary of 0 and at least -2 ln 2; adding 2 ln 2
  gives the sum of both binary cross-entropies.

  References:
    Hjelm et al., Learning deep representations by mutual information estimation
    and maximization, 2019, eq. 7. https://arxiv.org/abs/1808.06670
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  return -bounds.jsd(prior_scores[None, :], code_scores[None, :])


def encoder_prior_loss(code_scores: jax.Array) -> jax.Array:
  """Computes the encoder's loss: to look like the prior to the adversary.

  E[softplus(-T)], the non-saturating form: its gradient with respect to every
  code opposes the adversary's, and is largest where the adversary wins. In
  nats, ln 2 for a constant adversary of 0.

  References:
    Goodfellow et al., Generative Adversarial Networks, 2014, section 3.
    https://arxiv.org/abs/1406.2661
  """
  (code_scores,) = _as_scores(code_scores)
  return jnp.mean(jax.nn.softplus(-code_scores))


def wasserstein_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes the mean score of codes minus that of the prior, for a critic.

  Without a bound on the critic's slope (weights clipped, a penalty, or spectral
  normalisation) it falls without end.

  References:
    Arjovsky et al., Wasserstein GAN, 2017. https://arxiv.org/abs/1701.07875
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  return jnp.mean(code_scores) - jnp.mean(prior_scores)


def wasserstein_encoder_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes minus the mean score of codes, the Wasserstein encoder loss."""
  _, code_scores = _as_scores(prior_scores, code_scores)
  return -jnp.mean(code_scores)


def paired_encoder_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes GAN-QP's encoder loss: the prior's mean score minus the codes'.

  Its gradient is that of `wasserstein_encoder_loss`; its value estimates the
  divergence, up to the critic's penalty. Paired.
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  gradient_penalties.check_paired(prior_scores, code_scores)
  return jnp.mean(prior_scores - code_scores)


def paired_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes minus `paired_encoder_loss`, for the critic.

  It needs a bound: see `gradient_penalties.quadratic_penalty`. Paired.
  """
  return -paired_encoder_loss(prior_scores, code_scores)


def hinge_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes E relu(1 - prior's score) + E relu(1 + code's score).

  Made for an adversary under spectral normalisation; 2 for a constant one of 0.

  References:
    Miyato et al., Spectral Normalization for Generative Adversarial Networks,
    2018, eq. 16. https://arxiv.org/abs/1802.05957
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  return jnp.mean(jax.nn.relu(1 - prior_scores)) + jnp.mean(
    jax.nn.relu(1 + code_scores)
  )


def least_squares_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes (E (prior's score - 1)^2 + E (code's score + 1)^2) / 2.

  The best critic is (p - q) / (p + q) of the prior's and the codes' densities;
  1 for a constant one of 0. These are the paper's targets 1 and 0, for scores
  that are read as (score + 1) / 2, times 4.

  References:
    Mao et al., Least Squares Generative Adversarial Networks, 2017, eq. 2 and
    9. https://arxiv.org/abs/1611.04076
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  return (
    jnp.mean(jnp.square(prior_scores - 1))
    + jnp.mean(jnp.square(code_scores + 1))
  ) / 2


def least_squares_encoder_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes E (code's score - 1)^2 / 2, so that codes score as the prior."""
  _, code_scores = _as_scores(prior_scores, code_scores)
  return jnp.mean(jnp.square(code_scores - 1)) / 2


def relativistic_critic_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes E softplus(code's score - prior's score), over pairs of rows.

  In nats, ln 2 for a constant critic. Paired.

  References:
    Jolicoeur-Martineau, The relativistic discriminator, 2018, eq. 3 and 4.
    https://arxiv.org/abs/1807.00734
  """
  prior_scores, code_scores = _as_scores(prior_scores, code_scores)
  gradient_penalties.check_paired(prior_scores, code_scores)
  return jnp.mean(jax.nn.softplus(code_scores - prior_scores))


def relativistic_encoder_loss(
  prior_scores: jax.Array, code_scores: jax.Array
) -> jax.Array:
  """Computes `relativistic_critic_loss` with the two sides exchanged."""
  return relativistic_critic_loss(code_scores, prior_scores)


class Adversarial(NamedTuple):
  """An adversarial loss that matches codes to a prior; minimise each term.

  Attributes:
    critic_loss: `(prior_scores [N], code_scores [M]) -> scalar`.
    encoder_loss: `(prior_scores [N], code_scores [M]) -> scalar`.
    penalty: `(rng, score_fn, prior [N, D], codes [M, D]) -> scalar`, with the
      constants of its paper, to add to `critic_loss`; or None.
    input_gradient: whether the penalty differentiates scores with respect to
      the adversary's input, so that its own gradient is of second order.
    paired: whether the two batches must be of one size (N = M).
  """

  critic_loss: Callable[[jax.Array, jax.Array], jax.Array]
  encoder_loss: Callable[[jax.Array, jax.Array], jax.Array]
  penalty: Penalty | None = None
  input_gradient: bool = False
  paired: bool = False

  def generator_loss(
    self, prior_scores: jax.Array, code_scores: jax.Array
  ) -> jax.Array:
    """Computes the loss of what makes the prior's side, where something does.

    It is `encoder_loss` with the two sides exchanged: what makes the prior's
    side wants its scores low, as the codes' should be. Of 'jsd' it is
    E[softplus(T)], again the form that does not saturate.

    Args:
      prior_scores: of what is generated, shape [N].
      code_scores: shape [M].

    Returns:
      A scalar to be minimised over the generator.
    """
    return self.encoder_loss(-code_scores, -prior_scores)


def _without_rng(penalty: Callable[..., jax.Array], **fields: Any) -> Penalty:
  """Returns a penalty that draws nothing in the form of those that do."""
  return lambda rng, *arrays: penalty(*arrays, **fields)


ADVERSARIAL: dict[str, Adversarial] = {
  'jsd': Adversarial(
    adversary_loss,
    lambda prior_scores, code_scores: encoder_prior_loss(code_scores),
    _without_rng(gradient_penalties.zero_centred_penalty),
    input_gradient=True,
  ),
  'wgan': Adversarial(wasserstein_critic_loss, wasserstein_encoder_loss),
  'wgan_gp': Adversarial(
    wasserstein_critic_loss,
    wasserstein_encoder_loss,
    gradient_penalties.one_centred_penalty,
    input_gradient=True,
    paired=True,
  ),
  'wgan_lp': Adversarial(
    wasserstein_critic_loss,
    wasserstein_encoder_loss,
    gradient_penalties.one_sided_penalty,
    input_gradient=True,
    paired=True,
  ),
  'wgan_div': Adversarial(
    wasserstein_critic_loss,
    wasserstein_encoder_loss,
    gradient_penalties.power_penalty,
    input_gradient=True,
    paired=True,
  ),
  'gan_qp_l1': Adversarial(
    paired_critic_loss,
    paired_encoder_loss,
    _without_rng(gradient_penalties.quadratic_penalty, norm='l1'),
    paired=True,
  ),
  'gan_qp_l2': Adversarial(
    paired_critic_loss,
    paired_encoder_loss,
    _without_rng(gradient_penalties.quadratic_penalty, norm='l2'),
    paired=True,
  ),
  'hinge': Adversarial(hinge_critic_loss, wasserstein_encoder_loss),
  'lsgan': Adversarial(least_squares_critic_loss, least_squares_encoder_loss),
  'rsgan': Adversarial(
    relativistic_critic_loss, relativistic_encoder_loss, paired=True
  ),
}
"""The losses by name. What else their papers ask for: 'wgan', weights clipped
to 0.01 after each update, and 5 critic steps per encoder step, as 'wgan_gp'
and 'wgan_lp', whose penalty is one-sided;
'hinge', spectral normalisation of the adversary; 'gan_qp', 2 critic steps, and
an encoder's weight that is smaller by lambda = 10."""


def _as_scores(*scores: jax.Array) -> list[jax.Array]:
  chex.assert_rank(
    scores, 1, custom_message='losses take one score for each example.'
  )
  return [x.astype(jnp.float32) for x in scores]
