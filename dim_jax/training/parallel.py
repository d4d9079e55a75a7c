"""Devices and hosts: the mesh, and the arrays that are spread over it."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dim_jax.training import hosts


def cache_compilations() -> None:
  """Keeps compiled programs on disk, so that a second start skips compiling.

  They go to JAX_COMPILATION_CACHE_DIR, else to 'xla' in the project's cache
  (DIM_JAX_CACHE, else ~/.cache/dim_jax). Setting JAX_COMPILATION_CACHE_DIR to
  nothing turns it off.
  """
  folder = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if folder is None:
    root = os.environ.get('DIM_JAX_CACHE', '~/.cache/dim_jax')
    folder = os.path.join(os.path.expanduser(root), 'xla')
  if folder:
    jax.config.update('jax_compilation_cache_dir', folder)
    # By default only what took a second to compile is kept.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def one_blas_thread() -> contextlib.AbstractContextManager[Any]:
  """Keeps BLAS and LAPACK to one thread while the context is open.

  Their threads wait by spinning: where another process has a core, the rank of
  512 features took 0.7 s of a CPU instead of 1 ms.
  """
  return threadpoolctl.threadpool_limits(1, user_api='blas')


def make_mesh(
  devices: int | None = None, among: Sequence[Any] | None = None
) -> Mesh:
  """Makes one axis, 'data', over the first `devices` devices, or over all.

  Args:
    devices: how many; all of them if None.
    among: devices to choose from, such as those of a slice that is not there
      (`dim_jax.runs.slices`); all of JAX's if None.

  Raises:
    ValueError: there are not so many devices, or of several processes some
      would have none.
  """
  known = list(jax.devices() if among is None else among)
  several = among is None and jax.process_count() > 1
  if several and devices not in (None, len(known)):
    raise ValueError(
      f'devices={devices} of {len(known)} in {jax.process_count()} processes: '
      'several processes use all that they have; leave it out, or start fewer.'
    )
  if devices is not None and not 1 <= devices <= len(known):
    raise ValueError(
      f'devices={devices}, but {len(known)} can be used: give 1 to '
      f'{len(known)}, or leave it out for all.'
    )
  chosen = known[:devices]
  return jax.make_mesh(
    (len(chosen),), ('data',), axis_types=(AxisType.Auto,), devices=chosen
  )


def memory(mesh: Mesh) -> int | None:
  """Returns the bytes of memory of a device; None where it does not say."""
  devices = mesh.local_devices
  # What a CPU holds is the host's, which has the data already.
  if not devices or devices[0].platform == 'cpu':
    return None
  try:
    return (devices[0].memory_stats() or {}).get('bytes_limit')
  except jax.errors.JaxRuntimeError:  # Of a device that is not here.
    return None


def shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
  """Returns (replicated, split along the first axis over 'data')."""
  return (
    NamedSharding(mesh, PartitionSpec()),
    NamedSharding(mesh, PartitionSpec('data')),
  )


def split_state(state: Any, mesh: Mesh) -> Any:
  """Shards an optimizer's state over the devices, and nothing else.

  Args:
    state: a `step.TrainState`, of which only shapes matter.
    mesh: the devices.

  Returns:
    Shardings of its structure. Arrays of `opt_state` are split along their
    first axis that the devices divide, those without one are not.

  References:
    Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion
    Parameter Models, 2020. https://arxiv.org/abs/1910.02054
  """
  replicated, _ = shardings(mesh)

  def split(x: Any) -> NamedSharding:
    for axis, size in enumerate(x.shape):
      if size and size % mesh.size == 0:
        return NamedSharding(mesh, PartitionSpec(*axis * [None], 'data'))
    return replicated

  whole = jax.tree.map(lambda x: replicated, state)
  return whole._replace(opt_state=jax.tree.map(split, state.opt_state))


def columns(mesh: Mesh) -> NamedSharding:
  """Splits along the second axis: [steps, batch] indices."""
  return NamedSharding(mesh, PartitionSpec(None, 'data'))


def put_columns(indices: np.ndarray, mesh: Mesh) -> jax.Array:
  """[steps, batch] indices, known to every process, as a global array."""
  return jax.make_array_from_callback(
    indices.shape, columns(mesh), lambda i: indices[i]
  )


def check_batch_size(
  batch_size: int, devices: int, accumulate: int = 1
) -> None:
  """Raises ValueError where the global batch does not divide over devices.

  Args:
    batch_size: examples a step.
    devices: how many, over all processes.
    accumulate: micro-batches a step, each of which must divide.
  """
  if batch_size % devices:
    raise ValueError(
      f'batch_size {batch_size} does not divide over {devices} devices in '
      f'{jax.process_count()} processes: use a multiple of {devices}.'
    )
  if batch_size % (devices * accumulate):
    raise ValueError(
      f'accumulate={accumulate} splits a batch of {batch_size} into '
      f'micro-batches that do not divide over {devices} devices: use a '
      f'batch_size that is a multiple of {devices * accumulate}.'
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts host arrays, the same in every process, on every device.

  Args:
    tree: host arrays, or arrays that this process can read.
    mesh: the devices.
  """
  sharding, _ = shardings(mesh)

  def put(x: Any) -> jax.Array:
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(
      x.dtype, jax.dtypes.prng_key
    ):
      data = put(jax.random.key_data(x))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if jax.process_count() == 1:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(put, tree)


def any_process(flag: bool) -> bool:
  """Tells whether `flag` is set in any process; every process must ask."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  with hosts.limit('asking the other processes whether to stop'):
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def of_first_process(value: int) -> int:
  """Returns the first process's `value`; every process must ask."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))
