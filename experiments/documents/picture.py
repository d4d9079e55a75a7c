"""Draws the picture of README.md from the page of `make demo`.

python -m experiments.documents.picture runs/demo docs/images/embeddings.svg
"""

import csv
import pathlib
import sys

import matplotlib

matplotlib.use('svg')
import matplotlib.pyplot as plt

_INK = '#7a7f87'  # Read on white and on black.


def draw(run: str, path: str) -> None:
  """Draws t-SNE of the untrained and the trained encoder side by side.

  Args:
    run: the folder of a run that has a report of digits.
    path: of the picture, .svg or .png.
  """
  plt.rcParams.update(
    {
      'svg.hashsalt': 'embeddings',
      'svg.fonttype': 'none',
      'font.family': 'sans-serif',
    }
  )
  figure, panels = plt.subplots(1, 2, figsize=(9, 4.3), layout='constrained')
  for panel, kind in zip(panels, ('untrained', 'trained'), strict=True):
    file = pathlib.Path(run, 'report', f'tsne_{kind}.csv')
    with file.open(encoding='utf-8') as lines:
      rows = list(csv.DictReader(lines))
    for digit in sorted({row['class'] for row in rows}):
      x, y = (
        [float(row[axis]) for row in rows if row['class'] == digit]
        for axis in 'xy'
      )
      panel.scatter(x, y, s=12, color=f'C{digit}', label=digit, linewidths=0)
    panel.set_title(f'{kind} encoder', color=_INK)
    panel.set_axis_off()
  figure.legend(
    *panels[0].get_legend_handles_labels(),
    loc='outside lower center',
    ncols=10,
    frameon=False,
    labelcolor=_INK,
    handletextpad=0.1,
  )
  figure.savefig(path, transparent=True, metadata={'Date': None})


if __name__ == '__main__':
  draw(*sys.argv[1:])
