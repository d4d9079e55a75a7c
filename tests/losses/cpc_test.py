"""Contrastive prediction against loops over anchors, and known values."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import bounds, cpc
from tests.losses.reference import as_float32, numerical_gradient

NUM_IMAGES, HEIGHT, WIDTH = 2, 5, 2
NUM_SEQUENCES, NUM_FRAMES = 2, 6
TARGET_FEATURES, CONTEXT_FEATURES = 3, 2
NUM_OFFSETS, NUM_NEGATIVES = 2, 4
GRID = (NUM_IMAGES, HEIGHT, WIDTH)
SEQUENCE = (NUM_SEQUENCES, NUM_FRAMES)

grid_infonce = jax.jit(cpc.grid_infonce, static_argnames=('skip', 'epsilon'))
sequence_infonce = jax.jit(cpc.sequence_infonce, static_argnames='window')
grid_negatives = jax.jit(
  cpc.grid_negatives,
  static_argnames=(
    'shape',
    'num_offsets',
    'num_negatives',
    'skip',
    'avoid_positive',
  ),
)
sequence_negatives = jax.jit(
  cpc.sequence_negatives,
  static_argnames=('shape', 'num_offsets', 'num_negatives', 'method', 'window'),
)


def contrast(positive, negatives):
  """Loss and hit of one anchor: the papers' softmax, in float64."""
  scores = np.array([positive, *negatives])
  top = scores.max()
  log_sum = top + np.log(np.sum(np.exp(scores - top)))
  return log_sum - positive, float(positive >= max(negatives))


def score(target, weight, context):
  """z^T W c, from its definition."""
  return sum(
    target[i] * weight[i, j] * context[j]
    for i in range(len(target))
    for j in range(len(context))
  )


def grid_reference(z, c, weights, indices, skip=1):
  """Loss and accuracy of each offset; without indices, all others."""
  num_images, height, width, _ = z.shape
  results = []
  for step, weight in enumerate(weights, start=1):
    offset = step + skip
    places = [
      (n, y, x)
      for n in range(num_images)
      for y in range(offset, height)
      for x in range(width)
    ]
    anchors = []
    for own, (n, y, x) in enumerate(places):
      if indices is None:
        others = [place for i, place in enumerate(places) if i != own]
      else:
        others = [
          np.unravel_index(i, (num_images, height, width))
          for i in indices[step - 1][n, y - offset, x]
        ]
      context = c[n, y - offset, x]
      anchors.append(
        contrast(
          score(z[n, y, x], weight, context),
          [score(z[place], weight, context) for place in others],
        )
      )
    results.append(np.mean(anchors, axis=0))
  return np.array(results).T


def sequence_reference(z, c, weights, indices, start=0, window=None):
  """Loss and accuracy of each offset; without indices, all others."""
  num_sequences, num_frames, _ = z.shape
  window = num_frames if window is None else window
  results = []
  for step, weight in enumerate(weights, start=1):
    anchors = []
    places = [
      (n, t) for n in range(num_sequences) for t in range(window - step)
    ]
    for n, t in places:
      if indices is None:
        others = [(m, start + u + step) for m, u in places if (m, u) != (n, t)]
      else:
        others = [divmod(i, num_frames) for i in indices[step - 1][n, t]]
      context = c[n, start + t]
      anchors.append(
        contrast(
          score(z[n, start + t + step], weight, context),
          [score(z[place], weight, context) for place in others],
        )
      )
    results.append(np.mean(anchors, axis=0))
  return np.array(results).T


def arrays_of(seed, axes):
  """z, c and weights, in float64."""
  rng = np.random.default_rng(seed)
  return (
    rng.normal(size=(*axes, TARGET_FEATURES)),
    rng.normal(size=(*axes, CONTEXT_FEATURES)),
    rng.normal(size=(NUM_OFFSETS, TARGET_FEATURES, CONTEXT_FEATURES)),
  )


def grid_indices(seed, skip=1):
  """Any patches, drawn without the functions under test."""
  rng = np.random.default_rng(seed)
  shapes = [
    (NUM_IMAGES, HEIGHT - step - skip, WIDTH)
    for step in range(1, NUM_OFFSETS + 1)
  ]
  return tuple(
    rng.integers(0, math.prod(GRID), (*shape, NUM_NEGATIVES))
    for shape in shapes
  )


def sequence_indices(seed, window=NUM_FRAMES):
  rng = np.random.default_rng(seed)
  return tuple(
    rng.integers(
      0,
      NUM_SEQUENCES * NUM_FRAMES,
      (NUM_SEQUENCES, window - step, NUM_NEGATIVES),
    )
    for step in range(1, NUM_OFFSETS + 1)
  )


def all_others(anchored, to_row):
  """Indices [*anchored, R - 1] of every other anchor's target."""
  size = math.prod(anchored)
  others = [[to_row(j) for j in range(size) if j != i] for i in range(size)]
  return np.array(others).reshape(*anchored, size - 1)


def check_contrast(result, expected, ceiling):
  """Compares with a reference's loss and accuracy of each offset."""
  loss, accuracy = expected
  np.testing.assert_allclose(result.loss, loss, rtol=2e-6)
  np.testing.assert_allclose(result.accuracy, accuracy, rtol=1e-6)
  np.testing.assert_allclose(result.ceiling, ceiling, rtol=1e-6)
  assert result.loss.dtype == jnp.float32


def check_gradients(loss, reference, arrays):
  """Compares gradients to z, c and weights with those of the definition.

  Offsets are weighed unequally, so that no two can be confused.
  """
  scale = np.arange(1.0, NUM_OFFSETS + 1)

  @jax.jit
  def weighed(*arrays):
    return jnp.dot(loss(*arrays).loss, jnp.asarray(scale, jnp.float32))

  gradients = jax.grad(weighed, argnums=(0, 1, 2))(*as_float32(*arrays))
  for position, gradient in enumerate(gradients):

    def moved(array, position=position):
      changed = [*arrays[:position], array, *arrays[position + 1 :]]
      return np.dot(reference(*changed)[0], scale)

    np.testing.assert_allclose(
      gradient, numerical_gradient(moved, arrays[position]), atol=5e-6
    )


@pytest.mark.parametrize('skip', [0, 1, 2])
def test_grid_equals_its_definition(skip):
  arrays = arrays_of(seed=0, axes=GRID)
  indices = grid_indices(seed=1, skip=skip)
  result = grid_infonce(*as_float32(*arrays), indices, skip=skip)
  expected = grid_reference(*arrays, indices, skip=skip)
  check_contrast(result, expected, math.log(5))
  if skip == 0:  # Anchors enough for accuracies that are not trivial.
    accuracy = expected[1]
    assert 0 < accuracy.min() <= accuracy.max() < 1


@pytest.mark.parametrize(('start', 'window'), [(0, None), (0, 4), (2, 4)])
def test_sequence_equals_its_definition(start, window):
  arrays = arrays_of(seed=2, axes=SEQUENCE)
  indices = sequence_indices(seed=3, window=window or NUM_FRAMES)
  # Under jit the start is traced.
  result = sequence_infonce(
    *as_float32(*arrays), indices, start=start, window=window
  )
  expected = sequence_reference(*arrays, indices, start, window)
  check_contrast(result, expected, math.log(5))


def test_grid_gradient_is_that_of_the_definition():
  indices = grid_indices(seed=4)
  check_gradients(
    functools.partial(cpc.grid_infonce, negative_indices=indices),
    functools.partial(grid_reference, indices=indices),
    arrays_of(seed=5, axes=GRID),
  )


def test_sequence_gradient_is_that_of_the_definition():
  indices = sequence_indices(seed=6, window=4)
  check_gradients(
    functools.partial(
      cpc.sequence_infonce, negative_indices=indices, start=1, window=4
    ),
    functools.partial(sequence_reference, indices=indices, start=1, window=4),
    arrays_of(seed=7, axes=SEQUENCE),
  )


def of_each_offset(shared):
  """Indices of each target frame as those of each anchor, for each offset."""
  return tuple(shared[:, step:] for step in range(1, NUM_OFFSETS + 1))


def shared_indices(seed, window=NUM_FRAMES):
  return np.random.default_rng(seed).integers(
    0, math.prod(SEQUENCE), (NUM_SEQUENCES, window, NUM_NEGATIVES)
  )


@pytest.mark.parametrize(('start', 'window'), [(0, None), (0, 4), (2, 4)])
def test_shared_negatives_equal_the_definition(start, window):
  arrays = arrays_of(seed=24, axes=SEQUENCE)
  shared = shared_indices(seed=25, window=window or NUM_FRAMES)
  result = sequence_infonce(
    *as_float32(*arrays), shared, start=start, window=window
  )
  expected = sequence_reference(*arrays, of_each_offset(shared), start, window)
  check_contrast(result, expected, math.log(5))


def test_shared_negatives_have_the_gradient_of_each_offsets():
  arrays = as_float32(*arrays_of(seed=26, axes=SEQUENCE))
  shared = shared_indices(seed=27, window=4)
  # What frame 0 of the window has is never used: no context predicts it.
  shared[0, 0] = 7
  evaluate = value_and_gradients(
    functools.partial(cpc.sequence_infonce, start=1, window=4)
  )
  check_equal(
    evaluate(*arrays, shared), evaluate(*arrays, of_each_offset(shared))
  )


def test_shared_negatives_that_are_the_positive_tie():
  z, c, weights = as_float32(*arrays_of(seed=28, axes=SEQUENCE))
  own = np.arange(math.prod(SEQUENCE)).reshape(*SEQUENCE, 1)
  result = sequence_infonce(z, c, weights, np.repeat(own, 3, axis=2))
  np.testing.assert_allclose(result.loss, NUM_OFFSETS * [math.log(4)])
  np.testing.assert_array_equal(result.accuracy, 1)


def test_a_shared_index_out_of_range_is_not_clipped():
  arrays = as_float32(*arrays_of(seed=29, axes=SEQUENCE))
  for wrong in (math.prod(SEQUENCE), -1):
    shared = shared_indices(seed=30)
    shared[1, 3, 2] = wrong
    result = sequence_infonce(*arrays, shared)
    assert np.all(np.isnan(result.loss))


def value_and_gradients(loss):
  """Jitted: arrays and indices to gradients and the contrast."""

  def total(z, c, weights, indices):
    result = loss(z, c, weights, indices)
    return jnp.sum(result.loss), result

  return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))


def check_equal(ours, expected):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6),
    ours,
    expected,
  )


def test_grid_against_all_others_is_the_gather_of_all_others():
  arrays = arrays_of(seed=8, axes=GRID)
  arrays = [*arrays[:2], arrays[2][:1]]
  anchored = (NUM_IMAGES, HEIGHT - 2, WIDTH)

  def to_row(index):
    n, y, x = np.unravel_index(index, anchored)
    return (n * HEIGHT + y + 2) * WIDTH + x

  evaluate = value_and_gradients(cpc.grid_infonce)
  check_equal(
    evaluate(*as_float32(*arrays), None),
    evaluate(*as_float32(*arrays), [all_others(anchored, to_row)]),
  )


def test_sequence_against_all_others_is_the_gather_of_all_others():
  arrays = arrays_of(seed=9, axes=SEQUENCE)
  arrays = [*arrays[:2], arrays[2][:1]]
  start, window = 1, 4
  anchored = (NUM_SEQUENCES, window - 1)

  def to_row(index):
    n, t = np.unravel_index(index, anchored)
    return n * NUM_FRAMES + start + 1 + t

  evaluate = value_and_gradients(
    functools.partial(cpc.sequence_infonce, start=start, window=window)
  )
  check_equal(
    evaluate(*as_float32(*arrays), None),
    evaluate(*as_float32(*arrays), [all_others(anchored, to_row)]),
  )


def test_grid_against_all_others_equals_its_definition():
  arrays = arrays_of(seed=22, axes=GRID)
  result = grid_infonce(*as_float32(*arrays))
  # 12 and 8 targets, of which one is the positive.
  check_contrast(result, grid_reference(*arrays, None), np.log([12, 8]))


def test_sequence_against_all_others_equals_its_definition():
  arrays = arrays_of(seed=23, axes=SEQUENCE)
  result = sequence_infonce(*as_float32(*arrays), start=1, window=4)
  expected = sequence_reference(*arrays, None, start=1, window=4)
  check_contrast(result, expected, np.log([6, 4]))


def test_a_grid_by_hand():
  # One feature, one column, three rows, W = 1: row 0 predicts row 2. Image 0
  # has context 1 and target ln 3, image 1 context 2 and target 0.
  z = jnp.array([9.0, 9.0, math.log(3), 9.0, 9.0, 0.0]).reshape(2, 3, 1, 1)
  c = jnp.array([1.0, 9.0, 9.0, 2.0, 9.0, 9.0]).reshape(2, 3, 1, 1)
  weights = jnp.ones((1, 1, 1))
  # Each has the other's target as negative: e^score is 3 against 1 for image
  # 0, and 1 against 3^2 for image 1.
  expected = (math.log(4 / 3) + math.log(10)) / 2
  for indices in (None, [np.array([5, 2]).reshape(2, 1, 1, 1)]):
    result = grid_infonce(z, c, weights, indices)
    np.testing.assert_allclose(result.loss, [expected], rtol=1e-6)
    np.testing.assert_array_equal(result.accuracy, [0.5])
    np.testing.assert_allclose(result.ceiling, [math.log(2)], rtol=1e-6)
  # Its own target as the only negative is a tie: ln 2, and correct.
  own = [np.array([2, 5]).reshape(2, 1, 1, 1)]
  result = grid_infonce(z, c, weights, own)
  np.testing.assert_allclose(result.loss, [math.log(2)], rtol=1e-6)
  np.testing.assert_array_equal(result.accuracy, [1])


def test_a_sequence_by_hand():
  # Frame 0 predicts frame 1, frame 1 predicts frame 2; contexts 1 and 2,
  # W = 2. The negatives are frames 0 and 2.
  z = jnp.array([0.0, 1.0, -1.0]).reshape(1, 3, 1)
  c = jnp.array([1.0, 2.0, 9.0]).reshape(1, 3, 1)
  indices = [jnp.array([0, 2]).reshape(1, 2, 1)]
  result = sequence_infonce(z, c, jnp.full((1, 1, 1), 2.0), indices)
  # Scores 2 against 0; then -4 against -4, which is the positive itself.
  expected = (math.log1p(math.exp(-2)) + math.log(2)) / 2
  np.testing.assert_allclose(result.loss, [expected], rtol=1e-6)
  np.testing.assert_array_equal(result.accuracy, [1])


def test_equal_scores_cost_the_ceiling():
  z, c, weights = as_float32(*arrays_of(seed=10, axes=GRID))
  result = grid_infonce(z, c, 0 * weights, grid_indices(seed=11))
  np.testing.assert_allclose(result.loss, math.log(5), rtol=1e-6)
  np.testing.assert_allclose(result.loss, result.ceiling, rtol=1e-6)
  # The official settings, 16 and 10 negatives.
  ones = jnp.ones((2, 7, 7, 1))
  indices = [np.zeros((2, 6 - step, 7, 16), int) for step in range(1, 6)]
  result = grid_infonce(ones, ones, jnp.ones((5, 1, 1)), indices)
  np.testing.assert_allclose(result.loss, 5 * [math.log(17)], rtol=1e-6)
  ones = jnp.ones((2, 14, 1))
  indices = [np.zeros((2, 14 - step, 10), int) for step in range(1, 13)]
  result = sequence_infonce(ones, ones, jnp.ones((12, 1, 1)), indices)
  np.testing.assert_allclose(result.loss, 12 * [math.log(11)], rtol=1e-6)


def test_the_loss_is_the_ceiling_less_the_infonce_bound():
  # One feature and W = 1: scores are products of targets and contexts.
  rng = np.random.default_rng(12)
  z, c = rng.normal(size=(2, 4, 3, 1, 1)).astype(np.float32)
  result = grid_infonce(jnp.asarray(z), jnp.asarray(c), jnp.ones((1, 1, 1)))
  scores = c[:, 0, 0, :] * z[:, 2, 0, 0][None, :]
  positive, negative, where = bounds.split_pairs(
    jnp.asarray(scores[:, :, None])
  )
  np.testing.assert_allclose(
    result.ceiling - result.loss,
    [bounds.infonce(positive, negative, where=where)],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    result.ceiling, [bounds.ceiling('infonce', 3)], rtol=1e-6
  )


def test_grid_equals_the_official_code():
  # Its layout: images [B, C, H, W], kernels [D, C], targets counted over row,
  # column and image in that order, and log(softmax + 1e-11).
  rng = np.random.default_rng(13)
  num_images, height, width, features = 3, 5, 2, 3
  z, c = rng.normal(0, 4, (2, num_images, features, height, width))
  kernels = rng.normal(0, 2, (NUM_OFFSETS, features, features))
  losses, ours = [], []
  for step in range(1, NUM_OFFSETS + 1):
    rows = height - step - 1
    targets = np.einsum('dc,bcyx->yxbd', kernels[step - 1], z[:, :, step + 1 :])
    flat = targets.reshape(-1, features)
    drawn = rng.integers(0, len(flat), (rows, width, num_images, 4))
    anchors = c[:, :, :rows].transpose(2, 3, 0, 1)
    scores = np.concatenate(
      [
        np.sum(anchors * targets, axis=-1, keepdims=True),
        np.einsum('yxbd,yxbkd->yxbk', anchors, flat[drawn]),
      ],
      axis=-1,
    )
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=-1, keepdims=True)
    losses.append(-np.mean(np.log(softmax[..., 0] + 1e-11)))
    row, column, image = np.unravel_index(drawn, (rows, width, num_images))
    index = (image * height + row + step + 1) * width + column
    ours.append(index.transpose(2, 0, 1, 3))
  result = grid_infonce(
    *as_float32(
      z.transpose(0, 2, 3, 1),
      c.transpose(0, 2, 3, 1),
      kernels.transpose(0, 2, 1),
    ),
    tuple(ours),
    epsilon=1e-11,
  )
  np.testing.assert_allclose(result.loss, losses, rtol=1e-5)
  # Some anchors are so wrong that the exact loss is another.
  exact = grid_infonce(
    *as_float32(
      z.transpose(0, 2, 3, 1),
      c.transpose(0, 2, 3, 1),
      kernels.transpose(0, 2, 1),
    ),
    tuple(ours),
  )
  assert float(jnp.min(exact.loss - result.loss)) > 0.1


def test_epsilon_saturates_the_loss_and_its_default_does_not():
  # One anchor whose score is 1000 below its only negative.
  z = jnp.array([0.0, 0.0, -1000.0, 0.0, 0.0, 0.0]).reshape(2, 3, 1, 1)
  c = jnp.ones((2, 3, 1, 1))
  indices = [np.array([5, 5]).reshape(2, 1, 1, 1)]

  @functools.partial(jax.jit, static_argnums=0)
  @functools.partial(jax.value_and_grad, argnums=1)
  def evaluate(epsilon, weights):
    return cpc.grid_infonce(z, c, weights, indices, epsilon=epsilon).loss[0]

  weights = jnp.ones((1, 1, 1))
  loss, gradient = evaluate(0.0, weights)
  np.testing.assert_allclose(loss, (1000 + math.log(2)) / 2, rtol=1e-6)
  np.testing.assert_allclose(gradient, [[[500]]], rtol=1e-6)
  loss, gradient = evaluate(1e-11, weights)
  np.testing.assert_allclose(loss, (25.3284 + math.log(2)) / 2, rtol=1e-5)
  np.testing.assert_array_equal(gradient, 0)


def test_a_perfect_prediction_costs_nothing():
  # Targets are one-hot, each its own, and contexts name them.
  z = 100 * jnp.eye(6).reshape(2, 3, 6)
  c = jnp.roll(jnp.eye(6).reshape(2, 3, 6), -1, axis=1)
  result = sequence_infonce(z, c, jnp.eye(6)[None])
  np.testing.assert_allclose(result.loss, [0], atol=1e-6)
  np.testing.assert_array_equal(result.accuracy, [1])


def test_half_precision_features_are_scored_in_float32():
  indices = grid_indices(seed=14)
  arrays = [jnp.asarray(x, jnp.bfloat16) for x in arrays_of(seed=15, axes=GRID)]
  result = grid_infonce(*arrays, indices)
  assert result.loss.dtype == jnp.float32
  exact = [x.astype(jnp.float32) for x in arrays]
  expected, _ = grid_reference(*map(np.float64, exact), indices)
  np.testing.assert_allclose(result.loss, expected, rtol=2e-6)


def test_an_index_out_of_range_is_not_clipped():
  arrays = as_float32(*arrays_of(seed=16, axes=GRID))
  for wrong in (math.prod(GRID), -1):
    indices = grid_indices(seed=17)
    indices[0][0, 0, 0, 0] = wrong
    result = grid_infonce(*arrays, indices)
    np.testing.assert_array_equal(np.isnan(result.loss), [True, False])


def test_vmap():
  batch = [arrays_of(seed, SEQUENCE) for seed in (18, 19)]
  indices = [sequence_indices(seed) for seed in (20, 21)]
  stacked = [jnp.stack(x) for x in zip(*batch, strict=True)]
  result = jax.jit(jax.vmap(cpc.sequence_infonce))(
    *as_float32(*stacked),
    tuple(jnp.stack(x) for x in zip(*indices, strict=True)),
  )
  expected = [
    sequence_reference(*arrays, drawn)[0]
    for arrays, drawn in zip(batch, indices, strict=True)
  ]
  np.testing.assert_allclose(result.loss, expected, rtol=2e-6)


def test_grid_negatives_are_uniform_over_the_targets_of_their_offset():
  shape = (2, 6, 3, 7)
  drawn = grid_negatives(jax.random.key(1), shape, 2, 500, skip=2)
  for indices, height in zip(drawn, (3, 2), strict=True):
    assert indices.shape == (2, height, 3, 500)
    assert indices.dtype == jnp.int32
    own = np.arange(36).reshape(2, 6, 3)[:, -height:].reshape(-1, 1)
    num_targets = len(own)
    flat = np.reshape(indices, (num_targets, 500))
    drawn_rows, counts = np.unique(flat, return_counts=True)
    # 500 an anchor, and as many anchors as targets: 500 of each expected, with
    # a standard deviation of 22. The positive is drawn like any other.
    np.testing.assert_array_equal(drawn_rows, own[:, 0])
    np.testing.assert_allclose(counts, 500, atol=5 * 22)
    np.testing.assert_allclose(np.sum(flat == own), 500, atol=5 * 22)
    # Anchors draw independently.
    assert len(np.unique(flat, axis=0)) == num_targets


def test_grid_negatives_can_avoid_the_positive():
  drawn = grid_negatives(
    jax.random.key(2), (1, 5, 2, 7), 2, 300, avoid_positive=True
  )
  for indices, num_targets in zip(drawn, (6, 4), strict=True):
    flat = np.reshape(indices, (num_targets, 300))
    targets = set(range(10 - num_targets, 10))
    for own, row in enumerate(flat, start=10 - num_targets):
      # Every other, and nothing else.
      np.testing.assert_array_equal(np.unique(row), sorted(targets - {own}))


@pytest.mark.parametrize(('start', 'window'), [(0, None), (1, 4)])
def test_method_0_never_draws_the_positive(start, window):
  shape = (2, 6, 7)
  drawn = sequence_negatives(
    jax.random.key(3), shape, 2, 300, method=0, start=start, window=window
  )
  window = window or 6
  for step, indices in enumerate(drawn, start=1):
    assert indices.shape == (2, window - step, 300)
    targets = {
      n * 6 + start + step + t for n in range(2) for t in range(window - step)
    }
    for n, t in np.ndindex(2, window - step):
      others = sorted(targets - {n * 6 + start + step + t})
      np.testing.assert_array_equal(np.unique(indices[n, t]), others)


@pytest.mark.parametrize('window', [None, 4])
def test_method_1_draws_uniformly_from_all_frames(window):
  frames = window or 6
  drawn = sequence_negatives(
    jax.random.key(4), (3, 6, 7), 2, 500, method=1, window=window
  )
  assert drawn.shape == (3, frames, 500)
  assert drawn.dtype == jnp.int32
  # 3 * frames rows of 500, from 18 frames. A count is binomial: its standard
  # deviation is below the root of its mean.
  expected = 3 * frames * 500 / 18
  counts = np.bincount(np.ravel(drawn), minlength=18)
  assert len(counts) == 18
  np.testing.assert_allclose(counts, expected, atol=5 * expected**0.5)
  # Frames draw independently, and each may draw itself.
  flat = np.reshape(drawn, (-1, 500))
  assert len(np.unique(flat, axis=0)) == 3 * frames
  assert all(len(np.unique(row)) == 18 for row in flat)


@pytest.mark.parametrize('window', [None, 4])
def test_method_2_draws_uniformly_from_the_own_sequence(window):
  frames = window or 6
  drawn = sequence_negatives(
    jax.random.key(6), (3, 6, 7), 2, 500, method=2, window=window
  )
  assert drawn.shape == (3, frames, 500)
  sequences, own = np.divmod(drawn, 6)
  expected = frames * 500 / 6
  for n in range(3):
    np.testing.assert_array_equal(sequences[n], n)
    counts = np.bincount(own[n].ravel(), minlength=6)
    np.testing.assert_allclose(counts, expected, atol=5 * expected**0.5)
  flat = np.reshape(own, (-1, 500))
  assert len(np.unique(flat, axis=0)) == 3 * frames


@pytest.mark.parametrize('method', [0, 1, 2])
def test_sequence_negatives_depend_on_the_key(method):
  one, same, other = (
    sequence_negatives(jax.random.key(seed), (2, 6, 7), 2, 5, method=method)
    for seed in (7, 7, 8)
  )
  jax.tree.map(np.testing.assert_array_equal, one, same)
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  assert all(np.any(x != y) for x, y in pairs)


def test_window_start_draws_every_window_that_fits():
  @functools.partial(jax.jit, static_argnums=(1, 2))
  def starts(rng, num_frames, window):
    return jax.vmap(lambda key: cpc.window_start(key, num_frames, window))(
      jax.random.split(rng, 200)
    )

  key = jax.random.key(9)
  np.testing.assert_array_equal(np.unique(starts(key, 7, 4)), [0, 1, 2, 3])
  np.testing.assert_array_equal(np.unique(starts(key, 4, 4)), [0])


@pytest.mark.parametrize('shared', [False, True])
def test_few_negatives_are_gathered_at_once(shared):
  num_sequences, num_frames, features = 8, 128, 64
  num_offsets, num_negatives, window = 4, 16, 64
  z = jax.ShapeDtypeStruct((num_sequences, num_frames, features), jnp.float32)
  weights = jax.ShapeDtypeStruct((num_offsets, features, features), jnp.float32)
  anchored = [(num_sequences, window - s) for s in range(1, num_offsets + 1)]
  indices = [
    jax.ShapeDtypeStruct((*shape, num_negatives), jnp.int32)
    for shape in anchored
  ]
  if shared:
    shape = (num_sequences, window, num_negatives)
    indices = jax.ShapeDtypeStruct(shape, jnp.int32)

  def loss(z, weights, indices):
    result = cpc.sequence_infonce(z, z, weights, indices, window=window)
    return jnp.mean(result.loss)

  compiled = (
    jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    .lower(z, weights, indices)
    .compile()
  )
  peak = compiled.memory_analysis().temp_size_in_bytes
  # The negatives of all offsets, float32, are 7.6 MB, those of one 2.1 MB.
  # Predictions and their gradient are 0.5 MB each.
  of_all = 4 * num_negatives * features * sum(map(math.prod, anchored))
  assert peak < of_all * (0.9 if shared else 0.5)
  # Nor does the official code's way, every frame of every sequence K times.
  of_every = 4 * num_negatives * num_sequences * num_frames * features
  assert peak < of_every * (2 if shared else 1)


def grid_arguments(height=4, num_offsets=2, num_images=2):
  return (
    np.ones((num_images, height, 1, 3)),
    np.ones((num_images, height, 1, 2)),
    np.ones((num_offsets, 3, 2)),
  )


def test_grid_errors():
  z, c, weights = grid_arguments()
  # Of rows: 3 are refused with 2 offsets and skip 1, 4 are not.
  with pytest.raises(ValueError, match='3 rows, but 2 offsets with skip 1'):
    cpc.grid_infonce(*grid_arguments(height=3))
  with pytest.raises(ValueError, match='3 rows, but 2 offsets with skip 1'):
    cpc.grid_negatives(jax.random.key(0), (2, 3, 1, 3), 2, 1)
  with pytest.raises(ValueError, match='skip is -1'):
    cpc.grid_infonce(z, c, weights, skip=-1)
  # One image of one column: the last offset has one target.
  with pytest.raises(ValueError, match=r'1 target for anchors.*\(1, 1, 1\)'):
    cpc.grid_infonce(*grid_arguments(num_images=1))
  for avoid_positive in (False, True):
    with pytest.raises(ValueError, match='1 target for anchors'):
      cpc.grid_negatives(
        jax.random.key(0), (1, 4, 1, 3), 2, 1, avoid_positive=avoid_positive
      )
  with pytest.raises(ValueError, match=r'\(2, 4, 3\).*\(2, 4, 1, 2\)'):
    cpc.grid_infonce(z[:, :, 0], c, weights)
  with pytest.raises(ValueError, match=r'\(2, 4, 1, 3\).*\(1, 4, 1, 2\)'):
    cpc.grid_infonce(z, c[:1], weights)
  with pytest.raises(ValueError, match=r'\(2, 2, 3\).*C = 3.*D = 2'):
    cpc.grid_infonce(z, c, weights.transpose(0, 2, 1))
  with pytest.raises(ValueError, match=r'\(0, 3, 2\).*at least one offset'):
    cpc.grid_infonce(z, c, weights[:0])
  indices = [np.zeros((2, height, 1, 5), int) for height in (2, 1)]
  with pytest.raises(ValueError, match='for 1 offsets, weights for 2'):
    cpc.grid_infonce(z, c, weights, indices[:1])
  with pytest.raises(
    ValueError, match=r'offset 1 .*\(2, 1, 1, 5\), not \(2, 2, 1, 5\)'
  ):
    cpc.grid_infonce(z, c, weights, indices[::-1])
  with pytest.raises(ValueError, match='0 negatives: at least 1'):
    cpc.grid_infonce(z, c, weights, [x[..., :0] for x in indices])
  with pytest.raises(ValueError, match=r'\(2, 1, 1, 4\), not \(2, 1, 1, 5\)'):
    cpc.grid_infonce(z, c, weights, [indices[0], indices[1][..., :4]])
  with pytest.raises(ValueError, match='offset 1 are float32'):
    cpc.grid_infonce(z, c, weights, [x.astype(np.float32) for x in indices])
  with pytest.raises(ValueError, match=r'\(2, 4, 1\).*\[N, H, W, C\]'):
    cpc.grid_negatives(jax.random.key(0), (2, 4, 1), 2, 1)
  with pytest.raises(ValueError, match='num_negatives 0'):
    cpc.grid_negatives(jax.random.key(0), z.shape, 2, 0)


def test_sequence_errors():
  rng = jax.random.key(0)
  z, c, weights = np.ones((2, 4, 3)), np.ones((2, 4, 2)), np.ones((2, 3, 2))
  with pytest.raises(
    ValueError, match=r'2 offsets need more than 2 frames.* 2'
  ):
    cpc.sequence_infonce(z[:, :2], c[:, :2], weights)
  with pytest.raises(
    ValueError, match=r'2 offsets need more than 2 frames.* 2'
  ):
    cpc.sequence_infonce(z, c, weights, window=2)
  with pytest.raises(ValueError, match='5 frames, but sequences have 4'):
    cpc.sequence_infonce(z, c, weights, window=5)
  with pytest.raises(ValueError, match=r'3 frames from frame 2 .* 4 frames'):
    cpc.sequence_infonce(z, c, weights, start=2, window=3)
  with pytest.raises(ValueError, match=r'4 frames from frame 1 .* 4 frames'):
    cpc.sequence_negatives(rng, z.shape, 2, 1, start=jnp.array(1))
  with pytest.raises(ValueError, match=r'1 target for anchors.*\(1, 1\)'):
    cpc.sequence_infonce(z[:1, :3], c[:1, :3], weights)
  with pytest.raises(ValueError, match=r'1 target for anchors.*\(1, 1\)'):
    cpc.sequence_negatives(rng, (1, 3, 3), 2, 1, method=0)
  # The other methods take a batch of one: frames of the same sequence.
  for method in (1, 2):
    sequence_negatives(rng, (1, 3, 3), 2, 1, method=method)
  with pytest.raises(ValueError, match='method is 3: accepted are 0, 1 and 2'):
    cpc.sequence_negatives(rng, z.shape, 2, 1, method=3)
  with pytest.raises(ValueError, match='num_offsets is 0'):
    cpc.sequence_negatives(rng, z.shape, 0, 1)
  with pytest.raises(ValueError, match=r'\(2, 4\).*\[N, L, C\]'):
    cpc.sequence_negatives(rng, (2, 4), 2, 1)
  with pytest.raises(ValueError, match=r'\(2, 4, 3\) and c \(2, 3, 2\)'):
    cpc.sequence_infonce(z, c[:, :3], weights)
  with pytest.raises(ValueError, match=r'\(2, 2, 3\).*C = 3.*D = 2'):
    cpc.sequence_infonce(z, c, weights.transpose(0, 2, 1))
  # Drawn for whole sequences, used in a window.
  indices = [np.zeros((2, length, 5), int) for length in (3, 2)]
  with pytest.raises(ValueError, match=r'\(2, 3, 5\), not \(2, 2, 5\)'):
    cpc.sequence_infonce(z, c, weights, indices, window=3)
  with pytest.raises(ValueError, match='5 frames, but sequences have 4'):
    cpc.window_start(rng, 4, 5)
