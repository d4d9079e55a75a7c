"""Trains what a config says.

  dim-jax train --config=dim_digits --workdir=runs/digits --config.steps=300
  dim-jax train --list

The same command on the same --workdir continues a run that was interrupted.
--list shows all configs, and --list=encoders what a field of one accepts.
"""

import os

import dim_jax
from dim_jax import config as config_lib
from dim_jax.commands import catalogue
from dim_jax.commands.command import Command, show
from dim_jax.runs import dry_run, sweep

_OLD = {
  'resume': 'the same command and --workdir again, which goes on',
  'epochs': '--config.steps=N; --dry_run says how many epochs these are',
}
COMMAND = Command('train', __doc__, on_all_hosts=True, old=_OLD)
parse = COMMAND.parse
_CONFIG = COMMAND.config()
_WORKDIR = COMMAND.path('workdir', None, "The run's folder.")
_DEVICES = COMMAND.integer('devices', None, 'Use only this many devices.')
_DRY_RUN = COMMAND.boolean(
  'dry_run', False, 'Print sizes, FLOPs, memory and ceilings; read no data.'
)
_TOPOLOGY = COMMAND.string(
  'topology',
  None,
  'With --dry_run: compile for a TPU slice, such as v5e:16x16; needs no TPU.',
)
_PROFILE = COMMAND.boolean(
  'profile', False, 'Write a trace of the second interval to WORKDIR/profile.'
)
_LIST = COMMAND.string('list', None, 'Show configs, or the values of a field.')


@COMMAND.main
def main() -> None:
  config, workdir, devices = _CONFIG.value, _WORKDIR.value, _DEVICES.value
  if _LIST.value:
    return catalogue.show(_LIST.value)
  if config is None or not (workdir or _DRY_RUN.value):
    raise ValueError(
      'give --config and --workdir; dim-jax train --list shows all configs.'
    )
  if _TOPOLOGY.value and not _DRY_RUN.value:
    raise ValueError(
      '--topology compiles for chips that are not there: give --dry_run too.'
    )
  if not isinstance(config, config_lib.SweepConfig):
    if _DRY_RUN.value:
      report = dry_run.measure(config, devices, _TOPOLOGY.value)
      return show(dry_run.text(report))
    dim_jax.train(config, workdir, devices=devices, profile=_PROFILE.value)
    return None
  if _DRY_RUN.value or _PROFILE.value:
    raise ValueError(
      'a sweep takes no --dry_run or --profile: give them to a single run, '
      'such as --config=vib_digits.'
    )
  results = dim_jax.train(config, workdir, devices=devices)
  return show(sweep.table(results), os.path.join(workdir, 'sweep.json'))
