"""DIM(L) with the JSD bound on STL-10: Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_stl10_local_jsd.py \
      --workdir=runs/dim_stl10_local_jsd

All but the bound is as in dim_stl10_local_infonce.py. Not trained
here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_stl10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1."""
  config = dim_stl10_local_infonce.get_config()
  config.objective.bound = 'jsd'
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2',
    'row': 'DIM(L) JSD',
    'probe': 'mlp',
    'conv': 72.86,
    'fc': 70.85,
    'y': 65.93,
  }
  return config
