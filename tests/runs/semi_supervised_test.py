"""Runs that learn few labels: which they see, and where they start from."""

import json
import os

import numpy as np
import PIL.Image
import pytest

import dim_jax
from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.data import load as data
from dim_jax.networks import encoders
from dim_jax.runs import classify, train
from tests.small import dim_config


def make_config(**fields):
  objective = {
    'local_weight': 0.0,
    'prior__weight': 0.0,
    'supervised__weight': 1.0,
    'supervised__units': (8,),
    'probe_features': (),
  }
  return ExperimentConfig(
    objective=dim_config(
      encoder=encoders.ConvEncoder(
        image_size=8,
        convs=(encoders.ConvLayer(4, 3, 2, 1),),
        fcs=(8,),
        local=0,
        code=4,
      ),
      critic_units=8,
      **(objective | fields.pop('objective', {})),
    ),
    data=DataConfig(name='digits', image_size=8, **fields.pop('data', {})),
    batch_size=16,
    steps=2,
    log_every=2,
    checkpoint_every=2,
    **fields,
  )


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  """Deep InfoMax, without a label."""
  folder = str(tmp_path_factory.mktemp('pretrained'))
  config = make_config(
    objective={'local_weight': 1.0, 'supervised__weight': 0.0}, seed=1
  )
  train.train(config, folder, devices=1, show_progress=False)
  return folder


def test_a_part_of_each_class_keeps_its_label():
  # 1,294 images train: of each class a tenth of about 129.
  config = DataConfig(name='digits', image_size=8, labelled=0.1)
  whole = data.load(config, 'train')
  found = data.training(config)
  np.testing.assert_array_equal(found.inputs, whole.inputs)
  sizes, kept = (
    np.bincount(x.labels['class'][x.labels['class'] >= 0])
    for x in (whole, found)
  )
  assert len(whole.inputs) == 1294 and sizes.sum() == 1294
  np.testing.assert_array_equal(kept, np.round(0.1 * sizes))
  # Neither probes nor validation lose any.
  for split in ('train', 'validation', 'test'):
    assert (data.load(config, split).labels['class'] >= 0).all()


def test_labelled_and_unlabelled_images_train_together(monkeypatch):
  images = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 1), np.uint8)
  parts = {
    'train': (images[:6], np.array([0, 0, 0, 1, 1, 1], np.int32)),
    'unlabelled': (images[6:], np.full(3, -1, np.int32)),
  }

  def load(config, split, **options):
    del config, options
    inputs, labels = parts[split]
    return data.Examples(
      'image', inputs, {'class': labels}, 'class', {'class': ()}, 'stl10', ''
    )

  monkeypatch.setattr(data, 'load', load)
  for fields, rows, known in (
    ({}, slice(0, 6), 6),
    ({'unlabelled': True}, slice(6, 9), 0),
    ({'unlabelled': True, 'labelled': 1.0}, slice(0, 9), 6),
    ({'unlabelled': True, 'labels_per_class': 2}, slice(0, 9), 4),
  ):
    found = data.batch(data.training(DataConfig(name='stl10', **fields)))
    np.testing.assert_array_equal(found['image'], images[rows])
    assert (found['label'] >= 0).sum() == known


def test_fine_tuning_starts_where_the_other_run_ended(pretrained, tmp_path):
  config = make_config(
    init_from=pretrained,
    data={'labels_per_class': 3},
    optimizer=OptimizerConfig(learning_rate=1e-12),
  )
  folder = str(tmp_path / 'run')
  state = train.train(config, folder, devices=1, show_progress=False)
  assert set(state.params) == {'encoder', 'decoder'}
  before = dim_jax.load(pretrained).variables[0]['encoder']
  fresh = dim_jax.load(folder, 0).variables[0]['encoder']
  for name in ('conv_0', 'fc_0', 'y'):
    kernel = state.params['encoder'][name]['kernel']
    np.testing.assert_allclose(kernel, before[name]['kernel'], atol=1e-8)
    assert np.abs(kernel - fresh[name]['kernel']).max() > 1e-3
  # It is measured as every classifier is.
  report = classify.classify(folder, show_progress=False)
  test = data.load(config.data, 'test')
  logits = dim_jax.load(folder)(test.inputs)['logits']
  wrong = np.mean(logits.argmax(-1) != test.labels['class'])
  rows = {r['split']: r for r in report['results'] if r['weights'] == 'raw'}
  assert rows['test']['examples'] == 359
  np.testing.assert_allclose(rows['test']['error_12'], 100 * wrong, rtol=1e-6)
  with open(os.path.join(folder, 'evaluation', 'classification.json')) as file:
    assert json.load(file)['bottleneck'] == 'none'


def test_a_run_without_a_classifier_is_not_classified(pretrained):
  with pytest.raises(ValueError, match='no classifier: measure it with'):
    classify.classify(pretrained, show_progress=False)


@pytest.mark.parametrize('classes', [('a',), ()])
def test_labels_that_tell_nothing_apart_are_refused(classes, tmp_path):
  rng = np.random.default_rng(0)
  for part in ('train', 'test'):
    for name in classes or ('',):
      folder = tmp_path / 'images' / part / name
      folder.mkdir(parents=True)
      for i in range(20):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f'{i}.png')
  config = make_config()
  config.data.name = str(tmp_path / 'images')
  run_dir = tmp_path / 'run'
  has = 'labels of one class alone' if classes else 'no labels'
  message = f'has {has}; objective.supervised.weight=1.0 needs two classes'
  with pytest.raises(ValueError, match=message):
    train.train(config, str(run_dir), devices=1, show_progress=False)
  assert not run_dir.exists()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'labelled': 0.0}, r'data.labelled must be .*got 0.0'),
    ({'labelled': 2.0}, r'data.labelled must be .*got 2.0'),
    ({'labels_per_class': 500}, r'has 12\d training labels: ask for at most'),
  ],
)
def test_label_amounts_that_cannot_be_are_refused(fields, message, tmp_path):
  run_dir = tmp_path / 'run'
  with pytest.raises(ValueError, match=message):
    train.train(make_config(data=fields), str(run_dir), show_progress=False)
  assert not run_dir.exists()
