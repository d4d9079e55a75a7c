"""Greedy InfoMax on spoken digits, at a size for a CPU.

  python -m experiments.train \
      --config=experiments/configs/gim_spoken_digits.py \
      --workdir=runs/gim_spoken_digits

Measured with seeds 0, 1 and 2 (experiments/results/gim_spoken_digits.json): a
linear probe on 4,000 training windows reads the digit from module_0 to module_5
at 76.5, 84.6, 87.1, 85.6, 87.4 and 89.2 % (untrained 69.3 to 44.1 %), and the
speaker at 97.1, 98.5, 98.7, 96.9, 95.8 and 96.1 % (untrained 97.4 to 86.6 %). 6
to 9 minutes a run on one core of two, shared.
"""

from dim_jax.config import ExperimentConfig, OptimizerConfig, SoundConfig
from dim_jax.objectives import gim


def get_config() -> ExperimentConfig:
  """Windows of 0.256 s at 8 kHz, five convolutions and a GRU."""
  return ExperimentConfig(
    objective=gim.Config(
      modules='sound_small',
      offsets=12,
      negatives=10,
      window=32,
      audio_std=0.06,
      num_classes=5,
    ),
    data=SoundConfig(name='spoken_digit', rate=8000, window=2048, hop=256),
    optimizer=OptimizerConfig(learning_rate=1e-3, b1=0.9),
    players={'probe': OptimizerConfig(learning_rate=1e-2, b1=0.9)},
    batch_size=32,
    steps=1500,
    log_every=100,
    checkpoint_every=500,
  )
