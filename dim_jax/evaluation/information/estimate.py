"""Estimates of information, with what is known of their error."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax import checks
from dim_jax.evaluation.information import fit as fitting
from dim_jax.evaluation.information import inputs, rows
from dim_jax.evaluation.information.critics import (
  BOUNDS,
  COLUMN_SETS,
  CRITICS,
  PAIR_CRITICS,
)
from dim_jax.evaluation.information.outcome import (
  SETTINGS,
  TWO_SIDED_95,
  Outcome,
  Trial,
  outcome,
  standard_error,
  std_of_seeds,
)


class MIEstimate(NamedTuple):
  """An estimate of information. Everything is in nats.

  Attributes:
    value: the estimate, on pairs that neither fitted nor selected the critic;
      the mean over seeds. Apart from noise it is too low rather than too high,
      by what the critic has not learned.
    standard_error: of the value, by the influence of each pair on it.
    seed_std: standard deviation over seeds; 0 for one.
    interval: meant to hold the truth 19 times in 20. Its lower end is the value
      less its error of both kinds. Its upper end is what the critic says, a
      hundred steps later, of the pairs that fitted it, to which it has adapted,
      plus their error. Of conditional information, a difference of two, both
      ends allow for that.
    ceiling: the most that so many pairs can show, ln n of the report split (of
      total correlation ln 64 n, as 64 rows are torn apart for each), or the
      entropy of labels if that is less.
    control: the value of the same fit with the rows of y permuted (of total
      correlation, those of each column), which should be 0; None if it was not
      asked for.
    critic: which of CRITICS, chosen on the selection split; of conditional
      information that of x with y and what is given, as the two fields below.
    settings: of its training, chosen likewise where there were several.
    selected: value of each critic that was tried, on the selection split.
    history: of the chosen critic, 'selection' and 'training' [S, measurements],
      every `fit.block_for(pairs to fit)` steps; NaN where training had ended.
      Of the first fold.
    sizes: how many pairs fitted, selected and reported.
    warnings: what speaks against the number, in words.
    pointwise: `(x, y) -> [n]`, the estimate of ln p(x, y) / p(x) p(y) of any
      pairs; `(x, y, given)` where something is, `(x)` of total correlation.
  """

  value: float
  standard_error: float
  seed_std: float
  interval: tuple[float, float]
  ceiling: float
  control: float | None
  critic: str
  settings: dict[str, float]
  selected: dict[str, float]
  history: dict[str, np.ndarray]
  sizes: dict[str, int]
  warnings: tuple[str, ...]
  pointwise: Callable[..., np.ndarray]


class _Term(NamedTuple):
  """One of the estimates that add up to what was asked for.

  Attributes:
    sign: 1 or -1.
    x: the map of the side x.
    y: that of the others, None for total correlation.
    others: which sides `y` sees, by name.
    labels: which of x and y hold labels.
  """

  sign: int
  x: inputs.Inputs
  y: inputs.Inputs | None
  others: tuple[str, ...]
  labels: tuple[str, ...] = ()

  def shown(self, sides: rows.Sides) -> fitting.Split:
    """Returns rows as critics see them."""
    x = self.x.map(sides['x'])
    if self.y is None:
      return fitting.pad(x, np.zeros((len(x), 1)))
    parts = [sides[name] for name in self.others]
    return fitting.pad(x, self.y.map(parts if len(parts) > 1 else parts[0]))

  @property
  def sizes(self) -> tuple[int, int]:
    """How many columns of both sides are real."""
    return self.x.columns, 1 if self.y is None else self.y.columns


def estimate_mi(
  x: Any,
  y: Any,
  *,
  given: Any = None,
  report: Sequence[Any] | None = None,
  critic: str = 'auto',
  bound: str | None = None,
  grid: Mapping[str, Sequence[float]] | None = None,
  folds: int | None = None,
  seeds: Sequence[int] = (0,),
  control: bool = True,
) -> MIEstimate:
  """Estimates the mutual information of paired rows.

  A critic of pairs is fitted on some rows, selected on others, and reported on
  the rest: its mean log density ratio, normalised, there. One automatic setting
  serves all data. Columns are mapped to normal scores, integers of few values
  are labels, and images go through convolutions.

  Args:
    x: rows [n, D] or [n], numbers, or images [n, H, W, C].
    y: likewise; row i belongs to row i of x.
    given: rows [n, D] or [n] of z, for the conditional information I(X; Y | Z)
      = I(X; Y, Z) - I(X; Z), whose terms are reported on the same rows, so that
      much of their noise cancels.
    report: other rows to report on, (x, y) or (x, y, given); by default a third
      of the rows.
    critic: 'separable', 'joint', or 'auto' for both where x and y together
      have at most 4 columns, of which the selection split chooses, and
      'separable' elsewhere.
    bound: that trains the critic, 'infonce' (separable only),
      'donsker_varadhan', 'jsd' or 'nwj'; by default 'infonce' for separable and
      'donsker_varadhan' for joint. It is read in the same way whatever trained
      it, as its normalised log density ratio.
    grid: values to try of the training's 'learning_rate' and 'weight_decay',
      such as {'weight_decay': (0.5, 2.0)}; all combinations are fitted in one
      program, and the selection split chooses.
    folds: at least 2, to report on all rows in turn, each by a critic that was
      fitted without it: as many fits, and three times the rows to report on;
      None for one split.
    seeds: of fits, whose mean is reported; the first one draws the splits.
    control: whether to fit permuted pairs too, which takes as long again.

  Returns:
    The estimate. It warns of what it finds suspicious, which `warnings` holds
    as well.

  Raises:
    ValueError: lengths differ, a number is not finite, there are too few rows
      or only constant columns, x and another side are equal, or an option is
      not accepted.

  References:
    van den Oord et al., Representation Learning with Contrastive Predictive
    Coding, 2018: https://arxiv.org/abs/1807.03748
    McAllester and Stratos, Formal Limitations on the Measurement of Mutual
    Information, 2020: https://arxiv.org/abs/1811.04251
  """
  checks.check_choice('critic', critic, ('auto', *PAIR_CRITICS))
  _check_bound(critic, bound)
  sides = {'x': x, 'y': y} | ({} if given is None else {'given': given})
  if np.ndim(given) == 4:
    raise ValueError('given has shape [n, H, W, C]; give its columns, [n, D].')

  trial = Trial((critic,), bound, tuple(seeds), dict(grid or {}))
  return _estimate(sides, report, _pair_terms, trial, folds, control, ('y',))


def _pair_terms(fit: rows.Sides, notes: list[str]) -> list[_Term]:
  """Returns the term of mutual information, or the two of conditional."""
  labels = {name: rows.are_labels(name, fit[name], notes) for name in fit}
  maps = {
    name: inputs.fit_inputs(side, labels=labels[name])
    for name, side in fit.items()
  }
  bounding = tuple(name for name in ('x', 'y') if labels[name])
  if 'given' not in fit:
    return [_Term(1, maps['x'], maps['y'], ('y',), bounding)]
  both = inputs.beside(maps['y'], maps['given'])
  return [
    _Term(1, maps['x'], both, ('y', 'given'), bounding),
    _Term(-1, maps['x'], maps['given'], ('given',)),
  ]


def total_correlation(
  x: Any,
  *,
  report: Any = None,
  grid: Mapping[str, Sequence[float]] | None = None,
  folds: int | None = None,
  seeds: Sequence[int] = (0,),
  control: bool = True,
) -> MIEstimate:
  r"""Estimates the total correlation of columns, 0 where they are independent.

  .. math:: D_{KL}(p(x) \,\|\, \textstyle\prod_i p(x_i))

  Deep InfoMax's neural dependency measure (NDM). A critic tells rows from rows
  whose columns were permuted each by itself, and is fitted, selected, reported
  and controlled as in `estimate_mi`, whose arguments these are. Where the
  interval reaches a quarter of ln n it warns that the value may be too low.

  Args:
    x: rows [n, D], numbers, D at least 2.
    report: other rows to report on; by default a third.
    grid: values to try of the training's settings.
    folds: to report on all rows in turn.
    seeds: of fits.
    control: whether to fit independent columns too.

  Returns:
    The estimate.

  Raises:
    ValueError: as of `estimate_mi`, or fewer than two columns vary.

  References:
    Hjelm et al., Learning deep representations by mutual information estimation
    and maximization, 2019, section 4.2 and appendix A.9:
    https://arxiv.org/abs/1808.06670
    Watanabe, Information Theoretical Analysis of Multivariate Correlation, 1960
  """
  if np.ndim(x) == 4:
    raise ValueError('x has shape [n, H, W, C]; give its columns, [n, D].')
  trial = Trial(('columns',), None, tuple(seeds), dict(grid or {}))
  report = None if report is None else (report,)
  return _estimate({'x': x}, report, _column_terms, trial, folds, control, ())


def _column_terms(fit: rows.Sides, notes: list[str]) -> list[_Term]:
  """Returns the term of total correlation."""
  del notes
  columns = fit['x'].shape[1]
  if columns < 2:
    raise ValueError(
      f'x has {columns} column that varies; total correlation is of at least 2.'
    )
  return [_Term(1, inputs.fit_columns(fit['x']), None, ())]


def _check_bound(critic: str, bound: str | None) -> None:
  if bound is None:
    return
  checks.check_choice('bound', bound, BOUNDS)
  if critic == 'auto' and bound == 'infonce':
    return
  names = PAIR_CRITICS if critic == 'auto' else (critic,)
  for name in names:
    if bound not in CRITICS[name].trained_by:
      raise ValueError(
        f'bound {bound!r} does not train the {name} critic, which it leaves '
        'free up to a function of x that its few negatives cannot undo; give '
        f'one of {", ".join(CRITICS[name].trained_by)}.'
      )


def _estimate(
  sides: Mapping[str, Any],
  report: Sequence[Any] | None,
  terms_of: Callable[[rows.Sides, list[str]], list[_Term]],
  trial: Trial,
  folds: int | None,
  control: bool,
  permuted: tuple[str, ...],
) -> MIEstimate:
  """Estimates the sum of terms, on one split or in folds."""
  _check_options(trial, folds, report)
  notes: list[str] = []
  checked, columns = rows.checked(sides, notes)
  rng = np.random.default_rng(trial.seeds[0])
  if folds is None:
    fresh = None if report is None else rows.report_sides(report, columns)
    splits = [rows.split(checked, fresh, rng, notes)]
  else:
    splits = rows.folds(checked, folds, rng)
  parts = []
  for split in splits:
    terms = terms_of(split['fit'], notes)
    parts.append((terms, _outcomes(split, terms, trial)))
  value = None
  if control:
    value = _control(splits[0], *parts[0], trial, rng, permuted)
  reported = sum(len(split['report']['x']) for split in splits)
  first = parts[0][1][0]
  result = MIEstimate(
    **_combined(parts),
    ceiling=_ceiling(splits, parts[0][0]),
    control=value,
    critic=first.critic,
    settings=first.settings,
    selected=first.selected,
    history=first.history,
    sizes={name: len(part['x']) for name, part in splits[0].items()}
    | {'report': reported},
    warnings=tuple(dict.fromkeys(notes)),
    pointwise=_pointwise(parts, columns),
  )
  return _warned(result, _most_reported(splits))


def _check_options(
  trial: Trial, folds: int | None, report: Sequence[Any] | None
) -> None:
  if not trial.seeds:
    raise ValueError('seeds is empty; give at least one, such as (0,).')
  for name, values in trial.grid.items():
    checks.check_choice('grid', name, SETTINGS)
    if not len(values):
      raise ValueError(f'grid has no value of {name!r}; give at least one.')
  if folds is not None:
    checks.check_range('folds', folds, 'int [2, inf)')
    if report is not None:
      raise ValueError(
        'folds report on all rows in turn, and report on others; give one.'
      )


def _outcomes(
  split: Mapping[str, rows.Sides], terms: Sequence[_Term], trial: Trial
) -> list[Outcome]:
  """Returns the outcome of each term on one split."""
  outcomes = []
  for term in terms:
    sides = split['fit']
    columns = sum(
      int(np.prod(sides[name].shape[1:])) for name in ('x', *term.others)
    )
    shown = {name: term.shown(part) for name, part in split.items()}
    critics = _candidates(trial, columns, term)
    outcomes.append(
      outcome(shown, term.sizes, columns, trial._replace(critics=critics))
    )
  return outcomes


def _candidates(trial: Trial, columns: int, term: _Term) -> tuple[str, ...]:
  """Returns the critics to fit, where it was left to us."""
  if trial.critics != ('auto',):
    return trial.critics
  labels = term.x.labels or (term.y and term.y.labels)
  few = columns <= fitting.MOST_JOINT_COLUMNS and not labels
  names = PAIR_CRITICS if few else ('separable',)
  if trial.bound is None:
    return names
  return tuple(n for n in names if trial.bound in CRITICS[n].trained_by)


def _combined(
  parts: Sequence[tuple[list[_Term], list[Outcome]]],
) -> dict[str, Any]:
  """Returns the fields that come from the report splits of all folds."""
  signs = np.array([term.sign for term in parts[0][0]], np.float64)
  counts = np.array([len(out[0].influence) for _, out in parts], np.float64)
  weights = counts / counts.sum()
  # Of folds [F], each of seeds [S].
  values = np.array(
    [
      sum(s * o.values for s, o in zip(signs, out, strict=True))
      for _, out in parts
    ]
  )
  of_seeds = weights @ values
  value, std = float(of_seeds.mean()), std_of_seeds(of_seeds)
  influence = np.concatenate(
    [
      sum(s * o.influence for s, o in zip(signs, out, strict=True))
      + of_fold.mean()
      for (_, out), of_fold in zip(parts, values, strict=True)
    ]
  )
  error = standard_error(influence)
  both = TWO_SIDED_95 * math.hypot(error, std / math.sqrt(len(of_seeds)))
  gaps = weights @ np.array([[o.gap for o in out] for _, out in parts])
  up, down = float(gaps @ (signs > 0)), float(gaps @ (signs < 0))
  high = max(both, up) + (both if down else 0.0)
  return {
    'value': value,
    'standard_error': error,
    'seed_std': std,
    'interval': (value - both - down, value + high),
  }


def _control(
  split: Mapping[str, rows.Sides],
  terms: Sequence[_Term],
  outcomes: Sequence[Outcome],
  trial: Trial,
  rng: np.random.Generator,
  permuted: tuple[str, ...],
) -> float:
  """Returns the value of rows that were torn apart, in the same programs."""
  torn = {}
  for name, sides in split.items():
    count = len(sides['x'])
    if permuted:
      parts = {key: sides[key][rng.permutation(count)] for key in permuted}
    else:
      columns = [column[rng.permutation(count)] for column in sides['x'].T]
      parts = {'x': np.stack(columns, 1)}
    torn[name] = {**sides, **parts}
  value = 0.0
  for term, chosen in zip(terms, outcomes, strict=True):
    if not set(permuted) & set(term.others) and permuted:
      value += term.sign * float(chosen.values[0])  # It saw none of them.
      continue
    grid = {name: (v,) for name, v in chosen.settings.items()}
    again = Trial((chosen.critic,), trial.bound, trial.seeds[:1], grid)
    value += term.sign * float(_outcomes(torn, [term], again)[0].values[0])
  return value


def _pointwise(
  parts: Sequence[tuple[list[_Term], list[Outcome]]],
  columns: Mapping[str, rows.Columns],
) -> Callable[..., np.ndarray]:
  def pointwise(*sides: Any) -> np.ndarray:
    same = rows.same_columns('pointwise', sides, columns)
    values = [
      np.sum(
        [
          term.sign * out.pointwise(term.shown(same))
          for term, out in zip(terms, outcomes, strict=True)
        ],
        axis=0,
      )
      for terms, outcomes in parts
    ]
    return np.mean(values, axis=0)

  return pointwise


def _ceiling(
  splits: Sequence[Mapping[str, rows.Sides]], terms: Sequence[_Term]
) -> float:
  """Returns ln n of a report split, or less where there are labels."""
  negatives = _most_reported(splits) * (
    COLUMN_SETS if terms[0].y is None else 1
  )
  ceilings = [math.log(negatives)]
  for name in terms[0].labels:
    labels = np.concatenate([split['report'][name] for split in splits])
    _, counts = np.unique(labels, return_counts=True)
    fractions = counts / counts.sum()
    ceilings.append(float(-np.sum(fractions * np.log(fractions))))
  return min(ceilings)


def _most_reported(splits: Sequence[Mapping[str, rows.Sides]]) -> int:
  return max(len(split['report']['x']) for split in splits)


def _warned(result: MIEstimate, pairs: int) -> MIEstimate:
  """Adds warnings that depend on the outcome, and gives them all.

  Args:
    result: the outcome.
    pairs: of the report split, of the largest one of several.
  """
  notes = list(result.warnings)
  most = math.log(pairs)
  # Where tasks of known information begin to come out low by more than the
  # interval says.
  if result.critic == 'columns' and result.interval[1] > 0.25 * most:
    notes.append(
      f'the interval reaches {result.interval[1]:.2f} nats, where {pairs} '
      f'rows tell values below about {0.25 * most:.2f} alone: this one may be '
      'too low by more than the interval says.'
    )
  elif result.interval[1] > 0.6 * most:
    notes.append(
      f'the interval reaches {result.interval[1]:.2f} nats, where {pairs} '
      f'pairs can show {most:.2f} at most: values above 0.6 of that are too '
      'low, and the truth may be any larger number. It is infinite where y is '
      'a function of x.'
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
  # Over the last hundred steps.
  before = 1 + 100 // fitting.block_for(result.sizes['fit'])
  rose = float(np.mean(ended[:, -1] - ended[:, -before])) if ended.size else 0.0
  if rose > max(0.02, 2 * result.standard_error):
    notes.append(
      f'the selection split still rose by {rose:.3f} nats at the end of '
      'training: the value is too low.'
    )
  # At the line that called `dim_jax.estimate_mi`.
  for note in notes:
    warnings.warn(note, stacklevel=5)
  return result._replace(warnings=tuple(notes))
