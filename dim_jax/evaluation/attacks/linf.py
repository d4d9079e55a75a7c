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

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`. The program
      is compiled once per function object, and for all epsilons.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: split into evaluation noise and the gradient's, see the package.
    epsilon: size of the step, in [0, 1].
    loss: 'cross_entropy' or 'margin', see the package.
    targets: classes to reach, none its label, [N]; None attacks untargeted.

  Returns:
    What it did to each image.

  Raises:
    ValueError: an argument is not as above.

  References:
    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
    examples", 2015, https://arxiv.org/abs/1412.6572
  """
  attack_lib.check_number('epsilon', epsilon, '[0, 1]')
  program, inputs = attack_lib.prepare(
    logits, variables, images, labels, rng, loss, targets
  )
  return _fgsm(program, inputs, rng, jnp.asarray(epsilon, jnp.float32))


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

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`. The program
      is compiled once per function object, for all epsilons and step sizes.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: split into evaluation noise and the attack's, see the package.
    epsilon: radius of the ball, in [0, 1].
    step_size: length of a step in every pixel; None is 2.5 epsilon / steps.
    steps: of each restart.
    restarts: random starts.
    loss: 'cross_entropy' or 'margin', see the package.
    targets: classes to reach, none its label, [N]; None attacks untargeted.

  Returns:
    What it did to each image.

  Raises:
    ValueError: an argument is not as above.

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
  program, inputs = attack_lib.prepare(
    logits, variables, images, labels, rng, loss, targets
  )
  return _pgd(
    program,
    steps,
    restarts,
    inputs,
    rng,
    jnp.asarray(epsilon, jnp.float32),
    jnp.asarray(step_size, jnp.float32),
  )


@functools.partial(jax.jit, static_argnums=0)
def _fgsm(
  program: attack_lib.Program,
  inputs: attack_lib.Inputs,
  rng: jax.Array,
  epsilon: jax.Array,
) -> Attack:
  evaluation_noise, noise = jax.random.split(rng)
  gradient = attack_lib.input_gradient(program, inputs, inputs.images, noise)
  moved = inputs.images + 2 * epsilon * jnp.sign(gradient)
  return attack_lib.measure(
    program, inputs, jnp.clip(moved, -1, 1), evaluation_noise, gradient
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pgd(
  program: attack_lib.Program,
  steps: int,
  restarts: int,
  inputs: attack_lib.Inputs,
  rng: jax.Array,
  epsilon: jax.Array,
  step_size: jax.Array,
) -> Attack:
  evaluation_noise, noise = jax.random.split(rng)
  low = jnp.maximum(inputs.images - 2 * epsilon, -1)
  high = jnp.minimum(inputs.images + 2 * epsilon, 1)

  def step(carry, key):
    x, best, best_lead = carry
    direction = jnp.sign(attack_lib.input_gradient(program, inputs, x, key))
    x = jnp.clip(x + 2 * step_size * direction, low, high)
    lead, _ = attack_lib.evaluate(program, inputs, x, evaluation_noise)
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
  none = jnp.full(inputs.labels.shape, -jnp.inf)
  (best, _), _ = jax.lax.scan(restart, (inputs.images, none), keys)
  gradient = attack_lib.input_gradient(program, inputs, inputs.images, clean)
  return attack_lib.measure(program, inputs, best, evaluation_noise, gradient)
