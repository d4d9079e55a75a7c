"""Greedy InfoMax, CPC and supervised modules on STL-10: Löwe et al. 2019.

  dim-jax train --config=gim_stl10:gim --workdir=runs/gim_stl10

The paper's 300 epochs of 100,000 unlabelled images are meant for accelerators:
an image takes 12.6 billion multiplications forward. Not trained here. Images
are scaled to [-1, 1], where the paper subtracts a mean of 0.412 and divides by
0.257. The contexts of cpc come from a PixelCNN of twelve times the encoder's
parameters; the probe reads the encoder, module_2.
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.configs import Row, changed, get, gim_spoken_digits
from dim_jax.configs.gim_librispeech import published
from dim_jax.objectives import gim as gim_lib


def gim() -> ExperimentConfig:
  """ResNet-50 in three modules, 64x64 gray crops in 7x7 patches."""
  return ExperimentConfig(
    objective=gim_lib.Config(modules='resnet50'),
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
  )


def cpc() -> ExperimentConfig:
  """ResNet-50 end to end, with a PixelCNN for contexts."""
  config = gim()
  config.objective.modules = 'resnet50_cpc'
  config.objective.stop_gradient_after = ()
  return config


def greedy_supervised() -> ExperimentConfig:
  """300 epochs of the 5,000 labelled images."""
  config = gim()
  gim_spoken_digits.supervised(config)
  config.data = DataConfig(
    name='stl10',
    image_size=None,
    validation=0.0,
    grayscale=True,
    crop=64,
    flip=True,
  )
  config.steps = 47_000
  return config


ROWS: Mapping[str, Row] = {
  'gim': Row(
    'Greedy InfoMax', gim, published('Greedy InfoMax', 'module_2', 81.9)
  ),
  'cpc': Row(
    'CPC: one loss, of contexts', cpc, published('CPC', 'module_2', 80.5)
  ),
  'supervised': Row(
    'One classifier, end to end',
    changed(greedy_supervised, gim_spoken_digits.end_to_end),
    published('Supervised', 'module_2', 71.4),
  ),
  'greedy_supervised': Row(
    'A classifier on each module',
    greedy_supervised,
    published('Greedy supervised', 'module_2', 65.2),
  ),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
