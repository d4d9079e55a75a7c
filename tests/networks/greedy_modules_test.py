import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import encoders, greedy_modules, layers
from tests.networks.reference import (
  draw_images,
  draw_variables,
  normal,
  num_parameters,
  shapes_of,
  variables_of,
)


def _convolve(x, layer, strides, padding):
  """A convolution of [H, W, C] or [T, C], window by window."""
  kernel, bias = layer['kernel'], layer['bias']
  axes = kernel.ndim - 2
  x = np.pad(x, [(padding, padding)] * axes + [(0, 0)])
  sizes = kernel.shape[:axes]
  outputs = [
    (n - k) // strides + 1 for n, k in zip(x.shape, sizes, strict=False)
  ]
  y = np.zeros((*outputs, kernel.shape[-1]))
  for index in np.ndindex(*outputs):
    window = tuple(
      slice(i * strides, i * strides + k)
      for i, k in zip(index, sizes, strict=True)
    )
    y[index] = np.tensordot(x[window], kernel, axes + 1) + bias
  return y


@pytest.mark.parametrize(
  ('height', 'width', 'size', 'stride'),
  [(10, 14, 6, 2), (8, 12, 4, 4), (5, 5, 5, 3), (7, 4, 1, 3)],
)
def test_patches_are_windows_in_row_major_order(height, width, size, stride):
  images = np.arange(2 * height * width * 3).reshape(2, height, width, 3)
  images = images.astype(np.uint8)
  grid = layers.patches(jnp.asarray(images), size, stride)
  rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
  assert grid.shape == (2, rows, columns, size, size, 3)
  assert grid.dtype == jnp.uint8
  for row in range(rows):
    for column in range(columns):
      top, left = row * stride, column * stride
      np.testing.assert_array_equal(
        grid[:, row, column], images[:, top : top + size, left : left + size]
      )


def test_images_of_64_pixels_give_49_patches():
  # (64 - 16) / 8 + 1 = 7 along each axis.
  images = jax.ShapeDtypeStruct((3, 64, 64, 1), jnp.float32)
  grid = jax.eval_shape(lambda x: layers.patches(x, 16, 8), images)
  assert grid.shape == (3, 7, 7, 16, 16, 1)


@pytest.mark.parametrize(
  ('shape', 'match'),
  [
    # Sizes that fit are 16, 24, ..., 56, 64, ...
    ((1, 62, 62, 1), r'16 pixels every 8.*62x62.*nearest to 62 is 64'),
    ((1, 64, 26, 1), r'64x26.*nearest to 26 is 24'),
    ((1, 9, 64, 1), r'9x64.*nearest to 9 is 16'),
    ((64, 64, 1), r'\[N, H, W, C\]; got shape \(64, 64, 1\)'),
  ],
)
def test_patches_refuse_images_that_they_do_not_cover(shape, match):
  with pytest.raises(ValueError, match=match):
    layers.patches(jnp.zeros(shape), 16, 8)


@pytest.mark.parametrize('bottleneck', [True, False])
def test_residual_module_equals_its_equations(bottleneck):
  module = greedy_modules.ResNetModule(2, 3, 2, bottleneck, stem=(2, 4, 2, 1))
  x = normal(2, 10, 10, 1)
  variables = variables_of(module, *x.shape)
  maps = jax.jit(module.apply)(variables, x)

  params = variables['params']
  convs = [(1, 0), (3, 1), (1, 0)] if bottleneck else [(3, 1), (3, 1)]
  # The second block keeps the shape, so that its shortcut is the identity.
  assert 'block_0_shortcut' in params
  assert 'block_1_shortcut' not in params
  for image, map_ in zip(x, maps, strict=True):
    y = _convolve(image, params['stem'], 2, 1)
    for block, strides in ((0, 2), (1, 1)):
      shortcut = y
      hidden = np.maximum(y, 0)
      if block == 0:
        shortcut = _convolve(hidden, params['block_0_shortcut'], strides, 0)
      # The step is taken by the first 3x3 convolution.
      first = [size for size, _ in convs].index(3)
      for i, (size, padding) in enumerate(convs):
        layer = params[f'block_{block}_conv_{i}']
        assert layer['kernel'].shape[:2] == (size, size)
        step = strides if i == first else 1
        hidden = _convolve(np.maximum(hidden, 0), layer, step, padding)
      y = shortcut + hidden
    # 10 -> 5 in the stem, 5 -> 3 in the first block.
    assert map_.shape == (3, 3, 12 if bottleneck else 3)
    np.testing.assert_allclose(map_, y, rtol=1e-4, atol=1e-4)
  assert (maps < 0).any()  # No ReLU at the end.


def _conv_count(size, features_in, features_out):
  return size**2 * features_in * features_out + features_out


def _bottleneck_count(features_in, width):
  """Parameters of one block with bottleneck, without the shortcut's."""
  return (
    _conv_count(1, features_in, width)
    + _conv_count(3, width, width)
    + _conv_count(1, width, 4 * width)
  )


def _basic_count(features_in, width):
  return _conv_count(3, features_in, width) + _conv_count(3, width, width)


def test_resnet50_has_the_published_sizes():
  x = (49, 16, 16, 1)
  stem = _conv_count(5, 1, 64)
  expected = [
    stem + _bottleneck_count(64, 64) + 2 * _bottleneck_count(256, 64),
    _bottleneck_count(256, 128) + 3 * _bottleneck_count(512, 128),
    _bottleneck_count(512, 256) + 5 * _bottleneck_count(1024, 256),
  ]
  # The first block of each changes the channels.
  shortcuts = [(64, 256), (256, 512), (512, 1024)]
  counts = [
    n + _conv_count(1, *shortcut)
    for n, shortcut in zip(expected, shortcuts, strict=True)
  ]
  # And these are the numbers of the authors' networks.
  assert counts == [216_064, 1_216_000, 7_088_128]
  maps = [(49, 16, 16, 256), (49, 8, 8, 512), (49, 4, 4, 1024)]
  for module, count, shape in zip(
    greedy_modules.MODULES['resnet50'](), counts, maps, strict=True
  ):
    y, variables = shapes_of(module, *x)
    assert num_parameters(variables) == count
    assert y.shape == shape
    x = shape


def test_resnet34_has_the_published_sizes():
  x = (49, 16, 16, 1)
  # The first module's blocks keep 64 channels: it has no shortcut.
  counts = [
    _conv_count(5, 1, 64) + 3 * _basic_count(64, 64),
    _basic_count(64, 128)
    + 3 * _basic_count(128, 128)
    + _conv_count(1, 64, 128),
    _basic_count(128, 256)
    + 5 * _basic_count(256, 256)
    + _conv_count(1, 128, 256),
  ]
  assert counts == [223_232, 1_115_264, 6_819_072]
  maps = [(49, 16, 16, 64), (49, 8, 8, 128), (49, 4, 4, 256)]
  for module, count, shape in zip(
    greedy_modules.MODULES['resnet34'](), counts, maps, strict=True
  ):
    y, variables = shapes_of(module, *x)
    assert num_parameters(variables) == count
    assert y.shape == shape
    x = shape


def test_small_resnet_halves_patches_of_8_pixels_to_one():
  x = (5, 8, 8, 3)
  # The stem halves as well: 8 -> 4.
  for module, shape in zip(
    greedy_modules.MODULES['resnet_small'](),
    [(5, 4, 4, 32), (5, 2, 2, 64), (5, 1, 1, 128)],
    strict=True,
  ):
    x = shapes_of(module, *x)[0].shape
    assert x == shape


def _normalised(x, layer):
  """Layer normalisation over the last axis, and a ReLU."""
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  return np.maximum(x * layer['scale'] + layer['bias'], 0)


def test_patch_module_equals_its_equations():
  module = greedy_modules.PatchModule(3, kernel_size=4, strides=2, padding=1)
  x = normal(2, 6, 4, 5)
  variables = variables_of(module, *x.shape)
  maps = jax.jit(module.apply)(variables, x)
  # floor((6 + 2 - 4) / 2) + 1 = 3, and 2 of 4.
  assert maps.shape == (2, 3, 2, 3)
  params = variables['params']
  for image, found in zip(x, maps, strict=True):
    y = _normalised(_convolve(image, params['conv'], 2, 1), params['norm_0'])
    mix_0, mix_1 = params['mix_0'], params['mix_1']
    z = _normalised(y @ mix_0['kernel'] + mix_0['bias'], params['norm_1'])
    z = y + z @ mix_1['kernel'] + mix_1['bias']
    np.testing.assert_allclose(
      found, _normalised(z, params['norm_2']), rtol=1e-4, atol=1e-4
    )


def test_small_patch_modules_shrink_patches_of_16_pixels_to_one():
  x = (5, 16, 16, 3)
  for module, shape in zip(
    greedy_modules.MODULES['patch_small'](),
    [(5, 4, 4, 64), (5, 2, 2, 128), (5, 1, 1, 512)],
    strict=True,
  ):
    x = shapes_of(module, *x)[0].shape
    assert x == shape


CROPS = {
  'foldresnet34_cpc': ('foldresnet34_32', 8, 1024),
  'foldalex64_cpc': ('foldalex64', 16, 192),
  'foldsmall32_cpc': ('foldsmall32', 8, 128),
}


@pytest.mark.parametrize('name', CROPS)
def test_crops_go_through_what_the_folded_encoder_has_up_to_its_map(name):
  encoder, size, features = CROPS[name]
  crops, gru = greedy_modules.MODULES[name]()
  y, variables = shapes_of(crops, 3, size, size, 3)
  assert y.shape == (3, 1, 1, features) and gru.features == features
  full = encoders.make(encoder)
  endpoints, full_variables = shapes_of(
    full, 2, full.image_size, full.image_size, 3
  )
  assert endpoints['local'].shape == (2, 7, 7, features)
  # Whatever it has by the name of a layer, the other has alike.
  layers_of = {
    kind: {k: full_variables[kind][k] for k in tree['convs']}
    for kind, tree in variables.items()
  }
  assert set(layers_of) == {'params', 'batch_stats'}
  same = {kind: tree['convs'] for kind, tree in variables.items()}
  assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, layers_of)
  kinds = {k.split('_norm')[0] for k in same['params']}
  assert kinds == {
    f'{"block" if hasattr(layer, "width") else "conv"}_{i}'
    for i, layer in enumerate(full.convs[: full.local + 1])
  }


@pytest.mark.parametrize('train', [False, True])
def test_features_of_crops_are_the_folded_map(train):
  full = encoders.make('foldsmall32')
  images = draw_images(32, 2)
  variables = draw_variables(full, images)
  endpoints, changed = jax.jit(
    lambda v, x: full.apply(v, x, train=train, mutable=['batch_stats'])
  )(variables, images)

  crops, _ = greedy_modules.MODULES['foldsmall32_cpc']()
  names = [f'conv_{i}' for i in range(3)]
  names += [f'{name}_norm' for name in names]

  def own(tree):
    return {'convs': {k: v for k, v in tree.items() if k in names}}

  grid = layers.patches(images, 8, 4)
  features, crops_changed = jax.jit(
    lambda v, x: crops.apply(v, x, train=train, mutable=['batch_stats'])
  )({k: own(v) for k, v in variables.items()}, grid.reshape(-1, 8, 8, 3))
  np.testing.assert_allclose(
    features.reshape(2, 7, 7, 128), endpoints['local'], rtol=1e-5, atol=1e-5
  )
  assert (features > 0).any()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    crops_changed['batch_stats'],
    own(changed['batch_stats']),
  )


def test_crops_of_another_size_name_the_fields():
  crops, _ = greedy_modules.MODULES['foldalex64_cpc']()
  with pytest.raises(ValueError) as error:
    shapes_of(crops, 3, 8, 8, 3)
  assert str(error.value) == (
    'foldalex64 takes crops of 16x16 pixels; got 8x8. Set '
    'objective.patch_size=16 and objective.patch_stride=8.'
  )
  with pytest.raises(ValueError, match="'small32' is no encoder of crops; acc"):
    shapes_of(greedy_modules.CropEncoder('small32'), 3, 8, 8, 3)


@pytest.mark.parametrize('name', ['resnet50', 'resnet34', 'resnet_small'])
def test_cpc_appends_an_autoregressor_as_wide_as_the_features(name):
  *encoder, autoregressor = greedy_modules.MODULES[f'{name}_cpc'](
    dtype=jnp.bfloat16
  )
  assert tuple(encoder) == greedy_modules.MODULES[name](dtype=jnp.bfloat16)
  assert not any(getattr(module, 'context', False) for module in encoder)
  assert autoregressor.context
  assert autoregressor.dtype == jnp.bfloat16
  features = shapes_of(encoder[-1], 1, 4, 4, 8)[0].shape[-1]
  assert autoregressor.features == features


def test_sound_module_equals_its_equation():
  module = greedy_modules.ConvModule(3, kernel_size=4, strides=2, padding=1)
  x = normal(2, 9, 2)
  variables = variables_of(module, *x.shape)
  frames = jax.jit(module.apply)(variables, x)
  # floor((9 + 2 - 4) / 2) + 1 = 4.
  assert frames.shape == (2, 4, 3)
  for sound, rows in zip(x, frames, strict=True):
    y = _convolve(sound, variables['params']['conv'], 2, 1)
    np.testing.assert_allclose(rows, np.maximum(y, 0), rtol=1e-5, atol=1e-5)


def test_sound_has_the_published_sizes():
  # floor((L + 2 padding - kernel) / stride) + 1, by hand from 20,480 samples.
  frames = [4095, 1023, 512, 257, 128]
  counts = [
    10 * 512 + 512,
    8 * 512**2 + 512,
    4 * 512**2 + 512,
    4 * 512**2 + 512,
    4 * 512**2 + 512,
  ]
  assert counts == [5_632, 2_097_664, 1_049_088, 1_049_088, 1_049_088]
  *convs, gru = greedy_modules.MODULES['sound']()
  x = (2, 20_480, 1)
  for module, length, count in zip(convs, frames, counts, strict=True):
    y, variables = shapes_of(module, *x)
    assert y.shape == (2, length, 512)
    assert num_parameters(variables) == count
    x = y.shape
  assert gru.context
  y, variables = shapes_of(gru, *x)
  assert y.shape == (2, 128, 256)
  # Three gates from 512 inputs and from 256 states, with two biases.
  assert num_parameters(variables) == 3 * 256 * (512 + 256 + 2) == 591_360


def test_small_sound_gives_a_frame_every_80_samples():
  *convs, gru = greedy_modules.MODULES['sound_small']()
  x = (2, 10_240, 1)
  # (10240 + 4 - 10) // 5 + 1, then (L + 4 - 4) // 2 + 1 three times, and
  # (L + 2 - 4) // 2 + 1.
  for module, length in zip(convs, [2047, 1024, 513, 257, 128], strict=True):
    x = shapes_of(module, *x)[0].shape
    assert x == (2, length, 128)
  assert np.prod([module.strides for module in convs]) == 80
  assert shapes_of(gru, *x)[0].shape == (2, 128, 128)


@pytest.mark.parametrize('name', list(greedy_modules.MODULES))
def test_modules_compute_in_bfloat16_with_float32_parameters(name):
  for module in greedy_modules.MODULES[name](dtype=jnp.bfloat16):
    grid = (1, 32, 4) if 'sound' in name else (1, 8, 8, 4)
    if getattr(module, 'encoder', None) == 'foldalex64':
      grid = (1, 16, 16, 4)
    y, variables = shapes_of(module, *grid)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')
    }


def test_bfloat16_is_close_to_float32():
  settings = {'blocks': 2, 'width': 4, 'stem': (4, 3, 1, 1)}
  module = greedy_modules.ResNetModule(**settings)
  x = normal(2, 6, 6, 1)
  variables = variables_of(module, *x.shape)
  low = greedy_modules.ResNetModule(**settings, dtype=jnp.bfloat16)
  exact, rounded = jax.jit(
    lambda v, x: (module.apply(v, x), low.apply(v, x).astype(jnp.float32))
  )(variables, x)
  # A rounding is 2^-9 of a value; some ten of them lie on a path.
  scale = float(jnp.abs(exact).max())
  np.testing.assert_allclose(rounded, exact, atol=10 * 2**-9 * scale)


def test_parameters_start_as_pytorch_does():
  module = greedy_modules.ResNetModule(1, 16, bottleneck=False)
  params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))
  # Inputs of an output unit: 3 * 3 * 16.
  bound = 1 / np.sqrt(144)
  for layer in params['params'].values():
    for values in layer.values():
      assert np.abs(values).max() <= bound
    # The largest of 2,304 uniform numbers is this near its bound but for a
    # probability of 0.99^2304 < 1e-10.
    assert np.abs(layer['kernel']).max() > 0.99 * bound
    # Biases are drawn as well.
    assert np.unique(layer['bias']).size == 16
