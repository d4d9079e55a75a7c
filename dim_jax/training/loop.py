"""The one training loop: each dispatch runs many steps on resident data.

The data set is placed on the devices once, as uint8. Between two logged steps
there is one compiled `lax.scan`, which the host feeds nothing but the indices
of the examples. Which examples form step t, and what is drawn at step t, are
pure functions of (seed, t); so a run that was killed continues from its newest
checkpoint, and ends bitwise identical to one that was not.
"""

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dim_jax import files, random
from dim_jax.objective import Batch, Objective, PyTree
from dim_jax.training import (
  checkpoint,
  feed,
  grid,
  hosts,
  lock,
  metrics,
  parallel,
  pipeline,
  timing,
)
from dim_jax.training import step as step_lib
from dim_jax.training.preemption import Preemption

Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Monitor = Callable[[PyTree, PyTree], Mapping[str, jax.Array]]


class Settings(NamedTuple):
  """How a run trains.

  Attributes:
    batch_size: examples a step, over all devices and processes; so all fields
      but the last three are those of `config.ExperimentConfig`.
    devices: use only this many devices; all of them if None.
    profile: write a trace of the second interval, when all is compiled, to
      `run_dir`/profile.
    show_progress: show a bar, or lines.
  """

  batch_size: int
  steps: int
  accumulate: int = 1
  seed: int = 0
  log_every: int = 100
  checkpoint_every: int = 1000
  keep: int = 2
  parallel: str = 'jit'
  zero: bool = False
  tensorboard: bool = False
  devices: int | None = None
  profile: bool = False
  show_progress: bool = True

  @classmethod
  def of(cls, config: Any, **others: Any) -> 'Settings':
    """Takes the fields of a config, and those that it does not have.

    Args:
      config: an `ExperimentConfig`.
      **others: such as `devices`.
    """
    shared = cls._fields[: cls._fields.index('devices')]
    return cls(**{name: getattr(config, name) for name in shared}, **others)


def make_chunk(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  form: str = 'jit',
  augment: Augment | None = None,
  accumulate: int = 1,
  split: step_lib.TrainState | None = None,
) -> Callable[
  [step_lib.TrainState, Batch, Any],
  tuple[step_lib.TrainState, dict[str, jax.Array]],
]:
  """Compiles many steps as one scan.

  Args:
    objective: the method; for 'pmap', made with axis_name='data'.
    optimizer: as `make_optimizer` makes it.
    mesh: the devices.
    form: 'jit', 'pmap', 'pipeline' (see `training.pipeline`), or 'grid', which
      maps over the leading axis of states and indices, a part of it on each
      device (see `training.grid`).
    augment: `(rng, images [n, H, W, C], positions [n]) -> images`, where
      positions count within the global batch.
    accumulate: into how many micro-batches a step splits its batch; not for
      'pipeline'.
    split: a state, or its shapes, of which the optimizer's part is split over
      the devices, as `parallel.split_state` has it; for 'jit'. None for states
      that every device has.

  Returns:
    `(state, data, indices [steps, batch]) -> (state, metrics)`; metrics are
    averages over the steps. The state is donated. Where data is {}, `indices`
    are the examples themselves, {name: [steps, batch, ...]}; not for
    'pipeline' and 'grid'.
  """
  replicated, rows = parallel.shardings(mesh)
  placed: Any = replicated
  if split is not None:
    placed = parallel.split_state(split, mesh)
  constrain = rows if form == 'jit' else None
  axis_name = 'data' if form == 'pmap' else None
  draw = functools.partial(draw_batch, constrain, axis_name, augment)
  if form == 'pipeline':
    devices = list(mesh.devices.flat)
    return pipeline.make_dispatch(objective, optimizer, devices, draw)

  def body(
    data: Batch, state: step_lib.TrainState, indices: Any
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    state, values = step_lib.train_step(
      state,
      draw(data, state, indices),
      objective=objective,
      optimizer=optimizer,
      axis_name=axis_name,
      accumulate=accumulate,
    )
    if split is not None:
      state = jax.lax.with_sharding_constraint(state, placed)
    return state, values

  def chunk(
    state: step_lib.TrainState, data: Batch, indices: Any
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    state, values = jax.lax.scan(functools.partial(body, data), state, indices)
    return state, jax.tree.map(lambda x: x.mean(0), values)

  if form == 'grid':
    return grid.mapped(chunk, mesh)
  if form == 'pmap':
    return _pmapped(chunk, mesh, axis_name)
  return jax.jit(
    _on_mesh(chunk, mesh),
    in_shardings=(placed, replicated, parallel.columns(mesh)),
    out_shardings=(placed, replicated),
    donate_argnums=0,
  )


def _on_mesh(
  chunk: Callable[..., Any], mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
  """`chunk`, with the mesh in context while it is traced.

  What is traced may ask for the platform, and spread work over the devices.
  """

  @functools.wraps(chunk)
  def on_mesh(*arguments: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return chunk(*arguments)

  return on_mesh


def draw_batch(
  split: jax.sharding.Sharding | None,
  axis_name: str | None,
  augment: Augment | None,
  data: Batch,
  state: step_lib.TrainState,
  indices: Any,
) -> dict[str, jax.Array]:
  """Draws the batch of a step: rows of the data, or examples as they came.

  Args:
    split: the sharding of the batch, if any.
    axis_name: the pmapped axis.
    augment: as `fit` takes it.
    data: {} where `indices` are the examples themselves.
    state: before the step.
    indices: of the examples [batch].

  Returns:
    The arrays of the batch by name, [batch, ...] each, images augmented.
  """
  if data:
    batch = {name: values[indices] for name, values in data.items()}
  else:
    batch = dict(indices)
  if split is not None:
    batch = jax.lax.with_sharding_constraint(batch, split)
  if augment is not None:
    size = jax.tree.leaves(indices)[0].shape[0]
    positions = jnp.arange(size)
    if axis_name is not None:
      positions = positions + jax.lax.axis_index(axis_name) * size
    rng = random.branch(state.rng, random.OfRun.AUGMENTATION)
    rng = random.branch(rng, state.step)
    batch['image'] = augment(rng, batch['image'], positions)
  return batch


def _pmapped(
  chunk: Callable[..., Any], mesh: jax.sharding.Mesh, axis_name: str | None
) -> Callable[..., Any]:
  """`chunk` under pmap, with the signature of the jit form."""
  mapped = jax.pmap(
    chunk,
    axis_name=axis_name,
    in_axes=(None, None, 1),
    out_axes=(None, None),
    devices=list(mesh.devices.flat),
  )

  def run(state: step_lib.TrainState, data: Batch, indices: Any) -> Any:
    per_device = jax.tree.map(
      lambda x: x.reshape(len(x), mesh.size, -1, *x.shape[2:]), indices
    )
    return mapped(state, data, per_device)

  return run


def fit(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  data: feed.Data,
  run_dir: str | os.PathLike,
  settings: Settings,
  *,
  augment: Augment | None = None,
  monitor: Monitor | None = None,
  periodic: tuple[int, Monitor] | None = None,
  example: Mapping[str, Any] | None = None,
  start: Callable[[step_lib.TrainState], step_lib.TrainState] | None = None,
  begin: Callable[[], object] = lambda: None,
  runs: grid.Runs | None = None,
) -> step_lib.TrainState:
  """Trains, or continues a run that was interrupted.

  Writes metrics.jsonl, checkpoints and, of where the time went, summary.json.
  The same call continues from the newest undamaged checkpoint; the finished run
  is bitwise identical to an uninterrupted one on a CPU. SIGTERM ends the
  interval, saves, and raises SystemExit(143); a second one ends the process.

  Args:
    objective: the method; for 'pmap', made with axis_name='data'.
    optimizer: as `make_optimizer` makes it.
    data: as `feed.Feed` takes it: arrays of the same first axis, such as
      'image' uint8 [n, H, W, C] and 'label' int32 [n], or a stream.
    run_dir: the run's folder, made if missing.
    settings: how long and on what it trains.
    augment: as in `make_chunk`.
    monitor: extra metrics of (params, model_state), read at each logged step.
    periodic: (every, monitor), likewise at multiples of `every`, a multiple of
      `log_every`, before the first step, and after the last.
    example: rows of the shapes that the objective sees; None: those of `data`.
    start: changes the state before the first step of all.
    begin: called as soon as no other process can train in the folder.
    runs: train these in one program, each on one device; their seeds take the
      place of the settings', and every metric is a list over them.

  Returns:
    The final state; of several runs, with a leading axis.

  Raises:
    ValueError: the data, sizes or checkpoint do not fit, or the run is locked.
    FloatingPointError: a metric, parameter or statistic is not finite.
    OSError: a file cannot be written, as on a full disk.
  """
  mesh, host = _meshes(settings, runs)
  form = 'grid' if runs else settings.parallel
  # What cannot be trained on is refused before the folder is there.
  seeds = runs.seeds if runs else (settings.seed,)
  source = feed.Feed(
    data, settings.batch_size, seeds, host, form, objective.classes
  )
  make_state = functools.partial(
    _initial, objective, optimizer, example or source.rows, runs, settings.seed
  )
  options = _chunk_options(settings, form, make_state)
  chunk = make_chunk(objective, optimizer, mesh, augment=augment, **options)
  run_dir = os.path.expanduser(run_dir)
  files.make_folder(run_dir)
  with (
    # Of what is traced here, such as `monitor`; 'strict' would refuse it.
    jax.numpy_dtype_promotion('standard'),
    parallel.one_blas_thread(),
    lock.hold(run_dir),
    timing.Times() as times,
    checkpoint.Checkpoints(run_dir, settings.keep, owner=True) as checkpoints,
    metrics.Log(run_dir, settings, settings.batch_size * len(seeds)) as log,
    Preemption() as preemption,
    contextlib.closing(source),
  ):
    begin()
    placement = grid.placement(runs, mesh, settings.devices) if runs else ''
    for note in filter(None, (source.note, placement)):
      log.say(note)
    state = _first(make_state, start, times)
    state = _placed(state, objective, settings, mesh, host, runs)
    session = _Session(run_dir, settings, runs, source, times, checkpoints, log)
    return session.train(chunk, state, host, monitor, periodic, preemption)


def _chunk_options(
  settings: Settings, form: str, make_state: Callable[[], step_lib.TrainState]
) -> dict[str, Any]:
  return {
    'form': form,
    'accumulate': settings.accumulate,
    'split': jax.eval_shape(make_state) if settings.zero else None,
  }


def _initial(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  example: Mapping[str, Any],
  runs: grid.Runs | None,
  seed: int,
) -> step_lib.TrainState:
  """Makes the state before the first step, of all runs if there are several."""
  if runs:
    return grid.init_states(objective, optimizer, example, runs)
  make = functools.partial(step_lib.init_state, objective, optimizer)
  return jax.jit(make)(dict(example), jax.random.key(seed))


def _first(
  make_state: Callable[[], step_lib.TrainState],
  start: Callable[[step_lib.TrainState], step_lib.TrainState] | None,
  times: timing.Times,
) -> step_lib.TrainState:
  """Makes the state before the first step, as `start` changes it."""
  with times.part('compile'):
    state = make_state()
  return start(state) if start else state


def _placed(
  state: step_lib.TrainState,
  objective: Objective,
  settings: Settings,
  mesh: jax.sharding.Mesh,
  host: jax.sharding.Mesh,
  runs: grid.Runs | None,
) -> step_lib.TrainState:
  """Puts the state where the steps have it."""
  if runs:
    return grid.place(state, mesh)
  state = parallel.replicate(state, host)
  if settings.zero:
    placed = parallel.split_state(state, mesh)
    state = jax.jit(lambda x: x, out_shardings=placed)(state)
  if settings.parallel == 'pipeline':
    return pipeline.place(objective.stages, state, list(mesh.devices.flat))
  return state


def _meshes(
  settings: Settings, runs: grid.Runs | None
) -> tuple[jax.sharding.Mesh, jax.sharding.Mesh]:
  """Returns the devices that train, and those that hold the data."""
  if runs and (settings.parallel != 'jit' or settings.tensorboard):
    raise ValueError(
      "several runs in one program need parallel='jit' and tensorboard=False, "
      f'got {settings.parallel!r} and {settings.tensorboard}.'
    )
  if settings.zero and (settings.parallel != 'jit' or runs):
    raise ValueError(
      "zero=True splits the state of one run under parallel='jit', got "
      f'{settings.parallel!r}{" and several runs" if runs else ""}: set '
      'zero=False.'
    )
  if runs:
    parallel.check_batch_size(settings.batch_size, 1, settings.accumulate)
    mesh = grid.make_mesh(runs, settings.devices)
    return mesh, mesh
  if settings.parallel == 'pmap' and jax.process_count() > 1:
    raise ValueError(
      f"parallel='pmap' maps over the devices of one process; these are "
      f"{jax.process_count()}: use parallel='jit'."
    )
  mesh = host = parallel.make_mesh(settings.devices)
  if settings.parallel == 'pipeline':
    # Only parts of the state are on the other devices.
    host = parallel.make_mesh(1)
  parallel.check_batch_size(settings.batch_size, host.size, settings.accumulate)
  return mesh, host


class _Session(NamedTuple):
  """What one call of `fit` works with, from its first step to its last."""

  run_dir: str
  settings: Settings
  runs: grid.Runs | None
  source: feed.Feed
  times: timing.Times
  checkpoints: checkpoint.Checkpoints
  log: metrics.Log

  def train(
    self,
    chunk: feed.Chunk,
    state: step_lib.TrainState,
    host: jax.sharding.Mesh,
    monitor: Monitor | None,
    periodic: tuple[int, Monitor] | None,
    preemption: Preemption,
  ) -> step_lib.TrainState:
    """Takes all steps that are left; `host` is where monitors find a state."""
    settings, times = self.settings, self.times
    step, state = self._recover(state)
    self.log.start(step)
    self.source.start(step, settings.steps)
    tracer = timing.Tracer(
      self.run_dir if settings.profile and self.log.is_writer else None
    )
    if self.runs and self.runs.compiled:
      chunk = _compiled_first(chunk, self.runs.compiled)
    if periodic and not step:
      self.log.write(0, 0, self._monitored([periodic[1]], state, host))
    begins = True
    while step < settings.steps:
      # Chunks end at multiples of log_every wherever the run began, so that a
      # resumed run compiles and rounds as an uninterrupted one does.
      count = settings.log_every - step % settings.log_every
      count = min(count, settings.steps - step)
      last = step + count == settings.steps
      hosts.at(f'in the steps from {step} of {settings.steps}')
      with tracer.interval(last=last), times.part('step'):
        state, values = self.source.advance(
          _guarded(chunk), state, step, count, times
        )
        if begins:
          self.log.phase('first interval')
          begins = False
        numbers = _floats(values)
      due = [monitor] if monitor else []
      if periodic and (last or not (step + count) % periodic[0]):
        due.append(periodic[1])
      numbers |= self._monitored(due, state, host)
      self._check_finite(numbers, state, step, count)
      step += count
      self.log.write(step, count, numbers)
      stop = parallel.any_process(preemption.asked)
      if stop or last or step % settings.checkpoint_every == 0:
        self._save(step, state)
      if stop or last:
        self.log.say(timing.line(times.summary()))
      if stop and not last:
        self.log.say(
          f'SIGTERM: saved step {step} of {settings.steps}; the same command '
          'continues.'
        )
        raise SystemExit(128 + signal.SIGTERM)
    return self._in_one_place(state, host)

  def _in_one_place(self, tree: PyTree, host: jax.sharding.Mesh) -> PyTree:
    if self.settings.parallel != 'pipeline':
      return tree
    return parallel.replicate(tree, host)

  def _monitored(
    self,
    monitors: Sequence[Monitor],
    state: step_lib.TrainState,
    host: jax.sharding.Mesh,
  ) -> dict[str, Any]:
    """The metrics of all monitors."""
    if not monitors:
      return {}
    with self.times.part('monitor'):
      variables = (state.params, state.model_state)
      variables = self._in_one_place(variables, host)
      return {
        name: value
        for monitor in monitors
        for name, value in _floats(monitor(*variables)).items()
      }

  def _recover(
    self, state: step_lib.TrainState
  ) -> tuple[int, step_lib.TrainState]:
    """The newest undamaged checkpoint's step and state; else 0 and `state`."""
    with self.times.part('restore'):
      step = self.checkpoints.recover(self.log.say) or 0
      if step:
        state = self.checkpoints.restore(state, step)
    self.times.resume(self.run_dir, step)
    if self.log.is_writer and self.times.seconds['lost']:
      # Once the log goes on from here, nothing else tells.
      self.times.write(self.run_dir, step)
    if step:
      self.log.say(
        f'continuing {self.run_dir} at step {step} of {self.settings.steps}'
      )
    return step, state

  def _save(self, step: int, state: step_lib.TrainState) -> None:
    hosts.at(f'saving step {step} of {self.settings.steps}')
    with self.times.part('save'), hosts.limit(f'the save of step {step}'):
      self.checkpoints.save(step, state)
    if self.log.is_writer:
      self.times.write(self.run_dir, step)
    self.log.lap()

  def _check_finite(
    self,
    numbers: Mapping[str, Any],
    state: step_lib.TrainState,
    step: int,
    count: int,
  ) -> None:
    """Raises where a metric, a parameter or a statistic is not finite.

    The last step's metrics are of the parameters before its update, so that
    these are looked at too: a checkpoint of what broke could not be trained on.
    """
    bad = [k for k, value in numbers.items() if not np.isfinite(value).all()]
    broken = _broken(state)
    if not bad and not broken:
      return
    parameters = (
      f'first bad tensor, by name: {broken[0]}, of {len(broken)}'
      if broken
      else 'all parameters are finite'
    )
    where = ''
    if self.runs and bad:
      number = int(np.argmin(np.isfinite(numbers[bad[0]])))
      where = f' at {self.runs.name(number)}'
    advice = 'Lower the learning rate, or clip (optimizer.clip).'
    if inputs := self.source.bad_inputs(step, count):
      advice = f'{inputs} of the batch: repair the data, or leave it out.'
    raise FloatingPointError(
      f'Between steps {step} and {step + count}, '
      f'{", ".join(bad) or broken[0]} became non-finite{where} ({parameters}). '
      f'Nothing of it was saved. {advice}'
    )


def _compiled_first(chunk: Any, compiled: Callable[[Any], None]) -> feed.Chunk:
  """`chunk`, whose programs `compiled` gets: the very ones that run."""
  programs: dict[int, Any] = {}

  def run(state: step_lib.TrainState, data: Batch, indices: Any) -> Any:
    steps = indices.shape[1]
    if steps not in programs:
      programs[steps] = chunk.lower(state, data, indices).compile()
      compiled(programs[steps])
    return programs[steps](state, data, indices)

  return run


def _guarded(chunk: Callable[..., Any]) -> Callable[..., Any]:
  """`chunk`, which raises where the host would feed it unasked."""

  def run(*arguments: Any) -> Any:
    with jax.transfer_guard('disallow'):
      return chunk(*arguments)

  return run


def _floats(values: Mapping[str, jax.Array]) -> dict[str, Any]:
  """Metrics as JSON has them: numbers, or lists over the runs of a grid."""
  return {
    k: np.asarray(v).tolist() for k, v in jax.device_get(dict(values)).items()
  }


def _broken(state: step_lib.TrainState) -> list[str]:
  """Names of the parameters and statistics that are not finite."""
  watched = {'params': state.params, 'model_state': state.model_state}
  leaves = [
    (path, leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(watched)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  finite = _all_finite([leaf for _, leaf in leaves])
  return [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for (path, _), ok in zip(leaves, finite, strict=True)
    if not ok
  ]


def _all_finite(leaves: Sequence[jax.Array]) -> list[bool]:
  """Whether each is finite: one program for those on the same devices."""
  groups: dict[Any, list[int]] = {}
  for i, leaf in enumerate(leaves):
    groups.setdefault(leaf.sharding, []).append(i)
  result: dict[int, bool] = {}
  for group in groups.values():
    finite = jax.device_get(_finite([leaves[i] for i in group]))
    result |= dict(zip(group, finite.tolist(), strict=True))
  return [result[i] for i in range(len(leaves))]


@jax.jit
def _finite(leaves: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
