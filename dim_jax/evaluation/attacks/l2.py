"""The attack of Carlini and Wagner, the nearest image in L2."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dim_jax.evaluation.attacks import attack as attack_lib
from dim_jax.evaluation.attacks.attack import Array, Attack, Logits

# arctanh is infinite at the ends of the range, where black and white pixels
# are. float32 is still 16 times finer than this there.
_INSIDE = 1 - 1e-6


def carlini_wagner(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  *,
  targets: Array | None = None,
  confidence: float | jax.Array = 0.0,
  steps: int = 1000,
  search_steps: int = 9,
  learning_rate: float | jax.Array = 1e-2,
  initial_c: float | jax.Array = 1e-3,
) -> Attack:
  """The L2 attack of Carlini and Wagner: the nearest image that succeeds.

  Adam on w minimises |x' - x|^2 + c f, where x' = tanh(w) stays in range, and f
  is minus the 'margin' loss of the package while the averaged prediction of the
  step falls short of `confidence`, else constant. With one sample this is
  their f; with several, averaged logits can be on the other side than averaged
  probabilities, and f must not rest before the latter cross. Each example's c
  starts at `initial_c`, grows tenfold until an attempt succeeds, and is then
  bisected. An example keeps the nearest image that the judge found successful;
  the clean one where there is none, or where it already succeeds.

  Untargeted, it pursues the runner-up class, which need not be the nearest one:
  distances are upper bounds. `targets` for each other class in turn is tighter.

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`. The program
      is compiled once per function object.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: split into the judge's and the attack's noise, see the module.
    targets: classes to reach, none its label, [N]; None attacks untargeted.
    confidence: by how much success must lead: the difference of the averaged
      prediction's log probabilities, which for one sample is that of logits.
    steps: of Adam, for each c.
    search_steps: how many values of c each example tries.
    learning_rate: of Adam.
    initial_c: the first c, for distances in [0, 1] pixels.

  Returns:
    What it did to each image. Compare `l2`; there is no epsilon.

  Raises:
    ValueError: an argument is not as above.

  References:
    Carlini and Wagner, "Towards evaluating the robustness of neural networks",
    2017, https://arxiv.org/abs/1608.04644
  """
  attack_lib.check_count('steps', steps)
  attack_lib.check_count('search_steps', search_steps)
  attack_lib.check_positive('learning_rate', learning_rate)
  attack_lib.check_positive('initial_c', initial_c)
  if (
    value := attack_lib.known(confidence)
  ) is not None and not 0 <= value < math.inf:
    raise ValueError(f'confidence must be >= 0, got {confidence}.')
  how, data = attack_lib.prepare(
    logits, variables, images, labels, rng, 'margin', targets
  )
  return _carlini_wagner(
    how,
    steps,
    search_steps,
    data,
    rng,
    jnp.asarray(confidence, jnp.float32),
    jnp.asarray(learning_rate, jnp.float32),
    jnp.asarray(initial_c, jnp.float32),
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _carlini_wagner(
  how: attack_lib.Program,
  steps: int,
  search_steps: int,
  data: attack_lib.Inputs,
  rng: jax.Array,
  confidence: jax.Array,
  learning_rate: jax.Array,
  initial_c: jax.Array,
) -> Attack:
  judge, noise = jax.random.split(rng)
  clean, noise = jax.random.split(noise)
  optimizer = optax.adam(learning_rate)
  start = jnp.arctanh(data.images * _INSIDE)

  def square(x):
    return jnp.sum(jnp.square((x - data.images) / 2), axis=(1, 2, 3))

  def reaches(x):
    lead, found = attack_lib.verdict(how, data, x, judge)
    return attack_lib.reached(how, data, found) & (lead >= confidence)

  def cost(w, c, key):
    x = jnp.tanh(w)
    scores = attack_lib.logits_of(how, data, x, key)
    sign = 1 if how.targeted else -1
    short = (
      sign * attack_lib.margin(attack_lib.log_average(scores), data.aims)
      < confidence
    )
    f = jnp.where(short, -attack_lib.objective(how, scores, data.aims), 0.0)
    return jnp.sum(square(x) + c * f)

  def step(carry, inputs):
    w, state, reached, best, least, c = carry
    gradient = attack_lib.zero_if_not_finite(jax.grad(cost)(w, c, inputs))
    updates, state = optimizer.update(gradient, state, w)
    w = optax.apply_updates(w, updates)
    x = jnp.tanh(w)
    success, distance = reaches(x), square(x)
    nearer = success & (distance < least)
    best = jnp.where(attack_lib.per_pixel(nearer), x, best)
    least = jnp.where(nearer, distance, least)
    return (w, state, reached | success, best, least, c), None

  def search(carry, key):
    c, low, high, best, least = carry
    inner = (start, optimizer.init(start), jnp.zeros_like(done), best, least, c)
    keys = jax.random.split(key, steps)
    (_, _, reached, best, least, _), _ = jax.lax.scan(step, inner, keys)
    high = jnp.where(reached, jnp.minimum(high, c), high)
    low = jnp.where(reached, low, jnp.maximum(low, c))
    c = jnp.where(high < jnp.inf, (low + high) / 2, 10 * c)
    return (c, low, high, best, least), None

  done = reaches(data.images)
  unknown = jnp.full(done.shape, jnp.inf)
  first = (
    jnp.full(done.shape, initial_c),
    jnp.zeros(done.shape),
    unknown,
    data.images,
    # Nothing is nearer than a clean image that already succeeds.
    jnp.where(done, 0.0, unknown),
  )
  keys = jax.random.split(noise, search_steps)
  (_, _, _, best, _), _ = jax.lax.scan(search, first, keys)
  gradient = attack_lib.input_gradient(how, data, data.images, clean)
  return attack_lib.measure(how, data, best, judge, gradient)
