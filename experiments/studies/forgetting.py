"""Trains VAEs whose codes tell few nats of an image, and shows what is left.

  python -m experiments.studies.forgetting --workdir=runs/forgetting

Each of --nats is a run in WORKDIR/NATS_nats, a VAE whose mean rate is held at
so many nats an image (Burgess et al. 2018). WORKDIR/report/index.html has the
three views of forgetting: what each unit of the codes keeps, which images cost
most, and reconstructions side by side; WORKDIR/forgetting.json has the numbers.
The same command continues where it was interrupted.

Burgess et al., Understanding disentangling in beta-VAE, 2018.
https://arxiv.org/abs/1804.03599
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.table

import dim_jax
from dim_jax import checks, files, scale
from dim_jax import config as config_lib
from dim_jax.commands.command import Command, show
from dim_jax.data import batches
from dim_jax.data import load as data
from dim_jax.evaluation import units as units_lib
from dim_jax.networks import encoders, posteriors
from dim_jax.objectives import autoencoder
from dim_jax.objectives.terms.prior_matching import Prior
from dim_jax.report import page
from dim_jax.runs import evaluate, provenance, represent, tables, train
from dim_jax.training import metrics


def small_vae(
  dataset: str, steps: int = 1000, seed: int = 0
) -> config_lib.ExperimentConfig:
  """Returns the config that the command trains, of images of 16x16 pixels.

  The encoder is an MLP with a code of 16 units, the decoder has 32 channels at
  4x4.
  """
  return config_lib.ExperimentConfig(
    objective=autoencoder.Config(
      encoder=encoders.MLPCode(code=16, stochastic=True),
      code=16,
      decoder_channels=32,
      num_classes=0,
    ),
    data=config_lib.DataConfig(name=dataset, image_size=16, validation=0.0),
    optimizer=config_lib.OptimizerConfig(learning_rate=1e-3),
    batch_size=64,
    steps=steps,
    seed=seed,
    log_every=100,
    checkpoint_every=500,
  )


def budgeted(
  config: config_lib.ExperimentConfig, nats: float, weight: float
) -> config_lib.ExperimentConfig:
  """Returns the config of a VAE whose rate is held.

  Args:
    config: of an autoencoder.
    nats: the mean rate of an image.
    weight: of its distance from that.

  Raises:
    ValueError: the config is of another method.
  """
  if not isinstance(config.objective, autoencoder.Config):
    raise ValueError(
      'a config of an autoencoder is needed, such as dim_digits:vae; got '
      f'one of {type(config.objective).__module__}.'
    )
  prior = Prior(
    distribution='kl', weight=weight, budget=nats, constraint='hold'
  )
  objective = dataclasses.replace(config.objective, prior=prior)
  return dataclasses.replace(config, objective=objective)


def forgetting(
  config: config_lib.ExperimentConfig,
  workdir: str,
  *,
  nats: Sequence[float] = (1, 4, 16),
  weight: float = 20.0,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains, measures and draws every budget that is not finished.

  Args:
    config: of an autoencoder; its prior is not used.
    workdir: the folder of the runs.
    nats: the budgets.
    weight: of the distance of the rate from its budget, above what a nat is
      worth to the reconstruction.
    show_progress: show bars, or lines.

  Returns:
    The contents of forgetting.json; 'rows' has one a budget, all of test
    images: 'rate' and its standard deviation over images, nats; 'active' of
    'units', and their 'capacity', nats; and the 'squared_error' of
    reconstructions from mean codes, over pixels in [-1, 1], beside that of the
    mean image of the training set, 'mean_image_error'.

  Raises:
    ValueError: no config of an autoencoder, or a run's folder holds another.
  """
  if not nats or min(nats) < 0:
    raise ValueError(f'--nats must be one or more >= 0, got {list(nats)}.')
  checks.check_range('--weight', weight, '(0, inf)')
  train_set, test = (
    data.load(config.data, split, validation=0.0, progress=show_progress)
    for split in ('train', 'test')
  )
  started, rows, folders = time.time(), [], []
  for budget in nats:
    run_dir = os.path.join(workdir, f'{budget:g}_nats')
    run = budgeted(config, budget, weight)
    train.train(run, run_dir, show_progress=show_progress)
    options: dict[str, Any] = {
      'show_progress': show_progress,
      'encoders': ('trained',),
    }
    represent.represent(run_dir, measures=('units',), **options)
    # It keeps the reconstructions that the page shows.
    evaluate.evaluate(run_dir, probes=('knn',), features=('y',), **options)
    rows.append(_measure(run_dir, budget, test))
    folders.append(run_dir)
  mean = train_set.inputs.astype(np.float64).mean(0, keepdims=True)
  report = provenance.header(test, config.steps, started) | {
    'weight': weight,
    'test_examples': len(test.inputs),
    'mean_image_error': _error(mean, test.inputs),
    'rows': rows,
    'config': config_lib.to_json(config),
  }
  files.write_json(os.path.join(workdir, 'forgetting.json'), report)
  page.write(folders, os.path.join(workdir, 'report'))
  return report


def _measure(
  run_dir: str, budget: float, test: data.Examples
) -> dict[str, Any]:
  """Measures a run's rate, units and reconstructions on the test images."""
  encoder = dim_jax.load(run_dir)
  posterior: Any = encoder.objective.posterior
  generator: Any = encoder.objective.generator

  @jax.jit
  def run(variables: Any, images: jax.Array) -> tuple[Any, ...]:
    code = posterior(variables, {'image': images})
    decoded = scale.to_pixels(generator.images(variables, code.mean))
    return *code, posteriors.Posterior(*code).rate(), decoded

  *code, rate, decoded = batches.map_padded(
    lambda _, images: run(encoder.variables, images), 256, test.inputs
  )
  units = units_lib.measure(*code)
  return {
    'nats': float(budget),
    'rate': float(rate.mean()),
    'rate_std': float(rate.std(ddof=1)),
    'active': units.active,
    'units': len(units.rate),
    'capacity': float(units.capacity.sum()),
    'squared_error': _error(decoded, test.inputs),
    'training_seconds': metrics.read(os.path.join(run_dir, 'metrics.jsonl'))[
      -1
    ]['seconds'],
  }


def _error(images: np.ndarray, truth: np.ndarray) -> float:
  """Computes the mean squared difference of pixels in [-1, 1]."""
  difference = (np.asarray(images, np.float64) - truth) / 127.5
  return float(np.mean(np.square(difference)))


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Tabulates what `forgetting` returned, a row a budget."""
  rows = [
    (
      f'{row["nats"]:g}',
      f'{row["rate"]:.2f} ± {row["rate_std"]:.2f}',
      f'{row["active"]} of {row["units"]}',
      f'{row["capacity"]:.2f}',
      f'{row["squared_error"]:.4f}',
    )
    for row in report['rows']
  ]
  return tables.table(
    ('budget, nats', 'rate', 'active units', 'capacity', 'squared error'),
    rows,
    words=0,
    title=f'{report["dataset"]}, {report["test_examples"]:,} test images, '
    f'step {report["step"]:,}; ± over images; squared error of the mean image '
    f'{report["mean_image_error"]:.4f}',
  )


_COMMAND = Command('studies.forgetting', __doc__)
_WORKDIR = _COMMAND.folder('The folder of the runs.')
_DATASET = _COMMAND.string('dataset', 'digits', 'digits or mnist.')
_STEPS = _COMMAND.integer('steps', 1000, 'Of each run.')
_SEED = _COMMAND.integer('seed', 0, 'Of all runs.')
_NATS = _COMMAND.items('nats', (1.0, 4.0, 16.0), 'A run each.', float)
_WEIGHT = _COMMAND.real('weight', 20.0, 'Of the distance from the budget.')


def main(argv: list[str] | None = None) -> None:
  """Runs the command line."""
  _COMMAND.run(_run, argv)


def _run() -> None:
  config = small_vae(_DATASET.value, _STEPS.value, _SEED.value)
  report = forgetting(
    config, _WORKDIR.value, nats=_NATS.value, weight=_WEIGHT.value
  )
  page_file = os.path.join(_WORKDIR.value, 'report', 'index.html')
  show(table(report), page_file)


if __name__ == '__main__':
  main()
