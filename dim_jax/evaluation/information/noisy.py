r"""Information that a representation keeps beyond stated noise.

What a deterministic encoder T = f(X) tells of its input is infinite, or on n
examples their entropy ln n, whatever the encoder. With noise Z ~ N(0, s^2 I) of
a stated size it is finite: I(X; T + Z) = I(T; T + Z), as X - T - T + Z is a
Markov chain and T a function of X. The conditional density is known, so no
critic is fitted, and n rows bound the information on both sides:

.. math::
  E \ln \frac{p(t'_i | t_i)}{\frac{1}{n} \sum_j p(t'_i | t_j)} \le I \le
  E \ln \frac{p(t'_i | t_i)}{\frac{1}{n - 1} \sum_{j \ne i} p(t'_i | t_j)}

The left one is InfoNCE with the best critic, so at most ln n, and says no more
where it is near. They meet where I is far below ln n. A stochastic encoder
brings noise of its own.

Noise that is relative to the features makes the number independent of their
scale, but not of other invertible maps: it says what survives noise of this
size, and is no property of the encoder alone. Everything is in nats and in
expectation over samples; the rows are independent draws.

Poole et al., On Variational Bounds of Mutual Information, 2019, eq. 12 and 13.
https://arxiv.org/abs/1905.06922
Goldfeld et al., Estimating Information Flow in Deep Neural Networks, 2019.
https://arxiv.org/abs/1810.05728
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import special

from dim_jax import checks

# Numbers in memory for the rows that are compared with all others at a time.
_CHUNK = 2**22


class Channel(NamedTuple):
  """Bounds on what noisy features T + Z tell of the input and of labels C.

  All are scalars in nats but for `noise_std`. Standard errors are by the
  influence of each row, as itself and as one that others are compared with.
  Those of `upper` say little where it is large: few near pairs decide it.

  Attributes:
    lower: of I(X; T + Z), at most `ceiling`.
    upper: likewise, by leaving out the row itself. It grows with the squared
      distance of neighbours over the noise, so is loose in many dimensions.
    gaussian: likewise an upper one, of the Gaussian of equal covariance, which
      has the most entropy. It is of the covariance of n rows, so too low by
      about ((sum a)^2 + sum a^2 + 2 sum a) / (4 n), where a = v / (v + s^2) < 1
      for each variance v along a principal axis, to leading order in D / n; of
      Gaussian rows by `shortfall` at most.
    ceiling: ln n.
    lower_error: standard error of `lower`.
    upper_error: likewise of `upper`.
    noise_std: the standard deviation of Z, in the unit of the features; of a
      stochastic encoder the root mean square over rows and columns.
    label_lower: of I(T + Z; C): H(C) less the cross-entropy of a classifier,
      the class densities from all other rows. Negative where these mislead it.
      None without labels, as are all that follow.
    label_upper: likewise, with the row itself among those of its class: the
      information of a draw from these n rows. That is convex in the densities
      of the classes, so too high in expectation. At most `label_ceiling`.
    label_ceiling: H(C), of the labels' frequencies.
    label_lower_error: standard error of `label_lower`.
    label_upper_error: likewise of `label_upper`.
  """

  lower: jax.Array
  upper: jax.Array
  gaussian: jax.Array
  ceiling: jax.Array
  lower_error: jax.Array
  upper_error: jax.Array
  noise_std: jax.Array
  label_lower: jax.Array | None = None
  label_upper: jax.Array | None = None
  label_ceiling: jax.Array | None = None
  label_lower_error: jax.Array | None = None
  label_upper_error: jax.Array | None = None


def channel(
  features: jax.typing.ArrayLike,
  noise: float,
  key: jax.Array,
  *,
  labels: jax.typing.ArrayLike | None = None,
) -> Channel:
  """Bounds the information of features with Gaussian noise, in nats.

  The noise has one standard deviation, `noise` times the root mean square of
  the columns' standard deviations; of constant features it is `noise`. Memory
  is bounded, whatever n. Distances are products of matrices in float32, which
  costs accuracy in small noise: about 1e-7 D / noise^2 nats.

  Args:
    features: finite, shape [n, D], n >= 2; rows of any shape are flattened.
    noise: relative standard deviation, > 0.
    key: draws the noise, one vector a row.
    labels: classes, whole numbers >= 0, shape [n].

  Returns:
    The bounds. It may be traced: then values are not checked.

  Raises:
    ValueError: shapes, values or the noise are not accepted.
  """
  if not isinstance(noise, jax.core.Tracer):
    checks.check_range('noise', noise, '(0, inf)')
  labels = _checked({'features': features}, labels)
  return _channel(jnp.asarray(features), jnp.float32(noise), key, labels)


def stochastic_channel(
  mean: jax.typing.ArrayLike,
  scale: jax.typing.ArrayLike,
  key: jax.Array,
  *,
  labels: jax.typing.ArrayLike | None = None,
) -> Channel:
  """Bounds the information of stochastic codes Z ~ N(mean, scale), in nats.

  I(X; Z) of an encoder that is noisy by itself. Its mean rate, the KL
  divergence from any marginal, is another upper bound.

  Args:
    mean: finite, shape [n, K], n >= 2.
    scale: standard deviations [n, K], or lower Cholesky factors [n, K, K].
    key: draws one code a row.
    labels: classes, whole numbers >= 0, shape [n].

  Returns:
    The bounds, as of `channel`.

  Raises:
    ValueError: shapes or values are not accepted.
  """
  shapes = (np.shape(mean), (*np.shape(mean), np.shape(mean)[-1]))
  if np.ndim(mean) != 2 or np.shape(scale) not in shapes:
    raise ValueError(
      'mean must be [n, K] and scale [n, K] or [n, K, K], got '
      f'{np.shape(mean)} and {np.shape(scale)}.'
    )
  labels = _checked({'mean': mean, 'scale': scale}, labels)
  return _stochastic_channel(jnp.asarray(mean), jnp.asarray(scale), key, labels)


def _checked(
  arrays: dict[str, jax.typing.ArrayLike], labels: jax.typing.ArrayLike | None
) -> jax.Array | None:
  """Checks rows, and what is known of their values; returns the labels."""
  for name, array in arrays.items():
    shape = np.shape(array)
    if len(shape) < 2 or shape[0] < 2 or not math.prod(shape):
      raise ValueError(f'{name} must be [n, D] with n >= 2, got {shape}.')
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(array).all():
      raise ValueError(f'{name} has rows with NaN or infinity; leave them out.')
  if labels is None:
    return None
  if np.shape(labels) != shape[:1]:
    raise ValueError(
      f'labels must be [{shape[0]}], one a row, got {np.shape(labels)}.'
    )
  if not isinstance(labels, jax.core.Tracer) and np.min(labels) < 0:
    raise ValueError(
      f'{int(np.sum(np.asarray(labels) < 0))} of {shape[0]} labels are below '
      '0, unknown: leave these rows out.'
    )
  return jnp.asarray(labels, jnp.int32)


@jax.jit
def _channel(
  features: jax.Array,
  noise: jax.Array,
  key: jax.Array,
  labels: jax.Array | None,
) -> Channel:
  n = len(features)
  x = features.reshape(n, -1).astype(jnp.float32)
  x = x - x.mean(0, keepdims=True)
  std = jnp.sqrt(jnp.mean(jnp.square(x)))
  noise_std = noise * jnp.where(std > 0, std, 1.0)
  x = x / noise_std
  noisy = x + jax.random.normal(key, x.shape)
  half_squares = jnp.sum(jnp.square(x), 1) / 2

  def log_densities(rows: jax.Array) -> jax.Array:
    # ln p(t'_i | t_j) less what is equal for all j.
    return _product(noisy[rows], x.T) - half_squares[None]

  # Both products have the same eigenvalues but zeros; the smaller one will do.
  small = x if x.shape[1] <= n else x.T
  signal = _product(small.T, small) / n
  gaussian = _half_log_det(signal + jnp.eye(len(signal)))
  return _bounds(log_densities, n, _CHUNK // n, labels, gaussian, noise_std)


@jax.jit
def _stochastic_channel(
  mean: jax.Array, scale: jax.Array, key: jax.Array, labels: jax.Array | None
) -> Channel:
  mean, scale = mean.astype(jnp.float32), scale.astype(jnp.float32)
  n, size = mean.shape
  noise = jax.random.normal(key, mean.shape)
  if scale.ndim == 2:
    codes = mean + scale * noise
    diagonal, covariance = scale, jnp.diag(jnp.mean(jnp.square(scale), 0))
  else:
    codes = mean + jnp.einsum('nij,nj->ni', scale, noise)
    diagonal = jnp.diagonal(scale, axis1=1, axis2=2)
    covariance = jnp.einsum('nij,nkj->ik', scale, scale) / n
    eye = jnp.broadcast_to(jnp.eye(size)[None], scale.shape)
    inverse = lax.linalg.triangular_solve(
      scale, eye, left_side=True, lower=True
    )
  log_det = jnp.sum(jnp.log(diagonal), 1)

  def log_densities(rows: jax.Array) -> jax.Array:
    # By differences: codes have few dimensions, and some have so little noise
    # that products of matrices would leave no digits.
    z = codes[rows][:, None] - mean[None]
    if scale.ndim == 2:
      z = z / scale[None]
    else:
      z = jnp.einsum('jkl,ijl->ijk', inverse, z)
    return -jnp.sum(jnp.square(z), 2) / 2 - log_det[None]

  # In units of the noise, so that the determinant is of I and what is added.
  unit = jnp.sqrt(jnp.diagonal(covariance))
  centred = mean - mean.mean(0, keepdims=True)
  covariance = covariance + _product(centred.T, centred) / n
  covariance = covariance / (unit[:, None] * unit[None])
  gaussian = _half_log_det(covariance) + jnp.sum(jnp.log(unit))
  gaussian -= jnp.mean(log_det)
  noise_std = jnp.sqrt(jnp.sum(jnp.square(scale)) / mean.size)
  chunk = _CHUNK // (n * size)
  return _bounds(log_densities, n, chunk, labels, gaussian, noise_std)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  # Accelerators would round float32 to less by default.
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _half_log_det(matrix: jax.Array) -> jax.Array:
  return jnp.linalg.slogdet(matrix)[1] / 2


class _Terms(NamedTuple):
  """What b rows say for m bounds, each the mean of `values` over all rows.

  A row enters a bound as one that others are compared with, too: its weights in
  the density ratios, which the influence of the row is less by, are `others` on
  exp(l - max l), `mates` on those of its class, and `own` on itself.

  Attributes: each of shape [m, b].
  """

  values: jax.Array
  others: jax.Array
  mates: jax.Array
  own: jax.Array


def shortfall(n: int, dimensions: int) -> float:
  """Computes how far below its limit a Gaussian's entropy of n rows is.

  Half the log determinant of the covariance, the mean square from the mean of
  rows: that of the distribution, less its mean over draws of n rows. With noise
  added to the rows it falls short by less.

  Args:
    n: rows.
    dimensions: D.

  Returns:
    Nats, infinite where n <= D.

  References:
    Large-Sample Asymptotic Approximations for the Sampling and Posterior
    Distributions of Differential Entropy for Multivariate Normal Distributions,
    Entropy 13, 2011, eq. 7. https://www.mdpi.com/1099-4300/13/4/805
  """
  free = n - 1
  if dimensions > free:
    return math.inf
  halves = (free - np.arange(dimensions)) / 2
  return float(np.sum(math.log(n / 2) - special.digamma(halves))) / 2


def _bounds(
  log_densities: Callable[[jax.Array], jax.Array],
  n: int,
  chunk: int,
  labels: jax.Array | None,
  gaussian: jax.Array,
  noise_std: jax.Array,
) -> Channel:
  """Computes the bounds, of chunks of rows against all others.

  Args:
    log_densities: `rows [b] -> [b, n]`, ln p(t'_i | t_j) of the noisy row i, up
      to a function of i.
    n: how many rows there are.
    chunk: how many to take at a time; raised to 1 and lowered to n.
    labels: [n], or None.
    gaussian: a field of the result, and
    noise_std: likewise.
  """
  chunk = min(max(chunk, 1), n)
  frequency = None if labels is None else _frequency(labels)

  def add(sums: tuple, start: jax.Array) -> tuple:
    values, columns = sums
    # The last chunk may hold rows of the one before it, without weight.
    rows = jnp.minimum(start, n - chunk) + jnp.arange(chunk)
    ratios, top = _ratios(log_densities(rows), rows)
    terms, mates = _terms(ratios, top, rows, labels, frequency)
    fresh = (rows >= start)[None]
    columns += _product(terms.others * fresh, ratios)
    columns += _product(terms.mates * fresh, mates)
    columns = columns.at[:, rows].add(terms.own * fresh)
    return (values.at[:, rows].set(terms.values), columns), None

  zeros = jnp.zeros((2 if labels is None else 4, n))
  starts = jnp.arange(-(-n // chunk)) * chunk
  (values, columns), _ = lax.scan(add, (zeros, zeros), starts)
  means = jnp.mean(values, 1)
  errors = jnp.std(values - columns, 1) / math.sqrt(n)
  ceiling = jnp.float32(math.log(n))
  result = Channel(
    means[0], means[1], gaussian, ceiling, errors[0], errors[1], noise_std
  )
  if frequency is None:
    return result
  return result._replace(
    label_lower=means[2],
    label_upper=means[3],
    label_ceiling=-jnp.mean(jnp.log(frequency)),
    label_lower_error=errors[2],
    label_upper_error=errors[3],
  )


def _frequency(labels: jax.Array) -> jax.Array:
  """Returns the fraction of rows that have the label of each row, [n]."""
  ordered = jnp.sort(labels)
  first = jnp.searchsorted(ordered, labels)
  last = jnp.searchsorted(ordered, labels, side='right')
  return (last - first) / len(labels)


def _ratios(
  densities: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns p(t'_i | t_j) / p(t'_i | t_i), 0 for i itself.

  Args:
    densities: their logarithms, up to a function of i, [b, n].
    rows: i, [b].

  Returns:
    The ratios over the largest of each row [b, n], and its logarithm [b].
  """
  own = jnp.take_along_axis(densities, rows[:, None], 1)
  other = rows[:, None] != jnp.arange(densities.shape[1])[None]
  log_ratios = jnp.where(other, densities - own, -jnp.inf)
  top = jnp.max(log_ratios, 1)
  return jnp.exp(log_ratios - top[:, None]), top


def _terms(
  ratios: jax.Array,
  top: jax.Array,
  rows: jax.Array,
  labels: jax.Array | None,
  frequency: jax.Array | None,
) -> tuple[_Terms, jax.Array]:
  """Returns the terms of all bounds, and the ratios of rows of one class."""
  n, total = ratios.shape[1], jnp.sum(ratios, 1)
  log_others = top + jnp.log(total)
  terms = _information_terms(total, log_others, n)
  if labels is None or frequency is None:
    return terms, jnp.zeros_like(ratios)
  mates = jnp.where(labels[rows][:, None] == labels[None], ratios, 0.0)
  of_labels = _label_terms(
    total,
    log_others,
    jnp.sum(mates, 1) / total,
    frequency[rows],
    n,
    # Each class has frequency * n rows.
    jnp.sum(1 / frequency) / n,
  )
  return jax.tree.map(lambda *x: jnp.concatenate(x), terms, of_labels), mates


def _information_terms(
  total: jax.Array, log_others: jax.Array, n: int
) -> _Terms:
  """Returns the terms of `lower` and `upper`.

  Args:
    total: sum over other rows of their ratios as `_ratios` gives them, [b].
    log_others: the logarithm of the sum of the ratios themselves, [b].
    n: how many rows there are.
  """
  own = jax.nn.sigmoid(-log_others)
  zeros = jnp.zeros_like(own)
  lower = math.log(n) - jax.nn.softplus(log_others)
  return _Terms(
    jnp.stack([lower, math.log(n - 1) - log_others]),
    jnp.stack([(1 - own) / total, 1 / total]),
    jnp.stack([zeros, zeros]),
    jnp.stack([own, zeros]),
  )


def _label_terms(
  total: jax.Array,
  log_others: jax.Array,
  by_others: jax.Array,
  frequency: jax.Array,
  n: int,
  classes: jax.Array,
) -> _Terms:
  """Returns the terms of `label_lower` and `label_upper`.

  Args:
    total: as of `_information_terms`, and
    log_others: likewise.
    by_others: the probability of the row's class by the other rows, [b].
    frequency: of the row's class, [b].
    n: how many rows there are.
    classes: how many classes there are.
  """
  own = jax.nn.sigmoid(-log_others)
  by_all = own + (1 - own) * by_others
  # A little of all classes: a row amid another class costs ln n, not distance.
  mixed = (1 - 1 / n) * by_others + 1 / (n * classes)
  factor = (1 - 1 / n) / (mixed * total)
  return _Terms(
    jnp.log(jnp.stack([mixed, by_all])) - jnp.log(frequency)[None],
    jnp.stack([factor * by_others, (1 - own) / total]),
    -jnp.stack([factor, (1 - own) / (total * by_all)]),
    jnp.stack([jnp.zeros_like(own), own - own / by_all]),
  )
