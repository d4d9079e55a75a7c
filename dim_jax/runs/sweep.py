"""A bottleneck at many betas and seeds, trained in one compiled program.

What `experiments.train` does with a `SweepConfig`. It writes
WORKDIR/sweep.json, both errors and both informations of every run, which
`experiments.report` draws.
"""

import json
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.table

from dim_jax import config as config_lib
from dim_jax import files
from dim_jax import progress as progress_lib
from dim_jax.data import augment
from dim_jax.data import load as data_lib
from dim_jax.evaluation import classification
from dim_jax.objective import Objective
from dim_jax.runs import classify, provenance, tables, train
from dim_jax.training import grid, loop, metrics, parallel
from dim_jax.training import step as step_lib


def sweep(
  config: config_lib.SweepConfig,
  workdir: str,
  *,
  samples: int = 12,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains and measures every run of a sweep, or continues it.

  Args:
    config: the runs.
    workdir: the sweep's folder.
    samples: posterior samples of an averaged prediction.
    show_progress: show a bar, or lines.

  Returns:
    The contents of sweep.json; 'rows' has one a run and split.

  Raises:
    ValueError: the config cannot be used, or `workdir` holds another sweep.
    FloatingPointError: a metric is not finite.
  """
  run, workdir = config.run, os.path.expanduser(workdir)
  _check(config)
  data = {
    split: data_lib.load(
      data_lib.of_images(run.data), split, progress=show_progress
    )
    for split in ('train', 'test')
  }
  objective = config_lib.make_objective(run)
  part = data['train']
  classify.check_labels(objective, part.name, part.labels['class'])
  arrays = {'image': part.inputs, 'label': part.labels['class']}
  betas, seeds = zip(
    *((b, s) for b in config.betas for s in config.seeds), strict=True
  )
  example = {name: values[:2] for name, values in arrays.items()}
  params, model_state = jax.eval_shape(
    objective.init, jax.random.key(0), example
  )
  if 'beta' not in model_state or objective.logits is None:
    raise ValueError(
      'a sweep over beta needs a classifier whose rate it weighs: an objective '
      "with 'beta' in its model state, such as a vib.Config whose covariance "
      "is 'diagonal' or 'full'."
    )
  optimizer = step_lib.make_optimizer(
    run.optimizer,
    run.groups,
    params,
    run.average,
    objective.optional_groups,
  )
  runs = grid.Runs(seeds, {'beta': betas})
  settings = loop.Settings.of(run, show_progress=show_progress)
  memory_bytes = _memory(objective, optimizer, arrays, runs, settings)
  started = time.time()
  with train.claim(workdir):
    _save(config, workdir)
    states = loop.fit(
      objective, optimizer, arrays, workdir, settings, runs=runs
    )
  lines = metrics.read(os.path.join(workdir, 'metrics.jsonl'))
  with progress_lib.Progress(show_progress, stderr=False) as progress:
    rows = _measure(
      config, objective, states, betas, seeds, data, samples, progress
    )
  report = provenance.header(
    run.data.name, data['test'].note, run.steps, started
  ) | _report(config, objective, data, samples, rows)
  report['memory_bytes'] = memory_bytes
  report['training_seconds'] = lines[-1]['seconds']
  files.write_json(os.path.join(workdir, 'sweep.json'), report)
  return report


def _report(
  config: config_lib.SweepConfig,
  objective: Objective,
  data: dict[str, Any],
  samples: int,
  rows: list[dict[str, Any]],
) -> dict[str, Any]:
  """Collects what sweep.json says of the runs and their measurements."""
  run = config.run
  return {
    'classes': objective.classes,
    'code': getattr(run.objective, 'code', None),
    'steps': run.steps,
    'betas': list(config.betas),
    'seeds': list(config.seeds),
    'samples': samples,
    'label_entropy_bits': {
      row['split']: row['label_entropy_bits'] for row in rows
    },
    'log2_examples': {
      split: float(np.log2(len(part.labels['class'])))
      for split, part in data.items()
    },
    'rows': rows,
  }


def _check(config: config_lib.SweepConfig) -> None:
  config_lib.check(config)
  data = config.run.data
  if not isinstance(data, config_lib.DataConfig):
    raise ValueError('a sweep trains on images: data must be a DataConfig.')
  if augment.make(data) is not None:
    raise ValueError(
      'a sweep does not augment: leave out data.flip and what else changes '
      'training images at random.'
    )
  for name, value in (
    ('data.stream', data.stream),
    ('data.unlabelled', data.unlabelled),
    ('data.labelled', data.labelled),
    ('data.labels_per_class', data.labels_per_class),
    ('init_from', config.run.init_from),
    ('tensorboard', config.run.tensorboard),
  ):
    if value:
      raise ValueError(
        f'a sweep does not know run.{name}={value!r}: leave it out, or train '
        'its runs one by one.'
      )
  if config.run.parallel != 'jit':
    raise ValueError(
      f"a sweep runs on one device: parallel is 'jit', got "
      f'{config.run.parallel!r}.'
    )


def _save(config: config_lib.SweepConfig, workdir: str) -> None:
  """Writes the sweep's config, or raises where another one's is there."""
  path = os.path.join(workdir, 'sweep_config.json')
  data = config_lib.to_json(config)
  if os.path.exists(path):
    with open(path, encoding='utf-8') as file:
      old = config_lib.migrate(json.load(file))
    if {**old['run'], 'steps': 0} != {**data['run'], 'steps': 0} or any(
      old[key] != data[key] for key in ('betas', 'seeds')
    ):
      raise ValueError(
        f'{workdir!r} holds another sweep: choose another --workdir, or delete '
        'that folder.'
      )
  files.write_json(path, data)


def _memory(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  arrays: dict[str, Any],
  runs: grid.Runs,
  settings: loop.Settings,
) -> int:
  """What the compiled program of an interval allocates at most, in bytes."""
  chunk: Any = loop.make_chunk(
    objective,
    optimizer,
    parallel.make_mesh(1),
    form='grid',
    accumulate=settings.accumulate,
  )
  states = jax.eval_shape(
    lambda: grid.init_states(objective, optimizer, arrays, runs)
  )
  count = min(settings.log_every, settings.steps)
  shape = (len(runs.seeds), count, settings.batch_size)
  indices = jax.ShapeDtypeStruct(shape, jnp.int32)
  return peak_bytes(chunk.lower(states, arrays, indices).compile())


def peak_bytes(compiled: Any) -> int:
  """What a compiled program allocates at most, its arguments included."""
  memory = compiled.memory_analysis()
  return int(
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )


def _measure(
  config: config_lib.SweepConfig,
  objective: Objective,
  states: step_lib.TrainState,
  betas: tuple[float, ...],
  seeds: tuple[int, ...],
  data: dict[str, Any],
  samples: int,
  progress: progress_lib.Progress,
) -> list[dict[str, Any]]:
  run = config.run
  functions = classify.measures(objective, samples)
  rows = []
  for r, (beta, seed) in enumerate(zip(betas, seeds, strict=True)):
    state = jax.tree.map(lambda x, r=r: x[r], states)
    params = step_lib.averaged_params(state, run.average)
    for split, part in data.items():
      predictions = classification.predict(
        *functions,
        (params, state.model_state),
        part.inputs,
        part.labels['class'],
        jax.random.key(0),
      )
      rows.append(
        {'beta': beta, 'seed': seed, 'split': split, 'weights': 'average'}
        | classification.summary(predictions, part.labels['class'])
      )
    progress.say(
      f'beta {beta:g}, seed {seed}: test error '
      f'{rows[-1]["error_1"]:.2f} % (1 sample), '
      f'{rows[-1][f"error_{samples}"]:.2f} % ({samples}), '
      f'rate {rows[-1]["rate_bits"]:.2f} bits'
    )
  return rows


def table(report: dict[str, Any]) -> rich.table.Table:
  """Means and standard deviations over seeds on the test set.

  Args:
    report: what `sweep` returned.
  """
  samples = report['samples']
  keys = {
    'error, 1 sample %': 'error_1',
    f'error, {samples} samples %': f'error_{samples}',
    'rate, bits': 'rate_bits',
    'I(Z;Y) >=, bits': 'izy_bits',
  }
  rows = []
  for beta in report['betas']:
    cells = []
    for key in keys.values():
      values = [
        row[key]
        for row in report['rows']
        if row['beta'] == beta and row['split'] == 'test'
      ]
      cell = f'{np.mean(values):.2f}'
      if len(values) > 1:
        cell += f' ± {np.std(values, ddof=1):.2f}'
      cells.append(cell)
    rows.append((f'{beta:g}', *cells))
  return tables.table(
    ('beta', *keys),
    rows,
    words=0,
    title=f'{report["dataset"]} test, K = {report["code"]}, '
    f'{len(report["seeds"])} seeds, {report["steps"]:,} steps',
  )
