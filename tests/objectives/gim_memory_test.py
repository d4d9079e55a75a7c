"""What Greedy InfoMax needs to remember, as XLA plans it: nothing is run."""

import math

import jax
import jax.numpy as jnp
import pytest

from dim_jax.networks import greedy_modules, layers
from dim_jax.objectives import gim

NUM_IMAGES, GRID, SIZE, WIDTH = 16, 3, 16, 16
MODULES = tuple(
  greedy_modules.ResNetModule(
    2, WIDTH, bottleneck=False, stem=None if i else (WIDTH, 5, 1, 2)
  )
  for i in range(3)
)
# What a module passes on.
FEATURES = (NUM_IMAGES, GRID, GRID, SIZE, SIZE, WIDTH)
ACTIVATION = math.prod(FEATURES) * 4


def temporary_bytes(stored=None, **fields):
  """Of a loss and its gradient, beside their arguments and results."""
  objective = gim.make(
    gim.Config(modules=MODULES, num_classes=0, offsets=1, negatives=4, **fields)
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  batch = {'image': jax.ShapeDtypeStruct((NUM_IMAGES, 32, 32, 1), jnp.uint8)}
  variables = jax.eval_shape(objective.init, key, batch)
  if stored is not None:
    batch = {'features': jax.ShapeDtypeStruct(stored, jnp.float32)}
  gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  compiled = gradient.lower(*variables, batch, key).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.fixture(scope='module', autouse=True)
def small_windows():
  """As small a share of these networks as 8 MiB are of ResNet-50."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(layers, 'WINDOWS', 1)
    yield


@pytest.fixture(scope='module')
def joint(small_windows):
  return temporary_bytes()


def test_walls_cost_no_memory(joint):
  # Losses of their own need no more than what gradient isolation frees.
  assert joint <= 1.01 * temporary_bytes(stop_gradient_after=())


@pytest.fixture(scope='module')
def stored(small_windows):
  """The third module's, on what the second passed on."""
  return temporary_bytes(FEATURES, depth=3, frozen=2)


def test_a_module_alone_needs_a_part_of_what_all_need(joint, stored):
  # One of three alike.
  assert stored <= 0.4 * joint


@pytest.mark.parametrize('frozen', [1, 2])
def test_frozen_modules_cost_an_activation_however_many(stored, frozen):
  prefix = temporary_bytes(depth=frozen + 1, frozen=frozen)
  assert prefix <= stored + 1.01 * ACTIVATION


def test_rows_of_patches_one_after_another_need_less(joint):
  # A third of the grid at a time, and maps between modules.
  assert temporary_bytes(remat=True) <= 0.6 * joint
