"""An objective of an encoder and of a sum of terms, which are in `terms/`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.networks import layers
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import image_encoder, sharded_batch
from dim_jax.objectives.terms import prior_matching, term
from dim_jax.objectives.terms.term import Inputs, Term

_PROBED = ('conv', 'fc', 'globals')


def make(
  make_encoder: Callable[[str | None], nn.Module],
  terms: Sequence[Term],
  *,
  code: str,
  stochastic: bool = False,
  axis_name: str | None = None,
  **offered: Any,
) -> Objective:
  """Makes an objective that trains an encoder by a sum of terms.

  Args:
    make_encoder: `axis_name -> encoder`, a module that maps images [N, H, W, C]
      and `train` to features.
    terms: in the order that they are added up.
    code: the feature that is the code, and the representation.
    stochastic: whether the terms see a sample of it in its place, of the
      encoder's 'log_variance'.
    axis_name: the pmapped axis that the batch is spread over.
    **offered: what else the method has; see `Objective`.

  Returns:
    The objective, over the group 'encoder' and those of the terms; it encodes
    to the encoder's features.
  """
  embed = functools.partial(
    _embed, make_encoder(axis_name), code, stochastic, axis_name
  )

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    variables = {'params': params['encoder'], **model_state['encoder']}
    images = layers.normalise_images(sharded_batch.images(batch))
    return image_encoder.features_of(
      make_encoder(None).apply(variables, images, train=False)
    )

  return Objective(
    # Outside of pmap, where no axis is bound.
    functools.partial(
      init, functools.partial(_init_encoder, make_encoder(None)), terms
    ),
    functools.partial(loss, embed, terms),
    encode,
    features=(*_PROBED, code),
    pictured=('fc',),
    **offered,
  )


def init(
  init_encoder: Callable[
    [jax.Array, jax.Array], tuple[dict[str, jax.Array], PyTree, PyTree]
  ],
  terms: Sequence[Term],
  rng: jax.Array,
  batch: Batch,
) -> tuple[PyTree, PyTree]:
  """Draws the parameters of the encoder and of all terms.

  Args:
    init_encoder: `(rng, images) -> (features, params, state)`.
    terms: of the loss.
    rng: `Objective.init`'s key.
    batch: of which two images are looked at.
  """
  images = layers.normalise_images(sharded_batch.images(batch)[:2])
  features, encoder, state = init_encoder(rng, images)
  inputs = Inputs(features, features, None, images, None, None, encoder)
  params, model_state = {'encoder': encoder}, {'encoder': state}
  for one in terms:
    own, own_state = one.init(rng, inputs)
    params = term.merged(params, own)
    model_state = term.merged(model_state, own_state)
  return params, model_state


def loss(
  embed: Callable[[PyTree, PyTree, Batch, jax.Array], tuple[Inputs, PyTree]],
  terms: Sequence[Term],
  params: PyTree,
  model_state: PyTree,
  batch: Batch,
  rng: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
  """Adds up the terms of a batch.

  Args:
    embed: `(params, state, batch, rng) -> (inputs, state)` of the encoder: what
      the terms see, and its state after the step.
    terms: of the loss.
    params: of all groups.
    model_state: likewise.
    batch: images, and 'label' if there are.
    rng: the step's key.
  """
  inputs, encoder_state = embed(
    params['encoder'], model_state['encoder'], batch, rng
  )
  state = model_state | {'encoder': encoder_state}
  total = jnp.zeros(())
  metrics: Metrics = {}
  for one in terms:
    value, own, own_state = one.loss(params, state, inputs, rng)
    total += value
    metrics |= own
    state |= own_state
  return total, (metrics, state)


def dropout_key(rng: jax.Array, axis_name: str | None) -> jax.Array:
  """Derives the key of a step's dropout, another one on each device."""
  rng = random.branch(rng, random.OfStep.DROPOUT)
  if axis_name is not None:
    rng = random.branch(rng, jax.lax.axis_index(axis_name))
  return rng


def _init_encoder(
  encoder: nn.Module, rng: jax.Array, images: jax.Array
) -> tuple[dict[str, jax.Array], PyTree, PyTree]:
  rng = jax.random.split(rng, 3)[0]
  outputs, variables = encoder.init_with_output(rng, images, train=False)
  return image_encoder.features_of(outputs), *term.split(variables)


def _embed(
  encoder: nn.Module,
  code: str,
  stochastic: bool,
  axis_name: str | None,
  params: PyTree,
  state: PyTree,
  batch: Batch,
  rng: jax.Array,
) -> tuple[Inputs, PyTree]:
  images = layers.normalise_images(sharded_batch.images(batch))
  outputs, changed = encoder.apply(
    {'params': params, **state},
    images,
    train=True,
    mutable=list(state),
    rngs={'dropout': dropout_key(rng, axis_name)},
  )
  features = image_encoder.features_of(outputs)
  if code not in features:
    raise ValueError(
      f'objective.encoder must return the feature {code!r}; it returns '
      f'{sorted(features)}.'
    )
  mean = features[code]
  if stochastic:
    features = prior_matching.sample_code(features, code, rng, axis_name)
  inputs = Inputs(
    features,
    features,
    mean,
    images,
    batch.get('label'),
    None,
    params,
    batch.get('index'),
  )
  return inputs, changed
