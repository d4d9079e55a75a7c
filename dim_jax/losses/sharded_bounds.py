"""Bounds over a batch that is spread over devices: what is where, in code.

A batch of N images has N*M globals, the anchors, and N * L locals, and its
scores are of all pairs. Here each device keeps its locals, gathers the anchors,
which are fewer, and scores them against its own locals: [N*M, n, L] of n images
a device. What a bound then needs of the others is a number an anchor or less:
the log-sum-exp of its negatives on each device for InfoNCE, which goes to the
anchor's own device; one log-sum-exp a device for Donsker-Varadhan; and a mean
for all others. So nothing is exchanged while the scores are made, however few
anchors at a time, and the gathering's transpose, a reduce-scatter, brings each
anchor its gradient.

Negatives of all images make the work of a device grow with the number of
devices. Those of a group of images do not: anchors are then gathered within a
group's devices, or, where a device holds several groups, not at all.

All functions run within `jax.shard_map` or `jax.pmap`, with the batch split
along its first axis.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax.losses import bounds, large_batches

Bound = Callable[..., jax.Array]
Score = Callable[[Any, Any], jax.Array]


def bound_of_pairs(
  bound: Bound,
  anchors: Any,
  local: Any,
  *,
  score: Score = large_batches.dot,
  chunk: int | None = None,
  size: int | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Computes `bound(*split_pairs(score(anchors, local)))` of the whole batch.

  Args:
    bound: of `bounds.py` or of `f_divergences.py`.
    anchors: embeddings of this device's globals, a tree of arrays [n*M, ...],
      image by image.
    local: embeddings of its locals, a tree of arrays [n, ...].
    score: `(anchors [A, ...], local) -> scores [A, n, L]`, as `chunked_bound`
      takes it.
    chunk: the most anchors to score at a time; all if None.
    size: images of a group; each group of so many, one after another, is a
      batch of its own, and the value is the mean over groups. None for one
      group of all.
    axis_name: the mapped axis; None where this device has the whole batch.

  Returns:
    The bound in its own unit, a scalar, the same on all devices. Maximise it.

  Raises:
    ValueError: see `devices_of_group`.
  """
  images = jax.tree.leaves(local)[0].shape[0]
  devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
  span = devices_of_group(size, images, devices)
  if axis_name is not None and span > 1:
    value = _joined(bound, anchors, local, score, chunk, axis_name, span)
  else:
    of_group = functools.partial(_of_group, bound, score, chunk)
    count = 1 if size is None else images // size
    if count == 1:
      value = of_group(anchors, local)
    else:
      groups = split_groups((anchors, local), count)
      value = jnp.mean(jax.vmap(of_group)(*groups))
  return value if axis_name is None else jax.lax.pmean(value, axis_name)


def devices_of_group(size: int | None, images: int, devices: int) -> int:
  """Returns how many devices hold a group; 1 if a device holds one or more.

  Args:
    size: examples of a group; None for all.
    images: on each device.
    devices: how many.

  Raises:
    ValueError: groups neither divide a device's examples nor fill whole
      devices, or do not divide the batch.
  """
  if size is None:
    return devices
  batch = images * devices
  whole = size % images == 0 if size > images else images % size == 0
  if not whole or batch % size:
    raise ValueError(
      f'groups of {size} examples (objective.negatives_of or particles_of) do '
      f'not fit a batch of {batch} on {devices} devices, {images} examples on '
      f'each: use a divisor of {images}, or a multiple of {images} that '
      f'divides {batch}.'
    )
  return max(1, size // images)


def group_indices(devices: int, span: int) -> list[list[int]] | None:
  """Returns the devices of each group of `span`; None for one group of all."""
  if span == devices:
    return None
  return [list(range(i, i + span)) for i in range(0, devices, span)]


def split_groups(tree: Any, count: int) -> Any:
  """Splits arrays [k * rows, ...] into [k, rows, ...] for a count of k."""
  return jax.tree.map(
    lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), tree
  )


def _of_group(
  bound: Bound, score: Score, chunk: int | None, anchors: Any, local: Any
) -> jax.Array:
  """The bound of a group that is on one device."""
  if chunk is None:
    positive, negative, where = bounds.split_pairs(score(anchors, local))
    return bound(positive, negative, where=where)
  return large_batches.chunked_bound(
    bound, anchors, local, chunk=chunk, score=score
  )


def _joined(
  bound: Bound,
  anchors: Any,
  local: Any,
  score: Score,
  chunk: int | None,
  axis_name: str,
  span: int,
) -> jax.Array:
  """The bound of this device's anchors, in a group of `span` devices."""
  groups = group_indices(jax.lax.axis_size(axis_name), span)
  place = jax.lax.axis_index(axis_name) % span
  images = jax.tree.leaves(local)[0].shape[0]
  own = jax.tree.leaves(anchors)[0].shape[0]
  everyone = jax.lax.all_gather(
    anchors, axis_name, tiled=True, axis_index_groups=groups
  )
  # The images of a group, by number; those of this device are [images].
  of_anchor = jnp.arange(span * own) // (own // images)
  here = place * images + jnp.arange(images)

  def negatives(row: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array]:
    anchor, image = row
    return _negatives(bound, score(anchor, local), image[:, None] == here[None])

  if chunk is None:
    scores = score(everyone, local)
    mine = of_anchor[:, None] == here[None]
    statistics, counts = _negatives(bound, scores, mine)
    scores = jax.lax.dynamic_slice_in_dim(scores, place * own, own)
    positive, _, _ = bounds.split_pairs(
      scores, jnp.arange(own) // (own // images)
    )
  else:
    # Inside of a loop no other computation is there to be merged with.
    one = jax.checkpoint(
      lambda row: jax.tree.map(
        lambda x: x[0], negatives(jax.tree.map(lambda x: x[None], row))
      ),
      prevent_cse=False,
    )
    statistics, counts = jax.lax.map(
      one, (everyone, of_anchor), batch_size=min(chunk, span * own)
    )
    pairs = split_groups(anchors, images), split_groups(local, images)
    positive = jax.vmap(score)(*pairs)
    positive = positive.reshape(own, positive.shape[-1])
  return _value(bound, positive, statistics, counts, axis_name, groups, span)


def _negatives(
  bound: Bound, scores: jax.Array, own: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """What a bound needs of each anchor's negatives on this device.

  Args:
    bound: which.
    scores: of anchors with this device's locals, [A, n, L].
    own: whether a local's image is the anchor's, bool [A, n].

  Returns:
    [A]: log-sum-exps, or values of the bound with a positive score of 0; and
    how many negatives there are. Without any, the former mean nothing.
  """
  where = jnp.broadcast_to(~own[:, :, None], scores.shape)
  where = where.reshape(len(scores), -1)
  negative = scores.reshape(where.shape)
  count = jnp.sum(where, axis=1)
  # See `bounds.infonce`: an empty sum's gradient is 0 / 0.
  _, negative, _ = bounds.checked_scores(negative[:, :1], negative, where)
  where |= (count == 0)[:, None]
  if bound in (bounds.infonce, bounds.donsker_varadhan):
    return jax.nn.logsumexp(negative, axis=1, where=where), count

  def of_anchor(negative: jax.Array, where: jax.Array) -> jax.Array:
    return bound(jnp.zeros((1, 1)), negative[None], where=where[None])

  return jax.vmap(of_anchor)(negative, where), count


def _value(
  bound: Bound,
  positive: jax.Array,
  statistics: jax.Array,
  counts: jax.Array,
  axis_name: str,
  groups: list[list[int]] | None,
  span: int,
) -> jax.Array:
  """The bound of this device's anchors, of `_negatives` of all devices."""
  own = len(positive)
  some = counts > 0
  # All devices have as many, together more than int32 counts.
  counts = counts.astype(jnp.float32)
  total = span * jnp.sum(counts)
  if bound is bounds.infonce:
    # From each device of the group, what it found for this device's anchors.
    exchange = functools.partial(
      jax.lax.all_to_all,
      axis_name=axis_name,
      split_axis=0,
      concat_axis=0,
      axis_index_groups=groups,
    )
    parts = exchange(statistics.reshape(span, own))
    present = exchange(some.reshape(span, own).astype(jnp.float32)) > 0
    log_sum = jax.nn.logsumexp(parts, axis=0, where=present)[:, None]
    count = total / (span * own)
    # One negative of that score is worth them all, but for the logarithm.
    return bound(positive, log_sum) - math.log(2) + jnp.log1p(count)
  if bound is bounds.donsker_varadhan:
    log_sum = jax.nn.logsumexp(statistics, where=some)
    everyone = jax.lax.all_gather(log_sum, axis_name, axis_index_groups=groups)
    log_mean = jax.nn.logsumexp(everyone) - jnp.log(total)
    return bound(positive, jnp.broadcast_to(log_mean, (own, 1)))
  # Such a bound is a term of positives less one of negatives, both means.
  none = jnp.zeros((own, 1))
  of_negatives = jnp.sum(statistics * counts) / jnp.sum(counts)
  return bound(positive, none) + of_negatives - bound(none, none)
