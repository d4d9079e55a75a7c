"""Stored features: maps, nearest neighbours, critic scores and spectra."""

from collections.abc import Mapping, Sequence

import numpy as np

from dim_jax.evaluation import representations
from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run

_TSNE_EXAMPLES = 1000
_NEIGHBOURS = 8


def names(run: Run) -> list[str]:
  """Lists the features that evaluation has stored of a run's encoder."""
  return [
    key.removeprefix('trained_')
    for key in run.features or {}
    if key.startswith('trained_') and 'scores' not in key
  ]


def _representation(run: Run) -> str:
  """The feature that stands for the run: the method's, or the last."""
  stored = names(run)
  own = run.known('representation')
  return next((name for name in (own, 'y') if name in stored), stored[-1])


def _both(run: Run, name: str) -> dict[str, np.ndarray]:
  """Features by 'trained' and 'untrained'; those that are there."""
  features = run.features or {}
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


def _class_names(run: Run) -> list[str]:
  features = run.features or {}
  count = int(features['labels'].max()) + 1
  known = [str(name) for name in features.get('class_names', [])]
  return known + [str(k) for k in range(len(known), count)]


def maps(runs: Sequence[Run]) -> list[Part]:
  """Draws principal components and t-SNE of one run's representation."""
  run = runs[0]
  if len(runs) > 1 or not (names(run) or run.probes):
    return []
  if not names(run):
    return [
      Text(
        f'No features are stored yet, so there are no embeddings, neighbours '
        f'or spectra: run `python -m experiments.evaluate {run.path}`.',
        'missing',
      )
    ]
  name = _representation(run)
  parts: list[Part] = [
    Text(f'The {kind} {name} features are not drawn: {reason}.', 'missing')
    for kind, x in _both(run, name).items()
    if (reason := _defect(x))
  ]
  labels = (run.features or {})['labels']
  for method, stem, count in (
    (figures.principal_components, 'pca', None),
    (figures.tsne, 'tsne', _TSNE_EXAMPLES),
  ):
    for kind, x in _usable(run, name).items():
      parts.append(
        draw(
          method,
          x[:count],
          labels[:count],
          _class_names(run),
          name=f'{stem}_{kind}',
          title=f'{kind} {name}',
          noun=runs_lib.noun(runs),
        )
      )
  return parts


def neighbours(runs: Sequence[Run]) -> list[Part]:
  """Shows one run's nearest neighbours, and those by the pixels."""
  run = runs[0]
  if len(runs) > 1 or not names(run) or 'images' not in (run.features or {}):
    return []
  name = _representation(run)
  usable = {f'{kind} {name}': x for kind, x in _usable(run, name).items()}
  if not usable:
    return []
  features = run.features or {}
  images, labels = features['images'], features['labels']
  picture = draw(
    figures.retrieval,
    images,
    labels,
    _class_names(run),
    usable,
    count=_NEIGHBOURS,
    title=f'By the representation, {name}',
  )
  note = (
    f'How many of the {_NEIGHBOURS} nearest neighbours are of the query’s '
    f'class, over all {len(labels)} images as queries. Features are compared '
    f'by cosine, pixels by Euclidean distance: they are the control.'
  )
  return [agreement(usable, images, labels), Text(note), picture]


def agreement(
  features: Mapping[str, np.ndarray], images: np.ndarray, labels: np.ndarray
) -> Table:
  """Tabulates the fraction of neighbours that are of the query's class.

  Args:
    features: shape [n, D] by name.
    images: the control, shape [n, H, W, C].
    labels: shape [n].

  Returns:
    In percent; the last row is what chance gives.
  """
  count = min(_NEIGHBOURS, len(labels) - 1)
  spaces = {name: (x, 'cosine') for name, x in features.items()}
  spaces['raw pixels'] = (images.reshape(len(images), -1), 'euclidean')
  fractions = {}
  for name, (x, metric) in spaces.items():
    index, _ = representations.nearest_neighbours(x, count, metric)
    fractions[name] = float((labels[index] == labels[:, None]).mean())
  frequency = np.bincount(labels) / len(labels)
  fractions['chance level'] = float((frequency**2).sum())
  return Table(
    [
      {'neighbours by': name, 'of the same class, %': fixed(100 * value, 1)}
      for name, value in fractions.items()
    ]
  )


def scores(runs: Sequence[Run]) -> list[Part]:
  """Draws how one run's critic scores joint pairs against others."""
  features = runs[0].features or {}
  parts: list[Part] = []
  for kind, prefix in (('trained', ''), ('untrained', 'untrained_')):
    positive = features.get(f'{prefix}scores_positive')
    negative = features.get(f'{prefix}scores_negative')
    if len(runs) > 1 or positive is None or negative is None:
      continue
    if np.isfinite(positive).any() and np.isfinite(negative).any():
      parts.append(
        draw(
          figures.scores,
          positive.ravel(),
          negative.ravel(),
          name=f'scores_{kind}',
          title=kind,
        )
      )
  return parts


def spectra(runs: Sequence[Run]) -> list[Part]:
  """Draws the spectrum of every feature: untrained beside it, or all runs."""
  parts: list[Part] = []
  for name in dict.fromkeys(name for run in runs for name in names(run)):
    if len(runs) == 1:
      lines, title = _usable(runs[0], name), f'Spectrum of {name}'
    else:
      title = f'Spectrum of trained {name}'
      lines = {
        run.label: _usable(run, name)['trained']
        for run in runs
        if 'trained' in _usable(run, name)
      }
    if lines:
      parts.append(
        draw(figures.spectrum, lines, name=f'spectrum_{name}', title=title)
      )
  return parts
