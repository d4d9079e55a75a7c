"""Autoregressors: modules that turn features into contexts.

A context summarises what came before it: on a grid, rows above and, in part or
whole, its own; in sound, all frames so far. The class attribute `context` marks
such modules for the objectives, which then predict features from their outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dim_jax.networks import layers


class PixelCNN(nn.Module):
  """Gated convolutions in which row y of the contexts sees rows <= y.

  As contrastive predictive coding predicts downwards only, a context's own row
  is visible whole. So the stack has no blind spot and needs no mask along rows.
  L layers see L rows up and, in each of those rows and their own, L columns to
  each side.

  The authors' code stores vertical kernels of 3x3 and sets the row below the
  centre to zero on each call; here they are 2x3, and they start from the
  distribution of the 3x3 ones. It also holds a vertical residual in the last
  layer, whose result nothing reads. That is 6 C^2 parameters fewer per layer
  and 2 C^2 + 2 C fewer in all, for C input and output channels.

  Löwe, O'Connor and Veeling, 2019: https://github.com/loeweX/Greedy_InfoMax
  van den Oord et al., Conditional image generation with PixelCNN decoders,
  2016: https://arxiv.org/abs/1606.05328

  Attributes:
    features: channels of the layers and of the contexts.
    layers: number of gated layers.
    dtype: compute dtype, float32 or bfloat16; parameters are float32.
  """

  features: int
  layers: int = 4
  dtype: Any = jnp.float32

  context = True

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Returns contexts [N, H, W, features] of grids `z` [N, H, W, C]."""
    vertical = horizontal = z.astype(self.dtype)
    for i in range(self.layers):
      # The first layer has no residuals: its input may have other channels.
      down = self._vertical(vertical, f'vertical_{i}')
      across = self._conv(
        2 * self.features, (1, 3), ((0, 0), (1, 1)), name=f'horizontal_{i}'
      )(horizontal)
      across += self._conv(2 * self.features, name=f'link_{i}')(down)
      across = self._conv(self.features, name=f'output_{i}')(_gate(across))
      horizontal = horizontal + across if i else across
      if i + 1 < self.layers:
        if i:
          residual = self._conv(2 * self.features, name=f'residual_{i}')
          down += residual(vertical)
        vertical = _gate(down)
    return self._conv(self.features, name='out')(horizontal)

  def _vertical(self, x: jax.Array, name: str) -> jax.Array:
    """Convolves with each pixel's own row and the one above, 3 columns."""
    init = layers.torch_bias(9 * x.shape[-1])  # As if the kernel were 3x3.
    return self._conv(
      2 * self.features,
      (2, 3),
      ((1, 0), (1, 1)),
      name=name,
      kernel_init=init,
      bias_init=init,
    )(x)

  def _conv(
    self,
    features: int,
    kernel_size: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0)),
    **settings: Any,
  ) -> nn.Module:
    return layers.Conv(
      features,
      kernel_size=kernel_size,
      padding=padding,
      use_bias=True,
      dtype=self.dtype,
      **settings,
    )


class GRU(nn.Module):
  """A gated recurrent unit over time, from a zero state, as PyTorch has it.

  With the reset gate r, update gate z and candidate n of frame x:

    r = sigmoid(W_r x + b_r + U_r h + d_r)
    z = sigmoid(W_z x + b_z + U_z h + d_z)
    n = tanh(W_n x + b_n + r * (U_n h + d_n))
    h <- (1 - z) * n + z * h

  All parameters start from U(-1/sqrt(features), 1/sqrt(features)). The products
  with the frames are one matrix product, outside the loop.

  Cho et al., Learning phrase representations using RNN encoder-decoder, 2014:
  https://arxiv.org/abs/1406.1078

  Attributes:
    features: size of the state and of the contexts.
    detach: whether to stop the gradient through the state at every step, so
      that a step learns from its own frame alone.
    dtype: compute dtype, float32 or bfloat16. Parameters and the state are
      float32.
  """

  features: int
  detach: bool = False
  dtype: Any = jnp.float32

  context = True

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Returns contexts [N, L, features] of frames `z` [N, L, C]."""
    if z.ndim != 3:
      raise ValueError(f'GRU takes frames [N, L, C]; got shape {z.shape}.')
    init = layers.torch_bias(self.features)
    gates = 3 * self.features
    w = self.param('input_kernel', init, (z.shape[-1], gates), jnp.float32)
    b = self.param('input_bias', init, (gates,), jnp.float32)
    u = self.param('state_kernel', init, (self.features, gates), jnp.float32)
    d = self.param('state_bias', init, (gates,), jnp.float32)
    z, w, u = (a.astype(self.dtype) for a in (z, w, u))
    inputs = layers.add_bias(layers.product(z, w).astype(jnp.float32), b)

    def contexts(weights, inputs):
      u, d = weights

      def step(state, frame):
        if self.detach:
          state = lax.stop_gradient(state)
        hidden = (state.astype(self.dtype) @ u).astype(jnp.float32)
        state = _gru_step(state, frame, layers.add_bias(hidden, d))
        return state, state

      state = jnp.zeros((inputs.shape[0], self.features), jnp.float32)
      _, states = lax.scan(step, state, inputs.transpose(1, 0, 2))
      return states.transpose(1, 0, 2).astype(self.dtype)

    return layers.by_example(contexts)((u, d), inputs)


class RowGRU(nn.Module):
  """A PixelRNN of gated recurrent units: the state goes from row to row.

  The units of a row have one state each, and step together. Column j of row i
  takes in the features of columns j - 1 and j of its row, and the states of
  columns j - 1, j and j + 1 of the row above, zeros beyond the edges; with both
  in place of x and h it is the unit of `GRU`, and keeps what its own column's
  state above was. So the context there sees, of the row r above it, columns
  j - r - 1 to j + r; of its own row nothing to the right, and no row below.

  Row LSTM of van den Oord, Kalchbrenner and Kavukcuoglu, Pixel recurrent neural
  networks, 2016, section 3.1, with a GRU in place of the LSTM:
  https://arxiv.org/abs/1601.06759

  Attributes:
    features: size of the states and of the contexts.
    dtype: compute dtype, float32 or bfloat16. Parameters and the states are
      float32.
  """

  features: int
  dtype: Any = jnp.float32

  context = True

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Returns contexts [N, H, W, features] of grids `z` [N, H, W, C]."""
    if z.ndim != 4:
      raise ValueError(f'RowGRU takes grids [N, H, W, C]; got shape {z.shape}.')
    gates = 3 * self.features
    inputs = layers.Conv(
      gates,
      kernel_size=(1, 2),
      padding=((0, 0), (1, 0)),
      use_bias=True,
      dtype=self.dtype,
      name='input',
    )(z.astype(self.dtype))
    init = layers.torch_bias(3 * self.features)
    u = self.param('state_kernel', init, (3, self.features, gates), jnp.float32)
    d = self.param('state_bias', init, (gates,), jnp.float32)
    u = u.astype(self.dtype)

    def contexts(weights, inputs):
      u, d = weights

      def step(state, row):
        hidden = layers.convolve(state.astype(self.dtype), u, padding=1)
        hidden = layers.add_bias(hidden.astype(jnp.float32), d)
        state = _gru_step(state, row.astype(jnp.float32), hidden)
        return state, state

      images, _, columns, _ = inputs.shape
      state = jnp.zeros((images, columns, self.features), jnp.float32)
      _, states = lax.scan(step, state, jnp.moveaxis(inputs, 1, 0))
      return jnp.moveaxis(states, 0, 1).astype(self.dtype)

    return layers.by_example(contexts)((u, d), inputs)


def _gru_step(
  state: jax.Array, inputs: jax.Array, hidden: jax.Array
) -> jax.Array:
  """The next state of a GRU.

  Args:
    state: h, [..., D].
    inputs: what the gates r, z and n get from the input, [..., 3 D].
    hidden: what they get from the state.
  """
  reset, update, candidate = jnp.split(inputs, 3, -1)
  reset_h, update_h, candidate_h = jnp.split(hidden, 3, -1)
  update = nn.sigmoid(update + update_h)
  candidate = nn.tanh(candidate + nn.sigmoid(reset + reset_h) * candidate_h)
  return (1 - update) * candidate + update * state


def _gate(x: jax.Array) -> jax.Array:
  """Returns tanh of half of the channels times sigmoid of the others."""
  signal, gate = jnp.split(x, 2, -1)
  return nn.tanh(signal) * nn.sigmoid(gate)
