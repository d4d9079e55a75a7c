"""Probes: how well simple classifiers do on frozen features.

Every probe is a function `(train, test, protocol) -> Result` of arrays. It fits
on the training rows, selects on training rows that it held out, and meets the
test labels only when the accuracy of its final predictions is counted. The
`Protocol` holds every choice that defines the number, and hashes it.
"""

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from dim_jax import random

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


class Examples(NamedTuple):
  """Rows that a probe fits, or is tested on."""

  features: np.ndarray
  """float32, shape [n, D]."""
  labels: np.ndarray
  """Whole numbers from 0, shape [n]."""


class Result(NamedTuple):
  """What a probe found, for each of S repetitions."""

  accuracies: np.ndarray
  """Test accuracies in [0, 1], shape [S]."""
  predictions: np.ndarray
  """Predicted test labels (of the last epoch), shape [S, n_test]."""
  weights: Any
  """The fitted weights, repetitions first; None for kNN."""
  chosen: np.ndarray | None = None
  """The selected l2 (or C), shape [S]."""


Progress = Callable[[float], None]


def linear(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """Multinomial logistic regression, l2 selected on held-out training rows.

  All seeds and all of the l2 grid are one compiled program. They share one copy
  of the features: a seed's split is a mask of weights, so each iteration costs
  two products of the features with all lanes' directions at once.

  Args:
    train: rows to fit and select on.
    test: rows to count the accuracy on.
    protocol: fields seeds, validation and linear_*.
    progress: called with 1 when done.

  Returns:
    Accuracies of the selected fits, with 'kernel' [S, D, C] and 'bias' [S, C]
    for standardised features.

  Raises:
    ValueError: shapes or labels do not fit together.
  """
  classes = _check(train, test)
  shift, scale = standardisation(train.features, protocol.linear_scaling)
  x = _standardise(train.features, shift, scale)
  held_out = np.stack(
    [
      validation_rows(len(x), protocol.validation, seed)
      for seed in range(protocol.seeds)
    ]
  )
  labels = np.asarray(train.labels, np.int32)
  kernel, bias, merits = _fit_grid(
    x,
    labels,
    (~held_out).astype(np.float32),
    np.asarray(protocol.linear_l2, np.float32),
    classes=classes,
    iterations=protocol.linear_iterations,
    tolerance=protocol.linear_tolerance,
    selection=protocol.linear_selection,
  )
  merits = np.asarray(merits)
  best = [
    _last_best(np.mean(merits[s][:, held_out[s]], axis=1))
    for s in range(protocol.seeds)
  ]
  seeds = np.arange(protocol.seeds)
  weights = {'kernel': kernel[seeds, best], 'bias': bias[seeds, best]}
  found = _predict(_standardise(test.features, shift, scale), weights)
  if progress is not None:
    progress(1.0)
  return _result(
    found, test, weights, np.asarray(protocol.linear_l2)[np.asarray(best)]
  )


def linear_few(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """The linear probe with few labels, over several balanced draws.

  Inside a draw, fold i holds out the i-th row of every class; the l2 with the
  best value over all folds is fitted again on the whole draw. With one label
  a class there is nothing to hold out, and the largest l2 is taken. Features
  are standardised with all training rows, whose labels stay unread.

  Args:
    train: rows to draw from.
    test: rows to count the accuracy on.
    protocol: fields few_*, linear_iterations and linear_tolerance.
    progress: called with 1 when done.

  Returns:
    One accuracy a draw, with 'kernel' and 'bias' as in `linear`.

  Raises:
    ValueError: a class has fewer than few_labels rows.
  """
  classes = _check(train, test)
  shift, scale = standardisation(train.features, protocol.few_scaling)
  rows = np.stack(
    [
      balanced_rows(train.labels, protocol.few_labels, draw)
      for draw in range(protocol.few_draws)
    ]
  )
  x = (train.features[rows] - shift) / scale
  labels = np.asarray(train.labels, np.int32)[rows]
  # A row's place among its class's rows is its fold; the last mask holds
  # nothing out.
  fold = np.arange(rows.shape[1]) % protocol.few_labels
  masks = fold[None, :] != np.arange(protocol.few_labels + 1)[:, None]
  kernel, bias, merits = _fit_draws(
    x,
    labels,
    masks.astype(np.float32),
    np.asarray(protocol.few_l2, np.float32),
    classes=classes,
    iterations=protocol.linear_iterations,
    tolerance=protocol.linear_tolerance,
    selection=protocol.linear_selection,
  )
  if protocol.few_labels > 1:
    best = [_last_best(row) for row in np.asarray(merits)]
  else:
    best = [len(protocol.few_l2) - 1] * protocol.few_draws
  draws = np.arange(protocol.few_draws)
  weights = {'kernel': kernel[draws, best], 'bias': bias[draws, best]}
  found = _predict(_standardise(test.features, shift, scale), weights)
  if progress is not None:
    progress(1.0)
  return _result(
    found, test, weights, np.asarray(protocol.few_l2)[np.asarray(best)]
  )


def mlp(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """The paper's probe: one hidden layer, evaluated with running statistics.

  All training rows are fitted, in a new order each epoch and without its last
  partial batch. All seeds train at once.

  Args:
    train: rows to fit.
    test: rows to count the accuracy on.
    protocol: fields seeds and mlp_*.
    progress: called with the share that is done after each epoch.

  Returns:
    Accuracies averaged over the last mlp_average_epochs epochs, with the
    variables of the last.

  Raises:
    ValueError: shapes or labels do not fit together.

  References:
    Hjelm et al., "Learning deep representations by mutual information
    estimation and maximization", section 4.1, https://arxiv.org/abs/1808.06670
  """
  classes = _check(train, test)
  n, size = len(train.labels), min(protocol.mlp_batch_size, len(train.labels))
  steps = n // size
  model = _Classifier(protocol.mlp_units, classes, protocol.mlp_dropout)
  boundaries = tuple(epoch * steps for epoch in protocol.mlp_decay_epochs)
  init, run_epoch = _mlp_programs(model, protocol.mlp_learning_rate, boundaries)
  keys = jax.vmap(jax.random.key)(np.arange(protocol.seeds, dtype=np.uint32))
  x = jnp.asarray(train.features, jnp.float32)
  labels = jnp.asarray(train.labels, jnp.int32)
  test_x = jnp.asarray(test.features, jnp.float32)
  state = init(keys, x[:2])
  accuracies = []
  for epoch in range(protocol.mlp_epochs):
    orders = [
      np.random.default_rng([seed, epoch]).permutation(n)[: steps * size]
      for seed in range(protocol.seeds)
    ]
    order = np.stack(orders).reshape(-1, steps, size).astype(np.int32)
    state = run_epoch(state, keys, x, labels, order)
    if epoch >= protocol.mlp_epochs - protocol.mlp_average_epochs:
      found = np.asarray(_mlp_predict(model, state[0], test_x))
      accuracies.append(np.mean(found == np.asarray(test.labels), axis=1))
    if progress is not None:
      jax.block_until_ready(state)
      progress((epoch + 1) / protocol.mlp_epochs)
  weights = jax.tree.map(np.asarray, state[0])
  return Result(np.mean(accuracies, axis=0), found, weights)


def knn(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """Weighted k nearest neighbours by cosine, in blocks of bounded memory.

  Args:
    train: rows that vote.
    test: rows to classify.
    protocol: fields knn_*.
    progress: called with the share that is done after each block.

  Returns:
    One accuracy: nothing here is random.

  Raises:
    ValueError: shapes or labels do not fit together.

  References:
    Wu et al., "Unsupervised feature learning via non-parametric instance
    discrimination", section 3.4, https://arxiv.org/abs/1805.01978
  """
  classes = _check(train, test)
  x = _unit_rows(jnp.asarray(train.features, jnp.float32))
  labels = jnp.asarray(train.labels, jnp.int32)
  # 2^24 similarities of a block take 64 MiB.
  size = max(1, min(len(test.labels), 2**24 // len(x)))
  found = np.empty([len(test.labels)], np.int32)
  for start in range(0, len(found), size):
    part = np.asarray(test.features[start : start + size], np.float32)
    padded = np.pad(part, [(0, size - len(part)), (0, 0)])
    votes = _neighbour_votes(
      x,
      labels,
      padded,
      protocol.knn_temperature,
      k=min(protocol.knn_neighbours, len(x)),
      classes=classes,
    )
    winners = np.argmax(np.asarray(votes), axis=1)
    found[start : start + len(part)] = winners[: len(part)]
    if progress is not None:
      progress((start + len(part)) / len(found))
  return _result(found[None], test, None)


def svm(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """scikit-learn's LinearSVC, C selected on held-out training rows.

  Args:
    train: rows to fit and select on; no more than svm_max_examples are used.
    test: rows to count the accuracy on.
    protocol: fields seeds, validation and svm_*.
    progress: called with the share that is done after each seed.

  Returns:
    Accuracies of the selected fits, with 'kernel' and 'bias' as in `linear`.

  Raises:
    ValueError: shapes or labels do not fit together.
  """
  # A second of imports that the other probes do not need.
  from sklearn import exceptions
  from sklearn.svm import LinearSVC

  _check(train, test)
  shift, scale = standardisation(train.features, protocol.svm_scaling)
  labels = np.asarray(train.labels)
  test_x = _standardise(test.features, shift, scale)
  found, kernels, biases, chosen = [], [], [], []
  for seed in range(protocol.seeds):
    rows = np.random.default_rng(seed).permutation(len(labels))
    rows = rows[: protocol.svm_max_examples]
    held_out = validation_rows(len(rows), protocol.validation, seed)
    x = _standardise(train.features[rows], shift, scale)
    fits = []
    for c in protocol.svm_c:
      machine = LinearSVC(
        C=c,
        loss='hinge',
        tol=protocol.svm_tolerance,
        max_iter=protocol.svm_iterations,
        random_state=seed,
      )
      with warnings.catch_warnings():
        # The bound on the passes is part of the protocol.
        warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
        machine.fit(x[~held_out], labels[rows][~held_out])
      fits.append(machine)
    accuracies = [m.score(x[held_out], labels[rows][held_out]) for m in fits]
    best = int(np.argmax(accuracies))
    chosen.append(protocol.svm_c[best])
    found.append(fits[best].predict(test_x))
    kernels.append(fits[best].coef_.T)
    biases.append(fits[best].intercept_)
    if progress is not None:
      progress((seed + 1) / protocol.seeds)
  weights = {'kernel': np.stack(kernels), 'bias': np.stack(biases)}
  return _result(np.stack(found), test, weights, np.asarray(chosen))


PROBES: dict[str, Callable[..., Result]] = {
  'linear': linear,
  'linear_few': linear_few,
  'mlp': mlp,
  'knn': knn,
  'svm': svm,
}
"""Probes by the name that tables and protocols use."""


def validation_rows(n: int, fraction: float, seed: int) -> np.ndarray:
  """Which training rows a seed holds out: a mask [n], at least one on a side.

  Args:
    n: how many rows there are.
    fraction: the share to hold out.
    seed: the repetition.

  Returns:
    bool, shape [n].

  Raises:
    ValueError: there is only one row.
  """
  if n < 2:
    raise ValueError(f'A split needs at least 2 training rows, got {n}.')
  count = min(max(1, round(n * fraction)), n - 1)
  mask = np.zeros([n], bool)
  mask[np.random.default_rng(seed).permutation(n)[:count]] = True
  return mask


def balanced_rows(labels: np.ndarray, per_class: int, draw: int) -> np.ndarray:
  """A random draw of as many rows from every class.

  Args:
    labels: shape [n].
    per_class: rows of each class.
    draw: which draw.

  Returns:
    Row numbers, classes one after the other, shape [C * per_class].

  Raises:
    ValueError: a class has too few rows.
  """
  random = np.random.default_rng(draw)
  rows = []
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    if len(members) < per_class:
      raise ValueError(
        f'Class {label} has {len(members)} training rows, fewer than '
        f'few_labels = {per_class}: lower few_labels or keep more rows.'
      )
    rows.append(random.permutation(members)[:per_class])
  return np.concatenate(rows)


def standardisation(
  features: np.ndarray, scaling: str = 'dimension'
) -> tuple[np.ndarray, np.ndarray]:
  """The shift and scale that standardise features.

  Args:
    features: the training rows, shape [n, D].
    scaling: 'dimension' scales each dimension by its deviation, but those that
      hardly move by no less than 1 % of the deviations' root mean square;
      'overall' scales all dimensions by that root mean square.

  Returns:
    Mean and scale, float32, shape [D]; standardised is (x - mean) / scale.
  """
  mean = np.asarray(np.mean(features, axis=0, dtype=np.float64))
  deviation = np.asarray(np.std(features, axis=0, dtype=np.float64))
  overall = float(np.sqrt(np.mean(np.square(deviation)))) or 1.0
  if scaling == 'overall':
    scale = np.full_like(deviation, overall)
  else:
    scale = np.maximum(deviation, 0.01 * overall)
  return mean.astype(np.float32), scale.astype(np.float32)


def fit_logistic(
  x: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  l2: jax.Array | float,
  *,
  classes: int,
  iterations: int = 300,
  tolerance: float = 1e-4,
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Multinomial logistic regression by L-BFGS with an exact line search.

  Minimises sum_i w_i CE_i / sum_i w_i + l2/2 |kernel|^2. Logits are linear in
  the parameters, so a line search needs no further product with the features:
  an iteration costs two of them, however many steps it tries.

  Args:
    x: shape [n, D].
    labels: int, shape [n].
    weights: w, shape [n]; 0 leaves a row out.
    l2: strength of the penalty, > 0.
    classes: C.
    iterations: most iterations.
    tolerance: stop when the gradient's norm has shrunk by this factor.

  Returns:
    'kernel' [D, C] and 'bias' [C], and the logits of all rows [n, C].
  """
  weight = (weights / jnp.sum(weights))[:, None]
  targets = jax.nn.one_hot(labels, classes)
  direction_of = optax.scale_by_lbfgs(memory_size=10)

  def product(params):
    return x @ params['kernel'] + params['bias'][None, :]

  def gradient(params, logits):
    error = weight * (jax.nn.softmax(logits) - targets)
    kernel = x.T @ error + l2 * params['kernel']
    return {'kernel': kernel, 'bias': jnp.sum(error, axis=0)}

  def iterate(carry):
    params, logits, gradients, state, count = carry
    step, state = direction_of.update(gradients, state, params)
    step = jax.tree.map(jnp.negative, step)
    along = product(step)
    penalty = (
      l2 * jnp.vdot(params['kernel'], step['kernel']),
      l2 * jnp.vdot(step['kernel'], step['kernel']),
    )
    size = _line_search(logits, along, weight, targets, penalty)
    params = jax.tree.map(lambda p, s: p + size * s, params, step)
    logits = logits + size * along
    return params, logits, gradient(params, logits), state, count + 1

  params = {
    'kernel': jnp.zeros([x.shape[1], classes]),
    'bias': jnp.zeros([classes]),
  }
  logits = product(params)
  gradients = gradient(params, logits)
  target = tolerance * optax.tree.norm(gradients)
  params, *_ = jax.lax.while_loop(
    lambda carry: (
      (optax.tree.norm(carry[2]) > target) & (carry[4] < iterations)
    ),
    iterate,
    (params, logits, gradients, direction_of.init(params), 0),
  )
  # Computed anew: the running sum carries the rounding of every iteration.
  return params, product(params)


def _line_search(logits, along, weight, targets, penalty):
  """The size that cuts the slope to a tenth: Newton steps inside a bracket."""

  def slope(size):
    p = jax.nn.softmax(logits + size * along)
    centred = along - jnp.sum(p * along, axis=1, keepdims=True)
    first = jnp.sum(weight * (p - targets) * along)
    second = jnp.sum(weight * p * jnp.square(centred))
    return first + penalty[0] + size * penalty[1], second + penalty[1]

  start, _ = slope(0.0)

  def refine(carry):
    size, low, high, _, count = carry
    first, second = slope(size)
    low = jnp.where(first < 0, size, low)
    high = jnp.where(first < 0, high, size)
    newton = size - first / jnp.maximum(second, 1e-30)
    # Where Newton leaves the bracket: double it while open, else halve it.
    middle = jnp.where(jnp.isinf(high), 2.0 * size, 0.5 * (low + high))
    better = jnp.where((newton > low) & (newton < high), newton, middle)
    good = jnp.abs(first) <= 0.1 * jnp.abs(start)
    return jnp.where(good, size, better), low, high, first, count + 1

  size, *_ = jax.lax.while_loop(
    lambda carry: (jnp.abs(carry[3]) > 0.1 * jnp.abs(start)) & (carry[4] < 10),
    refine,
    (1.0, 0.0, jnp.inf, start, 0),
  )
  return size


_STATIC = ('classes', 'iterations', 'tolerance', 'selection')


def _merit(logits, labels, selection):
  """What selection maximises, for each row: [n]."""
  if selection == 'accuracy':
    return (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)
  return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _fit_grid(x, labels, weights, l2, *, selection, **settings):
  """Fits of S masks [S, n] and G strengths, leading axes [S, G].

  Returns kernels [S, G, D, C], biases [S, G, C], and each row's merit
  [S, G, n].
  """

  def fit(weight, strength):
    params, logits = fit_logistic(x, labels, weight, strength, **settings)
    return params['kernel'], params['bias'], _merit(logits, labels, selection)

  # Accelerators would round the products' inputs, and the fit never converge.
  with jax.default_matmul_precision('highest'):
    over_l2 = jax.vmap(fit, in_axes=(None, 0))
    return jax.vmap(over_l2, in_axes=(0, None))(weights, l2)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _fit_draws(x, labels, masks, l2, *, selection, **settings):
  """Fits of R draws x [R, m, D] and G strengths by each mask [F + 1, m].

  Returns the kernels [R, G, D, C] and biases [R, G, C] of the last mask, which
  keeps all rows, and the merit of the rows that the others hold out, [R, G].
  """

  def fit(x, labels, strength):
    small, back = _row_space(x)

    def one(mask):
      params, logits = fit_logistic(small, labels, mask, strength, **settings)
      merit = _merit(logits, labels, selection)
      return params, jnp.sum((1 - mask) * merit)

    params, merits = jax.vmap(one)(masks)
    return back(params['kernel'][-1]), params['bias'][-1], jnp.sum(merits)

  with jax.default_matmul_precision('highest'):
    over_l2 = jax.vmap(fit, in_axes=(None, None, 0))
    return jax.vmap(over_l2, in_axes=(0, 0, None))(x, labels, l2)


def _row_space(x):
  """Rows x [m, D] in an orthonormal basis of their span, and the way back.

  The penalty is invariant to rotations and its minimiser lies in the rows'
  span, so m coordinates do for any D > m, exactly.
  """
  if x.shape[1] <= x.shape[0]:
    return x, lambda kernel: kernel
  squares, left = jnp.linalg.eigh(x @ x.T)
  real = squares > 1e-6 * squares[-1]
  size = jnp.sqrt(jnp.where(real, squares, 1.0))
  small = left * jnp.where(real, size, 0.0)[None, :]

  def back(kernel):
    return x.T @ (left @ (kernel * (real / size)[:, None]))

  return small, back


@jax.jit
def _predict(x, weights):
  """Labels [S, n] of rows x [n, D] by kernels [S, D, C]."""
  with jax.default_matmul_precision('highest'):
    logits = jnp.einsum('nd,sdc->snc', x, weights['kernel'])
  return jnp.argmax(logits + weights['bias'][:, None, :], axis=-1)


class _Classifier(nn.Module):
  """Features [N, D] to logits [N, classes], by way of one hidden layer."""

  units: int
  classes: int
  dropout: float

  @nn.compact
  def __call__(self, x, *, train=False):
    x = self._dense(self.units, x)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return self._dense(self.classes, nn.relu(x))

  def _dense(self, units, x):
    # PyTorch's initialisation, as in the paper's code.
    bound = x.shape[-1] ** -0.5

    def bias(key, shape, dtype=jnp.float32):
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    return nn.Dense(units, kernel_init=kernel, bias_init=bias)(x)


@functools.lru_cache(maxsize=8)
def _mlp_programs(model, learning_rate, boundaries):
  """The compiled start, and the compiled epoch, of all seeds at once."""
  schedule = optax.piecewise_constant_schedule(
    learning_rate, {boundary: 0.1 for boundary in boundaries}
  )
  optimizer = optax.adam(schedule, b1=0.5, b2=0.999)

  def init_one(key, x):
    variables = model.init(random.branch(key, random.OfProbe.PARAMETERS), x)
    return variables, optimizer.init(variables['params']), 0

  def step(carry, batch, key, x, labels):
    variables, optimizer_state, count = carry

    def loss(params):
      logits, changed = model.apply(
        {'params': params, 'batch_stats': variables['batch_stats']},
        x[batch],
        train=True,
        rngs={'dropout': random.branch(key, count)},
        mutable=['batch_stats'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, labels[batch]
      )
      return jnp.mean(losses), changed

    gradients, changed = jax.grad(loss, has_aux=True)(variables['params'])
    updates, optimizer_state = optimizer.update(gradients, optimizer_state)
    params = optax.apply_updates(variables['params'], updates)
    return ({'params': params, **changed}, optimizer_state, count + 1), None

  def epoch_one(state, key, x, labels, order):
    def body(carry, batch):
      return step(carry, batch, key, x, labels)

    return jax.lax.scan(body, state, order)[0]

  init = jax.jit(jax.vmap(init_one, in_axes=(0, None)))
  epoch = jax.jit(jax.vmap(epoch_one, in_axes=(0, 0, None, None, 0)))
  return init, epoch


@functools.partial(jax.jit, static_argnums=0)
def _mlp_predict(model, variables, x):
  """Labels [S, n] by the running statistics."""
  return jax.vmap(lambda v: jnp.argmax(model.apply(v, x), axis=-1))(variables)


@functools.partial(jax.jit, static_argnames=('k', 'classes'))
def _neighbour_votes(x, labels, queries, temperature, *, k, classes):
  """Votes [B, C] for queries [B, D] by unit rows x [n, D]."""
  with jax.default_matmul_precision('highest'):
    similarity = _unit_rows(queries) @ x.T
  nearest, rows = jax.lax.top_k(similarity, k)
  # Less the nearest one's, a factor common to all classes: no overflow.
  votes = jnp.exp((nearest - nearest[:, :1]) / temperature)
  return jnp.einsum('bk,bkc->bc', votes, jax.nn.one_hot(labels[rows], classes))


def _unit_rows(x):
  """Rows of length 1; zero rows stay."""
  length = jnp.linalg.norm(x, axis=1, keepdims=True)
  return x / jnp.where(length > 0, length, 1.0)


def _standardise(x, shift, scale):
  """Standardised rows, in one new float32 array."""
  x = np.asarray(x, np.float32) - shift
  x /= scale
  return x


def _last_best(accuracies) -> int:
  """The last of the best: the larger l2 wins a tie."""
  return len(accuracies) - 1 - int(np.argmax(accuracies[::-1]))


def _result(found, test, weights, chosen=None):
  """Counts the accuracy: the one place that reads the test labels."""
  found = np.asarray(found)
  accuracies = np.mean(found == np.asarray(test.labels), axis=1)
  return Result(accuracies, found, jax.tree.map(np.asarray, weights), chosen)


def _check(train: Examples, test: Examples) -> int:
  """How many classes there are, after checks of shapes and labels."""
  for name, part in (('train', train), ('test', test)):
    if part.features.ndim != 2 or not len(part.features):
      raise ValueError(
        f'{name} features must be [n, D] with n >= 1, got shape '
        f'{part.features.shape}.'
      )
    if part.labels.shape != part.features.shape[:1]:
      raise ValueError(
        f'{name} has {len(part.features)} rows of features, but labels of '
        f'shape {part.labels.shape}.'
      )
    if not np.isfinite(part.features).all():
      raise ValueError(
        f'{name} features hold NaN or infinity: the encoder diverged.'
      )
  if train.features.shape[1] != test.features.shape[1]:
    raise ValueError(
      f'train features have {train.features.shape[1]} dimensions, test '
      f'features {test.features.shape[1]}.'
    )
  if min(train.labels) < 0:
    raise ValueError(
      'Training labels must be >= 0: leave unlabelled (-1) rows out.'
    )
  return int(max(train.labels)) + 1
