r"""An energy in the plane, on a mixture of three Gaussians: by its negatives.

  dim-jax train --config=stein_mixture_2d:cd_10 --workdir=runs/mixture_2d
  dim-jax density runs/mixture_2d

Negatives are chains (cd_10), a Stein direction (stein, SteinCD), a generator
(generator, SteinGAN), or at random in each step one of these two (mixture); the
last two need an energy that learns slower than the generator. More are
--config.objective.negatives=short_run, persistent or buffer.
Other points with --config.data.name=ring, gaussian or banana. The truth is
known: dim-jax density prints the divergence from it.

Measured, seeds 0 to 2 (experiments/results/stein_mixture_2d.json), nats: cd_10
0.030, stein 0.048, generator 0.287, mixture 0.100; one Gaussian 0.638.
"""

from collections.abc import Callable, Mapping

from dim_jax.config import ExperimentConfig, OptimizerConfig, PointConfig
from dim_jax.configs import Row, changed, get
from dim_jax.objectives import energy_model


def cd_10() -> ExperimentConfig:
  """CD with 10 steps of MALA; 2,000 steps of 200 points."""
  return ExperimentConfig(
    objective=energy_model.Config(
      transition='mala',
      steps=10,
      step_size=0.05,
      chains=1000,
      latent_size=8,
    ),
    data=PointConfig(name='mixture_2d'),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    groups={'generator': OptimizerConfig(learning_rate=2e-3)},
    batch_size=200,
    steps=2000,
    log_every=100,
    checkpoint_every=500,
  )


def stein(config: ExperimentConfig) -> None:
  """Moves the data by the Stein direction."""
  config.objective.negatives = 'stein'


def generated(negatives: str) -> Callable[[ExperimentConfig], None]:
  """Returns the change to negatives of a generator: the energy learns slowly.

  Args:
    negatives: 'generator' or 'mixture'.
  """

  def change(config: ExperimentConfig) -> None:
    config.objective.negatives = negatives
    config.objective.energy_penalty = 0.01
    config.optimizer.learning_rate = 1e-4

  return change


def rows(make: Callable[[], ExperimentConfig]) -> Mapping[str, Row]:
  """Makes the rows of a config of points: one for each kind of negatives."""
  return {
    'cd_10': Row('CD-10 (MALA)', make),
    'stein': Row('SteinCD', changed(make, stein)),
    'generator': Row('SteinGAN', changed(make, generated('generator'))),
    'mixture': Row('SteinCD and SteinGAN', changed(make, generated('mixture'))),
  }


ROWS = rows(cd_10)


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
