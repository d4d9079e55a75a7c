"""DIM(L) with InfoNCE and occlusion on CIFAR-100: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100_occlusion.py \
      --workdir=runs/dim_cifar100_occlusion

The code is of an image of which a random rectangle is hidden, the local
features of the whole image; a block of 10x10 pixels at least is hidden, and one
visible (from memory). The table of structure tasks has a baseline of its own,
conv / fc / y 49.90 / 47.96 / 44.27 %. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar100_local_infonce


def get_config() -> ExperimentConfig:
  """`dim_cifar100_local_infonce` with occluded images."""
  config = dim_cifar100_local_infonce.get_config()
  config.objective.mask = 'occlude'
  config.objective.mask_patch = 10
  config.paper = {
    'source': 'Hjelm et al. 2019, structure tasks, CIFAR-100',
    'row': 'DIM + occlude',
    'probe': 'mlp',
    'conv': 48.87,
    'fc': 47.65,
    'y': 44.89,
  }
  return config
