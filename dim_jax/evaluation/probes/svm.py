"""The probe by a linear support vector machine."""

import warnings
from typing import Any

import numpy as np

from dim_jax.evaluation.probes import examples
from dim_jax.evaluation.probes.examples import Examples, Progress, Result
from dim_jax.evaluation.probes.protocol import Protocol


def svm_probe(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """Fits scikit-learn's LinearSVC, C selected on held-out training rows.

  Args:
    train: rows to fit and select on; no more than svm_max_examples are used.
    test: rows to count the accuracy on.
    protocol: fields seeds, validation and svm_*.
    progress: called with the fraction that is done after each seed.

  Returns:
    Accuracies of the selected fits, with 'kernel' [S, D, C] and 'bias' [S, C].
    A class of which a seed draws no row has a bias of -inf there.

  Raises:
    ValueError: shapes or labels do not fit together, or a seed draws rows of
      one class alone.
  """
  # A second of imports that the other probes do not need.
  from sklearn import exceptions
  from sklearn.svm import LinearSVC

  classes = examples.check_examples(train, test)
  shift, scale = examples.standardisation(train.features, protocol.svm_scaling)
  labels = np.asarray(train.labels)
  test_x = examples.standardise(test.features, shift, scale)
  predictions, kernels, biases, chosen = [], [], [], []
  for seed in range(protocol.seeds):
    rows = np.random.default_rng(seed).permutation(len(labels))
    rows = rows[: protocol.svm_max_examples]
    held_out = examples.validation_rows(len(rows), protocol.validation, seed)
    x, y = (
      examples.standardise(train.features[rows], shift, scale),
      labels[rows],
    )
    if len(np.unique(y[~held_out])) < 2:
      raise ValueError(
        f'All {np.sum(~held_out)} rows that seed {seed} fits are of class '
        f'{y[~held_out][0]}: an SVM needs two classes. Raise svm_max_examples '
        f'({protocol.svm_max_examples}), or leave this probe out.'
      )
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
        machine.fit(x[~held_out], y[~held_out])
      fits.append(machine)
    accuracies = [m.score(x[held_out], y[held_out]) for m in fits]
    best = int(np.argmax(accuracies))
    chosen.append(protocol.svm_c[best])
    predictions.append(fits[best].predict(test_x))
    kernel, bias = _weights(fits[best], classes)
    kernels.append(kernel)
    biases.append(bias)
    if progress is not None:
      progress((seed + 1) / protocol.seeds)
  weights = {'kernel': np.stack(kernels), 'bias': np.stack(biases)}
  return examples.count_correct(predictions, test, weights, np.asarray(chosen))


def _weights(machine: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns kernel [D, C] and bias [C] of all classes, fitted or not."""
  kernel, bias = machine.coef_.T, machine.intercept_
  if len(machine.classes_) == 2:
    # scikit-learn keeps the second class's side alone.
    kernel = np.concatenate([-kernel, kernel], axis=1)
    bias = np.concatenate([-bias, bias])
  full_kernel = np.zeros([len(kernel), classes])
  full_bias = np.full([classes], -np.inf)
  full_kernel[:, machine.classes_] = kernel
  full_bias[machine.classes_] = bias
  return full_kernel, full_bias
