"""Deep InfoMax on Tiny ImageNet: the rows of Hjelm et al. 2019, table 2.

  dim-jax train --config=dim_tiny_imagenet:local_infonce \
      --workdir=runs/dim_tiny_imagenet

`--config.data.name` is the path of the unzipped tiny-imagenet-200.zip. Images
are not augmented; the paper says nothing of it. Objective and optimizer are as
in dim_cifar10.py, the network is the paper's AlexNet, meant for an accelerator.
Not trained here. The published numbers hold out no validation images; here a
tenth of the training set is.
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.configs import Row, dim_cifar10, get
from dim_jax.configs import _dim_rows as dim_rows


def local_infonce() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 200 epochs of 90,000 images."""
  config = dim_cifar10.local_infonce()
  config.objective.encoder = 'alex64'
  config.objective.num_classes = 200
  config.data = DataConfig(name='tiny-imagenet-200/', image_size=64)
  config.steps = 281_200
  config.checkpoint_every = 5000
  return config


ROWS: Mapping[str, Row] = {
  **dim_rows.table_rows(
    local_infonce,
    'table 2',
    {
      'supervised': (36.6,),
      'vae': (18.63, 16.88, 11.93),
      'ae': (19.07, 16.39, 11.82),
      'beta_vae': (19.29, 16.77, 12.43),
      'aae': (18.04, 17.27, 11.49),
      'bigan': (24.38, 20.21, 13.06),
      'nat': (13.7, 11.62, 1.2),
      'global': (11.32, 6.34, 4.95),
      'local_dv': (30.35, 29.51, 28.18),
      'local_jsd': (33.54, 36.88, 31.66),
      'local_infonce': (34.21, 38.09, 33.33),
    },
  ),
}

TABLE = dim_rows.TABLE


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
