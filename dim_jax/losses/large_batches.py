"""Losses of batches too large to hold at once: chunks of scores, micro-batches.

The scores of a batch are N*M * N * L numbers: at 4096 images of 64 locations,
4 GiB, and several times that for a gradient. But every bound is a mean over
anchors of what one anchor's scores give, or of a logarithm of such a mean. So
`chunked_bound` takes the anchors some at a time, and the backward pass makes
their scores again from the embeddings: the same value and gradients, for twice
the scoring.

A contrastive loss compares all examples of its batch, so gradients that are
accumulated over small batches are those of another loss, with fewer negatives.
But only the embeddings must be together, and they are small. So `micro_batched`
embeds each micro-batch and forgets its activations; the loss and its gradient
by the embeddings are of the whole batch; and the backward pass embeds each
micro-batch again, to carry its part of that gradient to the parameters. Peak
memory is that of one micro-batch, for one more forward pass.

To reverse mode both are functions like any other, and exact.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup, 2021. https://arxiv.org/abs/2101.06983
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from dim_jax.losses import bounds

PyTree = Any
EmbedFn = Callable[[Any, Any, jax.Array], Any]


def dot(anchors: jax.Array, local: jax.Array) -> jax.Array:
  """Returns dot products [A, N, L] of anchors [A, K] and local [N, L, K]."""
  # In the other order XLA on CPU transposes the locals for its product, again
  # in each chunk: 0.83 s rather than 0.45 s for 256 images in chunks of 32. As
  # rows, the anchors' gradient contracts one axis (see `layers.product`).
  scores = jnp.einsum(
    'rk,ak->ra',
    local.reshape(-1, local.shape[-1]),
    anchors,
    preferred_element_type=jnp.float32,
  )
  return scores.reshape(*local.shape[:-1], len(anchors)).transpose(2, 0, 1)


def chunked_bound(
  bound: Callable[..., jax.Array],
  anchors: Any,
  local: Any,
  *,
  chunk: int,
  score: Callable[[Any, Any], jax.Array] = dot,
) -> jax.Array:
  """Computes `bound(*split_pairs(score(anchors, local)))` in chunks of anchors.

  Scores of `chunk` anchors exist at a time, chunk * N * L numbers, in the
  forward and in the backward pass.

  Args:
    bound: of `bounds.py` or of `f_divergences.py`. A function of one's own must
      be a mean of what each anchor's scores give, or the result is something
      else.
    anchors: embeddings of the globals, one a row, as `bounds.split_pairs` has
      them: [A, K], or any tree of arrays [A, ...].
    local: embeddings of the locals, [N, L, K], or any tree that `score` takes.
    chunk: the most anchors to score at a time. Each chunk reads all of `local`
      and adds to its gradient, so with few anchors that is what takes the time:
      rather 256 than 16.
    score: `(anchors [C, ...], local) -> scores [C, N, L]`, of which each row
      depends on its own anchor alone. It runs twice.

  Returns:
    The bound in its own unit, a scalar. Maximise it.

  Raises:
    ValueError: the chunk is smaller than 1, there is one image only, or the
      anchors are no multiple of the images.

  References:
    The idea, of attention: Rabe and Staats, Self-attention Does Not Need O(n^2)
    Memory, 2021. https://arxiv.org/abs/2112.05682

  Examples:
    >>> local = jnp.zeros((4, 9, 5))
    >>> value = chunked_bound(bounds.nwj, jnp.zeros((4, 5)), local, chunk=2)
    >>> round(float(value), 4)
    -0.3679
  """
  if chunk < 1:
    raise ValueError(f'chunk must be at least 1 anchor, got {chunk}.')
  chex.assert_equal_shape_prefix(
    jax.tree.leaves(anchors), 1, custom_message='anchors must be [A, ...].'
  )
  scores = jax.eval_shape(score, anchors, local)
  count = scores.shape[0]
  image = bounds.image_of_anchor(scores)
  in_logarithm = bound is bounds.donsker_varadhan

  # Inside of a loop no other computation is there to be merged with.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def of_anchor(row: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array]:
    anchor, image = jax.tree.map(lambda x: x[None], row)
    positive, negative, where = bounds.split_pairs(score(anchor, local), image)
    if not in_logarithm:
      return bound(positive, negative, where=where), jnp.zeros(())
    # Of positives of 0, it is minus the log-mean over the negatives.
    log_mean = -bound(jnp.zeros_like(positive), negative, where=where)
    return jnp.mean(positive), log_mean

  each, log_means = jax.lax.map(
    of_anchor, (anchors, image), batch_size=min(chunk, count)
  )
  value = jnp.mean(each)
  if in_logarithm:
    # All anchors have as many negatives, so the mean of means is the mean.
    value -= jax.nn.logsumexp(log_means) - math.log(count)
  return value


def split(batch: PyTree, count: int) -> PyTree:
  """Splits a batch into micro-batches, each with its share of every device.

  Of arrays [N, ...] it makes arrays [k, N / k, ...] for a count of k, a divisor
  of N; the i-th micro-batch has the rows i, i + k, i + 2k, ...
  """
  return jax.tree.map(
    lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch
  )


def micro_batched(embed_fn: EmbedFn, *, size: int) -> EmbedFn:
  """Makes `embed_fn` take micro-batches in turn, forgetting activations.

  Args:
    embed_fn: `(params, batch, rng) -> embeddings`, of which row i depends on
      row i of the batch alone. Batch normalisation by a batch's statistics does
      not do so: each micro-batch would be normalised by its own, which is
      another loss; by running statistics, or layer normalisation, is exact.
    size: rows of a micro-batch, a divisor of the batch's.

  Returns:
    `(params, batch, rng) -> embeddings`, a tree of arrays [N, ...] for a batch
    of arrays [N, ...]. Micro-batches are those of `split`; the i-th draws from
    `fold_in(rng, i)`, the same in both passes. It raises ValueError where the
    batch does not divide.
  """

  def embed(params: PyTree, batch: PyTree, rng: jax.Array) -> PyTree:
    rows = {x.shape[0] for x in jax.tree.leaves(batch)}
    if size < 1 or len(rows) != 1 or min(rows) % size:
      raise ValueError(
        f'micro-batches of {size} (micro_batch) do not divide arrays of '
        f'{sorted(rows)} rows: all must have as many, a multiple of that.'
      )
    count = rows.pop() // size
    parts = split(batch, count)
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(count))
    # Inside of a loop no other computation is there to be merged with.
    again = jax.checkpoint(embed_fn, prevent_cse=False)
    embeddings = jax.lax.map(lambda part: again(params, *part), (parts, rngs))
    return jax.tree.map(
      lambda x: x.swapaxes(0, 1).reshape(count * size, *x.shape[2:]), embeddings
    )

  return embed
