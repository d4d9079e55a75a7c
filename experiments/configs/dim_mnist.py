"""DIM(L) with InfoNCE on MNIST, with the encoder for 28x28 images.

  python -m experiments.train --config=experiments/configs/dim_mnist.py \
      --workdir=runs/mnist

No result of this run has been measured yet.
"""

from dim_jax.config import DataConfig, ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """All but data, encoder and length is as for CIFAR-10."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.encoder = 'basic28'
  config.objective.critic_units = 512
  config.data = DataConfig(name='mnist', image_size=None)
  config.steps = 2000
  config.paper = None
  return config
