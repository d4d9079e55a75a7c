"""DIM(L) with InfoNCE and both structure tasks on CIFAR-100: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100_structure.py \
      --workdir=runs/dim_cifar100_structure

Codes of occluded images, and coordinates of both kinds, as in
dim_cifar100_occlusion and dim_cifar100_coordinates. The table of structure
tasks has a baseline of its own, conv / fc / y 49.90 / 47.96 / 44.27 %. Not
trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar100_local_infonce


def get_config() -> ExperimentConfig:
  """`dim_cifar100_local_infonce` with occluded images and coordinates."""
  config = dim_cifar100_local_infonce.get_config()
  config.objective.coordinates = 'both'
  config.objective.mask = 'occlude'
  config.objective.mask_patch = 10
  config.paper = {
    'source': 'Hjelm et al. 2019, structure tasks, CIFAR-100',
    'row': 'DIM + both',
    'probe': 'mlp',
    'conv': 48.72,
    'fc': 48.0,
    'y': 45.96,
  }
  return config
