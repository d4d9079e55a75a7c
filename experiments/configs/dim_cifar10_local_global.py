"""DIM(L+G) with the JSD bound on CIFAR-10 (Hjelm et al. 2019).

  python -m experiments.train \
      --config=experiments/configs/dim_cifar10_local_global.py \
      --workdir=runs/dim_cifar10_local_global

The paper states no gamma for this row; 0.1 is DIM(L)'s. Its extended comparison
reports the row by a linear SVM, which evaluation measures as 'svm'.
No result of this run has been measured yet.
"""

from dim_jax.config import ExperimentConfig
from experiments.configs import dim_cifar10_local_infonce


def get_config() -> ExperimentConfig:
  """alpha, beta, gamma = 0.5, 0.1, 0.1."""
  config = dim_cifar10_local_infonce.get_config()
  config.objective.bound = 'jsd'
  config.objective.global_weight = 0.5
  config.objective.local_weight = 0.1
  config.paper = {
    'source': 'Hjelm et al. 2019, extended comparison',
    'row': 'DIM(L+G)',
    'probe': 'svm',
    'conv': 57.55,
    'fc': 45.56,
    'y': 18.63,
  }
  return config
