"""Su's variant: Gaussian codes, pairs of codes, one negative each."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dim_jax.objectives import dim
from dim_jax.training import step as step_lib
from tests import small
from tests.small import dim_config

N, D = 6, 3
BATCH = small.images(N, size=4)
KEY = jax.random.wrap_key_data(small.KEY)


class Encoder(nn.Module):
  """A dense layer a pixel, and a Gaussian code of all of them."""

  @nn.compact
  def __call__(self, images, train=False):
    local = nn.relu(nn.Dense(5)(images))
    fc = nn.relu(nn.Dense(7)(local.reshape(local.shape[0], -1)))
    return {
      'local': local,
      'conv': local,
      'fc': fc,
      'y': nn.Dense(D)(fc),
      'log_variance': nn.Dense(D)(fc),
    }


def make_config(**changes):
  defaults = {
    'encoder': Encoder(),
    'bound': 'jsd',
    'local_weight': 1.5,
    'global_weight': 0.5,
    'prior__distribution': 'kl',
    'prior__weight': 0.01 / D,
    'map_feature': 'y',
    'critic': 'concat',
    'critic_units': 8,
    'global_critic_units': 4,
    'concat_depth': 3,
    'negatives_of': 2,
    'num_classes': 0,
  }
  return dim_config(**(defaults | changes))


@functools.cache
def start():
  return small.start(dim.make(make_config()), BATCH)


def gradients(**changes):
  objective = dim.make(make_config(**changes))
  (loss, (metrics, _)), grads = small.gradients(objective, start(), BATCH)
  return loss, metrics, grads


def mlp(params, pair):
  """The discriminator of one pair, without its last sigmoid."""
  x = np.maximum(pair @ params['kernel'] + params['bias'], 0)
  for name in ('fc_1', 'fc_2'):
    x = np.maximum(x @ params[name]['kernel'] + params[name]['bias'], 0)
  return (x @ params['score']['kernel'] + params['score']['bias'])[0]


def cross_entropy(positive, negative):
  """-ln D(positive) - ln(1 - D(negative)), as the code of the variant."""
  sigmoid = 1 / (1 + np.exp(-np.asarray([positive, negative])))
  return -math.log(sigmoid[0]) - math.log(1 - sigmoid[1])


def test_loss_is_that_of_the_code_pair_by_pair():
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), start()[0])
  images = np.asarray(BATCH['image']) / 127.5 - 1
  outputs = Encoder().apply({'params': start()[0]['encoder']}, images)
  outputs = {k: np.asarray(x, np.float64) for k, x in outputs.items()}
  mean, log_variance = outputs['y'], outputs['log_variance']
  noise = jax.random.normal(jax.random.split(KEY, 4)[0], (N, D))
  z = mean + np.exp(log_variance / 2) * np.asarray(noise)
  locations = outputs['conv'].reshape(N, -1, 5)
  # The neighbour in the batch, of groups of two.
  others = np.arange(N) ^ 1
  whole, local = [], []
  for i, j in enumerate(others.tolist()):
    score = functools.partial(mlp, params['critic']['whole'])
    # The positive pair is the same sample twice.
    pairs = [np.concatenate([z[i], z[k]]) for k in (i, j)]
    whole.append(cross_entropy(*map(score, pairs)))
    score = functools.partial(mlp, params['critic']['local'])
    for here in range(locations.shape[1]):
      pairs = [np.concatenate([z[i], locations[k, here]]) for k in (i, j)]
      local.append(cross_entropy(*map(score, pairs)))
  # -1/2 of the mean over images and dimensions.
  kl = -np.mean(1 + log_variance - mean**2 - np.exp(log_variance)) / 2
  loss, metrics, _ = gradients()
  # The bounds have a constant, 2 ln 2 each, that a cross-entropy has not.
  np.testing.assert_allclose(
    metrics['mi/global'], 2 * math.log(2) - np.mean(whole), rtol=1e-4
  )
  np.testing.assert_allclose(
    metrics['mi/local'], 2 * math.log(2) - np.mean(local), rtol=1e-4
  )
  np.testing.assert_allclose(metrics['prior/kl'], D * kl, rtol=1e-4)
  expected = 0.5 * np.mean(whole) + 1.5 * np.mean(local) + 0.01 * kl
  np.testing.assert_allclose(loss + 2 * 2 * math.log(2), expected, rtol=1e-4)


def test_the_kl_reaches_the_encoder_alone():
  _, _, without = gradients(prior__weight=0.0)
  _, metrics, weighed = gradients(prior__weight=0.7)

  def kl(params):
    images = jnp.asarray(BATCH['image']) / 127.5 - 1
    outputs = Encoder().apply({'params': params}, images)
    mean, log_variance = outputs['y'], outputs['log_variance']
    excess = jnp.exp(log_variance) - 1 - log_variance
    return (mean**2 + excess).sum(1).mean() / 2

  value, of_kl = jax.jit(jax.value_and_grad(kl))(start()[0]['encoder'])
  np.testing.assert_allclose(metrics['prior/kl'], value, rtol=1e-4)
  expected = jax.tree.map(lambda a, b: a + 0.7 * b, without['encoder'], of_kl)
  small.assert_same(weighed['encoder'], jax.tree.map(np.asarray, expected))
  small.assert_same(weighed['critic'], without['critic'], tolerance=1e-7)
  # The code is a sample, whose noise the information costs.
  slope = without['encoder']['Dense_3']['kernel']
  assert np.abs(slope).max() > 0


def make_on(axis_name=None):
  config = make_config(encoder='small32', code=4, negatives_of=4)
  return dim.make(config, axis_name=axis_name)


def test_one_device_is_eight():
  # Two images a device, and negatives of two devices.
  batch = small.images(16, size=32)
  # SGD: Adam turns the rounding noise of a zero gradient into full steps.
  optimizer = optax.sgd(1e-2)
  fresh = step_lib.init_state(make_on(), optimizer, batch, jax.random.key(0))
  forms = small.in_all_forms(make_on, fresh, optimizer, batch)
  for name in ('jit', 'pmap'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
      forms['one'],
      forms[name],
    )


def test_a_critic_of_no_hidden_layer():
  message = r'concat_depth must be a whole number >= 1, got 0'
  with pytest.raises(ValueError, match=message) as error:
    dim.make(make_config(concat_depth=0))
  assert '\n' not in str(error.value)


def test_a_critic_that_concatenates_scores_few_images_of_many():
  objective = dim.make(make_config())
  batch = {'image': jnp.zeros((70, 4, 4, 1), jnp.uint8)}
  scores = jax.eval_shape(objective.scores, start(), batch)
  assert scores['local'].shape == (64, 64, 16)
