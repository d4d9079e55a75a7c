"""Greedy InfoMax, CPC and supervised modules on LibriSpeech: Löwe et al. 2019.

  dim-jax train --config=gim_librispeech:gim --workdir=runs/gim_librispeech \
      --config.data.name=/path/to/LibriSpeech/train-clean-100 \
      --config.data.lists=/path/to/the/CPC/authors/lists \
      --config.data.phones=/path/to/converted_aligned_phones.txt

For an accelerator; not trained here. The paper draws one random window of each
utterance in an epoch; here every window is an example, so that these steps are
as many windows as its 1000 epochs. Phones need the aligned labels of the
authors of CPC; without the two files speakers are probed on a split of ours.
The published numbers are of speakers.
"""

from collections.abc import Mapping
from typing import Any

from dim_jax.config import ExperimentConfig, OptimizerConfig, SoundConfig
from dim_jax.configs import Row, changed, get
from dim_jax.configs.gim_spoken_digits import end_to_end, supervised
from dim_jax.objectives import gim as gim_lib


def gim() -> ExperimentConfig:
  """Five convolutions and a GRU, windows of 1.28 s at 16 kHz."""
  return ExperimentConfig(
    objective=gim_lib.Config(
      modules='sound', offsets=12, negatives=10, num_classes=251
    ),
    data=SoundConfig(name='librispeech', window=20_480, rate=16_000),
    optimizer=OptimizerConfig(learning_rate=2e-4, b1=0.9),
    batch_size=8,
    steps=3_567_000,
    log_every=100,
    checkpoint_every=5000,
  )


def published(row: str, module: str, percent: float) -> dict[str, Any]:
  """Returns a published row: a linear probe's accuracy on a module."""
  return {
    'source': 'Löwe et al. 2019',
    'row': row,
    'probe': 'linear',
    module: percent,
  }


ROWS: Mapping[str, Row] = {
  'gim': Row(
    'Greedy InfoMax',
    gim,
    published('Greedy InfoMax, speakers', 'module_5', 99.4),
  ),
  'cpc': Row(
    "CPC: one loss, of the GRU's contexts",
    changed(gim, end_to_end),
    published('CPC, speakers', 'module_5', 99.6),
  ),
  'supervised': Row(
    'A classifier of speakers, end to end',
    changed(gim, supervised, end_to_end),
    published('Supervised, speakers', 'module_5', 98.9),
  ),
  'greedy_supervised': Row(
    'A classifier of speakers on each module',
    changed(gim, supervised),
    published('Greedy supervised, speakers', 'module_5', 98.7),
  ),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
