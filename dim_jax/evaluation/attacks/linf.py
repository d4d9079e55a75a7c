"""Attacks in the L-infinity ball: FGSM and PGD."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax import checks
from dim_jax.evaluation.attacks import attack as attack_lib
from dim_jax.evaluation.attacks.attack import Array, Attack, Logits


def fgsm(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  *,
  epsilon: float | jax.Array,
  loss: str = 'cross_entropy',
  targets: Array | None = None,
) -> Attack:
  """Runs the fast gradient sign method: one step of epsilon in every pixel.

  `epsilon` is in [0, 1], and one program serves all; the other arguments are
  those of the package.

  References:
    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
    examples", 2015, https://arxiv.org/abs/1412.6572
  """
  attack_lib.check_number('epsilon', epsilon, '[0, 1]')
  problem = attack_lib.prepare(
    logits, variables, images, labels, rng, loss, targets
  )
  return _fgsm(problem, rng, jnp.asarray(epsilon, jnp.float32))


def pgd(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  *,
  epsilon: float | jax.Array,
  step_size: float | jax.Array | None = None,
  steps: int = 40,
  restarts: int = 5,
  loss: str = 'cross_entropy',
  targets: Array | None = None,
) -> Attack:
  """Runs projected gradient descent in an Linf ball, from random starts.

  Each restart begins uniformly in the ball and takes signed gradient steps,
  each projected back. Of all steps of all restarts, each example keeps the one
  on which the averaged prediction is the furthest wrong (log
  probability of the best other class minus the label's, or of the target minus
  the best other class): so it succeeds if any step did, and with the widest
  margin.

  Beside the arguments of the package:

  - epsilon: radius of the ball, in [0, 1]; one program serves all.
  - step_size: length of a step in every pixel; None is 2.5 epsilon / steps.
  - steps: of each restart.
  - restarts: random starts.

  References:
    Madry et al., "Towards deep learning models resistant to adversarial
    attacks", 2018, https://arxiv.org/abs/1706.06083
  """
  attack_lib.check_number('epsilon', epsilon, '[0, 1]')
  checks.check_range('steps', steps, 'int [1, inf)')
  checks.check_range('restarts', restarts, 'int [1, inf)')
  if step_size is None:
    step_size = 2.5 * epsilon / steps
  else:
    attack_lib.check_number('step_size', step_size, '(0, inf)')
  problem = attack_lib.prepare(
    logits, variables, images, labels, rng, loss, targets
  )
  return _pgd(
    problem,
    rng,
    jnp.asarray(epsilon, jnp.float32),
    jnp.asarray(step_size, jnp.float32),
    steps,
    restarts,
  )


@jax.jit
def _fgsm(
  problem: attack_lib.Problem, rng: jax.Array, epsilon: jax.Array
) -> Attack:
  evaluation_noise, noise = jax.random.split(rng)
  gradient = problem.gradient(problem.images, noise)
  moved = problem.images + 2 * epsilon * jnp.sign(gradient)
  return problem.measure(jnp.clip(moved, -1, 1), evaluation_noise, gradient)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _pgd(
  problem: attack_lib.Problem,
  rng: jax.Array,
  epsilon: jax.Array,
  step_size: jax.Array,
  steps: int,
  restarts: int,
) -> Attack:
  evaluation_noise, noise = jax.random.split(rng)
  low = jnp.maximum(problem.images - 2 * epsilon, -1)
  high = jnp.minimum(problem.images + 2 * epsilon, 1)

  def step(carry, key):
    x, best, best_lead = carry
    direction = jnp.sign(problem.gradient(x, key))
    x = jnp.clip(x + 2 * step_size * direction, low, high)
    lead, *_ = problem.evaluate(x, evaluation_noise)
    better = lead > best_lead
    best = jnp.where(attack_lib.per_pixel(better), x, best)
    return (x, best, jnp.where(better, lead, best_lead)), None

  def restart(carry, key):
    first, later = jax.random.split(key)
    fraction = jax.random.uniform(first, low.shape)
    x = jnp.clip(low + fraction * (high - low), low, high)
    keys = jax.random.split(later, steps)
    (_, *carry), _ = jax.lax.scan(step, (x, *carry), keys)
    return tuple(carry), None

  clean, noise = jax.random.split(noise)
  keys = jax.random.split(noise, restarts)
  none = jnp.full(problem.labels.shape, -jnp.inf)
  (best, _), _ = jax.lax.scan(restart, (problem.images, none), keys)
  gradient = problem.gradient(problem.images, clean)
  return problem.measure(best, evaluation_noise, gradient)
