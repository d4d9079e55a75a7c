"""Greedy InfoMax on scikit-learn's digits: needs no files, for a first look.

  dim-jax train --config=gim_digits --workdir=runs/gim_digits

A minute or two on two cores. Probe it with dim-jax evaluate.
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import gim


def get_config() -> ExperimentConfig:
  """7x7 patches of 8x8 pixels, three modules of one residual block each."""
  return ExperimentConfig(
    objective=gim.Config(modules='resnet_small', patch_size=8, patch_stride=4),
    data=DataConfig(name='digits', image_size=32),
    optimizer=OptimizerConfig(learning_rate=1e-3, b1=0.9),
    groups={'probe': OptimizerConfig(learning_rate=1e-2, b1=0.9)},
    batch_size=32,
    steps=400,
    log_every=50,
    checkpoint_every=200,
  )
