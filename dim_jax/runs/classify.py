"""Measures a run that classifies: errors, information, attacks, calibration."""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.table

import dim_jax
from dim_jax import checks, files, progress
from dim_jax.data import load as data_lib
from dim_jax.evaluation import classification
from dim_jax.evaluation import units as units_lib
from dim_jax.losses import bottleneck
from dim_jax.objective import Objective
from dim_jax.runs import attack, provenance, tables

_SAVED_IMAGES = 2000
_ELLIPSES = 1000


class Functions(NamedTuple):
  """What a classifier computes; the functions key compiled programs.

  Attributes:
    sampled: `(variables, images, rng) -> [S, N, C]`, logits of S samples.
    at_mean: likewise at the code's mean, [1, N, C].
    rate: `(variables, images, rng) -> [N]` nats, or None.
  """

  sampled: Callable[..., Any]
  at_mean: Callable[..., Any]
  rate: Callable[..., Any] | None


def measures(
  objective: Objective, samples: int, name: str = 'the objective'
) -> Functions:
  """Returns a classifier as functions of arrays.

  Args:
    objective: has `logits`.
    samples: posterior samples a prediction.
    name: of what has none, for the message.

  Raises:
    ValueError: it has none.
  """
  logits = objective.logits
  rate: Any = objective.rate
  if logits is None:
    raise ValueError(
      f'{name} has no classifier: measure it with dim-jax evaluate.'
    )

  def draw(
    count: int, variables: Any, images: jax.Array, rng: jax.Array
  ) -> jax.Array:
    return logits(variables, {'image': images}, rng, count)

  def nats(variables: Any, images: jax.Array, rng: jax.Array) -> jax.Array:
    return rate(variables, {'image': images}, rng, samples)

  return Functions(
    functools.partial(draw, samples),
    functools.partial(draw, 0),
    nats if rate else None,
  )


def _functions(
  encoder: dim_jax.Encoder, run_dir: str, samples: int
) -> Functions:
  """Returns `measures` of a run, or raises ValueError with its name."""
  title = provenance.title(encoder.config.objective)
  return measures(encoder.objective, samples, f'{run_dir!r}, a run of {title},')


def classify(
  run_dir: str,
  *,
  samples: int = 12,
  step: int | None = None,
  attacks: Sequence[str] = (),
  losses: Sequence[str] = attack.LOSSES,
  epsilons: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
  attacked: int = 1000,
  surrogate: str | None = None,
  cw_steps: int = 200,
  cw_searches: int = 5,
  ood: Sequence[str] = (),
  seed: int = 0,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Runs the measurements and writes them into the run's folder.

  What is measured is written before the next measurement begins. An attack that
  cannot be run is left out and named in 'skipped'.

  Args:
    run_dir: the run of an objective that has `logits`.
    samples: posterior samples of an averaged prediction.
    step: which checkpoint; the newest if None.
    attacks: names in `attack.ATTACKS`. Each is run with fresh posterior samples
      in every gradient, and at the code's mean.
    losses: what FGSM and PGD ascend, names in `attack.LOSSES`.
    epsilons: Linf budgets of FGSM and PGD, in pixels of [0, 1].
    attacked: how many test images are attacked, the first ones.
    surrogate: another run, whose adversarial images are tried on this one.
    cw_steps: steps of Carlini and Wagner's attack for each constant, and
    cw_searches: how many constants its binary search tries.
    ood: names in `attack.OOD`, data sets to tell from the test images.
    seed: of posterior samples, attacks and targets.
    show_progress: show a bar on standard error.

  Returns:
    The contents of evaluation/classification.json. Detection of earlier calls
    on the checkpoint stays, and attacks by the same settings (`attack.shared`).

  Raises:
    FileNotFoundError: the folder is not a run, or has no such checkpoint.
    ValueError: it does not classify, or an argument or surrogate is refused.
  """
  run_dir = os.path.expanduser(run_dir)
  settings = attack.Settings(
    attacks, losses, epsilons, attacked, surrogate, cw_steps, cw_searches
  )
  attack.check(settings, ood)
  checks.check_range('samples', samples, 'int [1, inf)')
  started = time.time()
  trained = dim_jax.load(run_dir, step)
  functions = _functions(trained, run_dir, samples)
  objective = trained.objective
  other = None if surrogate is None else _load_surrogate(surrogate, trained)
  data = load(trained.config.data, objective, show_progress)
  rng = jax.random.key(seed)
  path = os.path.join(run_dir, 'evaluation', 'classification')
  files.make_folder(os.path.dirname(path))
  with progress.Progress(show_progress) as bar:
    results, predictions = _predictions(
      functions, _weights(trained, run_dir), data, samples, rng, bar
    )
    arrays, units = _arrays(trained, predictions['test'], data['test'])
    files.write_arrays(f'{path}.npz', arrays)
    report = provenance.header(data['test'], trained.step, started)
    report |= {**_report(trained, data, samples, results), 'units': units}
    save = functools.partial(_save, f'{path}.json', report, started)
    save()
    report['attack_settings'] = attack.shared(settings, seed)
    victim = attack.Victim(objective.classes, functions, trained.variables)
    report['attacks'], report['skipped'] = attack.attack(
      victim, data['test'], settings, rng, bar, other
    )
    save()
    report['ood'] = attack.detect(
      victim, predictions, data['test'], ood, jax.random.fold_in(rng, 1)
    )
    return save()


def load(
  config: Any, objective: Objective, show_progress: bool
) -> dict[str, data_lib.Examples]:
  """Loads the images that a classifier is trained and tested on, by split.

  Raises:
    ValueError: the objective has too few classes for the data.
  """
  data = {
    split: data_lib.load(
      data_lib.of_images(config), split, progress=show_progress
    )
    for split in ('train', 'test')
  }
  for part in data.values():
    check_labels(objective, part.name, part.labels['class'])
  return data


def _save(path: str, report: dict[str, Any], started: float) -> dict[str, Any]:
  """Writes what was measured so far; what was not measured again stays."""
  old = files.read_json(path)
  same = ('step', 'dataset', 'samples')
  if any(old.get(key) != report[key] for key in same):
    old = {}
  kept = {'ood': _merged(old, report, 'ood', ('dataset', 'score'))}
  if not report['attacks'] and not report['skipped']:
    for key in ('attacks', 'attack_settings', 'skipped'):
      kept[key] = old.get(key, report[key])
  elif old.get('attack_settings') == report['attack_settings']:
    kept['attacks'] = _merged(old, report, 'attacks', attack.KEYS)
  merged = report | kept | {'seconds': time.time() - started}
  files.write_json(path, merged)
  return merged


def _merged(
  old: dict[str, Any], new: dict[str, Any], part: str, keys: Sequence[str]
) -> list[dict[str, Any]]:
  """Rows of an earlier call and those of this one, which replace the same."""

  def place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in keys)

  rows = {place(row): row for row in old.get(part, [])}
  return [*(rows | {place(row): row for row in new[part]}).values()]


def _weights(trained: dim_jax.Encoder, run_dir: str) -> dict[str, Any]:
  """Loads the averaged variables and the last ones, as far as they differ."""
  if trained.config.average is None:
    return {'raw': trained.variables}
  last = dim_jax.load(run_dir, trained.step, average=False)
  return {'average': trained.variables, 'raw': last.variables}


def _predictions(
  functions: Functions,
  weights: Mapping[str, Any],
  data: Mapping[str, Any],
  samples: int,
  rng: jax.Array,
  bar: progress.Progress,
) -> tuple[list[dict[str, Any]], dict[str, classification.Predictions]]:
  """Predicts with all weights; a row each, and the predictions of the first."""
  rows: list[dict[str, Any]] = []
  first: dict[str, classification.Predictions] = {}
  for name, variables in weights.items():
    for split, part in data.items():
      labels = part.labels['class']
      with bar.task(f'{name} weights, {split}', len(labels)) as task:
        predictions = classification.predict(
          *functions, variables, part.inputs, rng, progress=task.update
        )
      first.setdefault(split, predictions)
      rows.append(
        {'weights': name, 'split': split}
        | classification.summary(predictions, labels, samples=samples)
      )
  return rows, first


def limits(
  data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """Returns the most bits that a code can tell of labels and of examples."""
  return {
    'label_entropy_bits': {
      row['split']: row['label_entropy_bits'] for row in rows
    },
    'log2_examples': {
      split: float(np.log2(len(part.labels['class'])))
      for split, part in data.items()
    },
  }


def _report(
  trained: dim_jax.Encoder,
  data: Mapping[str, Any],
  samples: int,
  results: list[dict[str, Any]],
) -> dict[str, Any]:
  """Collects what classification.json says of the run and its predictions."""
  config = trained.config.objective
  return {
    'run_seed': trained.config.seed,
    'samples': samples,
    'paper': trained.config.paper,
    'bottleneck': getattr(config, 'covariance', 'none'),
    'code': getattr(config, 'code', None),
    'beta': getattr(config, 'beta', None),
    'marginal': getattr(config, 'marginal', None),
    **limits(data, results),
    'results': results,
    'attacks': [],
    'attack_settings': {},
    'ood': [],
    'skipped': [],
  }


def _load_surrogate(run_dir: str, victim: dim_jax.Encoder) -> tuple[Any, Any]:
  """Loads another run: its logits at the mean, and its variables.

  Raises:
    FileNotFoundError: the folder is not a run.
    ValueError: it does not classify what the attacked run does.
  """
  other = dim_jax.load(run_dir)
  functions = _functions(other, run_dir, 1)
  mine, its = ((x.input_shape, x.objective.classes) for x in (victim, other))
  if mine != its:
    raise ValueError(
      f'surrogate={run_dir!r} tells {its[1]} classes of images of shape '
      f'{its[0]} apart: accepted is a run of {mine[1]} classes on images of '
      f'shape {mine[0]}, as the attacked one is.'
    )
  return functions.at_mean, other.variables


def check_labels(objective: Objective, name: str, labels: np.ndarray) -> None:
  """Raises ValueError where an objective has too few classes for a data set."""
  highest = int(labels.max())
  if objective.classes and highest >= objective.classes:
    raise ValueError(
      f'{name} has labels up to {highest}, the objective {objective.classes} '
      f'classes: set --config.objective.num_classes={highest + 1}.'
    )


def _arrays(
  trained: dim_jax.Encoder,
  predictions: classification.Predictions,
  test: Any,
) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
  """Collects what the pictures need, of the first test images.

  Returns:
    The arrays, and of a stochastic code `units.Units.summary`.
  """
  objective, variables = trained.objective, trained.variables
  marginal = getattr(trained.config.objective, 'marginal', None)
  kept = slice(_SAVED_IMAGES)
  average = classification.probabilities(predictions).mean(0)
  nats = classification.cross_entropy(predictions, test.labels['class'])
  saved = {
    'images': test.inputs[kept],
    'labels': test.labels['class'][kept],
    'class_names': np.asarray(test.class_names['class']),
    'probabilities': average[kept].astype(np.float32),
    'cross_entropy': nats[kept],
  }
  if predictions.rate is not None:
    saved['rate'] = predictions.rate[kept]
  if objective.posterior is None:
    return saved, None
  code = jax.jit(objective.posterior)(variables, {'image': test.inputs[kept]})
  mean, scale, _ = code
  # Other marginals part the rate otherwise, or not at all.
  if scale.ndim == 2 and marginal == 'normal':
    by_dimension = bottleneck.rate_by_dimension(*code)
    saved['rate_by_dimension'] = np.asarray(by_dimension.mean(0))
  units = units_lib.measure(*code)
  saved |= units.arrays()
  if mean.shape[1] == 2 and objective.decode is not None:
    saved |= plane(objective, variables, test.inputs[:_ELLIPSES])
  return saved, units.summary() | {'examples': len(mean)}


def plane(
  objective: Objective, variables: Any, images: np.ndarray
) -> dict[str, np.ndarray]:
  """Draws posteriors of a two-dimensional code over the decoder's entropy.

  Args:
    objective: has `posterior`, of K = 2, and `decode`.
    variables: its (params, model_state).
    images: uint8, shape [n, H, W, C].

  Returns:
    'means' [n, 2] and 'chols' [n, 2, 2] of the posteriors; 'entropy' [G, G],
    nats of the decoder's prediction on a grid, rows along the second
    coordinate; and its 'extent' (x0, x1, y0, y1).
  """
  if objective.posterior is None or objective.decode is None:
    raise ValueError('the objective has no stochastic code.')
  posterior = jax.jit(objective.posterior)
  means, scale, _ = jax.device_get(posterior(variables, {'image': images}))
  chols = (
    scale if scale.ndim == 3 else np.einsum('nk,kj->nkj', scale, np.eye(2))
  )
  reach = 3 * np.sqrt(np.square(chols).sum(2))
  # A few stray codes would shrink all others to dots.
  low = np.percentile(means - reach, 0.5, axis=0)
  high = np.percentile(means + reach, 99.5, axis=0)
  margin = 0.05 * (high - low)
  low, high = low - margin, high + margin
  x, y = (np.linspace(low[i], high[i], 128, dtype=np.float32) for i in (0, 1))
  points = jnp.asarray(np.stack(np.meshgrid(x, y), -1))
  log_p = jax.nn.log_softmax(objective.decode(variables, points))
  return {
    'means': means,
    'chols': chols,
    'entropy': np.asarray(-(jnp.exp(log_p) * log_p).sum(-1)),
    'extent': np.asarray([x[0], x[-1], y[0], y[-1]]),
  }


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Tabulates errors and information that `classify` returned."""
  samples = report['samples']
  columns = (
    *('weights', 'split', 'error % of 1', f'error % of {samples}'),
    *('error % at mean', 'rate bits', 'I(Z;Y) >= bits', 'NLL nats', 'ECE %'),
  )
  formats = {
    'error_1': '.2f',
    f'error_{samples}': '.2f',
    'error_mean': '.2f',
    'rate_bits': '.1f',
    'izy_bits': '.3f',
    f'nll_{samples}': '.4f',
  }
  rows = []
  for row in report['results']:
    weights = 'EMA' if row['weights'] == 'average' else 'last'
    ece = f'{100 * row["ece"]:.2f}'
    rows.append((weights, row['split'], *tables.numbers(row, formats), ece))
  title = f'{report["dataset"]}, step {report["step"]:,}'
  return tables.table(columns, rows, words=2, title=title)


def summary(report: Mapping[str, Any]) -> list[Any]:
  """Lists all tables of what `classify` returned, and the notes below them."""
  parts: list[Any] = [table(report)]
  parts += [attack.table(report['attacks'])] if report['attacks'] else []
  parts += [attack.detection_table(report['ood'])] if report['ood'] else []
  return parts + tables.notes(report)
