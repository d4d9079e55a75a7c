"""The encoder in micro-batches: less memory, and the gradient of all pairs."""

import functools

import jax
import numpy as np
import pytest

from dim_jax.networks import encoders
from dim_jax.objectives import dim
from dim_jax.training import parallel
from tests.small import KEY, assert_same, dim_config, gradients, images, start

N = 8


def mlp(**changes):
  defaults = {
    'encoder': encoders.MLPCode(units=(16, 12), code=4),
    'critic_units': 8,
    'local_feature': 'input',
    'map_feature': 'fc',
    'num_classes': 3,
  }
  return dim_config(**(defaults | changes))


@functools.cache
def reference():
  objective = dim.make(mlp(prior__weight=0.0))
  variables = start(objective, images())
  return variables, gradients(objective, variables, images())


def test_micro_batches_have_the_gradient_of_all_negatives():
  variables, expected = reference()
  objective = dim.make(mlp(prior__weight=0.0, memory__micro_batch=2))
  # Loss, metrics, the critic's statistics and every group's gradient.
  assert_same(gradients(objective, variables, images()), expected)
  # 8 images of one row of pixels: an anchor has 7 negatives in all of it.
  assert expected[0][1][0]['mi/local_ceiling'] == pytest.approx(np.log(8))
  kernel = expected[1]['encoder']['mlp']['fc_0']['kernel']
  assert np.abs(kernel).max() > 1e-3


def test_micro_batches_on_two_devices_are_those_of_one():
  variables, ((loss, _), grads) = reference()
  objective = dim.make(
    mlp(prior__weight=0.0, memory__micro_batch=2), axis_name='data'
  )
  split = jax.pmap(
    jax.value_and_grad(objective.loss, has_aux=True),
    axis_name='data',
    in_axes=(None, None, 0, None),
    devices=jax.devices()[:2],
  )
  halves = jax.tree.map(lambda x: x.reshape(2, N // 2, *x.shape[1:]), images())
  (losses, _), found = split(*variables, halves, jax.random.wrap_key_data(KEY))
  np.testing.assert_allclose(losses, [loss, loss], rtol=1e-5)
  assert_same(jax.tree.map(lambda x: np.asarray(x).mean(0), found), grads)


def test_micro_batches_under_a_mesh_are_shares_of_each_device():
  """Four devices take one image each at a time, of two."""
  if len(jax.devices()) < 4:
    pytest.skip('needs 4 devices')
  variables, expected = reference()
  objective = dim.make(mlp(prior__weight=0.0, memory__micro_batch=1))
  mesh = parallel.make_mesh(4)

  def loss(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return objective.loss(*arguments)

  _, rows = parallel.shardings(mesh)
  batch = jax.device_put(images(), rows)
  arguments = (*variables, batch, jax.random.wrap_key_data(KEY))
  grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
  assert_same(jax.tree.map(np.asarray, grad(*arguments)), expected)
  jaxpr = str(jax.make_jaxpr(loss)(*arguments))
  # A scan over two micro-batches of four images of 8x8 pixels.
  assert 'f32[2,4,8,8,1]' in jaxpr


def test_micro_batches_hold_the_activations_of_one():
  n, units = 512, (512,) * 4
  batch = jax.eval_shape(lambda: images(n, 4))
  key = jax.eval_shape(lambda: jax.random.key(0))

  def temporary(**changes):
    objective = dim.make(
      mlp(
        encoder=encoders.MLPCode(units=units, code=4),
        prior__weight=0.0,
        num_classes=0,
        **changes,
      )
    )
    variables = jax.eval_shape(objective.init, key, batch)
    grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    compiled = grad.lower(*variables, batch, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # Four hidden layers of 512 units and 512 images, 1 MiB each; the last one is
  # a feature, which is there in each case, and N x N scores are another MiB.
  layer = 4 * n * 512
  assert temporary() - temporary(memory__micro_batch=16) > 2 * layer


def test_what_micro_batches_cannot_have_is_said_in_a_line():
  batch = images(8, 32)
  with pytest.raises(
    ValueError, match=r"micro_batch=2 needs an encoder .*\['batch_stats'\]"
  ):
    start(dim.make(dim_config(encoder='small32', memory__micro_batch=2)), batch)
  with pytest.raises(
    ValueError, match=r'micro_batch must be a whole number >= 1 or None'
  ):
    dim.make(mlp(memory__micro_batch=0))
  # As the message says, a named encoder can do without batch statistics.
  config = dim_config(encoder='small32', memory__micro_batch=2, norm='group')
  params, state = jax.eval_shape(
    dim.make(config).init, jax.random.key(0), images(4, 32)
  )
  assert 'encoder' in params and not state['encoder']
  # And so does the advice to a run that accumulates gradients.
  field = 'objective.memory.micro_batch'
  assert dim.make(config).exact_batches == field
  advice = dim.make(dim_config(encoder='small32')).exact_batches
  assert advice == f"{field} with objective.norm='group'"
  objective = dim.make(mlp(memory__micro_batch=3))
  variables = start(objective, images())
  with pytest.raises(ValueError, match=r'batches of 3 \(micro_batch\) .*\[8\]'):
    jax.eval_shape(objective.loss, *variables, images(), jax.random.key(0))
