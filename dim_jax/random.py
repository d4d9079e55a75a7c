"""The random streams of the project: who draws from which key.

On devices, a stream is a branch of a key: `fold_in` of a number that no other
stream of the same key has. `jax.random.split(key, n)` gives the branches 0 to
n - 1. On the host, a stream is the key of a Philox generator, whose bits NumPy
promises never to change.

A number here is part of every recorded result: it may not change, and a new
stream takes one that is free. The keys:

  seed of a run
    PARAMETERS  Objective.init, which splits it further
    STEPS       TrainState.rng
      0, 1, ...     step t; its micro-batches and modules are 0, 1, ... in turn
      AUGMENTATION  with step t folded in, then the position in the batch
    STORED_VIEWS  augmentation of features that are stored once
    INFORMATION   noise on the features whose information is measured
    TARGETS       of seed 0 alone: the targets of `objectives.nat`, then the
                  number of one
"""

import enum

import jax
import numpy as np


class OfSeed(enum.IntEnum):
  """Branches of `jax.random.key(seed)`; `split` gives the first two."""

  PARAMETERS = 0
  STEPS = 1
  STORED_VIEWS = 2**32 - 2
  INFORMATION = 2**32 - 3
  TARGETS = 2**32 - 4


class OfRun(enum.IntEnum):
  """Branches of `TrainState.rng`, of which 0 to 2**31 - 1 are the steps."""

  AUGMENTATION = 2**32 - 1


class OfStep(enum.IntEnum):
  """Branches of a step's key, of which the low ones are what a method splits.

  They are apart from those, so that a run without masks, dropout or coordinates
  draws what it drew before these existed.
  """

  MODULE_DROPOUT = 2**31
  """Plus the number of the module."""
  COORDINATES = 2**32 - 3
  DROPOUT = 2**32 - 2
  MASK = 2**32 - 1


class OfParameters(enum.IntEnum):
  """Branches of the key of `Objective.init`, beside those that it splits.

  The first two are also the encoder's and the critic's, of which Flax makes
  others by folding in the path of each parameter.
  """

  SPECTRAL_VECTORS = 0
  DECODER = 1
  ASSIGNMENT = 2**32 - 2
  MASK_TOKEN = 2**32 - 1


class OfPrior(enum.IntEnum):
  """Branches of the key of a prior, which samples are drawn from as it is.

  Samples split it, into its branches 0 and 1.
  """

  PENALTY = 2


class OfExample(enum.IntEnum):
  """Branches of an example's key in augmentation."""

  FLIP = 0
  CROP = 1
  WINDOW = 2
  RESIZED = 3
  JITTER = 4
  GRAYSCALE = 5
  BLUR = 6


class OfProbe(enum.IntEnum):
  """Branches of a probe's key, of which the low ones are its steps."""

  PARAMETERS = 2**31 - 1


class Host(enum.IntEnum):
  """Second words of Philox keys; the first one is a seed.

  VALIDATION and TEST are of seed 0 alone. So the first two epochs of a run of
  seed 0 sort by the bits that chose these sets, and those of a run whose points
  have its own seed by the bits that made the points. What was held out shifts
  the positions between the two, but nothing does where `validation` is 0.
  """

  EPOCH = 0
  """Plus the number of the epoch."""
  VALIDATION = 0
  TEST = 1
  TRAIN_POINTS = 0
  TEST_POINTS = 1
  LABELS = 2**63
  FOLDER = 2**63 + 1
  INFORMATION = 2**63 + 2
  PAIRS = 2**63 + 3
  REPLAY = 2**63 + 2**32
  """Plus the number of the module that reads."""


def branch(key: jax.Array, number: int | jax.Array) -> jax.Array:
  """Derives the key of a stream.

  Args:
    key: the key that the stream is a branch of.
    number: of the stream, such as `OfStep.MASK`, below 2**32.

  Returns:
    The stream's key.
  """
  # A Python number above 2**31 - 1 would overflow int32.
  return jax.random.fold_in(
    key, np.uint32(number) if isinstance(number, int) else number
  )


def philox(seed: int, stream: int) -> np.random.Philox:
  """Makes the generator of a host stream.

  Args:
    seed: in [0, 2**64).
    stream: of `Host`, plus an epoch's number where it says so.

  References:
    Salmon et al., [Parallel random numbers: as easy as 1, 2, 3](
    https://doi.org/10.1145/2063384.2063405), 2011.
  """
  return np.random.Philox(key=np.array([seed, stream], np.uint64))


def order(seed: int, stream: int, count: int) -> np.ndarray:
  """Draws a permutation, the same with every version of NumPy.

  Sorts the raw output of the generator, because NumPy promises no such thing
  of `Generator.permutation`.

  Args:
    seed: in [0, 2**64).
    stream: as for `philox`.
    count: n.

  Returns:
    A permutation of 0..n-1, int64 [n].
  """
  return np.argsort(philox(seed, stream).random_raw(count), kind='stable')


def some(most: int, count: int) -> np.ndarray:
  """Draws examples to measure all by, always the same.

  The first ones would not do: those of a folder lie class by class, and
  recordings by name.

  Args:
    most: how many at most.
    count: n.

  Returns:
    Positions in their order, int64 [min(most, n)].
  """
  return np.sort(order(0, Host.INFORMATION, count)[:most])
