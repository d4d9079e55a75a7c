r"""An energy of one number, on the mixture 1/3 N(-2, 1) + 2/3 N(2, 1).

  dim-jax train --config=stein_mixture_1d --workdir=runs/mixture_1d
  dim-jax density runs/mixture_1d

Other negatives as for stein_mixture_2d. The truth is known: dim-jax density
prints the divergence from it.

Measured, seeds 0 to 2 (experiments/results/stein_mixture_1d.json), nats: this
config 0.022, SteinCD 0.032, SteinGAN 0.088, mixture 0.042; one Gaussian 0.174.
"""

from dim_jax.config import ExperimentConfig, PointConfig
from dim_jax.configs import stein_mixture_2d


def get_config() -> ExperimentConfig:
  """All but the points is as in two dimensions."""
  config = stein_mixture_2d.get_config()
  config.data = PointConfig(name='mixture_1d')
  return config
