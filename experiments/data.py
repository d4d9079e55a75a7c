"""The examples that a config's data field names, ready to train or probe on."""

from typing import Any, NamedTuple

import numpy as np

from dim_jax import config as config_lib
from dim_jax.data import augment, points, sound, sources
from dim_jax.objective import as_batch

Config = config_lib.DataConfig | config_lib.SoundConfig | config_lib.PointConfig


class Examples(NamedTuple):
  """One split, whatever it is of.

  Attributes:
    kind: 'image', 'audio' or 'point'.
    inputs: images uint8 [n, H, W, C], sound int16 [n, T], or points float32
      [n, D].
    labels: int32 [n] by what they tell: 'class' of images; 'speaker' and maybe
      'digit' of sound; points have none.
    label: which of them objectives learn from; empty without labels.
    class_names: of each of `labels`.
    name: of the data set.
    note: what a reader of a result must know of it.
  """

  kind: str
  inputs: np.ndarray
  labels: dict[str, np.ndarray]
  label: str
  class_names: dict[str, tuple[str, ...]]
  name: str
  note: str


def load(
  config: Config,
  split: str,
  *,
  validation: float | None = None,
  crop: bool = True,
  progress: bool = True,
) -> Examples:
  """Loads a split.

  Args:
    config: the run's data.
    split: 'train', 'validation', 'test', or 'unlabelled'.
    validation: held out instead of what the config says.
    crop: cut out the centre, if the config crops; training crops at random.
    progress: show that of a first load.

  Returns:
    The examples.

  Raises:
    ValueError: a field or the data cannot be used.
    FileNotFoundError: the data set is not there.
  """
  if validation is None:
    validation = config.validation
  if isinstance(config, config_lib.SoundConfig):
    return _sound(config, split, validation, progress)
  if isinstance(config, config_lib.PointConfig):
    return _points(config, split, validation)
  found = images(
    config, split, validation=validation, crop=crop, progress=progress
  )
  return Examples(
    config.kind,
    found.images,
    {'class': found.labels},
    'class',
    {'class': found.class_names},
    found.name,
    found.note,
  )


def images(
  config: Config,
  split: str,
  *,
  validation: float | None = None,
  crop: bool = True,
  progress: bool = True,
) -> sources.Dataset:
  """Loads a split of images as the run sees them; arguments as of `load`.

  Raises:
    ValueError: the data are no images, or a field cannot be used.
    FileNotFoundError: the data set is not there.
  """
  if not isinstance(config, config_lib.DataConfig):
    what = {'audio': 'sound', 'point': 'points'}[config.kind]
    raise ValueError(f'{config.name!r} is {what}; this needs images.')
  found = sources.load(
    config.name,
    split,
    image_size=config.image_size,
    data_dir=config.data_dir,
    validation=config.validation if validation is None else validation,
    progress=progress,
  )
  pixels, notes = found.images, [found.note]
  if config.grayscale and pixels.shape[-1] == 3:
    pixels = augment.grayscale(pixels)
    notes.append('colours as one channel')
  if config.crop and crop:
    pixels = augment.center_crop(pixels, config.crop)
    notes.append(f'centre {config.crop} pixels')
  return found._replace(images=pixels, note='; '.join(filter(None, notes)))


def _sound(
  config: config_lib.SoundConfig, split: str, validation: float, progress: bool
) -> Examples:
  found = sound.load(
    config.name,
    split,
    window=config.window,
    hop=config.hop,
    rate=config.rate,
    data_dir=config.data_dir,
    validation=validation,
    phones=config.phones,
    lists=config.lists,
    progress=progress,
  )
  labels = {k: v for k, v in found.labels.items() if v.ndim == 1}
  if config.label not in labels:
    raise ValueError(
      f'data.label must be one of {sorted(labels)} for {found.name}, got '
      f'{config.label!r}.'
    )
  return Examples(
    config.kind,
    found.audio,
    found.labels,
    config.label,
    found.class_names,
    found.name,
    found.note,
  )


def _points(
  config: config_lib.PointConfig, split: str, validation: float
) -> Examples:
  sources.check_choice('split', split, ('train', 'validation', 'test'), 'split')
  sources.check_validation(validation, split)
  drawn = 'test' if split == 'test' else 'train'
  found = points.load(config.name, drawn, config.count, config.seed)
  if split != 'test':
    held_out = round(validation * len(found))
    if split == 'validation' and not held_out:
      raise ValueError(
        f'data.validation={validation} of data.count={config.count} points '
        'holds none out: raise either.'
      )
    found = found[:held_out] if split == 'validation' else found[held_out:]
  return Examples(config.kind, found, {}, '', {}, config.name, '')


def batch(examples: Examples) -> dict[str, Any]:
  """The arrays that objectives see: the inputs, and 'label' if there are."""
  arrays = as_batch(examples.inputs, examples.kind)
  if examples.label:
    arrays['label'] = examples.labels[examples.label]
  return arrays
