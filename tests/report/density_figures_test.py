"""Densities: what is drawn."""

import math

import numpy as np
import pytest

from dim_jax.report import density_figures

# A grid of the plane that is not square, so that exchanged axes are seen.
_X = np.linspace(-2.0, 2.0, 17)
_Y = np.linspace(-1.0, 3.0, 13)


def _normal(x, y):
  """Log density of N((0, 1), I) on the grid, [Y, X]."""
  return -0.5 * (x[None] ** 2 + (y[:, None] - 1) ** 2) - math.log(2 * math.pi)


def _panel(label='truth'):
  at = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
  # The score of N((0, 1), I) is the way back to its mean.
  scores = np.array([[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
  points = np.array([[0.0, 1.0], [1.0, 2.0], [-5.0, 0.0]])
  return density_figures.Panel(label, _normal(_X, _Y), points, at, scores)


def _quivers(axes):
  return [c for c in axes.collections if hasattr(c, 'U')]


def _title(axes):
  return axes.get_title(loc='left')


def test_contours_draw_points_and_scores():
  picture = density_figures.contours([_panel(), _panel('CD-1')], _X, _Y)
  kinds = [row[:2] for row in picture.rows]
  assert kinds.count(('truth', 'point')) == kinds.count(('truth', 'score')) == 3
  assert ('CD-1', 'score', 1.0, 1.0, -1.0, 0.0) in picture.rows
  # The peak is -ln 2 pi = -1.84, so contours go from -1 - 8 on.
  assert 'log density from −9 nats up' in picture.caption
  # Of the two scores that are not zero the median length is 1.
  assert 'm = 1.00 nats per unit' in picture.caption
  assert 'outside the frame: 1 of truth, 1 of CD-1' in picture.caption
  figure = picture.figure()
  first, second, bar = figure.axes
  assert [_title(first), _title(second)] == ['truth', 'CD-1']
  assert first.get_xlim() == (-2, 2)
  assert first.get_ylim() == (-1, 3)
  assert (first.get_xlabel(), first.get_ylabel()) == ('x₁', 'x₂')
  assert second.get_ylabel() == ''
  assert bar.get_xlabel() == 'log density, nats'
  (arrows,) = _quivers(first)
  assert arrows.N == 3
  # 0.95 of a tenth of eleven arrows on a side of 4, halved: |s| = m = 1.
  length = 0.95 * 4 / 11 / 2
  np.testing.assert_allclose(arrows.U, [-length, 0, 0], atol=1e-12)
  np.testing.assert_allclose(arrows.V, [0, length, 0], atol=1e-12)


def test_contours_take_what_is_not_finite():
  values = np.full((13, 17), np.nan)
  broken = density_figures.Panel('CD-1', values, np.array([[np.nan, 0.0]]))
  picture = density_figures.contours([_panel(), broken], _X, _Y)
  assert 'Not finite in places: CD-1.' in picture.caption
  picture.figure()
  density_figures.contours([broken], _X, _Y).figure()


def test_curves_have_the_truth_the_model_and_a_histogram():
  x = np.linspace(-4.0, 4.0, 81)
  truth = -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
  # Half of four points lie in one bin of 0.2, one is outside.
  points = np.array([[0.1], [0.15], [2.1], [9.0]])
  picture = density_figures.curves(
    [density_figures.Panel('CD-1', truth - 1, points)], x, truth
  )
  bins = [row for row in picture.rows if row[1] == 'bin']
  heights = {round(row[2], 6): row[4] for row in bins if row[4]}
  assert heights == {0.0: pytest.approx(2 / 4 / 0.2), 2.0: pytest.approx(1.25)}
  middle = {row[1]: row[4] for row in picture.rows if row[2] == row[3] == 0}
  # The standard normal's peak is 1 / sqrt(2 pi) = 0.3989; e times less of it.
  assert middle['truth'] == pytest.approx(0.39894, abs=1e-5)
  assert middle['model'] == pytest.approx(0.39894 / math.e, abs=1e-5)
  assert 'outside the frame: 1 of CD-1' in picture.caption
  figure = picture.figure()
  (legend,) = figure.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert sorted(names) == ['model', 'samples', 'truth']
  # A bin of 2.5 must not press the curves to the ground.
  assert figure.axes[0].get_ylim() == (
    0,
    pytest.approx(2.5 * 0.39894, abs=1e-4),
  )


def test_image_grid_scales_pixels():
  black = np.zeros((3, 4, 4, 1), np.uint8)
  samples = np.full((3, 4, 4, 3), 3.0)
  picture = density_figures.image_grid(
    {'data': black, 'without': samples}, columns=2
  )
  assert picture.rows[3] == ('without', 0, 3.0, 3.0, 3.0)
  figure = picture.figure()
  assert [_title(axes) for axes in figure.axes] == ['data', 'without']
  drawn = [[float(i.get_array().max()) for i in a.images] for a in figure.axes]
  assert drawn == [[0, 0, 0], [1, 1, 1]]
  assert figure.axes[0].images[2].get_extent()[:2] == [0, 1]
