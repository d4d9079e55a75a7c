"""DIM(L) with InfoNCE on Tiny ImageNet: Hjelm et al. 2019, table 2.

  python -m experiments.train \
      --config=experiments/configs/dim_tiny_imagenet_local_infonce.py \
      --workdir=runs/dim_tiny_imagenet_local_infonce

`--config.data.name` is the path of the unzipped tiny-imagenet-200.zip. Images
are not augmented; the paper says nothing of it. Objective and optimizer are as
in dim_cifar10_local_infonce.py, the network is the paper's AlexNet, meant for
an accelerator. Not trained here. The published numbers hold out no validation
images; here a tenth of the training set is.
"""

from dim_jax.config import DataConfig, ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 200 epochs of 90,000 images."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.encoder = 'alex64'
  config.objective.num_classes = 200
  config.data = DataConfig(name='tiny-imagenet-200/', image_size=64)
  config.steps = 281_200
  config.checkpoint_every = 5000
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2',
    'row': 'DIM(L) infoNCE',
    'probe': 'mlp',
    'conv': 34.21,
    'fc': 38.09,
    'y': 33.33,
  }
  return config
