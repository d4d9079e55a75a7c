"""The one training loop: many steps a dispatch, on data that lives there.

The data set is placed on the devices once, as uint8. Between two logged steps
there is one compiled `lax.scan`, which the host feeds nothing but the indices
of the examples. Which examples form step t, and what is drawn at step t, are
pure functions of (seed, t); so a run that was killed continues from its newest
checkpoint to the same bits.
"""

import contextlib
import functools
import itertools
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dim_jax import files, random
from dim_jax.data import batches, stream
from dim_jax.objective import Batch, Objective, PyTree
from dim_jax.training import (
  checkpoint,
  lock,
  metrics,
  parallel,
  pipeline,
  timing,
)
from dim_jax.training import step as step_lib

STREAM_BYTES = 2**28  # of examples that are read for one dispatch

Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def make_chunk(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  form: str = 'jit',
  augment: Augment | None = None,
  accumulate: int = 1,
) -> Callable[
  [step_lib.TrainState, Batch, Any],
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
    accumulate: into how many micro-batches a step splits its batch; not for
      'pipeline'.

  Returns:
    `(state, data, indices [steps, batch]) -> (state, metrics)`; metrics are
    averages over the steps. The state is donated. Where data is {}, `indices`
    are the examples themselves, {name: [steps, batch, ...]}; not for
    'pipeline'.
  """
  axis_name = 'data' if form == 'pmap' else None
  replicated, split = parallel.shardings(mesh)

  def draw(
    data: Batch, state: step_lib.TrainState, indices: Any
  ) -> dict[str, jax.Array]:
    if data:
      batch = {name: values[indices] for name, values in data.items()}
    else:
      batch = dict(indices)
    size = jax.tree.leaves(indices)[0].shape[0]
    if form == 'jit':
      batch = jax.lax.with_sharding_constraint(batch, split)
    if augment is not None:
      positions = jnp.arange(size)
      if axis_name is not None:
        start = jax.lax.axis_index(axis_name) * size
        positions = positions + start
      rng = random.branch(state.rng, random.OfRun.AUGMENTATION)
      rng = random.branch(rng, state.step)
      batch['image'] = augment(rng, batch['image'], positions)
    return batch

  if form == 'pipeline':
    devices = list(mesh.devices.flat)
    return pipeline.make_chunk(objective, optimizer, devices, draw)

  def body(
    data: Batch, state: step_lib.TrainState, indices: Any
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    return step_lib.train_step(
      state,
      draw(data, state, indices),
      objective=objective,
      optimizer=optimizer,
      axis_name=axis_name,
      accumulate=accumulate,
    )

  def chunk(
    state: step_lib.TrainState, data: Batch, indices: Any
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
    state: step_lib.TrainState, data: Batch, indices: Any
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    spread = jax.tree.map(
      lambda x: x.reshape(len(x), mesh.size, -1, *x.shape[2:]), indices
    )
    return mapped(state, data, spread)

  return run


def fit(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  data: Mapping[str, np.ndarray] | stream.Stream,
  *,
  run_dir: str | os.PathLike,
  batch_size: int,
  accumulate: int = 1,
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
  profile: bool = False,
  show_progress: bool = True,
) -> step_lib.TrainState:
  """Trains, or continues a run that was interrupted.

  Writes `run_dir`/metrics.jsonl, `run_dir`/checkpoints and, of where the time
  went, `run_dir`/summary.json. Running the same call again continues from the
  newest undamaged checkpoint; the finished run is bit-equal to an uninterrupted
  one on a CPU. SIGTERM, as of a preemption, ends the interval, saves, and
  raises SystemExit(143). Only one process at a time trains in a folder.

  An interval that `log_every` does not divide, as the last of a run may be,
  compiles a program of its own; no other step does after the first interval.

  Args:
    objective: the method; for form 'pmap', made with axis_name='data'.
    optimizer: as `make_optimizer` makes it.
    data: arrays of the same first axis, such as 'image' uint8 [n, H, W, C] and
      'label' int32 [n]; they must fit on each device, unless one is a
      `numpy.memmap`, or data is a `data.stream.Stream`: then examples are read
      as steps need them, each process those of its own devices.
    run_dir: the run's folder, made if missing.
    batch_size: examples a step, over all devices and processes.
    accumulate: into how many micro-batches a step splits its batch.
    steps: how many steps in all.
    seed: of the parameters, the order of examples and all noise.
    log_every: steps a compiled scan, and a line of metrics.
    checkpoint_every: steps between checkpoints, a multiple of `log_every`; the
      last step is always saved.
    keep: how many checkpoints to keep.
    form: 'jit' (sharded over a mesh), 'pmap' (of one process), or 'pipeline',
      where only the first device holds the data; see `training.pipeline`.
    devices: use only so many devices; all of them if None.
    augment: as in `make_chunk`.
    monitor: extra metrics of (params, model_state), read at each logged step.
    example: two rows as the objective sees them, of which only the shapes
      matter; those of `data` if None, but augmentation may crop.
    start: changes the state before the first step of all.
    tensorboard: write TensorBoard events as well.
    profile: write a trace of the second interval, when all is compiled, to
      `run_dir`/profile.
    show_progress: show a bar, or lines.

  Returns:
    The final state.

  Raises:
    ValueError: sizes do not fit, the checkpoint is of another config, all
      checkpoints are damaged, or another process trains in `run_dir`.
    FloatingPointError: a metric, parameter or statistic is not finite.
    OSError: a file cannot be written, as on a full disk.
  """
  mesh = home = parallel.make_mesh(devices)
  if form == 'pipeline':
    # Only parts of the state are on the other devices.
    home = parallel.make_mesh(1)
  parallel.check_batch_size(batch_size, home.size, accumulate)
  if form == 'pmap' and jax.process_count() > 1:
    raise ValueError(
      f"parallel='pmap' maps over the devices of one process; these are "
      f"{jax.process_count()}: use parallel='jit'."
    )
  run_dir = os.fspath(run_dir)
  files.make_folder(run_dir)
  if not isinstance(data, stream.Stream) and any(
    isinstance(x, np.memmap) for x in data.values()
  ):
    data = stream.of_arrays(data)
  if isinstance(data, stream.Stream):
    num_examples = data.num_examples
    rows = data.read(np.arange(min(2, num_examples)))
  else:
    num_examples = len(next(iter(data.values())))
    rows = {name: values[:2] for name, values in data.items()}
  batches.batch_indices(
    seed, 0, 1, batch_size=batch_size, num_examples=num_examples
  )
  if example is None:
    example = rows
  init = functools.partial(step_lib.init_state, objective, optimizer)
  chunk = _guarded(
    make_chunk(
      objective,
      optimizer,
      mesh,
      form=form,
      augment=augment,
      accumulate=accumulate,
    )
  )
  writer = metrics.JsonLines(run_dir)
  is_writer = jax.process_index() == 0
  events = metrics.TensorBoard(run_dir) if tensorboard and is_writer else None
  with (
    lock.hold(run_dir),
    timing.Times() as times,
    checkpoint.Checkpoints(run_dir, keep, owner=True) as checkpoints,
    metrics.Progress(steps, batch_size, show_progress) as progress,
    _Preemption() as preemption,
    contextlib.ExitStack() as readers,
  ):
    with times.part('compile'):
      state = jax.jit(init)(example, jax.random.key(seed))
    if start is not None:
      state = start(state)
    state = parallel.replicate(state, home)
    if form == 'pipeline':
      state = pipeline.place(objective.stages, state, list(mesh.devices.flat))
    step = checkpoints.recover(progress.say) or 0
    if step:
      state = checkpoints.restore(state, step)
      times.resume(run_dir)
      progress.say(f'continuing {run_dir} at step {step} of {steps}')
    clock = metrics.Clock(writer.truncate(step) if is_writer else 0.0)
    if isinstance(data, stream.Stream):
      reader = data.batches(
        seed,
        step,
        steps - step,
        batch_size=batch_size,
        columns=_own_columns(batch_size, home),
      )
      # What it still reads ahead would keep a stopped process waiting.
      readers.callback(reader.close)
    else:
      resident = parallel.replicate(dict(data), home)
    tracer = timing.Tracer(run_dir if profile and is_writer else None)
    while step < steps:
      # Chunks end at multiples of log_every wherever the run began, so that a
      # resumed run compiles and rounds as an uninterrupted one does.
      count = min(log_every - step % log_every, steps - step)
      with tracer.interval(last=step + count == steps), times.part('step'):
        if isinstance(data, stream.Stream):
          state, values = _stream(
            chunk, state, reader, (count, batch_size), home, form, times
          )
        else:
          with times.part('data'):
            indices = batches.batch_indices(
              seed,
              step,
              count,
              batch_size=batch_size,
              num_examples=num_examples,
            )
            wanted = parallel.put_columns(indices, home)
          state, values = chunk(state, resident, wanted)
        numbers = _floats(values)
      if monitor is not None:
        with times.part('monitor'):
          watched = (state.params, state.model_state)
          if form == 'pipeline':
            watched = parallel.replicate(watched, home)
          numbers |= _floats(monitor(*watched))
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
        with times.part('save'):
          checkpoints.save(step, state)
        if is_writer:
          times.write(run_dir, step)
        clock.lap()
      if stop or step == steps:
        progress.say(timing.line(times.summary()))
      if stop and step < steps:
        progress.say(
          f'SIGTERM: saved step {step} of {steps}; the same command continues.'
        )
        raise SystemExit(128 + signal.SIGTERM)
  return parallel.replicate(state, home) if form == 'pipeline' else state


def _guarded(chunk: Callable[..., Any]) -> Callable[..., Any]:
  """`chunk`, which raises where the host would feed it unasked."""

  def run(*arguments: Any) -> Any:
    with jax.transfer_guard('disallow'):
      return chunk(*arguments)

  return run


def _floats(values: Mapping[str, jax.Array]) -> dict[str, float]:
  return {k: float(v) for k, v in jax.device_get(dict(values)).items()}


def _own_columns(batch_size: int, mesh: jax.sharding.Mesh) -> np.ndarray:
  """The positions in the global batch that this process's devices hold."""
  indices = parallel.columns(mesh).addressable_devices_indices_map(
    (1, batch_size)
  )
  own = [np.arange(batch_size)[index[1]] for index in indices.values() if index]
  return np.unique(np.concatenate(own))


def _stream(
  chunk: Callable[..., tuple[step_lib.TrainState, dict[str, jax.Array]]],
  state: step_lib.TrainState,
  reader: Iterator[dict[str, np.ndarray]],
  shape: tuple[int, int],
  mesh: jax.sharding.Mesh,
  form: str,
  times: timing.Times,
) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
  """The next [steps, batch] examples as a chunk, in parts that memory holds."""
  count, batch_size = shape
  spread = parallel.columns(mesh)
  with times.part('data'):
    read = [next(reader)]
  step_bytes = sum(x.nbytes for x in read[0].values()) * jax.process_count()
  # Parts of one size, so that they share one compiled program.
  parts = next(
    n
    for n in range(1, count + 1)
    if count % n == 0
    and (count // n * step_bytes <= STREAM_BYTES or n == count)
  )
  sums: list[dict[str, jax.Array]] = []
  for _ in range(parts):
    # Read while the devices still work on the part before.
    with times.part('data'):
      read += itertools.islice(reader, count // parts - len(read))
      rows = {name: np.stack([x[name] for x in read]) for name in read[0]}
      read = []
      # No more than two parts wait on the devices.
      jax.block_until_ready(sums[-2:-1])
    if form == 'pipeline':
      data = {k: x.reshape(-1, *x.shape[2:]) for k, x in rows.items()}
      positions = np.arange(count // parts * batch_size, dtype=np.int32)
      resident = parallel.replicate(data, mesh)
      wanted: Any = parallel.put_columns(
        positions.reshape(-1, batch_size), mesh
      )
    else:
      resident = {}
      wanted = {
        name: jax.make_array_from_process_local_data(
          spread, x, (len(x), batch_size, *x.shape[2:])
        )
        for name, x in rows.items()
      }
    state, values = chunk(state, resident, wanted)
    sums.append(values)
  return state, jax.tree.map(lambda *x: sum(x) / parts, *sums)


def _check_finite(
  numbers: Mapping[str, float],
  state: step_lib.TrainState,
  first: int,
  last: int,
) -> None:
  """Raises where a metric, a parameter or a statistic is not finite.

  The last step's metrics are of the parameters before its move, so that these
  are looked at too: a checkpoint of what broke could not be trained on.
  """
  bad = [name for name, value in numbers.items() if not math.isfinite(value)]
  watched = {'params': state.params, 'model_state': state.model_state}
  leaves = [
    (path, leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(watched)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  finite = _all_finite([leaf for _, leaf in leaves])
  broken = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for (path, _), ok in zip(leaves, finite, strict=True)
    if not ok
  ]
  if not bad and not broken:
    return
  parameters = (
    f'first bad tensor, by name: {broken[0]}, of {len(broken)}'
    if broken
    else 'all parameters are finite'
  )
  raise FloatingPointError(
    f'Between steps {first} and {last}, {", ".join(bad) or broken[0]} became '
    f'non-finite ({parameters}). Nothing of it was saved. Lower the learning '
    'rate, or clip (optimizer.clip).'
  )


def _all_finite(leaves: Sequence[jax.Array]) -> list[bool]:
  """Whether each is finite: one program for those on the same devices."""
  groups: dict[Any, list[int]] = {}
  for i, leaf in enumerate(leaves):
    groups.setdefault(leaf.sharding, []).append(i)
  found: dict[int, bool] = {}
  for group in groups.values():
    finite = jax.device_get(_finite([leaves[i] for i in group]))
    found |= dict(zip(group, finite.tolist(), strict=True))
  return [found[i] for i in range(len(leaves))]


@jax.jit
def _finite(leaves: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


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
