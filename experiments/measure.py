"""Measures the mutual information of two files of rows, in nats.

  python -m experiments.measure --x=x.npy --y=y.npy
  python -m experiments.measure --x=table.csv:height,weight --y=table.csv:age

Row i of one belongs to row i of the other. Files are .npy, .npz
('FILE.npz:NAME' for one of several arrays), and .csv ('FILE.csv:a,b' for some
columns). A critic is fitted on 60 % of the rows, selected on 7 %, and reported
on the rest, with a 95 % interval, the most that so many pairs can show, and a
control of permuted pairs; the Gaussian formula and nearest neighbours stand
beside it.

Writes OUT/information.json, .png and .csv.
"""

import os

from dim_jax.runs import measure as measure_lib
from experiments.command import Command, show

_COMMAND = Command('measure', __doc__)
_X = _COMMAND.path('x', None, 'Rows of x.')
_Y = _COMMAND.path('y', None, 'Rows of y.')
_REPORT_X = _COMMAND.path('report_x', None, 'Other rows of x to report on.')
_REPORT_Y = _COMMAND.path('report_y', None, 'Those of y.')
_CRITIC = _COMMAND.string('critic', 'auto', 'separable, joint, or auto.')
_SEEDS = _COMMAND.items('seeds', (0,), 'Of fits, with commas.', int)
_CONTROL = _COMMAND.boolean('control', True, 'Fit permuted pairs too.')
_OUT = _COMMAND.path('out', 'information', 'The folder to write into.')


@_COMMAND.main
def main() -> None:
  if not (_X.value and _Y.value):
    raise ValueError('give --x=FILE and --y=FILE.')
  if bool(_REPORT_X.value) != bool(_REPORT_Y.value):
    raise ValueError('give both of --report_x and --report_y, or neither.')
  report = (_REPORT_X.value, _REPORT_Y.value) if _REPORT_X.value else None
  results = measure_lib.measure(
    _X.value,
    _Y.value,
    _OUT.value,
    report=report,
    critic=_CRITIC.value,
    seeds=_SEEDS.value,
    control=_CONTROL.value,
  )
  path = os.path.join(_OUT.value, 'information.json')
  show(measure_lib.table(results), *measure_lib.notes(results), path)


if __name__ == '__main__':
  main()
