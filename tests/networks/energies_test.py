"""Energies and generators, against NumPy in float64."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import energies, generators

jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def rbm_params(size=5, hidden=3, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'weights': jnp.asarray(rng.normal(0, 0.6, (size, hidden)), jnp.float32),
    'visible': jnp.asarray(rng.normal(0, 0.5, size), jnp.float32),
    'hidden': jnp.asarray(rng.normal(0, 0.5, hidden), jnp.float32),
  }


def mixture_of(params):
  """The RBM as a mixture: weights [S] and means [S, D], one state at a time."""
  weights, visible, bias = (
    np.asarray(params[k], np.float64) for k in ('weights', 'visible', 'hidden')
  )
  logits, means = [], []
  for state in itertools.product((-1.0, 1.0), repeat=len(bias)):
    mean = visible + weights @ np.array(state)
    # The integral of exp(m.x - ||x||^2/2) is (2 pi)^(D/2) exp(||m||^2/2).
    logits.append(bias @ np.array(state) + mean @ mean / 2)
    means.append(mean)
  logits = np.array(logits)
  log_z = np.logaddexp.reduce(logits)
  log_z += len(visible) / 2 * math.log(2 * math.pi)
  return np.exp(logits - np.logaddexp.reduce(logits)), np.array(means), log_z


def rbm_f(params, x):
  weights, visible, bias = (
    np.asarray(params[k], np.float64) for k in ('weights', 'visible', 'hidden')
  )
  x = np.asarray(x, np.float64)
  y = x @ weights + bias
  return x @ visible - (x**2).sum(1) / 2 + np.log(2 * np.cosh(y)).sum(1)


def filled(module, x, seed=3):
  """Parameters in which biases count too, without compiling a sampler."""
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  rng = np.random.default_rng(seed)

  def fill(x):
    scale = 1 / math.sqrt(math.prod(x.shape[:-1])) if x.ndim > 1 else 0.3
    return jnp.asarray(rng.normal(0, scale, x.shape), x.dtype)

  return jax.tree.map(fill, variables)


def points(count=7, size=5, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(count, size)), jnp.float32)


def test_rbm_is_its_mixture_of_gaussians():
  params, x = rbm_params(), points()
  f = jit(energies.RBM(hidden=3).apply)({'params': params}, x)
  np.testing.assert_allclose(f, rbm_f(params, x), rtol=1e-5)
  # exp(f) / Z is the mixture's density.
  weights, means, log_z = mixture_of(params)
  gaps = np.asarray(x, np.float64)[:, None] - means
  densities = np.exp(-(gaps**2).sum(2) / 2) / (2 * math.pi) ** 2.5
  np.testing.assert_allclose(np.exp(f - log_z), densities @ weights, rtol=1e-4)
  np.testing.assert_allclose(
    jit(energies.RBM.log_partition)(params), log_z, rtol=1e-6
  )


def test_rbm_enumerates_in_blocks(monkeypatch):
  params = rbm_params(hidden=6)
  _, _, log_z = mixture_of(params)
  whole = jit(jax.grad(energies.RBM.log_partition))(params)
  monkeypatch.setattr(energies, 'BLOCK', 16)
  # A function of its own, which is traced anew.
  in_blocks = jax.value_and_grad(lambda p: energies.RBM.log_partition(p))
  value, blocks = jit(in_blocks)(params)
  np.testing.assert_allclose(value, log_z, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    whole,
    blocks,
  )


def test_rbm_of_many_hidden_units_is_refused():
  with pytest.raises(ValueError, match=r'up to 20 hidden units, got 21'):
    energies.RBM.log_partition(rbm_params(hidden=21))


def test_rbm_score_is_the_finite_difference():
  params, x = rbm_params(), points(count=3)
  energy = energies.RBM(hidden=3)
  apply = jit(energy.apply)
  score = jit(jax.grad(lambda x: energy.apply({'params': params}, x).sum()))(x)
  step, wide = 1e-5, np.asarray(x, np.float64)
  for i in range(x.shape[1]):
    shift = step * np.eye(x.shape[1])[i]
    slope = (rbm_f(params, wide + shift) - rbm_f(params, wide - shift)) / (
      2 * step
    )
    np.testing.assert_allclose(score[:, i], slope, rtol=1e-4, atol=1e-5)
  # Far away, where cosh itself would overflow, the Gaussian wins: a finite f.
  far = apply({'params': params}, 1e4 * x)
  assert np.isfinite(far).all()


def moments_of(params):
  weights, means, _ = mixture_of(params)
  mean = weights @ means
  second = np.eye(means.shape[1]) + (weights[:, None] * means).T @ means
  return mean, second


def check_moments(x, params):
  """Means and second moments, within 5 standard errors of the estimate."""
  x = np.asarray(x, np.float64)
  mean, second = moments_of(params)
  error = x.std(0) / math.sqrt(len(x))
  assert (np.abs(x.mean(0) - mean) < 5 * error).all()
  products = x[:, :, None] * x[:, None]
  error = products.std(0) / math.sqrt(len(x))
  assert (np.abs(products.mean(0) - second) < 5 * error).all()


def test_rbm_samples_and_gibbs_steps_have_the_exact_moments():
  params = rbm_params()
  x = jit(energies.RBM.sample, static_argnums=2)(
    params, jax.random.key(0), 20000
  )
  check_moments(x, params)
  moved = jit(energies.RBM.gibbs)(params, jax.random.key(1), x)
  check_moments(moved, params)
  # It moved, and the shape of images stays.
  assert np.abs(moved - x).mean() > 0.5
  images = jax.eval_shape(
    energies.RBM.gibbs, params, jax.random.key(2), jnp.zeros((4, 5, 1, 1))
  )
  assert images.shape == (4, 5, 1, 1)


def test_rbm_starts_at_the_mean_that_it_was_given():
  mean = np.arange(6.0).reshape(2, 3)
  energy = energies.RBM(hidden=2, mean=mean)
  images = jnp.zeros((2, 2, 3, 1))
  params = jit(energy.init)(jax.random.key(0), images)['params']
  np.testing.assert_allclose(params['visible'], np.arange(6.0))
  with pytest.raises(ValueError, match='6 numbers, but an example has 4'):
    jax.eval_shape(energy.init, jax.random.key(0), jnp.zeros((2, 4)))


def test_mlp_energy_term_by_term():
  energy = energies.MLPEnergy(units=(4,), base_std=2.0)
  x = points(size=3)
  variables = filled(energy, x)
  params = jax.tree.map(np.asarray, variables['params'])
  hidden = np.asarray(x) @ params['hidden_0']['kernel']
  hidden += params['hidden_0']['bias']
  hidden /= 1 + np.exp(-hidden)
  f = hidden @ params['output']['kernel'] + params['output']['bias']
  own = jit(lambda x: energy.apply(variables, x))
  np.testing.assert_allclose(
    own(x),
    f[:, 0] - (np.asarray(x) ** 2).sum(1) / 8,
    rtol=1e-5,
  )
  features = jit(lambda x: energy.apply(variables, x, method='features'))(x)
  np.testing.assert_allclose(features, hidden, rtol=1e-5)
  # Pixels are the coordinates of an image.
  np.testing.assert_array_equal(own(np.asarray(x)[..., None, None]), own(x))


@functools.cache
def autoencoder():
  energy = energies.AutoencoderEnergy(code=3, channels=2)
  x = jnp.asarray(
    np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 2)), jnp.float32
  )
  variables = filled(energy, x)

  @jit
  def evaluate(variables, x):
    f, pull_back = jax.vjp(lambda x: energy.apply(variables, x), x)
    copies = energy.apply(variables, x, method='reconstruct')
    return f, copies, pull_back(jnp.ones_like(f))[0]

  return evaluate, variables, x


def test_autoencoder_energy_is_the_norms_of_its_residual():
  evaluate, variables, x = autoencoder()
  f, copies, _ = evaluate(variables, x)
  assert copies.shape == x.shape
  assert np.abs(copies).max() < 1
  r = (np.asarray(x, np.float64) - np.asarray(copies)).reshape(3, -1)
  # The softening adds s / (2 root) to each root of about 9 or 8.
  expected = -np.sqrt(np.abs(r).sum(1)) - np.sqrt((r**2).sum(1))
  np.testing.assert_allclose(f, expected, rtol=1e-4)


def test_autoencoder_score_is_finite_where_the_copy_is_exact():
  evaluate, variables, x = autoencoder()
  # With zero parameters every copy is 0: so is the residual of a grey image.
  variables = jax.tree.map(jnp.zeros_like, variables)
  _, _, score = evaluate(variables, jnp.zeros_like(x))
  np.testing.assert_array_equal(score, 0)
  # d/dx of -sqrt(|x| + s) - sqrt(x^2 + s) of one small pixel, by hand.
  pixel = np.zeros_like(x)
  pixel[0, 0, 0, 0] = 1e-6
  _, _, score = evaluate(variables, pixel)
  softening = energies.SOFTENING
  expected = -0.5 / math.sqrt(1e-6 + softening)
  expected -= 1e-6 / math.sqrt(1e-12 + softening)
  np.testing.assert_allclose(score[0, 0, 0, 0], expected, rtol=1e-5)


def test_conv_energy_term_by_term():
  energy = energies.ConvEnergy(channels=2)
  x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
  variables = filled(energy, x)
  params = jax.tree.map(
    lambda x: np.asarray(x, np.float64), variables['params']
  )

  def convolve(x, layer):
    # 4x4 windows, every second one, of a map with a border of zeros.
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    places = range(0, x.shape[1] - 3, 2)
    rows = [
      [
        np.tensordot(x[:, i : i + 4, j : j + 4], layer['kernel'], axes=3)
        for j in places
      ]
      for i in places
    ]
    y = np.moveaxis(np.array(rows), 2, 0) + layer['bias']
    return y / (1 + np.exp(-y))

  hidden = convolve(convolve(x, params['conv_0']), params['conv_1'])
  assert hidden.shape == (2, 2, 2, 4)
  hidden = hidden.reshape(2, -1)
  f = hidden @ params['output']['kernel'] + params['output']['bias']
  found = jit(energy.apply)(variables, x)
  np.testing.assert_allclose(found, f[:, 0], rtol=1e-4, atol=1e-5)
  features = jit(lambda x: energy.apply(variables, x, method='features'))(x)
  np.testing.assert_allclose(features, hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape', [(28, 28, 1), (32, 32, 3)])
def test_image_networks_take_both_sizes(shape):
  energy = energies.AutoencoderEnergy()
  images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  f, variables = jax.eval_shape(
    energy.init_with_output, jax.random.key(0), images
  )
  assert f.shape == (2,)
  codes = jax.eval_shape(
    lambda v, x: energy.apply(v, x, method='features'), variables, images
  )
  assert codes.shape == (2, 64)
  noise = jax.ShapeDtypeStruct((2, 10), jnp.float32)
  for generator in generators.GENERATORS.values():
    made, variables = jax.eval_shape(
      generator(shape).init_with_output, jax.random.key(0), noise
    )
    assert made.shape == (2, *shape)
    # Each example from its own noise alone: no statistics.
    assert set(variables) == {'params'}


def test_conv_generator_against_the_native_convolution():
  noise = points(count=3, size=4)
  own = generators.ConvGenerator((8, 12, 2), features=3, lowering='patches')
  native = generators.ConvGenerator((8, 12, 2), features=3, lowering='native')
  variables = filled(own, noise)
  made = jit(own.apply)(variables, noise)
  np.testing.assert_allclose(
    made, jit(native.apply)(variables, noise), atol=1e-5
  )
  assert np.abs(made).max() < 1


@pytest.mark.parametrize('lowering', ['patches', 'native'])
def test_doubled_convolution_is_one_of_the_doubled_map(lowering):
  layer = generators.DoubledConv(3, lowering=lowering)
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
  variables = filled(layer, x)
  own = variables['params']
  # Each pixel becomes four, and zeros lie around them.
  double = x.astype(np.float64).repeat(2, axis=1).repeat(2, axis=2)
  double = np.pad(double, [(0, 0), (1, 1), (1, 1), (0, 0)])
  expected = np.asarray(own['bias'], np.float64) + np.zeros((2, 6, 8, 3))
  for i, j in itertools.product(range(3), repeat=2):
    kernel = np.asarray(own['kernel'][i, j], np.float64)
    expected += double[:, i : i + 6, j : j + 8] @ kernel
  np.testing.assert_allclose(
    jit(layer.apply)(variables, x), expected, rtol=1e-4, atol=1e-5
  )


def test_mlp_generator_is_linear_without_hidden_layers():
  generator = generators.MLPGenerator((2,), units=())
  noise = points(count=3, size=4)
  variables = filled(generator, noise)
  layer = jax.tree.map(np.asarray, variables['params']['output'])
  np.testing.assert_allclose(
    jit(generator.apply)(variables, noise),
    np.asarray(noise) @ layer['kernel'] + layer['bias'],
    rtol=1e-5,
  )


def test_wrong_image_shapes_are_named():
  with pytest.raises(ValueError, match=r'multiples of 4, got shape \(2, 3\)'):
    jax.eval_shape(
      energies.AutoencoderEnergy().init, jax.random.key(0), jnp.zeros((2, 3))
    )
  with pytest.raises(ValueError, match=r'got shape \(30, 30, 1\)'):
    jax.eval_shape(
      generators.ConvGenerator((30, 30, 1)).init,
      jax.random.key(0),
      jnp.zeros((2, 3)),
    )
