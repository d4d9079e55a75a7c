"""What decides when the clock of `time_to_accuracy` stops."""

import numpy as np
import pytest

from experiments.benchmarks import time_to_accuracy


def codes(labels, noise, seed):
  rng = np.random.default_rng(seed)
  x = 3 * np.eye(10)[labels] + noise * rng.normal(size=(len(labels), 10))
  # An offset, and an axis of nothing: neither helps nor harms.
  return np.concatenate([x, np.zeros((len(labels), 1))], 1) + 5


@pytest.mark.parametrize('case', time_to_accuracy.CASES.values())
def test_ridge_finds_separate_classes_and_nothing_in_noise(case):
  labels = np.arange(500) % 10
  both = np.concatenate([labels, labels])
  accuracy = time_to_accuracy.accuracy
  separate = codes(both, 0.1, 0)
  assert accuracy(case, separate, labels, labels) == 1.0
  noise = np.random.default_rng(1).normal(size=(1000, 11))
  # Ten classes as frequent: 10 %, with a standard deviation of 1.3 points.
  assert accuracy(case, noise, labels, labels) == pytest.approx(0.1, abs=0.05)
