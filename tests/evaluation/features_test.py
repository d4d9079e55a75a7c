"""Tests of frozen features and their indicators."""

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
  found = features.extract(
    counted, variables, images, batch_size=4, progress=done.append
  )
  whole = encode(variables, {'image': images})
  assert found['conv'].shape == (11, 80)
  assert found['conv'].dtype == np.float32
  np.testing.assert_allclose(
    found['conv'], whole['conv'].reshape(11, -1), atol=1e-6
  )
  np.testing.assert_allclose(found['y'], whole['y'], atol=1e-6)
  assert traces == [(4, 4, 4, 1)]
  assert done == [4, 8, 11]


def test_only_the_wanted_taps_come_back():
  encode, variables, images = _encoder()
  assert list(features.extract(encode, variables, images, taps=['y'])) == ['y']
  with pytest.raises(ValueError, match=r"No tap 'fc'.*\['conv', 'y'\]"):
    features.extract(encode, variables, images, taps=['fc'])


def test_images_of_another_rank_are_refused():
  encode, variables, images = _encoder()
  with pytest.raises(ValueError, match=r'\[n, H, W, C\].*\(11, 4, 4\)'):
    features.extract(encode, variables, images.reshape(11, 4, 4))
  with pytest.raises(ValueError, match='n >= 1'):
    features.extract(encode, variables, images[:0])


def test_variables_are_bit_identical_after_probing():
  encode, variables, images = _encoder(90)
  before = features.fingerprint(variables)
  copies = jax.tree.map(lambda x: np.array(x), variables)
  found = features.extract(encode, variables, images, batch_size=7)
  labels = np.arange(90) % 3
  # The shapes and settings of probe_test.py, whose compilations it shares.
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
    examples = probes.Examples(found['y'], labels)
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


@pytest.mark.parametrize('rank', [1, 3, 8])
def test_effective_rank_of_isotropic_features_is_their_rank(rank):
  random = np.random.default_rng(0)
  # Orthonormal columns that are orthogonal to the ones: already centred.
  basis = random.normal(size=[40, rank])
  basis, _ = np.linalg.qr(np.concatenate([np.ones([40, 1]), basis], axis=1))
  turn, _ = np.linalg.qr(random.normal(size=[12, 12]))
  rows = 7 * basis[:, 1:] @ turn[:rank] + 100
  assert features.effective_rank(rows) == pytest.approx(rank, rel=2e-3)


def test_effective_rank_of_a_known_spectrum():
  # Singular values 3 and 1: exp of the entropy of (3/4, 1/4).
  rows = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
  expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  assert features.effective_rank(rows) == pytest.approx(expected, rel=1e-5)


def test_collapsed_features_have_no_rank_and_no_deviation():
  rows = np.full([6, 3], 0.5, np.float32)
  assert features.effective_rank(rows) == 0
  np.testing.assert_array_equal(features.deviation(rows), np.zeros(3))
  rows[:3, 1] = 1.5
  np.testing.assert_allclose(features.deviation(rows), [0, 0.5, 0], atol=1e-6)
  assert jax.jit(features.effective_rank)(rows) == pytest.approx(1, rel=1e-3)


def test_pixels_run_from_minus_one_to_one():
  images = np.array([0, 255, 51, 204], np.uint8).reshape(2, 1, 2, 1)
  np.testing.assert_allclose(
    features.raw(images), [[-1, 1], [-0.6, 0.6]], atol=1e-6
  )


def test_collapse_monitor_on_known_features():
  # Four images whose features are +-e1 and +-e2: two equal singular values,
  # so an effective rank of 2; each dimension has variance 2/4.
  x = jnp.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
  monitor = features.collapse_monitor(lambda *_: {'y': x}, {})
  values = monitor(None, None)
  np.testing.assert_allclose(values['encoder/effective_rank'], 2, rtol=1e-4)
  expected = (2 * np.sqrt(0.5) + 0) / 3
  np.testing.assert_allclose(values['encoder/std'], expected, rtol=1e-6)
