r"""A Gaussian-Bernoulli RBM of 10 hidden units on MNIST: by its negatives.

  dim-jax train --config=stein_rbm_mnist:langevin --workdir=runs/rbm
  dim-jax density runs/rbm

After Liu and Wang, Learning deep energy models, 2017, with pixels in [0, 1].
Its partition function is known, so `exact` follows the likelihood itself. Read
a log likelihood beside that of a single Gaussian, N(train mean, I), which
dim-jax density prints.

Measured, seeds 0 to 2 (experiments/results/stein_rbm_mnist.json), nats a test
image by the exact partition function: exact -743.4, cd_10 -744.6, stein -745.3,
cd_1 -748.3, langevin -749.7; that Gaussian -746.9. 5 to 62 s a run on one core.

https://arxiv.org/abs/1707.00797
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.configs import Row, changed, get
from dim_jax.objectives import energy_model


def langevin() -> ExperimentConfig:
  """CD-1 with a Langevin step of 0.5; Adam 2e-3, batches of 100."""
  return ExperimentConfig(
    objective=energy_model.Config(
      energy='rbm', hidden=10, input_range=(0.0, 1.0), step_size=0.5, chains=100
    ),
    data=DataConfig(name='mnist', image_size=None),
    optimizer=OptimizerConfig(learning_rate=2e-3),
    batch_size=100,
    steps=2000,
    log_every=100,
    checkpoint_every=500,
  )


def exact(config: ExperimentConfig) -> None:
  """Follows the gradient of the exact likelihood."""
  config.objective.negatives = 'exact'


def gibbs(config: ExperimentConfig) -> None:
  """Moves chains by Gibbs sampling."""
  config.objective.transition = 'gibbs'


def ten_steps(config: ExperimentConfig) -> None:
  """Moves chains ten times."""
  config.objective.steps = 10


def stein(config: ExperimentConfig) -> None:
  """Moves the data by the Stein direction."""
  config.objective.negatives = 'stein'


ROWS: Mapping[str, Row] = {
  'langevin': Row('CD-1 (Langevin)', langevin),
  'cd_1': Row('CD-1 (Gibbs)', changed(langevin, gibbs)),
  'cd_10': Row('CD-10 (Gibbs)', changed(langevin, gibbs, ten_steps)),
  'stein': Row('SteinCD', changed(langevin, stein)),
  'exact': Row('the exact likelihood', changed(langevin, exact)),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
