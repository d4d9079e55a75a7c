"""Encoders of crops, dropout and initial weights; see also encoders_test."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import convolutional, layers
from dim_jax.networks.convolutional import ConvLayer, ResidualLayer
from tests.networks.reference import draw_images, draw_variables

# Of 8x8 pixels to one location: 8, pooled to 3, to 2, to 1.
ON_CROPS = (
  ConvLayer(4, 3, 1, 1, pool=True),
  ResidualLayer(1, 2),
  ConvLayer(5, 2, 1, 0),
)


def folded(**overrides):
  """An encoder of 3x3 crops of 8 pixels, from images of 16x16."""
  return convolutional.ConvEncoder(
    **{
      'image_size': 16,
      'convs': (*ON_CROPS, ConvLayer(6, 2, 1, 0)),
      'fcs': (7,),
      'local': 2,
      'crop': 8,
      'code': 3,
      **overrides,
    }
  )


@pytest.mark.parametrize('train', [False, True])
def test_locations_are_the_crops_encoded_one_by_one(train):
  images = draw_images(16, n=2)
  encoder = folded()
  variables = draw_variables(encoder, images)
  # The same layers, on images of the crops' size.
  alone = convolutional.ConvEncoder(
    image_size=8, convs=ON_CROPS, fcs=(), local=2, code=3
  )
  crops = [
    image[4 * i : 4 * i + 8, 4 * j : 4 * j + 8]
    for image in np.asarray(images)
    for i in range(3)
    for j in range(3)
  ]
  shared = {
    kind: {
      name: variables[kind][name]
      for name in variables[kind]
      if name.startswith(('conv_0', 'block_1', 'conv_2'))
    }
    for kind in ('params', 'batch_stats')
  }
  head = {'kernel': jnp.zeros((5, 3)), 'bias': jnp.zeros(3)}
  own = shared | {'params': shared['params'] | {'y': head}}

  def apply(encoder, variables, images):
    return jax.jit(
      lambda v, x: encoder.apply(v, x, train=train, mutable=['batch_stats'])
    )(variables, images)

  endpoints, state = apply(encoder, variables, images)
  # In training statistics are of all 18 crops at once: one batch of them.
  expected, expected_state = apply(alone, own, jnp.stack(crops))
  assert expected['conv'].shape == (18, 1, 1, 5)
  for name in ('local', 'conv'):
    np.testing.assert_allclose(
      endpoints[name],
      expected['conv'].reshape(2, 3, 3, 5),
      rtol=1e-4,
      atol=1e-5,
    )
  assert endpoints['fc'].shape == (2, 7) and endpoints['y'].shape == (2, 3)
  for name, statistics in expected_state['batch_stats'].items():
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      state['batch_stats'][name],
      statistics,
    )


def test_a_pixel_moves_the_crops_that_hold_it_alone():
  images = draw_images(16, n=1)
  encoder = folded()
  variables = draw_variables(encoder, images)
  encode = jax.jit(lambda x: encoder.apply(variables, x)['local'][0])
  before = encode(images)
  # Crops begin at 0, 4 and 8 and have 8 pixels: row 5 is in those of 0 and 4,
  # column 13 in that of 8 alone.
  after = encode(images.at[0, 5, 13].add(10.0))
  moved = np.asarray((before != after).any(-1))
  np.testing.assert_array_equal(moved, [[0, 0, 1], [0, 0, 1], [0, 0, 0]])


def test_without_a_code_the_last_map_is_the_globals():
  images = draw_images(16, n=2)
  encoder = folded(fcs=(), code=0)
  variables = draw_variables(encoder, images)
  endpoints = jax.jit(encoder.apply)(variables, images)
  assert {name: value.shape for name, value in endpoints.items()} == {
    'local': (2, 3, 3, 5),
    'conv': (2, 3, 3, 5),
    'globals': (2, 2, 2, 6),
  }
  assert 'y' not in variables['params']
  # A global sees 2x2 of the locations: a convolution, statistics and ReLU.
  kernel = np.asarray(variables['params']['conv_3']['kernel'], np.float64)
  params, stats = (
    jax.tree.map(np.asarray, variables[kind]['conv_3_norm'])
    for kind in ('params', 'batch_stats')
  )
  x = np.tensordot(np.asarray(endpoints['local'])[:, :2, 1:3], kernel, 3)
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  expected = np.maximum(x * params['scale'] + params['bias'], 0)
  np.testing.assert_allclose(
    endpoints['globals'][:, 0, 1], expected, rtol=1e-4, atol=1e-5
  )


def test_dropout_is_before_normalisation_and_after_the_local_features():
  images = draw_images(16, n=64)
  encoder = folded(dropout=0.5, fcs=(50,))
  variables = draw_variables(encoder, images)

  @jax.jit
  def apply(rng):
    endpoints, state = encoder.apply(
      variables,
      images,
      train=True,
      rngs={'dropout': rng},
      mutable=['batch_stats', 'intermediates'],
      capture_intermediates=True,
    )
    return endpoints, state['intermediates']

  endpoints, seen = apply(jax.random.key(0))
  other, _ = apply(jax.random.key(1))
  np.testing.assert_array_equal(endpoints['local'], other['local'])
  assert (endpoints['y'] != other['y']).any()
  for name, axes in (('conv_3', (1, 2)), ('fc_0', ())):
    x, out = (
      np.asarray(seen[key]['__call__'][0], np.float64)
      for key in (name, f'{name}_norm')
    )
    params = jax.tree.map(np.asarray, variables['params'][f'{name}_norm'])
    # What was dropped is 0 before normalisation. Which: a channel whose value
    # afterwards is the same at all locations (and in two images at least).
    rounded = np.round(out.reshape(64, -1, out.shape[-1]), 4)
    kept = np.ones((64, out.shape[-1]), bool)
    for c in range(out.shape[-1]):
      constant = [n for n in range(64) if len({*rounded[n, :, c]}) == 1]
      values, counts = np.unique(rounded[constant, 0, c], return_counts=True)
      kept[constant, c] = rounded[constant, 0, c] != values[counts.argmax()]
    # Binomial with n = 384 or 3200: within five standard deviations.
    assert abs(kept.mean() - 0.5) < 2.5 / math.sqrt(kept.size)
    dropped = x * np.expand_dims(kept, axes) / 0.5
    over = tuple(range(x.ndim - 1))
    mean, var = dropped.mean(over), dropped.var(over)
    expected = (dropped - mean) / np.sqrt(var + 1e-5)
    expected = expected * params['scale'] + params['bias']
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
  # Evaluation drops nothing and needs no key.
  assert np.isfinite(encoder.apply(variables, images)['y']).all()


def test_init_std_is_of_hidden_weights():
  encoder = folded(
    convs=(ConvLayer(64, 8, 1, 0), ConvLayer(64, 2, 1, 0)),
    local=0,
    fcs=(32,),
    init_std=0.02,
  )
  params = jax.jit(encoder.init)(jax.random.key(0), draw_images(16, n=2))[
    'params'
  ]
  for name in ('conv_0', 'conv_1', 'fc_0'):
    kernel = params[name]['kernel']
    # A standard deviation of n normal numbers is off by 1 / sqrt(2 n).
    assert kernel.std() == pytest.approx(
      0.02, rel=5 / math.sqrt(2 * kernel.size)
    ), name
    # Normal, not uniform: a uniform one ends at sqrt(3) deviations.
    assert np.abs(kernel).max() > 2.5 * 0.02
  bound = 1 / math.sqrt(32)
  kernel = np.abs(params['y']['kernel'])
  assert 0.8 * bound < kernel.max() <= bound


@pytest.mark.parametrize('lowering', layers.LOWERINGS)
def test_bfloat16_reaches_every_map(lowering):
  encoder = folded(fcs=(), code=0, dtype=jnp.bfloat16, lowering=lowering)
  shape = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  endpoints, variables = jax.eval_shape(
    lambda x: encoder.init_with_output(jax.random.key(0), x), shape
  )
  assert {str(x.dtype) for x in endpoints.values()} == {'bfloat16'}
  assert {str(x.dtype) for x in jax.tree.leaves(variables)} == {'float32'}


@pytest.mark.parametrize(
  ('fields', 'match'),
  [
    ({'crop': 12}, r'patches of 12 pixels every 6 .*16x16'),
    ({'local': 1}, r'2x2 locations of a crop of 8 pixels .*local=1'),
    ({'local': 4}, r'has 4 convolutions; local=4 .*0\.\.3'),
    ({'local': -1}, r'local=-1 .*0\.\.3'),
    ({'code': 0, 'stochastic': True}, r"no code to be stochastic.*'kl'"),
    (
      {'convs': (ConvLayer(4, 8, 1, 0),), 'local': 0, 'remat': True},
      r'no residual blocks .*remat',
    ),
  ],
)
def test_fields_that_do_not_go_together(fields, match):
  encoder = folded(**fields)
  shape = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(encoder.init, jax.random.key(0), shape)


def batch_norm(x, params, stats, train):
  """Of [N, H, W, C], by the batch's statistics or the running ones."""
  mean, var = stats['mean'], stats['var']
  if train:
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  return (x - mean) / np.sqrt(var + 1e-5) * params['scale'] + params['bias']


def conv(x, kernel, strides):
  """One output pixel at a time."""
  size = kernel.shape[0]
  p = size // 2
  x = np.pad(x, [(0, 0), (p, p), (p, p), (0, 0)])
  rows = range(0, x.shape[1] - size + 1, strides)
  return np.stack(
    [
      np.stack(
        [
          np.tensordot(x[:, i : i + size, j : j + size], kernel, 3)
          for j in rows
        ],
        1,
      )
      for i in rows
    ],
    1,
  )


# (input channels, stride, whether the shape changes); the output has 4 * 2.
@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize(
  ('channels', 'strides', 'changes'),
  [(8, 1, False), (8, 2, True), (3, 1, True)],
)
def test_a_block_equals_an_independent_forward_pass(
  channels, strides, changes, train
):
  block = convolutional.ResidualBlock(2, strides)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 6, 6, channels))
  x = jnp.asarray(images, jnp.float32)
  variables = draw_variables(block, x, False)
  assert ('shortcut' in variables['params']) == changes
  out, _ = jax.jit(
    lambda v, x: block.apply(v, x, train, mutable=['batch_stats'])
  )(variables, x)

  params, stats = jax.tree.map(
    lambda x: np.asarray(x, np.float64),
    (variables['params'], variables['batch_stats']),
  )

  def normal(x, name, strides=1):
    y = conv(x, params[name]['kernel'], strides)
    name += '_norm'
    return batch_norm(y, params[name], stats[name], train)

  y = np.maximum(normal(images, 'conv_0'), 0)
  y = np.maximum(normal(y, 'conv_1', strides), 0)
  y = normal(y, 'conv_2')
  shortcut = normal(images, 'shortcut', strides) if changes else images
  expected = np.maximum(y + shortcut, 0)
  assert expected.shape == (2, 6 // strides, 6 // strides, 8)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_recomputed_blocks_have_the_same_gradients_and_keep_their_inputs():
  images = draw_images(8, n=4)

  def build(remat):
    return convolutional.ConvEncoder(
      image_size=8,
      convs=(
        convolutional.ConvLayer(32, 3, 1, 1),
        *[convolutional.ResidualLayer(8)] * 2,
      ),
      fcs=(),
      local=1,
      code=2,
      remat=remat,
    )

  variables = draw_variables(build(False), images)

  def loss_of(remat):
    def loss(params):
      endpoints, state = build(remat).apply(
        variables | {'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.square(endpoints['y']).sum(), state

    return loss

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    *[
      jax.jit(jax.value_and_grad(loss_of(remat), has_aux=True))(
        variables['params']
      )
      for remat in (False, True)
    ],
  )

  def kept(remat):
    """Bytes that the backward pass is handed."""
    residuals = jax.eval_shape(
      lambda params: jax.vjp(loss_of(remat), params, has_aux=True)[1],
      variables['params'],
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals))

  # Inside a block are at least its three convolutions' inputs and outputs: on
  # 4x8x8 pixels 8 + 8 + 32 channels of outputs, of which normalisation needs
  # each, and 8 + 8 of inputs that are not the block's.
  inside = 4 * 4 * 8 * 8 * (8 + 8 + 32 + 8 + 8)
  assert kept(False) - kept(True) >= 2 * inside
