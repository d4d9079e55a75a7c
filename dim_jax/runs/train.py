"""Trains what a config says.

  python -m experiments.train --config=experiments/configs/dim_digits.py \
      --workdir=runs/digits --config.steps=300
  python -m experiments.train --list

The same command on the same --workdir continues a run that was interrupted.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping

import jax
import numpy as np

import dim_jax
from dim_jax import config as config_lib
from dim_jax import files
from dim_jax.data import augment, stream
from dim_jax.data import load as data
from dim_jax.data.load import as_batch
from dim_jax.evaluation import representations
from dim_jax.objective import PyTree, probed
from dim_jax.runs import classify, provenance
from dim_jax.training import lock, loop, metrics, pipeline
from dim_jax.training import step as step_lib

_WATCHED = 512  # examples, for signs of collapse

# A run may be made longer, or kept and shown otherwise, when it goes on; any
# other change would make it another run.
_FREE = ('steps', 'checkpoint_every', 'keep', 'tensorboard', 'paper')
_FREE_OF_DATA = ('data_dir', 'stream')  # Where the same examples come from.


def train(
  config: config_lib.ExperimentConfig,
  workdir: str,
  *,
  stored: Mapping[str, np.ndarray] | None = None,
  devices: int | None = None,
  profile: bool = False,
  show_progress: bool = True,
) -> step_lib.TrainState:
  """Trains or continues the run in `workdir`; see `dim_jax.training.loop.fit`.

  Args:
    config: the run.
    workdir: its folder.
    stored: what it trains on instead of the training split, such as the stored
      'features' of a frozen module, with 'label'; not augmented.
    devices: use only so many devices; all of them if None.
    profile: write a trace of a few early steps; see `fit`.
    show_progress: show a bar, or lines.

  Returns:
    The final state.
  """
  config_lib.check(config)
  lock.check(workdir)
  if os.path.exists(os.path.join(workdir, 'config.json')):
    _check_same(config, config_lib.load(workdir)[0], workdir)
  axis_name = 'data' if config.parallel == 'pmap' else None
  objective = config_lib.make_objective(config, axis_name)
  if config.parallel == 'pipeline':
    pipeline.check(objective)
  held_out = 'validation' if config.data.validation else 'train'
  if stored is None:
    train_set = data.train_set(config.data, progress=show_progress)
  else:
    train_set = dict(stored)
  if isinstance(train_set, stream.Stream):
    first: int | None = _WATCHED
    told = train_set.read(np.arange(min(_WATCHED, train_set.num_examples)))
  else:
    first, told = None, train_set
  watched = data.load(
    config.data, held_out, first=first, progress=show_progress
  )
  example = data.batch(watched)
  for part in (told, example):
    if 'label' in part:
      classify.check_labels(objective, watched.name, part['label'])
  if 'label' in told:
    classify.check_supervised(objective, watched.name, told['label'])
  example = {name: values[:2] for name, values in example.items()}
  variables = jax.eval_shape(objective.init, jax.random.key(0), example)
  params, _ = variables
  taps = jax.eval_shape(objective.encode, *variables, example)
  optimizer = step_lib.make_optimizer(
    config.optimizer,
    config.players,
    params,
    config.average,
    objective.optional_groups,
  )
  change = augment.make(config.data, watched.inputs.shape[-1])
  start = start_from(config.init_from, variables)
  # What cannot be trained says so here, and leaves no folder behind.
  whole = {
    name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
    for name, x in example.items()
  }
  plain = config_lib.make_objective(config)
  # Of the whole batch, or of the micro-batches that it is split into.
  part = {
    name: jax.ShapeDtypeStruct(
      (config.batch_size // config.accumulate, *x.shape[1:]), x.dtype
    )
    for name, x in whole.items()
  }
  jax.eval_shape(plain.loss, *variables, part, jax.random.key(0))
  note = step_lib.accumulation_note(plain, whole, config.accumulate)
  if note and jax.process_index() == 0:
    if hasattr(config.objective, 'micro_batch'):
      note += ' For the gradient of all use objective.micro_batch.'
    print(note, file=sys.stderr)
  names = probed(objective, taps)
  files.make_folder(workdir)
  if jax.process_index() == 0:
    config_lib.save(config, workdir, watched.inputs.shape[1:])
    provenance.write(workdir, config, params, taps, names[-1:])
  # A run on all training images watches for collapse on some of them.
  monitored = as_batch(watched.inputs[:_WATCHED], watched.kind)
  return loop.fit(
    objective,
    optimizer,
    train_set,
    workdir,
    loop.Settings.of(
      config, devices=devices, profile=profile, show_progress=show_progress
    ),
    augment=None if stored else change,
    monitor=None
    if not names
    else representations.collapse_monitor(
      objective.encode, monitored, names[-1]
    ),
    example=example,
    start=start,
  )


def start_from(
  run_dir: str | None, variables: PyTree
) -> Callable[[step_lib.TrainState], step_lib.TrainState] | None:
  """Takes a run's parameters over into the state before another's first step.

  Players are matched by name, and within one whatever both have: a module that
  the other run did not train starts as it would without it.

  Args:
    run_dir: the other run; None takes nothing.
    variables: shapes of (params, model_state).

  Returns:
    The change of the state; None without a run.

  Raises:
    ValueError: frozen modules are in no run, or shapes differ.
  """
  frozen = sorted(variables[1].get('frozen', {}))
  if run_dir is None:
    if frozen:
      raise ValueError(
        f'{frozen[-1]} is frozen (objective.frozen={len(frozen)}), but there '
        'is no run to take it from: set init_from to its folder.'
      )
    return None
  params, model_state = dim_jax.load(run_dir).variables
  old = {**model_state.get('frozen', {}), **params}
  if missing := [name for name in frozen if name not in old]:
    raise ValueError(
      f'{missing[0]} is frozen, but the run {run_dir!r} (init_from) has only '
      f'{sorted(old)}.'
    )

  def take(new: PyTree, old: PyTree, path: str, whole: bool = False) -> PyTree:
    if isinstance(new, dict):
      # What is missing would stay as it was drawn, and never be trained.
      if whole and (missing := sorted(set(new) - set(old))):
        raise ValueError(
          f'{path}/{missing[0]} is frozen, but not in the run {run_dir!r} '
          '(init_from): the modules differ.'
        )
      return {
        k: take(v, old[k], f'{path}/{k}', whole) if k in old else v
        for k, v in new.items()
      }
    if new.shape != old.shape:
      raise ValueError(
        f'{path} has shape {old.shape} in the run {run_dir!r} (init_from), '
        f'here {new.shape}: the modules differ.'
      )
    return old

  def start(state: step_lib.TrainState) -> step_lib.TrainState:
    new_state = take(dict(state.model_state), model_state, '')
    if frozen:
      new_state['frozen'] = take(
        state.model_state['frozen'], old, '', whole=True
      )
    return state._replace(
      params=take(dict(state.params), old, ''), model_state=new_state
    )

  return start


def _check_same(
  config: config_lib.ExperimentConfig,
  saved: config_lib.ExperimentConfig,
  workdir: str,
) -> None:
  """Raises ValueError where `workdir` holds a run of another config."""
  lines = metrics.read(os.path.join(workdir, 'metrics.jsonl'))
  if lines and config.steps < lines[-1]['step']:
    raise ValueError(
      f'{workdir!r} holds a run of {lines[-1]["step"]} steps, more than '
      f'steps={config.steps}: raise steps, or choose another --workdir.'
    )
  for field in dataclasses.fields(config):
    new = config_lib.to_json(getattr(config, field.name))
    old = config_lib.to_json(getattr(saved, field.name))
    if field.name == 'data':
      for name in _FREE_OF_DATA:
        new[name] = old[name] = None
    if field.name not in _FREE and new != old:
      where = field.name
      if isinstance(new, dict) and isinstance(old, dict):
        name = next(k for k in new | old if new.get(k) != old.get(k))
        where, new, old = f'{where}.{name}', new.get(name), old.get(name)
      raise ValueError(
        f'{workdir!r} holds a run with {where} = {old!r}, this one has '
        f'{new!r}: choose another --workdir, or delete that folder.'
      )
