"""Deep InfoMax beside labels, and labels alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.objectives import dim, sharded_batch
from tests.small import dim_config

N = 5
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 2), np.uint8)
LABELS = np.array([2, -1, 0, 1, -1], np.int32)
KNOWN = np.array([0, 2, 3])
RNG = jax.random.key(1)


class Encoder(nn.Module):
  """A dense layer a pixel, and codes of all of them; rows do not meet."""

  @nn.compact
  def __call__(self, images, train=False):
    local = nn.relu(nn.Dense(6)(images))
    fc = nn.relu(nn.Dense(10)(local.reshape(local.shape[0], -1)))
    return {'local': local, 'conv': local, 'fc': fc, 'y': nn.Dense(5)(fc)}


def make_config(**changes):
  defaults = {
    'encoder': Encoder(),
    'local_weight': 0.0,
    'prior__weight': 0.0,
    'supervised__weight': 1.0,
    'supervised__units': (7,),
    'num_classes': 3,
    'probe_features': (),
  }
  return dim_config(**(defaults | changes))


@functools.cache
def compiled():
  """Labels alone: fresh variables, and value and gradient."""
  objective = dim.make(make_config())
  batch = {'image': PIXELS, 'label': LABELS}
  variables = jax.jit(objective.init)(jax.random.key(0), batch)
  grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  return variables, lambda variables, images, labels: grad(
    *variables, {'image': images, 'label': labels}, RNG
  )


def logits_by_hand(params):
  """Encoder and classifier in float64, [N, 3]."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  dense, decoder = params['encoder']['Dense_0'], params['decoder']
  x = PIXELS / 127.5 - 1.0
  x = np.maximum(x @ dense['kernel'] + dense['bias'], 0).reshape(N, -1)
  for name in ('hidden_0', 'logits'):
    x = x @ decoder[name]['kernel'] + decoder[name]['bias']
    x = np.maximum(x, 0) if name == 'hidden_0' else x
  return x


def test_cross_entropy_is_of_labelled_images_alone():
  variables, grad = compiled()
  params, _ = variables
  assert set(params) == {'encoder', 'decoder'}
  (loss, (metrics, _)), _ = grad(variables, PIXELS, LABELS)
  logits = logits_by_hand(params)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = -np.mean([log_p[0, 2], log_p[2, 0], log_p[3, 1]])
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert set(metrics) == {
    'decoder/cross_entropy',
    'decoder/accuracy',
    'decoder/labelled',
  }
  assert metrics['decoder/labelled'] == 1
  np.testing.assert_allclose(
    metrics['decoder/cross_entropy'], expected, rtol=1e-5
  )
  hits = (logits.argmax(-1) == LABELS)[KNOWN]
  np.testing.assert_allclose(metrics['decoder/accuracy'], hits.mean())


def test_unlabelled_images_change_nothing():
  variables, grad = compiled()
  expected = grad(variables, PIXELS, LABELS)
  other = PIXELS.copy()
  other[LABELS < 0] = 255 - other[LABELS < 0]
  jax.tree.map(
    np.testing.assert_array_equal, grad(variables, other, LABELS), expected
  )


def test_a_batch_without_labels_is_worth_nothing_and_moves_nothing():
  variables, grad = compiled()
  (loss, (metrics, _)), grads = grad(
    variables, PIXELS, np.full_like(LABELS, -1)
  )
  assert loss == 0 and metrics['decoder/accuracy'] == 0
  assert metrics['decoder/labelled'] == 0
  for leaf in jax.tree.leaves(grads):
    np.testing.assert_array_equal(leaf, 0)


def test_infinite_logits_of_an_unlabelled_image_do_not_count():
  logits = jnp.asarray([[1.0, 0.0], [jnp.inf, -jnp.inf], [jnp.nan, 3.0]])
  labels = jnp.asarray([1, -1, -1])
  grad = jax.value_and_grad(
    lambda x: sharded_batch.cross_entropy(x, labels, None)[0]
  )
  loss, slope = grad(logits)
  np.testing.assert_allclose(loss, np.log(1 + np.e), rtol=1e-6)
  p = np.e / (1 + np.e)
  np.testing.assert_allclose(slope, [[p, -p], [0, 0], [0, 0]], rtol=1e-6)


def test_the_whole_encoder_and_the_classifier_learn():
  variables, grad = compiled()
  params, model_state = variables
  (_, _), grads = grad(variables, PIXELS, LABELS)
  # What the classifier does not read has no gradient.
  assert jnp.abs(grads['encoder']['Dense_1']['kernel']).max() == 0
  learns = {'encoder': grads['encoder']['Dense_0'], 'decoder': grads['decoder']}
  for leaf in jax.tree.leaves(learns):
    assert jnp.abs(leaf).max() > 0
  square = sum(jnp.sum(g * g) for g in jax.tree.leaves(grads))

  def moved(step):
    near = jax.tree.map(lambda p, g: p + step * g, params, grads)
    return grad((near, model_state), PIXELS, LABELS)[0][0]

  slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
  np.testing.assert_allclose(slope, square, rtol=2e-2)


def test_the_trained_classifier_is_read_where_runs_are_measured():
  config = make_config()
  (params, model_state), _ = compiled()
  expected = logits_by_hand(params)
  objective, batch = dim.make(config), {'image': PIXELS}
  features = objective.encode(params, model_state, batch)
  np.testing.assert_allclose(features['logits'], expected, rtol=1e-4, atol=1e-5)
  found = objective.logits((params, model_state), batch, RNG, 5)
  assert found.shape == (1, N, 3)
  np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
  # Nothing is scored, and reports can ask.
  assert objective.scores((params, model_state), batch) == {}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'supervised__weight': -1.0}, r'supervised.weight must be >= 0'),
    ({'num_classes': 1}, r'set objective.num_classes to 2 or more, got 1'),
    (
      {'supervised__units': (7, 0)},
      r'supervised.units\[1\] must be a whole number >= 1',
    ),
    (
      {'supervised__weight': 0.0},
      r'both 0: nothing would train the encoder.*or objective.supervised',
    ),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dim.make(make_config(**changes))


def test_what_the_classifier_needs_is_named():
  objective = dim.make(make_config(supervised__feature='map'))
  with pytest.raises(
    ValueError, match=r"supervised.feature is 'map', but .*'conv'"
  ):
    jax.eval_shape(objective.init, jax.random.key(0), {'image': PIXELS})
  variables, _ = compiled()
  with pytest.raises(ValueError, match=r"=1.0 needs batch\['label'\]"):
    jax.eval_shape(
      dim.make(make_config()).loss, *variables, {'image': PIXELS}, RNG
    )
