"""Divergences against closed forms, quadrature and NumPy loops."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dim_jax.losses import bounds, divergences

LOG_2 = math.log(2)


def softplus(x):
  return np.logaddexp(0, x)


# The two terms E_p[positive_term(T)] - E_q[negative_term(T)] of each dual, as
# in f-GAN, tables 1, 2 and 6 (Pearson's conjugate over r >= 0).
TERMS = {
  'gan': (lambda t: -softplus(-t), softplus),
  'kl': (lambda t: t, lambda t: np.exp(t - 1)),
  'reverse_kl': (lambda t: -np.exp(-t), lambda t: t - 1),
  'squared_hellinger': (lambda t: 1 - np.exp(-t), lambda t: np.exp(t) - 1),
  'chi_squared': (
    lambda t: t,
    lambda t: np.where(t >= -2, t + t**2 / 4, -1.0),
  ),
}
every_divergence = pytest.mark.parametrize('name', list(TERMS))


@functools.cache
def divergence_of(name):
  return jax.jit(getattr(divergences, name))


def reference(name, positive, negative, where):
  positive_term, negative_term = TERMS[name]
  return np.mean(positive_term(positive)) - np.mean(
    negative_term(negative[where])
  )


def scores_of(seed, num_anchors=4, num_negatives=6):
  """Scores that reach below -2, where Pearson's conjugate is flat."""
  rng = np.random.default_rng(seed)
  positive = rng.normal(0.5, 1.5, (num_anchors, 2))
  negative = rng.normal(-1.0, 1.5, (num_anchors, num_negatives))
  where = rng.random((num_anchors, num_negatives)) < 0.6
  return positive, negative, where


def as_float32(*arrays):
  return [jnp.asarray(array, jnp.float32) for array in arrays]


def numerical_gradient(function, array, step=1e-5):
  gradient = np.zeros_like(array)
  for index in np.ndindex(array.shape):
    shift = np.zeros_like(array)
    shift[index] = step
    rise = function(array + shift) - function(array - shift)
    gradient[index] = rise / (2 * step)
  return gradient


@every_divergence
def test_equals_its_definition_where_masked_negatives_are_deleted(name):
  positive, negative, where = scores_of(seed=0)
  value = divergence_of(name)(
    *as_float32(positive, negative), where=jnp.asarray(where)
  )
  np.testing.assert_allclose(
    value, reference(name, positive, negative, where), rtol=5e-6
  )


@every_divergence
def test_gradient_is_that_of_the_definition(name):
  positive, negative, where = scores_of(seed=1)
  to_positive, to_negative = jax.grad(divergence_of(name), argnums=(0, 1))(
    *as_float32(positive, negative), where=jnp.asarray(where)
  )
  np.testing.assert_allclose(
    to_positive,
    numerical_gradient(lambda p: reference(name, p, negative, where), positive),
    rtol=1e-5,
    atol=2e-6,
  )
  np.testing.assert_allclose(
    to_negative,
    numerical_gradient(lambda n: reference(name, positive, n, where), negative),
    rtol=1e-5,
    atol=2e-6,
  )


@every_divergence
@pytest.mark.parametrize('junk', [np.inf, -np.inf, np.nan])
def test_masked_entries_have_no_effect(name, junk):
  positive, negative, where = scores_of(seed=2)
  dirty = np.where(where, negative, junk)
  evaluate = functools.partial(
    jax.value_and_grad(divergence_of(name), argnums=(0, 1)),
    where=jnp.asarray(where),
  )
  clean = evaluate(*as_float32(positive, negative))
  chex.assert_trees_all_equal(evaluate(*as_float32(positive, dirty)), clean)
  _, (_, to_negative) = clean
  np.testing.assert_array_equal(np.asarray(to_negative)[~where], 0)


@every_divergence
@pytest.mark.parametrize('positive', [-1e4, 0.0, 1e4])
@pytest.mark.parametrize('negative', [-1e4, 0.0, 1e4])
def test_extreme_scores_are_finite(name, positive, negative):
  value, gradients = jax.value_and_grad(divergence_of(name), argnums=(0, 1))(
    jnp.full((3, 2), positive), jnp.full((3, 5), negative)
  )
  chex.assert_tree_all_finite((value, gradients))
  if negative > positive:
    # The critic is as wrong as can be, and must learn that from both terms.
    assert float(gradients[0].min()) > 0
    assert float(gradients[1].max()) < 0


# p = N(mean, deviation^2) and q = N(0, 1): not symmetric, so that a divergence
# in the wrong direction shows.
MEAN, DEVIATION = 0.6, 0.95
VARIANCE = DEVIATION**2


def log_ratio(x):
  return stats.norm.logpdf(x, MEAN, DEVIATION) - stats.norm.logpdf(x)


def quadrature(integrand):
  return integrate.quad(
    lambda x: float(integrand(stats.norm.pdf(x, MEAN, DEVIATION), x)), -15, 15
  )[0]


def jensen_shannon_objective(p, x):
  q = stats.norm.pdf(x)
  return p * np.log(p / (p + q)) + q * np.log(q / (p + q))


# name -> (the best critic as a function of ln r, the divergence).
GAUSSIAN_TRUTH = {
  # 2 JSD - 2 ln 2; the Jensen-Shannon divergence has no closed form.
  'gan': (lambda log_r: log_r, quadrature(jensen_shannon_objective)),
  # KL of Gaussians, (s^2 + m^2 - 1 - ln s^2) / 2.
  'kl': (
    lambda log_r: 1 + log_r,
    (VARIANCE + MEAN**2 - 1 - math.log(VARIANCE)) / 2,
  ),
  # The other way round, (1/s^2 + m^2/s^2 - 1 + ln s^2) / 2.
  'reverse_kl': (
    lambda log_r: log_r,
    ((1 + MEAN**2) / VARIANCE - 1 + math.log(VARIANCE)) / 2,
  ),
  # 2 - 2 * integral of sqrt(p q).
  'squared_hellinger': (
    lambda log_r: log_r / 2,
    2
    - 2
    * math.sqrt(2 * DEVIATION / (1 + VARIANCE))
    * math.exp(-(MEAN**2) / (4 * (1 + VARIANCE))),
  ),
  # Integral of p^2 / q, minus 1, by completing the square; needs s^2 < 2.
  'chi_squared': (
    lambda log_r: 2 * np.expm1(log_r),
    math.exp(MEAN**2 / (2 - VARIANCE)) / (DEVIATION * math.sqrt(2 - VARIANCE))
    - 1,
  ),
}


@every_divergence
def test_best_critic_reaches_the_divergence_of_gaussians(name):
  best_critic, truth = GAUSSIAN_TRUTH[name]
  # Equally likely points instead of random ones: the middles of n quantiles.
  quantiles = (np.arange(200_000) + 0.5) / 200_000
  normal = stats.norm.ppf(quantiles)
  p_points, q_points = MEAN + DEVIATION * normal, normal

  def evaluate(critic):
    positive, negative = as_float32(
      critic(p_points)[None, :], critic(q_points)[None, :]
    )
    return float(divergence_of(name)(positive, negative))

  best = evaluate(lambda x: best_critic(log_ratio(x)))
  np.testing.assert_allclose(best, truth, rtol=2e-3)
  # No critic passes it: neither a shift, nor a scale, nor a tilt.
  for other in (
    lambda x: best_critic(log_ratio(x)) + 0.3,
    lambda x: best_critic(log_ratio(x)) - 0.3,
    lambda x: best_critic(log_ratio(x)) * 0.7,
    lambda x: best_critic(log_ratio(x)) + 0.2 * np.tanh(x),
  ):
    assert evaluate(other) < best - 1e-3


def test_gan_is_jsd_shifted():
  positive, negative = as_float32(*scores_of(seed=3)[:2])
  np.testing.assert_allclose(
    divergences.gan(positive, negative),
    bounds.jsd(positive, negative) - 2 * LOG_2,
    rtol=1e-6,
  )


@pytest.mark.parametrize('name', ['gan', 'squared_hellinger'])
def test_perfect_critic_reaches_the_ceiling(name):
  value = divergence_of(name)(jnp.full((2, 1), 1e4), jnp.full((2, 3), -1e4))
  np.testing.assert_allclose(value, bounds.ceiling(name, 3), atol=1e-6)


def test_chi_squared_cannot_be_raised_without_end():
  # For p = q no critic is above 0, however large its scores are. (A pair of
  # terms that are not conjugate to each other grows like T^2 here.)
  scores = jnp.asarray([[-30.0, -2.0, -1.0, 0.0, 1.0, 30.0]])
  for scale in (0.1, 1.0, 100.0):
    assert float(divergences.chi_squared(scale * scores, scale * scores)) <= 0


@every_divergence
def test_wrong_rank_is_refused(name):
  with pytest.raises(AssertionError, match='positive'):
    divergence_of(name)(jnp.zeros(4), jnp.zeros((4, 3)))


def test_adversary_loss():
  # Knows nothing: 0. Knows all: -2 ln 2.
  np.testing.assert_allclose(
    divergences.adversary_loss(jnp.zeros(3), jnp.zeros(3)), 0, atol=1e-6
  )
  np.testing.assert_allclose(
    divergences.adversary_loss(jnp.full(3, 100.0), jnp.full(3, -100.0)),
    -2 * LOG_2,
    rtol=1e-6,
  )
  # With 2 ln 2 it is the sum of the cross-entropies, labels 1 and 0.
  prior, codes = np.array([0.3, -1.2]), np.array([2.0, -0.5, 0.1])
  expected = -np.mean(np.log(1 / (1 + np.exp(-prior))))
  expected -= np.mean(np.log(1 - 1 / (1 + np.exp(-codes))))
  np.testing.assert_allclose(
    divergences.adversary_loss(*as_float32(prior, codes)) + 2 * LOG_2,
    expected,
    rtol=1e-6,
  )


def test_encoder_prior_loss():
  codes = np.array([2.0, -0.5, 0.1])
  np.testing.assert_allclose(
    divergences.encoder_prior_loss(jnp.asarray(codes, jnp.float32)),
    -np.mean(np.log(1 / (1 + np.exp(-codes)))),
    rtol=1e-6,
  )
  # Non-saturating: where the adversary is certain, the gradient is full (1/N).
  gradient = jax.grad(divergences.encoder_prior_loss)(jnp.array([-100.0, 0.0]))
  np.testing.assert_allclose(gradient, [-1 / 2, -1 / 4], rtol=1e-6)


def test_encoder_opposes_adversary_at_every_code():
  rng = np.random.default_rng(4)
  weights = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)
  codes, prior = as_float32(rng.normal(size=(6, 3)), rng.normal(size=(6, 3)))

  def score(inputs):
    return jnp.sum(jnp.tanh(inputs @ weights), axis=1)

  of_adversary, of_encoder = jax.jit(
    lambda codes: (
      jax.grad(lambda z: divergences.adversary_loss(score(prior), score(z)))(
        codes
      ),
      jax.grad(lambda z: divergences.encoder_prior_loss(score(z)))(codes),
    )
  )(codes)
  inner = np.sum(of_adversary * of_encoder, axis=1)
  norms = np.linalg.norm(of_adversary, axis=1)
  norms = norms * np.linalg.norm(of_encoder, axis=1)
  # Not only a negative product: exactly opposite directions.
  np.testing.assert_allclose(inner / norms, -1, rtol=1e-5)


def test_prior_losses_are_finite_at_extreme_scores():
  extreme = jnp.array([-1e4, 1e4])
  chex.assert_tree_all_finite(
    jax.value_and_grad(divergences.adversary_loss, argnums=(0, 1))(
      extreme, extreme
    )
  )
  chex.assert_tree_all_finite(
    jax.value_and_grad(divergences.encoder_prior_loss)(extreme)
  )


def test_gradient_penalty_of_a_linear_score():
  # The gradient of w.x is w everywhere: |w|^2 = 1 + 4 + 4.
  weights = jnp.array([1.0, -2.0, 2.0])
  inputs = jnp.asarray(np.random.default_rng(5).normal(size=(4, 3)))
  np.testing.assert_allclose(
    divergences.gradient_penalty(lambda x: x @ weights, inputs), 9, rtol=1e-6
  )


def test_gradient_penalty_counts_every_row():
  # The gradient of |x|^2 / 2 is x, so the penalty is the mean of |x|^2. The
  # last row alone would give 0, and over N rows the first alone 25 / 3.
  inputs = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])

  def half_square(x):
    return jnp.sum(jnp.square(x), axis=1) / 2

  np.testing.assert_allclose(
    divergences.gradient_penalty(half_square, inputs),
    (25 + 1 + 0) / 3,
    rtol=1e-6,
  )


def test_gradient_penalty_reaches_the_adversary():
  # The penalty of s |x|^2 / 2 is s^2 times the mean of |x|^2: slope 2 s 26 / 3.
  inputs = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])

  def penalty(scale):
    return divergences.gradient_penalty(
      lambda x: scale * jnp.sum(jnp.square(x), axis=1) / 2, inputs
    )

  np.testing.assert_allclose(
    jax.jit(jax.grad(penalty))(1.5), 2 * 1.5 * 26 / 3, rtol=1e-6
  )


def test_gradient_penalty_wants_one_score_a_row():
  with pytest.raises(AssertionError, match=r'return \[N\]'):
    divergences.gradient_penalty(lambda x: x, jnp.ones((4, 3)))


# name -> (critic's loss, encoder's loss), of scores r of the prior and g of
# codes, in float64.
GAMES = {
  'jsd': (
    lambda r, g: softplus(-r).mean() + softplus(g).mean() - 2 * LOG_2,
    lambda r, g: softplus(-g).mean(),
  ),
  'wgan': (lambda r, g: g.mean() - r.mean(), lambda r, g: -g.mean()),
  'hinge': (
    lambda r, g: np.maximum(1 - r, 0).mean() + np.maximum(1 + g, 0).mean(),
    lambda r, g: -g.mean(),
  ),
  'gan_qp_l1': (lambda r, g: -(r - g).mean(), lambda r, g: (r - g).mean()),
  'rsgan': (
    lambda r, g: softplus(-(r - g)).mean(),
    lambda r, g: softplus(r - g).mean(),
  ),
}
# These differ from another in the penalty alone.
GAMES |= dict.fromkeys(('wgan_gp', 'wgan_div'), GAMES['wgan'])
GAMES['gan_qp_l2'] = GAMES['gan_qp_l1']
every_game = pytest.mark.parametrize('name', list(divergences.ADVERSARIAL))


@every_game
def test_game_is_its_definition(name):
  rng = np.random.default_rng(20)
  # Some beyond 1 and -1, where the hinge is flat.
  r, g = rng.normal(size=5) * 2, rng.normal(size=5) * 2
  game = divergences.ADVERSARIAL[name]
  critic, encoder = GAMES[name]
  np.testing.assert_allclose(
    game.critic_loss(*as_float32(r, g)), critic(r, g), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    game.encoder_loss(*as_float32(r, g)), encoder(r, g), rtol=1e-5, atol=1e-6
  )


@every_game
def test_encoder_opposes_critic_in_every_game(name):
  game = divergences.ADVERSARIAL[name]
  r, g = as_float32([0.3, -0.2, 0.9], [-0.5, 0.4, 0.1])
  # Scores within the hinge's slopes: each has a gradient of its own.
  of_critic = jax.grad(game.critic_loss, argnums=1)(r, g)
  of_encoder = jax.grad(game.encoder_loss, argnums=1)(r, g)
  assert np.all(np.asarray(of_critic) > 0)
  assert np.all(np.asarray(of_encoder) < 0)


@every_game
def test_only_paired_games_refuse_unequal_batches(name):
  game = divergences.ADVERSARIAL[name]
  r, g = jnp.zeros(3), jnp.zeros(4)
  x, z = jnp.ones((3, 2)), jnp.zeros((4, 2))

  def terms():
    value = game.critic_loss(r, g) + game.encoder_loss(r, g)
    if game.penalty is not None:
      value += game.penalty(jax.random.key(0), lambda x: x.sum(1), x, z)
    return value

  if game.paired:
    with pytest.raises(ValueError, match=r'pairs .* got shapes \([34]'):
      terms()
  else:
    assert np.isfinite(terms())


@every_game
def test_games_want_one_score_a_row(name):
  game = divergences.ADVERSARIAL[name]
  with pytest.raises(AssertionError, match='one score for each'):
    game.critic_loss(jnp.zeros((3, 1)), jnp.zeros((3, 1)))
  with pytest.raises(AssertionError, match='one score for each'):
    game.encoder_loss(jnp.zeros((3, 1)), jnp.zeros((3, 1)))


# Of the score w.x, whose gradient is w everywhere: |w|^2 = 9.
@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('jsd', (9 + 9) / 2),
    ('wgan_gp', 10 * (3 - 1) ** 2),
    ('wgan_div', 2 * 3**6),
  ],
)
def test_gradient_penalties_of_a_linear_score(name, expected):
  game = divergences.ADVERSARIAL[name]
  assert game.input_gradient
  weights = jnp.array([1.0, -2.0, 2.0])
  x, z = as_float32(*np.random.default_rng(21).normal(size=(2, 4, 3)))
  value = game.penalty(jax.random.key(0), lambda x: x @ weights, x, z)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_interpolates_are_drawn_for_each_pair():
  # The gradient of |x|^2 / 2 is x, so a penalty sees the interpolates. Pairs
  # (a, 0) and (0, a) with a = 4: their norms are 4 e and 4 (1 - e).
  x = jnp.array([[4.0, 0.0]] * 500 + [[0.0, 0.0]] * 500)
  z = x[::-1]

  def half_square(x):
    return jnp.sum(jnp.square(x), axis=1) / 2

  values = divergences.power_penalty(
    jax.random.key(0), half_square, x, z, weight=1.0, power=2.0
  )
  # E (4 e)^2 = 16 / 3 for e ~ U(0, 1), with variance 256 (1/5 - 1/9): one e for
  # the whole batch would almost surely be far from it.
  error = 16 * math.sqrt((1 / 5 - 1 / 9) / 1000)
  np.testing.assert_allclose(values, 16 / 3, atol=4 * error)
  one = divergences.one_centred_penalty(
    jax.random.key(0), half_square, x, z, weight=3.0
  )
  # E (4 e - 1)^2 = 16 / 3 - 4 + 1, with variance below E (4 e - 1)^4 < 13.
  np.testing.assert_allclose(one, 3 * (7 / 3), atol=3 * 4 * (13 / 1000) ** 0.5)


def test_penalties_of_a_flat_score_have_finite_gradients():
  x = jnp.ones((3, 2))
  for name, game in divergences.ADVERSARIAL.items():
    if game.input_gradient:
      gradient = jax.grad(
        lambda w, game=game: game.penalty(
          jax.random.key(0), lambda x: x @ w, x, 2 * x
        )
      )(jnp.zeros(2))
      assert np.isfinite(gradient).all(), name


@pytest.mark.parametrize('norm', ['l1', 'l2'])
def test_quadratic_penalty_against_numpy(norm):
  rng = np.random.default_rng(22)
  x, z = rng.normal(size=(2, 5, 3))
  weights = np.array([1.0, -2.0, 0.5])
  if norm == 'l1':
    distance = np.abs(x - z).sum(1) / 3
  else:
    distance = np.sqrt(((x - z) ** 2).sum(1) / 3)
  expected = ((x - z) @ weights) ** 2 / (2 * 10 * distance)
  value = divergences.ADVERSARIAL[f'gan_qp_{norm}'].penalty(
    jax.random.key(0),
    lambda x: x @ jnp.asarray(weights, jnp.float32),
    *as_float32(x, z),
  )
  np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)


def test_best_quadratic_critic_of_two_points():
  # -D + D^2 / (2 lambda d) is least at D = lambda d, where it is -lambda d / 2:
  # the points 0 and (3, 1) have d = 2 by 'l1', so D = 20 and the value is -10.
  game = divergences.ADVERSARIAL['gan_qp_l1']
  x, z = jnp.array([[3.0, 1.0]]), jnp.zeros((1, 2))

  def loss(difference):
    def score(x):
      return difference * x[:, 0] / 3

    penalty = game.penalty(jax.random.key(0), score, x, z)
    return game.critic_loss(score(x), score(z)) + penalty

  value, slope = jax.value_and_grad(loss)(20.0)
  np.testing.assert_allclose(value, -10, rtol=1e-6)
  np.testing.assert_allclose(slope, 0, atol=1e-6)
  # And a pair that coincides costs nothing, rather than 0 / 0.
  same = jax.value_and_grad(
    lambda w: game.penalty(jax.random.key(0), lambda x: w * x[:, 0], x, x)
  )(1.0)
  chex.assert_trees_all_close(same, (0.0, 0.0), atol=0)


def test_quadratic_penalty_names_what_it_accepts():
  x = jnp.ones((2, 2))
  with pytest.raises(ValueError, match="'l1' or 'l2', got 'l3'"):
    divergences.quadratic_penalty(jax.random.key(0), None, x, x, norm='l3')
  with pytest.raises(ValueError, match='scale must be > 0, got 0'):
    divergences.quadratic_penalty(
      jax.random.key(0), None, x, x, norm='l1', scale=0.0
    )


def spectral_params():
  rng = np.random.default_rng(23)
  return {
    'dense': {'kernel': rng.normal(size=(6, 4)), 'bias': np.ones(4)},
    'conv': {'kernel': rng.normal(size=(3, 3, 2, 5))},
  }


def test_spectral_penalty_against_svd():
  exact = spectral_params()
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), exact)
  vectors = divergences.spectral_vectors(jax.random.key(0), params)
  penalty = functools.partial(
    divergences.spectral_penalty, vectors=vectors, iterations=200
  )
  (value, _), gradient = jax.jit(jax.value_and_grad(penalty, has_aux=True))(
    params
  )
  expected = 0.0
  for name in ('dense', 'conv'):
    kernel = exact[name]['kernel']
    u, sigma, v = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))
    expected += sigma[0] ** 2 / 2
    # d (sigma^2 / 2) / dW = sigma u v'.
    np.testing.assert_allclose(
      gradient[name]['kernel'],
      (sigma[0] * np.outer(u[:, 0], v[0])).reshape(kernel.shape),
      atol=1e-4,
    )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_array_equal(gradient['dense']['bias'], 0)


def test_spectral_vectors_continue_where_they_were():
  params = jax.tree.map(jnp.asarray, spectral_params())
  params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  vectors = divergences.spectral_vectors(jax.random.key(0), params)
  at_once, _ = divergences.spectral_penalty(params, vectors, iterations=7)
  step = jax.jit(divergences.spectral_penalty)
  for _ in range(7):
    value, vectors = step(params, vectors)
  np.testing.assert_allclose(value, at_once, rtol=1e-5)
  # A power iteration approaches from below.
  first, _ = step(
    params, divergences.spectral_vectors(jax.random.key(0), params)
  )
  assert first < value


def test_spectral_penalty_refuses_what_does_not_fit():
  params = jax.tree.map(jnp.asarray, spectral_params())
  vectors = divergences.spectral_vectors(jax.random.key(0), params)
  with pytest.raises(
    ValueError, match=r'shapes \[\(5,\), \(4,\)\], got \[\(5,\)'
  ):
    divergences.spectral_penalty(params, vectors[:1])
  with pytest.raises(ValueError, match='iterations must be >= 1, got 0'):
    divergences.spectral_penalty(params, vectors, iterations=0)
  with pytest.raises(ValueError, match='no weight of two or more axes'):
    divergences.spectral_vectors(jax.random.key(0), {'bias': jnp.zeros(3)})


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
  gradient = jax.jit(jax.grad(lambda z: divergences.stein_prior(z, h)))(
    jnp.asarray(codes, jnp.float32)
  )
  # A descent step moves every code along the direction.
  np.testing.assert_allclose(gradient, -direction / 5, atol=1e-6)


def test_stein_prior_gives_a_sampler_the_priors_variance():
  # z = shift + scale * noise in 20 dimensions, 100 fresh codes a step. With
  # each code's own term the variance would fall far below the prior's 1.
  def loss(params, rng):
    noise = jax.random.normal(rng, (100, 20))
    return divergences.stein_prior(params[0] + params[1] * noise)

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
    divergences.stein_prior(jnp.zeros((1, 3)))
  with pytest.raises(ValueError, match='bandwidth'):
    divergences.stein_prior(jnp.zeros((4, 3)), 0.0)


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
    divergences.sample_prior(jax.random.key(0), prior, (20_000, 3))
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
    divergences.sample_prior(jax.random.key(0), 'laplace', (2, 3))


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
  value = divergences.gaussian_kl(*as_float32(means, log_variances))
  # Summed over dimensions, averaged over examples.
  np.testing.assert_allclose(value, per_dimension.sum(1).mean(), rtol=1e-5)


def test_gaussian_kl_is_zero_only_at_the_prior():
  zeros = jnp.zeros((3, 2))
  value, gradients = jax.value_and_grad(divergences.gaussian_kl, (0, 1))(
    zeros, zeros
  )
  np.testing.assert_array_equal(value, 0)
  chex.assert_trees_all_close(gradients, (zeros, zeros), atol=0)
  # To second order KL = v^2 / 4 each: 2e-8 / 4 here, lost in e^v - 1 - v.
  value = divergences.gaussian_kl(zeros, zeros + 1e-2)
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
  mmd = jax.jit(functools.partial(divergences.mmd, bandwidths=bandwidths))
  np.testing.assert_allclose(
    mmd(jnp.asarray(x), jnp.asarray(y)),
    loop_mmd(x.astype(np.float64), y.astype(np.float64), bandwidths),
    atol=2e-5,
  )


def test_mmd_gradient():
  rng = np.random.default_rng(7)
  x, y = rng.normal(size=(4, 2)), rng.normal(size=(3, 2)) + 1
  bandwidths = (1.0, 2.0)
  mmd = functools.partial(divergences.mmd, bandwidths=bandwidths)
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
  mmd = jax.jit(jax.vmap(divergences.mmd))
  values = np.asarray(mmd(samples[:, 0], samples[:, 1]))
  standard_error = values.std() / 8
  assert abs(values.mean()) < 3 * standard_error
  assert standard_error < 0.02
  shifted = np.asarray(mmd(samples[:, 0], samples[:, 1] + 2))
  assert shifted.min() > 0.5


def test_mmd_rejects_what_it_cannot_compare():
  with pytest.raises(ValueError, match='at least 2'):
    divergences.mmd(jnp.zeros((1, 3)), jnp.zeros((4, 3)))
  with pytest.raises(ValueError, match='positive'):
    divergences.mmd(jnp.zeros((4, 3)), jnp.zeros((4, 3)), bandwidths=(1.0, 0.0))
  with pytest.raises(ValueError, match='at least one'):
    divergences.mmd(jnp.zeros((4, 3)), jnp.zeros((4, 3)), bandwidths=())
