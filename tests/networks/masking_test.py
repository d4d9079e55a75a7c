"""Masked inputs against all masks, counted one by one."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import masking
from dim_jax.objectives import sharded_batch

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 4, 6, 2)).astype(np.float32)


def masks_of(hidden):
  """All 2x2 masks that hide so many patches, each repeated for 3 images."""
  for gone in itertools.combinations(range(4), hidden):
    visible = np.ones(4, bool)
    visible[list(gone)] = False
    yield np.tile(visible.reshape(1, 2, 2), (3, 1, 1))


@pytest.mark.parametrize('hidden', [1, 2, 3])
@pytest.mark.parametrize('fill', [0.0, -0.4])
def test_rescaled_images_average_to_the_images(hidden, fill):
  keep = masking.visible_share((2, 2), hidden)
  assert keep == (4 - hidden) / 4
  all_masked = [
    masking.rescaled(IMAGES, visible, keep, fill)
    for visible in masks_of(hidden)
  ]
  assert len(all_masked) == math.comb(4, hidden)
  np.testing.assert_allclose(np.mean(all_masked, 0), IMAGES, atol=1e-6)


def test_means_need_only_each_patchs_own_probability():
  # Independent patches, each visible with probability 0.3: 16 weighted masks.
  keep, token = 0.3, np.float32([0.5, -2.0])
  rescaled, shown, weights = 0.0, 0.0, 0.0
  for hidden in range(5):
    weight = keep ** (4 - hidden) * (1 - keep) ** hidden
    for visible in masks_of(hidden):
      weights += weight
      rescaled += weight * masking.rescaled(IMAGES, visible, keep)
      shown += weight * masking.with_token(IMAGES, visible, token)
  np.testing.assert_allclose(weights, 1)
  np.testing.assert_allclose(rescaled, IMAGES, atol=1e-6)
  np.testing.assert_allclose(
    shown, masking.mean_token(IMAGES, token, (2, 2), keep), atol=1e-6
  )


@pytest.mark.parametrize('hidden', [1, 2, 3])
@pytest.mark.parametrize('shape', [(2,), (2, 3, 2)])
def test_token_at_evaluation_is_the_mean_of_training(hidden, shape):
  token = RNG.normal(size=shape).astype(np.float32)
  shown = [
    masking.with_token(IMAGES, visible, token) for visible in masks_of(hidden)
  ]
  keep = masking.visible_share((2, 2), hidden)
  mean = masking.mean_token(IMAGES, token, (2, 2), keep)
  np.testing.assert_allclose(np.mean(shown, 0), mean, atol=1e-6)
  # p x + (1 - p) m at the corner of the second patch of the first row.
  corner = token if token.ndim == 1 else token[0, 0]
  np.testing.assert_allclose(
    mean[1, 0, 3], keep * IMAGES[1, 0, 3] + (1 - keep) * corner, rtol=1e-5
  )


def test_hidden_patches_are_the_token_and_others_the_image():
  visible = np.ones((3, 2, 2), bool)
  visible[1, 0, 1] = False  # Rows 0 and 1, columns 3 to 5.
  token = RNG.normal(size=(2, 3, 2)).astype(np.float32)
  expected = IMAGES.copy()
  expected[1, :2, 3:] = token
  np.testing.assert_array_equal(
    masking.with_token(IMAGES, visible, token), expected
  )
  expected[1, :2, 3:] = 0
  np.testing.assert_array_equal(masking.dropped(IMAGES, visible), expected)


def test_token_gets_the_gradient_of_every_hidden_patch():
  visible = masking.draw_visible(jax.random.key(0), (3, 2, 2), 3)

  def total(token):
    return masking.with_token(IMAGES, visible, token).sum()

  # Each of 3 images shows it in 3 patches.
  patch = jax.grad(total)(jnp.zeros((2, 3, 2)))
  np.testing.assert_allclose(patch, np.full((2, 3, 2), 9.0))
  colour = jax.grad(total)(jnp.zeros(2))
  np.testing.assert_allclose(colour, np.full(2, 9.0 * 6))


def test_every_set_of_patches_is_equally_likely():
  visible = masking.draw_visible(jax.random.key(0), (6000, 2, 2), 2)
  assert visible.dtype == bool
  rows = np.asarray(visible).reshape(-1, 4)
  np.testing.assert_array_equal(rows.sum(1), 2)
  _, counts = np.unique(rows @ [8, 4, 2, 1], return_counts=True)
  # 4 over 2 sets, 1000 of each; 5 standard deviations of a binomial count.
  assert len(counts) == 6
  assert abs(counts - 1000).max() < 5 * math.sqrt(6000 / 6 * 5 / 6)


def test_nothing_and_all_but_one_can_be_hidden():
  for hidden in (0, 5):
    visible = masking.draw_visible(jax.random.key(0), (8, 2, 3), hidden)
    np.testing.assert_array_equal((~visible).sum((1, 2)), hidden)


def test_a_mask_depends_on_key_and_image_not_on_devices():
  draw = functools.partial(masking.draw_visible, hidden=5)
  key = jax.random.key(3)
  whole = draw(key, (16, 3, 3))
  np.testing.assert_array_equal(whole, draw(key, (16, 3, 3)))
  assert (whole != draw(jax.random.key(4), (16, 3, 3))).any()
  assert len(np.unique(np.asarray(whole).reshape(16, -1), axis=0)) > 10
  if len(jax.devices()) < 8:
    pytest.skip('needs 8 devices')
  parts = jax.pmap(
    lambda _: sharded_batch.per_image(key, (2, 3, 3), 'data', draw),
    axis_name='data',
    devices=jax.devices()[:8],
  )(np.zeros(8))
  np.testing.assert_array_equal(np.asarray(parts).reshape(16, 3, 3), whole)


def test_hidden_locations_are_those_under_hidden_patches():
  visible = np.ones((2, 2, 2), bool)
  visible[0, 0, 1] = visible[1, 1, 0] = False
  # A 4x4 map, numbered by rows: patches of 2x2 locations.
  #  0  1 |  2  3
  #  4  5 |  6  7
  #  8  9 | 10 11
  # 12 13 | 14 15
  np.testing.assert_array_equal(
    masking.hidden_locations(visible, 1, (4, 4)),
    [[2, 3, 6, 7], [8, 9, 12, 13]],
  )
  # One location a patch; and patches of one row and two columns.
  np.testing.assert_array_equal(
    masking.hidden_locations(visible, 1, (2, 2)), [[1], [2]]
  )
  np.testing.assert_array_equal(
    masking.hidden_locations(visible, 1, (2, 4)), [[2, 3], [4, 5]]
  )


@pytest.mark.parametrize(
  ('grid', 'keep', 'hidden'),
  [
    ((4, 4), 0.5, 8),
    ((4, 4), 0.25, 12),
    ((4, 4), 1.0, 0),
    ((2, 3), 0.7, 2),  # 6 * 0.3 = 1.8
  ],
)
def test_hidden_count_rounds(grid, keep, hidden):
  assert masking.hidden_count(grid, keep) == hidden


@pytest.mark.parametrize('keep', [0.0, -0.5, 1.5, math.nan])
def test_keep_is_a_probability(keep):
  with pytest.raises(
    ValueError, match=rf'keep must be in \(0, 1\], got {keep}'
  ):
    masking.hidden_count((4, 4), keep)


@pytest.mark.parametrize(('keep', 'hides'), [(0.1, 4), (0.95, 0)])
def test_keep_that_rounds_to_all_or_nothing_is_refused(keep, hides):
  message = f'keep={keep} of 2x2 patches hides {hides} of them'
  with pytest.raises(ValueError, match=message):
    masking.hidden_count((2, 2), keep)


@pytest.mark.parametrize('patch', [0, 3, 4, 8])
def test_patch_must_divide_the_image(patch):
  message = rf'{patch} pixels do not cover .*4x6; accepted sizes are \[1, 2\]'
  with pytest.raises(ValueError, match=message):
    masking.grid_of(IMAGES, patch)
  assert masking.grid_of(IMAGES, 2) == (2, 3)


def test_wrong_shapes_are_named():
  with pytest.raises(ValueError, match=r'images .N, H, W, C.; got .*3, 8'):
    masking.grid_of(jnp.zeros((3, 8)), 2)
  visible = np.ones((3, 2, 2), bool)
  with pytest.raises(ValueError, match=r'\(2, 3, 2\) or \(2,\); got \(3, 2\)'):
    masking.with_token(IMAGES, visible, jnp.zeros((3, 2)))
  with pytest.raises(ValueError, match=r'4x4 patches does not divide .* 4x6'):
    masking.dropped(IMAGES, np.ones((3, 4, 4), bool))
  with pytest.raises(ValueError, match=r"the 2x2 patches'; got .* \(5, 4\)"):
    masking.hidden_locations(visible, 1, (5, 4))
  with pytest.raises(ValueError, match='no patch is hidden'):
    masking.hidden_locations(visible, 0, (4, 4))


def holds_block(pixels, block):
  """Whether a map of booleans has a square of `block` that is all True."""
  windows = np.lib.stride_tricks.sliding_window_view(pixels, (block, block))
  return windows.all((2, 3)).any()


@pytest.mark.parametrize(
  ('height', 'width', 'block'), [(32, 32, 10), (20, 20, 10), (12, 21, 10)]
)
def test_occlusion_hides_a_rectangle_and_a_block_stays_visible(
  height, width, block
):
  draw = jax.jit(masking.draw_occlusion, static_argnums=(1, 2))
  visible = np.asarray(draw(jax.random.key(0), (500, height, width), block))
  for seen in visible:
    hidden = ~seen
    rows, columns = hidden.any(1), hidden.any(0)
    # A rectangle is what its rows and columns have in common.
    np.testing.assert_array_equal(hidden, rows[:, None] & columns[None])
    assert np.diff(np.flatnonzero(rows)).max() == 1
    assert np.diff(np.flatnonzero(columns)).max() == 1
    assert rows.sum() >= block and columns.sum() >= block
    assert holds_block(seen, block)


def test_occlusions_are_all_that_qualify_and_as_often_as_told():
  # 4x4 pixels, blocks of 2. Intervals of at least 2: 0-2, 1-3, 2-4, 0-3, 1-4,
  # 0-4; only 0-2 and 2-4 leave 2 at one end. So 2 x 6 rectangles if the rows
  # leave, each 1/24, and 6 x 2 if the columns do; the 4 in both 1/12.
  count = 12_000
  visible = np.asarray(
    masking.draw_occlusion(jax.random.key(1), (count, 4, 4), 2)
  )
  leaving = [(0, 2), (2, 4)]
  some = [*leaving, (1, 3), (0, 3), (1, 4), (0, 4)]
  expected = {}
  for rows, columns in [(a, b) for a in leaving for b in some] + [
    (a, b) for a in some for b in leaving
  ]:
    key = (*rows, *columns)
    expected[key] = expected.get(key, 0) + 1 / 24
  assert len(expected) == 20
  found = dict.fromkeys(expected, 0)
  for hidden in ~visible:
    rows, columns = (np.flatnonzero(hidden.any(axis)) for axis in (1, 0))
    found[rows[0], rows[-1] + 1, columns[0], columns[-1] + 1] += 1
  for key, share in expected.items():
    std = np.sqrt(count * share * (1 - share))
    assert abs(found[key] - count * share) < 5 * std


@pytest.mark.parametrize(
  ('shape', 'block', 'accepted'),
  [((19, 19), 10, 9), ((32, 8), 10, 8), ((4, 4), 0, 2)],
)
def test_occlusion_needs_room_for_two_blocks(shape, block, accepted):
  message = f'do not hold side by side: take blocks of 1 to {accepted} pixels'
  with pytest.raises(ValueError, match=message):
    masking.draw_occlusion(jax.random.key(0), (2, *shape), block)
