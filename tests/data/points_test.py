"""Known densities: their logs, moments and draws agree with one another."""

import math

import jax
import numpy as np
import pytest
import scipy.stats

from dim_jax.data import points

NAMES = tuple(points.DENSITIES)


def grid(name, side=401):
  """A grid that holds all but 1e-6 of each density, and a cell's size."""
  size = len(points.moments(name)[0])
  low, high = (-8, 8) if name != 'banana' else (-6, 18)
  first = np.linspace(-8, 8, side)
  last = np.linspace(low, high, side)
  if size == 1:
    return first[:, None], first[1] - first[0]
  cell = (first[1] - first[0]) * (last[1] - last[0])
  axes = np.meshgrid(first, last, indexing='ij')
  return np.stack(axes, -1).reshape(-1, 2), cell


@pytest.mark.parametrize('name', NAMES)
def test_densities_integrate_to_one_and_have_their_moments(name):
  x, cell = grid(name)
  weights = np.exp(np.asarray(points.log_density(name, x), np.float64)) * cell
  assert weights.sum() == pytest.approx(1, abs=2e-4)
  mean = weights @ x
  off = x - mean
  covariance = np.einsum('n,ni,nj->ij', weights, off, off)
  expected = points.moments(name)
  np.testing.assert_allclose(mean, expected[0], atol=2e-3)
  np.testing.assert_allclose(covariance, expected[1], atol=5e-3)


@pytest.mark.parametrize('name', NAMES)
def test_draws_have_the_moments_and_the_density(name):
  count = 50_000
  x = points.load(name, 'train', count).astype(np.float64)
  mean, covariance = points.moments(name)
  assert x.shape == (count, len(mean))
  # Five standard errors, of the mean and of the entries of the covariance.
  error = np.sqrt(np.diag(covariance) / count)
  assert (np.abs(x.mean(0) - mean) < 5 * error).all()
  off = x - mean
  products = off[:, :, None] * off[:, None, :]
  error = products.std(0) / math.sqrt(count)
  assert (np.abs(products.mean(0) - covariance) < 5 * error + 1e-9).all()
  # E log p of the draws is that of the density, by the grid.
  nodes, cell = grid(name)
  log_p = np.asarray(points.log_density(name, nodes), np.float64)
  entropy = -(np.exp(log_p) * log_p).sum() * cell
  found = np.asarray(points.log_density(name, x), np.float64)
  error = found.std() / math.sqrt(count)
  assert abs(found.mean() + entropy) < 5 * error + 1e-3


def test_the_mixture_of_the_paper():
  x = np.linspace(-9, 9, 37)
  # 1/3 N(-2, 1) + 2/3 N(2, 1).
  expected = np.log(
    scipy.stats.norm.pdf(x, -2) / 3 + 2 * scipy.stats.norm.pdf(x, 2) / 3
  )
  found = points.log_density('mixture_1d', x[:, None])
  np.testing.assert_allclose(found, expected, atol=2e-6, rtol=2e-6)
  mean, covariance = points.moments('mixture_1d')
  # -2/3 + 4/3; 1 + 4 less the square of the mean.
  np.testing.assert_allclose(mean, [2 / 3])
  np.testing.assert_allclose(covariance, [[5 - 4 / 9]])


def test_the_gaussian_is_scipys_and_its_score_is_linear():
  mean, covariance = points.moments('gaussian')
  x = np.random.default_rng(0).normal(size=(20, 2)) * 2
  np.testing.assert_allclose(
    points.log_density('gaussian', x),
    scipy.stats.multivariate_normal(mean, covariance).logpdf(x),
    rtol=1e-5,
  )
  score = jax.grad(lambda x: points.log_density('gaussian', x).sum())
  np.testing.assert_allclose(
    score(x.astype(np.float32)),
    -(x - mean) @ np.linalg.inv(covariance),
    rtol=1e-4,
    atol=1e-4,
  )


def test_splits_are_always_the_same_and_independent():
  train = points.load('ring', 'train', 100, 3)
  assert train.dtype == np.float32
  np.testing.assert_array_equal(train, points.load('ring', 'train', 100, 3))
  for other in (
    points.load('ring', 'test', 100, 3),
    points.load('ring', 'train', 100, 4),
  ):
    assert not set(map(tuple, train)) & set(map(tuple, other))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: points.load('rings', 'train', 9), r"'rings'.* mean 'ring'\?"),
    (
      lambda: points.load('ring', 'unlabelled', 9),
      "split must be .* got 'unlabelled'",
    ),
    (lambda: points.load('ring', 'test', 0), 'count must be .* >= 1, got 0'),
    (lambda: points.load('ring', 'test', 1.5), 'count must be a whole .* 1.5'),
    (
      lambda: points.load('ring', 'test', 1, -1),
      r'seed must be .*\[0, 2.* got -1',
    ),
    (
      lambda: points.log_density('ring', np.zeros((3, 1))),
      r"of 'ring' have shape \[n, 2\], got \(3, 1\)",
    ),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
