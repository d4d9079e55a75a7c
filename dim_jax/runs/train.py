"""Trains what a config says."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import dim_jax
from dim_jax import checks, files, random
from dim_jax import config as config_lib
from dim_jax.data import augment, stream
from dim_jax.data import load as data
from dim_jax.data.load import as_batch
from dim_jax.evaluation import representations
from dim_jax.evaluation.information.monitor import information_monitor
from dim_jax.objective import Objective, PyTree, probed
from dim_jax.runs import classify, provenance
from dim_jax.training import hosts, lock, loop, metrics, pipeline
from dim_jax.training import step as step_lib

_WATCHED = 512  # examples, for signs of collapse

# A run may be made longer, or kept and shown otherwise, when it goes on; any
# other change would make it another run.
_FREE = (
  'steps',
  'checkpoint_every',
  'keep',
  'information',
  'tensorboard',
  'zero',
  'paper',
)
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
    devices: use only this many devices; all of them if None.
    profile: write a trace of a few early steps; see `fit`.
    show_progress: show a bar, or lines.

  Returns:
    The final state.

  Raises:
    ValueError: the config cannot be trained, or `workdir` holds another run.
      Where nothing was trained before, nothing stays in the folder.
    FloatingPointError: a metric is not finite.
  """
  workdir = os.path.expanduser(workdir)
  config_lib.check(config)
  lock.check(workdir)
  begun = has_checkpoint(workdir)
  if begun:
    check_same(config, config_lib.load(workdir)[0], workdir)
  run = prepare(config, stored, begun=begun, show_progress=show_progress)
  outputs = jax.eval_shape(run.objective.encode, *run.variables, run.example)
  names = probed(run.objective, outputs)
  monitor = None
  if names:
    # A run on all training images watches for collapse on some of them.
    rows = random.some(_WATCHED, len(run.watched.inputs))
    monitored = as_batch(run.watched.inputs[rows], run.watched.kind)
    monitor = representations.collapse_monitor(
      run.objective.encode, monitored, names[-1]
    )
  periodic = _information(config, run.objective, run.watched, outputs)
  with claim(workdir):
    hosts.check(workdir, config_lib.to_json(config), as_stream(run.train_set))
    return loop.fit(
      run.objective,
      run.optimizer,
      run.train_set,
      workdir,
      loop.Settings.of(
        config, devices=devices, profile=profile, show_progress=show_progress
      ),
      augment=None if stored else run.augment,
      monitor=monitor,
      periodic=periodic,
      example=run.example,
      start=run.start,
      begin=lambda: describe(config, run, workdir),
    )


class Prepared(NamedTuple):
  """What a run trains, on what.

  Attributes:
    objective: the method.
    optimizer: of all parameter groups.
    train_set: arrays by name, or a stream.
    watched: examples that the run is watched on.
    example: two of them, as a batch.
    variables: shapes of parameters and model state.
    augment: as `loop.fit` takes it.
    start: likewise.
  """

  objective: Objective
  optimizer: Any
  train_set: Any
  watched: data.Examples
  example: dict[str, np.ndarray]
  variables: tuple[PyTree, PyTree]
  augment: loop.Augment | None
  start: Callable[[step_lib.TrainState], step_lib.TrainState] | None


def prepare(
  config: config_lib.ExperimentConfig,
  stored: Mapping[str, np.ndarray] | None = None,
  *,
  begun: bool = False,
  show_progress: bool = True,
) -> Prepared:
  """Makes the objective of a run and loads its data; writes nothing.

  Args:
    config: the run, which is checked.
    stored: as `train` takes it.
    begun: whether the run has a checkpoint to go on from, and needs no other
      run to start from.
    show_progress: show bars, or lines.

  Returns:
    All that `loop.fit` needs but the folder.

  Raises:
    ValueError: the config cannot be trained.
  """
  axis_name = 'data' if config.parallel == 'pmap' else None
  objective = config_lib.make_objective(config, axis_name)
  if config.parallel == 'pipeline':
    pipeline.check(objective)
  train_set, watched = _load(config, objective, stored, show_progress)
  example = {name: x[:2] for name, x in data.batch(watched).items()}
  objective.check_size(_num_examples(train_set))
  if objective.indexed:
    train_set = _indexed(train_set)
    example['index'] = np.arange(2, dtype=np.int32)
  variables = jax.eval_shape(objective.init, jax.random.key(0), example)
  optimizer = step_lib.optimizer_of(config, objective, variables[0])
  change = augment.make(config.data, watched.inputs.shape[-1])
  start = None if begun else start_from(config.init_from, variables)
  _check_loss(config, variables, example)
  return Prepared(
    objective, optimizer, train_set, watched, example, variables, change, start
  )


def describe(
  config: config_lib.ExperimentConfig, run: Prepared, workdir: str
) -> None:
  """Writes config.json and run.json, in the first process."""
  if jax.process_index() != 0:
    return
  outputs = jax.eval_shape(run.objective.encode, *run.variables, run.example)
  names = probed(run.objective, outputs)
  config_lib.save(config, workdir, run.watched.inputs.shape[1:])
  provenance.write(
    workdir,
    config,
    run.variables[0],
    outputs,
    names[-1:],
    run.watched.vocabulary,
  )


def _information(
  config: config_lib.ExperimentConfig,
  objective: Objective,
  watched: data.Examples,
  outputs: Mapping[str, Any],
) -> tuple[int, loop.Monitor] | None:
  """Makes what measures information, and says how often; see `loop.fit`."""
  settings = config.information
  if settings is None:
    return None
  names = settings.features
  if names is None:
    names = probed(objective, outputs)
  for name in names:
    checks.check_choice('information.features', name, outputs)
  batch = data.batch(watched)
  rows = random.order(0, random.Host.INFORMATION, len(watched.inputs))
  # Labels of some rows alone would be another sample.
  if 'label' in batch and (known := batch['label'][rows] >= 0).any():
    rows = rows[known]
  else:
    batch.pop('label', None)
  key = jax.random.key(config.seed)
  monitor = information_monitor(
    objective.encode,
    {name: x[rows[: settings.examples]] for name, x in batch.items()},
    random.branch(key, random.OfSeed.INFORMATION),
    noise=settings.noise,
    features=names,
    posterior=objective.posterior,
    rate=objective.rate,
  )
  return settings.every or config.log_every, monitor


@contextlib.contextmanager
def claim(workdir: str) -> Iterator[None]:
  """Makes a folder, and takes back what a refused start wrote into it.

  A ValueError inside leaves the folder as it was, unless there are checkpoints
  of a run there, or of runs in folders of it, or another process trains there:
  a corrected command can use it.

  Raises:
    ValueError: another process trains there.
  """
  if jax.process_index():
    yield  # Process 0 of the job makes it for all.
    return
  lock.check(workdir)
  folder = files.at(workdir)
  existed = folder.is_dir()
  before = {path.name for path in folder.iterdir()} if existed else set()
  files.make_folder(workdir)
  try:
    yield
  except ValueError:
    kept = any(has_checkpoint(workdir, below) for below in ('', '*/'))
    # Of two processes that start at once, one is refused: not its folder, nor
    # one in which the other trains a module.
    trains = [workdir, *(path.parent for path in folder.glob('*/lock'))]
    if not kept and not any(map(lock.is_held, trains)):
      # What cannot be removed must not hide why the start was refused.
      with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
          if path.name not in before:
            path.rmtree() if path.is_dir() else path.unlink()
        if not existed and not files.is_remote(workdir):
          os.rmdir(workdir)
    raise


def has_checkpoint(workdir: str | os.PathLike, below: str = '') -> bool:
  """Whether there is anything that a run could go on from."""
  checkpoints = files.at(workdir).glob(f'{below}checkpoints/*')
  return any(path.name.isdigit() for path in checkpoints)


def _load(
  config: config_lib.ExperimentConfig,
  objective: Objective,
  stored: Mapping[str, np.ndarray] | None,
  show_progress: bool,
) -> tuple[Any, data.Examples]:
  """Loads what a run trains on, and the examples on which it is watched."""
  train_set: Any = stored
  if stored is None:
    train_set = data.train_set(config.data, progress=show_progress)
  first, seen = None, train_set
  if isinstance(train_set, stream.Stream):
    first = _WATCHED
    if config.information:
      first = max(first, config.information.examples)
    seen = train_set.read(np.arange(min(first, train_set.num_examples)))
  held_out = 'validation' if config.data.validation else 'train'
  watched = data.load(
    config.data, held_out, first=first, progress=show_progress
  )
  if watched.note and show_progress and jax.process_index() == 0:
    print(f'{watched.name}: {watched.note}', file=sys.stderr)
  for part in (seen, data.batch(watched)):
    if 'label' in part:
      classify.check_labels(objective, watched.name, part['label'])
  if 'label' in seen:
    if objective.supervised:
      data.check_classes(watched.name, seen['label'], objective.supervised)
    if np.max(seen['label']) < 0:
      train_set = _without_labels(train_set, watched, config)
  return train_set, watched


def _without_labels(
  train_set: Any, watched: data.Examples, config: config_lib.ExperimentConfig
) -> Any:
  """Drops labels that are all -1: no accuracy is better than one of 0."""

  def inputs(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x for name, x in batch.items() if name != 'label'}

  if not isinstance(train_set, stream.Stream):
    return inputs(train_set)
  unlabelled = getattr(config.data, 'unlabelled', False)
  if not unlabelled and watched.class_names[watched.label]:
    return train_set  # Those that were not looked at may be labelled.
  return train_set._replace(read=lambda rows: inputs(train_set.read(rows)))


def as_stream(train_set: Any) -> stream.Stream:
  """Makes a stream of arrays by name; returns one as it is."""
  if isinstance(train_set, stream.Stream):
    return train_set
  return stream.of_arrays(train_set)


def _num_examples(train_set: Any) -> int:
  return as_stream(train_set).num_examples


def _indexed(train_set: Any) -> Any:
  """Adds 'index' to the examples: which of them each is."""
  if isinstance(train_set, stream.Stream):
    return train_set._replace(
      read=lambda rows: train_set.read(rows) | {'index': rows.astype(np.int32)}
    )
  index = np.arange(_num_examples(train_set), dtype=np.int32)
  return train_set | {'index': index}


def _check_loss(
  config: config_lib.ExperimentConfig,
  variables: PyTree,
  example: Mapping[str, np.ndarray],
) -> None:
  """Lets what cannot be trained say so before there is a folder."""

  def of_size(size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
      name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
      for name, x in example.items()
    }

  objective = config_lib.make_objective(config)
  micro_batch = of_size(config.batch_size // config.accumulate)
  jax.eval_shape(objective.loss, *variables, micro_batch, jax.random.key(0))
  note = step_lib.accumulation_note(
    objective, of_size(config.batch_size), config.accumulate
  )
  if note and jax.process_index() == 0:
    if objective.exact_batches:
      note += f' For the gradient of all use {objective.exact_batches}.'
    print(note, file=sys.stderr)


def start_from(
  run_dir: str | None, variables: PyTree
) -> Callable[[step_lib.TrainState], step_lib.TrainState] | None:
  """Takes a run's parameters over into the state before another's first step.

  Parameter groups are matched by name, and within one whatever both have: a
  module that the other run did not train starts as it would without it.

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
  try:
    params, model_state = dim_jax.load(run_dir).variables
  except FileNotFoundError as error:
    raise ValueError(
      f'init_from: {error} Train that run first, or set init_from to another '
      'one; None starts from random weights.'
    ) from error
  old = {**model_state.get('frozen', {}), **params}
  if missing := [name for name in frozen if name not in old]:
    raise ValueError(
      f'{missing[0]} is frozen, but the run {run_dir!r} (init_from) has only '
      f'{sorted(old)}.'
    )

  def shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.shape, tree)

  def take(new: PyTree, old: PyTree, path: str, strict: bool = False) -> PyTree:
    # A probe of other classes or features begins as it was drawn, all of it.
    if path == '/probe' and not strict and shapes(new) != shapes(old):
      return new
    if isinstance(new, dict):
      # What is missing would stay as it was drawn, and never be trained.
      if strict and (missing := sorted(set(new) - set(old))):
        raise ValueError(
          f'{path}/{missing[0]} is frozen, but not in the run {run_dir!r} '
          '(init_from): the modules differ.'
        )
      return {
        k: take(v, old[k], f'{path}/{k}', strict) if k in old else v
        for k, v in new.items()
      }
    if new.shape != old.shape:
      raise ValueError(
        f'{path} has shape {old.shape} in the run {run_dir!r} (init_from), '
        f'here {new.shape}: the modules differ.'
      )
    return old

  def start(state: step_lib.TrainState) -> step_lib.TrainState:
    # Single numbers are of this run, such as a weight and the steps so far.
    of_run = {
      k: x
      for k, x in state.model_state.items()
      if not isinstance(x, dict) and x.ndim == 0
    }
    new_state = take(dict(state.model_state), model_state, '') | of_run
    if frozen:
      inner = state.model_state['frozen']
      new_state['frozen'] = take(inner, old, '', strict=True)
    new_params = take(dict(state.params), old, '')
    return state._replace(params=new_params, model_state=new_state)

  return start


def check_steps(steps: int, workdir: str) -> None:
  """Raises ValueError where `workdir` holds more steps than are asked for."""
  lines = metrics.read(os.path.join(workdir, 'metrics.jsonl'))
  if lines and steps < lines[-1]['step']:
    raise ValueError(
      f'{workdir!r} holds a run of {lines[-1]["step"]} steps, more than '
      f'steps={steps}: raise steps, or choose another --workdir.'
    )


def check_same(
  config: config_lib.ExperimentConfig,
  saved: config_lib.ExperimentConfig,
  workdir: str,
) -> None:
  """Raises ValueError where `workdir` holds a run of another config."""
  check_steps(config.steps, workdir)
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
        f'{new!r}: choose another --workdir, which starts where that run is '
        f'with --config.init_from={workdir}, or delete that folder.'
      )
