"""Deep InfoMax on MNIST, with the encoder for 28x28 images.

  dim-jax train --config=dim_mnist:local_infonce --workdir=runs/mnist

No result of these runs has been measured yet, but for the terms of su, Su's
variant, with the encoder small32: by `experiments.studies.su`, 120 steps of
seed 0 (experiments/results/su_mnist.json).
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.configs import Row, changed, dim_cifar10, get
from dim_jax.configs import _dim_rows as dim_rows


def local_infonce() -> ExperimentConfig:
  """All but data, encoder and length is as for CIFAR-10."""
  config = dim_cifar10.local_infonce()
  config.objective.encoder = 'basic28'
  config.objective.critic_units = 512
  config.data = DataConfig(name='mnist', image_size=None)
  config.steps = 2000
  return config


ROWS: Mapping[str, Row] = {
  'local_infonce': Row('DIM(L) with InfoNCE', local_infonce),
  'jsd': Row('DIM(L) with the JSD bound', changed(local_infonce, dim_rows.jsd)),
  'su': Row(
    "Su's variant: Gaussian codes, pairs of codes, one negative",
    changed(local_infonce, dim_rows.su),
  ),
}


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
