"""The supervised baseline on speakers of LibriSpeech: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/supervised_librispeech.py \
      --workdir=runs/supervised_librispeech \
      --config.data.name=/path/to/LibriSpeech/train-clean-100

The encoder of gim_librispeech with one classifier. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import gim_librispeech


def get_config() -> ExperimentConfig:
  """Cross-entropy of speakers, end to end."""
  config = gim_librispeech.get_config()
  config.objective.loss = 'supervised'
  config.objective.walls = ()
  config.paper = {
    **(config.paper or {}),
    'row': 'Supervised, speakers',
    'module_5': 98.9,
  }
  return config
