"""Attacks on any number of images, attacks made elsewhere, and summaries."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dim_jax import checks
from dim_jax.data import batches
from dim_jax.evaluation.attacks import attack as attack_lib
from dim_jax.evaluation.attacks.attack import Array, Attack, Logits


def replay(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  *,
  adversarial: Array,
  loss: str = 'cross_entropy',
  targets: Array | None = None,
) -> Attack:
  """Evaluates adversarial images as an attack on this classifier.

  For images made on another model (black box), or on this one with other noise.
  They are evaluated as they are: none is exchanged for its clean image.

  `adversarial` has the shape of `images`; the loss is that whose gradient
  `zero_gradients` tells of. The other arguments are those of the package.
  """
  problem = attack_lib.prepare(
    logits, variables, images, labels, rng, loss, targets
  )
  adversarial = attack_lib.checked_images(adversarial, 'adversarial')
  if adversarial.shape != problem.images.shape:
    raise ValueError(
      f'adversarial must have the shape of images, {problem.images.shape}, got '
      f'{adversarial.shape}.'
    )
  return _replay(problem, rng, adversarial)


@jax.jit
def _replay(
  problem: attack_lib.Problem, rng: jax.Array, adversarial: jax.Array
) -> Attack:
  evaluation_noise, noise = jax.random.split(rng)
  gradient = problem.gradient(problem.images, noise)
  return problem.measure(
    adversarial, evaluation_noise, gradient, exchange=False
  )


def in_batches(
  attack: Callable[..., Attack],
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  *,
  batch_size: int = 250,
  targets: Array | None = None,
  adversarial: Array | None = None,
  progress: Callable[[int], None] | None = None,
  **settings: Any,
) -> Attack:
  """Runs an attack on many images, in batches of one size.

  The last batch is padded with the first example, and the padding cut off
  again: one compilation, and no example dropped. Beside the arguments of the
  package and those of the attack:

  - attack: `fgsm`, `pgd`, `carlini_wagner` or `replay`.
  - rng: batch i gets `fold_in(rng, i)`.
  - batch_size: images in one dispatch.
  - progress: called with the number of images done after each batch.

  Returns:
    The attack on all images, as NumPy arrays in their order.
  """
  rows = {'images': np.asarray(images), 'labels': np.asarray(labels)}
  for name, given in (('targets', targets), ('adversarial', adversarial)):
    if given is not None:
      rows[name] = np.asarray(given)
  n = len(rows['images']) if rows['images'].ndim else 0
  for name, values in rows.items():
    if values.shape[:1] != (n,) or not n:
      raise ValueError(
        f'images and {name} must have as many rows, at least 1, got shapes '
        f'{rows["images"].shape} and {values.shape}.'
      )

  def run(i: int, index: np.ndarray) -> Attack:
    part = {name: values[index] for name, values in rows.items()}
    key = jax.random.fold_in(rng, i)
    return attack(logits, variables, rng=key, **part, **settings)

  return batches.map_padded(run, batch_size, np.arange(n), progress=progress)


def random_targets(rng: jax.Array, labels: Array, classes: int) -> jax.Array:
  """Draws a class for each label, uniform over all but the label itself.

  Args:
    rng: the key.
    labels: integers in 0..classes-1, [N].
    classes: how many there are, at least 2.

  Returns:
    int32 [N].

  Raises:
    ValueError: an argument is not as above.
  """
  checks.check_range('classes', classes, 'int [2, inf)')
  labels = attack_lib.checked_classes('labels', labels, len(labels), classes)
  shift = jax.random.randint(rng, labels.shape, 1, classes)
  return (labels + shift) % classes


def summary(attack: Attack) -> dict[str, float | int | None]:
  """Summarises an attack in numbers.

  Args:
    attack: what an attack returned.

  Returns:
    'examples', how many; 'accuracy_before' and 'accuracy', the per cent of all
    of them that are predicted right before and after (what was wrong before and
    still is counts against the accuracy); 'success', the per cent that
    succeeded of those that were right before; 'l0', 'l2' and 'linf', means over
    exactly these successes, in [0, 1] pixels; 'zero_gradients', the fraction of
    all examples that gave the attack no gradient. A mean over nothing is None.

  Raises:
    ValueError: the attack has no examples.
  """
  before = np.asarray(attack.correct_before)
  if not before.size:
    raise ValueError('The attack has no examples; it needs at least 1.')
  turned = before & np.asarray(attack.success)

  def mean(values: Array, where: np.ndarray) -> float | None:
    kept = np.asarray(values, np.float64)[where]
    return float(kept.mean()) if kept.size else None

  succeeded = mean(turned, before)
  return {
    'examples': before.size,
    'accuracy_before': 100 * float(before.mean()),
    'accuracy': 100 * float(np.mean(np.asarray(attack.correct_after))),
    'success': None if succeeded is None else 100 * succeeded,
    'l0': mean(attack.l0, turned),
    'l2': mean(attack.l2, turned),
    'linf': mean(attack.linf, turned),
    'zero_gradients': float(np.mean(np.asarray(attack.zero_gradients))),
  }
