"""Attacks in the L-infinity ball: FGSM and PGD."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

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
  """The fast gradient sign method: one step of epsilon in every pixel.

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`. The program
      is compiled once per function object, and for all epsilons.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: split into the judge's and the gradient's noise, see the module.
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
  attack_lib.check_epsilon(epsilon)
  how, data = attack_lib.prepare(
    logits, variables, images, labels, rng, loss, targets
  )
  return _fgsm(how, data, rng, jnp.asarray(epsilon, jnp.float32))


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
  """Projected gradient descent in the L-infinity ball, from random starts.

  Each restart begins uniformly in the ball and takes signed gradient steps,
  each projected back. Of all steps of all restarts, each example keeps the one
  on which the judge's averaged prediction is the furthest wrong (log
  probability of the best other class minus the label's, or of the target minus
  the best other class): so it succeeds if any step did, and with the widest
  margin.

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`. The program
      is compiled once per function object, for all epsilons and step sizes.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: split into the judge's and the attack's noise, see the module.
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
  attack_lib.check_epsilon(epsilon)
  attack_lib.check_count('steps', steps)
  attack_lib.check_count('restarts', restarts)
  if step_size is None:
    step_size = 2.5 * epsilon / steps
  else:
    attack_lib.check_positive('step_size', step_size)
  how, data = attack_lib.prepare(
    logits, variables, images, labels, rng, loss, targets
  )
  return _pgd(
    how,
    steps,
    restarts,
    data,
    rng,
    jnp.asarray(epsilon, jnp.float32),
    jnp.asarray(step_size, jnp.float32),
  )


@functools.partial(jax.jit, static_argnums=0)
def _fgsm(
  how: attack_lib.Program,
  data: attack_lib.Inputs,
  rng: jax.Array,
  epsilon: jax.Array,
) -> Attack:
  judge, noise = jax.random.split(rng)
  gradient = attack_lib.input_gradient(how, data, data.images, noise)
  moved = data.images + 2 * epsilon * jnp.sign(gradient)
  return attack_lib.measure(how, data, jnp.clip(moved, -1, 1), judge, gradient)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pgd(
  how: attack_lib.Program,
  steps: int,
  restarts: int,
  data: attack_lib.Inputs,
  rng: jax.Array,
  epsilon: jax.Array,
  step_size: jax.Array,
) -> Attack:
  judge, noise = jax.random.split(rng)
  low = jnp.maximum(data.images - 2 * epsilon, -1)
  high = jnp.minimum(data.images + 2 * epsilon, 1)

  def step(carry, key):
    x, best, best_lead = carry
    direction = jnp.sign(attack_lib.input_gradient(how, data, x, key))
    x = jnp.clip(x + 2 * step_size * direction, low, high)
    lead, _ = attack_lib.verdict(how, data, x, judge)
    better = lead > best_lead
    best = jnp.where(attack_lib.per_pixel(better), x, best)
    return (x, best, jnp.where(better, lead, best_lead)), None

  def restart(carry, key):
    first, later = jax.random.split(key)
    share = jax.random.uniform(first, low.shape)
    x = jnp.clip(low + share * (high - low), low, high)
    keys = jax.random.split(later, steps)
    (_, *carry), _ = jax.lax.scan(step, (x, *carry), keys)
    return tuple(carry), None

  clean, noise = jax.random.split(noise)
  keys = jax.random.split(noise, restarts)
  none = jnp.full(data.labels.shape, -jnp.inf)
  (best, _), _ = jax.lax.scan(restart, (data.images, none), keys)
  gradient = attack_lib.input_gradient(how, data, data.images, clean)
  return attack_lib.measure(how, data, best, judge, gradient)
