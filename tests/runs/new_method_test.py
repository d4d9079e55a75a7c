"""A method of this file alone trains, evaluates, classifies and reports."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dim_jax
from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objective import Objective
from dim_jax.runs import classify, density, layerwise
from dim_jax.training import metrics


@dataclasses.dataclass(kw_only=True)
class Config:
  """A linear autoencoder, whose code also tells the class."""

  code: int = 6
  """Size of the code."""


def make(config, *, axis_name=None):
  del axis_name

  def flat(batch):
    x = batch['image'].astype(jnp.float32) / 127.5 - 1
    return x.reshape(len(x), -1)

  def init(rng, batch):
    size = flat(batch).shape[1]
    keys = jax.random.split(rng, 3)

    def draw(key, rows, columns):
      return jax.random.normal(key, (rows, columns)) / np.sqrt(rows)

    return {
      'encoder': {'kernel': draw(keys[0], size, config.code)},
      'decoder': {'kernel': draw(keys[1], config.code, size)},
      'classes': {'kernel': draw(keys[2], config.code, 10)},
    }, {}

  def encode(params, model_state, batch):
    return {'bottleneck': flat(batch) @ params['encoder']['kernel']}

  def logits(variables, batch, rng, samples):
    params, model_state = variables
    code = encode(params, model_state, batch)['bottleneck']
    return (code @ params['classes']['kernel'])[None]

  def loss(params, model_state, batch, rng):
    code = encode(params, model_state, batch)['bottleneck']
    error = jnp.square(code @ params['decoder']['kernel'] - flat(batch)).mean()
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
      code @ params['classes']['kernel'], batch['label']
    ).mean()
    terms = {'decoder/error': error, 'classes/cross_entropy': cross_entropy}
    return error + cross_entropy, (terms, model_state)

  return Objective(
    init,
    loss,
    encode,
    classes=10,
    supervised='the class of a code',
    logits=logits,
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'linear'
  config = ExperimentConfig(
    objective=Config(code=5),
    data=DataConfig(name='digits', image_size=8),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    batch_size=32,
    steps=40,
    log_every=20,
    checkpoint_every=40,
  )
  dim_jax.train(config, folder, devices=1, show_progress=False)
  return folder


def test_it_trains_and_its_only_feature_is_watched(run):
  first, last = metrics.read(run / 'metrics.jsonl')
  assert last['classes/cross_entropy'] < first['classes/cross_entropy']
  # The representation is what `encode` returns, as nothing else is said.
  assert np.isfinite(last['encoder/effective_rank'])
  encoder = dim_jax.load(run)
  assert encoder.config.objective == Config(code=5)
  features = encoder(np.zeros((3, 8, 8, 1), np.uint8))
  assert features['bottleneck'].shape == (3, 5)


def test_it_is_probed_classified_and_reported(run):
  probes = dim_jax.evaluate(run, probes=('linear',), show_progress=False)
  probed = {(row['encoder'], row['feature']) for row in probes['results']}
  assert probed == {
    ('trained', 'bottleneck'),
    ('untrained', 'bottleneck'),
    ('raw', 'pixels'),
  }
  report = classify.classify(str(run), samples=1, show_progress=False)
  error = {row['split']: row['error_1'] for row in report['results']}
  assert 0 < error['test'] < 90  # Chance is 90 % of ten classes.
  page = dim_jax.report(run)
  with open(page, encoding='utf-8') as file:
    text = file.read()
  # A panel for each parameter group with metrics, and the probed feature.
  for name in ('classes', 'cross entropy', 'decoder', 'error', 'bottleneck'):
    assert name in text, name
  assert json.loads((run / 'config.json').read_text())['objective']['code'] == 5


def test_what_it_does_not_offer_is_named(run):
  with pytest.raises(ValueError, match='which has no density: measure it with'):
    density.density(str(run))
  config = dim_jax.load(run).config
  with pytest.raises(ValueError, match='encoder of isolated modules'):
    layerwise.train_modules(config, str(run), show_progress=False)
