"""DIM(L) and a classifier of few labels together, on scikit-learn's digits.

  python -m experiments.train \
      --config=experiments/configs/dim_digits_semi_supervised.py \
      --workdir=runs/semi_supervised
  python -m experiments.classify runs/semi_supervised

The baseline from labels alone is `--config.objective.local_weight=0
--config.objective.prior_weight=0`.
"""

from dim_jax.config import DataConfig, ExperimentConfig
from experiments.configs import dim_digits


def get_config() -> ExperimentConfig:
  """`dim_digits` with a tenth of the labels, 200 steps."""
  config = dim_digits.get_config()
  config.objective.supervised_weight = 1.0
  config.data = DataConfig(name='digits', labelled=0.1)
  config.steps = 200
  return config
