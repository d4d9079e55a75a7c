"""The image encoder of a method: one by name, or a user's own module."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from dim_jax.checks import check_choice, check_fields
from dim_jax.networks import encoders, layers


def make(
  encoder: Any,
  axis_name: str | None,
  *,
  own: Mapping[str, nn.Module] | None = None,
  **fields: Any,
) -> nn.Module:
  """Makes the encoder that a config names or holds.

  Args:
    encoder: a name of `networks.encoders.ENCODERS` or of `own`, or a Linen
      module that maps images [N, H, W, C] and `train` to a dictionary of
      features, or to one array.
    axis_name: the pmapped axis, for its batch statistics.
    own: the method's own encoders by name.
    **fields: of a named encoder.

  Raises:
    ValueError: it is neither, or there is no such name.
  """
  own = own or {}
  if isinstance(encoder, str):
    if encoder in own:
      return own[encoder]
    if encoder not in encoders.ENCODERS:
      raise ValueError(
        f'objective.encoder must be a Flax module or one of '
        f'{(*own, *encoders.ENCODERS)}, got {encoder!r}.'
      )
    return encoders.make(encoder, axis_name=axis_name, **fields)
  if not isinstance(encoder, nn.Module):
    hint = ''
    if isinstance(encoder, nnx.Module | type):
      hint = (
        ' Give the parameters of a class, as in MyEncoder(units=64); and an '
        'NNX class as flax.nnx.bridge.ToLinen(MyEncoder, args=...), which a '
        "loop of your own can train, but no run, as its config.json can't hold "
        'it.'
      )
    raise ValueError(
      'objective.encoder must be a name or a Linen module, that maps images '
      '[N, H, W, C] and `train` to features; got a '
      f'{type(encoder).__name__}.{hint}'
    )
  if axis_name and hasattr(encoder, 'axis_name'):
    encoder = encoder.clone(axis_name=axis_name)
  return encoder


def of_config(config: Any, axis_name: str | None, **fields: Any) -> nn.Module:
  """Makes the encoder of a config with 'encoder', 'code', 'norm' and 'dtype'.

  Args:
    config: of an objective.
    axis_name: as of `make`, and
    **fields: others of a named encoder.

  Raises:
    ValueError: as `make` does.
  """
  return make(
    config.encoder,
    axis_name,
    code=config.code,
    norm=config.norm,
    dtype=jnp.dtype(config.dtype),
    **fields,
  )


def check(config: Any) -> None:
  """Raises ValueError where a field that such configs share is wrong."""
  check_choice('objective.norm', config.norm, layers.NORMS)
  check_choice('objective.dtype', config.dtype, ('float32', 'bfloat16'))
  check_fields(
    config,
    {'code': 'int [1, inf)', 'num_classes': 'int [0, inf)'},
    'objective.',
  )


def features_of(outputs: Any) -> dict[str, jax.Array]:
  """Names an encoder's outputs; a single array is the feature 'y'.

  Args:
    outputs: what its call returned.

  Raises:
    ValueError: they are neither an array nor a dictionary of arrays.
  """
  if isinstance(outputs, jax.Array | np.ndarray):
    return {'y': jnp.asarray(outputs)}
  if isinstance(outputs, Mapping) and all(
    isinstance(x, jax.Array | np.ndarray) for x in outputs.values()
  ):
    return dict(outputs)
  raise ValueError(
    'objective.encoder must return a dictionary of arrays by name, or one '
    f'array; got {jax.tree.map(type, outputs)!r}.'
  )
