"""Fits critics to pairs: one compiled program for a whole fit.

Shapes are padded, so that a fit of other pairs of about the same size and width
runs the same program. What is real, how long to train and how fast are
arguments of it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dim_jax.evaluation.information.critics import CRITICS

PyTree = Any
# Steps between measurements on the selection split, by how many pairs there are
# to fit at least: few are learned by heart soon.
BLOCKS = {4000: 100, 0: 25}
# Training ends where so many steps were no better.
PATIENCE = 400
WARM_UP = 100
AVERAGE = 0.99
MOST_BLOCKS = 48
# The joint critic is for few columns of x and y together.
MOST_JOINT_COLUMNS = 4


class Split(NamedTuple):
  """Pairs as critics see them.

  Attributes:
    x: float32 [rows, columns], padded with zeros.
    y: likewise.
    size: how many rows are real, the first ones, int32.
  """

  x: jax.Array
  y: jax.Array
  size: jax.Array


class Fit(NamedTuple):
  """A critic fitted to pairs, for each of S seeds.

  Attributes:
    params: of the critic, leaves [S, ...]: the moving average that did best on
      the selection split.
    later: that of WARM_UP steps later, which has adapted more to the pairs.
    selected: nats on the selection split, [S].
    history: nats on the selection split, [S, measurements], NaN where training
      had ended.
    training: the mean bound of the steps before, likewise.
  """

  params: PyTree
  later: PyTree
  selected: jax.Array
  history: jax.Array
  training: jax.Array


def pad(x: np.ndarray, y: np.ndarray) -> Split:
  """Pads pairs to sizes that many tasks share.

  Rows to a multiple of an eighth of the next power of two, so by a quarter at
  most, and columns to a power of two, at least 4; images keep their size.

  Args:
    x: [n, columns] or [n, H, W, C], and
    y: likewise.
  """
  n = len(x)
  unit = max(64, 2 ** (max(n - 1, 1).bit_length() - 3))
  rows = -(-n // unit) * unit - n

  def padded(z: np.ndarray) -> jax.Array:
    after = [(0, rows)] + [(0, 0)] * (z.ndim - 1)
    if z.ndim == 2:
      columns = max(4, 2 ** math.ceil(math.log2(z.shape[1])))
      after[1] = (0, columns - z.shape[1])
    return jnp.asarray(np.pad(z, after), jnp.float32)

  return Split(padded(x), padded(y), jnp.int32(n))


def block_for(count: int) -> int:
  """Returns how many steps lie between measurements.

  Args:
    count: pairs to fit.
  """
  return next(steps for least, steps in BLOCKS.items() if count >= least)


def blocks_for(name: str, count: int, columns: int) -> int:
  """Returns how many times `block_for` steps to train, fewer for fewer pairs.

  Args:
    name: of CRITICS.
    count: pairs to fit.
    columns: of x and y together, as they came.
  """
  fraction = min(max(count / 9000, 0.3), 3.0)
  if name == 'separable' and columns <= MOST_JOINT_COLUMNS:
    fraction /= 2  # It finds smooth curves in few dimensions soon.
  steps = max(400, round(CRITICS[name].steps * fraction, -2))
  return round(steps / block_for(count))


@functools.partial(jax.jit, static_argnames=('name', 'bound', 'block'))
def fit(
  name: str,
  bound: str,
  block: int,
  train: Split,
  select: Split,
  sizes: tuple[jax.Array, ...],
  keys: jax.Array,
  settings: dict[str, jax.Array],
) -> Fit:
  """Fits a critic with each of several seeds and settings.

  Args:
    name: of CRITICS.
    bound: of those that may train it.
    block: steps between measurements.
    train: the pairs to fit, and
    select: those on which the moving average of parameters is measured.
    sizes: how many columns of x and of y are real.
    keys: [S].
    settings: how many 'blocks' to train at most, up to MOST_BLOCKS;
      'learning_rate' and 'weight_decay', [S] each.

  Returns:
    The fit, whose history has MOST_BLOCKS entries.
  """

  def of_seed(key: jax.Array, settings: dict[str, jax.Array]) -> Fit:
    optimizer = _optimizer(settings, settings['blocks'] * block)
    init_key, steps_key = jax.random.split(key)
    shapes = (train.x.shape[1:], train.y.shape[1:])
    params = CRITICS[name].init(init_key, shapes, sizes)
    value = functools.partial(CRITICS[name].bound, name=bound)
    step = _step(value, train, CRITICS[name].batch_size, steps_key, optimizer)

    def trained(carry: Any) -> Any:
      inner, (best, later), (top, at), history, index = carry
      first = index * block
      inner, values = lax.scan(step, inner, first + jnp.arange(block))
      value, _, _ = measured(name, inner[2], select)
      better = value > top
      best = _where(better, inner[2], best)
      top, at = jnp.where(better, value, top), jnp.where(better, index, at)
      later = _where((index - at) * block <= WARM_UP, inner[2], later)
      history = [
        h.at[index].set(v)
        for h, v in zip(history, (value, values.mean()), strict=True)
      ]
      return inner, (best, later), (top, at), history, index + 1

    def goes_on(carry: Any) -> jax.Array:
      _, _, (_, at), _, index = carry
      return (index < settings['blocks']) & (index - at <= PATIENCE // block)

    state = (params, optimizer.init(params), params)
    nothing = [jnp.full(MOST_BLOCKS, jnp.nan)] * 2
    top = (jnp.float32(-jnp.inf), 0)
    start = (state, (params, params), top, nothing, 0)
    _, (best, later), (selected, _), history, _ = lax.while_loop(
      goes_on, trained, start
    )
    return Fit(best, later, selected, *history)

  return jax.vmap(of_seed)(keys, settings)


def _where(condition: jax.Array, this: PyTree, other: PyTree) -> PyTree:
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, other)


def _optimizer(
  settings: dict[str, jax.Array], steps: jax.Array
) -> optax.GradientTransformation:
  """Makes Adam with decoupled decay, a warm-up and a cosine over `steps`."""

  def rate(step: jax.Array) -> jax.Array:
    warm = jnp.minimum(step / WARM_UP, 1.0)
    fallen = (1 + jnp.cos(jnp.pi * step / steps)) / 2
    return settings['learning_rate'] * warm * (0.02 + 0.98 * fallen)

  return optax.adamw(rate, weight_decay=settings['weight_decay'])


def _step(
  bound: Callable[..., jax.Array],
  train: Split,
  batch_size: int,
  key: jax.Array,
  optimizer: optax.GradientTransformation,
) -> Callable[[Any, jax.Array], Any]:
  """Returns a step of a scan over (params, optimizer state, average)."""

  def step(carry: Any, index: jax.Array) -> Any:
    params, state, average = carry
    rows = jax.random.randint(
      jax.random.fold_in(key, index), (batch_size,), 0, train.size
    )
    value, gradient = jax.value_and_grad(bound)(
      params, train.x[rows], train.y[rows]
    )
    descent = jax.tree.map(jnp.negative, gradient)
    updates, state = optimizer.update(descent, state, params)
    params = optax.apply_updates(params, updates)
    # The first steps of the average weigh equally, so that none starts it.
    decay = jnp.minimum(AVERAGE, (1 + index) / (10 + index))
    average = optax.incremental_update(params, average, 1 - decay)
    return (params, state, average), value

  return step


def measured(
  name: str, params: PyTree, split: Split
) -> tuple[jax.Array, jax.Array, PyTree]:
  """Returns a critic's estimate of a split, its influences, and its state.

  Args:
    name: of CRITICS.
    params: of one seed.
    split: the pairs.

  Returns:
    Nats; the influence of each row on it less their mean, [rows], 0 of padding;
    and what `pointwise` needs.
  """
  values, influence, state = CRITICS[name].measure(params, *split)
  real = jnp.arange(len(split.x)) < split.size
  centred = influence - jnp.mean(influence, where=real)
  return jnp.mean(values, where=real), jnp.where(real, centred, 0.0), state


@functools.partial(jax.jit, static_argnames='name')
def measure(name: str, params: PyTree, split: Split) -> Any:
  """Measures the critics of all seeds, one after another.

  Returns:
    Estimates in nats [S], the mean influence of each row [rows], and the states
    that `pointwise` needs.
  """
  values, influences, states = lax.map(
    lambda params: measured(name, params, split), params
  )
  return values, influences.mean(0), states


@functools.partial(jax.jit, static_argnames='name')
def pointwise(
  name: str, params: PyTree, states: PyTree, x: jax.Array, y: jax.Array
) -> jax.Array:
  """Returns the mean of the seeds' pointwise information, [n]."""
  return jnp.mean(
    jax.vmap(lambda p, s: CRITICS[name].pointwise(p, s, x, y))(params, states),
    axis=0,
  )
