r"""Variational Information Bottleneck: a classifier through a stochastic code.

It minimises

.. math:: E[-\ln q(y|z)] + \beta\, E_x KL(p(z|x) \| r(z))

over the parameter groups `encoder` (p), `decoder` (q) and, where r is learned,
`marginal`. The same config gives the paper's baselines (no noise and no rate,
with dropout, label smoothing or a confidence penalty), other marginals, the
Conditional Entropy Bottleneck (a marginal for each class) and a rate held to a
budget.

The metrics, in nats unless named otherwise: 'decoder/cross_entropy',
'decoder/accuracy' (of the averaged prediction, a fraction), 'encoder/rate'
(summed over dimensions, averaged over examples), 'encoder/beta' (the weight in
force) and 'decoder/confidence_penalty'. Rows labelled -1 enter the rate alone
(with a 'class' marginal nothing at all). With a 'class' marginal 'encoder/rate'
bounds I(X; Z|Y), what the code keeps beyond the label, from above; the rate
that evaluation measures bounds I(X; Z) with any marginal.

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

from dim_jax.checks import check_choice, check_fields
from dim_jax.losses import bottleneck as losses
from dim_jax.networks import decoders, encoders, layers, posteriors
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import image_encoder, sharded_batch

MARGINALS = ('normal', 'learned', 'mixture', 'vamp', 'class')
COVARIANCES = (*posteriors.COVARIANCES, 'none')
CONSTRAINTS = ('hinge', 'dual')
SMOOTHINGS = ('uniform', 'zeros')


@dataclasses.dataclass(kw_only=True)
class Budget:
  """A rate that is free, or that the mean rate is held to."""

  nats: float = 0.0
  """The rate."""
  constraint: str = 'hinge'
  """'hinge' weighs each example's excess with beta; 'dual' moves beta by
  gradient ascent until the mean rate meets the budget."""
  dual_rate: float = 1e-5
  """Step size of that ascent, beta a nat and step."""


@dataclasses.dataclass(kw_only=True)
class Config:
  """A classifier with a bottleneck; the defaults are the paper's on MNIST."""

  encoder: str | Any = 'mlp'
  """'mlp', a name of `networks.encoders.ENCODERS`, or a Flax module that maps
  images [N, H, W, C] and `train` to a dictionary of features, or to one array,
  'y'."""
  norm: str = 'batch'
  """The normalisation of a convolutional encoder with a name: 'batch', or
  without statistics of the batch, 'layer' or 'group'."""
  units: tuple[int, ...] = (1024, 1024)
  """Hidden layers of the 'mlp'."""
  dropout: float = 0.0
  """Fraction of the hidden units of the 'mlp' that training drops."""
  feature: str = 'fc'
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
  """C, classes of the labels, which must be below it."""
  beta: float = 1e-3
  """Weight of the rate: nats of cross-entropy per nat of rate."""
  beta_warmup: int = 0
  """Steps over which beta grows linearly from 0."""
  samples: int = 1
  """Posterior samples an example and training step."""
  share_noise: bool = True
  """Draw one noise vector per example, and let its neighbours in the batch use
  it too: the samples of one example stay independent of each other, at the cost
  of one draw. Independent draws (False) lower the variance of the gradient from
  noise 12-fold for 12 samples, shared ones by about as much."""
  log_of_mean: bool = False
  """Train on -ln of the mean likelihood of the samples, instead of on the mean
  of -ln."""
  marginal: str = 'normal'
  """r(z): 'normal' is N(0, I); 'learned' a diagonal Gaussian; 'mixture' one of
  those; 'vamp' the posteriors of learned images; 'class' a Gaussian for each
  label, the Conditional Entropy Bottleneck, with beta = 1 / gamma."""
  components: int = 10
  """Of the marginals 'mixture' and 'vamp'."""
  budget: Budget | None = None
  """Leave some rate free, or hold the rate to it."""
  label_smoothing: float = 0.0
  """The part of each target that is spread over the classes."""
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
    ('norm', layers.NORMS),
    ('scale', posteriors.SCALES),
    ('marginal', MARGINALS),
    ('smoothing_definition', SMOOTHINGS),
  ):
    check_choice(f'objective.{name}', getattr(config, name), accepted)
  check_fields(
    config,
    {
      'dropout': '[0, 1)',
      'code': 'int [1, inf) or None',
      'shift': '(-inf, inf)',
      'num_classes': 'int [2, inf)',
      'beta': '[0, inf)',
      'beta_warmup': 'int [0, inf)',
      'samples': 'int [1, inf)',
      'components': 'int [1, inf)',
      'label_smoothing': '[0, 1)',
      'confidence_penalty': '[0, inf)',
      'confidence_threshold': '[0, inf) or None',
    },
    'objective.',
  )
  sharded_batch.check_units('objective.units', config.units)
  sharded_batch.check_units('objective.decoder_units', config.decoder_units)
  if config.budget:
    where = 'objective.budget.'
    check_choice(where + 'constraint', config.budget.constraint, CONSTRAINTS)
    check_fields(
      config.budget, {'nats': '[0, inf)', 'dual_rate': '[0, inf)'}, where
    )
  if config.code is None and config.covariance != 'none':
    raise ValueError(
      'objective.code is None, but a bottleneck needs its size K >= 1; or set '
      "objective.covariance='none'."
    )
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


class StochasticEncoder(nn.Module):
  """A network and the head that computes the code from one of its features.

  Attributes:
    body: maps images to features.
    head: a `Bottleneck`, a linear layer, or None for the feature itself.
    feature: the feature's name.
  """

  body: nn.Module
  head: nn.Module | None
  feature: str

  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> tuple[dict[str, jax.Array], Any]:
    """Returns the features, and a `Posterior`, or codes [N, K] without noise.

    Args:
      images: floats in [-1, 1], shape [N, H, W, C].
      train: whether dropout and batch statistics are those of training.
    """
    features = image_encoder.features_of(self.body(images, train=train))
    if self.feature not in features:
      raise ValueError(
        f'objective.feature is {self.feature!r}, but the encoder returns the '
        'features '
        f'{sorted(features)}.'
      )
    x = features[self.feature].reshape(images.shape[0], -1).astype(jnp.float32)
    return features, x if self.head is None else self.head(x)


def _make_networks(
  config: Config, axis_name: str | None
) -> tuple[StochasticEncoder, decoders.Classifier]:
  mlp = encoders.MLPEncoder(units=config.units, dropout=config.dropout)
  body = image_encoder.make(
    config.encoder, axis_name, own={'mlp': mlp}, norm=config.norm
  )
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
  return StochasticEncoder(body, head, config.feature), decoder


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes the bottleneck as an objective.

  beta is an array of the model state, 'beta', so that one program can train
  with many of them, and dual ascent can move it.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over.

  Returns:
    The objective, over the groups 'encoder', 'decoder' and, unless r(z) is
    N(0, I), 'marginal'. It encodes to the encoder's features, 'y' (the code's
    mean), 'std' (its standard deviations) and 'logits' (at the mean).

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder, decoder = _make_networks(config, axis_name)
  stochastic = config.covariance != 'none'

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    if 'label' not in batch:
      raise ValueError("the bottleneck needs batch['label'], int32 [N].")
    noise_rng, dropout_rng = jax.random.split(rng)
    if axis_name is not None:
      # The mask depends on the number of devices: it is drawn inside of Flax.
      index = jax.lax.axis_index(axis_name)
      dropout_rng = jax.random.fold_in(dropout_rng, index)

    def read_images(images: jax.Array) -> tuple[Any, PyTree]:
      (_, code), state = encoder.apply(
        {'params': params['encoder'], **model_state['encoder']},
        images,
        train=True,
        mutable=list(model_state['encoder']),
        rngs={'dropout': dropout_rng},
      )
      return code, state

    def read(z: jax.Array) -> jax.Array:
      return decoder.apply({'params': params['decoder']}, z)

    code, encoder_state = read_images(
      layers.normalise_images(sharded_batch.images(batch))
    )
    state = model_state | {'encoder': encoder_state}
    known = _Known(batch['label'], axis_name)
    if not stochastic:
      value, metrics = _prediction_terms(config, read(code[None]), known)
      return value, (metrics, state)
    noise = _noise(config, noise_rng, code.mean.shape, axis_name)
    logits = _read_samples(read, code, noise)
    value, metrics = _prediction_terms(config, logits, known)
    pseudo = _read_pseudo(config, (params, model_state))
    labels = known.labels if config.marginal == 'class' else None
    rate = _rate(config, params.get('marginal'), code, noise, labels, pseudo)
    cost, own, own_state = _rate_term(config, rate, model_state, known)
    return value + cost, (metrics | own, state | own_state)

  return Objective(
    functools.partial(_init, config),
    loss,
    functools.partial(_encode, config),
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


def _init(
  config: Config, rng: jax.Array, batch: Batch
) -> tuple[PyTree, PyTree]:
  # Outside of pmap, where no axis is bound.
  encoder, decoder = _make_networks(config, None)
  stochastic = config.covariance != 'none'
  encoder_rng, decoder_rng, marginal_rng = jax.random.split(rng, 3)
  images = layers.normalise_images(sharded_batch.images(batch)[:2])
  (_, code), variables = encoder.init_with_output(encoder_rng, images)
  state = dict(variables)
  params = {'encoder': state.pop('params')}
  mean = code.mean if stochastic else code
  params['decoder'] = decoder.init(decoder_rng, mean)['params']
  model_state: dict[str, Any] = {'encoder': state}
  if not stochastic:
    return params, model_state
  if config.marginal != 'normal':
    shape = sharded_batch.images(batch).shape[1:]
    params['marginal'] = _init_marginal(config, marginal_rng, shape)
  model_state['beta'] = jnp.asarray(config.beta, jnp.float32)
  if config.beta_warmup:
    model_state['steps'] = jnp.zeros((), jnp.int32)
  return params, model_state


def _encode(
  config: Config, params: PyTree, model_state: PyTree, batch: Batch
) -> dict[str, jax.Array]:
  encoder, decoder = _make_networks(config, None)
  variables = {'params': params['encoder'], **model_state['encoder']}
  images = layers.normalise_images(sharded_batch.images(batch))
  features, code = encoder.apply(variables, images)
  stochastic = config.covariance != 'none'
  mean = code.mean if stochastic else code
  features |= {
    'y': mean,
    'logits': decoder.apply({'params': params['decoder']}, mean),
  }
  if stochastic:
    std = code.scale
    full = std.ndim == 3
    features['std'] = jnp.sqrt(jnp.square(std).sum(2)) if full else std
  return features


class _Known:
  """The labels of a batch, of which those of -1 are not known."""

  def __init__(self, labels: jax.Array, axis_name: str | None):
    self.labels = jnp.maximum(labels, 0)
    self.axis_name = axis_name
    self._known = labels >= 0
    self._count = jnp.maximum(sharded_batch.total(self._known, axis_name), 1)

  def mean(self, values: jax.Array) -> jax.Array:
    """Averages [n] over the examples of all devices that have a label."""
    values = jnp.where(self._known, values, 0.0)
    return sharded_batch.total(values, self.axis_name) / self._count

  def mean_of_all(self, values: jax.Array) -> jax.Array:
    """Averages [n] over the examples of all devices."""
    count = sharded_batch.total(jnp.ones_like(values), self.axis_name)
    return sharded_batch.total(values, self.axis_name) / count


def _prediction_terms(
  config: Config, logits: jax.Array, known: _Known
) -> tuple[jax.Array, Metrics]:
  """The cross-entropy of logits [S, n, C], and the confidence penalty."""
  value = known.mean(
    losses.distortion(
      logits,
      known.labels,
      log_of_mean=config.log_of_mean,
      smoothing=config.label_smoothing,
      smoothing_definition=config.smoothing_definition,
    )
  )
  hits = jax.nn.softmax(logits).mean(0).argmax(-1) == known.labels
  metrics = {
    'decoder/cross_entropy': value,
    'decoder/accuracy': known.mean(hits),
  }
  if config.confidence_penalty:
    penalty = known.mean(
      losses.confidence_penalty(logits, config.confidence_threshold).mean(0)
    )
    metrics['decoder/confidence_penalty'] = penalty
    value += config.confidence_penalty * penalty
  return value, metrics


def _rate_term(
  config: Config, rate: jax.Array, model_state: PyTree, known: _Known
) -> tuple[jax.Array, Metrics, PyTree]:
  """The weighted rate, and what changes of 'beta' and its warm-up."""
  mean = known.mean if config.marginal == 'class' else known.mean_of_all
  beta, state = model_state['beta'], {}
  if config.beta_warmup:
    state['steps'] = model_state['steps'] + 1
    beta = beta * jnp.minimum(state['steps'] / config.beta_warmup, 1.0)
  metrics = {'encoder/rate': mean(rate), 'encoder/beta': beta}
  budget = config.budget
  if budget and budget.constraint == 'hinge':
    rate = losses.rate_excess(rate, budget.nats)
  elif budget:
    excess = jax.lax.stop_gradient(metrics['encoder/rate']) - budget.nats
    state['beta'] = jnp.maximum(
      model_state['beta'] + budget.dual_rate * excess, 0.0
    )
  return beta * mean(rate), metrics, state


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
  """The rate against the run's own marginal.

  Of a 'class' one that is the mixture of its classes, each as probable: labels
  are not read, and it bounds I(Z; X) from above as that of any marginal does.
  """
  if samples < 1:
    raise ValueError(f'samples must be >= 1, got {samples}.')
  code = _posterior(config, variables, batch)
  noise = jax.random.normal(rng, (samples, *code.mean.shape))
  pseudo = _read_pseudo(config, variables)
  return _rate(config, variables[0].get('marginal'), code, noise, None, pseudo)


def _read_pseudo(config: Config, variables: PyTree) -> Any:
  """The posteriors of learned images, by the statistics of real ones."""
  if config.marginal != 'vamp':
    return None
  images = jnp.tanh(variables[0]['marginal']['images'])
  return _read_code(config, variables, images)


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
  if layers.platform() != 'cpu' or len(noise) > 16:
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
    # Of about the range of images, before their tanh.
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
  """Nats [N]: in closed form where there is one, else at the samples.

  Without labels, a 'class' marginal is the mixture of its classes.
  """
  if config.marginal == 'normal':
    return code.rate()
  if config.marginal == 'learned' or labels is not None:
    mean, log_std = params['mean'], params['log_std']
    if labels is not None:
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
    logits = params.get('logits', jnp.zeros(len(mean)))
    log_marginal = losses.log_mixture(code.place(noise), mean, log_std, logits)
  return losses.rate_monte_carlo(code.log_prob(noise), log_marginal)
