"""A classifier of few labels on a pretrained encoder, on scikit-learn's digits.

  python -m experiments.train --config=experiments/configs/dim_digits.py \
      --workdir=runs/digits
  python -m experiments.train \
      --config=experiments/configs/dim_digits_finetune.py \
      --workdir=runs/finetune --config.init_from=runs/digits
  python -m experiments.classify runs/finetune

Labels alone train the classifier and the whole encoder, which starts as the
other run left it.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_digits_semi_supervised


def get_config() -> ExperimentConfig:
  """`dim_digits_semi_supervised` without Deep InfoMax, from its run."""
  config = dim_digits_semi_supervised.get_config()
  config.objective.local_weight = 0.0
  config.objective.prior_weight = 0.0
  config.init_from = 'runs/digits'
  # The other run's learned from all labels.
  config.objective.probe_taps = ()
  return config
