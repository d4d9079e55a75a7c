"""Measures a run's representation in many ways, beside the untrained one."""

import dataclasses
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dim_jax
from dim_jax import checks, files, progress, random
from dim_jax.data import augment, batches
from dim_jax.data import load as data
from dim_jax.evaluation import features as features_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.evaluation import reconstruction, representations
from dim_jax.evaluation import units as units_lib
from dim_jax.evaluation.information import noisy
from dim_jax.networks import decoders, posteriors
from dim_jax.objective import probed
from dim_jax.report import figures
from dim_jax.report.sections import representation
from dim_jax.runs import evaluate, preview, provenance, tables
from dim_jax.runs import published as published_lib

_PROBES = ('svm', 'knn', 'linear_few')
_ENCODERS = ('trained', 'untrained')
_RANK_ROWS = 1000
_LIDAR_IMAGES, _LIDAR_VIEWS = 256, 8
_PICTURED, _RATED = 8, 5
# Of a rate that has no closed form.
_RATE_SAMPLES = 12
# Distances of all pairs of rows; critics of single rows.
_NOISY_ROWS, _MOST_DEPENDENT = 10_000, 1024
# Where a run has no augmentation of its own.
_VIEWS = augment.Config(crop_padding=4, flip=True)


class Settings(NamedTuple):
  """How representations are measured.

  Attributes:
    decoder: how decoders are trained.
    channels: of a decoder's first map; Deep InfoMax's are 512.
    noise: standard deviation of what is added to features for their
      information, relative to their own (root mean square over dimensions).
    seed: of views and estimates.
  """

  decoder: reconstruction.Settings = reconstruction.Settings(
    epochs=30, decay_epochs=(15, 22), learning_rate=2e-3
  )
  channels: int = 32
  noise: float = 1.0
  seed: int = 0


class _Rows(NamedTuple):
  """Features of one name, and the images that they are of.

  Attributes:
    train: float32 [n, D].
    test: float32 [m, D].
    views: float32 [k, views, D] of training images; None without any.
    images: uint8 (training, test) at the decoder's size; None of other data.
    units: of the code, where it is stochastic and these are its means.
  """

  train: np.ndarray
  test: np.ndarray
  views: np.ndarray | None
  images: tuple[np.ndarray, np.ndarray] | None
  units: units_lib.Units | None = None


def represent(
  run_dir: str,
  *,
  measures: Sequence[str] | None = None,
  features: Sequence[str] | None = None,
  encoders: Sequence[str] = evaluate.ENCODERS,
  max_examples: int | None = None,
  settings: Settings | None = None,
  step: int | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Measures the representation and writes the results into the run's folder.

  Those of an earlier call stay. A measure that fails is left out and named in
  'skipped'. The probes are those of `evaluate`, which keeps their results too.

  Args:
    run_dir: the run.
    measures: names in `MEASURES`; all of them if None.
    features: outputs of the encoder, by default those that the objective names.
    encoders: which of 'trained', 'untrained' and, of the data, 'raw'.
    max_examples: training examples that are kept, drawn at random.
    settings: by default those of `Settings`.
    step: which checkpoint; the newest if None.
    show_progress: show a bar on standard error, and lines.

  Returns:
    The contents of evaluation/representation.json; 'results' has the rows.

  Raises:
    FileNotFoundError: the folder is not a run, or has no such checkpoint.
    ValueError: there is no such measure, feature or encoder.
  """
  measures = MEASURES if measures is None else measures
  settings = settings or Settings()
  _check(measures, encoders)
  started, run_dir = time.time(), os.path.expanduser(run_dir)
  trained = dim_jax.load(run_dir, step=step)
  config = trained.config
  train, test = load_examples(config.data, max_examples, progress=show_progress)
  names = _features(trained, train, features)
  code = _features(trained, train, None)[-1]
  folder = os.path.join(run_dir, 'evaluation')
  results, skipped = _probe(
    run_dir, measures, names, encoders, max_examples, step, show_progress
  )
  measures, without = _possible(measures, trained)
  skipped += without
  images = _images(train, test) if 'reconstruction' in measures else None
  of_mean, pictures = _mean_image(*images) if images else ([], {})
  results += of_mean
  files.make_folder(folder)
  common: dict[str, Any] = {'published': published_lib.published(config)}
  if 'lidar' in measures and (views := describe_views(config.data)):
    common['views'] = views

  def write() -> dict[str, Any]:
    header = provenance.header(train, trained.step, started) | common
    path = os.path.join(folder, 'representation.json')
    return _merge(path, header | {'results': results, 'skipped': skipped})

  with progress.Progress(show_progress) as bar:
    # One encoder at a time: conv maps of a whole data set are big.
    for kind in (kind for kind in _ENCODERS if kind in encoders):
      encoder = trained if kind == 'trained' else dim_jax.load(run_dir, 0)
      parts = (train, test)
      rows = _encode(encoder, kind, parts, names, measures, settings, bar)
      units = None
      if 'units' in measures:
        units, arrays = _units(encoder, test, bar)
        pictures |= arrays if kind == 'trained' else {}
      for name, values in rows.items():
        part = _Rows(*values, images, units if name == code else None)
        new, failed, shown = _measure(kind, name, part, measures, settings, bar)
        results, skipped = results + new, skipped + failed
        pictures |= shown
        write()
  if pictures:
    _draw(folder, pictures, trained.step)
  return write()


def _check(measures: Sequence[str], encoders: Sequence[str]) -> None:
  checks.check_choices('measures', measures, MEASURES)
  checks.check_choices('encoders', encoders, evaluate.ENCODERS)


def _possible(
  measures: Sequence[str], trained: dim_jax.Encoder
) -> tuple[list[str], list[dict[str, str]]]:
  """Leaves out what the code does not allow, and says so if it was asked."""
  if 'units' not in measures or trained.objective.posterior is not None:
    return list(measures), []
  skipped = []
  if set(measures) != set(MEASURES):
    skipped.append({'what': 'units', 'reason': 'the code is not stochastic.'})
  return [name for name in measures if name != 'units'], skipped


def _draw(folder: str, pictures: dict[str, np.ndarray], step: int) -> None:
  """Keeps arrays for pictures, and draws the reconstructions."""
  path = os.path.join(folder, 'representation.npz')
  evaluate.merge_arrays(path, pictures, step)
  with np.load(path) as arrays:
    if figures.TEST in arrays:
      figures.save(figures.reconstructions(dict(arrays)), folder)


def load_examples(
  config: Any, most: int | None, *, progress: bool
) -> tuple[data.Examples, data.Examples]:
  """Loads all examples but those for testing, and those.

  Args:
    config: a run's `DataConfig`, or another that `data.load` takes.
    most: of the former, drawn at random; all of them if None.
    progress: show a bar on standard error.
  """
  train, test = (
    data.load(config, split, validation=0.0, sample=sample, progress=progress)
    for split, sample in (('train', most), ('test', None))
  )
  return train, test


def _features(
  encoder: dim_jax.Encoder,
  train: data.Examples,
  features: Sequence[str] | None,
) -> tuple[str, ...]:
  """Returns the names of the features, checked."""
  batch = data.as_batch(train.inputs[:2], train.kind)
  outputs = jax.eval_shape(encoder.encode, encoder.variables, batch)
  checks.check_choices('features', features or (), outputs)
  return tuple(features or probed(encoder.objective, outputs))


def _probe(
  run_dir: str,
  measures: Sequence[str],
  features: Sequence[str],
  encoders: Sequence[str],
  max_examples: int | None,
  step: int | None,
  show_progress: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
  """Runs the probes, by `evaluate`; returns their rows and what is skipped."""
  probes = [name for name in _PROBES if name in measures]
  if not probes:
    return [], []
  protocol = probes_lib.Protocol(max_examples=max_examples)
  try:
    report = evaluate.evaluate(
      run_dir,
      probes=probes,
      features=features,
      encoders=encoders,
      protocol=protocol,
      step=step,
      show_progress=show_progress,
    )
  except ValueError as error:  # Such as data without labels.
    return [], [{'what': 'probes', 'reason': str(error)}]
  results = [
    {
      'encoder': row['encoder'],
      'feature': row['feature'],
      'measure': row['probe'],
      'label': row['label'],
      'values': {'accuracy': row['mean'], 'accuracy_std': row['std']},
      'protocol_hash': row['protocol_hash'],
      'seconds': row['seconds'],
    }
    for row in report['results']
    if row['probe'] in probes
    and (row['encoder'] == 'raw' or row['feature'] in features)
  ]
  failed = [x for x in report['skipped'] if x['what'].endswith(tuple(probes))]
  return results, failed


def _images(
  train: data.Examples, test: data.Examples
) -> tuple[np.ndarray, np.ndarray] | None:
  """Resizes images to the nearest size that a decoder makes, from 16 pixels."""
  if train.kind != 'image':
    return None
  side = min(train.inputs.shape[1:3])
  # No smaller, because the windows of SSIM need 11.
  size = 2 ** max(4, round(math.log2(side)))
  if train.inputs.shape[1:3] == (size, size):
    return train.inputs, test.inputs
  window = np.array([0, 0, *train.inputs.shape[1:3]], np.int32)

  @jax.jit
  def resized(part):
    windows = jnp.tile(window, (len(part), 1))
    return augment.resize_windows(part, windows, size, size)

  first, second = (
    batches.map_padded(lambda _, part: resized(part), 256, x.inputs)
    for x in (train, test)
  )
  return first, second


def _mean_image(
  train: np.ndarray, test: np.ndarray
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
  """Compares test images with the mean image, which needs no features."""
  mean = np.broadcast_to(reconstruction.mean_image(train), test.shape)
  row = {'encoder': 'none', 'feature': 'mean image'}
  values = reconstruction.compare(test, mean)._asdict()
  result = row | {'measure': 'reconstruction', 'values': values, 'seconds': 0.0}
  return [result], {
    'test images': test[:_PICTURED],
    'mean image': mean[:_PICTURED],
  }


def describe_views(config: Any) -> str | None:
  """Describes the views that LiDAR is of; None where there are none."""
  if not isinstance(config, augment.Config):
    return None
  if augment.make(config) is not None:
    return preview.describe(config)
  return f'{preview.describe(_VIEWS)} The run has no augmentation of its own.'


def _encode(
  encoder: dim_jax.Encoder,
  kind: str,
  examples: tuple[data.Examples, data.Examples],
  names: Sequence[str],
  measures: Sequence[str],
  settings: Settings,
  bar: progress.Progress,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
  """Computes features by name: of training and test examples, and of views."""
  if set(measures) <= set(_PROBES):
    return {name: (np.empty((0, 0)),) * 3 for name in names}
  config = encoder.config.data
  parts = [x.inputs for x in examples]
  views = None
  if 'lidar' in measures and examples[0].kind == 'image':
    views = _view(config, settings.seed)
    parts.append(views)
  extract = functools.partial(
    features_lib.extract,
    encoder.encode,
    encoder.variables,
    kind=config.kind,
    names=names,
  )
  values = []
  with bar.task(f'{kind}: encode', sum(map(len, parts))) as task:
    for part in parts:
      values.append(extract(part))
      task.advance(len(part))
  train, test, *rest = values
  return {
    name: (
      train[name],
      test[name],
      rest[0][name].reshape(-1, _LIDAR_VIEWS, train[name].shape[1])
      if rest
      else None,
    )
    for name in names
  }


def _units(
  encoder: dim_jax.Encoder, test: data.Examples, bar: progress.Progress
) -> tuple[units_lib.Units, dict[str, np.ndarray]]:
  """Measures the units of a stochastic code on test examples.

  Returns:
    The measures, and what is pictured: these, and the images of the lowest and
    the highest rate with their nats: the objective's, or if it has none the KL
    from N(0, I).
  """
  posterior: Any = encoder.objective.posterior
  rate: Any = encoder.objective.rate

  @jax.jit
  def code(variables, part):
    batch = data.as_batch(part, test.kind)
    code = posterior(variables, batch)
    if rate is None:
      return *code, posteriors.Posterior(*code).rate()
    return *code, rate(variables, batch, jax.random.key(0), _RATE_SAMPLES)

  with bar.task('units', len(test.inputs)) as task:
    *gaussians, nats = batches.map_padded(
      lambda _, part: code(encoder.variables, part),
      256,
      test.inputs,
      progress=task.update,
    )
  units = units_lib.measure(*gaussians)
  arrays = units.arrays()
  if test.kind == 'image':
    order = np.argsort(nats, kind='stable')
    ends = [*order[:_RATED], *order[-_RATED:]]
    arrays |= {'rated_images': test.inputs[ends], 'rated_nats': nats[ends]}
  return units, arrays


def _view(config: Any, seed: int) -> np.ndarray:
  """Makes views of the first training images, those of an image together."""
  examples = data.load(
    config, 'train', crop=False, first=_LIDAR_IMAGES, progress=False
  )
  channels = examples.inputs.shape[-1]
  change: Any = augment.make(config, channels) or augment.make(_VIEWS)
  repeated = np.repeat(examples.inputs, _LIDAR_VIEWS, axis=0)
  positions = np.arange(len(repeated), dtype=np.int32)
  apply = jax.jit(functools.partial(change, jax.random.key(seed)))
  return batches.map_padded(
    lambda _, *part: apply(*part), 256, repeated, positions
  )


def _measure(
  kind: str,
  feature: str,
  rows: _Rows,
  measures: Sequence[str],
  settings: Settings,
  bar: progress.Progress,
) -> tuple[list[dict[str, Any]], list[dict[str, str]], dict[str, np.ndarray]]:
  """Measures one feature: results, what is skipped, and reconstructions."""
  results: list[dict[str, Any]] = []
  skipped: list[dict[str, str]] = []
  shown: dict[str, np.ndarray] = {}
  for measure in measures:
    if measure in _PROBES or (measure == 'units' and rows.units is None):
      continue
    title = f'{kind} {feature} {measure}'
    row = {'encoder': kind, 'feature': feature, 'measure': measure}
    started = time.time()
    try:
      with bar.task(title, 100) as task:
        values = _MEASURED[measure](rows, settings, task)
    except (ValueError, FloatingPointError, MemoryError) as error:
      # What the other measures say is worth as much as before.
      skipped.append({'what': title, 'reason': str(error)})
      bar.say(f'{title} is skipped: {error}')
      continue
    if 'shown' in values:
      shown[f'{kind} {feature}'] = values.pop('shown')
    seconds = time.time() - started
    results.append(row | {'values': values, 'seconds': seconds})
    words = ', '.join(
      f'{name} {figures.number(x)}'
      for name, x in values.items()
      if isinstance(x, float)
    )
    bar.say(f'{title}: {words}  {seconds:.0f} s')
  return results, skipped, shown


def _reconstruct(
  rows: _Rows, settings: Settings, task: progress.Task
) -> dict[str, Any]:
  """Trains a decoder; returns how alike test images are, and some of them."""
  if rows.images is None:
    raise ValueError('the examples are no images.')
  train, test = rows.images
  epochs = settings.decoder.epochs
  reconstruct = reconstruction.fit(
    decoders.ConvDecoder(train.shape[1:], settings.channels),
    rows.train,
    train,
    settings.decoder,
    lambda done: task.update(100 * done // epochs),
  )
  images = reconstruct(rows.test)
  used = dataclasses.asdict(settings.decoder) | {'channels': settings.channels}
  return {
    **reconstruction.compare(test, images)._asdict(),
    'side': train.shape[1],
    'settings': used,
    'shown': images[:_PICTURED],
  }


def _information(
  rows: _Rows, settings: Settings, task: progress.Task
) -> dict[str, Any]:
  """Bounds the nats that features with noise tell of their example."""
  del task
  x = rows.train[random.some(_NOISY_ROWS, len(rows.train))]
  channel = noisy.channel(x, settings.noise, jax.random.key(settings.seed))
  # The Gaussian one is too low by this at most, being of few rows.
  missing = noisy.shortfall(len(x), x.shape[1])
  return {
    'lower': float(channel.lower),
    # Neither is the smaller one everywhere.
    'upper': float(min(channel.upper, channel.gaussian + missing)),
    'ceiling': float(channel.ceiling),
    'settings': {'noise': settings.noise},
  }


def _dependence(
  rows: _Rows, settings: Settings, task: progress.Task
) -> dict[str, Any]:
  """Estimates the total correlation of features, as NDM does."""
  del task
  columns = rows.train.shape[1]
  if columns > _MOST_DEPENDENT:
    raise ValueError(
      f'{columns} dimensions; NDM is measured of at most {_MOST_DEPENDENT}.'
    )
  with warnings.catch_warnings():
    # Its ceiling and control stand beside it.
    warnings.simplefilter('ignore', UserWarning)
    result = dim_jax.total_correlation(
      rows.train, report=rows.test, seeds=(settings.seed,)
    )
  names = ('value', 'standard_error', 'ceiling', 'control')
  return {name: float(getattr(result, name)) for name in names}


def _rank(
  rows: _Rows, settings: Settings, task: progress.Task
) -> dict[str, Any]:
  """Computes RankMe and alpha-ReQ of test rows."""
  del settings, task
  x = rows.test[random.some(_RANK_ROWS, len(rows.test))]
  alpha = representations.alpha_req(x)
  return {
    'rankme': representations.rankme(x),
    'alpha_req': alpha if math.isfinite(alpha) else None,
    'examples': len(x),
    'dimensions': x.shape[1],
  }


def _lidar(
  rows: _Rows, settings: Settings, task: progress.Task
) -> dict[str, Any]:
  """Computes LiDAR of views of training images."""
  del settings, task
  if rows.views is None:
    raise ValueError('there are no views but of images.')
  examples, views, _ = rows.views.shape
  value = representations.lidar(rows.views)
  return {'lidar': value, 'examples': examples, 'views': views}


def _measure_units(
  rows: _Rows, settings: Settings, task: progress.Task
) -> dict[str, Any]:
  """Summarises the units of a stochastic code on test examples."""
  del settings, task
  if rows.units is None:
    raise ValueError('the code is not stochastic.')
  return {**rows.units.summary(), 'examples': len(rows.test)}


_MEASURED: dict[str, Callable[..., dict[str, Any]]] = {
  'reconstruction': _reconstruct,
  'information': _information,
  'dependence': _dependence,
  'rank': _rank,
  'lidar': _lidar,
  'units': _measure_units,
}
MEASURES = (*_PROBES, *_MEASURED)
"""What can be measured, in the order of the table."""


def _merge(path: str, new: dict[str, Any]) -> dict[str, Any]:
  """Writes the results whole, beside those of this step that are not new."""
  old = files.read_json(path)

  def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
      row.get(name) for name in ('encoder', 'feature', 'measure', 'label')
    )

  if all(old.get(name) == new[name] for name in ('step', 'dataset')):
    fresh = {key(row) for row in new['results']}
    kept = [row for row in old['results'] if key(row) not in fresh]
    new = {**old, **new, 'results': kept + new['results']}
  files.write_json(path, new)
  return new


def summary(report: Mapping[str, Any]) -> list[Any]:
  """Lists the tables of what `represent` returned, and the notes below them."""
  records = representation.records(report)
  columns = list(dict.fromkeys(name for row in records for name in row))
  names, columns = columns[:2], columns[2:]
  # Beside one another they are too wide for a terminal.
  first = [x for x in columns if x.endswith(representation.OF_EXAMPLES)]
  rest = [x for x in columns if x not in first]
  parts: list[Any] = [
    tables.table(
      (*names, *shown),
      [
        [row.get(name, '') for name in (*names, *shown)]
        for row in records
        if row.keys() & {*shown}
      ],
      words=2,
      title=f'{report["dataset"]}, step {report["step"]}',
    )
    for shown in (first, rest)
    if shown
  ]
  if paper := report['published']:
    header = ('model', *paper['columns'])
    rows = [(name, *cells) for name, cells in paper['rows'].items()]
    title = f'{paper["source"]}; this run stands for {paper["row"]}'
    parts.append(tables.table(header, rows, title=title))
  return [*parts, *representation.notes(report), *tables.notes(report)]
