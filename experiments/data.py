"""The examples that a config's data field names, ready to train or probe on."""

from typing import Any, NamedTuple

import numpy as np

from dim_jax import config as config_lib
from dim_jax.data import augment, sound, sources


class Examples(NamedTuple):
  """One split, whatever it is of.

  Attributes:
    inputs: images uint8 [n, H, W, C], or sound int16 [n, T].
    labels: int32 [n] by what they tell: 'class' of images; 'speaker' and maybe
      'digit' of sound.
    label: which of them objectives learn from.
    class_names: of each of `labels`.
    name: of the data set.
    note: what a reader of a result must know of it.
  """

  inputs: np.ndarray
  labels: dict[str, np.ndarray]
  label: str
  class_names: dict[str, tuple[str, ...]]
  name: str
  note: str


def load(
  config: config_lib.DataConfig | config_lib.SoundConfig,
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
  found = images(
    config, split, validation=validation, crop=crop, progress=progress
  )
  return Examples(
    found.images,
    {'class': found.labels},
    'class',
    {'class': found.class_names},
    found.name,
    found.note,
  )


def images(
  config: config_lib.DataConfig | config_lib.SoundConfig,
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
  if isinstance(config, config_lib.SoundConfig):
    raise ValueError(f'{config.name!r} is sound; this needs images.')
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
    found.audio,
    found.labels,
    config.label,
    found.class_names,
    found.name,
    found.note,
  )


def batch(examples: Examples) -> dict[str, Any]:
  """The arrays that objectives see: 'image' or 'audio', and 'label'."""
  name = 'image' if examples.inputs.ndim == 4 else 'audio'
  return {name: examples.inputs, 'label': examples.labels[examples.label]}
