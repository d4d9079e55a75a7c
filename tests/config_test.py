"""Configs: their JSON form, and what a wrong one is told."""

import dataclasses
import json
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax import config as config_lib
from dim_jax.config import (
  DataConfig,
  ExperimentConfig,
  InformationConfig,
  OptimizerConfig,
  SoundConfig,
  SweepConfig,
)
from dim_jax.data import config as data_config
from dim_jax.data.load import as_batch
from dim_jax.networks import context, encoders, greedy_modules
from dim_jax.objectives import dim, gim
from dim_jax.training import step as step_lib

# The config.json and the arrays' names of runs of the first version.
OLD = json.loads(
  pathlib.Path(__file__).with_name('old_runs.json').read_text('utf-8')
)


def make_config():
  return ExperimentConfig(
    objective=dim.Config(
      encoder=encoders.make('small32', code=16, dtype='float32'), bound='jsd'
    ),
    data=DataConfig(name='mnist', image_size=None),
    groups={'probe': OptimizerConfig(clip=1.0)},
    information=InformationConfig(every=200, features=('fc', 'y')),
  )


def test_json_round_trip_keeps_types_and_modules(tmp_path):
  config = make_config()
  config_lib.save(config, tmp_path, (28, 28, 1))
  loaded, input_shape = config_lib.load(tmp_path)
  assert loaded == config
  assert isinstance(loaded.objective, dim.Config)
  assert isinstance(loaded.objective.encoder, encoders.ConvEncoder)
  assert input_shape == (28, 28, 1)


@pytest.mark.parametrize('kind', ['DataConfig', 'SoundConfig', 'PointConfig'])
def test_data_configs_load_by_the_place_of_older_runs(kind):
  old = config_lib.from_json({'type': f'dim_jax.config:{kind}'})
  assert old == getattr(data_config, kind)()
  assert config_lib.to_json(old)['type'] == f'dim_jax.data.config:{kind}'


def test_json_round_trip_keeps_sound_and_lists_of_modules(tmp_path):
  config = ExperimentConfig(
    objective=gim.Config(
      modules=(
        greedy_modules.ConvModule(8, 10, 5, 2, dtype='float32'),
        context.GRU(4, dtype='float32'),
      ),
      stop_gradient_after=(0,),
      audio_std=0.1,
    ),
    data=SoundConfig(window=800, hop=400, label='digit'),
    init_from='runs/other',
  )
  config_lib.save(config, tmp_path, (800,))
  loaded, input_shape = config_lib.load(tmp_path)
  assert loaded == config
  assert isinstance(loaded.data, SoundConfig)
  assert isinstance(loaded.objective.modules[1], context.GRU)
  assert input_shape == (800,)
  # A wall nowhere is not the same as one everywhere.
  for stop_gradient_after in (None, ()):
    again = config_lib.from_json(
      config_lib.to_json(gim.Config(stop_gradient_after=stop_gradient_after))
    )
    assert again.stop_gradient_after == stop_gradient_after


def test_json_of_an_unknown_field_names_the_accepted_ones():
  data = config_lib.to_json(make_config())
  data['data']['nmae'] = 'mnist'
  with pytest.raises(
    ValueError, match=r"No field 'nmae': DataConfig has \[.*'name'"
  ):
    config_lib.from_json(data)


def test_json_of_a_type_that_is_gone():
  data = config_lib.to_json(make_config())
  data['objective']['type'] = 'dim_jax.objectives.dim:Gone'
  with pytest.raises(ValueError, match='does not import here'):
    config_lib.from_json(data)


def test_what_has_no_json_form_is_refused():
  with pytest.raises(ValueError, match=r'got (ABCMeta|type|ModuleMeta)'):
    config_lib.to_json({'encoder': encoders.ConvEncoder})


def test_a_class_that_could_not_be_loaded_again_is_refused(monkeypatch):
  class Local(nn.Module):
    pass

  config = make_config()
  config.objective.encoder = Local()
  with pytest.raises(ValueError, match=r"Local is defined in '.*config_test'"):
    config_lib.check(config)
  # What a notebook or a script defines.
  Local.__module__, Local.__qualname__ = '__main__', 'Local'
  monkeypatch.setattr(sys.modules['__main__'], 'Local', Local, raising=False)
  with pytest.raises(ValueError, match=r"Local is defined in '__main__', from"):
    config_lib.check(config)


def test_a_folder_may_be_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('USERPROFILE', str(tmp_path))
  config_lib.save(make_config(), '~', (28, 28, 1))
  assert (tmp_path / 'config.json').exists()
  assert config_lib.load('~')[0] == make_config()


def test_folder_that_is_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a run: it has no config'):
    config_lib.load(tmp_path)


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('batchsize', r"No field 'batchsize': .*Did you mean 'batch_size'"),
    ('encoder', r"No field 'encoder': .*Did you mean 'objective.encoder'"),
    # Texts and tuples have it as a method: no field.
    ('index', r"No field 'index': .*\]\.$"),
    ('data.nam', r"No field 'data.nam': DataConfig has .*mean 'name'"),
    ('groups.critic.b1', r"No field 'groups.critic': dict has \['probe'\]"),
    ('steps.x', r"No field 'steps.x': int has \[\]"),
  ],
)
def test_wrong_path_names_what_is_accepted(path, message):
  with pytest.raises(ValueError, match=message):
    config_lib.check_path(make_config(), path)


def test_right_paths_pass():
  config_lib.check_path(make_config(), 'groups.probe.learning_rate')
  config_lib.check_path(make_config(), 'objective.bound')


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('batch_size', 0, 'batch_size must be a whole number >= 1, got 0'),
    ('steps', 1.5, 'steps must be a whole number >= 1, got 1.5'),
    ('log_every', 300, r'checkpoint_every \(1000\) must be a multiple of'),
    ('keep', 0, 'keep must be a whole number >= 1, got 0'),
    (
      'information',
      InformationConfig(every=150),
      r'information.every \(150\) must be a multiple of log_every \(100\)',
    ),
    ('accumulate', 3, 'accumulate=3 does not divide batch_size=64'),
    (
      'data',
      DataConfig(stream=True, labels_per_class=5),
      'data.labels_per_class needs all labels at once',
    ),
    ('parallel', 'pjit', "'pipeline', got 'pjit'. Did you mean 'jit'?"),
    (
      'groups',
      {'probe': OptimizerConfig(learning_rate=0)},
      r'groups.probe.learning_rate must be > 0, got 0',
    ),
    (
      'optimizer',
      OptimizerConfig(every=0),
      r'optimizer.every must be a whole number >= 1',
    ),
    (
      'groups',
      {'module_1': OptimizerConfig(every=0)},
      r'groups.module_1.every must be a whole number >= 1, got 0',
    ),
  ],
)
def test_wrong_values_name_the_field(field, value, message):
  config = make_config()
  setattr(config, field, value)
  with pytest.raises(ValueError, match=message):
    config_lib.check(config)


def test_a_pipeline_cannot_clip_the_probe():
  config = make_config()
  config.parallel = 'pipeline'
  with pytest.raises(ValueError, match=r'probe is clipped \(clip=1.0\)'):
    config_lib.check(config)
  config.groups = {'probe': OptimizerConfig()}
  config_lib.check(config)


CASES = [
  *((config_lib.ExperimentConfig, name) for name in ExperimentConfig.ranges),
  *((OptimizerConfig, name) for name in OptimizerConfig.ranges),
  *((InformationConfig, name) for name in InformationConfig.ranges),
]


@pytest.mark.parametrize('bad', [math.nan, -1, math.inf, True])
@pytest.mark.parametrize(('kind', 'name'), CASES)
def test_every_number_is_checked(kind, name, bad):
  config = make_config()
  config.information = InformationConfig()
  where = {
    ExperimentConfig: config,
    OptimizerConfig: config.groups['probe'],
    InformationConfig: config.information,
  }[kind]
  setattr(where, name, bad)
  with pytest.raises(ValueError, match=rf'{name} must be .*, got {bad}'):
    config_lib.check(config)


def test_every_number_has_a_range():
  for kind in (ExperimentConfig, OptimizerConfig, InformationConfig):
    numeric = {
      f.name
      for f in dataclasses.fields(kind)
      if f.type in (int, float, int | None, float | None)
    }
    assert numeric == set(kind.ranges)


@pytest.mark.parametrize(
  ('betas', 'seeds', 'message'),
  [
    ((0.1, math.nan), (0,), r'betas\[1\] must be >= 0, got nan'),
    ((-0.1,), (0,), r'betas\[0\] must be >= 0, got -0.1'),
    ((0.1,), (0, 1.5), r'seeds\[1\] must be a whole number in \[0, 2\*\*31\)'),
    ((), (0,), 'betas must have one value at least'),
  ],
)
def test_wrong_values_of_a_sweep_are_named(betas, seeds, message):
  sweep = SweepConfig(run=make_config(), betas=betas, seeds=seeds)
  with pytest.raises(ValueError, match=message):
    config_lib.check(sweep)


def test_a_sweep_measures_no_information():
  run = make_config()
  run.information = InformationConfig()
  with pytest.raises(ValueError, match='information is not measured in a sw'):
    config_lib.check(SweepConfig(run=run, betas=(0.1,)))


@pytest.mark.parametrize('clip', [None, 0.5])
def test_a_zero_gradient_gives_no_update(clip):
  params = {'encoder': jnp.ones(3)}
  optimizer = step_lib.make_optimizer(
    OptimizerConfig(clip=clip, learning_rate=0.1), {}, params
  )
  state = optimizer.init(params)
  zero, _ = optimizer.update({'encoder': jnp.zeros(3)}, state, params)
  np.testing.assert_array_equal(zero['encoder'], 0)
  # Against the gradient, by the learning rate: Adam's first step.
  down, _ = optimizer.update({'encoder': jnp.full(3, 3.0)}, state, params)
  np.testing.assert_allclose(down['encoder'], -0.1, rtol=1e-4)


@pytest.mark.parametrize('name', list(OLD))
def test_old_config_is_migrated(name):
  old = {k: v for k, v in OLD[name]['config'].items() if k != 'input_shape'}
  migrated = config_lib.migrate(old)
  assert config_lib.migrate(migrated) == migrated
  # What no table renames is as it was.
  for key, value in migrated.items():
    if key in old and not isinstance(value, dict):
      assert value == old[key]


@pytest.mark.parametrize('name', [k for k in OLD if k != 'sweep'])
def test_old_run_loads_and_its_checkpoint_fits(tmp_path, name):
  text = json.dumps(OLD[name]['config'])
  (tmp_path / 'config.json').write_text(text, 'utf-8')
  config, input_shape = config_lib.load(tmp_path)
  config_lib.check(config)
  objective = config_lib.make_objective(config)
  # Of this kind and with labels, as the run's own batches.
  batch = as_batch(np.zeros((2, *input_shape), np.float32), config.data.kind)
  if config.data.kind != 'point':
    batch['label'] = np.zeros(2, np.int32)

  def init(rng):
    params, _ = objective.init(rng, batch)
    optimizer = step_lib.make_optimizer(
      config.optimizer,
      config.groups,
      params,
      config.average,
      objective.optional_groups,
    )
    return step_lib.init_state(objective, optimizer, batch, rng)

  state = jax.eval_shape(init, jax.random.key(0))
  shapes = {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{x.dtype} {x.shape}'
    )
    for path, x in jax.tree_util.tree_leaves_with_path(state)
  }
  assert shapes == OLD[name]['tensors']


def test_tables_rename_move_and_drop(monkeypatch):
  kind = 'dim_jax.config:OptimizerConfig'
  monkeypatch.setitem(config_lib.TYPES, 'dim_jax.gone:Adam', kind)
  monkeypatch.setitem(
    config_lib.FIELDS, kind, {'step_size': 'learning_rate', 'amsgrad': None}
  )
  monkeypatch.setitem(config_lib.VALUES, kind, {'b1': {'half': 0.5}})
  old = {
    'type': 'dim_jax.gone:Adam',
    'step_size': 0.25,
    'amsgrad': True,
    'b1': 'half',
  }
  assert config_lib.from_json(old) == OptimizerConfig(
    learning_rate=0.25, b1=0.5
  )


@pytest.mark.parametrize(
  ('rate', 'optimizer'),
  [(0.25, OptimizerConfig(learning_rate=0.25)), (0, None)],
)
def test_fields_move_into_a_group(monkeypatch, rate, optimizer):
  kind = 'dim_jax.config:ExperimentConfig'
  group = config_lib.Group(
    'optimizer',
    'dim_jax.config:OptimizerConfig',
    {'rate': 'learning_rate'},
    lambda old: old['rate'] > 0,
  )
  monkeypatch.setitem(config_lib.GROUPS, kind, (group,))
  data = {'type': kind, 'objective': None, 'rate': rate, 'steps': 7}
  config = config_lib.from_json(data)
  assert config.optimizer == optimizer
  assert config.steps == 7
