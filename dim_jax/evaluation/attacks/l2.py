"""The attack of Carlini and Wagner, the nearest image in L2."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dim_jax import checks
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
  learning_rate: float | jax.Array | None = None,
  initial_c: float | jax.Array = 1e-3,
) -> Attack:
  """Runs the L2 attack of Carlini and Wagner, for the nearest success.

  Adam on w minimises |x' - x|^2 + c f, where x' = tanh(w) stays in range, and f
  is minus the 'margin' loss of the package while the averaged prediction of the
  step falls short of `confidence`, else constant. With one sample this is
  their f; with several, averaged logits can be on the other side than averaged
  probabilities, and f must not rest before the latter cross. Each example's c
  starts at `initial_c`, grows tenfold until an attempt succeeds, and is then
  bisected. An example keeps the nearest image that succeeded under evaluation
  noise; the clean one where there is none, or where it already succeeds.

  w starts at arctanh of the clean image, which is flat where pixels are black
  or white: from there, steps that are too short and too few change nothing
  (|w| is 7.3, and Adam moves it by about the learning rate a step). So the
  default learning rate covers the range of a pixel in the steps that it has. An
  example on which the attack failed with a pixel that its steps cannot move by
  half a grey level counts among `zero_gradients`.

  Untargeted, it pursues the runner-up class, which need not be the nearest one:
  distances are upper bounds. `targets` for each other class in turn is tighter.

  Beside the arguments of the package:

  - confidence: by how much success must lead: the difference of the averaged
    prediction's log probabilities, which for one sample is that of logits.
  - steps: of Adam, for each c.
  - search_steps: how many values of c each example tries.
  - learning_rate: of Adam; None is 10 / steps, the paper's 0.01 for 1000.
  - initial_c: the first c, for distances in [0, 1] pixels.

  References:
    Carlini and Wagner, "Towards evaluating the robustness of neural networks",
    2017, https://arxiv.org/abs/1608.04644
  """
  checks.check_range('steps', steps, 'int [1, inf)')
  checks.check_range('search_steps', search_steps, 'int [1, inf)')
  if learning_rate is None:
    learning_rate = 10 / steps
  numbers = {
    'learning_rate': (learning_rate, '(0, inf)'),
    'initial_c': (initial_c, '(0, inf)'),
    'confidence': (confidence, '[0, inf)'),
  }
  for name, (number, interval) in numbers.items():
    attack_lib.check_number(name, number, interval)
  problem = attack_lib.prepare(
    logits, variables, images, labels, rng, 'margin', targets
  )
  return _carlini_wagner(
    problem,
    rng,
    steps,
    search_steps,
    **{name: jnp.float32(number) for name, (number, _) in numbers.items()},
  )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _carlini_wagner(
  problem: attack_lib.Problem,
  rng: jax.Array,
  steps: int,
  search_steps: int,
  confidence: jax.Array,
  learning_rate: jax.Array,
  initial_c: jax.Array,
) -> Attack:
  evaluation_noise, noise = jax.random.split(rng)
  clean, noise = jax.random.split(noise)
  optimizer = optax.adam(learning_rate)
  start = jnp.arctanh(problem.images * _INSIDE)

  def square(x):
    return jnp.sum(jnp.square((x - problem.images) / 2), axis=(1, 2, 3))

  def reaches(x):
    lead, _, reached = problem.evaluate(x, evaluation_noise)
    return reached & (lead >= confidence)

  def cost(w, c, key):
    x = jnp.tanh(w)
    scores = problem.scores(x, key)
    short = problem.lead(scores) < confidence
    f = jnp.where(short, -problem.objective(scores), 0.0)
    return jnp.sum(square(x) + c * f)

  def step(carry, key):
    w, state, reached, best, least, c = carry
    gradient = attack_lib.zero_if_not_finite(jax.grad(cost)(w, c, key))
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

  done = reaches(problem.images)
  unknown = jnp.full(done.shape, jnp.inf)
  first = (
    jnp.full(done.shape, initial_c),
    jnp.zeros(done.shape),
    unknown,
    problem.images,
    # Nothing is nearer than a clean image that already succeeds.
    jnp.where(done, 0.0, unknown),
  )
  keys = jax.random.split(noise, search_steps)
  (_, _, _, best, _), _ = jax.lax.scan(search, first, keys)
  gradient = problem.gradient(problem.images, clean)
  result = problem.measure(best, evaluation_noise, gradient)
  stuck = _is_stuck(problem.images, start, learning_rate * steps)
  blind = result.zero_gradients | (stuck & ~result.success)
  return result._replace(zero_gradients=blind)


def _is_stuck(images: jax.Array, w: jax.Array, reach: jax.Array) -> jax.Array:
  """Tells which images have a pixel that w +- reach does not change, [N]."""
  low, high = jnp.tanh(w - reach), jnp.tanh(w + reach)
  change = jnp.maximum(images - low, high - images) / 2
  return jnp.any(change <= attack_lib.L0_TOLERANCE, axis=(1, 2, 3))
