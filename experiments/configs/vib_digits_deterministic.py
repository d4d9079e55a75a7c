r"""VIB's table 1 on digits: a deterministic network.

  python -m experiments.train \
      --config=experiments/configs/vib_digits_deterministic.py \
      --workdir=runs/vib_digits_deterministic

The code is the linear layer of 256 units; --config.objective.code=None would
leave it out.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import vib_digits


def get_config() -> ExperimentConfig:
  """As `vib_digits`, without noise and rate."""
  config = vib_digits.get_config()
  config.objective.covariance = 'none'
  return config
