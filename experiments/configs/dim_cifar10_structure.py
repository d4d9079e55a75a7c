"""DIM(L) with InfoNCE and both structure tasks on CIFAR-10: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar10_structure.py \
      --workdir=runs/dim_cifar10_structure

Codes of occluded images, and coordinates of both kinds, as in
dim_cifar10_occlusion and dim_cifar10_coordinates. The table of structure tasks
has a baseline of its own, conv / fc / y 77.46 / 73.33 / 70.65 %. Not trained
here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """`dim_cifar10_local_infonce` with occluded images and coordinates."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.coordinates = 'both'
  config.objective.mask = 'occlude'
  config.objective.mask_patch = 10
  config.paper = {
    'source': 'Hjelm et al. 2019, structure tasks, CIFAR-10',
    'row': 'DIM + both',
    'probe': 'mlp',
    'conv': 77.27,
    'fc': 75.15,
    'y': 73.99,
  }
  return config
