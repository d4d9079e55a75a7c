"""Greedy InfoMax on spoken digits, at a size for a CPU.

  python -m experiments.train \
      --config=experiments/configs/gim_spoken_digits.py \
      --workdir=runs/gim_spoken_digits
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
    data=SoundConfig(name='spoken_digit', window=2048, hop=256),
    optimizer=OptimizerConfig(learning_rate=1e-3, b1=0.9),
    players={'probe': OptimizerConfig(learning_rate=1e-2, b1=0.9)},
    batch_size=32,
    steps=1500,
    log_every=100,
    checkpoint_every=500,
  )
