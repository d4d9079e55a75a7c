"""Densities: log likelihoods of the test set, and samples."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.report import density_figures as drawings
from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import (
  Missing,
  Part,
  Table,
  Text,
  draw,
  fixed,
  with_error,
)
from dim_jax.report.runs import Run

_NOTE = (
  'Mean of a test example, ± its standard error; of log Z, the standard error '
  'over chains. AIS is a lower bound on log Z in the mean, so that its log '
  'likelihoods flatter. KL is estimated on the test points, so it may fall a '
  'little below 0; a density may exceed 1, so a log likelihood may be positive.'
)
_SAMPLES_NOTE = (
  'Of samples beside the test set: ratio of the variances, 1 if alike; squared '
  'maximum mean discrepancy (mmd), near that of training examples if alike. '
  'The classifier score is 1 where a classifier tells no sample from another, '
  'and its number of classes where it is sure of each, and all are as frequent.'
)
_KL = 'KL: of the truth from the model, on test points, in nats.'
# Points of a panel: more would hide one another.
_POINTS = 500


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows log likelihoods, statistics of samples, and pictures."""
  done = [run for run in runs if run.density]
  if not done:
    return []
  table = likelihoods(done)
  parts: list[Part] = [table, Text(_NOTE)]
  if not table.records:
    text = 'No log likelihood: the energy is not normalised (`--ais`).'
    if all(run.density.get('ratio') for run in done):
      text = 'No log likelihood: a GAN’s score is a ratio of densities.'
    parts = [Missing(text)]
  keys = (
    'variance_ratio',
    'mmd',
    'mmd_of_data',
    'mean_distance',
    'classifier_score',
    'classifier_score_of_data',
  )
  samples = [
    {'run': label, 'samples': f'{x["count"]:,}'}
    | {k.replace('_', ' '): fixed(x[k], 4) for k in keys if k in x}
    for label, density in runs_lib.labelled(runs, 'density')
    if (x := density.get('samples'))
  ]
  if samples:
    parts += [Table(samples), Text(_SAMPLES_NOTE)]
  return [*parts, *_pictures(done)]


def likelihoods(runs: Sequence[Run]) -> Table:
  """Tabulates log likelihoods of the test set, by density and normaliser.

  What several runs are compared with stands once where its numbers agree.
  """
  columns = {
    'log Z, nats': 'log_z',
    'log likelihood, nats': 'log_likelihood',
    'KL(data ‖ it), nats': 'divergence',
  }
  table: list[dict[str, str]] = []
  others: dict[tuple[tuple[str, str], ...], list[str]] = {}
  for label, density in runs_lib.labelled(runs, 'density'):
    for row in density['rows']:
      cells = {'density': str(row['density']), 'normalised by': str(row['by'])}
      for title, key in columns.items():
        if key in row:
          cells[title] = with_error(row[key], row.get(f'{key}_error'), 3)
      if row['density'] == 'model':
        table.append({'run': label} | cells)
      else:
        others.setdefault(tuple(cells.items()), []).append(label)
  for shared, labels in others.items():
    owner = 'all' if len(labels) == len(runs) > 1 else ', '.join(labels)
    table.append({'run': owner} | dict(shared))
  return Table(table)


def warnings(run: Run) -> list[str]:
  """Says where a density is worse than it should be, or mismeasured."""
  rows = run.density.get('rows') or []
  models = [row for row in rows if row['density'] == 'model']
  mine = [figures.real(row.get('log_likelihood')) for row in models]
  sentences = [
    f'The model’s log likelihood is below that of {row["density"]}.'
    for row in rows
    if row['density'] not in ('model', 'truth')
    and mine[:1] < [figures.real(row.get('log_likelihood'))]
  ]
  changes = [figures.real(row.get('box_change', 0.0)) for row in models]
  return sentences + [
    f'The box of the grid is too narrow for its log Z: doubling it changed it '
    f'by {figures.number(change)} nats.'
    for change in changes
    if not abs(change) <= 0.01
  ]


def _pictures(runs: Sequence[Run]) -> list[Part]:
  """Densities and samples, side by side where the runs' data agree."""
  groups: dict[tuple[Any, ...], list[Run]] = {}
  for run in runs:
    if (data := run.density_arrays.get('data')) is not None:
      axes = [
        v.tobytes()
        for k, v in sorted(run.density_arrays.items())
        if 'axis' in k
      ]
      key = (run.density.get('dataset'), *data.shape[1:], *axes)
      groups.setdefault(key, []).append(run)
  pictures = []
  for k, members in enumerate(groups.values()):
    name = 'density' if len(groups) == 1 else f'density_{k}'
    arrays = members[0].density_arrays
    if 'axis_0' in arrays:
      kind = _plane if 'axis_1' in arrays else _line
      pictures.append(draw(kind, members, name))
    elif arrays['data'].ndim == 4:
      pictures.append(draw(_images, members, name))
  return pictures


def _plane(runs: Sequence[Run], name: str) -> figures.Picture:
  arrays = runs[0].density_arrays
  x, y = arrays['axis_0'], arrays['axis_1']
  truth = arrays['true_log_density']
  # The grid's own slope, at about as many places as the model has arrows.
  part = slice(len(x) // 20, None, max(len(x) // 10, 1))
  slopes = np.stack(np.gradient(truth, x, y), -1)[part, part].reshape(-1, 2)
  places = np.stack(np.meshgrid(x, y, indexing='ij'), -1)[part, part]
  points = arrays['data'][:_POINTS]
  panels = [
    drawings.Panel('truth', truth.T, points, places.reshape(-1, 2), slopes)
  ]
  for run in runs:
    arrays = run.density_arrays
    side = math.isqrt(len(arrays['score']))
    chosen = slice(1, None, max(side // 10, 1))
    arrows = (
      arrays[k].reshape(side, side, 2)[chosen, chosen].reshape(-1, 2)
      for k in ('score_points', 'score')
    )
    points = arrays['samples'][:_POINTS]
    own = (_panel_label(run, len(runs)), arrays['log_density'].T, points)
    panels.append(drawings.Panel(*own, *arrows))
  caption = f'Dots: test points in the first panel, else samples. {_KL}'
  return drawings.contours(
    panels, x, y, name=name, caption=caption, title=_title(runs)
  )


def _line(runs: Sequence[Run], name: str) -> figures.Picture:
  arrays = runs[0].density_arrays
  panels = []
  for run in runs:
    own = (run.density_arrays[k] for k in ('log_density', 'samples'))
    panels.append(drawings.Panel(_panel_label(run, len(runs)), *own))
  grid, truth = arrays['axis_0'], arrays['true_log_density']
  return drawings.curves(
    panels, grid, truth, name=name, title=_title(runs), caption=_KL
  )


def _images(runs: Sequence[Run], name: str) -> figures.Picture:
  blocks: dict[str, np.ndarray] = {}
  for run in runs:
    arrays = run.density_arrays
    low, high = run.objective.get('input_range') or (-1.0, 1.0)
    own = _panel_label(run, len(runs))
    for label, key in (('test images', 'data'), (own, 'samples')):
      # What the energy sees, to [-1, 1].
      scaled = 2 * (arrays[key].astype(float) - low) / (high - low) - 1
      blocks.setdefault(label, scaled[:20])
  origins = {run.density.get('samples_are') for run in runs}
  caption = 'Beside test images.'
  if len(origins) == 1 and None not in origins:
    caption = f'{origins.pop()}; beside them test images.'
  return drawings.image_grid(
    blocks, name=name, title='Samples', caption=caption
  )


def _panel_label(run: Run, count: int) -> str:
  label = run.title if count == 1 else figures.shorten(run.label)
  for row in run.density.get('rows', []):
    if row['density'] == 'model' and 'divergence' in row:
      return f'{label}, KL {figures.number(figures.real(row["divergence"]))}'
  return label


def _title(runs: Sequence[Run]) -> str:
  return f'Learned densities: {runs[0].density.get("dataset")}'
