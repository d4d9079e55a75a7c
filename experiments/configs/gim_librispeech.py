"""Greedy InfoMax on LibriSpeech: Löwe et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/gim_librispeech.py \
      --workdir=runs/gim_librispeech \
      --config.data.name=/path/to/LibriSpeech/train-clean-100 \
      --config.data.lists=/path/to/the/CPC/authors/lists \
      --config.data.phones=/path/to/converted_aligned_phones.txt

For an accelerator; not trained here. The paper draws one random window of each
utterance in an epoch; here every window is an example, so that these steps are
as many windows as its 1000 epochs. Phones need the aligned labels of the
authors of CPC; without the two files speakers are probed on a split of ours.
"""

from dim_jax.config import ExperimentConfig, OptimizerConfig, SoundConfig
from dim_jax.objectives import gim


def get_config() -> ExperimentConfig:
  """Five convolutions and a GRU, windows of 1.28 s at 16 kHz."""
  return ExperimentConfig(
    objective=gim.Config(
      modules='sound', offsets=12, negatives=10, num_classes=251
    ),
    data=SoundConfig(name='librispeech', window=20_480, rate=16_000),
    optimizer=OptimizerConfig(learning_rate=2e-4, b1=0.9),
    batch_size=8,
    steps=3_567_000,
    log_every=100,
    checkpoint_every=5000,
    paper={
      'source': 'Löwe et al. 2019',
      'row': 'Greedy InfoMax, speakers',
      'probe': 'linear',
      'module_5': 99.4,
    },
  )
