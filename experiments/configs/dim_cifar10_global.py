"""DIM(G) with the JSD bound on CIFAR-10: Hjelm et al. 2019, table 1.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar10_global.py \
      --workdir=runs/dim_cifar10_global

The global critic is the paper's: the last map and the code, concatenated,
through two hidden layers of 512.
No result of this run has been measured yet.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 1, 0, 1."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.bound = 'jsd'
  config.objective.global_weight = 1.0
  config.objective.local_weight = 0.0
  config.objective.prior_weight = 1.0
  config.paper = {
    'source': 'Hjelm et al. 2019, table 1',
    'row': 'DIM(G)',
    'probe': 'mlp',
    'conv': 52.2,
    'fc': 52.84,
    'y': 43.17,
  }
  return config
