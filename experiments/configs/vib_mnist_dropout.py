r"""VIB's table 1 on MNIST: a deterministic network with dropout.

  python -m experiments.train \
      --config=experiments/configs/vib_mnist_dropout.py \
      --workdir=runs/vib_mnist_dropout

The paper does not give its rate; 0.5 is the usual one.

Measured, seed 0, averaged weights: test error 1.55 % after 25 epochs with the
optimizer of `vib_mnist_short` (experiments/results/vib_mnist_baselines.json).
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import vib_mnist


def get_config() -> ExperimentConfig:
  """As `vib_mnist`, without noise and rate."""
  config = vib_mnist.get_config()
  config.objective.covariance = 'none'
  config.objective.dropout = 0.5
  config.paper = {
    'source': 'Alemi et al. 2017, table 1',
    'row': 'Dropout',
    'error_12': 1.34,
  }
  return config
