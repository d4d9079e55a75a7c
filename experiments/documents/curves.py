"""Draws how far a run came in accuracy, from its result.

python -m experiments.documents.curves dim_cifar10_short FILE.svg
"""

import sys

import matplotlib

from experiments.documents.results import load
from experiments.studies import checkpoints


def draw(name: str, path: str) -> None:
  """Draws the checkpoints of a result's runs, see `studies.checkpoints`.

  Args:
    name: of the result, whose 'runs' have 'checkpoints'.
    path: of the picture, .svg or .png.
  """
  settings = {'svg.hashsalt': name, 'svg.fonttype': 'none'}
  with matplotlib.rc_context(settings):
    figure = checkpoints.draw(
      [run['checkpoints'] for run in load(name)['runs']]
    )
    figure.savefig(path, metadata={'Date': None})


if __name__ == '__main__':
  draw(*sys.argv[1:])
