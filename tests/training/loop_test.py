"""The loop: what a killed run resumes to, and what it refuses."""

import json
import os
import signal
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import threadpoolctl

from dim_jax.data import augment, batches, stream
from dim_jax.objective import Objective
from dim_jax.training import checkpoint, feed, loop, metrics, parallel
from dim_jax.training import step as step_lib


def noisy_regression():
  """A linear model with noise, its running mean, and a metric."""

  def init(rng, batch):
    size = batch['image'][0].size
    return {'encoder': 0.1 * jax.random.normal(rng, (size, 3))}, jnp.zeros(3)

  def encode(params, model_state, batch):
    del model_state
    x = batch['image'].reshape(batch['image'].shape[0], -1) / 255.0
    return {'y': x @ params['encoder']}

  def loss(params, model_state, batch, rng):
    # One draw for the whole batch, so that devices agree on it.
    noise = 0.01 * jax.random.normal(rng, (3,))
    y = encode(params, None, batch)['y'] + noise[None]
    target = jax.nn.one_hot(batch['label'], 3)
    value = ((y - target) ** 2).sum(1).mean()
    state = 0.9 * model_state + 0.1 * noise
    return value, ({'mi/local': -value}, state)

  return Objective(init, loss, encode)


def make_data(count=40):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8),
    'label': rng.integers(0, 3, count).astype(np.int32),
  }


def augmentation(rng, images, positions):
  return augment.random_flip(augment.example_keys(rng, positions), images)


def fit(run_dir, steps=12, **changes):
  objective = noisy_regression()
  settings = {
    'batch_size': 8,
    'steps': steps,
    'log_every': 2,
    'checkpoint_every': 4,
    'devices': 1,
    'show_progress': False,
  }
  arguments = {
    'objective': objective,
    'optimizer': optax.adam(1e-2),
    'data': make_data(),
    'augment': augmentation,
  }
  for name, value in changes.items():
    group = settings if name in loop.Settings._fields else arguments
    group[name] = value
  arguments = {
    'objective': objective,
    'optimizer': optax.adam(1e-2),
  } | arguments
  return loop.fit(
    run_dir=run_dir, settings=loop.Settings(**settings), **arguments
  )


def numbers(run_dir):
  """The metrics, less the times."""
  lines = metrics.read(os.path.join(run_dir, 'metrics.jsonl'))
  timing = ('seconds', 'images_per_s')
  return [{k: v for k, v in ln.items() if k not in timing} for ln in lines]


def logged_steps(run_dir):
  return [line['step'] for line in numbers(run_dir)]


def assert_same(a, b):
  def equal(x, y):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)

  jax.tree.map(equal, a, b)


class Killed(Exception):
  pass


def test_killed_run_resumes_bitwise_identical(tmp_path):
  whole = fit(tmp_path / 'whole')
  calls = 0

  def kill(params, model_state):
    nonlocal calls
    del params, model_state
    calls += 1
    # The fifth interval ends at step 10, two steps after a checkpoint.
    if calls == 6:
      raise Killed
    return {}

  with pytest.raises(Killed):
    fit(tmp_path / 'cut', monitor=kill)
  # A kill may also cut a line short.
  with open(tmp_path / 'cut' / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 12, "ima')
  assert logged_steps(tmp_path / 'cut') == [2, 4, 6, 8, 10]
  logged = {
    line['step']: line['seconds']
    for line in metrics.read(tmp_path / 'cut' / 'metrics.jsonl')
  }
  resumed = fit(tmp_path / 'cut')
  assert_same(whole, resumed)
  # The steps from the checkpoint on are taken again.
  summary = json.loads((tmp_path / 'cut' / 'summary.json').read_text())
  assert summary['seconds']['lost'] == pytest.approx(logged[10] - logged[8])
  assert summary['sessions'] == 2 and summary['seconds']['restore'] > 0
  assert 0 < summary['goodput'] < 1
  assert numbers(tmp_path / 'cut') == numbers(tmp_path / 'whole')
  assert [ln['step'] for ln in numbers(tmp_path / 'cut')] == [
    2,
    4,
    6,
    8,
    10,
    12,
  ]


def test_threads_of_lapack_do_not_wait_for_each_other(tmp_path):
  def threads():
    found = threadpoolctl.threadpool_info()
    return {x['num_threads'] for x in found if x['user_api'] == 'blas'}

  if not threads():
    pytest.skip('NumPy and SciPy have no BLAS whose threads can be set')
  seen = []

  def monitor(params, model_state):
    del params, model_state
    seen.append(threads())
    return {}

  with threadpoolctl.threadpool_limits(2, user_api='blas'):
    fit(tmp_path, steps=2, monitor=monitor)
    assert seen == [{1}] and threads() == {2}


def test_a_periodic_monitor_measures_before_between_and_after(tmp_path):
  calls = 0

  def measure(params, model_state):
    nonlocal calls
    del model_state
    calls += 1
    if calls == 2:
      raise Killed
    return {'information/y_lower': jnp.abs(params['encoder']).sum()}

  def mean(params, model_state):
    del params
    return {'encoder/std': model_state.mean()}

  # It is killed at step 4 before anything was saved, and begins again.
  with pytest.raises(Killed):
    fit(tmp_path / 'cut', steps=10, periodic=(4, measure), monitor=mean)
  assert logged_steps(tmp_path / 'cut') == [0, 2]
  state = fit(tmp_path / 'cut', steps=10, periodic=(4, measure), monitor=mean)
  lines = numbers(tmp_path / 'cut')
  assert [line['step'] for line in lines] == [0, 2, 4, 6, 8, 10]
  measured = [ln['step'] for ln in lines if 'information/y_lower' in ln]
  assert measured == [0, 4, 8, 10]
  assert set(lines[0]) == {'step', 'images', 'information/y_lower'}
  assert all('encoder/std' in line for line in lines[1:])
  last = np.abs(state.params['encoder']).sum()
  np.testing.assert_allclose(lines[-1]['information/y_lower'], last, rtol=1e-5)
  # Nothing else is another, and no step.
  plain = fit(tmp_path / 'plain', steps=10, monitor=mean)
  assert_same(plain, state)
  for line in lines:
    line.pop('information/y_lower', None)
  assert lines[1:] == numbers(tmp_path / 'plain')


def test_sigterm_saves_and_the_same_call_continues(tmp_path):
  whole = fit(tmp_path / 'whole')

  def terminate(params, model_state):
    del params, model_state
    os.kill(os.getpid(), signal.SIGTERM)
    return {}

  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as stop:
    fit(tmp_path / 'cut', monitor=terminate)
  assert stop.value.code == 128 + 15
  assert signal.getsignal(signal.SIGTERM) == before
  with checkpoint.Checkpoints(tmp_path / 'cut') as checkpoints:
    assert checkpoints.steps == [2]
  assert_same(whole, fit(tmp_path / 'cut'))


def test_a_run_moves_from_eight_devices_to_one_and_back(tmp_path):
  fit(tmp_path, steps=4, devices=8)
  after_eight = numbers(tmp_path)
  fit(tmp_path, steps=8, devices=1)
  moved = fit(tmp_path, steps=12, devices=8, parallel='pmap')
  stayed = fit(tmp_path / 'one', steps=12)
  assert numbers(tmp_path)[:2] == after_eight
  # Sums over devices round otherwise than sums over one.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    (moved.params, moved.model_state),
    (stayed.params, stayed.model_state),
  )
  assert len(moved.params['encoder'].sharding.device_set) == 8


def test_a_split_optimizer_state_changes_no_number(tmp_path):
  if len(jax.devices()) < 8:
    pytest.skip('needs 8 devices')
  whole = fit(tmp_path / 'whole', devices=8)
  # A checkpoint of one form is one of the other.
  moved = tmp_path / 'moved'
  fit(moved, steps=4, devices=8, zero=True)
  fit(moved, steps=8, devices=8)
  split = fit(moved, steps=12, devices=8, zero=True)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    split[1:4],
    whole[1:4],
  )
  # Both moments of [16, 3] parameters: two rows of each on a device.
  for state, rows in ((whole, 16), (split, 2)):
    shapes = [
      x.addressable_shards[0].data.shape
      for x in jax.tree.leaves(state.opt_state)
      if x.ndim == 2
    ]
    assert shapes == 2 * [(rows, 3)]
    assert state.params['encoder'].addressable_shards[0].data.shape == (16, 3)


def test_a_split_optimizer_state_needs_one_run_under_jit(tmp_path):
  with pytest.raises(ValueError, match=r"zero=True .*, got 'pmap': set zero=F"):
    fit(tmp_path, zero=True, parallel='pmap')


def test_data_too_large_for_a_device_are_sent_step_by_step(
  tmp_path, monkeypatch, capsys
):
  resident = fit(tmp_path / 'resident')
  size = sum(x.nbytes for x in make_data().values())
  assert not feed.too_large(make_data(), 4 * size)
  assert not feed.too_large(make_data(), None)
  assert 'quarter' not in capsys.readouterr().out
  monkeypatch.setattr(parallel, 'memory', lambda mesh: 4 * size - 1)
  sent = fit(tmp_path / 'sent', show_progress=True)
  assert 'The data are 0.00 GB, more than a quarter' in capsys.readouterr().out
  assert_same(sent, resident)
  assert numbers(tmp_path / 'sent') == numbers(tmp_path / 'resident')


def test_scan_equals_single_steps(tmp_path):
  scanned = fit(tmp_path, steps=6, augment=None)
  objective, optimizer = noisy_regression(), optax.adam(1e-2)
  data = make_data()
  state = step_lib.init_state(objective, optimizer, data, jax.random.key(0))
  for step in range(6):
    rows = batches.batch_indices(0, step, 1, batch_size=8, num_examples=40)[0]
    state, _ = step_lib.train_step(
      state,
      {name: values[rows] for name, values in data.items()},
      objective=objective,
      optimizer=optimizer,
    )
  np.testing.assert_allclose(
    scanned.params['encoder'], state.params['encoder'], rtol=1e-5, atol=1e-7
  )


def test_finished_run_is_left_alone(tmp_path):
  first = fit(tmp_path, steps=4)
  written = (tmp_path / 'metrics.jsonl').read_text()
  assert_same(first, fit(tmp_path, steps=4))
  assert (tmp_path / 'metrics.jsonl').read_text() == written


def test_what_the_host_feeds_unasked_stops_the_run():
  # fit's own batches pass in every other test here.
  chunk = loop._guarded(jax.jit(lambda x: x + 1))
  assert chunk(jax.device_put(np.ones(3)))[0] == 2
  with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to'):
    chunk(np.ones(3))


def test_pmap_is_of_one_process(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match=r"these are 2: use parallel='jit'"):
    fit(tmp_path, parallel='pmap')
  assert not os.listdir(tmp_path)


def test_non_finite_metric_stops_the_run_and_names_it(tmp_path):
  objective = noisy_regression()

  def loss(params, model_state, batch, rng):
    value, (terms, state) = objective.loss(params, model_state, batch, rng)
    return value, (terms | {'mi/global': jnp.log(value - value - 1.0)}, state)

  with pytest.raises(
    FloatingPointError, match=r'Between steps 0 and 2, mi/global became'
  ):
    fit(tmp_path, steps=4, objective=objective._replace(loss=loss))


def test_a_stream_with_bad_inputs_is_told_as_data(tmp_path):
  data = make_data()
  data['image'] = data['image'].astype(np.float32)
  data['image'][:] = np.nan
  with pytest.raises(
    FloatingPointError, match=r'not finite, the first in .*repair the data'
  ):
    fit(tmp_path, data=stream.of_arrays(data), augment=None)
  with pytest.raises(ValueError, match='holds 640 values that are not finite'):
    fit(tmp_path, data=data)


def test_parameters_that_break_in_the_last_step_are_not_saved(tmp_path):
  # The fourth step's move is infinite; its metrics are of before.
  steps = optax.scale_by_schedule(
    lambda count: jnp.where(count == 3, -jnp.inf, -1e-2)
  )
  with pytest.raises(
    FloatingPointError,
    match=r'Between steps 2 and 4, params/encoder became non-finite '
    r'\(first bad tensor, by name: params/encoder, of 1\)',
  ):
    fit(tmp_path, steps=8, checkpoint_every=2, optimizer=steps)
  assert logged_steps(tmp_path) == [2]
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps == [2]


def test_only_intervals_of_another_length_compile_again(tmp_path):
  objective = noisy_regression()
  traces, seen = 0, []

  def loss(*args):
    nonlocal traces
    traces += 1
    return objective.loss(*args)

  def monitor(params, model_state):
    del params, model_state
    seen.append(traces)
    return {}

  def fit_to(steps):
    return fit(
      tmp_path,
      steps,
      objective=objective._replace(loss=loss),
      log_every=4,
      augment=None,
      monitor=monitor,
      profile=True,
    )

  # Intervals of 4, 4 and 2 steps: two programs.
  fit_to(10)
  assert seen == [seen[0], seen[0], 2 * seen[0]]
  first = json.loads((tmp_path / 'summary.json').read_text())
  assert (first['step'], first['sessions'], first['programs']) == (10, 1, 2)
  parts = dict(first['seconds'])
  total = parts.pop('total')
  assert sum(parts.values()) == pytest.approx(total, abs=0.01)
  assert all(parts[name] > 0 for name in ('compile', 'step', 'save'))
  assert list((tmp_path / 'profile').rglob('*.trace.json.gz'))
  # The rest of its interval, and the next one.
  fit_to(16)
  assert seen[3:] == [3 * seen[0], 4 * seen[0]]
  second = json.loads((tmp_path / 'summary.json').read_text())
  assert (second['step'], second['sessions'], second['programs']) == (16, 2, 4)
  assert second['seconds']['compile'] > first['seconds']['compile']


def test_more_steps_a_dispatch_make_no_larger_program():
  data, optimizer = make_data(), optax.adam(1e-2)
  objective = noisy_regression()
  mesh = loop.parallel.make_mesh(8)
  state = jax.eval_shape(
    lambda key: step_lib.init_state(objective, optimizer, data, key),
    jax.random.key(0),
  )
  chunk = loop.make_chunk(objective, optimizer, mesh, augment=augmentation)

  def instructions(log_every):
    rows = jax.ShapeDtypeStruct((log_every, 8), np.int32)
    text = chunk.lower(state, data, rows).compile().as_text()
    return text.count(' = ')

  # The body of the scan is compiled once; a few instructions index its rows.
  assert instructions(1000) == pytest.approx(instructions(10), rel=0.01)


def test_a_transfer_that_nobody_asked_for_is_an_error(tmp_path, monkeypatch):
  make_chunk = loop.make_chunk

  def careless(*args, **kwargs):
    chunk = make_chunk(*args, **kwargs)
    return lambda state, data, indices: chunk(state, data, np.asarray(indices))

  monkeypatch.setattr(loop, 'make_chunk', careless)
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    fit(tmp_path, steps=2)


def test_a_run_in_training_is_refused_to_others(tmp_path):
  def again(params, model_state):
    del params, model_state
    with pytest.raises(
      ValueError, match=f'is being trained by process {os.getpid()} on'
    ):
      fit(tmp_path, steps=2)
    return {}

  fit(tmp_path, steps=2, monitor=again)
  assert logged_steps(tmp_path) == [2]


def test_checkpoint_of_another_model_is_refused(tmp_path):
  fit(tmp_path, steps=4)
  with pytest.raises(ValueError, match=r'Checkpoint 4 .* does not fit'):
    fit(tmp_path, steps=8, optimizer=optax.sgd(1e-2, momentum=0.9))


def test_plain_lines_tell_of_progress(tmp_path, capsys):
  fit(tmp_path, steps=4, show_progress=True)
  lines = capsys.readouterr().out.strip().splitlines()
  assert lines[0] == 'step 0/4  compiling'
  assert lines[1].startswith('step 2/4')
  assert 'images/s' in lines[1] and 'ETA' in lines[1]
  assert 'mi/local' in lines[1]


def test_metrics_file_with_a_broken_line_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(json.dumps({'step': 1}) + '\noops\n' + '{"step": 3}\n')
  with pytest.raises(ValueError, match=r"line 2 is not JSON: 'oops'"):
    metrics.read(path)


def test_a_reader_leaves_a_live_write_alone_and_the_trainer_clears_it(tmp_path):
  fit(tmp_path, steps=4)
  folder = tmp_path / 'checkpoints'
  # What Orbax names a checkpoint until it is whole.
  partial = folder / '8.orbax-checkpoint-tmp'
  (folder / '4').rename(partial)
  with checkpoint.Checkpoints(tmp_path) as reader:
    assert reader.latest is None
  assert partial.exists()
  # A killed write is no checkpoint: the run begins again, bitwise identical.
  assert_same(fit(tmp_path, steps=4), fit(tmp_path / 'whole', steps=4))
  assert not partial.exists()


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
  written = []

  class Writer:
    def __init__(self, folder, *, purge_step, flush_secs):
      assert folder == str(tmp_path / 'tensorboard')
      assert flush_secs < 60
      written.append(purge_step)

    def add_scalar(self, name, value, step):
      written.append((step, name, value))

    def flush(self):
      pass

    def close(self):
      written.append('closed')

  monkeypatch.setitem(
    sys.modules, 'tensorboardX', types.SimpleNamespace(SummaryWriter=Writer)
  )
  fit(tmp_path, steps=4, tensorboard=True)
  fit(tmp_path, steps=6, tensorboard=True)
  numbers = [
    (line['step'], name, value)
    for line in metrics.read(tmp_path / 'metrics.jsonl')
    for name, value in line.items()
    if name != 'step'
  ]
  early = [x for x in numbers if x[0] <= 4]
  # What an earlier session wrote after the step that it goes on from is hidden.
  assert written == [0, *early, 'closed', 5, *numbers[len(early) :], 'closed']


def test_tensorboard_without_its_extra_names_the_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with pytest.raises(ValueError, match='pip install tensorboardX'):
    fit(tmp_path, steps=4, tensorboard=True)
