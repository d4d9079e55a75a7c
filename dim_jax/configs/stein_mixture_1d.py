r"""An energy of one number, on the mixture 1/3 N(-2, 1) + 2/3 N(2, 1).

  dim-jax train --config=stein_mixture_1d:cd_10 --workdir=runs/mixture_1d
  dim-jax density runs/mixture_1d

The rows are those of stein_mixture_2d. The truth is known: dim-jax density
prints the divergence from it.

Measured, seeds 0 to 2 (experiments/results/stein_mixture_1d.json), nats: cd_10
0.022, stein 0.032, generator 0.088, mixture 0.042; one Gaussian 0.174.
"""

from dim_jax.config import ExperimentConfig, PointConfig
from dim_jax.configs import get, stein_mixture_2d


def cd_10() -> ExperimentConfig:
  """All but the points is as in two dimensions."""
  config = stein_mixture_2d.cd_10()
  config.data = PointConfig(name='mixture_1d')
  return config


ROWS = stein_mixture_2d.rows(cd_10)


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
