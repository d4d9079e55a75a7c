"""Deep InfoMax as a sum of walled terms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.objectives import dim


class OwnEncoder(nn.Module):
  """A user's module: a dense layer a pixel row, no convolution of ours."""

  stochastic: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(6)(images)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    local = nn.relu(x)
    fc = nn.relu(nn.Dense(10)(local.reshape(local.shape[0], -1)))
    taps = {'local': local, 'conv': local, 'fc': fc, 'y': nn.Dense(5)(fc)}
    if self.stochastic:
      taps['log_variance'] = nn.Dense(5)(fc)
    return taps


N = 6


def make_batch():
  rng = np.random.default_rng(0)
  return {
    'image': jnp.asarray(rng.integers(0, 256, (N, 4, 4, 3), dtype=np.uint8)),
    'label': jnp.asarray([0, 1, 2, 0, 1, -1]),
  }


def make_config(**changes):
  defaults = {
    'encoder': OwnEncoder(stochastic=changes.get('prior') == 'kl'),
    'critic_units': 8,
    'global_critic_units': 8,
    'num_classes': 3,
  }
  return dim.Config(**(defaults | changes))


def gradients(config, params=None):
  objective = dim.make(config)
  batch = make_batch()
  fresh, model_state = jax.jit(objective.init)(jax.random.key(0), batch)
  params = fresh if params is None else params
  grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  (loss, (metrics, _)), grads = grad(
    params, model_state, batch, jax.random.key(1)
  )
  return loss, metrics, grads, params


def tree_close(a, b, **tolerances):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b
  )


def test_loss_is_the_weighted_sum_of_its_reported_terms():
  config = make_config(
    local_weight=0.7, global_weight=0.4, prior_weight=0.3, gradient_penalty=2.0
  )
  loss, m, _, _ = gradients(config)
  # -beta local - alpha global + gamma encoder + (adversary + 2 penalty) + probe
  expected = -0.7 * m['mi/local'] - 0.4 * m['mi/global']
  expected += 0.3 * m['prior/encoder'] + m['prior/adversary']
  expected += 2.0 * m['prior/gradient_penalty']
  expected += m['probe/conv_loss'] + m['probe/fc_loss'] + m['probe/y_loss']
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_encoder_feels_only_the_weighted_prior_term():
  # With the encoder's gradient a + gamma b, three gammas lie on a line; the
  # adversary's loss, which gamma does not weight, would add an offset between
  # gamma = 0, where it is absent, and the others.
  _, _, with_2, params = gradients(make_config(prior_weight=0.2))
  _, _, with_1, _ = gradients(make_config(prior_weight=0.1), params)
  _, _, without, _ = gradients(make_config(prior_weight=0.0), params)
  step_up = jax.tree.map(jnp.subtract, with_2['encoder'], with_1['encoder'])
  step_one = jax.tree.map(jnp.subtract, with_1['encoder'], without['encoder'])
  tree_close(step_up, step_one, atol=2e-6)
  assert max(jnp.abs(x).max() for x in jax.tree.leaves(step_one)) > 1e-5
  # And the adversary does not feel gamma at all.
  tree_close(with_2['adversary'], with_1['adversary'], rtol=1e-6)


def test_probe_moves_nothing_but_itself():
  _, _, probed, params = gradients(make_config())
  _, _, bare, _ = gradients(make_config(num_classes=0), params)
  for player in ('encoder', 'critic', 'adversary'):
    tree_close(probed[player], bare[player], rtol=1e-5, atol=1e-7)
  assert jnp.abs(probed['probe']['y']['kernel']).max() > 0


def test_probe_counts_labelled_images_alone():
  _, metrics, _, _ = gradients(make_config())
  # Zero weights predict class 0, which two of the five labelled images have,
  # each with a loss of log 3; the image labelled -1 does not count.
  np.testing.assert_allclose(metrics['probe/y_accuracy'], 2 / 5)
  np.testing.assert_allclose(metrics['probe/y_loss'], math.log(3), rtol=1e-6)


def test_ceiling_counts_the_negatives_of_other_images():
  # 16 locations an image, or 3 sampled ones; 5 other images.
  for samples, count in ((None, 16), (3, 3)):
    _, metrics, _, _ = gradients(make_config(local_samples=samples))
    np.testing.assert_allclose(
      metrics['mi/local_ceiling'], math.log(1 + 5 * count), rtol=1e-6
    )
    assert metrics['mi/local'] <= metrics['mi/local_ceiling']


def test_kl_prior_is_that_of_its_own_gaussian():
  config = make_config(prior='kl', prior_weight=0.5)
  objective = dim.make(config)
  batch = make_batch()
  params, model_state = jax.jit(objective.init)(jax.random.key(0), batch)
  assert set(params) == {'encoder', 'critic', 'probe'}
  _, (metrics, _) = jax.jit(objective.loss)(
    params, model_state, batch, jax.random.key(1)
  )
  taps, _ = config.encoder.apply(
    {'params': params['encoder'], **model_state['encoder']},
    batch['image'] / 127.5 - 1,
    train=True,
    mutable=['batch_stats'],
  )
  mean, log_variance = taps['y'], taps['log_variance']
  # KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - log s^2) / 2, summed over dims.
  kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(1)
  np.testing.assert_allclose(metrics['prior/kl'], kl.mean(), rtol=1e-4)


@pytest.mark.parametrize('bound', sorted(dim.BOUNDS))
def test_every_bound_gives_finite_gradients(bound):
  config = make_config(bound=bound, prior_weight=0.0, num_classes=0)
  _, metrics, grads, _ = gradients(config)
  assert jnp.isfinite(metrics['mi/local'])
  leaves = jax.tree.leaves(grads)
  assert all(jnp.isfinite(x).all() for x in leaves)
  assert max(jnp.abs(x).max() for x in jax.tree.leaves(grads['encoder'])) > 0


def test_bfloat16_scores_are_float32_and_near_those_in_float32():
  config = make_config(encoder='small32', code=8, num_classes=0)
  image = np.random.default_rng(0).integers(
    0, 256, (N, 32, 32, 1), dtype=np.uint8
  )
  scores = {}
  for dtype in ('float32', 'bfloat16'):
    config.dtype = dtype
    variables = jax.jit(dim.make(config).init)(
      jax.random.key(0), {'image': image}
    )
    scores[dtype] = jax.jit(functools.partial(dim.scores, config))(
      *variables, {'image': image}
    )['local']
    assert scores[dtype].dtype == jnp.float32
    assert scores[dtype].shape == (N, N, 64)
  # bfloat16 keeps 8 bits, 0.4 %, of a few layers' values.
  spread = scores['float32'].std()
  error = jnp.abs(scores['bfloat16'] - scores['float32']).max()
  assert 0 < error < 0.2 * spread


def test_encode_is_deterministic_and_returns_every_tap():
  objective = dim.make(make_config())
  batch = make_batch()
  params, model_state = jax.jit(objective.init)(jax.random.key(0), batch)
  first = objective.encode(params, model_state, batch)
  assert set(first) == {'local', 'conv', 'fc', 'y'}
  # Running statistics: an image's features do not depend on its batch.
  alone = objective.encode(params, model_state, {'image': batch['image'][:1]})
  tree_close(jax.tree.map(lambda x: x[:1], first), alone, atol=1e-6)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'bound': 'mine'}, r"bound must be one of .*'infonce'.*, got 'mine'"),
    ({'critic': 'dot'}, r"critic must be one of .*'factored'.*, got 'dot'"),
    ({'prior': 'laplace'}, r"prior must be one of .*'kl'.*, got 'laplace'"),
    ({'dtype': 'float16'}, r"dtype must be one of .*, got 'float16'"),
    ({'prior_weight': -1.0}, r'prior_weight must be >= 0, got -1.0'),
    ({'local_weight': 0.0}, r'both 0: nothing would train'),
    ({'local_samples': 0}, r'local_samples must be >= 1 or None, got 0'),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dim.make(make_config(**changes))


def test_missing_tap_is_named():
  objective = dim.make(make_config(local_tap='conv_7'))
  with pytest.raises(ValueError, match=r"local_tap is 'conv_7'.*'conv', 'fc'"):
    objective.init(jax.random.key(0), make_batch())
