r"""Tagging of couplets: each character is labelled with the one below it.

A couplet's lines are of one length, and the second answers the first character
by character. So the second is a sequence of labels of the first, which an
encoder of the whole first line tells,

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

import jax
import jax.numpy as jnp

from dim_jax.networks import sequences
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import encoder_and_terms, lines, sharded_batch
from dim_jax.objectives.lines import LineConfig, Mask
from dim_jax.objectives.terms import term


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
  lines.check(config)
  lines.check_mask(config.mask)


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
  options = lines.mask_options(config.mask)

  def features_of(
    params: PyTree, first: jax.Array, rng: jax.Array | None
  ) -> jax.Array:
    return encoder.apply(
      {'params': params},
      first,
      train=rng is not None,
      rngs={} if rng is None else {'dropout': rng},
      **options,
    )

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    first, _ = lines.pairs_of(batch)
    encoder_rng, decoder_rng = jax.random.split(rng)
    params, _ = term.split(encoder.init(encoder_rng, first[:2]))
    decoder = lines.init_linear(decoder_rng, config.width, config.vocabulary)
    return {'encoder': params, 'decoder': decoder}, {}

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    first, second = lines.pairs_of(batch)
    key = encoder_and_terms.dropout_key(rng, axis_name)
    features = features_of(params['encoder'], first, key)
    if config.frozen:
      features = jax.lax.stop_gradient(features)
    logits = lines.linear(
      params['decoder'], features.reshape(-1, features.shape[-1])
    )
    targets = jnp.where(second == sequences.PADDING, -1, second).reshape(-1)
    value, accuracy, _ = sharded_batch.cross_entropy(logits, targets, axis_name)
    metrics = {'decoder/cross_entropy': value, 'decoder/accuracy': accuracy}
    return value, (metrics, model_state)

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    del model_state
    first, _ = lines.pairs_of(batch)
    features = features_of(params['encoder'], first, None)
    return {
      'characters': features,
      'y': sequences.mean_of(features, first),
    }

  return Objective(
    init,
    loss,
    encode,
    features=('y',),
    tags=functools.partial(_tags, encode),
  )


def _tags(encode, variables: PyTree, batch: Batch) -> jax.Array:
  params, model_state = variables
  x = encode(params, model_state, batch)['characters']
  logits = lines.linear(params['decoder'], x.reshape(-1, x.shape[-1]))
  return logits.reshape(*x.shape[:2], -1)
