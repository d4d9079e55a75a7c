"""Trains bounds on mutual information while the truth climbs in steps.

  python -m experiments.studies.staircase --critics=separable,conditional
  python -m experiments.studies.staircase --levels=1.386,2.773,4.159,5.545,6.931

Correlated Gaussians of 20 dimensions (or their cubes, which share as much),
fresh pairs at every step, 64 a batch, Adam at 5e-4, so many steps a level with
training going on across levels: the protocol of Poole et al. (2019) and of Song
and Ermon (2020), see `dim_jax.runs.staircase`. The second command has the
levels of a published benchmark (1, 2, 3, 4, 5 times 2 bits), whose numbers are
shown beside ours.

A reading is a batch's value before its own step. The table has its mean and
standard deviation over the second half of each level, which hide nothing: not
the outliers of NWJ, nor that InfoNCE cannot exceed ln 64 = 4.16. 'JSD, NWJ',
'NWJ, no 1', 'JSD, DV' and SMILE read one critic that the Jensen-Shannon bound
trains, the second as it is wrongly done, low by 1/e. DV trained alone has no
maximum; 'DV, penalty' trains by it less 0.1 (ln mean e^T)^2. I_α is the bound
between TUBA and InfoNCE, DoE the difference of entropies.

Writes WORKDIR/staircase.json after each bound, its curve after each level, and
pictures in the end; the same command goes on where it was interrupted.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax import checks, files, progress
from dim_jax.commands.command import Command, show
from dim_jax.report import figures
from dim_jax.runs import provenance, staircase, tables

DISTRIBUTIONS = ('gaussian', 'cubic')
# Of the moving average that is drawn, in steps.
SPAN = 200
LABELS = {
  'infonce': 'InfoNCE',
  'nwj': 'NWJ',
  'donsker_varadhan': 'DV, penalty',
  'donsker_varadhan_unregularised': 'DV',
  'mine': 'MINE',
  'jsd_nwj': 'JSD, NWJ',
  'jsd_nwj_unshifted': 'NWJ, no 1',
  'jsd_donsker_varadhan': 'JSD, DV',
  'jsd_smile_1': 'SMILE 1',
  'jsd_smile_5': 'SMILE 5',
  'tuba': 'TUBA',
  'interpolated_0.01': 'I_α, 0.01',
  'interpolated_0.5': 'I_α, 0.5',
  'club': 'CLUB',
  'difference_of_entropies': 'DoE',
}
PUBLISHED_LEVELS = tuple(2 * bits * math.log(2) for bits in range(1, 6))
# Means of the same, and standard deviations, from the arrays of one run of
# https://github.com/kyungeun-lee/mibenchmark (Gaussian, 64 pairs). Its MINE
# divides by the batch's own mean.
PUBLISHED: dict[tuple[str, str], tuple[tuple[float, float | None], ...]] = {
  ('joint', 'infonce'): (
    (1.24, 0.18), (2.31, 0.20), (3.08, 0.18), (3.59, 0.15), (3.88, 0.10)
  ),
  ('joint', 'nwj'): (
    (1.31, 0.20), (2.62, 0.30), (3.88, 0.47), (5.06, 0.88), (5.62, 2.8)
  ),
  ('joint', 'donsker_varadhan_unregularised'): (
    (1.31, 0.21), (2.63, 0.32), (3.88, 0.94), (5.87, 8.9), (267, 724)
  ),
  ('joint', 'mine'): (
    (1.30, 0.21), (2.62, 0.31), (3.89, 0.45), (5.12, 0.69), (6.54, 0.87)
  ),
  ('joint', 'jsd_nwj_unshifted'): (
    (0.90, 0.20), (2.20, 0.27), (3.51, 0.34), (4.81, 0.45), (6.08, 0.67)
  ),
  ('joint', 'jsd_smile_1'): (
    (1.50, 0.20), (3.03, 0.29), (4.52, 0.36), (5.95, 0.43), (7.32, 0.49)
  ),
  ('joint', 'jsd_smile_5'): (
    (1.28, 0.20), (2.64, 0.27), (4.11, 0.34), (5.71, 0.43), (7.34, 0.52)
  ),
  ('joint', 'jsd_donsker_varadhan'): (
    (1.28, 0.19), (2.61, 0.28), (3.97, 0.39), (5.36, 0.53), (6.78, 0.73)
  ),
  ('separable', 'infonce'): (
    (1.15, None), (2.20, None), (2.96, None), (3.48, None), (3.79, None)
  ),
  ('separable', 'nwj'): (
    (1.12, None), (2.13, None), (2.84, None), (3.40, None), (3.36, 2.5)
  ),
  ('separable', 'donsker_varadhan_unregularised'): (
    (1.18, None), (2.30, None), (3.35, None), (4.36, None), (5.28, None)
  ),
  ('separable', 'mine'): (
    (1.18, None), (2.25, None), (3.02, None), (3.79, None), (4.49, None)
  ),
  ('separable', 'jsd_smile_5'): (
    (1.14, None), (2.44, None), (3.86, None), (5.37, None), (7.01, None)
  ),
}  # fmt: skip

_COMMAND = Command('studies.staircase', __doc__)
_LEVELS = _COMMAND.items('levels', (2.0, 4.0, 6.0, 8.0, 10.0), 'Nats.', float)
_CRITICS = _COMMAND.items('critics', staircase.CRITICS, 'Which.')
_METHODS = _COMMAND.items('methods', None, 'Names, with commas; all if none.')
_DISTRIBUTIONS = _COMMAND.items('distributions', DISTRIBUTIONS, 'Which.')
_STEPS = _COMMAND.integer('steps', 4000, 'Of each level.')
_SEED = _COMMAND.integer('seed', 0, 'Of networks and pairs.')
_WORKDIR = _COMMAND.path('workdir', 'runs/staircase', 'Where to write.')

Curves = dict[str, np.ndarray]


def published(
  distribution: str, critic: str, reading: str, level: float
) -> dict[str, float | None] | None:
  """Returns the mean and standard deviation that were published, if any."""
  values = PUBLISHED.get((critic, reading))
  if values is None or distribution != 'gaussian':
    return None
  for at, (mean, std) in zip(PUBLISHED_LEVELS, values, strict=True):
    if abs(at - level) < 1e-3:
      return {'mean': mean, 'std': std}
  return None


def rows_of(
  distribution: str, critic: str, curves: Curves, levels: Sequence[float]
) -> list[dict[str, Any]]:
  """Summarises the readings of a critic: a row for each of them and level."""
  rows = []
  for reading, curve in curves.items():
    same = {'distribution': distribution, 'critic': critic, 'reading': reading}
    for numbers in staircase.summary(curve, levels):
      row: dict[str, Any] = same | numbers
      theirs = published(distribution, critic, reading, numbers['truth'])
      rows.append(row | ({'published': theirs} if theirs else {}))
  return rows


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
  """Makes the table of a critic, a reading a line, published numbers below.

  Args:
    rows: of `rows_of`, of one distribution and critic.
  """
  groups: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    groups.setdefault(row['reading'], []).append(row)
  lines = []
  for reading, mine in groups.items():
    lines.append((LABELS[reading], *(_cell(row) for row in mine)))
    if any('published' in row for row in mine):
      lines.append(('  published', *(_cell(r.get('published')) for r in mine)))
  levels = dict.fromkeys(row['truth'] for row in rows)
  return tables.table(
    ('reading', *(f'{level:.3f}' for level in levels)),
    lines,
    title=f'{rows[0]["critic"]} critic, {rows[0]["distribution"]} pairs',
    caption="Nats: mean and standard deviation of a batch's value.",
  )


def _grouped(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
  groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for row in rows:
    groups.setdefault((row['critic'], row['distribution']), []).append(row)
  return list(groups.values())


def _cell(numbers: Mapping[str, Any] | None) -> str:
  if numbers is None:
    return ''
  both = [x for x in (numbers['mean'], numbers['std']) if x is not None]
  form = '.2f' if max(map(abs, both)) < 100 else '.0e'
  return ' ± '.join(f'{x:{form}}' for x in both)


def picture(
  distribution: str,
  critic: str,
  curves: Curves,
  levels: Sequence[float],
  batch_size: int,
) -> figures.Picture:
  """Draws the readings of a critic over the staircase, a panel each.

  Args:
    distribution: in DISTRIBUTIONS.
    critic: in `staircase.CRITICS`.
    curves: readings in nats, [levels, steps] each.
    levels: the truth in nats.
    batch_size: N, of which ln N is the ceiling of InfoNCE.
  """
  rows: figures.Rows = []
  for reading, curve in curves.items():
    average = figures.ema(curve.reshape(-1), SPAN)
    stds = [numbers['std'] for numbers in staircase.summary(curve, levels)]
    steps = curve.shape[1]
    # Two hundred points of each level show all of an average.
    for step in range(0, curve.size, max(1, steps // 200)):
      level = step // steps
      numbers = (float(average[step]), stds[level], float(levels[level]))
      rows.append((reading, step, *numbers))
  return figures.Picture(
    f'staircase_{distribution}_{critic}',
    f'{critic.capitalize()} critic, {distribution} pairs',
    f"Bold: moving average of a batch's value over {SPAN} steps, "
    f'{batch_size} pairs a batch; around it one standard deviation of a batch. '
    'Gray: the truth.',
    f'Estimates of mutual information that climbs to {max(levels):g} nats, by '
    f'{", ".join(LABELS[name] for name in curves)}.',
    ('reading', 'step', 'average', 'std', 'truth'),
    rows,
    lambda: _draw(rows, math.log(batch_size)),
  )


def _draw(rows: figures.Rows, ceiling: float) -> Any:
  groups = figures.grouped(rows, 0)
  columns = min(3, len(groups))
  figure, panels = figures.panels(
    len(groups), columns, 0.9, 'thousand steps', 'nats', width=7.0
  )
  top = max(row[4] for row in rows)
  for axes, (reading, mine) in zip(panels, groups.items(), strict=True):
    step, average, std, truth = np.array([row[1:] for row in mine], float).T
    step /= 1000
    look = {'color': figures.INK, 'lw': 1.4, 'label': 'truth'}
    axes.step(step, truth, where='post', **look)
    colour = figures.COLOURS[0]
    band = {'color': colour, 'alpha': 0.2, 'lw': 0}
    axes.fill_between(step, average - std, average + std, **band)
    axes.plot(step, average, color=colour, lw=1.8)
    if reading == 'infonce':
      axes.axhline(ceiling, label=f'ceiling {ceiling:.2f}', **figures.LEVEL)
    axes.set_title(LABELS[reading], fontsize=10)
    # What diverges leaves the panel; its numbers are in the table.
    axes.set_ylim(min(0.0, -0.1 * top), 1.35 * top)
  return figure


def _settings() -> dict[str, Any]:
  """Returns what all runs of a folder have in common, checked."""
  checks.check_range('--steps', _STEPS.value, 'int [2, inf)')
  for flag, accepted in (
    (_CRITICS, staircase.CRITICS),
    (_DISTRIBUTIONS, DISTRIBUTIONS),
    (_METHODS, staircase.METHODS),
  ):
    for name in flag.value or ():
      checks.check_choice(f'--{flag.name}', name, accepted)
  if not _LEVELS.value:
    raise ValueError('--levels is empty; give at least one, such as 2,4.')
  protocol = staircase.Protocol(steps=_STEPS.value)
  return {
    'levels': list(_LEVELS.value),
    'seed': _SEED.value,
    'ceiling': math.log(protocol.batch_size),
    **protocol._asdict(),
  }


def _todo() -> list[tuple[str, str, str]]:
  return [
    (distribution, critic, method)
    for critic in _CRITICS.value
    for distribution in _DISTRIBUTIONS.value
    for method in _METHODS.value or staircase.METHODS
    if method in staircase.methods_of(critic)
  ]


@_COMMAND.main
def main() -> None:
  settings, todo = _settings(), _todo()
  files.make_folder(_WORKDIR.value)
  path = os.path.join(_WORKDIR.value, 'staircase.json')
  rows = _earlier(path, settings)
  # The settings of curves that an interrupted command leaves.
  _write(path, settings, rows)
  curves: dict[tuple[str, str], Curves] = {}
  steps = len(settings['levels']) * settings['steps']
  with (
    progress.Progress() as shown,
    shown.task('steps', len(todo) * steps) as task,
  ):
    for i, run in enumerate(todo):
      mine = _climb(
        run,
        settings,
        lambda n, i=i, run=run: task.update(i * steps + n, ' '.join(run)),
      )
      new = rows_of(*run[:2], mine, settings['levels'])
      rows = _merged(rows, new)
      _write(path, settings, rows)
      curves.setdefault(run[:2], {}).update(mine)
  for (distribution, critic), readings in curves.items():
    levels, batch_size = settings['levels'], settings['batch_size']
    drawn = picture(distribution, critic, readings, levels, batch_size)
    figures.save(drawn, _WORKDIR.value)
  show(*map(table, _grouped(rows)), path)


def _write(
  path: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
  content = {**settings, 'rows': rows, **provenance.session()}
  files.write_json(path, content)


def _climb(
  run: tuple[str, str, str], settings: Mapping[str, Any], update: Any
) -> Curves:
  distribution, critic, method = run
  return staircase.train(
    critic,
    method,
    settings['levels'],
    staircase.Protocol(steps=settings['steps']),
    cubic=distribution == 'cubic',
    seed=settings['seed'],
    path=os.path.join(_WORKDIR.value, f'{"_".join(run)}.npz'),
    update=update,
  )


def _merged(
  rows: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
  """Returns rows with new ones in the place of those they repeat."""
  keys = ('distribution', 'critic', 'reading', 'truth')
  merged = {tuple(row[key] for key in keys): row for row in (*rows, *new)}
  return list(merged.values())


def _earlier(path: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the rows that an interrupted command wrote.

  Raises:
    ValueError: they are of other settings.
  """
  before = files.read_json(path)
  if before and any(before[key] != settings[key] for key in settings):
    levels = ','.join(f'{level:g}' for level in before['levels'])
    raise ValueError(
      f'{path} was measured with --levels={levels}, '
      f'--steps={before["steps"]} and --seed={before["seed"]}; give these, or '
      'another --workdir.'
    )
  return before.get('rows', [])


if __name__ == '__main__':
  main()
