"""The operations that benchmarks count, and the rate that follows."""

import jax
import jax.numpy as jnp

from dim_jax.networks import layers
from experiments.benchmarks import harness


def flops(function, *arguments):
  return harness.product_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_products_are_counted_with_every_pass_of_a_loop():
  x, w = jnp.zeros((3, 4)), jnp.zeros((4, 4))
  one = 2 * 3 * 4 * 4  # an addition and a multiplication for each of n, d, k
  assert flops(lambda x: x @ w, x) == one
  # Its gradients are as many again, each.
  assert flops(jax.grad(lambda x, w: (x @ w).sum(), (0, 1)), x, w) == 3 * one

  def repeated(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, 5)[0]

  assert flops(jax.jit(repeated), x) == 5 * one

  def reported(x):
    jax.debug.callback(lambda _: None, x)  # an equation without outputs
    return jax.checkpoint(lambda x: x @ w)(x)

  assert flops(reported, x) == one


def test_a_convolution_counts_alike_in_each_lowering():
  images, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
  # 6x6 outputs of 5 features, each a sum over 3x3 pixels of 3 channels.
  expected = 2 * (2 * 6 * 6) * (3 * 3 * 3) * 5
  for lowering in layers.LOWERINGS:
    convolve = lambda x: layers.convolve(x, kernel, lowering=lowering)  # noqa: B023, E731
    assert flops(convolve, images) == expected


def test_rate_beside_that_of_the_product():
  # 3 GFLOP in 0.1 s are 30 GFLOP/s, a quarter of 120.
  fields = harness.rate(3e9, 0.1, {'product_gflop_per_s': 120.0})
  assert fields == {
    'step_gflop': 3.0,
    'step_gflop_per_s': 30.0,
    'fraction_of_product_rate': 0.25,
  }
