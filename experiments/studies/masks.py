"""Trains Deep InfoMax with each kind of mask and probes what masks are worth.

  python -m experiments.studies.masks --workdir=runs/masks --seeds=0,1,2

The conditions are no mask, and each of `networks.masking.MODES` with the code
scored against all locations or the hidden ones alone. Each with each seed is a
run of `dim-jax train` in WORKDIR/MASK_TARGETS_SEED, whose features are
probed with the mask-consistent input and, for 'token', where it differs, with
the naive one too. WORKDIR/masks.json holds all conditions; the same command
continues where it was interrupted.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table

import dim_jax
from dim_jax import checks, files
from dim_jax import config as config_lib
from dim_jax.commands.command import Command, show
from dim_jax.data import load as data
from dim_jax.evaluation import features as features_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.networks import masking
from dim_jax.objective import Batch
from dim_jax.runs import provenance, train
from dim_jax.training import metrics

CONDITIONS = (
  (None, 'all'),
  *((mode, t) for mode in masking.MODES for t in ('all', 'hidden')),
)
EVALUATIONS = ('consistent', 'naive')
_FEATURES = ('fc', 'y')


def masks(
  config: config_lib.ExperimentConfig,
  workdir: str,
  *,
  seeds: Sequence[int] = (0, 1, 2),
  probes: Sequence[str] = ('linear', 'linear_few'),
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains and probes every condition that is not finished.

  Args:
    config: a run of Deep InfoMax with the features 'fc' and 'y'; of its masks,
      the sizes are those of every condition; the kind and the targets are not
      used.
    workdir: folder of the runs.
    seeds: of the runs.
    probes: names in `dim_jax.evaluation.probes.PROBES`.
    show_progress: show bars, or lines.

  Returns:
    The contents of masks.json; 'rows' has one a condition, seed, evaluation,
    feature and probe.

  Raises:
    ValueError: no config of Deep InfoMax, or `workdir` holds other runs.
  """
  sizes = getattr(config.objective, 'mask', None)
  if sizes is None:
    raise ValueError(
      'a config with objective.mask is needed, a dim.Config with the sizes of '
      'all masks, such as dim_digits.py:masked; got a config of '
      f'{type(config.objective).__module__}.'
    )
  for name in probes:
    checks.check_choice('probes', name, probes_lib.PROBES)
  parts = {
    # Without a validation set, 'train' is all that is not for testing.
    split: data.load(
      data.of_images(config.data), split, validation=0.0, progress=show_progress
    )
    for split in ('train', 'test')
  }
  test = parts['test']
  protocol = probes_lib.Protocol()
  summary = probes_lib.DataSummary(
    dataset=test.name,
    note=test.note,
    train_split='train + validation',
    train_rows=len(parts['train'].labels['class']),
    test_rows=len(test.labels['class']),
    image_size=int(test.inputs.shape[1]),
  )
  rows = []
  for seed in seeds:
    for mask, targets in CONDITIONS:
      objective = dataclasses.replace(
        config.objective,
        mask=mask and dataclasses.replace(sizes, kind=mask, targets=targets),
      )
      run_config = dataclasses.replace(config, objective=objective, seed=seed)
      run_dir = os.path.join(workdir, f'{mask or "whole"}_{targets}_{seed}')
      rows += _condition(
        run_config, run_dir, parts, probes, protocol, summary, show_progress
      )
  report = {
    'dataset': test.name,
    'note': test.note,
    'steps': config.steps,
    'seeds': list(seeds),
    'keep': sizes.keep,
    'patch': sizes.patch,
    'fill': sizes.fill,
    'protocols': {
      protocol.hash(n, summary): protocol.describe(n, summary) for n in probes
    },
    **provenance.session(),
    'rows': rows,
  }
  files.write_json(os.path.join(workdir, 'masks.json'), report)
  return report


def _condition(
  config: config_lib.ExperimentConfig,
  run_dir: str,
  parts: Mapping[str, Any],
  probes: Sequence[str],
  protocol: probes_lib.Protocol,
  summary: probes_lib.DataSummary,
  show_progress: bool,
) -> list[dict[str, Any]]:
  """The rows of one run, from its folder if they are there."""
  path = os.path.join(run_dir, 'condition.json')
  _adopt(run_dir, path)
  made_by = {
    'config': config_lib.to_json(config),
    'protocols': [protocol.hash(name, summary) for name in probes],
  }
  if os.path.exists(path):
    with open(path) as file:
      old = json.load(file)
    old['config'] = config_lib.migrate(old['config'])
    if any(old[name] != value for name, value in made_by.items()):
      raise ValueError(
        f'{run_dir!r} holds a condition of another config or other probes: '
        'choose another folder, or delete that one.'
      )
    return old['rows']
  started = time.time()
  train.train(config, run_dir, show_progress=show_progress)
  trained_s = time.time() - started
  last = metrics.read(os.path.join(run_dir, 'metrics.jsonl'))[-1]
  variables = dim_jax.load(run_dir).variables
  rows = []
  mask = config.objective.mask
  token = mask is not None and mask.kind == 'token'
  for evaluation in EVALUATIONS if token else EVALUATIONS[:1]:
    features = {
      split: _features(config, evaluation, variables, part.inputs)
      for split, part in parts.items()
    }
    for feature in _FEATURES:
      for name in probes:
        fitted, tested = (
          probes_lib.Examples(
            features[split][feature], parts[split].labels['class']
          )
          for split in ('train', 'test')
        )
        probe = probes_lib.PROBES[name]
        accuracies = probe(fitted, tested, protocol).accuracies
        rows.append(
          {
            'mask': mask and mask.kind,
            'targets': mask.targets if mask else 'all',
            'seed': config.seed,
            'evaluation': evaluation,
            'feature': feature,
            'probe': name,
            'mean': float(np.mean(accuracies)),
            'values': [float(value) for value in accuracies],
            'protocol_hash': protocol.hash(name, summary),
            'mi/local': last['mi/local'],
            'training_seconds': trained_s,
          }
        )
  files.write_json(path, made_by | {'rows': rows})
  return rows


def _adopt(run_dir: str, path: str) -> None:
  """Gives what an earlier version measured its name and words of today."""
  old = os.path.join(run_dir, 'cell.json')
  if not os.path.exists(old):
    return
  with open(old, encoding='utf-8') as file:
    result = json.load(file)
  for row in result['rows']:
    row['feature'] = row.pop('tap')
  files.write_json(path, result)
  os.remove(old)


def _features(
  config: config_lib.ExperimentConfig,
  evaluation: str,
  variables: Any,
  images: np.ndarray,
) -> dict[str, np.ndarray]:
  """Features of a trained encoder, under one input at evaluation."""
  mask = config.objective.mask
  objective = config_lib.make_objective(
    dataclasses.replace(
      config,
      objective=dataclasses.replace(
        config.objective,
        mask=mask and dataclasses.replace(mask, evaluation=evaluation),
      ),
    )
  )

  def encode(variables: Any, batch: Batch) -> dict[str, Any]:
    params, model_state = variables
    return objective.encode(params, model_state, batch)

  return features_lib.extract(encode, variables, images, names=_FEATURES)


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Means and standard deviations over seeds, a row a condition and feature.

  Args:
    report: what `masks` returned.
  """
  rows = report['rows']
  probes = list(dict.fromkeys(row['probe'] for row in rows))
  shown = rich.table.Table(
    title=f'{report["dataset"]}, {report["steps"]:,} steps, '
    f'{len(report["seeds"])} seeds: test accuracy in %',
    title_justify='left',
    caption=f'{report["keep"]:.0%} of the {report["patch"]}x{report["patch"]} '
    'patches visible',
    caption_justify='left',
    box=rich.box.SIMPLE,
  )
  for name in ('mask', 'targets', 'feature'):
    shown.add_column(name)
  for name in probes:
    for evaluation in EVALUATIONS:
      shown.add_column(f'{name}\n{evaluation}', justify='right')
  for mask, targets in CONDITIONS:
    for feature in _FEATURES:
      texts = []
      for name in probes:
        for evaluation in EVALUATIONS:
          key = (mask, targets, feature, name, evaluation)
          values = [100 * row['mean'] for row in rows if _key(row) == key]
          text = f'{np.mean(values):.1f}' if values else 'same'
          if len(values) > 1:
            text += f' ± {np.std(values, ddof=1):.1f}'
          texts.append(text)
      shown.add_row(mask or 'none', targets, feature, *texts)
  return shown


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
  names = ('mask', 'targets', 'feature', 'probe', 'evaluation')
  return tuple(row[name] for name in names)


_COMMAND = Command('studies.masks', __doc__, old={'steps': '--config.steps'})
_WORKDIR = _COMMAND.folder('The folder of the runs.')
_CONFIG = _COMMAND.config('dim_digits:masked')
_SEEDS = _COMMAND.items('seeds', (0, 1, 2), 'A run each.', int)
_PROBES = _COMMAND.items('probes', ('linear', 'linear_few'), 'Which.')


def main(argv: list[str] | None = None) -> None:
  """Runs the command line."""
  _COMMAND.run(_run, argv)


def _run() -> None:
  report = masks(
    _CONFIG.value, _WORKDIR.value, seeds=_SEEDS.value, probes=_PROBES.value
  )
  show(table(report), os.path.join(_WORKDIR.value, 'masks.json'))


if __name__ == '__main__':
  main()
