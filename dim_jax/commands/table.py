r"""Trains, probes and compares all methods of a published table.

  dim-jax table dim_digits
  dim-jax table dim_cifar10 --steps=2000 --workdir=runs/cifar10 \
      --measures=svm,reconstruction,information,dependence

TABLE is dim_digits, dim_cifar10, dim_cifar100, dim_stl10 or
dim_tiny_imagenet. Its methods have the same encoder, are trained for as many
steps as their configs say (or all for --steps), and the probes of conv, fc and
y are compared. A method with a seed is a run in WORKDIR/METHOD_seedS; the same
command goes on where it was interrupted, and may add --seeds, --methods and
--measures.

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
_WORKDIR = _COMMAND.path(
  'workdir', None, 'The folder; by default runs/table_TABLE.'
)
_SEEDS = _COMMAND.items(
  'seeds', (0,), 'Seeds; each method has a run for each.', int
)
_STEPS = _COMMAND.integer(
  'steps', None, "Steps of every run; by default its config's."
)
_METHODS = _COMMAND.items('methods', None, 'Rows of TABLE; by default all.')
_MEASURES = _COMMAND.items(
  'measures', (), 'Measures of `dim-jax represent` to take of y.'
)
_EPOCHS = _COMMAND.integer('mlp_epochs', 100, 'Epochs of the MLP probe.')
_EXAMPLES = _COMMAND.integer(
  'max_train', None, 'Training examples that probes keep.'
)


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
