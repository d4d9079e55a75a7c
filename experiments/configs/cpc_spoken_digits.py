"""Contrastive predictive coding on spoken digits, at a size for a CPU.

  python -m experiments.train \
      --config=experiments/configs/cpc_spoken_digits.py \
      --workdir=runs/cpc_spoken_digits
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import gim_spoken_digits


def get_config() -> ExperimentConfig:
  """As gim_spoken_digits without walls: one loss, of the GRU."""
  config = gim_spoken_digits.get_config()
  config.objective.walls = ()
  return config
