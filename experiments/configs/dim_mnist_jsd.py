"""DIM(L) with the JSD bound on MNIST.

  python -m experiments.train --config=experiments/configs/dim_mnist_jsd.py \
      --workdir=runs/mnist_jsd

No result of this run has been measured yet.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_mnist


def get_config() -> ExperimentConfig:
  """All but the bound is as in dim_mnist.py."""
  config = dim_mnist.get_config()
  config.objective.bound = 'jsd'
  return config
