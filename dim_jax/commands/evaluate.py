r"""Probes a run's encoder beside the untrained one and the raw data.

  dim-jax evaluate runs/digits
  dim-jax evaluate runs/cifar10 --probes=linear,knn \
      --features=fc,y --max_train=20000

Results go to RUN/evaluation/probes.json, where a later call with other probes
or features adds to them; RUN/evaluation/features.npz has those for figures.
Choose settings with --split=validation, which leaves the test set alone; its
results go to RUN/evaluation/validation_probes.json.
"""

import os
from typing import Any

from dim_jax.commands.command import Command, show
from dim_jax.evaluation import probes as probes_lib
from dim_jax.runs import evaluate as evaluate_lib

_OLD = {'seeds': '--num_seeds, a count', 'taps': '--features'}
_COMMAND = Command('evaluate', __doc__, takes='RUN', old=_OLD)
_ARGUMENTS: dict[str, Any] = {
  'probes': _COMMAND.items('probes', tuple(probes_lib.PROBES), 'Any of these.'),
  'labels': _COMMAND.items('labels', None, 'Such as speaker; all if left out.'),
  'features': _COMMAND.items('features', None, 'Such as fc,y; all if not.'),
  'encoders': _COMMAND.items('encoders', evaluate_lib.ENCODERS, 'Of these.'),
  'split': _COMMAND.string('split', 'test', 'test, or validation.'),
  'step': _COMMAND.integer('step', None, 'A checkpoint; the newest if not.'),
}
_PROTOCOL: dict[str, Any] = {
  'seeds': _COMMAND.integer(
    'num_seeds',
    probes_lib.Protocol.seeds,
    'Repeats of a probe; tables show mean and deviation.',
  ),
  'max_examples': _COMMAND.integer('max_train', None, 'Training rows kept.'),
  'mlp_decay_epochs': _COMMAND.items(
    'mlp_decay_epochs', None, 'Rate x 0.1; at 1/2 and 3/4 if left out.', int
  ),
}
for _name, _text in {
  'few_labels': 'Labels a class of linear_few.',
  'few_draws': 'Draws of those labels; tables show mean and deviation.',
  'mlp_units': 'Hidden units of the MLP.',
  'mlp_dropout': 'Its rate of dropout.',
  'mlp_batch_size': 'Its batch.',
  'mlp_learning_rate': 'Its first learning rate.',
  'mlp_epochs': 'Its epochs.',
  'mlp_average_epochs': 'Of how many last epochs its accuracy is the mean.',
  'svm_max_examples': 'Training rows that the SVM keeps.',
}.items():
  _value = getattr(probes_lib.Protocol, _name)
  _add: Any = {int: _COMMAND.integer, float: _COMMAND.real}[type(_value)]
  _PROTOCOL[_name] = _add(_name, _value, _text)


@_COMMAND.main
def main(runs: list[str]) -> None:
  settings = {name: flag.value for name, flag in _PROTOCOL.items()}
  epochs = settings['mlp_epochs']
  decay = settings['mlp_decay_epochs'] or probes_lib.decay_epochs(epochs)
  settings['mlp_decay_epochs'] = decay
  arguments = {name: flag.value for name, flag in _ARGUMENTS.items()}
  arguments['protocol'] = probes_lib.Protocol(**settings)
  for run in runs:
    results = evaluate_lib.evaluate(run, **arguments)
    name = evaluate_lib.results_name(arguments['split'])
    path = os.path.join(run, 'evaluation', name)
    show(*evaluate_lib.summary(results), path)
