"""Tests of the table of measures, with a tiny encoder in place of a run's."""

import json
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

import dim_jax
from dim_jax.config import DataConfig, ExperimentConfig, PointConfig
from dim_jax.configs import dim_cifar10, dim_cifar100
from dim_jax.data import augment
from dim_jax.data import load as data
from dim_jax.evaluation import reconstruction, representations
from dim_jax.objective import Objective
from dim_jax.runs import published, represent

_SETTINGS = represent.Settings(
  reconstruction.Settings(epochs=1, decay_epochs=()), channels=2
)


class _Encoder:
  """Random projections of examples, another of each step."""

  def __init__(self, step, config):
    self.step = step
    self.config = ExperimentConfig(objective=None, data=config)
    self.objective = Objective(None, None, None)
    size = 256 if config.kind == 'image' else 2
    random = np.random.default_rng(step)
    self.variables = random.normal(size=[size, 5]).astype(np.float32)

  def encode(self, variables, batch):
    (x,) = (batch[k] for k in ('image', 'point') if k in batch)
    flat = x.reshape(len(x), -1).astype(np.float32) / 255
    return {'y': jnp.dot(flat, variables), 'z': flat[:, :3]}


@pytest.fixture
def run_dir(monkeypatch, tmp_path):
  config = DataConfig(image_size=16)

  def load(run_dir, step=None):
    return _Encoder(7 if step is None else step, config)

  monkeypatch.setattr(dim_jax, 'load', load)
  return tmp_path


def _represent(run_dir, *measures, features=('y',), **options):
  return represent.represent(
    str(run_dir),
    measures=measures,
    features=features,
    settings=_SETTINGS,
    show_progress=False,
    **options,
  )


def _values(report):
  """Values by encoder, feature and measure."""
  return {
    (x['encoder'], x['feature'], x['measure']): x['values']
    for x in report['results']
  }


def test_ranks_and_probes_are_those_of_the_features(run_dir):
  first = _represent(run_dir, 'rank', 'lidar')
  report = _represent(run_dir, 'knn', max_examples=200)
  with open(run_dir / 'evaluation' / 'representation.json') as file:
    assert json.load(file) == report
  values = _values(report)
  test = data.load(DataConfig(image_size=16), 'test', progress=False)
  flat = test.inputs.reshape(len(test.inputs), -1).astype(np.float32) / 255
  for kind, step in (('trained', 7), ('untrained', 0)):
    y = flat @ np.random.default_rng(step).normal(size=[256, 5])
    rank = values[kind, 'y', 'rank']
    assert rank['rankme'] == pytest.approx(representations.rankme(y), rel=1e-4)
    assert rank['alpha_req'] == pytest.approx(
      representations.alpha_req(y), rel=1e-2
    )
    assert (rank['examples'], rank['dimensions']) == (len(y), 5)
    lidar = values[kind, 'y', 'lidar']
    assert (lidar['examples'], lidar['views']) == (256, 8)
    # Between one direction and all five.
    assert 1 <= lidar['lidar'] <= 5.001
    assert values[kind, 'y', 'knn']['accuracy'] > 0.3
  # Measured before, and kept; the probes are in a file of their own too.
  assert all(row in report['results'] for row in first['results'])
  with open(run_dir / 'evaluation' / 'probes.json') as file:
    knn = {
      (x['encoder'], x['feature']): x['mean']
      for x in json.load(file)['results']
    }
  assert knn == {
    key[:2]: x['accuracy'] for key, x in values.items() if key[2] == 'knn'
  }
  assert report['views'].endswith('The run has no augmentation of its own.')


def test_only_the_encoders_that_are_asked_are_measured(run_dir, monkeypatch):
  report = _represent(run_dir, 'rank', 'knn', encoders=['untrained'])
  assert set(_values(report)) == {
    ('untrained', 'y', 'rank'),
    ('untrained', 'y', 'knn'),
  }
  report = _represent(run_dir, 'knn', encoders=['raw'])
  assert ('raw', 'pixels', 'knn') in _values(report)
  # Raw sound is called otherwise.
  measured = represent.evaluate.evaluate

  def renamed(*args, **kwargs):
    found = measured(*args, **kwargs)
    rows = [r | {'feature': 'samples'} for r in found['results']]
    return found | {'results': rows}

  monkeypatch.setattr(represent.evaluate, 'evaluate', renamed)
  report = _represent(run_dir, 'knn', encoders=['raw'])
  assert ('raw', 'samples', 'knn') in _values(report)
  assert not any(key[0] == 'trained' for key in _values(report))
  with pytest.raises(ValueError, match="encoders must be one of 'trained'"):
    _represent(run_dir, 'rank', encoders=['random'])


def test_views_of_an_image_stand_together(monkeypatch):
  # Features that tell nothing but which image it is: views change none.
  config = DataConfig(image_size=16, flip=True)
  views = represent._view(config, 0).reshape(256, 8, 16, 16, 1)
  images = data.load(config, 'train', crop=False, progress=False).inputs[:256]
  mirrored = images[:, :, ::-1]
  same = (views == images[:, None]).all((2, 3, 4))
  flipped = (views == mirrored[:, None]).all((2, 3, 4))
  assert (same | flipped).all()
  # Each is as likely, and drawn for each view by itself.
  assert 0.4 < same.mean() < 0.6
  assert (same.any(1) & ~same.all(1)).mean() > 0.9
  assert represent.describe_views(config) == 'Flips.'


def test_reconstructions_are_pictured_beside_the_mean_image(run_dir):
  report = _represent(run_dir, 'reconstruction')
  values = _values(report)
  assert list(values) == [
    ('none', 'mean image', 'reconstruction'),
    ('trained', 'y', 'reconstruction'),
    ('untrained', 'y', 'reconstruction'),
  ]
  # The mean of training images leaves the variance of test images and more.
  train, test = (
    data.load(
      DataConfig(image_size=16), split, validation=0.0, progress=False
    ).inputs.astype(np.float64)
    for split in ('train', 'test')
  )
  error = np.mean((test - np.round(train.mean(0))) ** 2) / 127.5**2
  mean = values['none', 'mean image', 'reconstruction']
  assert mean['squared_error'] == pytest.approx(error, rel=1e-4)
  assert values['trained', 'y', 'reconstruction']['settings']['channels'] == 2
  with np.load(run_dir / 'evaluation' / 'representation.npz') as arrays:
    shapes = {name: arrays[name].shape for name in arrays.files}
    np.testing.assert_array_equal(arrays['test images'], test[:8])
  images = {'test images', 'mean image', 'trained y', 'untrained y'}
  assert shapes == {'step': (), **dict.fromkeys(images, (8, 16, 16, 1))}
  assert (run_dir / 'evaluation' / 'reconstructions.png').exists()
  assert _values(_represent(run_dir, 'reconstruction')) == values
  records = represent.representation.records(report)
  assert [(x['encoder'], x['feature']) for x in records] == [
    ('none', 'mean image'),
    ('trained', 'y'),
    ('untrained', 'y'),
  ]


def test_information_and_dependence(run_dir, monkeypatch):
  def correlation(x, *, report, **options):
    assert (len(x), len(report)) == (1438, 359)
    return types.SimpleNamespace(
      value=0.5, standard_error=0.1, ceiling=6.0, control=-0.25
    )

  monkeypatch.setattr(dim_jax, 'total_correlation', correlation)
  report = _represent(run_dir, 'information', 'dependence')
  values = {
    x['measure']: x['values']
    for x in report['results']
    if x['encoder'] == 'trained'
  }
  # Noise as strong as the features: a Gaussian of 5 dimensions has at most
  # 5 / 2 ln 2 nats, when all have the same variance.
  information = values['information']
  assert 0.1 < information['lower'] < information['upper']
  assert information['upper'] < 2.5 * math.log(2) + 0.1
  assert information['ceiling'] == pytest.approx(math.log(1438), abs=1e-4)
  assert values['dependence']['value'] == 0.5
  record, _ = represent.representation.records(report)
  assert record['I(X; Y + noise) from'] == f'{information["lower"]:.2f}'
  assert record['NDM'] == '0.50'
  table, *notes = represent.summary(report)
  titles = [str(column.header) for column in table.columns]
  assert titles == ['feature', 'encoder', 'I(X; Y + noise) from', 'to', 'NDM']
  # A typographic minus.
  assert any('(−0.25 measured); ceiling 6.00' in x for x in notes)


def test_units_of_a_stochastic_code_are_measured_beside_its_means(
  run_dir, monkeypatch
):
  # Means are the features y, and the noise is one fifth for all examples.
  encoder = _Encoder(7, DataConfig(image_size=16))

  def posterior(variables, batch):
    mean = encoder.encode(variables, batch)['y']
    return mean, jnp.full_like(mean, 0.2), jnp.full_like(mean, math.log(0.2))

  def load(run_dir, step=None):
    loaded = _Encoder(7 if step is None else step, encoder.config.data)
    loaded.objective = Objective(
      None, None, None, features=('z', 'y'), posterior=posterior
    )
    return loaded

  monkeypatch.setattr(dim_jax, 'load', load)
  report = _represent(run_dir, 'units', 'rank', features=('z', 'y'))
  values = _values(report)
  assert ('trained', 'z', 'units') not in values
  test = data.load(DataConfig(image_size=16), 'test', progress=False)
  flat = test.inputs.reshape(len(test.inputs), -1).astype(np.float32) / 255
  for kind, step in (('trained', 7), ('untrained', 0)):
    y = flat @ np.random.default_rng(step).normal(size=[256, 5])
    found = values[kind, 'y', 'units']
    capacity = np.log(1 + y.var(0) / 0.04).sum() / 2
    assert found['capacity'] == pytest.approx(capacity, rel=1e-4)
    assert (found['active'], found['units']) == (5, 5)
    assert found['examples'] == len(y)
  with np.load(run_dir / 'evaluation' / 'representation.npz') as arrays:
    assert arrays['unit_capacity'].sum() == pytest.approx(
      values['trained', 'y', 'units']['capacity']
    )
    # Of each image the KL of all units; five of the lowest, then the highest.
    y = flat @ np.random.default_rng(7).normal(size=[256, 5])
    nats = ((y**2 + 0.04 - 1) / 2 - math.log(0.2)).sum(1)
    order = np.argsort(nats)
    np.testing.assert_allclose(
      arrays['rated_nats'],
      nats[[*order[:5], *order[-5:]]],
      rtol=1e-4,
    )
    np.testing.assert_array_equal(
      arrays['rated_images'][9], test.inputs[order[-1]]
    )
  records = represent.representation.records(report)
  record = next(x for x in records if 'active units' in x)
  assert (record['feature'], record['active units']) == ('y', '5')
  assert any('Active units: of 5' in x for x in represent.summary(report)[1:])


def test_units_need_a_stochastic_code(run_dir):
  report = _represent(run_dir, 'units', 'rank')
  assert ('trained', 'y', 'units') not in _values(report)
  assert report['skipped'] == [
    {'what': 'units', 'reason': 'the code is not stochastic.'}
  ]


def test_what_cannot_be_measured_is_named(monkeypatch, tmp_path):
  config = PointConfig(count=50)
  monkeypatch.setattr(
    dim_jax, 'load', lambda run_dir, step=None: _Encoder(1, config)
  )
  report = _represent(
    tmp_path, 'svm', 'reconstruction', 'rank', 'lidar', features=['y']
  )
  assert {x['measure'] for x in report['results']} == {'rank'}
  reasons = {x['what']: x['reason'] for x in report['skipped']}
  assert 'has no labels to predict' in reasons['probes']
  assert reasons['trained y reconstruction'] == 'the examples are no images.'
  assert reasons['trained y lidar'] == 'there are no views but of images.'
  with pytest.raises(ValueError, match="'lidar', 'units', got 'ranks'"):
    _represent(tmp_path, 'ranks')
  with pytest.raises(ValueError, match="features must be one of 'y', 'z'"):
    _represent(tmp_path, 'rank', features=['w'])


def test_published_rows_are_those_of_cifar10():
  rows = {
    row: (published.published(dim_cifar10.get_config(row)) or {}).get('row')
    for row in ('local_jsd', 'global', 'local_global', 'coordinates')
  }
  assert rows == {
    'local_jsd': 'DIM(L)',
    'global': 'DIM(G)',
    'local_global': 'DIM(L+G)',
    'coordinates': None,
  }
  assert published.published(dim_cifar100.get_config('local_jsd')) is None
  # The row of local_global has its own numbers in this table.
  paper = dim_cifar10.get_config('local_global').paper
  cells = published.ROWS['DIM(L+G)']
  for cell, feature in zip(cells, ('conv', 'fc', 'y'), strict=False):
    assert float(cell.partition('±')[0]) == paper[feature]
  assert {len(row) for row in published.ROWS.values()} == {6}


def test_default_views_are_of_any_images():
  config = represent._VIEWS
  assert isinstance(config, augment.Config)
  assert represent.describe_views(DataConfig()).startswith('Flips, crops after')
  assert represent.describe_views(PointConfig()) is None
