r"""VIB on MNIST, K = 256 and beta = 1e-3: the row of the paper's table 1.

  python -m experiments.train \
      --config=experiments/configs/vib_mnist.py \
      --workdir=runs/vib_mnist

The network is 784-1024-1024-256-10; `vib_mnist_short` takes 25 epochs.

Measured, seed 0, averaged weights: test error with 12 samples 1.28 %, with one
1.79 %, rate 22.4 bits; 38 minutes on one CPU core
(experiments/results/vib_mnist.json).
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import vib


def get_config() -> ExperimentConfig:
  """Adam 1e-4, times 0.97 every 2 epochs; 200 epochs of 600 steps."""
  return ExperimentConfig(
    objective=vib.Config(),
    data=DataConfig(name='mnist', image_size=None, validation=0.0),
    optimizer=OptimizerConfig(learning_rate=1e-4, decay=0.97, decay_every=1200),
    average=0.999,
    batch_size=100,
    steps=120_000,
    log_every=600,
    checkpoint_every=15_000,
    keep=8,
    paper={
      'source': 'Alemi et al. 2017, table 1',
      'row': 'VIB (beta = 1e-3)',
      'error_12': 1.13,
    },
  )
