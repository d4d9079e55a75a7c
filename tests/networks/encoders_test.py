import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import convolutional, encoders, layers
from tests.networks.reference import draw_images, draw_variables, num_parameters


def _tiny(**overrides):
  """An encoder of 8x8 images that compiles fast."""
  return encoders.ConvEncoder(
    **{
      'image_size': 8,
      'convs': (
        encoders.ConvLayer(4, 3, 1, 1, pool=True),
        encoders.ConvLayer(6, 3, 1, 1),
      ),
      'fcs': (16,),
      'local': 0,
      'code': 5,
      **overrides,
    }
  )


def _apply(encoder, variables, images, train=True):
  """Taps, and the batch statistics afterwards."""

  @jax.jit
  def apply(variables, images):
    return encoder.apply(
      variables, images, train=train, mutable=['batch_stats']
    )

  return apply(variables, images)


def _shapes(encoder, channels, **settings):
  """Shapes of the outputs and variables; nothing is allocated."""
  size = encoder.image_size
  images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)

  def init(images):
    return encoder.init_with_output(jax.random.key(0), images, **settings)

  return jax.eval_shape(init, images)


# Weights, then scale and shift of the batch normalisation after them; the last
# term is the code with its bias.
BASIC28 = (
  (5 * 5 * 1 * 64 + 2 * 64)
  + (5 * 5 * 64 * 128 + 2 * 128)
  + (7 * 7 * 128 * 1024 + 2 * 1024)
  + (1024 * 64 + 64)
)
BASIC32 = (
  (4 * 4 * 3 * 64 + 2 * 64)
  + (4 * 4 * 64 * 128 + 2 * 128)
  + (4 * 4 * 128 * 256 + 2 * 256)
  + (4 * 4 * 256 * 1024 + 2 * 1024)
  + (1024 * 64 + 64)
)
BASIC64 = (
  (4 * 4 * 3 * 64 + 2 * 64)
  + (4 * 4 * 64 * 128 + 2 * 128)
  + (4 * 4 * 128 * 256 + 2 * 256)
  + (4 * 4 * 256 * 512 + 2 * 512)
  + (4 * 4 * 512 * 1024 + 2 * 1024)
  + (1024 * 64 + 64)
)
ALEX64 = (
  (3 * 3 * 3 * 96 + 2 * 96)
  + (3 * 3 * 96 * 192 + 2 * 192)
  + (3 * 3 * 192 * 384 + 2 * 384)
  + (3 * 3 * 384 * 384 + 2 * 384)
  + (3 * 3 * 384 * 192 + 2 * 192)
  + (7 * 7 * 192 * 4096 + 2 * 4096)
  + (4096 * 4096 + 2 * 4096)
  + (4096 * 64 + 64)
)
SMALL32 = (
  (4 * 4 * 3 * 32 + 2 * 32)
  + (4 * 4 * 32 * 64 + 2 * 64)
  + (4 * 4 * 64 * 128 + 2 * 128)
  + (4 * 4 * 128 * 256 + 2 * 256)
  + (256 * 64 + 64)
)
# The same convolutions, and features of 7x7 crops.
FOLDSMALL32 = SMALL32 + (7 * 7 - 4 * 4) * 128 * 256
# The convolutions on crops are those of alex64.
ON_CROPS = (
  (3 * 3 * 3 * 96 + 2 * 96)
  + (3 * 3 * 96 * 192 + 2 * 192)
  + (3 * 3 * 192 * 384 + 2 * 384)
  + (3 * 3 * 384 * 384 + 2 * 384)
  + (3 * 3 * 384 * 192 + 2 * 192)
)
FOLDALEX64 = (
  ON_CROPS
  + (3 * 3 * 192 * 384 + 2 * 384)
  + (3 * 3 * 384 * 4096 + 2 * 4096)
  + (4096 * 64 + 64)
)
FOLDMULTIALEX64 = (
  ON_CROPS + (3 * 3 * 192 * 192 + 2 * 192) + (192 * 192 + 2 * 192)
)


def _block(inputs, width, shortcut=False):
  """A bottleneck: 1x1, 3x3 and 1x1, and the shortcut's 1x1."""
  return (
    (inputs * width + 2 * width)
    + (3 * 3 * width * width + 2 * width)
    + (width * 4 * width + 2 * 4 * width)
    + shortcut * (inputs * 4 * width + 2 * 4 * width)
  )


# The first block of each stage changes the shape.
RESNET19 = (
  (3 * 3 * 3 * 64 + 2 * 64)
  + (_block(64, 64, True) + _block(256, 64))
  + (_block(256, 128, True) + _block(512, 128))
  + (_block(512, 256, True) + _block(1024, 256))
)
# 3, 6 and 3 blocks instead of 2, 2 and 2.
RESNET34 = RESNET19 + _block(256, 64) + 4 * _block(512, 128) + _block(1024, 256)
# The fully connected layer and the code, by the last map's side.
HEAD = {n: n * n * 1024 * 1024 + 2 * 1024 + 1024 * 64 + 64 for n in (4, 7)}
GLOBALS = (3 * 3 * 1024 * 1024 + 2 * 1024) + (1024 * 1024 + 2 * 1024)


# The last map of a ResNet of whole images, or of crops.
FULL, CROPS = (4, 4, 1024), (7, 7, 1024)


@pytest.mark.parametrize(
  ('name', 'count', 'millions', 'local', 'conv', 'fc'),
  [
    ('basic28', BASIC28, 6.70, (7, 7, 128), (7, 7, 128), 1024),
    ('basic32', BASIC32, 4.92, (8, 8, 128), (4, 4, 256), 1024),
    ('basic64', BASIC64, 11.21, (8, 8, 256), (4, 4, 512), 1024),
    ('alex64', ALEX64, 58.42, (15, 15, 384), (7, 7, 192), 4096),
    ('small32', SMALL32, 0.71, (8, 8, 64), (4, 4, 128), 256),
    ('foldsmall32', FOLDSMALL32, 1.79, (7, 7, 128), (7, 7, 128), 256),
    ('foldalex64', FOLDALEX64, 17.92, (7, 7, 192), (7, 7, 192), 4096),
    ('resnet19_32', RESNET19 + HEAD[4], 20.28, (8, 8, 512), FULL, 1024),
    ('resnet34_32', RESNET34 + HEAD[4], 22.59, (8, 8, 512), FULL, 1024),
    ('foldresnet19_32', RESNET19 + HEAD[7], 54.88, CROPS, CROPS, 1024),
    ('foldresnet34_32', RESNET34 + HEAD[7], 57.19, CROPS, CROPS, 1024),
  ],
)
def test_architectures_are_the_papers(name, count, millions, local, conv, fc):
  channels = 1 if name == 'basic28' else 3  # MNIST is gray.
  endpoints, variables = _shapes(encoders.make(name), channels)
  assert num_parameters(variables['params']) == count
  assert round(count / 1e6, 2) == millions
  assert {name: value.shape for name, value in endpoints.items()} == {
    'local': (2, *local),
    'conv': (2, *conv),
    'fc': (2, fc),
    'y': (2, 64),
  }


@pytest.mark.parametrize(
  ('name', 'count', 'channels'),
  [
    ('foldmultialex64', FOLDMULTIALEX64, 192),
    ('foldmultiresnet34_32', RESNET34 + GLOBALS, 1024),
  ],
)
def test_several_globals_instead_of_a_code(name, count, channels):
  endpoints, variables = _shapes(encoders.make(name, code=64), 3)
  assert num_parameters(variables['params']) == count
  assert {name: value.shape for name, value in endpoints.items()} == {
    'local': (2, 7, 7, channels),
    'conv': (2, 7, 7, channels),
    'globals': (2, 5, 5, channels),
  }


def test_every_encoder_has_a_count_here():
  counted = {
    name
    for test in (
      test_architectures_are_the_papers,
      test_several_globals_instead_of_a_code,
    )
    for name, *_ in test.pytestmark[0].args[1]
  }
  assert counted == set(encoders.ENCODERS)


def test_maps_of_alex64():
  encoder = encoders.make('alex64')

  def convolutions(images):
    _, variables = encoder.init_with_output(
      jax.random.key(0), images, capture_intermediates=True, mutable=True
    )
    return [
      variables['intermediates'][f'conv_{i}']['__call__'][0] for i in range(5)
    ]

  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  # 64, pooled to 31, pooled to 15; the last of them is pooled to 7.
  assert [x.shape[1:] for x in jax.eval_shape(convolutions, images)] == [
    (64, 64, 96),
    (31, 31, 192),
    (15, 15, 384),
    (15, 15, 384),
    (15, 15, 192),
  ]


def _batch_norm(x, params, stats):
  """Batch normalisation of [N, C, ...] by running statistics, and ReLU."""
  shape = (1, -1) + (1,) * (x.ndim - 2)
  mean, var = (np.reshape(stats[k], shape) for k in ('mean', 'var'))
  scale, bias = (np.reshape(params[k], shape) for k in ('scale', 'bias'))
  return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)


def _conv(x, weight, strides, padding):
  """A PyTorch convolution: x [N, C, H, W], weight [O, C, K, K]."""
  x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
  size = weight.shape[-1]
  windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
  windows = windows[:, :, ::strides, ::strides]
  return np.einsum('nchwij,ocij->nohw', windows, weight, optimize=True)


def test_basic32_equals_an_independent_forward_pass():
  """PyTorch's layouts and order of flattening, in NumPy, float64."""
  encoder = encoders.make('basic32', stochastic=True)
  images = draw_images(32, n=2)
  variables = draw_variables(encoder, images)
  endpoints = jax.jit(encoder.apply)(variables, images)

  params, stats = jax.tree.map(
    lambda x: np.asarray(x, np.float64),
    (variables['params'], variables['batch_stats']),
  )
  expected = {}
  x = np.asarray(images, np.float64).transpose(0, 3, 1, 2)
  for i in range(3):
    x = _conv(x, params[f'conv_{i}']['kernel'].transpose(3, 2, 0, 1), 2, 1)
    name = f'conv_{i}_norm'
    x = _batch_norm(x, params[name], stats[name])
    if i == 1:
      expected['local'] = x.transpose(0, 2, 3, 1)
  expected['conv'] = x.transpose(0, 2, 3, 1)
  x = x.reshape(2, -1) @ params['fc_0']['kernel']
  x = expected['fc'] = _batch_norm(x, params['fc_0_norm'], stats['fc_0_norm'])
  expected['y'] = x @ params['y']['kernel'] + params['y']['bias']
  raw = x @ params['log_variance']['kernel'] + params['log_variance']['bias']
  expected['log_variance'] = 10 * np.tanh(raw / 10)

  assert set(endpoints) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(
      endpoints[name],
      value,
      rtol=1e-4,
      atol=1e-4 * np.abs(value).max(),
      err_msg=name,
    )


def test_max_pooling_precedes_the_local_feature():
  encoder = _tiny()
  images = draw_images(8, n=4)
  variables = draw_variables(encoder, images)
  endpoints = jax.jit(encoder.apply)(variables, images)
  params, stats = (variables[k] for k in ('params', 'batch_stats'))
  weight = np.asarray(params['conv_0']['kernel']).transpose(3, 2, 0, 1)
  x = _conv(np.asarray(images).transpose(0, 3, 1, 2), weight, 1, 1)
  x = _batch_norm(x, params['conv_0_norm'], stats['conv_0_norm'])
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
  expected = windows[:, :, ::2, ::2].max((-2, -1)).transpose(0, 2, 3, 1)
  assert expected.shape == (4, 3, 3, 4)
  np.testing.assert_allclose(endpoints['local'], expected, rtol=1e-4, atol=1e-5)


def test_the_lowering_does_not_change_the_features():
  images = draw_images(8, n=4)
  variables = draw_variables(_tiny(), images)
  patches, native = (
    _apply(_tiny(lowering=lowering), variables, images)
    for lowering in layers.LOWERINGS
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    patches,
    native,
  )


def test_an_image_is_encoded_alone_as_in_a_batch():
  encoder = _tiny()
  images = draw_images(8, n=4)
  variables = draw_variables(encoder, images)
  for train in (False, True):
    together, alone = (
      _apply(encoder, variables, x, train=train) for x in (images, images[:2])
    )
    same = np.allclose(together[0]['y'][:2], alone[0]['y'], atol=1e-5)
    assert same != train
    moved = jax.tree.map(
      lambda a, b: bool((a != b).any()),
      together[1]['batch_stats'],
      variables['batch_stats'],
    )
    assert all(jax.tree.leaves(moved)) == train
    assert any(jax.tree.leaves(moved)) == train


def test_log_variance_is_bounded_and_keeps_its_gradient():
  encoder = _tiny(stochastic=True)
  images = draw_images(8, n=4)
  params = draw_variables(encoder, images)

  def rate(shift):
    bias = params['params']['log_variance']['bias'] + shift
    layer = {**params['params']['log_variance'], 'bias': bias}
    shifted = params | {'params': params['params'] | {'log_variance': layer}}
    log_variance = encoder.apply(shifted, images)['log_variance']
    return jnp.exp(log_variance).sum(), log_variance

  gradient = jax.jit(jax.value_and_grad(rate, has_aux=True))
  for shift in (-1e4, 0.0, 1e4):
    (value, log_variance), slope = gradient(shift)
    assert np.isfinite(value)
    assert np.isfinite(slope)
    assert np.abs(log_variance).max() <= convolutional.LOG_VARIANCE_BOUND
  # Twice the bound, where a clip would have no slope.
  assert gradient(20.0)[1] > 1.0


def test_bfloat16_keeps_parameters_statistics_and_code_in_float32():
  images = draw_images(8, n=4)
  variables = draw_variables(_tiny(stochastic=True), images)
  exact, _ = _apply(_tiny(stochastic=True), variables, images)
  encoder = _tiny(stochastic=True, dtype=jnp.bfloat16)
  initial = jax.eval_shape(encoder.init, jax.random.key(0), images)
  endpoints, state = _apply(encoder, variables, images)
  float32 = {jnp.dtype('float32')}
  assert {x.dtype for x in jax.tree.leaves((initial, state))} == float32
  assert {name: str(value.dtype) for name, value in endpoints.items()} == {
    'local': 'bfloat16',
    'conv': 'bfloat16',
    'fc': 'bfloat16',
    'y': 'float32',
    'log_variance': 'float32',
  }
  error = np.abs(endpoints['y'] - exact['y']).mean()
  assert 0 < error < 0.1 * np.abs(exact['y']).mean()


@pytest.mark.parametrize(
  ('shape', 'dtype', 'match'),
  [
    (
      (2, 28, 28, 3),
      jnp.float32,
      r'basic32.*32x32.*28x28.*--config.data.image_size=32',
    ),
    ((2, 32, 16, 3), jnp.float32, '32x16'),
    ((32, 32, 3), jnp.float32, r'basic32.*\[N, H, W, C\].*\(32, 32, 3\)'),
    ((2, 32, 32, 3), jnp.uint8, 'uint8.*normalise_images'),
  ],
)
def test_wrong_images(shape, dtype, match):
  encoder = encoders.make('basic32')
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(
      encoder.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype)
    )


@pytest.mark.parametrize('norm', ['layer', 'group'])
@pytest.mark.parametrize('name', list(encoders.ENCODERS))
def test_every_encoder_has_a_form_without_batch_statistics(name, norm):
  _, variables = _shapes(encoders.make(name), 3)
  _, without = _shapes(encoders.make(name, norm=norm), 3)
  assert set(variables) == {'params', 'batch_stats'}
  assert set(without) == {'params'}
  # A scale and a shift a channel, as of batch normalisation.
  assert without['params'] == variables['params']


def _normalised(x, norm):
  """Of [N, H, W, C]: over channels, or over one of `groups` groups of them."""
  if norm == 'layer':
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5)
  groups = x.reshape(*x.shape[:3], 2, -1)
  axes = (1, 2, 4)
  mean, var = groups.mean(axes, keepdims=True), groups.var(axes, keepdims=True)
  return ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize('norm', ['layer', 'group'])
def test_norms_without_a_state(norm):
  # 6 channels: 2 groups, the greatest common divisor with 32.
  encoder = _tiny(norm=norm, convs=(encoders.ConvLayer(6, 3, 1, 1),), local=0)
  images = draw_images(8, n=4)
  variables = encoder.init(jax.random.key(0), images)
  endpoints = jax.jit(lambda *x: encoder.apply(*x, train=True))(
    variables, images
  )
  kernel = variables['params']['conv_0']['kernel']
  x = layers.convolve(images, kernel, padding=1)
  expected = np.maximum(_normalised(np.asarray(x), norm), 0)
  np.testing.assert_allclose(endpoints['local'], expected, rtol=1e-4, atol=1e-4)
  with pytest.raises(ValueError, match=r"norm must be one of \('batch', "):
    _shapes(_tiny(norm='instance'), 3)


def test_make_overrides_fields_and_names_what_it_accepts():
  encoder = encoders.make('basic32', code=10, stochastic=True)
  endpoints, _ = _shapes(encoder, 3)
  assert endpoints['y'].shape == endpoints['log_variance'].shape == (2, 10)
  with pytest.raises(ValueError, match=r"'resnet'.*basic28, basic32, basic64"):
    encoders.make('resnet')
  with pytest.raises(ValueError, match=r"'codes'.*code"):
    encoders.make('basic32', codes=10)
  with pytest.raises(ValueError, match=r'local=3.*0\.\.2'):
    _shapes(encoders.make('basic32', local=3), 3)
