"""What the objectives of lines share: encoder, masks, batches, a decoder."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax.checks import check_choice, check_fields, check_range
from dim_jax.networks import sequences
from dim_jax.objective import Batch, Metrics, PyTree
from dim_jax.objectives import sharded_batch
from dim_jax.objectives.terms import term


@dataclasses.dataclass(kw_only=True)
class Mask:
  """Characters that a masked model hides in training."""

  kind: str = 'token'
  """What the encoder sees in place of a hidden character: a learned 'token'; by
  'rescale' nothing, and the others larger; by 'drop' it takes no part. See
  `networks.sequences`."""
  keep: float = 0.85
  """p, the fraction of the characters that stays visible."""
  evaluation: str = 'consistent'
  """What the encoder sees at use: the 'consistent' mean of the masked
  embeddings, p x + (1 - p) m, or the embeddings as they are, 'naive'. They
  differ for 'token' alone."""


@dataclasses.dataclass(kw_only=True)
class LineConfig:
  """The encoder of lines."""

  vocabulary: int = 4096
  """V, how many numbers characters have; that of the data."""
  encoder: str = 'gated'
  """Its blocks: 'gated' convolutions, or 'attention' as in a transformer."""
  width: int = 128
  """Size of a character's vector; of 'attention' a multiple of 4."""
  depth: int = 6
  """How many blocks."""
  dilations: tuple[int, ...] = (1,)
  """Of 'gated' blocks in turn: steps between the three characters of a
  window."""
  dropout: float = 0.25
  """Fraction of the embeddings' numbers that training drops."""
  length: int = 32
  """The most places that 'attention' knows."""


def check(config: LineConfig, mask: Mask | None = None) -> None:
  """Raises ValueError where a field that such configs share is wrong."""
  check_choice('objective.encoder', config.encoder, sequences.ENCODERS)
  check_fields(
    config,
    {
      'vocabulary': 'int [3, 2**31)',
      'width': 'int [1, inf)',
      'depth': 'int [0, inf)',
      'dropout': '[0, 1)',
      'length': 'int [1, inf)',
    },
    'objective.',
  )
  if not config.dilations:
    raise ValueError('objective.dilations must hold at least one.')
  for i, value in enumerate(config.dilations):
    check_range(f'objective.dilations[{i}]', value, 'int [1, inf)')
  if config.encoder == 'attention' and config.width % 4:
    raise ValueError(
      "objective.encoder='attention' has 4 heads, which divide objective.width:"
      f' got {config.width}.'
    )
  if mask is not None:
    where = 'objective.mask.'
    check_choice(where + 'kind', mask.kind, sequences.MODES)
    check_choice(where + 'evaluation', mask.evaluation, ('consistent', 'naive'))
    check_fields(mask, {'keep': '(0, 1)'}, where)


def make_encoder(config: LineConfig, masked: bool) -> sequences.LineEncoder:
  """Makes the encoder that a config describes.

  Args:
    config: of an objective.
    masked: whether it has a mask token.
  """
  return sequences.LineEncoder(
    vocabulary=config.vocabulary,
    width=config.width,
    kind=config.encoder,
    depth=config.depth,
    dilations=tuple(config.dilations),
    dropout=config.dropout,
    length=config.length,
    masked=masked,
  )


def mask_options(mask: Mask | None) -> dict[str, Any]:
  """Returns what an encoder's call needs to know of a mask."""
  if mask is None:
    return {}
  return {
    'mode': mask.kind,
    'keep': mask.keep,
    'consistent': mask.evaluation == 'consistent',
  }


def pairs_of(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """Returns the first and the second lines of a batch, int32 [N, L] each.

  Raises:
    ValueError: it has none.
  """
  if 'text' not in batch:
    raise ValueError(
      "this objective takes batches of 'text' [N, 2, L], pairs of lines, got "
      f'{sorted(batch)}: choose a TextConfig as data, or another objective.'
    )
  text = batch['text']
  if text.ndim != 3 or text.shape[1] != 2:
    raise ValueError(f"'text' must be [N, 2, L], got shape {text.shape}.")
  return text[:, 0], text[:, 1]


def init(
  config: LineConfig,
  encoder: sequences.LineEncoder,
  rng: jax.Array,
  batch: Batch,
) -> tuple[PyTree, PyTree]:
  """Draws an encoder, and a linear decoder of it that starts near zero.

  Args:
    config: of the objective.
    encoder: that it describes.
    rng: a key.
    batch: of pairs of lines.

  Returns:
    Parameters of the groups 'encoder' and 'decoder', and an empty model state.
  """
  first, _ = pairs_of(batch)
  encoder_rng, decoder_rng = jax.random.split(rng)
  params, _ = term.split(encoder.init(encoder_rng, first[:2]))
  shape = (config.width, config.vocabulary)
  kernel = jax.random.normal(decoder_rng, shape) / config.width
  decoder = {'kernel': kernel, 'bias': jnp.zeros(config.vocabulary)}
  return {'encoder': params, 'decoder': decoder}, {}


def decoding_loss(
  params: PyTree,
  features: jax.Array,
  characters: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, Metrics]:
  """Computes the cross-entropy of a linear decoder.

  Args:
    params: of `init`.
    features: vectors of this device, [N, L, D].
    characters: what stands there, int32 [N, L]; those of -1 do not count.
    axis_name: the pmapped axis.

  Returns:
    The cross-entropy in nats a character, and the metrics: it and the accuracy.
  """
  rows = features.reshape(-1, features.shape[-1])
  value, accuracy = sharded_batch.classify(
    params['decoder'], rows, characters.reshape(-1), axis_name
  )
  return value, {'decoder/cross_entropy': value, 'decoder/accuracy': accuracy}


def encode(
  encoder: sequences.LineEncoder,
  mask: Mask | None,
  params: PyTree,
  model_state: PyTree,
  batch: Batch,
) -> dict[str, jax.Array]:
  """Encodes first lines, as `Objective.encode` does.

  Returns:
    'characters', [N, L, D], and their mean 'y', [N, D].
  """
  del model_state
  first, _ = pairs_of(batch)
  features = encoder.apply(
    {'params': params['encoder']}, first, **mask_options(mask)
  )
  return {'characters': features, 'y': sequences.mean_of(features, first)}
