"""Greedy InfoMax on CIFAR-10, at a size for a CPU.

  python -m experiments.train \
      --config=experiments/configs/gim_cifar10.py --workdir=runs/gim_cifar10

Measured with seed 0 on a JPEG-recompressed copy (experiments/results/
gim_cifar10.json): a linear probe on 4,000 training images reads 37.0, 38.8 and
38.8 % from module_0 to module_2 (untrained 31.8, 36.3, 37.1 %): 1.4 epochs are
only a beginning. 11 minutes on one core of two, shared.
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import gim


def get_config() -> ExperimentConfig:
  """7x7 patches of 8x8 pixels, three modules of one residual block each."""
  return ExperimentConfig(
    objective=gim.Config(modules='resnet_small', patch_size=8, patch_stride=4),
    data=DataConfig(name='cifar10', image_size=None, flip=True),
    optimizer=OptimizerConfig(learning_rate=1e-3, b1=0.9),
    players={'probe': OptimizerConfig(learning_rate=1e-2, b1=0.9)},
    batch_size=32,
    steps=2000,
    log_every=100,
    checkpoint_every=500,
  )
