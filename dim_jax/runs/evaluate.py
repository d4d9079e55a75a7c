"""Probes a run's frozen encoder beside the untrained one and the raw data."""

import functools
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.table

import dim_jax
from dim_jax import checks, files, progress, random
from dim_jax.data import load as data
from dim_jax.data.load import as_batch
from dim_jax.evaluation import features as features_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.evaluation import representations
from dim_jax.objective import probed
from dim_jax.runs import generate, provenance, tables

ENCODERS = ('trained', 'untrained', 'raw')
SPLITS = ('test', 'validation')
_SAVED_IMAGES = 2000
_RANK_IMAGES = 1000
_SCORE_IMAGES = 256
_SCORE_COUNT = 5000


def evaluate(
  run_dir: str,
  *,
  probes: Sequence[str] = tuple(probes_lib.PROBES),
  features: Sequence[str] | None = None,
  labels: Sequence[str] | None = None,
  encoders: Sequence[str] = ENCODERS,
  split: str = 'test',
  protocol: probes_lib.Protocol | None = None,
  step: int | None = None,
  folder: str | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Runs the probes and writes their results into the run's folder.

  Those of an earlier call stay, and those of one encoder are written before the
  next one's. A probe that fails, or a label of one class, is left out and named
  in 'skipped'.

  Args:
    run_dir: the run.
    probes: names in `dim_jax.evaluation.probes.PROBES`.
    features: outputs of the encoder, by default those that the objective
      names (`Objective.features`).
    labels: what to predict, of what the data tell, such as 'class', 'speaker'
      or 'digit'; by default all labels of whole examples. Labels of
      single frames ('phone') are predicted from each frame's features.
    encoders: which of 'trained', 'untrained' and, for the data themselves,
      'raw'; a later call may add the rest.
    split: 'test', for which all other labelled examples fit the probes, or, to
      choose settings by, 'validation', for which those that the run trained on
      do; its results are kept in evaluation/validation_probes.json.
    protocol: how to probe.
    step: which checkpoint; the newest if None.
    folder: where results go, instead of evaluation/ in `run_dir`; pictures are
      not drawn from there.
    show_progress: show a bar on standard error, and a line a probe.

  Returns:
    The contents of evaluation/probes.json, or of validation_probes.json.

  Raises:
    FileNotFoundError: the folder is not a run, or has no such checkpoint.
    ValueError: no such probe or feature, or the data do not allow the protocol.
    RuntimeError: the encoder's variables changed while they were probed.
  """
  _check(probes, encoders, split)
  started = time.time()
  run_dir = os.path.expanduser(run_dir)
  trained = dim_jax.load(run_dir, step=step)
  setup, skipped = _load(
    trained, split, probes, features, labels, protocol, progress=show_progress
  )
  described = setup.describe() | {
    'paper': trained.config.paper,
    'chance': setup.chance(),
  }
  report: dict[str, Any] = {}
  if folder or split != 'test':
    setup = setup._replace(saves_pictures=False)
  folder = folder or os.path.join(run_dir, 'evaluation')
  with progress.Progress(show_progress) as bar:
    # One encoder at a time: conv maps of a whole data set are big.
    for kind in encoders:
      new, arrays = _measure(kind, trained, run_dir, setup, bar)
      skipped += new['skipped']
      if not new['results']:
        continue
      header = provenance.header(setup.train, trained.step, started)
      files.make_folder(folder)
      if setup.saves_pictures:
        pictures = os.path.join(folder, 'features.npz')
        merge_arrays(pictures, _pictured(setup) | arrays, trained.step)
      report = _merge_results(
        os.path.join(folder, results_name(split)),
        header | described | new | {'skipped': skipped},
      )
  if not report:
    raise ValueError(skipped[0]['reason'] if skipped else 'nothing to probe.')
  return report


def _check(probes: Sequence[str], encoders: Sequence[str], split: str) -> None:
  checks.check_choices('probes', probes, probes_lib.PROBES)
  checks.check_choices('encoders', encoders, ENCODERS)
  checks.check_choice('split', split, SPLITS)


def results_name(split: str) -> str:
  """Returns the file of evaluation/ that has the results on a split."""
  return 'probes.json' if split == 'test' else f'{split}_probes.json'


class _Setup(NamedTuple):
  """What is probed, and how.

  Attributes:
    train: the training examples that are kept.
    test: those that accuracy is counted on.
    labels: (training, test) labels by name; [n], or [n, F] of frames.
    pictured: of the features, those that are saved for pictures.
    summary: of the data, for the protocol's hash.
    saves_pictures: whether features.npz is written.
  """

  train: data.Examples
  test: data.Examples
  labels: dict[str, tuple[np.ndarray, np.ndarray]]
  probes: tuple[str, ...]
  features: tuple[str, ...]
  pictured: tuple[str, ...]
  protocol: probes_lib.Protocol
  summary: probes_lib.DataSummary
  saves_pictures: bool = True

  @property
  def inputs(self) -> np.ndarray:
    """All examples, those for testing last."""
    return np.concatenate([self.train.inputs, self.test.inputs])

  def hash(self, probe: str | None = None) -> str:
    """Returns the hash of the protocol, or of what a probe takes of it."""
    return self.protocol.hash(probe, self.summary)

  def describe(self) -> dict[str, Any]:
    """Returns what probes.json says of the protocol."""
    describe = functools.partial(self.protocol.describe, data=self.summary)
    return {
      'protocol': describe(),
      'protocol_hash': self.hash(),
      'protocols': {self.hash(name): describe(name) for name in self.probes},
    }

  def chance(self) -> dict[str, float]:
    """Returns the accuracy of the most frequent test label, by label."""
    known = {name: x[x >= 0] for name, (_, x) in self.labels.items()}
    return {
      name: float(np.max(np.bincount(x)) / len(x)) for name, x in known.items()
    }


def _load(
  trained: dim_jax.Encoder,
  split: str,
  probes: Sequence[str],
  features: Sequence[str] | None,
  labels: Sequence[str] | None,
  protocol: probes_lib.Protocol | None,
  *,
  progress: bool,
) -> tuple[_Setup, list[dict[str, str]]]:
  """Loads what to probe, and names the labels that cannot be predicted."""
  # Without a validation set, 'train' is all that is not for testing.
  validation = 0.0 if split == 'test' else None
  config = trained.config.data
  protocol = protocol or probes_lib.Protocol()
  load = functools.partial(
    data.load, config, validation=validation, progress=progress
  )
  train, test = load('train', sample=protocol.max_examples), load(split)
  chosen, skipped = _choose_labels(train, labels)
  outputs = jax.eval_shape(
    trained.encode,
    trained.variables,
    as_batch(train.inputs[:2], train.kind),
  )
  objective = trained.objective
  if features is None:
    features = probed(objective, outputs)
  checks.check_choices('features', features, outputs)
  known = probed(objective, features)
  is_image = train.kind == 'image'
  setup = _Setup(
    train,
    test,
    {name: (train.labels[name], test.labels[name]) for name in chosen},
    tuple(probes),
    tuple(features),
    tuple({*objective.pictured} & {*known} | {*known[-1:]}),
    protocol,
    probes_lib.DataSummary(
      dataset=train.name,
      note=train.note,
      train_split='train + validation' if split == 'test' else 'train',
      test_split=split,
      train_rows=len(train.inputs),
      test_rows=len(test.inputs),
      image_size=int(train.inputs.shape[1]) if is_image else None,
    ),
  )
  return setup, skipped


def _choose_labels(
  train: data.Examples, labels: Sequence[str] | None
) -> tuple[list[str], list[dict[str, str]]]:
  """Chooses what to predict; by default all labels of whole examples."""
  if not train.labels:
    raise ValueError(
      f'{train.name} has no labels to predict: measure the run with '
      'dim-jax density.'
    )
  chosen: list[str] = []
  skipped: list[dict[str, str]] = []
  checks.check_choices('labels', labels or (), train.labels)
  for name in labels or [k for k, x in train.labels.items() if x.ndim == 1]:
    try:
      data.check_classes(train.name, train.labels[name], 'a probe')
      chosen.append(name)
    except ValueError as error:
      skipped.append({'what': f'label {name}', 'reason': str(error)})
  if not chosen:
    raise ValueError(skipped[0]['reason'])
  return chosen, skipped


def _pictured(setup: _Setup) -> dict[str, np.ndarray]:
  """Collects what pictures need of the test examples."""
  test, kept = setup.test, slice(_SAVED_IMAGES)
  images = {'images': test.inputs[kept]} if test.kind == 'image' else {}
  return images | {
    'labels': test.labels[test.label][kept],
    'class_names': np.asarray(test.class_names[test.label]),
  }


def _measure(
  kind: str,
  trained: dim_jax.Encoder,
  run_dir: str,
  setup: _Setup,
  bar: progress.Progress,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Returns what `_probe` says of an encoder, and its arrays for pictures."""
  if kind == 'raw':
    return _probe(kind, _raw(setup), setup, bar), {}
  encoder = trained if kind == 'trained' else dim_jax.load(run_dir, 0)
  before = features_lib.fingerprint(encoder.variables)
  values, arrays = _encode(encoder, kind, setup, bar)
  measured = _probe(kind, values, setup, bar)
  after = features_lib.fingerprint(encoder.variables)
  if after != before:
    raise RuntimeError(
      f'The {kind} encoder changed while it was probed (its variables hash to '
      f'{after[:12]}, before {before[:12]}): nothing of it was saved.'
    )
  return measured, arrays


def _raw(setup: _Setup) -> dict[str, np.ndarray]:
  """Returns the examples themselves as features, by a name of their own."""
  name = 'pixels' if setup.train.kind == 'image' else 'samples'
  return {name: features_lib.raw(setup.inputs)}


def _framewise(
  frames: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Turns features [n, L, C], labels [n, F] into rows: the frame at a label."""
  count = labels.shape[1]
  # The middle of a label's time falls into this frame.
  at = (2 * np.arange(count) + 1) * frames.shape[1] // (2 * count)
  rows = frames[:, at].reshape(-1, frames.shape[-1])
  known = labels.reshape(-1) >= 0
  return rows[known], labels.reshape(-1)[known]


def _encode(
  encoder: dim_jax.Encoder, kind: str, setup: _Setup, bar: progress.Progress
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Computes the features of all examples, and the arrays for pictures."""
  framewise = any(x.ndim == 2 for x, _ in setup.labels.values())
  maps = [f'{feature}_map' for feature in setup.features] if framewise else []
  inputs = setup.inputs
  with bar.task(f'{kind}: encode', len(inputs)) as task:
    values = features_lib.extract(
      encoder.encode,
      encoder.variables,
      inputs,
      kind=encoder.config.data.kind,
      names=[*setup.features, *maps],
      progress=task.update,
    )
  if not setup.saves_pictures:
    return values, {}
  prefix = '' if kind == 'trained' else 'untrained_'
  scores = _scores(encoder, setup.test.inputs)
  generated = {}
  if kind == 'trained':
    generated = generate.generate(encoder, setup.test.inputs)
  first = len(setup.train.inputs)
  last = first + _SAVED_IMAGES
  pictured = {
    f'{kind}_{feature}': values[feature][first:last]
    for feature in setup.pictured
  }
  scores = {prefix + name: x for name, x in scores.items()}
  return values, scores | pictured | generated


def _probe(
  kind: str,
  values: dict[str, np.ndarray],
  setup: _Setup,
  bar: progress.Progress,
) -> dict[str, Any]:
  """Runs all probes on the features of one encoder, which it uses up.

  Returns:
    'collapse', signs of it by encoder and feature; 'results', a row for each
    probe; and 'skipped', what for which reason.
  """
  collapse: dict[str, Any] = {}
  results: list[dict[str, Any]] = []
  skipped: list[dict[str, str]] = []
  count = len(setup.train.inputs)
  for feature in tuple(values) if kind == 'raw' else setup.features:
    rows = values.pop(feature)
    collapse[f'{kind}/{feature}'] = representations.collapse_indicators(
      rows[count:][random.some(_RANK_IMAGES, len(rows) - count)]
    )
    for label, (train_labels, test_labels) in setup.labels.items():
      parts = [(rows[:count], train_labels), (rows[count:], test_labels)]
      if train_labels.ndim == 2:
        if kind == 'raw':
          continue
        frames = values[f'{feature}_map'].reshape(len(rows), -1, rows.shape[-1])
        parts = [
          _framewise(frames[:count], train_labels),
          _framewise(frames[count:], test_labels),
        ]
      train, test = (probes_lib.Examples(*part) for part in parts)
      for name in setup.probes:
        row = dict(encoder=kind, feature=feature, label=label, probe=name)
        title = _title(row)
        try:
          with bar.task(title, 100) as task:
            results.append(row | _fit(name, train, test, setup, task))
        except (ValueError, FloatingPointError, MemoryError) as error:
          # What the other probes measured is worth as much as before.
          skipped.append({'what': title, 'reason': str(error)})
          bar.say(f'{title} is skipped: {error}')
          continue
        mean, seconds = 100 * results[-1]['mean'], results[-1]['seconds']
        bar.say(f'{title}: {mean:.1f} %  {seconds:.0f} s')
  return {'collapse': collapse, 'results': results, 'skipped': skipped}


def _fit(
  name: str,
  train: probes_lib.Examples,
  test: probes_lib.Examples,
  setup: _Setup,
  task: progress.Task,
) -> dict[str, Any]:
  """Runs one probe; returns its accuracies and how they came about."""
  started = time.time()
  found = probes_lib.PROBES[name](
    train,
    test,
    setup.protocol,
    lambda fraction: task.update(round(100 * fraction)),
  )
  several = len(found.accuracies) > 1
  result = {
    'mean': float(np.mean(found.accuracies)),
    'std': float(np.std(found.accuracies, ddof=1)) if several else 0.0,
    'values': [float(value) for value in found.accuracies],
    'protocol_hash': setup.hash(name),
    'seconds': time.time() - started,
  }
  if found.chosen is not None:
    key = 'c' if name == 'svm' else 'l2'
    result[key] = [float(value) for value in found.chosen]
  return result


def _scores(
  encoder: dim_jax.Encoder, images: np.ndarray
) -> dict[str, np.ndarray]:
  """Samples a critic's scores of true and false pairs, if it has any."""
  scores_of = encoder.objective.scores
  if scores_of is None:
    return {}
  batch = as_batch(images[:_SCORE_IMAGES], encoder.config.data.kind)
  found = jax.jit(scores_of)(encoder.variables, batch)
  name = 'local' if 'local' in found else 'global'
  if name not in found:
    return {}
  scores = np.asarray(found[name], np.float32)
  images_of = np.arange(scores.shape[0]) // (scores.shape[0] // scores.shape[1])
  true = images_of[:, None] == np.arange(scores.shape[1])[None, :]
  random = np.random.default_rng(0)
  return {
    key: random.permutation(scores[pairs].reshape(-1))[:_SCORE_COUNT]
    for key, pairs in (('scores_positive', true), ('scores_negative', ~true))
  }


def merge_arrays(path: str, saved: dict[str, Any], step: int) -> None:
  """Writes the arrays whole or not at all; keeps others of this step."""
  saved = {**saved, 'step': np.asarray(step)}
  if files.at(path).exists():
    with files.at(path).open('rb') as file, np.load(file) as old:
      same = 'step' in old and old['step'] == step
      kept = {name: old[name] for name in old.files} if same else {}
    saved = kept | saved
  files.write_arrays(path, saved)


def _merge_results(path: str, new: dict[str, Any]) -> dict[str, Any]:
  """Writes the results whole or not at all, beside what was there.

  A number of the same encoder, feature and probe is replaced; those of another
  step are dropped, as they belong to another encoder. Every number names its
  protocol's hash, and 'protocols' holds the text behind each.
  """
  old = files.read_json(path)
  if all(old.get(key) == new[key] for key in ('step', 'dataset')):
    # Before there were several labels, none was named.
    if not isinstance(old.get('chance', {}), dict):
      old['chance'] = {'class': old['chance']}
    fresh = {_title(row) for row in new['results']}
    kept = [
      row
      for row in probes_lib.migrate_rows(old['results'])
      if _title(row) not in fresh
    ]
    new['results'] = kept + new['results']
    for key in ('chance', 'collapse', 'protocols'):
      new[key] = old.get(key, {}) | new[key]
    skipped = [x for x in old.get('skipped', ()) if x not in new['skipped']]
    measured = fresh | {_title(row) for row in kept}
    new['skipped'] = [
      x for x in skipped + new['skipped'] if x['what'] not in measured
    ]
  used = {result.get('protocol_hash') for result in new['results']}
  new['protocols'] = {k: v for k, v in new['protocols'].items() if k in used}
  files.write_json(path, new)
  return new


def _title(result: Mapping[str, Any]) -> str:
  return '{encoder} {feature} {label}: {probe}'.format(**result)


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Tabulates accuracies in percent of what `evaluate` returned."""
  results = report['results']
  probes = {row['probe'] for row in results}
  names = [name for name in probes_lib.PROBES if name in probes]
  cells = {}
  for row in results:
    cell = f'{100 * row["mean"]:.1f}'
    cells[_title(row)] = (
      f'{cell} ±{100 * row["std"]:.1f}' if len(row['values']) > 1 else cell
    )
  # Labels and features in the order in which they were measured.
  labels, features = (
    list(dict.fromkeys(row[key] for row in results))
    for key in ('label', 'feature')
  )
  measured = {(row['label'], row['feature'], row['encoder']) for row in results}
  rows = []
  for label, feature, kind in itertools.product(labels, features, ENCODERS):
    if (label, feature, kind) not in measured:
      continue
    found = report['collapse'].get(f'{kind}/{feature}')
    rank = (
      f'{found["effective_rank"]:.0f}/{found["dimensions"]}' if found else ''
    )
    values = [
      cells.get(f'{kind} {feature} {label}: {name}', '') for name in names
    ]
    rows.append((label, feature, kind, *values, rank))
  chance = ', '.join(
    f'{name} {100 * report["chance"][name]:.1f}' for name in labels
  )
  split = report['protocol']['test_split']
  return tables.table(
    ('label', 'feature', 'encoder', *names, 'rank'),
    rows,
    words=3,
    title=(
      f'{report["dataset"]}, step {report["step"]}: '
      f'{split} accuracy in % (chance: {chance})'
    ),
    caption=(
      f'mean ± standard deviation; protocol {report["protocol_hash"]}; rank: '
      f'effective rank of at most {_RANK_IMAGES} {split} rows / dimensions'
    ),
  )


def summary(report: Mapping[str, Any]) -> list[Any]:
  """Lists the table of what `evaluate` returned, and the notes below it."""
  protocols: dict[tuple[str, str], set[str | None]] = {}
  for row in report['results']:
    known = protocols.setdefault((row['probe'], row['label']), set())
    known.add(row.get('protocol_hash'))
  mixed = dict.fromkeys(
    name for (name, _), x in protocols.items() if len(x) > 1
  )
  notes = [
    f'The numbers of {name} come from different protocols: they do not '
    'compare. Measure all encoders and features with the same flags.'
    for name in mixed
  ]
  return [table(report), *notes, *tables.notes(report)]
