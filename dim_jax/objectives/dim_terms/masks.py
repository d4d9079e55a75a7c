"""Deep InfoMax's masks: what its codes see, in training and when it is used.

Every function takes the `dim.Config`, of whose fields it reads those of masks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax import random
from dim_jax.networks import masking
from dim_jax.objective import PyTree
from dim_jax.objectives import sharded_batch

MODES = (*masking.MODES, 'occlude')


def check(config: Any) -> None:
  """Raises ValueError where a field of masks cannot be used."""
  if not 0 < config.mask_keep <= 1:
    raise ValueError(
      f'objective.mask_keep must be in (0, 1], got {config.mask_keep}.'
    )
  if config.mask_patch < 1:
    raise ValueError(
      f'objective.mask_patch must be >= 1, got {config.mask_patch}.'
    )
  if not -1 <= config.mask_fill <= 1:
    raise ValueError(
      f'objective.mask_fill must be in [-1, 1], got {config.mask_fill}.'
    )
  if config.mask_targets == 'hidden':
    if config.mask == 'occlude':
      raise ValueError(
        "objective.mask_targets='hidden' selects as many locations of every "
        "image, but what mask='occlude' hides differs in size: set "
        "mask_targets='all'."
      )
    if config.mask is None or config.mask_keep == 1:
      raise ValueError(
        "objective.mask_targets is 'hidden', but nothing is hidden: set "
        f'objective.mask to one of {masking.MODES} and mask_keep below 1.'
      )
    if not config.local_weight or config.local_samples is not None:
      raise ValueError(
        "objective.mask_targets='hidden' selects among all locations: it needs "
        'local_weight above 0 and local_samples=None.'
      )


def init(
  config: Any,
  rng: jax.Array,
  images: jax.Array,
  local: jax.Array,
) -> dict[str, jax.Array]:
  """What a mask adds to the encoder's parameters; checks that it fits."""
  if config.mask == 'occlude':
    masking.draw_occlusion(rng, images.shape[:3], config.mask_patch)
    return {}
  visible = jnp.ones((1, *masking.grid_of(images, config.mask_patch)), bool)
  masking.hidden_count(visible.shape[1:], config.mask_keep)
  if config.mask_targets == 'hidden':
    hidden(config, visible, local)
  if config.mask != 'token':
    return {}
  shape = (config.mask_patch, config.mask_patch, images.shape[-1])
  # Not zeros: without biases every ReLU over them would have no slope. What the
  # encoder drew stays as it is.
  rng = random.branch(rng, random.OfParameters.MASK_TOKEN)
  return {'mask_token': 0.02 * jax.random.normal(rng, shape)}


def draw(
  config: Any, rng: jax.Array, images: jax.Array, axis_name: str | None
) -> jax.Array:
  """Which patches or pixels of this device's images are visible, [n, h, w]."""
  if config.mask == 'occlude':
    grid = images.shape[1:3]
    function = functools.partial(
      masking.draw_occlusion, block=config.mask_patch
    )
  else:
    grid = masking.grid_of(images, config.mask_patch)
    function = functools.partial(
      masking.draw_visible, hidden=masking.hidden_count(grid, config.mask_keep)
    )
  rng = random.branch(rng, random.OfStep.MASK)
  return sharded_batch.per_image(
    rng, (images.shape[0], *grid), axis_name, function
  )


def masked(
  config: Any, params: PyTree, images: jax.Array, visible: jax.Array
) -> jax.Array:
  """What the codes see in training."""
  if config.mask == 'token':
    return masking.with_token(images, visible, params['mask_token'])
  if config.mask == 'rescale':
    share = _share(config, visible.shape[1:])
    return masking.rescaled(images, visible, share, config.mask_fill)
  return masking.dropped(images, visible)


def shown(config: Any, params: PyTree, images: jax.Array) -> jax.Array:
  """What the codes see at evaluation."""
  if config.mask != 'token' or config.mask_evaluation == 'naive':
    return images
  grid = masking.grid_of(images, config.mask_patch)
  return masking.mean_token(
    images, params['mask_token'], grid, _share(config, grid)
  )


def hidden(config: Any, visible: jax.Array, local: jax.Array) -> jax.Array:
  """The locations of the local features in hidden patches, [n, K]."""
  count = masking.hidden_count(visible.shape[1:], config.mask_keep)
  return masking.hidden_locations(visible, count, local.shape[1:-1])


def _share(config: Any, grid: masking.Grid) -> float:
  """The probability of a patch to be visible."""
  hidden = masking.hidden_count(grid, config.mask_keep)
  return masking.visible_share(grid, hidden)
