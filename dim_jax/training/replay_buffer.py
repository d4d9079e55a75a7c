"""What one module passes on to the next, when each trains at its own pace.

A buffer is a folder of the newest batches of features, a file each, that one
thread or process writes and another one reads. Neither waits for the other: a
writer that is ahead drops the oldest batches, and a reader that is ahead reads
one again.
"""

import json
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dim_jax import files, random

_ORIGIN, _SAVED = 'origin.json', 'saved_'


class Batch(NamedTuple):
  """A batch of features.

  Attributes:
    number: of the batch, from 0 in the order of writing.
    features: [N, ...], what the module behind gets.
    labels: int32 [N], or None.
  """

  number: int
  features: np.ndarray
  labels: np.ndarray | None


class ReplayBuffer:
  """The newest `size` batches that a module passed on.

  The rule is that of Belilovsky et al., Decoupled Greedy Learning of CNNs, ICML
  2020, algorithm 2 (https://arxiv.org/abs/1901.08164), but that a batch which
  was not read yet goes before those that were.
  """

  def __init__(self, folder: str, size: int, origin: str):
    """Opens or makes a buffer.

    Args:
      folder: its own.
      size: how many batches it holds.
      origin: describes the run that it is of.

    Raises:
      ValueError: the folder is remote, another run's, or not a buffer.
    """
    self.folder, self._size = folder, size
    if files.is_remote(folder):
      raise ValueError(
        f'features are passed on by a local folder, not by {folder!r}: give '
        '--buffer_dir=FOLDER.'
      )
    files.make_folder(folder)
    path = os.path.join(folder, _ORIGIN)
    before = files.read_json(path)
    if not before and _strangers(folder):
      # The process on the other side may have made it just now.
      before = files.read_json(path)
      if not before:
        raise ValueError(
          f'{folder!r} is no buffer of features and not empty: give another '
          '--buffer_dir.'
        )
    if before and before != {'origin': origin}:
      raise ValueError(
        f'{folder!r} holds features of another run: give another --buffer_dir, '
        'or delete that folder.'
      )
    if not before:
      files.write_json(path, {'origin': origin})

  def write(
    self, number: int, features: np.ndarray, labels: np.ndarray | None
  ) -> None:
    """Adds a batch, and drops the oldest beyond the size."""
    arrays: dict[str, Any] = {'features': features}
    if features.dtype.isbuiltin == 2:  # bfloat16, which NumPy does not store.
      arrays['features'] = features.view(f'u{features.dtype.itemsize}')
      arrays['dtype'] = features.dtype.name
    if labels is not None:
      arrays['labels'] = labels
    with files.replacing(self._path(number), 'wb') as file:
      np.savez(file, **arrays)
    for old in self.numbers()[: -self._size]:
      os.remove(self._path(old))

  def numbers(self) -> list[int]:
    """Lists the batches that are there, the newest last."""
    matches = (re.fullmatch(r'(\d+)\.npz', x) for x in os.listdir(self.folder))
    return sorted(int(match[1]) for match in matches if match)

  def read(self, number: int) -> Batch | None:
    """Reads a batch; None if the writer has just dropped it."""
    try:
      with np.load(self._path(number)) as arrays:
        labels = arrays['labels'] if 'labels' in arrays else None
        features = arrays['features']
        if 'dtype' in arrays:
          features = features.view(jnp.dtype(str(arrays['dtype'])))
        return Batch(number, features, labels)
    except FileNotFoundError:
      return None

  def mark_read(self, number: int) -> None:
    """Tells the writer the newest batch that was read."""
    files.write(os.path.join(self.folder, 'read'), json.dumps(number))

  def last_read(self) -> int:
    """Returns the newest batch that was read; -1 before any."""
    path = os.path.join(self.folder, 'read')
    return files.read_json(path) if os.path.exists(path) else -1

  def save(self, label: int, keep: int) -> None:
    """Keeps a copy of all batches beside a checkpoint, the newest `keep`."""
    saved = os.path.join(self.folder, f'{_SAVED}{label}')
    shutil.rmtree(saved, ignore_errors=True)
    with files.beside(saved) as part:
      os.makedirs(part)
      for name in self._files():
        shutil.copy(os.path.join(self.folder, name), part)
    for old in self.labels()[:-keep]:
      shutil.rmtree(os.path.join(self.folder, f'{_SAVED}{old}'))

  def restore(self, label: int) -> None:
    """Brings back the batches of `save`; no others stay. 0 is the start."""
    for name in self._files():
      os.remove(os.path.join(self.folder, name))
    # What a kill, or a full disk, left of a write or a save.
    for part in pathlib.Path(self.folder).glob('*.tmp'):
      if part.is_dir():
        shutil.rmtree(part)
      else:
        part.unlink()
    for newer in (x for x in self.labels() if x > label):
      shutil.rmtree(os.path.join(self.folder, f'{_SAVED}{newer}'))
    if label:
      saved = os.path.join(self.folder, f'{_SAVED}{label}')
      shutil.copytree(saved, self.folder, dirs_exist_ok=True)

  def labels(self) -> list[int]:
    """Lists the labels of the copies that `save` made."""
    names = (x for x in os.listdir(self.folder) if x.startswith(_SAVED))
    suffixes = (name.removeprefix(_SAVED) for name in names)
    return sorted(int(x) for x in suffixes if x.isdigit())

  def _path(self, number: int) -> str:
    return os.path.join(self.folder, f'{number:012d}.npz')

  def _files(self) -> list[str]:
    """The batches, and what was read of them."""
    there = os.listdir(self.folder)
    return [x for x in there if re.fullmatch(r'\d+\.npz|read', x)]


def _strangers(folder: str) -> list[str]:
  """What is in a folder, but for the origin and what becomes it."""
  return [x for x in os.listdir(folder) if not x.startswith(_ORIGIN)]


def choose(
  numbers: list[int], last: int, seed: int, module: int, step: int
) -> int:
  """Chooses the batch of a step: the newest, or, once that was read, any.

  Args:
    numbers: of the batches that are there, the newest last.
    last: the newest that was read before; -1 before any.
    seed: the run's.
    module: which one reads.
    step: of that module.

  Returns:
    One of `numbers`, a pure function of the arguments.
  """
  if numbers[-1] > last:
    return numbers[-1]
  stream = random.philox(seed, random.Host.REPLAY + module).advance(step)
  return numbers[int(stream.random_raw()) % len(numbers)]
