"""What training and evaluation left in a run's folder, read without them."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.evaluation import probes as probes_lib
from dim_jax.training import metrics as metrics_lib

# Where the fields of `Run` that may be absent come from.
_FILES = {
  'probes': 'evaluation/probes.json',
  'features': 'evaluation/features.npz',
  'classification': 'evaluation/classification.json',
  'classified': 'evaluation/classification.npz',
  'density': 'evaluation/density.json',
  'density_arrays': 'evaluation/density.npz',
  'couplets': 'evaluation/couplets.json',
  'representation': 'evaluation/representation.json',
  'reconstructions': 'evaluation/representation.npz',
  'summary': 'summary.json',
  'info': 'run.json',
}

# Settings in which two runs of one method may differ.
_NO_SETTING = set(
  'checkpoint_every information init_from input_shape keep log_every paper '
  'parallel seed tensorboard'.split()
)


class Run(NamedTuple):
  """What a run's folder holds; see _FILES, {} where a file is missing.

  The label is the folder's name, unique on the page. Results of probes have a
  'feature', whatever their file calls it.
  """

  path: str
  label: str
  config: dict[str, Any]
  metrics: list[dict[str, Any]]
  probes: dict[str, Any]
  features: dict[str, np.ndarray]
  classification: dict[str, Any]
  classified: dict[str, np.ndarray]
  density: dict[str, Any]
  density_arrays: dict[str, np.ndarray]
  couplets: dict[str, Any]
  representation: dict[str, Any]
  reconstructions: dict[str, np.ndarray]
  summary: dict[str, Any]
  info: dict[str, Any]

  def known(self, key: str, default: Any = None) -> Any:
    """A field of run.json."""
    return self.info.get(key) or default

  @property
  def objective(self) -> dict[str, Any]:
    """The options of the method."""
    return self.config.get('objective') or {}

  @property
  def title(self) -> str:
    """The method's name."""
    return str(self.known('title') or module_name(self.objective))


def read(path: str | os.PathLike) -> Run:
  """Reads the folder that training wrote; its name labels the run.

  Raises:
    FileNotFoundError: the folder is not there, or is no run.
    ValueError: a file of it is damaged.
  """
  path = os.fspath(path)
  config = read_config(path)
  fields: dict[str, Any] = {}
  for field, name in _FILES.items():
    file = os.path.join(path, name)
    fields[field] = read_file(file) if os.path.exists(file) else {}
  if probes := fields['probes']:
    # As older files have them.
    if not isinstance(probes.get('chance'), dict):
      probes['chance'] = {'class': probes.get('chance')}
    probes['results'] = probes_lib.migrate_rows(probes['results'])
  return Run(
    path,
    os.path.basename(os.path.abspath(path)),
    config,
    metrics_lib.read(os.path.join(path, 'metrics.jsonl')),
    **fields,
  )


def read_config(path: str) -> dict[str, Any]:
  """Reads the config of a run's folder; raises as `read` does."""
  file = os.path.join(path, 'config.json')
  if os.path.isfile(file):
    return read_file(file)
  if os.path.isfile(os.path.join(path, 'sweep_config.json')):
    raise FileNotFoundError(
      f'{path!r} is a sweep, which has a page when it has ended: the same '
      'dim-jax train continues one that was interrupted.'
    )
  what = 'has no config.json' if os.path.isdir(path) else 'is no folder'
  raise FileNotFoundError(
    f'{path!r} is not a run: it {what}. Looked for {file!r}; give the '
    '--workdir of a run of dim-jax train.'
  )


def read_all(paths: Sequence[str | os.PathLike]) -> list[Run]:
  """Reads the folders of runs and gives each run a label of its own.

  Raises:
    FileNotFoundError: a folder is no run.
    ValueError: a file of one is damaged, or a run is given twice.
  """
  runs = [read(path) for path in paths]
  labels = [run.label for run in runs]
  if len(set(labels)) < len(labels):
    labels = [run.path.rstrip(os.sep) for run in runs]
  if len(set(labels)) < len(labels):
    raise ValueError(f'The same run is given twice: {labels}.')
  return [
    run._replace(label=label) for run, label in zip(runs, labels, strict=True)
  ]


def read_file(path: str) -> dict[str, Any]:
  """Reads a file of JSON, or arrays; raises ValueError if it is damaged."""
  try:
    if path.endswith('.npz'):
      with np.load(path) as arrays:
        return dict(arrays)
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f'{path!r} cannot be read ({error}).') from error


def flatten(value: Any, path: str = '') -> Iterable[tuple[str, Any]]:
  """Yields the leaves of a config with their paths, such as 'data.name'."""
  if isinstance(value, dict) and value:
    for key, part in value.items():
      yield from flatten(part, f'{path}.{key}' if path else key)
  else:
    yield path, value


def plain(value: Any) -> str:
  """Formats a setting."""
  if isinstance(value, dict):
    return str(value.get('type', '...')).rpartition(':')[2]
  if isinstance(value, list):
    return ' '.join(map(plain, value)) or '()'
  return f'{value:g}' if isinstance(value, float) else str(value)


def scalars(values: Mapping[str, Any]) -> str:
  """Formats settings in a line, without None and without lists of groups."""
  return ', '.join(
    f'{re.sub("[._]", " ", key)} {plain(value)}'
    for key, value in flatten(values)
    if key.split('.')[-1] != 'type'
    and value is not None
    and '{' not in str(value)[:2]
  )


def module_name(objective: Mapping[str, Any]) -> str:
  """The name of the module that a method's options come from."""
  kind = str(objective.get('type', '')).partition(':')[0]
  return kind.rpartition('.')[2] or 'unknown method'


def noun(runs: Sequence[Run]) -> str:
  """What the runs' examples are called, such as 'images'."""
  nouns = {
    run.known('noun')
    or ('images', 'examples')[len(run.config.get('input_shape') or ()) == 1]
    for run in runs
  }
  return nouns.pop() if len(nouns) == 1 else 'examples'


def labelled(
  runs: Sequence[Run], field: str
) -> list[tuple[str, dict[str, Any]]]:
  """Pairs the labels of runs with a field that not all of them have."""
  pairs = ((run.label, getattr(run, field)) for run in runs)
  return [(label, value) for label, value in pairs if value]


def class_names(arrays: Mapping[str, np.ndarray], count: int) -> list[str]:
  """The classes' names as far as they are stored, then their numbers."""
  known = [str(name) for name in arrays.get('class_names', [])]
  return known + [str(k) for k in range(len(known), count)]


def labels(probes: Mapping[str, Any]) -> list[str]:
  """What the probes of a probes.json predict, such as 'class' or 'speaker'."""
  return list(dict.fromkeys(r['label'] for r in probes['results']))


def of_label(probes: Mapping[str, Any] | None, label: str) -> dict[str, Any]:
  """Keeps one label's results and chance level of a probes.json."""
  probes = probes or {'results': [], 'chance': {}}
  mine = [r for r in probes['results'] if r['label'] == label]
  return {**probes, 'results': mine, 'chance': probes['chance'].get(label)}


def module_of(key: str) -> str | None:
  """Returns 'module_M' of a metric such as 'module_M/infonce', else None."""
  match = re.fullmatch(r'(module_\d+)/.*|probe/(module_\d+)_\w+', key)
  return (match[1] or match[2]) if match else None


def has_modules(run: Run) -> bool:
  """Whether the run has metrics or probes of numbered modules."""
  keys = [key for line in run.metrics[-1:] for key in line]
  keys += [f'{r["feature"]}/' for r in run.probes.get('results', [])]
  return any(map(module_of, keys))


def methods(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Groups runs by method; those of one differ in nothing but their seed.

  Where methods share a title, their names go on with the one or two settings in
  which they differ, or else with the first run's label.
  """
  groups: list[tuple[dict[str, Any], list[Run]]] = []
  for run in runs:
    settings = {
      path: value
      for path, value in flatten(run.config)
      if path.split('.')[0] not in _NO_SETTING
    }
    for other, members in groups:
      if other == settings:
        members.append(run)
        break
    else:
      groups.append((settings, [run]))
  named: dict[str, list[Run]] = {}
  for settings, members in groups:
    name = members[0].title
    rivals = [other for other, m in groups if m[0].title == name]
    paths = [
      path
      for path in dict.fromkeys(p for rival in rivals for p in rival)
      if len({str(rival.get(path)) for rival in rivals}) > 1
      and not path.endswith('type')
    ]
    if 1 <= len(paths) <= 2:
      differences = ', '.join(
        f'{path.split(".")[-1].replace("_", " ")} {plain(settings.get(path))}'
        for path in paths
      )
      name += f' ({differences})'
    if len(rivals) > 1 and (name == members[0].title or name in named):
      name += f' ({members[0].label})'
    named[name] = members
  return named


def pretty(value: Any) -> str:
  """Formats JSON for a reader, in its own alphabet."""
  return json.dumps(value, indent=2, ensure_ascii=False)
