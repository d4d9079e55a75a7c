r"""SteinGAN on scikit-learn's digits: an energy and a generator in minutes.

  dim-jax train --config=stein_gan_digits --workdir=runs/stein_gan_digits
  dim-jax density runs/stein_gan_digits

The auto-encoder's energy, and a generator that follows its Stein direction in
the space of codes, as for MNIST; not from a paper.
"""

from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.configs import stein_gan_mnist
from dim_jax.networks import generators


def get_config() -> ExperimentConfig:
  """All but the images and the length is as on MNIST."""
  config = stein_gan_mnist.get_config()
  config.data = DataConfig(name='digits', image_size=16)
  config.objective.generator = generators.ConvGenerator(
    (16, 16, 1), features=16
  )
  config.steps = 1000
  config.checkpoint_every = 500
  return config
