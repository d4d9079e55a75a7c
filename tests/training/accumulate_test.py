"""Accumulated gradients: equal where a loss is a mean, told where it is not."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax import config as config_lib
from dim_jax.losses import bounds
from dim_jax.networks import encoders
from dim_jax.objective import Objective
from dim_jax.objectives import dim, gim, sharded_batch, vib
from dim_jax.training import step as step_lib
from tests import small
from tests.small import dim_config

N, SIZE = 16, 5
# The gradient is what SGD with rate 1 moves by.
SGD = optax.sgd(1.0)


def contrastive(axis_name=None):
  """InfoNCE between two linear codes, with a statistic and a counter."""

  def init(rng, batch):
    del rng, batch
    draw = np.random.default_rng(0).normal(size=(2, SIZE, 3)) / 2
    kernels = jnp.asarray(draw, jnp.float32)
    state = {'mean': jnp.zeros(SIZE), 'count': jnp.zeros((), jnp.int32)}
    return {'encoder': kernels}, state

  def loss(params, state, batch, rng):
    del rng
    x = batch['x']
    a, b = x @ params['encoder'][0], x @ params['encoder'][1]
    a, b = (sharded_batch.gather(code, axis_name) for code in (a, b))
    positive, negative, where = bounds.split_pairs((a @ b.T)[:, :, None])
    value = -bounds.infonce(positive, negative, where=where)
    mean = sharded_batch.gather(x, axis_name).mean(0)
    new = {
      'mean': 0.5 * state['mean'] + 0.5 * mean,
      'count': state['count'] + 1,
    }
    return value, ({'mi/local': -value}, new)

  return Objective(init, loss, lambda *_: {})


def examples(n=N):
  x = np.random.default_rng(1).normal(size=(n, SIZE))
  return {'x': jnp.asarray(x, jnp.float32)}


def steps(objective, batch, accumulate, count=1):
  """The states of a run of SGD, from the first on, and the last metrics."""
  init = jax.jit(functools.partial(step_lib.init_state, objective, SGD))
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=objective,
      optimizer=SGD,
      accumulate=accumulate,
    )
  )
  states, metrics = [init(batch, jax.random.key(0))], {}
  for _ in range(count):
    state, metrics = step(states[-1], batch)
    states.append(state)
  return states, metrics


def moved(states):
  return jax.tree.map(
    lambda a, b: np.asarray(a - b), states[0].params, states[-1].params
  )


def infonce(kernels, x):
  """-InfoNCE in float64: ln of a partner's softmax, above that of chance."""
  scores = (x @ kernels[0]) @ (x @ kernels[1]).T
  return np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores)) - math.log(
    len(x)
  )


def test_infonce_is_the_mean_of_micro_batches_and_not_of_the_batch():
  batch = examples()
  states, metrics = steps(contrastive(), batch, 4)
  kernels = np.asarray(states[0].params['encoder'], np.float64)
  x = np.asarray(batch['x'], np.float64)
  # Micro-batch i has the rows i, i + 4, i + 8 and i + 12.
  parts = [x[i::4] for i in range(4)]

  def mean_loss(kernels):
    return np.mean([infonce(kernels, part) for part in parts])

  whole, whole_metrics = steps(contrastive(), batch, 1)
  assert metrics['loss'] == pytest.approx(mean_loss(kernels), rel=1e-5)
  assert whole_metrics['loss'] == pytest.approx(infonce(kernels, x), rel=1e-5)
  assert abs(mean_loss(kernels) - infonce(kernels, x)) > 0.1
  assert metrics['mi/local'] == -metrics['loss']

  # The gradient, by central differences of the mean loss.
  gradient = moved(states)['encoder']
  for where in ((0, 1, 2), (1, 4, 0), (0, 3, 1)):
    step = np.zeros_like(kernels)
    step[where] = 1e-5
    slope = (mean_loss(kernels + step) - mean_loss(kernels - step)) / 2e-5
    assert gradient[where] == pytest.approx(slope, abs=1e-5)
  assert np.abs(gradient - moved(whole)['encoder']).max() > 0.01


def test_the_model_state_goes_from_one_micro_batch_to_the_next():
  batch = examples()
  states, _ = steps(contrastive(), batch, 4, count=2)
  expected = np.zeros(SIZE)
  for _ in range(2):
    for i in range(4):
      expected = expected / 2 + np.asarray(batch['x'])[i::4].mean(0) / 2
  np.testing.assert_allclose(
    states[-1].model_state['mean'], expected, rtol=1e-5, atol=1e-6
  )
  # A counter counts steps, as those of learning rates do.
  assert [int(s.model_state['count']) for s in states] == [0, 1, 2]
  assert [int(s.step) for s in states] == [0, 1, 2]


def test_one_device_is_jit_on_four_is_pmap_on_four():
  batch = examples()
  fresh = step_lib.init_state(contrastive(), SGD, batch, jax.random.key(0))
  forms = small.in_all_forms(
    contrastive, fresh, SGD, batch, devices=4, accumulate=2
  )
  for name in ('jit', 'pmap'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      forms['one'],
      forms[name],
    )


def classifier(units=(7,), **changes):
  config = vib.Config(
    units=units, code=None, covariance='none', num_classes=3, **changes
  )
  return vib.make(config)


def images(n):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8),
    'label': rng.integers(0, 3, n).astype(np.int32),
  }


def test_a_mean_over_examples_has_the_gradient_of_the_batch():
  batch = images(12)
  expected, expected_metrics = steps(classifier(), batch, 1)
  states, metrics = steps(classifier(), batch, 3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    (moved(states), metrics),
    (moved(expected), expected_metrics),
  )
  assert np.abs(moved(expected)['decoder']['logits']['kernel']).max() > 0.01


def test_memory_is_that_of_a_micro_batch_and_one_program_does_it():
  n, units = 2048, 64
  batch = images(n)
  objective = classifier((units, units))
  traced = []

  def temporary(accumulate):
    def step(state, batch):
      traced.append(accumulate)
      return step_lib.train_step(
        state,
        batch,
        objective=objective,
        optimizer=SGD,
        accumulate=accumulate,
      )

    state = jax.eval_shape(
      lambda: step_lib.init_state(objective, SGD, batch, jax.random.key(0))
    )
    compiled = jax.jit(step).lower(state, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # Two hidden layers of all examples; a sixteenth of them in micro-batches,
  # beside the images once more and 22 KiB of summed gradients.
  layers = 2 * 4 * n * units
  assert temporary(1) > layers
  assert temporary(16) < layers / 4
  assert traced == [1, 16]


def test_players_still_move_by_steps_of_the_optimizer():
  every = config_lib.OptimizerConfig(learning_rate=0.1, every=2)
  optimizer = step_lib.make_optimizer(every, {}, {'encoder'})
  batch = examples()
  state = step_lib.init_state(
    contrastive(), optimizer, batch, jax.random.key(0)
  )
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=contrastive(),
      optimizer=optimizer,
      accumulate=4,
    )
  )
  history = [state.params['encoder']]
  for _ in range(4):
    state, _ = step(state, batch)
    history.append(state.params['encoder'])
  moves = [bool((a != b).any()) for a, b in itertools.pairwise(history)]
  assert moves in ([True, False] * 2, [False, True] * 2)


def image_shapes(n, size=32):
  return {'image': jax.ShapeDtypeStruct((n, size, size, 1), jnp.uint8)}


def local(**changes):
  return dim_config(encoder='small32', critic_units=8, **changes)


def test_the_note_says_which_negatives_are_left():
  # 64 images of 8x8 locations: an anchor has 63 * 64 negatives, or 15 * 64.
  objective = dim.make(local(global_weight=1.0))
  note = step_lib.accumulation_note(objective, image_shapes(64), 4)
  assert [round(math.log(n), 2) for n in (961, 4033, 16, 64)] == [
    6.87,
    8.3,
    2.77,
    4.16,
  ]
  assert note == (
    'accumulate=4: the negatives of an anchor come from its own micro-batch of '
    '16: mi/local 960 instead of 4,032, ceiling 6.87 nats instead of 8.30; '
    'mi/global 15 instead of 63, ceiling 2.77 nats instead of 4.16.'
  )
  assert step_lib.accumulation_note(objective, image_shapes(64), 1) is None
  # JSD's ceiling does not depend on them: 2 ln 2.
  jsd = dim.make(local(bound='jsd', local_samples=3))
  note = step_lib.accumulation_note(jsd, image_shapes(64), 4)
  assert note.endswith('micro-batch of 16: mi/local 45 instead of 189.')


@pytest.mark.parametrize(
  'config',
  [
    local(),
    local(mask__kind='drop', mask__keep=0.5, mask__targets='hidden'),
    local(global_weight=1.0, local_weight=0.0, negatives_of=3),
    gim.Config(
      modules=(encoders.layers.Dense(3),),
      patch_size=8,
      patch_stride=4,
      offsets=1,
      negatives=None,
      negatives_of=2,
    ),
  ],
  ids=['local', 'hidden', 'global-of-three', 'modules-of-two'],
)
def test_counts_are_those_behind_the_losses_own_ceilings(config):
  module = gim if isinstance(config, gim.Config) else dim
  objective = module.make(config)
  shapes = image_shapes(6)
  counts = objective.negatives(shapes)

  @jax.jit
  def ceilings(images):
    variables = objective.init(jax.random.key(0), {'image': images[:2]})
    _, (metrics, _) = objective.loss(
      *variables, {'image': images}, jax.random.key(0)
    )
    return {k: v for k, v in metrics.items() if k.endswith('ceiling')}

  found = ceilings(np.zeros(shapes['image'].shape, np.uint8))
  assert len(counts) == len(found) > 0
  for (_, (count, ceiling)), value in zip(
    sorted(counts.items()), (found[k] for k in sorted(found)), strict=True
  ):
    assert value == pytest.approx(math.log(count + 1), rel=1e-6)
    assert value == pytest.approx(ceiling, rel=1e-6)


def test_drawn_negatives_come_from_fewer():
  config = gim.Config(
    modules=(encoders.layers.Dense(3),), patch_size=8, patch_stride=4
  )
  note = step_lib.accumulation_note(gim.make(config), image_shapes(64), 4)
  assert note.endswith('of 16: module_0/infonce 16, drawn from fewer.')
  # Those of eight examples are all in a micro-batch of 16, not in one of 4.
  config.negatives_of = 8
  objective = gim.make(config)
  assert step_lib.accumulation_note(objective, image_shapes(64), 4) is None
  assert step_lib.accumulation_note(objective, image_shapes(64), 16)


def test_a_multiplier_moves_once_a_step():
  # Without noise in the rate, its mean over the batch is that of the parts.
  objective = vib.make(
    vib.Config(
      units=(4,),
      code=2,
      num_classes=3,
      beta=0.01,
      budget=vib.Budget(nats=1.0, constraint='dual', dual_rate=0.1),
    )
  )
  batch = small.images(16)
  (_, after), metrics = steps(objective, batch, 1)
  excess = metrics['encoder/rate'] - 1
  assert abs(excess) > 0.1
  beta = after.model_state['beta']
  np.testing.assert_allclose(beta, 0.01 + 0.1 * excess, rtol=1e-5)
  for count in (2, 8):
    (_, parts), _ = steps(objective, batch, count)
    np.testing.assert_allclose(parts.model_state['beta'], beta, rtol=1e-5)


def test_a_loss_without_negatives_has_no_note():
  shapes = image_shapes(64)
  assert step_lib.accumulation_note(classifier(), shapes, 4) is None


def test_what_does_not_divide_is_named():
  with pytest.raises(ValueError, match=r'accumulate=3: 16 examples on a dev'):
    steps(contrastive(), examples(), 3)
  config = config_lib.ExperimentConfig(objective=local(), batch_size=30)
  for value, message in (
    (4, r'accumulate=4 does not divide batch_size=30'),
    (0, r'accumulate must be a whole number >= 1, got 0'),
  ):
    config.accumulate = value
    with pytest.raises(ValueError, match=message):
      config_lib.check(config)
  config.accumulate, config.parallel = 2, 'pipeline'
  with pytest.raises(ValueError, match=r'accumulate=2 is not written for par'):
    config_lib.check(config)
