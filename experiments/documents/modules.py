"""Tables of Greedy InfoMax and CPC."""

import statistics
import textwrap
from collections.abc import Iterable
from typing import Any

from experiments.documents import markdown
from experiments.documents.results import (
  CIFAR10_IMAGES,
  exists,
  grouped,
  load,
  row_name,
)

_NAMES = {
  'gim': 'Greedy InfoMax',
  'cpc': 'CPC',
  'supervised': 'supervised by speaker',
  'greedy_supervised': 'greedy supervised by speaker',
  'layerwise': 'Greedy InfoMax, one after another',
}
_PACES = {
  'joint': 'all in one step',
  'slow_first': 'module_0 at half the pace',
  'fast_first': 'module_0 at twice the pace',
  'threads': 'a thread a module',
}


def _methods(file: str) -> dict[str, list[dict[str, Any]]]:
  """Groups the runs of a file by method."""

  def method(run: dict[str, Any]) -> str:
    if 'sequential' in run['command']:
      return 'layerwise'
    return row_name(run['command']) or 'gim'

  return grouped(load(file)['runs'], method)


def _accuracies(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
  """Finds what probes read of runs of spoken digits."""
  return [run.get('evaluation', run)['linear_probe_accuracy'] for run in runs]


def _by_module(accuracies: list[dict[str, float]]) -> list[str]:
  return [
    markdown.spread((seed[module] for seed in accuracies), scale=100)
    for module in sorted(accuracies[0])
  ]


def _spoken(file: str, label: str) -> str:
  rows = []
  for key, runs in _methods(file).items():
    read = [accuracy[label] for accuracy in _accuracies(runs)]
    times = [run['train_seconds'] for run in runs if 'train_seconds' in run]
    rows.append(
      [
        _NAMES[key],
        str(len(runs)),
        *_by_module([seed['trained'] for seed in read]),
        markdown.minutes(times) if times else '—',
      ]
    )
    if key == 'gim':
      untrained = _by_module([seed['untrained'] for seed in read])
      rows.append(['untrained', str(len(runs)), *untrained, '—'])
  header = [f'module_{i}' for i in range(6)]
  return markdown.table(['method', 'seeds', *header, 'training'], rows)


def spoken_digit() -> str:
  """Probes of the digit, 4,000 training windows."""
  return _spoken('gim_spoken_digits', 'digit')


def spoken_speaker() -> str:
  """Probes of the speaker, 4,000 training windows."""
  return _spoken('gim_spoken_digits', 'speaker')


def spoken_speaker_100() -> str:
  """Probes of the speaker, 100 training windows."""
  return _spoken('gim_spoken_digits_100', 'speaker')


def gim_cifar10() -> str:
  """Linear probes of CIFAR-10 by module, and CPC's contexts."""
  rows = []
  for key, every in _methods('gim_cifar10').items():
    lengths = grouped(every, lambda run: run['step'])
    for runs in lengths.values():
      name = _NAMES[key].removesuffix(' by speaker')
      epochs = f'{runs[0]["metrics"]["images"] / CIFAR10_IMAGES:.0f}'
      time = markdown.minutes(run['train_seconds'] for run in runs)
      rows.append([name, epochs, *_by_feature(runs, 'trained'), time])
    if read := _by_feature(every, 'untrained'):
      rows.append(['untrained', '0', *read, '—'])
  header = ['module_0', 'module_1', 'module_2', 'module_3 (contexts)']
  return markdown.table(
    ['method', 'epochs', 'seeds', *header, 'training'], rows
  )


def _by_feature(runs: list[dict[str, Any]], encoder: str) -> list[str]:
  """Seeds and accuracies of one encoder; nothing if it has no results."""
  read = [
    {
      row['feature']: row['mean']
      for row in run['evaluation']['results']
      if row['encoder'] == encoder
    }
    for run in runs
  ]
  read = [accuracies for accuracies in read if accuracies]
  if not read:
    return []
  found = _by_module(read)
  return [str(len(read)), *found, *['—'] * (4 - len(found))]


def own_pace() -> str:
  """Modules at their own pace, and jointly trained; nothing if not measured."""
  file = 'asynchronous_spoken_digits'
  if not exists(file):
    return ''
  report = load(file)
  conditions = grouped(report['rows'], lambda row: row['condition'])
  last = max(key.partition('/')[2] for key in report['rows'][0]['accuracy'])
  seeds = ' and '.join(map(str, report['seeds']))
  seeds = f'seed{"s" * (len(report["seeds"]) > 1)} {seeds}'
  text = (
    f'`{report["config"]}`, {seeds}, {report["steps"]:,} steps of every '
    f'module; linear probes of {last} on {report["max_train"]:,} training '
    'windows. Staleness is in batches, the mean over modules; seconds are of '
    f'the whole process ({report["hardware"]}), on cores that other work '
    'shared unequally: compare those of the CPU.'
  )
  return '\n\n'.join(
    [
      '### At their own pace, measured',
      textwrap.fill(text, 80, break_on_hyphens=False),
      markdown.table(
        [
          'condition',
          'digit, %',
          'speaker, %',
          'staleness',
          'repeated, %',
          'wall, s',
          'CPU, s',
          'peak, MiB',
        ],
        [
          [
            _PACES[condition],
            *(
              markdown.spread(
                (row['accuracy'][f'{label}/{last}'] for row in rows), scale=100
              )
              for label in ('digit', 'speaker')
            ),
            markdown.spread((_of_own(row, 'staleness') for row in rows), 2),
            markdown.spread(
              (_of_own(row, 'repeated') for row in rows), 0, scale=100
            ),
            markdown.spread((row['seconds'] for row in rows), 0),
            markdown.spread((row['cpu_seconds'] for row in rows), 0),
            markdown.spread((row['peak_bytes'] for row in rows), 0, 2**-20),
          ]
          for condition, rows in conditions.items()
        ],
      ),
    ]
  )


def _of_own(row: dict[str, Any], what: str) -> float:
  """Averages over modules; 0 where all train in one step."""
  values = [x for name, x in row['own_pace'].items() if name.endswith(what)]
  return statistics.mean(values or [0.0])


def module_of(key: str, label: str, module: str) -> str:
  """A module's accuracy on spoken digits."""
  runs = _methods('gim_spoken_digits')[key]
  return markdown.spread(
    (a[label]['trained'][module] for a in _accuracies(runs)), scale=100
  )
