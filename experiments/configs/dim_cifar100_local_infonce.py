"""DIM(L) with InfoNCE on CIFAR-100: Hjelm et al. 2019, table 1.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100_local_infonce.py \
      --workdir=runs/dim_cifar100_local_infonce

All but data and classes is as in dim_cifar10_local_infonce.py. Not trained
here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 1000 epochs of 45,000 images."""
  config = dim_cifar10_local_infonce.get_config()
  config.data.name = 'cifar100'
  config.objective.num_classes = 100
  config.paper = {
    'source': 'Hjelm et al. 2019, table 1',
    'row': 'DIM(L) infoNCE',
    'probe': 'mlp',
    'conv': 49.74,
    'fc': 47.72,
    'y': 41.61,
  }
  return config
