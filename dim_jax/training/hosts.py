"""Several processes in one job: how they start, and agree before training."""

import atexit
import contextlib
import hashlib
import json
import os
import pathlib
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dim_jax import files
from dim_jax.training import connections

SECONDS = 'DIM_JAX_HOST_SECONDS'
_ROWS = 256  # of the examples, which stand for all
_NOTE = 'hosts.tmp'  # of process 0 to all

_job: connections.Connections | None = None


def join(where: str | None = None, *, trains: bool = True) -> None:
  """Joins the other processes of the job that launched this one, if any.

  Call it before anything else touches JAX. What `where` leaves out is taken
  from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and what
  these leave out from the cluster: a Cloud TPU slice, GKE, a step of Slurm,
  Open MPI or Kubernetes, as JAX detects them. A single process is left alone.

  Args:
    where: COORDINATOR:PORT,COUNT,ID.
    trains: whether this program must run in all processes of the job.

  Raises:
    ValueError: the processes cannot meet; says which are missing.
  """
  global _job
  address, count, process, local = _described(where) or _detected(trains)
  if count <= 1:
    return
  times = connections.Times(_seconds())
  sockets, names = connections.meet(address, count, process, times.wait)
  # From here on each learns at once when another one ends.
  _job = connections.Connections(process, names, sockets, times)
  _job.at('joining the service of JAX')
  # Signals are the loop's; the service's notice can be missed for good on a
  # resumed run.
  jax.config.update('jax_enable_preemption_service', False)
  jax.distributed.initialize(
    address,
    count,
    process,
    local_device_ids=local,
    cluster_detection_method='deactivate',
    initialization_timeout=int(times.wait),
    heartbeat_timeout_seconds=max(int(times.line), 10),
    shutdown_timeout_seconds=max(int(times.line), 10),
  )
  # Before JAX's own, which was registered earlier.
  atexit.register(_job.leave)
  # A process that waits for another's work must be part of this too.
  _job.at('connecting its devices')
  jax.devices()


def _seconds() -> float:
  text = os.environ.get(SECONDS, '300')
  try:
    seconds = float(text)
  except ValueError:
    seconds = 0.0
  if not seconds > 0:
    raise ValueError(f'{SECONDS} must be a number of seconds, got {text!r}.')
  return seconds


def _described(where: str | None) -> tuple[str, int, int, Any] | None:
  """What a flag or variables say of the job; None where they do not."""
  names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
  if where:
    parts = where.split(',')
    source = '--distributed'
  else:
    parts = [os.environ.get(name, '') for name in names]
    source = ', '.join(names)
    if not all(parts[1:]):
      return None
  try:
    address, count, process = parts
    port = int(address.rpartition(':')[2])
    numbers = int(count), int(process)
    if not 0 <= numbers[1] < numbers[0] or not 0 < port < 2**16:
      raise ValueError
  except ValueError:
    raise ValueError(
      f'{source} must be COORDINATOR:PORT, COUNT and ID, such as '
      f'--distributed=10.0.0.2:8476,4,0 on the first of four hosts, got '
      f'{",".join(parts)!r}.'
    ) from None
  local = os.environ.get('JAX_LOCAL_DEVICE_IDS')
  return address, *numbers, local and [int(i) for i in local.split(',')]


def _detected(trains: bool) -> tuple[str, int, int, Any]:
  """What JAX finds out about the cluster; one process where there is none."""
  # JAX has no public way to ask whether there is a cluster, and how large.
  from jax._src.clusters import ClusterEnv

  alone = ('', 1, 0, None)
  address, count, process, local = (
    ClusterEnv.auto_detect_unset_distributed_params(
      os.environ.get('JAX_COORDINATOR_ADDRESS'),
      None,
      None,
      None,
      None,
      int(_seconds()),
    )
  )
  if count is not None and process is not None and address is not None:
    return address, count, process, local
  if trains:
    _refuse_a_batch_shell()
  return alone


def _refuse_a_batch_shell() -> None:
  """Raises where a launcher has several tasks, of which this is none."""
  tasks = os.environ.get('SLURM_NTASKS', '1')
  if tasks != '1' and 'SLURM_JOB_ID' in os.environ:
    raise ValueError(
      f'Slurm gave this job {tasks} tasks, but this is the shell that starts '
      'them: give the command behind srun, as srun dim-jax train ...; or unset '
      'SLURM_NTASKS to run here alone.'
    )
  size = os.environ.get('OMPI_COMM_WORLD_SIZE', '1')
  if size != '1':
    raise ValueError(
      f'Open MPI started {size} processes, but does not say where the first '
      'is: give --distributed=HOST:PORT,$OMPI_COMM_WORLD_SIZE,'
      '$OMPI_COMM_WORLD_RANK.'
    )


def are_several() -> bool:
  """Whether this process has joined others."""
  return _job is not None


def is_first() -> bool:
  """Whether this process does what only one should; others wait for its end."""
  if not _job or not _job.process:
    return True
  _job.at('waiting for process 0, which does this alone')
  _job.wait_for_end()
  return False


def at(status: str) -> None:
  """Says where this process is, for the line that each host shows."""
  if _job:
    _job.at(status)


def limit(what: str) -> contextlib.AbstractContextManager[None]:
  """Ends this process where what is inside waits too long for the others."""
  return _job.limit(what) if _job else contextlib.nullcontext()


def end(line: str, *, unsure: bool = False) -> None:
  """Ends this process of several with one line; alone, does nothing."""
  if _job:
    _job.end(line, unsure=unsure)


def check(
  run_dir: str | os.PathLike, config: Mapping[str, Any], data: Any
) -> None:
  """Lets all processes see that they are about to train the same run.

  Args:
    run_dir: the run's folder, which process 0 has made.
    config: as JSON; but for where a host keeps its data.
    data: `read(rows) -> {name: array}` and `num_examples`.

  Raises:
    ValueError: a process is missing, or differs; names all that do.
  """
  if not _job:
    return
  _job.at('comparing itself with the others')
  facts = {
    **_flat(config),
    'the code': code(),
    'jax': jax.__version__,
    'the number of devices': jax.local_device_count(),
    'the examples': fingerprint(data.read, data.num_examples),
  }
  everyone = _job.gather(facts, 'the check before training')
  for name in dict.fromkeys(name for each in everyone for name in each):
    values = [each.get(name, 'nothing') for each in everyone]
    if any(value != values[0] for value in values):
      raise ValueError(_difference(name, values))
  _check_folder(_job, os.fspath(run_dir))
  with _job.limit('a sum over all devices'):
    _add_up()
  sys.stderr.write(
    f'{_job.name}: {jax.local_device_count()} of {jax.device_count()} devices '
    f'({jax.local_devices()[0].device_kind}); the config, the code, the data '
    'and the folder are those of all\n'
  )


def _add_up() -> None:
  """Adds one of each device: they connect now, while all processes are here.

  On CPUs a process that comes to the first sum 30 s behind another, as after
  compiling the steps for longer, would be refused by Gloo.
  """
  count = jax.device_count()
  mesh = jax.make_mesh((count,), ('data',), axis_types=(AxisType.Auto,))
  ones = jax.make_array_from_callback(
    (count,),
    NamedSharding(mesh, PartitionSpec('data')),
    lambda index: np.ones(count, np.float32)[index],
  )
  total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
  if (found := float(total(ones))) != count:
    raise ValueError(f'{count} devices add up to {found}: see their network.')


def _flat(config: Mapping[str, Any], path: str = 'config') -> dict[str, Any]:
  """The fields of a config by path, but for where a host keeps its data."""
  found: dict[str, Any] = {}
  for name, value in config.items():
    where = f'{path}.{name}'
    if isinstance(value, Mapping):
      found |= _flat(value, where)
    elif where != 'config.data.data_dir':
      found[where] = value
  return found


def _difference(name: str, values: list[Any]) -> str:
  """Names what differs, and all that have each value."""
  by_value: dict[str, list[int]] = {}
  for process, value in enumerate(values):
    by_value.setdefault(json.dumps(value), []).append(process)
  hosts = _job.hosts if _job else []

  def of(processes: list[int]) -> str:
    named = [f'{i} on {hosts[i]}' for i in processes[:8]]
    more = f' and {len(processes) - 8} more' if len(processes) > 8 else ''
    return (
      f'process{"es" if len(processes) > 1 else ""} {", ".join(named)}{more}'
    )

  different = '; '.join(f'{v} in {of(p)}' for v, p in by_value.items())
  return (
    f'the {len(values)} processes do not train the same: {name} is '
    f'{different}. Give every host the same command, code and data.'
  )


def code() -> str:
  """Returns a hash of the files of this package."""
  root = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    digest.update(path.relative_to(root).as_posix().encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


def fingerprint(
  read: Callable[[np.ndarray], Mapping[str, np.ndarray]], num_examples: int
) -> str:
  """Hashes which examples there are, by some of them, evenly spaced.

  Args:
    read: gives examples by position.
    num_examples: how many there are.
  """
  rows = np.unique(np.linspace(0, num_examples - 1, _ROWS).astype(np.int64))
  digest = hashlib.sha256()
  for name, x in sorted(read(rows).items()):
    digest.update(f'{name} {x.dtype} {x.shape}'.encode())
    digest.update(np.ascontiguousarray(x).tobytes())
  return f'{num_examples:,} of hash {digest.hexdigest()[:12]}'


def _check_folder(job: connections.Connections, run_dir: str) -> None:
  """Raises ValueError where a process does not see what process 0 writes."""
  path = os.path.join(run_dir, _NOTE)
  note = uuid.uuid4().hex
  if not job.process:
    files.write(path, note)
  try:
    note = job.gather(note, 'the check of the folder')[0]
    seen = _appears(path, note, job.times.silent)
    found = job.gather([seen, files.absolute(run_dir)], 'the same check')
  finally:
    if not job.process:
      with contextlib.suppress(OSError):
        files.at(path).unlink()
  blind = [i for i, (seen, _) in enumerate(found) if not seen]
  if blind:
    others = '; '.join(
      f'process {i} on {job.hosts[i]} ({found[i][1]})' for i in blind[:8]
    )
    raise ValueError(
      f'--workdir is not one folder: what process 0 on {job.hosts[0]} wrote '
      f'into {found[0][1]} is not there for {others}. Give a folder that all '
      'hosts share, such as on NFS or gs://.'
    )


def _appears(path: str, text: str, seconds: float) -> bool:
  """Whether a file has a text, now or soon: NFS may show it a minute later."""
  until = time.monotonic() + seconds
  while True:
    with contextlib.suppress(OSError):
      # A listing makes NFS forget that there was no such file.
      any(files.at(path).parent.iterdir())
      if files.at(path).read_text() == text:
        return True
    if time.monotonic() > until:
      return False
    time.sleep(0.1)
