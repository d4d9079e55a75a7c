"""Critics, each with the bounds that may train it and the way it is read.

The separable critic g(x).h(y) scores all pairs of a batch for little more than
its rows, and finds smooth dependence of any dimension, of images too. The joint
critic, an MLP of x and y together, finds hard edges in few dimensions. Neither
is best everywhere, which is why `estimate_mi` fits both where both can be. The
third one is of the columns of x alone, for total correlation.

Inputs are float32 [n, columns], padded with columns of zeros, of which `size`
are real, or images [n, H, W, C]. Scores are of the density ratio's logarithm,
up to what their normalisation (`normalised`) removes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dim_jax.losses import bounds

PyTree = Any
UNITS, FEATURES, LAYERS = 64, 32, 3
JOINT_UNITS = 64
CHANNELS = (16, 32, 64)
# Negatives of a pair: y of the rows that so many steps later follow in a batch,
# and in a split that is measured.
TRAIN_SHIFTS, MEASURE_SHIFTS = 8, 128
# Sets of columns that are shifted apart to measure total correlation.
COLUMN_SETS = MEASURE_SHIFTS // 2
ROUNDS = 10

# What can train a critic; it is read in the same way whatever trained it.
BOUNDS = {
  'infonce': bounds.infonce,
  'donsker_varadhan': bounds.donsker_varadhan,
  'jsd': bounds.jsd,
  'nwj': bounds.nwj,
}


class Critic(NamedTuple):
  """A critic, and how it is trained and read.

  Attributes:
    init: `(key, shapes, sizes) -> params`, with the shape of a row of x and of
      y, and how many columns of each are real.
    bound: `(params, x, y, name) -> nats`, of a batch, to be maximised.
    measure: `(params, x, y, count) -> (pointwise, influence, state)` of a split
      of which the first `count` rows are real: its pointwise information [n],
      whose mean is the estimate, each row's influence on that mean [n], whose
      standard deviation over sqrt(count) is its standard error, and what
      `pointwise` needs.
    pointwise: `(params, state, x, y) -> [n]`, the same of other pairs.
    trained_by: names in BOUNDS, the default first.
    steps: to train on 10,000 pairs.
    batch_size: pairs a step.
    learning_rate: the highest.
    weight_decay: decoupled, times the learning rate.
  """

  init: Callable[..., PyTree]
  bound: Callable[..., jax.Array]
  measure: Callable[..., Any]
  pointwise: Callable[..., jax.Array]
  trained_by: tuple[str, ...]
  steps: int
  batch_size: int
  learning_rate: float
  weight_decay: float


def _normal(key: jax.Array, shape: tuple[int, ...], scale: Any) -> jax.Array:
  return jax.random.normal(key, shape) * scale


def _init_tower(
  key: jax.Array, columns: int, size: jax.Array, features: int = FEATURES
) -> PyTree:
  keys = jax.random.split(key, 5)
  square, width = (LAYERS, UNITS, UNITS), 1 / math.sqrt(UNITS)
  return {
    'in': _normal(keys[0], (columns, UNITS), lax.rsqrt(size)),
    'bias': jnp.zeros(UNITS),
    'hidden': _normal(keys[1], square, width),
    'hidden_bias': jnp.zeros((LAYERS, UNITS)),
    'add': _normal(keys[2], square, 0.5 * width),
    'gate': _normal(keys[3], square, 0.1 * width),
    # Scores start near zero: large ones, of heavy tails, never recover.
    'out': _normal(keys[4], (UNITS, features), 0.1 * width),
  }


def _tower(params: PyTree, x: jax.Array) -> jax.Array:
  """Returns features [n, FEATURES]: residual layers, each with a gate."""
  if 'filters' in params:
    x = _convolved(params, x)
  z = x @ params['in'] + params['bias'][None]
  for i in range(LAYERS):
    h = z @ params['hidden'][i] + params['hidden_bias'][i][None]
    h = jax.nn.silu(h)
    z = z * (1 + h @ params['gate'][i]) + h @ params['add'][i]
  return z @ params['out']


def _init_image_tower(key: jax.Array, shape: tuple[int, ...]) -> PyTree:
  """Returns a tower whose columns are what convolutions make of an image."""
  keys = jax.random.split(key, len(CHANNELS) + 1)
  filters, (height, width, channels) = [], shape
  for k, out in zip(keys[1:], CHANNELS, strict=True):
    taps = 9 * channels
    filters.append(_normal(k, (taps, out), math.sqrt(2 / taps)))
    height, width, channels = -(-height // 2), -(-width // 2), out
  columns = height * width * channels
  tower = _init_tower(keys[0], columns, jnp.float32(columns))
  biases = [jnp.zeros(out) for out in CHANNELS]
  return tower | {'filters': filters, 'filter_bias': biases}


def _convolved(params: PyTree, x: jax.Array) -> jax.Array:
  """Returns columns of images, by 3x3 convolutions of stride 2.

  They are products of shifted images: of several seeds at once, inside of a
  loop, XLA's own convolutions take many times as long on a CPU.
  """
  for taps, bias in zip(params['filters'], params['filter_bias'], strict=True):
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
      x[:, i : i + height : 2, j : j + width : 2]
      for i in range(3)
      for j in range(3)
    ]
    x = jnp.concatenate(shifted, -1) @ taps
    x = jax.nn.relu(x + bias[None, None, None])
  return x.reshape(len(x), -1)


def _separable_init(
  key: jax.Array, shapes: tuple[Any, Any], sizes: tuple[Any, Any]
) -> PyTree:
  keys = jax.random.split(key)
  return {
    side: _init_image_tower(k, shape)
    if len(shape) == 3
    else _init_tower(k, shape[0], size)
    for side, k, shape, size in zip('xy', keys, shapes, sizes, strict=True)
  }


def _all_scores(params: PyTree, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns the scores of all pairs, [n, m]."""
  features = _tower(params['x'], x) / math.sqrt(FEATURES)
  return features @ _tower(params['y'], y).T


def _separable_bound(
  params: PyTree, x: jax.Array, y: jax.Array, name: str
) -> jax.Array:
  """Returns a bound; InfoNCE is the mean with anchors x and with anchors y."""
  scores = _all_scores(params, x, y)
  if name != 'infonce':
    return BOUNDS[name](*bounds.split_pairs(scores[:, :, None]))
  log_sums = [jnp.mean(jax.nn.logsumexp(scores, axis)) for axis in (0, 1)]
  joint = jnp.mean(jnp.diagonal(scores))
  return joint + math.log(len(x)) - (log_sums[0] + log_sums[1]) / 2


def normalised(
  scores: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns shifts of rows and columns that make scores log density ratios.

  By Sinkhorn's iteration, so that exp(scores + rows + columns) has a mean of
  one over each row and each column, as r has. With the exact critic this
  changes the mean of ln r by less than 0.001 (1,000 pairs), and it undoes what
  InfoNCE leaves free, c(x) and c(y).

  Args:
    scores: [n, n], of which the first `count` rows and columns are real.
    count: how many.

  Returns:
    The shifts of rows and of columns, [n] each, 0 where they are not real.

  References:
    Cuturi, Sinkhorn Distances, 2013: https://arxiv.org/abs/1306.0895
  """
  real = jnp.arange(len(scores)) < count
  both = real[:, None] & real[None]
  scores = jnp.where(both, scores, -jnp.inf)
  some = jnp.where(real, 0.0, 1.0)  # No logarithm of an empty sum.
  first = jnp.max(jnp.where(both, scores, -1e30), axis=1)
  first = jnp.where(real, first, 0.0)
  kernel = jnp.exp(scores - first[:, None])

  def round_(_: Any, shifts: tuple[jax.Array, jax.Array]) -> Any:
    rows, _ = shifts
    columns = count / (jnp.exp(rows) @ kernel + some)
    return -jnp.log(kernel @ columns / count + some), jnp.log(columns)

  rows = -jnp.log(jnp.sum(kernel, 1) / count + some)
  rows, columns = lax.fori_loop(0, ROUNDS, round_, (rows, jnp.zeros_like(rows)))
  return (rows - first) * real, columns * real


def _separable_measure(
  params: PyTree, x: jax.Array, y: jax.Array, count: jax.Array
) -> Any:
  scores = _all_scores(params, x, y)
  rows, columns = normalised(scores, count)
  pointwise = jnp.diagonal(scores) + rows + columns
  # The value is the maximum over shifts of what it estimates: to first order
  # they do not move it.
  state = {'x': x, 'y': y, 'rows': rows, 'columns': columns, 'count': count}
  return pointwise, pointwise, state


def _separable_pointwise(
  params: PyTree, state: PyTree, x: jax.Array, y: jax.Array
) -> jax.Array:
  real = jnp.arange(len(state['x'])) < state['count']
  left = _all_scores(params, x, state['y']) + state['columns'][None]
  right = _all_scores(params, state['x'], y) + state['rows'][:, None]
  count = jnp.log(state['count'])
  rows = count - jax.nn.logsumexp(left, 1, where=real[None])
  columns = count - jax.nn.logsumexp(right, 0, where=real[:, None])
  own = _tower(params['x'], x) * _tower(params['y'], y)
  return jnp.sum(own, 1) / math.sqrt(FEATURES) + rows + columns


def _joint_init(
  key: jax.Array, shapes: tuple[Any, Any], sizes: tuple[Any, Any]
) -> PyTree:
  keys = jax.random.split(key, 5)
  scale = math.sqrt(2) * lax.rsqrt(sizes[0] + sizes[1])
  square, width = (JOINT_UNITS, JOINT_UNITS), math.sqrt(2 / JOINT_UNITS)
  return {
    'x': _normal(keys[0], (*shapes[0], JOINT_UNITS), scale),
    'y': _normal(keys[1], (*shapes[1], JOINT_UNITS), scale),
    'hidden': jnp.stack([_normal(k, square, width) for k in keys[2:4]]),
    'bias': jnp.zeros((LAYERS, JOINT_UNITS)),
    'out': _normal(keys[4], (JOINT_UNITS, 1), 0.1 * width),
  }


def _joint_scores(params: PyTree, z: jax.Array) -> jax.Array:
  """Returns the scores [n] of sums [n, JOINT_UNITS] of both first layers."""
  z = jax.nn.relu(z + params['bias'][0][None])
  for i in range(LAYERS - 1):
    z = jax.nn.relu(z @ params['hidden'][i] + params['bias'][i + 1][None])
  return (z @ params['out'])[:, 0]


def _joint_bound(
  params: PyTree, x: jax.Array, y: jax.Array, name: str
) -> jax.Array:
  """Returns a bound, with shifted rows as negatives."""
  x, y = x @ params['x'], y @ params['y']
  shifted = [jnp.roll(y, i, 0) for i in range(TRAIN_SHIFTS + 1)]
  scores = _joint_scores(
    params, jnp.concatenate([x + other for other in shifted])
  )
  scores = scores.reshape(TRAIN_SHIFTS + 1, -1).T
  return BOUNDS[name](scores[:, :1], scores[:, 1:])


def _joint_measure(
  params: PyTree, x: jax.Array, y: jax.Array, count: jax.Array
) -> Any:
  n = len(x)
  x, y = x @ params['x'], y @ params['y']
  joint = _joint_scores(params, x + y)
  row = jnp.arange(n)
  real = row < count

  def of_shift(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    other = (row + shift) % count
    return jnp.where(real, _joint_scores(params, x + y[other]), -jnp.inf), other

  # Spread over the split, whatever its size.
  shifts = 1 + jnp.arange(MEASURE_SHIFTS) * (count - 1) // MEASURE_SHIFTS
  scores, others = lax.map(of_shift, shifts)
  log_mean = jax.nn.logsumexp(scores) - jnp.log(count * MEASURE_SHIFTS)
  ratios = jnp.exp(scores - log_mean) / MEASURE_SHIFTS
  of_x = jnp.sum(ratios, 0)
  of_y = jnp.zeros(n).at[others.reshape(-1)].add(ratios.reshape(-1))
  # The influence of a pair on E_p[T] - ln E_q[e^T], as x and as y of the
  # negatives too.
  influence = joint - log_mean - (of_x + of_y - 2)
  return joint - log_mean, influence, {'log_mean': log_mean}


def _joint_pointwise(
  params: PyTree, state: PyTree, x: jax.Array, y: jax.Array
) -> jax.Array:
  scores = _joint_scores(params, x @ params['x'] + y @ params['y'])
  return scores - state['log_mean']


def _independent(x: jax.Array, offsets: jax.Array, count: Any) -> jax.Array:
  """Returns rows whose columns come from rows that many places later each."""
  at = (jnp.arange(len(x))[:, None] + offsets[None]) % count
  return jnp.take_along_axis(x, at, axis=0)


def _offsets(sets: int, columns: int, count: Any) -> jax.Array:
  """Returns places [sets, columns], where a set has none twice if it can."""
  rng = np.random.default_rng(0)
  order = [rng.permutation(columns) for _ in range(sets)]
  at = (np.stack(order) + rng.random((sets, columns))) / columns
  return jnp.floor(jnp.asarray(at, jnp.float32) * count).astype(jnp.int32)


def _columns_init(
  key: jax.Array, shapes: tuple[Any, Any], sizes: tuple[Any, Any]
) -> PyTree:
  return _init_tower(key, shapes[0][0], sizes[0], features=1)


def _columns_bound(
  params: PyTree, x: jax.Array, y: jax.Array, name: str
) -> jax.Array:
  """Returns a bound on total correlation, with columns shifted apart."""
  del y
  offsets = _offsets(TRAIN_SHIFTS, x.shape[1], len(x))
  rows = [x, *(_independent(x, o, len(x)) for o in offsets)]
  scores = _tower(params, jnp.concatenate(rows)).reshape(len(rows), -1).T
  return BOUNDS[name](scores[:, :1], scores[:, 1:])


def _columns_measure(
  params: PyTree, x: jax.Array, y: jax.Array, count: jax.Array
) -> Any:
  del y
  real = jnp.arange(len(x)) < count
  joint = _tower(params, x)[:, 0]
  offsets = _offsets(COLUMN_SETS, x.shape[1], count)

  def of_set(offsets: jax.Array) -> jax.Array:
    scores = _tower(params, _independent(x, offsets, count))[:, 0]
    # One row whose score errs upwards would weigh more than all others. Those
    # with a ratio above n are rare, and add as little to the mean of 1.
    scores = jnp.minimum(scores, jnp.log(count))
    return jnp.where(real, scores, -jnp.inf)

  scores = lax.map(of_set, offsets)
  log_count = jnp.log(count * COLUMN_SETS)
  log_mean = jax.nn.logsumexp(scores) - log_count
  state = {'log_mean': log_mean, 'log_count': log_count}
  # With the best critic, the negatives that a row's columns are in weigh as
  # much as any others: to first order a row counts for its own score alone.
  pointwise = _log_ratio(joint, state)
  return pointwise, pointwise, state


def _log_ratio(scores: jax.Array, state: PyTree) -> jax.Array:
  """Returns scores less the log mean of the negatives and of each itself.

  Itself counts for one of the negatives, n COLUMN_SETS, and changes little, but
  without it a critic that no negative holds in check would show any number,
  where it now is at most the log of their number.
  """
  own = scores - state['log_count']
  return scores - jnp.logaddexp(own, state['log_mean'])


def _columns_pointwise(
  params: PyTree, state: PyTree, x: jax.Array, y: jax.Array
) -> jax.Array:
  del y
  return _log_ratio(_tower(params, x)[:, 0], state)


CRITICS = {
  'separable': Critic(
    _separable_init,
    _separable_bound,
    _separable_measure,
    _separable_pointwise,
    ('infonce', 'jsd', 'donsker_varadhan', 'nwj'),
    steps=1200,
    batch_size=256,
    learning_rate=2e-3,
    weight_decay=2.0,
  ),
  'joint': Critic(
    _joint_init,
    _joint_bound,
    _joint_measure,
    _joint_pointwise,
    # InfoNCE would leave c(x) free, which its few negatives cannot undo.
    ('donsker_varadhan', 'jsd', 'nwj'),
    steps=1500,
    batch_size=256,
    learning_rate=8e-3,
    weight_decay=0.01,
  ),
  'columns': Critic(
    _columns_init,
    _columns_bound,
    _columns_measure,
    _columns_pointwise,
    # The bounds with an exponential are thrown off by a few torn rows, by nats.
    ('jsd',),
    steps=1500,
    batch_size=256,
    learning_rate=2e-3,
    weight_decay=2.0,
  ),
}
# Those of pairs.
PAIR_CRITICS = ('separable', 'joint')
