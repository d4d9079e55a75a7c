import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.networks import layers
from experiments.benchmarks import harness


def _normal(*shape):
  """Fixed random numbers, from NumPy: sampling is slow for XLA to compile."""
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _value_and_gradients(x, kernel, **settings):
  """A random projection of the output, with gradients of both inputs."""

  def loss(x, kernel):
    y = layers.convolve(x, kernel, **settings)
    return (y * _normal(*y.shape)).sum(), y

  (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)
  return y, gradients


def _operations(jaxpr) -> set[str]:
  """Names of all primitives, those of nested calls included."""
  names = set()
  for equation in jaxpr.eqns:
    names.add(equation.primitive.name)
    for value in equation.params.values():
      if hasattr(value, 'eqns'):
        names |= _operations(value)
      elif hasattr(value, 'jaxpr'):
        names |= _operations(value.jaxpr)
  return names


# Both parities of both sizes, against both strides.
@pytest.mark.parametrize('size', [1, 3, 4, 5])
def test_patches_equal_the_native_operation(size):
  x = _normal(2, 7, 8, 3)
  kernel = _normal(size, size, 3, 4)
  settings = [(s, p) for s in (1, 2) for p in (0, 1, 2)]

  # `convolve` would send a 1x1 kernel to the same product in both cases.
  def native(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (strides, strides),
      [(padding, padding)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  @jax.jit
  def run(x, kernel):
    results = []
    for s, p in settings:
      patches = _value_and_gradients(
        x, kernel, strides=s, padding=p, lowering='patches'
      )
      value, pull = jax.vjp(
        lambda x, k, s=s, p=p: native(x, k, s, p), x, kernel
      )
      expected = (value, pull(_normal(*value.shape)))
      results.append((patches, expected))
    return results

  for setting, (patches, expected) in zip(
    settings, run(x, kernel), strict=True
  ):
    jax.tree.map(
      lambda a, b, setting=setting: np.testing.assert_allclose(
        a, b, rtol=1e-5, atol=1e-4, err_msg=str(setting)
      ),
      patches,
      expected,
    )


def test_patches_in_one_dimension_equal_the_native_operation():
  x = _normal(2, 11, 3)

  @jax.jit
  def run(x, kernels):
    return [
      [
        _value_and_gradients(x, k, strides=s, padding=p, lowering=lowering)
        for lowering in layers.LOWERINGS
      ]
      for k, s, p in zip(kernels, (1, 2, 4), (1, 0, 2), strict=True)
    ]

  kernels = [_normal(n, 3, 4) for n in (3, 5, 8)]
  for patches, native in run(x, kernels):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4),
      patches,
      native,
    )


def test_rectangular_kernels_and_uneven_padding():
  x = _normal(2, 5, 6, 3)
  kernel = _normal(2, 4, 3, 4)
  # One row above, none below, and unlike columns at the sides.
  pads = ((1, 0), (2, 1))

  @jax.jit
  def run(x, kernel):
    # Strides of 2 divide both sizes: blocks. Strides of 3 divide neither.
    results = []
    for strides in (1, 2, 3):
      settings = {'strides': strides, 'padding': pads}
      padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
      value, pull = jax.vjp(
        lambda x, k, s=strides: jax.lax.conv_general_dilated(
          x, k, (s, s), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        ),
        x,
        kernel,
      )
      found = [
        _value_and_gradients(x, kernel, **settings, lowering=lowering)
        for lowering in layers.LOWERINGS
      ]
      whole = layers.convolve(padded, kernel, strides=strides)
      results.append((found, (value, pull(_normal(*value.shape))), whole))
    return results

  for found, expected, whole in run(x, kernel):
    for each in found:
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4),
        each,
        expected,
      )
    np.testing.assert_allclose(whole, expected[0], rtol=1e-5, atol=1e-4)


def _native(x, kernel, strides, pads):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (strides, strides),
    pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _check_native(x, kernel, settings):
  """Compares patches with the native operation, and their gradients."""

  @jax.jit
  def run(x, kernel):
    results = []
    for strides, pads in settings:
      value, pull = jax.vjp(
        lambda x, k, s=strides, p=pads: _native(x, k, s, p), x, kernel
      )
      found = _value_and_gradients(
        x, kernel, strides=strides, padding=pads, lowering='patches'
      )
      results.append((found, (value, pull(_normal(*value.shape)))))
    return results

  for found, expected in run(x, kernel):
    # The kernel's gradient sums up to 1000 products.
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
      found,
      expected,
    )


@pytest.mark.parametrize(
  ('spatial', 'sizes'), [((1, 1), (3, 3)), ((2, 3), (3, 2)), ((4, 4), (3, 3))]
)
def test_small_maps_equal_the_native_operation(spatial, sizes, monkeypatch):
  used = []
  small = layers._convolve_small
  monkeypatch.setattr(
    layers, '_convolve_small', lambda *args: used.append(1) or small(*args)
  )
  settings = [
    (1, ((1, 1), (1, 1))),
    (2, ((1, 1), (1, 1))),
    (1, ((2, 1), (1, 2))),
  ]
  _check_native(_normal(3, *spatial, 3), _normal(*sizes, 3, 4), settings)
  assert len(used) == len(settings)


def test_few_outputs_are_added_up_and_equal_the_native_operation(monkeypatch):
  used = []
  sums = layers._convolve_sums
  monkeypatch.setattr(
    layers, '_convolve_sums', lambda *args: used.append(1) or sums(*args)
  )
  settings = [
    (1, ((1, 1), (1, 1))),
    (1, ((0, 0), (2, 1))),
    (1, ((0, 4), (3, 0))),
    # Of strides it knows nothing.
    (2, ((1, 1), (1, 1))),
  ]
  _check_native(_normal(2, 6, 7, 8), _normal(3, 2, 8, 2), settings)
  assert len(used) == 3


@pytest.fixture
def small_groups(monkeypatch):
  """256 rows at a time, the least."""
  monkeypatch.setattr(layers, 'WINDOWS', 1)


def test_groups_fill_the_cache():
  # 2**21 numbers are 3640 rows of 576: 14 of 196 maps of 256 positions have
  # 3584, and 28 have 7168.
  assert layers._group_size(196, 256, 576, 64) == 14


def test_a_few_maps_at_a_time_equal_the_native_operation(small_groups):
  # 12 maps of 10x10 positions: 3 at a time have 300, the nearest to
  # 256 that divides them. 252 in all are one product.
  assert layers._group_size(12, 100, 18, 4) == 3
  assert layers._group_size(12, 21, 18, 4) is None
  # 13 maps of 16 positions have no divisor from 8 to 32 but 13.
  assert layers._group_size(13 * 7, 16, 18, 4) == 13
  # 97 of 4x4 have no useful divisor; a wide kernel outweighs its windows.
  assert layers._group_size(97, 16, 18, 4) is None
  assert layers._group_size(12, 100, 18, 600) is None
  settings = [(1, ((1, 1), (1, 1))), (2, ((1, 1), (1, 1)))]
  _check_native(_normal(12, 10, 10, 2), _normal(3, 3, 2, 4), settings)


@pytest.mark.parametrize('size', [(8, 8), (5, 6), (4, 7)])
@pytest.mark.parametrize('windows', [1, layers.WINDOWS])
def test_winograds_products_equal_the_native_operation(
  size, windows, monkeypatch
):
  monkeypatch.setattr(layers, 'WINOGRAD', 1)
  monkeypatch.setattr(layers, 'WINDOWS', windows)
  settings = [(1, ((1, 1), (1, 1))), (1, ((0, 0), (2, 1)))]
  kernel = _normal(3, 3, 32, 33)
  x = _normal(32, *size, 32)
  # 16 products of a tile each, and not 9 of a position: 16 tiles cover 8x8,
  # nine 5x6, and eight 4x7.
  tiles = 32 * -(-size[0] // 2) * -(-size[1] // 2)
  count = harness.product_flops(
    jax.make_jaxpr(
      lambda x: layers.convolve(x, kernel, padding=1, lowering='patches')
    )(x).jaxpr
  )
  assert count == 16 * tiles * 2 * 32 * 33
  _check_native(x, kernel, settings)


def test_winograd_is_for_many_products_in_full_precision(monkeypatch):
  def products(dtype, count, channels):
    jaxpr = jax.make_jaxpr(
      lambda x, k: layers.convolve(x, k, padding=1, lowering='patches')
    )(
      jax.ShapeDtypeStruct((count, 8, 8, channels), dtype),
      jax.ShapeDtypeStruct((3, 3, channels, channels), dtype),
    )
    found = harness.product_flops(jaxpr.jaxpr)
    return found / (count * 64 * 2 * channels**2)

  # Per position: 16 / 4 of Winograd, 9 of windows.
  assert products(jnp.float32, 196, 64) == 4
  assert products(jnp.float32, 128, 64) == 9
  assert products(jnp.float32, 8000, 16) == 9
  assert products(jnp.bfloat16, 196, 64) == 9


def test_gradients_of_groups_add_up_in_float32(small_groups):
  x = jnp.ones((64, 16, 16, 1), jnp.bfloat16)
  kernel = jnp.zeros((3, 3, 1, 1), jnp.bfloat16)
  gradient = jax.jit(
    jax.grad(
      lambda k: layers.convolve(x, k, padding=1, lowering='patches').sum(
        dtype=jnp.float32
      )
    )
  )(kernel)
  # The centre meets all 64 * 256 ones; in bfloat16, 256 + 1 is 256.
  np.testing.assert_array_equal(gradient[1, 1, 0, 0], 64 * 256)


def test_gradients_of_what_is_broadcast_are_summed_in_float32():
  # Of 65,536 ones: in bfloat16 a sum stays where one more changes nothing.
  rows, bias = jnp.ones((256, 256, 2), jnp.bfloat16), jnp.zeros(2, jnp.bfloat16)
  grad = jax.grad(lambda b: layers.add_bias(rows, b).astype(jnp.float32).sum())
  np.testing.assert_array_equal(grad(bias).astype(jnp.float32), 65536)
  each = jax.grad(
    lambda *parts: layers.add(*parts).astype(jnp.float32).sum(), (0, 1, 2)
  )
  parts = [jnp.zeros(s, jnp.bfloat16) for s in ((256, 1), (1, 512), (256, 512))]
  for gradient, uses in zip(each(*parts), (512, 256, 1), strict=True):
    np.testing.assert_array_equal(gradient.astype(jnp.float32), uses)
  assert layers.add(*parts).dtype == jnp.bfloat16


def test_windows_are_not_kept_for_the_gradient(small_groups):
  x = jax.ShapeDtypeStruct((32, 16, 16, 16), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)

  def loss(x, kernel):
    y = layers.convolve(x, kernel, padding=1, lowering='patches')
    return jnp.square(y).sum()

  compiled = (
    jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, kernel).compile()
  )
  peak = compiled.memory_analysis().temp_size_in_bytes
  # The windows hold 9 times x.
  assert peak < 9 * 4 * 32 * 16 * 16 * 16 / 2


def test_rectangular_windows_must_fit():
  # One row and no padding below or above: 1 < 2.
  with pytest.raises(ValueError, match='window of 2x3 does not fit'):
    layers.convolve(
      jnp.zeros((1, 1, 8, 2)), jnp.zeros((2, 3, 2, 4)), padding=((0, 0), (1, 1))
    )


@pytest.mark.parametrize(
  ('size', 'strides', 'lowering', 'native'),
  [
    (4, 2, 'patches', False),
    (5, 2, 'patches', False),
    (3, 1, 'patches', False),
    (3, 1, 'native', True),
    (1, 1, 'native', False),
    (1, 2, 'native', False),
  ],
)
def test_operations_of_the_gradient(size, strides, lowering, native):
  # In a loop body on CPU, one native convolution costs more than all the rest.
  jaxpr = jax.make_jaxpr(
    lambda x, k: _value_and_gradients(
      x, k, strides=strides, padding=1, lowering=lowering
    )
  )(jnp.zeros((1, 8, 8, 2)), jnp.zeros((size, size, 2, 3)))
  names = _operations(jaxpr.jaxpr)
  assert ('conv_general_dilated' in names) == native
  assert ('dot_general' in names) != native


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'gpu'])
def test_lowering_follows_the_platform_of_the_mesh(platform):
  # Devices that are not here, as when a program is compiled ahead for them.
  device = jax.sharding.AbstractDevice('any', None, platform)
  mesh = jax.sharding.AbstractMesh((2,), ('data',), abstract_device=device)
  arguments = jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 2, 3))
  with jax.sharding.use_abstract_mesh(mesh):
    # A new function each time, or the first trace would be found again.
    jaxpr = jax.make_jaxpr(lambda x, k: layers.convolve(x, k))(*arguments)
  native = 'conv_general_dilated' in _operations(jaxpr.jaxpr)
  assert native == (platform != 'cpu')


def test_lowering_follows_the_default_backend_without_a_mesh(monkeypatch):
  assert layers.platform() == jax.default_backend()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert layers.platform() == 'gpu'


def test_conv_holds_the_usual_parameters():
  conv = layers.Conv(5, kernel_size=4, strides=2, padding=1, use_bias=True)
  x = _normal(2, 8, 8, 3)
  y, variables = conv.init_with_output(jax.random.key(1), x)
  params = variables['params']
  assert jax.tree.map(jnp.shape, params) == {
    'kernel': (4, 4, 3, 5),
    'bias': (5,),
  }
  expected = layers.convolve(x, params['kernel'], strides=2, padding=1)
  np.testing.assert_allclose(
    y - expected, np.broadcast_to(params['bias'], y.shape), atol=1e-5
  )


def test_conv1d_holds_the_usual_parameters():
  conv = layers.Conv1D(5, kernel_size=8, strides=4, padding=2)
  x = _normal(2, 16, 3)
  y, variables = conv.init_with_output(jax.random.key(1), x)
  assert jax.tree.map(jnp.shape, variables['params']) == {'kernel': (8, 3, 5)}
  assert y.shape == (2, 4, 5)


def test_conv_computes_in_bfloat16_with_float32_parameters():
  conv = layers.Conv(5, use_bias=True, dtype=jnp.bfloat16)
  y, variables = conv.init_with_output(
    jax.random.key(0), jnp.ones((1, 4, 4, 2))
  )
  assert y.dtype == jnp.bfloat16
  assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


def test_initial_parameters_are_pytorchs():
  # PyTorch: weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), with fan_in
  # 4 * 4 * 8 = 128 of this convolution, and 128 of this linear map.
  key = jax.random.key(0)
  bound = 1 / math.sqrt(128)
  for module, x in (
    (layers.Conv(500, kernel_size=4, use_bias=True), jnp.ones((1, 4, 4, 8))),
    (layers.Dense(500), jnp.ones((1, 128))),
  ):
    params = module.init(key, x)['params']
    for name, tolerance in (('kernel', 0.01), ('bias', 0.1)):
      values = np.asarray(params[name])
      assert bound * 0.98 < np.abs(values).max() <= bound
      np.testing.assert_allclose(
        values.std(), bound / math.sqrt(3), rtol=tolerance
      )


def test_batch_norm_moves_running_statistics_as_pytorch_does():
  x = 3 + 2 * _normal(64, 5)

  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
      return layers.normalise(x, train=True, name='norm')

  norm = Norm()
  variables = norm.init(jax.random.key(0), x)
  y, state = norm.apply(variables, x, mutable=['batch_stats'])
  mean, variance = np.mean(x, 0), np.var(x, 0)
  np.testing.assert_allclose(
    y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-4
  )
  stats = state['batch_stats']['norm']
  np.testing.assert_allclose(stats['mean'], 0.1 * mean, rtol=1e-4)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * variance, rtol=1e-4)


def test_images_are_normalised_once():
  images = jnp.asarray([0, 51, 255], jnp.uint8).reshape(1, 1, 3, 1)
  once = layers.normalise_images(images)
  np.testing.assert_allclose(once.ravel(), [-1, -0.6, 1], atol=1e-6)
  np.testing.assert_array_equal(layers.normalise_images(once), once)
  assert layers.normalise_images(images, jnp.bfloat16).dtype == jnp.bfloat16
  with pytest.raises(ValueError, match=r'int32.*uint8'):
    layers.normalise_images(images.astype(jnp.int32))


@pytest.mark.parametrize(
  ('shape', 'settings', 'match'),
  [
    ((8, 8, 2), {}, r'\[N, H, W, C\].*\(8, 8, 2\)'),
    ((1, 8, 8, 3), {}, 'takes 2 channels.*has 3'),
    ((1, 2, 8, 2), {}, 'window of 3 does not fit'),
    ((1, 8, 8, 2), {'lowering': 'fft'}, "'fft'.*'patches'"),
  ],
)
def test_errors_name_what_came_and_what_is_accepted(shape, settings, match):
  with pytest.raises(ValueError, match=match):
    layers.convolve(jnp.zeros(shape), jnp.zeros((3, 3, 2, 4)), **settings)


def test_conv_refuses_a_wrong_rank():
  with pytest.raises(ValueError, match=r'1-D .* takes.*\[N, T, C\].*\(8, 2\)'):
    layers.Conv1D(3).init(jax.random.key(0), jnp.zeros((8, 2)))


def test_product_is_one_of_rows():
  x, kernel = _normal(3, 5, 7), _normal(7, 2)
  weight = _normal(3, 5, 2)

  def loss(x, kernel):
    return jnp.sum(jnp.tanh(layers.product(x, kernel)) * weight)

  value, gradients = jax.value_and_grad(loss, (0, 1))(x, kernel)
  # The same sums by hand, in float64.
  y = np.einsum('nlc,ck->nlk', np.float64(x), np.float64(kernel))
  slope = weight / np.cosh(y) ** 2
  np.testing.assert_allclose(value, (np.tanh(y) * weight).sum(), rtol=1e-5)
  np.testing.assert_allclose(
    gradients[0], np.einsum('nlk,ck->nlc', slope, kernel), atol=1e-5
  )
  np.testing.assert_allclose(
    gradients[1], np.einsum('nlc,nlk->ck', x, slope), atol=1e-5
  )
  half = layers.product(
    x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), jnp.float32
  )
  assert half.dtype == jnp.float32


@pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='reads what XLA compiles for a CPU'
)
def test_gradient_of_a_product_transposes_no_rows():
  def transposed(multiply):
    gradient = jax.grad(lambda w, x: jnp.sum(jnp.sin(multiply(x, w))))
    shapes = jnp.zeros((16, 32)), jnp.zeros((8, 5, 16))
    text = jax.jit(gradient).lower(*shapes).compile().as_text()
    return re.findall(r'f32\[(.*)\]\S* (?:transpose|copy)\(', text)

  # The compiled program's copies before the product: of 8 x 5 rows, a moved
  # axis before them; and of the result at most.
  assert any('8,5' in shape for shape in transposed(jnp.matmul))
  assert not any('8,5' in x or '40' in x for x in transposed(layers.product))
