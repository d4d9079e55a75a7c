"""What a term of a loss is, and what it sees of a batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dim_jax.objective import Metrics, PyTree


class Inputs(NamedTuple):
  """A batch as the terms see it.

  Attributes:
    features: what the encoder makes of the images, or of what a mask shows of
      them; of a stochastic encoder, the code is a sample.
    targets: what it makes of whole images.
    mean: the code without noise, as `features` has it.
    images: floats in [-1, 1], shape [N, H, W, C].
    labels: int32 [N], -1 where unknown; None without any.
    hidden: the locations [N, K] that local terms are of; None for all.
    encoder: the encoder's parameters.
    number: of each image among those that are trained on, int32 [N]; None where
      batches do not have it, see `Objective.indexed`.
  """

  features: dict[str, jax.Array]
  targets: dict[str, jax.Array]
  mean: jax.Array | None
  images: jax.Array
  labels: jax.Array | None
  hidden: jax.Array | None
  encoder: PyTree
  number: jax.Array | None = None


class Term(NamedTuple):
  """A summand of the loss.

  Attributes:
    init: `(rng, inputs) -> (params, model_state)`, of the objective's key; its
      own parameter groups and state, which are merged with other terms'.
    loss: `(params, model_state, inputs, rng) -> (loss, metrics, model_state)`,
      of the step's key; of the state, its own entries after the step.
  """

  init: Callable[[jax.Array, Inputs], tuple[PyTree, PyTree]]
  loss: Callable[
    [PyTree, PyTree, Inputs, jax.Array], tuple[jax.Array, Metrics, PyTree]
  ]


def select(
  features: Mapping[str, jax.Array], name: str, field: str
) -> jax.Array:
  """Selects a feature.

  Args:
    features: the encoder's outputs.
    name: of one of them.
    field: of the objective's config, which gave the name.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in features:
    raise ValueError(
      f'objective.{field} is {name!r}, but the encoder returns the features '
      f'{sorted(features)}.'
    )
  return features[name]


def at_positions(features: jax.Array) -> jax.Array:
  """Reshapes [N, ..., C] to [N, positions, C]; a vector has one position."""
  return features.reshape(features.shape[0], -1, features.shape[-1])


def one_a_row(codes: jax.Array) -> jax.Array:
  """Reshapes codes [N, ..., Y] to float32 rows, [N*M, Y]."""
  return codes.reshape(-1, codes.shape[-1]).astype(jnp.float32)


def split(variables: PyTree) -> tuple[PyTree, PyTree]:
  """Splits a Flax module's variables into (params, state)."""
  state: dict[str, Any] = dict(variables)
  params = state.pop('params', {})
  return params, state


def merged(first: PyTree, second: PyTree) -> PyTree:
  """Merges nested dictionaries whose leaves are apart."""
  both = dict(first)
  for name, value in second.items():
    if isinstance(value, dict) and isinstance(both.get(name), dict):
      value = merged(both[name], value)
    both[name] = value
  return both
