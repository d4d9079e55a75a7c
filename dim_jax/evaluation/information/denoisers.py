r"""Networks that predict the noise of columns: scores at all noise levels.

Columns w of standard deviation one are seen through a Gaussian channel,

.. math:: z = a w + b \epsilon, \quad a^2 = \sigma(\gamma), \quad
  b^2 = \sigma(-\gamma)

of log signal-to-noise ratio :math:`\gamma`. The best prediction of the noise is
:math:`-b \nabla_z \ln p_\gamma(z)`, so it is the score. One network predicts
for x alone, for either side when the other is known, and for both.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any
# The least and the highest log signal-to-noise ratio. What lies beyond adds
# under 0.003 nats where no standard deviation, given all else, is below 0.1.
LOW, HIGH = -8.0, 10.0
UNITS, LAYERS, CONTEXT = 64, 3, 32
WAVES = 4
# Below this standard deviation no structure is expected: predictions fade.
FINEST = 0.1


class Role(NamedTuple):
  """What a prediction is of, x and y, and what it is given as it is.

  Attributes:
    noised: whether each side is seen through the channel.
    clean: whether each side is given without noise.
  """

  noised: tuple[bool, bool]
  clean: tuple[bool, bool]


ROLES = {
  'x': Role((True, False), (False, False)),
  'x_given_y': Role((True, False), (False, True)),
  'y_given_x': Role((False, True), (True, False)),
  'both': Role((True, True), (False, False)),
}


def scales(log_snr: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns a and b of the channel, which keeps a variance of one."""
  signal = jnp.sqrt(jax.nn.sigmoid(log_snr))
  return signal, jnp.sqrt(jax.nn.sigmoid(-log_snr))


def channel(x: jax.Array, noise: jax.Array, log_snr: jax.Array) -> jax.Array:
  """Returns rows with noise added, [n, columns].

  Args:
    x: [n, columns].
    noise: likewise.
    log_snr: [n].
  """
  signal, width = scales(log_snr)
  return signal[:, None] * x + width[:, None] * noise


def init(key: jax.Array, columns: int, size: Any, units: int = UNITS) -> PyTree:
  """Returns the parameters of a network that predicts as for N(0, 1).

  Args:
    key: random key.
    columns: of x and y together, padding included.
    size: how many of them are real.
    units: width of the layers.
  """
  keys = jax.random.split(key, 7)
  square, narrow = (LAYERS, units, units), 1 / math.sqrt(units)

  def normal(key: jax.Array, shape: tuple[int, ...], scale: Any) -> jax.Array:
    return jax.random.normal(key, shape) * scale

  features = 1 + 2 * WAVES + len(ROLES)
  return {
    'in': normal(keys[0], (2 * columns, units), lax.rsqrt(1.0 * size)),
    'context': normal(keys[1], (features, CONTEXT), 1 / math.sqrt(features)),
    'context_bias': jnp.zeros(CONTEXT),
    'film': normal(
      keys[2], (LAYERS, CONTEXT, 2 * units), 1 / math.sqrt(CONTEXT)
    ),
    'hidden': normal(keys[3], square, narrow),
    'add': normal(keys[4], square, 0.5 * narrow),
    'gate': normal(keys[5], square, 0.1 * narrow),
    'out': jnp.zeros((units, columns)),
    'out_bias': jnp.zeros(columns),
  }


def predict(
  params: PyTree,
  role: str,
  noised: tuple[jax.Array, jax.Array],
  clean: tuple[jax.Array, jax.Array],
  log_snr: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  r"""Predicts the noise of both sides; of one that has none it means nothing.

  As b z + a f(z, ...), which f = 0 makes the prediction for N(0, 1), and in
  which f is about a normalised quantity at any noise (Karras et al.).

  Args:
    params: of `init`.
    role: of ROLES, which says what of the following is looked at.
    noised: x and y through the channel, [n, columns] each.
    clean: x and y as they are.
    log_snr: [n].

  Returns:
    The noise of x and of y, [n, columns] each.

  References:
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative
    Models, 2022, section 5: https://arxiv.org/abs/2206.00364
  """
  z = jnp.concatenate(noised, 1)
  seen = [
    side if used else jnp.zeros_like(side)
    for sides, uses in zip((noised, clean), ROLES[role], strict=True)
    for side, used in zip(sides, uses, strict=True)
  ]
  h = jnp.concatenate(seen, 1) @ params['in']
  context = _context(params, role, log_snr)
  for i in range(LAYERS):
    scale, shift = jnp.split(context @ params['film'][i], 2, axis=1)
    inner = jax.nn.silu((h @ params['hidden'][i]) * (1 + scale) + shift)
    # Products of features: rotations by something need them.
    h = h * (1 + inner @ params['gate'][i]) + inner @ params['add'][i]
  signal, width = scales(log_snr)
  faded = signal * width / jnp.sqrt(width**2 + FINEST**2)
  out = h @ params['out'] + params['out_bias'][None]
  noise = width[:, None] * z + faded[:, None] * out
  size = noised[0].shape[1]
  return noise[:, :size], noise[:, size:]


def _context(params: PyTree, role: str, log_snr: jax.Array) -> jax.Array:
  """Returns features of the noise level and the role, [n, CONTEXT]."""
  level = (2 * log_snr - LOW - HIGH) / (HIGH - LOW)  # In [-1, 1].
  waves = level[:, None] * (jnp.pi / 2 * (1.0 + jnp.arange(WAVES)))[None]
  one_hot = jnp.array([float(role == name) for name in ROLES])
  features = [
    level[:, None],
    jnp.sin(waves),
    jnp.cos(waves),
    jnp.broadcast_to(one_hot[None], (len(level), len(ROLES))),
  ]
  hidden = jnp.concatenate(features, 1) @ params['context']
  return jax.nn.silu(hidden + params['context_bias'][None])
