"""DIM(L) with InfoNCE and coordinates on CIFAR-100: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100_coordinates.py \
      --workdir=runs/dim_cifar100_coordinates

The row and column of each local feature are predicted from it with the code,
and its offset from one random location of the image (that, and the width of the
heads, is from memory). The paper gives no weight of the cross-entropies; here
it is 1. The table of structure tasks has a baseline of its own, conv / fc / y
49.90 / 47.96 / 44.27 %. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar100_local_infonce


def get_config() -> ExperimentConfig:
  """`dim_cifar100_local_infonce` with predicted coordinates."""
  config = dim_cifar100_local_infonce.get_config()
  config.objective.coordinates = 'both'
  config.paper = {
    'source': 'Hjelm et al. 2019, structure tasks, CIFAR-100',
    'row': 'DIM + coord',
    'probe': 'mlp',
    'conv': 50.27,
    'fc': 48.61,
    'y': 45.37,
  }
  return config
