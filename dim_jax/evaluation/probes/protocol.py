"""What defines a probe's number: the settings of all probes."""

import dataclasses
import hashlib
import json
from typing import Any

# What the code fixes and a reader of the number must know.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """Every choice that defines a probe's number."""

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
  max_examples: int | None = None
  """Training rows kept, drawn at random from seed 0; all of them if None."""
  seeds: int = 3
  """Repetitions: splits (linear, svm), or initialisation, order and dropout
  (mlp). kNN has nothing random."""
  validation: float = 0.1
  """Fraction of the training rows that linear and svm hold out to select."""
  linear_l2: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
  linear_scaling: str = 'dimension'
  """'dimension' or 'overall', see `standardisation`."""
  linear_selection: str = 'loss'
  """What selects the l2 on held-out rows: 'loss', the least cross-entropy, or
  'accuracy', which moves in steps of a row and is noisy where they are few."""
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
  """With so few labels the penalty is a prior that decides much; scaling each
  dimension would change it, and makes raw pixels look worse than they are."""
  mlp_units: int = 200
  mlp_dropout: float = 0.1
  mlp_batch_size: int = 64
  mlp_learning_rate: float = 1e-4
  mlp_epochs: int = 100
  """The paper trains 1000."""
  mlp_decay_epochs: tuple[int, ...] = (50, 75)
  """The paper's are 50 and 100."""
  mlp_average_epochs: int = 1
  """The reported accuracy is the mean over so many last epochs: 1 = the last
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
    for name in (
      'seeds',
      'linear_iterations',
      'few_labels',
      'few_draws',
      'mlp_units',
      'mlp_epochs',
      'mlp_average_epochs',
      'knn_neighbours',
      'svm_iterations',
    ):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} must be >= 1, got {getattr(self, name)}.')
    if self.mlp_batch_size < 2 or self.svm_max_examples < 2:
      raise ValueError('mlp_batch_size and svm_max_examples must be >= 2.')
    if not 0 < self.validation < 1:
      raise ValueError(f'validation is in (0, 1), got {self.validation}.')
    if not 0 <= self.mlp_dropout < 1:
      raise ValueError(f'mlp_dropout is in [0, 1), got {self.mlp_dropout}.')
    if self.mlp_average_epochs > self.mlp_epochs:
      raise ValueError(
        f'mlp_average_epochs ({self.mlp_average_epochs}) must not exceed '
        f'mlp_epochs ({self.mlp_epochs}).'
      )
    if self.knn_temperature <= 0:
      raise ValueError(
        f'knn_temperature must be > 0, got {self.knn_temperature}.'
      )
    for name in ('linear_scaling', 'few_scaling', 'svm_scaling'):
      if getattr(self, name) not in ('dimension', 'overall'):
        raise ValueError(
          f"{name} is 'dimension' or 'overall', got {getattr(self, name)!r}."
        )
    if self.linear_selection not in ('loss', 'accuracy'):
      raise ValueError(
        f"linear_selection is 'loss' or 'accuracy', got "
        f'{self.linear_selection!r}.'
      )
    for name in ('linear_l2', 'few_l2', 'svm_c'):
      grid = getattr(self, name)
      if not grid or min(grid) <= 0 or list(grid) != sorted(grid):
        raise ValueError(
          f'{name} must hold rising positive numbers, got {grid!r}.'
        )

  def describe(self, probe: str | None = None) -> dict[str, Any]:
    """The protocol as JSON data.

    Args:
      probe: keep only what concerns this probe; None keeps all.

    Returns:
      Fields by name, with the fixed choices of the code under 'fixed'.

    Raises:
      ValueError: there is no such probe.
    """
    fields = {
      k: list(v) if isinstance(v, tuple) else v
      for k, v in dataclasses.asdict(self).items()
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

  def hash(self, probe: str | None = None) -> str:
    """12 hex digits that stand for `describe(probe)`."""
    text = json.dumps(self.describe(probe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
