"""Deep InfoMax's coordinates: where in an image a local feature is.

Every function takes the `dim.Config`, of whose fields it reads those of
coordinates.
"""

from typing import Any

import jax

from dim_jax import random
from dim_jax.losses import structure
from dim_jax.objective import Metrics
from dim_jax.objectives import sharded_batch

KINDS = ('absolute', 'relative', 'both')


def kinds(config: Any) -> tuple[str, ...]:
  """Of the coordinates that are predicted."""
  if config.coordinates is None or not config.coordinate_weight:
    return ()
  both = config.coordinates == 'both'
  return ('absolute', 'relative') if both else (config.coordinates,)


def check_map(config: Any, maps: jax.Array) -> None:
  """Raises ValueError where local features are no map [N, H, W, C]."""
  if maps.ndim != 4 or maps.shape[1] * maps.shape[2] < 2:
    raise ValueError(
      f'objective.coordinates={config.coordinates!r} tells locations of a map '
      f'apart, but the tap {config.local_tap!r} (objective.local_tap) has '
      f'shape {maps.shape[1:]}: choose one [H, W, C] of several, or '
      'coordinates=None.'
    )


def draw_source(
  rng: jax.Array, maps: jax.Array, axis_name: str | None
) -> jax.Array:
  """A location of each of this device's images, int [n]."""
  count = maps.shape[1] * maps.shape[2]

  def draw(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(rng, shape, 0, count)

  rng = random.branch(rng, random.OfStep.COORDINATES)
  return sharded_batch.per_image(rng, maps.shape[:1], axis_name, draw)


def cross_entropies(
  logits: dict[str, tuple[jax.Array, jax.Array]],
  source: jax.Array,
  axis_name: str | None,
) -> Metrics:
  """Cross-entropies of all coordinates, over the whole batch."""
  found = {}
  for kind, (rows, columns) in logits.items():
    prefix = 'relative_' if kind == 'relative' else ''
    row, column = structure.coordinate_cross_entropies(
      rows, columns, source if kind == 'relative' else None
    )
    found[f'coordinates/{prefix}row'] = row
    found[f'coordinates/{prefix}column'] = column
  return found if axis_name is None else jax.lax.pmean(found, axis_name)
