"""Gradient penalties of critics whose slope is known."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import adversarial, gradient_penalties
from tests.losses.reference import as_float32


def test_gradient_penalty_of_a_linear_score():
  # The gradient of w.x is w everywhere: |w|^2 = 1 + 4 + 4.
  weights = jnp.array([1.0, -2.0, 2.0])
  inputs = jnp.asarray(np.random.default_rng(5).normal(size=(4, 3)))
  np.testing.assert_allclose(
    gradient_penalties.gradient_penalty(lambda x: x @ weights, inputs),
    9,
    rtol=1e-6,
  )


def test_gradient_penalty_counts_every_row():
  # The gradient of |x|^2 / 2 is x, so the penalty is the mean of |x|^2. The
  # last row alone would give 0, and over N rows the first alone 25 / 3.
  inputs = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])

  def half_square(x):
    return jnp.sum(jnp.square(x), axis=1) / 2

  np.testing.assert_allclose(
    gradient_penalties.gradient_penalty(half_square, inputs),
    (25 + 1 + 0) / 3,
    rtol=1e-6,
  )


def test_gradient_penalty_reaches_the_adversary():
  # The penalty of s |x|^2 / 2 is s^2 times the mean of |x|^2: slope 2 s 26 / 3.
  inputs = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])

  def penalty(scale):
    return gradient_penalties.gradient_penalty(
      lambda x: scale * jnp.sum(jnp.square(x), axis=1) / 2, inputs
    )

  np.testing.assert_allclose(
    jax.jit(jax.grad(penalty))(1.5), 2 * 1.5 * 26 / 3, rtol=1e-6
  )


def test_gradient_penalty_wants_one_score_a_row():
  with pytest.raises(AssertionError, match=r'return \[N\]'):
    gradient_penalties.gradient_penalty(lambda x: x, jnp.ones((4, 3)))


# Of the score w.x, whose gradient is w everywhere: |w|^2 = 9.
@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('jsd', (9 + 9) / 2),
    ('wgan_gp', 10 * (3 - 1) ** 2),
    ('wgan_lp', 10 * (3 - 1) ** 2),
    ('wgan_div', 2 * 3**6),
  ],
)
def test_gradient_penalties_of_a_linear_score(name, expected):
  losses = adversarial.ADVERSARIAL[name]
  assert losses.input_gradient
  weights = jnp.array([1.0, -2.0, 2.0])
  x, z = as_float32(*np.random.default_rng(21).normal(size=(2, 4, 3)))
  value = losses.penalty(jax.random.key(0), lambda x: x @ weights, x, z)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_interpolates_are_drawn_for_each_pair():
  # The gradient of |x|^2 / 2 is x, so a penalty sees the interpolates. Pairs
  # (a, 0) and (0, a) with a = 4: their norms are 4 e and 4 (1 - e).
  x = jnp.array([[4.0, 0.0]] * 500 + [[0.0, 0.0]] * 500)
  z = x[::-1]

  def half_square(x):
    return jnp.sum(jnp.square(x), axis=1) / 2

  values = gradient_penalties.power_penalty(
    jax.random.key(0), half_square, x, z, weight=1.0, power=2.0
  )
  # E (4 e)^2 = 16 / 3 for e ~ U(0, 1), with variance 256 (1/5 - 1/9): one e for
  # the whole batch would almost surely be far from it.
  error = 16 * math.sqrt((1 / 5 - 1 / 9) / 1000)
  np.testing.assert_allclose(values, 16 / 3, atol=4 * error)
  one = gradient_penalties.one_centred_penalty(
    jax.random.key(0), half_square, x, z, weight=3.0
  )
  # E (4 e - 1)^2 = 16 / 3 - 4 + 1, with variance below E (4 e - 1)^4 < 13.
  np.testing.assert_allclose(one, 3 * (7 / 3), atol=3 * 4 * (13 / 1000) ** 0.5)
  # One-sided: the integral of (4 e - 1)^2 from 1/4 on, 27 / 12.
  one = gradient_penalties.one_sided_penalty(
    jax.random.key(0), half_square, x, z, weight=3.0
  )
  np.testing.assert_allclose(one, 3 * 9 / 4, atol=3 * 4 * (13 / 1000) ** 0.5)


def test_one_sided_penalty_is_free_below_a_slope_of_one():
  # Of w.x with |w| = 0.6 and 1.5: 0, and 10 (1.5 - 1)^2 = 2.5 whose gradient
  # along w is 20 * 0.5 = 10; the two-sided one pushes the first up by 20 * 0.4.
  x, z = as_float32(*np.random.default_rng(2).normal(size=(2, 4, 2)))

  def value_and_slope(name, length):
    penalty = adversarial.ADVERSARIAL[name].penalty
    along = jnp.array([0.6, 0.8])
    return jax.value_and_grad(
      lambda s: penalty(jax.random.key(0), lambda x: x @ (s * along), x, z)
    )(length)

  for name, length, expected in (
    ('wgan_lp', 0.6, (0, 0)),
    ('wgan_lp', 1.5, (2.5, 10)),
    ('wgan_gp', 0.6, (1.6, -8)),
    ('wgan_gp', 1.5, (2.5, 10)),
  ):
    np.testing.assert_allclose(
      value_and_slope(name, length), expected, rtol=1e-5
    )


def test_penalties_of_a_flat_score_have_finite_gradients():
  x = jnp.ones((3, 2))
  for name, losses in adversarial.ADVERSARIAL.items():
    if losses.input_gradient:
      gradient = jax.grad(
        lambda w, losses=losses: losses.penalty(
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
  value = adversarial.ADVERSARIAL[f'gan_qp_{norm}'].penalty(
    jax.random.key(0),
    lambda x: x @ jnp.asarray(weights, jnp.float32),
    *as_float32(x, z),
  )
  np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)


def test_best_quadratic_critic_of_two_points():
  # -D + D^2 / (2 lambda d) is least at D = lambda d, where it is -lambda d / 2:
  # the points 0 and (3, 1) have d = 2 by 'l1', so D = 20 and the value is -10.
  losses = adversarial.ADVERSARIAL['gan_qp_l1']
  x, z = jnp.array([[3.0, 1.0]]), jnp.zeros((1, 2))

  def loss(difference):
    def score(x):
      return difference * x[:, 0] / 3

    penalty = losses.penalty(jax.random.key(0), score, x, z)
    return losses.critic_loss(score(x), score(z)) + penalty

  value, slope = jax.value_and_grad(loss)(20.0)
  np.testing.assert_allclose(value, -10, rtol=1e-6)
  np.testing.assert_allclose(slope, 0, atol=1e-6)
  # And a pair that coincides costs nothing, rather than 0 / 0.
  same = jax.value_and_grad(
    lambda w: losses.penalty(jax.random.key(0), lambda x: w * x[:, 0], x, x)
  )(1.0)
  chex.assert_trees_all_close(same, (0.0, 0.0), atol=0)


def test_quadratic_penalty_names_what_it_accepts():
  x = jnp.ones((2, 2))
  with pytest.raises(ValueError, match="'l1' or 'l2', got 'l3'"):
    gradient_penalties.quadratic_penalty(None, x, x, norm='l3')
  with pytest.raises(ValueError, match='scale must be > 0, got 0'):
    gradient_penalties.quadratic_penalty(None, x, x, norm='l1', scale=0.0)
