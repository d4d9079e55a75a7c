"""Measures the mutual information of two files of rows, in nats."""

import csv
import os
import time
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

import dim_jax
from dim_jax import files
from dim_jax.evaluation.information import classical, fit
from dim_jax.report import figures
from dim_jax.runs import provenance, tables

KINDS = '.npy, .npz and .csv'


def measure(
  x: str,
  y: str,
  out: str,
  *,
  report: tuple[str, str] | None = None,
  critic: str = 'auto',
  seeds: Sequence[int] = (0,),
  control: bool = True,
) -> dict[str, Any]:
  """Estimates the mutual information of two files and writes the results.

  Args:
    x: the file of x, as `read_rows` takes it.
    y: that of y.
    out: a folder, which gets information.json, and the curve of the critic's
      selection as information.png and .csv.
    report: files of other pairs to report on; by default a third of the rows.
    critic: as of `estimate_mi`.
    seeds: likewise.
    control: likewise.

  Returns:
    The contents of information.json, in nats.

  Raises:
    ValueError: a file or its rows are not accepted.
    OSError: a file cannot be read, or the folder not written.
  """
  rows = {'x': read_rows(x), 'y': read_rows(y)}
  fresh = report and (read_rows(report[0]), read_rows(report[1]))
  files.make_folder(out)
  start = time.perf_counter()
  with warnings.catch_warnings():
    # They are in the results, and shown with them.
    warnings.simplefilter('ignore', UserWarning)
    estimate = dim_jax.estimate_mi(
      rows['x'],
      rows['y'],
      report=fresh,
      critic=critic,
      seeds=tuple(seeds),
      control=control,
    )
  seconds = time.perf_counter() - start
  shapes = {name: side.reshape(len(side), -1) for name, side in rows.items()}
  results = {
    **provenance.session(),
    'x': x,
    'y': y,
    'columns': {name: side.shape[1] for name, side in shapes.items()},
    'seconds': seconds,
    **{
      name: getattr(estimate, name)
      for name in estimate._fields
      if name not in ('history', 'pointwise')
    },
    'beside': _beside(shapes['x'], shapes['y']),
  }
  files.write_json(os.path.join(out, 'information.json'), results)
  figures.save(picture(estimate), out)
  return results


def _beside(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
  """Returns what estimates without a network say of all rows."""
  x, y = (side[:, np.ptp(side, axis=0) > 0] for side in (x, y))
  columns, beside = x.shape[1] + y.shape[1], {}
  if len(x) > columns:
    beside['Gaussian'] = classical.gaussian(x, y)
  # Nearest neighbours find nothing in many columns, and take long; they are of
  # continuous variables, where no two rows are equal.
  distinct = all(len(np.unique(s, axis=0)) == len(s) for s in (x, y))
  if columns <= 10 and distinct:
    beside['KSG, k = 3'] = classical.ksg(x, y)
  return beside


def read_rows(path: str) -> np.ndarray:
  """Reads the rows of a file.

  Args:
    path: of an .npy file; of an .npz file and the name of an array,
      'FILE.npz:NAME', which may be left out where there is one; or of a .csv
      file and the names or numbers of columns, 'FILE.csv:a,b', all if left out.
      A first line that is no numbers names the columns.

  Returns:
    [n] or [n, D].

  Raises:
    ValueError: the file is none of these, or has no such part.
    OSError: it cannot be read.
  """
  stem, dot, part = path.rpartition(':')
  if not dot or not stem.endswith(('.npz', '.csv')):
    stem, part = path, ''
  stem = os.path.expanduser(stem)
  try:
    return _read_file(stem, part)
  except (zipfile.BadZipFile, EOFError, csv.Error, UnicodeDecodeError) as error:
    raise ValueError(f'{stem} cannot be read: {error}.') from error


def _read_file(stem: str, part: str) -> np.ndarray:
  if stem.endswith('.npy'):
    return np.load(stem, allow_pickle=False)
  if stem.endswith('.npz'):
    # Opened here: NumPy leaves a damaged file open.
    with open(stem, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
      if not part and len(arrays.files) == 1:
        part = arrays.files[0]
      if part not in arrays.files:
        raise ValueError(
          f'{stem} has the arrays {", ".join(arrays.files)}; give one of them '
          f'as {stem}:NAME.'
        )
      return arrays[part]
  if stem.endswith('.csv'):
    return _read_csv(stem, part)
  raise ValueError(f'{stem!r} is of no kind that is accepted: {KINDS}.')


def _read_csv(path: str, part: str) -> np.ndarray:
  with open(path, newline='', encoding='utf-8-sig') as file:
    lines = [line for line in csv.reader(file) if line]
  if not lines:
    raise ValueError(f'{path} is empty.')
  names = [str(i) for i in range(len(lines[0]))]
  if not all(_is_number(cell) for cell in lines[0]):
    names = [cell.strip() for cell in lines.pop(0)]
  chosen = part.split(',') if part else names
  if missing := [name for name in chosen if name not in names]:
    raise ValueError(
      f'{path} has no column {", ".join(missing)}: its columns are '
      f'{", ".join(names)}.'
    )
  rows = np.empty((len(lines), len(chosen)))
  at = [names.index(name) for name in chosen]
  for i, line in enumerate(lines):
    for j, column in enumerate(at):
      cell = line[column] if column < len(line) else ''
      if not _is_number(cell):
        raise ValueError(
          f'{path} has {cell!r} in row {i + 1} of column {chosen[j]}; numbers '
          'are accepted.'
        )
      rows[i, j] = float(cell)
  return rows


def _is_number(cell: str) -> bool:
  try:
    float(cell)
  except ValueError:
    return False
  return True


def picture(estimate: Any) -> figures.Picture:
  """Draws the critic's values on both splits while it was fitted."""
  lines = []
  for name, values in estimate.history.items():
    for i, of_seed in enumerate(values):
      kept = of_seed[np.isfinite(of_seed)].tolist()
      label = name if len(values) == 1 else f'{name}, seed {i}'
      steps = [fit.BLOCK * (k + 1) for k in range(len(kept))]
      lines.append(figures.Line(label, steps, kept))
  low, high = estimate.interval
  return figures.curves(
    'information',
    'Mutual information while the critic was fitted',
    lines,
    unit='nats',
    caption=f'On pairs of their own: {estimate.value:.3f} nats, 95 % interval '
    f'{low:.3f} to {high:.3f}; the ceiling is {estimate.ceiling:.2f}.',
  )


def table(results: dict[str, Any]) -> Any:
  """Makes the table of a measurement."""
  low, high = results['interval']
  lines = [
    (f'critic ({results["critic"]})', f'{results["value"]:.4f}'),
    ('  standard error', f'{results["standard_error"]:.4f}'),
    ('  std over seeds', f'{results["seed_std"]:.4f}'),
    ('  95 % interval', f'{low:.4f} to {high:.4f}'),
    ('  ceiling', f'{results["ceiling"]:.4f}'),
  ]
  if results['control'] is not None:
    lines.append(('  permuted pairs', f'{results["control"]:.4f}'))
  lines += [(name, f'{value:.4f}') for name, value in results['beside'].items()]
  sizes = results['sizes']
  return tables.table(
    ('estimate', 'nats'),
    lines,
    caption=f'{sizes["fit"]} pairs fitted, {sizes["selection"]} selected, '
    f'{sizes["report"]} reported.',
  )


def notes(results: dict[str, Any]) -> list[str]:
  """Lists the warnings of a measurement."""
  return [f'Warning: {note}' for note in results['warnings']]
