"""What generators make of codes: images of runs beside one another."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.report import density_figures as drawings
from dim_jax.report import figures
from dim_jax.report.parts import Part, draw, fixed
from dim_jax.report.runs import Run

_TEST = 'test images'
# Of a row of reconstructions.
_SHOWN = 10


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows reconstructions, interpolations and samples of the same images."""
  groups: dict[Any, list[Run]] = {}
  for run in runs:
    if 'reconstructions' in run.features:
      images = _images(run)
      key = (images.shape, images.tobytes())
      groups.setdefault(key, []).append(run)
  parts: list[Part] = []
  for k, members in enumerate(groups.values()):
    suffix = f'_{k}' if len(groups) > 1 else ''
    for function in (_reconstructions, _interpolations, _samples):
      shown = members
      if function is _samples:
        shown = [run for run in members if 'samples' in run.features]
      if shown:
        name = f'generator{function.__name__}{suffix}'
        parts.append(draw(function, shown, name))
  return parts


def _images(run: Run) -> np.ndarray:
  """The test images that were reconstructed."""
  return run.features['images'][: len(run.features['reconstructions'])]


def _label(run: Run, runs: Sequence[Run]) -> str:
  return run.title if len(runs) == 1 else run.label


def _reconstructions(runs: Sequence[Run], name: str) -> figures.Picture:
  images = _images(runs[0])
  rows, errors = {_TEST: images[:_SHOWN]}, []
  for run in runs:
    others = run.features['reconstructions']
    label = _label(run, runs)
    rows[label] = others[:_SHOWN]
    difference = (others.astype(float) - images) / 127.5
    errors.append(f'{label} {fixed(np.mean(difference**2), 4)}')
  caption = (
    'Test images, and below them what is decoded from their codes. Mean '
    f'squared error of pixels in [-1, 1] over {len(images)} test images: '
    f'{", ".join(errors)}.'
  )
  return figures.reconstructions(rows, name=name, caption=caption)


def _interpolations(runs: Sequence[Run], name: str) -> figures.Picture:
  blocks = {}
  for run in runs:
    x = run.features['interpolations']
    blocks[_label(run, runs)] = x.reshape(-1, *x.shape[2:])
  return drawings.image_grid(
    blocks,
    columns=x.shape[1],
    across=2,
    name=name,
    title='Interpolations',
    caption='A row leads from the code of a test image to that of the next in '
    'equal steps; its ends are their reconstructions.',
  )


def _samples(runs: Sequence[Run], name: str) -> figures.Picture:
  first = runs[0].features['samples']
  blocks = {_TEST: _images(runs[0])[: len(first)]}
  blocks |= {_label(run, runs): run.features['samples'] for run in runs}
  return drawings.image_grid(
    blocks,
    name=name,
    title='Samples of the prior',
    caption='What is decoded from codes that are drawn from the prior; beside '
    'them test images.',
  )
