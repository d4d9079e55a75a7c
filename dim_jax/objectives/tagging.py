r"""Tagging of couplets: each character is labelled with the one below it.

A couplet's lines are of one length, and the second answers the first character
by character. So the second is a sequence of labels of the first, which an
encoder of the whole first line predicts,

.. math:: -\frac{1}{n} \sum_t \ln q(y_t | x),

over all characters of a batch, and the answer to a line is the most probable
label at each place. The published model has six gated convolutions; the
defaults are its.

With `frozen` only the output layer learns: a linear probe of an encoder that
another run trained (`init_from`); without it is fine-tuned. An encoder of a
masked model sees what `mask` says.

The metrics: 'decoder/cross_entropy', nats a character, whose exponential is the
perplexity, and 'decoder/accuracy', a fraction of the characters. Characters
that are not in the vocabulary count as one class.

Su, A couplet robot by convolutions and sequence labelling, 2019 (in Chinese).
https://kexue.fm/archives/6270
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax.networks import sequences
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import encoder_and_terms, lines
from dim_jax.objectives.lines import LineConfig, Mask


@dataclasses.dataclass(kw_only=True)
class Config(LineConfig):
  """The published tagger of couplets."""

  frozen: bool = False
  """Train the output layer alone."""
  mask: Mask | None = None
  """How the encoder was masked where it was trained before; nothing is hidden
  here, but what it sees is then that of `mask.evaluation`."""


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  lines.check(config, config.mask)


def check_optimizers(
  config: Config, optimizers: Mapping[str, Any], default: Any
) -> None:
  """Raises ValueError where weight decay would move a frozen encoder.

  Args:
    config: the run's objective.
    optimizers: those of single parameter groups.
    default: of all others.
  """
  decay = optimizers.get('encoder', default).weight_decay
  if config.frozen and decay:
    raise ValueError(
      f'objective.frozen=True, but weight_decay={decay} would shrink the '
      'encoder: set --config.groups.encoder.weight_decay=0.'
    )


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes the tagger as an objective.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over.

  Returns:
    The objective, over the groups 'encoder' and 'decoder'. It encodes to
    'characters', a vector each of the first line [N, L, D], and to their mean
    'y' [N, D].

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder = lines.make_encoder(config, config.mask is not None)
  encode = functools.partial(lines.encode, encoder, config.mask)

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    first, second = lines.pairs_of(batch)
    features = encoder.apply(
      {'params': params['encoder']},
      first,
      train=True,
      rngs={'dropout': encoder_and_terms.dropout_key(rng, axis_name)},
      **lines.mask_options(config.mask),
    )
    if config.frozen:
      features = jax.lax.stop_gradient(features)
    targets = jnp.where(second == sequences.PADDING, -1, second)
    value, metrics = lines.decoding_loss(params, features, targets, axis_name)
    return value, (metrics, model_state)

  return Objective(
    functools.partial(lines.init, config, encoder),
    loss,
    encode,
    features=('y',),
    tags=functools.partial(_tags, encode),
  )


def _tags(encode, variables: PyTree, batch: Batch) -> jax.Array:
  params, model_state = variables
  x = encode(params, model_state, batch)['characters']
  decoder = params['decoder']
  logits = (
    x.reshape(-1, x.shape[-1]) @ decoder['kernel'] + decoder['bias'][None]
  )
  return logits.reshape(*x.shape[:2], -1)
