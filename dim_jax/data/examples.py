"""Examples in memory, whatever they are of, and what objectives see of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_RANKS = {
  'image': (4, 'images [N, H, W, C]'),
  'audio': (2, 'sound of one channel [N, T]'),
  'point': (2, 'points [N, D]'),
  'text': (3, 'pairs of lines [N, 2, L]'),
}
_INTEGERS = {'image': np.uint8, 'audio': np.int16, 'text': np.int32}


class Examples(NamedTuple):
  """One split of a data set, in memory.

  Attributes:
    kind: 'image', 'audio', 'point' or 'text'.
    inputs: images uint8 [n, H, W, C] with C 1 or 3, sound int16 [n, T] of which
      2**15 is full scale, points float32 [n, D], or pairs of lines int32 [n, 2,
      L], numbers of characters, 0 behind a line's end.
    labels: int32 [n], -1 where unknown, by what they are of: 'class' of images;
      'speaker' and maybe 'digit' of sound, which may have 'phone' too, [n,
      frames], one a hundredth of a second; 'source' of text, its file. Points
      have none.
    label: the one of them that objectives learn from; '' without labels.
    class_names: one a class, of each of `labels`; () without classes.
    name: of the data set, or the folder it was read from.
    note: what a reader of a result must know of it, such as that images were
      resized or files left out; '' for nothing.
    recording: int32 [n], which recording a window of sound was cut from,
      counted over all splits in the order of their names; None of others.
    rate: samples of sound a second; None of others.
    vocabulary: the characters of text, of which the first is number 2; '' of
      others.
  """

  kind: str
  inputs: np.ndarray
  labels: dict[str, np.ndarray]
  label: str
  class_names: dict[str, tuple[str, ...]]
  name: str
  note: str = ''
  recording: np.ndarray | None = None
  rate: int | None = None
  vocabulary: str = ''

  def take(self, rows: Any) -> 'Examples':
    """Selects examples by a slice, a mask or positions."""
    recording = self.recording
    return self._replace(
      inputs=self.inputs[rows],
      labels={name: x[rows] for name, x in self.labels.items()},
      recording=None if recording is None else recording[rows],
    )


def as_batch(examples: Any, kind: str) -> dict[str, Any]:
  """Gives examples the name that objectives know them by.

  Args:
    examples: images [N, H, W, C], sound [N, T], points [N, D] or pairs of lines
      [N, 2, L].
    kind: 'image', 'audio', 'point' or 'text', as a run's `config.data.kind`.

  Returns:
    {kind: examples}.

  Raises:
    ValueError: examples of this kind have another rank.
  """
  rank, words = _RANKS[kind]
  if examples.ndim != rank:
    raise ValueError(
      f'examples must be {words}, got shape {tuple(examples.shape)}.'
    )
  return {kind: examples}


def batch(examples: Examples) -> dict[str, Any]:
  """Returns what objectives see: the inputs, and 'label' where there are."""
  arrays = as_batch(examples.inputs, examples.kind)
  if examples.label:
    arrays['label'] = examples.labels[examples.label]
  return arrays


def check_classes(name: str, labels: np.ndarray, learner: str) -> None:
  """Checks that labels are of two classes or more.

  Args:
    name: of the data set.
    labels: int32, -1 where unknown.
    learner: what needs them.

  Raises:
    ValueError: they are not; says what to do.
  """
  classes = len(np.unique(labels[labels >= 0]))
  if classes < 2:
    raise ValueError(
      f'{name} has {("no labels", "labels of one class alone")[classes]}; '
      f'{learner} needs two classes or more. Put the images of each class into '
      'a folder of its own, or choose other data; where data.unlabelled=True '
      'left the labelled images out, data.labelled=1.0 trains on them too.'
    )


def check_values(arrays: Mapping[str, np.ndarray], classes: int = 0) -> None:
  """Checks that a user's arrays mean what objectives take them for.

  Arrays that are left on disk (`numpy.memmap`) are not read for it.

  Args:
    arrays: by name: 'image', uint8 or floats in [-1, 1]; 'audio', int16 or
      floats in [-1, 1]; 'point', floats; 'text', int32; 'label', integers
      from 0 on, -1 where unknown. Others may be anything.
    classes: how many the objective has; 0 if that is not known.

  Raises:
    ValueError: an array is of another dtype or range, or classes are counted
      from 1.
  """
  for name, x in arrays.items():
    if name in _RANKS and x.dtype != (stored := _INTEGERS.get(name)):
      _check_floats(name, x, stored)
  label = arrays.get('label')
  if label is None or isinstance(label, np.memmap):
    return
  known = np.unique(label[label >= 0])
  counted_from_1 = len(known) > 1 and known[0] == 1 and known[-1] == len(known)
  # Of more classes the first one may have no example here.
  if counted_from_1 and known[-1] >= classes:
    raise ValueError(
      f"'label' must count classes from 0; got 1 to {known[-1]}: subtract 1 "
      'from those that are known.'
    )


def _check_floats(kind: str, x: np.ndarray, stored: Any) -> None:
  if kind == 'text':
    raise ValueError(f"'text' must be int32, got {x.dtype}.")
  if not jnp.issubdtype(x.dtype, jnp.floating):
    accepted = (
      f'{np.dtype(stored)}, or floats in [-1, 1]' if stored else 'floats'
    )
    raise ValueError(f'{kind!r} must be {accepted}, got {x.dtype}.')
  if stored is None or isinstance(x, np.memmap):
    return
  low, high = float(x.min()), float(x.max())
  if low < -1 or high > 1:
    raise ValueError(
      f'{kind!r} of floats must be in [-1, 1], got {low:g} to {high:g}: scale '
      f'them, or give {np.dtype(stored)}.'
    )
