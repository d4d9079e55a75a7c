"""The supervised baseline on STL-10: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/supervised_stl10.py \
      --workdir=runs/supervised_stl10

The encoder of gim_stl10 with one classifier at its end. Not trained here.
"""

from dim_jax.config import DataConfig, ExperimentConfig
from experiments.configs import gim_stl10


def get_config() -> ExperimentConfig:
  """300 epochs of the 5,000 labelled images."""
  config = gim_stl10.get_config()
  config.objective.loss = 'supervised'
  config.objective.walls = ()
  config.data = DataConfig(
    name='stl10',
    image_size=None,
    validation=0.0,
    grayscale=True,
    crop=64,
    flip=True,
  )
  config.steps = 47_000
  config.paper = {**(config.paper or {}), 'row': 'Supervised', 'module_2': 71.4}
  return config
