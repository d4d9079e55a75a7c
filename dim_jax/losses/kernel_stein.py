"""Stein's method with kernels on particles: the SVGD direction and discrepancy.

The target density p is known up to its normaliser, by its score
s(x) = grad_x log p(x) or by log_density(x) = log p(x) + a constant. The kernel
is k(x, y) = exp(-||x - y||^2 / h), and `bandwidth` is that h: in squared units,
without a factor of 2. The discrepancy has a choice of `KERNELS`.

n particles have d coordinates. Everything about pairs comes from matrix
products: no array is larger than [n, n], and with `block_size`, the rows of
pairs in memory at a time, none is larger than [block_size, n].

Each rule for the bandwidth takes particles [n, d] and returns h as a float32
scalar without a gradient, NaN if a particle is not finite. A bandwidth that is
a number and not above 0 raises ValueError; in an array it gives NaN.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

NORMALISATIONS = ('count', 'kernel')
# Distances below this many rounding errors of their terms are 0.
_ROUNDING = 8


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
  """Computes all pairs' squared Euclidean distances, by one matrix product.

  ||x||^2 + ||y||^2 - 2 x.y after both were shifted by the mean of y, so that a
  cloud far from the origin loses no digits. Distances within a few rounding
  errors of these three terms are 0; so copies of a point are at distance 0.

  Args:
    x: [n, d].
    y: [m, d].

  Returns:
    [n, m], at least 0, NaN in the rows and columns of points that are not
    finite, in float32 (or wider, if an argument is).
  """
  chex.assert_rank([x, y], 2)
  chex.assert_equal_shape_suffix([x, y], 1)
  dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
  x, y = x.astype(dtype), y.astype(dtype)
  center = jax.lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
  return _centred_distances(x - center, y - center)


def rbf_kernel(
  x: jax.Array, y: jax.Array, bandwidth: jax.Array | float
) -> jax.Array:
  """Computes exp(-||x - y||^2 / h) of all pairs, [n, m], in (0, 1].

  Args:
    x: [n, d].
    y: [m, d].
    bandwidth: h, in squared units of x; a number must be above 0.
  """
  bandwidth = _checked_bandwidth(bandwidth, x)
  return jnp.exp(-squared_distances(x, y) / bandwidth)


def _rbf(
  distances: jax.Array, bandwidth: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  kernel = jnp.exp(-distances / bandwidth)
  return kernel, -kernel / bandwidth, kernel / bandwidth**2


def _imq(
  distances: jax.Array, bandwidth: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  base = 1 / (1 + distances / bandwidth)
  kernel = jnp.sqrt(base)
  slope = -kernel * base / (2 * bandwidth)
  return kernel, slope, -3 * slope * base / (2 * bandwidth)


KERNELS = {'rbf': _rbf, 'imq': _imq}
"""Kernels as functions of the squared distance and h, each with its first and
second derivative by the distance: 'rbf', exp(-r^2 / h), and 'imq', the inverse
multiquadric (1 + r^2 / h)^(-1/2)."""


def paper_bandwidth(
  particles: jax.Array, *, block_size: int | None = None
) -> jax.Array:
  """Computes the bandwidth of the SVGD paper, med^2 / log n.

  med is the median distance of distinct pairs, the mean of the two middle ones
  where their number is even. Then sum_j k(x_i, x_j) is about n exp(-log n) = 1.
  This is also what blackjax computes.

  One particle has no distance, and if half of the pairs coincide the median is
  0: the bandwidth is then 1.

  References:
    Liu and Wang, Stein Variational Gradient Descent, 2016, section 5.
    https://arxiv.org/abs/1608.04471
  """
  n = len(particles)
  pairs = n * (n - 1) // 2
  # Each pair appears twice, after the n zeros of the diagonal.
  middle = _middle(particles, n + pairs - 1, n + pairs, block_size)
  return _or_one(jnp.square(jnp.mean(jnp.sqrt(middle))), math.log(n))


def dartml_bandwidth(
  particles: jax.Array, *, block_size: int | None = None
) -> jax.Array:
  """Computes the bandwidth of the SVGD paper's code, med(d^2) / log(n + 1).

  The median is that of the full matrix of squared distances, so the n zeros of
  its diagonal pull it down. 1 where that median is 0, as it is for n = 1 and 2.

  References:
    https://github.com/DartML/Stein-Variational-Gradient-Descent
  """
  n = len(particles)
  middle = _middle(particles, (n * n - 1) // 2, n * n // 2, block_size)
  return _or_one(jnp.mean(middle), math.log(n + 1))


def pyro_bandwidth(
  particles: jax.Array, *, block_size: int | None = None
) -> jax.Array:
  """Computes Pyro's bandwidth, med(d^2) / log(n + 1) of distinct pairs.

  Pyro takes the median in each dimension by itself; this is over all of them
  together, so the two agree for d = 1. The median of an even number is the
  lower one of the two in the middle. 1 where it is 0, or n = 1.

  References:
    https://docs.pyro.ai/en/stable/inference_algos.html, RBFSteinKernel
  """
  n = len(particles)
  rank = n + 2 * max((n * (n - 1) // 2 - 1) // 2, 0)
  middle = _middle(particles, rank, rank, block_size)
  return _or_one(middle[0], math.log(n + 1))


# All are called the median rule; for 8 particles they differ by a factor of up
# to 1.7. 'blackjax' is the paper's rule, and 'pyro' Pyro's in one dimension.
BANDWIDTHS: dict[str, Callable[..., jax.Array]] = {
  'svgd': paper_bandwidth,
  'dartml': dartml_bandwidth,
  'blackjax': paper_bandwidth,
  'pyro': pyro_bandwidth,
}


def svgd_direction(
  particles: jax.Array,
  scores: jax.Array,
  bandwidth: jax.Array | float | None = None,
  self_term: bool = True,
  *,
  normalisation: str = 'count',
  block_size: int | None = None,
) -> jax.Array:
  r"""Computes the direction in which SVGD moves each particle.

  .. math::
    \phi(x_i) = \frac1n \sum_j k(x_j, x_i) s(x_j) + \nabla_{x_j} k(x_j, x_i)

  The kernel's gradient is with respect to the particle that is summed over, and
  equals (2 / h) (x_i - x_j) k: it points away from x_j. The step is
  x + step_size * phi, on which gradients of losses should not flow back here.

  The term j = i attracts without repelling. In many dimensions it makes the
  particles' variance collapse (to 0.44 of a Gaussian's for d = 10, n = 100);
  their mean stays right. Without it the sum runs over j != i, over n - 1: use
  that wherever particles are a fresh batch in every step.

  Special cases: one particle has phi = s, gradient ascent. Coincident particles
  all have the mean score and do not separate. A particle that is not finite
  makes every direction NaN; a coordinate of a score that is not finite makes
  that coordinate of every direction not finite.

  Args:
    particles: [n, d].
    scores: grad log p at each, [n, d].
    bandwidth: h; `paper_bandwidth` of the particles if None.
    self_term: whether j = i takes part, as in the paper.
    normalisation: 'count' is the paper's mean over particles; 'kernel' divides
      particle i's sum by sum_j k(x_j, x_i) instead, as SteinGAN's code does for
      its RBM, so that its attraction is a weighted mean of scores and a lone
      particle moves as fast as others. Both have the same fixed points.
    block_size: rows of pairs in memory at a time; all of them if None. With
      blocks, finding the bandwidth computes the distances 33 times: pass it,
      found in an earlier step or from some of the particles.

  Returns:
    phi, [n, d].

  Raises:
    ValueError: block_size is below 1, the normalisation is unknown, or there is
      one particle and no self term.

  References:
    Liu and Wang, Stein Variational Gradient Descent, 2016, eq. 8.
    https://arxiv.org/abs/1608.04471
    https://github.com/DartML/SteinGAN
  """
  chex.assert_rank(particles, 2)
  chex.assert_equal_shape([particles, scores])
  _check_normalisation(normalisation)
  weight: Any = _pair_weight(len(particles), self_term)
  bandwidth = _checked_bandwidth(bandwidth, particles, block_size)
  x = _centred(particles)
  n, d = x.shape
  values = jnp.concatenate([scores.astype(x.dtype), x], axis=1)

  def block(index: jax.Array) -> jax.Array:
    kernel = jnp.exp(-_own_distances(x, index) / bandwidth)
    if not self_term:
      # Not subtracted from the sums, in which a far particle's would be lost.
      kernel = jnp.where(index[:, None] == jnp.arange(n)[None], 0.0, kernel)
    sums = _product(kernel, values)
    return jnp.concatenate([sums, jnp.sum(kernel, 1, keepdims=True)], axis=1)

  sums = _map_blocks(block, n, block_size).reshape(-1, 2 * d + 1)[:n]
  attraction = sums[:, :d]
  repulsion = x * sums[:, 2 * d :] - sums[:, d : 2 * d]
  if normalisation == 'kernel':
    weight = _kernel_weight(sums[:, 2 * d :])
  return weight * (attraction + (2 / bandwidth) * repulsion)


def feature_direction(
  feature_fn: Callable[[jax.Array], jax.Array],
  particles: jax.Array,
  scores: jax.Array,
  bandwidth: jax.Array | float | None = None,
  self_term: bool = False,
  *,
  repulsion: str = 'all',
  normalisation: str = 'count',
) -> jax.Array:
  """Computes SVGD's direction with a kernel on features of the particles.

  With k(F(x_j), F(x_i)) in place of k(x_j, x_i), the chain rule pulls the
  repulsion back to the particles: J_j' (2 / h) (F_i - F_j) k, J_j the Jacobian
  of the features at x_j.

  - 'all': the exact direction, that of `svgd_direction`, by n vector-Jacobian
    products of the whole batch.
  - 'nearest': what SteinGAN's code runs on images: the particle's own score,
    not averaged by the kernel, plus half of the gradient of k at its nearest
    neighbour among the features. One product for all; `self_term` has no say.

  Args:
    feature_fn: [n, ...] -> [n, F], each row from its own particle alone.
    particles: [n, ...].
    scores: grad log p at each, of the particles' shape.
    bandwidth: h, in squared units of features; `paper_bandwidth` of the
      features if None.
    self_term: whether j = i takes part in 'all'.
    repulsion: 'all' or 'nearest'.
    normalisation: as of `svgd_direction`.

  Returns:
    phi, of the particles' shape.

  Raises:
    ValueError: repulsion or normalisation is unknown, the two do not go
      together, or one particle has no other.

  References:
    Wang and Liu, Learning to Draw Samples, 2016, eq. 9, and their code:
    https://arxiv.org/abs/1611.01722 https://github.com/DartML/SteinGAN
  """
  chex.assert_equal_shape([particles, scores])
  _check_repulsion(repulsion, normalisation)
  n = len(particles)
  weight: Any = _pair_weight(n, self_term and repulsion == 'all')
  features, pull_back = jax.vjp(feature_fn, particles)
  chex.assert_rank(features, 2)
  bandwidth = _checked_bandwidth(bandwidth, features)
  f = _centred(features)
  distances = _own_distances(f, jnp.arange(n))
  if repulsion == 'nearest':
    itself = jnp.eye(n, dtype=bool)
    nearest = jnp.argmin(jnp.where(itself, jnp.inf, distances), axis=1)
    slope = _gaussian_slope(f - f[nearest], bandwidth)
    again, pull_back = jax.vjp(feature_fn, particles[nearest])
    return scores + 0.5 * pull_back(slope.astype(again.dtype))[0]
  kernel = jnp.exp(-distances / bandwidth)
  if not self_term:
    kernel = jnp.where(jnp.eye(n, dtype=bool), 0.0, kernel)

  def repelled(row: tuple[jax.Array, jax.Array]) -> jax.Array:
    own, weights = row
    slope = (2 / bandwidth) * weights[:, None] * (own[None] - f)
    return jnp.sum(pull_back(slope.astype(features.dtype))[0], axis=0)

  attraction = _product(kernel, scores.reshape(n, -1)).reshape(scores.shape)
  if normalisation == 'kernel':
    weight = _kernel_weight(jnp.sum(kernel, 1, keepdims=True))
    weight = weight.reshape(n, *(1 for _ in particles.shape[1:]))
  return weight * (attraction + jax.lax.map(repelled, (f, kernel)))


def _check_repulsion(repulsion: str, normalisation: str) -> None:
  """Raises ValueError where either is unknown, or the two go not together."""
  if repulsion not in ('all', 'nearest'):
    raise ValueError(
      f"repulsion is {repulsion!r}: accepted are 'all' and 'nearest'."
    )
  _check_normalisation(normalisation)
  if repulsion == 'nearest' and normalisation != 'count':
    raise ValueError(
      f"repulsion='nearest' sums over no particles, so normalisation="
      f"{normalisation!r} has no meaning: choose 'count', or repulsion='all'."
    )


def _gaussian_slope(
  apart: jax.Array, bandwidth: jax.Array | float
) -> jax.Array:
  """(2 / h) (a - b) k(a, b) of each row a - b, [n, F]."""
  kernel = jnp.exp(-jnp.sum(jnp.square(apart), axis=1) / bandwidth)
  return (2 / bandwidth) * kernel[:, None] * apart


def ksd(
  particles: jax.Array,
  scores: jax.Array,
  bandwidth: jax.Array | float | None = None,
  *,
  kernel: str = 'rbf',
  unbiased: bool = False,
) -> jax.Array:
  r"""Computes the squared kernel Stein discrepancy of particles from p.

  The mean over pairs of

  .. math::
    u(x, y) = k \, s_x' s_y - 2 k' (s_x - s_y)'(x - y) - 2 d k'
      - 4 k'' ||x - y||^2

  with k', k'' the kernel's derivatives by the squared distance. The mean of u
  under p is 0 in either argument. Over all pairs (a V-statistic) it
  is the squared norm of the best direction, at least 0 but biased upwards by
  the pairs i = j; over distinct pairs (U) it is unbiased, and may be negative.

  Where it tends to 0, do the particles tend to p? With 'imq' at a fixed
  bandwidth, yes, for every p whose score is Lipschitz and whose -log p is
  strongly convex far out. With 'rbf', not from d = 3 on: such a kernel is blind
  to particles that run away from one another.

  With the bandwidth fixed and 'rbf', SteinCD's gradient is half of this one's:
  the derivative by the model's parameters of mean_i s(x_i)' sg(phi(x_i)) equals
  that of ksd / 2.

  Args:
    particles: [n, d].
    scores: grad log p at each, [n, d].
    bandwidth: h; `paper_bandwidth` of the particles if None. Gorham and
      Mackey's 'imq' has 1.
    kernel: one of `KERNELS`.
    unbiased: whether to leave out the pairs i = j.

  Returns:
    A scalar, in inverse squared units of the particles. NaN if a score or
    particle is not finite.

  Raises:
    ValueError: one particle has no distinct pair, or the kernel is unknown.

  References:
    Liu et al., A Kernelized Stein Discrepancy for Goodness-of-fit Tests, 2016,
    eq. 9 and 14. https://arxiv.org/abs/1602.03253
    Gorham and Mackey, Measuring Sample Quality with Kernels, 2017, theorems 6
    and 8. https://arxiv.org/abs/1703.01717
  """
  chex.assert_rank(particles, 2)
  chex.assert_equal_shape([particles, scores])
  if kernel not in KERNELS:
    raise ValueError(f'kernel is {kernel!r}: accepted are {list(KERNELS)}.')
  weight = _pair_weight(len(particles), not unbiased) / len(particles)
  bandwidth = _checked_bandwidth(bandwidth, particles)
  x = _centred(particles)
  n, d = x.shape
  distances = _own_distances(x, jnp.arange(n))
  value, first, second = KERNELS[kernel](distances, bandwidth)
  mixed = _product(scores, x.T)
  own = jnp.diagonal(mixed)
  # (s_x - s_y)'(x - y), entry by entry.
  slopes = own[:, None] + own[None] - mixed - mixed.T
  u = (
    value * _product(scores, scores.T)
    - 2 * first * (slopes + d)
    - 4 * second * distances
  )
  total = jnp.sum(u)
  return weight * (total - jnp.trace(u) if unbiased else total)


def stein_surrogate(particles: jax.Array, direction: jax.Array) -> jax.Array:
  """Computes a loss whose gradient moves generated particles in a direction.

  -mean_i <sg(direction_i), particles_i>, both [n, ...]: minimising it by the
  parameters of a generator takes the amortised Stein step. Its value means
  nothing.

  References:
    Wang and Liu, Learning to Draw Samples, 2016, eq. 7.
    https://arxiv.org/abs/1611.01722
  """
  chex.assert_equal_shape([particles, direction])
  inner = jax.lax.stop_gradient(direction) * particles
  return -jnp.sum(inner) / len(particles)


def _checked_bandwidth(
  bandwidth: jax.Array | float | None,
  points: jax.Array,
  block_size: int | None = None,
) -> jax.Array | float:
  """Returns a bandwidth above 0 or NaN, by default that of the points."""
  if bandwidth is None:
    return paper_bandwidth(points, block_size=block_size)
  check_positive('bandwidth', bandwidth)
  if isinstance(bandwidth, jax.Array):
    return jnp.where(bandwidth > 0, bandwidth, jnp.nan)
  return bandwidth


def check_positive(name: str, value: jax.Array | float) -> None:
  """Raises ValueError where a number is not finite and above 0."""
  # NumPy's scalars are real numbers too.
  if isinstance(value, numbers.Real) and not 0 < value < math.inf:
    raise ValueError(f'{name} is {value}: it must be finite and above 0.')


def _check_normalisation(name: str) -> None:
  if name not in NORMALISATIONS:
    raise ValueError(
      f'normalisation is {name!r}: accepted are {list(NORMALISATIONS)}.'
    )


def _kernel_weight(sums: jax.Array) -> jax.Array:
  """Returns 1 / the sum of the kernel over partners [n, 1]; 0 of none near."""
  # Below, one over a sum overflows, and its digits are gone.
  far = sums <= 1 / jnp.finfo(sums.dtype).max ** 0.75
  return jnp.where(far, 0.0, 1 / jnp.where(far, 1.0, sums))


def _pair_weight(n: int, self_term: bool) -> float:
  """Returns 1 / the number of partners of each particle."""
  if n < (1 if self_term else 2):
    raise ValueError(
      f'{n} particle(s), but at least {1 if self_term else 2} are needed: '
      'without the self term, or with its nearest neighbour, a particle is '
      'compared with others only.'
    )
  return 1 / (n if self_term else n - 1)


def _centred(particles: jax.Array) -> jax.Array:
  """Shifts particles to mean 0, where float32 has most digits."""
  x = particles.astype(jnp.promote_types(particles.dtype, jnp.float32))
  return x - jax.lax.stop_gradient(jnp.mean(x, axis=0, keepdims=True))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _centred_distances(x: jax.Array, y: jax.Array) -> jax.Array:
  norms = (
    jnp.sum(jnp.square(x), axis=1)[:, None]
    + jnp.sum(jnp.square(y), axis=1)[None]
  )
  distances = norms - 2 * _product(x, y.T)
  rounding = _ROUNDING * jnp.finfo(distances.dtype).eps * norms
  # So written, NaN stays.
  return jnp.where(distances <= rounding, 0.0, distances)


def _own_distances(x: jax.Array, index: jax.Array) -> jax.Array:
  """Returns distances of the particles at an index from all, [b, n].

  An index of n or above, which fills up a block, stands for the last particle.
  """
  distances = _centred_distances(x.at[index].get(mode='clip'), x)
  itself = index[:, None] == jnp.arange(len(x))[None]
  return jnp.where(itself & ~jnp.isnan(distances), 0.0, distances)


def _map_blocks(
  fn: Callable[[jax.Array], Any], n: int, block_size: int | None
) -> Any:
  """Returns what fn makes of each block of the indices 0 to n - 1, in a tree.

  The last block is filled up with further indices.
  """
  if block_size is None:
    return jax.tree.map(lambda x: x[None], fn(jnp.arange(n)))
  if block_size < 1:
    raise ValueError(f'block_size is {block_size}: at least 1 is needed.')
  blocks = -(-n // block_size)
  indices = jnp.arange(blocks * block_size).reshape(blocks, block_size)
  return jax.lax.map(fn, indices)


def _or_one(middle: jax.Array, divisor: float) -> jax.Array:
  """Returns the quotient, or 1 where there is no positive distance."""
  if divisor == 0:
    return jnp.where(jnp.isnan(middle), middle, 1.0)
  return jnp.where(middle == 0, 1.0, middle / divisor)


def _middle(
  particles: jax.Array, lower: int, upper: int, block_size: int | None
) -> jax.Array:
  """Returns two neighbours by rank from 0 among all n * n squared distances.

  The rank of the upper one is that of the lower or the next.

  By counting, which takes a fraction of the time of a sort: non-negative floats
  are ordered as their bits are, so each pass over the distances finds the next
  bit of the lower one, and a last pass the upper one. Blocks compute the
  distances anew in each pass. All passes are one piece of compiled code: two
  may round the same distance differently, and a neighbour then gets lost.
  """
  chex.assert_rank(particles, 2)
  x = jax.lax.stop_gradient(_centred(particles)).astype(jnp.float32)
  n = len(x)
  if n >= 2**16:
    raise ValueError(
      f'The distances of {n} particles cannot be counted in 32 bits: pass a '
      'bandwidth, such as that of some of the particles.'
    )
  last = n * n - 1
  lower, upper = min(lower, last), min(upper, last)
  largest = jnp.uint32(2**32 - 1)

  def bits(index: jax.Array) -> jax.Array:
    distances = jax.lax.bitcast_convert_type(
      _own_distances(x, index), jnp.uint32
    )
    return jnp.where(index[:, None] < n, distances, largest)

  # Without blocks the distances are kept from pass to pass.
  kept = bits(jnp.arange(n)) if block_size is None else None

  def find(
    i: jax.Array, pair: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    first, _ = pair
    final = i == 32
    shift = jnp.maximum(31 - i, 0).astype(jnp.uint32)
    threshold = first + (jnp.uint32(1) << shift)

    def count(bits: jax.Array) -> jax.Array:
      # Floats add faster, and are exact up to 2^24.
      return jnp.sum(bits < threshold, axis=0, dtype=jnp.float32)

    def measure(bits: jax.Array) -> tuple[jax.Array, jax.Array]:
      return jax.lax.cond(
        final,
        lambda x: (count(x), jnp.where(x < threshold, largest, x).min(0)),
        lambda x: (count(x), jnp.full_like(x[0], largest)),
        bits,
      )

    if kept is None:
      counts, above = _map_blocks(lambda x: measure(bits(x)), n, block_size)
    else:
      counts, above = measure(kept)
    rank = jnp.sum(counts.astype(jnp.uint32))
    # The next one is equal, or the least of those above.
    second = jnp.where(rank > upper, first, jnp.min(above))
    return jnp.where(~final & (rank <= lower), threshold, first), second

  # In `shard_map` a loop's first values must vary over devices as its last do.
  zero = jax.lax.bitcast_convert_type(jnp.sum(x), jnp.uint32) & jnp.uint32(0)
  middle = jnp.stack(jax.lax.fori_loop(1, 33, find, (zero, zero)))
  values = jax.lax.bitcast_convert_type(middle, jnp.float32)
  return jnp.where(jnp.all(jnp.isfinite(x)), values, jnp.nan)
