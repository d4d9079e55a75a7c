"""Tests of frozen features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.evaluation import features, probes


class _Encoder(nn.Module):
  """A tiny encoder with running statistics."""

  @nn.compact
  def __call__(self, images, *, train=False):
    x = images.astype(jnp.float32) / 127.5 - 1
    x = nn.Dense(5)(x)
    x = nn.BatchNorm(use_running_average=not train)(x)
    return {'conv': x, 'y': nn.Dense(6)(x.reshape(len(x), -1))}


def _encoder(n=11):
  images = np.random.default_rng(0).integers(0, 256, [n, 4, 4, 1], np.uint8)
  module = _Encoder()
  variables = module.init(jax.random.key(0), images)
  return lambda v, batch: module.apply(v, batch['image']), variables, images


def test_padded_last_batch_drops_and_changes_nothing():
  encode, variables, images = _encoder(11)
  traces = []

  def counted(variables, batch):
    traces.append(batch['image'].shape)
    return encode(variables, batch)

  done = []
  result = features.extract(
    counted, variables, images, batch_size=4, progress=done.append
  )
  expected = encode(variables, {'image': images})
  assert result['conv'].shape == (11, 80)
  assert result['conv'].dtype == np.float32
  np.testing.assert_allclose(
    result['conv'], expected['conv'].reshape(11, -1), atol=1e-6
  )
  np.testing.assert_allclose(result['y'], expected['y'], atol=1e-6)
  assert traces == [(4, 4, 4, 1)]
  assert done == [4, 8, 11]


def test_only_the_wanted_features_come_back():
  encode, variables, images = _encoder()
  assert list(features.extract(encode, variables, images, names=['y'])) == ['y']
  with pytest.raises(
    ValueError, match="A feature must be one of 'conv', 'y', got 'fc'"
  ):
    features.extract(encode, variables, images, names=['fc'])


def test_images_of_another_rank_are_refused():
  encode, variables, images = _encoder()
  with pytest.raises(ValueError, match=r'\[n, H, W, C\].*\(11, 4, 4\)'):
    features.extract(encode, variables, images.reshape(11, 4, 4))
  with pytest.raises(ValueError, match='n >= 1'):
    features.extract(encode, variables, images[:0])


def test_examples_that_are_not_finite_are_counted():
  points = np.zeros([5, 2], np.float32)
  points[1, 0], points[3, 1] = np.nan, np.inf
  with pytest.raises(ValueError, match=r'2 of 10 values .* NaN or infinite'):
    features.extract(lambda v, batch: {'y': batch['point']}, {}, points)


def test_variables_are_bit_identical_after_probing():
  encode, variables, images = _encoder(90)
  before = features.fingerprint(variables)
  copies = jax.tree.map(lambda x: np.array(x), variables)
  result = features.extract(encode, variables, images, batch_size=7)
  labels = np.arange(90) % 3
  # The shapes and settings of probes_test.py, whose compilations it shares.
  protocol = probes.Protocol(
    seeds=2,
    linear_l2=(1e-3, 1e-1),
    few_l2=(1e-2, 1.0),
    few_labels=3,
    few_draws=4,
    mlp_epochs=2,
    mlp_decay_epochs=(1,),
    mlp_units=8,
  )
  for run in probes.PROBES.values():
    examples = probes.Examples(result['y'], labels)
    run(examples, examples, protocol)
  assert features.fingerprint(variables) == before
  jax.tree.map(np.testing.assert_array_equal, copies, variables)


def test_fingerprint_sees_every_bit():
  variables = {'a': np.zeros([2, 3], np.float32), 'b': np.ones([], np.int32)}
  before = features.fingerprint(variables)
  changed = {**variables, 'a': variables['a'].copy()}
  changed['a'][1, 2] = np.float32(-0.0)
  assert features.fingerprint(changed) != before
  reshaped = {**variables, 'a': variables['a'].reshape(3, 2)}
  assert features.fingerprint(reshaped) != before
  assert features.fingerprint(jax.tree.map(np.copy, variables)) == before


def test_pixels_run_from_minus_one_to_one():
  images = np.array([0, 255, 51, 204], np.uint8).reshape(2, 1, 2, 1)
  np.testing.assert_allclose(
    features.raw(images), [[-1, 1], [-0.6, 0.6]], atol=1e-6
  )
