"""The term that predicts where in an image a local feature is.

Each local feature is given with the code, and tells its row and column.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.checks import check_choice, check_fields
from dim_jax.losses import structure
from dim_jax.networks import critics
from dim_jax.objective import Metrics, PyTree
from dim_jax.objectives import sharded_batch
from dim_jax.objectives.terms import term
from dim_jax.objectives.terms.term import Inputs, Term

KINDS = ('absolute', 'relative', 'both')


@dataclasses.dataclass(kw_only=True)
class Coordinates:
  """Which coordinates are predicted, of all locations and globals."""

  kind: str = 'both'
  """'absolute', a feature's row and column in the map; 'relative', its offset
  from one random location of the image, whose feature is given too; or
  'both'."""
  weight: float = 1.0
  """Of the cross-entropies of rows and columns, added up."""
  units: int = 512
  """Width of the heads that predict them."""


def check(coordinates: Coordinates) -> None:
  """Raises ValueError where a field cannot be used."""
  where = 'objective.coordinates.'
  check_choice(where + 'kind', coordinates.kind, KINDS)
  check_fields(
    coordinates, {'weight': '[0, inf)', 'units': 'int [1, inf)'}, where
  )


class Heads(nn.Module):
  """The heads that locate features, by kind of coordinates."""

  coordinates: dict[str, nn.Module]

  def __call__(
    self,
    maps: jax.Array,
    codes: jax.Array,
    source: jax.Array,
    train: bool = False,
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns logits of rows and columns; see `critics.CoordinateHead`.

    Args:
      maps: local features, shape [N, H, W, C].
      codes: the globals, shape [N, M, Y].
      source: int [N], the location that relative coordinates are from.
      train: whether normalisation uses the batch's statistics.
    """
    return {
      kind: head(
        maps, codes, source if kind == 'relative' else None, train=train
      )
      for kind, head in self.coordinates.items()
    }


def check_map(maps: jax.Array, name: str) -> None:
  """Raises ValueError where local features are no map [N, H, W, C]."""
  if maps.ndim != 4 or maps.shape[1] * maps.shape[2] < 2:
    raise ValueError(
      'objective.coordinates tells locations of a map apart, but the feature '
      f'{name!r} (objective.local_feature) has shape {maps.shape[1:]}: '
      'choose one '
      '[H, W, C] of several, or coordinates=None.'
    )


def draw_source(
  rng: jax.Array, maps: jax.Array, axis_name: str | None
) -> jax.Array:
  """Draws a location of each of this device's images, int [n]."""
  count = maps.shape[1] * maps.shape[2]

  def draw(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(rng, shape, 0, count)

  rng = random.branch(rng, random.OfStep.COORDINATES)
  return sharded_batch.per_image(rng, maps.shape[:1], axis_name, draw)


def make(
  coordinates: Coordinates,
  local_name: str,
  code_name: str,
  dtype: Any,
  axis_name: str | None,
) -> Term:
  """Makes the term, whose heads are of the group 'critic'.

  Args:
    coordinates: its options.
    local_name: of the map of local features.
    code_name: of the feature that is the code.
    dtype: compute dtype of the heads.
    axis_name: the pmapped axis.
  """
  both = coordinates.kind == 'both'
  kinds = ('absolute', 'relative') if both else (coordinates.kind,)

  def heads(axis_name: str | None) -> Heads:
    return Heads(
      {
        kind: critics.CoordinateHead(
          units=coordinates.units, dtype=dtype, axis_name=axis_name
        )
        for kind in kinds
      }
    )

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    maps = term.select(inputs.features, local_name, 'local_feature')
    check_map(maps, local_name)
    codes = term.at_positions(inputs.features[code_name])
    source = jnp.zeros(len(maps), jnp.int32)
    rng = jax.random.split(rng, 3)[1]
    params, state = term.split(heads(None).init(rng, maps, codes, source))
    return {'critic': params}, {'critic': state}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    maps = inputs.targets[local_name]
    source = draw_source(rng, maps, axis_name)
    state = model_state['critic']
    logits, state = heads(axis_name).apply(
      {'params': params['critic'], **state},
      maps,
      term.at_positions(inputs.features[code_name]),
      source,
      train=True,
      mutable=list(state),
    )
    metrics = {}
    for kind, (rows, columns) in logits.items():
      prefix = 'relative_' if kind == 'relative' else ''
      row, column = structure.coordinate_cross_entropies(
        rows, columns, source if kind == 'relative' else None
      )
      metrics[f'coordinates/{prefix}row'] = row
      metrics[f'coordinates/{prefix}column'] = column
    if axis_name is not None:
      metrics = jax.lax.pmean(metrics, axis_name)
    total = coordinates.weight * sum(metrics.values())
    return jnp.asarray(total), metrics, {'critic': state}

  return Term(init, loss)
