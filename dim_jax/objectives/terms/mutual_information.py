"""The terms of local and global mutual information."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.losses import bounds, f_divergences, sharded_bounds
from dim_jax.networks import critics
from dim_jax.objective import Metrics, PyTree
from dim_jax.objectives import sharded_batch
from dim_jax.objectives.terms import term
from dim_jax.objectives.terms.term import Inputs, Term

BOUNDS = {
  bound.__name__: bound
  for bound in (
    bounds.infonce,
    bounds.jsd,
    bounds.donsker_varadhan,
    bounds.nwj,
    f_divergences.gan,
    f_divergences.kl,
    f_divergences.reverse_kl,
    f_divergences.squared_hellinger,
    f_divergences.chi_squared,
  )
}


class Critics(nn.Module):
  """The critics, under one name.

  Attributes:
    local: scores the code against each location; None if it has no weight.
    whole: scores the code against the whole map; None if it has no weight.
  """

  local: nn.Module | None
  whole: nn.Module | None

  def __call__(
    self,
    locations: jax.Array,
    whole: jax.Array,
    codes: jax.Array,
    train: bool = False,
    embedded: bool = False,
  ) -> dict[str, Any]:
    """Scores all pairs of one image's codes with another's features.

    Args:
      locations: local features, shape [N, L, C].
      whole: flattened maps, shape [N, 1, D].
      codes: the globals, shape [N, M, Y].
      train: whether normalisation uses the batch's statistics.
      embedded: whether to return what `score_fns` takes, and no scores.

    Returns:
      'local' scores, shape [N*M, N, L], and 'global' ones, [N*M, N, 1].
    """
    scores = {}
    for name, critic, local in (
      ('local', self.local, locations),
      ('global', self.whole, whole),
    ):
      if critic is None:
        continue
      if not embedded:
        scores[name] = critic(local, codes, train=train)
      elif hasattr(critic, 'embed'):
        scores[name] = critic.embed(local, codes, train=train)
      else:
        scores[name] = codes.reshape(-1, codes.shape[-1]), local
    return scores


def score_fns(critic: Critics) -> dict[str, Callable[[PyTree, Any, Any], Any]]:
  """Makes `(params, anchors, local) -> scores` of what is embedded.

  Args:
    critic: of the terms; their parameters are those of all critics.

  Returns:
    By term. Anchors are [A, ...] and locals [n, ...], of any images: scores are
    [A, n, L].
  """

  def of_embedded(one: Any) -> Callable[[PyTree, Any, Any], Any]:
    return lambda params, anchors, local: one.score(anchors, local)

  def of_pairs(one: Any, name: str) -> Callable[[PyTree, Any, Any], Any]:
    def score(params: PyTree, anchors: Any, local: Any) -> Any:
      variables = {'params': params[name]}
      return one.apply(variables, local, anchors[:, None], paired=False)

    return score

  return {
    term: of_embedded(one) if hasattr(one, 'embed') else of_pairs(one, name)
    for term, name, one in (
      ('local', 'local', critic.local),
      ('global', 'whole', critic.whole),
    )
    if one is not None
  }


def make_critics(config: Any, axis_name: str | None) -> Critics:
  """Makes the critics of the terms that a `dim.Config` gives weight."""
  dtype = jnp.dtype(config.dtype)
  local = whole = None
  if config.local_weight:
    depth = {'depth': config.concat_depth} if config.critic == 'concat' else {}
    local = critics.CRITICS[config.critic](
      units=config.critic_units, dtype=dtype, axis_name=axis_name, **depth
    )
  if config.global_weight:
    whole = critics.ConcatCritic(
      units=config.global_critic_units,
      depth=config.concat_depth,
      dtype=dtype,
      axis_name=axis_name,
    )
  return Critics(local, whole)


class Pairs(NamedTuple):
  """What the critics compare: [N, L, C], [N, 1, D] and [N, M, Y]."""

  locations: jax.Array
  whole: jax.Array
  codes: jax.Array


def pairs_of(
  config: Any, features: dict[str, jax.Array], targets: dict[str, jax.Array]
) -> Pairs:
  """Takes codes from features, and what they are scored against from targets.

  Args:
    config: a `dim.Config`, which names the features.
    features: the encoder's outputs that codes are of.
    targets: its outputs of whole images.
  """
  locations = term.select(targets, config.local_feature, 'local_feature')
  whole = term.select(targets, config.map_feature, 'map_feature')
  codes = term.select(features, config.global_feature, 'global_feature')
  return Pairs(
    term.at_positions(locations),
    whole.reshape(whole.shape[0], 1, -1),
    term.at_positions(codes),
  )


def make(config: Any, axis_name: str | None) -> Term:
  """Makes the terms of the group 'critic', which is there if one has weight.

  Args:
    config: a `dim.Config`.
    axis_name: the pmapped axis.
  """
  critic = make_critics(config, axis_name)
  scores_of = score_fns(critic)
  chunk = config.memory.score_chunk if config.memory else None
  weights = {'local': config.local_weight, 'global': config.global_weight}

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    rng = jax.random.split(rng, 3)[1]
    pairs = pairs_of(config, inputs.features, inputs.targets)
    # Outside of pmap, where no axis is bound.
    variables = make_critics(config, None).init(rng, *pairs)
    params, state = term.split(variables)
    return {'critic': params} if params else {}, {'critic': state}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    _, local_rng, global_rng, _ = jax.random.split(rng, 4)
    pairs = pairs_of(config, inputs.features, inputs.targets)
    sample = functools.partial(_sample, axis_name=axis_name)
    pairs = pairs._replace(
      locations=sample(local_rng, pairs.locations, config.local_samples),
      codes=sample(global_rng, pairs.codes, config.global_samples),
    )
    state = model_state['critic']
    own = params.get('critic', {})
    embedded, state = critic.apply(
      {'params': own, **state},
      *pairs,
      train=True,
      embedded=True,
      mutable=list(state),
    )
    metrics: Metrics = {}
    total = jnp.zeros(())
    for name, (anchors, local) in embedded.items():
      is_local = name == 'local'
      rows = _hidden_of_anchors(inputs.hidden, anchors) if is_local else None
      bound = sharded_batch.on_each_device(
        functools.partial(
          _bound, config, scores_of[name], chunk if is_local else None
        ),
        axis_name,
      )
      value = bound(own, ((anchors, rows), local))
      metrics[f'mi/{name}'] = value
      shape = (pairs.locations if is_local else pairs.whole).shape[:2]
      size = config.negatives_of or sharded_batch.count(shape[0], axis_name)
      locations = shape[1] if rows is None else rows.shape[1]
      ceiling = bounds.ceiling(
        config.bound, count_negatives((1, size, locations))
      )
      if ceiling is not None:
        metrics[f'mi/{name}_ceiling'] = jnp.asarray(ceiling, jnp.float32)
      total -= weights[name] * value
    return total, metrics, {'critic': state}

  return Term(init, loss)


def _sample(
  rng: jax.Array, features: jax.Array, count: int | None, axis_name: str | None
) -> jax.Array:
  """Samples [N, count, C] of [N, L, C], with replacement; all if None."""
  if count is None:
    return features
  chex.assert_rank(features, 3)

  def draw(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(rng, shape, 0, features.shape[1])

  rows = sharded_batch.per_image(
    rng, (features.shape[0], count), axis_name, draw
  )
  return jnp.take_along_axis(features, rows[:, :, None], axis=1)


def at_locations(scores: jax.Array, locations: jax.Array) -> jax.Array:
  """Takes scores [A, N, K] of [A, N, L] at the locations of each image.

  A global's negatives are other images at the same locations: if they were
  elsewhere, a feature's place in the image would tell it from a positive.

  Args:
    scores: of A = N*M globals; or of some, with the locations of each.
    locations: int [N, K], or [A, K].
  """
  rows = jnp.repeat(locations, scores.shape[0] // locations.shape[0], axis=0)
  return jnp.take_along_axis(scores, rows[:, None], axis=2)


def _hidden_of_anchors(
  hidden: jax.Array | None, anchors: Any
) -> jax.Array | None:
  """Repeats the locations [N, K] that count for each of N*M anchors."""
  if hidden is None:
    return None
  count = jax.tree.leaves(anchors)[0].shape[0]
  return jnp.repeat(hidden, count // hidden.shape[0], axis=0)


def _bound(
  config: Any,
  score: Callable[[PyTree, Any, Any], jax.Array],
  chunk: int | None,
  axis_name: str | None,
  params: PyTree,
  pairs: tuple[tuple[Any, jax.Array | None], Any],
) -> jax.Array:
  """Computes the bound between the anchors and locals of all devices.

  Args:
    config: the objective's.
    score: of `score_fns`.
    chunk: how many anchors to score at a time; None for all.
    axis_name: of the devices; None for one.
    params: the critics'.
    pairs: this device's anchors with the locations that count of each, if not
      all; and its locals.
  """

  def of_rows(rows: tuple[Any, jax.Array | None], local: Any) -> jax.Array:
    anchors, locations = rows
    scores = score(params, anchors, local)
    return scores if locations is None else at_locations(scores, locations)

  return sharded_bounds.bound_of_pairs(
    BOUNDS[config.bound],
    *pairs,
    score=of_rows,
    chunk=chunk,
    size=config.negatives_of,
    axis_name=axis_name,
  )


def count_negatives(shape: tuple[int, ...]) -> int:
  """Counts an anchor's negatives, by the shape [A, N, L] of the scores."""
  return (shape[1] - 1) * shape[2]
