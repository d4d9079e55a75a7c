"""DIM(L) with InfoNCE on scikit-learn's digits, codes of half of each image.

  python -m experiments.train \
      --config=experiments/configs/dim_digits_masked.py --workdir=runs/masked

Half of the 16 patches are a learned token, and the code is scored against what
they hid. `experiments.studies.masks` trains its kinds of masks side by side.

Measured by it on a CPU, 300 steps, 3 seeds (experiments/results/
masks_digits.json): linear probe with 5 labels a class fc / y 92.0 / 91.3 % with
the consistent input and 93.2 / 93.0 % with the images as they are
(mask_evaluation='naive'); 92.1 / 91.3 % without a mask, 93.2 / 93.0 % with
mask='drop'.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_digits


def get_config() -> ExperimentConfig:
  """`dim_digits` with hidden patches of 8x8 of 32x32 pixels."""
  config = dim_digits.get_config()
  config.objective.mask = 'token'
  config.objective.mask_keep = 0.5
  config.objective.mask_patch = 8
  config.objective.mask_targets = 'hidden'
  # The mean pixel of the training images, for 'rescale'.
  config.objective.mask_fill = -0.39
  return config
