"""Tasks of known information, against published values and their samples."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from dim_jax.data import pairs

# The truths that Czyż et al. publish for the same laws, in nats.
PUBLISHED = {
  'independent': 0.0,
  'normal': 0.4133,
  'normal_cdf': 0.4133,
  'half_cube': 0.4133,
  'wiggly': 0.4133,
  'bimodal': 0.4133,
  'swiss_roll': 0.4133,
  'additive_0.1': 1.7094,
  'additive_0.75': 0.3333,
  'student_1_1': 0.2242,
  'asinh_student_1_1': 0.2242,
  'dense_2': 0.2939,
  'dense_3': 0.4133,
  'dense_5': 0.5928,
  'dense_25': 1.2922,
  'dense_50': 1.6243,
  'sparse_2': 1.0217,
  'sparse_5': 1.0217,
  'half_cube_sparse_25': 1.0217,
  'spiral_3': 1.0217,
  'spiral_25': 1.0217,
  'twist_5': 1.0217,
  'student_2_1': 0.4319,
  'student_2_2': 0.1931,
  'student_3_2': 0.2909,
  'student_3_3': 0.1787,
  'student_5_2': 0.4482,
  'student_5_3': 0.2985,
  'asinh_student_5_2': 0.4482,
  'staircase_6': 6.0,
  'cubic_10': 10.0,
}


@pytest.mark.parametrize(('name', 'truth'), PUBLISHED.items())
def test_information_is_the_published(name, truth):
  assert pairs.find(name).mutual_information == pytest.approx(truth, abs=6e-5)


@pytest.mark.parametrize('name', pairs.TASKS)
def test_pointwise_information_averages_to_the_information(name):
  task = pairs.find(name)
  x, y = task.sample(np.random.default_rng(0), 20_000)
  assert x.shape[0] == y.shape[0] == 20_000
  assert x.ndim == y.ndim == 2
  values = task.pointwise(x, y)
  error = values.std() / math.sqrt(len(values))
  assert abs(values.mean() - task.mutual_information) < 4 * error + 1e-9
  # E_q[r] = 1 of independent pairs, where r has a variance at all.
  if task.mutual_information < 0.6 and 'student' not in name:
    ratios = np.exp(task.pointwise(x, np.roll(y, 1, 0)))
    error = ratios.std() / math.sqrt(len(ratios))
    assert abs(ratios.mean() - 1) < 4 * error


@pytest.mark.parametrize('name', ['ring', 'crossed'])
def test_information_of_mixtures_by_another_quadrature(name):
  task = pairs.find(name)
  # The trapezoidal rule on a fine grid, with densities from a histogram-free
  # sum: p(x, y) = p(x) p(y) e^pointwise, with marginals by integration.
  grid = np.linspace(-6, 6, 401)
  step = grid[1] - grid[0]
  xs, ys = (g.reshape(-1, 1) for g in np.meshgrid(grid, grid, indexing='ij'))
  if name == 'ring':
    angles = 2 * math.pi * np.arange(8) / 8
    joint = np.mean(
      [
        stats.norm.pdf(xs, 2 * math.cos(a), 0.25)
        * stats.norm.pdf(ys, 2 * math.sin(a), 0.25)
        for a in angles
      ],
      axis=0,
    )
  else:
    joint = np.mean(
      [
        stats.multivariate_normal.pdf(np.hstack([xs, ys]), cov=[[1, r], [r, 1]])
        for r in (0.9, -0.9)
      ],
      axis=0,
    )
  joint = joint.reshape(401, 401)
  of_x = integrate.trapezoid(joint, dx=step, axis=1)
  of_y = integrate.trapezoid(joint, dx=step, axis=0)
  ratio = np.where(joint > 1e-200, joint, 1) / np.where(
    joint > 1e-200, np.outer(of_x, of_y), 1
  )
  expected = integrate.trapezoid(
    integrate.trapezoid(joint * np.log(ratio), dx=step, axis=1), dx=step
  )
  assert task.mutual_information == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
  'warp',
  [
    pairs.NORMAL_CDF,
    pairs.HALF_CUBE,
    pairs.CUBE,
    pairs.ASINH,
    pairs.quantiles_of_two(0.7, 5.0, 1.0),
    pairs.wave((0.4, 1.0, 0.0), (0.2, 1.7, 1.0)),
    pairs.spiral(1, 0.3),
    pairs.twist(0, 2, 1.0),
  ],
)
def test_warps_are_undone(warp):
  z = np.random.default_rng(0).standard_normal((200, 4))
  np.testing.assert_allclose(warp.inverse(warp.forward(z)), z, atol=1e-6)
  assert np.abs(warp.forward(z) - z).max() > 0.1


def test_swiss_roll_is_undone():
  z = np.random.default_rng(0).standard_normal((200, 1))
  rolled = pairs.SWISS_ROLL.forward(z)
  assert rolled.shape == (200, 2)
  np.testing.assert_allclose(pairs.SWISS_ROLL.inverse(rolled), z, atol=1e-6)


def test_additive_noise_beyond_its_reach():
  task = pairs.additive_noise(0.1)
  values = task.pointwise(np.array([[0.5], [0.5]]), np.array([[0.55], [0.7]]))
  # p(y | x) / p(y) = 5 / 1 inside, and nothing outside.
  np.testing.assert_allclose(values, [math.log(5), -math.inf])


def test_names_are_checked():
  with pytest.raises(ValueError, match=r"'normal'.*got 'gauss'"):
    pairs.find('gauss')


def test_pictures_share_what_a_channel_of_bits_lets_through():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (20, 3, 2, 1)).astype(np.uint8)
  labels = np.arange(20) % 2
  task = pairs.shared_bits(images, labels, 0.1, grid=(2, 3))
  # 6 bits, each of 1 - H(0.1) = 0.531 bits (MacKay 2003, section 9.5).
  assert task.mutual_information == pytest.approx(
    6 * 0.531 * math.log(2), abs=1e-3
  )
  x, y = task.sample(rng, 4000)
  assert x.shape == y.shape == (4000, 6, 6, 1)
  # Each tile is one of the images, in its place.
  tile = x[7, 3:6, 2:4]
  assert any(np.array_equal(tile, image) for image in images)
  # Bits of the tile in the first row and last column.
  bits = [
    np.array([labels[np.where((images == t).all((1, 2, 3)))[0][0]] for t in z])
    for z in (x[:, :3, 4:], y[:, :3, 4:])
  ]
  assert bits[0].mean() == pytest.approx(0.5, abs=0.03)
  assert (bits[0] != bits[1]).mean() == pytest.approx(0.1, abs=0.02)
  # A bit of pointwise information has variance p (1 - p) ln^2((1 - p) / p).
  error = math.sqrt(6 * 0.09 / 4000) * math.log(9)
  assert task.pointwise(x, y).mean() == pytest.approx(
    task.mutual_information, abs=4 * error
  )
  with pytest.raises(ValueError, match='of dtype float32, is none of the imag'):
    task.pointwise(x.astype(np.float32), y)


@pytest.mark.parametrize(
  ('labels', 'flip', 'match'),
  [
    ([0, 1, 1], 0.7, r'flip must be in \[0, 0.5\]'),
    ([1, 1, 1], 0.1, 'both classes'),
    ([0, 1, 0], 0.1, 'an image is of both classes'),
  ],
)
def test_bits_that_pictures_cannot_carry(labels, flip, match):
  images = np.arange(12).reshape(3, 2, 2, 1) % 8  # The last is the first.
  with pytest.raises(ValueError, match=match):
    pairs.shared_bits(np.array([images[0], images[1], images[1]]), labels, flip)
