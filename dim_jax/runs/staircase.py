"""Bounds on mutual information, trained while the truth climbs in steps.

Pairs are drawn anew at every step, x ~ N(0, I) and y = rho x + sqrt(1 - rho^2)
e, or its elementwise cube, which shares as much with x. A critic trains by one
bound on batches of them, and goes on training as the information steps from
level to level. One compiled program serves all levels.

The protocol, its networks and their initialisation are those of Poole et al.,
On Variational Bounds of Mutual Information, 2019,
https://arxiv.org/abs/1905.06922, with the three hidden layers that Song and
Ermon have, Understanding the Limitations of Variational Mutual Information
Estimators, 2020, https://arxiv.org/abs/1910.06222.
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dim_jax import checks, files
from dim_jax.losses import bottleneck, bounds
from dim_jax.networks import critics, layers

PyTree = Any
# Steps of one call, between which progress is reported.
_CHUNK = 500


class Protocol(NamedTuple):
  """What a staircase is climbed with.

  Attributes:
    steps: of each level.
    batch_size: fresh pairs of a step, of which all others are negatives.
    size: columns of x, and of y.
    units: of each of the three hidden layers of a network.
    embedding: what the separable critic multiplies.
    baseline_units: of each of the two hidden layers of a baseline.
    learning_rate: of Adam.
  """

  steps: int = 4000
  batch_size: int = 64
  size: int = 20
  units: int = 256
  embedding: int = 32
  baseline_units: int = 512
  learning_rate: float = 5e-4


PROTOCOL = Protocol()


class Scored(NamedTuple):
  """A batch of N pairs, as bounds see it.

  Attributes:
    pairs: positive [N, 1], negative [N, N] and where [N, N]; anchors are y.
    side: [N] nats of each y: the log baseline, or the log density of a marginal
      model; zeros where there is neither.
    log_average: what `bounds.mine` keeps, a scalar.
  """

  pairs: tuple[jax.Array, jax.Array, jax.Array]
  side: jax.Array
  log_average: jax.Array


class Method(NamedTuple):
  """What is maximised, and what is reported of the same scores.

  Attributes:
    objective: `Scored -> (nats, log_average)`.
    readings: by name, `Scored -> nats`.
    baseline: whether a baseline of y is learned too.
  """

  objective: Callable[[Scored], tuple[jax.Array, jax.Array]]
  readings: dict[str, Callable[[Scored], jax.Array]]
  baseline: bool = False


def _of_pairs(bound: Callable[..., jax.Array], **settings: Any) -> Any:
  return lambda scored: bound(*scored.pairs, **settings)


def _maximised(reading: Callable[[Scored], jax.Array]) -> Any:
  return lambda scored: (reading(scored), scored.log_average)


def _method(name: str, reading: Any, *, baseline: bool = False) -> Method:
  """Returns a method that reports what it maximises."""
  return Method(_maximised(reading), {name: reading}, baseline)


def _with_baseline(bound: Callable[..., jax.Array], **settings: Any) -> Any:
  return lambda scored: bound(
    *scored.pairs[:2], scored.side, scored.pairs[2], **settings
  )


def _regularised(scored: Scored, weight: float = 0.1) -> jax.Array:
  """Computes Donsker-Varadhan less weight (ln mean e^T)^2, to train by.

  The batch's bound alone has no maximum. Let T be c on a set A of pairs, 0
  elsewhere: the mean of positives grows as c p(A), while the log mean grows
  only in those batches of which a negative falls into A. These are rarer than
  p(A) where the density ratio in A exceeds the number of negatives, which
  positive pairs reach as soon as the information nears ln N(N - 1). The square
  grows as c^2 in the batches that do fall into A, so c stays finite. It costs
  the bound nothing in the limit of large batches, where the best critic is free
  to have a log mean of 0. In small ones it pulls to smaller scores: at 6.93
  nats the separable critic reads 5.11, and without any penalty 5.29
  (`experiments/results/staircase_separable.json`).

  References:
    Choi and Lee, Combating the Instability of Mutual Information-based Losses
    via Regularization, 2022. https://arxiv.org/abs/2011.07932
  """
  value = bounds.donsker_varadhan(*scored.pairs)
  log_mean = jnp.mean(scored.pairs[0]) - value
  return value - weight * jnp.square(log_mean)


def _mine(scored: Scored) -> tuple[jax.Array, jax.Array]:
  positive, negative, where = scored.pairs
  return bounds.mine(positive, negative, scored.log_average, where)


def _likelihood(scored: Scored) -> jax.Array:
  return jnp.mean(scored.pairs[0]) + jnp.mean(scored.side)


_DV = _of_pairs(bounds.donsker_varadhan)
# Of a critic.
METHODS: dict[str, Method] = {
  'infonce': _method('infonce', _of_pairs(bounds.infonce)),
  'jsd': Method(
    _maximised(_of_pairs(bounds.jsd)),
    {
      'jsd_nwj': _of_pairs(bounds.jsd_nwj),
      # Low by 1/e: what several published implementations report.
      'jsd_nwj_unshifted': _of_pairs(bounds.nwj),
      'jsd_donsker_varadhan': _DV,
      'jsd_smile_1': _of_pairs(bounds.smile, limit=1.0),
      'jsd_smile_5': _of_pairs(bounds.smile, limit=5.0),
    },
  ),
  'donsker_varadhan': Method(
    _maximised(_regularised), {'donsker_varadhan': _DV}
  ),
  'nwj': _method('nwj', _of_pairs(bounds.nwj)),
  'mine': Method(_mine, {'mine': _DV}),
  'donsker_varadhan_unregularised': _method(
    'donsker_varadhan_unregularised', _DV
  ),
  'tuba': _method('tuba', _with_baseline(bounds.tuba), baseline=True),
  'interpolated_0.01': _method(
    'interpolated_0.01',
    _with_baseline(bounds.interpolated, alpha=0.01),
    baseline=True,
  ),
  'interpolated_0.5': _method(
    'interpolated_0.5',
    _with_baseline(bounds.interpolated, alpha=0.5),
    baseline=True,
  ),
  # Of the conditional model alone: Gaussian q(y | x) and q(y), by likelihood.
  'likelihood': Method(
    _maximised(_likelihood),
    {
      'club': _of_pairs(bounds.club),
      'difference_of_entropies': lambda scored: bounds.difference_of_entropies(
        scored.pairs[0][:, 0], scored.side
      ),
    },
  ),
}
CRITICS = ('separable', 'conditional', 'joint')


def methods_of(critic: str) -> tuple[str, ...]:
  """Returns the names in METHODS that a name of CRITICS can train by."""
  checks.check_choice('critic', critic, CRITICS)
  density = critic == 'conditional'
  return tuple(name for name in METHODS if (name == 'likelihood') == density)


class State(NamedTuple):
  """What training changes."""

  params: PyTree
  optimizer: PyTree
  log_average: jax.Array


def _init_mlp(key: jax.Array, *sizes: int) -> list[dict[str, jax.Array]]:
  return [
    {
      'kernel': layers.torch_uniform()(k, (before, after), jnp.float32),
      'bias': layers.torch_bias(before)(k, (after,), jnp.float32),
    }
    for k, before, after in zip(
      jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True
    )
  ]


def _mlp(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
  """Returns [N, K] of `x` [N, D], with ReLU between layers."""
  for i, layer in enumerate(params):
    x = (jax.nn.relu(x) if i else x) @ layer['kernel'] + layer['bias'][None]
  return x


def _joint(protocol: Protocol) -> critics.ConcatCritic:
  return critics.ConcatCritic(units=protocol.units, depth=3)


def init(critic: str, method: str, protocol: Protocol, seed: int) -> State:
  """Initialises a critic, the baseline of a method, and Adam.

  Args:
    critic: in CRITICS.
    method: in METHODS.
    protocol: sizes.
    seed: of the networks.

  Raises:
    ValueError: there is no such critic, or it does not train by the method.
  """
  checks.check_choice(
    f'the method of a {critic} critic', method, methods_of(critic)
  )
  keys = jax.random.split(jax.random.key(seed), 3)
  size, hidden = protocol.size, (protocol.units,) * 3
  rows = jnp.zeros((2, 1, size))
  params: dict[str, Any] = {}
  if critic == 'joint':
    params = dict(_joint(protocol).init(keys[0], rows, rows))
  elif critic == 'separable':
    for side, key in zip('xy', keys[:2], strict=True):
      params[side] = _init_mlp(key, size, *hidden, protocol.embedding)
  else:
    params['conditional'] = _init_mlp(keys[0], size, *hidden, 2 * size)
    params['marginal'] = jnp.zeros(2 * size)
  if METHODS[method].baseline:
    units = (protocol.baseline_units,) * 2
    params['baseline'] = _init_mlp(keys[2], size, *units, 1)
  memory = optax.adam(protocol.learning_rate).init(params)
  return State(params, memory, jnp.float32(-jnp.inf))


def scores(
  critic: str, params: PyTree, x: jax.Array, y: jax.Array, protocol: Protocol
) -> jax.Array:
  """Scores all pairs of a batch.

  Args:
    critic: in CRITICS.
    params: of `State`.
    x: [N, D].
    y: likewise.
    protocol: sizes.

  Returns:
    [N, N], row i for y i and column j for x j; of the conditional model log
    q(y | x).
  """
  if critic == 'joint':
    variables = {'params': params['params']}
    return _joint(protocol).apply(variables, x[:, None], y[:, None])[:, :, 0]
  if critic == 'separable':
    return _mlp(params['y'], y) @ _mlp(params['x'], x).T
  mean, log_std = jnp.split(_mlp(params['conditional'], x)[None], 2, axis=-1)
  return bottleneck.log_normal(y[:, None], mean, log_std)


def _side(params: PyTree, y: jax.Array) -> jax.Array:
  if 'baseline' in params:
    return _mlp(params['baseline'], y)[:, 0]
  if 'marginal' in params:
    mean, log_std = jnp.split(params['marginal'][None], 2, axis=-1)
    return bottleneck.log_normal(y, mean, log_std)
  return jnp.zeros(len(y))


def sample(
  key: jax.Array, information: Any, cubic: Any, protocol: Protocol
) -> tuple[jax.Array, jax.Array]:
  """Draws a batch (x, y), [N, D] each, that shares so many nats a pair."""
  shape = (2, protocol.batch_size, protocol.size)
  x, noise = jax.random.normal(key, shape)
  unexplained = jnp.exp(-2 * jnp.asarray(information) / protocol.size)
  y = jnp.sqrt(1 - unexplained) * x + jnp.sqrt(unexplained) * noise
  return x, jnp.where(cubic, y**3, y)


@functools.partial(
  jax.jit, static_argnames=('critic', 'method', 'protocol', 'count')
)
def _advance(
  critic: str,
  method: str,
  protocol: Protocol,
  count: int,
  state: State,
  key: jax.Array,
  first: jax.Array,
  information: jax.Array,
  cubic: jax.Array,
) -> tuple[State, jax.Array]:
  """Trains `count` steps; returns readings too, [count, readings]."""
  optimizer = optax.adam(protocol.learning_rate)
  objective, readings, _ = METHODS[method]

  def loss(
    params: PyTree, x: jax.Array, y: jax.Array, log_average: jax.Array
  ) -> Any:
    pairs = bounds.split_pairs(
      scores(critic, params, x, y, protocol)[..., None]
    )
    scored = Scored(pairs, _side(params, y), log_average)
    value, log_average = objective(scored)
    read = jnp.stack([reading(scored) for reading in readings.values()])
    return -value, (read, log_average)

  def step(state: State, index: jax.Array) -> tuple[State, jax.Array]:
    x, y = sample(jax.random.fold_in(key, index), information, cubic, protocol)
    (_, (read, log_average)), gradient = jax.value_and_grad(loss, has_aux=True)(
      state.params, x, y, state.log_average
    )
    updates, memory = optimizer.update(gradient, state.optimizer)
    params = optax.apply_updates(state.params, updates)
    return State(params, memory, log_average), read

  return lax.scan(step, state, first + jnp.arange(count))


def train(
  critic: str,
  method: str,
  levels: Sequence[float],
  protocol: Protocol = PROTOCOL,
  *,
  cubic: bool = False,
  seed: int = 0,
  path: str | None = None,
  update: Callable[[int], None] = lambda steps: None,
) -> dict[str, np.ndarray]:
  """Climbs a staircase with one critic and one bound.

  Args:
    critic: in CRITICS.
    method: in `methods_of` it.
    levels: the information of each level in nats, 0 or more.
    protocol: how long, and sizes.
    cubic: whether y is cubed.
    seed: of networks and pairs.
    path: a .npz file that training goes on from, if it is there, and that is
      written after each level; its settings must have been the same.
    update: is told how many steps are done.

  Returns:
    The value of each batch before its step in nats, by reading,
    [levels, steps].

  Raises:
    ValueError: an argument is not accepted.
  """
  for level in levels:
    checks.check_range('a level', level, '[0, inf)')
  state = init(critic, method, protocol, seed)
  key = jax.random.fold_in(jax.random.key(seed), 1)
  done: list[np.ndarray] = []
  if path and os.path.exists(path):
    state, done = _read(path, state)
  chunk = math.gcd(protocol.steps, _CHUNK)
  for i in range(len(done), len(levels)):
    values = []
    for first in range(i * protocol.steps, (i + 1) * protocol.steps, chunk):
      update(first)
      state, read = _advance(
        critic, method, protocol, chunk, state, key,
        jnp.int32(first), jnp.float32(levels[i]), jnp.asarray(cubic),
      )  # fmt: skip
      values.append(np.asarray(read))
    done.append(np.concatenate(values))
    if path:
      _write(path, state, done)
  update(len(levels) * protocol.steps)
  stacked = np.stack(done)
  names = METHODS[method].readings
  return {name: stacked[:, :, i] for i, name in enumerate(names)}


def _write(path: str, state: State, done: Sequence[np.ndarray]) -> None:
  leaves = enumerate(jax.tree.leaves(state))
  arrays = {f'leaf_{i}': np.asarray(leaf) for i, leaf in leaves}
  files.write_arrays(path, {'values': np.stack(done), **arrays})


def _read(path: str, like: State) -> tuple[State, list[np.ndarray]]:
  with np.load(path) as file:
    leaves, structure = jax.tree.flatten(like)
    state = [jnp.asarray(file[f'leaf_{i}']) for i in range(len(leaves))]
    return jax.tree.unflatten(structure, state), list(file['values'])


def summary(
  curve: np.ndarray, levels: Sequence[float]
) -> list[dict[str, float]]:
  """Summarises a reading by its batches in the second half of each level.

  Args:
    curve: one reading, [levels, steps].
    levels: in nats.

  Returns:
    For each level its 'truth', and 'mean', 'std' and 'median' of the batches.
  """
  halves = curve[:, curve.shape[1] // 2 :].astype(np.float64)
  return [
    {
      'truth': float(level),
      'mean': float(h.mean()),
      'std': float(h.std()),
      'median': float(np.median(h)),
    }
    for level, h in zip(levels, halves, strict=True)
  ]
