r"""Deep InfoMax: global and local mutual information, and prior matching.

The paper's objective, with its alpha, beta and gamma,

.. math:: \alpha I(X; Y) + \beta / M^2 \sum_i I(C_i; Y) - \gamma D(V \| Y),

is maximised over the encoder and the critics, while an adversary estimates the
divergence D. Four players share one loss: `encoder`, `critic`, `adversary` and
an online `probe`. The adversary sees `stop_gradient` of the codes, the encoder
sees `stop_gradient` of the adversary's parameters, and the probe sees
`stop_gradient` of the features; so each gets its own gradient from one backward
pass.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.losses import bounds, divergences
from dim_jax.networks import critics, encoders, layers
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import batch as batch_lib

BOUNDS = {
  bound.__name__: bound
  for bound in (
    bounds.infonce,
    bounds.jsd,
    bounds.donsker_varadhan,
    bounds.nwj,
    divergences.gan,
    divergences.kl,
    divergences.reverse_kl,
    divergences.squared_hellinger,
    divergences.chi_squared,
  )
}
PRIORS = ('uniform', 'gaussian', 'ball', 'sphere', 'kl')


@dataclasses.dataclass(kw_only=True)
class Config:
  """Deep InfoMax; the defaults are DIM(L) with InfoNCE (Hjelm et al. 2019)."""

  encoder: Any = 'basic32'
  """A name of `networks.encoders.ENCODERS`, or a Flax module that maps images
  [N, H, W, C] and `train` to a dictionary of taps."""
  code: int = 64
  """Size of the code Y of a named encoder."""
  local_weight: float = 1.0
  """beta: of the MI between the code and each location of `local_tap`."""
  global_weight: float = 0.0
  """alpha: of the MI between the code and the whole of `map_tap`."""
  prior_weight: float = 0.1
  """gamma: of matching the code's distribution to the prior."""
  bound: str = 'infonce'
  """A name of `BOUNDS`. Of the f-divergences among them, chi_squared and
  reverse_kl train an encoder but are no bounds on MI; reports then name the
  estimator of 'mi/local'."""
  critic: str = 'factored'
  """The local critic: 'projection' is the paper's, 'factored' the same function
  but for where it normalises, and several times faster; or 'concat'."""
  critic_units: int = 2048
  """Width of the local critic."""
  global_critic_units: int = 512
  """Width of the global critic, the paper's concatenate-then-MLP."""
  local_samples: int | None = None
  """Score this many random locations an image instead of all, drawn with
  replacement."""
  global_samples: int | None = None
  """Likewise of the globals, where `global_tap` has several an image."""
  prior: str = 'uniform'
  """The prior of the code: 'uniform' on [0, 1] (against sigmoid of the code),
  'gaussian', 'ball' or 'sphere', matched by an adversary; or 'kl', a stochastic
  encoder with the closed-form KL to N(0, I)."""
  gradient_penalty: float = 1.0
  """Zero-centred penalty on the adversary, over prior samples and codes."""
  local_tap: str = 'local'
  map_tap: str = 'conv'
  global_tap: str = 'y'
  dtype: str = 'float32'
  """Compute dtype of the networks, 'float32' or 'bfloat16'; parameters and
  scores stay float32."""
  num_classes: int = 10
  """Classes of the online probe, a linear layer on every tap that sees no
  gradient back; 0 for none. Images labelled -1 are left out of it."""
  probe_taps: tuple[str, ...] = ('conv', 'fc', 'y')


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  for name, accepted in (
    ('bound', tuple(BOUNDS)),
    ('critic', tuple(critics.CRITICS)),
    ('prior', PRIORS),
    ('dtype', ('float32', 'bfloat16')),
  ):
    if (value := getattr(config, name)) not in accepted:
      raise ValueError(
        f'objective.{name} must be one of {accepted}, got {value!r}.'
      )
  weights = ('local_weight', 'global_weight', 'prior_weight')
  for name in (*weights, 'gradient_penalty'):
    if (value := getattr(config, name)) < 0:
      raise ValueError(f'objective.{name} must be >= 0, got {value}.')
  if not config.local_weight and not config.global_weight:
    raise ValueError(
      'objective.local_weight and objective.global_weight are both 0: nothing '
      'would train the encoder. Set one above 0.'
    )
  for name in ('local_samples', 'global_samples'):
    value = getattr(config, name)
    if value is not None and value < 1:
      raise ValueError(f'objective.{name} must be >= 1 or None, got {value}.')


class Networks(nn.Module):
  """The critics, under the player's one name.

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
  ) -> dict[str, jax.Array]:
    """Scores of all pairs of one image's codes with another's features.

    Args:
      locations: local features, shape [N, L, C].
      whole: flattened maps, shape [N, 1, D].
      codes: the globals, shape [N, M, Y].
      train: whether normalisation uses the batch's statistics.

    Returns:
      'local' scores, shape [N*M, N, L], and 'global' ones, [N*M, N, 1].
    """
    scores = {}
    if self.local is not None:
      scores['local'] = self.local(locations, codes, train=train)
    if self.whole is not None:
      scores['global'] = self.whole(whole, codes, train=train)
    return scores


def _make_networks(
  config: Config, axis_name: str | None
) -> tuple[nn.Module, Networks, nn.Module]:
  dtype = jnp.dtype(config.dtype)
  encoder = config.encoder
  if isinstance(encoder, str):
    encoder = encoders.make(
      encoder,
      code=config.code,
      stochastic=config.prior == 'kl',
      dtype=dtype,
      axis_name=axis_name,
    )
  elif axis_name and hasattr(encoder, 'axis_name'):
    encoder = encoder.clone(axis_name=axis_name)
  critic = Networks(
    local=critics.CRITICS[config.critic](
      units=config.critic_units, dtype=dtype, axis_name=axis_name
    )
    if config.local_weight
    else None,
    whole=critics.ConcatCritic(
      units=config.global_critic_units, dtype=dtype, axis_name=axis_name
    )
    if config.global_weight
    else None,
  )
  return encoder, critic, critics.Adversary(dtype=dtype)


def _tap(taps: dict[str, jax.Array], name: str, field: str) -> jax.Array:
  if name not in taps:
    raise ValueError(
      f'objective.{field} is {name!r}, but the encoder returns the taps '
      f'{sorted(taps)}.'
    )
  return taps[name]


def _positions(features: jax.Array) -> jax.Array:
  """[N, ..., C] as [N, positions, C]; a vector has one position."""
  return features.reshape(features.shape[0], -1, features.shape[-1])


def _inputs(
  config: Config, taps: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What the critics compare: [N, L, C], [N, 1, D] and [N, M, Y]."""
  locations = _positions(_tap(taps, config.local_tap, 'local_tap'))
  whole = _tap(taps, config.map_tap, 'map_tap')
  codes = _positions(_tap(taps, config.global_tap, 'global_tap'))
  return locations, whole.reshape(whole.shape[0], 1, -1), codes


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Deep InfoMax as an objective.

  Metrics, in nats unless named otherwise: 'mi/local' and 'mi/global' (the
  bounds) with their '_ceiling' where they have one, 'prior/adversary',
  'prior/gradient_penalty', 'prior/encoder', 'prior/kl' (summed over dimensions,
  averaged over images), 'probe/TAP_loss' and 'probe/TAP_accuracy' (a fraction).

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over. Every device
      then scores its own images' embeddings against those of all devices, so
      the loss is that of the global batch.

  Returns:
    The objective, over the players 'encoder', 'critic', 'adversary' (unless
    the prior has no weight, or is 'kl') and 'probe'.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder, critic, adversary = _make_networks(config, axis_name)
  adversarial = config.prior_weight > 0 and config.prior != 'kl'

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    # Outside of pmap, where no axis is bound.
    encoder, critic, _ = _make_networks(config, None)
    rngs = jax.random.split(rng, 3)
    images = layers.normalise_images(batch['image'][:2])
    taps, variables = encoder.init_with_output(rngs[0], images, train=False)
    model_state, params = {}, {}
    model_state['encoder'], params['encoder'] = _split(variables)
    variables = critic.init(rngs[1], *_inputs(config, taps), train=False)
    model_state['critic'], params['critic'] = _split(variables)
    if adversarial:
      codes = _codes(config, taps)
      params['adversary'] = adversary.init(rngs[2], codes)['params']
    if config.num_classes:
      params['probe'] = {
        tap: {
          'kernel': jnp.zeros((taps[tap][0].size, config.num_classes)),
          'bias': jnp.zeros(config.num_classes),
        }
        for tap in config.probe_taps
        if tap in taps
      }
    return params, model_state

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    noise_rng, local_rng, global_rng, prior_rng = jax.random.split(rng, 4)
    images = layers.normalise_images(batch['image'])
    taps, encoder_state = encoder.apply(
      {'params': params['encoder'], **model_state['encoder']},
      images,
      train=True,
      mutable=list(model_state['encoder']),
    )
    metrics: Metrics = {}
    total = jnp.zeros(())

    if config.prior == 'kl':
      mean = taps[config.global_tap].astype(jnp.float32)
      log_variance = _tap(taps, 'log_variance', 'prior').astype(jnp.float32)
      noise = batch_lib.per_image(
        noise_rng, mean.shape, axis_name, jax.random.normal
      )
      sample = mean + jnp.exp(0.5 * log_variance) * noise
      taps = taps | {config.global_tap: sample}
      kl = divergences.gaussian_kl(mean, log_variance)
      # The reported number is of all images, whichever device they are on.
      kl = kl if axis_name is None else jax.lax.pmean(kl, axis_name)
      metrics['prior/kl'] = kl
      total += config.prior_weight * kl

    locations, whole, codes = _inputs(config, taps)
    locations = _sample(local_rng, locations, config.local_samples, axis_name)
    codes = _sample(global_rng, codes, config.global_samples, axis_name)
    scores, critic_state = critic.apply(
      {'params': params.get('critic', {}), **model_state['critic']},
      locations,
      whole,
      codes,
      train=True,
      mutable=list(model_state['critic']),
    )
    weights = {'local': config.local_weight, 'global': config.global_weight}
    for name, score in scores.items():
      positive, negative, where = bounds.split_pairs(score)
      bound = BOUNDS[config.bound](positive, negative, where=where)
      metrics[f'mi/{name}'] = bound
      negatives = (score.shape[1] - 1) * score.shape[2]
      ceiling = bounds.ceiling(config.bound, negatives)
      if ceiling is not None:
        metrics[f'mi/{name}_ceiling'] = jnp.asarray(ceiling, jnp.float32)
      total -= weights[name] * bound

    if adversarial:
      codes = batch_lib.gather(_codes(config, taps), axis_name)
      prior = divergences.sample_prior(
        prior_rng, config.prior, (codes.shape[0], codes.shape[1])
      )
      prior_terms, terms = _match_prior(
        config, adversary, params['adversary'], prior, codes
      )
      metrics |= terms
      total += prior_terms

    if config.num_classes and 'label' in batch:
      probe_loss, terms = _probe(
        params['probe'], taps, batch['label'], axis_name
      )
      metrics |= terms
      total += probe_loss
    return total, (metrics, {'encoder': encoder_state, 'critic': critic_state})

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    variables = {'params': params['encoder'], **model_state['encoder']}
    images = layers.normalise_images(batch['image'])
    return encoder.apply(variables, images, train=False)

  return Objective(init, loss, encode)


def scores(
  config: Config, params: PyTree, model_state: PyTree, batch: Batch
) -> dict[str, jax.Array]:
  """The trained critics' scores of all pairs, with running statistics.

  Args:
    config: the run's objective.
    params: its parameters.
    model_state: its running statistics.
    batch: N images.

  Returns:
    'local' scores, shape [N*M, N, L], and 'global' ones, [N*M, N, 1], of those
    that the config gives weight; entry [a, j, l] compares global a, of image
    a // M, with local l of image j.
  """
  encoder, critic, _ = _make_networks(config, None)
  taps = encoder.apply(
    {'params': params['encoder'], **model_state['encoder']},
    layers.normalise_images(batch['image']),
    train=False,
  )
  return critic.apply(
    {'params': params['critic'], **model_state['critic']},
    *_inputs(config, taps),
    train=False,
  )


def _split(variables: PyTree) -> tuple[PyTree, PyTree]:
  """Splits a Flax module's variables into (state, params)."""
  variables = dict(variables)
  params = variables.pop('params', {})
  return variables, params


def _codes(config: Config, taps: dict[str, jax.Array]) -> jax.Array:
  """The codes that are matched to the prior, one a row: [N*M, Y]."""
  codes = taps[config.global_tap]
  return codes.reshape(-1, codes.shape[-1]).astype(jnp.float32)


def _match_prior(
  config: Config,
  adversary: nn.Module,
  params: PyTree,
  prior: jax.Array,
  codes: jax.Array,
) -> tuple[jax.Array, Metrics]:
  """The adversary's terms and the encoder's weighted one, and their metrics."""
  if config.prior == 'uniform':
    codes = jax.nn.sigmoid(codes)

  def score(params: PyTree, x: jax.Array) -> jax.Array:
    return adversary.apply({'params': params}, x)

  detached = jax.lax.stop_gradient(codes)
  adversary_loss = divergences.adversary_loss(
    score(params, prior), score(params, detached)
  )
  encoder_loss = divergences.encoder_prior_loss(
    score(jax.lax.stop_gradient(params), codes)
  )
  total = adversary_loss + config.prior_weight * encoder_loss
  metrics = {'prior/adversary': adversary_loss, 'prior/encoder': encoder_loss}
  if config.gradient_penalty:
    # Half the sum of both sides: Mescheder et al. 2018, eq. 9 and 10.
    penalty = 0.5 * (
      divergences.gradient_penalty(lambda x: score(params, x), prior)
      + divergences.gradient_penalty(lambda x: score(params, x), detached)
    )
    total += config.gradient_penalty * penalty
    metrics['prior/gradient_penalty'] = penalty
  return total, metrics


def _probe(
  params: PyTree,
  taps: dict[str, jax.Array],
  labels: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, Metrics]:
  """Linear classifiers on detached features; labels of -1 do not count."""
  total, metrics = jnp.zeros(()), {}
  for tap, layer in params.items():
    features = jax.lax.stop_gradient(taps[tap]).astype(jnp.float32)
    features = features.reshape(features.shape[0], -1)
    loss, accuracy = batch_lib.classify(layer, features, labels, axis_name)
    metrics[f'probe/{tap}_loss'] = loss
    metrics[f'probe/{tap}_accuracy'] = accuracy
    total += loss
  return total, metrics


def _sample(
  rng: jax.Array, features: jax.Array, count: int | None, axis_name: str | None
) -> jax.Array:
  """[N, L, C] to [N, count, C], with replacement; all of them if None."""
  if count is None:
    return features
  chex.assert_rank(features, 3)

  def draw(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(rng, shape, 0, features.shape[1])

  rows = batch_lib.per_image(rng, (features.shape[0], count), axis_name, draw)
  return jnp.take_along_axis(features, rows[:, :, None], axis=1)
