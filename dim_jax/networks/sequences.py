r"""Encoders of lines of characters, and what they see of a line that is masked.

Lines are int32 [N, L], numbers of characters, 0 behind a line's end. What
stands there has no effect on any other position: lines of different lengths
share a batch, and a longer padding changes nothing.

In masked models a mask e marks the visible characters of a line, [N, L], with
P(e = 1) = p, `keep`; m is a learned token, x a character's embedding. Dropout's
view of what is then consistent is that of `masking`, of vectors in place of
patches:

- 'token': e x + (1 - e) m in training, as BERT; at use its mean p x + (1 - p) m
  ('consistent'), or x itself, which training never shows ('naive').
- 'rescale': e x / p in training, whose mean is x, at use. The normalisation of
  each character that follows undoes the factor, but for its ratio to the places
  that attention adds.
- 'drop': a hidden character takes no part, as in a masked autoencoder's
  encoder: no position attends to it. Its own place, of which no other depends,
  asks the visible ones what stands there, which is what the decoder does. At
  use all take part: no correction is due, only their number differs.

Su, MLM and MAE from the viewpoint of dropout, 2021 (in Chinese).
https://kexue.fm/archives/8770
Devlin et al., BERT, 2019. https://arxiv.org/abs/1810.04805
He et al., Masked autoencoders are scalable vision learners, 2022.
https://arxiv.org/abs/2111.06377
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import layers

PADDING = 0
MODES = ('token', 'rescale', 'drop')
_EMBEDDING = nn.initializers.normal(0.05)


class GatedBlock(nn.Module):
  r"""A gated convolution over a line, and a residual through the same gate.

  .. math:: y = x \, \sigma(-g) + h \, \sigma(g)

  where h and g are two convolutions of x.

  Attributes:
    size: of the window, an odd number of characters.
    dilation: step from one of them to the next.

  References:
    Su, A couplet robot by convolutions and sequence labelling, 2019 (in
    Chinese): https://kexue.fm/archives/6270
    Dauphin et al., Language modeling with gated convolutional networks, 2017:
    https://arxiv.org/abs/1612.08083
  """

  size: int = 3
  dilation: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
    """Returns [N, L, D] of `x` [N, L, D], and of what is real, bool [N, L]."""
    x = jnp.where(real[..., None], x, 0)
    reach = self.size // 2 * self.dilation
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    windows = [
      padded[:, start : start + x.shape[1]]
      for start in range(0, 2 * reach + 1, self.dilation)
    ]
    both = layers.Dense(2 * x.shape[-1], name='conv')(
      jnp.concatenate(windows, -1)
    )
    gate, value = jnp.split(both, 2, -1)
    return x * nn.sigmoid(-gate) + value * nn.sigmoid(gate)


class AttentionBlock(nn.Module):
  """A layer of a transformer, normalised before each of its two parts.

  Attributes:
    heads: of the attention; they divide D.

  References:
    Vaswani et al., Attention is all you need, 2017:
    https://arxiv.org/abs/1706.03762
    Xiong et al., On layer normalization in the transformer architecture, 2020:
    https://arxiv.org/abs/2002.04745
  """

  heads: int = 4

  @nn.compact
  def __call__(self, x: jax.Array, seen: jax.Array) -> jax.Array:
    """Returns [N, L, D] of `x` [N, L, D]; `seen`, bool [N, L], is attended."""
    count, length, size = x.shape
    y = layers.normalise(x, 'layer', train=False, name='norm_0')
    y = layers.Dense(3 * size, name='project')(y)
    parts = y.reshape(count, length, 3, self.heads, size // self.heads)
    query, key, value = (parts[:, :, i] for i in range(3))
    scores = jnp.einsum('nqhd,nkhd->nhqk', query, key)
    scores /= math.sqrt(size // self.heads)
    # A line of padding alone attends to that: nothing would be NaN.
    seen = seen | ~seen.any(1, keepdims=True)
    weights = jax.nn.softmax(scores, axis=-1, where=seen[:, None, None, :])
    y = jnp.einsum('nhqk,nkhd->nqhd', weights, value)
    x += layers.Dense(size, name='output')(y.reshape(x.shape))
    y = layers.normalise(x, 'layer', train=False, name='norm_1')
    y = nn.gelu(layers.Dense(4 * size, name='hidden')(y))
    return x + layers.Dense(size, name='out')(y)


class LineEncoder(nn.Module):
  """An embedding of characters, and blocks over the line, both normalised.

  The published tagger has no normalisation. Without it biases soon outweigh the
  characters, as the gates let through half of them at first.

  Attributes:
    vocabulary: V, how many numbers there are.
    width: D.
    kind: of the blocks, one of `ENCODERS`: 'gated' convolutions, which know no
      absolute place and take lines of any length, or 'attention' with embedded
      places.
    depth: how many blocks.
    dilations: of 'gated' blocks in turn, from the first again after the last.
    dropout: fraction of the embeddings' numbers that training drops.
    length: the most places that 'attention' knows.
    masked: whether there is a mask token among the parameters.
  """

  vocabulary: int
  width: int = 128
  kind: str = 'gated'
  depth: int = 6
  dilations: tuple[int, ...] = (1,)
  dropout: float = 0.0
  length: int = 32
  masked: bool = False

  @nn.compact
  def __call__(
    self,
    lines: jax.Array,
    *,
    train: bool = False,
    visible: jax.Array | None = None,
    mode: str = 'token',
    keep: float = 1.0,
    consistent: bool = True,
  ) -> jax.Array:
    """Returns a vector a character, [N, L, D]; padding's mean nothing.

    Args:
      lines: int32 [N, L].
      train: whether to drop units.
      visible: which characters are seen, bool [N, L]; None at use.
      mode: one of `MODES`.
      keep: p, the probability that a character is visible; 1 without masks.
      consistent: whether 'token' shows its mean at use.
    """
    real = lines != PADDING
    table = self.param('embedding', _EMBEDDING, (self.vocabulary, self.width))
    x = jnp.take(table, lines, axis=0)
    if self.masked:
      token = self.param('mask_token', _EMBEDDING, (self.width,))
      x = shown(x, token, visible, mode, keep, consistent)
    seen = real
    if visible is not None and mode == 'drop':
      seen = real & visible
    if self.kind == 'attention':
      if lines.shape[1] > self.length:
        raise ValueError(
          f'a line has {lines.shape[1]} places, and the encoder knows '
          f'{self.length}: set objective.length.'
        )
      places = self.param('places', _EMBEDDING, (self.length, self.width))
      x += places[None, : lines.shape[1]]
    x = layers.normalise(x, 'layer', train=False, name='norm')
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(self.depth):
      if self.kind == 'attention':
        x = AttentionBlock(name=f'block_{i}')(x, seen)
      else:
        dilation = self.dilations[i % len(self.dilations)]
        # Convolutions cannot leave a place out: it shows zeros, as beyond.
        x = GatedBlock(dilation=dilation, name=f'block_{i}')(x, seen)
    x = layers.normalise(x, 'layer', train=False, name='norm_out')
    return jnp.where(real[..., None], x, 0)


def shown(
  x: jax.Array,
  token: jax.Array,
  visible: jax.Array | None,
  mode: str,
  keep: float,
  consistent: bool = True,
) -> jax.Array:
  """Computes what an encoder sees in place of characters' embeddings.

  Args:
    x: [N, L, D].
    token: m, [D].
    visible: e, bool [N, L]; None at use.
    mode: one of `MODES`, see the module.
    keep: p.
    consistent: whether 'token' shows its mean at use.
  """
  token = token[None, None]
  if visible is None:
    if mode == 'token' and consistent:
      return keep * x + (1 - keep) * token
    return x
  if mode == 'token':
    return jnp.where(visible[..., None], x, token)
  return jnp.where(visible[..., None], x / keep if mode == 'rescale' else x, 0)


def hidden_order(
  draws: jax.Array, lines: jax.Array, keep: float
) -> tuple[jax.Array, jax.Array]:
  """Chooses which characters of each line are hidden.

  Of n characters, (1 - p) n are hidden, rounded up or down at random so that
  each one is visible with a probability of exactly p; but one stays visible.

  Args:
    draws: uniform in [0, 1), [N, L + 1].
    lines: int32 [N, L].
    keep: p.

  Returns:
    Places in the order in which they are hidden, int32 [N, L], and how many of
    the first are, int32 [N].
  """
  real = lines != PADDING
  count = real.sum(1)
  wanted = jnp.floor(count * (1 - keep) + draws[:, -1]).astype(jnp.int32)
  hidden = jnp.clip(wanted, 0, jnp.maximum(count - 1, 0))
  order = jnp.argsort(jnp.where(real, draws[:, :-1], 2.0), axis=1)
  return order.astype(jnp.int32), hidden


def most_hidden(length: int, keep: float) -> int:
  """Returns the most characters that `hidden_order` hides of a line."""
  return max(1, min(math.ceil(length * (1 - keep)), length - 1))


def mean_of(features: jax.Array, lines: jax.Array) -> jax.Array:
  """Averages [N, L, D] over the characters of each line, [N, D]."""
  real = (lines != PADDING)[..., None]
  total = jnp.where(real, features, 0).sum(1)
  return total / jnp.maximum(real.sum(1), 1)


ENCODERS: dict[str, Any] = {'gated': GatedBlock, 'attention': AttentionBlock}
