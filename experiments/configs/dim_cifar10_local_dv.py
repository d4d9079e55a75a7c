"""DIM(L) with the Donsker-Varadhan bound on CIFAR-10 (Hjelm et al. 2019).

  python -m experiments.train \
      --config=experiments/configs/dim_cifar10_local_dv.py \
      --workdir=runs/dim_cifar10_local_dv

All but the bound is as in dim_cifar10_local_infonce.py.
No result of this run has been measured yet. The published numbers are from
memory, not checked against the paper.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.bound = 'donsker_varadhan'
  config.paper = {
    'source': 'Hjelm et al. 2019, table 1 (from memory, unverified)',
    'row': 'DIM(L) DV',
    'probe': 'mlp',
    'conv': 72.66,
    'fc': 70.60,
    'y': 64.71,
  }
  return config
