"""Deep InfoMax on CIFAR-100: the rows of Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar100.py:local_infonce \
      --workdir=runs/dim_cifar100

All but data and classes is as in dim_cifar10.py. The table of structure tasks
has a baseline of its own, conv / fc / y 49.90 / 47.96 / 44.27 %. Not trained
here.
"""

from collections.abc import Mapping

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10
from experiments.configs.dim_cifar10 import MEMORY, published
from experiments.rows import Row, changed, get


def local_infonce() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 1000 epochs of 45,000 images."""
  config = dim_cifar10.local_infonce()
  config.data.name = 'cifar100'
  config.objective.num_classes = 100
  return config


ROWS: Mapping[str, Row] = {
  'local_infonce': Row(
    'DIM(L) with InfoNCE',
    local_infonce,
    published('table 1', 'DIM(L) infoNCE', 49.74, 47.72, 41.61),
  ),
  'local_jsd': Row(
    'DIM(L) with the JSD bound',
    changed(local_infonce, dim_cifar10.jsd),
    published('table 1', 'DIM(L) JSD', 48.13, 45.92, 39.60),
  ),
  'local_dv': Row(
    'DIM(L) with the Donsker-Varadhan bound',
    changed(local_infonce, dim_cifar10.donsker_varadhan),
    published(f'table 1 {MEMORY}', 'DIM(L) DV', 48.52, 44.44, 39.27),
  ),
  'global': Row(
    'DIM(G) with the JSD bound',
    changed(local_infonce, dim_cifar10.jsd, dim_cifar10.global_information),
    published('table 1', 'DIM(G)', 27.68, 24.35, 19.98),
  ),
  'coordinates': Row(
    'DIM(L) with InfoNCE and coordinates',
    changed(local_infonce, dim_cifar10.coordinates),
    published('structure tasks, CIFAR-100', 'DIM + coord', 50.27, 48.61, 45.37),
  ),
  'occlusion': Row(
    'DIM(L) with InfoNCE and occlusion',
    changed(local_infonce, dim_cifar10.occlusion),
    published(
      'structure tasks, CIFAR-100', 'DIM + occlude', 48.87, 47.65, 44.89
    ),
  ),
  'structure': Row(
    'DIM(L) with InfoNCE and both structure tasks',
    changed(local_infonce, dim_cifar10.coordinates, dim_cifar10.occlusion),
    published('structure tasks, CIFAR-100', 'DIM + both', 48.72, 48.0, 45.96),
  ),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
