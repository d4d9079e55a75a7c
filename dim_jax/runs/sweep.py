"""A classifier's code at many betas and seeds, trained in one program.

What `dim-jax train` does with a `SweepConfig`. It writes
WORKDIR/sweep.json, both errors and both informations of every run, which
`dim-jax report` draws.
"""

import os
import time
from typing import Any

import jax
import numpy as np
import rich.table

from dim_jax import config as config_lib
from dim_jax import files
from dim_jax import progress as progress_lib
from dim_jax.data import augment
from dim_jax.evaluation import classification
from dim_jax.objective import Objective
from dim_jax.runs import classify, provenance, tables, train
from dim_jax.training import grid, loop, metrics
from dim_jax.training import step as step_lib


def sweep(
  config: config_lib.SweepConfig,
  workdir: str,
  *,
  samples: int = 12,
  devices: int | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains and measures every run of a sweep, or continues it.

  Args:
    config: the runs.
    workdir: the sweep's folder.
    devices: share the runs out over at most so many devices; over as many as
      divide them evenly if None.
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
  objective = config_lib.make_objective(run)
  data = classify.load(run.data, objective, show_progress)
  part = data['train']
  arrays = {'image': part.inputs, 'label': part.labels['class']}
  example = {name: values[:2] for name, values in arrays.items()}
  params, model_state = jax.eval_shape(
    objective.init, jax.random.key(0), example
  )
  if 'beta' not in model_state or None in (objective.logits, objective.rate):
    raise ValueError(
      'a sweep over beta needs a classifier whose rate it weighs (logits and '
      "rate of an Objective, and 'beta' in its model state); with these "
      f'settings, {provenance.title(run.objective)} is none.'
    )
  betas, seeds = zip(
    *((b, s) for b in config.betas for s in config.seeds), strict=True
  )
  path = os.path.join(workdir, 'sweep.json')
  # A sweep whose steps are all taken compiles nothing.
  memory_bytes = [files.read_json(path).get('memory_bytes') or 0]
  runs = grid.Runs(
    seeds,
    {'beta': betas},
    lambda program: memory_bytes.append(peak_bytes(program)),
  )
  started = time.time()
  with train.claim(workdir):
    states = loop.fit(
      objective,
      step_lib.optimizer_of(run, objective, params),
      arrays,
      workdir,
      loop.Settings.of(run, devices=devices, show_progress=show_progress),
      begin=lambda: _save(config, workdir),
      runs=runs,
    )
  lines = metrics.read(os.path.join(workdir, 'metrics.jsonl'))
  with progress_lib.Progress(show_progress, stderr=False) as progress:
    rows = _measure(objective, run, runs, states, data, samples, progress)
  report = provenance.header(data['test'], run.steps, started) | {
    'classes': objective.classes,
    'code': getattr(run.objective, 'code', None),
    'steps': run.steps,
    'betas': list(config.betas),
    'seeds': list(config.seeds),
    'samples': samples,
    **classify.limits(data, rows),
    'rows': rows,
    'memory_bytes': max(memory_bytes) or None,
    'training_seconds': lines[-1]['seconds'],
  }
  files.write_json(path, report)
  return report


def _check(config: config_lib.SweepConfig) -> None:
  """Raises ValueError where the runs of a sweep cannot be trained together."""
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
      f"each run of a sweep is on one device: parallel is 'jit', got "
      f'{config.run.parallel!r}.'
    )


def _save(config: config_lib.SweepConfig, workdir: str) -> None:
  """Writes the sweep's config, or raises where another one's is there."""
  path = os.path.join(workdir, 'sweep_config.json')
  data = config_lib.to_json(config)
  if old := config_lib.migrate(files.read_json(path)):
    # More steps continue the same sweep.
    if old | {'run': old['run'] | {'steps': config.run.steps}} != data:
      raise ValueError(
        f'{workdir!r} holds another sweep: choose another --workdir, or delete '
        'that folder.'
      )
    train.check_steps(config.run.steps, workdir)
  files.write_json(path, data)


def peak_bytes(compiled: Any) -> int:
  """Returns what a program allocates on a device, with its arguments."""
  memory = compiled.memory_analysis()
  return int(
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )


def _measure(
  objective: Objective,
  run: config_lib.ExperimentConfig,
  runs: grid.Runs,
  states: step_lib.TrainState,
  data: dict[str, Any],
  samples: int,
  progress: progress_lib.Progress,
) -> list[dict[str, Any]]:
  """Returns a row for each run and split, and says the test's of each run."""
  functions = classify.measures(objective, samples)
  rows = []
  for r, seed in enumerate(runs.seeds):
    state = jax.device_put(
      jax.tree.map(lambda x, r=r: x[r], states), jax.devices()[0]
    )
    variables = step_lib.averaged_params(state, run.average), state.model_state
    for split, part in data.items():
      labels = part.labels['class']
      predictions = classification.predict(
        *functions, variables, part.inputs, jax.random.key(0)
      )
      rows.append(
        {
          'beta': runs.model_state['beta'][r],
          'seed': seed,
          'split': split,
          'weights': 'average',
        }
        | classification.summary(predictions, labels)
      )
    progress.say(
      f'{runs.name(r)}: test error {rows[-1]["error_1"]:.2f} % (1 sample), '
      f'{rows[-1][f"error_{samples}"]:.2f} % ({samples}), '
      f'rate {rows[-1]["rate_bits"]:.2f} bits'
    )
  return rows


def table(report: dict[str, Any]) -> rich.table.Table:
  """Tabulates means and standard deviations over seeds on the test set."""
  samples = report['samples']
  keys = {
    'error, 1 sample %': 'error_1',
    f'error, {samples} samples %': f'error_{samples}',
    'rate, bits': 'rate_bits',
    'I(Z;Y) >=, bits': 'izy_bits',
  }
  test = [row for row in report['rows'] if row['split'] == 'test']
  rows = []
  for beta in report['betas']:
    cells = []
    for key in keys.values():
      values = [row[key] for row in test if row['beta'] == beta]
      std = f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
      cells.append(f'{np.mean(values):.2f}{std}')
    rows.append((f'{beta:g}', *cells))
  return tables.table(
    ('beta', *keys),
    rows,
    words=0,
    title=f'{report["dataset"]} test, K = {report["code"]}, '
    f'{len(report["seeds"])} seeds, {report["steps"]:,} steps',
  )
