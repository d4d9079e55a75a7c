"""Draws samples of several runs side by side, beside test images.

python -m experiments.documents.samples docs/images/stein_gan_mnist.png RUN ...

Runs are named by their configs' rows, and must have been measured by `dim-jax
density`.
"""

import json
import pathlib
import sys

import matplotlib
import numpy as np

matplotlib.use('agg')
import matplotlib.pyplot as plt

from experiments.documents.results import config_name

_SIDE = 8
_INK = '#7a7f87'  # Read on white and on black.


def draw(path: str, *runs: str) -> None:
  """Draws 64 samples of each run, and 64 test images.

  Args:
    path: of the picture, such as .png.
    *runs: folders of runs on the same grey images in [-1, 1].
  """
  blocks: dict[str, np.ndarray] = {}
  for run in map(pathlib.Path, runs):
    arrays = np.load(run / 'evaluation' / 'density.npz')
    command = json.loads((run / 'run.json').read_text())['command']
    row = config_name(command).split()[0].partition(':')[2]
    blocks |= {row: arrays['samples'], 'test images': arrays['data']}
  blocks['test images'] = blocks.pop('test images')
  figure, panels = plt.subplots(
    1, len(blocks), figsize=(2.3 * len(blocks), 2.6), layout='constrained'
  )
  for panel, (name, images) in zip(panels, blocks.items(), strict=True):
    tiles = np.clip(images[: _SIDE**2, ..., 0], -1, 1)
    size = tiles.shape[1:]
    tiles = tiles.reshape(_SIDE, _SIDE, *size).swapaxes(1, 2)
    tiles = tiles.reshape(_SIDE * size[0], _SIDE * size[1])
    panel.imshow(tiles, cmap='gray', vmin=-1, vmax=1)
    panel.set_title(name, color=_INK)
    panel.set_axis_off()
  figure.savefig(path, dpi=110, transparent=True)


if __name__ == '__main__':
  draw(*sys.argv[1:])
