r"""Mutual information by scores, to compare with critics.

With noise predicted twice at each log signal-to-noise ratio, broadly (of x, or
of x and y together) and narrowly (of x given y, or of either given the other),
all of it is an integral over that ratio:

.. math::
  I = \tfrac{1}{2} \int E \|\hat\epsilon_{broad} - \hat\epsilon_{narrow}\|^2
  d\gamma

for the best predictions. That of predictions which are not the best can be read
in three ways (`READ_OUTS`), which agree for the best, so that their difference
shows what was not learned.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dim_jax import checks
from dim_jax.evaluation.information import denoisers, inputs, rows
from dim_jax.evaluation.information import fit as fitting
from dim_jax.evaluation.information.outcome import TWO_SIDED_95, standard_error

PyTree = Any
# Of noise: `(role, noised, clean, log_snr) -> (of x, of y)`, as
# `denoisers.predict` without its parameters.
Predict = Callable[..., tuple[jax.Array, jax.Array]]
STEPS = 8000
BLOCKS = 20
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 256, 2e-3, 0.3, 100
PROPOSAL = 1.5
DECAY = 1000
# The average weighs the last tenth of all steps so far.
AVERAGE_POWER = 10
# Noise levels of a row, each with a noise and its opposite.
SELECTION_DRAWS, REPORT_DRAWS, POINTWISE_DRAWS = 8, 32, 64
READ_OUTS = ('difference', 'sigma', 'nll')


class Form(NamedTuple):
  """Which predictions an estimate is of, and how it is read.

  Attributes:
    broad: roles of `denoisers.ROLES`, and
    narrow: those that know more of the same sides.
    read_outs: two of READ_OUTS; the first is the value.
  """

  broad: tuple[str, ...]
  narrow: tuple[str, ...]
  read_outs: tuple[str, str]


FORMS = {
  'conditional': Form(('x',), ('x_given_y',), ('difference', 'sigma')),
  'joint': Form(('both',), ('x_given_y', 'y_given_x'), ('difference', 'sigma')),
  'mmse': Form(('x',), ('x_given_y',), ('nll', 'difference')),
}


def read(
  predict: Predict,
  form: Form,
  sides: tuple[jax.Array, jax.Array],
  real: tuple[jax.Array, jax.Array],
  key: jax.Array,
  draws: int,
) -> dict[str, jax.Array]:
  r"""Reads the information of rows off predictions, in each of three ways.

  With u the broad prediction, v the narrow one and :math:`g = b z` that for a
  unit Gaussian, the integrands are 'difference' :math:`\|u - v\|^2`, 'sigma'
  :math:`\|v - g\|^2 - \|u - g\|^2`, the difference of two entropies from a
  Gaussian's, and 'nll' :math:`\|\epsilon - u\|^2 - \|\epsilon - v\|^2`, the
  difference of two mean squared errors. Both predictions see the same noise,
  and its opposite too, so that most of its variance cancels.

  Args:
    predict: predicts noise.
    form: which predictions to compare.
    sides: x and y, [n, columns] each.
    real: which columns of each are real, 0 or 1.
    key: of the noise.
    draws: noise levels of each row.

  Returns:
    Nats of each row, [n], by name in READ_OUTS; their means estimate the
    information, and those of 'nll' are pointwise information.
  """
  n, width = len(sides[0]), (denoisers.HIGH - denoisers.LOW) / draws
  key, offset_key = jax.random.split(key)
  offsets = jax.random.uniform(offset_key, (n,))

  def integrands(noise: tuple[jax.Array, jax.Array], level: jax.Array) -> Any:
    noised = tuple(
      denoisers.channel(side, e, level)
      for side, e in zip(sides, noise, strict=True)
    )

    def predicted(roles: tuple[str, ...]) -> jax.Array:
      each = [predict(role, noised, sides, level) for role in roles]
      return _noised_of(roles, each)

    u, v = predicted(form.broad), predicted(form.narrow)
    at = _noised_of(form.broad, [noised] * len(form.broad))
    g = denoisers.scales(level)[1][:, None] * at
    e = _noised_of(form.broad, [noise] * len(form.broad))
    mask = _noised_of(form.broad, [tuple(r[None] for r in real)])
    each = (
      (u - v) ** 2,
      (v - u) * (u + v - 2 * g),
      (v - u) * (2 * e - u - v),
    )
    return jnp.stack([jnp.sum(z * mask, 1) for z in each])

  def of_draw(total: jax.Array, index: jax.Array) -> Any:
    level = denoisers.LOW + width * (index + offsets)
    noise = _noise(jax.random.fold_in(key, index), sides, real)
    opposite = (-noise[0], -noise[1])
    pair = integrands(noise, level) + integrands(opposite, level)
    return total + width * pair / 4, None

  total, _ = lax.scan(of_draw, jnp.zeros((3, n)), jnp.arange(draws))
  return dict(zip(READ_OUTS, total, strict=True))


def _noise(
  key: jax.Array,
  sides: tuple[jax.Array, jax.Array],
  real: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  of_x, of_y = (
    jax.random.normal(k, side.shape) * mask[None]
    for k, side, mask in zip(jax.random.split(key), sides, real, strict=True)
  )
  return of_x, of_y


def _noised_of(
  roles: tuple[str, ...], each: Sequence[tuple[jax.Array, jax.Array]]
) -> jax.Array:
  """Returns what belongs to the noised sides of roles, side by side."""
  parts = [
    side
    for role, sides in zip(roles, each, strict=True)
    for side, used in zip(sides, denoisers.ROLES[role].noised, strict=True)
    if used
  ]
  return jnp.concatenate(parts, 1)


class Fit(NamedTuple):
  """A network fitted to pairs, for each of S seeds.

  Attributes:
    params: the moving average with the least error on the selection split,
      leaves [S, ...].
    halfway: likewise, among the first half of the steps.
    history: on the selection split after each of BLOCKS blocks, [S, BLOCKS], by
      name: the mean squared 'error' of noise, and READ_OUTS in nats.
  """

  params: PyTree
  halfway: PyTree
  history: dict[str, jax.Array]


@functools.partial(jax.jit, static_argnames=('form', 'units'))
def fit(
  form: Form,
  units: int,
  train: fitting.Split,
  select: fitting.Split,
  sizes: tuple[jax.Array, jax.Array],
  keys: jax.Array,
  block: jax.Array,
) -> Fit:
  """Fits a network with each of several seeds, in one program.

  The learning rate is constant and the average's reach grows with the steps, so
  that a fit is the beginning of any longer one with the same seed.

  Args:
    form: which roles to train.
    units: width of the network.
    train: the pairs to fit, and
    select: those on which the moving average is measured.
    sizes: how many columns of x and of y are real.
    keys: [S].
    block: steps between measurements, int32; a fit has BLOCKS times as many.
  """
  columns = train.x.shape[1] + train.y.shape[1]
  real = _real(train, sizes)

  def of_seed(key: jax.Array) -> Fit:
    init_key, steps_key, noise_key = jax.random.split(key, 3)
    params = denoisers.init(init_key, columns, sizes[0] + sizes[1], units)
    optimizer = optax.adamw(
      lambda step: LEARNING_RATE * jnp.minimum(step / WARM_UP, 1.0) / jnp.sqrt(jnp.maximum(step / DECAY, 1.0)),
      weight_decay=WEIGHT_DECAY,
    )
    step = _step(form, train, real, steps_key, optimizer)

    def trained(carry: Any, index: jax.Array) -> Any:
      inner, best, halfway, least = carry
      inner = lax.fori_loop(index * block, (index + 1) * block, step, inner)
      history = _measured(form, inner[2], select, real, noise_key)
      better = history['error'] < least
      best = jax.tree.map(lambda a, b: jnp.where(better, a, b), inner[2], best)
      least = jnp.minimum(least, history['error'])
      early = index < BLOCKS // 2
      halfway = jax.tree.map(
        lambda a, b: jnp.where(early, a, b), best, halfway
      )
      return (inner, best, halfway, least), history

    state = (params, optimizer.init(params), params)
    start = (state, params, params, jnp.float32(jnp.inf))
    (_, best, halfway, _), history = lax.scan(
      trained, start, jnp.arange(BLOCKS)
    )
    return Fit(best, halfway, history)

  return jax.vmap(of_seed)(keys)


def _real(
  split: fitting.Split, sizes: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  of_x, of_y = (
    (jnp.arange(side.shape[1]) < size).astype(jnp.float32)
    for side, size in zip(split[:2], sizes, strict=True)
  )
  return of_x, of_y


def _errors(
  params: PyTree,
  form: Form,
  sides: tuple[jax.Array, jax.Array],
  real: tuple[jax.Array, jax.Array],
  noise: tuple[jax.Array, jax.Array],
  level: jax.Array,
) -> jax.Array:
  """Returns each row's squared error of noise a column, over all roles."""
  noised = tuple(
    denoisers.channel(side, e, level)
    for side, e in zip(sides, noise, strict=True)
  )
  roles = form.broad + form.narrow
  each = [denoisers.predict(params, r, noised, sides, level) for r in roles]
  difference = _noised_of(roles, each) - _noised_of(roles, [noise] * len(roles))
  mask = _noised_of(roles, [tuple(r[None] for r in real)] * len(roles))
  return jnp.sum(difference**2 * mask, 1) / jnp.sum(mask)


def _step(
  form: Form,
  train: fitting.Split,
  real: tuple[jax.Array, jax.Array],
  key: jax.Array,
  optimizer: optax.GradientTransformation,
) -> Callable[[jax.Array, Any], Any]:
  """Returns a step of a loop over (params, optimizer state, average)."""

  def loss(params: PyTree, key: jax.Array) -> jax.Array:
    rows_key, level_key, noise_key = jax.random.split(key, 3)
    at = jax.random.randint(rows_key, (BATCH_SIZE,), 0, train.size)
    sides = (train.x[at], train.y[at])
    # One noise level of each of as many equal ranges as there are rows.
    part = (jnp.arange(BATCH_SIZE) + jax.random.uniform(level_key)) / BATCH_SIZE
    level = denoisers.LOW + (denoisers.HIGH - denoisers.LOW) * part
    if PROPOSAL:
      lo, hi = (jax.nn.sigmoid((l - 1) / PROPOSAL) for l in (denoisers.LOW, denoisers.HIGH))
      q = lo + (hi - lo) * part
      level = 1 + PROPOSAL * (jnp.log(q) - jnp.log1p(-q))
    noise = _noise(noise_key, sides, real)
    # All roles see the same rows and noise: their errors differ by less.
    return jnp.mean(_errors(params, form, sides, real, noise, level))

  def step(index: jax.Array, carry: Any) -> Any:
    params, state, average = carry
    gradient = jax.grad(loss)(params, jax.random.fold_in(key, index))
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    # Karras et al. 2024, eq. 127: https://arxiv.org/abs/2312.02696
    decay = (1 - 1 / (index + 1.0)) ** AVERAGE_POWER
    average = optax.incremental_update(params, average, 1 - decay)
    return params, state, average

  return step


def _measured(
  form: Form,
  params: PyTree,
  split: fitting.Split,
  real: tuple[jax.Array, jax.Array],
  key: jax.Array,
) -> dict[str, jax.Array]:
  """Returns the means over a split of errors and read-outs."""
  sides, n = (split.x, split.y), len(split.x)
  counted = jnp.arange(n) < split.size
  predict = functools.partial(denoisers.predict, params)
  values = read(predict, form, sides, real, key, SELECTION_DRAWS)

  def error(index: jax.Array) -> jax.Array:
    level_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
    level = jax.random.uniform(
      level_key, (n,), minval=denoisers.LOW, maxval=denoisers.HIGH
    )
    noise = _noise(noise_key, sides, real)
    return _errors(params, form, sides, real, noise, level)

  values['error'] = lax.map(error, jnp.arange(SELECTION_DRAWS)).mean(0)
  return {k: jnp.mean(v, where=counted) for k, v in values.items()}
