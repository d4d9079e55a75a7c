"""The built-in configs: families of rows that differ in a field or two.

A file here is a family, and its name is that of its config: 'dim_digits'. One
with several rows has a table `ROWS`, and the row is named behind it,
'dim_digits:vae'; without one, the first row is meant.

  from dim_jax import configs

  config = configs.load('dim_digits:vae')
  config.steps = 200
  dim_jax.train(config, 'runs/vae')
"""

import difflib
import importlib
import os
import pathlib
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

CONFIGS = pathlib.Path(__file__).parent
# Where they were in a checkout; recorded commands name them so.
_ONCE = ('experiments', 'configs')


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


def load(name: str) -> Any:
  """Makes a config, a fresh one each time.

  Args:
    name: 'FAMILY' or 'FAMILY:ROW' of a built-in one; or 'FILE.py' or
      'FILE.py:ROW' of a file with `get_config()`, with `ROWS` if it has rows.

  Returns:
    An `ExperimentConfig` or a `SweepConfig`.

  Raises:
    ValueError: there is no such config, file or row.
  """
  path, _, row = name.partition('.py:')
  if not row and not name.endswith('.py'):
    path, _, row = name.partition(':')
    if os.sep not in path:
      return _built_in(path, row)
  path = f'{path.removesuffix(".py")}.py'
  path = os.path.expanduser(path)
  if not os.path.isfile(path):
    return _built_in_once(path, row)
  return _of_row(_run(path), repr(path), row)


def _run(path: str) -> Mapping[str, Any]:
  """Runs a file, which may import those beside it; returns its names."""
  folder = os.path.dirname(os.path.abspath(path))
  if folder not in sys.path:
    sys.path.append(folder)
  try:
    return runpy.run_path(path)
  except ImportError as error:
    raise ValueError(
      f'{path!r} cannot be run: {error}. It may import what is installed, and '
      'files of its own folder or the current one.'
    ) from error


def _built_in(family: str, row: str) -> Any:
  """Makes a built-in config; raises ValueError if there is none."""
  if family not in names():
    if moved := renamed(family):
      raise ValueError(f'that config is now --config={moved}.')
    near = [name for name in names() if family and family in name]
    near = near or difflib.get_close_matches(family, names())
    hint = f' Did you mean {" or ".join(near)}?' if near else ''
    raise ValueError(
      f'no config {family!r}.{hint} dim-jax list shows all; a file of your own '
      'is FILE.py.'
    )
  module = importlib.import_module(f'{__name__}.{family}')
  return _of_row(vars(module), family, row)


def _built_in_once(path: str, row: str) -> Any:
  """Makes a built-in config that is named as the file it once was."""
  file = pathlib.Path(path)
  stem = file.stem
  # The checkout may have been anywhere.
  if file.parts[-3:-1] == _ONCE and stem in names():
    return _built_in(stem, row)
  moved = stem if stem in names() else renamed(stem)
  raise ValueError(
    f'no file {path!r}; that config is now --config={moved}'
    if moved
    else f'no file {path!r}; dim-jax list shows the built-in configs.'
  )


def _of_row(namespace: Mapping[str, Any], where: str, row: str) -> Any:
  """Makes the config of a module's row."""
  get_config = namespace.get('get_config')
  if get_config is None:
    raise ValueError(f'{where} has no get_config(): it is no config.')
  if row and 'ROWS' not in namespace:
    raise ValueError(f'{where} is one config, without rows.')
  return get_config(*filter(None, [row]))


def names() -> list[str]:
  """Lists the built-in families."""
  paths = sorted(CONFIGS.glob('*.py'))
  return [path.stem for path in paths if not path.stem.startswith('_')]


def table(words: Sequence[str]) -> dict[str, Any]:
  """Returns the configs of a published table's methods, in its order.

  Args:
    words: the name of one family, of those with a `TABLE`, which names its
      rows.

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
  """Imports all built-in families, by name.

  Raises:
    ValueError: one does not import; the message names it.
  """
  modules = {}
  for name in names():
    try:
      modules[name] = importlib.import_module(f'{__name__}.{name}')
    except Exception as error:
      raise ValueError(
        f'{CONFIGS / name}.py does not import ({error}): mend it, or move it '
        'elsewhere.'
      ) from error
  return modules


def renamed(stem: str) -> str | None:
  """Finds the row that a file of one config has become.

  'dim_cifar10_local_jsd' gives 'dim_cifar10:local_jsd'; None if there is none.
  """
  for family, module in families().items():
    for row in getattr(module, 'ROWS', ()):
      # The baselines of Greedy InfoMax had files of their own.
      baseline = f'{row}_{family.removeprefix("gim_")}'
      if stem in (f'{family}_{row}', baseline):
        return f'{family}:{row}'
  return None
