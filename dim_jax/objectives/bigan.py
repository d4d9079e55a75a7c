r"""BiGAN: an encoder and a generator that a discriminator cannot tell apart.

The discriminator D sees pairs: of a generated image and the code that it is of,
(G(z), z), z of the prior, and of an image and its code, (x, E(x)). Encoder and
generator play against it together; where the two kinds of pairs are equal in
distribution, each is the inverse of the other.

The scores are those of `losses.adversarial`: generated pairs stand for the
prior, whose scores D raises, and encoded ones for the codes, whose scores it
lowers. The best D of the divergence 'jsd' is ln p(G(z), z) - ln p(x, E(x)), and
its loss there -2 JSD, which is 0 where the pairs are equal. The encoder raises
the scores of encoded pairs and the generator lowers those of generated ones,
each by the form that does not saturate.

D must stay ahead of both: at one learning rate for all it scarcely looks at the
code, and the codes of different images come together. Give the group
'discriminator' five times the learning rate of the others.

D sees `stop_gradient` of images and codes, encoder and generator see
`stop_gradient` of D's parameters, and the online probe that of the features; so
each parameter group gets its own gradient from one backward pass.

The metrics, in the divergence's own unit, nats for 'jsd' and 'rsgan':
'bigan/discriminator', 'bigan/encoder' and 'bigan/generator', the losses, and
'bigan/gradient_penalty' or, if it is of scores alone, 'bigan/penalty'. In nats
'probe/NAME_loss', and 'probe/NAME_accuracy', a fraction.

Donahue et al., Adversarial Feature Learning, ICLR 2017.
https://arxiv.org/abs/1605.09782
Dumoulin et al., Adversarially Learned Inference, ICLR 2017.
https://arxiv.org/abs/1606.00704
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.checks import check_choice, check_fields
from dim_jax.losses import adversarial, priors
from dim_jax.networks import critics, decoders, encoders
from dim_jax.networks.convolutional import ConvLayer
from dim_jax.objective import Generator, Metrics, Objective, PyTree
from dim_jax.objectives import (
  encoder_and_terms,
  image_encoder,
  sharded_batch,
)
from dim_jax.objectives.terms import (
  classifiers,
  prior_matching,
  reconstruction,
  term,
)
from dim_jax.objectives.terms.term import Inputs, Term

NORMS = (None, 'layer', 'group')
_GROUPS = ('encoder', 'generator', 'discriminator', 'probe')


@dataclasses.dataclass(kw_only=True)
class Config:
  """A bidirectional GAN on Deep InfoMax's encoder (Donahue et al. 2017)."""

  encoder: str | Any = 'basic32'
  """A name of `networks.encoders.ENCODERS`, or a Flax module that maps images
  [N, H, W, C] and `train` to a dictionary of features, among them the code 'y'
  [N, K], or to that array."""
  code: int = 64
  """K, size of the code Y; of a module of your own, what it has."""
  norm: str = 'batch'
  """The normalisation of a named encoder and of the generator: 'batch', or
  without statistics of the batch, 'layer' or 'group'."""
  prior: str = 'uniform'
  """Of the codes: 'uniform' on (-1, 1), as the paper's, against tanh(Y / 2),
  which is 2 sigmoid(Y) - 1; or 'gaussian', 'ball' or 'sphere', against Y."""
  divergence: str = 'jsd'
  """How the two kinds of pairs are compared: a name of
  `adversarial.ADVERSARIAL`. The discriminator may take k steps to one of the
  others': give the groups 'encoder' and 'generator' an OptimizerConfig with
  every=k. 'wgan' needs clip_weights in that of 'discriminator'."""
  gradient_penalty: float | None = None
  """Weight of the divergence's own penalty on the discriminator, 1 being its
  paper's: zero-centred for 'jsd', over both kinds of pairs; of GAN-QP, its
  quadratic term. None for 1, but for 'jsd' for 0, as BiGAN has no penalty. It
  has no meaning where the divergence has none."""
  generator_channels: int | None = None
  """Channels of the generator's first map, which each doubling halves; None for
  those of the encoder's last one, 'conv'."""
  discriminator_units: tuple[int, ...] | None = None
  """Sizes of the discriminator's hidden layers, which the code joins; None for
  those of a named encoder. Its convolutions are the encoder's; where that is no
  plain stack, the generator's backwards, and None is (1024,)."""
  discriminator_norm: str | None = None
  """After each of its convolutions: 'layer' or 'group', which see one image
  alone, or None."""
  spectral_norm: bool | None = None
  """Whether the discriminator's weights are divided by their spectral norms;
  None for 'hinge' alone."""
  dtype: str = 'float32'
  """Compute dtype of the networks, 'float32' or 'bfloat16'; parameters, scores
  and generated images stay float32."""
  num_classes: int = 10
  """Classes of the online probe, a linear layer on every feature of
  `probe_features` that sends no gradient back; 0 for none. Labels must be below
  it; those of -1 are left out."""
  probe_features: tuple[str, ...] = classifiers.PROBED
  """The features that online probes read."""

  @property
  def title(self) -> str:
    """What this is called; used by pages and tables."""
    return 'BiGAN'


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  image_encoder.check(config)
  check_choice('objective.prior', config.prior, priors.PRIORS)
  check_choice(
    'objective.divergence', config.divergence, adversarial.ADVERSARIAL
  )
  check_choice('objective.discriminator_norm', config.discriminator_norm, NORMS)
  check_choice(
    'objective.spectral_norm', config.spectral_norm, (None, True, False)
  )
  check_fields(
    config,
    {
      'gradient_penalty': '[0, inf) or None',
      'generator_channels': 'int [1, inf) or None',
    },
    'objective.',
  )
  if config.discriminator_units is not None:
    sharded_batch.check_units(
      'objective.discriminator_units', config.discriminator_units, 1
    )
  if config.discriminator_norm is not None and _normalises(config):
    raise ValueError(
      f'objective.discriminator_norm={config.discriminator_norm!r} would undo '
      'the spectral normalisation that objective.spectral_norm='
      f'{config.spectral_norm} and divergence={config.divergence!r} ask for: '
      'set discriminator_norm=None, or spectral_norm=False.'
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
  optimizer = optimizers.get('discriminator', default)
  bounded = optimizer.clip_weights is not None or config.spectral_norm
  if config.divergence == 'wgan' and not bounded:
    raise ValueError(
      "objective.divergence='wgan' needs a discriminator of bounded slope: set "
      "groups['discriminator'] to an OptimizerConfig with clip_weights=0.01, "
      "or objective.spectral_norm=True; 'wgan_gp' has a penalty instead."
    )


def _normalises(config: Config) -> bool:
  return prior_matching.normalises(config.divergence, config.spectral_norm)


def _penalty_weight(config: Config) -> float:
  if config.gradient_penalty is None:
    return 0.0 if config.divergence == 'jsd' else 1.0
  return config.gradient_penalty


def _mirrored(config: Config) -> tuple[tuple[ConvLayer, ...], tuple[int, ...]]:
  """Convolutions and hidden layers of an encoder that is a plain stack."""
  named = isinstance(config.encoder, str)
  fields = encoders.ENCODERS[config.encoder] if named else {}
  convs = fields.get('convs', ())
  if 'crop' in fields or not all(isinstance(x, ConvLayer) for x in convs):
    return (), ()
  return convs, fields.get('fcs', ())


def _generator_of(
  config: Config, params: PyTree, axis_name: str | None
) -> decoders.ConvDecoder:
  return decoders.conv_decoder_of(
    params, norm=config.norm, dtype=jnp.dtype(config.dtype), axis_name=axis_name
  )


def _make_discriminator(
  config: Config, generator: decoders.ConvDecoder
) -> critics.PairAdversary:
  convs, units = _mirrored(config)
  if not convs:
    # As many as halve the image to where the generator starts.
    halvings = int(math.log2(generator.shape[0])) - 2
    convs = tuple(
      ConvLayer(max(1, generator.channels // 2**i), 4, 2, 1)
      for i in reversed(range(halvings))
    )
  return critics.PairAdversary(
    convs,
    tuple(config.discriminator_units or units or (1024,)),
    norm=config.discriminator_norm,
    spectral_norm=_normalises(config),
    dtype=jnp.dtype(config.dtype),
  )


def _mapped(config: Config, codes: jax.Array) -> jax.Array:
  """Maps codes Y to where the prior is, in float32."""
  codes = codes.astype(jnp.float32)
  return jnp.tanh(codes / 2) if config.prior == 'uniform' else codes


def _draw(config: Config, rng: jax.Array, shape: Any) -> jax.Array:
  """Draws of the prior; 'uniform' is on (-1, 1)."""
  samples = priors.sample_prior(rng, config.prior, shape)
  return 2 * samples - 1 if config.prior == 'uniform' else samples


def _make_pairs(config: Config, axis_name: str | None) -> Term:
  """The adversarial term, of the groups 'generator' and 'discriminator'."""
  losses = adversarial.ADVERSARIAL[config.divergence]
  # Points between rows are drawn for the global batch.
  gathers = losses.input_gradient and losses.paired

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    generator, generator_state = reconstruction.init_decoder(
      rng,
      inputs,
      code=config.code,
      channels=config.generator_channels,
      field='generator_channels',
      norm=config.norm,
      dtype=jnp.dtype(config.dtype),
    )
    discriminator, state = term.split(
      _make_discriminator(config, _generator_of(config, generator, None)).init(
        jax.random.split(rng, 3)[2], inputs.images, inputs.features['y']
      )
    )
    return (
      {'generator': generator, 'discriminator': discriminator},
      {'generator': generator_state, 'discriminator': state},
    )

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    rng = jax.random.split(rng, 4)[3]
    generator = _generator_of(config, params['generator'], axis_name)
    codes = _mapped(config, inputs.features['y'])
    samples = sharded_batch.per_image(
      rng, codes.shape, axis_name, functools.partial(_draw, config)
    )
    state = model_state['generator']
    generated, state = generator.apply(
      {'params': params['generator'], **state},
      samples,
      train=True,
      mutable=list(state),
    )
    pairs = (generated, samples), (inputs.images, codes)
    if gathers:
      pairs = jax.tree.map(lambda x: sharded_batch.gather(x, axis_name), pairs)
    terms, discriminator_state = _joint_terms(
      losses,
      _make_discriminator(config, generator),
      {'params': params['discriminator'], **model_state['discriminator']},
      random.branch(rng, random.OfPrior.PENALTY),
      *pairs,
      penalised=_penalty_weight(config) > 0,
    )
    if axis_name is not None:
      # Every term is a mean over pairs.
      terms = jax.lax.pmean(terms, axis_name)
    total = jnp.zeros(())
    for name, value in terms.items():
      weight = _penalty_weight(config) if name.endswith('penalty') else 1.0
      total += weight * value
    metrics = {f'bigan/{name}': value for name, value in terms.items()}
    return (
      total,
      metrics,
      {'generator': state, 'discriminator': discriminator_state},
    )

  return Term(init, loss)


def _joint_terms(
  losses: adversarial.Adversarial,
  discriminator: nn.Module,
  variables: PyTree,
  rng: jax.Array,
  generated: tuple[jax.Array, jax.Array],
  encoded: tuple[jax.Array, jax.Array],
  *,
  penalised: bool,
) -> tuple[Metrics, PyTree]:
  """The losses of the three networks, the penalty, and the state afterwards."""
  state = {k: v for k, v in variables.items() if k != 'params'}
  frozen = jax.lax.stop_gradient(variables)
  constant = jax.lax.stop_gradient((generated, encoded))
  # The power iteration moves in the discriminator's own step, once.
  encoded_scores, state = discriminator.apply(
    variables, *constant[1], train=True, mutable=list(state)
  )
  generated_scores = discriminator.apply(variables, *constant[0])
  fixed = jax.lax.stop_gradient((generated_scores, encoded_scores))
  terms = {
    'discriminator': losses.critic_loss(generated_scores, encoded_scores),
    'encoder': losses.encoder_loss(
      fixed[0], discriminator.apply(frozen, *encoded)
    ),
    'generator': losses.generator_loss(
      discriminator.apply(frozen, *generated), fixed[1]
    ),
  }
  if penalised and losses.penalty is not None:
    name = 'gradient_penalty' if losses.input_gradient else 'penalty'
    shape = encoded[0].shape[1:]

    def score(rows: jax.Array) -> jax.Array:
      images, codes = jnp.split(rows, [math.prod(shape)], axis=1)
      return discriminator.apply(variables, images.reshape(-1, *shape), codes)

    terms[name] = losses.penalty(rng, score, *map(_rows, constant))
  return terms, state


def _rows(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Joins images and codes to rows [N, H*W*C + K]."""
  images, codes = pair
  return jnp.concatenate([images.reshape(len(images), -1), codes], axis=1)


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes a bidirectional GAN as an objective.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over; the loss is that
      of the global batch.

  Returns:
    The objective, over the groups 'encoder', 'generator', 'discriminator' and
    'probe'. It encodes to the encoder's features, and makes images of codes.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  # Raises where there is none of that name.
  image_encoder.of_config(config, axis_name)
  terms = [_make_pairs(config, axis_name)]
  terms += classifiers.make_probes(config, axis_name)
  return encoder_and_terms.make(
    functools.partial(image_encoder.of_config, config),
    terms,
    code='y',
    axis_name=axis_name,
    classes=config.num_classes,
    optional_groups=_GROUPS,
    generator=Generator(
      functools.partial(_images, config), functools.partial(_codes, config)
    ),
  )


def _images(
  config: Config, variables: tuple[PyTree, PyTree], codes: jax.Array
) -> jax.Array:
  """Images of codes Y, by running statistics."""
  params, model_state = (part['generator'] for part in variables)
  return _generator_of(config, params, None).apply(
    {'params': params, **model_state}, _mapped(config, codes), train=False
  )


def _codes(config: Config, rng: jax.Array, count: int) -> jax.Array:
  """Codes Y of the prior, [count, K]."""
  samples = _draw(config, rng, (count, config.code))
  if config.prior != 'uniform':
    return samples
  # Whose tanh(Y / 2) the samples are; that of infinity is no code to go from.
  edge = 1 - jnp.finfo(jnp.float32).eps
  return 2 * jnp.arctanh(jnp.clip(samples, -edge, edge))
