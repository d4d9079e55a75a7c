"""The contract between a method and everything that trains or probes it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Stage(NamedTuple):
  """A part of an objective that gets no gradient from the parts behind it.

  Attributes:
    names: the parts of params and of model_state that are this stage's: the
      players, and the entries of players and of collections, so called.
    loss: `(params, model_state, entered, labels, rng) -> (loss, (metrics,
      model_state, features))`. The first stage enters the batch, another the
      features of the one before it; labels are the batch's, or None. The rng is
      that of the whole objective. Of params and model_state it touches only its
      own parts; the others may be missing.
  """

  names: tuple[str, ...]
  loss: Callable[
    [PyTree, PyTree, Any, jax.Array | None, jax.Array],
    tuple[jax.Array, tuple[Metrics, PyTree, Any]],
  ]


class Objective(NamedTuple):
  """A method, as three pure functions.

  `batch` is a mapping with at least 'image', uint8 or float32 in [-1, 1],
  [N, H, W, C], or 'audio', int16 or float32 in [-1, 1], [N, T], or 'point',
  float32 [N, D]; 'label', int32 [N], is optional and -1 where unknown.

  Attributes:
    init: `(rng, batch) -> (params, model_state)`. The top-level keys of
      `params` name the players, which the optimizer is partitioned by.
    loss: `(params, model_state, batch, rng) -> (loss, (metrics, model_state))`.
      The sum of the players' terms; `stop_gradient` walls give each player the
      gradient of its own terms alone. `metrics` maps 'player/term' to a scalar.
    encode: `(params, model_state, batch) -> {tap: features}`. Deterministic: it
      uses running statistics and samples nothing.
    stages: `loss` as a chain of parts, whose losses and metrics add up to its
      own; () for a method that is not such a chain.
    negatives: `batch -> {term: (count, ceiling)}`, from the batch's shapes
      alone: how many negatives an anchor of each contrastive term has, and the
      most nats that the term can then find, None without a ceiling. {} for a
      method without such terms.
  """

  init: Callable[[jax.Array, Batch], tuple[PyTree, PyTree]]
  loss: Callable[
    [PyTree, PyTree, Batch, jax.Array],
    tuple[jax.Array, tuple[Metrics, PyTree]],
  ]
  encode: Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]]
  stages: tuple[Stage, ...] = ()
  negatives: Callable[[Batch], dict[str, tuple[int, float | None]]] = (
    lambda batch: {}
  )
