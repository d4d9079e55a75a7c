"""Noise as targets, against brute force and what a sphere is known to have."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dim_jax import config as config_lib
from dim_jax import random
from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.data import batches
from dim_jax.networks import encoders
from dim_jax.objectives import nat
from dim_jax.runs import dry_run, train
from dim_jax.training import step as step_lib
from tests import small

COUNT, CODE = 24, 3
CONFIG = nat.Config(
  encoder=encoders.MLPCode(units=(8,), code=CODE),
  targets=COUNT,
  num_classes=3,
  probe_features=('fc',),
)
OPTIMIZER = optax.sgd(0.5)


class Passing(nn.Module):
  """An encoder whose code is the image."""

  def __call__(self, images, *, train=False):
    return images.reshape(len(images), -1)


def make_batch(index):
  index = np.asarray(index, np.int32)
  images = small.images(COUNT, 4)
  return {name: x[index] for name, x in images.items()} | {'index': index}


@functools.cache
def fresh_state():
  """The state before the first step."""
  init = functools.partial(step_lib.init_state, nat.make(CONFIG), OPTIMIZER)
  return jax.jit(init)(make_batch(range(8)), jax.random.key(0))


@functools.cache
def compiled(accumulate=1):
  return jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=nat.make(CONFIG),
      optimizer=OPTIMIZER,
      accumulate=accumulate,
    )
  )


draw_targets = jax.jit(nat.targets, static_argnums=1)
encode = jax.jit(nat.make(CONFIG).encode)


def codes_of(state, batch):
  codes = encode(state.params, state.model_state, batch)['y']
  codes = np.asarray(codes, np.float64)
  return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def on_sphere(rng, n, size=CODE):
  x = rng.normal(size=(n, size))
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def least(codes, vectors):
  """The least sum of squared distances, of all permutations."""
  rows = range(len(codes))
  return min(
    sum(np.sum((codes[i] - vectors[p[i]]) ** 2) for i in rows)
    for p in itertools.permutations(rows)
  )


def assignment_of(state):
  return np.asarray(state.model_state['nat']['assignment'])


# With indices that are apart, one that is there twice, and one three times.
@pytest.mark.parametrize(
  'index', [(4, 9, 2, 7, 0, 5), (4, 9, 4, 7, 0, 5), (1, 9, 1, 1, 9, 5)], ids=str
)
def test_no_permutation_is_better(index):
  assign = jax.jit(nat.assign)
  numbers = np.asarray(index)
  first = [index.index(i) for i in index]
  apart = sorted(set(first))
  for seed in range(5):
    rng = np.random.default_rng(seed)
    codes = on_sphere(rng, 6)
    vectors = on_sphere(rng, 16)[numbers]
    rows = assign(
      jnp.asarray(codes, jnp.float32),
      jnp.asarray(vectors, jnp.float32),
      jnp.asarray(numbers, jnp.int32),
    )
    rows = np.asarray(rows)
    assert sorted(rows[apart]) == apart
    np.testing.assert_array_equal(rows, rows[first])
    cost = np.sum((codes[apart] - vectors[rows[apart]]) ** 2)
    assert cost == pytest.approx(least(codes[apart], vectors[apart]), abs=1e-5)


def test_targets_are_uniform_on_the_sphere_and_always_the_same():
  size, count = 4, 4000
  x = np.asarray(
    draw_targets(jnp.arange(count, dtype=jnp.int32), size), np.float64
  )
  np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
  # By symmetry a coordinate has mean 0, and the squares of the K add up to 1:
  # its variance is 1 / K. E x^4 = 3 / (K (K + 2)) is the variance of squares'.
  deviation = np.sqrt(1 / size / count)
  assert np.abs(x.mean(0)).max() < 4 * deviation
  fourth = 3 / (size * (size + 2))
  deviation = np.sqrt((fourth - 1 / size**2) / count)
  np.testing.assert_allclose((x**2).mean(0), 1 / size, atol=4 * deviation)
  # Correlations of two coordinates: E x^2 y^2 = 1 / (K (K + 2)).
  products = x.T @ x / count - np.diag((x**2).mean(0))
  assert np.abs(products).max() < 4 * np.sqrt(1 / (size * (size + 2)) / count)
  # A target is its number's, whichever others are asked for.
  some = draw_targets(jnp.asarray([7, 3999], jnp.int32), size)
  np.testing.assert_allclose(some, x[[7, 3999]], rtol=1e-6)


def test_loss_is_0_at_the_targets_and_4_opposite():
  objective = nat.make(nat.Config(encoder=Passing(), targets=5, num_classes=0))
  loss_fn = jax.jit(objective.loss)
  state = {'encoder': {}, 'nat': {'assignment': jnp.arange(5)[::-1]}}
  index = jnp.asarray([3], jnp.int32)
  target = draw_targets(jnp.asarray([1], jnp.int32), CODE)
  # Only the direction of a code counts.
  for factor, distance in ((1.0, 0.0), (0.3, 0.0), (-0.2, 4.0)):
    batch = {'image': factor * target[:, None, None, :], 'index': index}
    loss, (metrics, _) = loss_fn(
      {'encoder': {}}, state, batch, jax.random.key(0)
    )
    assert loss == metrics['nat/distance']
    assert loss == pytest.approx(distance, abs=1e-5)
    assert metrics['nat/moved'] == 0


def test_assignment_stays_a_permutation_and_the_loss_is_of_the_new_one():
  state, step = fresh_state(), compiled()
  rng = np.random.default_rng(3)
  assert sorted(assignment_of(state)) == list(range(COUNT))
  moved = []
  for i in range(12):
    # Every other batch is drawn with replacement.
    batch = make_batch(rng.choice(COUNT, 8, replace=bool(i % 2)))
    index = batch['index']
    before = assignment_of(state)
    codes = codes_of(state, batch)
    state, metrics = step(state, batch)
    after = assignment_of(state)
    assert sorted(after) == list(range(COUNT))
    others = np.setdiff1d(np.arange(COUNT), index)
    np.testing.assert_array_equal(after[others], before[others])
    targets = np.asarray(draw_targets(jnp.asarray(after[index]), CODE))
    distance = np.sum((codes - targets) ** 2, 1).mean()
    assert metrics['nat/distance'] == pytest.approx(distance, abs=1e-5)
    changed = (after[index] != before[index]).mean()
    assert metrics['nat/moved'] == pytest.approx(changed)
    moved.append(changed)
  assert max(moved) > 0.5


def test_micro_batches_are_assigned_one_after_another():
  state = fresh_state()
  batch = make_batch(range(8))
  new, _ = compiled(accumulate=2)(state, batch)
  before, after = assignment_of(state), assignment_of(new)
  codes = codes_of(state, batch)
  for rows in (np.arange(0, 8, 2), np.arange(1, 8, 2)):
    # Each has its own targets still, in the best order.
    assert sorted(after[rows]) == sorted(before[rows])
    targets = np.asarray(draw_targets(jnp.asarray(before[rows]), CODE))
    new_targets = np.asarray(draw_targets(jnp.asarray(after[rows]), CODE))
    cost = np.sum((codes[rows] - new_targets) ** 2)
    assert cost == pytest.approx(least(codes[rows], targets), abs=1e-5)
  assert (after[:8:2] != before[:8:2]).any()
  assert (after[1:8:2] != before[1:8:2]).any()


def test_one_device_is_jit_on_eight_is_pmap_on_eight():
  forms = small.in_all_forms(
    lambda axis_name: nat.make(CONFIG, axis_name=axis_name),
    fresh_state(),
    OPTIMIZER,
    # Example 1 is there twice, on two devices.
    make_batch([*range(15), 1]),
  )
  number = assignment_of(fresh_state())
  for name in ('jit', 'pmap'):
    small.assert_same(forms[name], forms['one'])
    result = forms[name][1]['nat']['assignment']
    np.testing.assert_array_equal(result, forms['one'][1]['nat']['assignment'])
  assert (number != forms['one'][1]['nat']['assignment']).any()


def test_only_the_encoder_learns_from_the_distance():
  objective = nat.make(CONFIG)
  state = fresh_state()
  batch = make_batch(range(8))

  def distance(params):
    out = objective.loss(params, state.model_state, batch, jax.random.key(0))
    return out[1][0]['nat/distance']

  value, gradient = jax.jit(jax.value_and_grad(distance))(state.params)
  assert set(gradient) == {'encoder', 'probe'}
  assert not any(np.any(x) for x in jax.tree.leaves(gradient['probe']))
  # Along a direction, by central differences: the assignment is the same there.
  rng = np.random.default_rng(0)
  direction = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state.params
  )
  slope = sum(
    np.vdot(a, b)
    for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
  )

  @jax.jit
  def at(size):
    moved = jax.tree.map(lambda p, d: p + size * d, state.params, direction)
    return distance(moved)

  central = (at(1e-2) - at(-1e-2)) / 2e-2
  assert slope == pytest.approx(float(central), rel=1e-2)
  assert value > 0


def test_a_step_ends_where_codes_are_not_finite():
  state = fresh_state()
  nothing = jax.tree.map(lambda x: x * jnp.nan, state.params)
  new, metrics = compiled()(
    state._replace(params=nothing), make_batch(range(8))
  )
  assert np.isnan(metrics['nat/distance'])
  assert sorted(assignment_of(new)) == list(range(COUNT))


def test_a_run_numbers_its_examples(tmp_path):
  config = ExperimentConfig(
    objective=nat.Config(encoder=CONFIG.encoder, targets=1300),
    data=DataConfig(name='digits'),
    batch_size=8,
    steps=2,
    log_every=2,
    checkpoint_every=2,
  )
  state = train.train(config, str(tmp_path), show_progress=False)
  # As of the run's seed, 0, which `step_lib.init_state` splits in two.
  first = jax.random.split(jax.random.key(config.seed))[0]
  branch = random.branch(first, random.OfParameters.ASSIGNMENT)
  before = jax.random.permutation(branch, jnp.arange(1300, dtype=jnp.int32))
  trained = batches.batch_indices(0, 0, 2, batch_size=8, num_examples=1294)
  moved = np.flatnonzero(assignment_of(state) != np.asarray(before))
  assert set(moved) <= set(trained.reshape(-1)) and len(moved) > 8
  # Of the digits at 32x32, 8 units and a code of 3, with biases.
  parameters = dry_run.measure(config)['parameters']
  assert parameters['encoder'] == 8 * (32 * 32 + 1) + 3 * (8 + 1)


def test_bad_input_says_what_to_do(tmp_path):
  config = ExperimentConfig(
    objective=nat.Config(encoder='small32', targets=1000),
    data=DataConfig(name='digits', image_size=32),
  )
  # 1,797 digits, less a fifth to test on and a tenth of the rest.
  with pytest.raises(ValueError) as error:
    train.train(config, str(tmp_path / 'run'))
  assert str(error.value) == (
    'objective.targets=1000 is fewer than the 1,294 examples to train on, each '
    'of which needs a target: set --config.objective.targets=1294.'
  )
  assert not (tmp_path / 'run').exists()

  objective = config_lib.make_objective(ExperimentConfig(objective=CONFIG))
  batch = make_batch(range(4))
  del batch['index']
  state = fresh_state()
  with pytest.raises(ValueError, match=r"needs batch\['index'\], int32 \[N\]"):
    objective.loss(state.params, state.model_state, batch, jax.random.key(0))
  for field, value in {'targets': 0, 'code': 1.5, 'norm': 'none'}.items():
    changed = nat.Config(**vars(CONFIG) | {field: value})
    with pytest.raises(ValueError, match=f'objective.{field} must be'):
      nat.make(changed)


def test_an_encoder_without_a_code_is_named():
  config = dataclasses.replace(
    CONFIG, encoder='foldmultiresnet34_32', num_classes=0, probe_features=()
  )
  batch = small.images(size=32) | {'index': np.arange(8, dtype=np.int32)}
  with pytest.raises(
    ValueError, match=r"must return the feature 'y'; it returns \['conv', "
  ):
    objective = nat.make(config)
    state = jax.eval_shape(objective.init, jax.random.key(0), batch)
    jax.eval_shape(objective.loss, *state, batch, jax.random.key(0))
