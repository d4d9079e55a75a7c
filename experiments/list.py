"""A table of all configs: what each trains, the published row it stands for.

python -m experiments.train --list
"""

import importlib
import inspect
import pathlib
from typing import Any, NamedTuple

import rich.box
import rich.console
import rich.markup
import rich.table

from dim_jax import config as config_lib

CONFIGS = pathlib.Path(__file__).parent / 'configs'
METHODS = {
  'dim': 'Deep InfoMax',
  'vib': 'Variational information bottleneck',
  'gim': 'Greedy InfoMax, CPC and supervised modules',
  'energy_model': 'Energies and Stein samplers',
}


class Row(NamedTuple):
  """A config.

  Attributes:
    method: the module of its objective, such as 'dim'.
    name: of the file, without '.py'.
    description: the first line of the file.
    paper: the published row and its numbers, or '' where there is none.
  """

  method: str
  name: str
  description: str
  paper: str


def rows() -> list[Row]:
  """All configs, by method and name.

  Raises:
    ValueError: a file is no config; the message names it.
  """
  order = list(METHODS)

  def place(row: Row) -> tuple[int, str, str]:
    known = row.method in order
    first = order.index(row.method) if known else len(order)
    return first, row.method, row.name

  return sorted((_row(path.stem) for path in CONFIGS.glob('*.py')), key=place)


def _row(name: str) -> Row:
  try:
    module = importlib.import_module(f'experiments.configs.{name}')
    config = module.get_config()
  except Exception as error:
    raise ValueError(
      f'experiments/configs/{name}.py does not import, or has no get_config() '
      f'that runs ({error}): mend it, or move it elsewhere.'
    ) from error
  if isinstance(config, config_lib.SweepConfig):
    config = config.run
  method = type(config.objective).__module__.rpartition('.')[2]
  description = (
    inspect.cleandoc(module.__doc__ or '').partition('\n')[0].rstrip('.')
  )
  return Row(method, name, description, published(config.paper))


def published(paper: dict[str, Any] | None) -> str:
  """A config's `paper` in words: the row, its source and its numbers."""
  if not paper:
    return ''
  told = [str(paper[k]) for k in ('row', 'source') if k in paper]
  numbers = [
    f'{name} {value:g}'
    for name, value in paper.items()
    if isinstance(value, int | float)
  ]
  return ', '.join(told) + (f': {", ".join(numbers)}' if numbers else '')


def show(console: rich.console.Console | None = None) -> None:
  """Prints all configs: tables on a terminal, elsewhere a line each.

  The lines are method, name, description and paper with tabs between, for grep
  and cut.

  Args:
    console: where to print; standard output by default.
  """
  console = console or rich.console.Console()
  found = rows()
  if not console.is_terminal:
    for row in found:
      console.file.write('\t'.join(row) + '\n')
    return
  for method in dict.fromkeys(row.method for row in found):
    table = rich.table.Table(
      title=METHODS.get(method, method),
      title_justify='left',
      box=rich.box.SIMPLE,
    )
    table.add_column('experiments/configs/', no_wrap=True)
    table.add_column('what it trains')
    table.add_column('published')
    for row in found:
      if row.method == method:
        words = (f'{row.name}.py', row.description, row.paper)
        table.add_row(*map(rich.markup.escape, words))
    console.print(table)
