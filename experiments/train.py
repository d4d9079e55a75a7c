"""Trains what a config says.

  python -m experiments.train --config=experiments/configs/dim_digits.py \
      --workdir=runs/digits --config.steps=300
  python -m experiments.train --list

The same command on the same --workdir continues a run that was interrupted.
"""

import os
import runpy
import sys

import rich.console
from absl import app, flags, logging
from ml_collections import config_flags

from dim_jax import config as config_lib
from dim_jax.runs import dry_run
from dim_jax.runs import sweep as sweep_lib
from dim_jax.runs.train import train
from dim_jax.training import parallel
from experiments import list as list_lib

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The run, a file.')
_WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")
_DEVICES = flags.DEFINE_integer('devices', None, 'Use only so many devices.')


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; a wrong `--config.a.b` names what is accepted."""
  words = [arg.lstrip('-').partition('=') for arg in argv[1:]]
  # `--config FILE` is accepted, too.
  after = [*argv[2:], '']
  files = [
    value if equals else after[i]
    for i, (name, equals, value) in enumerate(words)
    if name == 'config'
  ]
  if files and not os.path.isfile(files[-1]):
    sys.exit(
      f'Error: no file {files[-1]!r} for --config; experiments/configs/ has '
      f'one for each experiment.'
    )
  try:
    return flags.FLAGS(argv)
  except KeyError:
    # What ml_collections raises for a field that does not exist.
    if not files:
      raise
    config = runpy.run_path(files[-1])['get_config']()
    for name, _, _ in words:
      if name.startswith('config.'):
        try:
          config_lib.check_path(config, name.removeprefix('config.'))
        except ValueError as unknown:
          sys.exit(f'Error: {unknown}')
    raise
  except flags.Error as error:
    sys.exit(f'Error: {error}')


def check_flags(*, workdir: bool = True) -> None:
  """Ends the program in one line where --config or --workdir is missing."""
  if not _CONFIG.value or (workdir and not _WORKDIR.value):
    sys.exit(
      'Error: give --config and --workdir; python -m experiments.train --list '
      'shows all configs.'
    )


def main(argv: list[str]) -> None:
  """Runs `train`, with a user's mistakes as one line each."""
  if len(argv) > 1:
    sys.exit(f'Error: unknown arguments {argv[1:]}; flags begin with --.')
  if not _LIST.value:
    check_flags(workdir=not _DRY_RUN.value)
  # Orbax tells of every file that it writes.
  logging.set_verbosity(logging.WARNING)
  try:
    if _LIST.value:
      return list_lib.show()
    parallel.initialize()
    parallel.cache_compilations()
    config, workdir = _CONFIG.value, str(_WORKDIR.value)
    if _DRY_RUN.value:
      if isinstance(config, config_lib.SweepConfig):
        raise ValueError('--dry_run is of one run; this config is a sweep.')
      print(dry_run.text(dry_run.measure(config, _DEVICES.value)))
    elif isinstance(config, config_lib.SweepConfig):
      if _DEVICES.value not in (None, 1):
        raise ValueError('a sweep runs on one device: leave --devices out.')
      if _PROFILE.value:
        raise ValueError('--profile is of one run; this config is a sweep.')
      console = rich.console.Console()
      console.print(sweep_lib.table(sweep_lib.sweep(config, workdir)))
      console.print(os.path.join(workdir, 'sweep.json'))
    else:
      train(config, workdir, devices=_DEVICES.value, profile=_PROFILE.value)
  except (
    ValueError,
    OSError,
    FloatingPointError,
    RuntimeError,
  ) as error:
    if os.environ.get('DIM_JAX_TRACEBACK'):
      raise
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  # Of this program alone, not of those that share the flags above.
  _DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Print sizes, FLOPs, memory and ceilings; read no data.'
  )
  _PROFILE = flags.DEFINE_bool(
    'profile', False, 'Write a trace of the second interval to WORKDIR/profile.'
  )
  _LIST = flags.DEFINE_bool('list', False, 'Show all configs instead.')
  app.run(main, flags_parser=parse)
