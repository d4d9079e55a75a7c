"""No step contracts several axes in a product: XLA's CPU backend copies there.

The weight's gradient of `x[N, L, C] @ w` contracts N and L; as rows it does
not (see `layers.product`).
"""

import jax
import jax.numpy as jnp
import pytest

from dim_jax import config as config_lib
from dim_jax import configs
from dim_jax.runs import dry_run
from experiments.benchmarks import harness

# All that a step multiplies occurs in one of these.
CONFIGS = (
  'dim_cifar10:local_infonce',
  'dim_cifar10:global',
  'dim_cifar10:structure',
  'dim_cifar10:coordinates',
  'dim_cifar10:folded_globals',
  'dim_digits:masked',
  'dim_digits:semi_supervised',
  'couplets:infonce',
  'couplets:masked',
  'couplets:tagging',
  'gim_digits',
  'gim_cifar10:cpc',
  'gim_spoken_digits:cpc',
  'gim_spoken_digits:greedy_supervised',
  'stein_gan_digits',
  'stein_mixture_2d',
  'vib_digits:vib',
  'vib_digits:plane',
)


def products(jaxpr):
  """All products of a program and of those inside of it."""
  for equation, _ in harness.equations(jaxpr):
    if equation.primitive.name == 'dot_general':
      yield equation


@pytest.mark.parametrize('name', CONFIGS)
def test_a_product_contracts_one_axis(name):
  family, _, row = name.partition(':')
  module = configs.families()[family]
  config = configs.get(module.ROWS, row) if row else module.get_config()
  objective = config_lib.make_objective(config)
  shapes = dry_run.shapes(config.data)
  batch = {
    config.data.kind: jnp.zeros((8, *shapes.seen), shapes.dtype),
    'label': jnp.zeros(8, jnp.int32),
  }
  key = jax.random.key(0)
  variables = jax.eval_shape(objective.init, key, batch)
  step = jax.value_and_grad(objective.loss, has_aux=True)
  found = list(products(jax.make_jaxpr(step)(*variables, batch, key).jaxpr))
  assert found
  for product in found:
    (contracted, _), _ = product.params['dimension_numbers']
    assert len(contracted) <= 1, product


def test_the_search_sees_what_it_looks_for():
  def loss(kernel, x):
    return jnp.sum(jax.lax.map(lambda x: x @ kernel, x))

  gradient = jax.make_jaxpr(jax.grad(loss))(
    jnp.ones((3, 4)), jnp.ones((5, 2, 6, 3))
  )
  contracted = [
    e.params['dimension_numbers'][0][0] for e in products(gradient.jaxpr)
  ]
  assert (0, 1) in contracted
