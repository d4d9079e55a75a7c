r"""Deep InfoMax: global and local mutual information, and prior matching.

The paper's objective, with its alpha, beta and gamma,

.. math:: \alpha I(X; Y) + \beta / M^2 \sum_i I(C_i; Y) - \gamma D(V \| Y),

is maximised over the encoder and the critics, while an adversary estimates the
divergence D. Four players share one loss: `encoder`, `critic`, `adversary` and
an online `probe`; `Config.divergence` says which D, and two need no adversary.
The adversary sees `stop_gradient` of the codes, the encoder sees
`stop_gradient` of the adversary's parameters, and the probe sees
`stop_gradient` of the features; so each gets its own gradient from one backward
pass.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dim_jax.losses import bottleneck, bounds, chunked, divergences
from dim_jax.networks import critics, encoders, layers, masking
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
DIVERGENCES = (*divergences.ADVERSARIAL, 'mmd', 'stein')


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
  score_chunk: int | None = None
  """Hold the local scores of so many of the batch's globals at a time, instead
  of all, and make them twice: the same loss and gradients in less memory. For
  the critics 'projection' and 'factored'; the scores of `global_weight`, one a
  pair of images, stay as they are."""
  prior: str = 'uniform'
  """The prior of the code: 'uniform' on [0, 1] (against sigmoid of the code),
  'gaussian', 'ball' or 'sphere', matched by samples; or 'kl', a stochastic
  encoder with the closed-form KL to N(0, I)."""
  divergence: str = 'jsd'
  """How samples of the prior and codes are compared: a name of
  `divergences.ADVERSARIAL`, by an adversary; 'mmd', by kernels; 'stein', along
  the Stein direction of a 'gaussian' prior. An adversary may take k steps to
  one of the encoder's: give players 'encoder' and 'critic' an OptimizerConfig
  with every=k. 'wgan' needs clip_weights in that of 'adversary'."""
  gradient_penalty: float = 1.0
  """Weight of the divergence's own penalty on the adversary, 1 being its
  paper's: zero-centred for 'jsd', over prior samples and codes; of GAN-QP, its
  quadratic term. It has no meaning where there is none."""
  adversary_units: tuple[int, ...] = (1000, 200)
  """Sizes of the adversary's hidden layers."""
  spectral_norm: bool | None = None
  """Whether the adversary's weights are divided by their spectral norms; None
  for 'hinge' alone."""
  capacity: float | None = None
  """With the prior 'kl': an image's code costs only its nats above so many."""
  spectral_penalty: float = 0.0
  """lambda: of half the sum of the encoder's squared spectral norms."""
  mask: str | None = None
  """Hide patches of the images that the code is of, while the local features
  stay those of whole images: 'token' shows a learned patch instead, 'rescale'
  keeps the images' mean, 'drop' shows zeros; see `networks.masking`."""
  mask_keep: float = 0.5
  """The part of the patches that stays visible, rounded to whole patches."""
  mask_patch: int = 8
  """Height and width of a patch, in pixels."""
  mask_fill: float = 0.0
  """The value in [-1, 1] that 'rescale' shows where it hides, such as the mean
  pixel of the data."""
  mask_targets: str = 'all'
  """The locations that the code is scored against: 'all', or those of 'hidden'
  patches alone."""
  mask_evaluation: str = 'consistent'
  """What `encode` sees: the 'consistent' mean of the masked images, or the
  images as they are, 'naive'. They differ for 'token' alone."""
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
    ('divergence', DIVERGENCES),
    ('dtype', ('float32', 'bfloat16')),
    ('mask', (None, *masking.MODES)),
    ('mask_targets', ('all', 'hidden')),
    ('mask_evaluation', ('consistent', 'naive')),
  ):
    if (value := getattr(config, name)) not in accepted:
      raise ValueError(
        f'objective.{name} must be one of {accepted}, got {value!r}.'
      )
  weights = ('local_weight', 'global_weight', 'prior_weight')
  for name in (*weights, 'gradient_penalty', 'spectral_penalty'):
    if not 0 <= (value := getattr(config, name)) < math.inf:
      raise ValueError(
        f'objective.{name} must be >= 0 and finite, got {value}.'
      )
  if not config.local_weight and not config.global_weight:
    raise ValueError(
      'objective.local_weight and objective.global_weight are both 0: nothing '
      'would train the encoder. Set one above 0.'
    )
  for name in ('local_samples', 'global_samples'):
    value = getattr(config, name)
    if value is not None and value < 1:
      raise ValueError(f'objective.{name} must be >= 1 or None, got {value}.')
  _check_chunk(config)
  _check_prior(config)
  _check_mask(config)


def _check_chunk(config: Config) -> None:
  if config.score_chunk is None:
    return
  if config.score_chunk < 1:
    raise ValueError(
      f'objective.score_chunk must be >= 1 or None, got {config.score_chunk}.'
    )
  embedding = [k for k, v in critics.CRITICS.items() if hasattr(v, 'embed')]
  if config.critic not in embedding or not config.local_weight:
    raise ValueError(
      f'objective.score_chunk={config.score_chunk} is of local scores between '
      f'embeddings: it needs local_weight above 0 and a critic of {embedding}, '
      f'got local_weight={config.local_weight} and critic={config.critic!r}.'
    )


def _check_prior(config: Config) -> None:
  if config.divergence == 'stein' and config.prior != 'gaussian':
    raise ValueError(
      "objective.divergence='stein' follows the prior's score, the gradient of "
      "its log-density, which only prior='gaussian' has here; got "
      f"prior={config.prior!r}. Set it, or choose divergence='mmd'."
    )
  if config.prior == 'kl' and config.divergence != 'jsd':
    raise ValueError(
      "objective.prior='kl' is a closed form and leaves nothing to "
      f"divergence={config.divergence!r}: choose prior='gaussian', or leave "
      'divergence out.'
    )
  if config.capacity is not None:
    if config.prior != 'kl':
      raise ValueError(
        "objective.capacity is a budget of prior='kl', got "
        f'prior={config.prior!r}: set that prior, or capacity=None.'
      )
    if not config.capacity >= 0:
      raise ValueError(
        f'objective.capacity must be >= 0 nats, got {config.capacity}.'
      )
  if not config.adversary_units or min(config.adversary_units) < 1:
    raise ValueError(
      'objective.adversary_units must hold sizes >= 1, got '
      f'{config.adversary_units}.'
    )


def _check_mask(config: Config) -> None:
  if not 0 < config.mask_keep <= 1:
    raise ValueError(
      f'objective.mask_keep must be in (0, 1], got {config.mask_keep}.'
    )
  if config.mask_patch < 1:
    raise ValueError(
      f'objective.mask_patch must be >= 1, got {config.mask_patch}.'
    )
  if not -1 <= config.mask_fill <= 1:
    raise ValueError(
      f'objective.mask_fill must be in [-1, 1], got {config.mask_fill}.'
    )
  if config.mask_targets == 'hidden':
    if config.mask is None or config.mask_keep == 1:
      raise ValueError(
        "objective.mask_targets is 'hidden', but nothing is hidden: set "
        f'objective.mask to one of {masking.MODES} and mask_keep below 1.'
      )
    if not config.local_weight or config.local_samples is not None:
      raise ValueError(
        "objective.mask_targets='hidden' selects among all locations: it needs "
        'local_weight above 0 and local_samples=None.'
      )


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
    embedded: bool = False,
  ) -> dict[str, Any]:
    """Scores of all pairs of one image's codes with another's features.

    Args:
      locations: local features, shape [N, L, C].
      whole: flattened maps, shape [N, 1, D].
      codes: the globals, shape [N, M, Y].
      train: whether normalisation uses the batch's statistics.
      embedded: whether 'local' is what `local.score` takes, and no scores.

    Returns:
      'local' scores, shape [N*M, N, L], and 'global' ones, [N*M, N, 1].
    """
    scores = {}
    if self.local is not None:
      local = self.local.embed if embedded else self.local
      scores['local'] = local(locations, codes, train=train)
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
  adversary = critics.Adversary(
    units=tuple(config.adversary_units),
    spectral_norm=normalises(config.divergence, config.spectral_norm),
    dtype=dtype,
  )
  return encoder, critic, adversary


def normalises(divergence: str, spectral_norm: bool | None) -> bool:
  """Whether the adversary of a divergence is spectrally normalised."""
  return divergence == 'hinge' if spectral_norm is None else spectral_norm


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
  config: Config,
  taps: dict[str, jax.Array],
  targets: dict[str, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What the critics compare: [N, L, C], [N, 1, D] and [N, M, Y].

  The maps are those of `targets`, the taps of whole images, where the codes'
  taps are of masked ones.
  """
  maps = taps if targets is None else targets
  locations = _positions(_tap(maps, config.local_tap, 'local_tap'))
  whole = _tap(maps, config.map_tap, 'map_tap')
  codes = _positions(_tap(taps, config.global_tap, 'global_tap'))
  return locations, whole.reshape(whole.shape[0], 1, -1), codes


class Terms(NamedTuple):
  """What `play` returns: scalars to minimise, behind their walls.

  Attributes:
    adversary: its loss; gives the adversary's parameters alone a gradient.
    encoder: the encoder's loss, not weighted; gives the adversary none.
    penalties: on the adversary, not weighted: 'gradient_penalty', or 'penalty'
      where it is of scores alone; or nothing.
    state: the adversary's, after its step.
  """

  adversary: jax.Array
  encoder: jax.Array
  penalties: dict[str, jax.Array]
  state: PyTree

  def total(self, encoder_weight: float, penalty_weight: float) -> jax.Array:
    """Both players' losses in one number."""
    penalty = sum(self.penalties.values())
    return (
      self.adversary
      + encoder_weight * self.encoder
      + (penalty_weight * penalty)
    )

  def metrics(self) -> Metrics:
    """The terms by their names, 'prior/...'."""
    found = {'adversary': self.adversary, 'encoder': self.encoder}
    return {f'prior/{k}': v for k, v in (found | self.penalties).items()}


def play(
  game: divergences.Adversarial,
  adversary: nn.Module,
  variables: PyTree,
  rng: jax.Array,
  prior: jax.Array,
  codes: jax.Array,
  *,
  penalised: bool = True,
) -> Terms:
  """One round of an adversarial game between codes and a prior.

  Args:
    game: of `divergences.ADVERSARIAL`.
    adversary: a `critics.Adversary`.
    variables: its 'params', and its state.
    rng: a key for the penalty.
    prior: samples of the prior, shape [N, D].
    codes: what is to look like them, shape [N, D].
    penalised: whether the adversary has the game's penalty, if it has one.

  Returns:
    Both players' terms.
  """
  state = {k: v for k, v in variables.items() if k != 'params'}

  def score(x: jax.Array) -> jax.Array:
    return adversary.apply(variables, x)

  detached = jax.lax.stop_gradient(codes)
  # The power iteration moves in the adversary's own step, once.
  code_scores, state = adversary.apply(
    variables, detached, train=True, mutable=list(state)
  )
  prior_scores = score(prior)
  wall = jax.lax.stop_gradient(variables)
  penalties = {}
  if penalised and game.penalty is not None:
    name = 'gradient_penalty' if game.input_gradient else 'penalty'
    penalties[name] = game.penalty(rng, score, prior, detached)
  return Terms(
    game.critic_loss(prior_scores, code_scores),
    game.encoder_loss(
      jax.lax.stop_gradient(prior_scores), adversary.apply(wall, codes)
    ),
    penalties,
    state,
  )


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Deep InfoMax as an objective.

  Metrics, in nats unless named otherwise: 'mi/local' and 'mi/global' (the
  bounds) with their '_ceiling' where they have one, 'prior/kl' (summed over
  dimensions, averaged over images), 'probe/TAP_loss' and 'probe/TAP_accuracy'
  (a fraction). In the divergence's own unit: 'prior/adversary', its
  'prior/gradient_penalty' or, if it is of scores alone, 'prior/penalty', and
  'prior/encoder' (of 'stein' a surrogate, whose value means nothing). Without a
  unit: 'encoder/spectral_penalty'.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over. Every device
      then scores its own images' embeddings against those of all devices, so
      the loss is that of the global batch.

  Returns:
    The objective, over the players 'encoder', 'critic', 'adversary' (unless
    the prior has no weight or is 'kl', or the divergence needs none) and
    'probe'.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder, critic, adversary = _make_networks(config, axis_name)
  matched = config.prior_weight > 0 and config.prior != 'kl'
  adversarial = matched and config.divergence in divergences.ADVERSARIAL

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    # Outside of pmap, where no axis is bound.
    encoder, critic, _ = _make_networks(config, None)
    rngs = jax.random.split(rng, 3)
    images = layers.normalise_images(batch_lib.images(batch)[:2])
    taps, variables = encoder.init_with_output(rngs[0], images, train=False)
    model_state, params = {}, {}
    model_state['encoder'], params['encoder'] = _split(variables)
    if config.mask is not None:
      params['encoder'] |= _init_mask(config, rngs[0], images, taps)
    variables = critic.init(rngs[1], *_inputs(config, taps), train=False)
    model_state['critic'], params['critic'] = _split(variables)
    if adversarial:
      variables = adversary.init(rngs[2], _codes(config, taps))
      state, params['adversary'] = _split(variables)
      if state:
        model_state['adversary'] = state
    if config.spectral_penalty:
      model_state['spectral'] = divergences.spectral_vectors(
        jax.random.fold_in(rng, 0), _weights(params['encoder'])
      )
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
    images = layers.normalise_images(batch_lib.images(batch))
    encode_train = functools.partial(
      encoder.apply,
      {'params': params['encoder'], **model_state['encoder']},
      train=True,
      mutable=list(model_state['encoder']),
    )
    targets, hidden = None, None
    if config.mask is not None:
      # The running statistics serve codes, so they are those of masked images.
      targets, _ = encode_train(images)
      visible = _draw_mask(config, rng, images, axis_name)
      if config.mask_targets == 'hidden':
        hidden = _hidden(config, visible, targets)
      images = _masked(config, params['encoder'], images, visible)
    taps, encoder_state = encode_train(images)
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
      if config.capacity is not None:
        each = jax.vmap(divergences.gaussian_kl)(
          mean[:, None], log_variance[:, None]
        )
        kl = jnp.mean(bottleneck.rate_excess(each, config.capacity))
        kl = kl if axis_name is None else jax.lax.pmean(kl, axis_name)
      total += config.prior_weight * kl

    locations, whole, codes = _inputs(config, taps, targets)
    locations = _sample(local_rng, locations, config.local_samples, axis_name)
    codes = _sample(global_rng, codes, config.global_samples, axis_name)
    scores, critic_state = critic.apply(
      {'params': params.get('critic', {}), **model_state['critic']},
      locations,
      whole,
      codes,
      train=True,
      embedded=config.score_chunk is not None,
      mutable=list(model_state['critic']),
    )
    if hidden is not None:
      hidden = batch_lib.gather(hidden, axis_name)
    weights = {'local': config.local_weight, 'global': config.global_weight}
    for name, pairs in scores.items():
      if name == 'local':
        bound, negatives = _local_bound(config, critic.local, pairs, hidden)
      else:
        bound, negatives = _bound(config, pairs)
      metrics[f'mi/{name}'] = bound
      ceiling = bounds.ceiling(config.bound, negatives)
      if ceiling is not None:
        metrics[f'mi/{name}_ceiling'] = jnp.asarray(ceiling, jnp.float32)
      total -= weights[name] * bound

    new_state = {'encoder': encoder_state, 'critic': critic_state}
    if matched:
      codes = batch_lib.gather(_codes(config, taps), axis_name)
      prior_terms, (terms, adversary_state) = _match_prior(
        config,
        adversary,
        params.get('adversary'),
        model_state.get('adversary', {}),
        prior_rng,
        codes,
      )
      metrics |= terms
      total += prior_terms
      if adversary_state:
        new_state['adversary'] = adversary_state
    if config.spectral_penalty:
      penalty, new_state['spectral'] = divergences.spectral_penalty(
        _weights(params['encoder']), model_state['spectral']
      )
      metrics['encoder/spectral_penalty'] = penalty
      total += config.spectral_penalty * penalty

    if config.num_classes and 'label' in batch:
      probe_loss, terms = _probe(
        params['probe'], taps, batch['label'], axis_name
      )
      metrics |= terms
      total += probe_loss
    return total, (metrics, new_state)

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    variables = {'params': params['encoder'], **model_state['encoder']}
    images = layers.normalise_images(batch_lib.images(batch))
    images = _shown(config, params['encoder'], images)
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
  encode = functools.partial(
    encoder.apply,
    {'params': params['encoder'], **model_state['encoder']},
    train=False,
  )
  images = layers.normalise_images(batch_lib.images(batch))
  taps = encode(_shown(config, params['encoder'], images))
  targets = None if config.mask is None else encode(images)
  return critic.apply(
    {'params': params['critic'], **model_state['critic']},
    *_inputs(config, taps, targets),
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


def _weights(params: PyTree) -> PyTree:
  """The encoder's parameters less the patch that a mask shows."""
  return {k: v for k, v in params.items() if k != 'mask_token'}


def _match_prior(
  config: Config,
  adversary: nn.Module,
  params: PyTree,
  state: PyTree,
  rng: jax.Array,
  codes: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
  """All players' terms of the prior, their metrics, the adversary's state."""
  if config.prior == 'uniform':
    codes = jax.nn.sigmoid(codes)
  if config.divergence == 'stein':
    loss = divergences.stein_prior(codes)
    return config.prior_weight * loss, ({'prior/encoder': loss}, {})
  prior = divergences.sample_prior(
    rng, config.prior, (codes.shape[0], codes.shape[1])
  )
  if config.divergence == 'mmd':
    loss = divergences.mmd(codes, prior)
    return config.prior_weight * loss, ({'prior/encoder': loss}, {})

  terms = play(
    divergences.ADVERSARIAL[config.divergence],
    adversary,
    {'params': params, **state},
    jax.random.fold_in(rng, 0),
    prior,
    codes,
    penalised=config.gradient_penalty > 0,
  )
  total = terms.total(config.prior_weight, config.gradient_penalty)
  return total, (terms.metrics(), terms.state)


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


def _init_mask(
  config: Config,
  rng: jax.Array,
  images: jax.Array,
  taps: dict[str, jax.Array],
) -> dict[str, jax.Array]:
  """What a mask adds to the encoder's parameters; checks that it fits."""
  visible = jnp.ones((1, *masking.grid_of(images, config.mask_patch)), bool)
  masking.hidden_count(visible.shape[1:], config.mask_keep)
  if config.mask_targets == 'hidden':
    _hidden(config, visible, taps)
  if config.mask != 'token':
    return {}
  shape = (config.mask_patch, config.mask_patch, images.shape[-1])
  # Not zeros: without biases every ReLU over them would have no slope. What the
  # encoder drew stays as it is.
  rng = jax.random.fold_in(rng, np.uint32(2**32 - 1))
  return {'mask_token': 0.02 * jax.random.normal(rng, shape)}


def _draw_mask(
  config: Config, rng: jax.Array, images: jax.Array, axis_name: str | None
) -> jax.Array:
  """Which patches of this device's images are visible, [n, rows, cols]."""
  grid = masking.grid_of(images, config.mask_patch)
  draw = functools.partial(
    masking.draw_visible, hidden=masking.hidden_count(grid, config.mask_keep)
  )
  # A branch of its own: a run without masks draws what it always drew.
  rng = jax.random.fold_in(rng, np.uint32(2**32 - 1))
  return batch_lib.per_image(rng, (images.shape[0], *grid), axis_name, draw)


def _share(config: Config, grid: masking.Grid) -> float:
  """The probability of a patch to be visible."""
  hidden = masking.hidden_count(grid, config.mask_keep)
  return masking.visible_share(grid, hidden)


def _masked(
  config: Config, params: PyTree, images: jax.Array, visible: jax.Array
) -> jax.Array:
  """What the codes see in training."""
  if config.mask == 'token':
    return masking.with_token(images, visible, params['mask_token'])
  if config.mask == 'rescale':
    share = _share(config, visible.shape[1:])
    return masking.rescaled(images, visible, share, config.mask_fill)
  return masking.dropped(images, visible)


def _shown(config: Config, params: PyTree, images: jax.Array) -> jax.Array:
  """What the codes see at evaluation."""
  if config.mask != 'token' or config.mask_evaluation == 'naive':
    return images
  grid = masking.grid_of(images, config.mask_patch)
  return masking.mean_token(
    images, params['mask_token'], grid, _share(config, grid)
  )


def _hidden(
  config: Config, visible: jax.Array, taps: dict[str, jax.Array]
) -> jax.Array:
  """The locations of the local features in hidden patches, [n, K]."""
  local = _tap(taps, config.local_tap, 'local_tap')
  count = masking.hidden_count(visible.shape[1:], config.mask_keep)
  return masking.hidden_locations(visible, count, local.shape[1:-1])


def _at_locations(scores: jax.Array, locations: jax.Array) -> jax.Array:
  """Scores [N*M, N, L] at the locations [N, K] of each global's own image.

  Its negatives are other images at the same locations: if they were elsewhere,
  a feature's place in the image would tell it from a positive. Of some globals,
  scores [A, N, L] come with the locations [A, K] of each.
  """
  rows = jnp.repeat(locations, scores.shape[0] // locations.shape[0], axis=0)
  return jnp.take_along_axis(scores, rows[:, None], axis=2)


def _bound(config: Config, scores: jax.Array) -> tuple[jax.Array, int]:
  """The bound of scores [A, N, L], and how many negatives an anchor has."""
  positive, negative, where = bounds.split_pairs(scores)
  bound = BOUNDS[config.bound](positive, negative, where=where)
  return bound, _negatives(scores.shape)


def _local_bound(
  config: Config, critic: Any, pairs: Any, hidden: jax.Array | None
) -> tuple[jax.Array, int]:
  """`_bound` of the local scores, or of the embeddings that they are of.

  Args:
    config: the objective's.
    critic: the local one.
    pairs: scores [A, N, L], or (anchors, local) where they come in chunks.
    hidden: the locations [N, K] that count, of each image; all of them if None.
  """
  if config.score_chunk is None:
    return _bound(
      config, pairs if hidden is None else _at_locations(pairs, hidden)
    )
  anchors, local = pairs
  rows = None
  if hidden is not None:
    count = jax.tree.leaves(anchors)[0].shape[0]
    rows = jnp.repeat(hidden, count // hidden.shape[0], axis=0)

  def score(row: Any, local: Any) -> jax.Array:
    anchor, rows = row
    scores = critic.score(anchor, local)
    return scores if rows is None else _at_locations(scores, rows)

  bound = chunked.chunked_bound(
    BOUNDS[config.bound],
    (anchors, rows),
    local,
    chunk=config.score_chunk,
    score=score,
  )
  shape = jax.eval_shape(score, (anchors, rows), local).shape
  return bound, _negatives(shape)


def _negatives(shape: tuple[int, ...]) -> int:
  """How many an anchor has, by the shape [A, N, L] of the scores."""
  return (shape[1] - 1) * shape[2]
