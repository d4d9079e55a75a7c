"""Autoencoders as a sum of isolated terms, and what they offer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen as nn

from dim_jax.config import OptimizerConfig
from dim_jax.losses import priors
from dim_jax.networks import decoders, encoders
from dim_jax.networks.convolutional import ConvEncoder, ConvLayer
from dim_jax.objectives import autoencoder, dim
from dim_jax.objectives.autoencoder import Prior
from dim_jax.objectives.terms import prior_matching
from dim_jax.training import step as step_lib
from tests import small

CODE = 3


class OwnEncoder(nn.Module):
  """A dense layer and batch statistics, with a code and perhaps its width."""

  stochastic: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(6)(images.reshape(images.shape[0], -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
    features = {'fc': x, 'y': nn.Dense(CODE)(x)}
    if self.stochastic:
      features['log_variance'] = nn.Dense(CODE)(x)
    return features


def make_config(prior=None, **fields):
  stochastic = bool(prior and prior.weight and prior.distribution == 'kl')
  return autoencoder.Config(
    **{
      'encoder': OwnEncoder(stochastic),
      'code': CODE,
      'prior': prior,
      'decoder_channels': 4,
      'num_classes': 3,
    }
    | fields
  )


@functools.cache
def solve(distribution=None, weight=0.5, classes=3):
  """Loss, metrics and gradients of a prior; parameters are alike by name."""
  prior = distribution and Prior(
    distribution=distribution, weight=weight, adversary_units=(5,)
  )
  objective = autoencoder.make(make_config(prior or None, num_classes=classes))
  batch = small.images()
  variables = draw(objective, batch)
  (loss, (metrics, _)), grads = small.gradients(objective, variables, batch)
  return loss, metrics, grads, variables


def draw(objective, batch):
  """Variables of which each leaf depends on its path and shape alone."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = jax.eval_shape(objective.init, key, batch)

  def values(path, x):
    seed = sum(jax.tree_util.keystr(path).encode())
    rng = np.random.default_rng(seed)
    if x.ndim < 2:
      return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
    size = np.sqrt(np.prod(x.shape[:-1]))
    return jnp.asarray(rng.normal(size=x.shape) / size, x.dtype)

  return jax.tree_util.tree_map_with_path(values, shapes)


def reconstruct(variables, noise=0.0):
  """Features and reconstructions of the batch in training, by hand."""
  params, state = variables
  images = small.images()['image'] / np.float32(127.5) - 1
  features, _ = OwnEncoder('Dense_2' in params['encoder']).apply(
    {'params': params['encoder'], **state['encoder']},
    images,
    train=True,
    mutable=['batch_stats'],
  )
  code = features['y']
  if 'log_variance' in features:
    code += jnp.exp(features['log_variance'] / 2) * noise
  outputs, _ = decoders.ConvDecoder((8, 8, 1), 4).apply(
    {'params': params['decoder'], **state['decoder']},
    code,
    train=True,
    mutable=['batch_stats'],
  )
  return features, images, outputs


def test_loss_of_the_plain_one_is_a_density_of_what_it_reconstructs():
  loss, metrics, _, variables = solve(classes=0)
  _, images, outputs = reconstruct(variables)
  logs = scipy.stats.norm.logpdf(images, outputs, np.sqrt(0.5))
  np.testing.assert_allclose(loss, -logs.sum((1, 2, 3)).mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics['decoder/distortion'], loss)
  np.testing.assert_allclose(
    metrics['decoder/squared_error'],
    np.square(images - outputs).mean(),
    rtol=1e-5,
  )


@pytest.mark.parametrize('distribution', ['kl', 'uniform'])
def test_without_weight_it_is_the_plain_one(distribution):
  small.assert_same(solve(distribution, 0.0)[:3], solve()[:3], 0)


def test_rate_and_bound_are_those_of_the_sampled_code():
  loss, metrics, _, variables = solve('kl', 0.5, classes=0)
  rng = jax.random.split(jax.random.wrap_key_data(small.KEY), 4)[0]
  features, images, outputs = reconstruct(
    variables, jax.random.normal(rng, (8, CODE))
  )
  mean, log_variance = features['y'], features['log_variance']
  kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(1).mean()
  logs = scipy.stats.norm.logpdf(images, outputs, np.sqrt(0.5))
  distortion = -logs.sum((1, 2, 3)).mean()
  np.testing.assert_allclose(metrics['prior/kl'], kl, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['decoder/distortion'], distortion, rtol=1e-5
  )
  np.testing.assert_allclose(loss, distortion + 0.5 * kl, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['decoder/elbo'], -distortion - kl, rtol=1e-5
  )


def test_adversarial_term_is_that_of_deep_infomax():
  _, metrics, grads, (params, state) = solve('uniform', 0.5)
  config = dim.Config(
    encoder=OwnEncoder(),
    prior=Prior(weight=0.5, adversary_units=(5,)),
    local_feature='fc',
    map_feature='fc',
    critic_units=4,
    num_classes=0,
  )
  objective = dim.make(config)
  theirs, their_state = draw(objective, small.images())
  shared = {name: params[name] for name in ('encoder', 'adversary')}
  variables = theirs | shared, their_state | {'encoder': state['encoder']}
  (_, (expected, _)), their_grads = small.gradients(
    objective, variables, small.images()
  )
  for name in ('adversary', 'encoder', 'gradient_penalty'):
    np.testing.assert_allclose(
      metrics[f'prior/{name}'], expected[f'prior/{name}'], rtol=1e-6
    )
  small.assert_same(grads['adversary'], their_grads['adversary'])


def test_each_group_feels_its_own_terms_alone():
  one, two = (solve('uniform', weight)[2] for weight in (0.5, 1.0))
  plain = solve()[2]
  # The decoder and the probe feel no prior, and the adversary no weight.
  for name in ('decoder', 'probe'):
    small.assert_same(two[name], plain[name])
  small.assert_same(two['adversary'], one['adversary'])
  # The encoder's gradient is a line in the weight: it has the encoder's loss,
  # and not the adversary's, which has no weight.
  step = jax.tree.map(np.subtract, two['encoder'], one['encoder'])
  small.assert_same(
    jax.tree.map(np.subtract, one['encoder'], plain['encoder']), step
  )
  assert max(np.abs(x).max() for x in jax.tree.leaves(step)) > 1e-4
  # The probe moves nothing else.
  bare = solve(classes=0)[2]
  for name in ('encoder', 'decoder'):
    small.assert_same(plain[name], bare[name])
  assert np.abs(plain['probe']['y']['kernel']).max() > 0


def test_devices_share_a_batch_and_its_statistics():
  def make(axis_name=None):
    convs = (ConvLayer(4, 4, 2, 1),)
    encoder = ConvEncoder(8, convs, (5,), 0, code=CODE, stochastic=True)
    prior = Prior(distribution='kl', weight=0.5)
    config = make_config(prior, encoder=encoder, decoder_channels=None)
    return autoencoder.make(config, axis_name=axis_name)

  batch = small.images(n=16)
  # SGD: Adam turns the rounding noise of a zero gradient into full steps.
  optimizer = optax.sgd(1e-3)
  params, model_state = draw(make(), batch)
  fresh = step_lib.TrainState(
    jnp.zeros((), jnp.int32),
    params,
    model_state,
    optimizer.init(params),
    jax.random.wrap_key_data(small.KEY),
  )
  forms = small.in_all_forms(make, fresh, optimizer, batch)
  for name in ('jit', 'pmap'):
    small.assert_same(forms[name], forms['one'], 2e-5)


def test_generator_decodes_with_running_statistics():
  objective = autoencoder.make(make_config())
  variables = solve()[3]
  codes = np.random.default_rng(0).normal(size=(4, CODE)).astype(np.float32)
  images = jax.jit(objective.generator.images)(variables, codes)
  params, state = variables
  expected = decoders.ConvDecoder((8, 8, 1), 4).apply(
    {'params': params['decoder'], **state['decoder']}, codes, train=False
  )
  np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)
  assert objective.generator.codes is None


@pytest.mark.parametrize(
  ('distribution', 'match'),
  [
    # The adversary sees the sigmoid of the codes.
    ('uniform', scipy.stats.logistic),
    ('gaussian', scipy.stats.norm),
    ('kl', scipy.stats.norm),
  ],
)
def test_generator_draws_codes_as_the_encoder_returns_them(distribution, match):
  prior = Prior(distribution=distribution, weight=1.0)
  draw_codes = autoencoder.make(make_config(prior)).generator.codes
  codes = draw_codes(jax.random.wrap_key_data(small.KEY), 400)
  assert codes.shape == (400, CODE)
  assert scipy.stats.kstest(np.ravel(codes), match.cdf).pvalue > 0.01


def test_codes_of_the_ends_of_the_uniform_prior_are_finite(monkeypatch):
  ends = jnp.asarray([[0.0, 0.5, 1 - 2.0**-24]])
  monkeypatch.setattr(priors, 'sample_prior', lambda *_: ends)
  codes = prior_matching.draw_codes(Prior(), jax.random.key(0), (1, 3))
  assert np.isfinite(codes).all()
  np.testing.assert_allclose(jax.nn.sigmoid(codes), ends, atol=1e-6)


def test_variational_one_offers_its_codes_gaussians_and_their_rate():
  objective = autoencoder.make(
    make_config(Prior(distribution='kl', weight=1.0))
  )
  variables, batch = solve('kl')[3], small.images()
  features = objective.encode(*variables, batch)
  mean, std, log_std = objective.posterior(variables, batch)
  np.testing.assert_array_equal(mean, features['y'])
  np.testing.assert_allclose(std**2, jnp.exp(features['log_variance']), 1e-5)
  np.testing.assert_allclose(jnp.exp(log_std), std, rtol=1e-5)
  kl = 0.5 * (mean**2 + std**2 - 1 - 2 * log_std).sum(1)
  rate = objective.rate(variables, batch, jax.random.key(0), 1)
  np.testing.assert_allclose(rate, kl, rtol=1e-5)
  for prior in (None, Prior(), Prior(distribution='kl', weight=0.0)):
    assert autoencoder.make(make_config(prior)).rate is None


@pytest.mark.parametrize(
  ('prior', 'title'),
  [
    (None, 'AE'),
    (Prior(distribution='kl', weight=0.0), 'AE'),
    (Prior(distribution='kl', weight=1.0), 'VAE'),
    (Prior(distribution='kl', weight=4.0), 'beta-VAE'),
    (Prior(distribution='kl', weight=1.0, budget=5.0), 'beta-VAE'),
    (Prior(distribution='uniform'), 'AAE'),
    (Prior(distribution='gaussian', divergence='wgan_gp'), 'AAE'),
    (Prior(distribution='gaussian', divergence='mmd'), 'WAE'),
  ],
)
def test_title_says_what_the_prior_makes_of_it(prior, title):
  assert autoencoder.Config(prior=prior).title == title


def shapes(config, size, channels=3):
  """Shapes of what a step returns, and of three generated images."""
  objective = autoencoder.make(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  batch = {'image': jax.ShapeDtypeStruct((4, size, size, channels), np.uint8)}
  variables = jax.eval_shape(objective.init, key, batch)
  outputs = jax.eval_shape(objective.loss, *variables, batch, key)
  codes = jax.ShapeDtypeStruct((3, config.code), np.float32)
  images = jax.eval_shape(objective.generator.images, variables, codes)
  return variables, outputs, images


@pytest.mark.parametrize('distribution', ['kl', 'uniform'])
@pytest.mark.parametrize(
  ('name', 'first'),
  [
    ('basic28', 7 * 7 * 128),
    ('basic32', 4 * 4 * 256),
    ('basic64', 4 * 4 * 512),
    ('alex64', 4 * 4 * 192),
    ('small32', 4 * 4 * 128),
  ],
)
def test_decoder_mirrors_a_named_encoder(name, first, distribution):
  config = autoencoder.Config(
    encoder=name,
    prior=Prior(distribution=distribution),
    dtype='bfloat16' if name == 'small32' else 'float32',
  )
  size = encoders.ENCODERS[name]['image_size']
  (params, state), (loss, (_, after)), images = shapes(config, size)
  # Its first map has the channels of the encoder's last one.
  assert params['decoder']['input']['kernel'].shape == (64, first)
  assert after.keys() == state.keys()
  assert images.shape == (3, size, size, 3)
  assert loss.dtype == images.dtype == jnp.float32


def test_what_a_decoder_cannot_take_or_make():
  with pytest.raises(ValueError, match=r"'y' \[N, K\], but .*'globals'"):
    shapes(autoencoder.Config(encoder='foldmultialex64'), 64)
  with pytest.raises(ValueError, match=r'set objective\.code=3'):
    shapes(make_config(code=64), 8)
  with pytest.raises(
    ValueError, match=r'20, 24, 28, .*got shape \(30, 30, 3\)'
  ):
    shapes(make_config(), 30)
  with pytest.raises(ValueError, match=r"decoder_channels .*'conv'.*'fc', 'y'"):
    shapes(make_config(decoder_channels=None), 8)
  with pytest.raises(ValueError, match=r"'log_variance'; got \['fc', 'y'\]"):
    config = make_config(Prior(distribution='kl'), encoder=OwnEncoder())
    shapes(config, 8)


def test_a_wasserstein_adversary_must_be_bounded():
  config = make_config(Prior(divergence='wgan'))
  with pytest.raises(ValueError, match=r'clip_weights=0\.01'):
    autoencoder.check_optimizers(config, {}, OptimizerConfig())
  clipped = {'adversary': OptimizerConfig(clip_weights=0.01)}
  autoencoder.check_optimizers(config, clipped, OptimizerConfig())
