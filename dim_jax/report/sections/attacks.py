"""Attacks on classifiers, and how well other data are told from test data."""

from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import classifier_figures as drawings
from dim_jax.report import figures
from dim_jax.report.parts import Fold, Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run, labelled
from dim_jax.report.sections import classification

_NOTE = (
  'Accuracy in percent by the norm that an attack may reach, of pixels from 0 '
  'to 1; at 0 that of the whole test set, of which the first n images are '
  'attacked. A model resists no better than its worst row says. Where '
  'transferred examples do more harm than white-box ones, or many gradients '
  'are exactly zero, the gradients are hidden: the attack is weak, not the '
  'model strong.'
)


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows accuracy by the strength of attacks."""
  attacks = {
    label: [*_unattacked(c), *c['attacks']]
    for label, c in labelled(runs, 'classification')
    if c.get('attacks')
  }
  if not attacks:
    return []
  parts: list[Part] = []
  if any(row.get('epsilon') for rows in attacks.values() for row in rows):
    level = classification.chance(runs)
    parts.append(draw(drawings.attack_curve, attacks, level))
  measured = [
    {'run': label} | _kind(a) | _measured(a)
    for label, rows in attacks.items()
    for a in rows
    if a.get('epsilon') != 0
  ]
  details = Fold(f'Details of {len(measured)} attacks', [Table(measured)])
  return [*parts, by_strength(attacks), Text(_NOTE), details]


def _unattacked(c: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Rows of strength 0, one for each attack that has a strength."""
  ours = classification.headline(c) or {}
  rows = {}
  for row in c['attacks']:
    if row.get('epsilon') is not None and ours:
      error = classification.error(ours)
      if row['mode'] == 'mean':
        error = figures.real(ours.get('error_mean', error))
      clean = {'epsilon': 0.0, 'accuracy': 100 - error}
      rows[tuple(_kind(row).values())] = {**row, **clean}
  return list(rows.values())


def _kind(row: Mapping[str, Any]) -> dict[str, str]:
  name = drawings.attack_name(row)
  return {
    'attack': f'{name}, targeted' if row.get('targeted') else name,
    'mode': str(row['mode']),
    'norm': drawings.norm_name(row['norm']),
  }


def _measured(row: Mapping[str, Any]) -> dict[str, str]:
  limit = row.get('epsilon')
  return {
    'at most': '–' if limit is None else f'{limit:g}',
    'accuracy, %': fixed(row.get('accuracy'), 1),
    'success, %': fixed(row.get('success'), 1),
    'zero gradients, %': fixed(
      100 * figures.real(row.get('zero_gradients')), 1
    ),
    'mean L0': fixed(row.get('l0'), 0),
    'mean L2': fixed(row.get('l2'), 2),
    'mean L∞': fixed(row.get('linf'), 3),
    'n': str(row.get('examples', '–')),
  }


def by_strength(attacks: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
  """Tabulates accuracy by attack, a column for each strength.

  Args:
    attacks: the 'attacks' of classification.json, with those of strength 0, by
      the model's label.
  """
  limits = {row.get('epsilon') for rows in attacks.values() for row in rows}
  columns = {f'{x:g}': x for x in sorted(x for x in limits if x is not None)}
  columns |= {'any norm': None} if None in limits else {}
  table = []
  for label, rows in attacks.items():
    for kind in {tuple(_kind(row).items()): None for row in rows}:
      mine = [row for row in rows if _kind(row) == dict(kind)]
      at = {row.get('epsilon'): row.get('accuracy') for row in mine}
      cells = {name: fixed(at.get(x), 1) for name, x in columns.items()}
      n = dict.fromkeys(str(row.get('examples', '–')) for row in mine)
      table.append({'run': label} | dict(kind) | cells | {'n': ' / '.join(n)})
  return Table(table)


def warnings(run: Run) -> list[str]:
  """Says which attacks are weaker than they look."""
  hidden = dict.fromkeys(
    ' '.join(_kind(row).values())
    for row in (run.classification or {}).get('attacks') or []
    if figures.real(row.get('zero_gradients')) > 0.1
  )
  if not hidden:
    return []
  return [
    f'More than a tenth of the gradients are exactly zero in the attacks '
    f'{", ".join(hidden)}: their accuracies flatter the model.'
  ]


def detection(runs: Sequence[Run]) -> list[Part]:
  """Tabulates how well scores tell other data from test data."""
  done = labelled(runs, 'classification')
  results = [(label, o) for label, c in done for o in c.get('ood') or ()]
  if not results:
    return []
  order = list(dict.fromkeys(o['dataset'] for _, o in results))
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
