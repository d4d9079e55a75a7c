"""Energies, particles and games: what is drawn, and what is said of runs."""

import json
import math
import pathlib

import numpy as np
import pytest

from dim_jax.report import density_figures, figures, page, runs

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


# Runs.


def _make_run(folder, negatives='cd', *, density=True, images=False, **more):
  folder.mkdir(parents=True)
  config = {
    'objective': {
      'type': 'dim_jax.objectives.stein:Config',
      'energy': 'mlp',
      'units': [128, 128],
      'negatives': negatives,
      'transition': 'langevin',
      'steps': 10,
      'step_size': 0.01,
      'noise': None,
      'stein_step': 0.1,
      'bandwidth': 'svgd',
      'self_term': False,
      'kernel': 'data',
      'repulsion': 'all',
      'input_range': [0.0, 1.0],
    },
    'data': {'name': 'mixture_2d'},
    'seed': 0,
    'batch_size': 4,
    'steps': 20,
    'input_shape': [4, 4, 1] if images else [2],
  }
  (folder / 'config.json').write_text(json.dumps(config))
  lines = [
    {
      'step': 10 * (t + 1),
      'images': 40 * (t + 1),
      'energy/data': 2.0,
      'energy/negatives': 1.5,
      'energy/gap': 0.5,
      'energy/acceptance': 0.75,
      'energy/temperature': 1.0,
      'generator/surrogate': 7.0,
    }
    | more
    for t in range(2)
  ]
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  if density:
    (folder / 'evaluation').mkdir()
    _measure(folder / 'evaluation', images)
  return runs.read(folder)


def _measure(folder, images):
  rows = [
    {
      'density': 'model',
      'by': 'grid',
      'log_z': 3.25,
      'box_change': 1e-4,
      'log_likelihood': -3.0,
      'log_likelihood_error': 0.125,
      'divergence': 0.5,
      'divergence_error': 0.0625,
    },
    {
      'density': 'N(train mean, I)',
      'by': 'exact',
      'log_likelihood': -2.75,
      'log_likelihood_error': 0.125,
      'divergence': 0.25,
      'divergence_error': 0.0625,
    },
    {
      'density': 'truth',
      'by': 'exact',
      'log_likelihood': -2.5,
      'log_likelihood_error': 0.125,
      'divergence': 0.0,
      'divergence_error': 0.0,
    },
  ]
  report = {
    'dataset': 'mixture_2d',
    'step': 20,
    'rows': rows,
    'samples': {
      'count': 8,
      'mmd': 0.25,
      'mmd_of_data': 0.01,
      'variance_ratio': 0.5,
    },
  }
  (folder / 'density.json').write_text(json.dumps(report))
  random = np.random.default_rng(0)
  if images:
    arrays = {
      'data': np.zeros((8, 4, 4, 1)),
      'samples': np.full((8, 4, 4, 1), 0.75),
    }
  else:
    arrow = np.linspace(-2.0, 2.0, 21)
    points = np.stack(np.meshgrid(arrow, arrow, indexing='ij'), -1)
    axis_0, axis_1 = np.linspace(-2.0, 2.0, 41), np.linspace(-1.0, 3.0, 41)
    # Depends on the first coordinate alone; its slope is -x.
    values = np.repeat(-0.5 * axis_0[:, None] ** 2, 41, 1)
    arrays = {
      'axis_0': axis_0,
      'axis_1': axis_1,
      'log_density': values,
      'true_log_density': values,
      'score_points': points.reshape(-1, 2),
      'score': -points.reshape(-1, 2),
      'data': random.normal(size=(30, 2)),
      'samples': random.normal(size=(20, 2)),
    }
  np.savez(folder / 'density.npz', **arrays)


def _text(run):
  return pathlib.Path(page.write([run])).read_text(encoding='utf-8')


def test_page_of_an_energy(tmp_path):
  _make_run(tmp_path / 'run')
  text = _text(tmp_path / 'run')
  for part in (
    'Log density of data and negatives',
    'Gap between data and negatives',
    'Acceptance of the chains',
    'CD-10 (steps 10, transition langevin, step size 0.01)',
    'mlp, units 128, 128',
    'log likelihood, nats',
    'python -m experiments.density',
    'f of data less f of negatives ends at 0.500 nats.',
    'The model does worse than N(train mean, I).',
    'variance 0.500 times that of the test set',
  ):
    assert part in text, part
  # What means nothing, or is constant, has no curve; no other probe is asked.
  assert 'surrogate' not in text.split('<details>')[0]
  assert 'experiments.evaluate' not in text
  assert (tmp_path / 'run/report/density-dark.png').exists()


def test_page_asks_for_the_measurement(tmp_path):
  _make_run(tmp_path / 'run', density=False)
  text = _text(tmp_path / 'run')
  assert 'is not measured yet' in text
  assert 'No features are stored' not in text


def test_page_of_an_energy_that_is_not_normalised(tmp_path):
  _make_run(tmp_path / 'run', images=True)
  path = tmp_path / 'run/evaluation/density.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'rows': []}))
  text = _text(tmp_path / 'run')
  assert 'No log likelihood: the energy is not normalised' in text
  assert 'log likelihood, nats' not in text
  assert 'test images' in text


def test_measured_runs_stand_side_by_side(tmp_path):
  a = _make_run(tmp_path / 'a')
  b = _make_run(tmp_path / 'b', 'generator')
  (picture,) = density_figures.measured([a, b])
  panels = list(dict.fromkeys(row[0] for row in picture.rows))
  assert panels == ['truth', 'a, KL 0.500', 'b, KL 0.500']
  # The truth's arrows are slopes of its grid: -x along x, 0 along y; the
  # slope of a parabola is exact within the grid.
  for row in picture.rows:
    if row[:2] == ('truth', 'score'):
      assert row[4:] == pytest.approx((-row[2], 0), abs=1e-9)
    elif row[1] == 'score':
      assert row[4:] == (-row[2], -row[3])
  count = [row[1] for row in picture.rows].count('score')
  assert count == 3 * 10 * 10
  page.write([a.path, b.path], tmp_path / 'out')
  assert (tmp_path / 'out/density.png').exists()


def test_likelihoods_name_what_is_shared_once(tmp_path):
  a = _make_run(tmp_path / 'a')
  header, table = density_figures.likelihoods([a])
  assert header == [
    'density',
    'normalised by',
    'log Z, nats',
    'log likelihood, nats',
    'KL(data ‖ it), nats',
  ]
  assert table[0][2:4] == ['3.250', '−3.000\u00a0±\u00a00.125']
  b = _make_run(tmp_path / 'b', 'stein')
  header, table = density_figures.likelihoods([a, b])
  assert [row[:3] for row in table] == [
    ['a', 'model', 'grid'],
    ['b', 'model', 'grid'],
    ['all', 'N(train mean, I)', 'exact'],
    ['all', 'truth', 'exact'],
  ]
  assert table[2][3] == '–'


def test_samples_of_images_are_scaled_from_the_range_of_the_energy(tmp_path):
  run = _make_run(tmp_path / 'run', 'generator', images=True)
  (picture,) = density_figures.measured([run])
  # From [0, 1] to [-1, 1]: 0 to -1 and 0.75 to 0.5.
  assert picture.rows[0] == ('test images', 0, -1.0, -1.0, -1.0)
  assert picture.rows[-1] == ('SteinGAN, KL 0.500', 7, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
  ('negatives', 'name'),
  [
    ('cd', 'CD-10'),
    ('persistent', 'persistent CD-10'),
    ('stein', 'SteinCD'),
    ('mixture', 'SteinCD and SteinGAN'),
    ('another', 'another'),
  ],
)
def test_method(tmp_path, negatives, name):
  run = _make_run(tmp_path / 'run', negatives, density=False)
  assert density_figures.method(run) == name
  assert density_figures.summary(run)[0][1].startswith(name)


def test_findings_name_another_temperature(tmp_path):
  hot = _make_run(
    tmp_path / 'run', density=False, **{'energy/temperature': 5e-5}
  )
  assert (
    'T = 5.0e−05 and not the model' in density_figures.training_findings(hot)[0]
  )
  assert density_figures.findings(hot) == []
