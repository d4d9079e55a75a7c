r"""Trains the modules of Greedy InfoMax at paces of their own.

  dim-jax asynchronous \
      --config=gim_spoken_digits \
      --workdir=runs/asynchronous --pace=2,1,1,1,1,1

Each module reads what the one below passed on, from a buffer of the newest
--buffer batches, and waits for nobody: one that is ahead of the module below
reads a batch again, one that is behind misses some.

With --pace all modules take turns by that schedule, in one process; a run that
was killed then ends bitwise as one that was not. Without it each has a thread,
on a device of its own where there are as many; XLA_FLAGS says how many a CPU
shows. With --module=0, --module=1, ... each is a process, all on one --workdir,
in any order.

WORKDIR/module_M has what a module logged and saved. When all are done WORKDIR
is a run that evaluate and report take. The same command goes on where it was
interrupted.
"""

from dim_jax.commands.command import Command, show
from dim_jax.runs import asynchronous

_COMMAND = Command('asynchronous', __doc__)
_DEFAULT = asynchronous.Settings()
_CONFIG = _COMMAND.config()
_WORKDIR = _COMMAND.path('workdir', None, "The run's folder.")
_PACE = _COMMAND.items('pace', None, 'Steps of each module a round.', int)
_MODULE = _COMMAND.integer('module', None, 'Train this one alone.')
_SIZE = _COMMAND.integer('buffer', _DEFAULT.size, 'Batches a buffer holds.')
_BUFFERS = _COMMAND.path(
  'buffer_dir', None, 'A fast folder for buffers; WORKDIR/buffers if not.'
)
_TIMEOUT = _COMMAND.real(
  'timeout', _DEFAULT.timeout, 'Seconds without a batch.'
)
_DEVICES = _COMMAND.integer('devices', None, 'Use only this many devices.')


@_COMMAND.main
def main() -> None:
  if _CONFIG.value is None or not _WORKDIR.value:
    raise ValueError('give --config=NAME and --workdir=FOLDER.')
  settings = asynchronous.Settings(
    pace=_PACE.value or None,
    module=_MODULE.value,
    size=_SIZE.value,
    buffer_dir=_BUFFERS.value,
    timeout=_TIMEOUT.value,
    devices=_DEVICES.value,
  )
  show(
    asynchronous.train_asynchronously(_CONFIG.value, _WORKDIR.value, settings)
  )
