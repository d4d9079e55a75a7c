"""Isolated modules on their devices: joint training's result, without waits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax import config as config_lib
from dim_jax.data import augment
from dim_jax.networks import greedy_modules
from dim_jax.objective import Objective, Stage
from dim_jax.objectives import gim
from dim_jax.training import checkpoint, loop, metrics, parallel, pipeline
from dim_jax.training import step as step_lib

NAMES = ('module_0', 'module_1', 'module_2')


def chain():
  """Three linear modules, each with noise, a running mean and a probe.

  The joint loss is written out by itself, in one piece.
  """

  def init(rng, batch):
    size = batch['image'][0].size
    params = {}
    for i, name in enumerate(NAMES):
      shape = (size if i == 0 else 4, 4)
      params[name] = 0.3 * jax.random.uniform(
        jax.random.fold_in(rng, i), shape, minval=-1
      )
    params['probe'] = {name: jnp.zeros((4, 3)) for name in NAMES}
    return params, {name: jnp.zeros(4) for name in NAMES}

  def flat(images):
    return images.reshape(images.shape[0], -1) / 255.0

  def module(params, model_state, x, labels, rng, i):
    name = NAMES[i]
    noise = 0.1 * jax.random.uniform(jax.random.fold_in(rng, i), (4,))
    y = jnp.tanh(x @ params[name] + noise[None])
    logits = jax.lax.stop_gradient(y) @ params['probe'][name]
    probe = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    terms = {f'{name}/spread': -y.var(0).mean(), f'probe/{name}': probe.mean()}
    mean = 0.9 * model_state[name] + 0.1 * jax.lax.stop_gradient(y.mean(0))
    return sum(terms.values()), terms, {name: mean}, y

  def loss(params, model_state, batch, rng):
    x, total, found = flat(batch['image']), 0.0, {}
    for i in range(3):
      x = jax.lax.stop_gradient(x)
      term, terms, new, x = module(
        params, model_state, x, batch['label'], rng, i
      )
      total, found, model_state = total + term, found | terms, model_state | new
    return total, (found, model_state)

  def stage(i):
    def stage_loss(params, model_state, entered, labels, rng):
      x = entered if i else flat(entered['image'])
      term, terms, new, y = module(params, model_state, x, labels, rng, i)
      return term, (terms, model_state | new, y)

    return Stage((NAMES[i],), stage_loss)

  return Objective(init, loss, lambda *_: {}, tuple(map(stage, range(3))))


def make_data(count=40):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8),
    'label': rng.integers(0, 3, count).astype(np.int32),
  }


def flips(rng, images, positions):
  return augment.random_flip(augment.example_keys(rng, positions), images)


def adam(average=None, **changes):
  """Each group's own, with all that a config can ask for."""
  config = config_lib.OptimizerConfig(learning_rate=1e-2, **changes)
  slow = config_lib.OptimizerConfig(
    learning_rate=1e-2, clip=0.01, every=2, decay=0.9, weight_decay=0.1
  )
  groups = {'module_1': slow}
  return step_lib.make_optimizer(config, groups, (*NAMES, 'probe'), average)


def fit(run_dir, optimizer, steps=6, objective=None, data=None, **changes):
  settings = {
    'batch_size': 8,
    'steps': steps,
    'log_every': 3,
    'checkpoint_every': 3,
    'show_progress': False,
  }
  arguments = {'augment': flips}
  for name, value in changes.items():
    group = settings if name in loop.Settings._fields else arguments
    group[name] = value
  return loop.fit(
    objective or chain(),
    optimizer,
    data or make_data(),
    run_dir,
    loop.Settings(**settings),
    **arguments,
  )


def numbers(run_dir):
  lines = metrics.read(run_dir / 'metrics.jsonl')
  timing = ('seconds', 'images_per_s')
  return [{k: v for k, v in ln.items() if k not in timing} for ln in lines]


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
  def close(x, y):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)

  jax.tree.map(close, actual, expected)


def assert_same_numbers(actual, expected):
  for line, wanted in zip(actual, expected, strict=True):
    assert line == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """A joint run and one over three devices, by SGD; (folder, states)."""
  folder = tmp_path_factory.mktemp('plain')
  joint = fit(folder / 'joint', momentum(), devices=1)
  return folder, joint, fit(folder / 'pipe', momentum(), parallel='pipeline')


def momentum():
  return optax.sgd(0.1, momentum=0.9)


def test_sgd_is_joint_training_and_its_checkpoint_moves(plain):
  folder, joint, moved = plain
  assert_close(moved, joint)
  assert_same_numbers(numbers(folder / 'pipe'), numbers(folder / 'joint'))
  # The comparison is of something: all parts of the probe began at zero, and
  # all noise is in the running means.
  for name in NAMES:
    assert abs(joint.params['probe'][name]).max() > 1e-3
    assert abs(joint.model_state[name]).max() > 1e-3
  # What came from three devices is restored onto one.
  with checkpoint.Checkpoints(folder / 'pipe') as checkpoints:
    assert_close(checkpoints.restore(joint), joint)


def test_averaged_adam_on_too_few_devices_is_joint_training(tmp_path):
  # Two devices hold three stages in turns.
  optimizer, run = adam(average=0.9), {'augment': None}
  joint = fit(tmp_path / 'joint', optimizer, devices=1, **run)
  moved = fit(
    tmp_path / 'pipe', optimizer, devices=2, parallel='pipeline', **run
  )
  assert_close(moved, joint)
  assert_same_numbers(numbers(tmp_path / 'pipe'), numbers(tmp_path / 'joint'))


def sound(**changes):
  chain = tuple(
    greedy_modules.ConvModule(width, 4, 2, 1) for width in (6, 5, 4)
  )
  config = gim.Config(modules=chain, offsets=1, negatives=3, num_classes=3)
  for name, value in changes.items():
    setattr(config, name, value)
  return gim.make(config)


def waves(count=24):
  rng = np.random.default_rng(0)
  return {
    'audio': rng.normal(0, 0.1, (count, 64)).astype(np.float32),
    'label': rng.integers(0, 3, count).astype(np.int32),
  }


def test_greedy_infomax_is_joint_training(tmp_path):
  # Joint training draws the same negatives, so that any difference is seen in
  # the losses of the first line already.
  objective = sound(depth=2, window=None, num_classes=0)
  optimizer = optax.sgd(0.1)
  run = {'objective': objective, 'data': waves(), 'augment': None, 'steps': 3}
  joint = fit(tmp_path / 'joint', optimizer, devices=1, **run)
  moved = fit(
    tmp_path / 'pipe', optimizer, parallel='pipeline', devices=2, **run
  )
  assert_close(moved, joint)
  assert_same_numbers(numbers(tmp_path / 'pipe'), numbers(tmp_path / 'joint'))


@pytest.mark.parametrize(
  ('stop_gradient_after', 'frozen', 'names'),
  [
    (None, 0, [('module_0',), ('module_1',), ('module_2',)]),
    ((), 0, [NAMES]),
    ((0, 2), 0, [('module_0',), ('module_1', 'module_2')]),
    (None, 1, [('module_0', 'module_1'), ('module_2',)]),
    ((0,), 1, [NAMES]),
  ],
)
def test_stages_are_the_segments_between_isolated_modules(
  stop_gradient_after, frozen, names
):
  stages = sound(stop_gradient_after=stop_gradient_after, frozen=frozen).stages
  assert [stage.names for stage in stages] == names


def test_stages_of_greedy_infomax_add_up_to_its_loss():
  # A frozen module, then two stages, of which the second begins at module_2.
  objective, batch, rng = sound(frozen=1), waves(4), jax.random.key(1)
  params, model_state = jax.jit(objective.init)(jax.random.key(0), batch)

  @jax.jit
  def whole():
    return objective.loss(params, model_state, batch, rng)

  @jax.jit
  def parts():
    entered, total, found = batch, 0.0, {}
    for stage in objective.stages:
      term, (terms, _, entered) = stage.loss(
        params, model_state, entered, batch['label'], rng
      )
      total, found = total + term, found | terms
    return total, found

  loss, (found, _) = whole()
  assert len(objective.stages) == 2
  assert_close(parts(), (loss, found))


def test_a_killed_run_resumes_bitwise_identical(plain, tmp_path):
  folder, _, whole = plain
  calls = []

  def kill(params, model_state):
    # What a monitor gets is on one device, whatever the stages are on.
    assert len(devices_of((params, model_state))) == 1
    calls.append(1)
    if len(calls) == 2:
      raise InterruptedError
    return {}

  with pytest.raises(InterruptedError):
    fit(tmp_path, momentum(), monitor=kill, parallel='pipeline')
  assert [line['step'] for line in numbers(tmp_path)] == [3]
  resumed = fit(tmp_path, momentum(), parallel='pipeline')
  assert_close(resumed, whole, rtol=0, atol=0)
  assert numbers(tmp_path) == numbers(folder / 'pipe')


def devices_of(tree):
  return {device for leaf in jax.tree.leaves(tree) for device in leaf.devices()}


def prepared(optimizer, steps):
  """A chunk on three devices, and what it takes."""
  mesh, home = parallel.make_mesh(3), parallel.make_mesh(1)
  objective, data = chain(), make_data()
  init = functools.partial(step_lib.init_state, objective, optimizer)
  state = jax.jit(init)(data, jax.random.key(0))
  state = pipeline.place(objective.stages, state, list(mesh.devices.flat))
  chunk = loop.make_chunk(objective, optimizer, mesh, form='pipeline')
  indices = np.arange(steps * 8, dtype=np.int32).reshape(steps, 8) % 40
  resident = parallel.replicate(data, home)
  return chunk, state, resident, parallel.put_columns(indices, home)


def test_each_stage_has_its_device_and_the_host_waits_for_none(monkeypatch):
  jit, calls = jax.jit, []

  def spied_jit(function, **arguments):
    compiled = jit(function, **arguments)

    def call(state, entered):
      # The state is donated: look at it before.
      places = [devices_of(state), devices_of(entered)]
      outputs = compiled(state, entered)
      calls.append((*places, devices_of(outputs)))
      return outputs

    return call if 'donate_argnums' in arguments else compiled

  monkeypatch.setattr(jax, 'jit', spied_jit)
  chunk, state, data, nine = prepared(adam(), 9)
  monkeypatch.undo()
  devices = jax.devices()[:3]

  def is_in_place(state):
    for name, device in zip(NAMES, devices, strict=True):
      parts = [
        state.params[name],
        state.params['probe'][name],
        state.model_state[name],
        state.opt_state.inner_states[name].inner_state,
      ]
      if devices_of(parts) != {device}:
        return False
    return True

  assert is_in_place(state)
  six = parallel.put_columns(np.asarray(nine)[:6], parallel.make_mesh(1))
  for indices in (six, nine):
    state, _ = chunk(state, data, indices)
  calls.clear()
  waits = []
  monkeypatch.setattr(jax, 'block_until_ready', waits.append)
  monkeypatch.setattr(jax, 'device_get', lambda x: pytest.fail('fetched'))
  with jax.transfer_guard('disallow'):
    state, values = chunk(state, data, six)
    # Twice as many batches as stages are under way before the host waits.
    assert not waits
    # State, what entered, and all that came out; six steps of three stages.
    assert calls == [({device},) * 3 for device in devices] * 6
    state, _ = chunk(state, data, nine)
  # Of nine, the last three each wait for the sixth before them: 0, 1 and 2.
  assert len(waits) == 3
  monkeypatch.undo()
  assert int(state.step) == 6 + 9 + 6 + 9
  # Nothing is gathered between chunks.
  assert is_in_place(state)
  assert devices_of(values) == {devices[0]}


def test_what_no_pipeline_can_be_made_of_is_refused(plain, tmp_path):
  whole = chain()._replace(stages=())
  with pytest.raises(ValueError, match='needs an objective of isolated'):
    fit(tmp_path, adam(), objective=whole, parallel='pipeline')
  with pytest.raises(
    ValueError, match='parameter module_2 belongs to no stage'
  ):
    pipeline.place(chain().stages[:2], plain[1], jax.devices()[:2])


def test_a_clipped_probe_is_refused():
  # The norm of its gradient is over all stages.
  config = config_lib.ExperimentConfig(
    objective=gim.Config(),
    parallel='pipeline',
    optimizer=config_lib.OptimizerConfig(clip=1.0),
  )
  with pytest.raises(ValueError, match=r'the probe is clipped \(clip=1.0\)'):
    config_lib.check(config)
  config.groups['probe'] = config_lib.OptimizerConfig()
  config_lib.check(config)
