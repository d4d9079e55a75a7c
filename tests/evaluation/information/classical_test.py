"""Estimates without a network, against closed forms and other programs."""

import math

import numpy as np
import pytest
from scipy import special
from sklearn import cross_decomposition, feature_selection

from dim_jax.data import pairs
from dim_jax.evaluation.information import classical


def test_gaussian_is_by_canonical_correlations():
  x, y = pairs.find('dense_3').sample(np.random.default_rng(0), 800)
  model = cross_decomposition.CCA(3, scale=False, max_iter=5000, tol=1e-10)
  of_x, of_y = model.fit_transform(x, y)
  correlations = [np.corrcoef(of_x[:, i], of_y[:, i])[0, 1] for i in range(3)]
  expected = -0.5 * np.sum(np.log1p(-np.square(correlations)))
  # Less its bias: of covariances of D columns, by Wishart's distribution, the
  # log determinant is off by the sum of psi((n - i) / 2), i from 1 to D.
  psi = [special.digamma((800 - i) / 2) for i in range(1, 7)]
  expected -= (2 * sum(psi[:3]) - sum(psi)) / 2
  assert classical.gaussian(x, y) == pytest.approx(expected, rel=1e-4)
  # Invertible linear maps change nothing, nor does a column that repeats, or
  # its unit.
  turned = np.hstack(
    [x @ np.random.default_rng(1).normal(size=(3, 3)), x[:, :1]]
  )
  assert classical.gaussian(turned, y) == pytest.approx(expected, rel=1e-4)
  units = [1e13, 1.0, 1e-9]
  assert classical.gaussian(x * units, y) == pytest.approx(expected, rel=1e-4)


def test_gaussian_of_few_rows_of_many_columns():
  # Independent: 0, where the sample's covariances would say 6.2 nats.
  found = []
  for seed in range(8):
    x, y = np.random.default_rng(seed).normal(size=(2, 400, 64))
    found.append(classical.gaussian(x, y))
  error = np.std(found) / math.sqrt(8)
  assert np.mean(found) == pytest.approx(0, abs=4 * error)
  assert error < 0.1


def test_gaussian_finds_the_truth():
  task = pairs.find('sparse_5')
  x, y = task.sample(np.random.default_rng(0), 20_000)
  # Its standard error is that of pointwise information, 1.06 / sqrt(n).
  assert classical.gaussian(x, y) == pytest.approx(
    task.mutual_information, abs=3 * 1.06 / math.sqrt(20_000)
  )


def test_gaussian_where_one_tells_the_other():
  x = np.random.default_rng(0).normal(size=(50, 2))
  assert classical.gaussian(x, x[:, :1]) > 10
  with pytest.raises(ValueError, match='4 rows of 2 and 2 columns'):
    classical.gaussian(x[:4], x[:4])


def by_loops(x, y, k):
  """The definition, in loops over all distances."""
  n = len(x)
  x, y = ((s - s.mean(0)) / s.std(0) for s in (x, y))
  apart_x = np.abs(x[:, None] - x[None]).max(-1)
  apart_y = np.abs(y[:, None] - y[None]).max(-1)
  total = 0.0
  for i in range(n):
    both = np.sort(np.maximum(apart_x[i], apart_y[i]))[k]
    counts = [(apart[i] < both).sum() - 1 for apart in (apart_x, apart_y)]
    total += sum(special.digamma(c + 1) for c in counts)
  return special.digamma(k) + special.digamma(n) - total / n


@pytest.mark.parametrize('k', [1, 3])
def test_ksg_equals_its_definition(k):
  x, y = pairs.find('sparse_2').sample(np.random.default_rng(0), 150)
  assert classical.ksg(x, y, k) == pytest.approx(by_loops(x, y, k), abs=1e-9)


def test_ksg_beside_scikit_learns():
  x, y = pairs.find('normal').sample(np.random.default_rng(0), 3000)
  theirs = feature_selection.mutual_info_regression(
    x, y[:, 0], n_neighbors=3, random_state=0
  )[0]
  assert classical.ksg(x, y) == pytest.approx(theirs, abs=1e-3)
  with pytest.raises(ValueError, match=r'neighbours must be in \[1, 5\)'):
    classical.ksg(x[:5], y[:5], 5)
