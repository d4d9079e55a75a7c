r"""VIB's figure 2 on MNIST: K = 2 with full covariance.

  python -m experiments.train \
      --config=experiments/configs/vib_mnist_plane.py \
      --workdir=runs/vib_mnist_plane

The figure's three panels take three runs: add --config.objective.beta=0.1, or
=1, and another --workdir. `experiments.classify` and then `experiments.report`
draw them.
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
