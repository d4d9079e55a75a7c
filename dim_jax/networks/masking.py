r"""Images with hidden patches as an encoder's input, and without at evaluation.

A mask e marks the visible patches of a grid, [N, rows, cols], with P(e = 1) =
p for each. An encoder that was trained on masked images meets images without
masks when it is used, and dropout says what is then consistent: the mean of its
training input over masks.

- 'token': a hidden patch becomes a learned m. The input is e x + (1 - e) m, its
  mean p x + (1 - p) m, `mean_token`; x itself is the naive choice.
- 'rescale': m + (x - m) e / p with a constant m. Its mean is x, so that
  evaluation needs no change. Its variance is not that of x: batch normalisation
  remembers a larger one.
- 'drop': a hidden patch is absent. Where features are averaged over patches,
  the mean is taken over the visible ones, which estimates the mean over all:
  there is nothing to correct.

A convolutional encoder cannot leave a patch out. For it `drop` shows zeros,
which is what its own padding shows beyond the border, and mid-gray in [-1, 1];
it sees the edges of the holes, and at evaluation more that is not zero than in
training. What it sees then is x, uncorrected.

- 'occlude': as 'drop', but of a rectangle of pixels whose place and size are
  random, `draw_occlusion`, Deep InfoMax's own task.

The others hide an exact number of patches, those of every image alike, so that
the hidden ones can be selected with static shapes and no image is complete or
empty by chance. The patches of one image are then not independent; the means
above need only each patch's own probability, (visible patches) / (all patches),
which `visible_share` gives.

Images are [N, H, W, C], grids (rows, cols) of patches, and masks bool
[N, rows, cols], True where a patch is visible. A token is one patch
[H / rows, W / cols, C] or one colour [C].

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
Su, MLM and MAE from the viewpoint of dropout, 2021 (in Chinese).
https://kexue.fm/archives/8770
He et al., Masked autoencoders are scalable vision learners, 2022.
https://arxiv.org/abs/2111.06377
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

MODES = ('token', 'rescale', 'drop')

Grid = tuple[int, ...]  # (rows, cols)


def grid_of(images: jax.Array, patch: int) -> Grid:
  """Returns the grid of an image's patches, `patch` pixels high and wide.

  Raises:
    ValueError: if the patches do not cover the images exactly.
  """
  if images.ndim != 4:
    raise ValueError(
      f'masks hide patches of images [N, H, W, C]; got shape {images.shape}.'
    )
  height, width = images.shape[1:3]
  if patch < 1 or height % patch or width % patch:
    side = math.gcd(height, width)
    fits = [n for n in range(1, side + 1) if side % n == 0]
    raise ValueError(
      f'patches of {patch} pixels do not cover images of {height}x{width}; '
      f'accepted sizes are {fits}.'
    )
  return height // patch, width // patch


def hidden_count(grid: Grid, keep: float) -> int:
  """Returns how many patches of each image are hidden, rounded.

  Args:
    grid: (rows, cols).
    keep: the part that stays visible, in (0, 1]; 1 hides nothing.

  Raises:
    ValueError: if keep is out of range, or rounds to no or to all patches.
  """
  if not 0 < keep <= 1:
    raise ValueError(f'keep must be in (0, 1], got {keep}.')
  patches = grid[0] * grid[1]
  hidden = round(patches * (1 - keep))
  if hidden == patches or (keep < 1 and not hidden):
    raise ValueError(
      f'keep={keep} of {grid[0]}x{grid[1]} patches hides {hidden} of them: '
      'hide at least one and keep one, or take smaller patches.'
    )
  return hidden


def visible_share(grid: Grid, hidden: int) -> float:
  """Returns the probability p of a visible patch, where `hidden` are not."""
  patches = grid[0] * grid[1]
  return (patches - hidden) / patches


def draw_visible(
  rng: jax.Array, shape: tuple[int, ...], hidden: int
) -> jax.Array:
  """Draws masks of `shape` that hide so many patches of each image, uniformly.

  Images are independent.
  """
  chex.assert_scalar_in(hidden, 0, shape[1] * shape[2])
  order = jax.random.uniform(rng, (shape[0], shape[1] * shape[2]))
  # Twice argsort: equal draws still have different ranks.
  rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1)
  return (rank >= hidden).reshape(shape)


def draw_occlusion(
  rng: jax.Array, shape: tuple[int, ...], block: int
) -> jax.Array:
  """Draws masks that hide a rectangle of at least a block, and leave a block.

  One axis, either at random where both are long enough, keeps `block` visible
  pixels at one end. Along it, and along the other, each interval that qualifies
  is equally likely. Images are independent.

  Args:
    rng: a key.
    shape: (N, H, W), of the images and of the mask of their pixels.
    block: least height and width of the rectangle, and side of a square that
      stays visible, in pixels; the paper's is 10.

  Raises:
    ValueError: the images hold no two such blocks side by side.
  """
  count, *sides = shape
  if block < 1 or min(sides) < block or max(sides) < 2 * block:
    raise ValueError(
      f'occlusion hides a block of {block}x{block} pixels and shows another, '
      f'which images of {sides[0]}x{sides[1]} do not hold side by side: take '
      f'blocks of 1 to {min(*sides, max(sides) // 2)} pixels, or larger images.'
    )
  draws = jax.random.uniform(rng, (count, 3))
  rows_leave = draws[:, 2] < 0.5
  if min(sides) < 2 * block:
    rows_leave = jnp.full(count, sides[0] >= 2 * block)
  inside = []
  for axis, leaves in enumerate((rows_leave, ~rows_leave)):
    some, leaving = (
      table[(draws[:, axis] * len(table)).astype(jnp.int32)]
      for table in _intervals(sides[axis], block)
    )
    chosen = jnp.where(leaves[:, None], leaving, some)
    at = jnp.arange(sides[axis])[None]
    inside.append((chosen[:, :1] <= at) & (at < chosen[:, 1:]))
  return ~(inside[0][:, :, None] & inside[1][:, None, :])


def _intervals(size: int, least: int) -> tuple[jax.Array, jax.Array]:
  """Returns intervals (start, stop) of 0..size; those that leave `least`."""
  start, stop = np.mgrid[: size + 1, : size + 1].reshape(2, -1)
  long = stop - start >= least
  leaving = long & (np.maximum(start, size - stop) >= least)
  pairs = np.stack([start, stop], 1).astype(np.int32)
  # Where no interval leaves so much, no image asks for it; any stands in.
  chosen = leaving if leaving.any() else long
  return jnp.asarray(pairs[long]), jnp.asarray(pairs[chosen])


def with_token(
  images: jax.Array, visible: jax.Array, token: jax.Array
) -> jax.Array:
  """Replaces hidden patches by the token: e x + (1 - e) m."""
  tokens = _tiled(token, images, visible.shape[1:])
  return jnp.where(_pixels(visible, images), images, tokens)


def mean_token(
  images: jax.Array, token: jax.Array, grid: Grid, keep: float
) -> jax.Array:
  """Computes the mean of `with_token` over masks, p x + (1 - p) m.

  It is what to show at evaluation; `keep` is p, see `visible_share`.
  """
  return keep * images + (1 - keep) * _tiled(token, images, grid)


def rescaled(
  images: jax.Array, visible: jax.Array, keep: float, fill: float = 0.0
) -> jax.Array:
  """Moves visible patches away from the fill, hidden ones to it; the mean is x.

  That is m + (x - m) e / p, with `keep` for p, see `visible_share`, and `fill`
  for m, such as the mean pixel of the data.
  """
  moved = fill + (images - fill) / keep
  return jnp.where(_pixels(visible, images), moved, fill)


def dropped(images: jax.Array, visible: jax.Array) -> jax.Array:
  """Replaces hidden patches by zeros, as convolutions pad."""
  return jnp.where(_pixels(visible, images), images, 0)


def hidden_locations(
  visible: jax.Array, hidden: int, map_shape: tuple[int, ...]
) -> jax.Array:
  """Returns the locations of a feature map that lie in hidden patches.

  A location belongs to the patch that it lies in when the map is laid over the
  image; its receptive field reaches beyond.

  Args:
    visible: bool, [N, rows, cols], with `hidden` False an image.
    hidden: how many patches of each image are hidden.
    map_shape: (H', W') of the map.

  Returns:
    Their positions in the flattened map, rising, int32 of shape
    [N, hidden * (H' / rows) * (W' / cols)].

  Raises:
    ValueError: if a patch does not hold a whole number of locations, or none is
      hidden.
  """
  rows, cols = visible.shape[1:]
  if len(map_shape) != 2 or map_shape[0] % rows or map_shape[1] % cols:
    raise ValueError(
      f'hidden patches are selected from a map whose sides are multiples of '
      f"the {rows}x{cols} patches'; got a map of shape {tuple(map_shape)}. "
      'Choose another patch size or another feature.'
    )
  if not hidden:
    raise ValueError('no patch is hidden, so there is no location to select.')
  high, wide = map_shape[0] // rows, map_shape[1] // cols
  seen = _grown(visible, high, wide)
  # The sort is stable, and False comes first.
  order = jnp.argsort(seen.reshape(seen.shape[0], -1), axis=1)
  return order[:, : hidden * high * wide]


def _pixels(visible: jax.Array, images: jax.Array) -> jax.Array:
  """Returns patches as pixels, bool [N, H, W, 1]."""
  chex.assert_rank([images, visible], [4, 3])
  chex.assert_equal_shape_prefix([images, visible], 1)
  return _grown(visible, *_patch(images, visible.shape[1:]))[..., None]


def _grown(visible: jax.Array, high: int, wide: int) -> jax.Array:
  """Returns a mask with each patch as so many rows and columns."""
  return jnp.repeat(jnp.repeat(visible, high, axis=1), wide, axis=2)


def _tiled(token: jax.Array, images: jax.Array, grid: Grid) -> jax.Array:
  """Returns the token in each patch of an image, [1, H, W, C]."""
  channels = images.shape[3]
  accepted = ((*_patch(images, grid), channels), (channels,))
  if token.shape not in accepted:
    raise ValueError(
      f'a token is one patch or one colour, of shape {accepted[0]} or '
      f'{accepted[1]}; got {token.shape}.'
    )
  if token.ndim == 1:
    return token.reshape(1, 1, 1, -1)
  return jnp.tile(token, (*grid, 1))[None]


def _patch(images: jax.Array, grid: Grid) -> tuple[int, int]:
  """Returns the height and width of a patch."""
  height, width = images.shape[1:3]
  if height % grid[0] or width % grid[1]:
    raise ValueError(
      f'a grid of {grid[0]}x{grid[1]} patches does not divide images of '
      f'{height}x{width}.'
    )
  return height // grid[0], width // grid[1]
