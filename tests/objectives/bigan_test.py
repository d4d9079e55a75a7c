"""BiGAN: its optimum on tables, its terms, and who learns from which."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special, stats

from dim_jax import config as config_lib
from dim_jax.config import ExperimentConfig, OptimizerConfig
from dim_jax.losses import adversarial, priors
from dim_jax.networks import critics, decoders, layers
from dim_jax.networks.convolutional import ConvLayer
from dim_jax.objectives import bigan
from tests import small

LOG_2 = math.log(2)
N, CODE = 16, 5


class OwnEncoder(nn.Module):
  """A user's module, with statistics of the batch."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, train=False):
    x = layers.Dense(6, name='fc')(images.reshape(images.shape[0], -1))
    x = layers.normalise(x, train=train, axis_name=self.axis_name)
    fc = nn.relu(x)
    return {'fc': fc, 'y': layers.Dense(CODE, name='y')(fc)}


def make(axis_name=None, **changes):
  fields = {
    'encoder': OwnEncoder(),
    'code': CODE,
    'generator_channels': 4,
    'discriminator_units': (6,),
    'num_classes': 3,
    'gradient_penalty': 1.0,
  }
  return bigan.make(bigan.Config(**(fields | changes)), axis_name=axis_name)


def logarithm_of(table):
  """ln of counts, -30 for none."""
  return np.log(np.maximum(table, math.exp(-30)))


def jsd(p, q):
  """Of two tables, in nats."""
  m = (p + q) / 2
  return (special.rel_entr(p, m) + special.rel_entr(q, m)).sum() / 2


def losses_of(scores, generated, encoded):
  """The three losses of a table of scores, and tables of counts."""
  losses = adversarial.ADVERSARIAL['jsd']
  rows = [
    scores.reshape(-1)[np.repeat(np.arange(counts.size), counts.reshape(-1))]
    for counts in (generated, encoded)
  ]
  return losses.critic_loss(*rows), (
    losses.encoder_loss(*rows),
    losses.generator_loss(*rows),
  )


def test_the_best_discriminator_of_two_tables_is_their_log_ratio():
  # Counts of (x, z): pairs that are generated, and those that are encoded.
  generated = np.array([[3, 1, 2], [1, 4, 1], [2, 1, 5], [2, 2, 1]])
  encoded = np.array([[1, 2, 2], [3, 1, 1], [1, 1, 2], [4, 1, 1]])
  p, q = generated / generated.sum(), encoded / encoded.sum()

  def loss(scores):
    return losses_of(scores, generated, encoded)[0]

  slope = jax.jit(jax.grad(loss))
  scores = np.zeros(p.shape)
  for _ in range(8):
    # Newton's method: each score is by itself, and the loss convex in it, with
    # the second derivative (p + q) s (1 - s) of s = 1 / (1 + exp(-score)).
    s = special.expit(scores)
    scores -= np.asarray(slope(scores), np.float64) / ((p + q) * s * (1 - s))
  np.testing.assert_allclose(scores, np.log(p / q), atol=1e-5)
  np.testing.assert_allclose(loss(scores), -2 * jsd(p, q), rtol=1e-5)


@pytest.mark.parametrize(
  ('encoder', 'divergence'),
  # E[x] is the code of image x, and 3 codes the images 2, 0 and 1. Where the
  # encoder is right of one image in three, two thirds of the mass are apart.
  [((1, 2, 0), 0.0), ((0, 2, 1), 2 / 3 * LOG_2)],
)
def test_inverse_networks_alone_reach_the_largest_loss(encoder, divergence):
  generator = (2, 0, 1)
  generated = np.zeros((3, 3), int)
  generated[generator, np.arange(3)] = 1
  encoded = np.zeros((3, 3), int)
  encoded[np.arange(3), encoder] = 1
  np.testing.assert_allclose(jsd(generated / 3, encoded / 3), divergence)
  scores = logarithm_of(generated) - logarithm_of(encoded)
  value, others = losses_of(jnp.asarray(scores), generated, encoded)
  np.testing.assert_allclose(value, -2 * divergence, atol=1e-6)
  if not divergence:
    np.testing.assert_allclose(others, LOG_2, rtol=1e-6)


@pytest.fixture(scope='module')
def terms():
  """Variables, batch, metrics, their gradients by group, and the new state."""
  objective = make()
  batch = small.images(N)
  variables = small.start(objective, batch)
  key = jax.random.wrap_key_data(small.KEY)

  def metrics(params):
    total, (values, state) = objective.loss(params, variables[1], batch, key)
    values = {k: v for k, v in values.items() if 'accuracy' not in k}
    return values | {'total': total}, state

  @jax.jit
  def both(params):
    return metrics(params), jax.jacrev(metrics, has_aux=True)(params)[0]

  (values, state), gradients = both(variables[0])
  return jax.device_get((variables, batch, values, gradients, state))


def test_each_group_learns_from_its_own_loss_alone(terms):
  (params, _), _, values, gradients, _ = terms
  own = {
    'encoder': {'bigan/encoder'},
    'generator': {'bigan/generator'},
    'discriminator': {'bigan/discriminator', 'bigan/gradient_penalty'},
    'probe': {f'probe/{k}_loss' for k in ('fc', 'y')},
  }
  assert set(params) == set(own)
  assert set(values) == {'total'}.union(*own.values())
  # All weights are 1.
  expected = sum(value for k, value in values.items() if k != 'total')
  np.testing.assert_allclose(values['total'], expected, rtol=1e-5)
  for group, names in own.items():
    for metric, of_metric in gradients.items():
      largest = max(np.abs(g).max() for g in jax.tree.leaves(of_metric[group]))
      if metric in names | {'total'}:
        assert 1e-6 < largest < math.inf, (group, metric)
      else:
        assert largest == 0, (group, metric)


def test_terms_are_the_losses_of_the_scores_of_pairs(terms):
  (params, model_state), batch, values, gradients, _ = terms
  images = jnp.asarray(batch['image'] / 127.5 - 1, jnp.float32)
  rng = jax.random.split(jax.random.wrap_key_data(small.KEY), 4)[3]
  z = 2 * priors.sample_prior(rng, 'uniform', (N, CODE)) - 1
  # 8x8 images are halved once, to the 4x4 map that the generator starts from.
  discriminator = critics.PairAdversary((ConvLayer(4, 4, 2, 1),), (6,))
  frozen = {'params': params['discriminator']}

  def train(module, group, x, params):
    return module.apply(
      {'params': params, **model_state[group]},
      x,
      train=True,
      mutable=['batch_stats'],
    )[0]

  def encoded(params):
    y = train(OwnEncoder(), 'encoder', images, params)['y']
    return discriminator.apply(frozen, images, jnp.tanh(y / 2))

  def generated(params):
    decoder = decoders.ConvDecoder((8, 8, 1), 4)
    x = train(decoder, 'generator', z, params)
    return discriminator.apply(frozen, x, z)

  @jax.jit
  def expect(params):
    g, of_encoder = jax.vjp(encoded, params['encoder'])
    r, of_generator = jax.vjp(generated, params['generator'])
    losses = {
      'discriminator': jax.nn.softplus(-r) + jax.nn.softplus(g) - 2 * LOG_2,
      'encoder': jax.nn.softplus(-g),
      'generator': jax.nn.softplus(r),
    }
    return jax.tree.map(jnp.mean, losses), {
      'encoder': of_encoder(-jax.nn.sigmoid(-g) / N)[0],
      'generator': of_generator(jax.nn.sigmoid(r) / N)[0],
    }

  expected, slopes = jax.device_get(expect(params))
  for metric, value in expected.items():
    np.testing.assert_allclose(
      values[f'bigan/{metric}'], value, rtol=1e-4, atol=1e-6
    )
  for group, slope in slopes.items():
    small.assert_same(gradients['total'][group], slope, 1e-4)


def test_batch_statistics_are_those_of_whole_batches(terms):
  (_, before), _, _, _, after = terms
  assert jax.tree.structure(before) == jax.tree.structure(after)
  for group in ('encoder', 'generator'):
    moved = jax.tree.map(
      lambda a, b: np.abs(a - b).max(), before[group], after[group]
    )
    assert min(jax.tree.leaves(moved)) > 0, group


def test_spectral_norms_move_once_a_step():
  objective = make(divergence='hinge')
  batch = small.images(N)
  (params, state) = small.start(objective, batch)
  key = jax.random.wrap_key_data(small.KEY)
  _, (_, after) = jax.jit(objective.loss)(params, state, batch, key)
  kernel = np.asarray(params['discriminator']['conv_0']['kernel'])
  matrix = kernel.reshape(-1, kernel.shape[-1])
  before, moved = (
    x['discriminator']['batch_stats']['SpectralNorm_0']['conv_0/kernel/u'][0]
    for x in (state, after)
  )
  # One step of the power method, of the kernel as a matrix [H W C, D].
  u = matrix.T @ (matrix @ np.asarray(before))
  np.testing.assert_allclose(moved, u / np.linalg.norm(u), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('divergence', ['jsd', 'wgan_gp'])
def test_one_device_is_eight(divergence):
  batch = small.images(N)
  one = make(divergence=divergence)
  variables = small.start(one, batch)
  (loss, (metrics, state)), gradients = small.gradients(one, variables, batch)
  eight = make('data', divergence=divergence)

  @functools.partial(jax.pmap, axis_name='data', in_axes=(None, None, 0))
  def on_eight(params, model_state, batch):
    key = jax.random.wrap_key_data(small.KEY)
    results = jax.value_and_grad(eight.loss, has_aux=True)(
      params, model_state, batch, key
    )
    # As a step takes it, the gradient is the devices' mean.
    return results[0], jax.lax.pmean(results[1], 'data')

  parts = {k: v.reshape(8, N // 8, *v.shape[1:]) for k, v in batch.items()}
  results = on_eight(*variables, parts)
  expected = (loss, (metrics, state)), gradients
  results = jax.tree.map(np.asarray, results)
  for device in (0, 7):
    part = jax.tree.map(operator.itemgetter(device), results)
    small.assert_same(part, expected)


@pytest.mark.parametrize('prior', priors.PRIORS)
def test_codes_of_the_generator_are_the_priors(prior):
  codes = np.asarray(make(prior=prior).generator.codes(jax.random.key(3), 400))
  assert codes.shape == (400, CODE)
  assert np.isfinite(codes).all()
  radius = np.linalg.norm(codes, axis=1)
  if prior == 'uniform':
    # What the generator and the discriminator see is uniform on (-1, 1).
    values, law = np.tanh(codes / 2).reshape(-1), stats.uniform(-1, 2)
  elif prior == 'gaussian':
    values, law = codes.reshape(-1), stats.norm()
  elif prior == 'ball':
    values, law = radius**CODE, stats.uniform()
  else:
    np.testing.assert_allclose(radius, 1, rtol=1e-5)
    return
  assert stats.kstest(values, law.cdf).pvalue > 0.01


def test_generator_makes_images_of_encoded_ones(terms):
  variables, batch, *_ = terms
  objective = make()

  @jax.jit
  def reconstruct(variables):
    y = objective.encode(*variables, batch)['y']
    return y, objective.generator.images(variables, y)

  y, images = reconstruct(variables)
  params, model_state = variables
  # By running statistics.
  decoder = decoders.ConvDecoder((8, 8, 1), 4)
  expected = jax.jit(functools.partial(decoder.apply, train=False))(
    {'params': params['generator'], **model_state['generator']}, jnp.tanh(y / 2)
  )
  np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'channels', 'units'),
  [
    ('basic32', 256, (1024,)),
    ('basic64', 512, (1024,)),
    ('alex64', 192, (4096, 4096)),
    ('small32', 128, (256,)),
  ],
)
def test_named_encoders_are_mirrored(name, channels, units):
  objective = bigan.make(bigan.Config(encoder=name))
  size = int(name[-2:])
  batch = {
    'image': jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((2,), jnp.int32),
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = jax.eval_shape(objective.init, key, batch)
  loss, (metrics, state) = jax.eval_shape(
    objective.loss, *variables, batch, key
  )
  assert 'bigan/gradient_penalty' not in metrics
  assert loss.shape == ()
  assert jax.tree.structure(state) == jax.tree.structure(variables[1])
  params = variables[0]
  assert params['generator']['input']['kernel'].shape == (64, 16 * channels)
  pairs = params['discriminator']['pairs']
  hidden = [pairs[f'fc_{i}']['bias'].shape[0] for i in range(len(units))]
  assert tuple(hidden) == units
  for i in range(sum(k.startswith('conv_') for k in params['discriminator'])):
    kernels = [
      params[group][f'conv_{i}']['kernel'].shape
      for group in ('encoder', 'discriminator')
    ]
    assert kernels[0] == kernels[1]
  # The code joins the last map.
  flat = params['encoder']['fc_0']['kernel'].shape[0]
  assert pairs['fc_0']['kernel'].shape == (flat + 64, units[0])
  codes = jax.ShapeDtypeStruct((3, 64), jnp.float32)
  images = jax.eval_shape(objective.generator.images, variables, codes)
  assert images.shape == (3, size, size, 3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'divergence': 'gan'}, "objective.divergence must be one of 'jsd', "),
    ({'prior': 'kl'}, "objective.prior must be one of 'uniform', "),
    ({'code': 0}, 'objective.code must be a whole number >= 1'),
    ({'discriminator_units': ()}, 'must hold at least 1 size'),
    ({'discriminator_norm': 'batch'}, 'discriminator_norm must be one of None'),
    (
      {'discriminator_norm': 'group', 'divergence': 'hinge'},
      'set discriminator_norm=None, or spectral_norm=False',
    ),
    ({'encoder': 'basic'}, 'objective.encoder must be a Flax module or one of'),
  ],
)
def test_fields_that_cannot_be_used(changes, message):
  with pytest.raises(ValueError, match=message):
    make(**changes)


@pytest.mark.parametrize(
  ('changes', 'size', 'message'),
  [
    ({}, 9, r'square images of .* got shape \(9, 9, 1\)'),
    ({'generator_channels': None}, 8, "those of the feature 'conv'"),
    ({'code': 7}, 8, 'has 5 dimensions, but objective.code is 7: set'),
    (
      {'encoder': 'foldmultialex64'},
      64,
      r"decoded of a vector, the feature 'y' \[N, K\], but .*'globals'",
    ),
  ],
)
def test_encoders_and_images_that_do_not_fit(changes, size, message):
  objective = make(**changes)
  key = jax.eval_shape(lambda: jax.random.key(0))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(objective.init, key, small.images(size=size))


def test_a_wasserstein_discriminator_must_be_bounded():
  config = ExperimentConfig(objective=bigan.Config(divergence='wgan'))
  with pytest.raises(ValueError, match=r"groups\['discriminator'\] to an"):
    config_lib.check(config)
  config.groups['discriminator'] = OptimizerConfig(clip_weights=0.01)
  config_lib.check(config)
  config.groups.clear()
  config.objective.spectral_norm = True
  config_lib.check(config)
