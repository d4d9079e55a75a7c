"""Deep InfoMax whose codes see masked images."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.networks import critics, masking
from dim_jax.objectives import dim
from dim_jax.objectives.terms import mutual_information
from tests.small import dim_config

N = 4
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 2), np.uint8)
X = PIXELS.astype(np.float32) / 127.5 - 1
# Two of four patches are hidden, of 2x2 pixels and as many locations.
VISIBLE = np.array(
  [[[1, 0], [0, 1]], [[0, 0], [1, 1]], [[1, 1], [0, 0]], [[0, 1], [0, 1]]], bool
)
HIDDEN = [
  [2, 3, 6, 7, 8, 9, 12, 13],
  [0, 1, 2, 3, 4, 5, 6, 7],
  [8, 9, 10, 11, 12, 13, 14, 15],
  [0, 1, 4, 5, 8, 9, 12, 13],
]


class Encoder(nn.Module):
  """A dense layer a pixel, normalised if asked, and codes of all of them."""

  normalise: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(6)(images)
    if self.normalise:
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    local = nn.relu(x)
    fc = nn.relu(nn.Dense(10)(local.reshape(local.shape[0], -1)))
    return {'local': local, 'conv': local, 'fc': fc, 'y': nn.Dense(5)(fc)}


def make_config(**changes):
  defaults = {
    'encoder': Encoder(),
    'critic': 'concat',
    'critic_units': 8,
    'global_critic_units': 8,
    'prior__weight': 0.0,
    'num_classes': 0,
    'mask__patch': 2,
  }
  return dim_config(**(defaults | changes))


def start(config):
  params, model_state = dim.make(config).init(
    jax.random.key(0), {'image': PIXELS}
  )
  # Fresh critics hardly tell pairs apart.
  critic = jax.tree.map(lambda x: 5 * x, params['critic'])
  return params | {'critic': critic}, model_state


def gradients(config, variables):
  grad = jax.value_and_grad(dim.make(config).loss, has_aux=True)
  return grad(*variables, {'image': PIXELS}, jax.random.key(1))


def with_token(params, token):
  encoder = params['encoder'] | {'mask_token': jnp.asarray(token)}
  return params | {'encoder': encoder}


TOKEN = np.random.default_rng(1).normal(size=(2, 2, 2)).astype(np.float32)


def masked_by_hand(mask):
  """What codes see of X under VISIBLE, pixel by pixel."""
  seen = np.empty_like(X)
  for n, row, col in np.ndindex(N, 4, 4):
    x = X[n, row, col]
    hidden = {
      'token': TOKEN[row % 2, col % 2],
      'rescale': np.full(2, -0.4),
      'drop': np.zeros(2),
    }[mask]
    if not VISIBLE[n, row // 2, col // 2]:
      seen[n, row, col] = hidden
    else:
      # Half of the patches are visible: twice as far from the fill.
      seen[n, row, col] = -0.4 + 2 * (x + 0.4) if mask == 'rescale' else x
  return seen


@pytest.fixture
def fixed_mask(monkeypatch):
  def draw(rng, shape, hidden):
    del rng
    assert (shape, hidden) == ((N, 2, 2), 2)
    return jnp.asarray(VISIBLE)

  monkeypatch.setattr(masking, 'draw_visible', draw)


@pytest.mark.parametrize('mask', masking.MODES)
@pytest.mark.parametrize('targets', ['all', 'hidden'])
@pytest.mark.usefixtures('fixed_mask')
def test_code_of_the_masked_image_meets_locals_of_the_whole(mask, targets):
  config = make_config(mask__kind=mask, mask__targets=targets, mask__fill=-0.4)
  params, model_state = start(config)
  if mask == 'token':
    params = with_token(params, TOKEN)
  _, (metrics, _) = dim.make(config).loss(
    params, model_state, {'image': PIXELS}, jax.random.key(1)
  )
  weights = {
    'params': {k: v for k, v in params['encoder'].items() if k != 'mask_token'}
  }
  local = config.encoder.apply(weights, X)['local'].reshape(N, 16, 6)
  codes = config.encoder.apply(weights, masked_by_hand(mask))['y']
  scores = np.asarray(
    critics.ConcatCritic(units=8).apply(
      {'params': params['critic']['local']}, local, codes[:, None]
    ),
    np.float64,
  )
  # InfoNCE of each location of an image against all other images' at those.
  terms, count = [], 8 if targets == 'hidden' else 16
  for n in range(N):
    rows = HIDDEN[n] if targets == 'hidden' else list(range(16))
    others = [scores[n, j, k] for j in range(N) if j != n for k in rows]
    for k in rows:
      both = np.logaddexp.reduce([scores[n, n, k], *others])
      terms.append(scores[n, n, k] - both + math.log(1 + 3 * count))
  assert abs(np.mean(terms)) > 0.05
  np.testing.assert_allclose(metrics['mi/local'], np.mean(terms), rtol=1e-4)
  np.testing.assert_allclose(
    metrics['mi/local_ceiling'], math.log(1 + 3 * count), rtol=1e-6
  )


def test_several_globals_of_an_image_share_its_mask():
  # Codes a location: anchor a is of image a // 16.
  scores = np.arange(2 * N * N * 16.0).reshape(2 * N, N, 16)
  found = mutual_information.at_locations(
    jnp.asarray(scores), jnp.asarray(HIDDEN)
  )
  assert found.shape == (2 * N, N, 8)
  for a, j in np.ndindex(2 * N, N):
    np.testing.assert_array_equal(found[a, j], scores[a, j, HIDDEN[a // 2]])


@pytest.mark.usefixtures('fixed_mask')
def test_token_is_the_encoders_and_learns():
  config = make_config(mask__kind='token', mask__targets='hidden')
  params, model_state = start(config)
  assert params['encoder']['mask_token'].shape == (2, 2, 2)
  params = with_token(params, TOKEN)
  _, grads = gradients(config, (params, model_state))
  token = grads['encoder']['mask_token']
  assert jnp.isfinite(token).all() and jnp.abs(token).min() > 0
  # By central differences of the loss, at one of its pixels.
  loss = dim.make(config).loss
  step = np.zeros((2, 2, 2), np.float32)
  step[1, 0, 1] = 1e-2
  up, down = (
    loss(
      with_token(params, TOKEN + sign * step),
      model_state,
      {'image': PIXELS},
      jax.random.key(1),
    )[0]
    for sign in (1, -1)
  )
  np.testing.assert_allclose((up - down) / 2e-2, token[1, 0, 1], rtol=2e-2)


@pytest.mark.parametrize('mask', [None, 'rescale', 'drop'])
def test_only_the_token_is_a_parameter(mask):
  params, _ = start(make_config(mask__kind=mask))
  plain = Encoder().init(jax.random.key(0), X[:2])['params']
  assert jax.tree.structure(params['encoder']) == jax.tree.structure(plain)


@pytest.mark.parametrize('mask', masking.MODES)
def test_a_mask_that_hides_nothing_changes_nothing(mask):
  encoder = Encoder(normalise=True)
  batch = {'image': PIXELS}
  plain = make_config(encoder=encoder)
  masked = make_config(encoder=encoder, mask__kind=mask, mask__keep=1.0)
  expected = start(plain)
  params, model_state = start(masked)
  assert ('mask_token' in params['encoder']) == (mask == 'token')
  kept = {k: v for k, v in params['encoder'].items() if k != 'mask_token'}
  jax.tree.map(
    np.testing.assert_array_equal, params | {'encoder': kept}, expected[0]
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    dim.make(masked).loss(params, model_state, batch, jax.random.key(1)),
    dim.make(plain).loss(*expected, batch, jax.random.key(1)),
  )


@pytest.mark.usefixtures('fixed_mask')
def test_running_statistics_are_those_of_masked_images():
  config = make_config(encoder=Encoder(normalise=True), mask__kind='drop')
  params, model_state = start(config)
  _, (_, state) = dim.make(config).loss(
    params, model_state, {'image': PIXELS}, jax.random.key(1)
  )
  dense = params['encoder']['Dense_0']
  x = masked_by_hand('drop').reshape(-1, 2) @ dense['kernel']
  x += dense['bias'][None]
  # Momentum 0.9 from 0 and 1, after one batch.
  found = state['encoder']['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(found['mean'], 0.1 * x.mean(0), atol=1e-6)
  np.testing.assert_allclose(found['var'], 0.9 + 0.1 * x.var(0), rtol=1e-5)


@pytest.mark.parametrize('mask', [None, *masking.MODES])
@pytest.mark.parametrize('evaluation', ['consistent', 'naive'])
def test_encode_sees_the_mean_of_what_training_saw(mask, evaluation):
  config = make_config(
    mask__kind=mask, mask__evaluation=evaluation, mask__keep=0.75
  )
  params, model_state = start(config)
  shown = X
  if mask == 'token':
    params = with_token(params, TOKEN)
    if evaluation == 'consistent':
      shown = 0.75 * X + 0.25 * np.tile(TOKEN, (2, 2, 1))[None]
  features = dim.make(config).encode(params, model_state, {'image': PIXELS})
  weights = {k: v for k, v in params['encoder'].items() if k != 'mask_token'}
  expected = config.encoder.apply({'params': weights}, shown)
  for name, values in expected.items():
    np.testing.assert_allclose(features[name], values, atol=1e-5)
  # Reports score the code against the map of the whole image.
  scores = dim.make(config).scores((params, model_state), {'image': PIXELS})[
    'local'
  ]
  local = config.encoder.apply({'params': weights}, X)['local']
  critic = critics.ConcatCritic(units=8)
  np.testing.assert_allclose(
    scores,
    critic.apply(
      {'params': params['critic']['local']},
      local.reshape(N, 16, 6),
      expected['y'][:, None],
    ),
    atol=1e-5,
  )


def test_masks_are_redrawn_by_the_key_alone():
  config = make_config(mask__kind='drop', mask__targets='hidden')
  variables = start(config)
  loss = dim.make(config).loss
  values = [
    float(loss(*variables, {'image': PIXELS}, jax.random.key(seed))[0])
    for seed in (1, 1, 2)
  ]
  assert values[0] == values[1] != values[2]


def test_two_devices_hide_and_select_what_one_does():
  if len(jax.devices()) < 2:
    pytest.skip('needs 2 devices')
  config = make_config(mask__kind='token', mask__targets='hidden')
  params, model_state = start(config)
  variables = with_token(params, TOKEN), model_state
  (loss, (metrics, _)), grads = gradients(config, variables)
  objective = dim.make(config, axis_name='data')
  # Each device's part of the gradient; their mean is the whole.
  split = jax.pmap(
    jax.value_and_grad(objective.loss, has_aux=True),
    axis_name='data',
    in_axes=(None, None, 0, None),
    devices=jax.devices()[:2],
  )
  (losses, (parts, _)), split_grads = split(
    *variables, {'image': PIXELS.reshape(2, 2, 4, 4, 2)}, jax.random.key(1)
  )
  np.testing.assert_allclose(losses, [loss, loss], rtol=1e-5)
  for name, value in metrics.items():
    np.testing.assert_allclose(parts[name], [value, value], rtol=1e-5)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x.mean(0), y, atol=1e-5),
    split_grads,
    grads,
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'mask__kind': 'blur'},
      r"mask.kind must be one of .*'token'.*, got 'blur'",
    ),
    (
      {'mask__kind': 'drop', 'mask__targets': 'seen'},
      r"mask.targets must be one of .*, got 'seen'",
    ),
    (
      {'mask__kind': 'drop', 'mask__evaluation': 'x'},
      r"mask.evaluation must be .*'naive'.*got 'x'",
    ),
    (
      {'mask__kind': 'drop', 'mask__keep': 0.0},
      r'mask.keep must be in \(0, 1\], got 0.0',
    ),
    (
      {'mask__kind': 'drop', 'mask__patch': 0},
      r'mask.patch must be a whole number >= 1, got 0',
    ),
    (
      {'mask__targets': 'hidden', 'mask__kind': 'drop', 'mask__keep': 1.0},
      r'nothing is hidden: set keep below 1',
    ),
    (
      {'mask__targets': 'hidden', 'mask__kind': 'drop', 'local_samples': 3},
      r'selects among all locations',
    ),
    (
      {
        'mask__targets': 'hidden',
        'mask__kind': 'drop',
        'local_weight': 0.0,
        'global_weight': 1.0,
      },
      r'local_weight above 0',
    ),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dim.make(make_config(**changes))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'mask__patch': 3}, r'3 pixels do not cover images of 4x4'),
    ({'mask__keep': 0.05}, r'keep=0.05 of 2x2 patches hides 4'),
    (
      {'mask__targets': 'hidden', 'local_feature': 'fc'},
      r"multiples of the 2x2 patches'; got a map of shape \(\)",
    ),
  ],
)
def test_masks_that_do_not_fit_are_refused_at_once(changes, message):
  objective = dim.make(make_config(mask__kind='drop', **changes))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(objective.init, jax.random.key(0), {'image': PIXELS})
