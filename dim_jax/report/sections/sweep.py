"""The page of a sweep over beta: errors and information, over seeds."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import classifier_figures as drawings
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Table, Text, draw, duration, with_error
from dim_jax.report.sections import summary
from dim_jax.report.sections.classification import of_split

_NOTE = 'Mean ± standard deviation over n seeds. The rate bounds I(Z;X) above.'


def file_of(path: str | os.PathLike) -> str:
  """The file that makes a folder a sweep's."""
  return os.path.join(path, 'sweep.json')


def view(path: str | os.PathLike) -> dict[str, Any]:
  """What the template shows of a sweep.

  Raises:
    ValueError: sweep.json is damaged or has no rows.
  """
  sweep = runs_lib.read_file(file_of(path))
  rows = sweep.get('rows') or []
  # The averaged weights are the ones to report.
  rows = [r for r in rows if r.get('weights') == 'average'] or rows
  if not rows:
    raise ValueError(f'{file_of(path)!r} has no rows.')
  entropy = of_split(sweep.get('label_entropy_bits'), 'test')
  examples = of_split(sweep.get('log2_examples'), 'train')
  levels = {
    'label_entropy_bits': entropy if math.isfinite(entropy) else None,
    'log2_examples': examples if math.isfinite(examples) else None,
  }
  classes = sweep.get('classes')
  pictures = [draw(drawings.beta_sweep, rows, classes=classes, **levels)]
  if math.isfinite(entropy):
    pictures.append(draw(drawings.information_plane, rows, *levels.values()))
  label = os.path.basename(os.path.abspath(path))
  return {
    'title': f'Sweep {label}',
    'heading': label,
    'warnings': _warnings(rows),
    'facts': facts(path, sweep),
    'commands': [summary.command(sweep.get('command'), 'made the sweep')],
    'sections': {
      'Error and information': pictures,
      'Numbers': [table(rows), Text(_NOTE)],
    },
  }


def facts(path: str | os.PathLike, sweep: Mapping[str, Any]) -> dict[str, str]:
  """Describes all that sweep.json says beside its rows, and the method."""
  file = os.path.join(path, 'sweep_config.json')
  config = runs_lib.read_file(file)['run'] if os.path.isfile(file) else {}
  objective = config.get('objective') or {}
  terms = {
    'method': sweep.get('title') or runs_lib.module_name(objective),
    'settings': runs_lib.scalars(objective | {'beta': None}),
    'optimizer': runs_lib.scalars(config.get('optimizer') or {}),
    **sweep,
  }
  for key in terms.keys() & {'seconds', 'training_seconds'}:
    terms[key] = duration(terms[key])
  if terms.get('memory_bytes'):
    terms['memory_bytes'] = f'{terms["memory_bytes"] / 1e9:.2f} GB'
  return {
    key.replace('_', ' ').capitalize(): summary.listed(value)
    for key, value in terms.items()
    if value not in (None, '') and key not in ('rows', 'command', 'title')
  }


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
  """Tabulates means and standard deviations over seeds, by split and beta.

  The rows are those of a sweep.json, of one kind of weights.
  """
  fields = {
    name: (f'error %, {drawings.samples(k)}', 2)
    for k, name in drawings.sample_errors(rows[0]).items()
  }
  fields['rate_bits'] = ('rate, bits', 2)
  fields['izy_bits'] = ('I(Z;Y) ≥, bits', 3)
  lines: dict[tuple[str, float], dict[str, str]] = {}
  for name, split, beta, mean, std, n in drawings.over_seeds(rows, [*fields]):
    start = {'split': split, 'beta': f'{beta:g}', 'n': str(n)}
    title, digits = fields[name]
    cells = lines.setdefault((split, beta), start)
    cells[title] = with_error(mean, std, digits)
  return Table(list(lines.values()))


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Says how the least error is to be read."""
  for count, field in [*drawings.sample_errors(rows[0]).items()][-1:]:
    numbers = drawings.over_seeds(rows, [field])
    if least := drawings.least_error(numbers, field):
      _, _, beta, mean, std, _ = least
      error = with_error(mean, std, 2).replace('\u00a0', ' ')
      return [
        f'Least test error with {count} samples: {error} % at beta {beta:g}. '
        f'This beta is chosen on the test set, so its error is a little too '
        f'low.'
      ]
  return []
