"""DIM(G) with the JSD bound on CIFAR-100: Hjelm et al. 2019, table 1.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100_global.py \
      --workdir=runs/dim_cifar100_global

Data and network are as in dim_cifar100_local_infonce.py, the
objective as in dim_cifar10_global.py. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar100_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 1, 0, 1."""
  config = dim_cifar100_local_infonce.get_config()
  config.objective.bound = 'jsd'
  config.objective.global_weight = 1.0
  config.objective.local_weight = 0.0
  config.objective.prior_weight = 1.0
  config.paper = {
    'source': 'Hjelm et al. 2019, table 1',
    'row': 'DIM(G)',
    'probe': 'mlp',
    'conv': 27.68,
    'fc': 24.35,
    'y': 19.98,
  }
  return config
