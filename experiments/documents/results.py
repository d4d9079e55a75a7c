"""What `experiments/results/` keeps, as read from there."""

import functools
import json
import pathlib
import re
from typing import Any

FOLDER = pathlib.Path(__file__).parents[1] / 'results'
# Configs and commands that had another name when they were measured.
_RENAMED = {
  r'configs/dim_cifar10_(\w+)\.py': r'configs/dim_cifar10.py:\1',
  r'configs/vib_mnist_(\w+)\.py': r'configs/vib_mnist.py:\1',
  r'configs/(cpc|supervised|greedy_supervised)_(spoken_digits|cifar10)\.py': (
    r'configs/gim_\2.py:\1'
  ),
  r'experiments\.sequential': 'experiments.layerwise',
  r'experiments\.(masks|priors|particles)\b': r'experiments.studies.\1',
}


@functools.cache
def load(name: str) -> Any:
  """Reads a file of results.

  Args:
    name: without its ending.
  """
  return json.loads((FOLDER / f'{name}.json').read_text(encoding='utf-8'))


def command(text: str) -> str:
  """Returns a command as it was typed, with the names of today."""
  for old, new in _RENAMED.items():
    text = re.sub(old, new, text)
  return text


def config_name(text: str) -> str:
  """Finds the config that a command names, and what else it sets.

  `python -m experiments.train --config=experiments/configs/a.py:b --config.c=1`
  gives 'a.py:b --config.c=1'.
  """
  flags = [word for word in command(text).split() if word.startswith('--')]
  (config,) = [word for word in flags if word.startswith('--config=')]
  skipped = ('--config=', '--workdir=', '--config.seed=')
  others = [word for word in flags if not word.startswith(skipped)]
  return ' '.join([config.rpartition('/')[2], *others])
