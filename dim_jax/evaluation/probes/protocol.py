"""What defines a probe's number: the settings of all probes."""

import dataclasses
import hashlib
import json
from typing import Any

from dim_jax import checks

# What the code fixes and a reader of the number must know. Hashes cover these
# texts too: another wording is another protocol.
_STANDARDISED = (
  "mean and deviation of all training rows: 'dimension', each its own, at "
  "least 1 % of their root mean square; 'overall', that root mean square for "
  'all'
)
_FIXED: dict[str, dict[str, Any]] = {
  'linear': {
    'model': 'multinomial logistic regression, mean cross-entropy + '
    'l2/2 |kernel|^2, bias free',
    'standardisation': _STANDARDISED,
    'selection': "linear_selection on the seed's own validation rows (held out "
    'of the training rows at random), ties to the larger l2, no refit',
  },
  'linear_few': {
    'model': 'as linear, on few_labels random training rows a class',
    'standardisation': _STANDARDISED + ' (labels unused)',
    'selection': 'linear_selection over few_labels folds inside the draw, each '
    'holding out one row a class; ties to the larger l2; refit on the draw',
  },
  'mlp': {
    'model': 'linear, dropout, batch norm, ReLU, linear',
    'standardisation': 'none',
    'optimiser': 'Adam, b1 0.5, b2 0.999, rate x 0.1 at mlp_decay_epochs',
    'selection': 'none: mean test accuracy of the last mlp_average_epochs',
  },
  'knn': {
    'model': 'cosine similarity, votes weighted by exp(similarity / '
    'knn_temperature)',
    'standardisation': 'none',
    'selection': 'none',
  },
  'svm': {
    'model': 'linear support vector machine, hinge loss, one against the rest',
    'standardisation': _STANDARDISED,
    'selection': "accuracy on the seed's own validation rows (held out of the "
    'training rows at random), ties to the smaller C, no refit',
  },
}


# Ranges of the numeric fields, as in `checks.check_range`.
_INTERVALS = {
  'max_examples': 'int [1, inf) or None',
  'seeds': 'int [1, inf)',
  'validation': '(0, 1)',
  'linear_iterations': 'int [1, inf)',
  'linear_tolerance': '[0, 1)',
  'few_labels': 'int [1, inf)',
  'few_draws': 'int [1, inf)',
  'mlp_units': 'int [1, inf)',
  'mlp_dropout': '[0, 1)',
  'mlp_batch_size': 'int [2, inf)',
  'mlp_learning_rate': '(0, inf)',
  'mlp_epochs': 'int [1, inf)',
  'mlp_average_epochs': 'int [1, inf)',
  'knn_neighbours': 'int [1, inf)',
  'knn_temperature': '(0, inf)',
  'svm_tolerance': '(0, inf)',
  'svm_iterations': 'int [1, inf)',
  'svm_max_examples': 'int [2, inf)',
}


def decay_epochs(epochs: int) -> tuple[int, ...]:
  """Returns a half and three quarters of a training, where its rate falls."""
  return tuple(sorted({max(1, epochs // 2), max(1, 3 * epochs // 4)}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSummary:
  """Describes the data of a result, which its protocol's hash covers too."""

  dataset: str = ''
  """Where the examples come from."""
  note: str = ''
  """Anything special about that copy of the data."""
  train_split: str = 'train'
  """Which rows probes fit and select on."""
  test_split: str = 'test'
  """Which rows count the accuracy; they select nothing."""
  train_rows: int | None = None
  """How many training rows there were, after max_examples."""
  test_rows: int | None = None
  image_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """The settings of all probes: every choice that defines a number."""

  max_examples: int | None = None
  """Training rows kept, drawn at random from seed 0; all of them if None."""
  seeds: int = 3
  """Repetitions: splits (linear, svm), or initialisation, order and dropout
  (mlp). kNN has nothing random."""
  validation: float = 0.1
  """Fraction of the training rows that linear and svm hold out to select."""
  linear_l2: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
  linear_scaling: str = 'dimension'
  """'dimension' or 'overall', see `examples.standardisation`."""
  linear_selection: str = 'loss'
  """What selects the l2 on held-out rows: 'loss', the least cross-entropy, or
  'accuracy', which has steps of a row and is noisy where they are few."""
  linear_iterations: int = 200
  """Most L-BFGS iterations of one fit."""
  linear_tolerance: float = 1e-4
  """A fit ends when its gradient's norm has shrunk by this factor."""
  few_labels: int = 5
  """Labelled examples a class."""
  few_draws: int = 10
  """Random draws of them."""
  few_l2: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
  few_scaling: str = 'overall'
  """As `linear_scaling`. With few labels the l2 penalty matters much, and
  scaling each dimension by itself would make raw pixels look worse."""
  mlp_units: int = 200
  mlp_dropout: float = 0.1
  mlp_batch_size: int = 64
  mlp_learning_rate: float = 1e-4
  mlp_epochs: int = 100
  """The paper trains 1000."""
  mlp_decay_epochs: tuple[int, ...] = (50, 75)
  """The paper's are 50 and 100."""
  mlp_average_epochs: int = 1
  """The reported accuracy is the mean over this many last epochs: 1 = the last
  epoch alone; the paper averages 100."""
  knn_neighbours: int = 200
  """No more than there are training rows."""
  knn_temperature: float = 0.1
  svm_c: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
  """Per row, as scikit-learn's C."""
  svm_scaling: str = 'dimension'
  svm_tolerance: float = 1e-2
  """As scikit-learn's tol; liblinear's own default is 0.1."""
  svm_iterations: int = 200
  """Most passes of one fit."""
  svm_max_examples: int = 5_000
  """Rows that the SVM keeps, drawn at random by each seed."""

  def __post_init__(self):
    checks.check_fields(self, _INTERVALS)
    if self.mlp_average_epochs > self.mlp_epochs:
      raise ValueError(
        f'mlp_average_epochs ({self.mlp_average_epochs}) must not exceed '
        f'mlp_epochs ({self.mlp_epochs}).'
      )
    for name in ('linear_scaling', 'few_scaling', 'svm_scaling'):
      checks.check_choice(name, getattr(self, name), ('dimension', 'overall'))
    checks.check_choice(
      'linear_selection', self.linear_selection, ('loss', 'accuracy')
    )
    for name in ('linear_l2', 'few_l2', 'svm_c', 'mlp_decay_epochs'):
      values = getattr(self, name)
      interval = 'int [1, inf)' if name == 'mlp_decay_epochs' else '(0, inf)'
      for value in values:
        checks.check_range(f'Each of {name}', value, interval)
      if list(values) != sorted(set(values)):
        raise ValueError(f'{name} must hold rising numbers, got {values!r}.')
      if not values and name != 'mlp_decay_epochs':
        raise ValueError(f'{name} must hold at least one number, got none.')

  def describe(
    self, probe: str | None = None, data: DataSummary = DataSummary()
  ) -> dict[str, Any]:
    """Describes the protocol as JSON data.

    Args:
      probe: keep only what concerns this probe; None keeps all.
      data: what it is used on.

    Returns:
      Fields by name, with the fixed choices of the code under 'fixed'.

    Raises:
      ValueError: there is no such probe.
    """
    fields = {
      k: list(v) if isinstance(v, tuple) else v
      for k, v in (dataclasses.asdict(data) | dataclasses.asdict(self)).items()
    }
    if probe is None:
      return fields | {'fixed': _FIXED}
    if probe not in _FIXED:
      raise ValueError(f'No probe {probe!r}: there are {sorted(_FIXED)}.')
    prefix = {'linear_few': 'few_'}.get(probe, probe + '_')
    others = {'linear_', 'few_', 'mlp_', 'knn_', 'svm_'} - {prefix}
    if probe == 'linear_few':
      # It shares the solver and its settings, but not the grid.
      others.remove('linear_')
      del fields['linear_l2']
    unused = {
      'linear': (),
      'linear_few': ('seeds', 'validation'),
      'mlp': ('validation',),
      'knn': ('seeds', 'validation'),
      'svm': (),
    }[probe]
    kept = {
      k: v
      for k, v in fields.items()
      if k not in unused and not k.startswith(tuple(others))
    }
    return {'probe': probe} | kept | {'fixed': _FIXED[probe]}

  def hash(
    self, probe: str | None = None, data: DataSummary = DataSummary()
  ) -> str:
    """Gives 12 hex digits that stand for `describe(probe, data)`."""
    text = json.dumps(self.describe(probe, data), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
