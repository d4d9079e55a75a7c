r"""The Variational Information Bottleneck, and what it is compared with.

A classifier through a stochastic code: minimise

.. math:: E[-\ln q(y|z)] + \beta\, E_x KL(p(z|x) \| r(z))

over the players `encoder` (p), `decoder` (q) and, where r is learned,
`marginal`. The same config gives the paper's baselines (no noise and no rate,
with dropout, label smoothing or a confidence penalty), other marginals, the
Conditional Entropy Bottleneck (a marginal for each class) and a rate held to a
budget.

Alemi et al., Deep Variational Information Bottleneck, ICLR 2017.
https://arxiv.org/abs/1612.00410
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.losses import bottleneck as losses
from dim_jax.networks import decoders, encoders, layers, posteriors
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import sharded_batch

MARGINALS = ('normal', 'learned', 'mixture', 'vamp', 'class')
COVARIANCES = (*posteriors.COVARIANCES, 'none')
CONSTRAINTS = ('hinge', 'dual')
SMOOTHINGS = ('uniform', 'zeros')


@dataclasses.dataclass(kw_only=True)
class Config:
  """A classifier with a bottleneck; the defaults are the paper's on MNIST."""

  encoder: Any = 'mlp'
  """'mlp', a name of `networks.encoders.ENCODERS`, or a Flax module that maps
  images [N, H, W, C] and `train` to a dictionary of taps."""
  units: tuple[int, ...] = (1024, 1024)
  """Hidden layers of the 'mlp'."""
  dropout: float = 0.0
  """Fraction of the hidden units of the 'mlp' that training drops."""
  tap: str = 'fc'
  """The encoder's feature that the code is computed from."""
  code: int | None = 256
  """K, dimensions of the code. Without a bottleneck (covariance 'none') it is a
  linear layer, and None leaves it out."""
  covariance: str = 'diagonal'
  """Of the code: 'diagonal', 'full', or 'none' for a deterministic network."""
  scale: str = 'softplus'
  """How the code's sigma is made: 'softplus', 'log_variance' or 'unit'."""
  shift: float = -5.0
  """Added before the softplus."""
  decoder_units: tuple[int, ...] = ()
  """Hidden layers of the decoder; the paper's is linear."""
  num_classes: int = 10
  beta: float = 1e-3
  """Price of a nat of rate, in nats of cross-entropy."""
  beta_warmup: int = 0
  """Steps over which beta grows linearly from 0."""
  samples: int = 1
  """Posterior samples an example and training step."""
  share_noise: bool = True
  """Draw one noise vector an example, and let neighbours in the batch use it
  too: an example's samples stay independent of each other, at the cost of one.
  Measured on MNIST after 25 epochs, 12 samples lower the variance of the
  encoder's gradient from noise 13-fold so, and 16-fold if all are drawn
  (False)."""
  log_of_mean: bool = False
  """Train on -ln of the mean likelihood of the samples, instead of on the mean
  of -ln."""
  marginal: str = 'normal'
  """r(z): 'normal' is N(0, I); 'learned' a diagonal Gaussian; 'mixture' one of
  those; 'vamp' the posteriors of learned images; 'class' a Gaussian for each
  label, the Conditional Entropy Bottleneck, with beta = 1 / gamma."""
  components: int = 10
  """Of the marginals 'mixture' and 'vamp'."""
  budget: float | None = None
  """Nats of rate that are free, or are held to."""
  constraint: str = 'hinge'
  """With a budget: 'hinge' prices each example's excess at beta; 'dual' moves
  beta by gradient ascent until the mean rate meets the budget."""
  dual_rate: float = 1e-5
  """Step size of that ascent, beta a nat and step."""
  label_smoothing: float = 0.0
  smoothing_definition: str = 'uniform'
  """'uniform' mixes with 1/C; 'zeros' is the bottleneck paper's."""
  confidence_penalty: float = 0.0
  """Weight of minus the prediction's entropy."""
  confidence_threshold: float | None = None
  """Penalise only entropies below this many nats."""


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  for name, accepted in (
    ('covariance', COVARIANCES),
    ('scale', posteriors.SCALES),
    ('marginal', MARGINALS),
    ('constraint', CONSTRAINTS),
    ('smoothing_definition', SMOOTHINGS),
  ):
    if (value := getattr(config, name)) not in accepted:
      raise ValueError(
        f'objective.{name} must be one of {accepted}, got {value!r}.'
      )
  for name in ('beta', 'beta_warmup', 'dual_rate', 'confidence_penalty'):
    if not (value := getattr(config, name)) >= 0:
      raise ValueError(f'objective.{name} must be >= 0, got {value}.')
  for name, least in (('samples', 1), ('components', 1), ('num_classes', 2)):
    if (value := getattr(config, name)) < least:
      raise ValueError(f'objective.{name} must be >= {least}, got {value}.')
  if not 0 <= config.dropout < 1:
    raise ValueError(
      f'objective.dropout must be in [0, 1), got {config.dropout}.'
    )
  if not 0 <= config.label_smoothing < 1:
    raise ValueError(
      f'objective.label_smoothing must be in [0, 1), got '
      f'{config.label_smoothing}.'
    )
  if config.code is None and config.covariance != 'none':
    raise ValueError(
      'objective.code is None, but a bottleneck needs its size K >= 1; or set '
      "objective.covariance='none'."
    )
  if config.code is not None and config.code < 1:
    raise ValueError(f'objective.code (K) must be >= 1, got {config.code}.')
  if config.covariance == 'full' and config.scale != 'softplus':
    raise ValueError(
      "objective.covariance='full' takes objective.scale='softplus', got "
      f'{config.scale!r}.'
    )
  if config.covariance == 'full' and config.marginal == 'vamp':
    raise ValueError(
      "objective.marginal='vamp' mixes diagonal posteriors: it takes "
      "objective.covariance='diagonal', got 'full'."
    )
  if config.dropout and config.encoder != 'mlp':
    raise ValueError("objective.dropout acts on encoder='mlp' alone.")
  if config.budget is not None and not config.budget >= 0:
    raise ValueError(f'objective.budget must be >= 0, got {config.budget}.')
  if config.budget is None and config.constraint == 'dual':
    raise ValueError(
      "objective.constraint='dual' needs objective.budget, in nats."
    )


class StochasticEncoder(nn.Module):
  """A network and the head that computes the code from one of its taps.

  Attributes:
    body: maps images to taps.
    head: a `Bottleneck`, a linear layer, or None for the tap itself.
    tap: which of them.
  """

  body: nn.Module
  head: nn.Module | None
  tap: str

  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[dict[str, jax.Array], Any]:
    """Returns the taps, and a `Posterior`, or codes [N, K] without noise.

    Args:
      images: floats in [-1, 1], shape [N, H, W, C].
      train: whether dropout and batch statistics are those of training.
    """
    taps = self.body(images, train=train)
    if self.tap not in taps:
      raise ValueError(
        f'objective.tap is {self.tap!r}, but the encoder returns the taps '
        f'{sorted(taps)}.'
      )
    features = taps[self.tap].reshape(images.shape[0], -1)
    features = features.astype(jnp.float32)
    return taps, features if self.head is None else self.head(features)


def _make_networks(
  config: Config, axis_name: str | None
) -> tuple[StochasticEncoder, decoders.Classifier]:
  body = config.encoder
  if body == 'mlp':
    body = encoders.MLPEncoder(units=config.units, dropout=config.dropout)
  elif isinstance(body, str):
    body = encoders.make(body, axis_name=axis_name)
  elif axis_name and hasattr(body, 'axis_name'):
    body = body.clone(axis_name=axis_name)
  head: nn.Module | None
  if config.covariance != 'none':
    head = posteriors.Bottleneck(
      size=config.code or 0,
      covariance=config.covariance,
      scale=config.scale,
      shift=config.shift,
    )
  elif config.code is None:
    head = None
  else:
    init = nn.initializers.glorot_uniform()
    head = nn.Dense(config.code, kernel_init=init)
  decoder = decoders.Classifier(config.num_classes, config.decoder_units)
  return StochasticEncoder(body, head, config.tap), decoder


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """The bottleneck as an objective.

  Metrics, in nats unless named otherwise: 'decoder/cross_entropy',
  'decoder/accuracy' (of the averaged prediction, a fraction), 'encoder/rate'
  (summed over dimensions, averaged over examples), 'encoder/beta' (the price in
  force) and 'decoder/confidence_penalty'. Rows labelled -1 enter the rate
  alone (with a 'class' marginal nothing at all).

  The price is an array of the model state, 'beta', so that one program can
  train many of them, and dual ascent can move it.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over.

  Returns:
    The objective, over the players 'encoder', 'decoder' and, unless r(z) is
    N(0, I), 'marginal'. It encodes to the encoder's taps, 'y' (the code's
    mean), 'std' (its standard deviations) and 'logits' (at the mean).

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder, decoder = _make_networks(config, axis_name)
  stochastic = config.covariance != 'none'

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    # Outside of pmap, where no axis is bound.
    encoder, decoder = _make_networks(config, None)
    encoder_rng, decoder_rng, marginal_rng = jax.random.split(rng, 3)
    images = layers.normalise_images(sharded_batch.images(batch)[:2])
    (_, code), variables = encoder.init_with_output(encoder_rng, images)
    state = dict(variables)
    params = {'encoder': state.pop('params')}
    mean = code.mean if stochastic else code
    params['decoder'] = decoder.init(decoder_rng, mean)['params']
    if stochastic and config.marginal != 'normal':
      params['marginal'] = _init_marginal(
        config, marginal_rng, sharded_batch.images(batch).shape[1:]
      )
    model_state: dict[str, Any] = {'encoder': state}
    if stochastic:
      model_state['beta'] = jnp.asarray(config.beta, jnp.float32)
      if config.beta_warmup:
        model_state['steps'] = jnp.zeros((), jnp.int32)
    return params, model_state

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    if 'label' not in batch:
      raise ValueError("the bottleneck needs batch['label'], int32 [N].")
    noise_rng, dropout_rng = jax.random.split(rng)
    if axis_name is not None:
      # The mask depends on the number of devices: it is drawn inside of Flax.
      index = jax.lax.axis_index(axis_name)
      dropout_rng = random.branch(dropout_rng, index)

    def apply(images: jax.Array) -> tuple[tuple[PyTree, Any], PyTree]:
      return encoder.apply(
        {'params': params['encoder'], **model_state['encoder']},
        images,
        train=True,
        mutable=list(model_state['encoder']),
        rngs={'dropout': dropout_rng},
      )

    (_, code), encoder_state = apply(
      layers.normalise_images(sharded_batch.images(batch))
    )
    new_state = model_state | {'encoder': encoder_state}
    labels = batch['label']
    known = labels >= 0
    labels = jnp.maximum(labels, 0)
    count = jnp.maximum(sharded_batch.total(known, axis_name), 1)

    def mean_of_known(values: jax.Array) -> jax.Array:
      values = jnp.where(known, values, 0.0)
      return sharded_batch.total(values, axis_name) / count

    def read(z: jax.Array) -> jax.Array:
      return decoder.apply({'params': params['decoder']}, z)

    if stochastic:
      noise = _noise(config, noise_rng, code.mean.shape, axis_name)
      logits = _read_samples(read, code, noise)
    else:
      logits = read(code[None])
    cross_entropy = mean_of_known(
      losses.distortion(
        logits,
        labels,
        log_of_mean=config.log_of_mean,
        smoothing=config.label_smoothing,
        smoothing_definition=config.smoothing_definition,
      )
    )
    hits = jax.nn.softmax(logits).mean(0).argmax(-1) == labels
    metrics = {
      'decoder/cross_entropy': cross_entropy,
      'decoder/accuracy': mean_of_known(hits),
    }
    value = cross_entropy
    if config.confidence_penalty:
      penalty = mean_of_known(
        losses.confidence_penalty(logits, config.confidence_threshold).mean(0)
      )
      metrics['decoder/confidence_penalty'] = penalty
      value += config.confidence_penalty * penalty
    if not stochastic:
      return value, (metrics, new_state)

    pseudo = None
    if config.marginal == 'vamp':
      (_, pseudo), _ = apply(jnp.tanh(params['marginal']['images']))
    rate = _rate(config, params.get('marginal'), code, noise, labels, pseudo)
    if config.marginal == 'class':
      mean_rate = mean_of_known
    else:
      everyone = sharded_batch.total(jnp.ones_like(rate), axis_name)

      def mean_rate(values: jax.Array) -> jax.Array:
        return sharded_batch.total(values, axis_name) / everyone

    beta = model_state['beta']
    if config.beta_warmup:
      new_state['steps'] = model_state['steps'] + 1
      beta = beta * jnp.minimum(new_state['steps'] / config.beta_warmup, 1.0)
    metrics |= {'encoder/rate': mean_rate(rate), 'encoder/beta': beta}
    if config.budget is not None and config.constraint == 'hinge':
      rate = losses.rate_excess(rate, config.budget)
    elif config.budget is not None:
      excess = jax.lax.stop_gradient(metrics['encoder/rate']) - config.budget
      new_state['beta'] = jnp.maximum(
        model_state['beta'] + config.dual_rate * excess, 0.0
      )
    value += beta * mean_rate(rate)
    return value, (metrics, new_state)

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    variables = {'params': params['encoder'], **model_state['encoder']}
    images = layers.normalise_images(sharded_batch.images(batch))
    taps, code = encoder.apply(variables, images)
    mean = code.mean if stochastic else code
    taps = taps | {
      'y': mean,
      'logits': decoder.apply({'params': params['decoder']}, mean),
    }
    if stochastic:
      scale = code.scale
      if scale.ndim == 3:
        scale = jnp.sqrt(jnp.square(scale).sum(2))
      taps['std'] = scale
    return taps

  return Objective(
    init,
    loss,
    encode,
    features=('conv', 'fc', 'globals', 'y'),
    pictured=('fc',),
    classes=config.num_classes,
    supervised='a supervised objective',
    optional_groups=('marginal', 'probe'),
    logits=functools.partial(_logits, config),
    rate=functools.partial(_rate_of_batch, config) if stochastic else None,
    posterior=functools.partial(_posterior, config) if stochastic else None,
    decode=functools.partial(_decode, config),
  )


def _read_code(config: Config, variables: PyTree, images: jax.Array) -> Any:
  """The codes, or their posteriors, with running statistics, no dropout."""
  params, model_state = variables
  encoder, _ = _make_networks(config, None)
  _, code = encoder.apply(
    {'params': params['encoder'], **model_state['encoder']},
    layers.normalise_images(images),
  )
  return code


def _posterior(
  config: Config, variables: PyTree, batch: Batch
) -> posteriors.Posterior:
  return _read_code(config, variables, sharded_batch.images(batch))


def _decode(config: Config, variables: PyTree, z: jax.Array) -> jax.Array:
  _, decoder = _make_networks(config, None)
  return decoder.apply({'params': variables[0]['decoder']}, z)


def _logits(
  config: Config,
  variables: PyTree,
  batch: Batch,
  rng: jax.Array,
  samples: int,
) -> jax.Array:
  if samples < 0:
    raise ValueError(
      f'samples must be >= 1, or 0 for the mean code, got {samples}.'
    )
  code = _read_code(config, variables, sharded_batch.images(batch))
  if config.covariance == 'none':
    z = code[None]
  elif samples == 0:
    z = code.mean[None]
  else:
    z = code.sample(rng, samples)
  return _decode(config, variables, z)


def _rate_of_batch(
  config: Config,
  variables: PyTree,
  batch: Batch,
  rng: jax.Array,
  samples: int,
) -> jax.Array:
  """The rate against the run's own marginal; a 'class' one reads labels."""
  if samples < 1:
    raise ValueError(f'samples must be >= 1, got {samples}.')
  code = _posterior(config, variables, batch)
  noise = jax.random.normal(rng, (samples, *code.mean.shape))
  params = variables[0].get('marginal')
  pseudo = None
  if config.marginal == 'vamp':
    pseudo = _read_code(config, variables, jnp.tanh(params['images']))
  labels = batch['label'] if config.marginal == 'class' else None
  return _rate(config, params, code, noise, labels, pseudo)


def _noise(
  config: Config,
  rng: jax.Array,
  shape: tuple[int, ...],
  axis_name: str | None,
) -> jax.Array:
  """Standard normal noise [S, N, K] of this device's examples."""
  count, (n, size) = config.samples, shape

  def draw(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    rows = jax.random.normal(rng, shape)
    return jnp.concatenate([rows, rows[: count - 1]]) if shared else rows

  devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
  shared = config.share_noise and 1 < count <= n * devices
  if not shared:
    noise = sharded_batch.per_image(rng, (n, count * size), axis_name, draw)
    return noise.reshape(n, count, size).transpose(1, 0, 2)
  # Sample s of example i is row i + s of the whole batch: independent across an
  # example's samples, and the draw costs what one sample's does.
  rows = draw(rng, (n * devices, size))
  if axis_name is not None:
    start = jax.lax.axis_index(axis_name) * n
    rows = jax.lax.dynamic_slice_in_dim(rows, start, n + count - 1)
  return jnp.stack([rows[s : s + n] for s in range(count)])


def _read_samples(
  read: Callable[[jax.Array], jax.Array],
  code: posteriors.Posterior,
  noise: jax.Array,
) -> jax.Array:
  """Logits [S, N, C] of the codes at the noise [S, N, K]."""
  if jax.default_backend() != 'cpu' or len(noise) > 16:
    return read(code.place(noise))
  # One small matrix product a sample: on a CPU, 12 samples of 100 codes of 256
  # take 1.0 ms forward and backward, as one product 2.6 ms.
  each = [read(code.place(noise[s : s + 1])) for s in range(len(noise))]
  return jnp.concatenate(each)


def _init_marginal(
  config: Config, rng: jax.Array, image_shape: tuple[int, ...]
) -> PyTree:
  size = config.code or 0
  if config.marginal == 'vamp':
    # Of about the spread of images, before their tanh.
    images = 0.5 * jax.random.normal(rng, (config.components, *image_shape))
    return {'images': images, 'logits': jnp.zeros(config.components)}
  if config.marginal == 'learned':
    return {'mean': jnp.zeros((1, size)), 'log_std': jnp.zeros((1, size))}
  rows = config.num_classes if config.marginal == 'class' else config.components
  # Apart from each other: equal components would get equal gradients.
  params = {
    'mean': jax.random.normal(rng, (rows, size)),
    'log_std': jnp.zeros((rows, size)),
  }
  if config.marginal == 'mixture':
    params['logits'] = jnp.zeros(rows)
  return params


def _rate(
  config: Config,
  params: PyTree,
  code: posteriors.Posterior,
  noise: jax.Array,
  labels: jax.Array | None,
  pseudo: posteriors.Posterior | None,
) -> jax.Array:
  """Nats [N]: in closed form where there is one, else at the samples."""
  if config.marginal == 'normal':
    return code.rate()
  if config.marginal in ('learned', 'class'):
    mean, log_std = params['mean'], params['log_std']
    if config.marginal == 'class':
      mean, log_std = mean[labels], log_std[labels]
    if code.scale.ndim == 2:
      return losses.rate_diagonal(
        code.mean,
        code.scale,
        code.log_scale,
        marginal_mean=mean,
        marginal_log_std=log_std,
      )
    log_marginal = losses.log_normal(
      code.place(noise), mean[None], log_std[None]
    )
  else:
    if pseudo is not None:
      mean, log_std = pseudo.mean, pseudo.log_scale
    else:
      mean, log_std = params['mean'], params['log_std']
    log_marginal = losses.log_mixture(
      code.place(noise), mean, log_std, params['logits']
    )
  return losses.rate_monte_carlo(code.log_prob(noise), log_marginal)
