"""The page of a table: methods trained and probed alike, beside a paper's."""

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Part, Table, Text, draw, fixed, with_error
from dim_jax.report.sections import summary

FEATURES = ('conv', 'fc', 'y')
PROBES = ('mlp', 'linear_few')
UNTRAINED = 'untrained'


def file_of(path: str | os.PathLike) -> str:
  """The file that makes a folder a table's."""
  return os.path.join(path, 'table.json')


def view(path: str | os.PathLike) -> dict[str, Any]:
  """What the template shows of a table.

  Raises:
    ValueError: table.json is damaged or has no cells.
  """
  report = runs_lib.read_file(file_of(path))
  if not report.get('cells'):
    raise ValueError(f'{file_of(path)!r} has no cells.')
  lines = records(report)
  few = report['settings']['protocol']['few_labels']
  sections: dict[str, list[Part]] = {
    'Accuracy': [
      Text(f'Test accuracy in percent of an MLP probe, {describe(report)}.'),
      draw(picture, lines),
      Table(compared(lines), 'MLP probe'),
      Table(few_labels(lines), f'Linear probe with {few} labels per class'),
    ]
  }
  if measured := measures(report):
    sections['Measures of the code'] = [Table(measured)]
  orders = [Text(sentence) for sentence in disagreements(report)]
  sections['Where the order is not the published one'] = [*orders]
  skipped = [f'{x["what"]}: {x["reason"]}' for x in report['skipped']]
  sections['Not trained'] = [Text(text) for text in skipped]
  return {
    'title': f'Table {report["table"]}',
    'heading': heading(report),
    'warnings': [report['note']] if report.get('note') else [],
    'facts': _facts(report),
    'commands': [summary.command(report.get('command'), 'made the table')],
    'sections': sections,
  }


def _facts(report: Mapping[str, Any]) -> dict[str, str]:
  """Describes what made the numbers."""
  settings = report['settings']
  names = ('date', 'hardware', 'versions', 'commit', 'protocol_hash', 'chance')
  terms = {key: settings[key] for key in ('steps', 'batch_size')}
  terms |= {key: report[key] for key in names if report.get(key)}
  return {
    key.replace('_', ' ').capitalize(): summary.listed(value)
    for key, value in terms.items()
  }


def compared(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
  """Tabulates the MLP probe, the published numbers, and the gaps to them.

  Args:
    lines: of `records`.

  Returns:
    A row of texts for each method, in percent and points.
  """
  rows: dict[str, dict[str, str]] = {}
  published = any(line['published'] is not None for line in lines)
  for line in lines:
    row = rows.setdefault(line['name'], {'model': line['title']})
    feature, mean, paper = (line[k] for k in ('feature', 'mean', 'published'))
    row[feature] = '–' if mean is None else with_error(mean, line['std'], 1)
    if published:
      row[f'{feature}, paper'] = fixed(paper, 1)
      known = None not in (mean, paper)
      row[f'{feature}, gap'] = fixed(mean - paper, 1, True) if known else '–'
  return list(rows.values())


def few_labels(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
  """Tabulates the probe of few labels.

  Args:
    lines: of `records`.

  Returns:
    A row of texts for each method, in percent.
  """
  rows: dict[str, dict[str, str]] = {}
  for line in lines:
    if line['few_mean'] is not None:
      row = rows.setdefault(line['name'], {'model': line['title']})
      row[line['feature']] = with_error(line['few_mean'], line['few_std'], 1)
  return list(rows.values())


def picture(lines: Sequence[Mapping[str, Any]]) -> figures.Picture:
  """Draws the accuracies of `records`, a line a method, a colour a feature."""
  columns = ('title', 'feature', 'mean', 'std', 'n', 'published')
  rows = [tuple(line[key] for key in columns) for line in lines]
  best = max(
    (row for row in rows if row[2] is not None),
    key=lambda row: row[2],
    default=('nothing', '', 0.0),
  )
  shown = 'Filled: measured, with one standard deviation over seeds.'
  if any(row[-1] is not None for row in rows):
    shown += ' Hollow: published.'
  return figures.Picture(
    'table',
    'MLP probe of each method',
    shown,
    f'Test accuracy by method and feature; the best is {best[0]}, {best[1]}, '
    f'with {best[2]:.1f} %.',
    columns,
    rows,
    lambda: _draw(rows),
  )


def _draw(rows: figures.Rows) -> Any:
  titles = list(dict.fromkeys(row[0] for row in rows))
  figure, axes = figures.blank(figures.WIDTH, 0.9 + 0.34 * len(titles))
  for k, feature in enumerate(FEATURES):
    colour = figures.COLOURS[k]
    label: str | None = feature
    for title, name, mean, std, _, published in rows:
      if name != feature:
        continue
      y = titles.index(title) + 0.22 * (k - 1)
      if published is not None:
        look = {'mfc': 'none', 'mec': colour, 'ms': 5, 'alpha': 0.7}
        axes.plot(published, y, 'o', **look)
      if mean is not None:
        axes.errorbar(
          mean, y, xerr=std, fmt='o', ms=5, color=colour, label=label,
          **figures.BARS,
        )  # fmt: skip
        label = None
  axes.set_yticks(range(len(titles)), titles, fontsize=9.5)
  axes.tick_params('y', length=0, labelcolor=figures.INK)
  axes.set_ylim(len(titles) - 0.5, -0.5)
  axes.set_xlabel('test accuracy, %')
  axes.grid(axis='x', color=figures.FAINT, lw=0.5)
  return figure


def records(report: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Lists the accuracies of a table in percent: a line a method and feature.

  Args:
    report: what `compare` returned.

  Returns:
    For each line 'name', 'title' and 'feature'; 'mean', 'std' and 'n' over
    seeds and the 'published' number of the MLP probe, if there are any; and
    'few_mean' and 'few_std' of the linear probe of few labels. The untrained
    encoder comes last.
  """
  rows = [*report['rows'], {'name': UNTRAINED, 'title': UNTRAINED}]
  lines = []
  for row in rows:
    cells = [c for c in report['cells'] if c['row'] == row['name']]
    paper = row.get('paper') or {}
    for feature in FEATURES:
      line = {k: row[k] for k in ('name', 'title')} | {'feature': feature}
      for probe, prefix in zip(PROBES, ('', 'few_'), strict=True):
        values = [
          100 * c['accuracy'][probe][feature]
          for c in cells
          if feature in c['accuracy'][probe]
        ]
        line |= {
          f'{prefix}mean': float(np.mean(values)) if values else None,
          f'{prefix}std': float(np.std(values, ddof=1))
          if len(values) > 1
          else None,
        }
        if not prefix:
          line['n'] = len(values)
      published = paper.get(feature) if paper.get('probe') == 'mlp' else None
      lines.append(line | {'published': published})
  return [line for line in lines if line['n'] or line['published'] is not None]


def disagreements(report: Mapping[str, Any]) -> list[str]:
  """Says where the order of two methods is not the published one.

  A difference counts that is larger than the noise of both together: of each
  the standard deviation over seeds, and at least the binomial standard error.

  Args:
    report: what `compare` returned.

  Returns:
    A sentence for each pair of methods and feature.
  """
  sentences = []
  tested = (report.get('protocol') or {}).get('test_rows')
  for feature in FEATURES:
    lines = [
      line
      for line in records(report)
      if line['feature'] == feature
      and line['mean'] is not None
      and line['published'] is not None
    ]
    for a, b in itertools.permutations(lines, 2):
      noise = _noise(a, tested) + _noise(b, tested)
      ours = a['mean'] - b['mean']
      if ours > noise and a['published'] < b['published']:
        sentences.append(
          f'{feature}: {a["title"]} reads {ours:.1f} points above '
          f'{b["title"]}; published, it is '
          f'{b["published"] - a["published"]:.1f} below.'
        )
  return sentences


def _noise(line: Mapping[str, Any], tested: int | None) -> float:
  """Returns the noise of an accuracy, in points."""
  error = 0.0
  if tested:
    error = math.sqrt(line['mean'] * (100 - line['mean']) / tested)
  return max(error, line['std'] or 0.0)


_MEASURED: dict[str, tuple[str, str, Callable[[float], float]]] = {
  'svm': ('accuracy', 'SVM %', lambda x: 100 * x),
  'knn': ('accuracy', 'kNN %', lambda x: 100 * x),
  'linear_few': ('accuracy', 'few labels %', lambda x: 100 * x),
  'reconstruction': ('multiscale_ssim', 'MS-SSIM', float),
  'information': ('lower', 'I(X;Y+noise) >=, nats', float),
  'dependence': ('value', 'NDM, nats', float),
  'rank': ('rankme', 'RankMe', float),
  'lidar': ('lidar', 'LiDAR', float),
}


def measures(report: Mapping[str, Any]) -> list[dict[str, str]]:
  """Lists what was measured of the codes, means over seeds: a line a method.

  Args:
    report: what `compare` returned.

  Returns:
    'model', and a text for each measure; [] where nothing was measured.
  """
  lines = []
  for row in [*report['rows'], {'name': UNTRAINED, 'title': UNTRAINED}]:
    cells = [c for c in report['cells'] if c['row'] == row['name']]
    line = {}
    for measure, (key, title, scale) in _MEASURED.items():
      values = [
        scale(c['measures'][measure][key])
        for c in cells
        if measure in c['measures']
      ]
      # What so many examples can show at most, where there is such a bound.
      most = [
        c['measures'][measure]['ceiling']
        for c in cells
        if 'ceiling' in c['measures'].get(measure, {})
      ]
      if values:
        line[title] = f'{np.mean(values):.2f}'
        line[title] += f' of {min(most):.2f}' if most else ''
    if line:
      lines.append({'model': row['title']} | line)
  return lines


def heading(report: Mapping[str, Any]) -> str:
  """Names the data of a table and how many seeds there are at most."""
  seeds = sorted({cell['seed'] for cell in report['cells']})
  many = f'seed{"s"[: len(seeds) > 1]} {", ".join(map(str, seeds))}'
  return f'{report.get("dataset", report["table"])}, {many}'


def describe(report: Mapping[str, Any]) -> str:
  """Says how the methods of a table were trained and probed."""
  settings = report['settings']
  steps, size = settings['steps'], settings['batch_size']
  return (
    f'mean ± standard deviation over seeds; each method trained on '
    f'{steps * size:,} images ({steps:,} steps of {size}); protocol '
    f'{report.get("protocol_hash", "")}'
  )
