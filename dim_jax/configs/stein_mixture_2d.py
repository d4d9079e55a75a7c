r"""An energy in the plane, on a mixture of three Gaussians.

  dim-jax train --config=stein_mixture_2d --workdir=runs/mixture_2d
  dim-jax density runs/mixture_2d

Other negatives with --config.objective.negatives=NAME: short_run, persistent,
buffer, stein (SteinCD); generator (SteinGAN) or mixture, for which the energy
must learn slower than the generator: --config.optimizer.learning_rate=1e-4
--config.objective.energy_penalty=0.01.
Other points with --config.data.name=ring, gaussian or banana. The truth is
known: dim-jax density prints the divergence from it.

Measured, seeds 0 to 2 (experiments/results/stein_mixture_2d.json), nats: this
config 0.030, SteinCD 0.048, SteinGAN 0.287, mixture 0.100; one Gaussian 0.638.
"""

from dim_jax.config import ExperimentConfig, OptimizerConfig, PointConfig
from dim_jax.objectives import energy_model


def get_config() -> ExperimentConfig:
  """CD with 10 steps of MALA; 2,000 steps of 200 points."""
  return ExperimentConfig(
    objective=energy_model.Config(
      transition='mala',
      steps=10,
      step_size=0.05,
      chains=1000,
      latent_size=8,
    ),
    data=PointConfig(name='mixture_2d'),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    groups={'generator': OptimizerConfig(learning_rate=2e-3)},
    batch_size=200,
    steps=2000,
    log_every=100,
    checkpoint_every=500,
  )
