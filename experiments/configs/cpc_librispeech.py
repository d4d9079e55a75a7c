"""Contrastive predictive coding on LibriSpeech: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/cpc_librispeech.py \
      --workdir=runs/cpc_librispeech \
      --config.data.name=/path/to/LibriSpeech/train-clean-100

As gim_librispeech without walls: one loss, of the GRU's contexts.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import gim_librispeech


def get_config() -> ExperimentConfig:
  """The same encoder, end to end."""
  config = gim_librispeech.get_config()
  config.objective.walls = ()
  config.paper = {
    **(config.paper or {}),
    'row': 'CPC, speakers',
    'module_5': 99.6,
  }
  return config
