"""DIM(L) with InfoNCE on CIFAR-10: Hjelm et al. 2019, table 1.

  python -m experiments.train \
      --config=experiments/configs/dim_cifar10_local_infonce.py \
      --workdir=runs/dim_cifar10_local_infonce

The paper's 1000 epochs are meant for an accelerator. Measured on two shared
CPU cores, with `--config.objective.critic_units=512` and a JPEG-recompressed
copy of the data: 5,500 steps in 62 minutes, MLP probe conv / fc / y 61.2 / 57.2
/ 50.4 % (experiments/results/dim_cifar10_local_infonce.json). The critic is
`factored`, the paper's `--config.objective.critic=projection`. The published
numbers hold out no validation images; here a tenth of the training set is.
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import dim


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 64 images a step; Adam 1e-4, b1 0.5."""
  return ExperimentConfig(
    objective=dim.Config(
      encoder='basic32',
      bound='infonce',
      local_weight=1.0,
      global_weight=0.0,
      prior_weight=0.1,
    ),
    data=DataConfig(name='cifar10', image_size=None),
    optimizer=OptimizerConfig(learning_rate=1e-4, b1=0.5),
    players={'probe': OptimizerConfig(learning_rate=1e-3)},
    batch_size=64,
    steps=703_000,
    paper={
      'source': 'Hjelm et al. 2019, table 1',
      'row': 'DIM(L) infoNCE',
      'probe': 'mlp',
      'conv': 75.21,
      'fc': 75.57,
      'y': 69.13,
    },
  )
