r"""VIB's table 1 on digits: a deterministic network with dropout.

  python -m experiments.train \
      --config=experiments/configs/vib_digits_dropout.py \
      --workdir=runs/vib_digits_dropout

The paper does not give its rate; 0.5 is the usual one.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import vib_digits


def get_config() -> ExperimentConfig:
  """As `vib_digits`, without noise and rate."""
  config = vib_digits.get_config()
  config.objective.covariance = 'none'
  config.objective.dropout = 0.5
  return config
