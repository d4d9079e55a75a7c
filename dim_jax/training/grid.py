"""Several runs in one compiled program: a grid over seeds and model state.

What sets the runs apart is data, not code: the key of each, and arrays of their
model state, such as the bottleneck's 'beta'. So a sweep compiles once. Run r of
a grid is the run that `loop.fit` makes of the same seed and value alone, but
for rounding. Devices share the runs out: each trains its own, and they send
one another nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from dim_jax.data import batches
from dim_jax.objective import Batch, Objective
from dim_jax.training import parallel
from dim_jax.training import step as step_lib


class Runs(NamedTuple):
  """What sets the runs of a grid apart.

  Attributes:
    seeds: of each run, R of them; equal seeds see the same order of examples.
    model_state: for names of the model state, the value of each run.
    compiled: gets each compiled program before it runs.
  """

  seeds: Sequence[int]
  model_state: Mapping[str, Sequence[float]] = {}
  compiled: Callable[[Any], None] | None = None

  def name(self, number: int) -> str:
    """Names a run in a message, such as 'beta 0.01, seed 2'."""
    values = [f'{key} {x[number]:g}' for key, x in self.model_state.items()]
    return ', '.join([*values, f'seed {self.seeds[number]}'])


def make_mesh(runs: Runs, devices: int | None = None) -> Mesh:
  """Chooses as many devices as divide the runs evenly.

  Args:
    runs: R of them.
    devices: use at most this many; all of them if None.

  Raises:
    ValueError: there are not so many devices, or they are of several processes.
  """
  if jax.process_count() > 1:
    raise ValueError(
      'several runs in one program are of one process; these are '
      f'{jax.process_count()}: start one.'
    )
  most, count = parallel.make_mesh(devices).size, len(runs.seeds)
  return parallel.make_mesh(
    max(n for n in range(1, most + 1) if count % n == 0)
  )


def placement(runs: Runs, mesh: Mesh, devices: int | None = None) -> str:
  """Says which devices train how many runs.

  Args:
    runs: R of them.
    mesh: as `make_mesh` chose it.
    devices: of how many.
  """
  count, known = len(runs.seeds), devices or len(jax.devices())
  each = count // mesh.size
  return f'{count} runs on {mesh.size} of {known} devices, {each} on each'


def place(tree: Any, mesh: Mesh) -> Any:
  """Shares arrays with a leading axis of R runs out over the devices."""
  _, split = parallel.shardings(mesh)
  return jax.device_put(tree, split)


def mapped(chunk: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
  """Maps `chunk`, of a state, data and indices, over the runs.

  Args:
    chunk: of one run.
    mesh: the devices; each maps over its own runs, with all the data.

  Returns:
    `chunk` of states and indices with a leading axis of R runs.
  """
  over_runs = jax.vmap(chunk, in_axes=(0, None, 0))
  if mesh.size > 1:
    each = PartitionSpec('data')
    over_runs = jax.shard_map(
      over_runs,
      mesh=mesh,
      in_specs=(each, PartitionSpec(), each),
      out_specs=each,
      check_vma=False,
    )
  return jax.jit(over_runs, donate_argnums=0)


def init_states(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  runs: Runs,
) -> step_lib.TrainState:
  """Draws the states of R runs before their first step.

  Args:
    objective: the method.
    optimizer: as `make_optimizer` makes it.
    batch: an example batch, of which only the shapes matter.
    runs: what sets them apart.

  Returns:
    A `TrainState` whose leaves have a leading axis of R runs.

  Raises:
    ValueError: a name is not in the model state, or lengths differ.
  """
  rngs = jax.vmap(jax.random.key)(jnp.asarray(runs.seeds, jnp.uint32))
  init = jax.vmap(
    lambda rng: step_lib.init_state(objective, optimizer, batch, rng)
  )
  states = jax.jit(init)(rngs)
  if not runs.model_state:
    return states
  values = dict(states.model_state)
  for name, column in runs.model_state.items():
    if name not in values:
      raise ValueError(
        f'No {name!r} in the model state: this objective has {sorted(values)}.'
      )
    if len(column) != len(runs.seeds):
      raise ValueError(
        f'{len(runs.seeds)} seeds, but {len(column)} values of {name!r}: give '
        'one of each for every run.'
      )
    values[name] = jnp.asarray(column, values[name].dtype)
  return states._replace(model_state=values)


def batch_indices(
  seeds: Sequence[int],
  step: int,
  count: int,
  *,
  batch_size: int,
  num_examples: int,
) -> np.ndarray:
  """Orders the examples of the next steps of each run, as if it were alone.

  Args:
    seeds: of each run; equal seeds see the same order.
    step: steps taken.
    count: steps to take.
    batch_size: examples a step and run.
    num_examples: size of the data set.

  Returns:
    int32, shape [R, count, batch_size].
  """
  orders = {
    seed: batches.batch_indices(
      seed, step, count, batch_size=batch_size, num_examples=num_examples
    )
    for seed in set(seeds)
  }
  return np.stack([orders[seed] for seed in seeds])
