r"""Contrastive predictive coding: InfoNCE across offsets in space or in time.

A context c predicts the features z that lie some offset away, and must tell the
true target from K others, the negatives. The scores are log-bilinear,

.. math:: f_s(z, c) = z^T W_s c, \quad
  loss_s = -E \log \frac{e^{f_s(z^+, c)}}{e^{f_s(z^+, c)} +
    \sum_k e^{f_s(z^-_k, c)}}

with one W_s for each of S offsets (the papers' K). `grid_infonce` predicts what
is below in an image's grid of patches, `sequence_infonce` what comes later in a
sequence. Greedy InfoMax gives every module such a loss, mostly with c = z;
contrastive predictive coding gives one to a whole network, with c from an
autoregressor.

N is images or sequences here, H and W a grid's rows and columns, L a sequence's
frames, C and D the features of z and c. Offset s leaves R_s anchors, each with
its own target: R_s = N * (H - s - skip) * W on a grid, N * (L - s) in whole
sequences. Negatives are drawn outside the loss, as explicit indices, and
gradient flows through them; without indices each anchor is contrasted with the
R_s - 1 targets of all others of its offset.

An index counts the rows of z without its features, all [N * H * W] or [N * L]
of them; one that is out of range makes the loss NaN. With indices for each
offset, memory beside z and its gradient grows with the sum of R_s * (C + K),
never with that of R_s * K * C: negatives are gathered one an anchor at a time,
in the backward pass again, and only those that are scored. In sequences all
contexts that predict a frame may share its negatives: then only N * L * K rows
are gathered, once for all offsets. Without indices, each offset takes one
product of all anchors with all targets, the form that suits accelerators, and
R_s^2 scores.

Losses are nats, to be minimised: ln(K + 1) where all scores are equal. So
`ceiling - loss` is at most ln(K + 1), and bounds the information between
context and target from below as far as the negatives are independent of the
anchor, which those from its own image or sequence are not.

Scores are float32 whatever the dtype of the arguments.

Sources: van den Oord et al., Representation Learning with Contrastive
Predictive Coding, 2018, eq. 3 and 4, https://arxiv.org/abs/1807.03748. Löwe et
al., Putting An End to End-to-End, NeurIPS 2019,
https://arxiv.org/abs/1905.11786.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Contrast(NamedTuple):
  """How well each offset is predicted. The papers minimise the mean of `loss`.

  Attributes:
    loss: InfoNCE cross-entropy in nats, averaged over anchors, shape [S].
    accuracy: fraction of anchors whose positive no negative outscores, shape
      [S]. Ties count as correct, as they do where a negative is the positive
      itself; so equal scores, of a collapsed network too, give 1.
    ceiling: ln(K + 1), shape [S]: the loss of equal scores in nats, and the
      most that `ceiling - loss` can be.
  """

  loss: jax.Array
  accuracy: jax.Array
  ceiling: jax.Array


def grid_infonce(
  z: jax.Array,
  c: jax.Array,
  weights: jax.Array,
  negative_indices: Sequence[jax.Array] | None = None,
  *,
  skip: int = 1,
  epsilon: float = 0.0,
) -> Contrast:
  """Computes InfoNCE down the columns of a grid of patches.

  The context in row y predicts the features of row y + s + skip in the same
  column, for s = 1 to S: each patch what is below it. Overlapping patches share
  pixels with their neighbours, hence the skip, which applies to every offset:
  S = 5 and skip = 1, the published setting, predict 2 to 6 rows ahead.

  Args:
    z: features to predict, shape [N, H, W, C].
    c: contexts, shape [N, H, W, D]; z itself in Greedy InfoMax.
    weights: W_s for each offset, shape [S, C, D]. The official code applies
      them to the target, as kernels of 1x1 convolutions from C to D: these
      transposed. Here they apply to the context, which gives the same scores
      and lets all offsets share the targets.
    negative_indices: for each offset s the negatives of every anchor, S integer
      arrays of shape [N, H - s - skip, W, K], see `grid_negatives`; an index is
      (image * H + row) * W + column. All other anchors' targets if None.
    skip: rows left out below the context, at least 0.
    epsilon: added to the probability of the positive before its logarithm.
      Leave it at 0: the official code's 1e-11 is for comparisons with it, stops
      the loss at 25.33, and takes the gradient from anchors that are badly
      wrong.

  Raises:
    ValueError: if shapes or dtypes are not as described, the grid has no more
      than S + skip rows, or an anchor has nothing to be contrasted with.

  Examples:
    >>> grid = jnp.ones((2, 4, 4, 8))
    >>> weights = jnp.zeros((2, 8, 8))
    >>> indices = grid_negatives(jax.random.key(0), grid.shape, 2, 16)
    >>> losses = grid_infonce(grid, grid, weights, indices).loss
    >>> losses.shape, round(float(losses[0]), 4)  # ln 17
    ((2,), 2.8332)
  """
  z, c, weights = _checked_arrays(z, c, weights, ('N', 'H', 'W'))
  num_images, _, width, _ = z.shape
  heights = _heights(z.shape, len(weights), skip)
  anchored = [(num_images, height, width) for height in heights]
  _check_negatives(negative_indices, anchored)
  predictions = [
    _prediction(c[:, :height], weight)
    for height, weight in zip(heights, weights, strict=True)
  ]
  if negative_indices is None:
    targets = [_rows(z[:, -height:]) for height in heights]
    return _contrast_all(predictions, targets, epsilon)
  own = [_grid_indices(z.shape, height).reshape(-1) for height in heights]
  return _contrast(predictions, _rows(z), own, negative_indices, epsilon)


def sequence_infonce(
  z: jax.Array,
  c: jax.Array,
  weights: jax.Array,
  negative_indices: jax.Array | Sequence[jax.Array] | None = None,
  *,
  start: int | jax.Array = 0,
  window: int | None = None,
) -> Contrast:
  """Computes InfoNCE along sequences.

  The context of frame t predicts the features of frame t + s, for s = 1 to S:
  12 in the published setting.

  A window confines anchors and targets, and so the cost, to T frames; negatives
  still come from anywhere in the sequences. Contexts are computed by the caller
  on all frames, since an autoregressor needs the past.

  Args:
    z: features to predict, shape [N, L, C].
    c: contexts, shape [N, L, D].
    weights: W_s for each offset, shape [S, C, D].
    negative_indices: integers, see `sequence_negatives`. Either one array of
      shape [N, T, K]: the negatives of each target frame of the window, for
      whatever context predicts it. Or for each offset s the negatives of every
      anchor, S arrays of shape [N, T - s, K]. An index is sequence * L + frame,
      of any frame, within a window or not. All other anchors' targets if None.
    start: the window's first frame, at most L - T, the same in all sequences;
      see `window_start`. If it is traced, a larger one cannot be refused.
    window: T, which leaves R_s = N * (T - s) anchors; all L frames if None.

  Raises:
    ValueError: if shapes or dtypes are not as described, the window is not
      within the sequence or has no more than S frames, or an anchor has nothing
      to be contrasted with.

  Examples:
    >>> frames = jnp.ones((2, 6, 8))
    >>> weights = jnp.zeros((3, 8, 8))
    >>> indices = sequence_negatives(jax.random.key(0), frames.shape, 3, 10)
    >>> losses = sequence_infonce(frames, frames, weights, indices).loss
    >>> losses.shape, round(float(losses[0]), 4)  # ln 11
    ((3,), 2.3979)
  """
  z, c, weights = _checked_arrays(z, c, weights, ('N', 'L'))
  lengths, window = _lengths(z.shape, len(weights), start, window)
  contexts = jax.lax.dynamic_slice_in_dim(c, start, window, axis=1)
  if not isinstance(negative_indices, Sequence | None):
    _check_negatives([negative_indices], [(len(z), window)])
    return _contrast_frames(z, contexts, weights, negative_indices, start)
  _check_negatives(negative_indices, [(len(z), length) for length in lengths])
  predictions = [
    _prediction(contexts[:, :length], weight)
    for length, weight in zip(lengths, weights, strict=True)
  ]
  if negative_indices is None:
    within = jax.lax.dynamic_slice_in_dim(z, start, window, axis=1)
    targets = [_rows(within[:, -length:]) for length in lengths]
    return _contrast_all(predictions, targets, 0.0)
  own = [
    _frame_indices(z.shape, start + window, length).reshape(-1)
    for length in lengths
  ]
  return _contrast(predictions, _rows(z), own, negative_indices, 0.0)


def grid_negatives(
  rng: jax.Array,
  shape: Sequence[int],
  num_offsets: int,
  num_negatives: int,
  *,
  skip: int = 1,
  avoid_positive: bool = False,
) -> tuple[jax.Array, ...]:
  """Draws negatives for `grid_infonce`, uniformly and with replacement.

  They are independent for each anchor and offset, and come from the offset's
  targets in all images: rows from s + skip on. As in the official code one may
  be the positive itself, with probability 1 / R_s each.

  Args:
    rng: a key.
    shape: of z, [N, H, W, C].
    num_offsets: S.
    num_negatives: K of each anchor; 16 in the published setting.
    skip: as in `grid_infonce`.
    avoid_positive: draws from the other R_s - 1 targets only.

  Returns:
    For each offset s the indices, int32, shape [N, H - s - skip, W, K].

  Raises:
    ValueError: as `grid_infonce`, or if a number is not positive.
  """
  if len(shape) != 4:
    raise ValueError(f'shape is {tuple(shape)}, not that of z, [N, H, W, C].')
  _check_counts(num_offsets, num_negatives)
  num_images, _, width, _ = shape
  indices = []
  for key, height in zip(
    jax.random.split(rng, num_offsets),
    _heights(shape, num_offsets, skip),
    strict=True,
  ):
    anchored = (num_images, height, width)
    num_targets = math.prod(anchored)
    _check_others(anchored)
    if avoid_positive:
      drawn = _others(key, anchored, num_negatives)
    else:
      drawn = jax.random.randint(
        key, (*anchored, num_negatives), 0, num_targets
      )
    indices.append(_grid_indices(shape, height).reshape(-1)[drawn])
  return tuple(indices)


def sequence_negatives(
  rng: jax.Array,
  shape: Sequence[int],
  num_offsets: int,
  num_negatives: int,
  *,
  method: int = 1,
  start: int | jax.Array = 0,
  window: int | None = None,
) -> jax.Array | tuple[jax.Array, ...]:
  """Draws negatives for `sequence_infonce`, by the official code's methods.

  0: other anchors' targets at the same offset, drawn for each offset. Never the
     positive.
  1: any frame of any sequence, drawn for each target frame, which all contexts
     that predict it share. One may be the positive itself.
  2: the same with frames of the target's own sequence only.

  All are uniform and with replacement. (For methods 1 and 2 the official code
  permutes the frames K times a step, which costs more than the loss; offsets
  share its permutations, and so negatives too.)

  Args:
    rng: a key.
    shape: of z, [N, L, C].
    num_offsets: S.
    num_negatives: K of each anchor; 10 in the published setting.
    method: 0, 1 or 2.
    start: as in `sequence_infonce`; only method 0 needs it.
    window: as in `sequence_infonce`.

  Returns:
    Indices, int32, shape [N, T, K] with T the window; for method 0 for each
    offset s an array of shape [N, T - s, K].

  Raises:
    ValueError: as `sequence_infonce`, or if the method is unknown or a number
      is not positive.
  """
  if len(shape) != 3:
    raise ValueError(f'shape is {tuple(shape)}, not that of z, [N, L, C].')
  if method not in (0, 1, 2):
    raise ValueError(f'method is {method!r}: accepted are 0, 1 and 2.')
  _check_counts(num_offsets, num_negatives)
  num_sequences, num_frames, _ = shape
  lengths, window = _lengths(shape, num_offsets, start, window)
  if method == 0:
    indices = []
    for key, length in zip(
      jax.random.split(rng, num_offsets), lengths, strict=True
    ):
      anchored = (num_sequences, length)
      _check_others(anchored)
      targets = _frame_indices(shape, start + window, length).reshape(-1)
      indices.append(targets[_others(key, anchored, num_negatives)])
    return tuple(indices)
  drawn = (num_sequences, window, num_negatives)
  if method == 1:
    return jax.random.randint(rng, drawn, 0, num_sequences * num_frames)
  first_rows = jnp.arange(num_sequences) * num_frames
  frames = jax.random.randint(rng, drawn, 0, num_frames)
  return first_rows[:, None, None] + frames


def window_start(rng: jax.Array, num_frames: int, window: int) -> jax.Array:
  """Draws where a window starts: uniform over all that fit.

  Args:
    rng: a key.
    num_frames: L.
    window: T, from 1 to L; 128 in the published setting.

  Returns:
    A frame from 0 to L - T, int32, a scalar.

  Raises:
    ValueError: if the window is empty or longer than the sequence.
  """
  _check_window(num_frames, window)
  return jax.random.randint(rng, (), 0, num_frames - window + 1)


def _prediction(contexts: jax.Array, weight: jax.Array) -> jax.Array:
  """Returns W c, shape [R, C], of contexts [..., D] and a weight [C, D]."""
  return jnp.einsum(
    'rd,cd->rc', _rows(contexts), weight, preferred_element_type=jnp.float32
  )


def _contrast(
  predictions: Sequence[jax.Array],
  rows: jax.Array,
  own: Sequence[jax.Array],
  negative_indices: Sequence[jax.Array],
  epsilon: float,
) -> Contrast:
  """Contrasts each anchor's own row with those that its indices name.

  Of each offset there are predictions [R_s, C], the indices [R_s] of the
  anchors' own rows, and those of their negatives, [..., K].
  """
  anchors = jnp.concatenate(predictions)
  # The positive goes the way of the negatives, so that a negative which is the
  # positive scores exactly the same.
  indices = jnp.concatenate(
    [
      jnp.concatenate([positive[:, None], _rows(negative)], axis=1)
      for positive, negative in zip(own, negative_indices, strict=True)
    ]
  )
  # Unsigned, an index below 0 is out of range too instead of counted from the
  # end.
  indices = indices.astype(jnp.uint32)

  # Saved for the backward pass, the gathered rows would take K times the memory
  # of the anchors; gathering them again is cheap.
  @jax.checkpoint
  def scores_with(column):
    gathered = jnp.take(rows, column, axis=0, mode='fill', fill_value=jnp.nan)
    return jnp.sum(anchors * gathered, axis=1)

  scores = jax.lax.map(scores_with, indices.T)
  losses, hits = _measured(scores[0], scores[1:], 0, epsilon)
  sizes = [len(x) for x in predictions]
  ends = [sum(sizes[:i]) for i in range(1, len(sizes))]
  return Contrast(
    loss=jnp.stack([jnp.mean(x) for x in jnp.split(losses, ends)]),
    accuracy=jnp.stack([jnp.mean(x) for x in jnp.split(hits, ends)]),
    ceiling=_log(len(sizes) * [indices.shape[1]]),
  )


def _contrast_frames(
  z: jax.Array,
  contexts: jax.Array,
  weights: jax.Array,
  negative_indices: jax.Array,
  start: int | jax.Array,
) -> Contrast:
  """Contrasts each frame with its negatives, for all that predict it.

  Contexts [N, T, D] and indices [N, T, K] are those of the window.
  """
  num_offsets, features, _ = weights.shape
  num_sequences, num_frames, _ = z.shape
  window, num_negatives = negative_indices.shape[1:]
  predictions = jnp.einsum(
    'nd,dc->nc',
    _rows(contexts),
    weights.transpose(2, 0, 1).reshape(-1, num_offsets * features),
    preferred_element_type=jnp.float32,
  )
  predictions = _aligned(
    predictions.reshape(num_sequences, window, num_offsets, features)
  )
  # The positive goes the way of the negatives, so that a negative which is the
  # positive scores exactly the same.
  own = _frame_indices(z.shape, start + window, window)
  indices = jnp.concatenate([own[:, :, None], negative_indices], axis=2)
  candidates = jnp.take(_rows(z), indices, axis=0, mode='clip')
  scores = jnp.einsum(
    'ntsc,ntkc->ntks',
    predictions,
    candidates,
    preferred_element_type=jnp.float32,
  )
  losses, hits = _measured(scores[:, :, 0], scores[:, :, 1:], 2, 0.0)
  within = jnp.arange(window)[:, None] >= jnp.arange(1, num_offsets + 1)[None]
  predicted = jnp.broadcast_to(within[None], losses.shape)
  count = num_sequences * num_frames
  in_range = jnp.all((negative_indices >= 0) & (negative_indices < count))
  loss = jnp.mean(losses, axis=(0, 1), where=predicted)
  return Contrast(
    loss=jnp.where(in_range, loss, jnp.nan),
    accuracy=jnp.mean(hits, axis=(0, 1), where=predicted),
    ceiling=_log(num_offsets * [num_negatives + 1]),
  )


def _aligned(predictions: jax.Array) -> jax.Array:
  """Moves what is predicted of a frame to that frame, [N, T, S, C].

  Offset s moves by s frames, and leaves 0 where t < s: rows of one length read
  as rows that are shorter by one. Pads, slices and reshapes alone, as the
  gradient of a gather would add up row by row, as slow as the scores.
  """
  n, window, num_offsets, features = predictions.shape
  length = window + num_offsets
  rows = jnp.pad(
    predictions.transpose(0, 2, 1, 3),
    ((0, 0), (0, 0), (1, num_offsets - 1), (0, 0)),
  )
  flat = rows.reshape(n, num_offsets * length, features)
  rows = flat[:, : num_offsets * (length - 1)].reshape(
    n, num_offsets, length - 1, features
  )
  return rows[:, :, :window].transpose(0, 2, 1, 3)


def _contrast_all(
  predictions: Sequence[jax.Array],
  targets: Sequence[jax.Array],
  epsilon: float,
) -> Contrast:
  """Contrasts each anchor's target, in the same row, with all other targets."""
  losses, accuracies = [], []
  for anchor, target in zip(predictions, targets, strict=True):
    scores = jnp.einsum(
      'ac,tc->at', anchor, target, preferred_element_type=jnp.float32
    )
    own = jnp.eye(len(anchor), dtype=bool)
    # A masked sum rather than a gather: it keeps the anchors' sharding.
    positive = jnp.sum(scores, axis=1, where=own)
    top, log_sum = _log_sum_exp(scores, axis=1)
    log_posterior = positive - log_sum
    losses.append(jnp.mean(_loss(log_posterior, epsilon)))
    accuracies.append(jnp.mean((positive >= top).astype(jnp.float32)))
  return Contrast(
    loss=jnp.stack(losses),
    accuracy=jnp.stack(accuracies),
    ceiling=_log([len(x) for x in predictions]),
  )


def _measured(
  positive: jax.Array, negative: jax.Array, axis: int, epsilon: float
) -> tuple[jax.Array, jax.Array]:
  """Returns each anchor's loss in nats and whether it is right, 0 or 1.

  The scores of an anchor's negatives are along an axis that its positive lacks.
  """
  top, log_sum = _log_sum_exp(negative, axis)
  # log(e^p / (e^p + e^s)) = -log(1 + e^(s - p)), which cancels nothing.
  log_posterior = -jax.nn.softplus(log_sum - positive)
  hits = (positive >= top).astype(jnp.float32)
  return _loss(log_posterior, epsilon), hits


def _log_sum_exp(scores: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Returns the maximum, without a gradient, and log(sum(exp(scores))).

  `jax.nn.logsumexp` does the same for infinite scores too, at a multiple of the
  cost where the axis is short.
  """
  top = jax.lax.stop_gradient(jnp.max(scores, axis=axis, keepdims=True))
  log_sum = jnp.log(jnp.sum(jnp.exp(scores - top), axis=axis))
  top = jnp.squeeze(top, axis)
  return top, top + log_sum


def _loss(log_posterior: jax.Array, epsilon: float) -> jax.Array:
  if epsilon:
    log_posterior = jnp.log(jnp.exp(log_posterior) + epsilon)
  return -log_posterior


def _log(counts: Sequence[int]) -> jax.Array:
  return jnp.asarray([math.log(x) for x in counts], jnp.float32)


def _rows(array: jax.Array) -> jax.Array:
  return array.reshape(-1, array.shape[-1])


def _grid_indices(shape: Sequence[int], height: int) -> jax.Array:
  """Returns indices of the last `height` rows of each image, [N, height, W]."""
  num_images, all_rows, width, _ = shape
  indices = jnp.arange(num_images * all_rows * width)
  return indices.reshape(num_images, all_rows, width)[:, -height:]


def _frame_indices(
  shape: Sequence[int], end: int | jax.Array, length: int
) -> jax.Array:
  """Returns indices of the `length` frames before frame `end`, [N, length]."""
  num_sequences, num_frames, _ = shape
  first_rows = jnp.arange(num_sequences) * num_frames
  return first_rows[:, None] + (end - length + jnp.arange(length))[None, :]


def _others(
  rng: jax.Array, anchored: tuple[int, ...], num_negatives: int
) -> jax.Array:
  """Draws uniform indices of other anchors, shape [*anchored, K]."""
  num_anchors = math.prod(anchored)
  own = jnp.arange(num_anchors)[:, None]
  steps = jax.random.randint(rng, (num_anchors, num_negatives), 1, num_anchors)
  return ((own + steps) % num_anchors).reshape(*anchored, num_negatives)


def _heights(
  shape: Sequence[int], num_offsets: int, skip: int
) -> tuple[int, ...]:
  """Returns the number of rows that have a target, for each offset."""
  height = shape[1]
  if skip < 0:
    raise ValueError(f'skip is {skip}: it must be at least 0.')
  if height <= num_offsets + skip:
    raise ValueError(
      f'The grid has {height} rows, but {num_offsets} offsets with skip {skip} '
      f'need more than {num_offsets + skip}.'
    )
  return tuple(height - skip - s for s in range(1, num_offsets + 1))


def _lengths(
  shape: Sequence[int],
  num_offsets: int,
  start: int | jax.Array,
  window: int | None,
) -> tuple[tuple[int, ...], int]:
  """Returns the frames that have a target, for each offset; and the window."""
  num_frames = shape[1]
  if window is None:
    window = num_frames
  _check_window(num_frames, window)
  # A start that is traced is the caller's to keep in range.
  concrete = not isinstance(start, jax.core.Tracer)
  if concrete and not 0 <= start <= num_frames - window:
    raise ValueError(
      f'A window of {window} frames from frame {start} on is not within '
      f'sequences of {num_frames} frames.'
    )
  if window <= num_offsets:
    raise ValueError(
      f'{num_offsets} offsets need more than {num_offsets} frames, but there '
      f'are {window}.'
    )
  return tuple(window - s for s in range(1, num_offsets + 1)), window


def _check_window(num_frames: int, window: int) -> None:
  if not 0 < window <= num_frames:
    raise ValueError(
      f'The window is {window} frames, but sequences have {num_frames}.'
    )


def _check_counts(num_offsets: int, num_negatives: int) -> None:
  if num_offsets < 1 or num_negatives < 1:
    raise ValueError(
      f'num_offsets is {num_offsets} and num_negatives {num_negatives}: both '
      'must be at least 1.'
    )


def _check_others(anchored: tuple[int, ...]) -> None:
  if math.prod(anchored) < 2:
    raise ValueError(
      f'{math.prod(anchored)} target for anchors of shape {anchored}: '
      'negatives are the targets of others, so at least 2 are needed. Give '
      'more images or sequences, or fewer offsets.'
    )


def _checked_arrays(
  z: jax.Array, c: jax.Array, weights: jax.Array, axes: tuple[str, ...]
) -> list[jax.Array]:
  """Returns z [*axes, C], c [*axes, D] and weights [S, C, D] in float32."""
  rank = len(axes) + 1
  shared = ', '.join(axes)
  if z.ndim != rank or c.ndim != rank or z.shape[:-1] != c.shape[:-1]:
    raise ValueError(
      f'z has shape {z.shape} and c {c.shape}, not [{shared}, C] and '
      f'[{shared}, D].'
    )
  pair = (z.shape[-1], c.shape[-1])
  if weights.ndim != 3 or weights.shape[1:] != pair or not len(weights):
    raise ValueError(
      f'weights has shape {weights.shape}, not [S, C, D] with at least one '
      f'offset, C = {pair[0]} of z and D = {pair[1]} of c.'
    )
  return [x.astype(jnp.float32) for x in (z, c, weights)]


def _check_negatives(
  negative_indices: Sequence[jax.Array] | None,
  anchored: Sequence[tuple[int, ...]],
) -> None:
  """Checks one integer array [*shape, K] for each shape of the anchors."""
  if negative_indices is None:
    # The last offset has the fewest targets.
    _check_others(anchored[-1])
    return
  if len(negative_indices) != len(anchored):
    raise ValueError(
      f'negative_indices are for {len(negative_indices)} offsets, weights for '
      f'{len(anchored)}.'
    )
  num_negatives = negative_indices[0].shape[-1]
  if not num_negatives:
    raise ValueError('negative_indices hold 0 negatives: at least 1 is needed.')
  for s, (indices, shape) in enumerate(
    zip(negative_indices, anchored, strict=True), start=1
  ):
    if indices.shape != (*shape, num_negatives):
      raise ValueError(
        f'negative_indices of offset {s} have shape {indices.shape}, not '
        f'{(*shape, num_negatives)}.'
      )
    if not jnp.issubdtype(indices.dtype, jnp.integer):
      raise ValueError(
        f'negative_indices of offset {s} are {indices.dtype}, not integers.'
      )
