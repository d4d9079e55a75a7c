"""The term that brings codes to a prior: by samples, or by a closed form."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.checks import check_choice, check_fields
from dim_jax.losses import adversarial, bottleneck, priors
from dim_jax.networks import critics
from dim_jax.objective import Metrics, PyTree
from dim_jax.objectives import sharded_batch
from dim_jax.objectives.terms import term
from dim_jax.objectives.terms.term import Inputs, Term

DISTRIBUTIONS = (*priors.PRIORS, 'kl')
CONSTRAINTS = ('hinge', 'hold')
DIVERGENCES = (*adversarial.ADVERSARIAL, 'mmd', 'stein')


@dataclasses.dataclass(kw_only=True)
class Prior:
  """The prior that codes are matched to, and how."""

  weight: float = 0.1
  """gamma: of this term."""
  distribution: str = 'uniform'
  """Of the code: 'uniform' on [0, 1] (against sigmoid of the code), 'gaussian',
  'ball' or 'sphere', matched by samples; or 'kl', a stochastic encoder with the
  closed-form KL to N(0, I)."""
  divergence: str = 'jsd'
  """How samples of the prior and codes are compared: a name of
  `adversarial.ADVERSARIAL`, by an adversary; 'mmd', by kernels; 'stein', along
  the Stein direction of a 'gaussian' prior. An adversary may take k steps to
  one of the encoder's: give the groups 'encoder' and 'critic' an
  OptimizerConfig with every=k. 'wgan' needs clip_weights in that of
  'adversary'."""
  gradient_penalty: float = 1.0
  """Weight of the divergence's own penalty on the adversary, 1 being its
  paper's: zero-centred for 'jsd', over prior samples and codes; of GAN-QP, its
  quadratic term. It has no meaning where there is none."""
  adversary_units: tuple[int, ...] = (1000, 200)
  """Sizes of the adversary's hidden layers."""
  spectral_norm: bool | None = None
  """Whether the adversary's weights are divided by their spectral norms; None
  for 'hinge' alone."""
  budget: float | None = None
  """With the distribution 'kl': the rate, in nats, that is free or held."""
  constraint: str = 'hinge'
  """Of a budget: 'hinge', an image's code costs its nats above it; or 'hold',
  the mean rate of a batch costs its distance from the budget, and stays at it
  where the weight is above what a nat is worth to the rest of the loss."""


def check(prior: Prior) -> None:
  """Raises ValueError where a field cannot be used."""
  where = 'objective.prior.'
  check_choice(where + 'distribution', prior.distribution, DISTRIBUTIONS)
  check_choice(where + 'divergence', prior.divergence, DIVERGENCES)
  check_choice(where + 'constraint', prior.constraint, CONSTRAINTS)
  check_choice(
    where + 'spectral_norm', prior.spectral_norm, (None, True, False)
  )
  check_fields(
    prior,
    {
      'weight': '[0, inf)',
      'gradient_penalty': '[0, inf)',
      'budget': '[0, inf) or None',
    },
    where,
  )
  sharded_batch.check_units(where + 'adversary_units', prior.adversary_units, 1)
  if prior.divergence == 'stein' and prior.distribution != 'gaussian':
    raise ValueError(
      "objective.prior.divergence='stein' follows the prior's score, the "
      "gradient of its log-density, which only distribution='gaussian' has "
      f'here; got distribution={prior.distribution!r}. Set it, or choose '
      "divergence='mmd'."
    )
  if prior.distribution == 'kl' and prior.divergence != 'jsd':
    raise ValueError(
      "objective.prior.distribution='kl' is a closed form and leaves nothing "
      f"to divergence={prior.divergence!r}: choose distribution='gaussian', or "
      'leave divergence out.'
    )
  if prior.budget is not None and prior.distribution != 'kl':
    raise ValueError(
      "objective.prior.budget is of distribution='kl', got distribution="
      f'{prior.distribution!r}: set that one, or budget=None.'
    )
  if prior.budget is None and prior.constraint != 'hinge':
    raise ValueError(
      f'objective.prior.constraint={prior.constraint!r} holds the rate at '
      'objective.prior.budget, which is None: set that to nats.'
    )


def check_optimizers(
  prior: Prior | None, optimizers: Mapping[str, Any], default: Any
) -> None:
  """Raises ValueError where nothing keeps a Wasserstein critic from growing.

  Args:
    prior: a run's; None where it has no weight.
    optimizers: those of single parameter groups.
    default: of all others.
  """
  if prior is None or prior.divergence != 'wgan':
    return
  optimizer = optimizers.get('adversary', default)
  if optimizer.clip_weights is None and not prior.spectral_norm:
    raise ValueError(
      "objective.prior.divergence='wgan' needs an adversary of bounded slope: "
      "set groups['adversary'] to an OptimizerConfig with clip_weights=0.01, "
      "or objective.prior.spectral_norm=True; 'wgan_gp' has a penalty instead."
    )


def draw_codes(
  prior: Prior, rng: jax.Array, shape: tuple[int, int]
) -> jax.Array:
  """Draws codes as an encoder returns them, where they match the prior.

  Args:
    prior: its options.
    rng: a key.
    shape: (N, D).

  Returns:
    Samples of the prior; of the uniform one, whose codes pass through a sigmoid
    before they are matched, their logits.
  """
  if prior.distribution == 'kl':
    return priors.sample_prior(rng, 'gaussian', shape)
  codes = priors.sample_prior(rng, prior.distribution, shape)
  if prior.distribution != 'uniform':
    return codes
  # Samples may be 0; they are multiples of the smallest step below 1.
  step = jnp.finfo(codes.dtype).eps
  return jax.scipy.special.logit(jnp.clip(codes, step, 1 - step))


def normalises(divergence: str, spectral_norm: bool | None) -> bool:
  """Whether the adversary of a divergence is spectrally normalised."""
  return divergence == 'hinge' if spectral_norm is None else spectral_norm


class Terms(NamedTuple):
  """What `adversarial_terms` returns: scalars to minimise.

  Attributes:
    adversary: its loss; gives the adversary's parameters alone a gradient.
    encoder: the encoder's loss, not weighted; gives the adversary none.
    penalties: on the adversary, not weighted: 'gradient_penalty', or 'penalty'
      where it is of scores alone; or nothing.
    state: the adversary's, after its step.
  """

  adversary: jax.Array
  encoder: jax.Array
  penalties: dict[str, jax.Array]
  state: PyTree

  def total(self, encoder_weight: float, penalty_weight: float) -> jax.Array:
    """Adds both losses up."""
    penalty = sum(self.penalties.values())
    return (
      self.adversary
      + encoder_weight * self.encoder
      + (penalty_weight * penalty)
    )

  def metrics(self) -> Metrics:
    """Names the terms 'prior/...'."""
    terms = {'adversary': self.adversary, 'encoder': self.encoder}
    return {f'prior/{k}': v for k, v in (terms | self.penalties).items()}


def adversarial_terms(
  losses: adversarial.Adversarial,
  adversary: nn.Module,
  variables: PyTree,
  rng: jax.Array,
  prior: jax.Array,
  codes: jax.Array,
  *,
  penalised: bool = True,
) -> Terms:
  """Computes both losses of an adversarial divergence of codes and a prior.

  Args:
    losses: of `adversarial.ADVERSARIAL`.
    adversary: a `critics.Adversary`.
    variables: its 'params', and its state.
    rng: a key for the penalty.
    prior: samples of the prior, shape [N, D].
    codes: what is to look like them, shape [N, D].
    penalised: whether the adversary has the divergence's penalty, if there is
      one.

  Returns:
    The terms of adversary and encoder.
  """
  state = {k: v for k, v in variables.items() if k != 'params'}

  def score(x: jax.Array) -> jax.Array:
    return adversary.apply(variables, x)

  detached = jax.lax.stop_gradient(codes)
  # The power iteration moves in the adversary's own step, once.
  code_scores, state = adversary.apply(
    variables, detached, train=True, mutable=list(state)
  )
  prior_scores = score(prior)
  frozen = jax.lax.stop_gradient(variables)
  penalties = {}
  if penalised and losses.penalty is not None:
    name = 'gradient_penalty' if losses.input_gradient else 'penalty'
    penalties[name] = losses.penalty(rng, score, prior, detached)
  return Terms(
    losses.critic_loss(prior_scores, code_scores),
    losses.encoder_loss(
      jax.lax.stop_gradient(prior_scores), adversary.apply(frozen, codes)
    ),
    penalties,
    state,
  )


def make(
  prior: Prior, code_name: str, dtype: Any, axis_name: str | None
) -> Term:
  """Makes the term.

  Args:
    prior: its options; not of the distribution 'kl'.
    code_name: of the feature that is the code.
    dtype: compute dtype of the adversary.
    axis_name: the pmapped axis.

  Returns:
    The term of the group 'adversary', if the divergence needs one.
  """
  adversary = critics.Adversary(
    units=tuple(prior.adversary_units),
    spectral_norm=normalises(prior.divergence, prior.spectral_norm),
    dtype=dtype,
  )
  losses = adversarial.ADVERSARIAL.get(prior.divergence)

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    if losses is None:
      return {}, {}
    rng = jax.random.split(rng, 3)[2]
    codes = term.one_a_row(inputs.features[code_name])
    params, state = term.split(adversary.init(rng, codes))
    return {'adversary': params}, {'adversary': state} if state else {}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    rng = jax.random.split(rng, 4)[3]
    codes = term.one_a_row(inputs.features[code_name])
    codes = sharded_batch.gather(codes, axis_name)
    if prior.distribution == 'uniform':
      codes = jax.nn.sigmoid(codes)
    count, size = codes.shape
    if losses is None:
      if prior.divergence == 'stein':
        value = priors.stein_prior(codes)
      else:
        samples = priors.sample_prior(rng, prior.distribution, (count, size))
        value = priors.mmd(codes, samples)
      return prior.weight * value, {'prior/encoder': value}, {}
    terms = adversarial_terms(
      losses,
      adversary,
      {'params': params['adversary'], **model_state.get('adversary', {})},
      random.branch(rng, random.OfPrior.PENALTY),
      priors.sample_prior(rng, prior.distribution, (count, size)),
      codes,
      penalised=prior.gradient_penalty > 0,
    )
    total = terms.total(prior.weight, prior.gradient_penalty)
    state = {'adversary': terms.state} if terms.state else {}
    return total, terms.metrics(), state

  return Term(init, loss)


def sample_code(
  features: dict[str, jax.Array],
  code_name: str,
  rng: jax.Array,
  axis_name: str | None,
) -> dict[str, jax.Array]:
  """Replaces the code of a stochastic encoder, its mean, by a sample.

  Args:
    features: the encoder's outputs, 'log_variance' among them.
    code_name: of the feature that is the code.
    rng: the step's key.
    axis_name: the pmapped axis.

  Raises:
    ValueError: the encoder is not stochastic.
  """
  if 'log_variance' not in features:
    raise ValueError(
      "objective.prior.distribution='kl' needs a stochastic encoder, whose "
      f"features have 'log_variance'; got {sorted(features)}. Give yours "
      'stochastic=True, or choose another distribution.'
    )
  mean = features[code_name].astype(jnp.float32)
  log_variance = features['log_variance'].astype(jnp.float32)
  noise = sharded_batch.per_image(
    jax.random.split(rng, 4)[0], mean.shape, axis_name, jax.random.normal
  )
  return features | {code_name: mean + jnp.exp(0.5 * log_variance) * noise}


def make_kl(prior: Prior, axis_name: str | None) -> Term:
  """Makes the term of the distribution 'kl', a closed form.

  References:
    Burgess et al., Understanding disentangling in beta-VAE, 2018, eq. 8 (the
    constraint 'hold'). https://arxiv.org/abs/1804.03599
  """

  def average(values: jax.Array) -> jax.Array:
    # The reported number is of all images, whichever device they are on.
    return values if axis_name is None else jax.lax.pmean(values, axis_name)

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    return {}, {}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    mean = jnp.asarray(inputs.mean, jnp.float32)
    log_variance = inputs.features['log_variance'].astype(jnp.float32)
    kl = average(priors.gaussian_kl(mean, log_variance))
    metrics = {'prior/kl': kl}
    if prior.budget is not None and prior.constraint == 'hold':
      kl = jnp.abs(kl - prior.budget)
    elif prior.budget is not None:
      each = jax.vmap(priors.gaussian_kl)(mean[:, None], log_variance[:, None])
      kl = average(jnp.mean(bottleneck.rate_excess(each, prior.budget)))
    return prior.weight * kl, metrics, {}

  return Term(init, loss)
