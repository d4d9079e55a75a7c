"""Probes a run's frozen encoder beside the untrained one and the raw data.

  python -m experiments.evaluate runs/digits
  python -m experiments.evaluate runs/cifar10 --probes=linear,knn \
      --taps=fc,y --max_train=20000

Results go to RUN/evaluation/probes.json, where a later call with other probes
or taps adds to them, and features for figures to RUN/evaluation/features.npz.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.box
import rich.console
import rich.progress
import rich.table

import dim_jax
from dim_jax import files
from dim_jax.data import load as data
from dim_jax.data.load import as_batch
from dim_jax.evaluation import features as features_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.evaluation import representations
from dim_jax.objectives import dim
from dim_jax.training import parallel

_TAPS = re.compile(r'conv|fc|y|globals|module_\d+')
_SAVED_TAPS = re.compile(r'fc|y|globals|module_\d+')
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
    taps: taps of the encoder, by default those of 'conv', 'fc', 'y', 'globals'
      and 'module_0', 'module_1', ... that it has; the raw data are always
      probed too.
    labels: what to predict, of what the data tell, such as 'class', 'speaker'
      or 'digit'; by default all that is told of a whole example. Labels of
      single frames ('phone') are predicted from each frame's features.
    features: of 'trained', 'untrained' and 'raw' what to probe; a later call
      may add the rest.
    protocol: how to probe; the fields that describe the data are filled in.
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
  protocol = dataclasses.replace(
    protocol,
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
    taps = sorted(filter(_TAPS.fullmatch, found), key=_in_order)
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
  with progress_bar(show_progress) as bar:
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
        kept = sorted(filter(_SAVED_TAPS.fullmatch, set(taps)), key=_in_order)
        # Of many modules the last is the representation.
        for tap in [t for t in kept if t in ('fc', 'y')] or kept[-1:]:
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
      'protocol': protocol.describe(),
      'protocol_hash': protocol.hash(),
      'protocols': {protocol.hash(n): protocol.describe(n) for n in probes},
      'hardware': hardware(),
      'versions': versions(),
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


def _in_order(tap: str) -> tuple[str, int]:
  """Sorts module_10 behind module_2."""
  name, _, number = tap.partition('_')
  return name, int(number or 0)


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
  job = bar.add_task(f'{source}: encode', total=len(inputs))
  found = features_lib.extract(
    encoder.encode,
    encoder.variables,
    inputs,
    kind=encoder.config.data.kind,
    taps=taps,
    progress=lambda done: bar.update(job, completed=done),
  )
  bar.remove_task(job)
  return found


def _run_probes(train, test, probes, protocol, row, bar) -> list[dict]:
  """Every probe on one kind of features."""
  results = []
  for name in probes:
    title = f'{row["features"]} {row["tap"]} {row["label"]}: {name}'
    job = bar.add_task(title, total=100)
    started = time.time()
    found = probes_lib.PROBES[name](
      train,
      test,
      protocol,
      lambda share, job=job: bar.update(job, completed=round(100 * share)),
    )
    bar.remove_task(job)
    spread = len(found.accuracies) > 1
    result = row | {
      'probe': name,
      'mean': float(np.mean(found.accuracies)),
      'std': float(np.std(found.accuracies, ddof=1)) if spread else 0.0,
      'values': [float(value) for value in found.accuracies],
      'protocol_hash': protocol.hash(name),
      'seconds': time.time() - started,
    }
    if found.chosen is not None:
      key = 'c' if name == 'svm' else 'l2'
      result[key] = [float(value) for value in found.chosen]
    results.append(result)
    if not bar.disable:
      bar.console.print(
        f'{title}: {100 * result["mean"]:.1f} %  {result["seconds"]:.0f} s',
        highlight=False,
      )
  return results


def _scores(encoder, images) -> dict[str, np.ndarray]:
  """A sample of the critic's scores of true and false pairs, if it has any."""
  config = encoder.config.objective
  if not isinstance(config, dim.Config):
    return {}
  batch = {'image': images[:_SCORE_IMAGES]}
  params, model_state = encoder.variables
  found = jax.jit(lambda p, s, b: dim.scores(config, p, s, b))(
    params, model_state, batch
  )
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
  write_arrays(path, saved)


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


def progress_bar(show: bool) -> rich.progress.Progress:
  """A bar on standard error, as a context manager; nothing unless `show`."""
  return rich.progress.Progress(
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeElapsedColumn(),
    rich.progress.TimeRemainingColumn(),
    console=rich.console.Console(stderr=True),
    disable=not show,
    transient=True,
  )


def write_arrays(path: str, arrays: Mapping[str, Any]) -> None:
  """Writes a file of named arrays whole or not at all."""
  with open(path + '.tmp', 'wb') as file:
    np.savez_compressed(file, **arrays)
  os.replace(path + '.tmp', path)


def hardware() -> str:
  """This machine, in words."""
  device = jax.devices()[0]
  count = len(jax.devices())
  return (
    f'{count} x {device.device_kind} ({device.platform}), '
    f'{os.cpu_count()} CPU cores, {platform.machine()}'
  )


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that decide numbers."""
  names = ('jax', 'flax', 'optax', 'numpy', 'scikit-learn')
  found = {name: importlib.metadata.version(name) for name in names}
  return {'python': platform.python_version()} | found


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


def names(text: str) -> tuple[str, ...]:
  """A flag's value 'a,b' as its parts."""
  return tuple(filter(None, text.split(',')))


def whole(text: str) -> tuple[int, ...]:
  """A flag's value '0,1' as whole numbers."""
  return tuple(int(part) for part in names(text))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  default = probes_lib.Protocol()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.evaluate',
    description=(__doc__ or '').splitlines()[0],
  )
  add = parser.add_argument

  add('run_dir', metavar='RUN', help='the --workdir of a run')
  add('--probes', type=names, default=tuple(probes_lib.PROBES))
  add('--taps', type=names, help='conv, fc, y, module_0, ... that there are')
  add(
    '--features',
    type=names,
    default=FEATURES,
    help=f'of {",".join(FEATURES)} what to probe',
  )
  add('--labels', type=names, help='such as speaker,digit; all if left out')
  add('--step', type=int, help='a checkpoint; the newest if left out')
  add('--seeds', type=int, default=default.seeds)
  add('--max_train', type=int, help='keep so many training rows, at random')
  add('--few_labels', type=int, default=default.few_labels, help='a class')
  add('--few_draws', type=int, default=default.few_draws)
  add('--mlp_epochs', type=int, default=default.mlp_epochs)
  add(
    '--mlp_decay_epochs',
    type=whole,
    help='rate x 0.1 at these; at a half and three quarters if left out',
  )
  add('--mlp_learning_rate', type=float, default=default.mlp_learning_rate)
  add(
    '--mlp_average_epochs',
    type=int,
    default=default.mlp_average_epochs,
    help='mean test accuracy over so many last epochs',
  )
  add('--svm_max_examples', type=int, default=default.svm_max_examples)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns its exit status."""
  args = _parse(argv)
  try:
    epochs = args.mlp_epochs
    protocol = probes_lib.Protocol(
      seeds=args.seeds,
      max_examples=args.max_train,
      few_labels=args.few_labels,
      few_draws=args.few_draws,
      mlp_epochs=epochs,
      mlp_decay_epochs=args.mlp_decay_epochs
      or tuple(sorted({max(1, epochs // 2), max(1, 3 * epochs // 4)})),
      mlp_learning_rate=args.mlp_learning_rate,
      mlp_average_epochs=args.mlp_average_epochs,
      svm_max_examples=args.svm_max_examples,
    )
    report = evaluate(
      args.run_dir,
      probes=args.probes,
      taps=args.taps,
      labels=args.labels,
      features=args.features,
      protocol=protocol,
      step=args.step,
    )
  except (OSError, RuntimeError, ValueError) as error:
    sys.stderr.write(f'evaluate: {error}\n')
    return 1
  console = rich.console.Console()
  console.print(table(report))
  if report['note']:
    console.print(report['note'])
  console.print(os.path.join(args.run_dir, 'evaluation', 'probes.json'))
  return 0


if __name__ == '__main__':
  parallel.cache_compilations()
  sys.exit(main())
