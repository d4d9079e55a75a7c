"""Measures the density that a run of an energy learned, in nats."""

import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.table

import dim_jax
from dim_jax import config as config_lib
from dim_jax import files
from dim_jax.data import load as data_lib
from dim_jax.data import points
from dim_jax.evaluation import classification, likelihood
from dim_jax.losses import priors
from dim_jax.runs import provenance, tables

_SAVED = 2000
_SAVED_IMAGES = 64
_GRID = 101
_ROWS = 256  # examples that are scored at once
_ARROWS = 21
# Cells along each axis, of the box and of one that is twice as wide.
_CELLS = {1: 4000, 2: 200}
# Kernels of the discrepancy, in root mean square distances of two examples.
_WIDTHS = (0.125, 0.25, 0.5, 1.0)


def density(
  run_dir: str,
  *,
  step: int | None = None,
  ais: bool = False,
  chains: int = 100,
  temperatures: int = 1000,
  samples: int = 1000,
  chain_steps: int = 1000,
  classifier: str | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Measures a run and writes the results into its folder.

  Args:
    run_dir: the run of an objective that has a `density`.
    step: which checkpoint; the newest if None.
    ais: estimate log Z by annealed importance sampling; an RBM's always is.
    chains: of AIS.
    temperatures: of AIS.
    samples: how many to compare with the test set, as training makes its
      negatives (fewer where fewer chains are kept), or exact ones of an RBM.
    chain_steps: transitions of chains that start from noise, where training
      started at the data.
    classifier: the run of a classifier of these images, to score samples by.
    seed: of samples and AIS.

  Returns:
    The contents of evaluation/density.json. 'rows' has the model, once for each
    way to normalise it, and what it is compared with: log Z, mean log
    likelihood of the test set with its standard error over examples, and the
    divergence of each from the truth where that is known, all in nats an
    example.

  Raises:
    FileNotFoundError: the folder is not a run, or has no such checkpoint.
    ValueError: it has no energy, or none to normalise; the other run is no
      classifier of such images.
  """
  started = time.time()
  run_dir = os.path.expanduser(run_dir)
  trained = dim_jax.load(run_dir, step)
  setup = _load(trained, run_dir, ais)
  scorer = None if classifier is None else _load_classifier(classifier, setup)
  arrays: dict[str, Any] = {'f_test': setup.f_test[:_SAVED]}
  rows = _normalised_on_a_box(setup, arrays)
  exact = setup.density.log_partition
  if exact is not None:
    log_z = float(exact(setup.params))
    rows.append(setup.row('model', 'exact', setup.f_test - log_z, log_z=log_z))
  if ais or exact is not None:
    rows.append(_annealed(setup, chains, temperatures, seed))
  rows += _references(setup, bool(rows))
  x = _samples(setup, trained.variables, samples, chain_steps, seed)
  origin = _origin(setup, trained.config.objective, chain_steps)
  few = _SAVED if x.ndim == 2 else _SAVED_IMAGES
  f_samples = np.asarray(jax.jit(setup.energy)(x))[:_SAVED]
  arrays |= dict(data=setup.test[:few], samples=x[:few], f_samples=f_samples)
  compared = _compare(*map(_flat, (x, setup.train, setup.test)))
  config = trained.config.objective
  if scorer is not None:
    compared |= _score(scorer, x, setup.test, config)
  report = provenance.header(setup.examples, trained.step, started) | {
    'energy': str(config_lib.to_json(getattr(config, 'energy', None))),
    'negatives': getattr(config, 'negatives', None),
    'ratio': setup.density.ratio,
    'test_examples': len(setup.test),
    'rows': rows,
    'samples': compared,
    'samples_are': origin,
    'seed': seed,
  }
  path = os.path.join(run_dir, 'evaluation', 'density')
  files.make_folder(os.path.dirname(path))
  files.write_arrays(f'{path}.npz', arrays)
  files.write_json(f'{path}.json', report)
  return report


class _Setup(NamedTuple):
  """An energy and what it is measured on.

  Attributes:
    energy: `x -> [N]`, the unnormalised log density in nats.
    examples: the test set.
    train, test: the examples as the energy sees them, [N, ...].
    f_test: the energy of the test set, float64.
    points: the name of the density that the points are drawn from, or None.
    truth: its logarithm at the test set, where it is known.
  """

  density: Any
  params: Any
  energy: Callable[[jax.Array], jax.Array]
  examples: data_lib.Examples
  train: np.ndarray
  test: np.ndarray
  f_test: np.ndarray
  points: str | None
  truth: np.ndarray | None

  def row(
    self, name: str, by: str, log_p: np.ndarray, **more: Any
  ) -> dict[str, Any]:
    """Describes a density by its logarithm at the test set."""
    row = {'density': name, 'by': by} | more | _mean('log_likelihood', log_p)
    if self.truth is not None:
      row |= _mean('divergence', self.truth - log_p)
    return row


def _load(trained: dim_jax.Encoder, run_dir: str, ais: bool) -> _Setup:
  """Loads the examples, and raises ValueError where there is no density."""
  config, density = trained.config, trained.objective.density
  run = f'{run_dir!r} is a run of {provenance.title(config.objective)}, which'
  if density is None:
    raise ValueError(f'{run} has no density: measure it with dim-jax evaluate.')
  if ais and density.ratio:
    raise ValueError(f'{run} has no energy to normalise: leave ais out.')
  params, _ = trained.variables
  parts = [
    data_lib.load(config.data, split, progress=False)
    for split in ('train', 'test')
  ]
  train, test = (
    np.asarray(density.inputs(data_lib.batch(part))) for part in parts
  )
  energy = functools.partial(density.log_density, params)
  compiled = jax.jit(energy)
  chunks = np.split(test, range(_ROWS, len(test), _ROWS))
  f_test = _float64(np.concatenate([compiled(chunk) for chunk in chunks]))
  name = truth = None
  if isinstance(config.data, config_lib.PointConfig):
    name = config.data.name
    truth = _float64(points.log_density(name, test))
  return _Setup(
    density, params, energy, parts[1], train, test, f_test, name, truth
  )


def _normalised_on_a_box(
  setup: _Setup, arrays: dict[str, Any]
) -> list[dict[str, Any]]:
  """Normalises points in one or two dimensions, and adds arrays to draw."""
  shape = setup.test.shape[1:]
  if setup.density.ratio or setup.points is None or shape not in ((1,), (2,)):
    return []
  log_z, change = _on_a_box(setup.energy, setup.train)
  arrays |= _picture(setup.points, setup.energy, setup.train, log_z)
  log_p = setup.f_test - log_z
  return [setup.row('model', 'grid', log_p, log_z=log_z, box_change=change)]


def _annealed(
  setup: _Setup, chains: int, temperatures: int, seed: int
) -> dict[str, Any]:
  """Normalises by annealed importance sampling."""
  # Chains from a Gaussian as wide as a mode find its near modes, as the exact
  # row beside it shows.
  std = setup.density.mode_std or 2 * float(np.sqrt(setup.train.var(0).mean()))
  found = likelihood.annealed_importance(
    jax.random.key(seed),
    setup.energy,
    setup.test.shape[1:],
    mean=setup.train.mean(0),
    std=std,
    chains=chains,
    temperatures=temperatures,
  )
  estimate = {name: float(x) for name, x in found._asdict().items()}
  log_z = estimate.pop('log_z')
  estimate['log_z_error'] = estimate.pop('standard_error')
  log_p = setup.f_test - log_z
  return setup.row(
    'model', 'AIS', log_p, log_z=log_z, chains=chains, **estimate
  )


def _references(setup: _Setup, normalised: bool) -> list[dict[str, Any]]:
  """Measures what the model is compared with."""
  train, test = _flat(setup.train), _flat(setup.test)
  if setup.truth is not None:
    covariance = np.atleast_2d(np.cov(train, rowvar=False))
    gaussian = _gaussian(train.mean(0), covariance, test)
    return [
      setup.row('N(mean, covariance)', 'exact', gaussian),
      setup.row('truth', 'exact', setup.truth),
    ]
  if not normalised:
    return []
  log_p = _gaussian(train.mean(0), np.eye(test.shape[1]), test)
  return [setup.row('N(mean, I)', 'exact', log_p)]


def _samples(
  setup: _Setup, variables: Any, count: int, chain_steps: int, seed: int
) -> np.ndarray:
  """Draws exact samples where that is known, else as training does."""
  rng, shape = jax.random.key(seed), setup.test.shape[1:]
  if setup.density.exact_sample is not None:
    flat = setup.density.exact_sample(setup.params, rng, count)
    return np.asarray(flat).reshape(count, *shape)
  draw = functools.partial(
    setup.density.sample, count=count, shape=shape, steps=chain_steps
  )
  return np.asarray(jax.jit(draw)(variables, rng))


def _origin(setup: _Setup, config: Any, chain_steps: int) -> str:
  """Says where samples are from."""
  if setup.density.exact_sample is not None:
    return 'Exact samples of the model'
  if getattr(config, 'negatives', None) in ('cd', 'stein'):
    return f'Of chains of {chain_steps:,} steps from noise'
  return 'As training makes its negatives'


def _float64(x: Any) -> np.ndarray:
  return np.asarray(x, np.float64)


def _flat(x: np.ndarray) -> np.ndarray:
  return _float64(x).reshape(len(x), -1)


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
  """Returns the mean and its standard error."""
  error = values.std(ddof=1) / math.sqrt(len(values))
  return {name: float(values.mean()), f'{name}_error': float(error)}


def _gaussian(
  mean: np.ndarray, covariance: np.ndarray, x: np.ndarray
) -> np.ndarray:
  """Returns the log density of a Gaussian, [n]."""
  factor = np.linalg.cholesky(covariance)
  white = np.linalg.solve(factor, (x - mean).T)
  constant = 0.5 * len(factor) * math.log(2 * math.pi)
  return -0.5 * (white**2).sum(0) - np.log(np.diag(factor)).sum() - constant


def _on_a_box(
  energy: Callable[[jax.Array], jax.Array], x: np.ndarray
) -> tuple[float, float]:
  """Returns log Z on a box around the data, and what doubling it had added."""
  reach = 3 * x.std(0) + 1
  low, high = x.min(0) - reach, x.max(0) + reach
  half, cells = (high - low) / 2, _CELLS[x.shape[1]]

  def log_z(low: np.ndarray, high: np.ndarray, cells: int) -> float:
    ends = tuple(low.tolist()), tuple(high.tolist())
    return float(likelihood.grid_log_partition(energy, *ends, cells))

  wide = log_z(low - half, high + half, 2 * cells)
  return wide, wide - log_z(low, high, cells)


def _picture(
  name: str,
  energy: Callable[[jax.Array], jax.Array],
  x: np.ndarray,
  log_z: float,
) -> dict[str, np.ndarray]:
  """Returns log densities of model and truth on a grid, and the score."""
  reach = 0.5 * x.std(0)
  low, high = x.min(0) - reach, x.max(0) + reach

  def grid(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    axes = [np.linspace(*ends, count) for ends in zip(low, high, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    return axes, nodes.reshape(-1, len(axes)).astype(np.float32)

  axes, nodes = grid(_GRID)
  _, arrows = grid(_ARROWS)
  shape = (_GRID,) * len(axes)
  score = jax.jit(jax.grad(lambda x: energy(x).sum()))
  log_density = np.asarray(jax.jit(energy)(nodes)) - log_z
  log_truth = np.asarray(points.log_density(name, nodes))
  return {f'axis_{i}': axis for i, axis in enumerate(axes)} | {
    'log_density': log_density.reshape(shape),
    'true_log_density': log_truth.reshape(shape),
    'score_points': arrows,
    'score': np.asarray(score(arrows)),
  }


def _compare(
  samples: np.ndarray, train: np.ndarray, test: np.ndarray
) -> dict[str, Any]:
  """Compares samples with the test set, beside as many training examples."""
  count = min(len(samples), len(train), len(test))
  distance = math.sqrt(2 * train.var(0).sum())
  widths = [float(width * distance) for width in _WIDTHS]
  mmd = jax.jit(functools.partial(priors.mmd, bandwidths=widths))

  def to_test(x: np.ndarray) -> float:
    return float(mmd(*(jnp.asarray(y[:count], jnp.float32) for y in (x, test))))

  return {
    'count': count,
    'mmd': to_test(samples),
    'mmd_of_data': to_test(train),
    'mmd_bandwidths': widths,
    'mean_distance': float(np.linalg.norm(samples.mean(0) - test.mean(0))),
    'variance_ratio': float(samples.var(0).sum() / test.var(0).sum()),
  }


def _load_classifier(run_dir: str, setup: _Setup) -> dim_jax.Encoder:
  """Loads a run that classifies images of the test set's shape."""
  classifier = dim_jax.load(run_dir)
  shape = setup.test.shape[1:]
  if classifier.objective.logits is None or classifier.input_shape != shape:
    raise ValueError(
      f'classifier={run_dir!r} is a run of '
      f'{provenance.title(classifier.config.objective)} on examples of shape '
      f'{classifier.input_shape}: it must classify images of shape {shape}, as '
      '--config=vib_mnist:short does those of MNIST.'
    )
  return classifier


def _score(
  classifier: dim_jax.Encoder,
  samples: np.ndarray,
  test: np.ndarray,
  objective: Any,
) -> dict[str, Any]:
  """Scores samples by a classifier, and as many test images."""
  low, high = getattr(objective, 'input_range', (-1.0, 1.0))

  def logits(x: np.ndarray) -> np.ndarray:
    images = 2 * (x - low) / (high - low) - 1
    return classifier(np.clip(images, -1, 1).astype(np.float32))['logits']

  of_samples = logits(samples)
  classes = of_samples.shape[1]
  counts = np.bincount(of_samples.argmax(1), minlength=classes)
  return {
    'classifier': f'{provenance.title(classifier.config.objective)}, '
    f'step {classifier.step}',
    'classifier_score': classification.classifier_score(of_samples),
    'classifier_score_of_data': classification.classifier_score(
      logits(test[: len(samples)])
    ),
    'classes': (counts / len(of_samples)).tolist(),
  }


def notes(report: dict[str, Any]) -> str:
  """Writes what `density` returned of samples, and how to read its table."""
  samples = report['samples']
  lines = [
    f'{samples["count"]} samples: MMD^2 {samples["mmd"]:.4f} to the test set '
    f'(training examples: {samples["mmd_of_data"]:.4f}), mean off by '
    f'{samples["mean_distance"]:.3f}, variance {samples["variance_ratio"]:.2f} '
    'of its.'
  ]
  if 'classifier_score' in samples:
    lines.append(
      f'Classifier score {samples["classifier_score"]:.2f} of '
      f'{len(samples["classes"])} (test images: '
      f'{samples["classifier_score_of_data"]:.2f}).'
    )
  if report['rows']:
    lines.append(
      '± standard error: of log Z over chains, else over test examples. N(...) '
      'has the moments of the training examples.'
    )
  elif report['ratio']:
    lines.append('Its score is a ratio of densities, which has no log Z.')
  else:
    lines.append('The energy is not normalised: --ais estimates log Z.')
  for row in report['rows']:
    change = row.get('box_change', 0.0)
    if abs(change) > 0.01:
      lines.append(
        f'The box is too narrow: doubling it changed log Z by {change:.3f}.'
      )
  return '\n'.join(lines)


def table(report: dict[str, Any]) -> rich.table.Table:
  """Tabulates what `density` returned of densities."""
  titles = {
    'log_z': 'log Z',
    'log_likelihood': 'log likelihood',
    'divergence': 'KL(data || it)',
  }
  given = set().union(*report['rows'])
  names = {name: title for name, title in titles.items() if name in given}
  rows = []
  for row in report['rows']:
    cells = []
    for name in names:
      cell = f'{row[name]:.3f}' if name in row else ''
      error = row.get(f'{name}_error')
      cells.append(cell if error is None else f'{cell} ± {error:.3f}')
    rows.append((row['density'], row['by'], *cells))
  return tables.table(
    ('density', 'by', *names.values()),
    rows,
    words=2,
    title=(
      f'{report["dataset"]}, step {report["step"]}, negatives '
      f'{report["negatives"]}: nats an example'
    ),
  )
