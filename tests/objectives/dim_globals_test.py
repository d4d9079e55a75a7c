"""Deep InfoMax with several globals an image, from the encoder to features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.evaluation import features
from dim_jax.networks import convolutional
from dim_jax.networks.convolutional import ConvLayer
from dim_jax.objectives import dim
from tests.small import dim_config

N, M, L = 4, 4, 9  # images, globals and locations of each


def make_config(**fields):
  # 3x3 crops of 8 pixels, of which 2x2 globals see 2x2 each.
  encoder = convolutional.ConvEncoder(
    image_size=16,
    convs=(ConvLayer(5, 8, 1, 0), ConvLayer(6, 2, 1, 0)),
    fcs=(),
    local=0,
    crop=8,
    code=0,
  )
  return dim_config(
    **{
      'encoder': encoder,
      'global_feature': 'globals',
      'probe_features': ('conv', 'globals'),
      'prior__weight': 0.0,
      'critic': 'concat',
      'critic_units': 7,
      **fields,
    }
  )


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (N, 16, 16, 3), np.uint8),
    'label': np.arange(N, dtype=np.int32),
  }


@pytest.fixture(scope='module')
def variables(batch):
  return jax.jit(dim.make(make_config()).init)(jax.random.key(0), batch)


def test_the_bound_is_over_all_pairs_of_globals_and_locations(batch, variables):
  config = make_config()
  params, state = variables
  # Scores as far apart as after some training.
  critic = params['critic']['local']
  critic = critic | {'score': jax.tree.map(lambda x: 50 * x, critic['score'])}
  params = params | {'critic': {'local': critic}}
  _, (metrics, _) = jax.jit(dim.make(config).loss)(
    params, state, batch, jax.random.key(1)
  )
  features, _ = config.encoder.apply(
    {'params': params['encoder'], **state['encoder']},
    jnp.asarray(batch['image'], jnp.float32) / 127.5 - 1,
    train=True,
    mutable=['batch_stats'],
  )
  local = np.asarray(features['local'], np.float64).reshape(N, L, 5)
  glob = np.asarray(features['globals'], np.float64).reshape(N, M, 6)
  critic = jax.tree.map(lambda x: np.asarray(x, np.float64), critic)

  def score(g, c):
    x = np.concatenate([g, c])
    x = np.maximum(x @ critic['kernel'] + critic['bias'], 0)
    x = np.maximum(x @ critic['fc_1']['kernel'] + critic['fc_1']['bias'], 0)
    return (x @ critic['score']['kernel'] + critic['score']['bias']).item()

  # Each global against each location of its own image, with all locations of
  # the other images as negatives.
  bounds = []
  for i in range(N):
    for g in glob[i]:
      negatives = [score(g, c) for j in range(N) if j != i for c in local[j]]
      for c in local[i]:
        u = score(g, c)
        total = np.logaddexp.reduce([u, *negatives])
        bounds.append(np.log(len(negatives) + 1) + u - total)
  assert len(bounds) == N * M * L
  assert abs(np.mean(bounds)) > 0.1
  np.testing.assert_allclose(metrics['mi/local'], np.mean(bounds), rtol=1e-4)
  np.testing.assert_allclose(
    metrics['mi/local_ceiling'], np.log((N - 1) * L + 1), rtol=1e-6
  )
  assert {'probe/conv_accuracy', 'probe/globals_accuracy'} <= set(metrics)


def test_every_player_learns_from_some_of_the_globals(batch, variables):
  config = make_config(global_samples=2)
  step = jax.jit(jax.grad(dim.make(config).loss, has_aux=True))
  gradients, _ = step(*variables, batch, jax.random.key(1))
  for group in ('encoder', 'critic'):
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients[group]))
  other, _ = step(*variables, batch, jax.random.key(2))
  # Which globals is drawn from the key, and nothing else here is.
  kernel, moved = (g['encoder']['conv_0']['kernel'] for g in (gradients, other))
  assert (np.asarray(kernel) != np.asarray(moved)).any()


def test_encode_gives_features_that_flatten_for_probes(batch, variables):
  objective = dim.make(make_config())
  found = features.extract(
    lambda variables, part: objective.encode(*variables, part),
    variables,
    batch['image'],
  )
  assert {name: x.shape for name, x in found.items()} == {
    'local': (N, L * 5),
    'conv': (N, L * 5),
    'globals': (N, M * 6),
  }


def test_dropout_draws_from_the_steps_key(batch):
  encoder = dataclasses.replace(
    make_config().encoder, code=3, fcs=(8,), dropout=0.5
  )
  config = make_config(
    encoder=encoder, global_feature='y', probe_features=(), num_classes=0
  )
  objective = dim.make(config)
  variables = jax.jit(objective.init)(jax.random.key(0), batch)
  loss = jax.jit(lambda rng: objective.loss(*variables, batch, rng)[0])
  first, again, other = (loss(jax.random.key(i)) for i in (1, 1, 2))
  assert first == again != other


def test_a_tap_that_is_not_there_is_named(batch):
  config = make_config(global_feature='y')
  with pytest.raises(ValueError, match=r"global_feature is 'y'.*'globals'"):
    jax.eval_shape(dim.make(config).init, jax.random.key(0), batch)
