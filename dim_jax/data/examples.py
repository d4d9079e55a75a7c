"""Examples in memory, whatever they are of, and what objectives see of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_RANKS = {
  'image': (4, 'images [N, H, W, C]'),
  'audio': (2, 'sound of one channel [N, T]'),
  'point': (2, 'points [N, D]'),
}
_INTEGERS = {'image': np.uint8, 'audio': np.int16}


class Examples(NamedTuple):
  """One split of a data set, in memory.

  Attributes:
    kind: 'image', 'audio' or 'point'.
    inputs: images uint8 [n, H, W, C] with C 1 or 3, sound int16 [n, T] of which
      2**15 is full scale, or points float32 [n, D].
    labels: int32 [n], -1 where unknown, by what they are of: 'class' of images;
      'speaker' and maybe 'digit' of sound, which may have 'phone' too, [n,
      frames], one a hundredth of a second. Points have none.
    label: the one of them that objectives learn from; '' without labels.
    class_names: one a class, of each of `labels`; () without classes.
    name: of the data set, or the folder it was read from.
    note: what a reader of a result must know of it, such as that images were
      resized or files left out; '' for nothing.
    recording: int32 [n], which recording a window of sound was cut from,
      counted over all splits in the order of their names; None of others.
    rate: samples of sound a second; None of others.
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
    examples: images [N, H, W, C], sound [N, T] or points [N, D].
    kind: 'image', 'audio' or 'point', as a run's `config.data.kind`.

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


def check_arrays(arrays: Mapping[str, np.ndarray]) -> None:
  """Checks a user's own arrays before anything learns from them.

  Arrays that are left on disk (`numpy.memmap`) are checked but for their
  values.

  Args:
    arrays: by name: 'image', uint8 or floats in [-1, 1], [n, H, W, C]; 'audio',
      int16 or floats in [-1, 1], [n, T]; 'point', floats [n, D]; 'label',
      integers from 0 on, -1 where unknown, [n]; or others, [n, ...].

  Raises:
    ValueError: there are no examples, not as many in each array, or values
      that are not finite or outside of what is said above.
  """
  sizes = {name: len(x) if x.ndim else 0 for name, x in arrays.items()}
  if not sizes or len(set(sizes.values())) > 1 or not min(sizes.values()):
    listed = ', '.join(f'{name!r} has {n}' for name, n in sizes.items())
    raise ValueError(
      'arrays must hold the same number of examples, one or more, along their '
      f'first axis; {listed or "there are none"}.'
    )
  for name, x in arrays.items():
    if name in _RANKS:
      as_batch(x, name)
      _check_values(name, x)
    elif name == 'label':
      _check_labels(x)


def _check_values(kind: str, x: np.ndarray) -> None:
  stored = _INTEGERS.get(kind)
  if x.dtype == stored:
    return
  if not np.issubdtype(x.dtype, np.floating):
    other = f'{np.dtype(stored)}, or ' if stored else ''
    scaled = ' in [-1, 1]' if stored else ''
    raise ValueError(f'{kind!r} must be {other}floats{scaled}, got {x.dtype}.')
  if isinstance(x, np.memmap):
    return
  low, high = float(x.min()), float(x.max())  # NaN where there is one
  if not np.isfinite(low + high):
    bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
    raise ValueError(
      f'{kind!r} has values that are not finite in {len(bad)} of {len(x)} '
      f'examples, the first at position {bad[0]}: leave these out.'
    )
  if stored and (low < -1 or high > 1):
    raise ValueError(
      f'{kind!r} of floats must be in [-1, 1], got {low:g} to {high:g}: scale '
      f'them, or give {np.dtype(stored)}.'
    )


def _check_labels(labels: np.ndarray) -> None:
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      "'label' must hold one integer an example, [n]; got "
      f'{labels.dtype}{list(labels.shape)}.'
    )
  if isinstance(labels, np.memmap):
    return
  classes = np.unique(labels)
  if classes[0] < -1:
    raise ValueError(
      f"'label' must be >= 0, or -1 where it is not known; got {classes[0]}."
    )
  known = classes[classes >= 0]
  if len(known) > 1 and known[0] == 1 and known[-1] == len(known):
    raise ValueError(
      f"'label' must count classes from 0; got 1 to {known[-1]}: subtract 1 "
      'from those that are known.'
    )
