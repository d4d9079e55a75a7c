"""Greedy InfoMax and CPC on CIFAR-10, at a size for a CPU.

  dim-jax train --config=gim_cifar10:gim --workdir=runs/gim_cifar10

Measured with seeds 0, 1 and 2 on a JPEG-recompressed copy (experiments/results/
gim_cifar10.json): a linear probe on 10,000 training images reads from module_0
to module_2 41.2, 42.9 and 42.8 % for gim (untrained 34.1, 31.0, 32.3 %), 17 to
21 minutes a run on one core of two, shared; 38.4, 39.0 and 40.9 % for cpc, and
its contexts 38.9 %, 28 to 37 minutes (seed 2: most of it on two cores). At four
times this learning rate the features of cpc collapse in the first steps.
With --config.steps=8775 (25 epochs), seeds 0 and 1: 42.8, 45.5 and 45.7 % for
gim, 27 to 29 minutes; 39.3, 41.3 and 43.6 % for cpc, its contexts 40.9 %, 50 to
57 minutes. supervised reads 42.1, 50.5 and 63.7 %, greedy_supervised 44.2, 54.1
and 55.5 %, seed 0, 3,900 steps, 10 to 11 minutes a run.
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.configs import Row, changed, get, gim_spoken_digits
from dim_jax.objectives import gim as gim_lib


def gim() -> ExperimentConfig:
  """3x3 gray patches of 16x16 pixels; the upper row predicts the lower one.

  The row between them overlaps both and has no part in the loss.
  """
  return ExperimentConfig(
    objective=gim_lib.Config(modules='patch_small', offsets=1, negatives=None),
    data=DataConfig(name='cifar10', image_size=None, grayscale=True, flip=True),
    optimizer=OptimizerConfig(learning_rate=5e-4, b1=0.9),
    groups={'probe': OptimizerConfig(learning_rate=1e-2, b1=0.9)},
    average=0.999,
    batch_size=128,
    steps=3900,
    log_every=65,
    checkpoint_every=650,
  )


def cpc() -> ExperimentConfig:
  """End to end, with a PixelCNN for contexts."""
  config = gim()
  config.objective.modules = 'patch_small_cpc'
  config.objective.stop_gradient_after = ()
  return config


ROWS: Mapping[str, Row] = {
  'gim': Row('Greedy InfoMax', gim),
  'cpc': Row('CPC', cpc),
  'supervised': Row(
    'One classifier, end to end',
    changed(gim, gim_spoken_digits.supervised, gim_spoken_digits.end_to_end),
  ),
  'greedy_supervised': Row(
    'A classifier on each module', changed(gim, gim_spoken_digits.supervised)
  ),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
