"""The probe by a linear support vector machine."""

import warnings

import numpy as np

from dim_jax.evaluation.probes.examples import (
  Examples,
  Progress,
  Result,
  check_examples,
  count_correct,
  standardisation,
  standardise,
  validation_rows,
)
from dim_jax.evaluation.probes.protocol import Protocol


def svm_probe(
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

  check_examples(train, test)
  shift, scale = standardisation(train.features, protocol.svm_scaling)
  labels = np.asarray(train.labels)
  test_x = standardise(test.features, shift, scale)
  found, kernels, biases, chosen = [], [], [], []
  for seed in range(protocol.seeds):
    rows = np.random.default_rng(seed).permutation(len(labels))
    rows = rows[: protocol.svm_max_examples]
    held_out = validation_rows(len(rows), protocol.validation, seed)
    x = standardise(train.features[rows], shift, scale)
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
  return count_correct(np.stack(found), test, weights, np.asarray(chosen))
