"""All configs with the published row of each, and the values of fields."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from typing import Any, NamedTuple

import rich.console

import dim_jax.data
import dim_jax.evaluation
import dim_jax.losses
import dim_jax.networks
import dim_jax.objectives
from dim_jax import configs
from dim_jax.runs import provenance, tables

# Whose constants name what fields accept.
_ROOMS = (
  dim_jax.networks,
  dim_jax.objectives,
  dim_jax.losses,
  dim_jax.data,
  dim_jax.evaluation,
)


class Row(NamedTuple):
  """A config.

  Attributes:
    method: the name of its objective's method.
    name: the family, or FAMILY:ROW, as --config takes it.
    description: in a line.
    paper: the published row and its numbers, or '' where there is none.
  """

  method: str
  name: str
  description: str
  paper: str


def rows() -> list[Row]:
  """Lists all configs, by method and name.

  Raises:
    ValueError: a file is no config; the message names it.
  """
  families = configs.families()
  return sorted(row for name in families for row in _rows(name, families[name]))


def _rows(name: str, module: Any) -> Iterable[Row]:
  """Lists a file's rows: those of its ROWS, or what it is itself."""
  text = inspect.getdoc(module) or ''
  subject = text.partition('\n')[0].partition(':')[0].rstrip('.')
  try:
    described = {
      row: f'{subject}: {value.description}'
      for row, value in getattr(module, 'ROWS', {}).items()
    } or {'': text.partition('\n')[0].rstrip('.')}
    for row, description in described.items():
      config = module.get_config(*filter(None, [row]))
      config = getattr(config, 'run', config)  # A sweep's.
      method = provenance.title(config.objective)
      full = f'{name}:{row}' if row else name
      yield Row(method, full, description, published(config.paper))
  except Exception as error:
    raise ValueError(
      f'{module.__file__} has no get_config() that runs ({error}): mend it, '
      'or move it elsewhere.'
    ) from error


def published(paper: dict[str, Any] | None) -> str:
  """Writes a config's `paper` as words: the row, its source and its numbers."""
  if not paper:
    return ''
  words = [str(paper[k]) for k in ('row', 'source') if k in paper]
  numbers = [
    f'{name} {value:g}'
    for name, value in paper.items()
    if isinstance(value, int | float)
  ]
  return ', '.join(words) + (f': {", ".join(numbers)}' if numbers else '')


def values() -> dict[str, dict[str, str]]:
  """Lists the names that fields accept: by field in the plural, and by room.

  They are the constants in capitals: what a file offers by name is in one.
  """
  fields: dict[str, dict[str, str]] = {}
  for room in _ROOMS:
    for info in pkgutil.walk_packages(room.__path__, f'{room.__name__}.'):
      if info.name == 'dim_jax.data.prepare':  # It needs TensorFlow.
        continue
      for name, value in vars(importlib.import_module(info.name)).items():
        public = name.isupper() and not name.startswith('_')
        if public and isinstance(value, dict | tuple) and value:
          if all(isinstance(word, str) for word in value):
            where = info.name.removeprefix('dim_jax.')
            fields.setdefault(name.lower(), {})[where] = ', '.join(value)
  return fields


def show(
  field: str = 'configs', console: rich.console.Console | None = None
) -> None:
  """Prints all configs, or the values of a field.

  On a terminal they are tables, elsewhere a line each with tabs between, for
  grep and cut.

  Args:
    field: 'configs'; or as in a config, such as 'objective.encoder', or in the
      plural.
    console: where to print; standard output by default.

  Raises:
    ValueError: no list of that field's values is known.
  """
  columns = ['--config=', 'what it trains', 'published']
  listed: list[Any] = []
  if field == 'configs':
    listed += rows()
  else:
    fields = values()
    name = field.rpartition('.')[2]
    plural = {name, f'{name}s', f'{name.removesuffix("y")}ies'} & {*fields}
    if not plural:
      raise ValueError(
        f'--list={field}: there are lists of {", ".join(sorted(fields))}.'
      )
    name = plural.pop()
    columns = [name, 'defined in']
    listed += [(name, words, where) for where, words in fields[name].items()]
  console = console or rich.console.Console()
  if not console.is_terminal:
    for row in listed:
      console.file.write('\t'.join(row) + '\n')
    return
  for group in dict.fromkeys(row[0] for row in listed):
    of_group = [row[1:] for row in listed if row[0] == group]
    console.print(tables.table(columns, of_group, words=3, title=group))
