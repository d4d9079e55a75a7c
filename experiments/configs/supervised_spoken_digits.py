"""Supervised speaker recognition on spoken digits, at a size for a CPU.

  python -m experiments.train \
      --config=experiments/configs/supervised_spoken_digits.py \
      --workdir=runs/supervised_spoken_digits
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import gim_spoken_digits


def get_config() -> ExperimentConfig:
  """Cross-entropy of the speakers, end to end."""
  config = gim_spoken_digits.get_config()
  config.objective.loss = 'supervised'
  config.objective.walls = ()
  return config
