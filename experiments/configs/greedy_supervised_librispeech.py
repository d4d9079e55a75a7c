"""The greedy supervised baseline on LibriSpeech: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/greedy_supervised_librispeech.py \
      --workdir=runs/greedy_supervised_librispeech \
      --config.data.name=/path/to/LibriSpeech/train-clean-100

The encoder of gim_librispeech in modules that classify. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import supervised_librispeech


def get_config() -> ExperimentConfig:
  """A classifier of speakers on each module, behind walls."""
  config = supervised_librispeech.get_config()
  config.objective.walls = None
  config.paper = {
    **(config.paper or {}),
    'row': 'Greedy supervised, speakers',
    'module_5': 98.7,
  }
  return config
