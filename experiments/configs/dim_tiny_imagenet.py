"""Deep InfoMax on Tiny ImageNet: the rows of Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_tiny_imagenet.py:local_infonce \
      --workdir=runs/dim_tiny_imagenet

`--config.data.name` is the path of the unzipped tiny-imagenet-200.zip. Images
are not augmented; the paper says nothing of it. Objective and optimizer are as
in dim_cifar10.py, the network is the paper's AlexNet, meant for an accelerator.
Not trained here. The published numbers hold out no validation images; here a
tenth of the training set is.
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig
from experiments.configs import dim_cifar10
from experiments.configs.dim_cifar10 import MEMORY, published
from experiments.rows import Row, changed, get


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
  'local_infonce': Row(
    'DIM(L) with InfoNCE',
    local_infonce,
    published('table 2', 'DIM(L) infoNCE', 34.21, 38.09, 33.33),
  ),
  'local_jsd': Row(
    'DIM(L) with the JSD bound',
    changed(local_infonce, dim_cifar10.jsd),
    published('table 2', 'DIM(L) JSD', 33.54, 36.88, 31.66),
  ),
  'local_dv': Row(
    'DIM(L) with the Donsker-Varadhan bound',
    changed(local_infonce, dim_cifar10.donsker_varadhan),
    published(f'table 2 {MEMORY}', 'DIM(L) DV', 30.35, 29.51, 28.18),
  ),
  'global': Row(
    'DIM(G) with the JSD bound',
    changed(local_infonce, dim_cifar10.jsd, dim_cifar10.global_information),
    published('table 2', 'DIM(G)', 11.32, 6.34, 4.95),
  ),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
