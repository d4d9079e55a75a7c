"""Which training examples keep their label."""

import numpy as np

from dim_jax import random


def keep(
  labels: np.ndarray,
  *,
  fraction: float | None = None,
  per_class: int | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Hides labels at random, as many of each class as are asked for.

  A pure function of its arguments, the same on every host and with every
  version of NumPy. More labels include those that fewer would leave.

  Args:
    labels: int32 [n], -1 where unknown.
    fraction: of each class that keeps its label, in (0, 1], rounded, and
      one example at least.
    per_class: so many of each class instead.
    seed: of the choice.

  Returns:
    A copy with -1 where the label is hidden; of all labels if neither is given.

  Raises:
    ValueError: both are given or out of range, or the labels are of fewer than
      two classes or too few.
  """
  if fraction is not None and per_class is not None:
    raise ValueError(
      f'data.labelled={fraction} and data.labels_per_class={per_class} both '
      'say how many labels are kept: set one of them to None.'
    )
  if fraction is not None and not 0 < fraction <= 1:
    raise ValueError(
      'data.labelled must be a fraction of each class in (0, 1], or None; got '
      f'{fraction}.'
    )
  if per_class is not None and per_class < 1:
    raise ValueError(
      f'data.labels_per_class must be >= 1 or None, got {per_class}.'
    )
  if not 0 <= seed < 2**64:
    raise ValueError(f'data.label_seed must be in 0..2**64-1, got {seed}.')
  if fraction is None and per_class is None:
    return labels.copy()
  classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
  if len(classes) < 2:
    raise ValueError(
      f'the training labels are of {len(classes)} class(es), which leaves '
      'nothing to tell apart: leave data.labelled and data.labels_per_class at '
      'None, or choose data with two classes or more.'
    )
  if per_class is not None and per_class > sizes.min():
    raise ValueError(
      f'data.labels_per_class={per_class}, but class '
      f'{classes[sizes.argmin()]} has {sizes.min()} training labels: ask for '
      f'at most {sizes.min()}.'
    )
  order = random.order(seed, random.Host.LABELS, len(labels))
  kept = np.full_like(labels, -1)
  for label, size in zip(classes, sizes, strict=True):
    members = order[labels[order] == label]
    count = per_class or max(1, round(fraction * size))
    kept[members[:count]] = label
  return kept
