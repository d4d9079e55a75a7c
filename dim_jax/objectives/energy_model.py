r"""Energy models, by contrastive divergence and by Stein's method.

A network f gives the density exp(f(x)) / Z. The gradient of its likelihood is

.. math:: E_{data}[\nabla f] - E_{model}[\nabla f],

and the methods differ in their negatives alone, that is, in the samples that
stand for the model: where Markov chains start and whether they are kept, one
step of Stein variational gradient descent from the data (SteinCD), a generator
that follows the Stein direction (SteinGAN), or exact samples. Negatives and
directions pass through `stop_gradient`, so the parameter groups `energy` and
`generator` get their own gradients from one backward pass. The GAN that they
are compared with has the same networks and another `contrast`.

The metrics, in nats unless named otherwise: 'energy/data' and
'energy/negatives' (mean f), 'energy/gap' (their difference: near 0 where the
negatives are as likely as the data), 'energy/penalty' (f squared); of chains
'energy/acceptance' (a fraction) and 'energy/temperature' (of the distribution
that they sample, exp(f / T)); of exact training 'energy/log_likelihood'; of a
generator 'generator/surrogate' (whose value means nothing; of a GAN
'generator/loss', in nats) and 'generator/spread' (the samples' standard
deviation, averaged over dimensions, in units of x). Where chains or f diverge,
these become non-finite: use more or smaller steps, `energy_penalty`, or 'mala',
whose steps cannot raise the energy at will.

Wang and Liu, Learning to draw samples: with application to amortized MLE for
generative adversarial learning, 2016. https://arxiv.org/abs/1611.01722
Liu and Wang, Learning deep energy models: contrastive divergence vs. amortized
MLE, 2017. https://arxiv.org/abs/1707.00797
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import samplers
from dim_jax.checks import check_choice, check_fields, check_range
from dim_jax.losses import adversarial
from dim_jax.losses import kernel_stein as losses
from dim_jax.networks import energies, generators, layers
from dim_jax.objective import Batch, Density, Metrics, Objective, PyTree
from dim_jax.objectives import sharded_batch

CHAINS = ('cd', 'persistent', 'short_run', 'buffer')
NEGATIVES = (*CHAINS, 'stein', 'generator', 'mixture', 'exact')
TRANSITIONS = ('langevin', 'mala', 'hmc', 'gibbs')
STARTS = ('normal', 'uniform')
KERNELS = ('data', 'features')
REPULSIONS = ('all', 'nearest', 'none')
CONTRASTS = ('difference', 'jsd')
LATENTS: dict[str, sharded_batch.Draw] = {
  'uniform': functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0),
  'normal': jax.random.normal,
}


@dataclasses.dataclass(kw_only=True)
class Config:
  """An energy model; the defaults are CD-1 with Langevin steps."""

  energy: str | Any = 'mlp'
  """'mlp', 'autoencoder' or 'conv' (images), 'rbm', or a Flax module that maps
  x [N, ...] to f [N], the logarithm of the unnormalised density; it may have a
  method `features`, and keeps no statistics."""
  units: tuple[int, ...] = (128, 128)
  """Hidden layers of the energy 'mlp'."""
  hidden: int = 10
  """Hidden units of the 'rbm'."""
  input_range: tuple[float, float] = (-1.0, 1.0)
  """Where pixels from black to white lie as the energy sees them; (0, 1) for
  numbers that compare with papers on the RBM. Points are left as they are."""
  negatives: str = 'cd'
  """What stands for the model's samples: chains that start at the batch ('cd'),
  that go on forever ('persistent'), that start from noise ('short_run') or from
  a replay buffer ('buffer'); one Stein step from the batch ('stein', SteinCD);
  a 'generator' (SteinGAN); a 'mixture' of the last two; or the 'exact' gradient
  of the likelihood (an RBM alone)."""
  contrast: str = 'difference'
  """How f tells data from negatives: by the 'difference' of its means, the
  likelihood's gradient; or by a GAN's 'jsd', which makes f the logarithm of the
  ratio of the data's density to the generator's, and no density of its own. It
  takes the negatives 'generator' and the repulsion 'none'."""
  transition: str = 'langevin'
  """Of the chains: 'langevin', 'mala', 'hmc' or 'gibbs' (an RBM alone)."""
  steps: int = 1
  """k, transitions of each chain a training step."""
  step_size: float = 0.01
  """Of the score in 'langevin' and 'mala'; epsilon of the leapfrogs in 'hmc',
  whose square is twice that. 'gibbs' has none."""
  noise: float | None = None
  """Standard deviation of the noise of 'langevin'. None is sqrt(2 step_size);
  any other samples exp(f / T) at the temperature T = noise^2 / (2 step_size),
  which 'energy/temperature' reports."""
  leapfrogs: int = 10
  """Steps along one trajectory of 'hmc'."""
  chains: int = 100
  """How many chains are 'persistent', or samples the 'buffer' holds."""
  restarts: float = 0.05
  """Probability that a chain starts from noise instead of from the 'buffer'."""
  start: str = 'uniform'
  """The noise that chains start from: 'uniform' over `input_range` in every
  dimension, of pixels and of points, or 'normal', N(0, I)."""
  stein_step: float = 0.1
  """epsilon of SteinCD, whose gradient is divided by it."""
  stein_rate: float = 0.5
  """Probability that a step of a 'mixture' takes SteinCD's negatives."""
  bandwidth: float | str = 'svgd'
  """h of the kernel exp(-||x - y||^2 / h): a number, or a rule's name of
  `losses.kernel_stein.BANDWIDTHS`."""
  self_term: bool = False
  """Whether a particle's own score counts in its Stein direction, as in the
  papers. A generator of 64 dimensions then keeps 8 % of the variance, and
  without it all. With it, SteinCD's gradient is half that of the kernel Stein
  discrepancy in its biased form."""
  normalisation: str = 'count'
  """What a particle's sum over the others is divided by: their 'count', as in
  the papers, or the sum of their 'kernel', as SteinGAN's code has it for the
  RBM. Of the repulsion 'all'."""
  kernel: str = 'data'
  """What the kernel compares: 'data', or the energy's 'features'."""
  repulsion: str = 'all'
  """Which particles repel one: 'all', the 'nearest' alone (as SteinGAN's code
  has it), or 'none', where the direction is the score."""
  particles_of: int | None = None
  """The Stein direction of a sample is one among this many, itself and its
  neighbours in the batch; None for all of the batch, whose kernel makes a
  device read the more, the more devices there are. The bandwidth is then that
  of this many, too."""
  generator: str | Any = 'mlp'
  """'mlp', 'conv' (images), or a Flax module that maps noise [N, Z] to x; of
  images in [-1, 1]."""
  generator_units: tuple[int, ...] = (128, 128)
  """Hidden layers of the generator 'mlp'."""
  latent: str = 'uniform'
  """The generator's noise: 'uniform' on (-1, 1) or 'normal'."""
  latent_size: int = 100
  """Z, dimensions of that noise."""
  energy_penalty: float = 0.0
  """Weight of the mean of f^2, over the data and over the negatives."""
  negative_weight: float = 1.0
  """Weight of the negatives' mean f. Below 1 an energy that outruns its
  generator is held back, and no longer aims at the likelihood's maximum:
  SteinGAN's code has 0.1 to 0.3 on images. SteinCD and the 'exact' gradient
  take 1."""

  @property
  def title(self) -> str:
    """What its negatives are called, such as 'CD-10' or 'SteinGAN'."""
    titles = {
      'cd': f'CD-{self.steps}',
      'persistent': f'persistent CD-{self.steps}',
      'short_run': f'short runs of {self.steps}',
      'buffer': f'replay buffer, {self.steps} steps',
      'stein': 'SteinCD',
      'generator': 'SteinGAN',
      'mixture': 'SteinCD and SteinGAN',
      'exact': 'exact likelihood',
    }
    if self.contrast == 'jsd':
      return 'GAN'
    return titles.get(self.negatives, self.negatives)


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  for name, accepted in (
    ('negatives', NEGATIVES),
    ('contrast', CONTRASTS),
    ('transition', TRANSITIONS),
    ('start', STARTS),
    ('kernel', KERNELS),
    ('repulsion', REPULSIONS),
    ('normalisation', losses.NORMALISATIONS),
    ('latent', tuple(LATENTS)),
  ):
    check_choice(f'objective.{name}', getattr(config, name), accepted)
  for name, registry in (
    ('energy', energies.ENERGIES),
    ('generator', generators.GENERATORS),
  ):
    value = getattr(config, name)
    if not isinstance(value, nn.Module) and value not in tuple(registry):
      raise ValueError(
        f'objective.{name} must be one of {tuple(registry)} or a Flax module, '
        f'got {value!r}.'
      )
  check_fields(
    config,
    {
      'hidden': 'int [1, inf)',
      'steps': 'int [1, inf)',
      'step_size': '(0, inf)',
      'noise': '[0, inf) or None',
      'leapfrogs': 'int [1, inf)',
      'chains': 'int [1, inf)',
      'restarts': '[0, 1]',
      'stein_step': '(0, inf)',
      'stein_rate': '[0, 1]',
      'particles_of': 'int [1, inf) or None',
      'latent_size': 'int [1, inf)',
      'energy_penalty': '[0, inf)',
      'negative_weight': '(0, 1]',
    },
    'objective.',
  )
  for name in ('units', 'generator_units'):
    sharded_batch.check_units(f'objective.{name}', getattr(config, name))
  if config.negatives in ('exact', 'stein') and config.negative_weight != 1:
    raise ValueError(
      f'objective.negatives={config.negatives!r} takes negative_weight=1, got '
      f'{config.negative_weight}.'
    )
  if config.noise is not None and config.transition != 'langevin':
    raise ValueError(
      "objective.noise acts on objective.transition='langevin' alone; leave it "
      f'None for {config.transition!r}.'
    )
  moved = config.negatives in ('stein', 'generator', 'mixture')
  if config.normalisation != 'count' and not (
    moved and config.repulsion == 'all'
  ):
    raise ValueError(
      f'objective.normalisation={config.normalisation!r} divides the sums of '
      "objective.repulsion='all', of the negatives 'stein', 'generator' and "
      f"'mixture': leave it 'count' for repulsion={config.repulsion!r} and "
      f'negatives={config.negatives!r}.'
    )
  low, high = config.input_range
  if not -math.inf < low < high < math.inf:
    raise ValueError(
      'objective.input_range must be two numbers, the lower one first, got '
      f'{config.input_range}.'
    )
  if isinstance(config.bandwidth, str):
    check_choice('objective.bandwidth', config.bandwidth, losses.BANDWIDTHS)
  else:
    check_range('objective.bandwidth', config.bandwidth, '(0, inf)')
  _check_contrast(config)
  _check_energy(config)


def _check_contrast(config: Config) -> None:
  """Raises ValueError where a GAN has what an energy alone can use."""
  gan = ('generator', 'none', 1)
  given = config.negatives, config.repulsion, config.negative_weight
  if config.contrast == 'jsd' and given != gan:
    raise ValueError(
      "objective.contrast='jsd' takes negatives, repulsion and negative_weight "
      f'{gan}, got {given}.'
    )


def _check_energy(config: Config) -> None:
  """Raises ValueError where the energy lacks what another field needs."""
  energy = _make_energy(config)
  if not isinstance(energy, energies.RBM):
    for name, value in (('negatives', 'exact'), ('transition', 'gibbs')):
      if getattr(config, name) == value:
        raise ValueError(
          f"objective.{name}={value!r} takes objective.energy='rbm', got "
          f'{config.energy!r}.'
        )
  elif config.negatives == 'exact' and energy.hidden > energies.MAX_HIDDEN:
    raise ValueError(
      "objective.negatives='exact' enumerates the states of up to "
      f'{energies.MAX_HIDDEN} hidden units, got {energy.hidden}.'
    )
  if config.kernel == 'features' and not _has_features(energy):
    raise ValueError(
      "objective.kernel='features' takes an energy with a method `features`, "
      f'got {config.energy!r}.'
    )


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes an energy model as an objective, of batches of images or points.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over. Every device
      then runs all chains, and compares its own particles with those of all
      devices.

  Returns:
    The objective, over the groups 'energy' and, for the negatives 'generator'
    and 'mixture', 'generator'. The model state has 'chains' where they are
    kept. It encodes to 'energy' (f, [N, 1]) and 'features', if it has them.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  energy = _make_energy(config)

  def average(values: jax.Array) -> jax.Array:
    mean = values.mean()
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    x = inputs(config, batch)
    drawn = _draw_negatives(config, params, model_state, x, rng, axis_name)
    value, metrics = drawn.loss, dict(drawn.metrics)
    f_data = log_density(config, params, x)
    f_negatives = log_density(config, params, drawn.negatives)
    positive, negative = average(f_data), average(f_negatives)
    if config.negatives == 'exact':
      log_partition = energies.RBM.log_partition(params['energy'])
      metrics['energy/log_likelihood'] = positive - log_partition
      value -= metrics['energy/log_likelihood']
    elif config.contrast == 'jsd':
      value += average(adversarial.adversary_loss(f_data, f_negatives))
    else:
      value += drawn.scale * (drawn.weight * negative - positive)
    metrics |= {
      'energy/data': positive,
      'energy/negatives': negative,
      'energy/gap': positive - negative,
    }
    if config.energy_penalty:
      penalty = average(jnp.square(f_data)) + average(jnp.square(f_negatives))
      value += config.energy_penalty * penalty
      metrics['energy/penalty'] = penalty
    return value, (metrics, drawn.state)

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    del model_state  # Chains; the energy itself has none.
    x = inputs(config, batch)
    outputs = {'energy': log_density(config, params, x)[:, None]}
    if _has_features(energy):
      outputs['features'] = _features(energy, params, x)
    return outputs

  return Objective(
    functools.partial(_init, config),
    loss,
    encode,
    features=('features',),
    optional_groups=('generator', 'probe'),
    density=_density(config, energy),
  )


def _density(config: Config, energy: nn.Module) -> Density:
  """What `Objective.density` offers."""
  density = Density(
    functools.partial(log_density, config),
    functools.partial(inputs, config),
    functools.partial(_sample_as_trained, config),
    ratio=config.contrast == 'jsd',
  )
  if density.ratio or not isinstance(energy, energies.RBM):
    return density
  # An RBM is a mixture of Gaussians of unit variance.
  density = density._replace(mode_std=1.0)
  if energy.hidden > energies.MAX_HIDDEN:
    return density
  return density._replace(
    log_partition=lambda params: energies.RBM.log_partition(params['energy']),
    exact_sample=lambda params, rng, count: energies.RBM.sample(
      params['energy'], rng, count
    ),
  )


def _generates(config: Config) -> bool:
  return config.negatives in ('generator', 'mixture')


def _init(
  config: Config, rng: jax.Array, batch: Batch
) -> tuple[PyTree, PyTree]:
  energy_rng, generator_rng, chain_rng = jax.random.split(rng, 3)
  x = inputs(config, batch)[:2]
  shape = x.shape[1:]
  energy = _make_energy(config)
  params = {'energy': _init_network(energy, energy_rng, x, 'energy')}
  f = log_density(config, params, x)
  if f.shape != (x.shape[0],):
    raise ValueError(
      f'objective.energy must return f [N], shape {(x.shape[0],)} here, got '
      f'{f.shape}.'
    )
  if _generates(config):
    latent = jnp.zeros((2, config.latent_size))
    generator = _make_generator(config, shape)
    params['generator'] = _init_network(
      generator, generator_rng, latent, 'generator'
    )
    samples = generator.apply({'params': params['generator']}, latent)
    if samples.shape[1:] != shape:
      raise ValueError(
        f'objective.generator makes examples of shape {samples.shape[1:]}, but '
        f'those of the data have {shape}.'
      )
  model_state = {}
  if config.negatives in ('persistent', 'buffer'):
    model_state['chains'] = _noise(config, chain_rng, (config.chains, *shape))
  return params, model_state


class _Drawn(NamedTuple):
  """Negatives, and what follows from how they were drawn.

  Attributes:
    negatives: as many as the batch of this device, or all; without gradient.
    loss: of the generator.
    scale: of the energy's loss.
    weight: of the negatives' mean f.
    metrics: of chains and generator.
    state: the model state after the step.
  """

  negatives: jax.Array
  loss: jax.Array
  scale: Any
  weight: Any
  metrics: Metrics
  state: PyTree


def _draw_negatives(
  config: Config,
  params: PyTree,
  model_state: PyTree,
  x: jax.Array,
  rng: jax.Array,
  axis_name: str | None,
) -> _Drawn:
  """Draws the samples that stand for the model, as the config says."""
  chain_rng, latent_rng, coin_rng = jax.random.split(rng, 3)
  frozen = jax.lax.stop_gradient(params)
  drawn = _Drawn(x, jnp.zeros(()), 1.0, config.negative_weight, {}, model_state)
  if config.negatives == 'exact':
    count = len(sharded_batch.gather(x, axis_name))
    rows = energies.RBM.sample(frozen['energy'], chain_rng, count)
    drawn = drawn._replace(negatives=rows.reshape(count, *x.shape[1:]))
  elif config.negatives in CHAINS:
    data = sharded_batch.gather(x, axis_name)
    step, state = _run_chains(config, frozen, model_state, data, chain_rng)
    metrics = {
      'energy/acceptance': step.acceptance.mean(),
      'energy/temperature': step.temperature,
    }
    drawn = drawn._replace(
      negatives=step.position, metrics=metrics, state=state
    )
  if _generates(config):
    samples, loss, metrics = _generator_term(
      config, params, x.shape, latent_rng, axis_name
    )
    drawn = drawn._replace(negatives=samples, loss=loss, metrics=metrics)
  if config.negatives in ('stein', 'mixture'):
    # One step moves the particles by O(step): divided by it, the gradient does
    # not depend on the step in the limit.
    phi = _own_direction(config, frozen, x, axis_name)
    moved, scale = x + config.stein_step * phi, 1 / config.stein_step
    if _generates(config):
      coin = jax.random.bernoulli(coin_rng, config.stein_rate)
      drawn = drawn._replace(
        negatives=jnp.where(coin, moved, drawn.negatives),
        scale=jnp.where(coin, scale, 1.0),
        weight=jnp.where(coin, 1.0, drawn.weight),
      )
    else:
      drawn = drawn._replace(negatives=moved, scale=scale)
  return drawn._replace(negatives=jax.lax.stop_gradient(drawn.negatives))


def _generator_term(
  config: Config,
  params: PyTree,
  shape: tuple[int, ...],
  rng: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array, Metrics]:
  """Samples [n, ...] of the generator, its loss, and metrics of both."""
  latent = sharded_batch.per_image(
    rng, (shape[0], config.latent_size), axis_name, LATENTS[config.latent]
  )
  samples = _generate(config, params, latent, shape[1:])
  fixed, frozen = jax.lax.stop_gradient((samples, params))
  if config.contrast == 'jsd':
    name = 'generator/loss'
    f = log_density(config, frozen, samples)
    loss = adversarial.encoder_prior_loss(f)
  else:
    name = 'generator/surrogate'
    phi = _own_direction(config, frozen, fixed, axis_name)
    rows = (samples.shape[0], -1)
    loss = losses.stein_surrogate(samples.reshape(rows), phi.reshape(rows))
    loss = loss.mean()
  if axis_name is not None:
    loss = jax.lax.pmean(loss, axis_name)
  std = sharded_batch.gather(fixed, axis_name).std(0).mean()
  return fixed, loss, {name: loss, 'generator/spread': std}


def _own_direction(
  config: Config, params: PyTree, own: jax.Array, axis_name: str | None
) -> jax.Array:
  """The Stein direction of this device's particles, among all or a group."""
  energy = _make_energy(config)
  scores = score(config, params, own)
  if config.particles_of is not None:

    def direction(params: PyTree, rows: tuple[jax.Array, jax.Array]) -> Any:
      return _direction(config, energy, params, *rows)

    phi = sharded_batch.rows_of_groups(
      direction,
      params,
      (own, scores),
      size=config.particles_of,
      axis_name=axis_name,
    )
    return jax.lax.stop_gradient(phi)
  scores = sharded_batch.gather(scores, axis_name)
  particles = sharded_batch.gather(own, axis_name)
  phi = _direction(config, energy, params, particles, scores)
  if axis_name is not None:
    start = jax.lax.axis_index(axis_name) * own.shape[0]
    phi = jax.lax.dynamic_slice_in_dim(phi, start, own.shape[0])
  return jax.lax.stop_gradient(phi)


def log_density(config: Config, params: PyTree, x: jax.Array) -> jax.Array:
  """f, the logarithm of the unnormalised density, in nats.

  Args:
    config: the run's objective.
    params: its parameters.
    x: points [N, D], or images [N, H, W, C] with pixels in
      `config.input_range`.

  Returns:
    Shape [N].
  """
  variables = {'params': params['energy']}
  return _make_energy(config).apply(variables, x).astype(jnp.float32)


def score(config: Config, params: PyTree, x: jax.Array) -> jax.Array:
  """The gradient of `log_density` at each x, of the shape of x."""
  return jax.grad(lambda x: log_density(config, params, x).sum())(x)


def sample(
  config: Config,
  params: PyTree,
  model_state: PyTree,
  rng: jax.Array,
  count: int,
  shape: tuple[int, ...],
  *,
  steps: int | None = None,
) -> jax.Array:
  """Samples of the model, as its negatives are made.

  Those of a generator where there is one; exact ones where training was; of the
  kept chains, or else of chains from noise.

  Args:
    config: the run's objective.
    params: its parameters.
    model_state: its chains.
    rng: a key.
    count: how many.
    shape: of an example, (D,) or (H, W, C).
    steps: transitions of the chains, from where they are; config.steps if
      None. Nothing else has steps.

  Returns:
    [count, *shape], images with pixels about `config.input_range` (those of
    chains may lie outside).

  Raises:
    ValueError: more samples than chains are kept.
  """
  start_rng, chain_rng = jax.random.split(rng)
  if config.negatives in ('generator', 'mixture'):
    latent = LATENTS[config.latent](start_rng, (count, config.latent_size))
    return _generate(config, params, latent, shape)
  if config.negatives == 'exact':
    rows = energies.RBM.sample(params['energy'], start_rng, count)
    return rows.reshape(count, *shape)
  if config.negatives in ('persistent', 'buffer'):
    if count > config.chains:
      raise ValueError(
        f'{count} samples were asked for, but objective.chains keeps '
        f'{config.chains}.'
      )
    chosen = jax.random.permutation(start_rng, config.chains)[:count]
    x = model_state['chains'][chosen]
  else:
    x = _noise(config, start_rng, (count, *shape))
  steps = config.steps if steps is None else steps
  if not steps:
    return x
  transition = _transition(config, params)
  return samplers.run_chain(chain_rng, x, transition, steps).position


def _sample_as_trained(
  config: Config,
  variables: PyTree,
  rng: jax.Array,
  count: int,
  shape: tuple[int, ...],
  steps: int,
) -> jax.Array:
  """`sample` of at most the kept chains, with `steps` from noise to data."""
  if config.negatives in ('persistent', 'buffer'):
    count = min(count, config.chains)
  starts_at_data = config.negatives in ('cd', 'stein')
  params, model_state = variables
  kept = steps if starts_at_data else None
  return sample(config, params, model_state, rng, count, shape, steps=kept)


def _make_energy(config: Config) -> nn.Module:
  if config.energy == 'mlp':
    return energies.MLPEnergy(units=config.units)
  if config.energy == 'rbm':
    return energies.RBM(hidden=config.hidden)
  if config.energy == 'autoencoder':
    return energies.AutoencoderEnergy()
  if config.energy == 'conv':
    return energies.ConvEnergy()
  return config.energy


def _make_generator(config: Config, shape: tuple[int, ...]) -> nn.Module:
  if config.generator == 'mlp':
    return generators.MLPGenerator(shape, units=config.generator_units)
  if config.generator == 'conv':
    return generators.ConvGenerator(shape)
  return config.generator


def _init_network(
  module: nn.Module, rng: jax.Array, x: jax.Array, field: str
) -> PyTree:
  variables = dict(module.init(rng, x))
  params = variables.pop('params', {})
  if variables:
    raise ValueError(
      f'objective.{field} must keep parameters alone, as its value at one '
      f'example may not depend on others; got the collections '
      f'{sorted(variables)}.'
    )
  return params


def inputs(config: Config, batch: Batch) -> jax.Array:
  """What the energy sees of a batch.

  Args:
    config: the run's objective.
    batch: 'point' [N, D], or 'image' [N, H, W, C], uint8 or in [-1, 1].

  Returns:
    Points as they are, or images with pixels in `config.input_range`; float32.

  Raises:
    ValueError: the batch has neither.
  """
  if 'point' in batch:
    return batch['point'].astype(jnp.float32)
  if 'image' not in batch:
    raise ValueError(
      "an energy model takes batches of 'point' [N, D] or 'image' [N, H, W, "
      f'C], got {sorted(batch)}.'
    )
  return _rescale(config, layers.normalise_images(batch['image']))


def _rescale(config: Config, images: jax.Array) -> jax.Array:
  """Images in [-1, 1] to `input_range`."""
  low, high = config.input_range
  if (low, high) == (-1, 1):
    return images
  return low + (images + 1) * (0.5 * (high - low))


def _noise(config: Config, rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  if config.start == 'normal':
    return jax.random.normal(rng, shape)
  low, high = config.input_range
  return jax.random.uniform(rng, shape, minval=low, maxval=high)


def _has_features(energy: nn.Module) -> bool:
  # Of a dense layer they are a number.
  return callable(getattr(energy, 'features', None))


def _features(energy: nn.Module, params: PyTree, x: jax.Array) -> jax.Array:
  return energy.apply({'params': params['energy']}, x, method='features')


def _generate(
  config: Config, params: PyTree, latent: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  generator = _make_generator(config, shape)
  x = generator.apply({'params': params['generator']}, latent)
  x = x.astype(jnp.float32)
  return _rescale(config, x) if len(shape) == 3 else x


def _transition(
  config: Config, params: PyTree
) -> Callable[[jax.Array, jax.Array], samplers.Step]:
  """One step of every chain, `(rng, x) -> Step`."""
  f = functools.partial(log_density, config, params)

  def step(rng: jax.Array, x: jax.Array) -> samplers.Step:
    if config.transition == 'langevin':
      return samplers.langevin(rng, x, f, config.step_size, config.noise)
    if config.transition == 'mala':
      return samplers.mala(rng, x, f, config.step_size)
    if config.transition == 'hmc':
      return samplers.hmc(rng, x, f, config.step_size, config.leapfrogs)
    moved = energies.RBM.gibbs(params['energy'], rng, x)
    return samplers.Step(moved, jnp.ones(x.shape[0]), jnp.ones(()))

  return step


def _run_chains(
  config: Config,
  params: PyTree,
  model_state: PyTree,
  data: jax.Array,
  rng: jax.Array,
) -> tuple[samplers.Step, PyTree]:
  """All chains, from where the config has them start; and the new state."""
  start_rng, choice_rng, restart_rng, chain_rng = jax.random.split(rng, 4)
  count = data.shape[0]
  chosen = None
  if config.negatives == 'cd':
    x = data
  elif config.negatives == 'short_run':
    x = _noise(config, start_rng, data.shape)
  elif config.negatives == 'persistent':
    x = model_state['chains']
  else:
    if count > config.chains:
      raise ValueError(
        f'objective.chains is {config.chains}: a buffer holds at least the '
        f'batch, {count} here.'
      )
    # Each at most once, so that no two results are written to one place.
    chosen = jax.random.permutation(choice_rng, config.chains)[:count]
    fresh = jax.random.bernoulli(restart_rng, config.restarts, (count,))
    x = jnp.where(
      fresh.reshape(-1, *(1 for _ in data.shape[1:])),
      _noise(config, start_rng, data.shape),
      model_state['chains'][chosen],
    )
  step = samplers.run_chain(
    chain_rng, x, _transition(config, params), config.steps
  )
  step = jax.lax.stop_gradient(step)
  if config.negatives == 'persistent':
    model_state = model_state | {'chains': step.position}
  elif config.negatives == 'buffer':
    chains = model_state['chains'].at[chosen].set(step.position)
    model_state = model_state | {'chains': chains}
  return step, model_state


def _direction(
  config: Config,
  energy: nn.Module,
  params: PyTree,
  particles: jax.Array,
  scores: jax.Array,
) -> jax.Array:
  """The direction that each particle moves in, of the shape of particles."""
  if config.repulsion == 'none':
    return scores
  alone = config.repulsion == 'nearest' or not config.self_term
  if particles.shape[0] < 2 and alone:
    raise ValueError(
      'a Stein direction compares the examples of a batch with each other: '
      'batch_size must be >= 2, got 1. (One is enough for '
      "objective.repulsion='none', or 'all' with self_term=True.)"
    )

  def compared(x: jax.Array) -> jax.Array:
    if config.kernel == 'features':
      return _features(energy, params, x)
    return x.reshape(x.shape[0], -1)

  bandwidth: Any = config.bandwidth
  if isinstance(bandwidth, str):
    bandwidth = losses.BANDWIDTHS[bandwidth](compared(particles))
  if config.kernel == 'features' or config.repulsion == 'nearest':
    return losses.feature_direction(
      compared,
      particles,
      scores,
      bandwidth,
      config.self_term,
      repulsion=config.repulsion,
      normalisation=config.normalisation,
    )
  rows = losses.svgd_direction(
    compared(particles),
    compared(scores),
    bandwidth,
    config.self_term,
    normalisation=config.normalisation,
  )
  return rows.reshape(particles.shape)
