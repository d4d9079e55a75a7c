"""The greedy supervised baseline on STL-10: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/greedy_supervised_stl10.py \
      --workdir=runs/greedy_supervised_stl10

The encoder of gim_stl10 in modules that classify. Not trained here.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import supervised_stl10


def get_config() -> ExperimentConfig:
  """As supervised_stl10, with a classifier on each module, behind walls."""
  config = supervised_stl10.get_config()
  config.objective.walls = None
  config.paper = {
    **(config.paper or {}),
    'row': 'Greedy supervised',
    'module_2': 65.2,
  }
  return config
