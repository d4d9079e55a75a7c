"""DIM(L) on strided crops of STL-10, against CPC: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_stl10_folded.py \
      --workdir=runs/dim_stl10_folded

The encoder sees 7x7 overlapping crops of 16 pixels, each alone. All but the
encoder and critic is as in dim_stl10_local_infonce.py.
The released command has no prior and 1024 units, and so it is here. Not trained
here. The published accuracy is from memory, not checked against the paper; it
is taken to be a probe's on the folded map.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_stl10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0; one global, the code."""
  config = dim_stl10_local_infonce.get_config()
  config.objective.encoder = 'foldalex64'
  config.objective.critic_units = 1024
  config.objective.prior_weight = 0.0
  config.paper = {
    'source': 'Hjelm et al. 2019, CPC comparison (from memory, unverified)',
    'row': 'DIM(L) single global',
    'probe': 'mlp',
    'conv': 76.97,
  }
  return config
