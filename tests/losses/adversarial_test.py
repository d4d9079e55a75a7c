"""Adversarial losses against their definitions in NumPy."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dim_jax.losses import adversarial
from tests.losses.reference import as_float32, softplus

LOG_2 = math.log(2)


def test_adversary_loss():
  # Knows nothing: 0. Knows all: -2 ln 2.
  np.testing.assert_allclose(
    adversarial.adversary_loss(jnp.zeros(3), jnp.zeros(3)), 0, atol=1e-6
  )
  np.testing.assert_allclose(
    adversarial.adversary_loss(jnp.full(3, 100.0), jnp.full(3, -100.0)),
    -2 * LOG_2,
    rtol=1e-6,
  )
  # With 2 ln 2 it is the sum of the cross-entropies, labels 1 and 0.
  prior, codes = np.array([0.3, -1.2]), np.array([2.0, -0.5, 0.1])
  expected = -np.mean(np.log(1 / (1 + np.exp(-prior))))
  expected -= np.mean(np.log(1 - 1 / (1 + np.exp(-codes))))
  np.testing.assert_allclose(
    adversarial.adversary_loss(*as_float32(prior, codes)) + 2 * LOG_2,
    expected,
    rtol=1e-6,
  )


def test_encoder_prior_loss():
  codes = np.array([2.0, -0.5, 0.1])
  np.testing.assert_allclose(
    adversarial.encoder_prior_loss(jnp.asarray(codes, jnp.float32)),
    -np.mean(np.log(1 / (1 + np.exp(-codes)))),
    rtol=1e-6,
  )
  # Non-saturating: where the adversary is certain, the gradient is full (1/N).
  gradient = jax.grad(adversarial.encoder_prior_loss)(jnp.array([-100.0, 0.0]))
  np.testing.assert_allclose(gradient, [-1 / 2, -1 / 4], rtol=1e-6)


def test_encoder_opposes_adversary_at_every_code():
  rng = np.random.default_rng(4)
  weights = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)
  codes, prior = as_float32(rng.normal(size=(6, 3)), rng.normal(size=(6, 3)))

  def score(inputs):
    return jnp.sum(jnp.tanh(inputs @ weights), axis=1)

  of_adversary, of_encoder = jax.jit(
    lambda codes: (
      jax.grad(lambda z: adversarial.adversary_loss(score(prior), score(z)))(
        codes
      ),
      jax.grad(lambda z: adversarial.encoder_prior_loss(score(z)))(codes),
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
    jax.value_and_grad(adversarial.adversary_loss, argnums=(0, 1))(
      extreme, extreme
    )
  )
  chex.assert_tree_all_finite(
    jax.value_and_grad(adversarial.encoder_prior_loss)(extreme)
  )


# name -> (critic's loss, encoder's loss), of scores r of the prior and g of
# codes, in float64.
DEFINITIONS = {
  'jsd': (
    lambda r, g: softplus(-r).mean() + softplus(g).mean() - 2 * LOG_2,
    lambda r, g: softplus(-g).mean(),
  ),
  'wgan': (lambda r, g: g.mean() - r.mean(), lambda r, g: -g.mean()),
  'hinge': (
    lambda r, g: np.maximum(1 - r, 0).mean() + np.maximum(1 + g, 0).mean(),
    lambda r, g: -g.mean(),
  ),
  'lsgan': (
    lambda r, g: (((r - 1) ** 2).mean() + ((g + 1) ** 2).mean()) / 2,
    lambda r, g: ((g - 1) ** 2).mean() / 2,
  ),
  'gan_qp_l1': (lambda r, g: -(r - g).mean(), lambda r, g: (r - g).mean()),
  'rsgan': (
    lambda r, g: softplus(-(r - g)).mean(),
    lambda r, g: softplus(r - g).mean(),
  ),
}


# These differ from another in the penalty alone.
DEFINITIONS |= dict.fromkeys(
  ('wgan_gp', 'wgan_lp', 'wgan_div'), DEFINITIONS['wgan']
)
DEFINITIONS['gan_qp_l2'] = DEFINITIONS['gan_qp_l1']
every_loss = pytest.mark.parametrize('name', list(adversarial.ADVERSARIAL))


@every_loss
def test_loss_is_its_definition(name):
  rng = np.random.default_rng(20)
  # Some beyond 1 and -1, where the hinge is flat.
  r, g = rng.normal(size=5) * 2, rng.normal(size=5) * 2
  losses = adversarial.ADVERSARIAL[name]
  critic, encoder = DEFINITIONS[name]
  np.testing.assert_allclose(
    losses.critic_loss(*as_float32(r, g)), critic(r, g), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    losses.encoder_loss(*as_float32(r, g)), encoder(r, g), rtol=1e-5, atol=1e-6
  )


@every_loss
def test_encoder_opposes_critic_in_every_loss(name):
  losses = adversarial.ADVERSARIAL[name]
  r, g = as_float32([0.3, -0.2, 0.9], [-0.5, 0.4, 0.1])
  # Scores within the hinge's slopes: each has a gradient of its own.
  of_critic = jax.grad(losses.critic_loss, argnums=1)(r, g)
  of_encoder = jax.grad(losses.encoder_loss, argnums=1)(r, g)
  assert np.all(np.asarray(of_critic) > 0)
  assert np.all(np.asarray(of_encoder) < 0)


# The loss of what makes the prior's side, of the same scores.
GENERATOR = {
  'jsd': lambda r, g: softplus(r).mean(),
  'rsgan': lambda r, g: softplus(r - g).mean(),
  **dict.fromkeys(
    ('wgan', 'wgan_gp', 'wgan_lp', 'wgan_div'), lambda r, g: r.mean()
  ),
  **dict.fromkeys(('gan_qp_l1', 'gan_qp_l2'), lambda r, g: (r - g).mean()),
  'hinge': lambda r, g: r.mean(),
  'lsgan': lambda r, g: ((r + 1) ** 2).mean() / 2,
}


@every_loss
def test_generator_opposes_critic_on_the_priors_side(name):
  rng = np.random.default_rng(21)
  r, g = rng.uniform(-0.9, 0.9, size=(2, 5))
  losses = adversarial.ADVERSARIAL[name]
  np.testing.assert_allclose(
    losses.generator_loss(*as_float32(r, g)), GENERATOR[name](r, g), rtol=1e-5
  )
  r, g = as_float32(r, g)
  assert np.all(np.asarray(jax.grad(losses.critic_loss)(r, g)) < 0)
  assert np.all(np.asarray(jax.grad(losses.generator_loss)(r, g)) > 0)


def test_all_three_gradients_of_the_jsd_in_closed_form():
  # softplus' is the logistic function s, and a row's share of a mean 1/3.
  r, g = np.array([3.0, -0.2, -8.0]), np.array([-3.0, 0.4, 9.0])
  losses = adversarial.ADVERSARIAL['jsd']
  scores = as_float32(r, g)
  of_critic = jax.grad(losses.critic_loss, argnums=(0, 1))(*scores)
  np.testing.assert_allclose(of_critic[0], -special.expit(-r) / 3, rtol=1e-5)
  np.testing.assert_allclose(of_critic[1], special.expit(g) / 3, rtol=1e-5)
  # Neither saturates: each is largest where the critic is right.
  of_encoder = jax.grad(losses.encoder_loss, argnums=1)(*scores)
  np.testing.assert_allclose(of_encoder, -special.expit(-g) / 3, rtol=1e-5)
  of_generator = jax.grad(losses.generator_loss)(*scores)
  np.testing.assert_allclose(of_generator, special.expit(r) / 3, rtol=1e-5)


def test_least_squares_are_the_papers_targets():
  # Mao et al.'s eq. 9: targets 1 of the prior and 0 of codes for the critic, 1
  # for the encoder, of D = (T + 1) / 2; ours are 4 times theirs.
  r, g = np.random.default_rng(3).normal(size=(2, 6))
  d_prior, d_code = (r + 1) / 2, (g + 1) / 2
  theirs = (
    ((d_prior - 1) ** 2).mean() / 2 + (d_code**2).mean() / 2,
    ((d_code - 1) ** 2).mean() / 2,
  )
  losses = adversarial.ADVERSARIAL['lsgan']
  for loss, expected in zip(
    (losses.critic_loss, losses.encoder_loss), theirs, strict=True
  ):
    np.testing.assert_allclose(loss(*as_float32(r, g)), 4 * expected, rtol=1e-5)


def test_best_least_squares_critic():
  # Where the prior has the density p and the codes q, the loss p (T - 1)^2 / 2
  # + q (T + 1)^2 / 2 is least at T = (p - q) / (p + q): of 3 prior samples and
  # 1 code among rows of one place, T = 1/2, and there the loss is
  # (1/4 + 9/4 / 3) / 2, in shares of the prior's density.
  loss = adversarial.ADVERSARIAL['lsgan'].critic_loss

  def at_place(t):
    # Means over batches as large as each other: 1 of 3 codes is at the place.
    r, g = jnp.full(3, t), jnp.array([t, -1.0, -1.0])
    return loss(r, g)

  value, slope = jax.value_and_grad(at_place)(0.5)
  np.testing.assert_allclose(slope, 0, atol=1e-6)
  np.testing.assert_allclose(value, (0.25 + 2.25 / 3) / 2, rtol=1e-6)


@every_loss
def test_only_paired_losses_refuse_unequal_batches(name):
  losses = adversarial.ADVERSARIAL[name]
  r, g = jnp.zeros(3), jnp.zeros(4)
  x, z = jnp.ones((3, 2)), jnp.zeros((4, 2))

  def terms():
    value = losses.critic_loss(r, g) + losses.encoder_loss(r, g)
    if losses.penalty is not None:
      value += losses.penalty(jax.random.key(0), lambda x: x.sum(1), x, z)
    return value

  if losses.paired:
    with pytest.raises(ValueError, match=r'pairs .* got shapes \([34]'):
      terms()
  else:
    assert np.isfinite(terms())


@every_loss
def test_losses_want_one_score_a_row(name):
  losses = adversarial.ADVERSARIAL[name]
  with pytest.raises(AssertionError, match='one score for each'):
    losses.critic_loss(jnp.zeros((3, 1)), jnp.zeros((3, 1)))
  with pytest.raises(AssertionError, match='one score for each'):
    losses.encoder_loss(jnp.zeros((3, 1)), jnp.zeros((3, 1)))
