"""The terms of local and global mutual information."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.losses import bounds, f_divergences, large_batches
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
    images: jax.Array | None = None,
  ) -> dict[str, Any]:
    """Scores all pairs of one image's codes with another's features.

    Args:
      locations: local features, shape [N, L, C].
      whole: flattened maps, shape [N, 1, D].
      codes: the globals, shape [N, M, Y].
      train: whether normalisation uses the batch's statistics.
      embedded: whether 'local' is what `local.score` takes, and no scores.
      images: those that each image's codes meet, int [N, P]; all if None.

    Returns:
      'local' scores, shape [N*M, N, L], and 'global' ones, [N*M, N, 1]; with
      `images` P in place of the second N.
    """
    scores = {}
    if self.local is not None and embedded:
      scores['local'] = self.local.embed(locations, codes, train=train)
    elif self.local is not None:
      scores['local'] = self.local(locations, codes, train=train, images=images)
    if self.whole is not None:
      scores['global'] = self.whole(whole, codes, train=train, images=images)
    return scores


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
    images = None
    if config.negatives is not None:
      count = pairs.codes.shape[0]
      if axis_name is not None:
        count *= jax.lax.axis_size(axis_name)
      rng = random.branch(rng, random.OfStep.NEGATIVES)
      images = draw_images(rng, count, config.negatives)
    state = model_state['critic']
    scores, state = critic.apply(
      {'params': params.get('critic', {}), **state},
      *pairs,
      train=True,
      embedded=chunk is not None,
      images=images,
      mutable=list(state),
    )
    hidden = inputs.hidden
    if hidden is not None:
      hidden = sharded_batch.gather(hidden, axis_name)
    metrics: Metrics = {}
    total = jnp.zeros(())
    for name, values in scores.items():
      if name == 'local' and chunk is not None:
        bound, negatives = _chunked_bound(
          config, critic.local, values, hidden, chunk
        )
      elif name == 'local' and hidden is not None:
        bound, negatives = _bound(config, at_locations(values, hidden))
      else:
        bound, negatives = _bound(config, values)
      metrics[f'mi/{name}'] = bound
      ceiling = bounds.ceiling(config.bound, negatives)
      if ceiling is not None:
        metrics[f'mi/{name}_ceiling'] = jnp.asarray(ceiling, jnp.float32)
      total -= weights[name] * bound
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


def draw_images(rng: jax.Array, count: int, negatives: int) -> jax.Array:
  """Draws whom each image of a batch meets: itself, and K others.

  The batch is shuffled, and an image's others are the K behind it, in a circle:
  each image is another's K times, and never its own.

  Args:
    rng: a key.
    count: N, images of the batch, on all devices.
    negatives: K.

  Returns:
    Numbers of images, int32 [N, 1 + K], an image's own first.

  Raises:
    ValueError: the batch has no K others.
  """
  if negatives >= count:
    raise ValueError(
      f'objective.negatives={negatives} is of other images of a batch, which '
      f'has {count}: set it to {count - 1} at most, or to None for all others.'
    )
  order = jax.random.permutation(rng, count)
  place = jnp.argsort(order)
  return order[(place[:, None] + jnp.arange(1 + negatives)[None]) % count]


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


def _bound(config: Any, scores: jax.Array) -> tuple[jax.Array, int]:
  """Computes the bound of scores [A, N, L]; counts an anchor's negatives.

  Those of drawn images, [A, 1 + K, L], have the anchor's own image first.
  """
  if config.negatives is None:
    positive, negative, where = bounds.split_pairs(scores)
  else:
    positive, where = scores[:, 0], None
    negative = scores[:, 1:].reshape(scores.shape[0], -1)
  bound: Callable[..., jax.Array] = BOUNDS[config.bound]
  return bound(positive, negative, where=where), count_negatives(scores.shape)


def _chunked_bound(
  config: Any,
  critic: Any,
  embedded: tuple[Any, Any],
  hidden: jax.Array | None,
  chunk: int,
) -> tuple[jax.Array, int]:
  """`_bound` of the scores of embeddings, some anchors at a time.

  Args:
    config: the objective's.
    critic: the local one.
    embedded: (anchors, local), as the critic embeds them.
    hidden: the locations [N, K] that count, of each image; all of them if None.
    chunk: how many anchors.
  """
  anchors, local = embedded
  rows = None
  if hidden is not None:
    count = jax.tree.leaves(anchors)[0].shape[0]
    rows = jnp.repeat(hidden, count // hidden.shape[0], axis=0)

  def score(row: Any, local: Any) -> jax.Array:
    anchor, rows = row
    scores = critic.score(anchor, local)
    return scores if rows is None else at_locations(scores, rows)

  bound = large_batches.chunked_bound(
    BOUNDS[config.bound], (anchors, rows), local, chunk=chunk, score=score
  )
  shape = jax.eval_shape(score, (anchors, rows), local).shape
  return bound, count_negatives(shape)


def count_negatives(shape: tuple[int, ...]) -> int:
  """Counts an anchor's negatives, by the shape [A, N, L] of the scores."""
  return (shape[1] - 1) * shape[2]
