r"""Trains the modules of Greedy InfoMax one after another.

  dim-jax layerwise \
      --config=gim_spoken_digits \
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

from dim_jax.commands.command import Command, show
from dim_jax.runs.layerwise import train_modules

_COMMAND = Command('layerwise', __doc__, on_all_hosts=True)
_CONFIG = _COMMAND.config()
_WORKDIR = _COMMAND.path('workdir', None, 'The folder of the runs.')
_DEVICES = _COMMAND.integer('devices', None, 'Use only this many devices.')
_DEPTH = _COMMAND.integer('depth', None, 'Train only this many modules.')
_STORE = _COMMAND.boolean('store', False, 'Train on stored features.')
_VIEWS = _COMMAND.integer('views', 1, 'Stored augmentations of an example.')
_HALF = _COMMAND.boolean('half', False, 'Store 16 bits a number.')
_BUDGET = _COMMAND.real('budget_gb', 8.0, 'Largest file, in GiB.')


@_COMMAND.main
def main() -> None:
  if _CONFIG.value is None or not _WORKDIR.value:
    raise ValueError('give --config=NAME and --workdir=FOLDER.')
  last = train_modules(
    _CONFIG.value,
    _WORKDIR.value,
    depth=_DEPTH.value,
    store=_STORE.value,
    views=_VIEWS.value,
    half=_HALF.value,
    budget=int(_BUDGET.value * 2**30),
    devices=_DEVICES.value,
  )
  show(last)
