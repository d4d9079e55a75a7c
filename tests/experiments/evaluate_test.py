"""Tests of the evaluation of a run, with a tiny encoder in place of a run's."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import dim_jax
from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.evaluation import probe
from experiments import evaluate

_PROTOCOL = probe.Protocol(
  seeds=2, max_examples=150, linear_l2=(1e-2, 1e-1), knn_neighbours=5
)


class _Encoder:
  """Random projections of 32x32 digits."""

  def __init__(self, step):
    self.step = step
    self.config = ExperimentConfig(objective=None, data=DataConfig())
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


def _run(run_dir, probes, taps=('fc', 'y'), **options):
  return evaluate.evaluate(
    str(run_dir),
    probes=probes,
    taps=taps,
    protocol=_PROTOCOL,
    show_progress=False,
    **options,
  )


def test_results_are_written_and_later_ones_added(run_dir):
  first = _run(run_dir, ['linear'], taps=['fc'])
  report = _run(run_dir, ['knn'])
  with open(run_dir / 'evaluation' / 'probes.json') as file:
    assert json.load(file) == report
  rows = {(r['features'], r['tap'], r['probe']): r for r in report['results']}
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


def test_numbers_of_another_step_are_dropped(run_dir):
  _run(run_dir, ['knn'])
  report = _run(run_dir, ['knn'], taps=['y'], step=9)
  assert report['step'] == 9
  assert [r['tap'] for r in report['results']] == ['y', 'y', 'pixels']
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


def test_an_encoder_that_changes_is_noticed(run_dir, monkeypatch):
  def tampering(train, test, protocol, progress=None):
    encoder.variables['a'][3, 3] += 1e-3
    return probe.knn(train, test, protocol, progress)

  encoder = _Encoder(7)
  monkeypatch.setattr(dim_jax, 'load', lambda run_dir, step=None: encoder)
  monkeypatch.setitem(probe.PROBES, 'knn', tampering)
  with pytest.raises(RuntimeError, match='changed while it was probed'):
    _run(run_dir, ['knn'])
  assert not (run_dir / 'evaluation').exists()


def test_mistakes_are_one_line(tmp_path, capsys):
  assert evaluate.main([str(tmp_path / 'nowhere')]) == 1
  message = capsys.readouterr().err
  assert message.count('\n') == 1 and 'nowhere' in message
  assert evaluate.main([str(tmp_path), '--probes=lasso']) == 1
  assert "No probe 'lasso'" in capsys.readouterr().err
  assert evaluate.main([str(tmp_path), '--seeds=0']) == 1
  assert 'seeds must be >= 1' in capsys.readouterr().err
