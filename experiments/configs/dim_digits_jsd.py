"""DIM(L) with the JSD bound on scikit-learn's digits.

  python -m experiments.train --config=experiments/configs/dim_digits_jsd.py \
      --workdir=runs/digits_jsd

No result of this run has been measured yet.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_digits


def get_config() -> ExperimentConfig:
  """All but the bound is as in dim_digits.py."""
  config = dim_digits.get_config()
  config.objective.bound = 'jsd'
  return config
