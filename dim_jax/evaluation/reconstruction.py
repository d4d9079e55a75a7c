"""Reconstructions: how much of an image a decoder finds in frozen features.

The decoder is trained by squared error, and compared on images that it did not
see. An epoch is one scan, as evaluation knows no training.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dim_jax import checks, scale
from dim_jax.data import batches
from dim_jax.evaluation import ssim
from dim_jax.evaluation.probes import examples as examples_lib

_MOST_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """How a decoder is trained; the defaults are Deep InfoMax's."""

  epochs: int = 150
  """The paper tells no number."""
  decay_epochs: tuple[int, ...] = (50, 100)
  """The learning rate is multiplied by 0.1 at each."""
  learning_rate: float = 1e-4
  """Of Adam, b1 0.5 and b2 0.999."""
  batch_size: int = 64
  seed: int = 0

  def __post_init__(self):
    checks.check_fields(
      self,
      {
        'epochs': 'int [1, inf)',
        'learning_rate': '(0, inf)',
        'batch_size': 'int [2, inf)',
        'seed': 'int [0, 2**31)',
      },
    )


class Similarity(NamedTuple):
  """How alike images are, means over all.

  Attributes:
    squared_error: mean over pixels in [-1, 1], so at most 4.
    multiscale_ssim: see `ssim.multiscale_ssim`; of values of one `scales`
      alone.
    scales: how many of its five scales fit.
    dim_ssim: see `ssim.dim_ssim`.
  """

  squared_error: float
  multiscale_ssim: float
  scales: int
  dim_ssim: float


def fit(
  decoder: Any,
  features: np.ndarray,
  images: np.ndarray,
  settings: Settings,
  progress: Callable[[int], None] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
  """Trains a decoder on features, which are scaled by one number for all.

  Every epoch has a new order, and leaves its last partial batch out.

  Args:
    decoder: a module, `(features [N, D], train) -> images [N, H, W, C]` in
      [-1, 1], with batch statistics or without.
    features: float32, shape [n, D].
    images: uint8, shape [n, H, W, C].
    settings: of the training.
    progress: called with the number of epochs done after each.

  Returns:
    What reconstructs images: features [m, D] to uint8 [m, H, W, C].

  Raises:
    ValueError: rows and images do not match, or there are fewer than two.
    FloatingPointError: the loss is not finite.
  """
  n = len(images)
  if n < 2 or features.ndim != 2 or len(features) != n:
    raise ValueError(
      'a decoder is trained on features [n, D] and as many images, n >= 2, got '
      f'shapes {features.shape} and {images.shape}.'
    )
  size = min(settings.batch_size, n)
  steps = n // size
  boundaries = tuple(epoch * steps for epoch in settings.decay_epochs)
  init, run_epoch = _programs(decoder, settings.learning_rate, boundaries)
  shift, divisor = examples_lib.standardisation(features, 'overall')
  x = jnp.asarray(examples_lib.standardise(features, shift, divisor))
  # XLA compiles this generator in a second, and the default one in seven.
  state = init(jax.random.key(settings.seed, impl='rbg'), x[:2])
  pixels = jnp.asarray(images)
  for epoch in range(settings.epochs):
    order = np.random.default_rng([settings.seed, epoch]).permutation(n)
    order = order[: steps * size].reshape(steps, size).astype(np.int32)
    state, loss = run_epoch(state, x, pixels, order)
    if not np.isfinite(loss):
      raise FloatingPointError(
        f'the loss of the decoder is {loss} in epoch {epoch + 1}: lower the '
        f'learning rate, {settings.learning_rate:g}.'
      )
    if progress is not None:
      progress(epoch + 1)
  variables = state[0]

  def reconstruct(features: np.ndarray) -> np.ndarray:
    return batches.map_padded(
      lambda _, part: _decode(decoder, variables, part),
      _MOST_AT_ONCE,
      examples_lib.standardise(features, shift, divisor),
    )

  return reconstruct


@functools.lru_cache(maxsize=8)
def _programs(
  decoder: Any, learning_rate: float, boundaries: tuple[int, ...]
) -> tuple[Any, Any]:
  """Compiles the start, and an epoch."""
  schedule = optax.piecewise_constant_schedule(
    learning_rate, dict.fromkeys(boundaries, 0.1)
  )
  optimizer = optax.adam(schedule, b1=0.5, b2=0.999)

  @jax.jit
  def init(key, x):
    variables = decoder.init(key, x, train=False)
    return variables, optimizer.init(variables['params'])

  @functools.partial(jax.jit, donate_argnums=0)
  def run_epoch(state, x, images, order):
    def step(state, rows):
      variables, optimizer_state = state

      def loss(params):
        outputs, changed = decoder.apply(
          {**variables, 'params': params},
          x[rows],
          train=True,
          mutable=['batch_stats'],
        )
        return jnp.mean((outputs - scale.to_unit(images[rows])) ** 2), changed

      (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(
        variables['params']
      )
      updates, optimizer_state = optimizer.update(gradients, optimizer_state)
      params = optax.apply_updates(variables['params'], updates)
      return ({'params': params, **changed}, optimizer_state), value

    state, losses = jax.lax.scan(step, state, order)
    return state, jnp.mean(losses)

  return init, run_epoch


@functools.partial(jax.jit, static_argnums=0)
def _decode(decoder: Any, variables: Any, x: jax.Array) -> jax.Array:
  return scale.to_pixels(decoder.apply(variables, x, train=False))


def compare(images: np.ndarray, others: np.ndarray) -> Similarity:
  """Computes how alike pairs of images are.

  Args:
    images: uint8, shape [n, H, W, C], H and W at least 11.
    others: those that they are compared with, of the same shape.

  Returns:
    Means over the pairs.

  Raises:
    ValueError: the shapes differ or are too small.
  """
  # Outside of what is compiled, so that the message is of all images.
  scales = ssim.scales_for(*images.shape[1:3])
  values = batches.map_padded(
    lambda _, *parts: _similarities(*parts), _MOST_AT_ONCE, images, others
  )
  error, multiscale, single = (float(np.mean(x)) for x in values)
  return Similarity(error, multiscale, scales, single)


@jax.jit
def _similarities(
  images: jax.Array, others: jax.Array
) -> tuple[jax.Array, ...]:
  a, b = scale.to_unit(images), scale.to_unit(others)
  error = jnp.mean((a - b) ** 2, axis=(1, 2, 3))
  return error, ssim.multiscale_ssim(a, b, 2.0), ssim.dim_ssim(a, b)


def mean_image(images: np.ndarray) -> np.ndarray:
  """Computes the mean of images, the best guess without any features.

  Args:
    images: uint8, shape [n, H, W, C].

  Returns:
    uint8, shape [H, W, C].
  """
  return np.round(np.mean(images, axis=0, dtype=np.float64)).astype(np.uint8)
