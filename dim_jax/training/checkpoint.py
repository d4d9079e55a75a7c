"""Checkpoints of the train state, on Orbax.

A checkpoint holds arrays only. Restoring takes the shapes and the shardings of
the devices at hand, so a run moves between device counts.

Orbax writes a checkpoint whole or not at all, but restores changed bytes in its
arrays without a word. So the sizes and CRC-32 of its files stand beside them,
with the shapes of what they hold.
"""

import contextlib
import logging
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from dim_jax import files
from dim_jax.training import parallel

_CONTENTS = 'contents.json'
# Implementations of random keys, by the name of their dtype.
_IMPLS = {
  'key<fry>': 'threefry2x32',
  'key<rbg>': 'rbg',
  'key<urbg>': 'unsafe_rbg',
}
# The file that Orbax writes into every checkpoint.
_METADATA = '_CHECKPOINT_METADATA'
# Orbax tells the folders of two writes apart by a number of the process, so of
# writes in several threads one can begin before its folder is there.
_ORBAX = threading.RLock()


class Checkpoints:
  """The checkpoints of one run, the newest `keep` of them.

  Use as a context manager.
  """

  def __init__(
    self, run_dir: str | os.PathLike, keep: int = 2, *, owner: bool = False
  ):
    """Opens, or prepares, `run_dir`/checkpoints; relative paths are fine.

    Args:
      run_dir: the run's folder.
      keep: how many checkpoints stay.
      owner: whether this process is the run's trainer, which clears away what
        a killed write left behind; a reader must leave a live write alone.
    """
    self.directory = os.path.join(files.absolute(run_dir), 'checkpoints')
    self._verified: set[int] = set()
    # Orbax's checkpointer waits for all processes, and a reader is one of them.
    self._alone = not owner and jax.process_count() > 1
    self._checkpointer: Any = None
    if self._alone:
      return
    with _ORBAX, _quiet():
      self._checkpointer = ocp.training.Checkpointer(
        self.directory,
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=owner,
      )

  def _load(self, step: int, abstract: Any) -> Any:
    if not self._alone:
      with _ORBAX:
        return self._checkpointer.load(step, abstract)
    process, context = jax.process_index(), ocp.Context()
    context.multiprocessing.primary_host = process
    context.multiprocessing.active_processes = {process}
    context.multiprocessing.barrier_sync_key_prefix = f'process_{process}'
    with context:
      return ocp.load(self._path(step), abstract)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, *_: object) -> None:
    if self._alone:
      return
    with _ORBAX, _quiet():
      try:
        self._checkpointer.close()
      except Exception:
        # Orbax raises once more what a write raised.
        if kind is None:
          raise

  @property
  def latest(self) -> int | None:
    """Returns the step of the newest complete checkpoint, if any."""
    return max(self.steps, default=None)

  @property
  def steps(self) -> list[int]:
    """Returns the steps of all complete checkpoints."""
    if self._alone:
      found = files.at(self.directory).glob(f'*/{_METADATA}')
      return sorted(
        int(path.parent.name) for path in found if path.parent.name.isdigit()
      )
    return [c.step for c in self._checkpointer.checkpoints]

  def save(self, step: int, state: Any) -> None:
    """Writes `state`; an interrupted write leaves no checkpoint.

    Args:
      step: its step.
      state: a pytree of arrays, global ones where there are several processes.

    Raises:
      OSError: it could not be written, as on a full disk; the checkpoints
        before it are as they were.
    """
    try:
      # Not in the background: the next step takes over the state's buffers,
      # which on a CPU are the very memory that a background write still reads.
      with _ORBAX, _quiet():
        self._checkpointer.save(step, state, force=True)
      if jax.process_index() == 0:
        _write_contents(self._path(step), state)
    except (OSError, ValueError, RuntimeError) as error:
      if not files.system_error(error):
        raise
      raise files.unwritable(self._path(step), error) from error

  def recover(self, say: Callable[[str], None]) -> int | None:
    """Finds the newest undamaged checkpoint; for the run's trainer.

    Damaged ones that are newer move to `run_dir`/damaged, out of the way of
    those that the run writes as it goes on from there.

    Args:
      say: what tells the user of each.

    Returns:
      The step; None if there is no checkpoint at all.

    Raises:
      ValueError: all are damaged.
    """
    bad: dict[int, str] = {}
    steps = sorted(self.steps, reverse=True)
    newest = -1
    if jax.process_index() == 0:
      for newest in [*steps, -1]:
        if newest < 0 or not (damage := self._damage(newest)):
          break
        bad[newest] = damage
    newest = parallel.of_first_process(newest)
    if not steps:
      return None
    if newest < 0:
      damages = '; '.join(f'{step}: {what}' for step, what in bad.items())
      raise ValueError(
        f'All checkpoints in {self.directory!r} are damaged ({damages}). Put '
        'back a copy of one, or choose another --workdir.'
      )
    self._verified.add(newest)  # By the first process, for all of them.
    for step, what in bad.items():
      aside = os.path.join(os.path.dirname(self.directory), 'damaged')
      files.make_folder(aside)
      there = files.at(aside) / str(step)
      if there.exists():
        there.rmtree()
      files.at(self._path(step)).rename(there)
      say(
        f'Checkpoint {step} is damaged ({what}) and moved to {aside}; '
        f'falling back to checkpoint {newest}.'
      )
    parallel.of_first_process(0)  # Wait until they are moved.
    self._checkpointer.reload()
    return newest

  def restore(
    self, state: Any, step: int | None = None, *, any_width: bool = False
  ) -> Any:
    """Reads a saved state, with the shapes and shardings of `state`.

    Random keys come back of the implementation that they were saved with.

    Args:
      state: a state of the same structure, arrays or `jax.ShapeDtypeStruct`.
      step: which checkpoint; the newest if None.
      any_width: whether numbers may have another width than in `state`, as
        those of a run that was trained with jax_enable_x64; they come back as
        they were saved, if this process has such numbers. Steps go on from the
        same widths alone.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: it is damaged, or holds another structure or other shapes, as
        when a run is resumed with another config.
    """
    step = self.latest if step is None else step
    if step not in self.steps:
      raise FileNotFoundError(
        f'No checkpoint of step {step} in {self.directory!r}; there are '
        f'{self.steps}.'
      )
    if damage := self._damage(step):
      raise ValueError(
        f'Checkpoint {step} in {self.directory!r} is damaged ({damage}); there '
        f'are {self.steps}. Training goes on from the newest complete one.'
      )
    abstract = _as_saved(self._path(step), state, any_width)
    if difference := _difference(self._path(step), abstract, any_width):
      if _difference(self._path(step), abstract, any_width=True):
        raise ValueError(self._unfit(step, difference))
      there = int(not jax.config.read('jax_enable_x64'))
      raise ValueError(
        f'Checkpoint {step} in {self.directory!r} holds numbers of another '
        f'width ({difference}): set JAX_ENABLE_X64={there}, as it was trained '
        'with, to go on.'
      )
    try:
      return self._load(step, abstract)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(self._unfit(step, files.reason(error))) from error

  def _path(self, step: int) -> str:
    return os.path.join(self.directory, str(step))

  def key_impl(self) -> str | None:
    """Returns the implementation of the newest checkpoint's random key."""
    if self.latest is None:
      return None
    tensors = _saved_tensors(self._path(self.latest))
    return _IMPLS.get(tensors.get('rng', '').partition(' ')[0])

  def _unfit(self, step: int, why: str) -> str:
    return (
      f'Checkpoint {step} in {self.directory!r} does not fit this config '
      f'({why}). Resume with the config.json that is beside it, or choose '
      'another --workdir.'
    )

  def _damage(self, step: int) -> str:
    """What is wrong with the files of a checkpoint; '' if nothing is."""
    if step not in self._verified:
      if damage := _damage(self._path(step)):
        return damage
      self._verified.add(step)
    return ''


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax logs what it then raises, at length, and from several threads."""
  logger = logging.getLogger('absl')
  before, logger.disabled = logger.disabled, True
  try:
    yield
  finally:
    logger.disabled = before


def _crc32(path: str) -> int:
  crc = 0
  with files.at(path).open('rb') as file:
    while block := file.read(2**20):
      crc = zlib.crc32(block, crc)
  return crc


def _tensors(state: Any) -> dict[str, str]:
  """Dtype and shape of each array by its name, such as 'float32 (3, 4)'."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{x.dtype} {tuple(x.shape)}'
    )
    for path, x in jax.tree_util.tree_leaves_with_path(state)
  }


def _write_contents(folder: str, state: Any) -> None:
  """Writes what `state` holds; size and CRC-32 of every file in a folder."""
  sums = {}
  for name in files.names_below(folder):
    path = os.path.join(folder, name)
    sums[name] = [files.at(path).stat().length, _crc32(path)]
  contents = {'files': sums, 'tensors': _tensors(state)}
  files.write_json(os.path.join(folder, _CONTENTS), contents)


def _saved_tensors(folder: str) -> dict[str, str]:
  """What `_tensors` said of the saved state; {} where nothing is known."""
  path = os.path.join(folder, _CONTENTS)
  return files.read_json(path).get('tensors', {})


def _as_saved(folder: str, state: Any, any_width: bool) -> Any:
  """The shapes of `state`, with keys (and widths) as they were saved."""
  saved = _saved_tensors(folder)

  def of(path: Any, x: Any) -> jax.ShapeDtypeStruct:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    kind, _, shape = saved.get(name, '').partition(' ')
    dtype = x.dtype
    if shape == str(tuple(x.shape)):
      is_key = jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
      if is_key and kind in _IMPLS:
        key = jax.eval_shape(lambda: jax.random.key(0, impl=_IMPLS[kind]))
        dtype = key.dtype
      elif any_width and not is_key and _widthless(kind) == _widthless(dtype):
        dtype = jax.dtypes.canonicalize_dtype(kind)
    sharding = getattr(x, 'sharding', None)
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(of, state)


def _widthless(text: Any) -> str:
  """'float32 (3,)' and 'float64 (3,)' as one."""
  return re.sub(r'^(int|uint|float|complex)(32|64|128)\b', r'\1', str(text))


def _difference(folder: str, state: Any, any_width: bool) -> str:
  """The first array that a checkpoint has otherwise; '' for none."""
  there = _saved_tensors(folder)
  if not there:
    return ''
  here = _tensors(state)
  for name in [*here, *there]:
    old, new = there.get(name, 'missing'), here.get(name, 'missing')
    if old != new and not (any_width and _widthless(old) == _widthless(new)):
      return f'{name} is {old} there, {new} here'
  return ''


def _damage(folder: str) -> str:
  """Compares a checkpoint's files with their checksums.

  Args:
    folder: of the checkpoint. Without checksums, as of a run killed just before
      they were written, only Orbax's own metadata must be there.

  Returns:
    The first file that differs and how; '' if none does.
  """
  path = os.path.join(folder, _CONTENTS)
  if not files.at(path).exists():
    exists = files.at(os.path.join(folder, _METADATA)).exists()
    return '' if exists else f'{_METADATA} is missing'
  try:
    entries = files.read_json(path)['files']
    sums = {name: (size, crc) for name, (size, crc) in entries.items()}
  except (ValueError, KeyError, TypeError, AttributeError):
    return f'{_CONTENTS} is unreadable'
  for where, (size, crc) in sorted(sums.items()):
    path = os.path.join(folder, where)
    if not files.at(path).exists():
      return f'{where} is missing'
    if (actual := files.at(path).stat().length) != size:
      return f'{where} has {actual:,} of {size:,} bytes'
    if _crc32(path) != crc:
      return f'{where} has changed bytes'
  return ''
