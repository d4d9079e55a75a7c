"""One step: its optimizer, and its forms on one device and on eight."""

import functools
import importlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax import config as config_lib
from dim_jax.config import OptimizerConfig
from dim_jax.objective import Objective
from dim_jax.objectives import dim
from dim_jax.training import checkpoint, parallel
from dim_jax.training import step as step_lib
from tests import small


def two_group_objective():
  """loss = 3 a + 4 b: constant gradients of 3 and 4."""

  def init(rng, batch):
    del rng, batch
    return {'a': jnp.zeros(()), 'b': jnp.zeros(())}, {}

  def loss(params, model_state, batch, rng):
    del batch, rng
    return 3 * params['a'] + 4 * params['b'], ({}, model_state)

  return Objective(init, loss, lambda *_: {})


def run(steps, default, groups):
  objective = two_group_objective()
  optimizer = step_lib.make_optimizer(default, groups, {'a', 'b'})
  state = step_lib.init_state(objective, optimizer, {}, jax.random.key(0))
  history = []
  for _ in range(steps):
    state, _ = step_lib.train_step(
      state, {}, objective=objective, optimizer=optimizer
    )
    history.append((float(state.params['a']), float(state.params['b'])))
  return np.array(history)


def test_each_group_has_its_own_learning_rate():
  history = run(
    1,
    OptimizerConfig(learning_rate=0.1),
    {'b': OptimizerConfig(learning_rate=1)},
  )
  # Adam's first step is the learning rate, whatever the gradient's size.
  np.testing.assert_allclose(history, [[-0.1, -1.0]], rtol=1e-5)


def test_every_skips_steps_of_one_group():
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


def test_clipping_does_not_couple_the_groups():
  # eps in Adam hides a gradient's scale, so look at the first moment: clipped
  # to norm 1 it is (1 - b1) * 1 for each group. A norm over both groups,
  # 5, would leave (1 - b1) * 3/5 and 4/5.
  objective = two_group_objective()
  optimizer = step_lib.make_optimizer(
    OptimizerConfig(clip=1.0, b1=0.5), {}, {'a', 'b'}
  )
  state = step_lib.init_state(objective, optimizer, {}, jax.random.key(0))
  state, _ = step_lib.train_step(
    state, {}, objective=objective, optimizer=optimizer
  )
  for group in ('a', 'b'):
    moment = optax.tree.get(
      state.opt_state.inner_states[group].inner_state, 'mu'
    )[group]
    np.testing.assert_allclose(moment, 0.5, rtol=1e-6)


def test_unknown_group_is_named():
  with pytest.raises(ValueError, match=r"names 'critc'.*has \['a', 'b'\]"):
    step_lib.make_optimizer(
      OptimizerConfig(), {'critc': OptimizerConfig()}, {'a', 'b'}
    )


def test_learning_rate_decays_in_stairs():
  history = run(
    5, OptimizerConfig(learning_rate=0.1, decay=0.5, decay_every=2), {}
  )
  # A constant gradient makes each Adam step one learning rate long.
  lengths = -np.diff(history[:, 0], prepend=0.0)
  np.testing.assert_allclose(lengths, [0.1, 0.1, 0.05, 0.05, 0.025], rtol=1e-4)


def test_learning_rate_decays_by_the_groups_own_updates():
  slow = OptimizerConfig(learning_rate=0.1, decay=0.5, every=2)
  history = run(6, OptimizerConfig(learning_rate=0.1), {'b': slow})
  lengths = -np.diff(history, axis=0, prepend=0.0)
  np.testing.assert_allclose(lengths[:, 0], 0.1, rtol=1e-4)
  moves = lengths[:, 1][lengths[:, 1] != 0]
  np.testing.assert_allclose(moves, [0.1, 0.05, 0.025], rtol=1e-4)


def quadratic_objective():
  """A noisy pull to a target: parameters that move by another step each time.

  No two of its gradients are equal, so that an average is told from its end.
  """

  def init(rng, batch):
    del rng, batch
    return {'a': jnp.ones(2), 'b': {'w': jnp.full((1, 2), -2.0)}}, {}

  def loss(params, model_state, batch, rng):
    del batch
    pull = 2 + jax.random.normal(rng, (2,))
    value = jnp.square(params['a'] - pull).sum()
    return value + jnp.square(params['b']['w'] - pull[None]).sum(), (
      {},
      model_state,
    )

  return Objective(init, loss, lambda *_: {})


@functools.cache
def averaging_run(decay):
  """The state before any step, and a compiled step."""
  objective = quadratic_objective()
  optimizer = step_lib.make_optimizer(
    OptimizerConfig(learning_rate=0.3),
    {'b': OptimizerConfig(learning_rate=0.1, every=2)},
    {'a', 'b'},
    decay,
  )
  state = step_lib.init_state(objective, optimizer, {}, jax.random.key(0))
  step = jax.jit(
    lambda state: step_lib.train_step(
      state, {}, objective=objective, optimizer=optimizer
    )[0]
  )
  return state, step


@pytest.mark.parametrize('decay', [0.8, 0.999])
def test_average_is_the_explicit_recursion(decay):
  state, step = averaging_run(decay)
  plain, plain_step = averaging_run(None)
  # Nothing is averaged yet: the parameters themselves.
  before = step_lib.averaged_params(state, decay)
  jax.tree.map(np.testing.assert_array_equal, before, state.params)
  expected, weight = jax.tree.map(np.zeros_like, state.params), 0.0
  for t in range(1, 7):
    state, plain = step(state), plain_step(plain)
    expected = jax.tree.map(
      lambda e, p: decay * e + (1 - decay) * np.asarray(p, np.float64),
      expected,
      state.params,
    )
    # The weights of t parameters sum to 1 - decay^t, by which it is divided.
    weight = decay * weight + 1 - decay
    assert weight == pytest.approx(1 - decay**t)
    jax.tree.map(
      lambda a, e, w=weight: np.testing.assert_allclose(
        a, e / w, rtol=2e-5, atol=1e-5
      ),
      step_lib.averaged_params(state, decay),
      expected,
    )
    # Averaging looks on: the run is the one without it.
    jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)
    if t == 1:
      jax.tree.map(
        lambda a, p: np.testing.assert_allclose(a, p, rtol=2e-5),
        step_lib.averaged_params(state, decay),
        state.params,
      )
  average = step_lib.averaged_params(state, decay)
  assert np.abs(average['a'] - state.params['a']).max() > 0.1
  last = step_lib.averaged_params(state, None)
  jax.tree.map(np.testing.assert_array_equal, last, state.params)


def test_averaged_run_resumes_bitwise_identical(tmp_path):
  state, step = averaging_run(0.8)
  fresh = state
  for _ in range(2):
    state = step(state)
  with checkpoint.Checkpoints(tmp_path, owner=True) as checkpoints:
    checkpoints.save(2, state)
    resumed = checkpoints.restore(fresh)
  for _ in range(3):
    state, resumed = step(state), step(resumed)
  whole, again = (
    s._replace(rng=jax.random.key_data(s.rng)) for s in (state, resumed)
  )
  jax.tree.map(np.testing.assert_array_equal, whole, again)
  jax.tree.map(
    np.testing.assert_array_equal,
    step_lib.averaged_params(state, 0.8),
    step_lib.averaged_params(resumed, 0.8),
  )
  assert resumed.opt_state[-1].steps == 5


def make_dim(axis_name=None):
  config = dim.Config(
    encoder='small32',
    code=8,
    local_weight=1.0,
    global_weight=0.5,
    prior=dim.Prior(weight=0.2),
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
  fresh = step_lib.init_state(make_dim(), optimizer, batch, jax.random.key(0))
  forms = small.in_all_forms(make_dim, fresh, optimizer, batch)
  for name in ('jit', 'pmap'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
      forms['one'],
      forms[name],
    )


@pytest.mark.parametrize(
  ('name', 'kind', 'shape'),
  [
    ('dim_digits:structure', 'image', (32, 32, 1)),
    ('dim_digits:semi_supervised', 'image', (32, 32, 1)),
    ('vib_digits', 'image', (8, 8, 1)),
    ('gim_digits', 'image', (32, 32, 1)),
    ('stein_mixture_2d', 'point', (2,)),
  ],
)
def test_strict_promotion_stops_no_step(name, kind, shape):
  module, _, row = name.partition(':')
  module = importlib.import_module(f'dim_jax.configs.{module}')
  config = module.get_config(*filter(None, [row]))
  objective = config_lib.make_objective(config)
  dtype = np.float32 if kind == 'point' else np.uint8
  batch = {kind: jax.ShapeDtypeStruct((4, *shape), dtype)}
  if kind == 'image':
    batch['label'] = jax.ShapeDtypeStruct((4,), np.int32)

  def step(rng, batch):
    params, _ = jax.eval_shape(objective.init, rng, batch)
    optimizer = step_lib.make_optimizer(
      config.optimizer,
      config.groups,
      params,
      0.9,
      objective.optional_groups,
    )
    state = step_lib.init_state(objective, optimizer, batch, rng)
    state, _ = step_lib.train_step(
      state, batch, objective=objective, optimizer=optimizer
    )
    return objective.encode(
      step_lib.averaged_params(state, 0.9), state.model_state, batch
    )

  with jax.numpy_dtype_promotion('strict'):
    jax.eval_shape(step, jax.random.key(0), batch)


def test_batch_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match='batch_size 30 does not divide over 8'):
    parallel.check_batch_size(30, 8)


@pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='reads what XLA compiles for a CPU'
)
def test_a_loop_of_steps_copies_no_moments():
  def copies(optimizer):
    def body(carry, x):
      params, state = carry
      loss = lambda params: jnp.sum(jnp.sin(x @ params['w']))  # noqa: E731
      updates, state = optimizer.update(jax.grad(loss)(params), state, params)
      return (optax.apply_updates(params, updates), state), None

    params = {'w': jnp.zeros((64, 48))}
    loop = jax.jit(lambda carry, xs: jax.lax.scan(body, carry, xs)[0])
    inputs = (params, optimizer.init(params)), jnp.zeros((5, 8, 64))
    text = loop.lower(*inputs).compile().as_text()
    return len(re.findall(r'f32\[64,48\]\S* copy\(%get-tuple-element', text))

  # With a constant of 0.5, XLA computes the first moment twice, and keeps the
  # old one for that.
  assert copies(optax.adamw(1e-3, b1=0.5, weight_decay=0.0)) == 1
  for b1 in (0.5, 0.9):
    config = OptimizerConfig(b1=b1)
    assert copies(step_lib.make_optimizer(config, {}, ['w'])) == 0


@pytest.mark.parametrize('b1', [0.5, 0.9])
def test_adam_is_that_of_optax(b1):
  rng = np.random.default_rng(0)
  params = {'w': {'kernel': jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}}
  config = OptimizerConfig(learning_rate=0.01, b1=b1, weight_decay=0.1)
  ours = step_lib.make_optimizer(config, {}, params)
  theirs = optax.adamw(0.01, b1=b1, b2=config.b2, weight_decay=0.1)
  state, expected_state = ours.init(params), theirs.init(params)
  for _ in range(5):
    gradient = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params
    )
    updates, state = ours.update(gradient, state, params)
    expected, expected_state = theirs.update(gradient, expected_state, params)
    chex.assert_trees_all_equal(updates, expected)
