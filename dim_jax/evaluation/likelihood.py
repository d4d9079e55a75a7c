"""The normaliser of an unnormalised density, for log-likelihoods.

With f(x) the negative energy, log p(x) = f(x) - log Z. In one or two dimensions
log Z comes from a grid, and is exact but for the grid; otherwise annealed
importance sampling estimates it: ours, as no JAX library that is maintained
anneals from a base to an energy with all chains in one program.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks, samplers

# Where one leapfrog step's random walk explores fastest.
_ACCEPTANCE = 0.65
# How far the logistic schedule of temperatures reaches on either side.
_RADIUS = 4.0
# By which the log of the step grows if every proposal is accepted.
_ADAPTATION = 0.1


class LogPartition(NamedTuple):
  """An estimate of log Z in nats; all are scalars.

  Attributes:
    log_z: the estimate.
    standard_error: of the estimate, from the variance of the weights. It
      knows nothing of what no chain has found, and is too small where the
      effective sample size is.
    effective_sample_size: how many chains of equal weight would carry as much,
      (sum w)^2 / sum w^2, between 1 and the number of chains. Below about a
      tenth of the chains, take more temperatures.
    acceptance: mean over chains and temperatures; 0.65 is aimed at.
    step_size: of the last temperature, in standard deviations of the base.
  """

  log_z: jax.Array
  standard_error: jax.Array
  effective_sample_size: jax.Array
  acceptance: jax.Array
  step_size: jax.Array


def annealed_importance(
  rng: jax.Array,
  log_density: Callable[[jax.Array], jax.Array],
  shape: tuple[int, ...],
  *,
  mean: jax.Array | float = 0.0,
  std: jax.Array | float = 1.0,
  chains: int = 100,
  temperatures: int = 1000,
  leapfrogs: int = 1,
  step_size: float = 0.1,
) -> LogPartition:
  """Estimates log Z of exp(log_density) by annealed importance sampling.

  Chains start at a Gaussian base, whose normaliser is known, and follow
  base^(1 - beta) exp(f)^beta from beta = 0 to 1, with one transition of HMC at
  each temperature; with one leapfrog step that is MALA. Temperatures are close
  to each other at both ends, by a logistic schedule. The step size follows the
  mean acceptance of all chains.

  The mean of the weights is an unbiased estimate of Z (but for the effect of
  the adapted step), and so by Jensen's inequality its logarithm lies below log
  Z on average: it is stochastically a lower bound. Log-likelihoods f - log Z
  are hence flattered, the more the smaller the effective sample size is.

  Args:
    rng: a key.
    log_density: f, [n, *shape] -> [n], each row from its own point alone. It
      is compiled: pass the same function again to spare a second compilation.
    shape: of one point.
    mean: of the base, that of the data for example; broadcast to `shape`.
    std: of the base, above 0, likewise. The base should be at least as wide as
      the density.
    chains: how many.
    temperatures: how many steps from the base to the density.
    leapfrogs: of each transition.
    step_size: at the start, in standard deviations of the base.

  Returns:
    The estimate with what tells its quality. It is NaN if the density is NaN at
    a point that a chain visits.

  Raises:
    ValueError: an argument is not as above.

  References:
    Neal, Annealed importance sampling, 2001. https://arxiv.org/abs/physics/9803008
    Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte
    Carlo, 2015. https://arxiv.org/abs/1511.02543
  """
  checks.check_range('chains', chains, 'int [2, inf)')
  checks.check_range('temperatures', temperatures, 'int [1, inf)')
  checks.check_range('leapfrogs', leapfrogs, 'int [1, inf)')
  checks.check_range('step_size', step_size, '(0, inf)')
  shape = tuple(shape)
  base = []
  for name, array in (('mean', mean), ('std', std)):
    values = np.asarray(array, np.float32)
    try:
      values = np.broadcast_to(values, shape)
    except ValueError:
      raise ValueError(
        f'{name} has shape {values.shape}, which does not broadcast to that of '
        f'a point, {shape}.'
      ) from None
    if not np.isfinite(values).all() or (name == 'std' and values.min() <= 0):
      above = ' and above 0' if name == 'std' else ''
      raise ValueError(
        f'{name} must be finite{above}, got values from {values.min():g} to '
        f'{values.max():g}.'
      )
    base.append(values)
  return _anneal(
    rng, *base, step_size, log_density, chains, temperatures, leapfrogs
  )


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _anneal(
  rng: jax.Array,
  mean: jax.Array,
  std: jax.Array,
  step_size: jax.Array,
  log_density: Callable[[jax.Array], jax.Array],
  chains: int,
  temperatures: int,
  leapfrogs: int,
) -> LogPartition:
  """Of checked arguments; mean and std have the shape of a point."""
  log_volume = jnp.sum(jnp.log(std))

  # In units of the base, which is then N(0, I) and fits one step size.
  def target(u: jax.Array) -> jax.Array:
    return log_density(mean[None] + std[None] * u) + log_volume

  def standard(u: jax.Array) -> jax.Array:
    square = jnp.sum(jnp.square(u), axis=tuple(range(1, u.ndim)))
    return -0.5 * square - 0.5 * mean.size * math.log(2 * math.pi)

  def cool(
    state: tuple[jax.Array, jax.Array, jax.Array],
    now: tuple[jax.Array, jax.Array, jax.Array],
  ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    u, log_weight, log_step = state
    rng, before, beta = now
    log_weight += (beta - before) * (target(u) - standard(u))

    def between(u: jax.Array) -> jax.Array:
      return (1 - beta) * standard(u) + beta * target(u)

    step = samplers.hmc(rng, u, between, jnp.exp(log_step), leapfrogs)
    acceptance = jnp.mean(step.acceptance)
    change = _ADAPTATION * (acceptance - _ACCEPTANCE) / (1 - _ACCEPTANCE)
    return (step.position, log_weight, log_step + change), acceptance

  sigmoid = jax.nn.sigmoid(jnp.linspace(-_RADIUS, _RADIUS, temperatures + 1))
  betas = (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])
  start_rng, rng = jax.random.split(rng)
  state = (
    jax.random.normal(start_rng, (chains, *mean.shape)),
    jnp.zeros(chains),
    jnp.log(step_size),
  )
  (_, log_weight, log_step), acceptance = jax.lax.scan(
    cool, state, (jax.random.split(rng, temperatures), betas[:-1], betas[1:])
  )
  log_sum = jax.nn.logsumexp(log_weight)
  size = jnp.exp(2 * log_sum - jax.nn.logsumexp(2 * log_weight))
  # The relative variance of the mean weight, which is that of its logarithm.
  variance = jnp.maximum(chains / size - 1, 0.0) / (chains - 1)
  return LogPartition(
    log_sum - math.log(chains),
    jnp.sqrt(variance),
    size,
    jnp.mean(acceptance),
    jnp.exp(log_step),
  )


def grid_log_partition(
  log_density: Callable[[jax.Array], jax.Array],
  low: tuple[float, ...],
  high: tuple[float, ...],
  points: int,
) -> jax.Array:
  """Computes log Z in one or two dimensions, by the midpoint rule.

  The sum over the cells of a box. What is outside of the box is left out, so
  take one that holds all of the mass: a wider box must not change the result.
  For a smooth density that vanishes at the edges, the error falls faster than
  any power of the cells' width, once they are narrower than its details.

  Args:
    log_density: f, [n, D] -> [n].
    low: the box's lower corner, D numbers, D = 1 or 2.
    high: its upper corner.
    points: cells along each axis.

  Returns:
    A scalar in nats.

  Raises:
    ValueError: the box has no inside or more than two dimensions, or points is
      below 1.

  Examples:
    >>> grid_log_partition(lambda x: jnp.zeros(len(x)), (0.0,), (1.0,), 4)
    Array(0., dtype=float32)
  """
  if len(low) != len(high) or len(low) not in (1, 2):
    raise ValueError(
      f'low and high must be two corners in 1 or 2 dimensions, got {low} and '
      f'{high}; take annealed_importance in more.'
    )
  if not all(
    -math.inf < a < b < math.inf for a, b in zip(low, high, strict=True)
  ):
    raise ValueError(
      f'Every coordinate of low must be below that of high, both finite; got '
      f'{low} and {high}.'
    )
  checks.check_range('points', points, 'int [1, inf)')
  widths = [(b - a) / points for a, b in zip(low, high, strict=True)]
  axes = [
    jnp.asarray(a + width * (np.arange(points) + 0.5), jnp.float32)
    for a, width in zip(low, widths, strict=True)
  ]

  # A row of the grid at a time, so that memory grows with its side alone.
  def line(first: jax.Array) -> jax.Array:
    columns = [jnp.full(points, first), axes[-1]][-len(low) :]
    return jax.nn.logsumexp(log_density(jnp.stack(columns, axis=1)))

  rows = axes[0] if len(low) == 2 else jnp.zeros(1)
  total = jax.nn.logsumexp(jax.lax.map(line, rows))
  return total + sum(math.log(width) for width in widths)
