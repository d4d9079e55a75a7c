"""Stored features: maps, nearest neighbours, critic scores and spectra."""

from collections.abc import Sequence

import numpy as np

from dim_jax.evaluation import representations
from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Missing, Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run

_TSNE_EXAMPLES = 1000
_NEIGHBOURS = 8
_SHOWN = 4


def _names(run: Run) -> list[str]:
  """The features that evaluation has stored of the encoder."""
  return [
    key.removeprefix('trained_')
    for key in run.features
    if key.startswith('trained_') and 'scores' not in key
  ]


def _representation(run: Run) -> str:
  """The feature that stands for the run: the method's, or the last."""
  own, stored = run.known('representation'), _names(run)
  return next((name for name in (own, 'y') if name in stored), stored[-1])


def _both(run: Run, name: str) -> dict[str, np.ndarray]:
  """Features by 'trained' and 'untrained'; those that are there."""
  features = run.features
  return {
    kind: features[f'{kind}_{name}'].reshape(len(features['labels']), -1)
    for kind in ('trained', 'untrained')
    if f'{kind}_{name}' in features
  }


def _defect(features: np.ndarray) -> str:
  """Why nothing can be drawn of the features; empty if it can."""
  if len(features) < 10:
    return 'there are fewer than ten examples'
  if not np.isfinite(features).all():
    return 'they are not all finite'
  if np.ptp(features, axis=0).max() <= 1e-6 * np.abs(features).max():
    return 'they are the same for all images: the encoder has collapsed'
  return ''


def _usable(run: Run, name: str) -> dict[str, np.ndarray]:
  return {k: x for k, x in _both(run, name).items() if not _defect(x)}


def _classes(run: Run) -> tuple[np.ndarray, list[str]]:
  """The examples' labels, and the names of the classes."""
  labels = run.features['labels']
  return labels, runs_lib.class_names(run.features, int(labels.max()) + 1)


def maps(runs: Sequence[Run]) -> list[Part]:
  """Draws principal components and t-SNE of one run's representation."""
  run = runs[0]
  if len(runs) > 1 or not (_names(run) or run.probes):
    return []
  if not _names(run):
    command = f'`dim-jax evaluate {run.path}`'
    text = 'No features are stored for embeddings, neighbours and spectra: run'
    return [Missing(f'{text} {command}.')]
  name = _representation(run)
  parts: list[Part] = [
    Missing(f'The {kind} {name} features are not drawn: {reason}.')
    for kind, x in _both(run, name).items()
    if (reason := _defect(x))
  ]
  labels, names = _classes(run)
  for stem, function, count in (
    ('pca', figures.principal_components, None),
    ('tsne', figures.tsne, _TSNE_EXAMPLES),
  ):
    for kind, x in _usable(run, name).items():
      named = {'name': f'{stem}_{kind}', 'title': f'{kind} {name}'}
      named['noun'] = runs_lib.noun(runs)
      parts.append(draw(function, x[:count], labels[:count], names, **named))
  return parts


def neighbours(runs: Sequence[Run]) -> list[Part]:
  """Shows one run's nearest neighbours, and those by the pixels."""
  run, features = runs[0], runs[0].features
  if len(runs) > 1 or not _names(run) or 'images' not in features:
    return []
  name = _representation(run)
  usable = {f'{kind} {name}': x for kind, x in _usable(run, name).items()}
  images, (labels, names) = features['images'], _classes(run)
  if not usable:
    return []
  count = min(_NEIGHBOURS, len(labels) - 1)
  same = {}
  for key, x in {**usable, 'raw pixels': images}.items():
    metric = 'cosine' if key in usable else 'euclidean'
    same[key] = representations.same_class_fraction(x, labels, count, metric)
  same['chance level'] = representations.same_class_chance(labels)
  note = (
    f'How many of the {count} nearest neighbours are of the query’s class, '
    f'over all {len(labels)} images as queries. Features are compared by '
    f'cosine, pixels, the control, by Euclidean distance.'
  )
  shown = (images, labels, names, usable)
  picture = draw(
    figures.retrieval, *shown, count=min(_SHOWN, count), title=f'By {name}'
  )
  cells = [
    {'neighbours by': key, 'of the same class, %': fixed(100 * value, 1)}
    for key, value in same.items()
  ]
  return [Table(cells), Text(note), picture]


def scores(runs: Sequence[Run]) -> list[Part]:
  """Draws how one run's critic scores joint pairs against others."""
  features = runs[0].features
  parts: list[Part] = []
  for kind, prefix in {'trained': '', 'untrained': 'untrained_'}.items():
    keys = [f'{prefix}scores_{sign}' for sign in ('positive', 'negative')]
    pair = [features[key].ravel() for key in keys if key in features]
    if len(runs) == 1 and len(pair) == 2 and np.isfinite(pair[0]).any():
      named = {'name': f'scores_{kind}', 'title': kind}
      parts.append(draw(figures.scores, *pair, **named))
  return parts


def spectra(runs: Sequence[Run]) -> list[Part]:
  """Draws the spectrum of every feature: untrained beside it, or all runs."""
  parts: list[Part] = []
  for name in dict.fromkeys(name for run in runs for name in _names(run)):
    lines = _usable(runs[0], name)
    if len(runs) > 1:
      usable = {run.label: _usable(run, name) for run in runs}
      lines = {k: x['trained'] for k, x in usable.items() if 'trained' in x}
    title = f'Spectrum of {"trained " if len(runs) > 1 else ""}{name}'
    if lines:
      named = {'name': f'spectrum_{name}', 'title': title}
      parts.append(draw(figures.spectrum, lines, **named))
  return parts
