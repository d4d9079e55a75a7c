"""The examples that a config's data field names, ready to train or probe on."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from dim_jax.data import augment, labels, points, sound, sources
from dim_jax.data import config as config_lib
from dim_jax.data import stream as stream_lib

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
  first: int | None = None,
  progress: bool = True,
) -> Examples:
  """Loads a split.

  Args:
    config: the run's data.
    split: 'train', 'validation', 'test', or 'unlabelled'.
    validation: held out instead of what the config says.
    crop: cut out the centre, if the config crops; training crops at random.
    first: only so many, which is all that is read where the config streams.
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
    return _first(_sound(config, split, validation, progress), first)
  if isinstance(config, config_lib.PointConfig):
    return _first(_points(config, split, validation), first)
  if config.stream and first is not None:
    found = _read(config, split, validation, crop, first)
  else:
    found = images(
      config, split, validation=validation, crop=crop, progress=progress
    )
  examples = Examples(
    config.kind,
    found.images,
    {'class': found.labels},
    'class',
    {'class': found.class_names},
    found.name,
    found.note,
  )
  return _first(examples, first)


def _first(examples: Examples, count: int | None) -> Examples:
  return examples._replace(
    inputs=examples.inputs[:count],
    labels={name: x[:count] for name, x in examples.labels.items()},
  )


def training(config: Config, *, progress: bool = True) -> Examples:
  """Loads what a run trains on, with the labels that it may learn from.

  Args:
    config: the run's data.
    progress: show that of a first load.

  Returns:
    The examples: the split 'train', 'unlabelled', or both where `config` keeps
    a part of the labels too.

  Raises:
    ValueError: a field or the data cannot be used.
    FileNotFoundError: the data set is not there.
  """
  if not isinstance(config, config_lib.DataConfig):
    return load(config, 'train', progress=progress)
  told = config.labelled is not None or config.labels_per_class is not None
  parts = []
  if told or not config.unlabelled:
    found = load(config, 'train', crop=False, progress=progress)
    kept = labels.keep(
      found.labels['class'],
      fraction=config.labelled,
      per_class=config.labels_per_class,
      seed=config.label_seed,
    )
    parts.append(found._replace(labels={'class': kept}))
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
) -> dict[str, Any] | stream_lib.Stream:
  """What `loop.fit` trains on: the arrays of `training`, or a stream of them.

  Args:
    config: the run's data.
    progress: show that of a first load.

  Raises:
    ValueError: a field or the data cannot be used.
    FileNotFoundError: the data set is not there.
  """
  if not isinstance(config, config_lib.DataConfig) or not config.stream:
    return batch(training(config, progress=progress))
  split = 'unlabelled' if config.unlabelled else 'train'
  return _stream(config, split, config.validation)


def _stream(
  config: config_lib.DataConfig, split: str, validation: float
) -> stream_lib.Stream:
  """A split of images as `images` without a crop loads it, left where it is."""
  found = stream_lib.load(
    config.name,
    split,
    image_size=config.image_size,
    data_dir=config.data_dir,
    validation=validation,
  )
  if not config.grayscale:
    return found

  def read(rows: np.ndarray) -> dict[str, np.ndarray]:
    arrays = found.read(rows)
    return arrays | {'image': _gray(arrays['image'])}

  return found._replace(read=read)


def _read(
  config: config_lib.DataConfig,
  split: str,
  validation: float,
  crop: bool,
  first: int,
) -> sources.Dataset:
  """The first images of a streamed split, as `images` would load them."""
  found = _stream(
    dataclasses.replace(config, grayscale=False), split, validation
  )
  arrays = found.read(np.arange(min(first, found.num_examples)))
  return _seen(
    config,
    sources.Dataset(
      arrays['image'],
      arrays['label'],
      found.class_names,
      found.name,
      found.note,
    ),
    crop,
  )


def of_images(config: Config) -> config_lib.DataConfig:
  """The config, or ValueError where its data are no images."""
  if not isinstance(config, config_lib.DataConfig):
    what = {'audio': 'sound', 'point': 'points'}[config.kind]
    raise ValueError(f'{config.name!r} is {what}; this needs images.')
  return config


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
  config = of_images(config)
  found = sources.load(
    config.name,
    split,
    image_size=config.image_size,
    data_dir=config.data_dir,
    validation=config.validation if validation is None else validation,
    progress=progress,
  )
  return _seen(config, found, crop)


def _gray(pixels: np.ndarray) -> np.ndarray:
  return augment.grayscale(pixels) if pixels.shape[-1] == 3 else pixels


def _seen(
  config: config_lib.DataConfig, found: sources.Dataset, crop: bool
) -> sources.Dataset:
  """Stored images as the run sees them."""
  pixels, notes = found.images, [found.note]
  if config.grayscale and pixels.shape[-1] == 3:
    pixels = _gray(pixels)
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


def check_classes(name: str, labels: np.ndarray, learner: str) -> None:
  """Raises ValueError where labels leave nothing to tell apart.

  Args:
    name: of the data set.
    labels: int32, -1 where unknown.
    learner: what needs them.
  """
  classes = len(np.unique(labels[labels >= 0]))
  if classes < 2:
    raise ValueError(
      f'{name} has {("no labels", "labels of one class alone")[classes]}; '
      f'{learner} needs two classes or more. Put the images of each class into '
      'a folder of its own, or choose other data; where data.unlabelled=True '
      'left the labelled images out, data.labelled=1.0 trains on them too.'
    )


def batch(examples: Examples) -> dict[str, Any]:
  """The arrays that objectives see: the inputs, and 'label' if there are."""
  arrays = as_batch(examples.inputs, examples.kind)
  if examples.label:
    arrays['label'] = examples.labels[examples.label]
  return arrays


_SHAPES = {
  'image': (4, 'images [N, H, W, C]'),
  'audio': (2, 'sound of one channel [N, T]'),
  'point': (2, 'points [N, D]'),
}


def as_batch(examples: Any, kind: str) -> dict[str, Any]:
  """Examples under the name that objectives know them by.

  Args:
    examples: images [N, H, W, C], sound [N, T] or points [N, D].
    kind: 'image', 'audio' or 'point', which a run's `config.data.kind` says.

  Returns:
    {kind: examples}.

  Raises:
    ValueError: examples of this kind have another rank.
  """
  rank, words = _SHAPES[kind]
  if examples.ndim != rank:
    raise ValueError(
      f'examples must be {words}, got shape {tuple(examples.shape)}.'
    )
  return {kind: examples}
