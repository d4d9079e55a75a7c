"""DIM(L) with Donsker-Varadhan on Tiny ImageNet: Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_tiny_imagenet_local_dv.py \
      --workdir=runs/dim_tiny_imagenet_local_dv

All but the bound is as in dim_tiny_imagenet_local_infonce.py. Not trained
here. The published numbers are from memory, not checked against the paper.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_tiny_imagenet_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1."""
  config = dim_tiny_imagenet_local_infonce.get_config()
  config.objective.bound = 'donsker_varadhan'
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2 (from memory, unverified)',
    'row': 'DIM(L) DV',
    'probe': 'mlp',
    'conv': 30.35,
    'fc': 29.51,
    'y': 28.18,
  }
  return config
