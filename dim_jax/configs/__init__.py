"""Families of configs: rows that differ in a field or two, in one file.

A file of `configs/` with several rows has a table `ROWS` and is named with the
row behind it, `dim_cifar10.py:local_jsd`; without one, the first row is meant.
"""

import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

CONFIGS = pathlib.Path(__file__).parent / 'configs'


class Row(NamedTuple):
  """A config of a family.

  Attributes:
    description: what it trains, in one line.
    make: returns its config, a fresh one each time.
    paper: the published row, as `ExperimentConfig.paper`; None where the
      config has its own, or there is none.
  """

  description: str
  make: Callable[[], Any]
  paper: Mapping[str, Any] | None = None


def changed(
  make: Callable[[], Any], *changes: Callable[[Any], None]
) -> Callable[[], Any]:
  """Composes what makes a fresh config, and what then modifies it."""

  def changed_config() -> Any:
    config = make()
    for change in changes:
      change(config)
    return config

  return changed_config


def get(rows: Mapping[str, Row], name: str | None) -> Any:
  """Returns the config of a row, of the first if `name` is None.

  Raises:
    ValueError: there is no such row.
  """
  if name is None:
    name = next(iter(rows))
  if name not in rows:
    raise ValueError(f'No row {name!r}: this file has {", ".join(rows)}.')
  config, paper = rows[name].make(), rows[name].paper
  if paper is not None:
    config.paper = dict(paper)
  return config


def table(words: Sequence[str]) -> dict[str, Any]:
  """Returns the configs of a published table's methods, in its order.

  Args:
    words: the name of one file of `configs/`, of those with a `TABLE`, which
      names its rows.

  Raises:
    ValueError: there is no such table.
  """
  tables = {k: v for k, v in families().items() if hasattr(v, 'TABLE')}
  if len(words) != 1 or words[0] not in tables:
    raise ValueError(
      f'no table {" ".join(words)!r}: give one of {", ".join(tables)}.'
    )
  module = tables[words[0]]
  return {name: module.get_config(name) for name in module.TABLE}


def families() -> dict[str, Any]:
  """Imports all files of `configs/`, by name.

  Raises:
    ValueError: one does not import; the message names it.
  """
  modules = {}
  for path in sorted(CONFIGS.glob('*.py')):
    try:
      name = f'experiments.configs.{path.stem}'
      modules[path.stem] = importlib.import_module(name)
    except Exception as error:
      raise ValueError(
        f'experiments/configs/{path.name} does not import ({error}): mend it, '
        'or move it elsewhere.'
      ) from error
  return modules


def renamed(stem: str) -> str | None:
  """Finds the row that a file of one config has become.

  'dim_cifar10_local_jsd' gives 'dim_cifar10.py:local_jsd'; None if there is
  none.
  """
  for family, module in families().items():
    for row in getattr(module, 'ROWS', ()):
      # The baselines of Greedy InfoMax had files of their own.
      baseline = f'{row}_{family.removeprefix("gim_")}'
      if stem in (f'{family}_{row}', baseline):
        return f'{family}.py:{row}'
  return None
