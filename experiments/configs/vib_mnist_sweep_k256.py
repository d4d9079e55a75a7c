r"""VIB's figure 1 on MNIST, K = 256.

Error and rate against beta.

  python -m experiments.train \
      --config=experiments/configs/vib_mnist_sweep_k256.py \
      --workdir=runs/vib_mnist_sweep_k256

The paper takes 200 epochs, which --config.run.steps=120000 would.

Measured: from 2.3 % at 1e-5 to 4.4 % at 0.1 with 12 samples (14.6 % with one),
rates from 705 to 9.1 bits
(experiments/results/vib_mnist_sweep.json).
"""

from dim_jax.config import SweepConfig
from experiments.configs import vib_mnist_short


def get_config() -> SweepConfig:
  """Five prices by three seeds, 3 epochs each."""
  run = vib_mnist_short.get_config()
  run.steps = 1800
  run.checkpoint_every = 600
  run.paper = None
  run.keep = 1
  return SweepConfig(run=run, betas=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
