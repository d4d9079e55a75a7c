"""Tests of the evaluation of a run, with a tiny encoder in place of a run's."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import dim_jax
from dim_jax.commands import evaluate as evaluate_command
from dim_jax.config import DataConfig, ExperimentConfig, SoundConfig
from dim_jax.data import load as data
from dim_jax.evaluation import probes
from dim_jax.objective import Generator, Objective
from dim_jax.runs import evaluate, provenance

_PROTOCOL = probes.Protocol(
  seeds=2, max_examples=150, linear_l2=(1e-2, 1e-1), knn_neighbours=5
)


class _Encoder:
  """Random projections of 32x32 digits."""

  def __init__(self, step):
    self.step = step
    self.config = ExperimentConfig(objective=None, data=DataConfig())
    self.objective = Objective(None, None, None, pictured=('fc',))
    random = np.random.default_rng(step)
    self.variables = {
      tap: random.normal(size=[1024, 6]).astype(np.float32) for tap in 'ab'
    }

  def encode(self, variables, batch):
    flat = batch['image'].reshape(len(batch['image']), -1) / 255.0
    return {
      'fc': jnp.dot(flat, variables['a']),
      'y': jnp.dot(flat, variables['b']),
    }


@pytest.fixture
def run_dir(monkeypatch, tmp_path):
  def load(run_dir, step=None):
    return _Encoder(7 if step is None else step)

  monkeypatch.setattr(dim_jax, 'load', load)
  return tmp_path


def _run(run_dir, probes, features=('fc', 'y'), protocol=_PROTOCOL, **options):
  return evaluate.evaluate(
    str(run_dir),
    probes=probes,
    features=features,
    protocol=protocol,
    show_progress=False,
    **options,
  )


def test_results_are_written_and_later_ones_added(run_dir):
  first = _run(run_dir, ['linear'], features=['fc'])
  report = _run(run_dir, ['knn'])
  with open(run_dir / 'evaluation' / 'probes.json') as file:
    assert json.load(file) == report
  rows = {
    (r['encoder'], r['feature'], r['probe']): r for r in report['results']
  }
  knn = {(k, t) for k in ('trained', 'untrained') for t in ('fc', 'y')}
  knn.add(('raw', 'pixels'))
  assert {key[:2] for key in rows if key[2] == 'knn'} == knn
  assert {key[:2] for key in rows if key[2] == 'linear'} == {
    ('trained', 'fc'),
    ('untrained', 'fc'),
    ('raw', 'pixels'),
  }
  linear = rows['trained', 'fc', 'linear']
  assert linear in first['results']
  assert len(linear['values']) == len(linear['l2']) == 2
  assert linear['mean'] == pytest.approx(np.mean(linear['values']))
  assert linear['std'] == pytest.approx(np.std(linear['values'], ddof=1))
  for row in report['results']:
    described = report['protocols'][row['protocol_hash']]
    assert described['probe'] == row['probe']
    assert described['train_rows'] == 150
    assert described['test_rows'] == 359
  assert report['protocol']['dataset'] == report['dataset'] == 'digits'
  assert report['step'] == 7 and report['paper'] is None
  assert report['collapse']['trained/fc']['dimensions'] == 6
  assert evaluate.table(report).row_count == 5
  assert not [x for x in evaluate.summary(report)[1:] if 'compare' in x]
  # Half of them by another protocol.
  other = dataclasses.replace(_PROTOCOL, knn_neighbours=3)
  report = _run(run_dir, ['knn'], features=['y'], protocol=other)
  (note,) = (x for x in evaluate.summary(report)[1:] if 'compare' in x)
  assert note.startswith('The numbers of knn come from different protocols')


def test_seconds_are_those_of_all_encoders(run_dir, monkeypatch):
  seconds = iter((1.0, 2.0, 3.0))
  header = provenance.header
  monkeypatch.setattr(
    provenance,
    'header',
    lambda *arguments: header(*arguments) | {'seconds': next(seconds)},
  )
  assert _run(run_dir, ['knn'])['seconds'] == 3.0


def test_settings_are_chosen_without_the_test_images(run_dir, monkeypatch):
  of_test = _run(run_dir, ['knn'], features=['y'])
  read = []

  def load(config, split, **options):
    read.append(split)
    return real(config, split, **options)

  real = data.load
  monkeypatch.setattr(data, 'load', load)
  report = _run(run_dir, ['knn'], features=['y'], split='validation')
  assert sorted(read) == ['train', 'validation']
  # Of 1,438 training images a tenth is held out.
  described = report['protocol']
  assert (described['train_split'], described['test_split']) == (
    'train',
    'validation',
  )
  assert described['test_rows'] == 144
  assert 'validation accuracy in %' in evaluate.table(report).title.plain
  assert 'test accuracy in %' in evaluate.table(of_test).title.plain
  folder = run_dir / 'evaluation'
  for name, expected in (('', of_test), ('validation_', report)):
    with open(folder / f'{name}probes.json') as file:
      assert json.load(file) == expected
  with np.load(folder / 'features.npz') as saved:
    assert len(saved['labels']) == 359


def test_numbers_of_another_step_are_dropped(run_dir):
  _run(run_dir, ['knn'])
  report = _run(run_dir, ['knn'], features=['y'], step=9)
  assert report['step'] == 9
  assert [r['feature'] for r in report['results']] == ['y', 'y', 'pixels']
  with np.load(run_dir / 'evaluation' / 'features.npz') as saved:
    assert 'trained_fc' not in saved and saved['step'] == 9


def test_features_are_those_of_the_test_images(run_dir):
  _run(run_dir, ['knn'])
  encoder = _Encoder(7)
  with np.load(run_dir / 'evaluation' / 'features.npz') as saved:
    assert saved['images'].dtype == np.uint8
    assert saved['labels'].shape == (359,)
    assert list(saved['class_names'][:2]) == ['0', '1']
    expected = encoder.encode(encoder.variables, {'image': saved['images']})
    np.testing.assert_allclose(saved['trained_y'], expected['y'], atol=1e-3)
    assert not np.allclose(saved['untrained_y'], saved['trained_y'])


def test_a_generator_shows_what_it_makes_of_the_trained_encoders_codes(
  run_dir, monkeypatch
):
  def images(variables, codes):
    # Gray levels of the first number of a code.
    level = jnp.tanh(codes[:, 0] + variables['a'][0, 0])
    return jnp.broadcast_to(level[:, None, None, None], (len(codes), 2, 2, 1))

  encoder = _Encoder(7)
  encoder.objective = encoder.objective._replace(generator=Generator(images))
  encoders = {None: encoder, 0: _Encoder(0)}
  monkeypatch.setattr(
    dim_jax, 'load', lambda run_dir, step=None: encoders[step]
  )
  _run(run_dir, ['knn'], features=['fc'])
  with np.load(run_dir / 'evaluation' / 'features.npz') as saved:
    outputs = encoder.encode(encoder.variables, {'image': saved['images'][:64]})
    # Of the representation, whichever features are probed.
    levels = np.tanh(outputs['y'][:, 0] + encoder.variables['a'][0, 0])
    np.testing.assert_allclose(
      saved['reconstructions'][:, 0, 0, 0], (levels + 1) * 127.5, atol=0.6
    )
    assert saved['interpolations'].shape == (4, 8, 2, 2, 1)
    assert 'samples' not in saved


def test_an_encoder_that_changes_is_noticed(run_dir, monkeypatch):
  def tampering(train, test, protocol, progress=None):
    encoder.variables['a'][3, 3] += 1e-3
    return probes.knn_probe(train, test, protocol, progress)

  encoder = _Encoder(7)
  monkeypatch.setattr(dim_jax, 'load', lambda run_dir, step=None: encoder)
  monkeypatch.setitem(probes.PROBES, 'knn', tampering)
  with pytest.raises(RuntimeError, match='changed while it was probed'):
    _run(run_dir, ['knn'])
  assert not (run_dir / 'evaluation').exists()


def test_a_probe_that_fails_is_named_and_loses_nothing_else(
  run_dir, monkeypatch
):
  def fail(*args):
    raise ValueError('a class is too rare')

  monkeypatch.setitem(probes.PROBES, 'svm', fail)
  report = _run(run_dir, ['svm', 'knn'], features=('y',))
  assert [(r['encoder'], r['probe']) for r in report['results']] == [
    ('trained', 'knn'),
    ('untrained', 'knn'),
    ('raw', 'knn'),
  ]
  assert report['skipped'][0] == {
    'what': 'trained y class: svm',
    'reason': 'a class is too rare',
  }
  assert len(report['skipped']) == 3
  assert 'Skipped: raw pixels class: svm' in evaluate.summary(report)[3]
  written = json.loads((run_dir / 'evaluation' / 'probes.json').read_text())
  assert written == report
  # Where all fail there is nothing to write, and the first says why.
  with pytest.raises(ValueError, match='a class is too rare'):
    _run(run_dir, ['svm'])
  # What can be measured later is skipped no more.
  monkeypatch.undo()
  monkeypatch.setattr(dim_jax, 'load', lambda run_dir, step=None: _Encoder(7))
  report = _run(run_dir, ['svm'], features=('y',), encoders=('trained',))
  assert len(report['skipped']) == 2


def test_what_was_finished_stays_when_a_call_is_stopped(run_dir, monkeypatch):
  monkeypatch.setattr(evaluate, '_raw', lambda setup: 1 / 0)
  monkeypatch.setattr(provenance, 'command', lambda: 'python -m tools.evaluate')
  with pytest.raises(ZeroDivisionError):
    _run(run_dir, ['knn'])
  report = json.loads((run_dir / 'evaluation' / 'probes.json').read_text())
  assert {r['encoder'] for r in report['results']} == {'trained', 'untrained'}
  assert report['command'] == 'python -m tools.evaluate'
  assert report['versions']['jax']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['nowhere'], "Error: 'nowhere' is not a run"),
    (['nowhere', '--probes=lasso'], "got 'lasso'"),
    (['nowhere', '--num_seeds=0'], 'seeds must be '),
    (
      ['nowhere', '--split=train'],
      "split must be one of 'test', 'validation', got 'train'",
    ),
    (['nowhere', '--seeds=3'], 'there is no --seeds: give --num_seeds'),
    (['nowhere', '--prbes=knn'], 'probes?'),
    ([], 'give the folder of a run: dim-jax evaluate RUN'),
  ],
)
def test_mistakes_are_one_line(arguments, message):
  with pytest.raises(SystemExit) as refused:
    evaluate_command.main(arguments)
  assert message in refused.value.code
  assert refused.value.code.startswith('Error: ')
  assert '\n' not in refused.value.code


class _SoundEncoder:
  """The mean and the first sample of every frame of four samples."""

  def __init__(self, step):
    self.step = step
    self.config = ExperimentConfig(objective=None, data=SoundConfig())
    features = ('module_2', 'module_10')
    self.objective = Objective(None, None, None, features=features)
    self.variables = {'scale': np.float32(1 + step)}

  def encode(self, variables, batch):
    frames = batch['audio'].reshape(len(batch['audio']), -1, 4) / 2.0**15
    found = jnp.stack([frames.mean(2), frames[:, :, 0]], 2)
    found = found * variables['scale']
    return {
      f'module_{i}{suffix}': values
      for i in (2, 10)
      for suffix, values in (('', found.mean(1)), ('_map', found))
    }


def _sound(config, split, **options):
  """Loud and soft speakers say high or low digits; -1 where none is told."""
  del config, options
  count = {'train': 90, 'test': 20}[split]
  rng = np.random.default_rng(count)
  speaker, digit = np.arange(count) % 2, np.arange(count) // 2 % 2
  phone = rng.integers(-1, 2, (count, 3))
  level = 1000 * (1 + 3 * speaker + 6 * digit)
  audio = level[:, None] + rng.integers(-99, 100, (count, 12))
  # Frame f of three begins with what tells the phone.
  audio[:, ::4] += 10_000 * phone
  return data.Examples(
    'audio',
    audio.astype(np.int16),
    {'speaker': speaker, 'digit': digit, 'phone': phone},
    'speaker',
    {'speaker': ('a', 'b'), 'digit': ('0', '1'), 'phone': ('p', 'q')},
    'made up',
    '',
  )


@pytest.fixture
def sound_dir(monkeypatch, tmp_path):
  def load(run_dir, step=None):
    return _SoundEncoder(7 if step is None else step)

  monkeypatch.setattr(dim_jax, 'load', load)
  monkeypatch.setattr(data, 'load', _sound)
  return tmp_path


def test_every_label_of_sound_is_probed(sound_dir):
  report = _run(sound_dir, ['knn'], features=None)
  rows = {(r['encoder'], r['feature'], r['label']) for r in report['results']}
  # Modules in their order, 10 after 2; of labels those of whole examples.
  assert rows == {
    (kind, tap, label)
    for kind, names in (
      ('trained', ('module_2', 'module_10')),
      ('untrained', ('module_2', 'module_10')),
      ('raw', ('samples',)),
    )
    for tap in names
    for label in ('speaker', 'digit')
  }
  assert [r['feature'] for r in report['results'][:3:2]] == [
    'module_2',
    'module_10',
  ]
  assert report['chance'] == {'speaker': 0.5, 'digit': 0.5}
  assert report['protocol']['image_size'] is None
  assert evaluate.table(report).row_count == 10
  with np.load(sound_dir / 'evaluation' / 'features.npz') as saved:
    assert {'trained_module_10', 'untrained_module_10'} <= set(saved.files)
    assert 'images' not in saved and 'trained_module_2' not in saved
    np.testing.assert_array_equal(saved['labels'], np.arange(20) % 2)
  # Labels of frames are added on request, from features of frames.
  later = _run(
    sound_dir, ['knn'], features=['module_2'], labels=['phone', 'digit']
  )
  assert set(later['chance']) == {'speaker', 'digit', 'phone'}
  added = [r for r in later['results'] if r['label'] == 'phone']
  # Samples are of no frame.
  assert [r['encoder'] for r in added] == ['trained', 'untrained']
  for row in added:
    # 0 and 1 are 10,000 apart at each frame's first sample, and no frame that
    # is not labelled counts.
    assert row['mean'] > 0.8
  # The other label's were replaced.
  assert len(later['results']) == len(report['results']) + 2


def test_a_label_that_is_not_told_is_named(sound_dir):
  with pytest.raises(
    ValueError, match=r"labels must be one of 'speaker', .* got 'accent'"
  ):
    _run(sound_dir, ['knn'], labels=['accent'])


def test_labels_of_frames_meet_the_frame_at_their_middle():
  # 4 labels over 6 frames: their middles are at 1/8, 3/8, 5/8 and 7/8 of the
  # time, 0.75, 2.25, 3.75 and 5.25 frames.
  frames = np.arange(2 * 6 * 1).reshape(2, 6, 1)
  labels = np.array([[5, -1, 7, 8], [-1, 0, 1, 2]])
  rows, known = evaluate._framewise(frames, labels)
  np.testing.assert_array_equal(rows[:, 0], [0, 3, 5, 8, 9, 11])
  np.testing.assert_array_equal(known, [5, 7, 8, 0, 1, 2])
  # As many labels as frames meet one by one; more share them.
  rows, _ = evaluate._framewise(frames, np.zeros((2, 6), int))
  np.testing.assert_array_equal(rows[:, 0], np.arange(12))
  rows, _ = evaluate._framewise(frames[:1, :2], np.zeros((1, 4), int))
  np.testing.assert_array_equal(rows[:, 0], [0, 0, 1, 1])


def test_results_from_before_labels_had_names_are_kept(run_dir):
  first = _run(run_dir, ['linear'], features=['fc'])
  path = run_dir / 'evaluation' / 'probes.json'
  old = first | {
    'chance': first['chance']['class'],
    'results': [
      {k: v for k, v in row.items() if k != 'label'} for row in first['results']
    ],
  }
  path.write_text(json.dumps(old))
  report = _run(run_dir, ['knn'], features=['fc'])
  assert report['results'][: len(first['results'])] == first['results']
  assert report['chance'] == first['chance']


def test_flags_reach_the_protocol(monkeypatch, capsys):
  given = []

  def run(run_dir, **arguments):
    given.append((run_dir, arguments))
    raise ValueError('enough')

  monkeypatch.setattr(evaluate, 'evaluate', run)
  flags = ['--mlp_epochs=8', '--mlp_learning_rate=0.5', '--num_seeds=2']
  flags += ['--few_labels=7', '--max_train=9', '--probes=knn,mlp', '--step=3']
  with pytest.raises(SystemExit, match='enough'):
    evaluate_command.main(['run', *flags])
  ((run_dir, arguments),) = given
  protocol = arguments.pop('protocol')
  assert run_dir == 'run'
  assert arguments == {
    'probes': ('knn', 'mlp'),
    'features': None,
    'labels': None,
    'encoders': evaluate.ENCODERS,
    'split': 'test',
    'step': 3,
  }
  assert protocol == probes.Protocol(
    mlp_epochs=8,
    mlp_decay_epochs=(4, 6),
    mlp_learning_rate=0.5,
    seeds=2,
    few_labels=7,
    max_examples=9,
  )
