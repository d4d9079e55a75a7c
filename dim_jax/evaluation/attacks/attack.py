"""What all attacks share: gradients, predictions, distances, checks.

No library that is maintained attacks JAX classifiers, let alone ones that
sample; hence these are ours, held against closed forms by tests.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks, scale

Logits = Callable[[Any, jax.Array, jax.Array], jax.Array]
Array = jax.Array | np.ndarray

LOSSES = ('cross_entropy', 'margin')
# Half a grey level: what rounding to 8 bits would undo is no changed pixel.
L0_TOLERANCE = 0.5 / 255


class Attack(NamedTuple):
  """What an attack did to each of N examples.

  Attributes:
    images: the adversarial images, float32 in [-1, 1], [N, H, W, C].
    success: whether the prediction of `images` is the target, or without
      targets, not the label. bool [N]; it includes what was wrong before.
    correct_before: whether the clean image is predicted right, bool [N].
    correct_after: whether the adversarial image is, bool [N].
    l0: how many pixels any channel of which moved by more than `L0_TOLERANCE`,
      float32 [N].
    l2: Euclidean norm of the perturbation over pixels and channels, float32
      [N].
    linf: its largest absolute value, float32 [N].
    zero_gradients: whether the attack was blind, bool [N]: the gradient of its
      loss at the clean image has no finite entry but exact zeros, or, see
      `carlini_wagner`, it failed with pixels that it could not move. Its mean
      is the fraction of examples on which a failed attack shows nothing about
      robustness.
  """

  images: Array
  success: Array
  correct_before: Array
  correct_after: Array
  l0: Array
  l2: Array
  linf: Array
  zero_gradients: Array


class Program(NamedTuple):
  """What selects a compiled program; hashable."""

  logits: Logits
  loss: str
  targeted: bool


class Inputs(NamedTuple):
  """What that program takes."""

  variables: Any
  images: jax.Array
  """float32 in [-1, 1], [N, H, W, C]."""
  labels: jax.Array
  """int32 [N]."""
  classes: jax.Array
  """The classes to reach if targeted, to leave if not, int32 [N]."""


def logits_of(
  program: Program, inputs: Inputs, x: jax.Array, key: jax.Array
) -> jax.Array:
  """Computes logits [S, N, C], float32."""
  return program.logits(inputs.variables, x, key).astype(jnp.float32)


def log_average(scores: jax.Array) -> jax.Array:
  """Computes the log of the averaged probabilities [N, C]."""
  total = jax.nn.logsumexp(jax.nn.log_softmax(scores), axis=0)
  return total - math.log(scores.shape[0])


def margin(values: jax.Array, index: jax.Array) -> jax.Array:
  """Computes how far the value at the index is above the others, [N]."""
  own = jnp.take_along_axis(values, index[:, None], axis=1)[:, 0]
  is_own = jnp.arange(values.shape[1])[None, :] == index[:, None]
  return own - jnp.max(jnp.where(is_own, -jnp.inf, values), axis=1)


def objective(
  program: Program, scores: jax.Array, classes: jax.Array
) -> jax.Array:
  """Computes what the attacker raises, [N]."""
  if program.loss == 'cross_entropy':
    value = jnp.take_along_axis(log_average(scores), classes[:, None], axis=1)
    value = value[:, 0]
  else:
    value = margin(jnp.mean(scores, axis=0), classes)
  return value if program.targeted else -value


def input_gradient(
  program: Program, inputs: Inputs, x: jax.Array, key: jax.Array
) -> jax.Array:
  """Differentiates the objective by the images, each on its own."""

  def total(x):
    return jnp.sum(
      objective(program, logits_of(program, inputs, x, key), inputs.classes)
    )

  return zero_if_not_finite(jax.grad(total)(x))


def zero_if_not_finite(gradient: jax.Array) -> jax.Array:
  """Replaces what is not finite: no direction can be read from it."""
  return jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def evaluate(
  program: Program, inputs: Inputs, x: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes the attacker's lead in log probability and predictions, [N]."""
  scores = logits_of(program, inputs, x, noise)
  lead = margin(log_average(scores), inputs.classes)
  predictions = jnp.argmax(jnp.mean(jax.nn.softmax(scores), axis=0), axis=1)
  return lead if program.targeted else -lead, predictions


def reached(
  program: Program, inputs: Inputs, predictions: jax.Array
) -> jax.Array:
  """Tells whether predictions [N] are what the attacker wants."""
  is_class = predictions == inputs.classes
  return is_class if program.targeted else ~is_class


def per_pixel(values: jax.Array) -> jax.Array:
  """Reshapes [N] to [N, 1, 1, 1]."""
  return values[:, None, None, None]


def measure(
  program: Program,
  inputs: Inputs,
  x: jax.Array,
  noise: jax.Array,
  gradient: jax.Array,
  exchange: bool = True,
) -> Attack:
  """Evaluates and measures; `exchange` may put clean images back."""
  # A loop of two: the network is compiled once, and draws the same noise.
  before, after = jax.lax.map(
    lambda each: evaluate(program, inputs, each, noise)[1],
    jnp.stack([inputs.images, x]),
  )
  if exchange:
    put_back = reached(program, inputs, before) & ~reached(
      program, inputs, after
    )
    x = jnp.where(per_pixel(put_back), inputs.images, x)
    after = jnp.where(put_back, before, after)
  change = jnp.abs(x - inputs.images) / 2
  moved = jnp.any(change > L0_TOLERANCE, axis=3)
  return Attack(
    images=x,
    success=reached(program, inputs, after),
    correct_before=before == inputs.labels,
    correct_after=after == inputs.labels,
    l0=jnp.sum(moved, axis=(1, 2), dtype=jnp.float32),
    l2=jnp.sqrt(jnp.sum(jnp.square(change), axis=(1, 2, 3))),
    linf=jnp.max(change, axis=(1, 2, 3)),
    zero_gradients=jnp.all(gradient == 0, axis=(1, 2, 3)),
  )


def prepare(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  loss: str = 'cross_entropy',
  targets: Array | None = None,
) -> tuple[Program, Inputs]:
  """Checks an attack's arguments and prepares them for its program."""
  checks.check_choice('loss', loss, LOSSES)
  x = checked_images(images, 'images')
  shape = jax.eval_shape(logits, variables, x, rng).shape
  if len(shape) != 3 or shape[1] != len(x) or not shape[0] or shape[2] < 2:
    raise ValueError(
      f'logits must return [S, N, C] with S >= 1, N = {len(x)} images and '
      f'C >= 2 classes, got shape {shape}.'
    )
  labels = checked_classes('labels', labels, x.shape[:1], shape[2])
  if targets is None:
    return Program(logits, loss, False), Inputs(variables, x, labels, labels)
  targets = checked_classes('targets', targets, x.shape[:1], shape[2])
  if not _traced(labels, targets):
    same = np.flatnonzero(np.asarray(labels) == np.asarray(targets))
    if same.size:
      raise ValueError(
        f'A target must differ from its label; example {same[0]} has '
        f'{int(labels[same[0]])} for both.'
      )
  return Program(logits, loss, True), Inputs(variables, x, labels, targets)


def _traced(*values: Any) -> bool:
  return any(isinstance(value, jax.core.Tracer) for value in values)


def known(value: Any) -> float | None:
  """Returns a number that can be checked; None while it is traced."""
  return None if _traced(value) else float(value)


def checked_images(images: Array, name: str) -> jax.Array:
  """Returns images as float32 in [-1, 1]."""
  if not hasattr(images, 'dtype'):
    images = np.asarray(images)
  if images.ndim != 4 or not images.size:
    raise ValueError(
      f'{name} must be [N, H, W, C], none of them 0, got shape {images.shape}.'
    )
  if images.dtype == np.uint8:
    if not _traced(images):
      # NumPy divides exactly; a compiler may multiply by the inverse.
      return jnp.asarray(scale.to_unit(np.asarray(images)))
    return jnp.clip(scale.to_unit(images), -1, 1)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'{name} must be uint8, or float in [-1, 1], got {images.dtype}.'
    )
  x = jnp.asarray(images, jnp.float32)
  if not _traced(x):
    wrong = int(jnp.sum(~(jnp.abs(x) <= 1)))
    if wrong:
      raise ValueError(
        f'{name} of floats must be in [-1, 1], got values from '
        f'{float(jnp.min(x)):g} to {float(jnp.max(x)):g}: {wrong} of {x.size} '
        'are outside or NaN.'
      )
  return x


def checked_classes(
  name: str, values: Array, shape: tuple[int, ...], classes: int
) -> jax.Array:
  """Returns class indices as int32."""
  if not hasattr(values, 'dtype'):
    values = np.asarray(values)
  if values.shape != shape or not jnp.issubdtype(values.dtype, jnp.integer):
    raise ValueError(
      f'{name} must be integers of shape {tuple(shape)}, got {values.dtype} of '
      f'shape {values.shape}.'
    )
  if not _traced(values):
    # Before the cast, which would wrap large numbers around.
    wrong = np.asarray(values)
    wrong = wrong[(wrong < 0) | (wrong >= classes)]
    if wrong.size:
      raise ValueError(
        f'{name} must be in 0..{classes - 1}, got {int(wrong[0])}: '
        f'{wrong.size} of {values.size} are outside.'
      )
  return jnp.asarray(values, jnp.int32)


def check_number(name: str, number: Any, interval: str) -> None:
  """Checks a number unless it is traced, see `checks.check_range`."""
  if (value := known(number)) is not None:
    checks.check_range(name, value, interval)
