"""Probes a run's frozen encoder beside the untrained one and the raw data.

  python -m experiments.evaluate runs/digits
  python -m experiments.evaluate runs/cifar10 --probes=linear,knn \
      --taps=fc,y --max_train=20000

Results go to RUN/evaluation/probes.json, where a later call with other probes
or taps adds to them, and features for figures to RUN/evaluation/features.npz.
"""

import datetime
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import rich.box
import rich.table

import dim_jax
from dim_jax import files, progress
from dim_jax.data import load as data
from dim_jax.data.load import as_batch
from dim_jax.evaluation import features as features_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.evaluation import representations
from dim_jax.objective import probed
from dim_jax.runs import provenance

FEATURES = ('trained', 'untrained', 'raw')
_SAVED_IMAGES = 2000
_RANK_IMAGES = 1000
_SCORE_IMAGES = 256
_SCORE_COUNT = 5000


def evaluate(
  run_dir: str,
  *,
  probes: Sequence[str] = tuple(probes_lib.PROBES),
  taps: Sequence[str] | None = None,
  labels: Sequence[str] | None = None,
  features: Sequence[str] = FEATURES,
  protocol: probes_lib.Protocol | None = None,
  step: int | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Runs the probes and writes what they found into the run's folder.

  Args:
    run_dir: the run.
    probes: names in `dim_jax.evaluation.probes.PROBES`.
    taps: outputs of the encoder, by default those that the objective names
      (`Objective.features`); the raw data are always probed too.
    labels: what to predict, of what the data tell, such as 'class', 'speaker'
      or 'digit'; by default all that is told of a whole example. Labels of
      single frames ('phone') are predicted from each frame's features.
    features: of 'trained', 'untrained' and 'raw' what to probe; a later call
      may add the rest.
    protocol: how to probe.
    step: which checkpoint; the newest if None.
    show_progress: show a bar on standard error, and a line a probe.

  Returns:
    The contents of evaluation/probes.json.

  Raises:
    FileNotFoundError: the folder is not a run, or has no such checkpoint.
    ValueError: no such probe or tap, or the data do not allow the protocol.
    RuntimeError: the encoder's variables changed while they were probed.
  """
  for name in probes:
    if name not in probes_lib.PROBES:
      raise ValueError(
        f'No probe {name!r}: there are {", ".join(probes_lib.PROBES)}.'
      )
  for name in features:
    if name not in FEATURES:
      raise ValueError(f'No features {name!r}: there are {FEATURES}.')
  started = time.time()
  trained = dim_jax.load(run_dir, step=step)
  objective = trained.objective
  # Without a validation set, 'train' is all that is not for testing.
  train, test = (
    data.load(
      trained.config.data, split, validation=0.0, progress=show_progress
    )
    for split in ('train', 'test')
  )
  if not train.labels:
    raise ValueError(
      f'{train.name} has no labels to predict: measure the run with '
      'experiments.density.'
    )
  if labels is None:
    labels = [name for name, found in train.labels.items() if found.ndim == 1]
  for name in labels:
    if name not in train.labels:
      raise ValueError(
        f'No label {name!r}: {train.name} has {sorted(train.labels)}.'
      )
    data.check_classes(train.name, train.labels[name], 'a probe')
  protocol = protocol or probes_lib.Protocol()
  keep = np.arange(len(train.inputs))
  if protocol.max_examples is not None and protocol.max_examples < len(keep):
    keep = np.random.default_rng(0).permutation(keep)[: protocol.max_examples]
    keep.sort()
  is_image = train.kind == 'image'
  summary = probes_lib.DataSummary(
    dataset=train.name,
    note=train.note,
    train_split='train + validation',
    train_rows=len(keep),
    test_rows=len(test.inputs),
    image_size=int(train.inputs.shape[1]) if is_image else None,
  )
  inputs = np.concatenate([train.inputs[keep], test.inputs])
  found = jax.eval_shape(
    trained.encode, trained.variables, as_batch(inputs[:2], train.kind)
  )
  if taps is None:
    taps = probed(objective, found)
  told = {
    name: (train.labels[name][keep], test.labels[name]) for name in labels
  }
  framewise = [name for name in labels if train.labels[name].ndim == 2]
  maps = [f'{tap}_map' for tap in taps] if framewise else []
  results: list[dict[str, Any]] = []
  collapse: dict[str, Any] = {}
  saved: dict[str, np.ndarray] = {}
  if is_image:
    saved['images'] = test.inputs[:_SAVED_IMAGES]
  saved['labels'] = test.labels[test.label][:_SAVED_IMAGES]
  saved['class_names'] = np.asarray(test.class_names[test.label])
  with progress.Progress(show_progress) as bar:
    # One source of features at a time: conv maps of a whole data set are big.
    for source in features:
      if source == 'raw':
        name = 'pixels' if is_image else 'samples'
        found = {name: features_lib.raw(inputs)}
      else:
        encoder = trained if source == 'trained' else dim_jax.load(run_dir, 0)
        before = features_lib.fingerprint(encoder.variables)
        found = _encode(encoder, inputs, [*taps, *maps], bar, source)
        scores = _scores(encoder, test.inputs)
        prefix = '' if source == 'trained' else 'untrained_'
        saved |= {prefix + name: values for name, values in scores.items()}
        kept = probed(objective, taps)
        for tap in {*objective.pictured} & {*kept} | {*kept[-1:]}:
          rows = found[tap][len(keep) :][:_SAVED_IMAGES]
          saved[f'{source}_{tap}'] = rows
      for tap in list(found) if source == 'raw' else taps:
        values = found.pop(tap)
        collapse[f'{source}/{tap}'] = representations.collapse_indicators(
          values[len(keep) :][:_RANK_IMAGES]
        )
        for label, (train_labels, test_labels) in told.items():
          row = {'features': source, 'tap': tap, 'label': label}
          pair = (
            (values[: len(keep)], train_labels),
            (
              values[len(keep) :],
              test_labels,
            ),
          )
          if label in framewise:
            if source == 'raw':
              continue
            frames = found[f'{tap}_map'].reshape(
              len(values), -1, values.shape[-1]
            )
            pair = (
              _framewise(frames[: len(keep)], train_labels),
              _framewise(frames[len(keep) :], test_labels),
            )
          results += _run_probes(
            probes_lib.Examples(*pair[0]),
            probes_lib.Examples(*pair[1]),
            probes,
            protocol,
            summary,
            row,
            bar,
          )
      if source != 'raw':
        after = features_lib.fingerprint(encoder.variables)
        if after != before:
          raise RuntimeError(
            f'The {source} encoder changed while it was probed (its variables '
            f'hash to {after[:12]}, before {before[:12]}): nothing was saved.'
          )
  folder = os.path.join(run_dir, 'evaluation')
  os.makedirs(folder, exist_ok=True)
  _merge_features(os.path.join(folder, 'features.npz'), saved, trained.step)
  return _merge_results(
    os.path.join(folder, 'probes.json'),
    {
      'dataset': train.name,
      'note': train.note,
      'step': int(trained.step),
      'protocol': protocol.describe(data=summary),
      'protocol_hash': protocol.hash(data=summary),
      'protocols': {
        protocol.hash(n, summary): protocol.describe(n, summary) for n in probes
      },
      'hardware': provenance.hardware(),
      'versions': provenance.versions(),
      'date': datetime.date.today().isoformat(),
      'seconds': time.time() - started,
      'paper': trained.config.paper,
      'chance': {
        name: _chance(values[values >= 0]) for name, (_, values) in told.items()
      },
      'collapse': collapse,
      'results': results,
    },
  )


def _chance(labels: np.ndarray) -> float:
  """Accuracy of the most frequent label."""
  return float(np.max(np.bincount(labels)) / len(labels))


def _framewise(
  frames: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Features [n, L, C] and labels [n, F] as rows: the frame at each label."""
  count = labels.shape[1]
  # The middle of a label's time falls into this frame.
  at = (2 * np.arange(count) + 1) * frames.shape[1] // (2 * count)
  rows = frames[:, at].reshape(-1, frames.shape[-1])
  known = labels.reshape(-1) >= 0
  return rows[known], labels.reshape(-1)[known]


def _encode(encoder, inputs, taps, bar, source) -> dict[str, np.ndarray]:
  """One pass over the data, with its progress."""
  with bar.task(f'{source}: encode', len(inputs)) as task:
    return features_lib.extract(
      encoder.encode,
      encoder.variables,
      inputs,
      kind=encoder.config.data.kind,
      taps=taps,
      progress=task.update,
    )


def _run_probes(train, test, probes, protocol, summary, row, bar) -> list[dict]:
  """Every probe on one kind of features."""
  results = []
  for name in probes:
    title = f'{row["features"]} {row["tap"]} {row["label"]}: {name}'
    started = time.time()
    with bar.task(title, 100) as task:
      found = probes_lib.PROBES[name](
        train,
        test,
        protocol,
        lambda share, task=task: task.update(round(100 * share)),
      )
    spread = len(found.accuracies) > 1
    result = row | {
      'probe': name,
      'mean': float(np.mean(found.accuracies)),
      'std': float(np.std(found.accuracies, ddof=1)) if spread else 0.0,
      'values': [float(value) for value in found.accuracies],
      'protocol_hash': protocol.hash(name, summary),
      'seconds': time.time() - started,
    }
    if found.chosen is not None:
      key = 'c' if name == 'svm' else 'l2'
      result[key] = [float(value) for value in found.chosen]
    results.append(result)
    bar.say(f'{title}: {100 * result["mean"]:.1f} %  {result["seconds"]:.0f} s')
  return results


def _scores(encoder, images) -> dict[str, np.ndarray]:
  """A sample of the critic's scores of true and false pairs, if it has any."""
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

  def sample(values):
    flat = values.reshape(-1)
    return random.permutation(flat)[:_SCORE_COUNT]

  return {
    'scores_positive': sample(scores[true]),
    'scores_negative': sample(scores[~true]),
  }


def _merge_features(path: str, saved: dict[str, Any], step: int) -> None:
  """Writes the arrays whole or not at all; keeps other taps of this step."""
  saved = {**saved, 'step': np.asarray(step)}
  if os.path.exists(path):
    with np.load(path) as old:
      same = 'step' in old and old['step'] == step
      kept = {name: old[name] for name in old.files} if same else {}
    saved = kept | saved
  files.write_arrays(path, saved)


def _merge_results(path: str, new: dict[str, Any]) -> dict[str, Any]:
  """Writes the results whole or not at all, beside what was there.

  A number of the same features, tap and probe is replaced; those of another
  step are dropped, as they belong to another encoder. Every number names its
  protocol's hash, and 'protocols' holds the text behind each.
  """
  if os.path.exists(path):
    with open(path) as file:
      old = json.load(file)
    if old.get('step') == new['step'] and old['dataset'] == new['dataset']:
      # Before there were several labels, none was named.
      if not isinstance(old.get('chance', {}), dict):
        old['chance'] = {'class': old['chance']}
      old['results'] = [{'label': 'class'} | row for row in old['results']]
      fresh = {_key(result) for result in new['results']}
      kept = [r for r in old['results'] if _key(r) not in fresh]
      new['results'] = kept + new['results']
      new['chance'] = old.get('chance', {}) | new['chance']
      new['collapse'] = old.get('collapse', {}) | new['collapse']
      new['protocols'] = old.get('protocols', {}) | new['protocols']
  used = {result.get('protocol_hash') for result in new['results']}
  new['protocols'] = {k: v for k, v in new['protocols'].items() if k in used}
  files.write_json(path, new)
  return new


def _key(result) -> tuple[str, str, str, str]:
  return result['features'], result['tap'], result['label'], result['probe']


def table(report: dict[str, Any]) -> rich.table.Table:
  """The results, a row for each tap and kind of features.

  Args:
    report: what `evaluate` returned.

  Returns:
    A table of accuracies in percent.
  """
  results = report['results']
  names = [
    n for n in probes_lib.PROBES if any(r['probe'] == n for r in results)
  ]
  cells = {
    _key(r): f'{100 * r["mean"]:.1f}±{100 * r["std"]:.1f}'
    if len(r['values']) > 1
    else f'{100 * r["mean"]:.1f}'
    for r in results
  }
  rows = list(
    dict.fromkeys((r['label'], r['tap'], r['features']) for r in results)
  )
  labels = list(dict.fromkeys(label for label, _, _ in rows))
  taps = list(dict.fromkeys(tap for _, tap, _ in rows))
  kinds = ['trained', 'untrained', 'raw']
  rows.sort(
    key=lambda r: (labels.index(r[0]), taps.index(r[1]), kinds.index(r[2]))
  )
  chance = ', '.join(
    f'{name} {100 * report["chance"][name]:.1f}' for name in labels
  )
  shown = rich.table.Table(
    title=(
      f'{report["dataset"]}, step {report["step"]}: '
      f'test accuracy in % (chance: {chance})'
    ),
    caption=(
      f'mean ± standard deviation; protocol {report["protocol_hash"]}; rank: '
      f'effective rank of at most {_RANK_IMAGES} test rows / dimensions'
    ),
    box=rich.box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
    pad_edge=False,
  )
  for column in ('label', 'tap', 'features'):
    shown.add_column(column)
  for name in names:
    shown.add_column(name, justify='right')
  shown.add_column('rank', justify='right')
  for label, tap, kind in rows:
    found = report['collapse'].get(f'{kind}/{tap}')
    rank = (
      f'{found["effective_rank"]:.0f}/{found["dimensions"]}' if found else ''
    )
    values = [cells.get((kind, tap, label, name), '') for name in names]
    shown.add_row(label, tap, kind, *values, rank)
  return shown
