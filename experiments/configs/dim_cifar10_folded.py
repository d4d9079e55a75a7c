"""DIM(L) on strided crops of CIFAR-10, against CPC: Hjelm et al. 2019.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar10_folded.py \
      --workdir=runs/dim_cifar10_folded

The encoder sees 7x7 overlapping crops of 8 pixels, each alone. The paper calls
it a ResNet-50; the released code's comments name this one of 37 convolutions.
The released command has no prior and 1024 units, and so it is here. Not trained
here. The published accuracy is from memory, not checked against the paper; it
is taken to be a probe's on the folded map.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0; one global, the code."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.encoder = 'foldresnet34_32'
  config.objective.critic_units = 1024
  config.objective.prior_weight = 0.0
  config.paper = {
    'source': 'Hjelm et al. 2019, CPC comparison (from memory, unverified)',
    'row': 'DIM(L) single global',
    'probe': 'mlp',
    'conv': 80.95,
  }
  return config
