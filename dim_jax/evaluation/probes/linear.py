"""The linear probe, on all labels and on a few."""

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.evaluation.probes import examples, logistic
from dim_jax.evaluation.probes.examples import Examples, Progress, Result
from dim_jax.evaluation.probes.protocol import Protocol


def linear_probe(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """Fits multinomial logistic regressions, l2 selected on held-out rows.

  All seeds and all of the l2 grid are one compiled program. They share one copy
  of the features: a seed's split is a mask of weights, so each iteration costs
  two products of the features with the directions of all fits at once.

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
  classes = examples.check_examples(train, test)
  shift, scale = examples.standardisation(
    train.features, protocol.linear_scaling
  )
  x = examples.standardise(train.features, shift, scale)
  held_out = np.stack(
    [
      examples.validation_rows(len(x), protocol.validation, seed)
      for seed in range(protocol.seeds)
    ]
  )
  labels = np.asarray(train.labels, np.int32)
  kernel, bias, scores = logistic.fit_grid(
    x,
    labels,
    (~held_out).astype(np.float32),
    np.asarray(protocol.linear_l2, np.float32),
    classes=classes,
    iterations=protocol.linear_iterations,
    tolerance=protocol.linear_tolerance,
    selection=protocol.linear_selection,
  )
  scores = np.asarray(scores)
  best = [
    examples.last_best(np.mean(scores[s][:, held_out[s]], axis=1))
    for s in range(protocol.seeds)
  ]
  x = examples.standardise(test.features, shift, scale)
  return _evaluate(kernel, bias, protocol.linear_l2, best, x, test, progress)


def linear_few_probe(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """Fits the linear probe with few labels, over several balanced draws.

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
    One accuracy a draw, with 'kernel' and 'bias' as in `linear_probe`.

  Raises:
    ValueError: a class has fewer than few_labels rows.
  """
  classes = examples.check_examples(train, test)
  shift, scale = examples.standardisation(train.features, protocol.few_scaling)
  rows = np.stack(
    [
      examples.balanced_rows(train.labels, protocol.few_labels, draw)
      for draw in range(protocol.few_draws)
    ]
  )
  x = (train.features[rows] - shift) / scale
  labels = np.asarray(train.labels, np.int32)[rows]
  # A row's place among its class's rows is its fold; the last mask holds
  # nothing out.
  fold = np.arange(rows.shape[1]) % protocol.few_labels
  masks = fold[None, :] != np.arange(protocol.few_labels + 1)[:, None]
  kernel, bias, scores = logistic.fit_draws(
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
    best = [examples.last_best(row) for row in np.asarray(scores)]
  else:
    best = [len(protocol.few_l2) - 1] * protocol.few_draws
  x = examples.standardise(test.features, shift, scale)
  return _evaluate(kernel, bias, protocol.few_l2, best, x, test, progress)


def _evaluate(kernel, bias, l2, best, x, test, progress) -> Result:
  """Predicts standardised test rows x by the best l2 of each repetition."""
  repetitions = np.arange(len(best))
  weights = {
    'kernel': kernel[repetitions, best],
    'bias': bias[repetitions, best],
  }
  predictions = _predict(x, weights)
  if progress is not None:
    progress(1.0)
  chosen = np.asarray(l2)[np.asarray(best)]
  return examples.count_correct(predictions, test, weights, chosen)


@jax.jit
def _predict(x, weights):
  """Predicts labels [S, n] of rows x [n, D] by kernels [S, D, C]."""
  with jax.default_matmul_precision('highest'):
    logits = jnp.einsum('nd,sdc->snc', x, weights['kernel'])
  return jnp.argmax(logits + weights['bias'][:, None, :], axis=-1)
