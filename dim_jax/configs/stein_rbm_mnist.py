r"""A Gaussian-Bernoulli RBM of 10 hidden units on MNIST, by CD-1.

  dim-jax train --config=stein_rbm_mnist --workdir=runs/rbm
  dim-jax density runs/rbm

After Liu and Wang, Learning deep energy models, 2017, with pixels in [0, 1].
Its partition function is known, so negatives may also be 'exact', or chains
'gibbs': --config.objective.negatives=stein is SteinCD, --config.objective.
transition=gibbs Gibbs sampling. Read a log likelihood beside that of a single
Gaussian, N(train mean, I), which dim-jax density prints.

Measured, seeds 0 to 2 (experiments/results/stein_rbm_mnist.json), nats a test
image by the exact partition function: exact -743.4, Gibbs with 10 steps -744.6,
SteinCD -745.3, Gibbs with one -748.3, this config -749.7; that Gaussian -746.9.

https://arxiv.org/abs/1707.00797
"""

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import energy_model


def get_config() -> ExperimentConfig:
  """CD-1 with a Langevin step of 0.5; Adam 2e-3, batches of 100."""
  return ExperimentConfig(
    objective=energy_model.Config(
      energy='rbm', hidden=10, input_range=(0.0, 1.0), step_size=0.5, chains=100
    ),
    data=DataConfig(name='mnist', image_size=None),
    optimizer=OptimizerConfig(learning_rate=2e-3),
    batch_size=100,
    steps=2000,
    log_every=100,
    checkpoint_every=500,
  )
