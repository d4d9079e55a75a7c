"""Measures the mutual information of files, or of parts of a run, in nats."""

import csv
import math
import os
import time
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import dim_jax
from dim_jax import checks, files, progress
from dim_jax.data import load as data
from dim_jax.evaluation import features
from dim_jax.evaluation.information import classical, fit
from dim_jax.evaluation.information.rows import as_rows
from dim_jax.report import figures
from dim_jax.runs import provenance, represent, tables

KINDS = '.npy, .npz and .csv'
# Of a run's training set.
_MOST_ROWS = 20_000


class Side(NamedTuple):
  """The rows of one side.

  Attributes:
    rows: to fit and select a critic on.
    report: to report on; None where these are a part of `rows`.
  """

  rows: np.ndarray
  report: np.ndarray | None


def measure(
  x: str,
  y: str,
  out: str,
  *,
  given: str | None = None,
  report: Sequence[str] | None = None,
  noise: Mapping[str, float] | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Estimates the mutual information of two sources and writes the results.

  Args:
    x: the source of x, a file as `read_rows` takes it, or a part of a run,
      'RUN:PART': a feature of its encoder, 'inputs', or a label. Of a run, the
      test set is reported on, or with folds all rows.
    y: that of y.
    out: a folder, which gets information.json, and the curve of the critic's
      selection as information.png and .csv.
    given: the source of what is known beside, for conditional information.
    report: files of other rows to report on, as many as there are sources.
    noise: by side, such as 'x', the standard deviation of Gaussian noise that
      is added, relative to that of the side (root mean square over columns).
      What an encoder tells of its own inputs is infinite without any.
    **options: of `estimate_mi`, such as `critic` and `seeds`.

  Returns:
    The contents of information.json, in nats.

  Raises:
    ValueError: a source or its rows are not accepted.
    OSError: a file cannot be read, or the folder not written.
  """
  names = {'x': x, 'y': y} | ({'given': given} if given else {})
  sides = _read_sides(names, report)
  if options.get('folds') and not report:
    sides = {name: _together(side) for name, side in sides.items()}
  for i, (name, size) in enumerate((noise or {}).items()):
    checks.check_choice('noise', name, sides)
    sides[name] = _noisy(sides[name], size, np.random.default_rng(i))
  fresh = None
  if sides['x'].report is not None:
    fresh = tuple(side.report for side in sides.values())
  files.make_folder(out)
  start = time.perf_counter()
  if given:
    options['given'] = sides['given'].rows
  with warnings.catch_warnings(), progress.Progress() as shown:
    # They are in the results, and shown with them.
    warnings.simplefilter('ignore', UserWarning)
    # It is one program, which nothing can look into while it runs.
    shown.say(f'fitting a critic of {len(sides["x"].rows)} rows')
    estimate = dim_jax.estimate_mi(
      sides['x'].rows, sides['y'].rows, report=fresh, **options
    )
  seconds = time.perf_counter() - start
  shapes = {
    name: side.rows.reshape(len(side.rows), -1) for name, side in sides.items()
  }
  results = {
    **provenance.session(),
    **names,
    'noise': dict(noise or {}),
    'columns': {name: side.shape[1] for name, side in shapes.items()},
    'seconds': seconds,
    **{
      name: getattr(estimate, name)
      for name in estimate._fields
      if name not in ('history', 'pointwise')
    },
    'beside': {} if given else _beside(sides['x'].rows, sides['y'].rows),
  }
  files.write_json(os.path.join(out, 'information.json'), results)
  figures.save(picture(estimate), out)
  return results


def _read_sides(
  names: Mapping[str, str], report: Sequence[str] | None
) -> dict[str, Side]:
  """Reads all sides, each run once.

  Raises:
    ValueError: rows of some do not belong to those of others.
  """
  runs: dict[str, Any] = {}
  sides = {name: _read_side(source, runs) for name, source in names.items()}
  if report:
    others = zip(sides.items(), report, strict=True)
    return {
      name: side._replace(report=read_rows(path))
      for (name, side), path in others
    }
  if len({side.report is None for side in sides.values()}) > 1:
    raise ValueError(
      'some sides are of a run and some of files, whose rows do not belong '
      'together; give all of one kind.'
    )
  return sides


def _read_side(source: str, runs: dict[str, Any]) -> Side:
  """Reads the rows of a file, or those of a part of a run.

  Args:
    source: as of `measure`.
    runs: what was loaded of runs before, by folder; gets what this loads.
  """
  run_dir, _, part = source.rpartition(':')
  run_dir = os.path.expanduser(run_dir)
  if not os.path.isdir(run_dir):
    if os.path.isdir(os.path.expanduser(source)):
      raise ValueError(
        f'{source} is a folder; of a run give a part too, such as {source}:y, '
        f'{source}:inputs or {source}:class.'
      )
    return Side(read_rows(source), None)
  if run_dir not in runs:
    encoder = dim_jax.load(run_dir)
    splits = represent.load_examples(
      encoder.config.data, _MOST_ROWS, progress=True
    )
    runs[run_dir] = encoder, splits
  encoder, (train, test) = runs[run_dir]
  if part == 'inputs':
    return Side(train.inputs, test.inputs)
  if part in train.labels:
    return Side(train.labels[part], test.labels[part])
  batch = data.as_batch(train.inputs[:2], train.kind)
  outputs = jax.eval_shape(encoder.encode, encoder.variables, batch)
  accepted = (*outputs, 'inputs', *train.labels)
  checks.check_choice(f'the part of {run_dir}', part, accepted)
  of_train, of_test = (
    features.extract(
      encoder.encode,
      encoder.variables,
      split.inputs,
      kind=split.kind,
      names=(part,),
    )[part]
    for split in (train, test)
  )
  return Side(of_train, of_test)


def _together(side: Side) -> Side:
  """Returns all rows of a side, which folds report on in turn."""
  if side.report is None:
    return side
  return Side(np.concatenate([side.rows, side.report]), None)


def _noisy(side: Side, noise: float, rng: np.random.Generator) -> Side:
  checks.check_range('noise', noise, '(0, inf)')
  # Checked as the estimate will, since only numbers have a variance.
  as_rows('what gets noise', side.rows)
  std = noise * math.sqrt(np.mean(np.var(side.rows, axis=0, dtype=np.float64)))

  def noisy(rows: np.ndarray) -> np.ndarray:
    return rows + std * rng.standard_normal(rows.shape, np.float32)

  return Side(
    noisy(side.rows), None if side.report is None else noisy(side.report)
  )


def _beside(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
  """Returns what estimates without a network say of all rows."""
  if max(x.ndim, y.ndim) > 2:
    return {}  # Of thousands of pixels they say nothing, and take long.
  x, y = (side.reshape(len(side), -1) for side in (x, y))
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
  raise ValueError(
    f'{stem!r} is neither a file of a kind that is accepted ({KINDS}) nor '
    'RUN:PART of the folder of a run: give one of these.'
  )


def _read_csv(path: str, part: str) -> np.ndarray:
  with open(path, newline='', encoding='utf-8-sig') as file:
    lines = [line for line in csv.reader(file) if line]
  if not lines:
    raise ValueError(f'{path} is empty.')
  names = [str(i) for i in range(len(lines[0]))]
  # An empty cell is not a name: a row of data may lack a number, see below.
  if any(cell.strip() and not _is_number(cell) for cell in lines[0]):
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
  block = fit.block_for(estimate.sizes['fit'])
  for name, values in estimate.history.items():
    for i, of_seed in enumerate(values):
      kept = of_seed[np.isfinite(of_seed)].tolist()
      label = name if len(values) == 1 else f'{name}, seed {i}'
      steps = [block * (k + 1) for k in range(len(kept))]
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
