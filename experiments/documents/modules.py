"""Tables of Greedy InfoMax and CPC."""

from collections.abc import Iterable
from typing import Any

from experiments.documents import markdown
from experiments.documents.results import config_name, load

_NAMES = {
  '': 'Greedy InfoMax',
  'cpc': 'CPC',
  'supervised': 'supervised by speaker',
  'greedy_supervised': 'greedy supervised by speaker',
  'layerwise': 'Greedy InfoMax, one after another',
}


def _methods(file: str) -> dict[str, list[dict[str, Any]]]:
  """Groups the runs of a file by method."""
  methods: dict[str, list[dict[str, Any]]] = {}
  for run in load(file)['runs']:
    config, *_ = config_name(run['command']).split()
    key = config.partition(':')[2]
    if 'sequential' in run['command']:
      key = 'layerwise'
    methods.setdefault(key, []).append(run)
  return methods


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
    if key == '':
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
  for key, runs in _methods('gim_cifar10').items():
    for kind in ('trained', 'untrained'):
      read = [
        {
          row['tap']: row['mean']
          for row in run['evaluation']['results']
          if row['features'] == kind
        }
        for run in runs
      ]
      if read[0]:
        cells = _by_module(read)
        cells += ['—'] * (4 - len(cells))
        time = markdown.minutes(run['train_seconds'] for run in runs)
        name = _NAMES[key] if kind == 'trained' else 'untrained'
        rows.append(
          [name, str(len(runs)), *cells, time if kind == 'trained' else '—']
        )
  header = ['module_0', 'module_1', 'module_2', 'module_3 (contexts)']
  return markdown.table(['method', 'seeds', *header, 'training'], rows)


def module_of(key: str, label: str, module: str) -> str:
  """A module's accuracy on spoken digits."""
  runs = _methods('gim_spoken_digits')[key]
  return markdown.spread(
    (a[label]['trained'][module] for a in _accuracies(runs)), scale=100
  )
