"""Adversarial attacks on classifiers that may predict by sampling.

A classifier is a function `logits(variables, images, rng) -> [S, N, C]` of S
posterior samples, S = 1 for a deterministic one; images are float32 in [-1, 1].
Its prediction averages the samples' probabilities and takes the argmax.

Units: every epsilon, step size and norm here is in pixels that run from 0 to 1,
so an epsilon of 0.1 moves an image in [-1, 1] by 0.2. Images are taken as uint8
or float in [-1, 1] and returned as float32 in [-1, 1], never outside.

A random network can look robust because its attacker is blind. So every step's
gradient is that of all S samples at once, with fresh noise (expectation over
transformations); the margin loss does not saturate where probabilities do; an
attack reports the examples that gave it no gradient; and `transfer` tries
examples that were made on another model.

Who judges: `rng` is split in two. The first half, `jax.random.split(rng)[0]`,
is the judge's noise: S samples that no gradient ever sees, the same for the
clean image, for every candidate of the search and for the image returned. So
`correct_before` and `success` differ by the perturbation alone (at epsilon 0
they agree exactly), and both can be computed again. The search may still
exploit these S samples: `replay` with another `rng` shows by how much. An
attacker may also leave an image alone: where the clean image already succeeds
and the perturbed one does not, the clean image is returned.

Obfuscated gradients: Athalye, Carlini and Wagner, 2018.
https://arxiv.org/abs/1802.00420
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Logits = Callable[[Any, jax.Array, jax.Array], jax.Array]
Array = jax.Array | np.ndarray

LOSSES = ('cross_entropy', 'margin')
# Half a grey level: what rounding to 8 bits would undo is no changed pixel.
L0_TOLERANCE = 0.5 / 255
# arctanh is infinite at the ends of the range, where black and white pixels
# are. float32 is still 16 times finer than this there.
_INSIDE = 1 - 1e-6


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


class _How(NamedTuple):
  """What selects a compiled program; hashable."""

  logits: Logits
  loss: str
  targeted: bool


class _Data(NamedTuple):
  """What that program takes."""

  variables: Any
  images: jax.Array
  """float32 in [-1, 1], [N, H, W, C]."""
  labels: jax.Array
  """int32 [N]."""
  aims: jax.Array
  """The classes to reach if targeted, to leave if not, int32 [N]."""


def input_gradient(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  *,
  loss: str = 'cross_entropy',
  targets: Array | None = None,
) -> jax.Array:
  """The direction in which attacks move, for each image.

  The gradient of what the attacker raises, through all S samples at once:

  - 'cross_entropy': minus the log of the averaged probability of the label,
    computed in log space; it vanishes where a network is sure beyond float32.
  - 'margin': the largest other logit minus the label's, of logits averaged over
    samples. Its gradient is the mean of the samples' own; it never saturates.

  With targets both are negated and taken at the target: the log probability of
  the target, and the target's lead over the largest other logit.

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: the key that the classifier samples with.
    loss: 'cross_entropy' or 'margin'.
    targets: classes to reach, none its label, [N]; None attacks untargeted.

  Returns:
    float32 [N, H, W, C], per unit of an image in [-1, 1]. Entries that are not
    finite are 0: no direction can be read from them.

  Raises:
    ValueError: an argument is not as above.
  """
  how, data = _prepare(logits, variables, images, labels, rng, loss, targets)
  return _input_gradient(how, data, rng)


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
    loss: 'cross_entropy' or 'margin', see `input_gradient`.
    targets: classes to reach, none its label, [N]; None attacks untargeted.

  Returns:
    What it did to each image.

  Raises:
    ValueError: an argument is not as above.

  References:
    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
    examples", 2015, https://arxiv.org/abs/1412.6572
  """
  _check_epsilon(epsilon)
  how, data = _prepare(logits, variables, images, labels, rng, loss, targets)
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
    loss: 'cross_entropy' or 'margin', see `input_gradient`.
    targets: classes to reach, none its label, [N]; None attacks untargeted.

  Returns:
    What it did to each image.

  Raises:
    ValueError: an argument is not as above.

  References:
    Madry et al., "Towards deep learning models resistant to adversarial
    attacks", 2018, https://arxiv.org/abs/1706.06083
  """
  _check_epsilon(epsilon)
  _check_count('steps', steps)
  _check_count('restarts', restarts)
  if step_size is None:
    step_size = 2.5 * epsilon / steps
  else:
    _check_positive('step_size', step_size)
  how, data = _prepare(logits, variables, images, labels, rng, loss, targets)
  return _pgd(
    how,
    steps,
    restarts,
    data,
    rng,
    jnp.asarray(epsilon, jnp.float32),
    jnp.asarray(step_size, jnp.float32),
  )


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
  is minus the 'margin' of `input_gradient` while the averaged prediction of the
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
  _check_count('steps', steps)
  _check_count('search_steps', search_steps)
  _check_positive('learning_rate', learning_rate)
  _check_positive('initial_c', initial_c)
  if (value := _known(confidence)) is not None and not 0 <= value < math.inf:
    raise ValueError(f'confidence must be >= 0, got {confidence}.')
  how, data = _prepare(
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
  """Judges given adversarial images as an attack on this classifier.

  For images made on another model (black box), or on this one with other noise.
  They are judged as they are: none is exchanged for its clean image.

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`.
    variables: what it needs.
    images: the clean ones, uint8 or float in [-1, 1], [N, H, W, C].
    labels: true classes, integers in 0..C-1, [N].
    rng: split into the judge's and the gradient's noise, see the module.
    adversarial: their perturbed versions, of the same shape.
    loss: the loss of `zero_gradients`: 'cross_entropy' or 'margin'.
    targets: classes to reach, none its label, [N]; None if untargeted.

  Returns:
    The attack, with this classifier's predictions and gradients.

  Raises:
    ValueError: an argument is not as above.
  """
  how, data = _prepare(logits, variables, images, labels, rng, loss, targets)
  adversarial = _checked_images(adversarial, 'adversarial')
  if adversarial.shape != data.images.shape:
    raise ValueError(
      f'adversarial must have the shape of images, {data.images.shape}, got '
      f'{adversarial.shape}.'
    )
  return _replay(how, data, rng, adversarial)


def transfer(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  *,
  batch_size: int = 250,
) -> float:
  """Accuracy on adversarial examples that were made on another model.

  The check without gradients: a model on which white-box attacks do worse than
  this hides its gradients. `replay` gives the norms too.

  Args:
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`.
    variables: what it needs.
    images: the surrogate attack's images, uint8 or float in [-1, 1],
      [n, H, W, C].
    labels: true classes, integers in 0..C-1, [n].
    rng: batch i is judged with the first half of `fold_in(rng, i)`.
    batch_size: images in one dispatch.

  Returns:
    The share of right predictions, in per cent.

  Raises:
    ValueError: an argument is not as above.
  """
  rows = {'images': np.asarray(images), 'labels': np.asarray(labels)}
  right = []
  for i, done, part in _batches(rows, batch_size):
    key = jax.random.fold_in(rng, i)
    how, data = _prepare(logits, variables, part['images'], part['labels'], key)
    right.append(np.asarray(_right(how, data, key))[:done])
  return 100 * float(np.mean(np.concatenate(right)))


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

  The last batch is padded by repeating its last example, and the padding cut
  off again: one compilation, and no example dropped.

  Args:
    attack: `fgsm`, `pgd`, `carlini_wagner` or `replay`.
    logits: the classifier, `(variables, images, rng) -> [S, N, C]`.
    variables: what it needs.
    images: uint8, or float in [-1, 1], [n, H, W, C].
    labels: true classes, integers in 0..C-1, [n].
    rng: batch i gets `fold_in(rng, i)`.
    batch_size: images in one dispatch.
    targets: classes to reach, none its label, [n]; None attacks untargeted.
    adversarial: for `replay`, [n, H, W, C].
    progress: called with the number of images done after each batch.
    **settings: the attack's own, such as epsilon.

  Returns:
    The attack on all images, as NumPy arrays in their order.

  Raises:
    ValueError: an argument is not as above.
  """
  rows = {'images': np.asarray(images), 'labels': np.asarray(labels)}
  for name, given in (('targets', targets), ('adversarial', adversarial)):
    if given is not None:
      rows[name] = np.asarray(given)
  parts: list[Attack] = []
  total = 0
  for i, done, part in _batches(rows, batch_size):
    key = jax.random.fold_in(rng, i)
    found = attack(logits, variables, rng=key, **part, **settings)
    parts.append(Attack(*(np.asarray(x)[:done] for x in found)))
    total += done
    if progress is not None:
      progress(total)
  return Attack(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def random_targets(rng: jax.Array, labels: Array, classes: int) -> jax.Array:
  """A class for each label, uniform over all but the label itself.

  Args:
    rng: the key.
    labels: integers in 0..classes-1, [N].
    classes: how many there are, at least 2.

  Returns:
    int32 [N].

  Raises:
    ValueError: an argument is not as above.
  """
  if classes < 2:
    raise ValueError(f'A target needs classes >= 2, got {classes}.')
  labels = _checked_classes('labels', labels, np.shape(labels)[:1], classes)
  shift = jax.random.randint(rng, labels.shape, 1, classes)
  return (labels + shift) % classes


def summary(attack: Attack) -> dict[str, float | int | None]:
  """The attack in numbers.

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


# ---- Programs ----


@functools.partial(jax.jit, static_argnums=0)
def _input_gradient(how: _How, data: _Data, rng: jax.Array) -> jax.Array:
  return _gradient(how, data, data.images, rng)


@functools.partial(jax.jit, static_argnums=0)
def _fgsm(how: _How, data: _Data, rng: jax.Array, epsilon: jax.Array) -> Attack:
  judge, noise = jax.random.split(rng)
  gradient = _gradient(how, data, data.images, noise)
  moved = data.images + 2 * epsilon * jnp.sign(gradient)
  return _attack(how, data, jnp.clip(moved, -1, 1), judge, gradient)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pgd(
  how: _How,
  steps: int,
  restarts: int,
  data: _Data,
  rng: jax.Array,
  epsilon: jax.Array,
  step_size: jax.Array,
) -> Attack:
  judge, noise = jax.random.split(rng)
  low = jnp.maximum(data.images - 2 * epsilon, -1)
  high = jnp.minimum(data.images + 2 * epsilon, 1)

  def step(carry, key):
    x, best, best_lead = carry
    direction = jnp.sign(_gradient(how, data, x, key))
    x = jnp.clip(x + 2 * step_size * direction, low, high)
    lead, _ = _verdict(how, data, x, judge)
    better = lead > best_lead
    best = jnp.where(_spread(better), x, best)
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
  gradient = _gradient(how, data, data.images, clean)
  return _attack(how, data, best, judge, gradient)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _carlini_wagner(
  how: _How,
  steps: int,
  search_steps: int,
  data: _Data,
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
    lead, found = _verdict(how, data, x, judge)
    return _reached(how, data, found) & (lead >= confidence)

  def cost(w, c, key):
    x = jnp.tanh(w)
    scores = _scores(how, data, x, key)
    sign = 1 if how.targeted else -1
    short = sign * _lead(_log_average(scores), data.aims) < confidence
    f = jnp.where(short, -_objective(how, scores, data.aims), 0.0)
    return jnp.sum(square(x) + c * f)

  def step(carry, inputs):
    w, state, reached, best, least, c = carry
    gradient = _finite(jax.grad(cost)(w, c, inputs))
    updates, state = optimizer.update(gradient, state, w)
    w = optax.apply_updates(w, updates)
    x = jnp.tanh(w)
    success, distance = reaches(x), square(x)
    nearer = success & (distance < least)
    best = jnp.where(_spread(nearer), x, best)
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
  gradient = _gradient(how, data, data.images, clean)
  return _attack(how, data, best, judge, gradient)


@functools.partial(jax.jit, static_argnums=0)
def _replay(
  how: _How, data: _Data, rng: jax.Array, adversarial: jax.Array
) -> Attack:
  judge, noise = jax.random.split(rng)
  gradient = _gradient(how, data, data.images, noise)
  return _attack(how, data, adversarial, judge, gradient, exchange=False)


@functools.partial(jax.jit, static_argnums=0)
def _right(how: _How, data: _Data, rng: jax.Array) -> jax.Array:
  """Which predictions are right; takes no gradient, so needs none."""
  judge, _ = jax.random.split(rng)
  return _verdict(how, data, data.images, judge)[1] == data.labels


# ---- Their parts ----


def _scores(how: _How, data: _Data, x: jax.Array, key: jax.Array) -> jax.Array:
  """Logits [S, N, C], float32."""
  return how.logits(data.variables, x, key).astype(jnp.float32)


def _log_average(scores: jax.Array) -> jax.Array:
  """Log of the averaged probabilities [N, C]."""
  total = jax.nn.logsumexp(jax.nn.log_softmax(scores), axis=0)
  return total - math.log(scores.shape[0])


def _lead(values: jax.Array, index: jax.Array) -> jax.Array:
  """How far the value at the index is above the largest other, [N]."""
  own = jnp.take_along_axis(values, index[:, None], axis=1)[:, 0]
  is_own = jnp.arange(values.shape[1])[None, :] == index[:, None]
  return own - jnp.max(jnp.where(is_own, -jnp.inf, values), axis=1)


def _objective(how: _How, scores: jax.Array, aims: jax.Array) -> jax.Array:
  """What the attacker raises, [N]."""
  if how.loss == 'cross_entropy':
    value = jnp.take_along_axis(_log_average(scores), aims[:, None], axis=1)
    value = value[:, 0]
  else:
    value = _lead(jnp.mean(scores, axis=0), aims)
  return value if how.targeted else -value


def _gradient(
  how: _How, data: _Data, x: jax.Array, key: jax.Array
) -> jax.Array:
  """Of the objective by the images: the examples do not meet in the sum."""

  def total(x):
    return jnp.sum(_objective(how, _scores(how, data, x, key), data.aims))

  return _finite(jax.grad(total)(x))


def _finite(gradient: jax.Array) -> jax.Array:
  return jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def _verdict(
  how: _How, data: _Data, x: jax.Array, judge: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The attacker's lead in log probability [N], and the predictions [N]."""
  scores = _scores(how, data, x, judge)
  lead = _lead(_log_average(scores), data.aims)
  found = jnp.argmax(jnp.mean(jax.nn.softmax(scores), axis=0), axis=1)
  return lead if how.targeted else -lead, found


def _reached(how: _How, data: _Data, found: jax.Array) -> jax.Array:
  return found == data.aims if how.targeted else found != data.aims


def _spread(values: jax.Array) -> jax.Array:
  """[N] as [N, 1, 1, 1]."""
  return values[:, None, None, None]


def _attack(
  how: _How,
  data: _Data,
  x: jax.Array,
  judge: jax.Array,
  gradient: jax.Array,
  exchange: bool = True,
) -> Attack:
  """Judges and measures; `exchange` may put clean images back."""
  # A loop of two: the network is compiled once, and draws the same noise.
  before, after = jax.lax.map(
    lambda each: _verdict(how, data, each, judge)[1],
    jnp.stack([data.images, x]),
  )
  if exchange:
    put_back = _reached(how, data, before) & ~_reached(how, data, after)
    x = jnp.where(_spread(put_back), data.images, x)
    after = jnp.where(put_back, before, after)
  change = jnp.abs(x - data.images) / 2
  moved = jnp.any(change > L0_TOLERANCE, axis=3)
  return Attack(
    images=x,
    success=_reached(how, data, after),
    correct_before=before == data.labels,
    correct_after=after == data.labels,
    l0=jnp.sum(moved, axis=(1, 2), dtype=jnp.float32),
    l2=jnp.sqrt(jnp.sum(jnp.square(change), axis=(1, 2, 3))),
    linf=jnp.max(change, axis=(1, 2, 3)),
    zero_gradients=jnp.all(gradient == 0, axis=(1, 2, 3)),
  )


# ---- Arguments ----


def _prepare(
  logits: Logits,
  variables: Any,
  images: Array,
  labels: Array,
  rng: jax.Array,
  loss: str = 'cross_entropy',
  targets: Array | None = None,
) -> tuple[_How, _Data]:
  if loss not in LOSSES:
    raise ValueError(f'loss must be one of {LOSSES}, got {loss!r}.')
  x = _checked_images(images, 'images')
  shape = jax.eval_shape(logits, variables, x, rng).shape
  if len(shape) != 3 or shape[1] != len(x) or not shape[0] or shape[2] < 2:
    raise ValueError(
      f'logits must return [S, N, C] with S >= 1, N = {len(x)} images and '
      f'C >= 2 classes, got shape {shape}.'
    )
  labels = _checked_classes('labels', labels, x.shape[:1], shape[2])
  if targets is None:
    return _How(logits, loss, False), _Data(variables, x, labels, labels)
  targets = _checked_classes('targets', targets, x.shape[:1], shape[2])
  if not _traced(labels, targets):
    same = np.flatnonzero(np.asarray(labels) == np.asarray(targets))
    if same.size:
      raise ValueError(
        f'A target must differ from its label; example {same[0]} has '
        f'{int(labels[same[0]])} for both.'
      )
  return _How(logits, loss, True), _Data(variables, x, labels, targets)


def _batches(
  rows: dict[str, np.ndarray], batch_size: int
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
  """(index, rows that are real, rows) of batches of one size."""
  _check_count('batch_size', batch_size)
  n = len(rows['images']) if rows['images'].ndim else 0
  for name, values in rows.items():
    if values.shape[:1] != (n,) or not n:
      raise ValueError(
        f'images and {name} must have as many rows, at least 1, got shapes '
        f'{rows["images"].shape} and {values.shape}.'
      )
  size = min(batch_size, n)
  for i, start in enumerate(range(0, n, size)):
    # Beyond the end, the last row again.
    taken = np.minimum(np.arange(start, start + size), n - 1)
    part = {name: values[taken] for name, values in rows.items()}
    yield i, min(size, n - start), part


def _traced(*values: Any) -> bool:
  return any(isinstance(value, jax.core.Tracer) for value in values)


def _known(value: Any) -> float | None:
  """A number that can be checked; None while it is traced."""
  return None if _traced(value) else float(value)


def _checked_images(images: Array, name: str) -> jax.Array:
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
      return jnp.asarray(np.asarray(images).astype(np.float32) / 127.5 - 1)
    return jnp.clip(images.astype(jnp.float32) / 127.5 - 1, -1, 1)
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


def _checked_classes(
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


def _check_epsilon(epsilon: Any) -> None:
  value = _known(epsilon)
  if value is not None and not 0 <= value <= 1:
    raise ValueError(
      f'epsilon must be in [0, 1], where 1 is the range of a pixel, got '
      f'{epsilon}.'
    )


def _check_positive(name: str, number: Any) -> None:
  value = _known(number)
  if value is not None and not 0 < value < math.inf:
    raise ValueError(f'{name} must be > 0, got {number}.')


def _check_count(name: str, number: int) -> None:
  if isinstance(number, bool) or not isinstance(number, int) or number < 1:
    raise ValueError(f'{name} must be a whole number >= 1, got {number!r}.')
