"""The bottleneck on scikit-learn's digits: trains in seconds.

  dim-jax train --config=vib_digits:vib --workdir=runs/vib_digits

Not from the paper: sizes and steps were chosen to take seconds. The rows are
those of vib_mnist.py.
"""

from collections.abc import Mapping

from dim_jax.config import (
  DataConfig,
  ExperimentConfig,
  OptimizerConfig,
  SweepConfig,
)
from dim_jax.configs import Row, changed, get, vib_mnist
from dim_jax.objectives import vib as vib_lib


def vib() -> ExperimentConfig:
  """A network of 256 units, K = 32, Adam 1e-3, 2,000 steps of 100 images."""
  return ExperimentConfig(
    objective=vib_lib.Config(units=(256, 256), code=32, beta=1e-2),
    data=DataConfig(name='digits', image_size=16),
    optimizer=OptimizerConfig(learning_rate=1e-3, decay=0.5, decay_every=500),
    average=0.99,
    batch_size=100,
    steps=2000,
    log_every=100,
    checkpoint_every=500,
  )


def sweep_k2() -> SweepConfig:
  """Five betas by three seeds, K = 2 with full covariance."""
  config = sweep_k32()
  config.run.objective.code = 2
  config.run.objective.covariance = 'full'
  return config


_BETAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
sweep_k32 = vib_mnist.sweep(vib, _BETAS)
_deterministic = changed(vib, vib_mnist.deterministic)

ROWS: Mapping[str, Row] = {
  'vib': Row('VIB', vib),
  'deterministic': Row('A deterministic network', _deterministic),
  'dropout': Row(
    'A deterministic network with dropout',
    changed(_deterministic, vib_mnist.dropout),
  ),
  'label_smoothing': Row(
    'A deterministic network with label smoothing',
    changed(_deterministic, vib_mnist.label_smoothing),
  ),
  'confidence_penalty': Row(
    'A deterministic network with a confidence penalty',
    changed(_deterministic, vib_mnist.confidence_penalty),
  ),
  'plane': Row(
    'K = 2 with full covariance, for figure 2', changed(vib, vib_mnist.plane)
  ),
  'sweep_k2': Row('Error and rate against beta, K = 2', sweep_k2),
  'sweep_k32': Row('Error and rate against beta, K = 32', sweep_k32),
}


def get_config(row: str | None = None) -> ExperimentConfig | SweepConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
