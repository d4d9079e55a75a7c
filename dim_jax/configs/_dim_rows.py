"""The rows of Deep InfoMax's tables: itself, and the baselines beside it.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019, tables 1 and 2. https://arxiv.org/abs/1808.06670

Each is a change of the config of DIM(L) with InfoNCE, so that all rows of a
table share encoder, data, optimizer and images seen. Of the baselines the paper
states no settings: these are their own papers', see the functions.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dim_jax.config import ExperimentConfig, OptimizerConfig
from dim_jax.configs import Row, changed
from dim_jax.objectives import autoencoder, bigan, dim, nat

MEMORY = '(from memory, unverified)'


def published(
  source: str, row: str, *percent: float, probe: str = 'mlp'
) -> dict[str, Any]:
  """Returns a published row: a probe's accuracies on conv, fc and y."""
  accuracies = dict(zip(('conv', 'fc', 'y'), percent, strict=False))
  source = f'Hjelm et al. 2019, {source}'
  return {'source': source, 'row': row, 'probe': probe, **accuracies}


def jsd(config: ExperimentConfig) -> None:
  """Sets the JSD bound."""
  config.objective.bound = 'jsd'


def donsker_varadhan(config: ExperimentConfig) -> None:
  """Sets the Donsker-Varadhan bound."""
  config.objective.bound = 'donsker_varadhan'


def global_information(config: ExperimentConfig) -> None:
  """Sets DIM(G) with the JSD bound: alpha, beta, gamma = 1, 0, 1.

  The critic is the paper's: the last map and the code, concatenated, through
  two hidden layers of 512.
  """
  jsd(config)
  config.objective.global_weight = 1.0
  config.objective.local_weight = 0.0
  config.objective.prior.weight = 1.0


def supervised(config: ExperimentConfig) -> None:
  """Trains the encoder from labels alone, by a linear layer on the code."""
  config.objective.local_weight = 0.0
  config.objective.prior = None
  config.objective.supervised = dim.Supervised(
    weight=1.0, units=(), feature='y'
  )


def su(config: ExperimentConfig) -> None:
  """Sets Su's variant, with the weights and the critics of its code.

  The prior is the closed-form KL to N(0, I), the global critic scores pairs of
  codes, and both have one negative to a positive. What differs from the code:
  the encoder, which is the config's; b1 of Adam, 0.9 there; and the negative,
  which is the neighbour in a batch of random order, never the image itself, in
  place of a shuffle for each critic.

  Su, Mutual information in deep learning: information maximization, 2018.
  https://kexue.fm/archives/6024
  https://github.com/bojone/infomax
  """
  jsd(config)
  objective = config.objective
  objective.local_weight, objective.global_weight = 1.5, 0.5
  # There 0.01 of the mean over dimensions; here it is of the sum.
  objective.prior = dim.Prior(distribution='kl', weight=0.01 / objective.code)
  objective.local_feature, objective.map_feature = 'conv', 'y'
  objective.critic = 'concat'
  objective.critic_units = objective.global_critic_units = 256
  objective.concat_depth = 3
  objective.negatives_of = 2
  config.optimizer = OptimizerConfig(learning_rate=1e-3)


def _of_encoder(config: ExperimentConfig, kind: Any, **fields: Any) -> None:
  """Sets another objective with the same encoder and probe."""
  old = config.objective
  shared = ('encoder', 'code', 'norm', 'dtype', 'num_classes', 'probe_features')
  fields |= {name: getattr(old, name) for name in shared}
  config.objective = kind(**fields)


def autoencoding(prior: dim.Prior | None) -> Callable[[ExperimentConfig], None]:
  """Returns the change to an autoencoder: of the sum of squared errors."""

  def change(config: ExperimentConfig) -> None:
    # A row's own, which a user may change.
    own = prior and dataclasses.replace(prior)
    _of_encoder(config, autoencoder.Config, prior=own)

  return change


def adversarial_pairs(config: ExperimentConfig) -> None:
  """Sets the BiGAN, whose discriminator learns five times as fast."""
  _of_encoder(config, bigan.Config)
  rates = {'encoder': 2e-4, 'generator': 2e-4, 'discriminator': 1e-3}
  config.groups |= {
    name: OptimizerConfig(learning_rate=rate, b1=0.5)
    for name, rate in rates.items()
  }


def noise_targets(config: ExperimentConfig) -> None:
  """Sets noise as targets, one for each image of the configs' data sets."""
  _of_encoder(config, nat.Config, targets=100_000)


class _Method(NamedTuple):
  """A row of each table: its description, its published name, its changes."""

  description: str
  row: str
  changes: tuple[Callable[[ExperimentConfig], None], ...]


METHODS: dict[str, _Method] = {
  'local_infonce': _Method('DIM(L) with InfoNCE', 'DIM(L) infoNCE', ()),
  'local_jsd': _Method('DIM(L) with the JSD bound', 'DIM(L) JSD', (jsd,)),
  'local_dv': _Method(
    'DIM(L) with the Donsker-Varadhan bound', 'DIM(L) DV', (donsker_varadhan,)
  ),
  'global': _Method(
    'DIM(G) with the JSD bound', 'DIM(G)', (global_information,)
  ),
  'supervised': _Method(
    'Fully supervised, on the same encoder', 'supervised', (supervised,)
  ),
  'vae': _Method(
    'VAE',
    'VAE',
    (autoencoding(dim.Prior(distribution='kl', weight=1.0)),),
  ),
  'ae': _Method('AE', 'AE', (autoencoding(None),)),
  'beta_vae': _Method(
    'beta-VAE of beta 0.5',
    'beta-VAE',
    (autoencoding(dim.Prior(distribution='kl', weight=0.5)),),
  ),
  'aae': _Method(
    'AAE with a Gaussian prior',
    'AAE',
    (autoencoding(dim.Prior(distribution='gaussian', weight=30.0)),),
  ),
  'bigan': _Method('BiGAN', 'BiGAN', (adversarial_pairs,)),
  'nat': _Method('Noise as targets', 'NAT', (noise_targets,)),
}
"""By name, in the order of `--list`."""
TABLE = (
  'supervised', 'vae', 'ae', 'beta_vae', 'aae', 'bigan', 'nat',
  'global', 'local_dv', 'local_jsd', 'local_infonce',
)  # fmt: skip
"""The methods in the paper's order."""
# Those whose numbers no source at hand confirms.
_FROM_MEMORY = ('ae', 'beta_vae', 'local_dv')


def table_rows(
  make: Callable[[], ExperimentConfig],
  source: str = '',
  numbers: Mapping[str, tuple[float, ...]] | None = None,
) -> dict[str, Row]:
  """Makes the rows of a table.

  Args:
    make: the config of DIM(L) with InfoNCE.
    source: the published table, if there is one.
    numbers: by method, its accuracies in percent: an MLP probe's on conv, fc
      and y; of 'supervised' the classifier's own.

  Returns:
    A row for each of METHODS.
  """
  rows = {}
  for name, (description, row, changes) in METHODS.items():
    paper = None
    if numbers:
      where = f'{source} {MEMORY}' if name in _FROM_MEMORY else source
      if name == 'supervised':
        (accuracy,) = numbers[name]
        paper = published(where, row) | {'error_1': round(100 - accuracy, 2)}
        del paper['probe']
      else:
        paper = published(where, row, *numbers[name])
    rows[name] = Row(description, changed(make, *changes), paper)
  return rows
