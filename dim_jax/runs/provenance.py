"""Where numbers come from: command, machine, versions, commit, sizes."""

import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

import dim_jax
from dim_jax import config as config_lib
from dim_jax import files

# What the report calls examples, where not so.
_NOUNS = {'image': 'images', 'text': 'pairs'}
# What says how a program ran; the rest of run.json says what was trained.
_SESSION = ('command', 'date', 'hardware', 'versions', 'commit')


def command() -> str | None:
  """Returns the shell command of this program; None of a notebook's."""
  main = sys.modules.get('__main__')
  spec = getattr(main, '__spec__', None)
  if 'ipykernel' in sys.modules or not (spec or getattr(main, '__file__', '')):
    return None
  if spec:
    program = ['python', '-m', spec.name.removesuffix('.__main__')]
  elif sys.argv[0].startswith('dim-jax '):  # See `dim_jax.commands`.
    program = sys.argv[0].split()
  else:
    program = ['python', sys.argv[0]]
  return shlex.join([*program, *sys.argv[1:]])


def hardware() -> str:
  """Describes this machine in words."""
  device = jax.devices()[0]
  count = len(jax.devices())
  return (
    f'{count} x {device.device_kind} ({device.platform}), '
    f'{os.cpu_count()} CPU cores, {platform.machine()}'
  )


def versions() -> dict[str, str]:
  """Lists the versions of Python and of the packages that decide numbers."""
  names = ('jax', 'flax', 'optax', 'numpy', 'scikit-learn')
  installed = {name: importlib.metadata.version(name) for name in names}
  return {
    'python': platform.python_version(),
    'dim_jax': dim_jax.__version__,
  } | installed


def commit() -> str | None:
  """Returns the commit of this code, and whether files differ from it.

  None where the package is in no checkout.
  """
  here = pathlib.Path(dim_jax.__file__)

  def git(*arguments: str) -> str:
    return subprocess.run(
      ['git', '-C', str(here.parent), *arguments],
      capture_output=True,
      check=True,
      text=True,
    ).stdout.strip()

  try:
    # An installed package may lie within a checkout of something else.
    git('ls-files', '--error-unmatch', here.name)
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', 'HEAD') + (' with changes' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return None


def session() -> dict[str, Any]:
  """Describes this program: command, date, hardware, versions and commit."""
  return {
    'command': command(),
    'date': datetime.date.today().isoformat(),
    'hardware': hardware(),
    'versions': versions(),
    'commit': commit(),
  }


def header(examples: Any, step: int, started: float) -> dict[str, Any]:
  """Begins every file of results: what was measured, and how.

  Args:
    examples: of the data set, whose `name` and `note` are told.
    step: of the checkpoint.
    started: `time.time()` when the measurement began.
  """
  return {
    'dataset': examples.name,
    'note': examples.note,
    'step': int(step),
    **session(),
    'seconds': time.time() - started,
  }


def read(run_dir: str) -> dict[str, Any]:
  """Reads run.json; {} where the run is older than such files."""
  return files.read_json(os.path.join(run_dir, 'run.json'))


def title(objective: Any) -> str:
  """Returns a method's name: its config's, or its file's first words."""
  if own := getattr(objective, 'title', None):
    return str(own)
  module = type(objective).__module__
  text = (sys.modules[module].__doc__ or module).strip().splitlines()[0]
  return text.partition(':')[0].rstrip('.')


def count(tree: Any) -> int:
  """Counts the numbers in a pytree of arrays or their shapes."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def parameter_counts(params: Mapping[str, Any]) -> dict[str, Any]:
  """Counts parameters by group and, within a group, by part."""
  return {
    group: {part: count(tree) for part, tree in parts.items()}
    if isinstance(parts, Mapping)
    else count(parts)
    for group, parts in params.items()
  }


def write(
  workdir: str,
  config: config_lib.ExperimentConfig,
  params: Mapping[str, Any],
  features: Iterable[str],
  representation: Sequence[str],
  vocabulary: str = '',
) -> None:
  """Writes run.json, which tells how a run was made and what it consists of.

  A run that is continued keeps what an earlier session said of itself in
  'earlier', if that differs.

  Args:
    workdir: the run's folder.
    config: the run.
    params: arrays or their shapes, by group.
    features: names of what `Objective.encode` returns.
    representation: the one that stands for the encoder; none where none does.
    vocabulary: the characters that it knows, of text.
  """
  path = os.path.join(workdir, 'run.json')
  now = session()
  old = read(workdir)
  before = {key: old.get(key) for key in _SESSION}
  earlier = old.get('earlier', [])
  if old and before | {'date': ''} != now | {'date': ''}:
    earlier = [*earlier, before]
  files.write_json(
    path,
    now
    | {
      'title': title(config.objective),
      'noun': _NOUNS.get(config.data.kind, 'examples'),
      'parameters': parameter_counts(params),
      'features': list(features),
      'representation': next(iter(representation), None),
      **({'vocabulary': vocabulary} if vocabulary else {}),
      'earlier': earlier,
    },
  )
