"""The gradient of a large batch, whose embeddings come in micro-batches.

A contrastive loss compares all examples of its batch, so gradients that are
accumulated over small batches are those of another loss, with fewer negatives.
But only the embeddings must be together, and they are small. So each
micro-batch is embedded and its activations forgotten; the loss and its gradient
by the embeddings are of the whole batch; and the backward pass embeds each
micro-batch again, to carry its part of that gradient to the parameters. Peak
memory is that of one micro-batch, and the price one more forward pass.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup, 2021. https://arxiv.org/abs/2101.06983
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
EmbedFn = Callable[[Any, Any, jax.Array], Any]


def micro_batched(embed_fn: EmbedFn, *, size: int) -> EmbedFn:
  """`embed_fn` of one micro-batch after another, forgetting activations.

  To reverse mode the result is a function like any other: what is made of the
  embeddings, with `losses.chunked` or a critic's parameters too, may follow.

  Args:
    embed_fn: `(params, batch, rng) -> embeddings`, of which row i depends on
      row i of the batch alone. Batch normalisation by a batch's statistics does
      not do so: each micro-batch would be normalised by its own, which is
      another loss; by running statistics, or layer normalisation, is exact.
    size: rows of a micro-batch, a divisor of the batch's.

  Returns:
    `(params, batch, rng) -> embeddings`, a tree of arrays [N, ...] for a batch
    of arrays [N, ...]. Of k micro-batches, the i-th has the rows i, i + k,
    i + 2k, ..., so that each has its share of every device that the batch is
    sharded over; it draws from `fold_in(rng, i)`, the same in both passes. It
    raises ValueError where the batch does not divide.
  """

  def embed(params: PyTree, batch: PyTree, rng: jax.Array) -> PyTree:
    rows = {x.shape[0] for x in jax.tree.leaves(batch)}
    if size < 1 or len(rows) != 1 or min(rows) % size:
      raise ValueError(
        f'micro-batches of {size} rows from arrays of {sorted(rows)} rows: all '
        'must have as many, a multiple of the size.'
      )
    count = rows.pop() // size
    parts = jax.tree.map(
      lambda x: x.reshape(size, count, *x.shape[1:]).swapaxes(0, 1), batch
    )
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(count))
    # Inside of a loop no other computation is there to be merged with.
    again = jax.checkpoint(embed_fn, prevent_cse=False)
    embeddings = jax.lax.map(lambda part: again(params, *part), (parts, rngs))
    return jax.tree.map(
      lambda x: x.swapaxes(0, 1).reshape(count * size, *x.shape[2:]), embeddings
    )

  return embed


def value_and_grad(
  embed_fn: EmbedFn,
  loss_fn: Callable[[Any], jax.Array],
  params: PyTree,
  batch: PyTree,
  rng: jax.Array,
  *,
  size: int,
) -> tuple[jax.Array, PyTree]:
  """The loss of a whole batch and its gradient, in micro-batches.

  Args:
    embed_fn: see `micro_batched`.
    loss_fn: `embeddings -> loss`, a scalar, of the whole batch's embeddings.
    params: what to differentiate by.
    batch: a tree of arrays [N, ...].
    rng: a key; see `micro_batched`.
    size: rows of a micro-batch, a divisor of N.

  Returns:
    The loss and its gradient by `params`, those of `loss_fn(embed_fn(params,
    batch, rng))` but for rounding, if nothing is drawn.

  Raises:
    ValueError: the batch does not divide into micro-batches.
  """
  embed = micro_batched(embed_fn, size=size)
  return jax.value_and_grad(lambda p: loss_fn(embed(p, batch, rng)))(params)
