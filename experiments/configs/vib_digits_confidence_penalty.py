r"""VIB's table 1 on digits: a deterministic network with a confidence penalty.

  python -m experiments.train \
      --config=experiments/configs/vib_digits_confidence_penalty.py \
      --workdir=runs/vib_digits_confidence_penalty

The paper does not list its weight; 1 is the best of Pereyra et al. 2017.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import vib_digits


def get_config() -> ExperimentConfig:
  """As `vib_digits`, without noise and rate."""
  config = vib_digits.get_config()
  config.objective.covariance = 'none'
  config.objective.confidence_penalty = 1.0
  return config
