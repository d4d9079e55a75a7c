"""Priors and divergences from them against loops and quadrature."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dim_jax.losses import priors
from tests.losses.reference import as_float32, numerical_gradient


def test_stein_prior_against_loops():
  rng = np.random.default_rng(24)
  codes, h = rng.normal(size=(5, 3)) + 0.5, 2.0
  direction = np.zeros_like(codes)
  for i in range(5):
    for j in range(5):
      if i == j:
        continue
      kernel = math.exp(-np.sum((codes[j] - codes[i]) ** 2) / h)
      # k s(z_j) + dk / dz_j, the prior's score being -z.
      repulsion = -2 / h * (codes[j] - codes[i]) * kernel
      direction[i] += (-kernel * codes[j] + repulsion) / 4
  gradient = jax.jit(jax.grad(lambda z: priors.stein_prior(z, h)))(
    jnp.asarray(codes, jnp.float32)
  )
  # A descent step moves every code along the direction.
  np.testing.assert_allclose(gradient, -direction / 5, atol=1e-6)


def test_stein_prior_gives_a_sampler_the_priors_variance():
  # z = shift + scale * noise in 20 dimensions, 100 fresh codes a step. With
  # each code's own term the variance would fall far below the prior's 1.
  def loss(params, rng):
    noise = jax.random.normal(rng, (100, 20))
    return priors.stein_prior(params[0] + params[1] * noise)

  def step(params, rng):
    gradients = jax.grad(loss)(params, rng)
    params = tuple(p - 0.3 * g for p, g in zip(params, gradients, strict=True))
    return params, params

  rngs = jax.random.split(jax.random.key(0), 400)
  _, history = jax.jit(lambda p: jax.lax.scan(step, p, rngs))((0.5, 0.6))
  shift, scale = (np.mean(x[200:]) for x in history)
  np.testing.assert_allclose(shift, 0, atol=0.02)
  np.testing.assert_allclose(scale, 1, atol=0.03)


def test_stein_prior_refuses_what_it_cannot_compare():
  with pytest.raises(ValueError, match='at least 2, got 1'):
    priors.stein_prior(jnp.zeros((1, 3)))
  with pytest.raises(ValueError, match='bandwidth'):
    priors.stein_prior(jnp.zeros((4, 3)), 0.0)


# Moments of one coordinate of each prior: E[x], E[x^2]. A direction shares its
# squared length 1 among D = 3 coordinates; the ball's E|x|^2 is D / (D + 2).
@pytest.mark.parametrize(
  ('prior', 'mean', 'second_moment'),
  [
    ('uniform', 1 / 2, 1 / 3),
    ('gaussian', 0, 1),
    ('sphere', 0, 1 / 3),
    ('ball', 0, 1 / 5),
  ],
)
def test_sample_prior(prior, mean, second_moment):
  samples = np.asarray(
    priors.sample_prior(jax.random.key(0), prior, (20_000, 3))
  )
  assert samples.shape == (20_000, 3)
  assert samples.dtype == np.float32
  # 60,000 values: standard errors at most 1 / 245 and sqrt(2) / 245.
  np.testing.assert_allclose(samples.mean(), mean, atol=4 / 245)
  np.testing.assert_allclose((samples**2).mean(), second_moment, atol=5 / 245)
  radii = np.linalg.norm(samples, axis=1)
  if prior == 'uniform':
    assert samples.min() >= 0
    assert samples.max() <= 1
  elif prior == 'sphere':
    np.testing.assert_allclose(radii, 1, rtol=1e-5)
  elif prior == 'ball':
    assert radii.max() <= 1 + 1e-6
    # Uniform in volume: half of the volume is within 2^(-1/3).
    np.testing.assert_allclose(np.median(radii), 2 ** (-1 / 3), atol=0.01)


def test_unknown_prior_lists_what_is_accepted():
  with pytest.raises(ValueError, match=r"'laplace'.*'uniform'.*'sphere'"):
    priors.sample_prior(jax.random.key(0), 'laplace', (2, 3))


def test_gaussian_kl_against_quadrature():
  means = np.array([[0.5, -1.0], [0.0, 2.0]])
  log_variances = np.array([[0.3, -1.2], [0.0, 0.7]])

  def one_dimension(mean, log_variance):
    code = stats.norm(mean, math.exp(log_variance / 2))
    prior = stats.norm()
    return integrate.quad(
      lambda x: code.pdf(x) * (code.logpdf(x) - prior.logpdf(x)), -12, 12
    )[0]

  per_dimension = np.vectorize(one_dimension)(means, log_variances)
  value = priors.gaussian_kl(*as_float32(means, log_variances))
  # Summed over dimensions, averaged over examples.
  np.testing.assert_allclose(value, per_dimension.sum(1).mean(), rtol=1e-5)


def test_gaussian_kl_is_zero_only_at_the_prior():
  zeros = jnp.zeros((3, 2))
  value, gradients = jax.value_and_grad(priors.gaussian_kl, (0, 1))(
    zeros, zeros
  )
  np.testing.assert_array_equal(value, 0)
  chex.assert_trees_all_close(gradients, (zeros, zeros), atol=0)
  # To second order KL = v^2 / 4 each: 2e-8 / 4 here, lost in e^v - 1 - v.
  value = priors.gaussian_kl(zeros, zeros + 1e-2)
  np.testing.assert_allclose(value, 2 * 1e-4 / 4, rtol=5e-3)


def loop_mmd(x, y, bandwidths):
  """Equation 3 of Gretton et al., pair by pair, in float64."""

  def kernel(a, b):
    squared = np.sum((a - b) ** 2)
    return sum(math.exp(-squared / (2 * s**2)) for s in bandwidths)

  def within(rows):
    n = len(rows)
    return sum(
      kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j
    ) / (n * (n - 1))

  between = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
  return within(x) + within(y) - 2 * between


def test_mmd_against_loops():
  rng = np.random.default_rng(6)
  # Far from the origin, where squared norms would cancel in float32.
  x = rng.normal(size=(7, 3)) + 100
  y = rng.normal(size=(5, 3)) * 1.5 + 100.5
  bandwidths = (0.5, 2.0)
  # The inputs themselves are rounded to float32 first.
  x, y = x.astype(np.float32), y.astype(np.float32)
  mmd = jax.jit(functools.partial(priors.mmd, bandwidths=bandwidths))
  np.testing.assert_allclose(
    mmd(jnp.asarray(x), jnp.asarray(y)),
    loop_mmd(x.astype(np.float64), y.astype(np.float64), bandwidths),
    atol=2e-5,
  )


def test_mmd_gradient():
  rng = np.random.default_rng(7)
  x, y = rng.normal(size=(4, 2)), rng.normal(size=(3, 2)) + 1
  bandwidths = (1.0, 2.0)
  mmd = functools.partial(priors.mmd, bandwidths=bandwidths)
  gradients = jax.jit(jax.grad(mmd, argnums=(0, 1)))(*as_float32(x, y))
  np.testing.assert_allclose(
    gradients[0],
    numerical_gradient(lambda x: loop_mmd(x, y, bandwidths), x),
    atol=2e-6,
  )
  np.testing.assert_allclose(
    gradients[1],
    numerical_gradient(lambda y: loop_mmd(x, y, bandwidths), y),
    atol=2e-6,
  )


def test_mmd_is_unbiased():
  # 64 pairs of samples of one distribution: the mean is 0 within its standard
  # error, where the biased estimate would be near 2 (k(0) - E k) / N > 0.
  samples = jax.random.normal(jax.random.key(1), (64, 2, 20, 2))
  mmd = jax.jit(jax.vmap(priors.mmd))
  values = np.asarray(mmd(samples[:, 0], samples[:, 1]))
  standard_error = values.std() / 8
  assert abs(values.mean()) < 3 * standard_error
  assert standard_error < 0.02
  shifted = np.asarray(mmd(samples[:, 0], samples[:, 1] + 2))
  assert shifted.min() > 0.5


def test_mmd_rejects_what_it_cannot_compare():
  with pytest.raises(ValueError, match='at least 2'):
    priors.mmd(jnp.zeros((1, 3)), jnp.zeros((4, 3)))
  with pytest.raises(ValueError, match='positive'):
    priors.mmd(jnp.zeros((4, 3)), jnp.zeros((4, 3)), bandwidths=(1.0, 0.0))
  with pytest.raises(ValueError, match='at least one'):
    priors.mmd(jnp.zeros((4, 3)), jnp.zeros((4, 3)), bandwidths=())
