r"""VIB's table 1 on digits: a deterministic network with label smoothing.

  python -m experiments.train \
      --config=experiments/configs/vib_digits_label_smoothing.py \
      --workdir=runs/vib_digits_label_smoothing

The paper does not list its amount; 0.1 is the best of Pereyra et al. 2017.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import vib_digits


def get_config() -> ExperimentConfig:
  """As `vib_digits`, without noise and rate."""
  config = vib_digits.get_config()
  config.objective.covariance = 'none'
  config.objective.label_smoothing = 0.1
  return config
