"""Trains the modules of Greedy InfoMax one after another.

  python -m experiments.layerwise \
      --config=experiments/configs/gim_spoken_digits.py \
      --workdir=runs/layerwise --store --half

Each module is a run of its own in WORKDIR/module_0, WORKDIR/module_1, ..., of
as many steps as the config says, with the modules below it frozen. The last
holds the whole encoder. The same command continues where it was interrupted,
and --depth leaves modules for later: they can be added to a finished run, of as
many steps.

Without --store the frozen modules run in every step, and nothing of them is
kept. With it, what they pass on is computed once and stored on disk, --views
times for each example with other augmentations, at --half precision if asked.
The sizes are printed, and refused beyond --budget_gb, before anything is
trained. Stored examples see no augmentation but that of their views.
"""

import os
import sys

from absl import app, flags, logging

from dim_jax.runs.layerwise import train_modules
from dim_jax.training import parallel
from experiments import train

# --config, --workdir and --devices are those of experiments.train.
_DEPTH = flags.DEFINE_integer('depth', None, 'Train only so many modules.')
_STORE = flags.DEFINE_bool('store', False, 'Train on stored features.')
_VIEWS = flags.DEFINE_integer('views', 1, 'Stored augmentations an example.')
_HALF = flags.DEFINE_bool('half', False, 'Store 16 bits a number.')
_BUDGET = flags.DEFINE_float('budget_gb', 8.0, 'Largest file, in GiB.')


def main(argv: list[str]) -> None:
  """Runs `train_modules`, with a user's mistakes as one line each."""
  if len(argv) > 1:
    sys.exit(f'Error: unknown arguments {argv[1:]}; flags begin with --.')
  train.check_flags()
  # Orbax tells of every file that it writes.
  logging.set_verbosity(logging.WARNING)
  try:
    parallel.cache_compilations()
    print(
      train_modules(
        flags.FLAGS.config,
        flags.FLAGS.workdir,
        depth=_DEPTH.value,
        store=_STORE.value,
        views=_VIEWS.value,
        half=_HALF.value,
        budget=int(_BUDGET.value * 2**30),
        devices=flags.FLAGS.devices,
      )
    )
  except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
    if os.environ.get('DIM_JAX_TRACEBACK'):
      raise
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=train.parse)
