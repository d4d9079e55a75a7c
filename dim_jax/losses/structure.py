"""Predicting where in an image a local feature is.

Of a map of H x W features, a head predicts the row and the column of each from
the code and the feature, absolute; or its offset from one source feature,
relative. A uniform prediction costs ln H and ln W nats, or ln(2H - 1) and
ln(2W - 1) of offsets; a perfect one 0. Offsets are not equally likely: their
frequencies alone already cost less than the uniform prediction.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
"""

import chex
import jax
import jax.numpy as jnp
import optax


def coordinate_cross_entropies(
  rows: jax.Array, columns: jax.Array, source: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Computes the cross-entropies of rows and of columns over all locations.

  Args:
    rows: logits [N, M, L, H] of each of L = H * W locations, in row-major
      order, given each of M codes of an image; or [N, M, L, 2H - 1] of offsets
      -(H-1)..H-1, rising.
    columns: logits [N, M, L, W], or [N, M, L, 2W - 1].
    source: int [N], the location in 0..L-1 that offsets are from, location -
      source; None for absolute coordinates.

  Returns:
    Both in nats, scalars, float32. Minimise their sum.
  """
  chex.assert_rank([rows, columns], 4)
  chex.assert_equal_shape_prefix([rows, columns], 3)
  height, width = rows.shape[-1], columns.shape[-1]
  if source is not None:
    height, width = (height + 1) // 2, (width + 1) // 2
  chex.assert_axis_dimension(rows, 2, height * width)
  at = jnp.arange(height * width)[None]
  row, column = at // width, at % width
  if source is not None:
    chex.assert_shape(source, rows.shape[:1])
    row = row - source[:, None] // width + height - 1
    column = column - source[:, None] % width + width - 1

  def mean(logits: jax.Array, target: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32),
      jnp.broadcast_to(target[:, None], logits.shape[:-1]),
    ).mean()

  return mean(rows, row), mean(columns, column)
