r"""Trains, probes and compares all methods of a published table.

  dim-jax table dim_digits
  dim-jax table dim_cifar10 --steps=2000 --workdir=runs/cifar10 \
      --measures=svm,reconstruction,information,dependence

The table is a family of configs that has one: its methods on the same
encoder, each trained for as many steps (all cells with --steps), and the probes
of conv, fc and y. One cell is a run in WORKDIR/METHOD_seedS; the same command
goes on where it was interrupted, and may add --seeds, --methods and --measures.

Writes WORKDIR/table.json, table.csv and the page WORKDIR/report/index.html.
"""

import os

import dim_jax
from dim_jax import configs
from dim_jax.commands.command import Command, show
from dim_jax.evaluation import probes as probes_lib
from dim_jax.report.sections import comparison as section
from dim_jax.runs import comparison

_COMMAND = Command('table', __doc__, takes='TABLE')
_WORKDIR = _COMMAND.path('workdir', None, 'runs/table_TABLE if left out.')
_SEEDS = _COMMAND.items('seeds', (0,), 'A run each, of each method.', int)
_STEPS = _COMMAND.integer('steps', None, "Of all cells; the configs' if not.")
_METHODS = _COMMAND.items('methods', None, 'Rows of TABLE; all if left out.')
_MEASURES = _COMMAND.items('measures', (), 'Of dim-jax represent, of y.')
_EPOCHS = _COMMAND.integer('mlp_epochs', 100, 'Of the MLP probe.')
_EXAMPLES = _COMMAND.integer('max_train', None, 'Training rows probes keep.')


@_COMMAND.main
def main(words: list[str]) -> None:
  methods = configs.table(words)
  protocol = probes_lib.Protocol(
    seeds=1,
    max_examples=_EXAMPLES.value,
    mlp_epochs=_EPOCHS.value,
    mlp_decay_epochs=probes_lib.decay_epochs(_EPOCHS.value),
  )
  workdir = _WORKDIR.value or os.path.join('runs', f'table_{words[0]}')
  settings = comparison.Settings(
    seeds=_SEEDS.value,
    steps=_STEPS.value,
    protocol=protocol,
    methods=_METHODS.value,
    measures=_MEASURES.value,
  )
  results = comparison.compare(words[0], methods, workdir, settings)
  show(*comparison.summary(results), section.file_of(workdir))
  if results['cells']:
    show(dim_jax.report(workdir))
