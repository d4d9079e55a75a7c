"""Attacks on classifiers, and how well other data are told from test data."""

from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import classifier_figures as drawings
from dim_jax.report import figures
from dim_jax.report.parts import Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run, labelled
from dim_jax.report.sections import classification

_NOTE = (
  'Norms are of pixels from 0 to 1; the first rows are of the whole test set '
  'without an attack. A model resists no better than its worst row says. Where '
  'transferred examples do more harm than white-box ones, or many gradients '
  'are exactly zero, the gradients are hidden: the attack is weak, not the '
  'model strong.'
)


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows accuracy by the strength of attacks, from none on."""
  attacks = {
    label: [*_unattacked(c), *c['attacks']]
    for label, c in labelled(runs, 'classification')
    if c.get('attacks')
  }
  rows = [
    {'run': label} | _kind(row) | _measured(row)
    for label, mine in attacks.items()
    # From no attack to the strongest, kind by kind.
    for row in sorted(mine, key=lambda row: (*_kind(row).values(),))
  ]
  parts: list[Part] = [Table(rows), Text(_NOTE)] if rows else []
  if any(row.get('epsilon') for mine in attacks.values() for row in mine):
    level = classification.chance(runs)
    parts.insert(0, draw(drawings.attack_curve, attacks, level))
  return parts


def _unattacked(c: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Rows of strength 0, one for each attack that has a strength."""
  ours = classification.headline(c)
  error = classification.error(ours)
  errors = {'mean': figures.real(ours.get('error_mean', error))}
  kinds = {tuple(_kind(row).values()): row for row in c['attacks']}
  same = ('attack', 'loss', 'mode', 'targeted', 'norm')
  return [
    {key: row.get(key) for key in same}
    | {'epsilon': 0.0, 'accuracy': 100 - errors.get(row['mode'], error)}
    | {'examples': ours.get('examples')}
    for row in kinds.values()
    if row.get('epsilon') is not None
  ]


def _kind(row: Mapping[str, Any]) -> dict[str, str]:
  targeted = ', targeted' if row.get('targeted') else ''
  return {
    'attack': drawings.printed(row['attack'], row.get('loss')) + targeted,
    'mode': str(row['mode']),
    'norm': drawings.printed(row['norm']),
  }


def _measured(row: Mapping[str, Any]) -> dict[str, str]:
  limit = row.get('epsilon')
  zeros = 100 * figures.real(row.get('zero_gradients'))
  return {
    'at most': '–' if limit is None else f'{limit:g}',
    'accuracy, %': fixed(row.get('accuracy'), 1),
    'success, %': fixed(row.get('success'), 1),
    'zero gradients, %': fixed(zeros, 1),
    'mean L0': fixed(row.get('l0'), 0),
    'mean L2': fixed(row.get('l2'), 2),
    'mean L∞': fixed(row.get('linf'), 3),
    'n': str(row.get('examples') or '–'),
  }


def warnings(run: Run) -> list[str]:
  """Says which attacks are weaker than they look."""
  hidden = dict.fromkeys(
    ' '.join(_kind(row).values())
    for row in run.classification.get('attacks') or ()
    if figures.real(row.get('zero_gradients')) > 0.1
  )
  if not hidden:
    return []
  return [
    'More than a tenth of the gradients are exactly zero, or the steps too '
    f'short for saturated pixels, in the attacks {", ".join(hidden)}: their '
    'accuracies flatter the model.'
  ]


def detection(runs: Sequence[Run]) -> list[Part]:
  """Tabulates how well scores tell other data from test data."""
  done = labelled(runs, 'classification')
  results = [(label, o) for label, c in done for o in c.get('ood') or ()]
  if not results:
    return []
  order = [o['dataset'] for _, o in results]
  rows = [
    {
      'other data': str(o['dataset']),
      'run': label,
      'score': str(o['score']).replace('_', ' '),
      'AUROC': fixed(o.get('auroc'), 3),
      'AUPR': fixed(o.get('aupr'), 3),
      'FPR at 95 % TPR': fixed(o.get('fpr95'), 3),
    }
    for label, o in sorted(results, key=lambda r: order.index(r[1]['dataset']))
  ]
  note = (
    'How well a score of an image tells other data from test images. AUROC: '
    '0.5 is chance level, 1 is perfect.'
  )
  if any(figures.real(o.get('auroc')) < 0.45 for _, o in results):
    note += (
      ' Well below 0.5 is no slip: by that score the other data look more '
      'typical than the test images, and reversed it would tell them apart.'
    )
  return [Table(rows), Text(note)]
