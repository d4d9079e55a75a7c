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

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`. The program
      is compiled once per function object.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: split into evaluation noise and the attack's, see the package.
    targets: classes to reach, none its label, [N]; None attacks untargeted.
    confidence: by how much success must lead: the difference of the averaged
      prediction's log probabilities, which for one sample is that of logits.
    steps: of Adam, for each c.
    search_steps: how many values of c each example tries.
    learning_rate: of Adam; None is 10 / steps, the paper's 0.01 for 1000.
    initial_c: the first c, for distances in [0, 1] pixels.

  Returns:
    What it did to each image. Compare `l2`; there is no epsilon.

  Raises:
    ValueError: an argument is not as above.

  References:
    Carlini and Wagner, "Towards evaluating the robustness of neural networks",
    2017, https://arxiv.org/abs/1608.04644
  """
  checks.check_range('steps', steps, 'int [1, inf)')
  checks.check_range('search_steps', search_steps, 'int [1, inf)')
  if learning_rate is None:
    learning_rate = 10 / steps
  attack_lib.check_number('learning_rate', learning_rate, '(0, inf)')
  attack_lib.check_number('initial_c', initial_c, '(0, inf)')
  attack_lib.check_number('confidence', confidence, '[0, inf)')
  program, inputs = attack_lib.prepare(
    logits, variables, images, labels, rng, 'margin', targets
  )
  return _carlini_wagner(
    program,
    steps,
    search_steps,
    inputs,
    rng,
    jnp.asarray(confidence, jnp.float32),
    jnp.asarray(learning_rate, jnp.float32),
    jnp.asarray(initial_c, jnp.float32),
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _carlini_wagner(
  program: attack_lib.Program,
  steps: int,
  search_steps: int,
  inputs: attack_lib.Inputs,
  rng: jax.Array,
  confidence: jax.Array,
  learning_rate: jax.Array,
  initial_c: jax.Array,
) -> Attack:
  evaluation_noise, noise = jax.random.split(rng)
  clean, noise = jax.random.split(noise)
  optimizer = optax.adam(learning_rate)
  start = jnp.arctanh(inputs.images * _INSIDE)

  def square(x):
    return jnp.sum(jnp.square((x - inputs.images) / 2), axis=(1, 2, 3))

  def reaches(x):
    lead, predictions = attack_lib.evaluate(
      program, inputs, x, evaluation_noise
    )
    succeeds = attack_lib.reached(program, inputs, predictions)
    return succeeds & (lead >= confidence)

  def cost(w, c, key):
    x = jnp.tanh(w)
    scores = attack_lib.logits_of(program, inputs, x, key)
    lead = attack_lib.margin(attack_lib.log_average(scores), inputs.classes)
    short = (lead if program.targeted else -lead) < confidence
    gain = attack_lib.objective(program, scores, inputs.classes)
    f = jnp.where(short, -gain, 0.0)
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

  done = reaches(inputs.images)
  unknown = jnp.full(done.shape, jnp.inf)
  first = (
    jnp.full(done.shape, initial_c),
    jnp.zeros(done.shape),
    unknown,
    inputs.images,
    # Nothing is nearer than a clean image that already succeeds.
    jnp.where(done, 0.0, unknown),
  )
  keys = jax.random.split(noise, search_steps)
  (_, _, _, best, _), _ = jax.lax.scan(search, first, keys)
  gradient = attack_lib.input_gradient(program, inputs, inputs.images, clean)
  result = attack_lib.measure(program, inputs, best, evaluation_noise, gradient)
  stuck = _is_stuck(inputs.images, start, learning_rate * steps)
  blind = result.zero_gradients | (stuck & ~result.success)
  return result._replace(zero_gradients=blind)


def _is_stuck(images: jax.Array, w: jax.Array, reach: jax.Array) -> jax.Array:
  """Tells which images have a pixel that w +- reach does not change, [N]."""
  low, high = jnp.tanh(w - reach), jnp.tanh(w + reach)
  change = jnp.maximum(images - low, high - images) / 2
  return jnp.any(change <= attack_lib.L0_TOLERANCE, axis=(1, 2, 3))
