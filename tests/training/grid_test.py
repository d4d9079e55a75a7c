"""A grid of runs is the same runs, one compiled program for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.config import OptimizerConfig
from dim_jax.objectives import vib
from dim_jax.training import grid, loop
from dim_jax.training import step as step_lib

BETAS, SEEDS = (0.0, 0.5, 0.5), (3, 3, 4)
STEPS, BATCH = 5, 8


def make_data(count=40):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8),
    'label': rng.integers(0, 3, count).astype(np.int32),
  }


def make(beta=0.1):
  data = make_data()
  objective = vib.make(
    vib.Config(units=(6,), code=2, num_classes=3, beta=beta, shift=0.0)
  )
  example = {name: values[:2] for name, values in data.items()}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), example)
  optimizer = step_lib.make_optimizer(
    OptimizerConfig(learning_rate=1e-2), {}, params, 0.9
  )
  return objective, optimizer, data, example


@pytest.fixture(scope='module')
def trained():
  objective, optimizer, data, example = make()
  states = grid.init_states(
    objective, optimizer, example, SEEDS, {'beta': BETAS}
  )
  chunk = grid.make_chunk(objective, optimizer)
  for start, count in ((0, 3), (3, 2)):
    indices = grid.batch_indices(
      SEEDS, start, count, batch_size=BATCH, num_examples=40
    )
    assert indices.shape == (3, count, BATCH)
    states, metrics = chunk(
      states, jax.tree.map(jnp.asarray, data), jnp.asarray(indices)
    )
  return states, metrics


@pytest.mark.parametrize('run', [0, 2])
def test_each_run_is_the_one_that_fit_makes(trained, run, tmp_path):
  states, metrics = trained
  objective, optimizer, data, _ = make(BETAS[run])
  alone = loop.fit(
    objective,
    optimizer,
    data,
    run_dir=tmp_path,
    batch_size=BATCH,
    steps=STEPS,
    seed=SEEDS[run],
    log_every=STEPS,
    checkpoint_every=STEPS,
    devices=1,
    show_progress=False,
  )
  one = jax.tree.map(lambda x: x[run], states)
  for found, expected in zip(
    jax.tree.leaves((one.params, one.model_state, one.opt_state)),
    jax.tree.leaves((alone.params, alone.model_state, alone.opt_state)),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
  assert metrics['loss'].shape == (3,)
  assert float(one.model_state['beta']) == BETAS[run]


def test_runs_of_one_seed_start_alike_and_differ_by_their_price(trained):
  states, _ = trained
  objective, optimizer, _, example = make()
  start = grid.init_states(
    objective, optimizer, example, SEEDS, {'beta': BETAS}
  )
  kernel = start.params['encoder']['head']['head']['kernel']
  np.testing.assert_array_equal(kernel[0], kernel[1])
  assert np.abs(kernel[1] - kernel[2]).max() > 0.01
  kernel = states.params['encoder']['head']['head']['kernel']
  assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


def test_what_cannot_be_a_grid_is_refused():
  objective, optimizer, _, example = make()
  with pytest.raises(ValueError, match=r"No 'gamma' .* \['beta', 'encoder'\]"):
    grid.init_states(objective, optimizer, example, [0], {'gamma': [1.0]})
  with pytest.raises(ValueError, match="2 seeds, but 1 values of 'beta'"):
    grid.init_states(objective, optimizer, example, [0, 1], {'beta': [1.0]})
