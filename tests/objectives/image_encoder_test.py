"""Encoders of one's own: what is taken, and what is said of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from dim_jax.objectives import dim, image_encoder, vib

BATCH = {
  'image': np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), np.uint8),
  'label': np.asarray([0, 1, 2, 0], np.int32),
}


class ToArray(nn.Module):
  """A code alone, as an array."""

  @nn.compact
  def __call__(self, images, train=False):
    return nn.Dense(5)(images.reshape(len(images), -1))


class ToList(nn.Module):
  @nn.compact
  def __call__(self, images, train=False):
    return [nn.Dense(5)(images)]


class Nnx(nnx.Module):
  def __init__(self, code, *, rngs):
    self.local = nnx.Linear(1, 3, rngs=rngs)
    self.code = nnx.Linear(3, code, rngs=rngs)

  def __call__(self, images, train=False):
    local = nnx.relu(self.local(images))
    return {'local': local, 'conv': local, 'y': self.code(local.mean((1, 2)))}


def loss_of(objective):
  params, model_state = objective.init(jax.random.key(0), BATCH)
  features = objective.encode(params, model_state, BATCH)
  loss, _ = objective.loss(params, model_state, BATCH, jax.random.key(1))
  assert jnp.isfinite(loss)
  return {name: x.shape for name, x in features.items()}


def test_an_array_is_the_feature_y():
  config = dim.Config(
    encoder=ToArray(),
    local_feature='y',
    map_feature='y',
    critic_units=4,
    prior=None,
    num_classes=3,
  )
  assert loss_of(dim.make(config)) == {'y': (4, 5)}
  config = vib.Config(encoder=ToArray(), feature='y', code=2, num_classes=3)
  shapes = loss_of(vib.make(config))
  # The bottleneck's code takes the name, as that of any encoder's 'y' does.
  assert shapes == {'y': (4, 2), 'std': (4, 2), 'logits': (4, 3)}


def test_an_nnx_class_is_taken_over_the_bridge():
  config = dim.Config(
    encoder=nnx.bridge.ToLinen(Nnx, args=(5,)),
    critic_units=4,
    prior=None,
    num_classes=0,
  )
  shapes = loss_of(dim.make(config))
  assert shapes['y'] == (4, 5)


@pytest.mark.parametrize(
  ('encoder', 'message'),
  [
    ('resnet', r"Flax module or one of .*'resnet19_32'.*, got 'resnet'"),
    (3, r'a name or a Linen module, .*; got a int\.'),
    (lambda images: images, r'a Linen module, .*; got a function\.'),
    (ToArray, r'got a type\. .* of a class, as in MyEncoder'),
    (Nnx(2, rngs=nnx.Rngs(0)), r'got a Nnx\. .*bridge\.ToLinen'),
  ],
)
def test_what_is_no_encoder_is_named(encoder, message):
  with pytest.raises(ValueError, match=message):
    dim.make(dim.Config(encoder=encoder))


def test_other_outputs_are_named():
  objective = dim.make(dim.Config(encoder=ToList()))
  with pytest.raises(
    ValueError, match='a dictionary of arrays by name, or one'
  ):
    objective.init(jax.random.key(0), BATCH)
  assert list(image_encoder.features_of(np.zeros(2))) == ['y']
