r"""Measures a classifier: errors, information, attacks, calibration.

  dim-jax classify runs/vib_mnist
  dim-jax classify runs/vib_mnist --attacks=fgsm,pgd,cw \
      --attacked=200 --surrogate=runs/deterministic --ood=noise,inverted

Prints the error of one posterior sample beside that of their averaged
prediction, of the averaged weights and of the last ones, and writes
RUN/evaluation/classification.json and .npz, which `dim-jax report` shows.
"""

import os
from typing import Any

from dim_jax.commands.command import Command, show
from dim_jax.runs import attack
from dim_jax.runs import classify as classify_lib

_COMMAND = Command(
  'classify',
  __doc__,
  takes='RUN',
  old={'samples': '--posterior_samples', 'examples': '--attacked'},
)
_STRENGTHS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
_add, _items = _COMMAND.integer, _COMMAND.items
_ARGUMENTS: dict[str, Any] = {
  'samples': _add(
    'posterior_samples', 12, 'Posterior samples that a prediction averages.'
  ),
  'step': _add(
    'step', None, 'The step of a checkpoint; by default the newest.'
  ),
  'attacks': _items(
    'attacks', (), f'Attacks to run: {", ".join(attack.ATTACKS)}.'
  ),
  'losses': _items(
    'losses', attack.LOSSES, 'Losses that FGSM and PGD increase.'
  ),
  'epsilons': _items(
    'epsilons', _STRENGTHS, 'Linf budgets, in pixels of [0, 1].', float
  ),
  'attacked': _add('attacked', 1000, 'Test images to attack.'),
  'surrogate': _COMMAND.path(
    'surrogate',
    None,
    'The run of another network, whose gradients attack this one.',
  ),
  'cw_steps': _add('cw_steps', 200, 'Steps of CW for each constant.'),
  'cw_searches': _add('cw_searches', 5, 'Constants that CW tries.'),
  'ood': _items('ood', (), f'Other images to detect: {", ".join(attack.OOD)}.'),
  'seed': _add('seed', 0, 'Seed of samples, attacks and targets.'),
}


@_COMMAND.main
def main(runs: list[str]) -> None:
  arguments = {name: flag.value for name, flag in _ARGUMENTS.items()}
  for run in runs:
    results = classify_lib.classify(run, **arguments)
    show(*classify_lib.summary(results))
    show(os.path.join(run, 'evaluation', 'classification.json'))
