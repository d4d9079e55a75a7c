"""Information between the lines of pairs: an encoder each, and a critic.

The two encoders and the critic maximise a bound on I(first; second) over a
batch whose other pairs give the negatives: of InfoNCE, each first line has to
find its second one among all of the batch. Metrics: 'mi/global', the bound in
nats, and 'mi/global_ceiling', the most that it can show.

van den Oord et al., Representation Learning with Contrastive Predictive Coding,
2018. https://arxiv.org/abs/1807.03748
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.checks import check_choice, check_fields
from dim_jax.losses import bounds
from dim_jax.networks import critics, layers, sequences
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import encoder_and_terms, lines, sharded_batch
from dim_jax.objectives.lines import LineConfig
from dim_jax.objectives.terms import mutual_information, term

SIDES = ('first', 'second')


@dataclasses.dataclass(kw_only=True)
class Config(LineConfig):
  """InfoNCE between lines."""

  depth: int = 3
  """How many blocks."""
  code: int = 128
  """Size of a line's code, a linear map of the mean over its characters."""
  bound: str = 'infonce'
  """That is maximised, one of `terms.mutual_information.BOUNDS`."""
  critic: str = 'cosine'
  """One of `networks.critics.CRITICS`."""
  critic_units: int = 128
  """Size of the critic's embedding, and of its hidden layer."""


class CodedLines(nn.Module):
  """An encoder of lines, and a linear map of its mean to the code.

  Attributes:
    encoder: of the characters.
    code: size of the code.
  """

  encoder: nn.Module
  code: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns codes [N, code] of lines int32 [N, L]."""
    mean = sequences.mean_of(self.encoder(x, train=train), x)
    return layers.Dense(self.code, name='code')(mean)


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  lines.check(config)
  check_choice('objective.bound', config.bound, mutual_information.BOUNDS)
  check_choice('objective.critic', config.critic, critics.CRITICS)
  check_fields(
    config,
    {'code': 'int [1, inf)', 'critic_units': 'int [1, inf)'},
    'objective.',
  )


def _make_critic(config: Config) -> nn.Module:
  # It sees the codes of all devices, so that no axis is left.
  return critics.CRITICS[config.critic](units=config.critic_units)


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes the information between lines as an objective.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over.

  Returns:
    The objective, over the groups 'first', 'second' and 'critic'. It encodes to
    the codes of the lines, 'second' and 'first' [N, code].

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder = CodedLines(lines.make_encoder(config, False), config.code)
  critic = _make_critic(config)

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    keys = jax.random.split(rng, 3)
    params = {}
    for side, key, x in zip(SIDES, keys, lines.pairs_of(batch), strict=False):
      params[side], _ = term.split(encoder.init(key, x[:2]))
    codes = jnp.zeros((2, 1, config.code))
    variables = critic.init(keys[2], codes, codes)
    params['critic'], state = term.split(variables)
    return params, {'critic': state}

  def codes_of(params: PyTree, batch: Batch) -> list[jax.Array]:
    return [
      encoder.apply({'params': params[side]}, x)
      for side, x in zip(SIDES, lines.pairs_of(batch), strict=True)
    ]

  loss = functools.partial(_loss, config, encoder, critic, axis_name)

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    del model_state
    return dict(zip(SIDES, codes_of(params, batch), strict=True))

  def scores(variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
    params, state = variables
    first, second = codes_of(params, batch)
    found = critic.apply(
      {'params': params['critic'], **state['critic']},
      second[:, None],
      first[:, None],
    )
    return {'global': found}

  def negatives(batch: Batch) -> dict[str, tuple[int, float | None]]:
    count = lines.pairs_of(batch)[0].shape[0] - 1
    return {'mi/global': (count, bounds.ceiling(config.bound, count))}

  return Objective(
    init,
    loss,
    encode,
    features=('second', 'first'),
    negatives=negatives,
    scores=scores,
  )


def _loss(
  config: Config,
  encoder: nn.Module,
  critic: nn.Module,
  axis_name: str | None,
  params: PyTree,
  model_state: PyTree,
  batch: Batch,
  rng: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
  key = encoder_and_terms.dropout_key(rng, axis_name)
  first, second = (
    sharded_batch.gather(
      encoder.apply(
        {'params': params[side]},
        x,
        train=True,
        rngs={'dropout': random.branch(key, i)},
      ),
      axis_name,
    )
    for i, (side, x) in enumerate(
      zip(SIDES, lines.pairs_of(batch), strict=True)
    )
  )
  state = model_state['critic']
  scores, state = critic.apply(
    {'params': params['critic'], **state},
    second[:, None],
    first[:, None],
    train=True,
    mutable=list(state),
  )
  positive, negative, where = bounds.split_pairs(scores)
  value = mutual_information.BOUNDS[config.bound](
    positive, negative, where=where
  )
  metrics = {'mi/global': value}
  most = bounds.ceiling(config.bound, scores.shape[1] - 1)
  if most is not None:
    metrics['mi/global_ceiling'] = jnp.asarray(most, jnp.float32)
  return -value, (metrics, {'critic': state})
