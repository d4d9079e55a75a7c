import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import context
from dim_jax.runs import hlo
from dim_jax.training import parallel
from tests.networks.reference import (
  normal,
  num_parameters,
  shapes_of,
  variables_of,
)


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _convolve(x, layer, above):
  """Convolves a grid [H, W, C], window by window, to the same size.

  Args:
    x: the grid.
    layer: with a 'kernel' [K, K', C, D] and a 'bias'.
    above: rows of the kernel above its centre, and as many columns to each side
      as an odd K' has.
  """
  kernel, bias = layer['kernel'], layer['bias']
  rows, columns = kernel.shape[:2]
  y = np.zeros((*x.shape[:2], kernel.shape[-1])) + bias
  for i, j in np.ndindex(*x.shape[:2]):
    for r, c in np.ndindex(rows, columns):
      row, column = i + r - above, j + c - columns // 2
      if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
        y[i, j] += x[row, column] @ kernel[r, c]
  return y


def test_pixelcnn_equals_its_equations():
  features = 3
  module = context.PixelCNN(features, layers=3)
  z = normal(2, 4, 3, 2)
  variables = variables_of(module, *z.shape)
  contexts = jax.jit(module.apply)(variables, z)
  params = variables['params']

  def gate(x):
    return np.tanh(x[..., :features]) * _sigmoid(x[..., features:])

  for grid, found in zip(z, contexts, strict=True):
    v = h = grid
    for i in range(3):
      # As published: a kernel of 3x3 whose last row is masked.
      kernel = np.pad(
        params[f'vertical_{i}']['kernel'], ((0, 1), (0, 0), (0, 0), (0, 0))
      )
      assert kernel.shape[:2] == (3, 3)
      masked = {'kernel': kernel, 'bias': params[f'vertical_{i}']['bias']}
      down = _convolve(v, masked, 1)
      across = _convolve(h, params[f'horizontal_{i}'], 0)
      across = across + _convolve(down, params[f'link_{i}'], 0)
      across = _convolve(gate(across), params[f'output_{i}'], 0)
      # Residuals from the second layer on, and no vertical one in the last.
      if i == 1:
        down = down + _convolve(v, params['residual_1'], 0)
      h = h + across if i > 0 else across
      v = gate(down)
    np.testing.assert_allclose(
      found, _convolve(h, params['out'], 0), rtol=1e-4, atol=1e-5
    )
  assert [name for name in params if 'residual' in name] == ['residual_1']


def test_pixelcnn_sees_its_own_row_and_those_above():
  module = context.PixelCNN(2)
  # Four layers reach everything within 4 rows and 4 columns.
  z = normal(1, 5, 5, 2)
  variables = variables_of(module, *z.shape)
  jacobian = jax.jit(jax.jacrev(lambda z: module.apply(variables, z)[0]))(z)
  # [row, column, D, 0, row', column', C]
  depends = (np.asarray(jacobian)[:, :, :, 0] != 0).any((2, 5))
  for row, column, other, _ in np.argwhere(depends):
    assert other <= row, (row, column, other)
  for row in range(5):
    assert depends[row, :, : row + 1].all()


def test_pixelcnn_reaches_one_row_and_column_further_per_layer():
  z = normal(1, 7, 11, 1)
  for layers in (1, 4):
    module = context.PixelCNN(1, layers=layers)
    variables = variables_of(module, *z.shape)
    gradient = jax.jit(
      jax.grad(lambda z, m=module, v=variables: m.apply(v, z)[0, 5, 5, 0])
    )(z)
    expected = np.zeros((7, 11), bool)
    expected[5 - layers : 6, 5 - layers : 6 + layers] = True
    np.testing.assert_array_equal(
      np.asarray(gradient)[0, :, :, 0] != 0, expected
    )


def test_pixelcnn_omits_only_what_the_published_one_does_not_use():
  c, layers = 1024, 4
  # Each layer: 3x3 and 1x3 from C to 2C channels, 1x1 from 2C to 2C and from C
  # to C, with biases. Later layers: a residual from C to 2C. At last, C to C.
  published = (
    layers * ((9 + 3) * 2 * c**2 + 2 * 2 * c)
    + layers * (4 * c**2 + 2 * c + c**2 + c)
    + (layers - 1) * (2 * c**2 + 2 * c)
    + c**2
    + c
  )
  assert published == 127_961_088 + 1_049_600
  masked = layers * 3 * 2 * c**2  # The row below the centre.
  unread = 2 * c**2 + 2 * c  # The last layer's vertical residual.
  contexts, variables = shapes_of(context.PixelCNN(c), 1, 7, 7, c)
  assert num_parameters(variables) == published - masked - unread
  assert contexts.shape == (1, 7, 7, c)


def test_vertical_kernels_start_as_if_they_were_square():
  module = context.PixelCNN(8, layers=1)
  variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 16)))
  bounds = {
    'vertical_0': 9 * 16,
    'horizontal_0': 3 * 16,
    'link_0': 16,
    'output_0': 8,
    'out': 8,
  }
  assert set(variables['params']) == set(bounds)
  for name, fan_in in bounds.items():
    layer, bound = variables['params'][name], 1 / np.sqrt(fan_in)
    assert np.abs(layer['bias']).max() <= bound
    assert 0.9 * bound < np.abs(layer['kernel']).max() <= bound


def _gru_step(params, state, frame):
  """One step of a GRU; in float64 if the parameters are."""
  _, z, n = _gates(params, state, frame)
  return (1 - z) * n + z * state


def _gates(params, state, frame):
  """The gates and the candidate of a GRU, one by one."""
  w, u = (np.split(params[f'{n}_kernel'], 3, 1) for n in ('input', 'state'))
  b, d = (np.split(params[f'{n}_bias'], 3) for n in ('input', 'state'))
  r = _sigmoid(frame @ w[0] + b[0] + state @ u[0] + d[0])
  z = _sigmoid(frame @ w[1] + b[1] + state @ u[1] + d[1])
  n = np.tanh(frame @ w[2] + b[2] + r * (state @ u[2] + d[2]))
  return r, z, n


def test_row_gru_equals_its_equations():
  module = context.RowGRU(3)
  z = normal(2, 4, 5, 2)
  variables = variables_of(module, *z.shape)
  contexts = jax.jit(module.apply)(variables, z)
  params = variables['params']
  features, above = params['input']['kernel'], params['state_kernel']
  assert features.shape == (1, 2, 2, 9) and above.shape == (3, 3, 9)
  # One GRU of what a unit takes in: two features, and three states above it.
  unit = {
    'input_kernel': features.reshape(4, 9),
    'input_bias': params['input']['bias'],
    'state_kernel': above.reshape(9, 9),
    'state_bias': params['state_bias'],
  }
  states = np.zeros((2, 5, 3))
  for i in range(4):
    # With zeros beyond the edges.
    row = np.pad(z[:, i], ((0, 0), (1, 0), (0, 0)))
    old = np.pad(states, ((0, 0), (1, 1), (0, 0)))
    for j in range(5):
      taken = row[:, j : j + 2].reshape(2, 4), old[:, j : j + 3].reshape(2, 9)
      _, u, n = _gates(unit, taken[1], taken[0])
      states[:, j] = (1 - u) * n + u * old[:, j + 1]
    np.testing.assert_allclose(contexts[:, i], states, rtol=1e-5, atol=1e-5)


def test_row_gru_sees_a_triangle_above_and_nothing_that_is_predicted():
  module = context.RowGRU(2)
  z = normal(1, 5, 7, 2)
  variables = variables_of(module, *z.shape)
  jacobian = jax.jit(jax.jacrev(lambda z: module.apply(variables, z)[0]))(z)
  # [row, column, D, 0, row', column', C]
  depends = (np.asarray(jacobian)[:, :, :, 0] != 0).any((2, 5))
  row, column, other, across = np.ogrid[:5, :7, :5, :7]
  above = row - other
  expected = (
    (above >= 0) & (across >= column - above - 1) & (across <= column + above)
  )
  np.testing.assert_array_equal(depends, expected)


def test_row_gru_has_a_row_of_states_and_two_features_a_unit():
  contexts, variables = shapes_of(context.RowGRU(1024), 1, 7, 7, 512)
  assert contexts.shape == (1, 7, 7, 1024)
  gates = 3 * 1024
  assert num_parameters(variables) == (
    2 * 512 * gates + gates + 3 * 1024 * gates + gates
  )
  low = context.RowGRU(8, dtype=jnp.bfloat16)
  contexts, variables = shapes_of(low, 1, 3, 3, 4)
  assert contexts.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  with pytest.raises(ValueError, match=r'takes grids \[N, H, W, C\]; got'):
    shapes_of(low, 1, 9, 4)


@pytest.mark.parametrize('detach', [False, True])
def test_gru_equals_its_equations(detach):
  module = context.GRU(4, detach=detach)
  z = normal(3, 6, 5)
  variables = variables_of(module, *z.shape)
  contexts = jax.jit(module.apply)(variables, z)
  state = np.zeros((3, 4))
  for t in range(6):
    state = _gru_step(variables['params'], state, z[:, t])
    np.testing.assert_allclose(contexts[:, t], state, rtol=1e-5, atol=1e-5)


def test_detached_states_pass_no_gradient():
  z = normal(1, 4, 2)
  depends = []
  for detach in (False, True):
    module = context.GRU(3, detach=detach)
    variables = variables_of(module, *z.shape)
    jacobian = jax.jit(
      jax.jacrev(lambda z, m=module, v=variables: m.apply(v, z)[0])
    )(z)
    # [time, D, 0, time', C]
    depends.append((np.asarray(jacobian)[:, :, 0] != 0).any((1, 3)))
  # All of the past, against a step's own frame.
  np.testing.assert_array_equal(depends[0], np.tri(4, dtype=bool))
  np.testing.assert_array_equal(depends[1], np.eye(4, dtype=bool))


def test_detached_gradients_hold_the_states_fixed():
  module = context.GRU(3, detach=True)
  z = normal(2, 5, 2)
  variables = variables_of(module, *z.shape)
  weights = normal(2, 5, 3, seed=7)
  gradients = jax.jit(jax.grad(lambda v: (module.apply(v, z) * weights).sum()))(
    variables
  )['params']

  exact = {k: v.astype(np.float64) for k, v in variables['params'].items()}
  states = [np.zeros((2, 3))]
  for t in range(5):
    states.append(_gru_step(exact, states[-1], z[:, t]))
  direction = {
    k: normal(*v.shape, seed=i) for i, (k, v) in enumerate(exact.items())
  }

  def loss(size):
    # The states come from the run above, whatever the parameters are.
    moved = {k: v + size * direction[k] for k, v in exact.items()}
    steps = [_gru_step(moved, states[t], z[:, t]) for t in range(5)]
    return (np.stack(steps, 1) * weights).sum()

  # The central difference's error is of the order of 1e-4 squared.
  slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
  found = sum((gradients[k] * direction[k]).sum() for k in exact)
  np.testing.assert_allclose(found, slope, rtol=1e-4)


def test_gru_starts_as_pytorch_does():
  module = context.GRU(16)
  z = jnp.zeros((1, 1, 40))
  params = jax.jit(module.init)(jax.random.key(0), z)['params']
  # The bound comes from the state's size for all of them, so not from the 40
  # channels of the frames.
  for values in params.values():
    assert 0.2 < np.abs(values).max() <= 1 / np.sqrt(16)
  assert {k: v.shape for k, v in params.items()} == {
    'input_kernel': (40, 48),
    'input_bias': (48,),
    'state_kernel': (16, 48),
    'state_bias': (48,),
  }


def test_gru_multiplies_the_frames_once_outside_the_loop():
  module = context.GRU(4)
  variables = variables_of(module, 2, 6, 5)
  jaxpr = jax.make_jaxpr(module.apply)(variables, normal(2, 6, 5)).jaxpr
  products = [e for e in jaxpr.eqns if e.primitive.name == 'dot_general']
  # Two sequences of six frames, as rows.
  assert [e.outvars[0].aval.shape for e in products] == [(12, 12)]
  (loop,) = [e for e in jaxpr.eqns if e.primitive.name == 'scan']
  inner = [
    e.outvars[0].aval.shape
    for e in loop.params['jaxpr'].eqns
    if e.primitive.name == 'dot_general'
  ]
  assert inner == [(2, 12)]


def test_gru_refuses_grids():
  with pytest.raises(
    ValueError, match=r'\[N, L, C\]; got shape \(1, 2, 2, 3\)'
  ):
    shapes_of(context.GRU(4), 1, 2, 2, 3)


@pytest.mark.parametrize(
  ('make', 'shape'),
  [(context.PixelCNN, (2, 4, 4, 8)), (context.GRU, (2, 6, 8))],
)
def test_bfloat16_is_close_to_float32(make, shape):
  z = normal(*shape)
  module, low = make(8), make(8, dtype=jnp.bfloat16)
  variables = variables_of(module, *shape)
  exact, rounded = jax.jit(lambda v, z: (module.apply(v, z), low.apply(v, z)))(
    variables, z
  )
  assert rounded.dtype == jnp.bfloat16
  assert shapes_of(low, *shape)[1] == shapes_of(module, *shape)[1]
  scale = float(jnp.abs(exact).max())
  # A rounding is 2^-9 of a value; some twenty of them lie on a path.
  np.testing.assert_allclose(
    rounded.astype(jnp.float32), exact, atol=20 * 2**-9 * scale
  )


@pytest.mark.parametrize('make', [context.PixelCNN, context.GRU])
def test_autoregressors_are_marked_outside_of_their_fields(make):
  assert make(4).context
  assert 'context' not in {field.name for field in dataclasses.fields(make)}


@pytest.mark.parametrize(
  ('network', 'shape'),
  [(context.GRU(3), (16, 9, 4)), (context.RowGRU(3), (16, 5, 4, 2))],
  ids=['GRU', 'RowGRU'],
)
def test_devices_exchange_nothing_in_the_loop(network, shape):
  x = jax.random.normal(jax.random.key(0), shape)
  params = network.init(jax.random.key(1), x)

  def loss(params, x):
    return (network.apply(params, x) ** 2).mean()

  grad = jax.value_and_grad(loss, argnums=(0, 1))
  mesh = parallel.make_mesh(8)
  shared, own = parallel.shardings(mesh)

  def on_mesh(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return grad(*arguments)

  spread = jax.jit(on_mesh, in_shardings=(shared, own))
  compiled = spread.lower(params, x).compile()
  found = compiled(jax.device_put(params, shared), jax.device_put(x, own))
  for actual, expected in zip(
    jax.tree.leaves(found),
    jax.tree.leaves(jax.jit(grad)(params, x)),
    strict=True,
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
  # The gradient of the weights is summed over devices once, after it.
  exchanged = hlo.collectives(compiled.as_text(), 8)
  assert exchanged and not any(x.looped for x in exchanged)
