r"""Couplets: pairs of lines, character by character.

  dim-jax train --config=couplets:tagging --config.data.name=couplets/ \
      --workdir=runs/couplets
  dim-jax couplet runs/couplets
  dim-jax couplet runs/couplets --line=明月松间照

`data.name` is a folder with tang_train.tsv and *_test.tsv, or train/in.txt and
train/out.txt; see `dim_jax.data.text`.

Measured, seeds 0 to 2, on two shared cores (experiments/results/
couplets_tagging.json and couplets_infonce.json); 90,000 pairs of Tang lines to
train on.

- tagging, 1,000 steps, 80 seconds: of the characters of 4,000 Tang second lines
  3.25 +- 0.02 % are right (unigram 1.15, bigram 3.75), with a perplexity of 696
  +- 3 (1251, 963); of modern couplets 3.82 +- 0.08 % (0.49, 4.94) and 729 +- 6
  (1437, 952).
- infonce, 2,000 steps, 2 minutes: the right second line of five characters is
  among the best 10 of 1,000 for 14.5 +- 0.2 % of Tang lines and the best for
  3.3 +- 0.4 % (chance 1 and 0.1); of modern ones of seven, 15.1 +- 0.6 and
  3.2 +- 0.4 %. Their codes share 0.64 +- 0.01 nats (intervals within 0.57 to
  1.20; ceiling 7.88) and 0.51 +- 0.06 (0.41 to 1.48).
- masked, 2,500 steps with the 4,096 most frequent characters, seeds 0 to 2,
  about 2 CPU minutes each (`experiments.studies.masked_lines`,
  masked_lines.json): a linear probe of the frozen encoder tells first from
  second lines in 57.3 +- 2.8 % by the mean of its training input, half of which
  was hidden, in 55.6 +- 2.3 % by the characters alone, untrained 51.9 +- 0.6 %;
  fine-tuned taggers do not differ.
"""

from collections.abc import Mapping

from dim_jax.config import ExperimentConfig, OptimizerConfig, TextConfig
from dim_jax.configs import Row, get
from dim_jax.objectives import lines, masked_lines, paired_lines
from dim_jax.objectives import tagging as tagging_lib


def tagging() -> ExperimentConfig:
  """Three gated convolutions of 96 units; published are six of 128."""
  return ExperimentConfig(
    objective=tagging_lib.Config(width=96, depth=3),
    data=TextConfig(name='couplets/'),
    optimizer=OptimizerConfig(
      learning_rate=5e-3, b1=0.9, decay=0.8, decay_every=200
    ),
    batch_size=128,
    steps=1000,
    log_every=50,
    checkpoint_every=100,
  )


def infonce() -> ExperimentConfig:
  """A gated convolution for each line; 255 negatives; 2,000 steps."""
  config = tagging()
  config.objective = paired_lines.Config(width=96, depth=1, dropout=0.1)
  config.optimizer.learning_rate = 3e-3
  config.batch_size = 256
  config.steps = 2000
  return config


def masked() -> ExperimentConfig:
  """A small transformer that predicts half of a line from the other half."""
  config = tagging()
  config.objective = masked_lines.Config(
    vocabulary=2048, width=64, length=7, mask=lines.Mask(keep=0.5)
  )
  config.data = TextConfig(name='couplets/', vocabulary=2048)
  config.optimizer.learning_rate = 2e-3
  config.batch_size = 64
  config.steps = 800
  return config


ROWS: Mapping[str, Row] = {
  'tagging': Row('the second line as labels of the first', tagging),
  'infonce': Row('InfoNCE between first and second lines', infonce),
  'masked': Row('a masked model of lines, the mask a token', masked),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
