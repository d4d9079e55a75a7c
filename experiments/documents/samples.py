"""Draws samples of several runs side by side, beside test images.

python -m experiments.documents.samples docs/images/stein_gan_mnist.png RUN ...

Runs are named by their configs' rows, and must have been measured by `dim-jax
density`.
"""

import json
import pathlib
import sys

import numpy as np

from dim_jax.report import density_figures
from experiments.documents.results import row_name


def draw(path: str, *runs: str) -> None:
  """Draws 64 samples of each run, and 64 test images.

  Args:
    path: of the picture, such as .png.
    *runs: folders of runs on the same images in [-1, 1].
  """
  blocks: dict[str, np.ndarray] = {}
  for run in map(pathlib.Path, runs):
    arrays = np.load(run / 'evaluation' / 'density.npz')
    command = json.loads((run / 'run.json').read_text('utf-8'))['command']
    blocks[row_name(command)] = arrays['samples'][:64]
  blocks['test images'] = arrays['data'][:64]
  picture = density_figures.image_grid(blocks, columns=8, across=len(blocks))
  picture.figure().savefig(path, dpi=220, bbox_inches='tight')


if __name__ == '__main__':
  draw(*sys.argv[1:])
