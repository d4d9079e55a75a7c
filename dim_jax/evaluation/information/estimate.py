"""An estimate of mutual information, with what is known of its error."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks
from dim_jax.evaluation.information import fit as fitting
from dim_jax.evaluation.information import inputs, rows
from dim_jax.evaluation.information.critics import CRITICS

TWO_SIDED_95 = 1.959964


class MIEstimate(NamedTuple):
  """An estimate of mutual information. Everything is in nats.

  Attributes:
    value: the estimate, on pairs that neither fitted nor selected the critic;
      the mean over seeds. Apart from noise it is too low rather than too high,
      by what the critic has not learned.
    standard_error: of the value, by the influence of each pair on it.
    seed_std: standard deviation over seeds; 0 for one.
    interval: meant to hold the truth 19 times in 20. Its lower end is the value
      less its error of both kinds, its upper end that of the pairs that fitted
      the critic, to which it has adapted, plus theirs.
    ceiling: the most that so many pairs can show, ln n of the report split, or
      the entropy of labels if that is less.
    control: the value of the same fit with the rows of y permuted, which should
      be 0; None if it was not asked for.
    critic: which of CRITICS, chosen on the selection split.
    selected: value of each critic that was tried, on the selection split.
    history: of the chosen critic, 'selection' and 'training' [S, measurements],
      every `fit.BLOCK` steps; NaN where training had ended.
    sizes: how many pairs fitted, selected and reported.
    warnings: what speaks against the number, in words.
    pointwise: `(x, y) -> [n]`, the estimate of ln p(x, y) / p(x) p(y) of any
      pairs.
  """

  value: float
  standard_error: float
  seed_std: float
  interval: tuple[float, float]
  ceiling: float
  control: float | None
  critic: str
  selected: dict[str, float]
  history: dict[str, np.ndarray]
  sizes: dict[str, int]
  warnings: tuple[str, ...]
  pointwise: Callable[[Any, Any], np.ndarray]


def estimate_mi(
  x: Any,
  y: Any,
  *,
  report: tuple[Any, Any] | None = None,
  critic: str = 'auto',
  seeds: Sequence[int] = (0,),
  control: bool = True,
) -> MIEstimate:
  """Estimates the mutual information of paired rows.

  A critic of pairs is fitted on some rows, selected on others, and reported on
  the rest: its mean log density ratio, normalised, there. One automatic setting
  serves all data. Columns are mapped to normal scores, integers of few values
  are labels.

  Args:
    x: rows [n, D] or [n], numbers.
    y: rows [n, D'] or [n], numbers; row i belongs to row i of x.
    report: other pairs (x, y) to report on; by default a third of the rows.
    critic: 'separable', 'joint', or 'auto' for both where x and y together
      have at most 4 columns, of which the selection split chooses, and
      'separable' elsewhere.
    seeds: of fits, whose mean is reported; the first one draws the splits.
    control: whether to fit permuted pairs too, which takes as long again.

  Returns:
    The estimate. It warns of what it finds suspicious, which `warnings` holds
    as well.

  Raises:
    ValueError: lengths differ, a number is not finite, there are too few rows
      or only constant columns, x and y are equal, or an option is not accepted.

  References:
    van den Oord et al., Representation Learning with Contrastive Predictive
    Coding, 2018: https://arxiv.org/abs/1807.03748
    McAllester and Stratos, Formal Limitations on the Measurement of Mutual
    Information, 2020: https://arxiv.org/abs/1811.04251
  """
  checks.check_choice('critic', critic, ('auto', *CRITICS))
  if not seeds:
    raise ValueError('seeds is empty; give at least one, such as (0,).')
  notes: list[str] = []
  x, y, kept = rows.checked(x, y, notes)
  rng = np.random.default_rng(seeds[0])
  columns = x.shape[1] + y.shape[1]
  splits = rows.split(
    x, y, report and rows.report_pairs(report, kept), rng, notes
  )
  maps = [
    inputs.fit_inputs(side, labels=rows.are_labels(name, side, notes))
    for name, side in zip('xy', splits['fit'], strict=True)
  ]
  shown = [
    fitting.pad(*(m.map(side) for m, side in zip(maps, pairs, strict=True)))
    for pairs in splits.values()
  ]
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  fits = {
    name: _fit(name, columns, shown, maps, keys)
    for name in _candidates(critic, columns, maps)
  }
  selected = {name: float(f.selected.mean()) for name, f in fits.items()}
  best = max(selected, key=lambda name: selected[name])
  permuted = None
  if control:
    permuted = _control(best, columns, shown, maps, keys[:1], rng)
  result = MIEstimate(
    **_reported(best, fits[best], shown, maps, kept),
    ceiling=_ceiling(splits['report'], maps),
    control=permuted,
    critic=best,
    selected=selected,
    sizes={name: len(pairs[0]) for name, pairs in splits.items()},
    warnings=tuple(notes),
  )
  return _warned(result)


def _reported(
  name: str,
  fit: fitting.Fit,
  shown: Sequence[fitting.Split],
  maps: Sequence[inputs.Inputs],
  kept: Sequence[np.ndarray],
) -> dict[str, Any]:
  """Returns the fields of an estimate that come from the report split."""
  values, errors, states = fitting.measure(name, fit.params, shown[2])
  # Rows enough for an error that is small beside the report's.
  few = _first(shown[0], rows.MOST_REPORTED // 4)
  adapted, adapted_errors, _ = fitting.measure(name, fit.params, few)
  value, std = float(values.mean()), float(values.std())
  error = float(errors.mean())
  both = math.hypot(error, std / math.sqrt(len(values)))
  high = max(
    value + TWO_SIDED_95 * both,
    float(adapted.mean() + TWO_SIDED_95 * adapted_errors.mean()),
  )
  return {
    'value': value,
    'standard_error': error,
    'seed_std': std,
    'interval': (value - TWO_SIDED_95 * both, high),
    'history': {
      'selection': np.asarray(fit.history),
      'training': np.asarray(fit.training),
    },
    'pointwise': _pointwise(name, fit.params, states, maps, kept),
  }


def _fit(
  name: str,
  columns: int,
  shown: Sequence[fitting.Split],
  maps: Sequence[inputs.Inputs],
  keys: jax.Array,
) -> fitting.Fit:
  """Fits a critic with its own settings; the history ends where they do."""
  critic = CRITICS[name]
  blocks = fitting.blocks_for(name, int(shown[0].size), columns)
  settings = {
    key: jnp.float32(getattr(critic, key))
    for key in ('learning_rate', 'weight_decay', 'noise')
  }
  settings['blocks'] = jnp.int32(blocks)
  sizes = tuple(jnp.float32(m.columns) for m in maps)
  fit = fitting.fit(name, *shown[:2], sizes, keys, settings)
  history, training = fit.history[:, :blocks], fit.training[:, :blocks]
  return fit._replace(history=history, training=training)


def _first(split: fitting.Split, most: int) -> fitting.Split:
  rows = min(most, len(split.x))
  count = jnp.minimum(split.size, rows)
  return fitting.Split(split.x[:rows], split.y[:rows], count)


def _control(
  name: str,
  columns: int,
  shown: Sequence[fitting.Split],
  maps: Sequence[inputs.Inputs],
  keys: jax.Array,
  rng: np.random.Generator,
) -> float:
  """Returns the value of a fit of permuted pairs, in the same program."""
  permuted = []
  for split in shown:
    rows = np.arange(len(split.y))
    rows[: int(split.size)] = rng.permutation(int(split.size))
    permuted.append(split._replace(y=split.y[rows]))
  fitted = _fit(name, columns, permuted, maps, keys)
  return float(fitting.measure(name, fitted.params, permuted[2])[0].mean())


def _pointwise(
  name: str,
  params: Any,
  states: Any,
  maps: Sequence[inputs.Inputs],
  kept: Sequence[np.ndarray],
) -> Callable[[Any, Any], np.ndarray]:
  def pointwise(x: Any, y: Any) -> np.ndarray:
    pairs = rows.same_columns('pointwise', (x, y), kept)
    shown = (m.map(z) for m, z in zip(maps, pairs, strict=True))
    split = fitting.pad(*shown)
    values = fitting.pointwise(name, params, states, split.x, split.y)
    return np.asarray(values)[: len(pairs[0])]

  return pointwise


def _candidates(
  critic: str, columns: int, maps: Sequence[inputs.Inputs]
) -> tuple[str, ...]:
  if critic != 'auto':
    return (critic,)
  if columns <= fitting.MOST_JOINT_COLUMNS and not any(m.labels for m in maps):
    return tuple(CRITICS)
  return ('separable',)


def _ceiling(
  reported: tuple[np.ndarray, np.ndarray], maps: Sequence[inputs.Inputs]
) -> float:
  ceilings = [math.log(len(reported[0]))]
  for side, m in zip(reported, maps, strict=True):
    if m.labels:
      _, counts = np.unique(side, return_counts=True)
      fractions = counts / counts.sum()
      ceilings.append(float(-np.sum(fractions * np.log(fractions))))
  return min(ceilings)


def _warned(result: MIEstimate) -> MIEstimate:
  """Adds warnings that depend on the outcome, and gives them all."""
  notes = list(result.warnings)
  most = math.log(result.sizes['report'])
  if result.interval[1] > 0.9 * most:
    notes.append(
      f'the interval reaches {result.interval[1]:.2f} nats, near the ceiling '
      f'of {result.sizes["report"]} pairs, {most:.2f}: the truth may '
      'be any larger number. It is infinite where y is a function of x.'
    )
  if result.control is not None and abs(result.control) > max(
    0.02, 3 * result.standard_error
  ):
    notes.append(
      f'permuted pairs, which share nothing, gave {result.control:.3f} nats.'
    )
  # Of the seeds that trained to the end: others stopped since it fell.
  curves = result.history['selection']
  ended = curves[np.isfinite(curves).all(1)]
  rose = float(np.mean(ended[:, -1] - ended[:, -2])) if ended.size else 0.0
  if rose > max(0.02, 2 * result.standard_error):
    notes.append(
      f'the selection split still rose by {rose:.3f} nats at the end of '
      'training: the value is too low.'
    )
  # At the line that called `dim_jax.estimate_mi`.
  for note in notes:
    warnings.warn(note, stacklevel=4)
  return result._replace(warnings=tuple(notes))
