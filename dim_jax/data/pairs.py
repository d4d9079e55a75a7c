"""Pairs whose mutual information is known, to check what estimates it.

A task draws pairs (x, y), knows their mutual information in nats, and for pairs
that it is given the pointwise information ln p(x, y) / p(x) p(y), whose mean
over a sample is what the best critic would report of it. Invertible maps of x
and of y change neither, so most tasks are warps of a few laws. Everything is
NumPy in float64 on the host.

Their names and truths follow the tasks of Czyż et al., Beyond Normal: On the
Evaluation of Mutual Information Estimators, 2023,
https://arxiv.org/abs/2306.11078.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from dim_jax import checks


class Task(NamedTuple):
  """Pairs of known mutual information.

  Attributes:
    mutual_information: in nats.
    sample: `(rng, n) -> (x [n, D], y [n, D'])`, of a NumPy generator.
    pointwise: `(x, y) -> [n]` nats, of any pairs.
  """

  mutual_information: float
  sample: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
  pointwise: Callable[[np.ndarray, np.ndarray], np.ndarray]


class Warp(NamedTuple):
  """An invertible map of points [n, D], and its inverse."""

  forward: Callable[[np.ndarray], np.ndarray]
  inverse: Callable[[np.ndarray], np.ndarray]


def gaussian(covariance: Any, size: int) -> Task:
  """Makes a task of jointly Gaussian x and y.

  Args:
    covariance: of x and y side by side, [D + D', D + D'].
    size: D.
  """
  covariance = np.asarray(covariance, np.float64)
  of_x, of_y = covariance[:size, :size], covariance[size:, size:]
  log_dets = [np.linalg.slogdet(c)[1] for c in (of_x, of_y, covariance)]
  information = (log_dets[0] + log_dets[1] - log_dets[2]) / 2
  factor = np.linalg.cholesky(covariance)
  precisions = [np.linalg.inv(c) for c in (of_x, of_y, covariance)]

  def sample(rng: np.random.Generator, n: int) -> Any:
    z = rng.standard_normal((n, len(covariance))) @ factor.T
    return z[:, :size], z[:, size:]

  def pointwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    in_x, in_y, in_both = (
      np.einsum('ni,ij,nj->n', v, p, v)
      for v, p in zip((x, y, np.hstack([x, y])), precisions, strict=True)
    )
    return information + (in_x + in_y - in_both) / 2

  return Task(float(information), sample, pointwise)


def dense(size: int, correlation: float = 0.5) -> Task:
  """Makes Gaussians of which all 2 * size columns are equally correlated."""
  covariance = np.full((2 * size, 2 * size), correlation)
  np.fill_diagonal(covariance, 1.0)
  return gaussian(covariance, size)


def sparse(size: int, pairs: int = 2, correlation: float = 0.8) -> Task:
  """Makes Gaussians of which a few columns of x have a partner each in y.

  Args:
    size: D = D'.
    pairs: how many columns have one.
    correlation: of partners.
  """
  covariance = np.eye(2 * size)
  for i in range(pairs):
    covariance[i, size + i] = covariance[size + i, i] = correlation
  return gaussian(covariance, size)


def normal(correlation: float = 0.75) -> Task:
  """Makes one pair of correlated Gaussians."""
  return sparse(1, 1, correlation)


def staircase(information: float, size: int = 20) -> Task:
  """Makes Gaussians of a given information, in equal parts by `size` columns.

  References:
    Poole et al., On Variational Bounds of Mutual Information, 2019:
    https://arxiv.org/abs/1905.06922
  """
  return sparse(size, size, math.sqrt(-math.expm1(-2 * information / size)))


def independent(size: int = 3) -> Task:
  """Makes Gaussians that share nothing: 0 nats."""
  return sparse(size, 0)


def student(size: int, freedom: float, other_size: int | None = None) -> Task:
  """Makes Student's t with identity dispersion, jointly of all columns.

  No column is correlated with another: all share one random scale.

  Args:
    size: D.
    freedom: degrees of freedom.
    other_size: D', by default D.
  """
  other_size = size if other_size is None else other_size
  total = size + other_size

  def entropy_terms(d: int) -> float:
    half = (freedom + d) / 2
    return special.gammaln(half) - half * special.digamma(half)

  # H = -ln c(d) + (freedom + d) / 2 (psi((freedom + d) / 2) - psi(freedom / 2))
  # with c(d) the density's constant: the terms of size cancel but for these.
  information = (
    entropy_terms(total)
    + entropy_terms(0)
    - entropy_terms(size)
    - entropy_terms(other_size)
  )

  def sample(rng: np.random.Generator, n: int) -> Any:
    z = rng.standard_normal((n, total))
    z /= np.sqrt(rng.chisquare(freedom, (n, 1)) / freedom)
    return z[:, :size], z[:, size:]

  def log_density(z: np.ndarray) -> np.ndarray:
    d = z.shape[1]
    constant = special.gammaln((freedom + d) / 2) - special.gammaln(freedom / 2)
    constant -= d / 2 * math.log(freedom * math.pi)
    squares = np.sum(z**2, 1) / freedom
    return constant - (freedom + d) / 2 * np.log1p(squares)

  def pointwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return log_density(np.hstack([x, y])) - log_density(x) - log_density(y)

  return Task(float(information), sample, pointwise)


def additive_noise(width: float) -> Task:
  """Makes x uniform on [0, 1], and y = x + noise uniform on [-width, width].

  The density has hard edges, which smooth critics find hard.
  """
  if width <= 0.5:
    information = width - math.log(2 * width)
  else:
    information = 1 / (4 * width)

  def sample(rng: np.random.Generator, n: int) -> Any:
    x = rng.uniform(0, 1, (n, 1))
    return x, x + rng.uniform(-width, width, (n, 1))

  def pointwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # p(y | x) = 1 / (2 width); p(y) averages it over the x that y can have.
    reach = np.minimum(y + width, 1) - np.maximum(y - width, 0)
    outside = np.abs(y - x) > width
    with np.errstate(divide='ignore'):
      values = np.where(outside, -np.inf, -np.log(np.maximum(reach, 1e-300)))
    return values[:, 0]

  return Task(information, sample, pointwise)


def mixture(weights: Any, means: Any, covariances: Any) -> Task:
  """Makes a mixture of Gaussians of one x and one y.

  The information is found by quadrature, to about 1e-5 nats.

  Args:
    weights: of the K components.
    means: [K, 2], of x and y.
    covariances: [K, 2, 2].
  """
  weights = np.asarray(weights, np.float64) / np.sum(weights)
  means, covariances = np.asarray(means, float), np.asarray(covariances, float)
  factors = np.linalg.cholesky(covariances)
  deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))

  def sample(rng: np.random.Generator, n: int) -> Any:
    of = rng.choice(len(weights), n, p=weights)
    noise = rng.standard_normal((n, 2))
    z = means[of] + np.einsum('nij,nj->ni', factors[of], noise)
    return z[:, :1], z[:, 1:]

  def pointwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    z = np.hstack([x, y])
    joint = [
      stats.multivariate_normal.logpdf(z, m, c).reshape(-1)
      for m, c in zip(means, covariances, strict=True)
    ]
    value = special.logsumexp(joint, axis=0, b=weights[:, None])
    for i in range(2):
      alone = stats.norm.logpdf(z[:, i, None], means[:, i], deviations[:, i])
      value = value - special.logsumexp(alone, axis=1, b=weights)
    return value

  nodes, masses = np.polynomial.hermite_e.hermegauss(60)
  grid = np.stack(np.meshgrid(nodes, nodes, indexing='ij'), -1).reshape(-1, 2)
  at = means[:, None] + np.einsum('kij,gj->kgi', factors, grid)
  at = at.reshape(-1, 2)
  mass = np.outer(masses, masses).reshape(-1) / (2 * math.pi)
  values = pointwise(at[:, :1], at[:, 1:]).reshape(len(weights), -1)
  return Task(float(weights @ (values @ mass)), sample, pointwise)


def ring(count: int = 8, radius: float = 2.0, std: float = 0.25) -> Task:
  """Makes a circle of Gaussians: x and y have no correlation."""
  angles = 2 * math.pi * np.arange(count) / count
  means = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
  return mixture(np.ones(count), means, [std**2 * np.eye(2)] * count)


def crossed(correlation: float = 0.9) -> Task:
  """Makes two Gaussians at a right angle, an X: no correlation in all."""
  covariances = [
    [[1, sign * correlation], [sign * correlation, 1]] for sign in (1, -1)
  ]
  return mixture([1, 1], np.zeros((2, 2)), covariances)


def shared_bits(
  images: np.ndarray,
  labels: np.ndarray,
  flip: float,
  grid: tuple[int, int] = (2, 5),
) -> Task:
  """Makes pairs of pictures that share bits, as grids of images of two classes.

  The classes of x's images are fair bits; those of y's are the same bits, each
  flipped with a probability, in the same places; which image stands for a bit
  is drawn anew everywhere. So all that two pictures share is what a binary
  symmetric channel lets through, n (ln 2 - H(flip)) nats of n bits, if an image
  tells its class.

  Args:
    images: [m, H, W, C].
    labels: 0 or 1, [m].
    flip: probability, in [0, 0.5].
    grid: rows and columns of images in a picture.

  Returns:
    The task, of pictures [n, rows * H, columns * W, C].

  Raises:
    ValueError: `flip` is not in [0, 0.5], a class has no images, or one image
      is of both.

  References:
    Lee and Rhee, A Benchmark Suite for Evaluating Neural Mutual Information
    Estimators on Unstructured Datasets, 2024:
    https://arxiv.org/abs/2410.10924
  """
  checks.check_range('flip', flip, '[0, 0.5]')
  of_class = [images[np.asarray(labels) == k] for k in (0, 1)]
  if not all(map(len, of_class)):
    raise ValueError('images must be of both classes, 0 and 1.')
  zeros, ones = ({x.tobytes() for x in group} for group in of_class)
  if zeros & ones:
    raise ValueError('an image is of both classes.')
  height, width, channels = images.shape[1:]
  count = grid[0] * grid[1]

  def picture(rng: np.random.Generator, bits: np.ndarray) -> np.ndarray:
    drawn = [
      group[rng.integers(len(group), size=bits.shape)] for group in of_class
    ]
    tiles = np.where(bits[..., None, None, None] == 1, drawn[1], drawn[0])
    tiles = tiles.reshape(len(bits), *grid, height, width, channels)
    return tiles.swapaxes(2, 3).reshape(
      len(bits), grid[0] * height, grid[1] * width, channels
    )

  def sample(rng: np.random.Generator, n: int) -> Any:
    bits = rng.integers(2, size=(n, count))
    other = bits ^ (rng.random((n, count)) < flip)
    return picture(rng, bits), picture(rng, other)

  def bits_of(pictures: np.ndarray) -> np.ndarray:
    tiles = pictures.reshape(-1, grid[0], height, grid[1], width, channels)
    tiles = tiles.swapaxes(2, 3).reshape(-1, height, width, channels)
    keys = [tile.tobytes() for tile in tiles]
    if not zeros | ones >= set(keys):
      raise ValueError(
        f'a part of a picture, of dtype {pictures.dtype}, is none of the '
        f'images, of {images.dtype}; give pictures as they were drawn.'
      )
    return np.reshape([key in ones for key in keys], (len(pictures), count))

  def pointwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    differ = (bits_of(x) != bits_of(y)).sum(1)
    # ln of 2 (1 - flip) and of 2 flip, a bit each.
    return special.xlogy(count - differ, 2 * (1 - flip)) + special.xlogy(
      differ, 2 * flip
    )

  entropy = float(special.entr(flip) + special.entr(1 - flip))
  return Task(count * (math.log(2) - entropy), sample, pointwise)


def warped(task: Task, of_x: Warp | None, of_y: Warp | None = None) -> Task:
  """Makes a task of warped x and y, with the information of `task`.

  Args:
    task: what is warped.
    of_x: the map of x, None to leave it.
    of_y: likewise.
  """
  map_x, map_y = (w or Warp(np.copy, np.copy) for w in (of_x, of_y))

  def sample(rng: np.random.Generator, n: int) -> Any:
    x, y = task.sample(rng, n)
    return map_x.forward(x), map_y.forward(y)

  def pointwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return task.pointwise(map_x.inverse(x), map_y.inverse(y))

  return Task(task.mutual_information, sample, pointwise)


NORMAL_CDF = Warp(special.ndtr, special.ndtri)
HALF_CUBE = Warp(
  lambda z: z * np.sqrt(np.abs(z)),
  lambda z: np.sign(z) * np.abs(z) ** (2 / 3),
)
CUBE = Warp(lambda z: z**3, np.cbrt)
ASINH = Warp(np.arcsinh, np.sinh)


def quantiles_of_two(weight: float, distance: float, std: float) -> Warp:
  """Makes the map of N(0, 1) to a mixture of two, N(0, 1) and another."""

  def cdf(z: np.ndarray) -> np.ndarray:
    there = special.ndtr((z - distance) / std)
    return (1 - weight) * special.ndtr(z) + weight * there

  def inverse(z: np.ndarray) -> np.ndarray:
    return special.ndtri(cdf(z))

  return Warp(_inverse_of(inverse), inverse)


def wave(*terms: tuple[float, float, float]) -> Warp:
  """Makes the map z + sum of a sin(b z + c), where sum of |a b| < 1."""

  def forward(z: np.ndarray) -> np.ndarray:
    return z + sum(a * np.sin(b * z + c) for a, b, c in terms)

  return Warp(forward, _inverse_of(forward))


def _inverse_of(function: Any) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the inverse of an increasing function, within [-40, 40]."""

  def inverse(values: np.ndarray) -> np.ndarray:
    low, high = np.full(values.shape, -40.0), np.full(values.shape, 40.0)
    for _ in range(60):
      middle = (low + high) / 2
      below = function(middle) < values
      low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2

  return inverse


def _turn(z: np.ndarray, plane: int, angles: np.ndarray) -> np.ndarray:
  """Rotates points in the plane of two columns that follow each other."""
  z, (a, b) = z.copy(), (plane, plane + 1)
  first, second = z[:, a].copy(), z[:, b].copy()
  z[:, a] = np.cos(angles) * first - np.sin(angles) * second
  z[:, b] = np.sin(angles) * first + np.cos(angles) * second
  return z


def spiral(plane: int, speed: float) -> Warp:
  """Makes the rotation in one plane by `speed` times the squared norm."""

  def turned(sign: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda z: _turn(z, plane, sign * speed * np.sum(z**2, 1))

  return Warp(turned(1), turned(-1))


def twist(plane: int, axis: int, speed: float) -> Warp:
  """Makes the rotation in one plane by `speed` times a column outside of it."""

  def turned(sign: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda z: _turn(z, plane, sign * speed * z[:, axis])

  return Warp(turned(1), turned(-1))


def _roll(z: np.ndarray) -> np.ndarray:
  angle = 1.5 * math.pi * (1 + 2 * special.ndtr(z[:, 0]))
  return np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 21


def _unroll(z: np.ndarray) -> np.ndarray:
  angle = 21 * np.linalg.norm(z, axis=1)
  return special.ndtri((angle / (1.5 * math.pi) - 1) / 2)[:, None]


SWISS_ROLL = Warp(_roll, _unroll)


def _half_cube_sparse(size: int) -> Task:
  return warped(sparse(size), HALF_CUBE, HALF_CUBE)


def _spiral_sparse(size: int) -> Task:
  # Norms grow with the columns, so the speed falls with them.
  return warped(sparse(size), spiral(0, 1 / size), spiral(1, 1 / size))


def _asinh_student(size: int, freedom: float) -> Task:
  return warped(student(size, freedom), ASINH, ASINH)


def _cubic(information: float) -> Task:
  return warped(staircase(information), None, CUBE)


TASKS: dict[str, Callable[[], Task]] = {
  'independent': independent,
  'normal': normal,
  'normal_cdf': lambda: warped(normal(), NORMAL_CDF, NORMAL_CDF),
  'half_cube': lambda: warped(normal(), HALF_CUBE, HALF_CUBE),
  'wiggly': lambda: warped(
    normal(),
    wave((0.4, 1.0, 0.0), (0.2, 1.7, 1.0), (0.03, 3.3, -2.5)),
    wave((-0.4, 0.4, 0.0), (0.17, 1.3, 3.5), (0.02, 4.3, -2.5)),
  ),
  'bimodal': lambda: warped(
    normal(), quantiles_of_two(0.7, 5.0, 1.0), quantiles_of_two(0.5, 4.0, 0.5)
  ),
  'swiss_roll': lambda: warped(normal(), SWISS_ROLL, NORMAL_CDF),
  'additive_0.1': lambda: additive_noise(0.1),
  'additive_0.75': lambda: additive_noise(0.75),
  'ring': ring,
  'crossed': crossed,
  'twist_5': lambda: warped(sparse(5), twist(0, 2, 1.0), twist(0, 3, 1.0)),
}
for _make, _name, _settings in (
  (dense, 'dense', [(2,), (3,), (5,), (25,), (50,)]),
  (sparse, 'sparse', [(2,), (3,), (5,), (25,)]),
  (_half_cube_sparse, 'half_cube_sparse', [(3,), (5,), (25,)]),
  (_spiral_sparse, 'spiral', [(3,), (5,), (25,)]),
  (
    student,
    'student',
    [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3)],
  ),
  (_asinh_student, 'asinh_student', [(1, 1), (2, 1), (3, 2), (5, 2)]),
  (staircase, 'staircase', [(2,), (4,), (6,), (8,), (10,)]),
  (_cubic, 'cubic', [(2,), (4,), (6,), (8,), (10,)]),
):
  for _values in _settings:
    _key = '_'.join(map(str, (_name, *_values)))
    TASKS[_key] = functools.partial(_make, *_values)


@functools.cache
def find(name: str) -> Task:
  """Returns the task of a name in TASKS, or raises ValueError."""
  checks.check_choice('task', name, TASKS)
  return TASKS[name]()
