"""DIM(L) with InfoNCE, occlusion and coordinates on scikit-learn's digits.

  python -m experiments.train \
      --config=experiments/configs/dim_digits_structure.py \
      --workdir=runs/structure

The code is of an image of which a random rectangle is hidden, and tells where
each local feature of the whole image is.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_digits


def get_config() -> ExperimentConfig:
  """`dim_digits` with both structure tasks of the paper, 300 steps."""
  config = dim_digits.get_config()
  config.objective.coordinates = 'both'
  config.objective.coordinate_units = 64
  config.objective.mask = 'occlude'
  config.objective.mask_patch = 10
  config.steps = 300
  return config
