"""Writes the page of a run or a sweep, or one that compares several runs.

  python -m experiments.report runs/digits
  python -m experiments.report runs/infonce runs/jsd --out=report

One run or sweep gives its folder's report/index.html, several runs give
report/comparison/index.html in the first; --out names another folder. Runs of
modules, such as Greedy InfoMax, that differ in their seed alone are one method
and drawn as one line. The PNG and CSV files of every picture lie beside the
page, which holds all that it shows.
"""

import importlib
import os
import pathlib
import shlex
import sys
from typing import Any

from absl import app, flags

from dim_jax import config as config_lib
from dim_jax.report import page

_OUT = flags.DEFINE_string('out', None, 'Folder to write into.')


_CONFIGS = pathlib.Path(__file__).parent / 'configs'


def train_command(run_dir: str) -> str | None:
  """The command that trains what the run's config says, in a new folder.

  Args:
    run_dir: the run.

  Returns:
    The config file that needs the fewest overrides, with them; None if none of
    experiments/configs comes to this config by flags.
  """
  try:
    # Loaded and not read, so that fields younger than the run are there too.
    saved = _flatten(config_lib.to_json(config_lib.load(run_dir)[0]))
  except (FileNotFoundError, ValueError):
    return None
  best: tuple[str, dict[str, Any]] | None = None
  for source in sorted(_CONFIGS.glob('*.py')):
    module = importlib.import_module(f'experiments.configs.{source.stem}')
    base = _flatten(config_lib.to_json(module.get_config()))
    changed = {k: v for k, v in saved.items() if base.get(k, _NONE) != v}
    # A flag sets a number, a word or a truth value that the file has too.
    if saved.keys() != base.keys() or not all(
      isinstance(v, bool | int | float | str) and not k.endswith('type')
      for k, v in changed.items()
    ):
      continue
    if best is None or len(changed) < len(best[1]):
      best = source.stem, changed
  if best is None:
    return None
  return shlex.join(
    [
      *'python -m experiments.train'.split(),
      f'--config=experiments/configs/{best[0]}.py',
      f'--workdir={run_dir}',
      *(f'--config.{k}={v}' for k, v in best[1].items()),
    ]
  )


_NONE = object()


def _flatten(value: Any, path: str = '') -> dict[str, Any]:
  """Leaves by their path, 'data.name'."""
  if not isinstance(value, dict) or not value:
    return {path: value}
  leaves: dict[str, Any] = {}
  for key, part in value.items():
    leaves |= _flatten(part, f'{path}.{key}' if path else key)
  return leaves


def main(argv: list[str]) -> None:
  """Runs `page.write`, with a user's mistakes as one line each."""
  if len(argv) < 2:
    sys.exit('Error: give at least one run: python -m experiments.report RUN')
  try:
    print(page.write(argv[1:], _OUT.value))
  except (ValueError, OSError) as error:
    if os.environ.get('DIM_JAX_TRACEBACK'):
      raise
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  app.run(main)
