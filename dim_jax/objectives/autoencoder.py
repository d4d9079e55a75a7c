r"""Autoencoders: plain, variational and adversarial ones, by the prior alone.

A decoder reconstructs images from their codes. Its distortion D, -ln p(x|z) of
a Gaussian around the reconstruction, in nats an image, is what encoder and
decoder minimise, beside what brings codes to a prior:

* `prior=None`, or one of weight 0: nothing. The autoencoder (AE).
* `Prior(distribution='kl')`: beta times the rate R = KL(q(z|x) || N(0, I)) of a
  stochastic code, in closed form. With a weight of 1 the loss is minus the
  evidence lower bound, which makes it the variational autoencoder (VAE); with
  another, the beta-VAE.
* `Prior(distribution='uniform')` and the others: `weight` times the divergence
  of the codes from samples of the prior, Deep InfoMax's term, by an adversary:
  the adversarial autoencoder (AAE); by 'mmd' or 'stein' without one, which is
  the Wasserstein autoencoder of that divergence (WAE).

.. math:: \ln p(x) \ge -(D + R),
  \qquad D = \|x - \mu(z)\|^2 / (2 s^2) + n \ln (s \sqrt{2 \pi})

of n numbers x an image. All weights are in nats of D, so s, `Config.std`, sets
what a nat of the prior is worth: the default, sqrt(1/2), makes the loss the sum
of squared errors, as Deep InfoMax's baselines have it. Each parameter group
gets its own gradient from one backward pass: the adversary sees `stop_gradient`
of the codes, and the online probe that of the features.

The metrics, in nats an image: 'decoder/distortion', D of training batches, at
sampled codes; 'prior/kl', R; and 'decoder/elbo', -(D + R), the bound on ln p(x)
whatever the weight. These are of a density on pixels in [-1, 1], and so may
have either sign. 'decoder/squared_error' is a mean over pixels, in their unit
squared. The prior's and the probe's are those of `dim`.

Kingma and Welling, Auto-Encoding Variational Bayes, 2014.
https://arxiv.org/abs/1312.6114
Higgins et al., beta-VAE, ICLR 2017.
https://openreview.net/forum?id=Sy2fzU9gl
Makhzani et al., Adversarial Autoencoders, 2015.
https://arxiv.org/abs/1511.05644
Tolstikhin et al., Wasserstein Auto-Encoders, 2018.
https://arxiv.org/abs/1711.01558
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.checks import check_fields
from dim_jax.losses import adversarial
from dim_jax.networks import posteriors
from dim_jax.objective import Batch, Generator, Metrics, Objective, PyTree
from dim_jax.objectives import encoder_and_terms, image_encoder
from dim_jax.objectives.terms import (
  classifiers,
  prior_matching,
  reconstruction,
)
from dim_jax.objectives.terms.prior_matching import Prior
from dim_jax.objectives.terms.term import Term


@dataclasses.dataclass(kw_only=True)
class Config:
  """An autoencoder; the defaults are the plain one."""

  encoder: str | Any = 'basic32'
  """A name of `networks.encoders.ENCODERS`, or a Flax module that maps images
  [N, H, W, C] and `train` to a dictionary of features, among them the code 'y'
  [N, K], or to that array; for a rate, 'log_variance' too."""
  code: int = 64
  """K, size of the code; of a module of your own, what it has."""
  norm: str = 'batch'
  """The normalisation of a named encoder and of the decoder: 'batch', or
  without statistics of the batch, 'layer' or 'group'."""
  prior: Prior | None = None
  """What the code's distribution is matched to; None for nothing. Beside a sum
  of squared errors an adversary needs a weight well above 1: its term is of
  some nats, theirs of hundreds."""
  std: float = math.sqrt(0.5)
  """s: standard deviation of pixels, in [-1, 1], around their reconstruction.
  The smaller, the more the reconstruction weighs against the prior."""
  decoder_channels: int | None = None
  """Channels of the decoder's first map, which each doubling halves; None for
  those of the encoder's last one, 'conv'."""
  dtype: str = 'float32'
  """Compute dtype of the networks, 'float32' or 'bfloat16'; parameters and
  reconstructions stay float32."""
  num_classes: int = 10
  """Classes of the online probe, a linear layer on every feature of
  `probe_features` that sends no gradient back; 0 for none. Labels must be below
  it; those of -1 are left out."""
  probe_features: tuple[str, ...] = classifiers.PROBED
  """The features that online probes read."""

  @property
  def title(self) -> str:
    """The method's name: 'AE', 'VAE', 'beta-VAE', 'AAE' or 'WAE'."""
    prior = _used(self.prior)
    if prior is None:
      return 'AE'
    if prior.distribution == 'kl':
      is_bound = prior.weight == 1 and prior.budget is None
      return 'VAE' if is_bound else 'beta-VAE'
    return 'AAE' if prior.divergence in adversarial.ADVERSARIAL else 'WAE'


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  image_encoder.check(config)
  check_fields(
    config,
    {'std': '(0, inf)', 'decoder_channels': 'int [1, inf) or None'},
    'objective.',
  )
  if config.prior:
    prior_matching.check(config.prior)


def check_optimizers(
  config: Config, optimizers: Mapping[str, Any], default: Any
) -> None:
  """Raises ValueError where nothing keeps a Wasserstein critic from growing.

  Args:
    config: the run's objective.
    optimizers: those of single parameter groups.
    default: of all others.
  """
  prior_matching.check_optimizers(_used(config.prior), optimizers, default)


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes an autoencoder as an objective.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over.

  Returns:
    The objective, over the groups 'encoder', 'decoder', 'adversary' (if the
    prior has one) and 'probe'. It encodes to the encoder's features, of which
    'y' is the code, or its mean; with a rate, 'log_variance' is its other half.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  prior = _used(config.prior)
  stochastic = _is_stochastic(config)
  images = functools.partial(
    reconstruction.decode, norm=config.norm, dtype=jnp.dtype(config.dtype)
  )
  codes = functools.partial(_codes, prior, config.code) if prior else None
  objective = encoder_and_terms.make(
    functools.partial(_make_encoder, config),
    _make_terms(config, axis_name),
    code=reconstruction.CODE,
    stochastic=stochastic,
    axis_name=axis_name,
    classes=config.num_classes,
    optional_groups=('adversary', 'probe'),
    generator=Generator(images, codes),
  )
  if not stochastic:
    return objective
  return objective._replace(
    loss=functools.partial(_loss_and_bound, objective.loss),
    posterior=functools.partial(_posterior, objective.encode),
    rate=functools.partial(_rate, objective.encode),
  )


def _used(prior: Prior | None) -> Prior | None:
  """Returns a prior, or None where it has no weight."""
  return prior if prior is not None and prior.weight else None


def _is_stochastic(config: Config) -> bool:
  prior = _used(config.prior)
  return prior is not None and prior.distribution == 'kl'


def _make_encoder(config: Config, axis_name: str | None) -> nn.Module:
  stochastic = _is_stochastic(config)
  return image_encoder.of_config(config, axis_name, stochastic=stochastic)


def _make_terms(config: Config, axis_name: str | None) -> list[Term]:
  dtype = jnp.dtype(config.dtype)
  terms = [
    reconstruction.make(
      std=config.std,
      code=config.code,
      channels=config.decoder_channels,
      norm=config.norm,
      dtype=dtype,
      axis_name=axis_name,
    )
  ]
  if prior := _used(config.prior):
    if prior.distribution == 'kl':
      terms.append(prior_matching.make_kl(prior, axis_name))
    else:
      terms.append(
        prior_matching.make(prior, reconstruction.CODE, dtype, axis_name)
      )
  return terms + classifiers.make_probes(config, axis_name)


def _loss_and_bound(
  loss: Callable[..., tuple[jax.Array, tuple[Metrics, PyTree]]],
  params: PyTree,
  model_state: PyTree,
  batch: Batch,
  rng: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
  """Adds the evidence lower bound to the metrics of a loss."""
  value, (metrics, state) = loss(params, model_state, batch, rng)
  elbo = -(metrics['decoder/distortion'] + metrics['prior/kl'])
  return value, (metrics | {'decoder/elbo': elbo}, state)


def _codes(prior: Prior, size: int, rng: jax.Array, count: int) -> jax.Array:
  return prior_matching.draw_codes(prior, rng, (count, size))


def _posterior(
  encode: Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]],
  variables: PyTree,
  batch: Batch,
) -> posteriors.Posterior:
  params, model_state = variables
  features = encode(params, model_state, batch)
  log_std = features['log_variance'].astype(jnp.float32) / 2
  mean = features[reconstruction.CODE].astype(jnp.float32)
  return posteriors.Posterior(mean, jnp.exp(log_std), log_std)


def _rate(
  encode: Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]],
  variables: PyTree,
  batch: Batch,
  rng: jax.Array,
  samples: int,
) -> jax.Array:
  """The closed form, which needs no samples."""
  del rng, samples
  return _posterior(encode, variables, batch).rate()
