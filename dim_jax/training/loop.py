"""The one training loop: many steps a dispatch, on data that lives there.

The data set is placed on the devices once, as uint8. Between two logged steps
there is one compiled `lax.scan`, which the host feeds nothing but the indices
of the examples. Which examples form step t, and what is drawn at step t, are
pure functions of (seed, t); so a run that was killed continues from its newest
checkpoint to the same bits.
"""

import functools
import math
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dim_jax.data import batches
from dim_jax.objective import Batch, Objective, PyTree
from dim_jax.training import checkpoint, metrics, parallel, pipeline
from dim_jax.training import step as step_lib

STREAM_BYTES = 2**28  # of examples read from disk for one dispatch

Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def make_chunk(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  form: str = 'jit',
  augment: Augment | None = None,
) -> Callable[
  [step_lib.TrainState, Batch, jax.Array],
  tuple[step_lib.TrainState, dict[str, jax.Array]],
]:
  """Compiles many steps as one scan.

  Args:
    objective: the method; for 'pmap', made with axis_name='data'.
    optimizer: as `make_optimizer` makes it.
    mesh: the devices.
    form: 'jit', 'pmap', or 'pipeline'; see `training.pipeline`.
    augment: `(rng, images [n, H, W, C], positions [n]) -> images`, where
      positions count within the global batch.

  Returns:
    `(state, data, indices [steps, batch]) -> (state, metrics)`; metrics are
    averages over the steps. The state is donated.
  """
  axis_name = 'data' if form == 'pmap' else None
  replicated, split = parallel.shardings(mesh)

  def draw(
    data: Batch, state: step_lib.TrainState, indices: jax.Array
  ) -> dict[str, jax.Array]:
    batch = {name: values[indices] for name, values in data.items()}
    if form == 'jit':
      batch = jax.lax.with_sharding_constraint(batch, split)
    if augment is not None:
      positions = jnp.arange(indices.shape[0])
      if axis_name is not None:
        start = jax.lax.axis_index(axis_name) * indices.shape[0]
        positions = positions + start
      # A branch of its own: the step's draws come from fold_in(rng, t).
      rng = jax.random.fold_in(state.rng, np.uint32(2**32 - 1))
      rng = jax.random.fold_in(rng, state.step)
      batch['image'] = augment(rng, batch['image'], positions)
    return batch

  if form == 'pipeline':
    devices = list(mesh.devices.flat)
    return pipeline.make_chunk(objective, optimizer, devices, draw)

  def body(
    data: Batch, state: step_lib.TrainState, indices: jax.Array
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    return step_lib.train_step(
      state,
      draw(data, state, indices),
      objective=objective,
      optimizer=optimizer,
      axis_name=axis_name,
    )

  def chunk(
    state: step_lib.TrainState, data: Batch, indices: jax.Array
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    state, values = jax.lax.scan(functools.partial(body, data), state, indices)
    return state, jax.tree.map(lambda x: x.mean(0), values)

  if axis_name is None:
    return jax.jit(
      chunk,
      in_shardings=(replicated, replicated, parallel.columns(mesh)),
      out_shardings=(replicated, replicated),
      donate_argnums=0,
    )
  mapped = jax.pmap(
    chunk,
    axis_name=axis_name,
    in_axes=(None, None, 1),
    out_axes=(None, None),
    devices=list(mesh.devices.flat),
  )

  def run(
    state: step_lib.TrainState, data: Batch, indices: jax.Array
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    steps = indices.shape[0]
    return mapped(state, data, indices.reshape(steps, mesh.size, -1))

  return run


def fit(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  data: Mapping[str, np.ndarray],
  *,
  run_dir: str | os.PathLike,
  batch_size: int,
  steps: int,
  seed: int = 0,
  log_every: int = 100,
  checkpoint_every: int = 1000,
  keep: int = 2,
  form: str = 'jit',
  devices: int | None = None,
  augment: Augment | None = None,
  monitor: Callable[[PyTree, PyTree], Mapping[str, jax.Array]] | None = None,
  example: Mapping[str, Any] | None = None,
  start: Callable[[step_lib.TrainState], step_lib.TrainState] | None = None,
  tensorboard: bool = False,
  show_progress: bool = True,
) -> step_lib.TrainState:
  """Trains, or continues a run that was interrupted.

  Writes `run_dir`/metrics.jsonl and `run_dir`/checkpoints. Running the same
  call again continues from the newest checkpoint; the finished run is bit-equal
  to an uninterrupted one on a CPU. SIGTERM, as of a preemption, ends the
  interval, saves, and raises SystemExit(143).

  Args:
    objective: the method; for form 'pmap', made with axis_name='data'.
    optimizer: as `make_optimizer` makes it.
    data: arrays of the same first axis, such as 'image' uint8 [n, H, W, C] and
      'label' int32 [n]; they must fit on each device, unless one is a
      `numpy.memmap`: then examples are read from disk as steps need them.
    run_dir: the run's folder, made if missing.
    batch_size: examples a step, over all devices and processes.
    steps: how many steps in all.
    seed: of the parameters, the order of examples and all noise.
    log_every: steps a compiled scan, and a line of metrics.
    checkpoint_every: steps between checkpoints, a multiple of `log_every`; the
      last step is always saved.
    keep: how many checkpoints to keep.
    form: 'jit' (sharded over a mesh), 'pmap', or 'pipeline', where only the
      first device holds the data; see `training.pipeline`.
    devices: use only so many devices; all of them if None.
    augment: as in `make_chunk`.
    monitor: extra metrics of (params, model_state), read at each logged step.
    example: two rows as the objective sees them, of which only the shapes
      matter; those of `data` if None, but augmentation may crop.
    start: changes the state before the first step of all.
    tensorboard: write TensorBoard events as well.
    show_progress: show a bar, or lines.

  Returns:
    The final state.

  Raises:
    ValueError: sizes do not fit, or the checkpoint is of another config.
    FloatingPointError: a metric is not finite.
  """
  mesh = home = parallel.make_mesh(devices)
  if form == 'pipeline':
    # Only parts of the state are on the other devices.
    home = parallel.make_mesh(1)
  parallel.check_batch_size(batch_size, home.size)
  run_dir = os.fspath(run_dir)
  os.makedirs(run_dir, exist_ok=True)
  num_examples = len(next(iter(data.values())))
  batches.batch_indices(
    seed, 0, 1, batch_size=batch_size, num_examples=num_examples
  )
  if example is None:
    example = {name: values[:2] for name, values in data.items()}
  init = functools.partial(step_lib.init_state, objective, optimizer)
  state = jax.jit(init)(example, jax.random.key(seed))
  if start is not None:
    state = start(state)
  state = parallel.replicate(state, home)
  chunk = make_chunk(objective, optimizer, mesh, form=form, augment=augment)
  if form == 'pipeline':
    state = pipeline.place(objective.stages, state, list(mesh.devices.flat))
  writer = metrics.JsonLines(run_dir)
  is_writer = jax.process_index() == 0
  events = metrics.TensorBoard(run_dir) if tensorboard and is_writer else None
  with (
    checkpoint.Checkpoints(run_dir, keep, owner=True) as checkpoints,
    metrics.Progress(steps, batch_size, show_progress) as progress,
    _Preemption() as preemption,
  ):
    step = checkpoints.latest or 0
    if step:
      state = checkpoints.restore(state)
      progress.say(f'continuing {run_dir} at step {step} of {steps}')
    clock = metrics.Clock(writer.truncate(step) if is_writer else 0.0)
    streamed = any(isinstance(x, np.memmap) for x in data.values())
    resident = {} if streamed else parallel.replicate(dict(data), home)
    while step < steps:
      # Chunks end at multiples of log_every wherever the run began, so that a
      # resumed run compiles and rounds as an uninterrupted one does.
      count = min(log_every - step % log_every, steps - step)
      indices = batches.batch_indices(
        seed, step, count, batch_size=batch_size, num_examples=num_examples
      )
      if streamed:
        state, values = _stream(chunk, state, data, indices, home)
      else:
        state, values = chunk(
          state, resident, parallel.put_columns(indices, home)
        )
      if monitor is not None:
        watched = (state.params, state.model_state)
        if form == 'pipeline':
          watched = parallel.replicate(watched, home)
        values = values | dict(monitor(*watched))
      numbers = {k: float(v) for k, v in jax.device_get(values).items()}
      step += count
      _check_finite(numbers, state, step - count, step)
      line = {
        'step': step,
        'images': step * batch_size,
        'seconds': round(clock.seconds(), 3),
        'images_per_s': round(count * batch_size / clock.lap(), 1),
        **numbers,
      }
      if is_writer:
        writer.write(line)
      if events:
        events.write(line)
      progress.update(line)
      stop = parallel.any_process(preemption.asked)
      if stop or step % checkpoint_every == 0 or step == steps:
        checkpoints.save(step, state)
        clock.lap()
      if stop and step < steps:
        progress.say(
          f'SIGTERM: saved step {step} of {steps}; the same command continues.'
        )
        raise SystemExit(128 + signal.SIGTERM)
  return parallel.replicate(state, home) if form == 'pipeline' else state


def _stream(
  chunk: Callable[..., tuple[step_lib.TrainState, dict[str, jax.Array]]],
  state: step_lib.TrainState,
  data: Mapping[str, np.ndarray],
  indices: np.ndarray,
  mesh: jax.sharding.Mesh,
) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
  """A chunk whose examples are read from disk, in parts that memory holds."""
  count, batch_size = indices.shape
  step_bytes = batch_size * sum(x[:1].nbytes for x in data.values())
  # Parts of one size, so that they share one compiled program.
  parts = next(
    n
    for n in range(1, count + 1)
    if count % n == 0
    and (count // n * step_bytes <= STREAM_BYTES or n == count)
  )
  sums: list[dict[str, jax.Array]] = []
  for part in np.split(indices, parts):
    # Read while the device still works on the part before.
    rows = {k: np.asarray(x[part.reshape(-1)]) for k, x in data.items()}
    positions = np.arange(part.size, dtype=np.int32).reshape(part.shape)
    state, values = chunk(
      state,
      parallel.replicate(rows, mesh),
      parallel.put_columns(positions, mesh),
    )
    sums.append(values)
  return state, jax.tree.map(lambda *x: sum(x) / parts, *sums)


def _check_finite(
  numbers: Mapping[str, float],
  state: step_lib.TrainState,
  first: int,
  last: int,
) -> None:
  bad = [name for name, value in numbers.items() if not math.isfinite(value)]
  if not bad:
    return
  leaves = jax.tree_util.tree_flatten_with_path(state.params)[0]
  broken = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, leaf in leaves
    if not bool(jnp.isfinite(leaf).all())
  ]
  parameters = (
    f'first bad parameter: {broken[0]}'
    if broken
    else ('all parameters are finite')
  )
  raise FloatingPointError(
    f'Between steps {first} and {last}, {", ".join(bad)} became non-finite '
    f'({parameters}). Lower the learning rate, or clip (optimizer.clip).'
  )


class _Preemption:
  """Remembers a SIGTERM while it is open."""

  asked = False

  def __enter__(self) -> '_Preemption':
    self._before: Any = None
    # Python lets only the main thread set handlers.
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._ask)
    return self

  def _ask(self, *_: object) -> None:
    self.asked = True

  def __exit__(self, *_: object) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
