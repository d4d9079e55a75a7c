"""Greedy supervised speaker recognition on spoken digits, at a size for a CPU.

  python -m experiments.train \
      --config=experiments/configs/greedy_supervised_spoken_digits.py \
      --workdir=runs/greedy_supervised_spoken_digits
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import supervised_spoken_digits


def get_config() -> ExperimentConfig:
  """A classifier of speakers on each module, behind walls."""
  config = supervised_spoken_digits.get_config()
  config.objective.walls = None
  return config
