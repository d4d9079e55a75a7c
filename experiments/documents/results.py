"""What `experiments/results/` keeps, as read from there."""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

FOLDER = pathlib.Path(__file__).parents[1] / 'results'
CIFAR10_IMAGES = 45_000  # That training sees: a tenth is held out.
# Configs that had another name when they were measured, and commands. The first
# that fits counts.
_CONFIGS = {
  r'(cpc|supervised|greedy_supervised)_(spoken_digits|cifar10)': r'gim_\2:\1',
  r'(dim_cifar10|vib_mnist)_(\w+)': r'\1:\2',
}


@functools.cache
def load(name: str) -> Any:
  """Reads a file of results.

  Args:
    name: without its ending.
  """
  return json.loads((FOLDER / f'{name}.json').read_text(encoding='utf-8'))


def exists(name: str) -> bool:
  """Whether there is such a file; a table of one to come is left out till then.

  Args:
    name: without its ending.
  """
  return (FOLDER / f'{name}.json').exists()


def grouped(
  rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]
) -> dict[Any, list[dict[str, Any]]]:
  """Groups rows by what `key` says of each, in the order of the first ones."""
  groups: dict[Any, list[dict[str, Any]]] = {}
  for row in rows:
    groups.setdefault(key(row), []).append(row)
  return groups


def row_name(command: str) -> str:
  """Finds the row of its family that a command names; '' for the first."""
  return config_name(command).split()[0].partition(':')[2]


def config_name(command: str) -> str:
  """Finds the config that a command names, and what else it sets.

  `python -m experiments.train --config=experiments/configs/a_b.py --config.c=1`
  gives 'a:b --config.c=1', where a_b is a row of a family now.
  """
  flags = [word for word in command.split() if word.startswith('--')]
  (config,) = [word for word in flags if word.startswith('--config=')]
  name = re.sub(r'\.py\b', '', re.split('[/=]', config)[-1])
  for old, new in _CONFIGS.items():
    if re.fullmatch(old, name):
      name = re.sub(old, new, name)
      break
  skipped = ('--config=', '--workdir=', '--config.seed=')
  others = [word for word in flags if not word.startswith(skipped)]
  return ' '.join([name, *others])
