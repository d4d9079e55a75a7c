r"""VIB's figure 2 on MNIST: K = 2 with full covariance.

  python -m experiments.train \
      --config=experiments/configs/vib_mnist_plane.py \
      --workdir=runs/vib_mnist_plane

The figure's three panels take three runs: add --config.objective.beta=0.1, or
=1, and another --workdir. `experiments.classify` and then `experiments.report`
draw them.

Measured, seed 0, averaged weights, 25 epochs: at beta 1e-3 test error with 12
samples 2.53 %, with one 2.54 %, rate 114 bits; with 10 epochs at 0.1 8.8 and
18.4 %, 5.6 bits; at 1 68 and 83 %, 0.1 bits
(experiments/results/vib_mnist_plane.json).
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import vib_mnist_short


def get_config() -> ExperimentConfig:
  """As `vib_mnist_short`, with a code of two dimensions."""
  config = vib_mnist_short.get_config()
  config.objective.code = 2
  config.objective.covariance = 'full'
  config.objective.beta = 1e-3
  config.paper = None
  return config
