"""The terms that read labels: a classifier, and probes that change nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax import random
from dim_jax.checks import check_fields
from dim_jax.networks import decoders
from dim_jax.objective import Metrics, PyTree
from dim_jax.objectives import sharded_batch
from dim_jax.objectives.terms import term
from dim_jax.objectives.terms.term import Inputs, Term

PROBED = ('conv', 'fc', 'y')


@dataclasses.dataclass(kw_only=True)
class Supervised:
  """A small classifier, which the encoder learns from too.

  Images labelled -1 are left out of it.
  """

  weight: float = 1.0
  """Of its cross-entropy."""
  units: tuple[int, ...] = (200,)
  """Sizes of its hidden layers."""
  feature: str = 'conv'
  """The feature that it reads."""


def check(supervised: Supervised, num_classes: int) -> None:
  """Raises ValueError where a field cannot be used."""
  where = 'objective.supervised.'
  check_fields(supervised, {'weight': '[0, inf)'}, where)
  sharded_batch.check_units(where + 'units', supervised.units)
  if num_classes < 2:
    raise ValueError(
      'objective.supervised trains a classifier: set objective.num_classes to '
      f'2 or more, got {num_classes}.'
    )


def read(
  supervised: Supervised,
  num_classes: int,
  params: PyTree,
  features: Mapping[str, jax.Array],
) -> jax.Array:
  """Computes the classifier's logits, [N, C]."""
  decoder = decoders.Classifier(num_classes, supervised.units)
  x = _flat(supervised, features)
  return decoder.apply({'params': params['decoder']}, x)


def _flat(
  supervised: Supervised, features: Mapping[str, jax.Array]
) -> jax.Array:
  x = term.select(features, supervised.feature, 'supervised.feature')
  return x.reshape(x.shape[0], -1)


def make(
  supervised: Supervised, num_classes: int, axis_name: str | None
) -> Term:
  """Makes the term of the group 'decoder'.

  Args:
    supervised: its options.
    num_classes: C.
    axis_name: the pmapped axis.
  """

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    decoder = decoders.Classifier(num_classes, supervised.units)
    rng = random.branch(rng, random.OfParameters.DECODER)
    variables = decoder.init(rng, _flat(supervised, inputs.features))
    return {'decoder': variables['params']}, {}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    if inputs.labels is None:
      raise ValueError(
        f'objective.supervised.weight={supervised.weight} needs '
        "batch['label'], int32 [N], -1 where unknown."
      )
    cross_entropy, accuracy, labelled = sharded_batch.cross_entropy(
      read(supervised, num_classes, params, inputs.features),
      inputs.labels,
      axis_name,
    )
    metrics = {
      'decoder/cross_entropy': cross_entropy,
      'decoder/accuracy': accuracy,
      'decoder/labelled': labelled,
    }
    return supervised.weight * cross_entropy, metrics, {}

  return Term(init, loss)


def make_probes(config: Any, axis_name: str | None) -> list[Term]:
  """Makes linear classifiers on detached features, of the group 'probe'.

  Args:
    config: of an objective, with 'probe_features', of `PROBED` those that the
      encoder has, and 'num_classes', C; labels of -1 do not count.
    axis_name: the pmapped axis.

  Returns:
    The term; nothing where there are no features or no classes.
  """
  names, num_classes = tuple(config.probe_features), config.num_classes
  if not names or not num_classes:
    return []

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    features = inputs.features
    chosen = names
    if names == PROBED:
      chosen = tuple(name for name in names if name in features)
    return {
      'probe': {
        name: {
          'kernel': jnp.zeros(
            (term.select(features, name, 'probe_features')[0].size, num_classes)
          ),
          'bias': jnp.zeros(num_classes),
        }
        for name in chosen
      }
    }, {}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    total = jnp.zeros(())
    metrics: Metrics = {}
    if inputs.labels is None:
      return total, metrics, {}
    for name, layer in params.get('probe', {}).items():
      x = jax.lax.stop_gradient(inputs.features[name]).astype(jnp.float32)
      value, accuracy = sharded_batch.classify(
        layer, x.reshape(x.shape[0], -1), inputs.labels, axis_name
      )
      metrics[f'probe/{name}_loss'] = value
      metrics[f'probe/{name}_accuracy'] = accuracy
      total += value
    return total, metrics, {}

  return [Term(init, loss)]
