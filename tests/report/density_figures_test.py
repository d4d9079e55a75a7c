"""Energies, particles and games: what is drawn."""

import math

import numpy as np
import pytest

from dim_jax.report import density_figures, figures

# A grid of the plane that is not square, so that exchanged axes are seen.
_X = np.linspace(-2.0, 2.0, 17)
_Y = np.linspace(-1.0, 3.0, 13)


def _normal(x, y):
  """Log density of N((0, 1), I) on the grid, [Y, X]."""
  return -0.5 * (x[None] ** 2 + (y[:, None] - 1) ** 2) - math.log(2 * math.pi)


def _panel(label='truth', *, spread=1.0):
  at = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
  # The score of N((0, 1), I) is the way back to its mean.
  scores = np.array([[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
  points = spread * np.array([[0.0, 1.0], [1.0, 2.0], [-5.0, 0.0]])
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
  figure = picture.draw(figures.LIGHT)
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
  picture.draw(figures.DARK)
  density_figures.contours([broken], _X, _Y).draw(figures.LIGHT)


def test_shapes_are_checked():
  with pytest.raises(ValueError, match=r"'truth'.*\[17, 13\], got \[13, 17\]"):
    density_figures.contours([_panel()], _Y, _X)
  with pytest.raises(ValueError, match='at least one density'):
    density_figures.curves([], _X, _X)
  with pytest.raises(ValueError, match=r'\[2, n, 2\], got \[3, 4, 2\]'):
    density_figures.paths([0, 1], np.zeros((3, 4, 2)), _X, _Y, _normal(_X, _Y))
  with pytest.raises(ValueError, match=r"'with'.*2 dimensions, got 1"):
    density_figures.collapse([1, 2], {'with': [1.0]})
  with pytest.raises(
    ValueError, match=r'\[n, H, W, C\], got shape \[2, 4, 4\]'
  ):
    density_figures.image_grid({'data': np.zeros((2, 4, 4))})


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
  figure = picture.draw(figures.LIGHT)
  (legend,) = figure.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert sorted(names) == ['model', 'samples', 'truth']
  # A bin of 2.5 must not press the curves to the ground.
  assert figure.axes[0].get_ylim() == (
    0,
    pytest.approx(2.5 * 0.39894, abs=1e-4),
  )


def test_paths_go_from_start_to_end():
  positions = np.array(
    [
      [[0.0, 0.0], [1.0, 1.0]],
      [[0.5, 0.0], [1.0, 2.0]],
      [[1.0, 0.0], [9.0, 1.0]],
    ]
  )
  picture = density_figures.paths(
    [0, 5, 10], positions, _X, _Y, _normal(_X, _Y)
  )
  assert picture.rows[0] == (0, 0, 0.0, 0.0)
  assert picture.rows[-1] == (10, 1, 9.0, 1.0)
  assert '2 particles from iteration 0 (hollow) to 10' in picture.caption
  assert 'Outside the frame at the end: 1.' in picture.caption
  # Of (1, 0) and (9, 1): mean (5, 0.5), variance (16, 0.25).
  assert 'mean (5.00, 0.500), variance (16.0, 0.250)' in picture.alt
  axes = picture.draw(figures.LIGHT).axes[0]
  assert [line.get_xydata().tolist() for line in axes.lines] == [
    [[0, 0], [0.5, 0], [1, 0]],
    [[1, 1], [1, 2], [9, 1]],
  ]


def test_snapshots_have_a_panel_for_each_iteration():
  x = np.linspace(-4.0, 4.0, 41)
  positions = np.zeros((3, 2, 1)) + np.array([-3.0, 0.0, 2.0])[:, None, None]
  picture = density_figures.snapshots([0, 50, 500], positions, x, -0.5 * x**2)
  figure = picture.draw(figures.DARK)
  titles = [_title(axes) for axes in figure.axes]
  assert titles == ['iteration 0', 'iteration 50', 'iteration 500']
  ticks = [axes.lines[-1].get_xdata().tolist() for axes in figure.axes]
  assert ticks == [[-3, -3], [0, 0], [2, 2]]
  # The lower row alone has a label below it.
  assert [axes.get_xlabel() for axes in figure.axes] == ['', '', 'x']


def test_collapse_draws_a_line_for_each_kernel():
  lines = {'with': [0.9, 0.1], 'without': [1.0, math.nan]}
  picture = density_figures.collapse([1, 50], lines)
  assert picture.rows[:2] == [('with', 1, 0.9), ('with', 50, 0.1)]
  axes = picture.draw(figures.LIGHT).axes[0]
  target, *drawn = axes.lines
  assert set(target.get_ydata()) == {1}
  assert drawn[0].get_ydata().tolist() == [0.9, 0.1]
  assert [label.get_text() for label in axes.get_xticklabels()] == ['1', '50']
  assert [t.get_text() for t in axes.texts] == ['with\n0.100', 'without\n1.00']


@pytest.mark.parametrize(
  ('values', 'text'),
  [
    ([0.5j, -0.5j], '±0.5i'),
    ([1e-6 + 1j, 1e-6 - 1j], '±i'),
    ([-0.3 + 0.4j, -0.3 - 0.4j], '−0.3 ± 0.4i'),
    ([-0.2, -0.8], '−0.8, −0.2'),
    ([-1.0, -1.0], '−1'),
    ([math.nan, 1.0], 'not finite'),
  ],
)
def test_eigenvalues(values, text):
  assert density_figures.eigenvalues(np.array(values)) == text


def test_vector_fields_draw_arrows_paths_and_eigenvalues():
  grid = np.array([-1.0, 0.0, 1.0])
  theta, psi = np.meshgrid(grid, grid)
  turn = np.stack([psi, -theta], -1)
  path = np.array([[1.0, 0.0], [0.0, -1.0]])
  clipped = np.where(np.abs(psi)[..., None] > 0.5, np.nan, turn)
  picture = density_figures.vector_fields(
    [
      density_figures.Field('wgan', turn, path, np.array([1j, -1j])),
      density_figures.Field('wgan_gp', clipped, path, None, 'no derivative'),
    ],
    grid,
    grid,
  )
  # At theta = 1, psi = 0 the critic falls.
  assert ('wgan', 'direction', 1.0, 0.0, 0.0, -1.0) in picture.rows
  figure = picture.draw(figures.LIGHT)
  first, second = figure.axes
  assert _title(first) == 'wgan\nλ = ±i'
  assert _title(second) == 'wgan_gp\nno derivative'
  (arrows,) = _quivers(first)
  assert arrows.N == 9
  # Spacing 1, arrows within 0.9 of it: 1.4 |v| / (|v| + 1) of that.
  right = int(np.flatnonzero((arrows.X == 1) & (arrows.Y == 0))[0])
  assert arrows.U[right] == 0
  assert arrows.V[right] == pytest.approx(-0.9 * 1.4 / 2)
  assert _quivers(second)[0].N == 3
  assert first.lines[0].get_xydata().tolist() == path.tolist()


def test_image_grid_scales_pixels():
  black = np.zeros((3, 4, 4, 1), np.uint8)
  samples = np.full((3, 4, 4, 3), 3.0)
  picture = density_figures.image_grid(
    {'data': black, 'without': samples}, columns=2
  )
  assert picture.rows[3] == ('without', 0, 3.0, 3.0, 3.0)
  figure = picture.draw(figures.LIGHT)
  assert [_title(axes) for axes in figure.axes] == ['data', 'without']
  drawn = [[float(i.get_array().max()) for i in a.images] for a in figure.axes]
  assert drawn == [[0, 0, 0], [1, 1, 1]]
  assert figure.axes[0].images[2].get_extent()[:2] == [0, 1]


def test_of_particles_knows_each_toy():
  side = np.linspace(-2.0, 2.0, 5)
  # Rows are x here, as np.meshgrid's 'ij' has them: a slope along x alone.
  slope = np.repeat(-(side[:, None] ** 2), 5, 1)
  arrays = {
    'iterations': np.array([0, 1]),
    'grid': side,
    'log_density': slope,
    'particles_with': np.zeros((2, 3, 2)),
    'particles_without': np.ones((2, 3, 2)),
  }
  pictures = density_figures.of_particles('banana', arrays)
  assert [p.name for p in pictures] == ['banana_with', 'banana_without']
  assert pictures[1].rows[0] == (0, 0, 1.0, 1.0)
  shade = pictures[0].draw(figures.LIGHT).axes[0].collections[0]
  # The top level is a band about x = 0 that spans y.
  band = np.concatenate([path.vertices for path in shade.get_paths()[-2:]])
  assert np.ptp(band[:, 1]) == 4
  assert np.ptp(band[:, 0]) < 4
  flat = arrays | {
    'log_density': -(side**2),
    'particles_with': np.zeros((2, 3, 1)),
    'particles_without': np.zeros((2, 3, 1)),
  }
  names = [p.name for p in density_figures.of_particles('mixture_1d', flat)]
  assert names == ['mixture_1d_with', 'mixture_1d_without']
  sizes = {
    'dimensions': np.array([1, 50]),
    'variance with': np.array([0.9, 0.1]),
    'variance without': np.array([1.0, 0.9]),
  }
  (picture,) = density_figures.of_particles('variance', sizes)
  assert picture.rows[1] == ('with self term', 50, 0.1)
  assert (
    density_figures.of_particles('logistic', {'iterations': np.array([0])})
    == []
  )
