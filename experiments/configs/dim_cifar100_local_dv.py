"""DIM(L) with Donsker-Varadhan on CIFAR-100: Hjelm et al. 2019, table 1.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100_local_dv.py \
      --workdir=runs/dim_cifar100_local_dv

All but the bound is as in dim_cifar100_local_infonce.py. Not trained
here. The published numbers are from memory, not checked against the paper.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar100_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1."""
  config = dim_cifar100_local_infonce.get_config()
  config.objective.bound = 'donsker_varadhan'
  config.paper = {
    'source': 'Hjelm et al. 2019, table 1 (from memory, unverified)',
    'row': 'DIM(L) DV',
    'probe': 'mlp',
    'conv': 48.52,
    'fc': 44.44,
    'y': 39.27,
  }
  return config
