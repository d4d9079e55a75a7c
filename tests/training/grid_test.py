"""A grid of runs is the same runs, one compiled program for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.config import OptimizerConfig
from dim_jax.objectives import sharded_batch, vib
from dim_jax.runs import hlo
from dim_jax.training import grid, loop, metrics, parallel
from dim_jax.training import step as step_lib

BETAS, SEEDS = (0.0, 0.5, 0.5), (3, 3, 4)
STEPS, BATCH = 5, 8
RUNS = grid.Runs(SEEDS, {'beta': BETAS})


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


def fit(run_dir, objective, optimizer, data, **changes):
  runs = changes.pop('runs', None)
  settings = loop.Settings(
    batch_size=BATCH,
    log_every=3,
    checkpoint_every=3,
    **({'steps': STEPS, 'devices': 1, 'show_progress': False} | changes),
  )
  return loop.fit(objective, optimizer, data, run_dir, settings, runs=runs)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The folder and the final states of a grid that was cut after 3 steps."""
  run_dir = tmp_path_factory.mktemp('grid')
  objective, optimizer, data, _ = make()
  for steps in (3, STEPS):
    states = fit(run_dir, objective, optimizer, data, steps=steps, runs=RUNS)
  return run_dir, states


@pytest.mark.parametrize('run', [0, 2])
def test_each_run_is_the_one_that_fit_makes_alone(trained, run, tmp_path):
  run_dir, states = trained
  objective, optimizer, data, _ = make(BETAS[run])
  alone = fit(tmp_path, objective, optimizer, data, seed=SEEDS[run])
  one = jax.tree.map(lambda x: x[run], states)
  for actual, expected in zip(
    jax.tree.leaves((one.params, one.model_state, one.opt_state)),
    jax.tree.leaves((alone.params, alone.model_state, alone.opt_state)),
    strict=True,
  ):
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-6)
  assert float(one.model_state['beta']) == BETAS[run]
  lines, own = (
    metrics.read(folder / 'metrics.jsonl') for folder in (run_dir, tmp_path)
  )
  assert [line['step'] for line in lines] == [3, STEPS]
  for line, expected in zip(lines, own, strict=True):
    assert line['loss'][run] == pytest.approx(expected['loss'], rel=1e-4)
    assert line['images'] == 3 * expected['images']


def test_a_grid_that_was_killed_ends_bitwise_identical(trained, tmp_path):
  _, states = trained
  objective, optimizer, data, _ = make()
  whole = fit(tmp_path, objective, optimizer, data, runs=RUNS)
  jax.tree.map(
    np.testing.assert_array_equal,
    (whole.params, whole.opt_state),
    (states.params, states.opt_state),
  )


def test_runs_side_by_side_are_those_of_one_device(trained, tmp_path, capsys):
  _, states = trained
  objective, optimizer, data, _ = make()
  programs = []
  runs = RUNS._replace(compiled=programs.append)
  # Three runs divide over three of eight devices. On two it goes on.
  fit(
    tmp_path,
    objective,
    optimizer,
    data,
    runs=runs,
    devices=8,
    steps=3,
    show_progress=True,
  )
  assert '3 runs on 3 of 8 devices, 1 on each' in capsys.readouterr().out
  spread = fit(tmp_path, objective, optimizer, data, runs=runs, devices=2)
  for actual, expected in zip(
    jax.tree.leaves((spread.params, spread.model_state, spread.opt_state)),
    jax.tree.leaves((states.params, states.model_state, states.opt_state)),
    strict=True,
  ):
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-6)
  assert len(programs[0].input_shardings[0][-1].device_set) == 3
  # Each trains alone.
  assert hlo.collectives(programs[0].as_text(), 3) == []


def test_the_batch_of_a_run_is_whole_on_its_device():
  def chunk(state, data, indices):
    of_batch = sharded_batch.on_each_device(
      lambda axis_name, scale, x: scale * sharded_batch.total(x, axis_name),
      None,
    )
    return state + of_batch(jnp.float32(2), data[indices]), {}

  indices = jnp.asarray([[0, 1, 2, 3], [4, 5, 6, 7]])
  mapped = grid.mapped(chunk, parallel.make_mesh(2))
  states, _ = mapped(jnp.zeros(2), jnp.arange(10.0), indices)
  # 2 (0 + 1 + 2 + 3) and 2 (4 + 5 + 6 + 7).
  np.testing.assert_array_equal(states, [12, 44])


@pytest.mark.parametrize(
  ('runs', 'devices', 'expected'), [(6, 4, 3), (8, 8, 8), (5, 4, 1), (7, 1, 1)]
)
def test_as_many_devices_as_divide_the_runs(runs, devices, expected):
  mesh = grid.make_mesh(grid.Runs(range(runs)), devices)
  assert mesh.size == expected


def test_runs_of_several_processes_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='these are 2: start one'):
    grid.make_mesh(RUNS)


def test_a_run_that_breaks_is_named(tmp_path):
  objective, optimizer, data, _ = make()
  runs = grid.Runs((3, 4), {'beta': (0.0, 1e38)})

  def loss(params, state, batch, rng):
    value, others = objective.loss(params, state, batch, rng)
    return value * jnp.square(state['beta']), others

  with pytest.raises(FloatingPointError, match=r'at beta 1e\+38, seed 4'):
    fit(tmp_path, objective._replace(loss=loss), optimizer, data, runs=runs)


def test_runs_of_one_seed_start_alike_and_differ_by_their_beta(trained):
  _, states = trained
  objective, optimizer, _, example = make()
  start = grid.init_states(objective, optimizer, example, RUNS)
  kernel = start.params['encoder']['head']['head']['kernel']
  np.testing.assert_array_equal(kernel[0], kernel[1])
  assert np.abs(kernel[1] - kernel[2]).max() > 0.01
  kernel = states.params['encoder']['head']['head']['kernel']
  assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


def test_what_cannot_be_a_grid_is_refused():
  objective, optimizer, _, example = make()
  with pytest.raises(ValueError, match=r"No 'gamma' .* \['beta', 'encoder'\]"):
    grid.init_states(
      objective, optimizer, example, grid.Runs([0], {'gamma': [1.0]})
    )
  with pytest.raises(ValueError, match="2 seeds, but 1 values of 'beta'"):
    grid.init_states(
      objective, optimizer, example, grid.Runs([0, 1], {'beta': [1.0]})
    )
