"""Draws how far a run came in accuracy, from its result.

python -m experiments.documents.curves dim_cifar10_short FILE.svg
python -m experiments.documents.curves gim_cifar10 FILE.svg --row=cpc
"""

import argparse

import matplotlib

from experiments.documents.results import load, row_name
from experiments.studies import checkpoints


def draw(
  name: str, path: str, row: str | None = None, torch: str | None = None
) -> None:
  """Draws the checkpoints of a result's runs, see `studies.checkpoints`.

  Args:
    name: of the result, some of whose 'runs' have 'checkpoints'.
    path: of the picture, .svg or .png.
    row: draw only the runs of this row of the config; all of them if None.
    torch: a result of `studies.equal_time` to draw beside them.

  Raises:
    ValueError: there are no such runs with checkpoints.
  """
  reports = [
    run['checkpoints']
    for run in load(name)['runs']
    if 'checkpoints' in run
    and row in (None, run.get('row') or row_name(run['command']))
  ]
  if not reports:
    raise ValueError(f'{name} has no checkpoints of row {row!r}.')
  beside = {}
  if torch:
    # The last point is probed by all labels too.
    rows = load(torch)['rows']
    count = min(row['train_rows'] for row in rows)
    beside['PyTorch'] = [row for row in rows if row['train_rows'] == count]
  settings = {'svg.hashsalt': name, 'svg.fonttype': 'none'}
  with matplotlib.rc_context(settings):
    figure = checkpoints.draw(reports, beside)
    figure.savefig(path, metadata={'Date': None})


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('name')
  parser.add_argument('path')
  parser.add_argument('--row')
  parser.add_argument('--torch')
  draw(**vars(parser.parse_args()))
