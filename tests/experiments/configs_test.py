"""Every config builds, and says how it is run."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from dim_jax import config as config_lib
from dim_jax.networks import encoders
from dim_jax.objectives import dim

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'experiments' / 'configs').glob('*.py'))
CHANNELS = {'digits': 1, 'mnist': 1, 'cifar10': 3, 'cifar100': 3}
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
  config_lib.check(config)
  assert config_lib.from_json(config_lib.to_json(config)) == config
  assert f'--config=experiments/configs/{path.name}' in module.__doc__.replace(
    '\\\n', ''
  )
  objective = config_lib.make_objective(config)
  size = encoders.make(config.objective.encoder).image_size
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
