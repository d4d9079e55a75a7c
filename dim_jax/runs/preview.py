"""Draws what a config's augmentation makes of its first training images."""

import functools
from typing import Any

import jax
import numpy as np

from dim_jax import checks
from dim_jax import config as config_lib
from dim_jax.data import augment
from dim_jax.data import load as data
from dim_jax.report import figures


def preview(
  config: config_lib.ExperimentConfig,
  *,
  examples: int = 8,
  views: int = 8,
  show_progress: bool = True,
) -> Any:
  """Draws training images, each in a row with views of it.

  Args:
    config: a run on images.
    examples: how many images.
    views: how many views of each.
    show_progress: show that of a first load.

  Returns:
    The matplotlib figure.

  Raises:
    ValueError: a count is below 1, the data are no images, or a field cannot be
      used.
    FileNotFoundError: the data set is not there.
  """
  checks.check_range('examples', examples, 'int [1, inf)')
  checks.check_range('views', views, 'int [1, inf)')
  config_lib.check(config)
  images = data.of_images(config.data)
  found = data.load(
    images,
    'unlabelled' if images.unlabelled else 'train',
    crop=False,
    first=examples,
    progress=show_progress,
  )
  originals = found.inputs
  change = augment.make(config.data, originals.shape[-1])
  parts = [originals] * views
  if change is not None:
    compiled = jax.jit(functools.partial(change, jax.random.key(config.seed)))
    # Positions tell the views apart, as they do the examples of a batch.
    positions = np.arange(views * len(originals)).reshape(views, -1)
    parts = [np.asarray(compiled(originals, rows)) for rows in positions]
  made = np.stack(parts, axis=1)
  size = 'x'.join(str(n) for n in originals.shape[1:3])
  changed = 'x'.join(str(n) for n in made.shape[2:4])
  return figures.views(
    originals,
    made,
    title=f'{figures.shorten(found.name)}: views in training',
    caption=f'{describe(config.data)} Seed {config.seed}; images of {size} '
    f'pixels, views of {changed}, drawn at one size.',
  )


def describe(config: Any) -> str:
  """Describes an `augment.Config` in words, in the order of what happens."""
  if augment.make(config) is None:
    return 'No augmentation: the views are the images themselves.'
  parts = []
  if config.crop_scale is not None:
    parts.append(f'crops of {_percent(config.crop_scale)} to all, resized')
  elif config.crop is not None:
    parts.append(f'crops of {config.crop} pixels')
  if config.flip:
    parts.append('flips')
  if config.crop_padding:
    parts.append(f'crops after padding by {config.crop_padding}')
  for share, words in (
    (config.jitter_probability if config.jitter else 0,
     f'colour jitter of strength {config.jitter:g}'),
    (config.grayscale_probability, 'grayscale'),
    (config.blur_probability, 'Gaussian blur'),
  ):  # fmt: skip
    if share:
      parts.append(f'{words} (of {_percent(share)})')
  text = ', '.join(parts)
  return f'{text[0].upper()}{text[1:]}.'


def _percent(share: float) -> str:
  return f'{100 * share:g} %'
