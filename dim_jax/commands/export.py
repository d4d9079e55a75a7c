"""Writes a run's encoder as one file, with a card that describes it.

  dim-jax export runs/digits
  dim-jax export runs/digits --file=encoder.npz

The file is read by `dim_jax.load`, or by NumPy alone; the card, encoder.md, has
the config, the data and the numbers that were measured of this very step.
"""

from dim_jax.commands.command import Command, show
from dim_jax.runs import model_card

_COMMAND = Command(
  'export',
  __doc__,
  takes='RUN',
  old={'out': '--file=FILE', 'players': '--all for critics, probes and all'},
)
_FILE = _COMMAND.path('file', None, 'RUN/encoder.npz if left out.')
_STEP = _COMMAND.integer('step', None, 'A checkpoint; the newest if left out.')
_ALL = _COMMAND.boolean(
  'all', False, 'Critics, probes and the rest too, not what encoding reads.'
)


@_COMMAND.main
def main(runs: list[str]) -> None:
  if len(runs) > 1 and _FILE.value:
    raise ValueError('--file is of one run: leave it out, or give one run.')
  for run in runs:
    show(
      *model_card.export(
        run, _FILE.value, step=_STEP.value, all_groups=_ALL.value
      )
    )
