"""What fitted critics say of one set of pairs: the parts of an estimate."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.data import batches
from dim_jax.evaluation.information import fit as fitting
from dim_jax.evaluation.information.critics import CRITICS
from dim_jax.evaluation.information.rows import MOST_REPORTED

TWO_SIDED_95 = 1.959964
# Each is compared with all that were reported.
_POINTWISE_ROWS = 4096
SETTINGS = ('learning_rate', 'weight_decay')


class Trial(NamedTuple):
  """What to fit, and how.

  Attributes:
    critics: names in CRITICS, of which the selection split chooses.
    bound: that trains them; None for the first of each critic's own.
    seeds: of fits.
    grid: values to try of some SETTINGS; all combinations are fitted.
  """

  critics: tuple[str, ...]
  bound: str | None
  seeds: tuple[int, ...]
  grid: Mapping[str, Sequence[float]]


class Outcome(NamedTuple):
  """What the critic that was chosen says of the pairs to report on.

  Attributes:
    critic: its name.
    settings: of its training.
    selected: nats of each critic on the selection split.
    history: on both splits, [S, measurements].
    values: nats on the report split, one a seed, [S].
    influence: of each pair on their mean, less its own mean, [n].
    gap: how much more the critic, a hundred steps later, said of pairs that
      fitted it, at the upper end of its own error; 0 at least.
    pointwise: of other pairs, as critics see them.
  """

  critic: str
  settings: dict[str, float]
  selected: dict[str, float]
  history: dict[str, np.ndarray]
  values: np.ndarray
  influence: np.ndarray
  gap: float
  pointwise: Callable[[fitting.Split], np.ndarray]


def outcome(
  shown: Mapping[str, fitting.Split],
  sizes: tuple[int, int],
  columns: int,
  trial: Trial,
) -> Outcome:
  """Fits critics, chooses one, and measures it on the report split.

  Args:
    shown: the splits 'fit', 'selection' and 'report', as critics see them.
    sizes: how many columns of x and of y are real.
    columns: of both together, before they were mapped.
    trial: what to fit.
  """
  fits = {
    name: _fit(name, shown, sizes, columns, trial) for name in trial.critics
  }
  selected = {
    name: float(fit.selected.mean()) for name, (fit, _) in fits.items()
  }
  best = max(selected, key=lambda name: selected[name])
  fit, settings = fits[best]
  values, influence, states = fitting.measure(best, fit.params, shown['report'])
  # Rows enough for an error that is small beside the report's.
  few = _first(shown['fit'], MOST_REPORTED // 4)
  adapted, of_adapted, _ = fitting.measure(best, fit.later, few)
  error = standard_error(np.asarray(of_adapted)[: int(few.size)])
  value = float(values.mean())
  return Outcome(
    best,
    settings,
    selected,
    {
      'selection': np.asarray(fit.history),
      'training': np.asarray(fit.training),
    },
    np.asarray(values),
    np.asarray(influence)[: int(shown['report'].size)],
    max(0.0, float(adapted.mean()) + TWO_SIDED_95 * error - value),
    lambda split: batches.map_padded(
      lambda _, x, y: fitting.pointwise(best, fit.params, states, x, y),
      _POINTWISE_ROWS,
      np.asarray(split.x),
      np.asarray(split.y),
    )[: int(split.size)],
  )


def standard_error(influence: np.ndarray) -> float:
  """Computes the standard error of a mean from each row's influence on it."""
  return float(np.std(influence) / np.sqrt(len(influence)))


def std_of_seeds(values: np.ndarray) -> float:
  """Computes the sample standard deviation over seeds; 0 of one seed."""
  return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _fit(
  name: str,
  shown: Mapping[str, fitting.Split],
  sizes: tuple[int, int],
  columns: int,
  trial: Trial,
) -> tuple[fitting.Fit, dict[str, float]]:
  """Fits a critic with all seeds and settings; keeps the best settings.

  Returns:
    The fits of all seeds, whose history ends where the training does, and their
    settings.
  """
  critic, seeds = CRITICS[name], len(trial.seeds)
  blocks = fitting.blocks_for(name, int(shown['fit'].size), columns)
  choices = [
    tuple(trial.grid.get(key, (getattr(critic, key),))) for key in SETTINGS
  ]
  combinations = list(itertools.product(*choices))
  repeated = np.repeat(np.asarray(combinations, np.float32), seeds, axis=0)
  settings = {
    key: jnp.asarray(values)
    for key, values in zip(SETTINGS, repeated.T, strict=True)
  }
  settings['blocks'] = jnp.full(len(repeated), blocks, jnp.int32)
  keys = [jax.random.key(seed) for seed in trial.seeds] * len(combinations)
  fit = fitting.fit(
    name,
    trial.bound or critic.trained_by[0],
    fitting.block_for(int(shown['fit'].size)),
    shown['fit'],
    shown['selection'],
    tuple(map(jnp.float32, sizes)),
    jnp.stack(keys),
    settings,
  )
  best = int(jnp.argmax(fit.selected.reshape(-1, seeds).mean(1)))
  fit = jax.tree.map(lambda z: z[best * seeds : (best + 1) * seeds], fit)
  history, training = fit.history[:, :blocks], fit.training[:, :blocks]
  chosen = dict(zip(SETTINGS, map(float, combinations[best]), strict=True))
  return fit._replace(history=history, training=training), chosen


def _first(split: fitting.Split, most: int) -> fitting.Split:
  rows = min(most, len(split.x))
  count = jnp.minimum(split.size, rows)
  return fitting.Split(split.x[:rows], split.y[:rows], count)
