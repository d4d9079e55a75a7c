"""Spectral norms of linear maps, and a penalty on those of weights."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def spectral_vectors(rng: jax.Array, params: Any) -> tuple[jax.Array, ...]:
  """Draws random starts of the power iterations of `spectral_penalty`.

  For each weight of two or more axes, in the order of `jax.tree.leaves`, a
  vector of its last axis; without such a weight it raises ValueError.
  """
  weights = _matrices(params)
  if not weights:
    raise ValueError(
      'params hold no weight of two or more axes, so no spectral norm.'
    )
  rngs = jax.random.split(rng, len(weights))
  return tuple(
    jax.random.normal(key, w.shape[1:])
    for key, w in zip(rngs, weights, strict=True)
  )


def spectral_penalty(
  params: Any, vectors: Sequence[jax.Array], *, iterations: int = 1
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  r"""Computes half the sum of the squared spectral norms of weights.

  Each weight [..., K] counts as the matrix [-1, K]. Its norm sigma = v'Wu comes
  from power iteration, with u and v taken as constants, so the gradient is
  sigma v u'. Biases, and the scales of normalisations, do not count: a network
  with batch normalisation has no bound on its slope by this. Nor is the norm of
  a reshaped convolution kernel that of the convolution: see `operator_norm`.

  Args:
    params: a network's parameters.
    vectors: those that the step before returned, or `spectral_vectors`.
    iterations: of the power method; one a step is enough where weights move
      slowly.

  Returns:
    The penalty, a scalar, and the vectors for the next step. Weigh it, by
    0.01 say, and add it to the loss.

  Raises:
    ValueError: the vectors are not those of such weights, or iterations < 1.

  References:
    Yoshida and Miyato, Spectral Norm Regularization for Improving the
    Generalizability of Deep Learning, 2017. https://arxiv.org/abs/1705.10941
  """
  weights = _matrices(params)
  if iterations < 1:
    raise ValueError(f'iterations must be >= 1, got {iterations}.')
  wanted = [w.shape[1:] for w in weights]
  if (given := [u.shape for u in vectors]) != wanted:
    raise ValueError(
      f'the weights need vectors of shapes {wanted}, got {given}: make them '
      'with spectral_vectors of the same parameters.'
    )
  total, updated = jnp.zeros(()), []
  for w, u in zip(weights, vectors, strict=True):
    u, v = _power_iteration(jax.lax.stop_gradient(w), u, iterations)
    total += jnp.square(v @ w @ u) / 2
    updated.append(u)
  return total, tuple(updated)


def operator_norm(
  linear: Callable[[jax.Array], jax.Array],
  vector: jax.Array,
  *,
  iterations: int = 100,
) -> tuple[jax.Array, jax.Array]:
  """Computes the spectral norm of a linear map, such as a convolution.

  The largest singular value, approached from below by power iteration with the
  map and its transpose. Of a convolution it depends on the images' size and on
  stride and padding, which the map has built in. The norm of the kernel as a
  matrix [-1, D], which spectral normalisation divides by, is another number: at
  stride 1 the convolution's is at most sqrt(positions in the window) times it,
  and with circular padding at least as large.

  Args:
    linear: the map, without a bias.
    vector: a random one that it takes, or the one that the call before
      returned, of any shape.
    iterations: of the method.

  Returns:
    The norm, a scalar, whose gradient by what `linear` closes over is that of
    sigma with the singular vectors as constants, which is exact where they have
    converged; and the right singular vector, of length 1, to start again from.

  Raises:
    ValueError: iterations < 1.

  References:
    Gouk et al., Regularisation of Neural Networks by Enforcing Lipschitz
    Continuity, 2018. https://arxiv.org/abs/1804.04368
    Tsuzuku, Sato and Sugiyama, Lipschitz-Margin Training, 2018, section 5.
    https://arxiv.org/abs/1802.04034
  """
  if iterations < 1:
    raise ValueError(f'iterations must be >= 1, got {iterations}.')
  # The map is its own derivative, wherever that is taken.
  _, transposed = jax.vjp(linear, vector)

  def iterate(_: int, u: jax.Array) -> jax.Array:
    return _unit(transposed(_unit(linear(u)))[0])

  # In `shard_map` a loop's first values must vary over devices as its last do.
  u = vector + jnp.zeros_like(transposed(linear(vector))[0])
  u = jax.lax.fori_loop(0, iterations, iterate, u)
  u = jax.lax.stop_gradient(u)
  output = linear(u)
  return jnp.sum(_unit(jax.lax.stop_gradient(output)) * output), u


def circular_convolution_norm(
  kernel: jax.Array, size: tuple[int, int]
) -> jax.Array:
  """Computes the exact spectral norm of a convolution on a torus, by FFT.

  With circular padding and stride 1 each frequency has a matrix of its own from
  input to output channels, and the norm is the largest of theirs. Zero padding
  lowers it a little: of the same kernel it is at most this on images that are
  larger by the window's size less 1.

  Args:
    kernel: [K, K', C, D].
    size: height and width of the images, at least those of the kernel.

  Returns:
    A scalar, with a gradient.

  Raises:
    ValueError: the kernel is larger than the images.

  References:
    Sedghi, Gupta and Long, The Singular Values of Convolutional Layers, 2019,
    theorem 6. https://arxiv.org/abs/1805.10408
  """
  if kernel.ndim != 4 or any(
    k > n for k, n in zip(kernel.shape[:2], size, strict=True)
  ):
    raise ValueError(
      "a convolution on a torus takes a kernel [K, K', C, D] that is no larger "
      f'than the images of {size[0]}x{size[1]}, got shape {kernel.shape}.'
    )
  matrices = jnp.fft.fft2(kernel, size, axes=(0, 1))
  return jnp.max(jnp.linalg.svd(matrices, compute_uv=False))


def _matrices(params: Any) -> list[jax.Array]:
  """Returns the weights of two or more axes, as matrices [-1, K]."""
  return [
    w.reshape(-1, w.shape[-1]) for w in jax.tree.leaves(params) if w.ndim > 1
  ]


def _power_iteration(
  w: jax.Array, u: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the right and left singular vectors of w [n, K]."""
  # In `shard_map` a loop's first values must vary over devices as its last do.
  u += jnp.zeros_like(w[0])
  u = jax.lax.fori_loop(0, iterations, lambda _, u: _unit(_unit(w @ u) @ w), u)
  return u, _unit(w @ u)


def _unit(x: jax.Array) -> jax.Array:
  """Scales a vector, of any shape, to length 1; zero stays zero."""
  norm = jnp.linalg.norm(x.reshape(-1))
  return x / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
