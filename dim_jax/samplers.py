"""Markov chains that sample a density known up to its normaliser.

Chains are rows; a transition maps (rng, x) to a `Step`, and `run_chain` repeats
it. They stay ours rather than a library's: all chains of a batch move at once,
images too, and Langevin dynamics says at which temperature it samples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from dim_jax.losses import kernel_stein


class Step(NamedTuple):
  """Where chains are after a transition.

  Attributes:
    position: one chain a row, [n, ...].
    acceptance: the probability with which each chain's move was accepted, [n];
      ones where every move is.
    temperature: T of the density p^(1/T) that the transition leaves (nearly)
      invariant, a scalar; 1 samples p.
  """

  position: jax.Array
  acceptance: jax.Array
  temperature: jax.Array


def langevin(
  rng: jax.Array,
  x: jax.Array,
  log_density: Callable[[jax.Array], jax.Array],
  step_size: jax.Array | float,
  noise: jax.Array | float | None = None,
) -> Step:
  """Takes one step of unadjusted Langevin dynamics.

  x + step_size * score + noise * xi, xi ~ N(0, I). It samples p^(1/T) with
  T = noise^2 / (2 step_size), up to a bias of order step_size: for a standard
  Gaussian the variance is T / (1 - step_size / 2). The noise that energy models
  are often sampled with is far below T = 1 (0.01 at step 1: T = 5e-5).

  Args:
    rng: a key.
    x: chains in rows, [n, ...].
    log_density: [n, ...] -> [n], log p up to a constant, each row from its own
      chain alone.
    step_size: of the score, in squared units of x.
    noise: standard deviation of what is added; sqrt(2 step_size), T = 1, if
      None.

  Returns:
    The next positions; every acceptance is 1.

  Raises:
    ValueError: step_size is a number that is not above 0, or noise one below 0.
  """
  kernel_stein.check_positive('step_size', step_size)
  if isinstance(noise, int | float) and not 0 <= noise < math.inf:
    raise ValueError(
      f'noise is {noise}: it must be finite and at least 0, or None for '
      'sqrt(2 step_size).'
    )
  if noise is None:
    noise = jnp.sqrt(2 * jnp.asarray(step_size, x.dtype))
  noise = jnp.asarray(noise, x.dtype)
  step_size = jnp.asarray(step_size, x.dtype)
  _, score = _value_and_score(log_density, x)
  position = x + step_size * score
  position = position + noise * jax.random.normal(rng, x.shape, x.dtype)
  acceptance = jnp.ones(len(x), x.dtype)
  return Step(position, acceptance, jnp.square(noise) / (2 * step_size))


def mala(
  rng: jax.Array,
  x: jax.Array,
  log_density: Callable[[jax.Array], jax.Array],
  step_size: jax.Array | float,
) -> Step:
  """Takes one step of the Metropolis-adjusted Langevin algorithm.

  Proposes x + step_size * score + sqrt(2 step_size) * xi and accepts with the
  ratio of densities and proposals, so that p is left invariant exactly. That is
  one leapfrog step of `hmc` of size sqrt(2 step_size), and is computed as such.

  Args:
    rng: a key.
    x: chains in rows, [n, ...].
    log_density: as of `langevin`.
    step_size: of the score, in squared units of x.

  Returns:
    The next positions, where a refused chain stays, and the probabilities with
    which the moves were accepted, 0 for a proposal that is not finite.

  Raises:
    ValueError: step_size is a number that is not above 0.

  References:
    Roberts and Tweedie, Exponential convergence of Langevin distributions and
    their discrete approximations, 1996.
  """
  kernel_stein.check_positive('step_size', step_size)
  step = jnp.sqrt(2 * jnp.asarray(step_size, x.dtype))
  return hmc(rng, x, log_density, step, leapfrogs=1)


def hmc(
  rng: jax.Array,
  x: jax.Array,
  log_density: Callable[[jax.Array], jax.Array],
  step_size: jax.Array | float,
  leapfrogs: int = 10,
) -> Step:
  """Makes one transition of Hamiltonian Monte Carlo with unit masses.

  A momentum from N(0, I), `leapfrogs` steps of the leapfrog integrator, and
  acceptance by the change of log p - ||momentum||^2 / 2.

  Args:
    rng: a key.
    x: chains in rows, [n, ...].
    log_density: as of `langevin`.
    step_size: of the integrator, in units of x.
    leapfrogs: how many steps.

  Returns:
    As of `mala`.

  Raises:
    ValueError: step_size is a number that is not above 0, or leapfrogs is below
      1.

  References:
    Neal, MCMC using Hamiltonian dynamics, 2011, section 3.
    https://arxiv.org/abs/1206.1901
  """
  kernel_stein.check_positive('step_size', step_size)
  if leapfrogs < 1:
    raise ValueError(f'leapfrogs is {leapfrogs}: at least 1 is needed.')
  step_size = jnp.asarray(step_size, x.dtype)
  momentum_rng, accept_rng = jax.random.split(rng)
  momentum = jax.random.normal(momentum_rng, x.shape, x.dtype)
  before, score = _value_and_score(log_density, x)
  # In `shard_map` a scan's first values must vary over devices as its last do.
  momentum += jnp.zeros_like(score)

  def leapfrog(
    state: tuple[jax.Array, jax.Array, jax.Array, jax.Array], unused: None
  ) -> tuple[tuple[jax.Array, jax.Array, jax.Array, jax.Array], None]:
    position, momentum, _, score = state
    momentum = momentum + step_size / 2 * score
    position = position + step_size * momentum
    value, score = _value_and_score(log_density, position)
    momentum = momentum + step_size / 2 * score
    return (position, momentum, value, score), None

  state = (x, momentum, before, score)
  (position, last, after, _), _ = jax.lax.scan(
    leapfrog, state, None, length=leapfrogs
  )
  axes = tuple(range(1, x.ndim))
  change = (
    after
    - before
    + (jnp.sum(jnp.square(momentum), axes) - jnp.sum(jnp.square(last), axes))
    / 2
  )
  finite = jnp.all(jnp.isfinite(position), axes) & jnp.isfinite(after)
  acceptance = jnp.where(
    finite & ~jnp.isnan(change), jnp.exp(jnp.minimum(change, 0.0)), 0.0
  )
  uniform = jax.random.uniform(accept_rng, acceptance.shape, acceptance.dtype)
  accepted = (uniform < acceptance).reshape(len(x), *(1 for _ in axes))
  position = jnp.where(accepted, position, x)
  return Step(position, acceptance, jnp.ones((), x.dtype))


def run_chain(
  rng: jax.Array,
  x: jax.Array,
  transition: Callable[[jax.Array, jax.Array], Step],
  steps: int,
) -> Step:
  """Runs all chains for some transitions, in one scan.

  Args:
    rng: a key; each transition gets one of its own.
    x: chains in rows, [n, ...].
    transition: (rng, x) -> Step, such as `langevin` with its density and step.
    steps: how many transitions.

  Returns:
    The last positions, each chain's mean acceptance, and the last temperature.

  Raises:
    ValueError: steps is below 1.
  """
  if steps < 1:
    raise ValueError(f'steps is {steps}: a chain takes at least 1.')

  def move(
    x: jax.Array, rng: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    step = transition(rng, x)
    return step.position, (step.acceptance, step.temperature)

  x, (acceptance, temperature) = jax.lax.scan(
    move, x, jax.random.split(rng, steps)
  )
  return Step(x, jnp.mean(acceptance, axis=0), temperature[-1])


def _value_and_score(
  log_density: Callable[[jax.Array], jax.Array], x: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns log p, [n], and its gradient by each row, of the shape of x."""
  value, pull_back = jax.vjp(log_density, x)
  chex.assert_shape(value, (len(x),))
  return value, pull_back(jnp.ones_like(value))[0]
