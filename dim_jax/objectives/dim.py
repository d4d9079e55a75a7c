r"""Deep InfoMax: global and local mutual information, and prior matching.

The paper's objective, with its alpha, beta and gamma,

.. math:: \alpha I(X; Y) + \beta / M^2 \sum_i I(C_i; Y) - \gamma D(V \| Y),

is maximised over the encoder and the critics, while an adversary estimates the
divergence D. Four players share one loss: `encoder`, `critic`, `adversary` and
an online `probe`; `Config.divergence` says which D, and two need no adversary.
The paper's structure tasks are options: `Config.coordinates`, whose heads are
the critic's, and `mask='occlude'`. With labels, a fifth player `decoder` tells
them together with the encoder: semi-supervised, fine-tuned or, with no other
weight, supervised. The adversary sees `stop_gradient` of the codes, the encoder
sees `stop_gradient` of the adversary's parameters, and the probe sees
`stop_gradient` of the features; so each gets its own gradient from one backward
pass.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.losses import (
  adversarial,
  bottleneck,
  bounds,
  f_divergences,
  large_batches,
  priors,
  spectral,
)
from dim_jax.networks import critics, decoders, encoders, layers, masking
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import sharded_batch
from dim_jax.objectives.dim_terms import coordinates, masks

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
PRIORS = ('uniform', 'gaussian', 'ball', 'sphere', 'kl')
DIVERGENCES = (*adversarial.ADVERSARIAL, 'mmd', 'stein')
_PROBED_FEATURES = ('conv', 'fc', 'globals', 'y')


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
  micro_batch: int | None = None
  """Encode so many images of a device at a time, twice: the same loss and
  gradients, all negatives included, while a step holds the activations of so
  many alone. For encoders without batch statistics; the critics keep theirs, of
  the whole batch."""
  prior: str = 'uniform'
  """The prior of the code: 'uniform' on [0, 1] (against sigmoid of the code),
  'gaussian', 'ball' or 'sphere', matched by samples; or 'kl', a stochastic
  encoder with the closed-form KL to N(0, I)."""
  divergence: str = 'jsd'
  """How samples of the prior and codes are compared: a name of
  `adversarial.ADVERSARIAL`, by an adversary; 'mmd', by kernels; 'stein', along
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
  keeps the images' mean, 'drop' shows zeros; see `networks.masking`. 'occlude'
  shows zeros in a random rectangle, as large as it falls."""
  mask_keep: float = 0.5
  """The part of the patches that stays visible, rounded to whole patches."""
  mask_patch: int = 8
  """Height and width of a patch, in pixels; of 'occlude' the least height and
  width of what is hidden, and a square of so many stays visible."""
  mask_fill: float = 0.0
  """The value in [-1, 1] that 'rescale' shows where it hides, such as the mean
  pixel of the data."""
  mask_targets: str = 'all'
  """The locations that the code is scored against: 'all', or those of 'hidden'
  patches alone."""
  mask_evaluation: str = 'consistent'
  """What `encode` sees: the 'consistent' mean of the masked images, or the
  images as they are, 'naive'. They differ for 'token' alone."""
  coordinates: str | None = None
  """Predict where the local features are from each with the code: 'absolute',
  its row and column in the map; 'relative', its offset from one random location
  of the image, whose feature is given too; 'both'; or None. Of all locations
  and globals, whatever `local_samples` and `global_samples` say."""
  coordinate_weight: float = 1.0
  """Of the cross-entropies of rows and columns, added up."""
  coordinate_units: int = 512
  """Width of the heads that predict them."""
  supervised_weight: float = 0.0
  """Of the cross-entropy of a small classifier, which the encoder learns from
  too. Images labelled -1 are left out of it; 0 for no classifier."""
  decoder_units: tuple[int, ...] = (200,)
  """Hidden layers of that classifier."""
  decoder_tap: str = 'conv'
  """The feature that it reads."""
  local_tap: str = 'local'
  map_tap: str = 'conv'
  global_tap: str = 'y'
  dtype: str = 'float32'
  """Compute dtype of the networks, 'float32' or 'bfloat16'; parameters and
  scores stay float32."""
  num_classes: int = 10
  """Classes of the classifier and of the online probe, a linear layer on every
  tap that sends no gradient back; 0 for neither. Labels must be below it; those
  of -1 are left out."""
  probe_taps: tuple[str, ...] = ('conv', 'fc', 'y')


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  for name, accepted in (
    ('bound', tuple(BOUNDS)),
    ('critic', tuple(critics.CRITICS)),
    ('prior', PRIORS),
    ('divergence', DIVERGENCES),
    ('dtype', ('float32', 'bfloat16')),
    ('mask', (None, *masks.MODES)),
    ('coordinates', (None, *coordinates.KINDS)),
    ('mask_targets', ('all', 'hidden')),
    ('mask_evaluation', ('consistent', 'naive')),
  ):
    if (value := getattr(config, name)) not in accepted:
      raise ValueError(
        f'objective.{name} must be one of {accepted}, got {value!r}.'
      )
  for name in (
    'local_weight',
    'global_weight',
    'prior_weight',
    'gradient_penalty',
    'spectral_penalty',
    'coordinate_weight',
    'supervised_weight',
  ):
    if not 0 <= (value := getattr(config, name)) < math.inf:
      raise ValueError(
        f'objective.{name} must be >= 0 and finite, got {value}.'
      )
  if not (
    config.local_weight
    or config.global_weight
    or config.supervised_weight
    or (config.coordinates and config.coordinate_weight)
  ):
    raise ValueError(
      'objective.local_weight and objective.global_weight are both 0: nothing '
      'would train the encoder. Set one above 0, or supervised_weight, or '
      f'coordinates to one of {coordinates.KINDS}.'
    )
  if config.supervised_weight and config.num_classes < 2:
    raise ValueError(
      f'objective.supervised_weight={config.supervised_weight} trains a '
      'classifier: set num_classes to 2 or more, got '
      f'{config.num_classes}.'
    )
  if config.coordinate_units < 1:
    raise ValueError(
      f'objective.coordinate_units must be >= 1, got {config.coordinate_units}.'
    )
  if config.decoder_units and min(config.decoder_units) < 1:
    raise ValueError(
      'objective.decoder_units must hold sizes >= 1, got '
      f'{config.decoder_units}.'
    )
  for name in ('local_samples', 'global_samples', 'micro_batch'):
    value = getattr(config, name)
    if value is not None and value < 1:
      raise ValueError(f'objective.{name} must be >= 1 or None, got {value}.')
  _check_chunk(config)
  _check_prior(config)
  masks.check(config)


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


def check_optimizers(
  config: Config, optimizers: Mapping[str, Any], default: Any
) -> None:
  """Raises ValueError where nothing keeps a Wasserstein critic from growing.

  Args:
    config: the run's objective.
    optimizers: those of single parameter groups.
    default: of all others.
  """
  if not config.prior_weight or config.divergence != 'wgan':
    return
  optimizer = optimizers.get('adversary', default)
  if optimizer.clip_weights is None and not config.spectral_norm:
    raise ValueError(
      "objective.divergence='wgan' needs an adversary of bounded slope: set "
      "players['adversary'] to an OptimizerConfig with clip_weights=0.01, or "
      "objective.spectral_norm=True; 'wgan_gp' has a penalty instead."
    )


class Networks(nn.Module):
  """The critics, under the player's one name.

  Attributes:
    local: scores the code against each location; None if it has no weight.
    whole: scores the code against the whole map; None if it has no weight.
    coordinates: says where local features are, by kind of coordinates.
  """

  local: nn.Module | None
  whole: nn.Module | None
  coordinates: dict[str, nn.Module]

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

  def locate(
    self,
    maps: jax.Array,
    codes: jax.Array,
    source: jax.Array,
    train: bool = False,
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Logits of rows and columns by kind; see `critics.CoordinateHead`.

    Args:
      maps: local features, shape [N, H, W, C].
      codes: the globals, shape [N, M, Y].
      source: int [N], the location that relative coordinates are from.
      train: whether normalisation uses the batch's statistics.
    """
    return {
      kind: head(
        maps, codes, source if kind == 'relative' else None, train=train
      )
      for kind, head in self.coordinates.items()
    }


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
    coordinates={
      kind: critics.CoordinateHead(
        units=config.coordinate_units, dtype=dtype, axis_name=axis_name
      )
      for kind in coordinates.kinds(config)
    },
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
  game: adversarial.Adversarial,
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
    game: of `adversarial.ADVERSARIAL`.
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
  unit: 'encoder/spectral_penalty'. Of options, in nats: 'coordinates/row',
  '/column', '/relative_row' and '/relative_column', cross-entropies of which
  `losses.structure` gives the ceilings; 'decoder/cross_entropy' and, a
  fraction, 'decoder/accuracy', of labelled images alone, 0 without any:
  averages over steps are of all, those divided by that of 'decoder/labelled',
  1 with a label and else 0, of the steps that had one.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over. Every device
      then scores its own images' embeddings against those of all devices, so
      the loss is that of the global batch.

  Returns:
    The objective, over the players 'encoder', 'critic' (if it scores or
    locates), 'adversary' (unless the prior has no weight or is 'kl', or the
    divergence needs none), 'decoder' (if supervised) and 'probe'. It encodes to
    the encoder's taps and, if supervised, 'logits'.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder, critic, adversary = _make_networks(config, axis_name)
  matched = config.prior_weight > 0 and config.prior != 'kl'
  has_adversary = matched and config.divergence in adversarial.ADVERSARIAL

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    # Outside of pmap, where no axis is bound.
    encoder, critic, _ = _make_networks(config, None)
    rngs = jax.random.split(rng, 3)
    images = layers.normalise_images(sharded_batch.images(batch)[:2])
    taps, variables = encoder.init_with_output(rngs[0], images, train=False)
    model_state, params = {}, {}
    model_state['encoder'], params['encoder'] = _split(variables)
    if config.micro_batch is not None and model_state['encoder']:
      raise ValueError(
        f'objective.micro_batch={config.micro_batch} needs an encoder without '
        f'a state, but this one has {sorted(model_state["encoder"])}: its '
        "statistics would be a micro-batch's, which is another loss. Choose an "
        'encoder without batch normalisation, or micro_batch=None.'
      )
    if config.mask is not None:
      local = _tap(taps, config.local_tap, 'local_tap')
      params['encoder'] |= masks.init(config, rngs[0], images, local)
    locations, whole, codes = _inputs(config, taps)
    variables = critic.init(rngs[1], locations, whole, codes)
    model_state['critic'], params['critic'] = _split(variables)
    if coordinates.kinds(config):
      maps = _tap(taps, config.local_tap, 'local_tap')
      coordinates.check_map(config, maps)
      source = jnp.zeros(len(maps), jnp.int32)
      heads = critic.init(rngs[1], maps, codes, source, method='locate')
      state, heads = _split(heads)
      params['critic'] |= heads
      for name, values in state.items():
        model_state['critic'][name] = (
          model_state['critic'].get(name, {}) | values
        )
    if not params['critic']:
      del params['critic']
    if config.supervised_weight:
      params['decoder'] = _decoder(config).init(
        random.branch(rng, random.OfParameters.DECODER),
        _decoded(config, taps),
      )['params']
    if has_adversary:
      variables = adversary.init(rngs[2], _codes(config, taps))
      state, params['adversary'] = _split(variables)
      if state:
        model_state['adversary'] = state
    if config.spectral_penalty:
      model_state['spectral'] = spectral.spectral_vectors(
        random.branch(rng, random.OfParameters.SPECTRAL_VECTORS),
        _weights(params['encoder']),
      )
    if config.num_classes and config.probe_taps:
      params['probe'] = {
        tap: {
          'kernel': jnp.zeros((taps[tap][0].size, config.num_classes)),
          'bias': jnp.zeros(config.num_classes),
        }
        for tap in _probed(config, taps)
      }
    return params, model_state

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    noise_rng, local_rng, global_rng, prior_rng = jax.random.split(rng, 4)
    images = layers.normalise_images(sharded_batch.images(batch))
    encode_train: Any = functools.partial(
      encoder.apply,
      {'params': params['encoder'], **model_state['encoder']},
      train=True,
      mutable=list(model_state['encoder']),
      rngs={'dropout': _dropout_key(rng, axis_name)},
    )
    if config.micro_batch is not None:
      encode_train = _in_micro_batches(
        config.micro_batch,
        encoder,
        params['encoder'],
        _dropout_key(rng, axis_name),
      )
    targets, hidden = None, None
    if config.mask is not None:
      targets, whole_state = encode_train(images)
      visible = masks.draw(config, rng, images, axis_name)
      if config.mask_targets == 'hidden':
        hidden = masks.hidden(config, visible, targets[config.local_tap])
      images = masks.masked(config, params['encoder'], images, visible)
    taps, encoder_state = encode_train(images)
    if config.mask == 'occlude':
      # Running statistics serve evaluation, which sees whole images.
      encoder_state = whole_state
    metrics: Metrics = {}
    total = jnp.zeros(())

    if config.prior == 'kl':
      mean = taps[config.global_tap].astype(jnp.float32)
      if 'log_variance' not in taps:
        raise ValueError(
          "objective.prior='kl' needs a stochastic encoder, whose taps have "
          f"'log_variance'; got the taps {sorted(taps)}. Give yours "
          'stochastic=True, or choose another prior.'
        )
      log_variance = taps['log_variance'].astype(jnp.float32)
      noise = sharded_batch.per_image(
        noise_rng, mean.shape, axis_name, jax.random.normal
      )
      sample = mean + jnp.exp(0.5 * log_variance) * noise
      taps = taps | {config.global_tap: sample}
      kl = priors.gaussian_kl(mean, log_variance)
      # The reported number is of all images, whichever device they are on.
      kl = kl if axis_name is None else jax.lax.pmean(kl, axis_name)
      metrics['prior/kl'] = kl
      if config.capacity is not None:
        each = jax.vmap(priors.gaussian_kl)(
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
      hidden = sharded_batch.gather(hidden, axis_name)
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

    if coordinates.kinds(config):
      maps = (taps if targets is None else targets)[config.local_tap]
      source = coordinates.draw_source(rng, maps, axis_name)
      logits, critic_state = critic.apply(
        {'params': params['critic'], **critic_state},
        maps,
        _positions(taps[config.global_tap]),
        source,
        train=True,
        mutable=list(critic_state),
        method='locate',
      )
      terms = coordinates.cross_entropies(logits, source, axis_name)
      metrics |= terms
      total += config.coordinate_weight * sum(terms.values())
    if config.supervised_weight:
      if 'label' not in batch:
        raise ValueError(
          f'objective.supervised_weight={config.supervised_weight} needs '
          "batch['label'], int32 [N], -1 where unknown."
        )
      cross_entropy, accuracy, labelled = sharded_batch.cross_entropy(
        _read(config, params, taps), batch['label'], axis_name
      )
      metrics['decoder/cross_entropy'] = cross_entropy
      metrics['decoder/accuracy'] = accuracy
      metrics['decoder/labelled'] = labelled
      total += config.supervised_weight * cross_entropy

    new_state = {'encoder': encoder_state, 'critic': critic_state}
    if matched:
      codes = sharded_batch.gather(_codes(config, taps), axis_name)
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
      penalty, new_state['spectral'] = spectral.spectral_penalty(
        _weights(params['encoder']), model_state['spectral']
      )
      metrics['encoder/spectral_penalty'] = penalty
      total += config.spectral_penalty * penalty

    if 'probe' in params and 'label' in batch:
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
    images = layers.normalise_images(sharded_batch.images(batch))
    images = masks.shown(config, params['encoder'], images)
    taps = encoder.apply(variables, images, train=False)
    if config.supervised_weight:
      taps = taps | {'logits': _read(config, params, taps)}
    return taps

  def negatives(batch: Batch) -> dict[str, tuple[int, float | None]]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(init, key, batch)
    taps = jax.eval_shape(encode, *variables, batch)
    return _count_negatives(config, sharded_batch.images(batch), taps)

  groups = ('encoder', 'critic', 'adversary', 'decoder', 'probe')
  others = tuple(name for name in _PROBED_FEATURES if name != config.global_tap)
  return Objective(
    init,
    loss,
    encode,
    negatives=negatives,
    features=(*others, config.global_tap),
    pictured=('fc',),
    classes=config.num_classes,
    supervised=f'objective.supervised_weight={config.supervised_weight}'
    if config.supervised_weight
    else '',
    optional_groups=groups,
    scores=functools.partial(_scores, config),
    logits=functools.partial(_logits, encode)
    if config.supervised_weight
    else None,
  )


def _scores(
  config: Config, variables: PyTree, batch: Batch
) -> dict[str, jax.Array]:
  """The critics' scores of those terms that have weight."""
  params, model_state = variables
  encoder, critic, _ = _make_networks(config, None)
  encode = functools.partial(
    encoder.apply,
    {'params': params['encoder'], **model_state['encoder']},
    train=False,
  )
  images = layers.normalise_images(sharded_batch.images(batch))
  taps = encode(masks.shown(config, params['encoder'], images))
  targets = None if config.mask is None else encode(images)
  return critic.apply(
    {'params': params.get('critic', {}), **model_state['critic']},
    *_inputs(config, taps, targets),
    train=False,
  )


def _logits(
  encode: Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]],
  variables: PyTree,
  batch: Batch,
  rng: jax.Array,
  samples: int,
) -> jax.Array:
  """The classifier's, [1, N, C]; it takes a stochastic code at its mean."""
  del rng, samples
  params, model_state = variables
  return encode(params, model_state, batch)['logits'][None]


def _in_micro_batches(
  size: int, encoder: nn.Module, params: PyTree, rng: jax.Array
) -> Callable[[jax.Array], tuple[dict[str, jax.Array], PyTree]]:
  """Images to (taps, {}), in training; see `losses.large_batches`."""

  def embed(
    params: PyTree, images: jax.Array, rng: jax.Array
  ) -> dict[str, jax.Array]:
    rngs = {'dropout': rng}
    return encoder.apply({'params': params}, images, train=True, rngs=rngs)

  in_parts = large_batches.micro_batched(embed, size=size)
  return lambda images: (in_parts(params, images, rng), {})


def _split(variables: PyTree) -> tuple[PyTree, PyTree]:
  """Splits a Flax module's variables into (state, params)."""
  variables = dict(variables)
  params = variables.pop('params', {})
  return variables, params


def _probed(config: Config, taps: dict[str, jax.Array]) -> tuple[str, ...]:
  """The taps of probes: of the usual ones those that the encoder has."""
  if config.probe_taps == Config.probe_taps:
    return tuple(tap for tap in config.probe_taps if tap in taps)
  for tap in config.probe_taps:
    _tap(taps, tap, 'probe_taps')
  return config.probe_taps


def _dropout_key(rng: jax.Array, axis_name: str | None) -> jax.Array:
  """What an encoder with dropout draws from, another on each device."""
  rng = random.branch(rng, random.OfStep.DROPOUT)
  if axis_name is None:
    return rng
  return random.branch(rng, jax.lax.axis_index(axis_name))


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
    loss = priors.stein_prior(codes)
    return config.prior_weight * loss, ({'prior/encoder': loss}, {})
  prior = priors.sample_prior(
    rng, config.prior, (codes.shape[0], codes.shape[1])
  )
  if config.divergence == 'mmd':
    loss = priors.mmd(codes, prior)
    return config.prior_weight * loss, ({'prior/encoder': loss}, {})

  terms = play(
    adversarial.ADVERSARIAL[config.divergence],
    adversary,
    {'params': params, **state},
    random.branch(rng, random.OfPrior.PENALTY),
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
    loss, accuracy = sharded_batch.classify(layer, features, labels, axis_name)
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

  rows = sharded_batch.per_image(
    rng, (features.shape[0], count), axis_name, draw
  )
  return jnp.take_along_axis(features, rows[:, :, None], axis=1)


def _decoder(config: Config) -> decoders.Classifier:
  return decoders.Classifier(config.num_classes, config.decoder_units)


def _decoded(config: Config, taps: dict[str, jax.Array]) -> jax.Array:
  """What the classifier reads, [N, D]."""
  features = _tap(taps, config.decoder_tap, 'decoder_tap')
  return features.reshape(features.shape[0], -1)


def _read(
  config: Config, params: PyTree, taps: dict[str, jax.Array]
) -> jax.Array:
  """The classifier's logits, [N, C]."""
  return _decoder(config).apply(
    {'params': params['decoder']}, _decoded(config, taps)
  )


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

  bound = large_batches.chunked_bound(
    BOUNDS[config.bound],
    (anchors, rows),
    local,
    chunk=config.score_chunk,
    score=score,
  )
  shape = jax.eval_shape(score, (anchors, rows), local).shape
  return bound, _negatives(shape)


def _count_negatives(
  config: Config, images: jax.Array, taps: dict[str, jax.Array]
) -> dict[str, tuple[int, float | None]]:
  """`Objective.negatives`, of shapes alone."""
  local, whole, _ = jax.eval_shape(functools.partial(_inputs, config), taps)
  positions = config.local_samples or local.shape[1]
  if config.mask_targets == 'hidden':
    grid = masking.grid_of(images, config.mask_patch)
    visible = jax.ShapeDtypeStruct((1, *grid), bool)
    hidden = functools.partial(masks.hidden, config)
    positions = jax.eval_shape(hidden, visible, taps[config.local_tap]).shape[1]
  counts = {}
  if config.local_weight:
    counts['mi/local'] = _negatives((0, images.shape[0], positions))
  if config.global_weight:
    counts['mi/global'] = _negatives((0, *whole.shape[:2]))
  return {
    name: (count, bounds.ceiling(config.bound, count))
    for name, count in counts.items()
  }


def _negatives(shape: tuple[int, ...]) -> int:
  """How many an anchor has, by the shape [A, N, L] of the scores."""
  return (shape[1] - 1) * shape[2]
