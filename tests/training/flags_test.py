"""Flags that trade memory or time: what they change in the numbers, measured.

Splitting a batch is next door, in `accumulate_test`.
"""

import jax
import jax.numpy as jnp
import numpy as np

import dim_jax
from dim_jax import config as config_lib
from dim_jax.networks import encoders, greedy_modules
from dim_jax.objectives import dim, gim
from dim_jax.runs import train
from tests.small import assert_same, gradients, images, start


def cosines(result, expected):
  """Between the gradients of each group."""
  found = {}
  for group in expected:
    a, b = (
      np.concatenate([x.ravel() for x in jax.tree.leaves(tree[group])])
      for tree in (result, expected)
    )
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    found[group] = float(a @ b / norm) if norm else 1.0
  return found


def test_modules_made_again_by_rows_have_the_same_gradients():
  module = greedy_modules.ResNetModule(
    blocks=1, width=4, stem=(4, 3, 1, 1), bottleneck=False
  )
  config = gim.Config(modules=(module,), patch_size=4, patch_stride=2)
  patches = gim.inputs(config, images(2))
  shape = jax.eval_shape(
    module.init, jax.eval_shape(lambda: jax.random.key(0)), patches[:, 0, 0]
  )
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) / 3, jnp.float32), shape
  )['params']

  def loss(params, by_rows):
    features, _ = gim.apply_module(
      module, params, {}, patches, train=True, by_rows=by_rows
    )
    return jnp.square(gim.positions(features)).mean()

  result, expected = jax.jit(
    lambda p: [jax.value_and_grad(loss)(p, rows) for rows in (True, False)]
  )(params)
  assert_same(*jax.tree.map(np.asarray, (result, expected)))
  kernels = [x for x in jax.tree.leaves(expected[1]) if x.ndim == 4]
  assert min(jnp.abs(x).max() for x in kernels) > 1e-4


def convolutions(dtype):
  encoder = encoders.ConvEncoder(
    image_size=8,
    convs=(encoders.ConvLayer(8, 4, 2, 1),),
    fcs=(16,),
    local=0,
    code=4,
    dtype=jnp.dtype(dtype),
  )
  return dim.make(
    dim.Config(
      encoder=encoder,
      critic_units=16,
      prior=None,
      num_classes=0,
      dtype=dtype,
    )
  )


def test_deep_infomax_in_bfloat16_points_where_it_did():
  batch = images(32)
  variables = start(convolutions('float32'), batch)
  expected = gradients(convolutions('float32'), variables, batch)
  assert_near(gradients(convolutions('bfloat16'), variables, batch), expected)


def assert_near(result, expected):
  """Roundings of 2^-9, some ten on a path: 2 % of the loss, cosines of 0.99.

  The type of all numbers is that of float32, and they are not the same.
  """
  (loss, _), grads = result
  (expected_loss, _), expected_grads = expected
  assert 0 < abs(loss - expected_loss) <= 0.02 * abs(expected_loss)
  assert {x.dtype for x in jax.tree.leaves(grads)} == {np.dtype(np.float32)}
  found = cosines(grads, expected_grads)
  assert min(found.values()) > 0.99, found


def test_the_average_is_that_of_the_steps_and_what_is_evaluated(
  tmp_path, capsys
):
  config = config_lib.ExperimentConfig(
    objective=dim.Config(
      encoder=encoders.MLPCode(units=(8,), code=4),
      critic='concat',
      critic_units=4,
      local_feature='input',
      map_feature='fc',
      prior=None,
      num_classes=0,
    ),
    data=config_lib.DataConfig(name='digits', image_size=8),
    optimizer=config_lib.OptimizerConfig(learning_rate=0.01),
    average=0.7,
    batch_size=32,
    accumulate=2,
    steps=3,
    log_every=1,
    checkpoint_every=1,
    keep=3,
  )
  train.train(config, str(tmp_path), devices=1, show_progress=False)
  # The note on accumulation, of one row of pixels an image.
  assert (
    'accumulate=2: the negatives of an anchor come from its own micro-batch of '
    '16: mi/local 15 instead of 31, ceiling 2.77 nats instead of 3.47. For the '
    'gradient of all use objective.memory.micro_batch.'
  ) in capsys.readouterr().err
  history = [
    dim_jax.load(tmp_path, step, average=False).variables[0]
    for step in (1, 2, 3)
  ]
  expected = jax.tree.map(
    # The newest first, weights that sum to 1 - 0.7**3.
    lambda a, b, c: (0.3 * c + 0.21 * b + 0.147 * a) / 0.657,
    *jax.tree.map(lambda x: np.asarray(x, np.float64), history),
  )
  encoder = dim_jax.load(tmp_path)
  assert encoder.averaged and encoder.step == 3
  assert_same(encoder.variables[0], expected, 1e-6)
  gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected, history[-1])
  assert max(jax.tree.leaves(gap)) > 1e-3
  x = images()['image']
  features = encoder.encode((expected, encoder.variables[1]), {'image': x})
  np.testing.assert_allclose(
    encoder(x)['y'], features['y'], rtol=1e-4, atol=1e-5
  )
