"""The page of a sweep over beta: errors and information, over seeds."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import classifier_figures as drawings
from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import (
  Fold,
  Section,
  Table,
  Text,
  draw,
  duration,
  fixed,
  with_error,
)
from dim_jax.report.sections.classification import of_split


def file_of(path: str | os.PathLike) -> str:
  """The file that makes a folder a sweep's."""
  return os.path.join(path, 'sweep.json')


def read(path: str | os.PathLike) -> tuple[dict[str, Any], list[Any]]:
  """Reads a sweep.

  Args:
    path: its folder.

  Returns:
    The contents of sweep.json, and its rows, of the averaged weights if there
    are any, for these are the ones to report.

  Raises:
    ValueError: the file is damaged or has no rows.
  """
  sweep = runs_lib.read_json(file_of(path))
  rows = sweep.get('rows') or []
  rows = [r for r in rows if r.get('weights') == 'average'] or rows
  if not rows:
    raise ValueError(f'{file_of(path)!r} has no rows.')
  return sweep, rows


def facts(path: str | os.PathLike) -> list[tuple[str, str]]:
  """Lists terms and descriptions: data, method, time, machine, versions."""
  sweep, _ = read(path)
  config: dict[str, Any] = {}
  if os.path.isfile(file := os.path.join(path, 'sweep_config.json')):
    config = runs_lib.read_json(file).get('run') or {}
  objective = config.get('objective') or {}
  rows = [
    ('Data', str(sweep.get('dataset'))),
    ('', str(sweep.get('note') or '')),
    ('Method', str(sweep.get('title') or runs_lib.module_name(objective))),
    ('Settings', runs_lib.scalars(objective | {'beta': None})),
    ('Optimizer', runs_lib.scalars(config.get('optimizer') or {})),
    ('Code', f'{sweep.get("code")} dimensions'),
    ('Betas', ', '.join(f'{beta:g}' for beta in sweep.get('betas', []))),
    ('Seeds', ', '.join(map(str, sweep.get('seeds', [])))),
    ('Steps', str(sweep.get('steps') or '')),
    ('Samples of the code', str(sweep.get('samples') or '')),
  ]
  for key, term in (('training_seconds', 'Training time'), ('seconds', 'Time')):
    rows.append((term, duration(sweep[key]) if key in sweep else ''))
  gigabytes = figures.real(sweep.get('memory_bytes')) / 1e9
  versions = sweep.get('versions') or {}
  rows += [
    ('Memory', f'{gigabytes:.2f} GB' if gigabytes > 0 else ''),
    ('Hardware', str(sweep.get('hardware') or '')),
    ('Versions', ', '.join(f'{k} {v}' for k, v in versions.items())),
    ('Commit', str(sweep.get('commit') or '')),
  ]
  return [(term, text) for term, text in rows if text]


def sections(path: str | os.PathLike) -> list[Section]:
  """Makes the sections: pictures, numbers, settings."""
  sweep, rows = read(path)
  entropy, examples = (
    value if math.isfinite(value := of_split(sweep.get(key), split)) else None
    for key, split in (
      ('label_entropy_bits', 'test'),
      ('log2_examples', 'train'),
    )
  )
  levels = {'label_entropy_bits': entropy, 'log2_examples': examples}
  classes = sweep.get('classes')
  pictures = [draw(drawings.beta_sweep, rows, classes=classes, **levels)]
  if entropy is not None:
    pictures.append(draw(drawings.information_plane, rows, entropy, examples))
  note = (
    'Mean ± standard deviation over n seeds. The rate is an upper bound on '
    'I(Z;X).'
  )
  listing = runs_lib.pretty({k: v for k, v in sweep.items() if k != 'rows'})
  settings = Fold('Settings of the sweep', listing=listing)
  return [
    Section('Error and information', pictures),
    Section('Numbers', [table(rows), Text(note)]),
    Section('Settings', [settings]),
  ]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
  """Tabulates means and standard deviations over seeds, by split and beta.

  Args:
    rows: the rows of a sweep.json, of one kind of weights.
  """
  fields = {
    name: (f'error %, {k} sample{"" if k == 1 else "s"}', 2)
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


def warnings(path: str | os.PathLike) -> list[str]:
  """Says how the least error is to be read."""
  _, rows = read(path)
  counts = drawings.sample_errors(rows[0])
  field = counts[max(counts)] if counts else ''
  errors = [
    row
    for row in drawings.over_seeds(rows, [field])
    if row[1] == 'test' and math.isfinite(row[3])
  ]
  if not errors:
    return []
  _, _, beta, mean, std, _ = min(errors, key=lambda row: row[3])
  spread = f' ± {std:.2f}' if math.isfinite(std) else ''
  return [
    f'Least test error with {max(counts)} samples: {fixed(mean, 2)}{spread} % '
    f'at beta {beta:g}. This beta is chosen on the test set, so its error is a '
    f'little too low.'
  ]
