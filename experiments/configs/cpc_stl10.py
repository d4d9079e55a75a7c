"""Contrastive predictive coding on STL-10: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/cpc_stl10.py --workdir=runs/cpc_stl10

As gim_stl10 without walls: one loss, whose contexts come from a PixelCNN of
twelve times the encoder's parameters. The probe reads the encoder, module_2.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import gim_stl10


def get_config() -> ExperimentConfig:
  """ResNet-50 end to end, with a PixelCNN for contexts."""
  config = gim_stl10.get_config()
  config.objective.modules = 'resnet50_cpc'
  config.objective.walls = ()
  config.paper = {**(config.paper or {}), 'row': 'CPC', 'module_2': 80.5}
  return config
