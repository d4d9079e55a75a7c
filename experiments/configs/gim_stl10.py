"""Greedy InfoMax on STL-10: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/gim_stl10.py --workdir=runs/gim_stl10

The paper's 300 epochs of 100,000 unlabelled images are meant for accelerators:
an image takes 12.6 billion multiplications forward. Not trained here. Images
are scaled to [-1, 1], where the paper subtracts a mean of 0.412 and divides by
0.257.
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import gim


def get_config() -> ExperimentConfig:
  """ResNet-50 in three modules, 64x64 gray crops in 7x7 patches."""
  return ExperimentConfig(
    objective=gim.Config(modules='resnet50'),
    data=DataConfig(
      name='stl10',
      image_size=None,
      unlabelled=True,
      grayscale=True,
      crop=64,
      flip=True,
    ),
    optimizer=OptimizerConfig(learning_rate=2e-4, b1=0.9),
    batch_size=32,
    steps=937_500,
    log_every=100,
    checkpoint_every=5000,
    paper={
      'source': 'Löwe et al. 2019',
      'row': 'Greedy InfoMax',
      'probe': 'linear',
      'module_2': 81.9,
    },
  )
