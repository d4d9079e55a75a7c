"""What an attack asks of a classifier: gradients, predictions, distances."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import scale

Logits = Callable[[Any, jax.Array, jax.Array], jax.Array]
Array = jax.Array | np.ndarray

LOSSES = ('cross_entropy', 'margin')
# Half a grey level: what rounding to 8 bits would undo is no changed pixel.
L0_TOLERANCE = 0.5 / 255
# arctanh is infinite at the ends of the range, where black and white pixels


class Attack(NamedTuple):
  """What an attack did to each of N examples.

  Attributes:
    images: the adversarial images, float32 in [-1, 1], [N, H, W, C].
    success: whether the judged prediction of `images` is the target, or without
      targets, not the label. bool [N]; it includes what was wrong before.
    correct_before: whether the clean image is predicted right, bool [N].
    correct_after: whether the adversarial image is, bool [N].
    l0: how many pixels any channel of which moved by more than `L0_TOLERANCE`,
      float32 [N].
    l2: Euclidean norm of the perturbation over pixels and channels, float32
      [N].
    linf: its largest absolute value, float32 [N].
    zero_gradients: whether the gradient of the attack's loss at the clean image
      has no finite entry but exact zeros, bool [N]. Its mean is the fraction of
      examples on which a failed attack shows nothing about robustness.
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
  aims: jax.Array
  """The classes to reach if targeted, to leave if not, int32 [N]."""


def logits_of(
  how: Program, data: Inputs, x: jax.Array, key: jax.Array
) -> jax.Array:
  """Logits [S, N, C], float32."""
  return how.logits(data.variables, x, key).astype(jnp.float32)


def log_average(scores: jax.Array) -> jax.Array:
  """Log of the averaged probabilities [N, C]."""
  total = jax.nn.logsumexp(jax.nn.log_softmax(scores), axis=0)
  return total - math.log(scores.shape[0])


def margin(values: jax.Array, index: jax.Array) -> jax.Array:
  """How far the value at the index is above the largest other, [N]."""
  own = jnp.take_along_axis(values, index[:, None], axis=1)[:, 0]
  is_own = jnp.arange(values.shape[1])[None, :] == index[:, None]
  return own - jnp.max(jnp.where(is_own, -jnp.inf, values), axis=1)


def objective(how: Program, scores: jax.Array, aims: jax.Array) -> jax.Array:
  """What the attacker raises, [N]."""
  if how.loss == 'cross_entropy':
    value = jnp.take_along_axis(log_average(scores), aims[:, None], axis=1)
    value = value[:, 0]
  else:
    value = margin(jnp.mean(scores, axis=0), aims)
  return value if how.targeted else -value


def input_gradient(
  how: Program, data: Inputs, x: jax.Array, key: jax.Array
) -> jax.Array:
  """Of the objective by the images: the examples do not meet in the sum."""

  def total(x):
    return jnp.sum(objective(how, logits_of(how, data, x, key), data.aims))

  return zero_if_not_finite(jax.grad(total)(x))


def zero_if_not_finite(gradient: jax.Array) -> jax.Array:
  """Entries that are not finite as 0: no direction can be read from them."""
  return jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def verdict(
  how: Program, data: Inputs, x: jax.Array, judge: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The attacker's lead in log probability [N], and the predictions [N]."""
  scores = logits_of(how, data, x, judge)
  lead = margin(log_average(scores), data.aims)
  found = jnp.argmax(jnp.mean(jax.nn.softmax(scores), axis=0), axis=1)
  return lead if how.targeted else -lead, found


def reached(how: Program, data: Inputs, found: jax.Array) -> jax.Array:
  """Whether predictions [N] are what the attacker wants."""
  return found == data.aims if how.targeted else found != data.aims


def per_pixel(values: jax.Array) -> jax.Array:
  """[N] as [N, 1, 1, 1]."""
  return values[:, None, None, None]


def measure(
  how: Program,
  data: Inputs,
  x: jax.Array,
  judge: jax.Array,
  gradient: jax.Array,
  exchange: bool = True,
) -> Attack:
  """Judges and measures; `exchange` may put clean images back."""
  # A loop of two: the network is compiled once, and draws the same noise.
  before, after = jax.lax.map(
    lambda each: verdict(how, data, each, judge)[1],
    jnp.stack([data.images, x]),
  )
  if exchange:
    put_back = reached(how, data, before) & ~reached(how, data, after)
    x = jnp.where(per_pixel(put_back), data.images, x)
    after = jnp.where(put_back, before, after)
  change = jnp.abs(x - data.images) / 2
  moved = jnp.any(change > L0_TOLERANCE, axis=3)
  return Attack(
    images=x,
    success=reached(how, data, after),
    correct_before=before == data.labels,
    correct_after=after == data.labels,
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
  if loss not in LOSSES:
    raise ValueError(f'loss must be one of {LOSSES}, got {loss!r}.')
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
  """A number that can be checked; None while it is traced."""
  return None if _traced(value) else float(value)


def checked_images(images: Array, name: str) -> jax.Array:
  """Images as float32 in [-1, 1]."""
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
    low, high = float(jnp.min(x)), float(jnp.max(x))
    if not (low >= -1 and high <= 1):
      raise ValueError(
        f'{name} of floats must be in [-1, 1], got values from {low:g} to '
        f'{high:g}.'
      )
  return x


def checked_classes(
  name: str, values: Array, shape: tuple[int, ...], classes: int
) -> jax.Array:
  """Class indices as int32."""
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
        f'{name} must be in 0..{classes - 1}, got {int(wrong[0])}.'
      )
  return jnp.asarray(values, jnp.int32)


def check_epsilon(epsilon: Any) -> None:
  """Raises ValueError unless 0 <= epsilon <= 1, where it is known."""
  value = known(epsilon)
  if value is not None and not 0 <= value <= 1:
    raise ValueError(
      f'epsilon must be in [0, 1], where 1 is the range of a pixel, got '
      f'{epsilon}.'
    )


def check_positive(name: str, number: Any) -> None:
  """Raises ValueError unless a number is > 0 and finite, where it is known."""
  value = known(number)
  if value is not None and not 0 < value < math.inf:
    raise ValueError(f'{name} must be > 0, got {number}.')


def check_count(name: str, number: int) -> None:
  """Raises ValueError unless a number is an int >= 1."""
  if isinstance(number, bool) or not isinstance(number, int) or number < 1:
    raise ValueError(f'{name} must be a whole number >= 1, got {number!r}.')
