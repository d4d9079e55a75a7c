"""The contract between a method and everything that trains or probes it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Objective(NamedTuple):
  """A method, as three pure functions.

  `batch` is a mapping with at least 'image', uint8 or float32 in [-1, 1],
  [N, H, W, C]; 'label', int32 [N], is optional and -1 where unknown.

  Attributes:
    init: `(rng, batch) -> (params, model_state)`. The top-level keys of
      `params` name the players, which the optimizer is partitioned by.
    loss: `(params, model_state, batch, rng) -> (loss, (metrics, model_state))`.
      The sum of the players' terms; `stop_gradient` walls give each player the
      gradient of its own terms alone. `metrics` maps 'player/term' to a scalar.
    encode: `(params, model_state, batch) -> {tap: features}`. Deterministic: it
      uses running statistics and samples nothing.
  """

  init: Callable[[jax.Array, Batch], tuple[PyTree, PyTree]]
  loss: Callable[
    [PyTree, PyTree, Batch, jax.Array],
    tuple[jax.Array, tuple[Metrics, PyTree]],
  ]
  encode: Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]]
