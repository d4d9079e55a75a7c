"""DIM(L) with the JSD bound on Tiny ImageNet: Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_tiny_imagenet_local_jsd.py \
      --workdir=runs/dim_tiny_imagenet_local_jsd

All but the bound is as in dim_tiny_imagenet_local_infonce.py. Not trained
here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_tiny_imagenet_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1."""
  config = dim_tiny_imagenet_local_infonce.get_config()
  config.objective.bound = 'jsd'
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2',
    'row': 'DIM(L) JSD',
    'probe': 'mlp',
    'conv': 33.54,
    'fc': 36.88,
    'y': 31.66,
  }
  return config
