"""One training step, pure, and its jit and pmap forms.

The same `train_step` compiles under jit, where the batch is sharded over a mesh
and XLA inserts the collectives, and under pmap, where `axis_name` says so.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.training import parallel


class TrainState(NamedTuple):
  """Everything that a step changes; arrays only.

  Attributes:
    step: how many steps were taken, int32 [].
    params: parameters; the top-level keys are the players.
    model_state: running statistics and the like.
    opt_state: the optimizer's state.
    rng: the run's key. Step t draws from `fold_in(rng, t)`; the key itself
      never changes.
  """

  step: jax.Array
  params: PyTree
  model_state: PyTree
  opt_state: PyTree
  rng: jax.Array


StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_optimizer(default: Any, players: Mapping[str, Any], names: Any) -> Any:
  """Adam for each player by itself.

  Clipping happens inside of the partition: a norm over all players would couple
  them.

  Args:
    default: an OptimizerConfig (learning_rate, b1, b2, weight_decay, clip,
      every) for the players without one of their own.
    players: those of single players, by name.
    names: the players, the top-level keys of the parameters.

  Returns:
    An optax transformation of the whole parameter dictionary.

  Raises:
    ValueError: `players` names one that does not exist.
  """
  names = sorted(names)
  # The online probe is there on request, and an adversary only with a prior:
  # an optimizer set for one that this objective lacks is not a mistake.
  known = {*names, 'probe', 'adversary'}
  if unknown := sorted(set(players) - known):
    raise ValueError(
      f'players names {unknown[0]!r}, but this objective has {names}.'
    )
  return optax.partition(
    {name: _adam(players.get(name, default)) for name in names},
    {name: name for name in names},
  )


def _adam(config: Any) -> optax.GradientTransformation:
  adam = optax.adamw(
    config.learning_rate,
    b1=config.b1,
    b2=config.b2,
    weight_decay=config.weight_decay,
  )
  if config.clip is not None:
    adam = optax.chain(optax.clip_by_global_norm(config.clip), adam)
  if config.every > 1:
    adam = optax.conditionally_mask(
      adam, lambda step, **_: step % config.every == 0
    )
  return adam


def init_state(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  batch: Batch,
  rng: jax.Array,
) -> TrainState:
  """The state before the first step, a pure function of the key.

  Args:
    objective: the method.
    optimizer: as `make_optimizer` makes it.
    batch: an example batch, of which only the shapes matter.
    rng: `jax.random.key` of the run's seed. (A key that is a constant of the
      compiled program would have XLA draw all parameters while it compiles.)
  """
  init_rng, rng = jax.random.split(rng)
  params, model_state = objective.init(init_rng, batch)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    opt_state=optimizer.init(params),
    rng=rng,
  )


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
  """One step of all players, from one backward pass.

  Args:
    state: the state before it.
    batch: the examples; under pmap, this device's part of them.
    objective: the method, made with the same `axis_name`.
    optimizer: as `make_optimizer` makes it.
    axis_name: the pmapped axis; None under jit.

  Returns:
    The state after it, and the objective's metrics with 'loss', the sum of all
    players' terms, which has no meaning of its own but must stay finite.
  """
  rng = jax.random.fold_in(state.rng, state.step)
  grad_fn = jax.value_and_grad(objective.loss, has_aux=True)
  (loss, (metrics, model_state)), grads = grad_fn(
    state.params, state.model_state, batch, rng
  )
  if axis_name is not None:
    # Each device holds the global loss and the gradient through its own
    # examples times the number of devices (an all-gather's transpose sums over
    # them), so the mean is the gradient of the global loss.
    grads = jax.lax.pmean(grads, axis_name)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  new_state = TrainState(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    model_state=model_state,
    opt_state=opt_state,
    rng=state.rng,
  )
  return new_state, metrics | {'loss': loss}


def jit_step(step: StepFn, mesh: jax.sharding.Mesh) -> StepFn:
  """`step` compiled over a mesh: state replicated and donated, batch sharded.

  Args:
    step: `train_step` with its objective and optimizer.
    mesh: one axis, 'data', that the batch is split over.
  """
  replicated, split = parallel.shardings(mesh)
  return jax.jit(
    step,
    in_shardings=(replicated, split),
    out_shardings=(replicated, replicated),
    donate_argnums=0,
  )


def pmap_step(step: StepFn, devices: int) -> StepFn:
  """`step` compiled under pmap, with the signature of the jit form.

  Args:
    step: `train_step` with objective, optimizer and axis_name='data'.
    devices: how many devices the batch is split over.
  """
  mapped = jax.pmap(
    step, axis_name='data', in_axes=(None, 0), out_axes=(None, None)
  )

  def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    return mapped(
      state,
      jax.tree.map(
        lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), batch
      ),
    )

  return run
