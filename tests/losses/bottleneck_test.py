"""Rate and distortion against NumPy in float64, quadrature and sampling."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from dim_jax.losses import bottleneck
from tests.losses.reference import as_float32

# Compiled: op by op, XLA would compile each of their operations by itself.
rate_by_dimension = jax.jit(bottleneck.rate_by_dimension)
rate_diagonal = jax.jit(bottleneck.rate_diagonal)
rate_cholesky = jax.jit(bottleneck.rate_cholesky)
rate_monte_carlo = jax.jit(bottleneck.rate_monte_carlo)
label_entropy = jax.jit(bottleneck.label_entropy)
log_normal = jax.jit(bottleneck.log_normal)
log_mixture = jax.jit(bottleneck.log_mixture)
smooth_labels = jax.jit(bottleneck.smooth_labels, static_argnums=(1, 2, 3))
distortion = jax.jit(
  bottleneck.distortion,
  static_argnames=('log_of_mean', 'smoothing', 'smoothing_definition'),
)


def multivariate_kl(mean, covariance, other_mean, other_covariance):
  """The textbook KL of two Gaussians, from determinants and inverses."""
  inverse = np.linalg.inv(other_covariance)
  apart = other_mean - mean
  log_determinants = (
    np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
  )
  trace = np.trace(inverse @ covariance)
  return (trace + apart @ inverse @ apart - len(mean) + log_determinants) / 2


# ln softplus(t) and its slope in float64, where softplus is 0 below -745.
def log_softplus(t):
  low, high = np.minimum(t, -30), np.maximum(t, -30)
  return np.where(t < -30, low - np.exp(low) / 2, np.log(np.logaddexp(0, high)))


def log_softplus_slope(t):
  return special.expit(t) / np.exp(log_softplus(t)) if t > -700 else 1.0


@functools.cache
def scale_with_slopes(name):
  scale = getattr(bottleneck, name)
  return jax.jit(
    jax.vmap(
      lambda rho: (
        *jax.value_and_grad(lambda r: scale(r)[0])(rho),
        *jax.value_and_grad(lambda r: scale(r)[1])(rho),
      )
    )
  )


def test_softplus_scale_is_that_of_float64_everywhere():
  rho = np.array([-1e4, -200, -100, -93, -15, -10, -5, 0, 50, 1e4])
  std, std_slope, log_std, log_slope = scale_with_slopes('softplus_scale')(
    *as_float32(rho)
  )
  t = rho - 5
  # Below about e^-87 a float32 may be flushed to 0: the logarithm is what is
  # exact.
  np.testing.assert_allclose(std, np.logaddexp(0, t), rtol=2e-6, atol=2e-38)
  np.testing.assert_allclose(std_slope, special.expit(t), rtol=2e-6, atol=2e-38)
  np.testing.assert_allclose(log_std, log_softplus(t), rtol=2e-7, atol=2e-7)
  np.testing.assert_allclose(
    log_slope, [log_softplus_slope(x) for x in t], rtol=1e-6
  )
  assert np.all(np.asarray(log_slope) > 0)


def test_log_softplus_joins_where_its_two_forms_meet():
  # rho - 5 = -10 at the switch, with floats right beside it.
  near = np.nextafter(np.float32(-5), np.float32([-9, -5, 0]))
  rho = np.concatenate([np.linspace(-8, -2, 61), near]).astype(np.float32)
  _, _, log_std, slope = scale_with_slopes('softplus_scale')(jnp.asarray(rho))
  t = rho.astype(np.float64) - 5
  # An ulp of 10 is 1e-6.
  np.testing.assert_allclose(log_std, log_softplus(t), atol=2e-6)
  np.testing.assert_allclose(
    slope, [log_softplus_slope(x) for x in t], atol=5e-7
  )


def test_softplus_shift():
  std, log_std = bottleneck.softplus_scale(jnp.asarray([0.3]), shift=0.57)
  np.testing.assert_allclose(std, np.logaddexp(0, [0.87]), rtol=1e-6)
  np.testing.assert_allclose(log_std, log_softplus(np.array([0.87])), rtol=1e-5)


def test_log_variance_scale():
  values = np.array([-1e4, -60, -3, -1e-3, 0, 1e-3, 2, 60, 1e4])
  std, std_slope, log_std, log_slope = scale_with_slopes('log_variance_scale')(
    *as_float32(values)
  )
  expected = 10 * np.tanh(values / 20)
  np.testing.assert_allclose(log_std, expected, rtol=1e-6)
  np.testing.assert_allclose(std, np.exp(expected), rtol=1e-5)
  slope = 0.5 / np.cosh(np.clip(values, -1e3, 1e3) / 20) ** 2
  np.testing.assert_allclose(log_slope, slope, rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(
    std_slope, slope * np.exp(expected), rtol=1e-4, atol=1e-3
  )
  # A log-variance near 0 passes as it is, and sigma = 1 is where a head starts.
  np.testing.assert_allclose(log_std[3:6], values[3:6] / 2, rtol=1e-5)
  assert float(std[4]) == 1
  _, bounded = bottleneck.log_variance_scale(jnp.asarray([1e6]), bound=4.0)
  np.testing.assert_allclose(bounded, 2)


MEAN = np.array([[0.5, -1.0], [0.0, 2.0], [-0.7, 0.1]])
STD = np.array([[1.2, 0.3], [1.0, 0.8], [0.05, 2.0]])


@pytest.mark.parametrize(
  ('marginal_mean', 'marginal_std'),
  [
    (0.0, 1.0),
    (0.4, 1.7),
    (np.array([[0.5, -2.0]]), np.array([[0.6, 1.5]])),
    # Another one for each example, as of its class.
    (np.array([[0.5, -2.0]] * 2 + [[0.0, 1.0]]), np.full((3, 2), 0.9)),
  ],
)
def test_rate_by_dimension_against_quadrature(marginal_mean, marginal_std):
  def one_dimension(mean, std, other_mean, other_std):
    code, marginal = stats.norm(mean, std), stats.norm(other_mean, other_std)
    return integrate.quad(
      lambda z: code.pdf(z) * (code.logpdf(z) - marginal.logpdf(z)),
      mean - 12 * std,
      mean + 12 * std,
      points=[mean],
    )[0]

  expected = np.vectorize(one_dimension)(MEAN, STD, marginal_mean, marginal_std)
  mean, std = as_float32(MEAN, STD)
  if isinstance(marginal_mean, float):
    marginal = {
      'marginal_mean': marginal_mean,
      'marginal_log_std': math.log(marginal_std),
    }
  else:
    marginal = {
      'marginal_mean': jnp.asarray(marginal_mean, jnp.float32),
      'marginal_log_std': jnp.asarray(np.log(marginal_std), jnp.float32),
    }
  rate = rate_by_dimension(mean, std, **marginal)
  np.testing.assert_allclose(rate, expected, rtol=2e-5, atol=2e-6)
  # One number an example: a sum, not an average, over its dimensions.
  total = rate_diagonal(mean, std, **marginal)
  np.testing.assert_allclose(total, expected.sum(1), rtol=2e-5)


def test_rate_is_zero_at_the_marginal_and_its_slope_the_closed_form():
  ones, zeros = jnp.ones((2, 3)), jnp.zeros((2, 3))
  np.testing.assert_array_equal(rate_diagonal(zeros, ones), 0)
  mean, std = as_float32(MEAN, STD)
  to_mean, to_std = jax.jit(
    jax.grad(lambda m, s: bottleneck.rate_diagonal(m, s).sum(), (0, 1))
  )(mean, std)
  # d/dm (m^2 + s^2) / 2 - ln s = m, and by s: s - 1 / s.
  np.testing.assert_allclose(to_mean, MEAN, rtol=1e-6)
  np.testing.assert_allclose(to_std, STD - 1 / STD, rtol=1e-5, atol=1e-6)


def test_rate_of_a_vanishing_sigma_is_finite():
  # softplus(-105) is 0 in float32, its logarithm is not.
  def rate(rho):
    std, log_std = bottleneck.softplus_scale(rho)
    return bottleneck.rate_diagonal(jnp.ones((1, 2)), std, log_std).sum()

  value, slope = jax.jit(jax.value_and_grad(rate))(jnp.full((1, 2), -100.0))
  # (0 + 1 - 1) / 2 + 105, each; the slope is that of -ln sigma.
  np.testing.assert_allclose(value, 2 * 105, rtol=1e-6)
  np.testing.assert_allclose(slope, -1, rtol=1e-6)


def test_rate_shapes_are_checked():
  mean = jnp.zeros((4, 3))
  for std, log_std, marginal, message in (
    (jnp.ones((4, 1)), None, {}, r'std must .*\(4, 3\), got \(4, 1\)'),
    (jnp.ones(3), None, {}, r'std must .*\(4, 3\), got \(3,\)'),
    (jnp.ones((4, 3)), jnp.zeros((1, 3)), {}, r'log_std .*got \(1, 3\)'),
    (
      jnp.ones((4, 3)),
      None,
      {'marginal_mean': jnp.zeros((1, 2))},
      r'marginal_mean \(1, 2\) has 2 dim.* \(4, 3\) has 3',
    ),
    (
      jnp.ones((4, 3)),
      None,
      {'marginal_log_std': jnp.zeros((1, 5))},
      r'marginal_log_std \(1, 5\) has 5 dim.* \(4, 3\) has 3',
    ),
  ):
    for rate in (bottleneck.rate_by_dimension, bottleneck.rate_diagonal):
      with pytest.raises(ValueError, match=message):
        rate(mean, std, log_std, **marginal)


def cholesky_factors(seed, count, size):
  rng = np.random.default_rng(seed)
  factors = np.tril(rng.normal(size=(count, size, size)), -1)
  return factors + np.eye(size) * rng.uniform(0.2, 1.5, (count, 1, size))


@pytest.mark.parametrize('with_mean', [False, True])
@pytest.mark.parametrize('with_chol', [False, True])
def test_rate_cholesky_against_determinants_and_inverses(with_mean, with_chol):
  size = 3
  mean = np.random.default_rng(0).normal(size=(4, size))
  chol = cholesky_factors(1, 4, size)
  other_mean = np.array([0.3, -1.0, 2.0]) if with_mean else np.zeros(size)
  other_chol = cholesky_factors(2, 1, size)[0] if with_chol else np.eye(size)
  expected = [
    multivariate_kl(m, c @ c.T, other_mean, other_chol @ other_chol.T)
    for m, c in zip(mean, chol, strict=True)
  ]
  marginal = {}
  if with_mean:
    marginal['marginal_mean'] = jnp.asarray(other_mean, jnp.float32)
  if with_chol:
    marginal['marginal_chol'] = jnp.asarray(other_chol, jnp.float32)
  rate = rate_cholesky(*as_float32(mean, chol), **marginal)
  np.testing.assert_allclose(rate, expected, rtol=3e-5)


def test_rate_cholesky_of_a_diagonal_is_the_diagonal_rate():
  mean, std = as_float32(MEAN, STD)
  chol = jnp.eye(2)[None] * std[:, :, None]
  np.testing.assert_allclose(
    rate_cholesky(mean, chol),
    rate_diagonal(mean, std),
    rtol=1e-6,
  )
  # The logarithm of a diagonal that float32 cannot hold.
  rate = rate_cholesky(
    jnp.zeros((1, 2)), jnp.zeros((1, 2, 2)), jnp.full((1, 2), -105.0)
  )
  np.testing.assert_allclose(rate, [2 * (105 - 0.5)], rtol=1e-6)


def test_rate_cholesky_shapes_are_checked():
  mean, chol = jnp.zeros((4, 3)), jnp.zeros((4, 3, 3))
  for arguments, marginal, message in (
    ((mean, jnp.ones((4, 3))), {}, r'got \(4, 3\) and \(4, 3\)'),
    ((mean[0], chol[0]), {}, r'got \(3,\) and \(3, 3\)'),
    ((mean, chol), {'marginal_mean': mean[:1]}, r'\(3,\) .*got \(1, 3\)'),
    ((mean, chol), {'marginal_chol': chol}, r'\(3, 3\) .*got \(4, 3, 3\)'),
  ):
    with pytest.raises(ValueError, match=message):
      bottleneck.rate_cholesky(*arguments, **marginal)


def test_log_normal_against_scipy():
  rng = np.random.default_rng(3)
  z = rng.normal(size=(5, 3, 2))
  value = log_normal(*as_float32(z, MEAN[None], np.log(STD)[None]))
  expected = stats.norm.logpdf(z, MEAN, STD).sum(-1)
  np.testing.assert_allclose(value, expected, rtol=2e-5)


def mixture_log_density(z, mean, std, logits):
  """ln sum_m w_m N(z; m), in float64; z is [..., K]."""
  each = stats.norm.logpdf(z[..., None, :], mean, std).sum(-1)
  return special.logsumexp(each + special.log_softmax(logits), axis=-1)


def test_log_mixture_against_float64():
  rng = np.random.default_rng(4)
  z = rng.normal(0, 2, (3, 4, 2))
  # So far from all components that every density is 0 in float64, too.
  z[0, 0] = 1e3
  logits = np.array([0.0, -1.5, 2.0])
  expected = mixture_log_density(z, MEAN, STD, logits)
  arguments = as_float32(z, MEAN, np.log(STD), logits)
  np.testing.assert_allclose(log_mixture(*arguments), expected, rtol=2e-5)
  # Weights are normalised: a constant added to the logits changes nothing.
  arguments[3] += 7
  np.testing.assert_allclose(log_mixture(*arguments), expected, rtol=2e-5)
  # Equal components are one component.
  same = [jnp.repeat(x[:1], 3, 0) for x in arguments[1:3]]
  np.testing.assert_allclose(
    log_mixture(arguments[0], *same, arguments[3]),
    stats.norm.logpdf(z, MEAN[0], STD[0]).sum(-1),
    rtol=2e-5,
  )
  with pytest.raises(ValueError, match=r'\(3, 2\) has 2 .* \(3, 4, 5\) has 5'):
    bottleneck.log_mixture(jnp.zeros((3, 4, 5)), *arguments[1:])


@functools.cache
def sampled_rate(samples=20_000):
  """Noise, codes and ln p(z|x) of MEAN and STD, drawn by NumPy."""
  noise = np.random.default_rng(5).normal(size=(samples, *MEAN.shape))
  z = MEAN + STD * noise
  log_posterior = log_normal(*as_float32(z, MEAN[None], np.log(STD)[None]))
  return z, log_posterior


def close_to_truth(log_posterior, log_marginal, truth):
  rate = rate_monte_carlo(log_posterior, log_marginal)
  assert rate.shape == (len(truth),)
  each = np.asarray(log_posterior - log_marginal, np.float64)
  standard_error = each.std(0) / math.sqrt(len(each))
  assert standard_error.max() < 0.05
  assert np.all(np.abs(np.asarray(rate) - truth) < 4 * standard_error)


def test_monte_carlo_rate_converges_to_the_closed_form():
  z, log_posterior = sampled_rate()
  mean, log_std = np.array([0.4, -0.3]), np.log([1.5, 0.9])
  log_marginal = log_normal(
    *as_float32(z, mean[None, None], log_std[None, None])
  )
  truth = [
    multivariate_kl(m, np.diag(s**2), mean, np.diag(np.exp(2 * log_std)))
    for m, s in zip(MEAN, STD, strict=True)
  ]
  close_to_truth(log_posterior, log_marginal, truth)


def test_monte_carlo_rate_of_a_mixture_converges_to_the_integral():
  z, log_posterior = sampled_rate()
  centres = np.array([[-1.0, 0.5], [1.0, 0.0]])
  spreads = np.array([[0.8, 1.0], [1.1, 0.7]])
  logits = np.array([0.3, -0.4])
  log_marginal = log_mixture(*as_float32(z, centres, np.log(spreads), logits))

  def integral(mean, std):
    # Gauss-Hermite nodes are standard normal: 60 of them in each dimension.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    grid = np.stack(np.meshgrid(nodes, nodes, indexing='ij'), -1)
    points = mean + std * grid
    log_p = stats.norm.logpdf(points, mean, std).sum(-1)
    log_r = mixture_log_density(points, centres, spreads, logits)
    return np.einsum('i,j,ij->', weights, weights, log_p - log_r)

  truth = [integral(m, s) for m, s in zip(MEAN, STD, strict=True)]
  close_to_truth(log_posterior, log_marginal, truth)


def test_monte_carlo_rate_wants_one_shape():
  with pytest.raises(AssertionError):
    bottleneck.rate_monte_carlo(jnp.zeros((5, 3)), jnp.zeros((5, 1)))
  with pytest.raises(AssertionError):
    bottleneck.rate_monte_carlo(jnp.zeros(3), jnp.zeros(3))


def test_rate_excess_is_free_up_to_the_budget():
  rate = jnp.asarray([0.0, 1.5, 2.5, 4.0])
  value, slope = jax.jit(
    jax.vmap(jax.value_and_grad(lambda r: bottleneck.rate_excess(r, 2.0)))
  )(rate)
  np.testing.assert_array_equal(value, [0, 0, 0.5, 2])
  np.testing.assert_array_equal(slope, [0, 0, 1, 1])
  with pytest.raises(ValueError, match='budget must be >= 0 nats, got -1'):
    bottleneck.rate_excess(rate, -1.0)


@pytest.mark.parametrize(
  ('definition', 'true', 'others'),
  # 1 - 0.2 + 0.2 / 5 and 0.2 / 5; then 1 and 0.2 over 1 + 4 * 0.2.
  [('uniform', 0.84, 0.04), ('zeros', 1 / 1.8, 0.2 / 1.8)],
)
def test_smooth_labels(definition, true, others):
  labels = jnp.asarray([2, 0])
  value = smooth_labels(labels, 5, 0.2, definition)
  expected = np.full((2, 5), others)
  expected[[0, 1], [2, 0]] = true
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(value.sum(1), 1, rtol=1e-6)
  # At the ends: the labels themselves, and nothing of them.
  np.testing.assert_array_equal(
    smooth_labels(labels, 5, 0.0, definition), np.eye(5)[[2, 0]]
  )
  np.testing.assert_allclose(
    smooth_labels(labels, 5, 1.0, definition), 1 / 5, rtol=1e-6
  )


def test_smooth_labels_rejects():
  labels = jnp.asarray([0, 1])
  for amount in (-0.1, 1.1, math.nan):
    with pytest.raises(ValueError, match=rf'in \[0, 1\], got {amount}'):
      bottleneck.smooth_labels(labels, 2, amount)
  with pytest.raises(ValueError, match="'uniform' or 'zeros', got 'pereyra'"):
    bottleneck.smooth_labels(labels, 2, 0.1, 'pereyra')


def test_confidence_penalty_is_minus_the_entropy():
  logits = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [9.0, 0.0, -3.0]])
  p = special.softmax(logits, axis=1)
  entropy = stats.entropy(p, axis=1)
  penalty = jax.value_and_grad(bottleneck.confidence_penalty)
  value, slope = jax.jit(jax.vmap(penalty))(*as_float32(logits))
  np.testing.assert_allclose(value, -entropy, rtol=1e-5, atol=1e-6)
  # The least penalty is the most even prediction's, -ln C.
  np.testing.assert_allclose(value[1], -math.log(3), rtol=1e-6)
  assert np.argmin(value) == 1
  # dH/dlogit_i = p_i (-ln p_i - H), and the penalty is -H.
  of_entropy = p * (-np.log(p) - entropy[:, None])
  np.testing.assert_allclose(slope, -of_entropy, rtol=1e-4, atol=1e-7)
  # A step down the penalty evens the prediction out.
  after = special.softmax(logits - 0.1 * np.asarray(slope), axis=1)
  assert np.all(stats.entropy(after, axis=1)[[0, 2]] > entropy[[0, 2]])


def test_confidence_penalty_with_a_threshold_is_a_hinge():
  logits = jnp.asarray([[2.0, -1.0, 0.5], [0.1, 0.0, 0.0]])
  entropy = stats.entropy(special.softmax(np.asarray(logits), axis=1), axis=1)
  penalty = functools.partial(bottleneck.confidence_penalty, threshold=0.9)
  assert entropy[0] < 0.9 < entropy[1]
  value, slope = jax.jit(jax.vmap(jax.value_and_grad(penalty)))(logits)
  np.testing.assert_allclose(value, [0.9 - entropy[0], 0], rtol=1e-5)
  assert np.abs(slope[0]).max() > 0.01
  np.testing.assert_array_equal(slope[1], 0)


def test_confidence_penalty_is_finite_where_the_prediction_is_certain():
  value, slope = jax.jit(jax.value_and_grad(bottleneck.confidence_penalty))(
    jnp.asarray([1e4, 0.0, -1e4])
  )
  np.testing.assert_allclose(value, 0, atol=1e-6)
  chex.assert_tree_all_finite(slope)


LOGITS = np.random.default_rng(6).normal(0, 2, (4, 3, 5))
LABELS = np.array([2, 0, 4])


def test_distortion_over_samples_and_of_their_average():
  logits, labels = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)
  likelihood = special.softmax(LOGITS, axis=2)[:, np.arange(3), LABELS]
  mean_of_log = distortion(logits, labels)
  log_of_mean = distortion(logits, labels, log_of_mean=True)
  np.testing.assert_allclose(
    mean_of_log, -np.log(likelihood).mean(0), rtol=1e-5
  )
  np.testing.assert_allclose(
    log_of_mean, -np.log(likelihood.mean(0)), rtol=1e-5
  )
  # Jensen: the averaged prediction never costs more; here it costs less.
  assert np.all(np.asarray(log_of_mean) < np.asarray(mean_of_log) - 1e-3)
  # One sample leaves nothing to average.
  np.testing.assert_allclose(
    distortion(logits[:1], labels, log_of_mean=True),
    distortion(logits[:1], labels),
    rtol=1e-6,
  )


def test_distortion_gradient():
  logits, labels = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)
  p = special.softmax(LOGITS, axis=2)
  error = p - np.eye(5)[LABELS]
  slope = jax.jit(jax.grad(lambda x: bottleneck.distortion(x, labels).sum()))(
    logits
  )
  np.testing.assert_allclose(slope, error / 4, rtol=1e-4, atol=1e-6)
  slope = jax.jit(
    jax.grad(lambda x: bottleneck.distortion(x, labels, log_of_mean=True).sum())
  )(logits)
  # A sample counts by its share of the likelihood.
  likelihood = p[:, np.arange(3), LABELS]
  share = likelihood / likelihood.sum(0)
  np.testing.assert_allclose(slope, share[..., None] * error, atol=1e-6)


@pytest.mark.parametrize('definition', ['uniform', 'zeros'])
@pytest.mark.parametrize('log_of_mean', [False, True])
def test_distortion_of_smoothed_labels(definition, log_of_mean):
  targets = np.full((3, 5), 0.3 / 5 if definition == 'uniform' else 0.3 / 2.2)
  true = 0.7 + 0.3 / 5 if definition == 'uniform' else 1 / 2.2
  targets[np.arange(3), LABELS] = true
  log_p = special.log_softmax(LOGITS, axis=2)
  if log_of_mean:
    log_p = np.log(np.exp(log_p).mean(0))[None]
  value = distortion(
    jnp.asarray(LOGITS, jnp.float32),
    jnp.asarray(LABELS),
    log_of_mean=log_of_mean,
    smoothing=0.3,
    smoothing_definition=definition,
  )
  expected = -(targets * log_p.mean(0)).sum(1)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_distortion_where_a_class_is_impossible():
  # ln 0 = -inf of a class that is not the label's costs nothing.
  logits = jnp.asarray([[[1.0, 2.0, -jnp.inf]]])

  @jax.jit
  @jax.value_and_grad
  def evaluate(x):
    return bottleneck.distortion(x, jnp.asarray([0])).sum()

  value, slope = evaluate(logits)
  p = special.softmax([1.0, 2.0])
  np.testing.assert_allclose(value, -math.log(p[0]), rtol=1e-6)
  np.testing.assert_allclose(slope[0, 0], [p[0] - 1, p[1], 0], rtol=1e-5)
  # Nor does a certain one overflow.
  value, slope = evaluate(jnp.asarray([[[-1e4, 1e4, 0.0]]]))
  np.testing.assert_allclose(value, 2e4)
  chex.assert_tree_all_finite(slope)


def test_distortion_shapes_are_checked():
  labels = jnp.zeros(3, int)
  for shape, given, message in (
    ((3, 5), labels, r'got \(3, 5\) and \(3,\); one sample is logits\[None\]'),
    ((2, 4, 5), labels, r'got \(2, 4, 5\) and \(3,\)'),
    ((2, 3, 5), labels[:, None], r'got \(2, 3, 5\) and \(3, 1\)'),
  ):
    with pytest.raises(ValueError, match=message):
      bottleneck.distortion(jnp.zeros(shape), given)


@pytest.mark.parametrize('bad', [-1, 5])
def test_bad_label_raises_outside_of_jit_and_is_nan_inside(bad):
  logits = jnp.asarray(LOGITS, jnp.float32)
  labels = jnp.asarray([2, bad, 4])
  message = rf'labels must be in 0\.\.4 for logits of 5 classes, got {bad}'
  with pytest.raises(ValueError, match=message):
    bottleneck.distortion(logits, labels)
  with pytest.raises(ValueError, match=message):
    bottleneck.vib_loss(logits, labels, jnp.zeros(3), 0.1)
  # A constant of the program is known while it compiles.
  with pytest.raises(ValueError, match=message):
    jax.jit(lambda x: bottleneck.distortion(x, labels))(logits)
  value = distortion(logits, labels)
  assert np.isnan(value).tolist() == [False, True, False]
  good = distortion(logits, jnp.asarray(LABELS))
  np.testing.assert_allclose(value[::2], good[::2], rtol=1e-6)


def test_vib_loss_by_hand():
  # Even logits cost ln 2 each; a certain one nothing: (ln 2 + 0) / 2.
  logits = jnp.asarray([[[0.0, 0.0], [-100.0, 100.0]]])
  labels, rate = jnp.asarray([0, 1]), jnp.asarray([3.0, 5.0])
  np.testing.assert_allclose(
    bottleneck.vib_loss(logits, labels, rate, 0.25), math.log(2) / 2 + 1
  )
  # Beta may be an array, as of a schedule; the slope is the mean rate.
  evaluate = jax.jit(jax.value_and_grad(bottleneck.vib_loss, argnums=3))
  for beta in (0.0, 0.1, 2.0):
    value, slope = evaluate(logits, labels, rate, beta)
    np.testing.assert_allclose(value, math.log(2) / 2 + beta * 4, rtol=1e-6)
    np.testing.assert_allclose(slope, 4, rtol=1e-6)


def test_vib_loss_rejects():
  logits, labels = jnp.zeros((1, 2, 3)), jnp.zeros(2, int)
  for beta in (-0.1, math.nan):
    with pytest.raises(ValueError, match=f'beta must be >= 0, got {beta}'):
      bottleneck.vib_loss(logits, labels, jnp.zeros(2), beta)
  for shape in ((), (2, 4)):
    with pytest.raises(ValueError, match=r'one number an example, \(2,\), got'):
      bottleneck.vib_loss(logits, labels, jnp.zeros(shape), 0.1)


def test_label_entropy():
  # MNIST's training labels: 3.3199 bits, less than log2 10 = 3.3219.
  counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  bits = label_entropy(np.array(counts)) / math.log(2)
  np.testing.assert_allclose(bits, 3.319871, atol=2e-6)
  np.testing.assert_allclose(bits, stats.entropy(counts, base=2), rtol=1e-6)
  # A class without examples does not count.
  value = label_entropy(np.array([3] + [0] * 8 + [3]))
  np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
