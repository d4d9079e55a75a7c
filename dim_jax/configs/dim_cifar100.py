"""Deep InfoMax on CIFAR-100: the rows of Hjelm et al. 2019.

  dim-jax train --config=dim_cifar100:local_infonce --workdir=runs/dim_cifar100

All but data and classes is as in dim_cifar10.py. The table of structure tasks
has a baseline of its own, conv / fc / y 49.90 / 47.96 / 44.27 %. Not trained
here.
"""

from collections.abc import Mapping

from dim_jax.config import ExperimentConfig
from dim_jax.configs import Row, changed, dim_cifar10, get
from dim_jax.configs import _dim_rows as dim_rows
from dim_jax.configs._dim_rows import published


def local_infonce() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 1000 epochs of 45,000 images."""
  config = dim_cifar10.local_infonce()
  config.data.name = 'cifar100'
  config.objective.num_classes = 100
  return config


ROWS: Mapping[str, Row] = {
  **dim_rows.table_rows(
    local_infonce,
    'table 1',
    {
      'supervised': (42.27,),
      'vae': (37.21, 34.05, 24.22),
      'ae': (31.5, 23.89, 27.44),
      'beta_vae': (32.28, 26.89, 28.96),
      'aae': (36.22, 33.38, 23.25),
      'bigan': (37.59, 33.34, 21.49),
      'nat': (29.18, 24.57, 9.72),
      'global': (27.68, 24.35, 19.98),
      'local_dv': (48.52, 44.44, 39.27),
      'local_jsd': (48.13, 45.92, 39.6),
      'local_infonce': (49.74, 47.72, 41.61),
    },
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

TABLE = dim_rows.TABLE


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
