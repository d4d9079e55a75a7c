"""One training step, a pure function.

The same `train_step` compiles under jit, where the batch is sharded over a mesh
and XLA inserts the collectives, and under pmap, where `axis_name` says so.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dim_jax import random
from dim_jax.losses import large_batches
from dim_jax.objective import Batch, Metrics, Objective, PyTree


class TrainState(NamedTuple):
  """Everything that a step changes; arrays only.

  Attributes:
    step: how many steps were taken, int32 [].
    params: parameters; the top-level keys are the parameter groups.
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


class AverageState(NamedTuple):
  """Of `polyak_average`.

  Attributes:
    steps: how many parameters were averaged, int32 [].
    average: the exponential moving average, which started at zero.
  """

  steps: jax.Array
  average: PyTree


def polyak_average(decay: float) -> optax.GradientTransformation:
  """Averages the parameters that the updates lead to; last in a chain.

  Args:
    decay: of the exponential moving average, a step.

  Returns:
    A transformation that leaves the updates alone.
  """

  def init(params: PyTree) -> AverageState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AverageState(jnp.zeros((), jnp.int32), zeros)

  def update(
    updates: PyTree, state: AverageState, params: PyTree
  ) -> tuple[PyTree, AverageState]:
    new = optax.apply_updates(params, updates)
    average = optax.incremental_update(new, state.average, 1 - decay)
    return updates, AverageState(state.steps + 1, average)

  return optax.GradientTransformation(init, update)


def clip_weights(bound: float) -> optax.GradientTransformation:
  """Cuts what the updates lead to off at a bound; last in a chain.

  Args:
    bound: no parameter's size exceeds it after the update, but for rounding.

  Returns:
    A transformation without state.

  References:
    Arjovsky et al., Wasserstein GAN, 2017, algorithm 1.
    https://arxiv.org/abs/1701.07875
  """

  def update(updates: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(
      lambda u, p: jnp.clip(p + u, -bound, bound) - p, updates, params
    )

  return optax.stateless(update)


def averaged_params(state: TrainState, decay: float | None) -> PyTree:
  """Returns the parameters to evaluate with.

  Args:
    state: of a run.
    decay: that of its `polyak_average`; None where it has none.

  Returns:
    The average, corrected for its start at zero (so after one step it is the
    parameters); the parameters themselves without one, or before any step.
  """
  if decay is None:
    return state.params
  steps, average = state.opt_state[-1]
  steps = steps.astype(jnp.float32)
  # Accurate for few steps at a decay near 1, where 1 - decay**steps is not.
  share = -jnp.expm1(steps * math.log(decay)) if decay else 1.0
  return jax.tree.map(
    lambda a, p: jnp.where(steps > 0, a / jnp.where(steps > 0, share, 1.0), p),
    average,
    state.params,
  )


def make_optimizer(
  default: Any,
  groups: Mapping[str, Any],
  names: Any,
  average: float | None = None,
  optional: Sequence[str] = (),
) -> Any:
  """Makes Adam for each parameter group by itself.

  Clipping happens inside of the partition: a norm over all groups would couple
  them.

  Args:
    default: an OptimizerConfig (learning_rate, decay, decay_every, b1, b2,
      weight_decay, clip, clip_weights, every) for the groups without one of
      their own.
    groups: those of single parameter groups, by name.
    names: the groups, the top-level keys of the parameters.
    average: decay of a moving average of all parameters; none if None.
    optional: groups that the objective has under other settings, whose
      optimizers stand ready; see `Objective.optional_groups`.

  Returns:
    An optax transformation of the parameter dictionary.

  Raises:
    ValueError: `groups` names one that does not exist.
  """
  names = sorted(names)
  if unknown := sorted(set(groups) - {*names, *optional}):
    raise ValueError(
      f'groups names {unknown[0]!r}, but this objective has {names}.'
    )
  adam = optax.partition(
    {name: _adam(groups.get(name, default)) for name in names},
    {name: name for name in names},
  )
  if average is None:
    return adam
  return optax.chain(adam, polyak_average(average))


def optimizer_of(config: Any, objective: Objective, names: Any) -> Any:
  """Makes the optimizer of a run.

  Args:
    config: its ExperimentConfig.
    objective: that of the config.
    names: the parameter groups, as `make_optimizer` takes them.
  """
  return make_optimizer(
    config.optimizer,
    config.groups,
    names,
    config.average,
    objective.optional_groups,
  )


def _adamw(
  learning_rate: Any, b1: float, b2: float, weight_decay: float
) -> optax.GradientTransformation:
  """Returns optax's, whose loop on a CPU keeps no second copy of the moments.

  Of a constant b1 = 0.5, XLA rewrites 0.5 g + 0.5 m as 0.5 (g + m), computes
  that twice, and so copies every old m in each step. A b1 that it cannot know
  for a constant gives the same numbers.
  """
  make = functools.partial(
    optax.adamw, learning_rate, b2=b2, weight_decay=weight_decay
  )
  if b1 != 0.5:
    return make(b1=b1)

  def update(
    updates: PyTree, state: PyTree, params: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    half = jnp.where(state[0].count < 0, 0.0, 0.5)
    return make(b1=half).update(updates, state, params)

  return optax.GradientTransformation(make(b1=0.5).init, update)


def _adam(config: Any) -> optax.GradientTransformation:
  learning_rate = config.learning_rate
  if config.decay != 1:
    learning_rate = optax.exponential_decay(
      learning_rate, config.decay_every, config.decay, staircase=True
    )
  adam = _adamw(learning_rate, config.b1, config.b2, config.weight_decay)
  if config.clip is not None:
    adam = optax.chain(optax.clip_by_global_norm(config.clip), adam)
  if config.clip_weights is not None:
    adam = optax.chain(adam, clip_weights(config.clip_weights))
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
  """Makes the state before the first step, a pure function of the key.

  Args:
    objective: the method.
    optimizer: as `make_optimizer` makes it.
    batch: an example batch, of which only the shapes matter.
    rng: `jax.random.key` of the run's seed. (A key that is a constant of the
      compiled program would have XLA draw all parameters while it compiles.)
  """
  init_rng, rng = jax.random.split(rng)
  with jax.numpy_dtype_promotion('standard'):
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
  accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
  """Takes one step of all parameter groups, from one backward pass.

  Args:
    state: the state before it.
    batch: the examples; under pmap, this device's part of them.
    objective: the method, made with the same `axis_name`.
    optimizer: as `make_optimizer` makes it.
    axis_name: the pmapped axis; None under jit.
    accumulate: into how many micro-batches the batch is split; see
      `accumulated`.

  Returns:
    The state after it, and the objective's metrics with 'loss', the sum of all
    groups' terms, which has no meaning of its own but must stay finite.

  Raises:
    ValueError: the batch does not divide into micro-batches.
  """
  rng = random.branch(state.rng, state.step)
  grad_fn: Any = jax.value_and_grad(objective.loss, has_aux=True)
  if accumulate != 1:
    grad_fn = accumulated(grad_fn, accumulate)
  (loss, (metrics, model_state)), grads = grad_fn(
    state.params, state.model_state, batch, rng
  )
  if axis_name is not None:
    # Each device holds the global loss and the gradient through its own
    # examples times the number of devices (an all-gather's transpose sums over
    # them), so the mean is the gradient of the global loss.
    grads = jax.lax.pmean(grads, axis_name)
  # Adam's bias correction mixes dtypes, which 'strict' would refuse.
  with jax.numpy_dtype_promotion('standard'):
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      model_state=model_state,
      opt_state=opt_state,
      rng=state.rng,
    )
  return new_state, metrics | {'loss': loss}


def accumulated(
  grad_fn: Callable[[PyTree, PyTree, Batch, jax.Array], Any], count: int
) -> Callable[[PyTree, PyTree, Batch, jax.Array], Any]:
  """Averages the gradients of micro-batches, one after another.

  Of a loss that is a mean over examples this is the gradient of the batch. A
  contrastive loss sees the negatives of one micro-batch alone, and batch
  normalisation its statistics; see `accumulation_note`.

  Args:
    grad_fn: `value_and_grad` of an objective's loss.
    count: k, how many micro-batches. The i-th has the rows i, i + k, i + 2k,
      ..., a share of every device's, and draws from `fold_in(rng, i)`.

  Returns:
    A function as `grad_fn`. Loss, metrics and gradient are means over the
    micro-batches, which are of one size; where labels are unknown (-1), one
    without any adds nothing to a mean over known ones, and counts. Each
    micro-batch starts from the model state that the one before left, but for
    single numbers, which are a step's: whole ones count steps and change once,
    others, such as a multiplier that is learned, change by the mean of what
    each micro-batch changes them by.
  """

  def is_of_step(x: jax.Array) -> bool:
    return x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.number)

  def after(each: jax.Array) -> jax.Array:
    whole = jnp.issubdtype(each.dtype, jnp.integer)
    return each[-1] if whole else each.mean(0)

  def run(params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array):
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % count:
      raise ValueError(
        f'accumulate={count}: {size} examples on a device do not divide into '
        'so many micro-batches; change accumulate or batch_size.'
      )

    def body(carry: Any, inputs: Any) -> Any:
      entered, total = carry
      i, part = inputs
      (loss, (metrics, left)), grads = grad_fn(
        params, entered, part, random.branch(rng, i)
      )
      numbers = [x for x in jax.tree.leaves(left) if is_of_step(x)]
      entered = jax.tree.map(
        lambda old, new: old if is_of_step(new) else new, entered, left
      )
      total = jax.tree.map(jnp.add, total, grads)
      return (entered, total), (loss, metrics, numbers)

    start = model_state, jax.tree.map(jnp.zeros_like, params)
    inputs = jnp.arange(count), large_batches.split(dict(batch), count)
    (left, total), (losses, metrics, numbers) = jax.lax.scan(
      body, start, inputs
    )
    moved = map(after, numbers)
    left = jax.tree.map(lambda x: next(moved) if is_of_step(x) else x, left)
    metrics = jax.tree.map(lambda x: x.mean(0), metrics)
    grads = jax.tree.map(lambda x: x / count, total)
    return (losses.mean(), (metrics, left)), grads

  return run


def accumulation_note(
  objective: Objective, batch: Mapping[str, Any], accumulate: int
) -> str | None:
  """Describes what accumulation does to the negatives, in a line.

  Args:
    objective: the method.
    batch: the global one, of which only the shapes matter.
    accumulate: into how many micro-batches it is split.

  Returns:
    The line; None where nothing changes: no micro-batches, a loss without
    negatives, or negatives of no more examples than a micro-batch.
  """

  def sized(parts: int) -> dict[str, Any]:
    return {
      k: jax.ShapeDtypeStruct((x.shape[0] // parts, *x.shape[1:]), x.dtype)
      for k, x in batch.items()
    }

  if accumulate == 1:
    return None
  of_batch = objective.negatives(sized(1))
  size = next(iter(sized(accumulate).values())).shape[0]
  if not of_batch or (objective.negatives_of or math.inf) <= size:
    return None
  terms = []
  for name, (count, ceiling) in objective.negatives(sized(accumulate)).items():
    least, most = of_batch[name]
    if count == least:
      terms.append(f'{name} {count:,}, drawn from fewer')
      continue
    term = f'{name} {count:,} instead of {least:,}'
    if ceiling is not None and most is not None and ceiling != most:
      term += f', ceiling {ceiling:.2f} nats instead of {most:.2f}'
    terms.append(term)
  return (
    f'accumulate={accumulate}: the negatives of an anchor come from its own '
    f'micro-batch of {size}: {"; ".join(terms)}.'
  )
