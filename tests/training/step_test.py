"""One step: its optimizer, and its forms on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax.config import OptimizerConfig
from dim_jax.objective import Objective
from dim_jax.objectives import dim
from dim_jax.training import parallel
from dim_jax.training import step as step_lib


def two_player_objective():
  """loss = 3 a + 4 b: constant gradients of 3 and 4."""

  def init(rng, batch):
    del rng, batch
    return {'a': jnp.zeros(()), 'b': jnp.zeros(())}, {}

  def loss(params, model_state, batch, rng):
    del batch, rng
    return 3 * params['a'] + 4 * params['b'], ({}, model_state)

  return Objective(init, loss, lambda *_: {})


def run(steps, default, players):
  objective = two_player_objective()
  optimizer = step_lib.make_optimizer(default, players, {'a', 'b'})
  state = step_lib.init_state(objective, optimizer, {}, jax.random.key(0))
  history = []
  for _ in range(steps):
    state, _ = step_lib.train_step(
      state, {}, objective=objective, optimizer=optimizer
    )
    history.append((float(state.params['a']), float(state.params['b'])))
  return np.array(history)


def test_each_player_has_its_own_learning_rate():
  history = run(
    1,
    OptimizerConfig(learning_rate=0.1),
    {'b': OptimizerConfig(learning_rate=1)},
  )
  # Adam's first step is the learning rate, whatever the gradient's size.
  np.testing.assert_allclose(history, [[-0.1, -1.0]], rtol=1e-5)


def test_every_skips_steps_of_one_player():
  history = run(
    4,
    OptimizerConfig(learning_rate=0.1),
    {'b': OptimizerConfig(learning_rate=0.1, every=2)},
  )
  # A constant gradient makes each Adam step one learning rate long.
  np.testing.assert_allclose(history[:, 0], [-0.1, -0.2, -0.3, -0.4], rtol=1e-4)
  moved = np.diff(history[:, 1], prepend=0.0) != 0
  assert moved.sum() == 2
  assert not (moved[:-1] & moved[1:]).any()


def test_clipping_does_not_couple_the_players():
  # eps in Adam hides a gradient's scale, so look at the first moment: clipped
  # to norm 1 it is (1 - b1) * 1 for each player. A norm over both players,
  # 5, would leave (1 - b1) * 3/5 and 4/5.
  objective = two_player_objective()
  optimizer = step_lib.make_optimizer(
    OptimizerConfig(clip=1.0, b1=0.5), {}, {'a', 'b'}
  )
  state = step_lib.init_state(objective, optimizer, {}, jax.random.key(0))
  state, _ = step_lib.train_step(
    state, {}, objective=objective, optimizer=optimizer
  )
  for player in ('a', 'b'):
    moment = optax.tree.get(
      state.opt_state.inner_states[player].inner_state, 'mu'
    )[player]
    np.testing.assert_allclose(moment, 0.5, rtol=1e-6)


def test_unknown_player_is_named():
  with pytest.raises(ValueError, match=r"names 'critc'.*has \['a', 'b'\]"):
    step_lib.make_optimizer(
      OptimizerConfig(), {'critc': OptimizerConfig()}, {'a', 'b'}
    )


def make_dim(axis_name=None):
  config = dim.Config(
    encoder='small32',
    code=8,
    local_weight=1.0,
    global_weight=0.5,
    prior_weight=0.2,
    critic='projection',
    critic_units=16,
    global_critic_units=16,
    local_samples=8,
    num_classes=3,
  )
  return dim.make(config, axis_name=axis_name)


def test_one_device_is_jit_on_eight_is_pmap_on_eight():
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (16, 32, 32, 1), dtype=np.uint8),
    # Unlabelled images fall unevenly on the devices.
    'label': np.array(
      [-1, -1, 0, 1, 2] + [0, 1, 2, 1] * 2 + [0, 1, 2], np.int32
    ),
  }
  # SGD: Adam turns the rounding noise of a zero gradient into full steps.
  optimizer = optax.sgd(1e-2)
  forms, traced = {}, []
  for name, devices, axis_name in (
    ('one', 1, None),
    ('jit', 8, None),
    ('pmap', 8, 'data'),
  ):
    objective = make_dim(axis_name)
    state = step_lib.init_state(objective, optimizer, batch, jax.random.key(0))

    def step(state, batch, objective=objective, axis_name=axis_name, name=name):
      traced.append(name)
      return step_lib.train_step(
        state,
        batch,
        objective=objective,
        optimizer=optimizer,
        axis_name=axis_name,
      )

    mesh = parallel.make_mesh(devices)
    state = parallel.replicate(state, mesh)
    if axis_name:
      compiled = step_lib.pmap_step(step, devices)
    else:
      compiled = step_lib.jit_step(step, mesh)
    for _ in range(2):
      state, metrics = compiled(state, batch)
    forms[name] = jax.device_get((state.params, state.model_state, metrics))
  assert traced == ['one', 'jit', 'pmap']
  for name in ('jit', 'pmap'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
      forms['one'],
      forms[name],
    )


def test_batch_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match='batch_size 30 does not divide over 8'):
    parallel.check_batch_size(30, 8)
