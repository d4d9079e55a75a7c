r"""Energies: `energy(x) -> f [N]`, the logarithm of an unnormalised density.

f is minus the energy, so that p(x) = exp(f(x)) / Z and the score is the
gradient of f at x. Inputs are points [N, D] or images [N, H, W, C]; f is
float32, and its rows are independent of each other: nothing normalises over the
batch, and activations are smooth, as chains follow the gradient. `features`
maps the same inputs to what kernels compare, [N, F] (`module.apply(variables,
x, method='features')`).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import generators, layers

MAX_HIDDEN = 20
# States of the hidden units that are enumerated at a time.
BLOCK = 2**14
# Added below the roots of a residual's norms, so that their gradients stay
# bounded where the reconstruction is exact; an image's norms are about 1 to
# 100.
SOFTENING = 1e-3


class MLPEnergy(nn.Module):
  """Fully connected layers on points, or on flattened images.

  Attributes:
    units: sizes of the hidden layers.
    base_std: f has the term -||x||^2 / (2 base_std^2). The layers grow linearly
      at most, so with it exp(f) has an integral whatever they learn, and
      chains come back; None leaves it out.
  """

  units: Sequence[int] = (128, 128)
  base_std: float | None = 10.0

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns f [N] of x [N, ...]."""
    f, _ = self._run(x)
    return f

  def features(self, x: jax.Array) -> jax.Array:
    """Returns the last hidden layer [N, F] of x [N, ...]."""
    _, hidden = self._run(x)
    return hidden

  @nn.compact
  def _run(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = _flatten(x)
    hidden = x
    for i, units in enumerate(self.units):
      hidden = layers.Dense(
        units, kernel_init=nn.initializers.he_normal(), name=f'hidden_{i}'
      )(hidden)
      hidden = nn.swish(hidden)
    f = layers.Dense(
      1, kernel_init=nn.initializers.lecun_normal(), name='output'
    )(hidden)[:, 0]
    if self.base_std is not None:
      f -= jnp.square(x).sum(1) / (2 * self.base_std**2)
    return f, hidden


class AutoencoderEnergy(nn.Module):
  r"""How well a small convolutional auto-encoder copies an image.

  .. math:: -f(x) = \sqrt{\|r\|_1} + \|r\|_2, \quad r = x - D(E(x))

  The energy of SteinGAN's networks for 64x64 images, with networks for 28x28
  and 32x32, without their dropout and batch normalisation (under which the
  score of an image depends on its batch), and with a softened root: the score
  is finite where the copy is exact.

  Wang and Liu, Learning to draw samples, 2016, and their code:
  https://arxiv.org/abs/1611.01722, https://github.com/DartML/SteinGAN

  Attributes:
    code: size of the code E(x).
    channels: of the map of half the image's size; the next has twice as many.
    lowering: of the convolutions, see `layers.Conv`.
  """

  code: int = 64
  channels: int = 32
  lowering: str | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns f [N] of images [N, H, W, C], H and W multiples of 4."""
    _, reconstruction = self._run(x)
    residual = (x.astype(jnp.float32) - reconstruction).reshape(x.shape[0], -1)
    # |r|, but with the gradient 0 at 0, where that of `abs` is 1.
    sizes = residual * jax.lax.stop_gradient(jnp.sign(residual))
    root = jnp.sqrt(sizes.sum(1) + SOFTENING)
    return -root - jnp.sqrt(jnp.square(residual).sum(1) + SOFTENING)

  def features(self, x: jax.Array) -> jax.Array:
    """Returns the codes [N, code] of images [N, H, W, C]."""
    code, _ = self._run(x)
    return code

  def reconstruct(self, x: jax.Array) -> jax.Array:
    """Returns the copies D(E(x)) in (-1, 1) of images [N, H, W, C]."""
    _, reconstruction = self._run(x)
    return reconstruction

  @nn.compact
  def _run(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    hidden = _convolve(x, self.channels, self.lowering)
    code = layers.Dense(
      self.code, kernel_init=nn.initializers.lecun_normal(), name='code'
    )(hidden)
    reconstruction = generators.ConvGenerator(
      x.shape[1:],
      features=self.channels,
      lowering=self.lowering,
      name='decoder',
    )(code)
    return code, reconstruction


class ConvEnergy(nn.Module):
  """A small DCGAN's discriminator: the encoder above, and one number of it.

  Radford et al., 2016: https://arxiv.org/abs/1511.06434; without its batch
  normalisation.

  Attributes:
    channels: of the map of half the image's size; the next has twice as many.
    lowering: of the convolutions, see `layers.Conv`.
  """

  channels: int = 32
  lowering: str | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns f [N] of images [N, H, W, C], H and W multiples of 4."""
    f, _ = self._run(x)
    return f

  def features(self, x: jax.Array) -> jax.Array:
    """Returns the last map, [N, H/4 * W/4 * 2 channels]."""
    _, hidden = self._run(x)
    return hidden

  @nn.compact
  def _run(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    hidden = _convolve(x, self.channels, self.lowering)
    f = layers.Dense(
      1, kernel_init=nn.initializers.lecun_normal(), name='output'
    )(hidden)
    return f[:, 0], hidden


class RBM(nn.Module):
  r"""A Gaussian-Bernoulli restricted Boltzmann machine, hidden in {-1, 1}.

  .. math:: f(x) = b \cdot x - \|x\|^2/2 + \sum_j \ln(2 \cosh(x B + c)_j)

  With few hidden units it is a mixture of 2^hidden Gaussians of unit variance,
  of which everything is known: `log_partition` and `sample` enumerate them. The
  parameters are 'weights' B [D, hidden], 'visible' b [D] and 'hidden' c
  [hidden].

  Attributes:
    hidden: number of hidden units.
    mean: initial value of b, D numbers in any shape, such as the mean of the
      data; zeros if None.
    std: of the initial weights.
  """

  hidden: int = 10
  mean: Any = None
  std: float = 0.01

  @nn.nowrap
  def _first_visible(self, size: int) -> jax.Array:
    if self.mean is None:
      return jnp.zeros(size)
    mean = jnp.asarray(self.mean, jnp.float32).reshape(-1)
    if mean.size != size:
      raise ValueError(
        f'RBM.mean has {mean.size} numbers, but an example has {size}.'
      )
    return mean

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns f [N] of x [N, ...]."""
    linear, y = self._run(x)
    return linear + jnp.logaddexp(y, -y).sum(1)

  def features(self, x: jax.Array) -> jax.Array:
    """Returns the hidden units' means given x, [N, hidden]."""
    _, y = self._run(x)
    return jnp.tanh(y)

  @nn.compact
  def _run(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = _flatten(x)
    size = x.shape[1]
    init = nn.initializers.normal(self.std)
    weights = self.param('weights', init, (size, self.hidden))
    visible = self.param('visible', lambda _: self._first_visible(size))
    hidden = self.param('hidden', nn.initializers.zeros, (self.hidden,))
    linear = x @ visible - 0.5 * jnp.square(x).sum(1)
    return linear, layers.add_bias(x @ weights, hidden)

  @staticmethod
  def log_partition(params: Any) -> jax.Array:
    r"""Computes the exact log Z, which is differentiable.

    .. math:: Z = (2\pi)^{D/2} \sum_h \exp(c \cdot h + \|b + B h\|^2 / 2)

    Args:
      params: as the module's `init` names them.

    Returns:
      Nats, a scalar.

    Raises:
      ValueError: more than 20 hidden units.
    """
    total = jax.nn.logsumexp(_state_logits(params))
    return total + 0.5 * params['visible'].size * math.log(2 * math.pi)

  @staticmethod
  def sample(params: Any, rng: jax.Array, count: int) -> jax.Array:
    """Draws exact, independent samples: the hidden units, then the Gaussian.

    Args:
      params: as the module's `init` names them.
      rng: a key.
      count: how many.

    Returns:
      [count, D].

    Raises:
      ValueError: more than 20 hidden units.
    """
    state_rng, noise_rng = jax.random.split(rng)
    chosen = jax.random.categorical(
      state_rng, _state_logits(params), shape=(count,)
    )
    states = _states(chosen, params['hidden'].size)
    return _visible(params, noise_rng, states)

  @staticmethod
  def gibbs(params: Any, rng: jax.Array, x: jax.Array) -> jax.Array:
    """Takes one block step of Gibbs sampling: h given x, then x given h.

    Args:
      params: as the module's `init` names them.
      rng: a key.
      x: [N, ...].

    Returns:
      Of the same shape.
    """
    hidden_rng, noise_rng = jax.random.split(rng)
    y = layers.add_bias(_flatten(x) @ params['weights'], params['hidden'])
    # p(h = 1 | x) = e^y / (e^y + e^-y).
    up = jax.random.bernoulli(hidden_rng, jax.nn.sigmoid(2 * y))
    states = jnp.where(up, 1.0, -1.0)
    return _visible(params, noise_rng, states).reshape(x.shape)


def _flatten(x: jax.Array) -> jax.Array:
  return x.reshape(x.shape[0], -1).astype(jnp.float32)


def _convolve(x: jax.Array, channels: int, lowering: str | None) -> jax.Array:
  """Takes images to a quarter of their size, and flattens the map."""
  if x.ndim != 4 or x.shape[1] % 4 or x.shape[2] % 4:
    raise ValueError(
      'a convolutional energy takes images [N, H, W, C] with H and W multiples '
      f'of 4, got shape {x.shape}; use an MLP instead.'
    )
  x = x.astype(jnp.float32)
  for i in range(2):
    x = layers.Conv(
      channels * 2**i,
      kernel_size=4,
      strides=2,
      padding=1,
      use_bias=True,
      kernel_init=nn.initializers.he_normal(),
      lowering=lowering,
      name=f'conv_{i}',
    )(x)
    x = nn.swish(x)
  return _flatten(x)


def _visible(params: Any, rng: jax.Array, states: jax.Array) -> jax.Array:
  """Draws x [N, D] given the hidden states [N, hidden]."""
  mean = layers.add_bias(states @ params['weights'].T, params['visible'])
  return mean + jax.random.normal(rng, mean.shape)


def _states(index: jax.Array, hidden: int) -> jax.Array:
  """Returns the states in {-1, 1} that the bits of `index` [n] spell."""
  bits = index[:, None] >> jnp.arange(hidden)[None] & 1
  return 2.0 * bits.astype(jnp.float32) - 1.0


def _state_logits(params: Any) -> jax.Array:
  """Returns c.h + ||b + B h||^2 / 2 of each state of the hidden units."""
  weights, visible, bias = (params[k] for k in ('weights', 'visible', 'hidden'))
  hidden = bias.size
  if hidden > MAX_HIDDEN:
    raise ValueError(
      f'the exact partition function enumerates 2^hidden states and takes up '
      f'to {MAX_HIDDEN} hidden units, got {hidden}; estimate it by annealed '
      'importance sampling instead.'
    )
  # The squared norm as a quadratic form in h, of [hidden, hidden] instead of
  # [D, hidden] numbers.
  highest = jax.lax.Precision.HIGHEST
  gram = jnp.matmul(weights.T, weights, precision=highest)
  slope = bias + jnp.matmul(visible, weights, precision=highest)
  offset = 0.5 * jnp.square(visible).sum()

  @jax.checkpoint
  def block(index: jax.Array) -> jax.Array:
    states = _states(index, hidden)
    products = jnp.matmul(states, gram, precision=highest)
    linear = jnp.matmul(states, slope, precision=highest)
    return offset + linear + 0.5 * (products * states).sum(1)

  index = jnp.arange(2**hidden)
  if index.size <= BLOCK:
    return block(index)
  return jax.lax.map(block, index.reshape(-1, BLOCK)).reshape(-1)


ENERGIES = {
  'mlp': MLPEnergy,
  'autoencoder': AutoencoderEnergy,
  'conv': ConvEnergy,
  'rbm': RBM,
}
