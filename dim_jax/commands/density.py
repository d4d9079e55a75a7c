"""Measures the density that a run of an energy learned, in nats.

  dim-jax density runs/mixture_2d
  dim-jax density runs/rbm runs/gan --ais

Points in one or two dimensions are normalised on a grid and compared with the
density that they were drawn from; an RBM has an exact partition function, and
annealed importance sampling (AIS) beside it. Other energies are normalised by
AIS alone, and only where --ais asks for it: it is wrong where chains do not
find all modes. Samples are compared with the test set, and where --classifier
names the run of one, by how clear and how varied they look to it.

Writes RUN/evaluation/density.json and .npz.
"""

import os

from dim_jax.commands.command import Command, show
from dim_jax.runs import density as density_lib

_COMMAND = Command('density', __doc__, takes='RUN')
_add = _COMMAND.integer
_ARGUMENTS = {
  'step': _add(
    'step', None, 'The step of a checkpoint; by default the newest.'
  ),
  'ais': _COMMAND.boolean('ais', False, 'Estimate log Z of any energy.'),
  'chains': _add('chains', 100, 'Chains of AIS.'),
  'temperatures': _add('temperatures', 1000, 'Temperatures of AIS.'),
  'samples': _add(
    'samples', 1000, 'Samples of the model to compare with the test set.'
  ),
  'chain_steps': _add(
    'chain_steps', 1000, 'Steps of a chain from noise to a sample.'
  ),
  'classifier': _COMMAND.path(
    'classifier', None, 'The run of a classifier, to score samples by.'
  ),
  'seed': _add('seed', 0, 'Seed of samples and AIS.'),
}


@_COMMAND.main
def main(runs: list[str]) -> None:
  arguments = {name: flag.value for name, flag in _ARGUMENTS.items()}
  for run in runs:
    results = density_lib.density(run, **arguments)
    if results['rows']:
      show(density_lib.table(results))
    path = os.path.join(run, 'evaluation', 'density.json')
    show(density_lib.notes(results), path)
