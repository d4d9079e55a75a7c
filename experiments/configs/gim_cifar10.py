"""Greedy InfoMax on CIFAR-10, at a size for a CPU.

  python -m experiments.train \
      --config=experiments/configs/gim_cifar10.py --workdir=runs/gim_cifar10
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import gim


def get_config() -> ExperimentConfig:
  """3x3 gray patches of 16x16 pixels; the upper row predicts the lower one.

  The row between them overlaps both and has no part in the loss.
  """
  return ExperimentConfig(
    objective=gim.Config(modules='patch_small', offsets=1, negatives=None),
    data=DataConfig(name='cifar10', image_size=None, grayscale=True, flip=True),
    optimizer=OptimizerConfig(learning_rate=5e-4, b1=0.9),
    players={'probe': OptimizerConfig(learning_rate=1e-2, b1=0.9)},
    average=0.999,
    batch_size=128,
    steps=3900,
    log_every=65,
    checkpoint_every=650,
  )
