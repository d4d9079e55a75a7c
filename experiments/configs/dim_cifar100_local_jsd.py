"""DIM(L) with the JSD bound on CIFAR-100: Hjelm et al. 2019, table 1.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100_local_jsd.py \
      --workdir=runs/dim_cifar100_local_jsd

All but the bound is as in dim_cifar100_local_infonce.py. Not trained
here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar100_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1."""
  config = dim_cifar100_local_infonce.get_config()
  config.objective.bound = 'jsd'
  config.paper = {
    'source': 'Hjelm et al. 2019, table 1',
    'row': 'DIM(L) JSD',
    'probe': 'mlp',
    'conv': 48.13,
    'fc': 45.92,
    'y': 39.60,
  }
  return config
