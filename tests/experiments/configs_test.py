"""Every config builds, and says how it is run."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from dim_jax import config as config_lib
from dim_jax.networks import encoders
from dim_jax.objectives import dim, vib

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'experiments' / 'configs').glob('*.py'))
CHANNELS = {'digits': 1, 'mnist': 1, 'cifar10': 3, 'cifar100': 3}
STORED_SIZE = {'mnist': 28, 'cifar10': 32, 'cifar100': 32}
# Hjelm et al. 2019, table 1: alpha, beta, gamma; and the bound.
ROWS = {
  'dim_cifar10_global': (1.0, 0.0, 1.0, 'jsd'),
  'dim_cifar10_local_dv': (0.0, 1.0, 0.1, 'donsker_varadhan'),
  'dim_cifar10_local_jsd': (0.0, 1.0, 0.1, 'jsd'),
  'dim_cifar10_local_infonce': (0.0, 1.0, 0.1, 'infonce'),
  'dim_cifar10_local_global': (0.5, 0.1, 0.1, 'jsd'),
}


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_traces_and_names_its_command(path):
  module = load(path)
  config = module.get_config()
  if isinstance(config, config_lib.SweepConfig):
    assert config_lib.from_json(config_lib.to_json(config)) == config
    assert len(config.betas) >= 5 and len(config.seeds) >= 3
    config = config.run
  config_lib.check(config)
  assert config_lib.from_json(config_lib.to_json(config)) == config
  assert f'--config=experiments/configs/{path.name}' in module.__doc__.replace(
    '\\\n', ''
  )
  objective = config_lib.make_objective(config)
  size = config.data.image_size or STORED_SIZE[config.data.name]
  if config.objective.encoder != 'mlp':
    assert size == encoders.make(config.objective.encoder).image_size
  shape = (config.batch_size, size, size, CHANNELS[config.data.name])
  batch = {
    'image': jax.ShapeDtypeStruct(shape, np.uint8),
    'label': jax.ShapeDtypeStruct(shape[:1], np.int32),
  }
  rng = jax.random.key(0)
  params, model_state = jax.eval_shape(objective.init, rng, batch)
  loss, (metrics, _) = jax.eval_shape(
    objective.loss, params, model_state, batch, rng
  )
  assert loss.shape == ()
  assert all(value.shape == () for value in metrics.values())


def test_there_is_a_config_a_paper_row():
  for name, (alpha, beta, gamma, bound) in ROWS.items():
    config = load(ROOT / 'experiments' / 'configs' / f'{name}.py').get_config()
    objective = config.objective
    assert isinstance(objective, dim.Config)
    weights = (
      objective.global_weight,
      objective.local_weight,
      objective.prior_weight,
    )
    assert weights == (alpha, beta, gamma)
    assert objective.bound == bound
    assert config.optimizer.learning_rate == 1e-4
    assert config.optimizer.b1 == 0.5
    assert config.paper['row'].startswith('DIM(')


# Alemi et al. 2017, table 1: what each row adds to the network, and its error.
VIB_ROWS = {
  'vib_mnist': ({'covariance': 'diagonal', 'beta': 1e-3, 'code': 256}, 1.13),
  'vib_mnist_deterministic': ({}, 1.38),
  'vib_mnist_dropout': ({'dropout': 0.5}, 1.34),
  'vib_mnist_label_smoothing': ({'label_smoothing': 0.1}, 1.40),
  'vib_mnist_confidence_penalty': ({'confidence_penalty': 1.0}, 1.36),
}


@pytest.mark.parametrize('name', VIB_ROWS)
def test_the_rows_of_the_bottleneck_differ_in_what_the_paper_says(name):
  fields, error = VIB_ROWS[name]
  config = load(ROOT / 'experiments' / 'configs' / f'{name}.py').get_config()
  assert config.objective == vib.Config(**{'covariance': 'none'} | fields)
  assert config.paper['error_12'] == error
  # 200 epochs of the 60,000 images; the rate falls by 3 % every 2 epochs.
  assert config.steps * config.batch_size == 200 * 60_000
  assert config.data.validation == 0
  optimizer = config.optimizer
  assert optimizer.decay_every * config.batch_size == 2 * 60_000
  assert (optimizer.learning_rate, optimizer.b1) == (1e-4, 0.5)
  assert (optimizer.decay, config.average) == (0.97, 0.999)
  small = load(
    ROOT / 'experiments' / 'configs' / f'{name.replace("mnist", "digits")}.py'
  ).get_config()
  for field in ('dropout', 'label_smoothing', 'confidence_penalty'):
    assert getattr(small.objective, field) == getattr(config.objective, field)
