"""Attacks on a run's classifier, and images that are no examples of a class."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.table

from dim_jax import checks, progress
from dim_jax.evaluation import attacks as attacks_lib
from dim_jax.evaluation import calibration, classification
from dim_jax.runs import tables

ATTACKS = ('fgsm', 'pgd', 'cw')
LOSSES = ('cross_entropy', 'margin')
OOD = ('noise', 'inverted', 'shuffled')


class Settings(NamedTuple):
  """Which attacks; the arguments of `classify.classify` of these names."""

  attacks: Sequence[str]
  losses: Sequence[str]
  epsilons: Sequence[float]
  attacked: int
  surrogate: str | None
  cw_steps: int
  cw_searches: int


class Victim(NamedTuple):
  """A trained classifier.

  Attributes:
    classes: how many it tells apart.
    functions: (sampled, at_mean, rate), see `classify.Functions`.
    variables: (params, model_state).
  """

  classes: int
  functions: tuple[Any, Any, Any]
  variables: Any


def check(settings: Settings, ood: Sequence[str]) -> None:
  """Raises ValueError where attacks cannot be as they are asked for."""
  for flag, names, accepted in (
    ('--ood', ood, OOD),
    ('--attacks', settings.attacks, ATTACKS),
    ('--losses', settings.losses, LOSSES),
  ):
    checks.check_choices(flag, names, accepted)
  for epsilon in settings.epsilons:
    checks.check_range('--epsilons', epsilon, '[0, inf)')
  checks.check_range('--attacked', settings.attacked, 'int [1, inf)')
  if settings.surrogate and 'pgd' not in settings.attacks:
    raise ValueError(
      "a surrogate's images are made by 'pgd': add it to --attacks."
    )


def attack(
  victim: Victim,
  test: Any,
  settings: Settings,
  rng: jax.Array,
  bar: progress.Progress,
  surrogate: tuple[Any, Any] | None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
  """Runs every attack in every mode and strength.

  Args:
    victim: the classifier.
    test: the examples, the first of which are attacked.
    settings: which attacks, and of how many images.
    rng: of samples, attacks and targets.
    bar: shows how far it is.
    surrogate: the logits and variables of `settings.surrogate`, if any.

  Returns:
    A row each, and 'what' was skipped for which 'reason'.
  """
  if not settings.attacks:
    return [], []
  images = test.inputs[: settings.attacked]
  labels = test.labels['class'][: settings.attacked]
  targets = attacks_lib.random_targets(rng, labels, victim.classes)
  rows: list[dict[str, Any]] = []
  skipped: list[dict[str, str]] = []

  def run(
    function: Any, name: str, logits: Any, variables: Any, **options: Any
  ) -> attacks_lib.Attack:
    given = function, logits, variables, images, labels, rng
    with bar.task(name, len(labels)) as task:
      return attacks_lib.in_batches(*given, progress=task.update, **options)

  for label, function, logits, options in _jobs(victim, settings, targets):
    name = ' '.join(str(value) for value in label.values())
    try:
      if label['mode'] == 'transfer' and surrogate is not None:
        made = run(function, name, *surrogate, **options)
        function, options = attacks_lib.replay, {'adversarial': made.images}
      result = run(function, name, logits, victim.variables, **options)
    except (ValueError, FloatingPointError) as error:
      skipped.append({'what': name, 'reason': str(error)})
      bar.say(f'{name} is skipped: {error}')
      continue
    rows.append({**label, **attacks_lib.summary(result)})
  return rows, skipped


def shared(settings: Settings, seed: int) -> dict[str, Any]:
  """Returns what attacks need to have in common to stand in one table."""
  names = ('attacked', 'surrogate', 'cw_steps', 'cw_searches')
  return {'seed': seed} | {name: getattr(settings, name) for name in names}


# What tells a row from the others.
KEYS = ('attack', 'mode', 'loss', 'targeted', 'norm', 'epsilon')


def _jobs(
  victim: Victim, settings: Settings, targets: jax.Array
) -> Iterator[tuple[dict[str, Any], Any, Any, dict[str, Any]]]:
  """Lists the attacks: of each its row, function, logits and options."""

  def label(name: str, mode: str, loss: str, **more: Any) -> dict[str, Any]:
    row = {'attack': name, 'mode': mode, 'loss': loss, 'targeted': False}
    return row | {'norm': 'linf', 'epsilon': None} | more

  sampled, at_mean, rate = victim.functions
  modes = {'samples': sampled} | ({'mean': at_mean} if rate is not None else {})
  by_gradient = {'fgsm': attacks_lib.fgsm, 'pgd': attacks_lib.pgd}
  for mode, logits in modes.items():
    for epsilon in settings.epsilons:
      for name, function in by_gradient.items():
        for loss in settings.losses if name in settings.attacks else ():
          row = label(name, mode, loss, epsilon=epsilon)
          yield row, function, logits, {'epsilon': epsilon, 'loss': loss}
    for targeted in (False, True) if 'cw' in settings.attacks else ():
      options: dict[str, Any] = {
        'targets': targets if targeted else None,
        'initial_c': 1.0,
        'steps': settings.cw_steps,
        'search_steps': settings.cw_searches,
      }
      row = label('cw', mode, 'margin', targeted=targeted, norm='l2')
      yield row, attacks_lib.carlini_wagner, logits, options
  for epsilon in settings.epsilons if settings.surrogate else ():
    row = label('pgd', 'transfer', 'margin', epsilon=epsilon)
    options = {'epsilon': epsilon, 'loss': 'margin'}
    yield row, attacks_lib.pgd, sampled, options


def detect(
  victim: Victim,
  predictions: Mapping[str, classification.Predictions],
  test: Any,
  names: Sequence[str],
  rng: jax.Array,
) -> list[dict[str, Any]]:
  """Measures how well each score tells other images from the test images.

  Returns:
    A row for each of `names`, which are in OOD, and each score.
  """
  if not names:
    return []

  def parts(found: classification.Predictions) -> tuple[Any, Any]:
    return classification.probabilities(found), found.rate

  known = None
  if victim.functions[2] is not None:
    known = calibration.reference(*parts(predictions['train']))
  inside = calibration.scores(*parts(predictions['test']), reference=known)
  rows = []
  for name in names:
    found = classification.predict(
      *victim.functions,
      victim.variables,
      outliers(name, test.inputs),
      rng,
    )
    outside = calibration.scores(*parts(found), reference=known)
    rows += [
      {'dataset': name, 'score': score}
      | calibration.detection(inside[score], outside[score])
      for score in outside
    ]
  return rows


def outliers(name: str, images: np.ndarray) -> np.ndarray:
  """Makes images that are no examples of a class of a test set's.

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


def table(rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
  """Tabulates what `attack` returned, for a terminal."""
  formats = {
    'epsilon': '.2f',
    'accuracy': '.1f',
    'l0': '.0f',
    'l2': '.2f',
    'linf': '.3f',
    'zero_gradients': '.3f',
  }
  cells = []
  for row in rows:
    name = row['attack'] + (' targeted' if row['targeted'] else '')
    loss = 'CE' if row['loss'] == 'cross_entropy' else row['loss']
    cells.append((name, row['mode'], loss, *tables.numbers(row, formats)))
  columns = ('attack', 'mode', 'loss', 'eps', 'right %', 'L0', 'L2', 'Linf')
  return tables.table((*columns, 'no grad'), cells, words=3, title='attacks')


def detection_table(rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
  """Tabulates what `detect` returned, for a terminal."""
  formats = dict.fromkeys(('auroc', 'aupr', 'fpr95'), '.3f')
  return tables.table(
    ('images', 'score', 'AUROC', 'AUPR', 'FPR at 95 % TPR'),
    [(r['dataset'], r['score'], *tables.numbers(r, formats)) for r in rows],
    words=2,
    title='telling other images from the test set',
  )
