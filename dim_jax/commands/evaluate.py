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
_items, _integer = _COMMAND.items, _COMMAND.integer
_ARGUMENTS: dict[str, Any] = {
  'probes': _items('probes', tuple(probes_lib.PROBES), 'Probes to fit.'),
  'labels': _items('labels', None, 'Labels to predict; by default all.'),
  'features': _items('features', None, 'Features to probe; by default all.'),
  'encoders': _items('encoders', evaluate_lib.ENCODERS, 'What to probe.'),
  'split': _COMMAND.string('split', 'test', 'test or validation images.'),
  'step': _integer('step', None, 'Step of the checkpoint, or the newest.'),
}
_PROTOCOL: dict[str, Any] = {
  'max_examples': _integer('max_train', None, 'Training examples to keep.'),
  'mlp_decay_epochs': _items(
    'mlp_decay_epochs',
    None,
    'MLP: epochs after which its rate falls tenfold; by default 1/2, 3/4.',
    int,
  ),
}
for _name, _text in {
  'seeds': 'Repeats of a probe; tables show mean and standard deviation.',
  'few_labels': 'Labels per class of linear_few.',
  'few_draws': 'Random draws of the labels of linear_few.',
  'mlp_units': 'MLP: hidden units.',
  'mlp_dropout': 'MLP: dropout rate.',
  'mlp_batch_size': 'MLP: batch size.',
  'mlp_learning_rate': 'MLP: first learning rate.',
  'mlp_epochs': 'MLP: epochs.',
  'mlp_average_epochs': 'MLP: last epochs over which its accuracy is averaged.',
  'svm_max_examples': 'Training examples that the SVM keeps.',
}.items():
  _value = getattr(probes_lib.Protocol, _name)
  _add: Any = {int: _integer, float: _COMMAND.real}[type(_value)]
  _flag = 'num_seeds' if _name == 'seeds' else _name
  _PROTOCOL[_name] = _add(_flag, _value, _text)


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
