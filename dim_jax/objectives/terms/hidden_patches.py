"""Masks: what the codes see of an image, in training and at evaluation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from dim_jax import random
from dim_jax.checks import check_choice, check_fields
from dim_jax.networks import masking
from dim_jax.objective import PyTree
from dim_jax.objectives import sharded_batch

KINDS = (*masking.MODES, 'occlude')


@dataclasses.dataclass(kw_only=True)
class Mask:
  """Hides parts of the images that the code is of.

  The local features stay those of whole images.
  """

  kind: str = 'token'
  """What hidden patches show; see `networks.masking`: 'token' a learned patch,
  'rescale' what keeps the images' mean, 'drop' zeros. 'occlude' shows zeros in
  a random rectangle of random size."""
  keep: float = 0.5
  """The fraction of the patches that stays visible, rounded to whole
  patches."""
  patch: int = 8
  """Height and width of a patch, in pixels. Of 'occlude': the hidden rectangle
  is at least so high and wide, and a square of this size stays visible."""
  fill: float = 0.0
  """The value in [-1, 1] that 'rescale' shows where it hides, such as the mean
  pixel of the data."""
  targets: str = 'all'
  """The locations that the code is scored against: 'all', or those of 'hidden'
  patches alone."""
  evaluation: str = 'consistent'
  """What `encode` sees: the 'consistent' mean of the masked images, or the
  images as they are, 'naive'. They differ for 'token' alone."""

  @property
  def targets_hidden(self) -> bool:
    """Whether the code is scored against hidden patches alone."""
    return self.targets == 'hidden'


def check(mask: Mask) -> None:
  """Raises ValueError where a field cannot be used."""
  where = 'objective.mask.'
  check_choice(where + 'kind', mask.kind, KINDS)
  check_choice(where + 'targets', mask.targets, ('all', 'hidden'))
  check_choice(where + 'evaluation', mask.evaluation, ('consistent', 'naive'))
  check_fields(
    mask, {'keep': '(0, 1]', 'patch': 'int [1, inf)', 'fill': '[-1, 1]'}, where
  )
  if mask.targets_hidden and mask.kind == 'occlude':
    raise ValueError(
      "objective.mask.targets='hidden' selects as many locations of every "
      "image, but what kind='occlude' hides differs in size: set "
      "targets='all'."
    )
  if mask.targets_hidden and mask.keep == 1:
    raise ValueError(
      "objective.mask.targets is 'hidden', but nothing is hidden: set keep "
      'below 1.'
    )


def init(
  mask: Mask, rng: jax.Array, images: jax.Array, local: jax.Array
) -> dict[str, jax.Array]:
  """Makes what a mask adds to the encoder's parameters; checks that it fits."""
  if mask.kind == 'occlude':
    masking.draw_occlusion(rng, images.shape[:3], mask.patch)
    return {}
  visible = jnp.ones((1, *masking.grid_of(images, mask.patch)), bool)
  masking.hidden_count(visible.shape[1:], mask.keep)
  if mask.targets_hidden:
    hidden_locations(mask, visible, local)
  if mask.kind != 'token':
    return {}
  shape = (mask.patch, mask.patch, images.shape[-1])
  # Not zeros: without biases every ReLU over them would have no slope.
  rng = random.branch(rng, random.OfParameters.MASK_TOKEN)
  return {'mask_token': 0.02 * jax.random.normal(rng, shape)}


def draw(
  mask: Mask, rng: jax.Array, images: jax.Array, axis_name: str | None
) -> jax.Array:
  """Draws which patches or pixels of this device's images are visible.

  Returns:
    Shape [n, h, w].
  """
  if mask.kind == 'occlude':
    grid = images.shape[1:3]
    function = functools.partial(masking.draw_occlusion, block=mask.patch)
  else:
    grid = masking.grid_of(images, mask.patch)
    function = functools.partial(
      masking.draw_visible, hidden=masking.hidden_count(grid, mask.keep)
    )
  rng = random.branch(rng, random.OfStep.MASK)
  return sharded_batch.per_image(
    rng, (images.shape[0], *grid), axis_name, function
  )


def in_training(
  mask: Mask, params: PyTree, images: jax.Array, visible: jax.Array
) -> jax.Array:
  """Computes the images that the codes are of in training."""
  if mask.kind == 'token':
    return masking.with_token(images, visible, params['mask_token'])
  if mask.kind == 'rescale':
    fraction = _visible_fraction(mask, visible.shape[1:])
    return masking.rescaled(images, visible, fraction, mask.fill)
  return masking.dropped(images, visible)


def at_evaluation(
  mask: Mask | None, params: PyTree, images: jax.Array
) -> jax.Array:
  """Computes the images that the codes are of at evaluation."""
  if mask is None or mask.kind != 'token' or mask.evaluation == 'naive':
    return images
  grid = masking.grid_of(images, mask.patch)
  return masking.mean_token(
    images, params['mask_token'], grid, _visible_fraction(mask, grid)
  )


def hidden_locations(
  mask: Mask, visible: jax.Array, local: jax.Array
) -> jax.Array:
  """Lists the locations of the local features in hidden patches, [n, K]."""
  count = masking.hidden_count(visible.shape[1:], mask.keep)
  return masking.hidden_locations(visible, count, local.shape[1:-1])


def _visible_fraction(mask: Mask, grid: masking.Grid) -> float:
  """Computes the probability of a patch to be visible."""
  hidden = masking.hidden_count(grid, mask.keep)
  return masking.visible_share(grid, hidden)
