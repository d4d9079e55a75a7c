"""Pictures of what units of codes keep, and of images by their rate."""

import csv

import numpy as np

from dim_jax.evaluation import units as units_lib
from dim_jax.report import code_figures, figures


def _rows(picture, folder):
  files = figures.save(picture, folder)
  with open(files['csv'], encoding='utf-8') as file:
    return list(csv.reader(file))


def _code(scale):
  """Three units, of which the second is the widest and the last is noise."""
  mean = np.array([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0]]) * scale
  return units_lib.measure(mean, np.ones((2, 3)), np.zeros((2, 3)))


def test_units_are_sorted_by_their_rate(tmp_path):
  picture = code_figures.units({'small': _code(0.09), 'large': _code(1.0)})
  rows = _rows(picture, tmp_path)
  assert rows[0][:4] == ['code', 'rank', 'unit', 'rate']
  assert [row[:3] for row in rows[4:]] == [
    ['large', '1', '1'], ['large', '2', '0'], ['large', '3', '2'],
  ]  # fmt: skip
  # Unit 1: mean^2 / 2 = 2 nats of rate, ln(1 + 4) / 2 of capacity.
  np.testing.assert_allclose(
    np.array(rows[4][3:], float), [2, np.log(5) / 2, 4, 4], rtol=1e-6
  )
  # 0.09^2 is not above 0.01, and 0.18^2 is.
  assert 'small 1 of 3' in picture.alt and 'large 2 of 3' in picture.alt
  nats, variances = picture.figure().axes
  lines = [line.get_ydata().tolist() for line in nats.lines]
  np.testing.assert_allclose(lines[2], [2, 0.5, 0])
  np.testing.assert_allclose(lines[3], [np.log(5) / 2, np.log(2) / 2, 0])
  np.testing.assert_allclose(variances.lines[1].get_ydata(), [4, 1, 0])
  assert variances.lines[2].get_ydata()[0] == units_lib.ACTIVE


def test_images_stand_with_their_nats(tmp_path):
  images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * np.ones(
    (1, 8, 8, 1), np.uint8
  )
  nats = np.array([0.5, 1.0, 7.0, 9.0])
  picture = code_figures.rated({'a': (images, nats), 'b': (images, 2 * nats)})
  rows = _rows(picture, tmp_path)
  assert rows[5:] == [
    ['b', str(k), str(float(2 * x))] for k, x in enumerate(nats)
  ]
  assert 'a 0.500 to 9.00; b 1.00 to 18.0' in picture.alt
  (axes,) = picture.figure().axes
  assert len(axes.images) == 8
  texts = [text.get_text() for text in axes.texts]
  assert texts[:5] == ['a', '0.500', '1.00', '7.00', '9.00']
  # Those of high rate stand apart.
  left = [image.get_extent()[0] for image in axes.images[:4]]
  assert left[2] - left[1] > 1.2 * (left[1] - left[0])
