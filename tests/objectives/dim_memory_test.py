"""Deep InfoMax in less memory: the numbers must be those of all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.networks import critics
from dim_jax.objectives import dim
from tests.small import dim_config

N = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 2), np.uint8)


class Encoder(nn.Module):
  """A dense layer a pixel, and three codes of all of them."""

  @nn.compact
  def __call__(self, images, train=False):
    local = nn.relu(nn.Dense(6)(images))
    fc = nn.relu(nn.Dense(10)(local.reshape(local.shape[0], -1)))
    y = nn.Dense(15)(fc).reshape(-1, 3, 5)
    return {'local': local, 'conv': local, 'fc': fc, 'y': y}


def make_config(**changes):
  defaults = {
    'encoder': Encoder(),
    'critic_units': 8,
    'global_critic_units': 8,
    'prior__weight': 0.0,
    'num_classes': 0,
  }
  return dim_config(**(defaults | changes))


def gradients(config, variables):
  grad = jax.jit(jax.value_and_grad(dim.make(config).loss, has_aux=True))
  return grad(*variables, {'image': PIXELS}, jax.random.key(1))


def fill(shapes):
  """Parameters from NumPy: XLA takes long to compile the samplers."""
  rng = np.random.default_rng(1)

  def draw(x):
    if x.ndim == 1:
      return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
    values = rng.normal(size=x.shape) / np.sqrt(x.shape[0])
    return jnp.asarray(values, jnp.float32)

  return jax.tree.map(draw, shapes)


def start(config):
  key = jax.eval_shape(lambda: jax.random.key(0))
  return fill(jax.eval_shape(dim.make(config).init, key, {'image': PIXELS}))


def assert_same(result, expected):
  for x, y in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
    scale = max(1.0, np.abs(y).max())
    np.testing.assert_allclose(x / scale, y / scale, atol=1e-5)


@pytest.mark.parametrize(
  'changes',
  [
    # 18 globals, 5 at a time, and the global term beside them.
    {'critic': 'factored', 'bound': 'donsker_varadhan', 'global_weight': 0.5},
    {'critic': 'projection', 'mask__kind': 'drop', 'mask__targets': 'hidden'},
  ],
  ids=['factored', 'projection'],
)
def test_chunks_of_scores_change_no_number(changes):
  changes |= {'mask__patch': 2}
  variables = start(make_config(**changes))
  expected = gradients(make_config(**changes), variables)
  result = gradients(make_config(**changes, memory__score_chunk=5), variables)
  # Loss, metrics with the ceiling, running statistics and every gradient.
  assert_same(result, expected)
  assert jax.tree.structure(result) == jax.tree.structure(expected)
  kernel = expected[1]['encoder']['Dense_1']['kernel']
  assert np.abs(kernel).max() > 1e-3


def test_two_devices_in_chunks_are_one_without():
  if len(jax.devices()) < 2:
    pytest.skip('needs 2 devices')
  variables = start(make_config())
  (loss, (metrics, _)), grads = gradients(make_config(), variables)
  objective = dim.make(make_config(memory__score_chunk=4), axis_name='data')
  # Each device's part of the gradient; their mean is the whole.
  split = jax.pmap(
    jax.value_and_grad(objective.loss, has_aux=True),
    axis_name='data',
    in_axes=(None, None, 0, None),
    devices=jax.devices()[:2],
  )
  (losses, (parts, _)), split_grads = split(
    *variables, {'image': PIXELS.reshape(2, 3, 4, 4, 2)}, jax.random.key(1)
  )
  np.testing.assert_allclose(losses, [loss, loss], rtol=1e-5)
  assert set(parts) == set(metrics)
  for name, value in metrics.items():
    np.testing.assert_allclose(parts[name], [value, value], rtol=1e-5)
  assert_same(jax.tree.map(lambda x: x.mean(0), split_grads), grads)


def test_negatives_of_a_group_are_a_loop_over_groups():
  # A critic without statistics of the batch, which are of all groups.
  changes = {'critic': 'concat', 'global_weight': 0.5}
  variables = start(make_config(**changes))
  grouped = make_config(**changes, negatives_of=2)
  (loss, (metrics, _)), grads = gradients(grouped, variables)
  objective = dim.make(make_config(**changes))

  @jax.jit
  def by_hand(params):
    parts = PIXELS.reshape(3, 2, *PIXELS.shape[1:])
    return sum(
      objective.loss(params, variables[1], {'image': x}, jax.random.key(1))[0]
      for x in parts
    ) / len(parts)

  assert_same((loss, grads), jax.jit(jax.value_and_grad(by_hand))(variables[0]))
  # One other image of 16 locations; and its whole map.
  ceilings = {'local': np.log(17), 'global': np.log(2)}
  for name, value in ceilings.items():
    np.testing.assert_allclose(metrics[f'mi/{name}_ceiling'], value, rtol=1e-6)
  counts = dim.make(grouped).negatives({'image': PIXELS})
  assert counts == {
    'mi/local': (16, pytest.approx(np.log(17))),
    'mi/global': (1, pytest.approx(np.log(2))),
  }


@pytest.mark.parametrize('name', ['projection', 'factored'])
def test_halves_of_a_critic_are_the_critic_in_bfloat16(name):
  critic = critics.CRITICS[name](units=8, dtype=jnp.bfloat16)
  rng = np.random.default_rng(0)
  local, glob = (
    jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
    for shape in ((4, 3, 6), (4, 2, 5))
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = fill(jax.eval_shape(critic.init, key, local, glob))

  @jax.jit
  def run(variables, local, glob):
    anchors, embedded = critic.apply(variables, local, glob, method='embed')
    some = jax.tree.map(lambda x: x[3:5], anchors)
    return critic.score(some, embedded), critic.apply(variables, local, glob)

  scores, whole = run(variables, local, glob)
  assert scores.dtype == jnp.float32
  np.testing.assert_allclose(scores, whole[3:5], rtol=1e-6)


def test_chunks_are_what_a_step_remembers():
  # 64 images of 16 locations with 3 codes: 196,608 scores, 768 KiB.
  batch = {'image': jax.ShapeDtypeStruct((64, 4, 4, 2), jnp.uint8)}
  key = jax.eval_shape(lambda: jax.random.key(0))

  def temporary(**changes):
    objective = dim.make(make_config(**changes))
    variables = jax.eval_shape(objective.init, key, batch)
    grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    compiled = grad.lower(*variables, batch, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 4 * 64 * 3 * 64 * 16
  assert temporary(memory__score_chunk=6) < temporary() - scores


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'memory__score_chunk': 0},
      r'score_chunk must be a whole number >= 1 or None, got 0',
    ),
    (
      {'memory__score_chunk': 8, 'critic': 'concat'},
      r"a critic of \['projection', 'factored', 'cosine'\].* critic='concat'",
    ),
    (
      {'memory__score_chunk': 8, 'local_weight': 0.0, 'global_weight': 1.0},
      r'it needs local_weight above 0 .* got local_weight=0.0',
    ),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dim.check(make_config(**changes))


def test_every_bound_of_the_objective_is_a_mean_over_anchors():
  # Or chunks of it would be something else. Two anchors that differ, each with
  # two negatives; Donsker-Varadhan's logarithm is apart, and taken of both.
  rng = np.random.default_rng(0)
  pairs = [
    jnp.asarray(rng.normal(size=shape), jnp.float32)
    for shape in ((2, 3), (2, 2))
  ]

  @jax.jit
  def gaps(*pairs):
    return {
      name: bound(*pairs)
      - sum(bound(*(x[i : i + 1] for x in pairs)) / 2 for i in (0, 1))
      for name, bound in dim.BOUNDS.items()
    }

  for name, gap in gaps(*pairs).items():
    assert (abs(gap) < 1e-6) == (name != 'donsker_varadhan'), name
