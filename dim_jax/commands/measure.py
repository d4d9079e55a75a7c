"""Measures mutual information, of files or of what a run has, in nats.

  dim-jax measure --x=x.npy --y=y.npy
  dim-jax measure --x=table.csv:height,weight --y=table.csv:age
  dim-jax measure --x=runs/a:y --y=runs/a:class
  dim-jax measure --x=runs/a:inputs --y=runs/a:y --noise_y=1

Row i of one belongs to row i of the other. Files are .npy, .npz
('FILE.npz:NAME' for one of several arrays), and .csv ('FILE.csv:a,b' for some
columns). Of a run, 'RUN:PART' is a feature of its encoder, 'inputs', or a
label. A critic is fitted on 60 % of the rows, selected on 7 %, and reported on
the rest (of runs, on the test set), with a 95 % interval, the most that so many
pairs can show, and a control of permuted pairs; the Gaussian formula and
nearest neighbours stand beside it. With --given it is the information that x
and y share when that is known.

Writes OUT/information.json, .png and .csv.
"""

import os

from dim_jax.commands.command import Command, show
from dim_jax.runs import measure as measure_lib

_COMMAND = Command('measure', __doc__)
_SOURCES = {
  'x': _COMMAND.path('x', None, 'Rows of x.'),
  'y': _COMMAND.path('y', None, 'Rows of y.'),
  'given': _COMMAND.path('given', None, 'Rows of what is known.'),
}
_REPORT = {
  name: _COMMAND.path(f'report_{name}', None, f'Other rows of {name}.')
  for name in _SOURCES
}
_NOISE = {
  name: _COMMAND.real(f'noise_{name}', None, f'Noise of {name}, in its stds.')
  for name in _SOURCES
}
_OPTIONS = {
  'critic': _COMMAND.string('critic', 'auto', 'separable, joint or auto.'),
  'bound': _COMMAND.string(
    'bound', None, 'The bound that trains the critic, such as jsd.'
  ),
  'folds': _COMMAND.integer('folds', None, 'Folds of a cross-validation.'),
  'seeds': _COMMAND.items('seeds', (0,), 'Seeds of the fits.', int),
  'control': _COMMAND.boolean('control', True, 'Fit permuted pairs too.'),
}
_OUT = _COMMAND.path('out', 'information', 'The folder to write into.')


@_COMMAND.main
def main() -> None:
  sources = {name: flag.value for name, flag in _SOURCES.items() if flag.value}
  if not {'x', 'y'} <= sources.keys():
    raise ValueError('give --x=FILE and --y=FILE.')
  report = {name: flag.value for name, flag in _REPORT.items() if flag.value}
  if report and report.keys() != sources.keys():
    flags = ' and '.join(f'--report_{name}' for name in sources)
    raise ValueError(f'give all of {flags}, or none.')
  results = measure_lib.measure(
    out=_OUT.value,
    report=tuple(report[name] for name in sources) if report else None,
    noise={name: f.value for name, f in _NOISE.items() if f.value is not None},
    **sources,
    **{name: flag.value for name, flag in _OPTIONS.items()},
  )
  path = os.path.join(_OUT.value, 'information.json')
  show(measure_lib.table(results), *measure_lib.notes(results), path)
