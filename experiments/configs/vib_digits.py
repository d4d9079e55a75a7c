r"""VIB on scikit-learn's digits: a bottleneck that trains in a minute.

  python -m experiments.train \
      --config=experiments/configs/vib_digits.py \
      --workdir=runs/vib_digits

Not from the paper: sizes and steps were chosen to take seconds.
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import vib


def get_config() -> ExperimentConfig:
  """A network of 256 units, K = 32, Adam 1e-3, 2,000 steps of 100 images."""
  return ExperimentConfig(
    objective=vib.Config(units=(256, 256), code=32, beta=1e-2),
    data=DataConfig(name='digits', image_size=16),
    optimizer=OptimizerConfig(learning_rate=1e-3, decay=0.5, decay_every=500),
    average=0.99,
    batch_size=100,
    steps=2000,
    log_every=100,
    checkpoint_every=500,
  )
