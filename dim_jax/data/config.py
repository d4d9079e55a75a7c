"""What a run says of its data: images, sound, points or pairs of lines."""

import dataclasses
from typing import ClassVar

from dim_jax.data import augment


@dataclasses.dataclass(kw_only=True)
class DataConfig(augment.Config):
  """Where the images come from, and how training changes them."""

  kind: ClassVar[str] = 'image'  # What batches call the examples.
  name: str = 'digits'
  """One of digits, mnist, cifar10, cifar100, stl10; or the path of a folder of
  images, such as an unzipped tiny-imagenet-200."""
  image_size: int | None = 32
  """Resize images to this many pixels a side; None keeps their own size."""
  data_dir: str | None = None
  """Folder of prepared TFDS data sets; None means TFDS_DATA_DIR, else TFDS's
  default."""
  validation: float = 0.1
  """Fraction of the training set held out for monitoring and selection."""
  unlabelled: bool = False
  """Train on the split without labels, of stl10 or a folder unlabelled/; the
  labelled images then serve for monitoring and probes alone."""
  stream: bool = False
  """Read images as steps need them, for sets larger than memory; the
  steps are bitwise identical."""
  labelled: float | None = None
  """Fraction of each class's training images that keep their label, one at
  least; the others train with -1. None keeps all. Given with `unlabelled`, as
  1.0, the labelled images are trained on too."""
  labels_per_class: int | None = None
  """So many of each class instead."""
  label_seed: int = 0
  """Of that choice, which the run's own seed does not change."""
  grayscale: bool = False
  """Turn colours into one channel."""


@dataclasses.dataclass(kw_only=True)
class SoundConfig:
  """Recordings, cut into windows of one length."""

  kind: ClassVar[str] = 'audio'  # What batches call the examples.
  name: str = 'spoken_digit'
  """spoken_digit, librispeech, or a folder SPEAKER/.../x.wav or .flac."""
  window: int = 2048
  """Samples of an example. Shorter recordings are left out."""
  hop: int | None = None
  """Samples between two windows of a recording; None for `window`."""
  rate: int | None = None
  """Samples a second that recordings must have; None takes theirs."""
  label: str = 'speaker'
  """What the online probe and supervised losses learn: speaker, or digit."""
  phones: str | None = None
  """File of phone labels, 'utterance-id p p p ...', one each 10 ms."""
  lists: str | None = None
  """Folder with train_split.txt and test_split.txt, utterance ids to use."""
  data_dir: str | None = None
  """Folder of prepared TFDS data sets; None means TFDS_DATA_DIR, else TFDS's
  default."""
  validation: float = 0.1
  """Fraction of the training recordings held out for monitoring."""


@dataclasses.dataclass(kw_only=True)
class PointConfig:
  """Points of a known density, without labels."""

  kind: ClassVar[str] = 'point'  # What batches call the examples.
  name: str = 'mixture_2d'
  """One of `dim_jax.data.points.DENSITIES`: mixture_1d, mixture_2d, ring,
  gaussian, banana."""
  count: int = 10_000
  """Points to train on, with those held out; the test set has as many."""
  seed: int = 0
  """Of the points; that of the run draws its batches and noise."""
  validation: float = 0.1
  """Fraction of the training points held out for monitoring."""


@dataclasses.dataclass(kw_only=True)
class TextConfig:
  """Pairs of lines of one length, character by character."""

  kind: ClassVar[str] = 'text'  # What batches call the examples.
  name: str = 'couplets/'
  """The path of a folder with files *train.tsv and *test.tsv, a pair a line
  with a tab between, or with train/in.txt and train/out.txt."""
  length: int = 7
  """L, the most characters of a line; longer pairs are left out."""
  vocabulary: int = 4096
  """How many numbers there are of the most frequent characters of the training
  lines, the padding and the unknown character included."""
  pairs: int | None = None
  """Train on this many pairs, a fixed random choice; None for all."""
  validation: float = 0.1
  """Fraction of the training pairs held out for monitoring."""
