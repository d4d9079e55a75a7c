"""What training and evaluation left in a run's folder, read without them."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Run(NamedTuple):
  """What a run's folder holds.

  Attributes:
    path: the folder.
    label: its name, unique on the page.
    config: of config.json.
    metrics: the lines of metrics.jsonl.
    probes: of evaluation/probes.json, or None.
    features: the arrays of evaluation/features.npz, or None.
    classification: of evaluation/classification.json, or None.
    classified: the arrays of evaluation/classification.npz, or None.
    density: of evaluation/density.json, or None.
    density_arrays: the arrays of evaluation/density.npz, or None.
    summary: of summary.json, where the time went; or None.
  """

  path: str
  label: str
  config: dict[str, Any]
  metrics: list[dict[str, Any]]
  probes: dict[str, Any] | None
  features: dict[str, np.ndarray] | None
  classification: dict[str, Any] | None = None
  classified: dict[str, np.ndarray] | None = None
  density: dict[str, Any] | None = None
  density_arrays: dict[str, np.ndarray] | None = None
  summary: dict[str, Any] | None = None


def read(path: str | os.PathLike) -> Run:
  """Reads a run's folder.

  Args:
    path: the folder that training wrote.

  Returns:
    The run, labelled with the folder's name.

  Raises:
    FileNotFoundError: the folder is not there, or is no run.
    ValueError: a file of it is damaged.
  """
  path = os.fspath(path)
  config = os.path.join(path, 'config.json')
  if not os.path.isfile(config):
    what = 'has no config.json' if os.path.isdir(path) else 'is no folder'
    raise FileNotFoundError(
      f'{path!r} is not a run: it {what}. Looked for {config!r}; give the '
      f'--workdir of a run of experiments.train.'
    )

  def json_of(name: str) -> dict[str, Any] | None:
    file = os.path.join(path, 'evaluation', name)
    return read_json(file) if os.path.exists(file) else None

  def arrays_of(name: str) -> dict[str, np.ndarray] | None:
    file = os.path.join(path, 'evaluation', name)
    return _read_arrays(file) if os.path.exists(file) else None

  summary = os.path.join(path, 'summary.json')
  return Run(
    path,
    os.path.basename(os.path.abspath(path)),
    read_json(config),
    _read_lines(os.path.join(path, 'metrics.jsonl')),
    json_of('probes.json'),
    arrays_of('features.npz'),
    json_of('classification.json'),
    arrays_of('classification.npz'),
    json_of('density.json'),
    arrays_of('density.npz'),
    read_json(summary) if os.path.exists(summary) else None,
  )


def read_json(path: str) -> dict[str, Any]:
  """A file of JSON.

  Args:
    path: the file.

  Raises:
    ValueError: it is damaged.
  """
  with open(path) as file:
    try:
      return json.load(file)
    except ValueError as error:
      raise ValueError(f'{path!r} is not JSON ({error}).') from error


def _read_lines(path: str) -> list[dict[str, Any]]:
  if not os.path.exists(path):
    return []
  with open(path) as file:
    rows = file.read().splitlines()
  lines = []
  for i, row in enumerate(rows):
    try:
      lines.append(json.loads(row))
    except ValueError as error:
      # A killed run, or one that is writing now, leaves its last line cut.
      if i < len(rows) - 1:
        raise ValueError(
          f'{path!r} line {i + 1} is not JSON: {row[:60]!r}.'
        ) from error
  return lines


def _read_arrays(path: str) -> dict[str, np.ndarray]:
  try:
    with np.load(path) as file:
      return {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f'{path!r} cannot be read ({error}).') from error


def flatten(
  value: Any, path: tuple[str, ...] = ()
) -> Iterable[tuple[str, Any]]:
  """The leaves of a config with their paths, such as 'data.name'.

  Args:
    value: of a config.json.
    path: what stands before every path.
  """
  if isinstance(value, dict) and value:
    for key, part in value.items():
      yield from flatten(part, (*path, key))
  else:
    yield '.'.join(path), value


def plain(value: Any) -> str:
  """A setting in print."""
  if isinstance(value, dict):
    return str(value.get('type', '...')).rpartition(':')[2]
  return f'{value:g}' if isinstance(value, float) else str(value)


def objective(config: Mapping[str, Any]) -> str:
  """Name of the objective's module, such as 'dim'."""
  settings = config.get('objective') or {}
  return str(settings.get('type', '')).partition(':')[0].rpartition('.')[2]


def noun(config: Mapping[str, Any]) -> str:
  """What an example is called: 'images', or 'examples' of sound."""
  return 'examples' if len(config.get('input_shape') or ()) == 1 else 'images'


def labels(probes: Mapping[str, Any]) -> list[str]:
  """What the probes of a probes.json predict, such as 'class' or 'speaker'."""
  return list(dict.fromkeys(r.get('label', 'class') for r in probes['results']))


def of_label(probes: Mapping[str, Any], label: str) -> dict[str, Any]:
  """A probes.json with one label's results alone, and its 'chance' a number.

  Args:
    probes: a probes.json. Results without a label, and a chance that is a
      number, are those of 'class'.
    label: of `labels`.
  """
  chance = probes.get('chance')
  if not isinstance(chance, Mapping):
    chance = {} if chance is None else {'class': chance}
  found = {key: value for key, value in probes.items() if key != 'chance'}
  found['results'] = [
    r for r in probes['results'] if r.get('label', 'class') == label
  ]
  if label in chance:
    found['chance'] = chance[label]
  return found
