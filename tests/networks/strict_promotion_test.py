"""Every network trains where JAX refuses implicit promotion of dtypes."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from dim_jax.networks import (
  context,
  critics,
  decoders,
  encoders,
  energies,
  generators,
  greedy_modules,
  posteriors,
)
from dim_jax.networks.convolutional import ConvLayer

KEY = jax.random.key(0)
DTYPES = (jnp.float32, jnp.bfloat16)


class Coded(nn.Module):
  """A bottleneck's samples, rate and density."""

  covariance: str
  scale: str

  @nn.compact
  def __call__(self, x):
    code = posteriors.Bottleneck(3, self.covariance, self.scale)(x)
    noise = jnp.ones((1, len(x), 3))
    return code.sample(KEY), code.rate(), code.log_prob(noise)


def networks():
  """Modules, the shapes of their inputs, and whether they take `train`."""
  for name in encoders.ENCODERS:
    for dtype in DTYPES:
      stochastic = 'multi' not in name  # Those have globals instead of a code.
      module = encoders.make(
        name, dtype=dtype, dropout=0.1, stochastic=stochastic
      )
      shape = (2, module.image_size, module.image_size, 3)
      yield f'{name}_{dtype.__name__}', module, [shape], True
  for norm in ('layer', 'group'):
    module = encoders.make('resnet19_32', norm=norm, dtype=jnp.bfloat16)
    yield f'resnet19_32_{norm}', module, [(2, 32, 32, 3)], True
  mlp = encoders.MLPEncoder((8,), dropout=0.1, dtype=jnp.bfloat16)
  yield 'mlp', mlp, [(2, 4, 4, 3)], True
  yield 'mlp_code', encoders.MLPCode((8,), 4, True), [(2, 4, 4, 3)], True
  for dtype in DTYPES:
    modules = (
      greedy_modules.ResNetModule(1, 4, dtype=dtype),
      greedy_modules.PatchModule(4, 4, 2, dtype=dtype),
      context.PixelCNN(3, 2, dtype=dtype),
    )
    for module in modules:
      name = f'{type(module).__name__}_{dtype.__name__}'
      yield name, module, [(2, 8, 8, 3)], False
    for module in (
      greedy_modules.ConvModule(4, 4, 2, 1, dtype=dtype),
      context.GRU(4, dtype=dtype),
    ):
      name = f'{type(module).__name__}_{dtype.__name__}'
      yield name, module, [(2, 8, 3)], False
    for name, critic in critics.CRITICS.items():
      module = critic(8, dtype=dtype)
      yield f'{name}_{dtype.__name__}', module, [(2, 4, 3), (2, 1, 5)], True
    for spectral in (False, True):
      module = critics.Adversary((8, 4), spectral, dtype=dtype)
      name = f'adversary_{spectral}_{dtype.__name__}'
      yield name, module, [(2, 3)], True
    convs = (ConvLayer(4, 3, 1, 1, pool=True), ConvLayer(4, 3, 2, 1))
    for norm, spectral in (('group', False), (None, True)):
      module = critics.PairAdversary(convs, (8,), norm, spectral, dtype=dtype)
      name = f'pair_adversary_{norm}_{dtype.__name__}'
      yield name, module, [(2, 8, 8, 3), (2, 5)], True
    module = critics.CoordinateHead(8, dtype=dtype)
    name = f'coordinates_{dtype.__name__}'
    yield name, module, [(2, 3, 3, 4), (2, 1, 5)], True
  yield 'classifier', decoders.Classifier(3, (4,)), [(2, 3)], False
  for covariance, scale in (
    ('full', 'softplus'),
    ('diagonal', 'softplus'),
    ('diagonal', 'log_variance'),
    ('diagonal', 'unit'),
  ):
    name = f'{covariance}_{scale}'
    yield name, Coded(covariance, scale), [(2, 5)], False
  yield 'mlp_energy', energies.MLPEnergy((8,)), [(3, 2)], False
  energy = energies.AutoencoderEnergy(4, 4)
  yield 'autoencoder', energy, [(2, 8, 8, 1)], False
  yield 'rbm', energies.RBM(4), [(3, 2)], False
  yield 'mlp_generator', generators.MLPGenerator((2,), (8,)), [(3, 4)], False
  decoder = decoders.ConvDecoder((8, 8, 1), 4)
  yield 'decoder', decoder, [(3, 5)], True
  generator = generators.ConvGenerator((8, 8, 1), 4)
  yield 'conv_generator', generator, [(3, 4)], False


ALL = list(networks())


@pytest.mark.parametrize(
  ('module', 'shapes', 'trains'), [x[1:] for x in ALL], ids=[x[0] for x in ALL]
)
def test_gradients_need_no_implicit_promotion(module, shapes, trains):
  settings = {'train': True} if trains else {}

  def init(*inputs):
    rngs = {'params': KEY, 'dropout': KEY}
    return module.init(rngs, *inputs, **settings)

  def step(variables, *inputs):
    def apply(params, inputs):
      outputs, _ = module.apply(
        {**variables, 'params': params},
        *inputs,
        **settings,
        rngs={'dropout': KEY},
        mutable=['batch_stats'],
      )
      return outputs

    outputs, pull_back = jax.vjp(apply, variables['params'], inputs)
    return pull_back(jax.tree.map(jnp.ones_like, outputs))

  inputs = [jnp.ones(shape) for shape in shapes]
  with jax.numpy_dtype_promotion('strict'):
    variables = jax.eval_shape(init, *inputs)
    jax.eval_shape(step, variables, *inputs)


def test_exact_samples_of_an_rbm():
  rbm = energies.RBM(4)
  params = rbm.init(KEY, jnp.ones((3, 2)))['params']
  with jax.numpy_dtype_promotion('strict'):
    jax.eval_shape(rbm.log_partition, params)
    jax.eval_shape(lambda p: rbm.sample(p, KEY, 5), params)
    jax.eval_shape(lambda p: rbm.gibbs(p, KEY, jnp.ones((3, 2))), params)
