r"""Mutual information by scores, to compare with critics.

With noise predicted twice at each log signal-to-noise ratio, broadly (of x, or
of x and y together) and narrowly (of x given y, or of either given the other),
the information is an integral over that ratio,

.. math::
  I = \tfrac{1}{2} \int E \|\hat\epsilon_{broad} - \hat\epsilon_{narrow}\|^2
  d\gamma

if both are the best there are. Predictions can be read in three ways
(`READ_OUTS`), which agree for the best ones, so that their difference shows
what was not learned.
"""

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dim_jax import checks
from dim_jax.evaluation.information import denoisers, inputs, rows
from dim_jax.evaluation.information import fit as fitting
from dim_jax.evaluation.information.outcome import (
  TWO_SIDED_95,
  standard_error,
  std_of_seeds,
)

PyTree = Any
# What there is of x and of y.
Pair = tuple[jax.Array, jax.Array]
# Of noise: `(role, noised, clean, log_snr) -> (of x, of y)`, as
# `denoisers.predict` without its parameters.
Predict = Callable[..., Pair]
STEPS, BLOCKS, BATCH_SIZE = 8000, 20, 256
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.3, 100
# From here on the learning rate falls with the root of the steps.
FALLS_FROM = 1000
# The average weighs about the last tenth of all steps so far.
AVERAGE_POWER = 10
# Training sees log signal-to-noise ratios of a logistic law, where most of what
# there is to learn is: at high ones little but noise is seen.
CENTRE, SCALE = 1.0, 1.5
# Noise levels of a row, each with a noise and its opposite.
SELECTION_DRAWS, REPORT_DRAWS, POINTWISE_DRAWS = 8, 32, 64
READ_OUTS = ('difference', 'sigma', 'nll')


class Form(NamedTuple):
  """Which predictions an estimate is of, and how it is read.

  Attributes:
    broad: roles of `denoisers.ROLES`, and
    narrow: those that know more of the same sides.
    value: that of READ_OUTS which is reported.
  """

  broad: tuple[str, ...]
  narrow: tuple[str, ...]
  value: str


FORMS = {
  'conditional': Form(('x',), ('x_given_y',), 'difference'),
  'joint': Form(('both',), ('x_given_y', 'y_given_x'), 'difference'),
  'mmse': Form(('x',), ('x_given_y',), 'nll'),
}


def read(
  predict: Predict,
  form: Form,
  sides: Pair,
  real: Pair,
  key: jax.Array,
  draws: Any,
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
  twice = _of_both(lambda side: jnp.concatenate([side, side]), sides)
  mask = _noised_of(form.broad, [_of_both(lambda r: r[None], real)])

  def integrands(noise: Pair, level: jax.Array) -> jax.Array:
    noised = _channel(twice, noise, level)

    def predicted(roles: tuple[str, ...]) -> jax.Array:
      each = [predict(role, noised, twice, level) for role in roles]
      return _noised_of(roles, each)

    u, v = predicted(form.broad), predicted(form.narrow)
    at = _noised_of(form.broad, [noised])
    g = denoisers.scales(level)[1][:, None] * at
    e = _noised_of(form.broad, [noise])
    each = (
      (u - v) ** 2,
      (v - u) * (u + v - 2 * g),
      (v - u) * (2 * e - u - v),
    )
    return jnp.stack([jnp.sum(z * mask, 1) for z in each])

  def with_draw(index: jax.Array, total: jax.Array) -> jax.Array:
    level = denoisers.LOW + width * (index + offsets)
    noise = _noise(jax.random.fold_in(key, index), sides, real)
    opposite = _of_both(lambda e: jnp.concatenate([e, -e]), noise)
    values = integrands(opposite, jnp.concatenate([level, level]))
    return total + width * values.reshape(3, 2, n).mean(1) / 2

  total = lax.fori_loop(0, draws, with_draw, jnp.zeros((3, n)))
  return dict(zip(READ_OUTS, total, strict=True))


def _of_both(function: Callable[..., jax.Array], *sides: Pair) -> Pair:
  """Applies a function to what there is of x, and to what there is of y."""
  x, y = zip(*sides, strict=True)
  return function(*x), function(*y)


def _channel(sides: Pair, noise: Pair, level: jax.Array) -> Pair:
  return _of_both(lambda w, e: denoisers.channel(w, e, level), sides, noise)


def _noise(
  key: jax.Array,
  sides: Pair,
  real: Pair,
) -> Pair:
  of_x, of_y = (
    jax.random.normal(k, side.shape) * mask[None]
    for k, side, mask in zip(jax.random.split(key), sides, real, strict=True)
  )
  return of_x, of_y


def _noised_of(roles: tuple[str, ...], each: Sequence[Pair]) -> jax.Array:
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
  sizes: Pair,
  keys: jax.Array,
  block: jax.Array,
) -> Fit:
  """Fits a network with each of several seeds, in one program.

  No step depends on how many there will be, so that a fit is the beginning of
  any longer one of the same seed.

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
    optimizer = _optimizer(params)
    step = _step(form, train, real, steps_key, optimizer)

    def trained(carry: Any, index: jax.Array) -> Any:
      inner, best, halfway, least = carry
      inner = lax.fori_loop(index * block, (index + 1) * block, step, inner)
      history = _measured(form, inner[2], select, real, noise_key)
      better = history['error'] < least
      best = jax.tree.map(lambda a, b: jnp.where(better, a, b), inner[2], best)
      least = jnp.minimum(least, history['error'])
      early = index < BLOCKS // 2
      halfway = jax.tree.map(lambda a, b: jnp.where(early, a, b), best, halfway)
      return (inner, best, halfway, least), history

    state = (params, optimizer.init(params), params)
    start = (state, params, params, jnp.float32(jnp.inf))
    (_, best, halfway, _), history = lax.scan(
      trained, start, jnp.arange(BLOCKS)
    )
    return Fit(best, halfway, history)

  return jax.vmap(of_seed)(keys)


def _real(split: fitting.Split, sizes: Pair) -> Pair:
  of_x, of_y = (
    (jnp.arange(side.shape[1]) < size).astype(jnp.float32)
    for side, size in zip(split[:2], sizes, strict=True)
  )
  return of_x, of_y


def _optimizer(params: PyTree) -> optax.GradientTransformation:
  """Makes Adam whose rate at a step does not depend on how many there are.

  Weights decay but for the last layer's, which would shrink all predictions.
  """

  def rate(step: jax.Array) -> jax.Array:
    warm = jnp.minimum(step / WARM_UP, 1.0)
    return LEARNING_RATE * warm * lax.rsqrt(jnp.maximum(step / FALLS_FROM, 1.0))

  decays = {name: not name.startswith('out') for name in params}
  return optax.adamw(rate, weight_decay=WEIGHT_DECAY, mask=decays)


def _levels(key: jax.Array, count: int) -> jax.Array:
  """Draws noise levels to train on, one of each of `count` equal parts."""
  ends = jnp.array([denoisers.LOW, denoisers.HIGH])
  low, high = jax.nn.sigmoid((ends - CENTRE) / SCALE)
  part = (jnp.arange(count) + jax.random.uniform(key)) / count
  quantile = low + (high - low) * part
  return CENTRE + SCALE * (jnp.log(quantile) - jnp.log1p(-quantile))


def _errors(
  params: PyTree,
  form: Form,
  sides: Pair,
  real: Pair,
  noise: Pair,
  level: jax.Array,
) -> jax.Array:
  """Returns each row's squared error of noise a column, over all roles."""
  noised = _channel(sides, noise, level)
  roles = form.broad + form.narrow
  each = [denoisers.predict(params, r, noised, sides, level) for r in roles]
  difference = _noised_of(roles, each) - _noised_of(roles, [noise] * len(roles))
  mask = _noised_of(roles, [_of_both(lambda r: r[None], real)] * len(roles))
  return jnp.sum(difference**2 * mask, 1) / jnp.sum(mask)


def _step(
  form: Form,
  train: fitting.Split,
  real: Pair,
  key: jax.Array,
  optimizer: optax.GradientTransformation,
) -> Callable[[jax.Array, Any], Any]:
  """Returns a step of a loop over (params, optimizer state, average)."""

  def loss(params: PyTree, key: jax.Array) -> jax.Array:
    rows_key, level_key, noise_key = jax.random.split(key, 3)
    at = jax.random.randint(rows_key, (BATCH_SIZE,), 0, train.size)
    sides = (train.x[at], train.y[at])
    level = _levels(level_key, BATCH_SIZE)
    noise = _noise(noise_key, sides, real)
    # All roles see the same rows and noise: their errors differ by less.
    return jnp.mean(_errors(params, form, sides, real, noise, level))

  def step(index: jax.Array, carry: Any) -> Any:
    params, state, average = carry
    gradient = jax.grad(loss)(params, jax.random.fold_in(key, index))
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    # Karras et al. 2024, section 3.1: https://arxiv.org/abs/2312.02696
    decay = (1 - 1 / (index + 1.0)) ** AVERAGE_POWER
    average = optax.incremental_update(params, average, 1 - decay)
    return params, state, average

  return step


def _measured(
  form: Form,
  params: PyTree,
  split: fitting.Split,
  real: Pair,
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


@functools.partial(jax.jit, static_argnames='form')
def measure(
  form: Form,
  draws: Any,
  params: PyTree,
  split: fitting.Split,
  sizes: Pair,
  key: jax.Array,
) -> dict[str, jax.Array]:
  """Reads the information of a split's rows, the mean over seeds aside.

  Args:
    form: which roles to compare.
    draws: noise levels of each row.
    params: leaves [S, ...].
    split: the pairs.
    sizes: how many columns of x and of y are real.
    key: of the noise, the same of all seeds.

  Returns:
    Nats [S, rows] by name in READ_OUTS; those of padding mean nothing.
  """
  real = _real(split, sizes)
  return lax.map(
    lambda p: read(
      functools.partial(denoisers.predict, p),
      form,
      (split.x, split.y),
      real,
      key,
      draws,
    ),
    params,
  )


class ScoreEstimate(NamedTuple):
  """An estimate of information by scores. Everything is in nats.

  Attributes:
    value: what the form reads off pairs that neither fitted nor selected the
      network; the mean over seeds.
    standard_error: of the value, by what is read off each pair.
    seed_std: standard deviation over seeds; 0 for one.
    interval: from the lowest to the highest of READ_OUTS, less and plus their
      errors, and on by as much as they moved over the second half of training.
      It reaches what is read off pairs that fitted the network too.
    form: of FORMS.
    read_outs: all of READ_OUTS.
    fitted: the same of pairs that fitted the network.
    moved: by how much each of them grew over the second half of training.
    history: on the selection split, after each twentieth of the steps, the mean
      squared 'error' of noise and READ_OUTS, [S, BLOCKS] each.
    settings: of the training.
    sizes: how many pairs fitted, selected and reported.
    warnings: what speaks against the number, in words.
    pointwise: `(x, y) -> [n]`, the estimate of ln p(x, y) / p(x) p(y) of any
      pairs, by 'nll', with some noise.
  """

  value: float
  standard_error: float
  seed_std: float
  interval: tuple[float, float]
  form: str
  read_outs: dict[str, float]
  fitted: dict[str, float]
  moved: dict[str, float]
  history: dict[str, np.ndarray]
  settings: dict[str, float]
  sizes: dict[str, int]
  warnings: tuple[str, ...]
  pointwise: Callable[[Any, Any], np.ndarray]


def estimate_by_scores(
  x: Any,
  y: Any,
  *,
  report: Sequence[Any] | None = None,
  form: str = 'conditional',
  seeds: Sequence[int] = (0,),
  steps: int = STEPS,
  units: int = denoisers.UNITS,
) -> ScoreEstimate:
  """Estimates the mutual information of paired rows by scores.

  To compare with `dim_jax.estimate_mi`, which is as near or nearer in a
  fraction of the time. One network learns to predict the noise of columns,
  which were mapped to normal scores, on some rows; the average of its
  parameters with the least error on others is reported on the rest.

  The 'conditional' and 'joint' forms are MINDE's, whose value is the difference
  of scores, and 'sigma' their other read-out. 'mmse' is the minimum mean
  squared error gap, whose value is the difference of errors, 'nll'; its
  orthogonal form is the same integral as the difference of scores. Where
  predictions are off, 'difference' and 'sigma' are off in proportion, and 'nll'
  by the square. All three are read, whatever the form.

  Args:
    x: rows [n, D] or [n], of numbers that have a density.
    y: likewise; row i belongs to row i of x.
    report: other rows to report on, (x, y); by default a third of the rows.
    form: of FORMS. 'conditional' and 'mmse' are of x alone and x given y, and
      'joint' of both together and of either given the other.
    seeds: of fits, whose mean is reported; the first one draws the splits.
    steps: of training, rounded up to a multiple of BLOCKS.
    units: width of the network.

  Returns:
    The estimate. It warns, which `warnings` holds as well, where it still moves
    at the end of training, where its read-outs differ, and where pairs that
    fitted the network show more than fresh ones.

  Raises:
    ValueError: lengths differ, a number is not finite, there are too few rows
      or only constant columns, x and y are equal, are images or labels, or an
      option is not accepted.

  References:
    Franzese et al., MINDE: Mutual Information Neural Diffusion Estimation,
    2024: https://arxiv.org/abs/2310.09031
    Kong et al., Information-Theoretic Diffusion, 2023:
    https://arxiv.org/abs/2302.03792
  """
  checks.check_choice('form', form, FORMS)
  checks.check_range('steps', steps, f'int [{BLOCKS}, inf)')
  checks.check_range('units', units, 'int [1, inf)')
  if not len(seeds):
    raise ValueError('seeds is empty; give at least one, such as (0,).')
  notes: list[str] = []
  checked, columns = rows.checked({'x': x, 'y': y}, notes)
  for name, side in checked.items():
    _check_density(name, side, notes)
  fresh = None if report is None else rows.report_sides(report, columns)
  split = rows.split(checked, fresh, np.random.default_rng(seeds[0]), notes)
  result = _estimate(split, columns, form, seeds, steps, units, notes)
  for note in result.warnings:
    warnings.warn(note, stacklevel=2)
  return result


def _estimate(
  split: Mapping[str, rows.Sides],
  columns: Mapping[str, rows.Columns],
  form: str,
  seeds: Sequence[int],
  steps: int,
  units: int,
  notes: Sequence[str],
) -> ScoreEstimate:
  """Fits to one split and reports on its rows; see `estimate_by_scores`."""
  maps = {name: inputs.fit_columns(z) for name, z in split['fit'].items()}

  def shown(sides: rows.Sides) -> fitting.Split:
    return fitting.pad(*(maps[name].map(sides[name]) for name in ('x', 'y')))

  sizes = (jnp.float32(maps['x'].columns), jnp.float32(maps['y'].columns))
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  block = -(-steps // BLOCKS)
  fitted = fit(
    FORMS[form],
    units,
    shown(split['fit']),
    shown(split['selection']),
    sizes,
    keys,
    jnp.int32(block),
  )
  noise_key = jax.random.fold_in(keys[0], 1)

  def values(
    params: PyTree, sides: rows.Sides, draws: int = REPORT_DRAWS
  ) -> dict[str, np.ndarray]:
    part = shown(sides)
    of_rows = measure(FORMS[form], draws, params, part, sizes, noise_key)
    return {k: np.asarray(v)[:, : int(part.size)] for k, v in of_rows.items()}

  def pointwise(x: Any, y: Any) -> np.ndarray:
    same = rows.same_columns('pointwise', (x, y), columns)
    return values(fitted.params, same, POINTWISE_DRAWS)['nll'].mean(0)

  few = rows.take(split['fit'], slice(len(split['report']['x'])))
  return ScoreEstimate(
    **_combined(
      FORMS[form].value,
      values(fitted.params, split['report']),
      values(fitted.halfway, split['report']),
      values(fitted.params, few),
      block * BLOCKS,
      notes,
    ),
    form=form,
    history={name: np.asarray(h) for name, h in fitted.history.items()},
    settings={'steps': block * BLOCKS, 'units': units},
    sizes={name: len(sides['x']) for name, sides in split.items()},
    pointwise=pointwise,
  )


def _check_density(name: str, side: np.ndarray, notes: list[str]) -> None:
  if side.ndim == 4:
    raise ValueError(
      f'{name} has shape [n, H, W, C]; give columns, [n, D], or use '
      'dim_jax.estimate_mi.'
    )
  if rows.are_labels(name, side, []):
    raise ValueError(
      f'{name} has few different whole numbers, which have no density and so '
      'no scores; use dim_jax.estimate_mi.'
    )
  values = min(len(np.unique(column)) for column in side.T)
  if values < len(side) / 2:
    notes.append(
      f'a column of {name} has {values} different values in {len(side)} rows; '
      'where numbers repeat there is no density, and scores have no limit.'
    )


def _combined(
  name: str,
  end: dict[str, np.ndarray],
  halfway: dict[str, np.ndarray],
  fitted: dict[str, np.ndarray],
  steps: int,
  notes: Sequence[str],
) -> dict[str, Any]:
  """Returns the fields that come from what was read off rows, [S, rows].

  Args:
    name: of the read-out that is reported.
    end: of rows to report on.
    halfway: of the same rows and noise by the parameters of half the steps.
    fitted: of rows that fitted the network.
    steps: of training.
    notes: what speaks against the estimate already.
  """
  notes = list(notes)
  means, of_fitted = (
    {k: float(v.mean()) for k, v in part.items()} for part in (end, fitted)
  )
  grown = {k: (v - halfway[k]).mean(0) for k, v in end.items()}
  moved = {k: float(v.mean()) for k, v in grown.items()}
  errors, fitted_errors, moved_errors = (
    {k: standard_error(np.atleast_2d(v).mean(0)) for k, v in part.items()}
    for part in (end, fitted, grown)
  )
  of_seeds = end[name].mean(1)
  std = std_of_seeds(of_seeds)
  low, high = math.inf, -math.inf
  for k in READ_OUTS:
    both = TWO_SIDED_95 * math.hypot(errors[k], std / math.sqrt(len(of_seeds)))
    low = min(low, means[k] - both + min(moved[k], 0.0))
    high = max(high, means[k] + both + max(moved[k], 0.0))
    high = max(high, of_fitted[k] + TWO_SIDED_95 * fitted_errors[k])
  most = max(READ_OUTS, key=lambda k: abs(moved[k]))
  if abs(moved[most]) > max(0.01, TWO_SIDED_95 * moved_errors[most]):
    notes.append(
      f'the estimate still moves: half of the {steps} steps would have read '
      f'{means[most] - moved[most]:.3f} nats ({most}) where all of them read '
      f'{means[most]:.3f}. Give more steps.'
    )
  least, most = (f(means, key=lambda k: means[k]) for f in (min, max))
  error = TWO_SIDED_95 * max(errors[least], errors[most])
  if means[most] - means[least] > error:
    notes.append(
      f'read-outs that agree for the true scores, {least} and {most}, are '
      f'{means[least]:.3f} and {means[most]:.3f} nats, further apart than '
      f'their error of {error:.3f}.'
    )
  beyond = {
    k: of_fitted[k] - means[k] - TWO_SIDED_95 * (fitted_errors[k] + errors[k])
    for k in READ_OUTS
  }
  most = max(READ_OUTS, key=lambda k: beyond[k])
  if beyond[most] > 0:
    notes.append(
      f'pairs that fitted the network read {of_fitted[most]:.3f} nats ({most}),'
      f' and fresh ones {means[most]:.3f}: more pairs would show more.'
    )
  return {
    'value': means[name],
    'standard_error': errors[name],
    'seed_std': std,
    'interval': (low, high),
    'read_outs': means,
    'fitted': of_fitted,
    'moved': moved,
    'warnings': tuple(notes),
  }
