r"""Masked models of lines: hidden characters predicted from the visible ones.

.. math:: -E[\ln q(x_t | x_{visible})], \quad t \text{ hidden},

of every line, the first and the second ones of pairs alike. What the encoder
sees of hidden characters is `Mask.kind`: a learned token, as in BERT, or
nothing, as in a masked autoencoder; see `networks.sequences`. BERT's further
remedy, to show a few hidden characters as they are or as others, is left out:
what it mends is what is studied here.

The metrics: 'decoder/cross_entropy', nats a hidden character, and
'decoder/accuracy', a fraction of them.

Devlin et al., BERT, 2019. https://arxiv.org/abs/1810.04805
He et al., Masked autoencoders are scalable vision learners, 2022.
https://arxiv.org/abs/2111.06377
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from dim_jax import random
from dim_jax.networks import sequences
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import encoder_and_terms, lines, sharded_batch
from dim_jax.objectives.lines import LineConfig, Mask


@dataclasses.dataclass(kw_only=True)
class Config(LineConfig):
  """A masked model with a transformer's encoder."""

  encoder: str = 'attention'
  """Its blocks: 'attention', or 'gated' convolutions, which see zeros where
  'drop' hides."""
  depth: int = 2
  """How many blocks."""
  dropout: float = 0.0
  """Fraction of the embeddings' numbers that training drops."""
  mask: Mask = dataclasses.field(default_factory=Mask)
  """What is hidden."""


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  lines.check(config, config.mask)


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes a masked model as an objective.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over.

  Returns:
    The objective, over the groups 'encoder' and 'decoder'. It encodes to
    'characters', a vector each of the first line [N, L, D], and to their mean
    'y' [N, D], of what the encoder sees at use.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder = lines.make_encoder(config, True)
  keep = config.mask.keep

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    lines.pairs_of(batch)
    text = batch['text']
    length = text.shape[2]
    draws = sharded_batch.per_image(
      random.branch(rng, random.OfStep.MASK),
      (*text.shape[:2], length + 1),
      axis_name,
      jax.random.uniform,
    )
    text, draws = text.reshape(-1, length), draws.reshape(-1, length + 1)
    order, count = sequences.hidden_order(draws, text, keep)
    rank = jnp.argsort(order, axis=1)
    features = encoder.apply(
      {'params': params['encoder']},
      text,
      train=True,
      visible=rank >= count[:, None],
      rngs={'dropout': encoder_and_terms.dropout_key(rng, axis_name)},
      **lines.mask_options(config.mask),
    )
    # Of places that nobody asks for, no logits are computed.
    places = order[:, : sequences.most_hidden(length, keep)]
    asked = jnp.arange(places.shape[1])[None] < count[:, None]
    targets = jnp.where(asked, jnp.take_along_axis(text, places, axis=1), -1)
    rows = jnp.take_along_axis(features, places[..., None], axis=1)
    value, metrics = lines.decoding_loss(params, rows, targets, axis_name)
    return value, (metrics, model_state)

  return Objective(
    functools.partial(lines.init, config, encoder),
    loss,
    functools.partial(lines.encode, encoder, config.mask),
    features=('y',),
  )
