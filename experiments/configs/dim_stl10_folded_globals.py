"""DIM(L) with multiple globals on crops of STL-10: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_stl10_folded_globals.py \
      --workdir=runs/dim_stl10_folded_globals

25 globals an image, one of each 3x3 of the 7x7 crops, each scored against all
locations. All else is as in dim_stl10_folded.py.
Not trained here. The published accuracy is from memory, not checked against the
paper; it is taken to be a probe's on the folded map.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_stl10_folded


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0; no code, so no prior either."""
  config = dim_stl10_folded.get_config()
  config.objective.encoder = 'foldmultialex64'
  config.objective.global_tap = 'globals'
  config.objective.probe_taps = ('conv', 'globals')
  config.paper = {
    'source': 'Hjelm et al. 2019, CPC comparison (from memory, unverified)',
    'row': 'DIM(L) multiple globals',
    'probe': 'mlp',
    'conv': 78.21,
  }
  return config
