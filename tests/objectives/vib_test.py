"""The bottleneck's objective, term by term, against NumPy."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import special, stats
from sklearn import datasets

from dim_jax.objectives import vib
from dim_jax.training import parallel
from dim_jax.training import step as step_lib

N = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 1), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, -1], np.int32)
KNOWN = LABELS >= 0
# Most programs here run once: compiling is what takes the time.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


@pytest.fixture(autouse=True)
def _exact_products():
  # Accelerators multiply float32 at a lower precision unless told.
  with jax.default_matmul_precision('highest'):
    yield


def make_batch(images=IMAGES, labels=LABELS):
  return {'image': jnp.asarray(images), 'label': jnp.asarray(labels)}


def make_config(**changes):
  # A budget comes as pairs, as programs are kept by their changes.
  if isinstance(budget := changes.get('budget'), tuple):
    changes['budget'] = vib.Budget(**dict(budget))
  return vib.Config(**({'units': (8,), 'code': 3, 'num_classes': 3} | changes))


def make_variables(config, seed=1):
  """Parameters in which biases count too, without compiling a sampler."""
  objective = vib.make(config)
  params, model_state = jax.eval_shape(
    objective.init, jax.random.key(0), make_batch()
  )
  rng = np.random.default_rng(seed)

  def fill(x):
    scale = 1 / math.sqrt(math.prod(x.shape[:-1])) if x.ndim > 1 else 0.3
    return jnp.asarray(rng.normal(0, scale, x.shape), x.dtype)

  params = jax.tree.map(fill, params)
  state = {'encoder': jax.tree.map(jnp.ones_like, model_state['encoder'])}
  if 'beta' in model_state:
    state['beta'] = jnp.asarray(config.beta, jnp.float32)
  if 'steps' in model_state:
    state['steps'] = jnp.zeros((), jnp.int32)
  return params, state


@functools.cache
def compiled(**changes):
  config = make_config(**changes)
  objective = vib.make(config)
  evaluate = jit(jax.value_and_grad(objective.loss, has_aux=True))
  return config, make_variables(config), evaluate


def shifted(params, shift):
  """The parameters with sigma = softplus(rho + shift), for one program."""
  head = params['encoder']['head']['head']
  bias = head['bias'] + jnp.asarray([0.0] * 3 + [shift + 5] * 3)
  head = {'head': head | {'bias': bias}}
  return params | {'encoder': params['encoder'] | {'head': head}}


def quiet():
  """A network whose sigma is 2e-22: codes at their means, a rate by hand."""
  _, (params, state), evaluate = compiled(beta=0.1)
  return shifted(params, -50), state, evaluate


def linear(x, layer):
  kernel, bias = (np.asarray(layer[name]) for name in ('kernel', 'bias'))
  return np.asarray(x, np.float64) @ kernel + bias


def hidden_of(params, images=IMAGES):
  x = np.asarray(images, np.float64) / 127.5 - 1
  x = x.reshape(len(images), -1)
  return np.maximum(linear(x, params['encoder']['body']['fc_0']), 0)


def head_of(params, images=IMAGES, size=3):
  """The means and the rest of what the bottleneck's head puts out."""
  y = linear(hidden_of(params, images), params['encoder']['head']['head'])
  return y[:, :size], y[:, size:]


def decode(params, z):
  return linear(z, params['decoder']['logits'])


def cross_entropies(logits, labels):
  log_p = special.log_softmax(logits, axis=-1)
  return -np.take_along_axis(log_p, labels[:, None], -1)[:, 0]


def softplus(x):
  return np.logaddexp(0, x)


def gaussian_kl(mean, std, other_mean=0.0, other_std=1.0):
  """Nats an example, by moments of the other Gaussian."""
  square = std**2 + (mean - other_mean) ** 2
  each = np.log(other_std / std) + square / (2 * other_std**2) - 0.5
  return each.sum(-1)


def tree_close(a, b, **tolerances):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b
  )


def assert_finite(tree):
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def test_loss_is_cross_entropy_plus_beta_times_rate():
  params, state, evaluate = quiet()
  (loss, (metrics, new_state)), _ = evaluate(
    params, state, make_batch(), jax.random.key(0)
  )
  mean, rho = head_of(params)
  logits = decode(params, mean)
  cross_entropy = cross_entropies(logits[KNOWN], LABELS[KNOWN]).mean()
  accuracy = (logits[KNOWN].argmax(1) == LABELS[KNOWN]).mean()
  # ln softplus(t) = t, this far down. The unlabelled image counts here.
  rate = gaussian_kl(mean, np.exp(rho - 5)).mean()
  expected = {
    'decoder/cross_entropy': cross_entropy,
    'decoder/accuracy': accuracy,
    'encoder/rate': rate,
    'encoder/beta': 0.1,
  }
  assert set(metrics) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  np.testing.assert_allclose(loss, cross_entropy + 0.1 * rate, rtol=1e-5)
  assert new_state == state


def test_unlabelled_images_enter_the_rate_alone():
  params, state, evaluate = quiet()
  key = jax.random.key(0)
  (_, (first, _)), first_grads = evaluate(params, state, make_batch(), key)
  other = IMAGES.copy()
  other[-1] = 255 - other[-1]
  (_, (second, _)), second_grads = evaluate(
    params, state, make_batch(other), key
  )
  for name in ('decoder/cross_entropy', 'decoder/accuracy'):
    np.testing.assert_array_equal(first[name], second[name])
  tree_close(first_grads['decoder'], second_grads['decoder'], atol=0)
  assert abs(first['encoder/rate'] - second['encoder/rate']) > 1e-3
  # Without any label, the rate is all there is.
  (loss, (metrics, _)), grads = evaluate(
    params, state, make_batch(labels=np.full(N, -1, np.int32)), key
  )
  np.testing.assert_array_equal(metrics['decoder/cross_entropy'], 0)
  np.testing.assert_allclose(loss, 0.1 * metrics['encoder/rate'], rtol=1e-6)
  assert not any(np.any(x) for x in jax.tree.leaves(grads['decoder']))
  assert_finite(grads)


def test_label_beyond_the_classes_is_nan():
  # Under jit it cannot raise; a run stops at the metric instead.
  params, state, evaluate = quiet()
  labels = np.where(LABELS == 2, 3, LABELS)
  (loss, (metrics, _)), _ = evaluate(
    params, state, make_batch(labels=labels), jax.random.key(0)
  )
  assert np.isnan(loss)
  assert np.isnan(metrics['decoder/cross_entropy'])


def gradients_of_terms(params, state, evaluate):
  """The cross-entropy's gradient and, a unit of beta, the rate's."""
  batch, key = make_batch(), jax.random.key(0)
  _, without = evaluate(params, state | {'beta': jnp.zeros(())}, batch, key)
  _, with_rate = evaluate(params, state | {'beta': jnp.ones(())}, batch, key)
  return without, jax.tree.map(jnp.subtract, with_rate, without)


def check_head_gradient(params, grads, by_output, **tolerances):
  """`by_output` is the gradient by the head's outputs, [N, outputs]."""
  head = grads['encoder']['head']['head']
  np.testing.assert_allclose(head['bias'], by_output.sum(0), **tolerances)
  np.testing.assert_allclose(
    head['kernel'], hidden_of(params).T @ by_output, **tolerances
  )


def test_each_term_reaches_the_encoder_through_mean_and_sigma():
  # A wider sigma than the paper's, so that the noise has a say.
  _, (params, state), evaluate = compiled(beta=0.1)
  params = shifted(params, -1.0)
  cross_entropy, rate = gradients_of_terms(params, state, evaluate)
  # The rate by itself: d/dmu = mu, d/dsigma = sigma - 1 / sigma, over N.
  mean, rho = head_of(params)
  std = softplus(rho - 5)
  by_rho = (std - 1 / std) * special.expit(rho - 5)
  by_output = np.concatenate([mean, by_rho], 1) / N
  check_head_gradient(params, rate, by_output, rtol=1e-3, atol=1e-5)
  assert np.abs(rate['encoder']['body']['fc_0']['kernel']).max() > 1e-2
  tree_close(
    rate['decoder'], jax.tree.map(jnp.zeros_like, rate['decoder']), atol=1e-7
  )
  # The cross-entropy by itself: sigma feels it through the noise.
  head = np.asarray(cross_entropy['encoder']['head']['head']['kernel'])
  assert np.all(np.abs(head[:, :3]).max(0) > 1e-3)
  assert np.all(np.abs(head[:, 3:]).max(0) > 1e-4)
  assert np.abs(cross_entropy['encoder']['body']['fc_0']['kernel']).max() > 1e-3
  assert np.abs(cross_entropy['decoder']['logits']['kernel']).max() > 1e-3


def test_each_term_reaches_all_of_a_full_covariance():
  _, (params, state), evaluate = compiled(covariance='full', shift=-1.0)
  cross_entropy, rate = gradients_of_terms(params, state, evaluate)
  mean, rho = head_of(params)
  rho = rho.reshape(N, 3, 3)
  # |L|^2 / 2 - sum_i ln L_ii, L = softplus on the diagonal, rho / 100 below it.
  diagonal = np.diagonal(rho, axis1=1, axis2=2) - 1
  std = softplus(diagonal)
  by_rho = np.tril(0.01**2 * rho, -1)
  by_rho += np.eye(3) * ((std - 1 / std) * special.expit(diagonal))[:, None]
  by_output = np.concatenate([mean, by_rho.reshape(N, 9)], 1) / N
  check_head_gradient(params, rate, by_output, rtol=1e-3, atol=1e-6)
  head = np.asarray(cross_entropy['encoder']['head']['head']['bias'])
  by_rho = np.abs(head[3:].reshape(3, 3))
  assert by_rho[np.tril_indices(3)].min() > 1e-6
  np.testing.assert_array_equal(by_rho[np.triu_indices(3, 1)], 0)


def test_cross_entropy_is_that_of_codes_drawn_from_the_posterior():
  config, (params, state), _ = compiled(shift=0.0, samples=2)
  loss = jax.vmap(vib.make(config).loss, in_axes=(None, None, None, 0))
  keys = jax.random.split(jax.random.key(1), 1000)
  _, (metrics, _) = jit(loss)(params, state, make_batch(), keys)
  drawn = np.asarray(metrics['decoder/cross_entropy'])
  mean, rho = (x[KNOWN] for x in head_of(params))
  noise = np.random.default_rng(2).normal(size=(4000, *mean.shape))
  logits = decode(params, mean + softplus(rho) * noise)
  log_p = special.log_softmax(logits, axis=-1)
  expected = -log_p[:, np.arange(KNOWN.sum()), LABELS[KNOWN]].mean(1)
  standard_error = math.hypot(
    drawn.std() / math.sqrt(1000), expected.std() / math.sqrt(4000)
  )
  assert abs(drawn.mean() - expected.mean()) < 4 * standard_error
  # The noise shows: codes at their means would cost something else.
  at_mean = cross_entropies(decode(params, mean), LABELS[KNOWN]).mean()
  assert abs(expected.mean() - at_mean) > 10 * standard_error
  assert standard_error < 0.01


def test_log_of_mean_costs_less_for_the_same_codes():
  config = make_config(shift=0.0, samples=4)
  averaged = dataclasses.replace(config, log_of_mean=True)
  variables = make_variables(config)

  @jit
  def evaluate(key):
    return [
      vib.make(c).loss(*variables, make_batch(), key)[1][0]
      for c in (config, averaged)
    ]

  mean_of_log, log_of_mean = evaluate(jax.random.key(0))
  name = 'decoder/cross_entropy'
  assert log_of_mean[name] < mean_of_log[name] - 1e-3
  for name in ('decoder/accuracy', 'encoder/rate'):
    np.testing.assert_allclose(log_of_mean[name], mean_of_log[name], rtol=1e-6)


@pytest.mark.parametrize('code', [3, None])
def test_baseline_has_no_noise_and_no_rate(code):
  config = make_config(
    covariance='none',
    code=code,
    label_smoothing=0.1,
    smoothing_definition='zeros',
    confidence_penalty=0.5,
    confidence_threshold=0.9,
  )
  params, state = make_variables(config)
  assert set(params) == {'encoder', 'decoder'}
  assert set(state) == {'encoder'}
  assert ('head' in params['encoder']) == (code is not None)
  # Surer of some images than the threshold.
  params['decoder'] = jax.tree.map(lambda x: 3 * x, params['decoder'])
  loss = jit(vib.make(config).loss)
  value, (metrics, _) = loss(params, state, make_batch(), jax.random.key(0))
  again, _ = loss(params, state, make_batch(), jax.random.key(1))
  assert value == again
  x = hidden_of(params)
  if code:
    x = linear(x, params['encoder']['head'])
  logits = decode(params, x)[KNOWN]
  log_p = special.log_softmax(logits, axis=1)
  # The true class has 1 / (1 + 2 / 10), the others a tenth of that.
  targets = np.where(np.eye(3)[LABELS[KNOWN]] > 0, 1, 0.1) / 1.2
  cross_entropy = -(targets * log_p).sum(1).mean()
  entropy = -(np.exp(log_p) * log_p).sum(1)
  penalty = np.maximum(0.9 - entropy, 0).mean()
  # The hinge acts on some of them.
  assert 0 < (entropy < 0.9).mean() < 1
  expected = {
    'decoder/cross_entropy': cross_entropy,
    'decoder/confidence_penalty': penalty,
    'decoder/accuracy': (logits.argmax(1) == LABELS[KNOWN]).mean(),
  }
  assert set(metrics) == set(expected)
  for name, number in expected.items():
    np.testing.assert_allclose(metrics[name], number, rtol=1e-5, err_msg=name)
  np.testing.assert_allclose(value, cross_entropy + 0.5 * penalty, rtol=1e-5)


def test_dropout_acts_in_training_alone():
  config = make_config(covariance='none', code=None, dropout=0.5)
  variables = make_variables(config)
  loss = jit(vib.make(config).loss)
  values = {
    float(loss(*variables, make_batch(), jax.random.key(i))[0])
    for i in range(3)
  }
  assert len(values) == 3
  logits = jit(functools.partial(vib.make(config).logits, samples=12))(
    variables, {'image': IMAGES}, jax.random.key(0)
  )
  assert logits.shape == (1, N, 3)
  expected = decode(variables[0], hidden_of(variables[0]))
  np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-5)


def test_dual_ascent_moves_beta_towards_the_budget():
  _, (params, state), evaluate = compiled(
    beta=0.2,
    budget=(('nats', 15.0), ('constraint', 'dual'), ('dual_rate', 0.01)),
  )

  def betas_of(params, steps):
    mean, rho = head_of(params)
    rate = gaussian_kl(mean, softplus(rho - 5)).mean()
    beta, current, moved = 0.2, state, []
    for t in range(steps):
      (loss, (metrics, current)), _ = evaluate(
        params, current, make_batch(), jax.random.key(t)
      )
      # All of the rate is weighed, with the beta from before the update.
      np.testing.assert_allclose(metrics['encoder/beta'], beta, rtol=1e-5)
      np.testing.assert_allclose(
        loss, metrics['decoder/cross_entropy'] + beta * rate, rtol=1e-5
      )
      beta = max(beta + 0.01 * (rate - 15), 0)
      np.testing.assert_allclose(current['beta'], beta, rtol=1e-4, atol=1e-7)
      moved.append(beta)
    return moved

  # Above the budget beta rises.
  up = betas_of(shifted(params, -7), 3)
  assert 0.2 < up[0] < up[1] < up[2]
  # Below it falls, and stays at nothing.
  down = betas_of(shifted(params, 0.0), 3)
  assert 0 < down[0] < 0.1
  assert down[1:] == [0, 0]


def test_warmup_and_the_hinge_on_each_examples_rate():
  mean, rho = head_of(make_variables(make_config())[0])
  rates = gaussian_kl(mean, softplus(rho - 5))
  budget = float(np.median(rates))
  _, (params, state), evaluate = compiled(
    beta=0.3, beta_warmup=3, budget=(('nats', budget),)
  )
  # The hinge acts on an example: that of the mean rate is another number.
  excess = np.maximum(rates - budget, 0).mean()
  assert excess > 1.2 * max(rates.mean() - budget, 0)
  for step, beta in enumerate((0.1, 0.2, 0.3, 0.3), 1):
    (loss, (metrics, state)), _ = evaluate(
      params, state, make_batch(), jax.random.key(0)
    )
    assert state['steps'] == step
    np.testing.assert_allclose(metrics['encoder/beta'], beta, rtol=1e-6)
    # What is reported is the rate itself.
    np.testing.assert_allclose(metrics['encoder/rate'], rates.mean(), rtol=1e-5)
    np.testing.assert_allclose(
      loss - metrics['decoder/cross_entropy'], beta * excess, rtol=1e-4
    )
  np.testing.assert_allclose(state['beta'], 0.3)


def test_class_marginal_is_the_conditional_entropy_bottleneck():
  # Class 3 has no example.
  _, (params, state), evaluate = compiled(
    marginal='class', num_classes=4, beta=0.4
  )
  (loss, (metrics, _)), grads = evaluate(
    params, state, make_batch(), jax.random.key(0)
  )
  mean, rho = (x[KNOWN] for x in head_of(params))
  labels = LABELS[KNOWN]
  centres = np.asarray(params['marginal']['mean'], np.float64)
  spreads = np.exp(np.asarray(params['marginal']['log_std'], np.float64))
  assert centres.shape == spreads.shape == (4, 3)
  rate = gaussian_kl(
    mean, softplus(rho - 5), centres[labels], spreads[labels]
  ).mean()
  np.testing.assert_allclose(metrics['encoder/rate'], rate, rtol=1e-5)
  np.testing.assert_allclose(
    loss, metrics['decoder/cross_entropy'] + 0.4 * rate, rtol=1e-5
  )
  # d KL / d m = (m - mu) / s^2, of the class's own examples.
  expected = np.zeros((4, 3))
  np.add.at(expected, labels, (centres[labels] - mean) / spreads[labels] ** 2)
  np.testing.assert_allclose(
    grads['marginal']['mean'],
    0.4 * expected / len(labels),
    rtol=1e-4,
    atol=1e-6,
  )


def test_class_marginal_of_a_full_covariance_is_sampled():
  # One draw's rate is noisy; its mean over many draws is the closed form.
  _, (params, state), evaluate = compiled(
    marginal='class', covariance='full', shift=-1.0, samples=4000
  )
  batch = {'image': IMAGES[:3], 'label': jnp.asarray(LABELS[:3])}
  (_, (metrics, _)), _ = evaluate(params, state, batch, jax.random.key(0))
  mean, rho = head_of(params, IMAGES[:3])
  rho = rho.reshape(3, 3, 3)
  rates = []
  for i in range(3):
    chol = np.tril(0.01 * rho[i], -1) + np.diag(softplus(np.diag(rho[i]) - 1))
    centre = np.asarray(params['marginal']['mean'][LABELS[i]], np.float64)
    prior_std = np.exp(np.asarray(params['marginal']['log_std'][LABELS[i]]))
    precision = np.diag(prior_std.astype(np.float64) ** -2)
    apart = mean[i] - centre
    expected = np.trace(precision @ chol @ chol.T) + apart @ precision @ apart
    expected -= (
      3 + 2 * np.log(np.diag(chol)).sum() - 2 * np.log(prior_std).sum()
    )
    rates.append(expected / 2)
  # ln p - ln r of a draw deviates by about a nat.
  np.testing.assert_allclose(
    metrics['encoder/rate'], np.mean(rates), atol=4 * 1.5 / 63
  )


def test_learned_marginal():
  config, (params, state), evaluate = compiled(marginal='learned', beta=0.4)
  (_, (metrics, _)), grads = evaluate(
    params, state, make_batch(), jax.random.key(0)
  )
  mean, rho = head_of(params)
  std = softplus(rho - 5)
  centre = np.asarray(params['marginal']['mean'], np.float64)
  prior_std = np.exp(np.asarray(params['marginal']['log_std'], np.float64))
  assert centre.shape == prior_std.shape == (1, 3)
  rates = gaussian_kl(mean, std, centre, prior_std)
  np.testing.assert_allclose(metrics['encoder/rate'], rates.mean(), rtol=1e-5)
  # d KL / d ln s = 1 - (sigma^2 + (mu - m)^2) / s^2.
  by_log_std = 1 - (std**2 + (mean - centre) ** 2) / prior_std**2
  np.testing.assert_allclose(
    grads['marginal']['log_std'][0], 0.4 * by_log_std.mean(0), rtol=1e-3
  )
  # The closed form draws nothing.
  value = jit(functools.partial(vib.make(config).rate, samples=12))(
    (params, state), make_batch(), jax.random.key(0)
  )
  np.testing.assert_allclose(value, rates, rtol=1e-5)


@pytest.mark.parametrize('marginal', ['mixture', 'vamp', 'class'])
def test_marginals_without_a_closed_form(marginal):
  config = make_config(
    marginal=marginal, components=5, num_classes=5, shift=-1.0
  )
  params, state = make_variables(config)
  shapes = jax.tree.map(jnp.shape, params['marginal'])
  if marginal != 'vamp':
    # Labels are not read: all of the five classes are as probable.
    logits = {'logits': (5,)} if marginal == 'mixture' else {}
    assert shapes == {'mean': (5, 3), 'log_std': (5, 3), **logits}
    centres, log_spreads = (
      np.asarray(params['marginal'][name]) for name in ('mean', 'log_std')
    )
  else:
    assert shapes == {'images': (5, 4, 4, 1), 'logits': (5,)}
    pseudo = np.tanh(np.asarray(params['marginal']['images'], np.float64))
    # In -1..1 already; `head_of` takes 0..255.
    centres, rho = head_of(params, (pseudo + 1) * 127.5)
    log_spreads = np.log(softplus(rho - 1))

  @jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def evaluate(own, key):
    rate = vib.make(config).rate(
      (params | {'marginal': own}, state),
      {'image': jnp.asarray(IMAGES[:2])},
      key,
      samples=8000,
    )
    return rate.mean(), rate

  (_, rate), grads = evaluate(params['marginal'], jax.random.key(0))
  assert_finite(grads)
  for leaf in jax.tree.leaves(grads):
    assert np.abs(leaf).max() > 1e-3
  # NumPy's draws are other ones, of which there are as many.
  mean, rho = head_of(params, IMAGES[:2])
  std = softplus(rho - 1)
  z = mean + std * np.random.default_rng(3).normal(size=(8000, 2, 3))
  log_p = stats.norm.logpdf(z, mean, std).sum(-1)
  each = stats.norm.logpdf(z[:, :, None], centres, np.exp(log_spreads)).sum(-1)
  own = params['marginal'].get('logits', np.zeros(5))
  logits = np.asarray(own, np.float64)
  log_r = special.logsumexp(each + special.log_softmax(logits), axis=-1)
  standard_error = (log_p - log_r).std(0) * math.sqrt(2 / 8000)
  assert standard_error.max() < 0.06
  assert np.all(np.abs(rate - (log_p - log_r).mean(0)) < 4 * standard_error)


def rows_used(noise):
  return np.unique(np.asarray(noise).reshape(-1, noise.shape[-1]), axis=0)


def test_shared_noise_gives_an_example_different_rows_of_the_batch():
  config = make_config(samples=5)
  noise = vib._noise(config, jax.random.key(0), (12, 3), None)
  assert noise.shape == (5, 12, 3)
  # An example's samples are 5 different rows, and each row serves 5 examples.
  for i in range(12):
    assert len(rows_used(noise[:, i])) == 5
  _, times = np.unique(
    np.asarray(noise).reshape(-1, 3), axis=0, return_counts=True
  )
  assert times.tolist() == [5] * 12
  # Within one sample every example has a row of its own.
  for sample in noise:
    assert len(rows_used(sample)) == 12


@pytest.mark.parametrize('count', [2000, 2])
def test_noise_is_standard_normal_and_independent_over_samples(count):
  # More samples than examples cannot share.
  config = make_config(samples=3)
  noise = vib._noise(config, jax.random.key(0), (count, 2), None)
  assert noise.shape == (3, count, 2)
  if count == 2:
    assert len(rows_used(noise)) == 3 * count
    return
  for sample in np.asarray(noise):
    assert stats.kstest(sample.ravel(), 'norm').pvalue > 0.01
  # Correlations of 2000 independent draws deviate by 0.022.
  flat = np.concatenate(list(noise), axis=1)
  correlations = np.corrcoef(flat.T) - np.eye(6)
  assert np.abs(correlations).max() < 4 / math.sqrt(count)


def test_noise_that_is_not_shared_is_all_its_own():
  config = make_config(samples=5, share_noise=False)
  noise = vib._noise(config, jax.random.key(0), (12, 3), None)
  assert len(rows_used(noise)) == 5 * 12


class OwnEncoder(nn.Module):
  """A user's module, whose batch statistics span the devices."""

  axis_name: Any = None

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(8)(images.reshape(images.shape[0], -1))
    x = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, axis_name=self.axis_name
    )(x)
    return {'features': nn.relu(x)}


def test_learned_images_are_read_by_the_statistics_of_real_ones():
  changes = {'encoder': OwnEncoder(), 'feature': 'features'}
  values = {}
  for marginal in ('normal', 'vamp'):
    _, (params, state), evaluate = compiled(**changes, marginal=marginal)
    for scale in (1.0, 4.0):
      grown = functools.partial(jnp.multiply, scale)
      mine = {'encoder': jax.tree.map(grown, state['encoder'])}
      values[marginal, scale] = evaluate(
        params, state | mine, make_batch(), jax.random.key(0)
      )[0][0]
  # A batch has its own statistics; what it is compared with has the running.
  assert values['normal', 1.0] == values['normal', 4.0]
  assert values['vamp', 1.0] != values['vamp', 4.0]


def on_devices(config, form):
  """The loss and its gradients on eight devices, an image on each."""
  axis_name = 'data' if form == 'pmap' else None
  objective = vib.make(config, axis_name=axis_name)
  evaluate = jax.value_and_grad(objective.loss, has_aux=True)
  if form == 'jit':
    replicated, split = parallel.shardings(parallel.make_mesh(8))
    return jit(
      evaluate, in_shardings=(replicated, replicated, split, replicated)
    )

  def on_each(params, state, batch, key):
    value, grads = evaluate(params, state, batch, key)
    return value, jax.lax.pmean(grads, axis_name)

  mapped = jax.pmap(
    on_each, axis_name, in_axes=(None, None, 0, None), out_axes=None
  )
  return lambda params, state, batch, key: mapped(
    params, state, {name: x[:, None] for name, x in batch.items()}, key
  )


@pytest.mark.parametrize(
  ('changes', 'forms'),
  [
    # All that averages over the labelled images alone.
    ({'marginal': 'class', 'num_classes': 4, 'beta': 0.4}, ['jit', 'pmap']),
    (
      {
        'encoder': OwnEncoder(),
        'feature': 'features',
        'marginal': 'vamp',
        'samples': 3,
        'confidence_penalty': 0.1,
        'beta': 0.3,
        'budget': (('nats', 1.0), ('constraint', 'dual'), ('dual_rate', 0.1)),
        'shift': -1.0,
      },
      ['pmap'],
    ),
  ],
  ids=['class', 'vamp'],
)
def test_loss_on_eight_devices_is_that_on_one(changes, forms):
  config, variables, evaluate = compiled(**changes)
  arguments = (*variables, make_batch(), jax.random.key(0))
  one = evaluate(*arguments)
  assert_finite(one)
  for leaf in jax.tree.leaves(one[1]['marginal']):
    assert np.abs(leaf).max() > 1e-5
  for form in forms:
    other = on_devices(config, form)(*arguments)
    tree_close(one, other, rtol=1e-4, atol=1e-5)


def test_encode_and_posterior_describe_the_code():
  config = make_config(covariance='full', shift=0.0)
  variables = make_variables(config)
  batch = make_batch()

  @jit
  def evaluate(variables, images):
    objective, batch = vib.make(config), {'image': images}
    features = objective.encode(*variables, batch)
    return features, objective.posterior(variables, batch)

  features, posterior = evaluate(variables, batch['image'])
  assert set(features) == {'fc', 'y', 'std', 'logits'}
  mean, _ = head_of(variables[0])
  np.testing.assert_allclose(features['fc'], hidden_of(variables[0]), rtol=1e-4)
  np.testing.assert_allclose(features['y'], mean, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(posterior.mean, mean, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    features['logits'], decode(variables[0], mean), rtol=1e-4, atol=1e-5
  )
  chol = np.asarray(posterior.scale, np.float64)
  variances = np.diagonal(chol @ chol.transpose(0, 2, 1), axis1=1, axis2=2)
  np.testing.assert_allclose(features['std'], np.sqrt(variances), rtol=1e-5)
  # Floats in [-1, 1] are the same images.
  floats = batch['image'] / jnp.float32(127.5) - 1
  tree_close(evaluate(variables, floats)[0], features, rtol=1e-5, atol=1e-6)


def test_logits_of_samples_and_at_the_mean():
  config = make_config(shift=0.0)
  variables = make_variables(config)
  logits = jit(vib.make(config).logits, static_argnums=3)
  params = variables[0]
  mean, rho = head_of(params)
  at_mean = logits(variables, {'image': IMAGES}, jax.random.key(0), 0)
  assert at_mean.shape == (1, N, 3)
  np.testing.assert_allclose(
    at_mean[0], decode(params, mean), rtol=1e-4, atol=1e-5
  )
  many = np.asarray(
    logits(variables, {'image': IMAGES}, jax.random.key(1), 4000), np.float64
  )
  assert many.shape == (4000, N, 3)
  # A linear decoder's logits are Gaussian too, with W diag(sigma^2) W^T.
  kernel = np.asarray(params['decoder']['logits']['kernel'], np.float64)
  deviation = np.sqrt(softplus(rho) ** 2 @ kernel**2)
  error = (many.mean(0) - decode(params, mean)) / deviation
  assert np.abs(error).max() < 4 / math.sqrt(4000)
  np.testing.assert_allclose(many.std(0), deviation, rtol=4 / math.sqrt(8000))


def test_deterministic_network_has_one_sample_and_no_posterior():
  config = make_config(covariance='none')
  variables = make_variables(config)
  key = jax.random.key(0)
  objective = vib.make(config)
  logits = objective.logits(variables, {'image': jnp.asarray(IMAGES)}, key, 5)
  assert logits.shape == (1, N, 3)
  assert objective.posterior is None
  assert objective.rate is None


def test_fresh_network_starts_almost_deterministic():
  config = make_config(code=256, marginal='mixture', beta_warmup=5, beta=0.01)
  params, state = jit(vib.make(config).init)(jax.random.key(0), make_batch())
  assert set(params) == {'encoder', 'decoder', 'marginal'}
  assert set(state) == {'encoder', 'beta', 'steps'}
  np.testing.assert_allclose(state['beta'], 0.01)
  assert state['steps'] == 0
  # Components begin apart from each other, and equally likely.
  assert len(rows_used(params['marginal']['mean'])) == 10
  np.testing.assert_array_equal(params['marginal']['logits'], 0)
  # sigma = softplus(-5) = 0.0067, 4.5 nats a dimension: 1665 bits of 256.
  mean, rho = head_of(params, size=256)
  bits = gaussian_kl(mean, softplus(rho - 5)).mean() / math.log(2)
  assert 1600 < bits < 1900


def test_the_papers_network():
  objective = vib.make(vib.Config())
  batch = {'image': np.zeros((2, 28, 28, 1), np.uint8)}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
  assert sum(x.size for x in jax.tree.leaves(params)) == 2_380_810


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'covariance': 'low_rank'}, r"covariance .*'none', got 'low_rank'"),
    ({'scale': 'exp'}, r"scale must be one of .*'softplus'.*, got 'exp'"),
    ({'marginal': 'flow'}, r"marginal must be one of .*'vamp'.*, got 'flow'"),
    (
      {'budget': vib.Budget(constraint='soft')},
      r"budget.constraint must be one of 'hinge', 'dual', got 'soft'",
    ),
    ({'smoothing_definition': 'x'}, r"smoothing_definition .*'zeros', got"),
    ({'beta': -1e-3}, r'objective\.beta must be >= 0, got -0.001'),
    ({'beta': math.nan}, r'objective\.beta must be >= 0, got nan'),
    ({'beta_warmup': -1}, r'beta_warmup must be a whole number >= 0, got -1'),
    (
      {'budget': vib.Budget(dual_rate=-1.0)},
      r'dual_rate must be >= 0, got -1.0',
    ),
    ({'confidence_penalty': -0.5}, r'confidence_penalty must be >= 0, got'),
    ({'samples': 0}, r'samples must be a whole number >= 1, got 0'),
    ({'components': 0}, r'components must be a whole number >= 1, got 0'),
    ({'num_classes': 1}, r'num_classes must be a whole number >= 2, got 1'),
    ({'dropout': 1.0}, r'dropout must be in \[0, 1\), got 1.0'),
    ({'dropout': -0.1}, r'dropout must be in \[0, 1\), got -0.1'),
    ({'dropout': 0.1, 'encoder': 'small32'}, r"acts on encoder='mlp' alone"),
    ({'label_smoothing': 1.0}, r'label_smoothing must be in \[0, 1\), got 1'),
    ({'code': None}, r"code is None, .*covariance='none'"),
    ({'code': 0}, r'code must be a whole number >= 1 or None, got 0'),
    (
      {'covariance': 'full', 'marginal': 'vamp'},
      r"marginal='vamp' .* takes objective\.covariance='diagonal', got 'full'",
    ),
    (
      {'covariance': 'full', 'scale': 'unit'},
      r"covariance='full' takes objective\.scale='softplus', got 'unit'",
    ),
    ({'budget': vib.Budget(nats=-1.0)}, r'budget.nats must be >= 0, got -1.0'),
    ({'budget': vib.Budget(nats=math.nan)}, r'budget.nats .* got nan'),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    vib.make(make_config(**changes))


def test_what_is_missing_is_named():
  objective = vib.make(make_config(feature='conv'))
  with pytest.raises(ValueError, match=r"feature is 'conv', .* \['fc'\]"):
    jax.eval_shape(objective.init, jax.random.key(0), make_batch())
  config = make_config()
  variables = make_variables(config)
  with pytest.raises(ValueError, match=r"needs batch\['label'\]"):
    vib.make(config).loss(*variables, {'image': IMAGES}, jax.random.key(0))
  with pytest.raises(ValueError, match=r'0 for the mean code, got -1'):
    vib.make(config).logits(variables, make_batch(), jax.random.key(0), -1)


def test_a_higher_beta_gives_a_lower_rate():
  digits = datasets.load_digits()
  images = jnp.asarray(digits.images[:500, :, :, None] / 8 - 1, jnp.float32)
  labels = jnp.asarray(digits.target[:500], jnp.int32)
  config = vib.Config(units=(32,), code=8)
  objective, optimizer = vib.make(config), optax.adam(3e-3)
  params, model_state = jax.eval_shape(
    objective.init, jax.random.key(0), {'image': images}
  )
  rng = np.random.default_rng(5)
  params = jax.tree.map(
    lambda x: jnp.asarray(
      rng.normal(0, x.shape[0] ** -0.5, x.shape) * (x.ndim > 1), jnp.float32
    ),
    params,
  )
  rows = jnp.asarray(rng.integers(0, 500, (600, 100)))

  def train(beta):
    """Metrics on the training images, at a beta that is data."""
    state = step_lib.TrainState(
      jnp.zeros((), jnp.int32),
      params,
      model_state | {'beta': beta},
      optimizer.init(params),
      jax.random.key(0),
    )

    def step(state, rows):
      batch = {'image': images[rows], 'label': labels[rows]}
      return step_lib.train_step(
        state, batch, objective=objective, optimizer=optimizer
      )[0], None

    state, _ = jax.lax.scan(step, state, rows)
    variables = state.params, state.model_state
    batch = {'image': images}
    logits = objective.logits(variables, batch, jax.random.key(1), 12)
    rate = objective.posterior(variables, batch).rate().mean()
    p = jax.nn.softmax(logits).mean(0)
    log_p = jax.nn.log_softmax(logits).mean(0)
    cross_entropy = -log_p[jnp.arange(500), labels].mean()
    return (p.argmax(1) == labels).mean(), cross_entropy, rate

  betas = jnp.asarray([1e-3, 0.03, 0.2, 2.0])
  accuracy, cross_entropy, rate = map(
    np.asarray, jax.jit(jax.vmap(train))(betas)
  )
  entropy = stats.entropy(np.bincount(labels))
  assert accuracy[0] > 0.97
  assert accuracy[1] > 0.9
  assert np.all(rate[1:] < 0.75 * rate[:-1])
  assert np.all(np.diff(cross_entropy) > 0)
  # The rate bounds what the code says of the image, and so of its label.
  assert np.all(rate >= entropy - cross_entropy)
  # A nat of the label costs a nat of the image at least: above a beta of 1
  # nothing is worth remembering.
  assert rate[-1] < 0.05
  np.testing.assert_allclose(cross_entropy[-1], entropy, atol=0.03)
