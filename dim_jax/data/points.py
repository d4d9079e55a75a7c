"""Points of densities that are known, to check what a model learns of them.

A density is its log, its moments and a way to draw from it: so what a model
of the points says can be compared with the truth, in nats.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks
from dim_jax import random as streams

_SPLITS = ('train', 'test')


class Mixture(NamedTuple):
  """A mixture of K Gaussians in D dimensions.

  Attributes:
    weights: of the components, [K], with sum one.
    means: [K, D].
    covariances: [K, D, D].
  """

  weights: np.ndarray
  means: np.ndarray
  covariances: np.ndarray


class Banana(NamedTuple):
  """A Gaussian bent along a parabola, which keeps areas as they are.

  x_0 ~ N(0, 1) and x_1 | x_0 ~ N(bend (x_0^2 - 1), std^2).

  Attributes:
    bend: how much.
    std: standard deviation around the parabola.

  References:
    Haario, Saksman and Tamminen, Adaptive proposal distribution for random walk
    Metropolis algorithm, Computational Statistics 14, 1999, where the twisted
    Gaussians come from. https://doi.org/10.1007/s001800050022
  """

  bend: float
  std: float


def _isotropic(
  weights: list[float], means: list[list[float]], std: float
) -> Mixture:
  """Returns round components of one width."""
  centres = np.asarray(means, np.float64)
  count, size = centres.shape
  masses = np.asarray(weights, np.float64)
  identity = np.broadcast_to(np.eye(size), (count, size, size))
  return Mixture(masses / masses.sum(), centres, std**2 * identity)


def _ring(count: int, radius: float, std: float) -> Mixture:
  angles = 2 * math.pi * np.arange(count) / count
  means = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
  return _isotropic([1.0] * count, means.tolist(), std)


DENSITIES: dict[str, Mixture | Banana] = {
  # The one that Liu and Wang (2016) transport their particles to.
  'mixture_1d': _isotropic([1.0, 2.0], [[-2.0], [2.0]], 1.0),
  'mixture_2d': _isotropic(
    [1.0, 1.0, 2.0], [[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]], 0.7
  ),
  'ring': _ring(8, 2.0, 0.25),
  'gaussian': Mixture(
    np.ones(1), np.array([[1.0, -1.0]]), np.array([[[1.0, 0.8], [0.8, 1.0]]])
  ),
  'banana': Banana(bend=0.7, std=0.4),
}


def find(name: str) -> Mixture | Banana:
  """Returns the density of a name in DENSITIES, or raises ValueError."""
  checks.check_choice('data.name', name, DENSITIES)
  return DENSITIES[name]


def log_density(name: str, x: Any) -> jax.Array:
  """Computes the normalised log density of any points.

  Args:
    name: in DENSITIES.
    x: the points, [n, D].

  Returns:
    Nats, float32 [n]; differentiable.

  Raises:
    ValueError: no such density, or points of another dimension.
  """
  density = find(name)
  x = jnp.asarray(x, jnp.float32)
  size = len(moments(name)[0])
  if x.ndim != 2 or x.shape[1] != size:
    raise ValueError(
      f'points of {name!r} have shape [n, {size}], got {tuple(x.shape)}.'
    )
  if isinstance(density, Banana):
    middle = density.bend * (x[:, 0] ** 2 - 1)
    off = (x[:, 1] - middle) / density.std
    return (
      -0.5 * (x[:, 0] ** 2 + off**2)
      - math.log(2 * math.pi)
      - math.log(density.std)
    )
  # Inverse Cholesky factors and log weights are numbers, made in float64.
  factors = np.linalg.cholesky(density.covariances)
  whiten = jnp.asarray(np.linalg.inv(factors), jnp.float32)
  diagonals = np.diagonal(factors, axis1=1, axis2=2)
  constants = (
    np.log(density.weights)
    - np.log(diagonals).sum(1)
    - 0.5 * size * math.log(2 * math.pi)
  )
  centred = x[:, None] - jnp.asarray(density.means, jnp.float32)[None]
  white = jnp.einsum(
    'kij,nkj->nki', whiten, centred, precision=jax.lax.Precision.HIGHEST
  )
  terms = jnp.asarray(constants, jnp.float32)[None] - 0.5 * (white**2).sum(-1)
  return jax.scipy.special.logsumexp(terms, axis=1)


def moments(name: str) -> tuple[np.ndarray, np.ndarray]:
  """Computes the true mean [D] and covariance [D, D] of a density."""
  density = find(name)
  if isinstance(density, Banana):
    # var(x_0^2) = 2, and every odd moment of x_0 is 0.
    wide = density.std**2 + 2 * density.bend**2
    return np.zeros(2), np.diag([1.0, wide])
  weights, means, covariances = density
  mean = weights @ means
  off = means - mean
  within = np.einsum('k,kij->ij', weights, covariances)
  return mean, within + np.einsum('k,ki,kj->ij', weights, off, off)


def load(name: str, split: str, count: int, seed: int = 0) -> np.ndarray:
  """Draws the points of a split, always the same ones.

  Args:
    name: in DENSITIES.
    split: 'train' or 'test', which are independent.
    count: how many points.
    seed: of both splits, at least 0.

  Returns:
    float32 [count, D].

  Raises:
    ValueError: an argument is not accepted.
  """
  density = find(name)
  checks.check_choice('split', split, _SPLITS)
  checks.check_range('data.count', count, 'int [1, inf)')
  checks.check_range('data.seed', seed, 'int [0, 2**64)')
  stream = streams.Host.TEST_POINTS
  if split == 'train':
    stream = streams.Host.TRAIN_POINTS
  random = np.random.Generator(streams.philox(seed, stream))
  if isinstance(density, Banana):
    x = random.standard_normal((count, 2))
    x[:, 1] *= density.std
    x[:, 1] += density.bend * (x[:, 0] ** 2 - 1)
    return x.astype(np.float32)
  of = random.choice(len(density.weights), count, p=density.weights)
  noise = random.standard_normal((count, density.means.shape[1]))
  factors = np.linalg.cholesky(density.covariances)
  x = density.means[of] + np.einsum('nij,nj->ni', factors[of], noise)
  return x.astype(np.float32)
