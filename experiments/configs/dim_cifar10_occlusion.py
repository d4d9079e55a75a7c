"""DIM(L) with InfoNCE and occlusion on CIFAR-10: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar10_occlusion.py \
      --workdir=runs/dim_cifar10_occlusion

The code is of an image of which a random rectangle is hidden, the local
features of the whole image; a block of 10x10 pixels at least is hidden, and one
visible (from memory). The table of structure tasks has a baseline of its own,
conv / fc / y 77.46 / 73.33 / 70.65 %. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """`dim_cifar10_local_infonce` with occluded images."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.mask = 'occlude'
  config.objective.mask_patch = 10
  config.paper = {
    'source': 'Hjelm et al. 2019, structure tasks, CIFAR-10',
    'row': 'DIM + occlude',
    'probe': 'mlp',
    'conv': 76.77,
    'fc': 74.45,
    'y': 72.87,
  }
  return config
