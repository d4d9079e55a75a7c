"""Metrics of representations against known spectra, maps and neighbours."""

import functools
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


def _orthonormal(rows, columns, seed=0):
  """Columns of length 1 at right angles, and to the ones: already centred."""
  x = np.random.default_rng(seed).normal(size=(rows, columns))
  q, _ = np.linalg.qr(np.concatenate([np.ones((rows, 1)), x], axis=1))
  return q[:, 1:]


@pytest.mark.parametrize('rank', [1, 4])
def test_rankme_of_equal_singular_values_is_their_number(rank):
  x = _orthonormal(30, rank) @ _orthonormal(9, rank, 1).T
  # epsilon adds 1e-7 to each of 9 fractions: (9 - rank) times
  # -1e-7 ln 1e-7 = 1.6e-6 to the entropy, from directions that are not there.
  expected = rank * np.exp((9 - rank) * 1e-7 * 7 * np.log(10))
  assert representations.rankme(x) == pytest.approx(expected, rel=1e-6)


def test_rankme_is_not_centred():
  # Constant rows are one direction here and none there.
  x = np.full((6, 3), 2.0)
  assert representations.rankme(x) == pytest.approx(1, rel=1e-5)
  assert representations.effective_rank(x) == 0
  assert representations.rankme(np.zeros((6, 3))) == 0
  # Singular values 3 and 1, with no third direction.
  x = np.diag([3.0, 1.0])
  expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  assert representations.rankme(x) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0])
def test_alpha_of_a_power_law(alpha):
  # Eigenvalues j^-alpha are singular values j^(-alpha/2); a mean is no matter.
  values = np.arange(1, 61) ** (-alpha / 2)
  x = 5 + _orthonormal(80, 60) * values[None] @ _orthonormal(70, 60, 1).T
  for arguments in ((), (1,), (2, 9)):
    value = representations.alpha_req(x, *arguments)
    assert value == pytest.approx(alpha, rel=1e-9)


def test_alpha_is_of_the_ranks_that_are_fitted():
  # Eigenvalues j^-1 up to rank 10, then j^-3, joined there.
  ranks = np.arange(1, 41)
  values = np.where(ranks <= 10, ranks**-1.0, 100.0 * ranks**-3.0)
  x = _orthonormal(60, 40) * np.sqrt(values)[None]
  assert representations.alpha_req(x, 2, 10) == pytest.approx(1)
  assert representations.alpha_req(x, 10, 40) == pytest.approx(3)
  # All of them, by the normal equations with weights 1 / rank.
  weights = 1 / ranks[3:]
  a, b = np.log(ranks[3:]), np.log(values[3:])
  a = a - np.average(a, weights=weights)
  slope = np.sum(weights * a * b) / np.sum(weights * a * a)
  assert representations.alpha_req(x) == pytest.approx(-slope)
  # Ranks 4 and on of three directions are none.
  assert math.isnan(representations.alpha_req(x[:, :3]))


def _views(between, within):
  """Images whose means have covariance diag(between), views diag(within)."""
  size, images = len(between), 40
  means = _orthonormal(images, size) * np.sqrt(images * np.array(between))[None]
  # Two views a direction, at plus and minus sqrt(size * variance).
  steps = np.diag(np.sqrt(size * np.array(within)))
  return means[:, None] + np.concatenate([steps, -steps])[None]


@pytest.mark.parametrize('turned', [False, True])
def test_lidar_of_known_covariances(turned):
  between, within = [8.0, 3.0, 5.0], [2.0, 3.0, 1.0]
  x = _views(between, within)
  if turned:
    x = 7 + x @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
  p = np.array([8 / 2.5, 3 / 3.5, 5 / 1.5])  # With delta = 1/2.
  p /= p.sum()
  value = representations.lidar(x, delta=0.5, epsilon=0)
  assert value == pytest.approx(np.exp(-np.sum(p * np.log(p))))


def test_lidar_discounts_what_views_change():
  # Four directions of equal variance between images; the views move two of
  # them, so the others hold all but 2e-4 of the ratio.
  x = _views([1.0] * 4, [0.0, 0.0, 1.0, 1.0])
  assert representations.lidar(x) == pytest.approx(2, rel=2e-3)
  assert representations.lidar(_views([1.0] * 4, [1.0] * 4)) == pytest.approx(
    4, rel=1e-5
  )


def test_lidar_in_more_dimensions_than_rows():
  # Zeros added to the features change nothing, nor does a turn of the axes.
  x = _views([8.0, 3.0], [2.0, 3.0])[:6]
  expected = representations.lidar(x, epsilon=0)
  basis = _orthonormal(31, 2, 3)
  wide = x @ basis.T
  assert wide.shape == (6, 4, 31)
  assert representations.lidar(wide, epsilon=0) == pytest.approx(expected)
  with pytest.raises(ValueError, match=r'2 views each, got shape \(6, 1, 2\)'):
    representations.lidar(x[:, :1])


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


def test_same_class_by_hand():
  # On a line 0 and 1 are close, 2 and 3 too; the nearest two of 0 are 1 and 2.
  x = np.array([[0.0], [1.0], [5.0], [7.0]])
  labels = np.array([0, 0, 1, 0])
  same = functools.partial(representations.same_class_fraction, x, labels)
  # Of 0, 1, 2 and 3 the nearest are 1, 0, 3 and 2: right for two of four.
  assert same(1, 'euclidean') == 2 / 4
  # {1, 2}, {0, 2}, {3, 1} and {2, 1}: 1 + 1 + 0 + 1 of 8.
  assert same(2, 'euclidean') == 3 / 8
  # All three others: as many as chance, which is 6 of 12 ordered pairs.
  assert same(3, 'euclidean') == representations.same_class_chance(labels)
  assert representations.same_class_chance(labels) == 6 / 12


def test_neighbours_errors():
  with pytest.raises(ValueError, match='between 1 and 2 for 3 examples, got 3'):
    representations.nearest_neighbours(np.eye(3), 3)
  with pytest.raises(ValueError, match="'cosine' or 'euclidean', got 'l1'"):
    representations.nearest_neighbours(np.eye(3), 1, 'l1')


def test_auroc_by_hand():
  # Pairs (2 > 1), (2 = 2) half, (3 > 1), (3 > 2): 3.5 of 4.
  value = representations.auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
  assert value == pytest.approx(3.5 / 4)
