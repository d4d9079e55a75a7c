"""Particles and fields of velocities: what is drawn."""

import math

import numpy as np
import pytest

from experiments.studies import dynamics_figures

_X = np.linspace(-2.0, 2.0, 17)
_Y = np.linspace(-1.0, 3.0, 13)


def _normal(x, y):
  """Log density of N((0, 1), I) on the grid, [Y, X]."""
  return -0.5 * (x[None] ** 2 + (y[:, None] - 1) ** 2) - math.log(2 * math.pi)


def _quivers(axes):
  return [c for c in axes.collections if hasattr(c, 'U')]


def _title(axes):
  return axes.get_title(loc='left')


def test_shapes_are_checked():
  with pytest.raises(ValueError, match=r'\[2, n, 2\], got \[3, 4, 2\]'):
    dynamics_figures.paths([0, 1], np.zeros((3, 4, 2)), _X, _Y, _normal(_X, _Y))
  with pytest.raises(ValueError, match=r"'with'.*2 dimensions, got 1"):
    dynamics_figures.collapse([1, 2], {'with': [1.0]})


def test_paths_go_from_start_to_end():
  positions = np.array(
    [
      [[0.0, 0.0], [1.0, 1.0]],
      [[0.5, 0.0], [1.0, 2.0]],
      [[1.0, 0.0], [9.0, 1.0]],
    ]
  )
  picture = dynamics_figures.paths(
    [0, 5, 10], positions, _X, _Y, _normal(_X, _Y)
  )
  assert picture.rows[0] == (0, 0, 0.0, 0.0)
  assert picture.rows[-1] == (10, 1, 9.0, 1.0)
  assert '2 particles from iteration 0 (hollow) to 10' in picture.caption
  assert 'Outside the frame at the end: 1.' in picture.caption
  # Of (1, 0) and (9, 1): mean (5, 0.5), variance (16, 0.25).
  assert 'mean (5.00, 0.500), variance (16.0, 0.250)' in picture.alt
  axes = picture.figure().axes[0]
  assert [line.get_xydata().tolist() for line in axes.lines] == [
    [[0, 0], [0.5, 0], [1, 0]],
    [[1, 1], [1, 2], [9, 1]],
  ]


def test_snapshots_have_a_panel_for_each_iteration():
  x = np.linspace(-4.0, 4.0, 41)
  positions = np.zeros((3, 2, 1)) + np.array([-3.0, 0.0, 2.0])[:, None, None]
  picture = dynamics_figures.snapshots([0, 50, 500], positions, x, -0.5 * x**2)
  figure = picture.figure()
  titles = [_title(axes) for axes in figure.axes if axes.get_visible()]
  assert titles == ['iteration 0', 'iteration 50', 'iteration 500']
  ticks = [axes.lines[-1].get_xdata().tolist() for axes in figure.axes[:3]]
  assert ticks == [[-3, -3], [0, 0], [2, 2]]
  # What has no panel below it has a label there; the fourth is not shown.
  assert [axes.get_xlabel() for axes in figure.axes[:3]] == ['', 'x', 'x']


def test_collapse_draws_a_line_for_each_kernel():
  lines = {'with': [0.9, 0.1], 'without': [1.0, math.nan]}
  picture = dynamics_figures.collapse([1, 50], lines)
  assert picture.rows[:2] == [('with', 1, 0.9), ('with', 50, 0.1)]
  figure = picture.figure()
  axes = figure.axes[0]
  target, *drawn = axes.lines
  assert set(target.get_ydata()) == {1}
  assert drawn[0].get_ydata().tolist() == [0.9, 0.1]
  ticks = [label.get_text() for label in axes.get_xticklabels()]
  assert ticks == ['1', '2', '5', '10', '20', '50']
  (legend,) = figure.legends
  texts = [text.get_text() for text in legend.get_texts()]
  assert texts == ['target 1', 'with 0.100', 'without 1.00']


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
  assert dynamics_figures.eigenvalues(np.array(values)) == text


def test_vector_fields_draw_arrows_paths_and_eigenvalues():
  grid = np.array([-1.0, 0.0, 1.0])
  theta, psi = np.meshgrid(grid, grid)
  turn = np.stack([psi, -theta], -1)
  path = np.array([[1.0, 0.0], [0.0, -1.0]])
  clipped = np.where(np.abs(psi)[..., None] > 0.5, np.nan, turn)
  picture = dynamics_figures.vector_fields(
    [
      dynamics_figures.Field('wgan', turn, path, np.array([1j, -1j])),
      dynamics_figures.Field('wgan_gp', clipped, path, None, 'no derivative'),
    ],
    grid,
    grid,
  )
  # At theta = 1, psi = 0 the critic falls.
  assert ('wgan', 'direction', 1.0, 0.0, 0.0, -1.0) in picture.rows
  figure = picture.figure()
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


def test_of_particles_knows_each_target():
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
  pictures = dynamics_figures.of_particles('banana', arrays)
  assert [p.name for p in pictures] == ['banana_with', 'banana_without']
  assert pictures[1].rows[0] == (0, 0, 1.0, 1.0)
  shade = pictures[0].figure().axes[0].collections[0]
  # The top level is a band about x = 0 that spans y.
  band = np.concatenate([path.vertices for path in shade.get_paths()[-2:]])
  assert np.ptp(band[:, 1]) == 4
  assert np.ptp(band[:, 0]) < 4
  flat = arrays | {
    'log_density': -(side**2),
    'particles_with': np.zeros((2, 3, 1)),
    'particles_without': np.zeros((2, 3, 1)),
  }
  names = [p.name for p in dynamics_figures.of_particles('mixture_1d', flat)]
  assert names == ['mixture_1d_with', 'mixture_1d_without']
  sizes = {
    'dimensions': np.array([1, 50]),
    'variance with': np.array([0.9, 0.1]),
    'variance without': np.array([1.0, 0.9]),
  }
  (picture,) = dynamics_figures.of_particles('variance', sizes)
  assert picture.rows[1] == ('with self term', 50, 0.1)
  assert (
    dynamics_figures.of_particles('logistic', {'iterations': np.array([0])})
    == []
  )
