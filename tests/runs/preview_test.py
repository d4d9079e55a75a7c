"""Tests of the preview of augmentations."""

import numpy as np
import pytest
from matplotlib import image as image_lib

from dim_jax.config import DataConfig, ExperimentConfig, PointConfig
from dim_jax.data import load as data
from dim_jax.objectives import dim
from dim_jax.report import figures
from dim_jax.runs import preview


def config_of(**fields):
  return ExperimentConfig(
    objective=dim.Config(encoder='small32'),
    data=DataConfig(**{'name': 'digits', 'image_size': 8} | fields),
  )


def test_rows_are_an_image_and_views_of_it(tmp_path):
  config = config_of(flip=True)
  figure = preview.preview(config, examples=3, views=6, show_progress=False)
  images = [np.asarray(x.get_array()) for x in figure.axes[0].images]
  assert len(images) == 3 * (1 + 6)
  stored = data.load(config.data, 'train', progress=False).inputs[:3]
  kinds = set()
  for i, image in enumerate(stored):
    original, *views = images[7 * i : 7 * i + 7]
    # One channel is shown as gray.
    np.testing.assert_array_equal(original, np.repeat(image, 3, -1))
    for view in views:
      mirrored = not np.array_equal(view, original)
      kinds.add(mirrored)
      if mirrored:
        np.testing.assert_array_equal(view, original[:, ::-1])
  assert kinds == {True, False}
  words = figure.get_supxlabel()
  assert words.startswith('Flips. Seed 0; images of 8x8 pixels, views of 8x8')

  # The same seed draws the same picture, to the byte; another does not.
  paths = [tmp_path / name for name in ('a.png', 'b.png', 'c.png')]
  for seed, path in zip((0, 0, 1), paths, strict=True):
    config.seed = seed
    figures.write(
      preview.preview(config, examples=3, views=6, show_progress=False), path
    )
  first, again, other = (path.read_bytes() for path in paths)
  assert first == again != other
  pixels = image_lib.imread(paths[0])
  np.testing.assert_allclose(pixels[0, 0, :3], 1.0)  # The ground is white.


def test_views_may_be_smaller():
  figure = preview.preview(
    config_of(crop=5), examples=2, views=1, show_progress=False
  )
  shapes = [image.get_array().shape for image in figure.axes[0].images]
  assert shapes == [(8, 8, 3), (5, 5, 3)] * 2
  # Drawn at one size.
  extents = [image.get_extent() for image in figure.axes[0].images]
  np.testing.assert_allclose([b - a for a, b, _, _ in extents], 1)
  assert 'Crops of 5 pixels' in figure.get_supxlabel()


def test_a_stream_is_read_no_further_than_shown(monkeypatch):
  def refuse(*arguments, **options):
    raise AssertionError('loads all images')

  expected = preview.preview(
    config_of(flip=True), examples=2, views=2, show_progress=False
  )
  monkeypatch.setattr(data.sources, 'load', refuse)
  found = preview.preview(
    config_of(flip=True, stream=True),
    examples=2,
    views=2,
    show_progress=False,
  )
  for a, b in zip(expected.axes[0].images, found.axes[0].images, strict=True):
    np.testing.assert_array_equal(a.get_array(), b.get_array())


def test_words():
  assert preview.describe(DataConfig()).startswith('No augmentation')
  config = DataConfig(
    crop=64,
    crop_scale=0.2,
    flip=True,
    crop_padding=4,
    jitter=0.5,
    grayscale_probability=0.2,
    blur_probability=0.5,
  )
  assert preview.describe(config).replace('\n', ' ') == (
    'Crops of 20 % to all, resized, flips, crops after padding by 4, colour '
    'jitter of strength 0.5 (of 80 %), grayscale (of 20 %), Gaussian blur (of '
    '50 %).'
  )


@pytest.mark.parametrize(
  ('config', 'counts', 'words'),
  [
    (config_of(), {'views': 0}, 'views must be a whole number >= 1, got 0'),
    (
      config_of(),
      {'examples': -1},
      'examples must be a whole number >= 1, got -1',
    ),
    (config_of(jitter=0.5), {}, 'data.jitter=0.5 changes colours'),
    (config_of(crop_scale=2.0), {}, r'data.crop_scale must be in \(0, 1\]'),
    (
      ExperimentConfig(objective=dim.Config(), data=PointConfig()),
      {},
      'is points; this needs images',
    ),
  ],
)
def test_what_cannot_be_shown(config, counts, words):
  with pytest.raises(ValueError, match=words):
    preview.preview(config, show_progress=False, **counts)
