"""DIM(L) with Donsker-Varadhan on STL-10: Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_stl10_local_dv.py \
      --workdir=runs/dim_stl10_local_dv

All but the bound is as in dim_stl10_local_infonce.py. Not trained
here. The published numbers are from memory, not checked against the paper.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_stl10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1."""
  config = dim_stl10_local_infonce.get_config()
  config.objective.bound = 'donsker_varadhan'
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2 (from memory, unverified)',
    'row': 'DIM(L) DV',
    'probe': 'mlp',
    'conv': 69.15,
    'fc': 63.81,
    'y': 61.92,
  }
  return config
