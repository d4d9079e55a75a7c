"""What all attacks share: gradients, predictions, distances, checks.

No library that is maintained attacks JAX classifiers, let alone ones that
sample; hence these are ours, held against closed forms by tests.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks, scale
from dim_jax.evaluation import calibration

Logits = Callable[[Any, jax.Array, jax.Array], jax.Array]
Array = jax.Array | np.ndarray

LOSSES = ('cross_entropy', 'margin')
# Half a grey level: what rounding to 8 bits would undo is no changed pixel.
L0_TOLERANCE = 0.5 / 255


class Attack(NamedTuple):
  """What an attack did to each of N examples; all but the images are [N].

  Attributes:
    images: the adversarial images, float32 in [-1, 1], [N, H, W, C].
    success: whether the prediction of `images` is the target, or without
      targets, not the label; it includes what was wrong before.
    correct_before: whether the clean image is predicted right.
    correct_after: whether the adversarial image is.
    l0: how many pixels any channel of which moved by more than `L0_TOLERANCE`.
    l2: Euclidean norm of the perturbation over pixels and channels.
    linf: its largest absolute value.
    zero_gradients: whether the attack was blind: the gradient of its loss at
      the clean image has no finite entry but exact zeros, or, see
      `carlini_wagner`, it failed with pixels that it could not move. A failed
      attack shows nothing about robustness there.
  """

  images: Array
  success: Array
  correct_before: Array
  correct_after: Array
  l0: Array
  l2: Array
  linf: Array
  zero_gradients: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """A classifier, the images to attack, and what counts as a success.

  A program is compiled once for each classifier, loss, and whether there are
  targets.
  """

  logits: Logits = dataclasses.field(metadata={'static': True})
  loss: str = dataclasses.field(metadata={'static': True})
  targeted: bool = dataclasses.field(metadata={'static': True})
  variables: Any
  images: jax.Array
  """float32 in [-1, 1], [N, H, W, C]."""
  labels: jax.Array
  """int32 [N]."""
  classes: jax.Array
  """The classes to reach if targeted, to leave if not, int32 [N]."""

  def scores(self, x: jax.Array, key: jax.Array) -> jax.Array:
    """Computes logits [S, N, C], float32."""
    return self.logits(self.variables, x, key).astype(jnp.float32)

  def lead(self, scores: jax.Array) -> jax.Array:
    """Computes how far the attacker leads in log probability, [N]."""
    lead = _margin(_log_average(scores), self.classes)
    return lead if self.targeted else -lead

  def objective(self, scores: jax.Array) -> jax.Array:
    """Computes what the attacker raises, [N]."""
    if self.loss == 'cross_entropy':
      index = self.classes[:, None]
      value = jnp.take_along_axis(_log_average(scores), index, axis=1)[:, 0]
    else:
      value = _margin(jnp.mean(scores, axis=0), self.classes)
    return value if self.targeted else -value

  def gradient(self, x: jax.Array, key: jax.Array) -> jax.Array:
    """Differentiates the objective by the images, each on its own."""

    def total(x):
      return jnp.sum(self.objective(self.scores(x, key)))

    return zero_if_not_finite(jax.grad(total)(x))

  def evaluate(
    self, x: jax.Array, noise: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes leads, predictions, and whether the attacker wants these."""
    scores = self.scores(x, noise)
    predictions = jnp.argmax(jnp.mean(jax.nn.softmax(scores), axis=0), axis=1)
    reached = (predictions == self.classes) == self.targeted
    return self.lead(scores), predictions, reached

  def measure(
    self,
    x: jax.Array,
    noise: jax.Array,
    gradient: jax.Array,
    exchange: bool = True,
  ) -> Attack:
    """Evaluates and measures; `exchange` may put clean images back."""
    # A loop of two: the network is compiled once, and draws the same noise.
    _, (before, after), (was_reached, reached) = jax.lax.map(
      lambda each: self.evaluate(each, noise), jnp.stack([self.images, x])
    )
    if exchange:
      put_back = was_reached & ~reached
      x = jnp.where(per_pixel(put_back), self.images, x)
      after = jnp.where(put_back, before, after)
      reached |= put_back
    change = jnp.abs(x - self.images) / 2
    moved = jnp.any(change > L0_TOLERANCE, axis=3)
    return Attack(
      images=x,
      success=reached,
      correct_before=before == self.labels,
      correct_after=after == self.labels,
      l0=jnp.sum(moved, axis=(1, 2), dtype=jnp.float32),
      l2=jnp.sqrt(jnp.sum(jnp.square(change), axis=(1, 2, 3))),
      linf=jnp.max(change, axis=(1, 2, 3)),
      zero_gradients=jnp.all(gradient == 0, axis=(1, 2, 3)),
    )


def _log_average(scores: jax.Array) -> jax.Array:
  """Computes the log of the averaged probabilities [N, C]."""
  total = jax.nn.logsumexp(jax.nn.log_softmax(scores), axis=0)
  return total - math.log(scores.shape[0])


def _margin(values: jax.Array, index: jax.Array) -> jax.Array:
  """Computes how far the value at the index is above the others, [N]."""
  own = jnp.take_along_axis(values, index[:, None], axis=1)[:, 0]
  is_own = jnp.arange(values.shape[1])[None, :] == index[:, None]
  return own - jnp.max(jnp.where(is_own, -jnp.inf, values), axis=1)


def zero_if_not_finite(gradient: jax.Array) -> jax.Array:
  """Replaces what is not finite: no direction can be read from it."""
  return jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def per_pixel(values: jax.Array) -> jax.Array:
  """Reshapes [N] to [N, 1, 1, 1]."""
  return values[:, None, None, None]


def prepare(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  loss: str = 'cross_entropy',
  targets: Array | None = None,
) -> Problem:
  """Checks an attack's arguments, and makes its problem of them."""
  checks.check_choice('loss', loss, LOSSES)
  x = checked_images(images, 'images')
  shape = jax.eval_shape(logits, variables, x, rng).shape
  if len(shape) != 3 or shape[1] != len(x) or not shape[0] or shape[2] < 2:
    raise ValueError(
      f'logits must return [S, N, C] with S >= 1, N = {len(x)} images and '
      f'C >= 2 classes, got shape {shape}.'
    )
  labels = classes = checked_classes('labels', labels, *shape[1:])
  if targets is not None:
    classes = checked_classes('targets', targets, *shape[1:])
    if not _traced(labels, classes):
      same = np.flatnonzero(np.asarray(labels) == np.asarray(classes))
      if same.size:
        raise ValueError(
          f'A target must differ from its label; example {same[0]} has '
          f'{int(labels[same[0]])} for both.'
        )
  return Problem(
    logits=logits,
    loss=loss,
    targeted=targets is not None,
    variables=variables,
    images=x,
    labels=labels,
    classes=classes,
  )


def _traced(*values: Any) -> bool:
  return any(isinstance(value, jax.core.Tracer) for value in values)


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
    if wrong := int(jnp.sum(~(jnp.abs(x) <= 1))):
      raise ValueError(
        f'{name} of floats must be in [-1, 1], got values from '
        f'{float(jnp.min(x)):g} to {float(jnp.max(x)):g}: {wrong} of {x.size} '
        'are outside or NaN.'
      )
  return x


def checked_classes(
  name: str, values: Array, n: int, classes: int
) -> jax.Array:
  """Returns n class indices as int32."""
  if not _traced(values):
    # Before the cast, which would wrap large numbers around.
    values = calibration.check_labels(values, n, classes, name)
  return jnp.asarray(values, jnp.int32)


def check_number(name: str, number: Any, interval: str) -> None:
  """Checks a number unless it is traced, see `checks.check_range`."""
  if not _traced(number):
    checks.check_range(name, float(number), interval)
