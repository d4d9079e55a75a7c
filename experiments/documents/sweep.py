"""Draws error and rate against beta, from the result of a sweep.

python -m experiments.documents.sweep vib_mnist_sweep 256 FILE.svg
"""

import sys

import matplotlib

matplotlib.use('svg')

from dim_jax.report import classifier_figures
from experiments.documents.results import load


def draw(name: str, code: str, path: str) -> None:
  """Draws the longest sweep of a code, as `dim-jax report` draws it.

  Args:
    name: of the result.
    code: its dimensions, K.
    path: of the picture, .svg or .png.
  """
  sweeps = [run for run in load(name)['runs'] if run['code'] == int(code)]
  sweep = max(sweeps, key=lambda run: run['steps'])
  picture = classifier_figures.beta_sweep(
    [row for row in sweep['rows'] if row['weights'] == 'average'],
    classes=sweep['classes'],
    log2_examples=sweep['log2_examples']['train'],
  )
  with matplotlib.rc_context({'svg.hashsalt': name, 'svg.fonttype': 'none'}):
    picture.figure().savefig(path, metadata={'Date': None})


if __name__ == '__main__':
  draw(*sys.argv[1:])
