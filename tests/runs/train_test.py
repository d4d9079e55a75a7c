"""The command: a run from its config to a loaded encoder, and its refusals."""

import contextlib
import os
import pathlib
import types

import jax
import numpy as np
import pytest
import soundfile

import dim_jax
from dim_jax import config as config_lib
from dim_jax import random
from dim_jax.commands import train as train_command
from dim_jax.configs import dim_digits
from dim_jax.data import sources, stream
from dim_jax.evaluation.information import noisy
from dim_jax.networks import context, encoders, greedy_modules
from dim_jax.objectives import dim, gim, vib
from dim_jax.report import runs
from dim_jax.report.sections import information
from dim_jax.runs import train
from dim_jax.training import lock, metrics

ROOT = pathlib.Path(__file__).parents[2]


def make_config():
  config = dim_digits.get_config()
  config.objective.critic_units = 16
  config.steps, config.log_every, config.checkpoint_every = 4, 2, 4
  config.batch_size = 16
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  run_dir = tmp_path_factory.mktemp('runs') / 'digits'
  train.train(make_config(), str(run_dir), devices=1, show_progress=False)
  return run_dir


def test_run_writes_config_metrics_and_an_encoder_that_loads(run):
  lines = metrics.read(run / 'metrics.jsonl')
  assert [line['step'] for line in lines] == [2, 4]
  assert [line['images'] for line in lines] == [32, 64]
  for name in (
    'mi/local',
    'mi/local_ceiling',
    'prior/adversary',
    'prior/encoder',
    'prior/gradient_penalty',
    'probe/y_accuracy',
    'encoder/std',
    'encoder/effective_rank',
    'images_per_s',
  ):
    assert np.isfinite(lines[-1][name]), name
  encoder = dim_jax.load(run)
  assert encoder.step == 4
  images = sources.load('digits', 'test', image_size=32).inputs[:5]
  taps = encoder(images, batch_size=2)
  assert {tap: x.shape for tap, x in taps.items()} == {
    'local': (5, 8, 8, 64),
    'conv': (5, 4, 4, 128),
    'fc': (5, 256),
    'y': (5, 64),
  }
  # Padding the last batch changes nothing, and floats are uint8 / 127.5 - 1.
  whole = encoder(images.astype(np.float32) / 127.5 - 1)
  np.testing.assert_allclose(taps['y'], whole['y'], atol=1e-5)


def test_step_zero_is_the_encoder_before_training(run):
  images = sources.load('digits', 'test', image_size=32).inputs[:2]
  untrained = dim_jax.load(run, step=0)
  assert untrained.step == 0
  _, model_state = untrained.variables
  # Running statistics that no step has moved: means of 0, variances of 1.
  statistics = jax.tree_util.tree_leaves_with_path(model_state['encoder'])
  for path, value in statistics:
    fresh = 0.0 if path[-1].key == 'mean' else 1.0
    np.testing.assert_array_equal(value, fresh)
  change = untrained(images)['y'] - dim_jax.load(run)(images)['y']
  assert np.abs(change).max() > 1e-3


def test_loading_what_is_not_there(run, tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a run'):
    dim_jax.load(tmp_path)
  with pytest.raises(
    FileNotFoundError, match=r'No checkpoint of step 3 .*; there are \[4\]'
  ):
    dim_jax.load(run, step=3)


def test_wrong_images_are_named(run):
  encoder = dim_jax.load(run)
  with pytest.raises(ValueError, match=r'got shape \(32, 32, 1\)'):
    encoder(np.zeros((32, 32, 1), np.uint8))
  with pytest.raises(ValueError, match='got int64'):
    encoder(np.zeros((1, 32, 32, 1), np.int64))
  with pytest.raises(ValueError, match='28x28'):
    encoder(np.zeros((1, 28, 28, 1), np.uint8))


def test_another_config_on_the_same_folder_is_refused(run):
  config = make_config()
  config.objective.bound = 'jsd'
  with pytest.raises(
    ValueError, match=r"objective.bound = 'infonce', this one has 'jsd'"
  ):
    train.train(config, str(run), devices=1, show_progress=False)
  config = make_config()
  config.steps = 1
  with pytest.raises(ValueError, match=r'holds a run of \d+ steps, '):
    train.train(config, str(run), devices=1, show_progress=False)
  assert config_lib.load(run)[0].steps == make_config().steps


@pytest.fixture(scope='module')
def speakers(tmp_path_factory):
  """Two speakers of ten recordings, each a tone of its own in noise."""
  root = tmp_path_factory.mktemp('speakers')
  rng = np.random.default_rng(0)
  for i, speaker in enumerate(('ann', 'bob')):
    (root / speaker).mkdir()
    for number in range(10):
      tone = np.sin(np.arange(640) * (0.1 + 0.2 * i)) / 2
      tone += rng.normal(size=640) / 50
      soundfile.write(root / speaker / f'{number}.wav', tone, 8000)
  return root


def sound_config(root, **changes):
  return config_lib.ExperimentConfig(
    objective=gim.Config(
      modules=(greedy_modules.ConvModule(8, 10, 5, 2), context.GRU(6)),
      offsets=2,
      negatives=4,
      window=16,
      num_classes=2,
    ),
    data=config_lib.SoundConfig(
      **{'name': str(root), 'window': 160, 'hop': 80} | changes
    ),
    groups={'module_1': config_lib.OptimizerConfig(every=2)},
    batch_size=8,
    steps=4,
    log_every=2,
    checkpoint_every=4,
  )


def test_a_run_on_sound(speakers, tmp_path):
  run_dir = tmp_path / 'sound'
  config = sound_config(speakers)
  train.train(config, str(run_dir), devices=1, show_progress=False)
  lines = metrics.read(run_dir / 'metrics.jsonl')
  assert [line['step'] for line in lines] == [2, 4]
  for name in (
    'module_0/infonce',
    'module_1/infonce',
    'module_1/ceiling',
    'module_1/accuracy',
    'probe/module_0_accuracy',
    'probe/module_1_loss',
    'encoder/effective_rank',
  ):
    assert np.isfinite(lines[-1][name]), name
  encoder = dim_jax.load(run_dir)
  assert config_lib.to_json(encoder.config) == config_lib.to_json(config)
  audio = np.random.default_rng(0).integers(-999, 999, (3, 160), np.int16)
  taps = encoder(audio, batch_size=2)
  # (160 + 2 * 2 - 10) // 5 + 1 frames.
  assert {tap: x.shape for tap, x in taps.items()} == {
    'module_0': (3, 8),
    'module_0_map': (3, 31, 8),
    'module_1': (3, 6),
    'module_1_map': (3, 31, 6),
  }
  np.testing.assert_allclose(
    taps['module_1'], taps['module_1_map'].mean(1), atol=1e-6
  )
  # Padding the last batch changes nothing, and floats are int16 / 32768.
  whole = encoder(audio.astype(np.float32) / 2**15)
  np.testing.assert_allclose(taps['module_1'], whole['module_1'], atol=1e-6)
  untrained = dim_jax.load(run_dir, step=0)(audio)
  assert np.abs(untrained['module_1'] - taps['module_1']).max() > 0
  for wrong, message in (
    (np.zeros((3, 160), np.int32), "'audio' must be int16, .* got int32"),
    (np.zeros(160, np.int16), r'of one channel \[N, T\], got shape \(160,\)'),
    (np.zeros((3, 160, 2), np.int16), r'got shape \(3, 160, 2\)'),
    (np.zeros((0, 160), np.int16), r'must be an example, got shape \(0, 160\)'),
  ):
    with pytest.raises(ValueError, match=message):
      encoder(wrong)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'label': 'digit'}, r"one of \['speaker'\] for .*, got 'digit'"),
    ({'window': 900}, 'has window=900 samples: they have 640 to 640'),
    ({'rate': 16_000}, '16000|16,000'),
  ],
)
def test_sound_that_does_not_fit_is_refused(
  speakers, changes, message, tmp_path
):
  with pytest.raises(ValueError, match=message):
    train.train(
      sound_config(speakers, **changes), str(tmp_path), show_progress=False
    )
  assert not os.listdir(tmp_path)


def test_a_speaker_too_many_is_named_before_training(speakers, tmp_path):
  config = sound_config(speakers)
  config.objective.num_classes = 1
  with pytest.raises(ValueError, match='labels up to 1, the objective 1 class'):
    train.train(config, str(tmp_path), show_progress=False)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.data.nmae=mnist'], "data.nmae: No field 'nmae': DataConfig"),
    (['--config.data.name=mnits'], "'mnits'"),
    (['--config.steps=many'], 'config.steps'),
    (['--config.batch_size=0'], 'batch_size must be a whole number >= 1'),
    (['--devices=0'], 'devices=0, but 8 can be used: give 1 to 8'),
  ],
)
def test_a_users_mistake_is_one_line(arguments, message, tmp_path):
  command = [
    '--config=dim_digits',
    f'--workdir={tmp_path / "run"}',
    *arguments,
  ]
  with pytest.raises(SystemExit) as refused:
    train_command.main(command)
  assert refused.value.code.startswith('Error: ')
  assert message in refused.value.code
  assert '\n' not in refused.value.code
  assert not (tmp_path / 'run').exists()


def test_a_refused_start_leaves_nothing_behind(tmp_path):
  def config(batch_size, rate=1e-3):
    return config_lib.ExperimentConfig(
      objective=vib.Config(units=(4,), code=2),
      data=config_lib.DataConfig(name='digits', image_size=8),
      optimizer=config_lib.OptimizerConfig(learning_rate=rate),
      batch_size=batch_size,
      steps=1,
      log_every=1,
      checkpoint_every=1,
    )

  run = tmp_path / 'run'
  (kept := tmp_path / 'kept').mkdir()
  (kept / 'notes.txt').write_text('mine')
  for folder in (run, kept):
    with pytest.raises(ValueError, match=r'larger than the 1294 training'):
      train.train(config(5000), str(folder), show_progress=False, devices=1)
  assert not run.exists()
  assert os.listdir(kept) == ['notes.txt']
  train.train(config(8), str(run), show_progress=False, devices=1)
  # Another learning rate is another run; the message says how to have both.
  with pytest.raises(ValueError, match=rf'--config\.init_from={run}'):
    train.train(config(8, 1e-4), str(run), show_progress=False, devices=1)


def test_information_is_that_of_the_final_parameters(tmp_path):
  config = config_lib.ExperimentConfig(
    objective=vib.Config(units=(8,), code=2),
    data=config_lib.DataConfig(name='digits', image_size=8),
    information=config_lib.InformationConfig(every=2, examples=100, noise=0.5),
    batch_size=8,
    steps=3,
    log_every=1,
    checkpoint_every=3,
  )
  train.train(config, str(tmp_path), show_progress=False, devices=1)
  lines = metrics.read(tmp_path / 'metrics.jsonl')
  measured = [ln['step'] for ln in lines if 'information/fc_lower' in ln]
  assert measured == [0, 2, 3]
  names = {name.split('_')[0] for name in lines[-1] if 'information' in name}
  assert names == {'information/fc', 'information/y', 'information/code'}
  # The same examples, in any order and with any noise: what does not depend on
  # these is equal, the rest within four of its standard errors.
  held_out = sources.load(
    'digits', 'validation', image_size=8, validation=config.data.validation
  )
  rows = random.order(0, random.Host.INFORMATION, len(held_out.inputs))[:100]
  labels = held_out.labels['class'][rows]
  features = dim_jax.load(tmp_path)(held_out.inputs[rows])
  key = jax.random.key(7)
  expected = {
    'y': noisy.channel(features['y'], 0.5, key, labels=labels),
    'code': noisy.stochastic_channel(
      features['y'], features['std'], key, labels=labels
    ),
  }
  for name, channel in expected.items():
    logged = {
      key.removeprefix(f'information/{name}_'): value
      for key, value in lines[-1].items()
    }
    for field, value in (
      ('gaussian', channel.gaussian),
      ('noise_std', channel.noise_std),
      ('lower_ceiling', channel.ceiling),
      ('label_entropy', channel.label_ceiling),
    ):
      np.testing.assert_allclose(logged[field], value, rtol=1e-4)
    for field, error in (('lower', 'lower_error'), ('upper', 'upper_error')):
      difference = abs(logged[field] - getattr(channel, field))
      assert difference < 4 * float(getattr(channel, error)), (name, field)
  mean, std = np.float64(features['y']), np.float64(features['std'])
  # KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - ln s.
  rate = ((mean**2 + std**2 - 1) / 2 - np.log(std)).sum(1).mean()
  np.testing.assert_allclose(
    lines[-1]['information/code_rate'], rate, rtol=1e-4
  )
  # Nothing that is trained depends on it, so a run may go on without, or longer
  # with it.
  config.information, config.steps = None, 6
  train.train(config, str(tmp_path), show_progress=False, devices=1)
  plain = tmp_path / 'plain'
  train.train(config, str(plain), show_progress=False, devices=1)
  losses = [
    [line['loss'] for line in metrics.read(folder / 'metrics.jsonl')[-6:]]
    for folder in (tmp_path, plain)
  ]
  assert losses[0] == losses[1]
  (plane,) = information.section([runs.read(tmp_path)])
  assert [(row[1], row[2]) for row in plane.rows] == [
    (feature, step) for feature in ('code', 'fc', 'y') for step in (0, 2, 3)
  ]


@pytest.mark.parametrize(
  ('features', 'message'),
  [
    (
      ('fcc',),
      r"information.features must be .*, got 'fcc'. Did you mean 'fc'",
    ),
    (('fc', 'z'), "got 'z'"),
  ],
)
def test_features_that_are_not_there_are_named(features, message, tmp_path):
  config = config_lib.ExperimentConfig(
    objective=vib.Config(units=(8,), code=2),
    data=config_lib.DataConfig(name='digits', image_size=8),
    information=config_lib.InformationConfig(features=features),
  )
  with pytest.raises(ValueError, match=message):
    train.train(config, str(tmp_path), show_progress=False, devices=1)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('streamed', [False, True])
def test_where_nothing_is_labelled_no_accuracy_is_logged(
  streamed, tmp_path, monkeypatch
):
  arrays = {
    'image': np.zeros((8, 8, 8, 1), np.uint8),
    'label': np.full(8, -1, np.int32),
  }
  train_set = stream.of_arrays(arrays) if streamed else dict(arrays)
  monkeypatch.setattr(train.data, 'train_set', lambda *a, **k: train_set)
  config = config_lib.ExperimentConfig(
    objective=dim.Config(
      encoder=encoders.MLPCode(units=(8,), code=4),
      critic='concat',
      critic_units=4,
      local_feature='input',
      map_feature='fc',
      prior=None,
      probe_features=('y',),
    ),
    data=config_lib.DataConfig(name='digits', image_size=8, unlabelled=True),
    batch_size=8,
    steps=1,
    log_every=1,
    checkpoint_every=1,
  )
  train.train(config, str(tmp_path), show_progress=False, devices=1)
  (line,) = metrics.read(tmp_path / 'metrics.jsonl')
  assert 'mi/local' in line
  # A folder without classes has no other examples that were not looked at.
  config.data.unlabelled = False
  for names, kept in (((), {'image'}), (('a', 'b'), {'image', 'label'})):
    watched = types.SimpleNamespace(label='class', class_names={'class': names})
    left = train._without_labels(stream.of_arrays(arrays), watched, config)
    assert set(left.read(np.arange(2))) == kept
  assert not [name for name in line if name.startswith('probe/')]


@pytest.mark.parametrize('flag', ['--dry_run', '--profile'])
def test_what_a_sweep_does_not_take_is_named(flag, tmp_path):
  config = '--config=vib_digits:sweep_k2'
  with pytest.raises(SystemExit, match='a sweep takes no --dry_run'):
    train_command.main([config, f'--workdir={tmp_path}', flag])


def test_of_two_that_start_at_once_the_refused_one_leaves_the_other(tmp_path):
  folder = tmp_path / 'run'
  with contextlib.ExitStack() as other:
    with pytest.raises(ValueError, match='is being trained by'):
      with train.claim(str(folder)):
        other.enter_context(lock.hold(folder))
        (folder / 'metrics.jsonl').touch()
        with lock.hold(folder):
          pass
    assert (folder / 'metrics.jsonl').exists()
    with pytest.raises(ValueError, match='is being trained by'):
      with train.claim(str(folder)):
        (folder / 'config.json').touch()
    assert not (folder / 'config.json').exists()
  # Of two that train a module each, the one below may be at work already.
  with contextlib.ExitStack() as other:
    with pytest.raises(ValueError, match='is being trained by'):
      with train.claim(str(tmp_path / 'modules')):
        module = tmp_path / 'modules' / 'module_0'
        module.mkdir()
        other.enter_context(lock.hold(module))
        with lock.hold(module):
          pass
    assert module.is_dir()
  # What nobody trains is taken back.
  with pytest.raises(ValueError, match='another'):
    with train.claim(str(tmp_path / 'other')):
      (tmp_path / 'other' / 'config.json').touch()
      raise ValueError('another')
  assert not (tmp_path / 'other').exists()
