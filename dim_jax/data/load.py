"""Loads the examples that a config's `data` names, whatever they are of."""

import dataclasses
from typing import Any

import numpy as np

from dim_jax import checks
from dim_jax.data import augment, labels, points, sound, sources, splits, text
from dim_jax.data.config import (
  DataConfig,
  PointConfig,
  SoundConfig,
  TextConfig,
)
from dim_jax.data.examples import (
  Examples,
  as_batch,
  batch,
  check_classes,
)
from dim_jax.data.stream import Stream

__all__ = [
  'Config',
  'Examples',
  'as_batch',
  'batch',
  'check_classes',
  'choose',
  'load',
  'of_images',
  'train_set',
  'training',
]

Config = DataConfig | SoundConfig | PointConfig | TextConfig


def load(
  config: Config,
  split: str,
  *,
  validation: float | None = None,
  crop: bool = True,
  first: int | None = None,
  sample: int | None = None,
  progress: bool = True,
) -> Examples:
  """Loads a split.

  Args:
    config: the run's data.
    split: 'train', 'validation', 'test', or 'unlabelled'.
    validation: the fraction held out, instead of the config's.
    crop: whether to cut out the centre, if the config crops; training crops at
      random.
    first: at most so many, which is all that is read where the config streams.
    sample: at most so many of these, drawn at random (the same ones each time),
      in their order; likewise.
    progress: show that of a first load.

  Returns:
    The examples.

  Raises:
    ValueError: a field or the data cannot be used.
    FileNotFoundError: the data set is not there.
  """
  if validation is not None:
    config = dataclasses.replace(config, validation=validation)
  if isinstance(config, SoundConfig):
    examples = _sound(config, split, progress)
  elif isinstance(config, PointConfig):
    examples = _points(config, split)
  elif isinstance(config, TextConfig):
    examples = text.load(split=split, **dataclasses.asdict(config))
  else:
    return _images(config, split, crop, (first, sample), progress)
  return examples.take(choose(len(examples.inputs), first, sample))


def choose(
  count: int, first: int | None = None, sample: int | None = None
) -> np.ndarray | slice:
  """Chooses among examples.

  Args:
    count: how many there are.
    first: at most so many.
    sample: at most so many of these, drawn at random, the same ones each time.

  Returns:
    What selects them in their order: ascending positions, or a slice.
  """
  rows = np.arange(count)[:first]
  if sample is None or sample >= len(rows):
    return slice(first)  # Which copies nothing.
  return np.sort(np.random.default_rng(0).permutation(rows)[:sample])


def training(config: Config, *, progress: bool = True) -> Examples:
  """Loads what a run trains on, with the labels that it may learn from.

  Args:
    config: the run's data.
    progress: show that of a first load.

  Returns:
    The examples: the split 'train', 'unlabelled', or both where `config` keeps
    a fraction of the labels too.

  Raises:
    ValueError: a field or the data cannot be used.
    FileNotFoundError: the data set is not there.
  """
  if not isinstance(config, DataConfig):
    return load(config, 'train', progress=progress)
  parts = []
  if _keeps_labels(config) or not config.unlabelled:
    examples = load(config, 'train', crop=False, progress=progress)
    kept = labels.keep(
      examples.labels['class'],
      fraction=config.labelled,
      per_class=config.labels_per_class,
      seed=config.label_seed,
    )
    parts.append(examples._replace(labels={'class': kept}))
  if config.unlabelled:
    parts.append(load(config, 'unlabelled', crop=False, progress=progress))
  if len(parts) == 1:
    return parts[0]
  return parts[0]._replace(
    inputs=np.concatenate([part.inputs for part in parts]),
    labels={'class': np.concatenate([x.labels['class'] for x in parts])},
  )


def train_set(
  config: Config, *, progress: bool = True
) -> dict[str, Any] | Stream:
  """Loads what `loop.fit` trains on: the arrays of `training`, or a stream.

  Args:
    config: the run's data.
    progress: show that of a first load.

  Raises:
    ValueError: a field or the data cannot be used.
    FileNotFoundError: the data set is not there.
  """
  if not isinstance(config, DataConfig) or not config.stream:
    return batch(training(config, progress=progress))
  return _stream(config, 'unlabelled' if config.unlabelled else 'train')


def of_images(config: Config) -> DataConfig:
  """Returns the config, or raises ValueError where its data are no images."""
  if not isinstance(config, DataConfig):
    what = {'audio': 'sound', 'point': 'points', 'text': 'text'}[config.kind]
    raise ValueError(f'{config.name!r} is {what}; this needs images.')
  return config


def _images(
  config: DataConfig,
  split: str,
  crop: bool,
  some: tuple[int | None, int | None],
  progress: bool,
) -> Examples:
  """Loads a split of images as the run sees them; of some, `first, sample`."""
  if config.stream and some != (None, None):
    stream = _stream(dataclasses.replace(config, grayscale=False), split)
    count = stream.num_examples
    rows = np.arange(count)[choose(count, *some)]
    title = f'{len(rows):,} of {config.name} {split}'
    arrays = sources.decode_all(stream.take(rows), title, 1, progress)
    examples = Examples(
      config.kind,
      arrays['images'],
      {'class': arrays['labels']},
      'class',
      {'class': stream.class_names},
      stream.name,
      stream.note,
    )
  else:
    examples = sources.load(
      config.name,
      split,
      image_size=config.image_size,
      data_dir=config.data_dir,
      validation=config.validation,
      progress=progress,
    )
    examples = examples.take(choose(len(examples.inputs), *some))
  pixels, notes = examples.inputs, [examples.note]
  if config.grayscale and pixels.shape[-1] == 3:
    pixels = _gray(pixels)
    notes.append('colours as one channel')
  if config.crop and crop:
    pixels = augment.center_crop(pixels, config.crop)
    notes.append(f'centre {config.crop} pixels')
  if config.unlabelled and not _keeps_labels(config) and split != 'unlabelled':
    notes.append(
      'training is on the unlabelled images alone, not on these; '
      'data.labelled=1.0 adds them'
    )
  return examples._replace(inputs=pixels, note='; '.join(filter(None, notes)))


def _keeps_labels(config: DataConfig) -> bool:
  return config.labelled is not None or config.labels_per_class is not None


def _stream(config: DataConfig, split: str) -> Stream:
  """Opens a split of images as `load` without a crop gives it."""
  stream = sources.load_stream(
    config.name,
    split,
    image_size=config.image_size,
    data_dir=config.data_dir,
    validation=config.validation,
  )
  if not config.grayscale:
    return stream

  def read(rows: np.ndarray) -> dict[str, np.ndarray]:
    arrays = stream.read(rows)
    return arrays | {'image': _gray(arrays['image'])}

  return stream._replace(read=read)


def _gray(pixels: np.ndarray) -> np.ndarray:
  return augment.grayscale(pixels) if pixels.shape[-1] == 3 else pixels


def _sound(config: SoundConfig, split: str, progress: bool) -> Examples:
  examples = sound.load(
    config.name,
    split,
    window=config.window,
    hop=config.hop,
    rate=config.rate,
    data_dir=config.data_dir,
    validation=config.validation,
    phones=config.phones,
    lists=config.lists,
    progress=progress,
  )
  # Objectives take one label an example, not one a frame.
  accepted = sorted(k for k, v in examples.labels.items() if v.ndim == 1)
  if config.label not in accepted:
    raise ValueError(
      f'data.label must be one of {accepted} for {examples.name}, got '
      f'{config.label!r}.'
    )
  return examples._replace(label=config.label)


def _points(config: PointConfig, split: str) -> Examples:
  checks.check_choice('split', split, sources.SPLITS)
  splits.check_validation(config.validation, split)
  drawn = 'test' if split == 'test' else 'train'
  x = points.load(config.name, drawn, config.count, config.seed)
  if split != 'test':
    held_out = round(config.validation * len(x))
    if split == 'validation' and not held_out:
      raise ValueError(
        f'data.validation={config.validation} of data.count={config.count} '
        'points holds none out: raise either.'
      )
    x = x[:held_out] if split == 'validation' else x[held_out:]
  return Examples(config.kind, x, {}, '', {}, config.name)
