"""Modules one after another: joint training's bits, and features on disk."""

import dataclasses
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import dim_jax
from dim_jax import config as config_lib
from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.data import augment, batches, cache
from dim_jax.data import load as data
from dim_jax.objectives import gim
from dim_jax.runs import layerwise, train
from dim_jax.training import feed, loop, metrics, timing
from dim_jax.training import step as step_lib


class Pixelwise(nn.Module):
  """A user's module: a dense layer at each pixel."""

  features: int

  @nn.compact
  def __call__(self, x):
    return nn.tanh(nn.Dense(self.features, name='dense')(x))


def make_config(**changes):
  """16x16 digits in 3x3 patches of 8x8, each predicting two rows down."""
  data_changes = {
    k: changes.pop(k) for k in ('image_size', 'crop', 'name') if k in changes
  }
  fields = {
    'modules': (Pixelwise(4), Pixelwise(3), Pixelwise(5)),
    'patch_size': 8,
    'patch_stride': 4,
    'offsets': 1,
    'negatives': None,
  }
  return ExperimentConfig(
    objective=gim.Config(**(fields | changes)),
    data=DataConfig(**({'name': 'digits', 'image_size': 16} | data_changes)),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    batch_size=8,
    steps=4,
    log_every=2,
    checkpoint_every=4,
    seed=3,
  )


def run(config, workdir, **options):
  return layerwise.train_modules(
    config, str(workdir), devices=1, show_progress=False, **options
  )


def params_of(run_dir, step=None):
  return dim_jax.load(run_dir, step).variables[0]


def tree_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def tree_close(a, b, **tolerances):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b
  )


def contents(folder):
  """What a run computed, and when it was written."""
  checkpoints = pathlib.Path(folder) / 'checkpoints'
  return {
    str(path): path.stat().st_mtime_ns
    for path in [*checkpoints.iterdir(), *checkpoints.glob('4/**/*')]
  }


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Two of the three modules, without stored features."""
  folder = tmp_path_factory.mktemp('layerwise')
  assert run(make_config(), folder, depth=2) == str(folder / 'module_1')
  return folder


def test_the_first_module_is_that_of_joint_training(workdir, tmp_path):
  config = make_config(depth=2)
  train.train(config, str(tmp_path), devices=1, show_progress=False)
  joint, alone = params_of(tmp_path), params_of(workdir / 'module_0')
  assert set(joint) == {'module_0', 'module_1', 'probe'}
  assert set(alone) == {'module_0', 'probe'}
  tree_equal(alone['module_0'], joint['module_0'])
  tree_equal(alone['probe']['module_0'], joint['probe']['module_0'])
  # Later ones had other inputs; only what they began with is the same.
  tree_equal(
    params_of(workdir / 'module_1', 0)['module_1'],
    params_of(tmp_path, 0)['module_1'],
  )


def test_a_later_run_holds_what_it_is_built_on(workdir):
  first = dim_jax.load(workdir / 'module_0')
  both = dim_jax.load(workdir / 'module_1')
  assert set(both.variables[0]) == {'module_1', 'probe'}
  tree_equal(
    both.variables[1]['frozen']['module_0']['network'],
    first.variables[0]['module_0']['network'],
  )
  images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
  taps = both(images)
  np.testing.assert_allclose(
    taps['module_0'], first(images)['module_0'], rtol=1e-5, atol=1e-7
  )
  assert taps['module_1'].shape == (3, 3)
  # So does the one from before its training.
  before = dim_jax.load(workdir / 'module_1', 0)
  assert not np.allclose(before(images)['module_1'], taps['module_1'])


def test_the_same_call_trains_nothing_and_a_deeper_one_adds(workdir, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(workdir / 'module_0', folder / 'module_0')
  config = make_config()
  seen = contents(folder / 'module_0')
  run(config, folder, depth=1)
  assert contents(folder / 'module_0') == seen
  assert run(config, folder, depth=2) == str(folder / 'module_1')
  assert contents(folder / 'module_0') == seen
  tree_equal(params_of(folder / 'module_1'), params_of(workdir / 'module_1'))


@pytest.fixture
def trained(monkeypatch):
  """The runs that would be trained, instead of training them."""
  found = []
  monkeypatch.setattr(
    train, 'train', lambda part, run_dir, **_: found.append(run_dir)
  )
  return found


@pytest.mark.parametrize('options', [{}, {'depth': 1}, {'store': True}])
@pytest.mark.parametrize('steps', [2, 8])
def test_modules_under_a_trained_one_keep_their_steps(
  workdir, trained, steps, options
):
  config = dataclasses.replace(make_config(), steps=steps)
  with pytest.raises(ValueError) as refused:
    run(config, workdir, **options)
  assert str(refused.value) == (
    f'{str(workdir / "module_1")!r} was trained on frozen modules of 4 steps, '
    f'which steps={steps} would change under it: choose another --workdir, or '
    'keep --config.steps=4.'
  )
  assert not trained


def test_steps_may_change_while_nothing_was_built_on_them(
  workdir, trained, tmp_path
):
  longer = dataclasses.replace(make_config(), steps=8)
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  checkpoints = tmp_path / 'module_1/checkpoints'
  # Killed in module_1, which goes on.
  (checkpoints / '4').rename(checkpoints / '2')
  names = [str(tmp_path / f'module_{i}') for i in range(2)]
  run(make_config(), tmp_path, depth=2)
  assert trained == names
  with pytest.raises(ValueError, match=r"module_1' was trained on frozen"):
    run(longer, tmp_path, depth=2)
  # Killed before there was anything of it, but for a write that never ended.
  (checkpoints / '2').rename(checkpoints / '2.orbax-checkpoint-tmp')
  run(longer, tmp_path, depth=2)
  assert trained == 2 * names


def test_stored_features_train_the_same_module(
  workdir, tmp_path, monkeypatch, capsys
):
  shutil.copytree(workdir / 'module_0', tmp_path / 'module_0')
  (tmp_path / 'features_of_mine.txt').write_text('kept')
  # Steps of 8 x 3 x 3 x 8 x 8 x 4 numbers and 8 labels: each a part by itself.
  monkeypatch.setattr(feed, 'STREAM_BYTES', 8 * (3 * 3 * 8 * 8 * 4 * 4 + 4))
  fitted, written = [], cache.write

  def killed(*args, **options):
    fitted.append(options['stored'])
    if options['stored'] is not None and len(fitted) == 2:
      raise KeyboardInterrupt
    return trained(*args, **options)

  def once(*args, **options):
    assert len(fitted) == 1
    return written(*args, **options)

  trained = train.train
  monkeypatch.setattr(train, 'train', killed)
  monkeypatch.setattr(cache, 'write', once)
  with pytest.raises(KeyboardInterrupt):
    layerwise.train_modules(
      make_config(), str(tmp_path), depth=2, store=True, devices=1
    )
  # 1,797 digits: 359 to test, 144 of the others to watch.
  count = len(data.load(make_config().data, 'train').inputs)
  gib = count * 3 * 3 * 8 * 8 * 4 * 4 / 2**30
  shown = capsys.readouterr().err
  assert (
    f'{tmp_path}/features_1.npy: {count} rows of (3, 3, 8, 8, 4) float32, '
    f'{gib:.3f} GiB'
  ) in ' '.join(shown.split())
  # What was stored before is not computed again.
  run(make_config(), tmp_path, depth=2, store=True)
  assert isinstance(fitted[-1]['features'], np.memmap)
  assert sorted(os.listdir(tmp_path)) == [
    'features_of_mine.txt',
    'lock',
    'module_0',
    'module_1',
  ]
  # The same examples in the same order.
  tree_close(
    params_of(tmp_path / 'module_1'),
    params_of(workdir / 'module_1'),
    rtol=1e-4,
    atol=1e-5,
  )
  lines = [
    metrics.read(os.path.join(folder, 'module_1', 'metrics.jsonl'))[-1]
    for folder in (tmp_path, workdir)
  ]
  for name in ('module_1/infonce', 'probe/module_1_loss', 'encoder/std'):
    np.testing.assert_allclose(lines[0][name], lines[1][name], rtol=1e-4)


@pytest.mark.parametrize(
  ('then', 'now', 'match'),
  [
    ({'store': True, 'views': 2}, {}, '--store --views=2, .* is no --store'),
    ({}, {'store': True}, 'no --store, .* is --store --views=1: give'),
    (
      {'store': True},
      {'store': True, 'half': True},
      'is --store --views=1 --half: give',
    ),
  ],
)
def test_a_module_that_was_begun_goes_on_with_the_same_examples(
  workdir, trained, monkeypatch, tmp_path, then, now, match
):
  monkeypatch.setattr(layerwise.Storage, 'write', lambda *_: {})
  shutil.copytree(workdir / 'module_0', tmp_path / 'module_0')
  run(make_config(), tmp_path, depth=2, **then)
  # Nothing of it is there, so that it may still be otherwise.
  run(make_config(), tmp_path, depth=2, **now)
  run(make_config(), tmp_path, depth=2, **then)
  shutil.copytree(
    workdir / 'module_1/checkpoints/4', tmp_path / 'module_1/checkpoints/2'
  )
  shutil.copy(workdir / 'module_1/config.json', tmp_path / 'module_1')
  run(make_config(), tmp_path, depth=2, **then)
  before = len(trained)
  with pytest.raises(ValueError, match=f"module_1' was begun with .*{match}"):
    run(make_config(), tmp_path, depth=2, **now)
  assert len(trained) == before


def test_modules_go_on_after_their_folder_was_moved(workdir, tmp_path):
  folder = tmp_path / 'moved'
  shutil.copytree(workdir, folder)
  seen = contents(folder / 'module_1')
  assert run(make_config(), folder) == str(folder / 'module_2')
  assert contents(folder / 'module_1') == seen
  below = config_lib.load(folder / 'module_2')[0].init_from
  assert below == str(folder / 'module_1')


def test_features_are_stored_in_a_local_folder_alone(trained):
  with pytest.raises(ValueError, match="local --workdir, not 'gs://b/runs'"):
    run(make_config(), 'gs://b/runs', store=True)
  assert not trained


def store(run_dir, path, **changes):
  settings = {'views': 1, 'dtype': np.dtype(np.float32), 'budget': 2**30}
  storage = layerwise.Storage(
    str(path.parent), show_progress=False, **(settings | changes)
  )
  return storage.write(str(run_dir), int(path.stem.removeprefix('features_')))


def test_features_of_features_are_those_of_the_images(workdir, tmp_path):
  # A folder whose name looks like a file of features.
  folder = tmp_path / 'features_2'
  whole = store(workdir / 'module_1', tmp_path / 'features_2.npy')
  store(workdir / 'module_0', folder / 'features_1.npy')
  path = folder / 'features_2.npy'
  parts = store(workdir / 'module_1', path)
  assert whole['features'].shape[1:] == (3, 3, 8, 8, 3)
  np.testing.assert_allclose(
    parts['features'], whole['features'], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(parts['label'], whole['label'])
  # Spent, as the next module needs the new ones alone.
  assert not (folder / 'features_1.npy').exists()
  half = store(workdir / 'module_1', path, dtype=np.dtype(np.float16))
  assert half['features'].dtype == np.float16
  np.testing.assert_allclose(
    half['features'], whole['features'], rtol=2**-10, atol=1e-4
  )


def test_views_hold_different_crops(workdir, tmp_path):
  config = make_config(image_size=20, crop=16, depth=1)
  shutil.copytree(workdir / 'module_0', tmp_path / 'module_0')
  config_lib.save(config, tmp_path / 'module_0', (16, 16, 1))
  found = store(tmp_path / 'module_0', tmp_path / 'features_1.npy', views=2)
  images = data.load(config.data, 'train', crop=False)
  count = len(images.inputs)
  assert images.inputs.shape[1:] == (20, 20, 1)
  assert found['features'].shape == (2 * count, 3, 3, 8, 8, 4)
  np.testing.assert_array_equal(
    found['label'], np.concatenate(2 * [images.labels['class']])
  )
  # The first and the last of each view, by hand: a view is a position of its
  # own, from which the crop is drawn.
  rows = np.array([0, count - 1, count, 2 * count - 1])
  key = jax.random.key(config.seed)
  _, rng = jax.random.split(jax.random.fold_in(key, np.uint32(2**32 - 2)))
  crops = jax.jit(
    lambda images: augment.random_window(
      augment.example_keys(rng, jnp.asarray(rows)), images, 16
    )
  )(images.inputs[rows % count])
  assert not np.array_equal(crops[:2], crops[2:])
  layer = params_of(tmp_path / 'module_0')['module_0']['network']['dense']
  layer = jax.tree.map(np.float64, layer)
  crops = np.asarray(crops, np.float64) / 127.5 - 1
  for y in range(3):
    for x in range(3):
      patch = crops[:, 4 * y : 4 * y + 8, 4 * x : 4 * x + 8]
      np.testing.assert_allclose(
        found['features'][rows, y, x],
        np.tanh(patch @ layer['kernel'] + layer['bias']),
        rtol=1e-4,
        atol=1e-5,
      )


def test_features_beyond_the_budget_are_refused_before_any_training(
  trained, tmp_path, capsys
):
  config = make_config(
    modules=(Pixelwise(3), Pixelwise(4), Pixelwise(5)), image_size=20, crop=16
  )
  count = len(data.load(config.data, 'train').inputs)
  small, large = (2 * count * 3 * 3 * 8 * 8 * width * 2 for width in (3, 4))
  options = {'store': True, 'views': 2, 'half': True}
  with pytest.raises(ValueError) as refused:
    layerwise.train_modules(config, str(tmp_path), budget=small, **options)
  assert str(refused.value) == (
    f'{tmp_path}/features_2.npy would take {large / 2**30:.3g} GiB; the budget '
    f'is {small / 2**30:.3g} GiB. Leave --store out, store --half or fewer '
    '--views, or raise --budget_gb; or let modules pass on less (Greedy '
    'InfoMax with --config.objective.pool=2), in a new --workdir.'
  )
  shown = ' '.join(capsys.readouterr().err.split())
  for module, width, size in ((1, 3, small), (2, 4, large)):
    assert (
      f'{tmp_path}/features_{module}.npy: {2 * count} rows of (3, 3, 8, 8, '
      f'{width}) float16, {size / 2**30:.3f} GiB'
    ) in shown
  assert not trained
  assert os.listdir(tmp_path) == []
  # Pooled, 4x4 of 8x8 pixels are left for module_1 and 2x2 for module_2.
  config.objective.pool = 2
  with pytest.raises(
    ValueError, match=f'features_1.npy would take {small / 4 / 2**30:.3g} GiB;'
  ):
    run(config, tmp_path, budget=small // 4 - 1, **options)


def test_the_budget_is_of_what_will_be_stored(workdir, trained):
  run(make_config(), workdir, depth=2, store=True, budget=0)
  assert len(trained) == 2
  with pytest.raises(
    ValueError, match=r'^\S*features_2.npy would take \S* GiB;'
  ):
    run(make_config(), workdir, store=True, budget=0)
  assert len(trained) == 2


def test_files_of_another_stream_are_not_taken_for_these(
  workdir, tmp_path, monkeypatch
):
  path = tmp_path / 'features_1.npy'
  store(workdir / 'module_0', path)
  before = path.stat().st_ino
  store(workdir / 'module_0', path)
  assert path.stat().st_ino == before
  monkeypatch.setattr(layerwise, '_VIEW_STREAM', 0)
  store(workdir / 'module_0', path)
  assert path.stat().st_ino != before


@pytest.mark.parametrize(
  ('changes', 'options', 'message'),
  [
    (
      {'stop_gradient_after': ()},
      {},
      r'objective.stop_gradient_after to None, got \(\)',
    ),
    (
      {'stop_gradient_after': (0,)},
      {},
      r'objective.stop_gradient_after to None, got \(0,\)',
    ),
    ({}, {'depth': 4}, r'--depth must be in 1\.\.3, got 4'),
    ({}, {'depth': 0}, r'--depth must be in 1\.\.3, got 0'),
    ({}, {'views': 0}, '--views must be a whole number >= 1, got 0'),
    ({}, {'views': 2}, '--views and --half need --store: give it, or neither'),
    ({}, {'half': True}, '--views and --half need --store'),
  ],
)
def test_what_cannot_be_trained_in_turn_is_refused(
  changes, options, message, tmp_path
):
  with pytest.raises(ValueError, match=message):
    run(make_config(**changes), tmp_path, **options)
  assert not os.listdir(tmp_path)


def test_each_module_takes_the_optimizers_of_all():
  groups = {f'module_{i}': OptimizerConfig(b1=0.1 * i) for i in range(3)}
  config = dataclasses.replace(make_config(), groups=groups)
  batch = {
    'image': np.zeros((2, 16, 16, 1), np.uint8),
    'label': np.zeros(2, 'i4'),
  }
  for i, part in enumerate(layerwise._modules(config, None)):
    own = dataclasses.replace(config, objective=part)
    objective = config_lib.make_objective(own)
    names, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
    assert f'module_{i}' in names and f'module_{(i + 1) % 3}' not in names
    step_lib.optimizer_of(own, objective, names)
    own.groups = groups | {'module_9': OptimizerConfig()}
    with pytest.raises(ValueError, match="groups names 'module_9'"):
      step_lib.optimizer_of(own, objective, names)


def test_other_objectives_and_beginnings_are_refused(tmp_path):
  config = dataclasses.replace(make_config(), init_from='runs/other')
  with pytest.raises(ValueError, match=r"init_from to None, got 'runs/other'"):
    run(config, tmp_path)
  config = dataclasses.replace(config, objective=OptimizerConfig())
  with pytest.raises(ValueError, match=r'got dim_jax\.config\.OptimizerConfig'):
    run(config, tmp_path)


def test_frozen_modules_must_come_from_a_run(workdir, tmp_path):
  config = make_config(frozen=1, depth=2)
  with pytest.raises(
    ValueError, match=r'module_0 is frozen .*frozen=1.*init_f'
  ):
    train.train(config, str(tmp_path), show_progress=False)
  config.init_from = str(workdir / 'module_0')
  config.objective = dataclasses.replace(config.objective, depth=3, frozen=2)
  with pytest.raises(ValueError, match=r"module_1 is frozen, .*only \['mod"):
    train.train(config, str(tmp_path), show_progress=False)
  config.init_from = 'runs/nowhere'
  with pytest.raises(ValueError, match="init_from: 'runs/nowhere' is not"):
    train.train(config, str(tmp_path), show_progress=False)
  other = (Pixelwise(6), Pixelwise(3))
  config = make_config(modules=other, frozen=1)
  config.init_from = str(workdir / 'module_0')
  with pytest.raises(
    ValueError, match=r'/bias has shape \(4,\) .* here \(6,\): the modules'
  ):
    train.train(config, str(tmp_path), show_progress=False)
  other = (nn.Sequential([Pixelwise(4)]), Pixelwise(3))
  variables = jax.eval_shape(
    gim.make(gim.Config(**vars(config.objective) | {'modules': other})).init,
    jax.random.key(0),
    {'image': np.zeros((2, 16, 16, 1), np.uint8)},
  )
  state = train.step_lib.TrainState(0, *variables, None, None)
  start = train.start_from(config.init_from, variables)
  with pytest.raises(
    ValueError, match='/layers_0 is frozen, but not in the run'
  ):
    start(state)


@pytest.mark.parametrize(
  ('changes', 'shape'), [({'num_classes': 12}, (4, 12)), ({}, (4, 10))]
)
def test_a_run_starts_from_one_of_other_classes_but_for_the_probe(
  workdir, changes, shape
):
  objective = gim.make(make_config(depth=1, **changes).objective)
  batch = {
    'image': np.zeros((2, 16, 16, 1), np.uint8),
    'label': np.array([0, 9], np.int32),
  }
  params, model_state = objective.init(jax.random.key(5), batch)
  state = train.step_lib.TrainState(0, params, model_state, None, None)
  start = train.start_from(str(workdir / 'module_0'), (params, model_state))
  begun = start(state).params
  tree_equal(begun['module_0'], params_of(workdir / 'module_0')['module_0'])
  assert begun['probe']['module_0']['kernel'].shape == shape
  trained_probe = params_of(workdir / 'module_0')['probe']
  tree_equal(begun['probe'], params['probe'] if changes else trained_probe)


@pytest.mark.parametrize('parts', [1, 2, 4])
def test_streaming_in_parts_is_streaming_at_once(parts):
  """Each chunk of steps gets its own examples, whatever memory allows."""
  rows = np.arange(40, dtype=np.float32).reshape(20, 2)
  stored = rows.view(np.memmap)
  indices = batches.batch_indices(0, 0, 4, batch_size=5, num_examples=20)
  mesh = loop.parallel.make_mesh(1)
  seen = []

  def chunk(state, resident, examples):
    assert resident == {}
    seen.append(np.asarray(examples['features']))
    assert examples['label'].shape == (4 // parts, 5)
    return state + len(seen[-1]), {'sum': seen[-1].sum((1, 2)).mean()}

  found = {'features': stored, 'label': np.arange(20, dtype=np.int32)}
  step_bytes = 5 * (8 + 4)
  with pytest.MonkeyPatch.context() as patch, timing.Times() as times:
    patch.setattr(feed, 'STREAM_BYTES', 4 * step_bytes // parts)
    source = feed.Feed(found, 5, (0,), mesh)
    source.start(0, 4)
    state, values = source.advance(chunk, 0, 0, 4, times)
    source.close()
  assert state == 4 and len(seen) == parts
  np.testing.assert_array_equal(np.concatenate(seen), rows[indices])
  # The mean over 4 steps of which each has 10 of the 40 numbers.
  np.testing.assert_allclose(values['sum'], rows.sum() / 4)
