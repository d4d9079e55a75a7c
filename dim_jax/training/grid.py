"""Many runs in one compiled program: a grid over seeds and model state.

What tells the runs apart is data, not code: the key of each, and arrays of
their model state, such as the bottleneck's 'beta'. So a sweep compiles once.
Run r of a grid is the run that `fit` makes of the same seed and value, but for
rounding.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dim_jax.data import batches
from dim_jax.objective import Batch, Objective
from dim_jax.training import step as step_lib

Chunk = Callable[
  [step_lib.TrainState, Batch, jax.Array],
  tuple[step_lib.TrainState, dict[str, jax.Array]],
]


def init_states(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  seeds: Sequence[int],
  model_state: Mapping[str, Sequence[float]],
) -> step_lib.TrainState:
  """The states of R runs before their first step.

  Args:
    objective: the method.
    optimizer: as `make_optimizer` makes it.
    batch: an example batch, of which only the shapes matter.
    seeds: of each run, R of them.
    model_state: for names of the model state, the value of each run.

  Returns:
    A `TrainState` whose leaves have a leading axis of R runs.

  Raises:
    ValueError: a name is not in the model state, or lengths differ.
  """
  rngs = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
  init = jax.vmap(
    lambda rng: step_lib.init_state(objective, optimizer, batch, rng)
  )
  states = jax.jit(init)(rngs)
  values = dict(states.model_state)
  for name, column in model_state.items():
    if name not in values:
      raise ValueError(
        f'No {name!r} in the model state: this objective has {sorted(values)}.'
      )
    if len(column) != len(seeds):
      raise ValueError(
        f'{len(seeds)} seeds, but {len(column)} values of {name!r}: give one '
        'of each for every run.'
      )
    values[name] = jnp.asarray(column, values[name].dtype)
  return states._replace(model_state=values)


def make_chunk(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  accumulate: int = 1,
) -> Chunk:
  """Compiles many steps of all runs as one scan, under `vmap`.

  Args:
    objective: the method.
    optimizer: as `make_optimizer` makes it.
    accumulate: into how many micro-batches a step splits its batch.

  Returns:
    `(states, data, indices [R, steps, batch]) -> (states, metrics)`; metrics
    are averages over the steps, shape [R]. The states are donated.
  """

  def one(
    state: step_lib.TrainState, data: Batch, indices: jax.Array
  ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
    def body(
      state: step_lib.TrainState, rows: jax.Array
    ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
      batch = {name: values[rows] for name, values in data.items()}
      return step_lib.train_step(
        state,
        batch,
        objective=objective,
        optimizer=optimizer,
        accumulate=accumulate,
      )

    state, values = jax.lax.scan(body, state, indices)
    return state, jax.tree.map(lambda x: x.mean(0), values)

  return jax.jit(jax.vmap(one, in_axes=(0, None, 0)), donate_argnums=0)


def batch_indices(
  seeds: Sequence[int],
  step: int,
  count: int,
  *,
  batch_size: int,
  num_examples: int,
) -> np.ndarray:
  """Which examples form the next steps of each run, as `fit` orders them.

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
