"""The contract between a method and everything that trains or probes it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Stage(NamedTuple):
  """A part of an objective that gets no gradient from the parts behind it.

  Attributes:
    names: the parts of params and of model_state that are this stage's: the
      parameter groups, and the entries of groups and collections, so called.
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


class Density(NamedTuple):
  """What a method knows of the density that it models.

  Attributes:
    log_density: `(params, x) -> [N]`, the logarithm of the unnormalised density
      in nats.
    inputs: `batch -> x`, the batch's examples as `log_density` takes them.
    sample: `(variables, rng, count, shape, steps) -> [count, *shape]`, samples
      as training makes them; `steps` transitions of chains that start from
      noise where training starts them at the data. Fewer than `count` where
      fewer chains are kept.
    mode_std: the standard deviation of the density around a mode, where it is
      known; annealing starts from a Gaussian as wide.
    log_partition: `params -> log Z` in nats; None where it is intractable.
    exact_sample: `(params, rng, count) -> [count, D]`, likewise.
    ratio: whether `log_density` is the logarithm of a ratio of two densities,
      the data's and the generator's, which nothing normalises.
  """

  log_density: Callable[[PyTree, jax.Array], jax.Array]
  inputs: Callable[[Batch], jax.Array]
  sample: Callable[..., jax.Array]
  mode_std: float | None = None
  log_partition: Callable[[PyTree], jax.Array] | None = None
  exact_sample: Callable[[PyTree, jax.Array, int], jax.Array] | None = None
  ratio: bool = False


class Generator(NamedTuple):
  """What makes images of codes.

  Attributes:
    images: `(variables, codes [n, K]) -> [n, H, W, C]`, floats in [-1, 1];
      deterministic, with running statistics. Codes are as `encode` returns the
      representation, so that those of images reconstruct them.
    codes: `(rng, count) -> [count, K]`, codes of the prior; None without one.
  """

  images: Callable[[tuple[PyTree, PyTree], jax.Array], jax.Array]
  codes: Callable[[jax.Array, int], jax.Array] | None = None


class Objective(NamedTuple):
  """A method: three pure functions, and what else it has to offer.

  `batch` is a mapping with at least 'image', uint8 or float32 in [-1, 1],
  [N, H, W, C], or 'audio', int16 or float32 in [-1, 1], [N, T], or 'point',
  float32 [N, D], or 'text', int32 [N, 2, L], pairs of lines; 'label',
  int32 [N], is optional and -1 where unknown.
  `variables` are `(params, model_state)`. A part that is None is not offered,
  and a command that needs it says so.

  Attributes:
    init: `(rng, batch) -> (params, model_state)`. The top-level keys of
      `params` name the parameter groups that the optimizer is partitioned by.
    loss: `(params, model_state, batch, rng) -> (loss, (metrics, model_state))`.
      The sum of the groups' terms; `stop_gradient` gives each group the
      gradient of its own terms alone. `metrics` maps 'group/term' to a scalar.
    encode: `(params, model_state, batch) -> {name: features}`. Deterministic:
      it uses running statistics and samples nothing.
    stages: `loss` as a chain of parts, whose losses and metrics add up to its
      own; () for a method that is not such a chain.
    negatives: `batch -> {term: (count, ceiling)}`, from the batch's shapes
      alone: how many negatives an anchor of each contrastive term has, and the
      most nats that the term can then reach, None without a ceiling. {} for a
      method without such terms.
    negatives_of: the negatives of an example are of so many examples, itself
      and its neighbours in the batch; None for all of the batch.
    features: names of `encode`'s outputs that evaluation probes, in order; the
      last one that `encode` returns is the representation, which is watched
      for collapse. None for all of them, alphabetically.
    pictured: names of outputs that are saved for pictures beside the
      representation.
    classes: labels must be below it; 0 where the method takes any.
    supervised: what learns from labels, such as "objective.loss='supervised'",
      for messages; '' for nothing but online probes.
    exact_batches: what takes all negatives of a batch too large for the memory,
      such as 'objective.memory.micro_batch', for messages; '' for nothing.
    optional_groups: parameter groups that the method has under other settings,
      which a config may name an optimizer for.
    scores: `(variables, batch) -> {'local': [N*M, N, L], 'global': [N*M, N,
      1]}`, a critic's scores of all pairs, either or both; entry [a, j, l]
      compares global a, of example a // M, with local l of example j.
    logits: `(variables, batch, rng, samples) -> [S, N, C]`, of S = `samples`
      stochastic codes an example, whose softmax is averaged to predict; 0 for
      the mean code. S is 1 then, and for a deterministic method.
    tags: `(variables, batch) -> [N, L, V]`, logits of the character that
      belongs to each one of a pair's first line.
    rate: `(variables, batch, rng, samples) -> [N]`, the nats that each
      example's code takes, on average an upper bound on I(Z; X), without
      labels; `samples` estimate what has no closed form.
    posterior: `(variables, batch) -> (mean, scale, log_scale)`, the codes'
      Gaussians: [N, K] each, or a Cholesky factor [N, K, K] as scale.
    decode: `(variables, codes) -> logits`, [..., K] to [..., C].
    density: of an energy model.
    generator: of a method that makes images of codes.
    indexed: whether batches must have 'index', int32 [N], which of the training
      examples each is.
    check_size: `count -> None`, raises ValueError where the method cannot train
      on so many examples.
    module_configs: `(depth) -> configs`, the objective configs that train each
      of the first `depth` modules of an encoder, or of all that it has if None,
      on the frozen ones before it.
    module_outputs: `(variables, batch) -> features`, what a module behind the
      last would take in as the batch's 'features'.
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
  negatives_of: int | None = None
  features: tuple[str, ...] | None = None
  pictured: tuple[str, ...] = ()
  classes: int = 0
  supervised: str = ''
  exact_batches: str = ''
  optional_groups: tuple[str, ...] = ()
  scores: Callable[[PyTree, Batch], dict[str, jax.Array]] | None = None
  logits: Callable[[PyTree, Batch, jax.Array, int], jax.Array] | None = None
  tags: Callable[[PyTree, Batch], jax.Array] | None = None
  rate: Callable[[PyTree, Batch, jax.Array, int], jax.Array] | None = None
  posterior: (
    Callable[[PyTree, Batch], tuple[jax.Array, jax.Array, jax.Array]] | None
  ) = None
  decode: Callable[[PyTree, jax.Array], jax.Array] | None = None
  density: Density | None = None
  generator: Generator | None = None
  indexed: bool = False
  check_size: Callable[[int], None] = lambda count: None
  module_configs: Callable[[int | None], tuple[Any, ...]] | None = None
  module_outputs: Callable[[PyTree, Batch], jax.Array] | None = None


def probed(objective: Objective, outputs: Iterable[str]) -> tuple[str, ...]:
  """Names the features that evaluation probes, the representation last.

  Args:
    objective: the method.
    outputs: the names that its `encode` returns.

  Returns:
    Those of `objective.features` that there are, in their order.
  """
  if objective.features is None:
    return tuple(sorted(outputs))
  outputs = set(outputs)
  return tuple(name for name in objective.features if name in outputs)
