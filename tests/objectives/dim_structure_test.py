"""Deep InfoMax that predicts coordinates and sees occluded images."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.objectives import dim
from dim_jax.objectives.terms import coordinates, hidden_patches
from tests.small import dim_config

N, H, W = 4, 4, 6
PIXELS = np.random.default_rng(0).integers(0, 256, (N, H, W, 2), np.uint8)
X = PIXELS.astype(np.float32) / 127.5 - 1
BATCH = {'image': PIXELS, 'label': np.array([0, -1, 2, 1], np.int32)}


class Encoder(nn.Module):
  """A dense layer a pixel, and codes of all of them."""

  @nn.compact
  def __call__(self, images, train=False):
    local = nn.relu(nn.Dense(6)(images))
    fc = nn.relu(nn.Dense(10)(local.reshape(local.shape[0], -1)))
    return {'local': local, 'conv': local, 'fc': fc, 'y': nn.Dense(5)(fc)}


def make_config(**changes):
  defaults = {
    'encoder': Encoder(),
    'critic': 'concat',
    'critic_units': 8,
    'coordinates__units': 16,
    'prior__weight': 0.0,
    'num_classes': 0,
    'mask__patch': 2,
  }
  return dim_config(**(defaults | changes))


FULL = {
  'mask__kind': 'occlude',
  'coordinates__kind': 'both',
  'coordinates__weight': 0.25,
  'supervised__weight': 0.5,
  'num_classes': 3,
  'probe_features': (),
  'supervised__units': (7,),
}
RNG = jax.random.key(1)


@functools.cache
def compiled(items):
  """Once for every test: init, and the loss with its gradient."""
  objective = dim.make(make_config(**dict(items)))
  grad = jax.value_and_grad(objective.loss, has_aux=True)
  return jax.jit(objective.init), jax.jit(grad)


def start(changes):
  return compiled(tuple(changes.items()))[0](jax.random.key(0), BATCH)


def gradients(changes, variables):
  return compiled(tuple(changes.items()))[1](*variables, BATCH, RNG)


def normalised(x):
  """Batch normalisation by the batch's own statistics, then ReLU."""
  axes = tuple(range(x.ndim - 1))
  x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
  return np.maximum(x, 0)


def head(params, inputs):
  """The head on the whole concatenation [N, L, D], in float64."""
  x = normalised(inputs @ np.asarray(params['kernel'], np.float64))
  x = normalised(x @ np.asarray(params['fc_1']['kernel'], np.float64))
  return [
    x @ np.asarray(params[name]['kernel'], np.float64)
    + np.asarray(params[name]['bias'], np.float64)
    for name in ('row', 'column')
  ]


class Normalised(nn.Module):
  """A code of batch normalised features."""

  @nn.compact
  def __call__(self, images, train=False):
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.5)
    local = norm(nn.Dense(6)(images))
    return {'local': local, 'conv': local, 'y': local.mean((1, 2))}


def test_running_statistics_are_of_whole_images_as_evaluation_is():
  config = make_config(mask__kind='occlude', encoder=Normalised())
  objective = dim.make(config)
  params, state = objective.init(jax.random.key(0), BATCH)
  _, (_, new) = objective.loss(params, state, BATCH, RNG)
  dense = params['encoder']['Dense_0']
  maps = X @ np.asarray(dense['kernel']) + np.asarray(dense['bias'])
  # Half of the start, 0 and 1, and half of the batch's.
  moved = new['encoder']['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(moved['mean'], maps.mean((0, 1, 2)) / 2, atol=1e-5)
  np.testing.assert_allclose(
    moved['var'], (1 + maps.var((0, 1, 2))) / 2, rtol=1e-4
  )


def cross_entropy(logits, target):
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -np.mean(
    [log_p[n, k, target(n, k)] for n, k in np.ndindex(logits.shape[:2])]
  )


def test_places_are_told_from_the_code_and_the_features():
  config = make_config(**FULL)
  params, model_state = start(FULL)
  (_, (metrics, _)), _ = gradients(FULL, (params, model_state))
  visible = np.asarray(
    hidden_patches.draw(config.mask, RNG, jnp.asarray(X), None)
  )
  maps = jnp.zeros((N, H, W, 6))
  chosen = np.asarray(coordinates.draw_source(RNG, maps, None))
  assert (~visible).any((1, 2)).all() and len(set(chosen)) > 1
  weights = {'params': params['encoder']}
  # Codes of what is visible, mid-gray elsewhere; features of all.
  codes = config.encoder.apply(weights, X * visible[..., None])['y']
  local = config.encoder.apply(weights, X)['local'].reshape(N, H * W, 6)
  codes, local = (np.asarray(x, np.float64) for x in (codes, local))
  tiled = np.broadcast_to(codes[:, None], (N, H * W, 5))
  rows, columns = head(
    params['critic']['coordinates_absolute'],
    np.concatenate([tiled, local], -1),
  )
  source = np.broadcast_to(local[np.arange(N), chosen][:, None], local.shape)
  relative_rows, relative_columns = head(
    params['critic']['coordinates_relative'],
    np.concatenate([tiled, local, source], -1),
  )
  assert relative_rows.shape == (N, 24, 7)
  assert relative_columns.shape == (N, 24, 11)
  at = [divmod(k, W) for k in range(H * W)]
  expected = {
    'row': cross_entropy(rows, lambda n, k: at[k][0]),
    'column': cross_entropy(columns, lambda n, k: at[k][1]),
    'relative_row': cross_entropy(
      relative_rows, lambda n, k: at[k][0] - at[chosen[n]][0] + 3
    ),
    'relative_column': cross_entropy(
      relative_columns, lambda n, k: at[k][1] - at[chosen[n]][1] + 5
    ),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[f'coordinates/{name}'], value, rtol=1e-4)


def test_heads_that_know_nothing_have_the_log_of_the_classes():
  params, model_state = start(FULL)
  zeros = jax.tree.map(jnp.zeros_like, params['critic'])
  variables = params | {'critic': zeros}, model_state
  (_, (metrics, _)), _ = gradients(FULL, variables)
  for name, classes in (
    ('row', 4),
    ('column', 6),
    ('relative_row', 7),
    ('relative_column', 11),
  ):
    np.testing.assert_allclose(
      metrics[f'coordinates/{name}'], math.log(classes), rtol=1e-5
    )


def test_encoder_and_head_learn_from_each_kind():
  changes = {'coordinates__kind': 'both', 'local_weight': 0.0}
  params, model_state = start(changes)
  assert set(params) == {'encoder', 'critic'}
  heads = params['critic']
  assert set(heads) == {'coordinates_absolute', 'coordinates_relative'}
  for kind in heads:
    # A head of zeros passes no gradient on.
    alone = jax.tree.map(jnp.zeros_like, heads) | {kind: heads[kind]}
    (_, _), grads = gradients(
      changes, (params | {'critic': alone}, model_state)
    )
    learns = grads['critic'][kind], grads['encoder']
    for leaf in jax.tree.leaves(learns):
      assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0
  (_, _), grads = gradients(changes, (params, model_state))
  # Along its own gradient the loss changes by its square, from both sides.
  square = sum(jnp.sum(g * g) for g in jax.tree.leaves(grads['encoder']))

  def moved(step):
    encoder = jax.tree.map(
      lambda p, g: p + step * g, params['encoder'], grads['encoder']
    )
    variables = params | {'encoder': encoder}, model_state
    return gradients(changes, variables)[0][0]

  slope = (moved(2e-3) - moved(-2e-3)) / 4e-3
  np.testing.assert_allclose(slope, square, rtol=2e-2)


def test_the_tasks_are_added_to_the_objective_that_stays():
  plain = dim.make(make_config(mask__kind='occlude'))
  params, _ = jax.jit(plain.init)(jax.random.key(0), BATCH)
  more, more_state = start(FULL)
  assert set(more) == {'encoder', 'critic', 'decoder'}
  assert set(more['critic']) == {
    'local',
    'coordinates_absolute',
    'coordinates_relative',
  }
  # What the objective had starts as without.
  jax.tree.map(
    np.testing.assert_array_equal,
    (more['encoder'], more['critic']['local']),
    (params['encoder'], params['critic']['local']),
  )
  (total, (found, state)), _ = gradients(FULL, (more, more_state))
  terms = [v for k, v in found.items() if k.startswith('coordinates/')]
  assert len(terms) == 4
  expected = 0.25 * sum(terms) + 0.5 * found['decoder/cross_entropy']
  np.testing.assert_allclose(total, expected - found['mi/local'], rtol=1e-5)
  assert jax.tree.structure(state) == jax.tree.structure(more_state)


def test_sources_are_redrawn_by_the_key_and_anywhere():
  maps = jnp.zeros((2000, 2, 3, 1))
  draws = [
    coordinates.draw_source(jax.random.key(seed), maps, None)
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert (draws[0] != draws[2]).any()
  # Six locations, 333 times each, sd 17.
  counts = np.bincount(draws[0], minlength=6)
  assert len(counts) == 6 and np.abs(counts - 2000 / 6).max() < 5 * 17


def test_occluded_images_are_whole_at_evaluation():
  config = make_config(**FULL)
  params, model_state = start(FULL)
  features = dim.make(config).encode(params, model_state, BATCH)
  expected = config.encoder.apply({'params': params['encoder']}, X)
  assert set(features) == {*expected, 'logits'}
  for name, value in expected.items():
    np.testing.assert_allclose(features[name], value, rtol=1e-5)
  # Reports score all pairs; the heads do not disturb them.
  scores = dim.make(config).scores((params, model_state), BATCH)
  assert {k: v.shape for k, v in scores.items()} == {'local': (N, N, H * W)}


def test_two_devices_occlude_and_locate_what_one_does():
  if len(jax.devices()) < 2:
    pytest.skip('needs 2 devices')
  variables = start(FULL)
  (loss, (metrics, state)), grads = gradients(FULL, variables)
  objective = dim.make(make_config(**FULL), axis_name='data')
  split = jax.pmap(
    jax.value_and_grad(objective.loss, has_aux=True),
    axis_name='data',
    in_axes=(None, None, 0, None),
    devices=jax.devices()[:2],
  )
  halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), BATCH)
  (losses, (parts, states)), split_grads = split(*variables, halves, RNG)
  np.testing.assert_allclose(losses, [loss, loss], rtol=1e-5)
  for name, value in metrics.items():
    # A bound near 0 is the difference of logarithms of order 1.
    np.testing.assert_allclose(
      parts[name], [value, value], rtol=1e-5, atol=2e-6
    )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x.mean(0), y, atol=1e-5),
    (split_grads, states),
    (grads, state),
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'coordinates__kind': 'polar'},
      r"coordinates.kind must be one of .*'both'.*'polar'",
    ),
    (
      {'coordinates__kind': 'both', 'coordinates__weight': -1.0},
      r'coordinates.weight must be >= 0',
    ),
    (
      {'coordinates__kind': 'both', 'coordinates__units': 0},
      r'coordinates.units must be a whole number >= 1, got 0',
    ),
    (
      {
        'local_weight': 0.0,
        'coordinates__kind': 'both',
        'coordinates__weight': 0.0,
      },
      r'nothing would train the encoder.*supervised or objective.coord',
    ),
    (
      {'mask__kind': 'occlude', 'mask__targets': 'hidden'},
      r"what kind='occlude' hides differs in size: set targets='all'",
    ),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dim.make(make_config(**changes))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'coordinates__kind': 'both', 'local_feature': 'y'},
      r"the feature 'y' \(objective.local_feature\) has shape \(5,\): choose",
    ),
    (
      {'mask__kind': 'occlude', 'mask__patch': 4},
      r'block of 4x4 pixels.*images of 4x6 do not hold.*1 to 3 pixels',
    ),
  ],
)
def test_what_does_not_fit_the_images_is_refused_at_once(changes, message):
  objective = dim.make(make_config(**changes))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(objective.init, jax.random.key(0), BATCH)


def test_a_map_of_one_location_has_no_coordinates():
  config = make_config(coordinates__kind='absolute')
  with pytest.raises(ValueError, match=r'has shape \(1, 1, 6\): choose one'):
    dim.make(config).init(jax.random.key(0), {'image': PIXELS[:, :1, :1]})
