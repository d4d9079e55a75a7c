"""The stochastic code, its decoder and the MLP, against NumPy and SciPy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import stats

from dim_jax.losses.bottleneck import vib_loss
from dim_jax.networks import decoders, encoders
from dim_jax.networks.posteriors import Bottleneck, Posterior


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_variables(module, *inputs, biases=0.5):
  """Variables in which biases count too, without compiling a sampler."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(1)

  def fill(x):
    scale = 1 / math.sqrt(x.shape[0]) if x.ndim > 1 else biases
    return jnp.asarray(rng.normal(0, scale, x.shape), x.dtype)

  return jax.tree.map(fill, shapes)


def linear(x, layer):
  kernel, bias = (np.asarray(layer[name]) for name in ('kernel', 'bias'))
  return np.asarray(x, np.float64) @ kernel + bias


MEAN = np.array([[0.5, -1.0], [0.0, 2.0], [-0.7, 0.1]], np.float32)
STD = np.array([[1.2, 0.3], [1.0, 0.8], [0.05, 2.0]], np.float32)
CHOL = np.array(
  [
    [[1.2, 0.0], [0.4, 0.3]],
    [[1.0, 0.0], [-0.5, 0.8]],
    [[0.1, 0.0], [1.5, 2.0]],
  ],
  np.float32,
)


def make_posterior(covariance):
  if covariance == 'diagonal':
    scale, log_scale = STD, np.log(STD)
  else:
    scale, log_scale = CHOL, np.log(np.diagonal(CHOL, axis1=1, axis2=2))
  return Posterior(*(jnp.asarray(x) for x in (MEAN, scale, log_scale)))


def covariances(covariance):
  if covariance == 'diagonal':
    return [np.diag(s**2) for s in STD]
  return [c @ c.T for c in CHOL]


both_covariances = pytest.mark.parametrize('covariance', ['diagonal', 'full'])


@both_covariances
def test_codes_have_the_mean_and_covariance_of_the_posterior(covariance):
  posterior = make_posterior(covariance)
  z = jax.jit(lambda key: posterior.sample(key, 20_000))(jax.random.key(0))
  assert z.shape == (20_000, 3, 2)
  assert z.dtype == jnp.float32
  for i, truth in enumerate(covariances(covariance)):
    code = np.asarray(z[:, i], np.float64)
    stds = np.sqrt(np.diag(truth))
    # Standard errors: std / sqrt(S) of a mean, at most sqrt(2 / S) of a product
    # of standardised codes.
    error = (code.mean(0) - MEAN[i]) / stds
    assert np.abs(error).max() < 4 / math.sqrt(20_000)
    error = (np.cov(code.T) - truth) / np.outer(stds, stds)
    assert np.abs(error).max() < 4 * math.sqrt(2 / 20_000)


@both_covariances
def test_log_prob_is_the_density_at_the_placed_code(covariance):
  posterior = make_posterior(covariance)
  noise = jnp.asarray(normal(2, 4, 3, 2))
  z, log_prob = jax.jit(lambda n: (posterior.place(n), posterior.log_prob(n)))(
    noise
  )
  assert log_prob.shape == (4, 3)
  for i, truth in enumerate(covariances(covariance)):
    density = stats.multivariate_normal(MEAN[i], truth)
    np.testing.assert_allclose(
      log_prob[:, i], density.logpdf(z[:, i]), rtol=1e-4, atol=1e-4
    )


@both_covariances
def test_rate_is_the_mean_log_ratio_of_its_codes(covariance):
  posterior = make_posterior(covariance)
  noise = jnp.asarray(normal(3, 20_000, 3, 2))

  @jax.jit
  def evaluate(noise):
    return posterior.place(noise), posterior.log_prob(noise), posterior.rate()

  z, log_prob, rate = evaluate(noise)
  assert rate.shape == (3,)
  each = log_prob - stats.norm.logpdf(z).sum(-1)
  standard_error = each.std(0) / math.sqrt(len(each))
  assert standard_error.max() < 0.05
  assert np.all(np.abs(each.mean(0) - rate) < 4 * standard_error)


def test_sample_needs_a_sample():
  with pytest.raises(ValueError, match='samples must be >= 1, got 0'):
    make_posterior('diagonal').sample(jax.random.key(0), 0)


def softplus(x):
  return np.logaddexp(0, x)


@functools.cache
def head_and_output(**fields):
  """NumPy's outputs of the linear head on 4 features of 5, and ours."""
  head = Bottleneck(3, **fields)
  x = jnp.asarray(normal(4, 4, 5))
  variables = numpy_variables(head, x)
  layer = variables['params']['head']
  outputs = linear(x, layer)
  return outputs, jax.jit(head.apply)(variables, x)


def test_softplus_head():
  outputs, posterior = head_and_output()
  assert outputs.shape == (4, 6)
  np.testing.assert_allclose(posterior.mean, outputs[:, :3], rtol=1e-4)
  std = softplus(outputs[:, 3:] - 5)
  np.testing.assert_allclose(posterior.scale, std, rtol=1e-4)
  np.testing.assert_allclose(posterior.log_scale, np.log(std), rtol=1e-4)


def test_shifted_head():
  outputs, posterior = head_and_output(shift=0.57)
  np.testing.assert_allclose(
    posterior.scale, softplus(outputs[:, 3:] + 0.57), rtol=1e-4
  )


def test_log_variance_head():
  outputs, posterior = head_and_output(scale='log_variance')
  np.testing.assert_allclose(posterior.mean, outputs[:, :3], rtol=1e-4)
  log_std = 10 * np.tanh(outputs[:, 3:] / 20)
  np.testing.assert_allclose(posterior.log_scale, log_std, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(posterior.scale, np.exp(log_std), rtol=1e-4)


def test_unit_head_has_no_outputs_for_its_scale():
  outputs, posterior = head_and_output(scale='unit')
  assert outputs.shape == (4, 3)
  np.testing.assert_allclose(posterior.mean, outputs, rtol=1e-4)
  np.testing.assert_array_equal(posterior.scale, 1)
  np.testing.assert_array_equal(posterior.log_scale, 0)


def test_full_head_is_a_cholesky_factor():
  outputs, posterior = head_and_output(covariance='full')
  assert outputs.shape == (4, 3 + 9)
  np.testing.assert_allclose(posterior.mean, outputs[:, :3], rtol=1e-4)
  for i, row in enumerate(outputs[:, 3:].reshape(4, 3, 3)):
    expected = np.zeros((3, 3))
    for j in range(3):
      expected[j, j] = softplus(row[j, j] - 5)
      for k in range(j):
        expected[j, k] = 0.01 * row[j, k]
    np.testing.assert_allclose(posterior.scale[i], expected, rtol=1e-4)
    np.testing.assert_allclose(
      posterior.log_scale[i], np.log(np.diag(expected)), rtol=1e-4
    )


def test_fresh_heads_start_as_they_say():
  # Without a kernel only the biases speak, and they start at 0.
  for fields, std in (
    ({}, math.log1p(math.exp(-5))),
    ({'scale': 'log_variance'}, 1.0),
  ):
    head = Bottleneck(2, kernel_init=nn.initializers.zeros, **fields)
    posterior, _ = head.init_with_output(jax.random.key(0), jnp.ones((1, 3)))
    np.testing.assert_array_equal(posterior.mean, 0)
    np.testing.assert_allclose(posterior.scale, std, rtol=1e-5)


@pytest.mark.parametrize(
  'fields', [{}, {'scale': 'log_variance'}, {'covariance': 'full'}]
)
def test_rate_and_its_gradient_are_finite_at_enormous_features(fields):
  head = Bottleneck(3, **fields)
  # The products of bfloat16 features are float32, as the posterior is.
  x = jnp.asarray(normal(5, 4, 5) * 1e4, jnp.bfloat16)
  variables = numpy_variables(head, x)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def evaluate(variables):
    posterior = head.apply(variables, x)
    return posterior.rate().sum(), posterior

  (rate, posterior), gradients = evaluate(variables)
  chex.assert_tree_all_finite((rate, gradients))
  assert {part.dtype for part in posterior} == {jnp.dtype('float32')}


@pytest.mark.parametrize(
  ('fields', 'shape', 'message'),
  [
    ({'size': 0}, (2, 5), 'at least 1 dimension, got 0'),
    ({'covariance': 'none'}, (2, 5), r"covariance .*'full'\), got 'none'"),
    ({'scale': 'exp'}, (2, 5), r"scale must be one of .*'unit'\), got 'exp'"),
    (
      {'covariance': 'full', 'scale': 'unit'},
      (2, 5),
      "full covariance takes scale='softplus'",
    ),
    ({}, (2, 4, 5), r'features \[N, D\], got \(2, 4, 5\)'),
  ],
)
def test_wrong_heads_are_named(fields, shape, message):
  head = Bottleneck(**({'size': 3} | fields))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(head.init, jax.random.key(0), jnp.zeros(shape))


def test_linear_classifier():
  decoder = decoders.Classifier(4)
  z = jnp.asarray(normal(6, 2, 3, 5))
  variables = numpy_variables(decoder, z)
  assert set(variables['params']) == {'logits'}
  layer = variables['params']['logits']
  logits = jax.jit(decoder.apply)(variables, z)
  assert logits.shape == (2, 3, 4)
  np.testing.assert_allclose(logits, linear(z, layer), rtol=1e-4, atol=1e-5)


def test_classifier_with_hidden_layers():
  decoder = decoders.Classifier(4, (7, 6))
  z = jnp.asarray(normal(7, 2, 3, 5))
  variables = numpy_variables(decoder, z)
  x = np.asarray(z)
  for name in ('hidden_0', 'hidden_1'):
    x = np.maximum(linear(x, variables['params'][name]), 0)
  expected = linear(x, variables['params']['logits'])
  np.testing.assert_allclose(
    jax.jit(decoder.apply)(variables, z), expected, rtol=1e-4, atol=1e-5
  )
  # Logits are float32 whatever the code is.
  half = jax.eval_shape(decoder.apply, variables, z.astype(jnp.bfloat16))
  assert half.dtype == jnp.float32


def mlp_and_images(**fields):
  encoder = encoders.MLPEncoder(**({'units': (8, 6)} | fields))
  images = jnp.asarray(normal(8, 3, 4, 2, 2))
  return encoder, images, numpy_variables(encoder, images)


def test_mlp_encoder_against_numpy():
  encoder, images, variables = mlp_and_images()
  x = np.asarray(images).reshape(3, 16)
  for name in ('fc_0', 'fc_1'):
    x = np.maximum(linear(x, variables['params'][name]), 0)
  endpoints = jax.jit(encoder.apply)(variables, images)
  assert set(endpoints) == {'fc'}
  np.testing.assert_allclose(endpoints['fc'], x, rtol=1e-4, atol=1e-5)
  # No dropout: training computes the same, without a key.
  trained = jax.jit(functools.partial(encoder.apply, train=True))(
    variables, images
  )
  np.testing.assert_allclose(trained['fc'], x, rtol=1e-4, atol=1e-5)


def test_mlp_encoder_in_bfloat16_keeps_float32_outside():
  encoder, images, variables = mlp_and_images(dtype=jnp.bfloat16)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  value = jax.jit(encoder.apply)(variables, images)['fc']
  assert value.dtype == jnp.float32
  exact = jax.jit(mlp_and_images()[0].apply)(variables, images)['fc']
  # bfloat16 keeps 8 bits, 0.4 %, of each of two layers' values.
  error = jnp.abs(value - exact).max() / exact.std()
  assert 0 < error < 0.1


def test_mlp_encoder_drops_hidden_units_in_training_alone():
  encoder, images, variables = mlp_and_images(units=(4000,), dropout=0.25)

  @jax.jit
  def evaluate(key):
    dropped = encoder.apply(
      variables, images, train=True, rngs={'dropout': key}
    )
    return encoder.apply(variables, images)['fc'], dropped['fc']

  whole, dropped = map(np.asarray, evaluate(jax.random.key(1)))
  live = whole > 0
  kept = dropped[live] > 0
  # About 6000 units are live: the standard error of the fraction is 0.006.
  assert abs(kept.mean() - 0.75) < 0.025
  np.testing.assert_allclose(
    dropped[live][kept], whole[live][kept] / 0.75, rtol=1e-5
  )


def test_mlp_encoder_starts_at_glorot_with_biases_of_zero():
  encoder = encoders.MLPEncoder(units=(500,))
  variables = jax.jit(encoder.init)(
    jax.random.key(0), jnp.zeros((1, 10, 10, 1))
  )
  layer = variables['params']['fc_0']
  np.testing.assert_array_equal(layer['bias'], 0)
  # Uniform within sqrt(6 / (100 + 500)) = 0.1; 50,000 of them come near it.
  kernel = np.abs(layer['kernel'])
  assert 0.0999 < kernel.max() <= 0.1 + 1e-6
  np.testing.assert_allclose(kernel.mean(), 0.05, rtol=0.02)


def test_parts_of_the_paper_add_up_to_its_network():
  def count(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

  sizes = (
    count(encoders.MLPEncoder(), jnp.zeros((1, 28, 28, 1))),
    count(Bottleneck(256), jnp.zeros((1, 1024))),
    count(decoders.Classifier(10), jnp.zeros((1, 256))),
  )
  # 784-1024-1024, then 256 means and 256 scales, then 10 classes.
  assert sizes == (785 * 1024 + 1025 * 1024, 1025 * 512, 257 * 10)


class MyBackbone(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))


class Classifier(nn.Module):
  @nn.compact
  def __call__(self, x, rng):
    posterior = Bottleneck(4)(MyBackbone()(x))
    z = posterior.sample(rng)
    return nn.Dense(3)(z), posterior.rate()


def test_a_bottleneck_drops_into_a_users_own_classifier():
  labels = np.arange(30) % 3
  centres = normal(9, 3, 4, 4, 1)
  images = jnp.asarray(centres[labels] + 0.3 * normal(10, 30, 4, 4, 1))
  labels = jnp.asarray(labels)
  model, optimizer = Classifier(), optax.adam(1e-2)

  def step(carry, rng):
    variables, opt_state = carry

    def evaluate(variables):
      logits, rate = model.apply(variables, images, rng)
      accuracy = (logits.mean(0).argmax(-1) == labels).mean()
      loss = vib_loss(logits, labels, rate, beta=1e-3)
      return loss, (accuracy, rate.mean())

    gradients, metrics = jax.grad(evaluate, has_aux=True)(variables)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return (optax.apply_updates(variables, updates), opt_state), metrics

  variables = numpy_variables(model, images, jax.random.key(0), biases=0.0)
  carry = variables, optimizer.init(variables)
  keys = jax.random.split(jax.random.key(0), 300)
  accuracy, rate = jax.jit(functools.partial(jax.lax.scan, step))(carry, keys)[
    1
  ]
  # A fresh sigma of softplus(-5) costs about -ln 0.0067 - 1/2 = 4.5 nats in
  # each dimension.
  assert rate[0] > 4 * 4
  assert accuracy[-50:].mean() > 0.95
  # Three classes need ln 3 of it; beta has pressed the rest down.
  assert math.log(3) < rate[-1] < 0.7 * rate[0]
