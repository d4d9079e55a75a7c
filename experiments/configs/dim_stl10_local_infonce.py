"""DIM(L) with InfoNCE on STL-10: Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_stl10_local_infonce.py \
      --workdir=runs/dim_stl10_local_infonce

Trains on the 100,000 images without labels, mirrored crops of 64x64 at random;
the paper adds the 5,000 labelled ones, which here serve for probes alone, as
their central 64x64. The released code resizes to 64x64 instead. Objective and
optimizer are as in dim_cifar10_local_infonce.py, the network is the paper's
AlexNet, meant for an accelerator. Not trained here.
"""

from dim_jax.config import DataConfig, ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 200 epochs of 100,000 images."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.encoder = 'alex64'
  config.data = DataConfig(
    name='stl10', image_size=None, unlabelled=True, crop=64, flip=True
  )
  config.steps = 312_400
  config.checkpoint_every = 5000
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2',
    'row': 'DIM(L) infoNCE',
    'probe': 'mlp',
    'conv': 72.57,
    'fc': 70.00,
    'y': 67.08,
  }
  return config
