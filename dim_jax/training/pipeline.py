"""Gradient-isolated modules, each on a device of its own.

Where no gradient passes between two modules (gradient isolation), the step of
one needs nothing of the next but to be done before it. So each stage, a segment
of isolated modules, lives on one device with its parameters and its optimizer's
state, and takes its step there:

  device 0   batch 0   batch 1   batch 2   batch 3
  device 1             batch 0   batch 1   batch 2
  device 2                       batch 0   batch 1

The features of a batch go on to the next device; nothing comes back. The host
waits for nothing: it dispatches all of this, as far ahead as `_ahead`, and the
devices work at once. No backpropagation means no bubble between forward and
backward passes, and no stale parameters either: each stage sees the features
that joint training would show it, and draws the same random numbers, so the
result is that of joint training on one device. The slowest stage sets the pace.

Each device needs the memory of its own stages alone, and of the few batches of
features that wait for it. Stages beyond the number of devices share them in
turns.

The state between chunks of steps is an ordinary `TrainState`, of which each
part is left on its stage's device: `split` and `merge` only sort its leaves.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dim_jax.objective import Batch, Objective, PyTree, Stage
from dim_jax.training import step as step_lib

# (data, state, indices of the examples [batch]) -> the batch of state.step.
Draw = Callable[[Batch, step_lib.TrainState, jax.Array], dict[str, jax.Array]]


def check(objective: Objective) -> None:
  """Raises ValueError where an objective cannot be trained as a pipeline."""
  if not objective.stages:
    raise ValueError(
      "parallel='pipeline' needs an objective of isolated modules, such as "
      "Greedy InfoMax: use 'jit' or 'pmap' for this one."
    )
  if jax.process_count() > 1:
    raise ValueError(
      "parallel='pipeline' runs in one process, on its devices; there are "
      f"{jax.process_count()} processes: use 'jit'."
    )


def place(
  stages: Sequence[Stage],
  state: step_lib.TrainState,
  devices: Sequence[jax.Device],
) -> step_lib.TrainState:
  """Moves each stage's part of a state to the stage's device.

  Args:
    stages: of the objective.
    state: on any devices.
    devices: of the stages, in turns.

  Returns:
    The state; what belongs to no stage, such as the step, is on the first.

  Raises:
    ValueError: a parameter belongs to no stage.
  """
  unassigned = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
    if _owner(stages, path) is None
  ]
  if unassigned:
    raise ValueError(
      f'parameter {unassigned[0]} belongs to no stage; they have '
      f'{[stage.names for stage in stages]}.'
    )

  def put(path: Any, leaf: jax.Array) -> jax.Array:
    return jax.device_put(
      leaf, devices[(_owner(stages, path) or 0) % len(devices)]
    )

  return jax.tree_util.tree_map_with_path(put, state)


def split(
  stages: Sequence[Stage],
  optimizer: optax.GradientTransformation,
  state: step_lib.TrainState,
  devices: Sequence[jax.Device],
) -> list[step_lib.TrainState]:
  """Makes a state for each stage, on its device, without the others' parts.

  Those are `optax.MaskedNode`s, which hold no arrays, so that the optimizer of
  all parameter groups does for each stage's.

  Args:
    stages: of the objective.
    optimizer: one that couples no two stages.
    state: of all; what is already where it belongs is taken over.
    devices: of the stages, in turns.
  """
  leaves = dict(jax.tree_util.tree_leaves_with_path(state))

  def part(number: int) -> step_lib.TrainState:
    def keep(path: Any, leaf: Any) -> Any:
      mine = _owner(stages, path) in (None, number)
      return leaf if mine else optax.MaskedNode()

    params, model_state = jax.tree_util.tree_map_with_path(
      keep, (state.params, state.model_state)
    )
    opt_state = jax.eval_shape(optimizer.init, params)
    template = state._replace(
      params=params, model_state=model_state, opt_state=opt_state
    )

    def put(path: Any, _: Any) -> jax.Array:
      # A step counter is in all parts, each of which is donated by itself.
      own = _owner(stages, path) == number
      device = devices[number % len(devices)]
      return jax.device_put(leaves[path], device, may_alias=own)

    return jax.tree_util.tree_map_with_path(put, template)

  return [part(number) for number in range(len(stages))]


def merge(
  stages: Sequence[Stage],
  parts: Sequence[step_lib.TrainState],
  template: step_lib.TrainState,
) -> step_lib.TrainState:
  """Inverts `split`; nothing is copied.

  Args:
    stages: of the objective.
    parts: their states.
    template: the structure of the state; its arrays may be gone.
  """
  leaves = [dict(jax.tree_util.tree_leaves_with_path(part)) for part in parts]
  return jax.tree_util.tree_map_with_path(
    lambda path, _: leaves[_owner(stages, path) or 0][path], template
  )


def make_dispatch(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  devices: Sequence[jax.Device],
  draw: Draw,
) -> Callable[
  [step_lib.TrainState, Batch, jax.Array],
  tuple[step_lib.TrainState, dict[str, jax.Array]],
]:
  """Compiles the step of each stage; the host dispatches many at a time.

  Args:
    objective: the method, which has stages.
    optimizer: as `make_optimizer` makes it. Nothing in it may depend on two
      stages at once, as a norm of the probe's gradient would.
    devices: of the stages, in turns.
    draw: the examples of a step, on the first device.

  Returns:
    `(state, data, indices [steps, batch]) -> (state, metrics)`, as
    `loop.make_chunk` makes them. Data and indices are on the first device; the
    state may be anywhere, is donated, and comes back as `place` would have it.
    Metrics are on the first device.

  Raises:
    ValueError: the objective has no stages, or there are several processes.
  """
  check(objective)
  stages = objective.stages
  steps = [
    jax.jit(
      stage_step(objective, optimizer, number, None if number else draw),
      donate_argnums=0,
    )
    for number in range(len(stages))
  ]

  def chunk(
    state: step_lib.TrainState, data: Batch, indices: jax.Array
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    parts = split(stages, optimizer, state, devices)
    first = jax.device_put(parts[0].step, devices[0], may_alias=False)
    source = jax.device_put((data, indices, first), devices[0])
    values: list[list[Any]] = [[] for _ in stages]
    running: collections.deque[Any] = collections.deque()
    for _ in range(indices.shape[0]):
      entered: Any = source
      for number, step in enumerate(steps):
        entered = jax.device_put(entered, devices[number % len(devices)])
        parts[number], metrics, entered = step(parts[number], entered)
        values[number].append(metrics)
      running.append(metrics)
      if len(running) > _ahead(len(stages)):
        jax.block_until_ready(running.popleft())
    merged = merge(stages, parts, state)
    means = jax.device_put([_means(metrics) for metrics in values], devices[0])
    return merged, _sum(means)

  return chunk


def _ahead(stages: int) -> int:
  """Batches under way at once: enough to keep all devices busy.

  A device that is faster than the next one would otherwise fill the memory of
  that with features.
  """
  return 2 * stages


def _owner(stages: Sequence[Stage], path: Any) -> int | None:
  """The stage that the first name on a leaf's path belongs to, if any."""
  for key in path:
    if isinstance(key, jax.tree_util.DictKey):
      for number, stage in enumerate(stages):
        if key.key in stage.names:
          return number
  return None


def stage_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  number: int,
  draw: Draw | None,
) -> Callable[
  [step_lib.TrainState, Any],
  tuple[step_lib.TrainState, dict[str, jax.Array], Any],
]:
  """Makes the step of one stage.

  Args:
    objective: the method, which has stages.
    optimizer: of all parameter groups.
    number: of the stage.
    draw: as of `make_dispatch`, for the first stage; None for another.

  Returns:
    `(state, entered) -> (state, metrics, (features, labels))`, the last being
    what the next stage enters, None of the last stage. The first stage enters
    (data, indices, the step of the first row of indices).
  """
  stage = objective.stages[number]
  is_last = number == len(objective.stages) - 1

  def loss(
    params: PyTree, model_state: PyTree, both: Any, rng: jax.Array
  ) -> tuple[jax.Array, tuple[dict[str, Any], PyTree]]:
    entered, labels = both
    value, (metrics, new_state, features) = stage.loss(
      params, model_state, entered, labels, rng
    )
    return value, ({'metrics': metrics, 'features': features}, new_state)

  def step(
    state: step_lib.TrainState, entered: Any
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array], Any]:
    if draw is not None:
      data, indices, first = entered
      rows = jax.tree.map(lambda x: x[state.step - first], indices)
      batch = draw(data, state, rows)
      entered = (batch, batch.get('label'))
    # Features are no metrics, but leave the step beside them.
    results: Any = step_lib.train_step(
      state,
      entered,
      objective=objective._replace(loss=loss),
      optimizer=optimizer,
    )
    new_state, values = results
    passed_on = None if is_last else (values['features'], entered[1])
    return new_state, values['metrics'] | {'loss': values['loss']}, passed_on

  return step


@jax.jit
def _means(values: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  return jax.tree.map(lambda *x: jnp.stack(x).mean(0), *values)


@jax.jit
def _sum(parts: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  """The metrics of all stages, with the sum of their losses."""
  together = {name: x for part in parts for name, x in part.items()}
  return together | {'loss': jnp.stack([part['loss'] for part in parts]).sum()}
