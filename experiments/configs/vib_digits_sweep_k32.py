r"""VIB's figure 1 on digits, K = 32.

Error and rate against beta.

  python -m experiments.train \
      --config=experiments/configs/vib_digits_sweep_k32.py \
      --workdir=runs/vib_digits_sweep_k32
"""

from dim_jax.config import SweepConfig
from experiments.configs import vib_digits


def get_config() -> SweepConfig:
  """Five prices by three seeds."""
  run = vib_digits.get_config()
  run.keep = 1
  return SweepConfig(run=run, betas=(1e-4, 1e-3, 1e-2, 1e-1, 1.0))
