"""Metrics of representations against known spectra, maps and neighbours."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.evaluation import representations


@pytest.mark.parametrize('rank', [1, 3, 8])
def test_effective_rank_of_isotropic_features_is_their_rank(rank):
  random = np.random.default_rng(0)
  # Orthonormal columns that are orthogonal to the ones: already centred.
  basis = random.normal(size=[40, rank])
  basis, _ = np.linalg.qr(np.concatenate([np.ones([40, 1]), basis], axis=1))
  turn, _ = np.linalg.qr(random.normal(size=[12, 12]))
  rows = 7 * basis[:, 1:] @ turn[:rank] + 100
  assert representations.effective_rank(rows) == pytest.approx(rank, rel=2e-3)


def test_effective_rank_of_a_known_spectrum():
  # Singular values 3 and 1: exp of the entropy of (3/4, 1/4).
  rows = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
  expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  assert representations.effective_rank(rows) == pytest.approx(
    expected, rel=1e-5
  )


def test_collapsed_features_have_no_rank_and_no_variance():
  rows = np.full([6, 3], 0.5, np.float32)
  assert representations.effective_rank(rows) == 0
  np.testing.assert_array_equal(
    representations.standard_deviation(rows), np.zeros(3)
  )
  rows[:3, 1] = 1.5
  np.testing.assert_allclose(
    representations.standard_deviation(rows), [0, 0.5, 0], atol=1e-6
  )
  traced = jax.jit(representations.effective_rank)(rows)
  assert traced == pytest.approx(1, rel=1e-3)
  # One dimension of three has a standard deviation of 1/2.
  assert representations.collapse_indicators(rows) == pytest.approx(
    {
      'effective_rank': 1,
      'dimensions': 3,
      'examples': 6,
      'std_mean': 0.5 / 3,
      'std_min': 0,
    },
    rel=1e-3,
  )


def test_collapse_monitor_on_known_features():
  # Four images whose features are +-e1 and +-e2: two equal singular values,
  # so an effective rank of 2; each dimension has variance 2/4.
  x = jnp.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
  monitor = representations.collapse_monitor(lambda *_: {'y': x}, {})
  values = monitor(None, None)
  np.testing.assert_allclose(values['encoder/effective_rank'], 2, rtol=1e-4)
  expected = (2 * np.sqrt(0.5) + 0) / 3
  np.testing.assert_allclose(values['encoder/std'], expected, rtol=1e-6)


def test_effective_rank_of_spectra_by_hand():
  np.testing.assert_allclose(
    representations.effective_rank_of_spectrum(np.full(5, 0.3)), 5
  )
  np.testing.assert_allclose(
    representations.effective_rank_of_spectrum(np.array([2.0, 1.0])),
    3 / 2 ** (2 / 3),
  )
  assert representations.effective_rank_of_spectrum(np.zeros(3)) == 0


def test_pca_by_hand():
  # Along (3, 4) / 5 at -5, 0, 5, and 1 off it: variances 50 and 2 of 3 points
  # would mix, so the off-axis points are placed symmetrically.
  axis, other = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
  x = np.stack([-5 * axis, 5 * axis, other, -other]) + 7
  points, fraction = representations.pca(x)
  np.testing.assert_allclose(fraction, [50 / 52, 2 / 52])
  np.testing.assert_allclose(np.abs(points[:, 0]), [5, 5, 0, 0], atol=1e-12)
  np.testing.assert_allclose(np.abs(points[:, 1]), [0, 0, 1, 1], atol=1e-12)
  # The sign is fixed: mirrored features give the same picture.
  np.testing.assert_allclose(np.abs(representations.pca(-x)[0]), np.abs(points))
  assert points[np.abs(points[:, 0]).argmax(), 0] > 0


def test_neighbours_by_hand():
  # Directions 0, 10, 25 and 100 degrees; lengths must not matter.
  angles = np.deg2rad([0, 10, 25, 100])
  x = np.stack([np.cos(angles), np.sin(angles)], 1)
  x = x * np.array([1, 9, 2, 5])[:, None]
  order, distance = representations.nearest_neighbours(x, 3)
  np.testing.assert_array_equal(
    order, [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
  )
  np.testing.assert_allclose(distance[0], 1 - np.cos(np.deg2rad([10, 25, 100])))


@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
def test_neighbours_against_brute_force(metric):
  x = np.random.default_rng(1).normal(size=(12, 4))

  def distance(a, b):
    if metric == 'euclidean':
      return math.dist(a, b)
    return 1 - a @ b / (math.hypot(*a) * math.hypot(*b))

  order, distances = representations.nearest_neighbours(x, 5, metric)
  for i in range(12):
    others = sorted((distance(x[i], x[j]), j) for j in range(12) if j != i)
    assert order[i].tolist() == [j for _, j in others[:5]]
    np.testing.assert_allclose(distances[i], [d for d, _ in others[:5]])


def test_neighbours_errors():
  with pytest.raises(ValueError, match='between 1 and 2 for 3 examples, got 3'):
    representations.nearest_neighbours(np.eye(3), 3)
  with pytest.raises(ValueError, match="'cosine' or 'euclidean', got 'l1'"):
    representations.nearest_neighbours(np.eye(3), 1, 'l1')


def test_auroc_by_hand():
  # Pairs (2 > 1), (2 = 2) half, (3 > 1), (3 > 2): 3.5 of 4.
  value = representations.auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
  assert value == pytest.approx(3.5 / 4)
