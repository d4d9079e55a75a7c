"""DIM(G) with the JSD bound on STL-10: Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_stl10_global.py \
      --workdir=runs/dim_stl10_global

Data and network are as in dim_stl10_local_infonce.py, the
objective as in dim_cifar10_global.py. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_stl10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 1, 0, 1."""
  config = dim_stl10_local_infonce.get_config()
  config.objective.bound = 'jsd'
  config.objective.global_weight = 1.0
  config.objective.local_weight = 0.0
  config.objective.prior_weight = 1.0
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2',
    'row': 'DIM(G)',
    'probe': 'mlp',
    'conv': 42.03,
    'fc': 30.82,
    'y': 28.09,
  }
  return config
