"""Measures a run that classifies: errors, information, attacks, calibration.

  python -m experiments.classify runs/vib_mnist
  python -m experiments.classify runs/vib_mnist --attacks=fgsm,pgd,cw \
      --examples=200 --surrogate=runs/deterministic --ood=noise,inverted

Prints the error of one posterior sample beside that of their averaged
prediction, of the averaged weights and of the last ones, and writes
RUN/evaluation/classification.json and .npz, which `experiments.report` shows.
"""

import datetime
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.table

import dim_jax
from dim_jax import files, progress
from dim_jax.data import load as data_lib
from dim_jax.data import sources
from dim_jax.evaluation import attacks as attacks_lib
from dim_jax.evaluation import calibration, classification
from dim_jax.losses import bottleneck
from dim_jax.objective import Objective
from dim_jax.runs import provenance

ATTACKS = ('fgsm', 'pgd', 'cw')
LOSSES = ('cross_entropy', 'margin')
OOD = ('noise', 'inverted', 'shuffled')
_SAVED_IMAGES = 2000
_ELLIPSES = 1000


def measures(
  objective: Objective, samples: int
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None]:
  """A classifier as functions of arrays: of samples, at the mean, its rate.

  Args:
    objective: has `logits`.
    samples: posterior samples a prediction.

  Raises:
    ValueError: it has none.
  """
  logits, rate = objective.logits, objective.rate
  if logits is None:
    raise ValueError(
      'the objective has no classifier: measure it with experiments.evaluate.'
    )

  def draw(variables: Any, images: jax.Array, rng: jax.Array) -> jax.Array:
    return logits(variables, {'image': images}, rng, samples)

  def at_mean(variables: Any, images: jax.Array, rng: jax.Array) -> jax.Array:
    return logits(variables, {'image': images}, rng, 0)

  if rate is None:
    return draw, at_mean, None

  def nats(
    variables: Any, images: jax.Array, labels: jax.Array, rng: jax.Array
  ) -> jax.Array:
    batch = {'image': images, 'label': labels}
    return rate(variables, batch, rng, samples)

  return draw, at_mean, nats


def classify(
  run_dir: str,
  *,
  samples: int = 12,
  step: int | None = None,
  attacks: Sequence[str] = (),
  losses: Sequence[str] = LOSSES,
  epsilons: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
  examples: int = 1000,
  surrogate: str | None = None,
  cw_steps: int = 200,
  cw_searches: int = 5,
  ood: Sequence[str] = (),
  seed: int = 0,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Runs the measurements and writes them into the run's folder.

  Args:
    run_dir: the run of an objective that has `logits`.
    samples: posterior samples of an averaged prediction.
    step: which checkpoint; the newest if None.
    attacks: names in ATTACKS. Each is run with fresh posterior samples in every
      gradient, and at the code's mean.
    losses: what FGSM and PGD ascend, names in LOSSES.
    epsilons: Linf budgets of FGSM and PGD, in pixels of [0, 1].
    examples: how many test images are attacked, the first ones.
    surrogate: another run, whose adversarial images are tried on this one.
    cw_steps: steps of Carlini and Wagner's attack for each constant, and
    cw_searches: how many constants its binary search tries.
    ood: names in OOD, data sets to tell from the test images.
    seed: of posterior samples, attacks and targets.
    show_progress: show a bar on standard error.

  Returns:
    The contents of evaluation/classification.json; attacks and detection that
    an earlier call measured on the same checkpoint stay in it.

  Raises:
    FileNotFoundError: the folder is not a run, or has no such checkpoint.
    ValueError: it does not classify, or an argument is not accepted.
  """
  for name, option, chosen, accepted in (
    ('attack', '--attacks', attacks, ATTACKS),
    ('loss', '--losses', losses, LOSSES),
    ('kind of outliers', '--ood', ood, OOD),
  ):
    for value in chosen:
      sources.check_choice(name, value, accepted, option)
  if samples < 1:
    raise ValueError(f'samples must be >= 1, got {samples}.')
  if surrogate and 'pgd' not in attacks:
    raise ValueError("a surrogate's images are made by 'pgd': add it.")
  started = time.time()
  trained = dim_jax.load(run_dir, step)
  config = trained.config.objective
  objective = _classifier(trained, run_dir)
  data = {
    split: data_lib.images(trained.config.data, split, progress=show_progress)
    for split in ('train', 'test')
  }
  for part in data.values():
    check_labels(objective, part.name, part.labels)
  functions = measures(objective, samples)
  rng = jax.random.key(seed)
  weights = {'average': trained.variables}
  if trained.config.average is not None:
    weights['raw'] = dim_jax.load(
      run_dir, trained.step, average=False
    ).variables
  else:
    weights = {'raw': trained.variables}
  results: list[dict[str, Any]] = []
  found: dict[str, classification.Predictions] = {}
  with progress.Progress(show_progress) as bar:
    for name, variables in weights.items():
      for split, part in data.items():
        with bar.task(f'{name} weights, {split}', len(part.labels)) as task:
          predictions = classification.predict(
            *functions,
            variables,
            part.images,
            part.labels,
            rng,
            progress=task.update,
          )
        found.setdefault(split, predictions)
        row = {'weights': name, 'split': split}
        results.append(
          row
          | classification.summary(predictions, part.labels, samples=samples)
        )
    victim = _Victim(objective, functions, trained.variables)
    attacked = _attack(
      victim,
      data['test'],
      attacks,
      losses,
      epsilons,
      examples,
      surrogate,
      {'steps': cw_steps, 'search_steps': cw_searches},
      rng,
      bar,
    )
  outliers = _detect(
    victim, found, data['test'], ood, jax.random.fold_in(rng, 1)
  )
  folder = os.path.join(run_dir, 'evaluation')
  os.makedirs(folder, exist_ok=True)
  arrays = _arrays(objective, trained.variables, found['test'], data['test'])
  path = os.path.join(folder, 'classification')
  files.write_arrays(f'{path}.npz', arrays)
  by_split = {r['split']: r for r in reversed(results)}
  report = {
    'dataset': data['test'].name,
    'note': data['test'].note,
    'step': int(trained.step),
    'run_seed': trained.config.seed,
    'samples': samples,
    'hardware': provenance.hardware(),
    'versions': provenance.versions(),
    'date': datetime.date.today().isoformat(),
    'seconds': time.time() - started,
    'paper': trained.config.paper,
    'bottleneck': getattr(config, 'covariance', 'none'),
    'code': getattr(config, 'code', None),
    'beta': getattr(config, 'beta', None),
    'marginal': getattr(config, 'marginal', None),
    'label_entropy_bits': {
      split: by_split[split]['label_entropy_bits'] for split in data
    },
    'log2_examples': {
      split: float(np.log2(len(part.labels))) for split, part in data.items()
    },
    'results': results,
    'attacks': attacked,
    'ood': outliers,
  }
  _keep_older(path + '.json', report)
  files.write_json(path + '.json', report)
  return report


def check_labels(objective: Objective, name: str, labels: np.ndarray) -> None:
  """Raises ValueError where an objective has too few classes for the data.

  Args:
    objective: the method; one without `classes` takes any labels.
    name: of the data set.
    labels: of a split.
  """
  classes = objective.classes
  highest = int(labels.max())
  if classes and highest >= classes:
    raise ValueError(
      f'{name} has labels up to {highest}, the objective {classes} '
      f'classes: set its num_classes to {highest + 1}.'
    )


def check_supervised(
  objective: Objective, name: str, labels: np.ndarray
) -> None:
  """Raises ValueError where supervised learning has no two classes to learn.

  Args:
    objective: the method; one that learns from no labels takes any.
    name: of the data set.
    labels: of the training examples, -1 where unknown.
  """
  if objective.supervised:
    data_lib.check_classes(name, labels, objective.supervised)


def _keep_older(path: str, report: dict[str, Any]) -> None:
  """Keeps attacks and detection of the same step that were not run again."""
  if not os.path.exists(path):
    return
  with open(path) as file:
    old = json.load(file)
  if all(old[key] == report[key] for key in ('step', 'dataset', 'samples')):
    for key in ('attacks', 'ood'):
      report[key] = report[key] or old[key]


class _Victim:
  """A trained classifier; its functions are made once, as they key programs."""

  def __init__(self, objective: Objective, functions: Any, variables: Any):
    self.classes, self.variables = objective.classes, variables
    self.sampled, self.at_mean, self.rate = functions


def _classifier(encoder: dim_jax.Encoder, run_dir: str) -> Objective:
  objective = encoder.objective
  if objective.logits is None:
    raise ValueError(
      f'{run_dir!r} is a run of {type(encoder.config.objective).__module__}, '
      'which has no classifier: measure it with experiments.evaluate.'
    )
  return objective


def _attack(
  victim: _Victim,
  test: Any,
  attacks: Sequence[str],
  losses: Sequence[str],
  epsilons: Sequence[float],
  examples: int,
  surrogate: str | None,
  search: Mapping[str, int],
  rng: jax.Array,
  bar: progress.Progress,
) -> list[dict[str, Any]]:
  """Every attack in every mode and strength, a row each."""
  if not attacks:
    return []
  if examples < 1:
    raise ValueError(f'examples must be >= 1, got {examples}.')
  images, labels = test.images[:examples], test.labels[:examples]
  targets = attacks_lib.random_targets(rng, labels, victim.classes)
  modes = {'samples': victim.sampled}
  if victim.rate is not None:
    modes['mean'] = victim.at_mean
  rows = []

  def run(
    attack: Any, label: Mapping[str, Any], logits: Any, **settings: Any
  ) -> attacks_lib.Attack:
    name = ' '.join(map(str, label.values()))
    with bar.task(name, len(labels)) as task:
      found = attacks_lib.in_batches(
        attack,
        logits,
        settings.pop('variables', victim.variables),
        images,
        labels,
        rng,
        progress=task.update,
        **settings,
      )
    rows.append({**label, **attacks_lib.summary(found)})
    return found

  for mode, logits in modes.items():
    for epsilon in epsilons:
      for name, attack in (
        ('fgsm', attacks_lib.fgsm),
        ('pgd', attacks_lib.pgd),
      ):
        for loss in losses if name in attacks else ():
          label: dict[str, Any] = {
            'attack': name,
            'mode': mode,
            'loss': loss,
            'targeted': False,
            'norm': 'linf',
            'epsilon': epsilon,
          }
          run(attack, label, logits, epsilon=epsilon, loss=loss)
    for targeted in (False, True) if 'cw' in attacks else ():
      label = {
        'attack': 'cw',
        'mode': mode,
        'loss': 'margin',
        'targeted': targeted,
        'norm': 'l2',
        'epsilon': None,
      }
      run(
        attacks_lib.carlini_wagner,
        label,
        logits,
        targets=targets if targeted else None,
        initial_c=1.0,
        learning_rate=0.05,
        **search,
      )
  if surrogate:
    other = dim_jax.load(surrogate)
    logits = measures(_classifier(other, surrogate), 1)[1]
    for epsilon in epsilons:
      label = {
        'attack': 'pgd',
        'mode': 'transfer',
        'loss': 'margin',
        'targeted': False,
        'norm': 'linf',
        'epsilon': epsilon,
      }
      made = run(
        attacks_lib.pgd,
        label,
        logits,
        variables=other.variables,
        epsilon=epsilon,
        loss='margin',
      )
      rows.pop()
      run(attacks_lib.replay, label, victim.sampled, adversarial=made.images)
  return rows


def _detect(
  victim: _Victim,
  found: Mapping[str, classification.Predictions],
  test: Any,
  names: Sequence[str],
  rng: jax.Array,
) -> list[dict[str, Any]]:
  """How well each score tells other images from the test images."""
  if not names:
    return []

  def parts(predictions: classification.Predictions) -> tuple[Any, Any]:
    return classification.probabilities(predictions), predictions.rate

  known = None
  if victim.rate is not None:
    known = calibration.reference(*parts(found['train']))
  inside = calibration.scores(*parts(found['test']), reference=known)
  rows = []
  for name in names:
    predictions = classification.predict(
      victim.sampled,
      victim.at_mean,
      victim.rate,
      victim.variables,
      outliers(name, test.images),
      test.labels,
      rng,
    )
    outside = calibration.scores(*parts(predictions), reference=known)
    rows += [
      {'dataset': name, 'score': score}
      | calibration.detection(inside[score], outside[score])
      for score in outside
    ]
  return rows


def outliers(name: str, images: np.ndarray) -> np.ndarray:
  """Images that are no examples of a class, made from a test set.

  Args:
    name: 'noise' is uniform and independent, 'inverted' has black and white
      exchanged, 'shuffled' has each image's pixels in a random order.
    images: uint8, shape [n, H, W, C].
  """
  random = np.random.default_rng(0)
  if name == 'noise':
    return random.integers(0, 256, images.shape, np.uint8)
  if name == 'inverted':
    return 255 - images
  pixels = images.reshape(len(images), -1, images.shape[-1])
  order = random.random(pixels.shape[:2]).argsort(1)
  return np.take_along_axis(pixels, order[:, :, None], 1).reshape(images.shape)


def _arrays(
  objective: Objective,
  variables: Any,
  predictions: classification.Predictions,
  test: Any,
) -> dict[str, np.ndarray]:
  """What the pictures need, of the first test images."""
  kept = slice(_SAVED_IMAGES)
  labels = test.labels[kept]
  average = classification.probabilities(predictions).mean(0)
  part = classification.Predictions(
    predictions.logits[:, kept], predictions.at_mean[kept], None
  )
  saved = {
    'images': test.images[kept],
    'labels': labels,
    'class_names': np.asarray(test.class_names),
    'probabilities': average[kept].astype(np.float32),
    'cross_entropy': classification.cross_entropy(part, labels),
  }
  if predictions.rate is not None:
    saved['rate'] = predictions.rate[kept]
  if objective.posterior is None:
    return saved
  posterior = jax.jit(objective.posterior)
  code = posterior(variables, {'image': test.images[kept]})
  mean, scale, _ = code
  if scale.ndim == 2:
    by_dimension = bottleneck.rate_by_dimension(*code)
    saved['rate_by_dimension'] = np.asarray(by_dimension.mean(0))
  if mean.shape[1] == 2 and objective.decode is not None:
    saved |= plane(objective, variables, test.images[:_ELLIPSES])
  return saved


def plane(
  objective: Objective, variables: Any, images: np.ndarray
) -> dict[str, np.ndarray]:
  """Posteriors of a two-dimensional code, over what the decoder says there.

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
  """The errors of both kinds of weights, for a terminal.

  Args:
    report: what `classify` returned.
  """
  samples = report['samples']
  shown = rich.table.Table(
    title=f'{report["dataset"]}, step {report["step"]:,}',
    title_justify='left',
    box=rich.box.SIMPLE,
  )
  for name in (
    'weights',
    'split',
    'error % of 1',
    f'error % of {samples}',
    'error % at mean',
    'rate bits',
    'I(Z;Y) >= bits',
    'NLL nats',
    'ECE %',
  ):
    shown.add_column(
      name, justify='left' if name in ('weights', 'split') else 'right'
    )
  for row in report['results']:
    rate = row['rate_bits']
    shown.add_row(
      'EMA' if row['weights'] == 'average' else 'last',
      row['split'],
      f'{row["error_1"]:.2f}',
      f'{row[f"error_{samples}"]:.2f}',
      f'{row["error_mean"]:.2f}',
      '' if rate is None else f'{rate:.1f}',
      f'{row["izy_bits"]:.3f}',
      f'{row[f"nll_{samples}"]:.4f}',
      f'{100 * row["ece"]:.2f}',
    )
  return shown


def attack_table(report: Mapping[str, Any]) -> rich.table.Table:
  """The attacks, a row each, for a terminal."""
  shown = rich.table.Table(
    title='attacks', title_justify='left', box=rich.box.SIMPLE
  )
  for name in (
    'attack',
    'mode',
    'loss',
    'eps',
    'right %',
    'L0',
    'L2',
    'Linf',
    'no grad',
  ):
    shown.add_column(name)

  def text(value: float | None, digits: int) -> str:
    return '' if value is None else f'{value:.{digits}f}'

  for row in report['attacks']:
    shown.add_row(
      row['attack'] + (' targeted' if row['targeted'] else ''),
      row['mode'],
      'CE' if row['loss'] == 'cross_entropy' else row['loss'],
      text(row['epsilon'], 2),
      text(row['accuracy'], 1),
      text(row['l0'], 0),
      text(row['l2'], 2),
      text(row['linf'], 3),
      text(row['zero_gradients'], 3),
    )
  return shown


def detection_table(report: Mapping[str, Any]) -> rich.table.Table:
  """How well each score tells outliers apart, for a terminal."""
  shown = rich.table.Table(
    title='telling other images from the test set',
    title_justify='left',
    box=rich.box.SIMPLE,
  )
  for name in ('images', 'score', 'AUROC', 'AUPR', 'FPR at 95 % TPR'):
    shown.add_column(name)
  for row in report['ood']:
    shown.add_row(
      row['dataset'],
      row['score'],
      *(f'{row[key]:.3f}' for key in ('auroc', 'aupr', 'fpr95')),
    )
  return shown


def tables(report: Mapping[str, Any]) -> list[Any]:
  """Lists the tables of what was measured, and the note on the data.

  Args:
    report: what `classify` returned.
  """
  parts: list[Any] = [table(report)]
  parts += [attack_table(report)] if report['attacks'] else []
  parts += [detection_table(report)] if report['ood'] else []
  return parts + ([report['note']] if report['note'] else [])
