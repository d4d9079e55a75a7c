"""Bottleneck blocks against a second implementation, and their memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import convolutional, residual


@pytest.fixture(autouse=True)
def _exact_products():
  with jax.default_matmul_precision('highest'):
    yield


def fill(shapes):
  """Variables in which every scale, shift and average counts."""
  rng = np.random.default_rng(1)

  def draw(x):
    if x.ndim == 1:
      return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
    scale = 1 / math.sqrt(math.prod(x.shape[:-1]))
    return jnp.asarray(rng.normal(0, scale, x.shape), jnp.float32)

  return jax.tree.map(draw, shapes)


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
  block = residual.Bottleneck(2, strides)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 6, 6, channels))
  x = jnp.asarray(images, jnp.float32)
  shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, False), x)
  variables = fill(shapes)
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
  images = jnp.asarray(
    np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)), jnp.float32
  )

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

  variables = fill(jax.eval_shape(build(False).init, jax.random.key(0), images))

  def loss_of(remat):
    def loss(params):
      taps, state = build(remat).apply(
        variables | {'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.square(taps['y']).sum(), state

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
