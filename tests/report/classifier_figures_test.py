"""Pictures of bottlenecks: the numbers behind them, and what they draw."""

import csv
import math

import numpy as np
import pytest
from matplotlib import image as image_lib
from scipy import stats

from dim_jax.report import classifier_figures, figures


def _draw(picture, folder):
  """Saves a picture; its CSV rows as text."""
  paths = figures.save(picture, folder)
  pixels = image_lib.imread(paths['png'])
  assert pixels[-1, -1, 3] == 0
  assert pixels.shape[1] == figures.WIDTH * figures.DPI
  assert len(picture.alt) > 20
  with open(paths['csv'], newline='', encoding='utf-8') as file:
    return list(csv.reader(file))


def _names(figure):
  """What the legend says."""
  (legend,) = figure.legends
  return [text.get_text() for text in legend.get_texts()]


def _texts(figure):
  return [text.get_text() for axes in figure.axes for text in axes.texts]


def _sweep(beta, seed, split, error_1, error_12, rate, izy):
  return {
    'beta': beta,
    'seed': seed,
    'split': split,
    'weights': 'average',
    'error_1': error_1,
    'error_12': error_12,
    'rate_bits': rate,
    'izy_bits': izy,
    'cross_entropy_bits': 3.3 - izy,
  }


# Two seeds but for beta = 0, which has one.
_ROWS = [
  _sweep(1e-3, 0, 'train', 0.5, 0.0, 22.0, 3.25),
  _sweep(1e-3, 1, 'train', 0.5, 0.0, 24.0, 3.25),
  _sweep(1e-3, 0, 'test', 1.5, 1.0, 21.0, 3.0),
  _sweep(1e-3, 1, 'test', 2.5, 1.5, 23.0, 3.125),
  _sweep(1.0, 0, 'train', 90.0, 89.0, 0.0, 0.0),
  _sweep(1.0, 1, 'train', 90.0, 89.0, 0.0, 0.0),
  _sweep(1.0, 0, 'test', 90.0, 89.0, 0.0, -0.125),
  _sweep(1.0, 1, 'test', 90.0, 91.0, 0.0, -0.125),
  _sweep(0.0, 0, 'train', 0.25, 0.25, 900.0, 3.3),
  _sweep(0.0, 0, 'test', 2.0, 2.0, 800.0, 2.9),
]


def test_over_seeds_by_hand():
  means = classifier_figures.over_seeds(_ROWS, ['error_12'])
  assert [row[1:3] for row in means] == [
    ('train', 0.0), ('train', 1e-3), ('train', 1.0),
    ('test', 0.0), ('test', 1e-3), ('test', 1.0),
  ]  # fmt: skip
  # Of 1 and 1.5: mean 1.25, standard deviation sqrt(2 * 0.25^2 / (2 - 1)).
  assert means[4][3:] == (1.25, pytest.approx(math.sqrt(0.125)), 2)
  assert means[3][3] == 2.0 and math.isnan(means[3][4]) and means[3][5] == 1


def test_sample_errors_are_known_by_their_number():
  row = {'error_mean': 0, 'error_12': 0, 'error_1': 0, 'nll_12': 0}
  assert classifier_figures.sample_errors(row) == {1: 'error_1', 12: 'error_12'}
  assert list(classifier_figures.sample_errors(row)) == [1, 12]


def test_beta_sweep(tmp_path):
  picture = classifier_figures.beta_sweep(
    _ROWS, classes=10, log2_examples=15.87
  )
  rows = _draw(picture, tmp_path)
  assert rows[0] == ['quantity', 'split', 'beta', 'mean', 'std', 'n']
  assert ['error_1', 'test', '0.001', '2.0', str(math.sqrt(0.5)), '2'] in rows
  assert ['rate_bits', 'train', '0.001', '23.0', str(math.sqrt(2)), '2'] in rows
  assert 'Mean of 1 to 2 seeds' in picture.caption
  assert '2.00 % at beta 0 with 1 sample' in picture.alt
  assert '1.25 % at beta 10⁻³ with 12 samples' in picture.alt

  figure = picture.figure()
  errors, rates = figure.axes
  assert rates.get_title('left') == 'rate (upper bound on I(Z;X))'
  levels = {line.get_label(): line.get_ydata()[0] for line in rates.lines}
  assert levels['log₂ C = 3.3'] == math.log2(10)
  assert levels['log₂ N = 15.9'] == 15.87
  assert _names(figure)[:2] == ['train, 1 sample', 'test, 1 sample']
  # Beta 0, an error of 0 % and a rate of 0 stand at 0, under their own names.
  for axis in (rates.xaxis, rates.yaxis, errors.yaxis):
    assert axis.get_ticklabels()[0].get_text() == '0'
    assert axis.get_ticklocs()[0] == 0 and axis.get_view_interval()[0] < 0
  curve = next(
    line
    for line in errors.lines
    if len(line.get_xdata()) == 3 and line.get_ydata()[1] == 1.25
  )
  np.testing.assert_allclose(
    curve.get_xydata(), [[0, 2], [1e-3, 1.25], [1, 90]]
  )
  # What is shown is in order of the values: 0 below 0.5 below 90.
  heights = errors.transData.transform([(1, 0), (1, 0.5), (1, 90)])[:, 1]
  assert heights[0] < heights[1] < heights[2]


def test_information_plane(tmp_path):
  picture = classifier_figures.information_plane(_ROWS, 3.3, 15.87)
  rows = _draw(picture, tmp_path)
  assert rows[5][:4] == ['test', '0.001', '22.0', str(math.sqrt(2))]
  assert rows[5][4] == '3.0625' and rows[5][6] == '2'
  assert '3.06 of H(Y) = 3.30 bits at beta 10⁻³' in picture.alt
  # Those near the ceiling have a panel of their own; beta is a bar of colours.
  figure = picture.figure()
  near, all_rows, bar = figure.axes
  assert near.get_ylim()[0] > 2.5 and all_rows.get_ylim()[0] < -0.125
  ticks = [text.get_text() for text in bar.get_yticklabels()]
  assert ticks == ['0', '10⁻³', '0.01', '0.1', '1']
  assert {'H(Y) = 3.30', 'log₂ N = 15.9', 'train', 'test'} < {*_names(figure)}
  # Points are joined in order of beta.
  test = next(line for line in all_rows.lines if line.get_ydata()[-1] == -0.125)
  np.testing.assert_allclose(test.get_xydata()[:, 0], [800, 22, 0])


def test_radius_is_that_of_the_chi_distribution():
  for level in (0.05, 0.5, 0.95, 0.999):
    np.testing.assert_allclose(
      classifier_figures.radius(level), math.sqrt(stats.chi2.ppf(level, 2))
    )


@pytest.mark.parametrize('level', [0.5, 0.95])
def test_an_ellipse_holds_its_share_of_samples(level):
  from matplotlib import path

  mean = np.array([1.0, -2.0])
  chol = np.array([[0.5, 0.0], [0.75, 0.25]])
  curve = classifier_figures.outlines(
    mean[None], chol[None], level, points=720
  )[0]
  np.testing.assert_allclose(curve[0], curve[-1])
  noise = np.random.default_rng(0).normal(size=(20_000, 2))
  inside = path.Path(curve).contains_points(mean + noise @ chol.T)
  # Four standard errors of a fraction.
  error = 4 * math.sqrt(level * (1 - level) / len(noise))
  assert abs(inside.mean() - level) < error


def test_ellipses(tmp_path):
  means = np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 0.0]])
  chols = np.array([[[0.5, 0.0], [0.25, 0.25]]] * 3)
  # Highest in the bottom right corner: rows ascend.
  entropy = np.zeros((4, 4))
  entropy[0, 3] = math.log(2)
  picture = classifier_figures.ellipses(
    means, chols, np.array([0, 1, 1]), ['ant', 'bee'], entropy, (-2, 2, -2, 2)
  )
  rows = _draw(picture, tmp_path)
  assert rows[2] == [
    '1', '1', 'bee', '1.0', '1.0', '0.5', '0.0', '0.25', '0.25',
  ]  # fmt: skip
  assert picture.caption.startswith('Ellipses: 95 % of the posterior')
  assert 'from 0 to log₂ 2 = 1.00 bits' in picture.caption
  assert 'Means outside the frame: 1.' in picture.caption
  # pi * r^2 * det L, with r^2 = -2 ln 0.05.
  area = math.pi * -2 * math.log(0.05) * 0.125
  assert f'median area {figures.number(area)}' in picture.alt
  axes = picture.figure().axes[0]
  assert axes.images[0].origin == 'lower'
  np.testing.assert_allclose(axes.images[0].get_array()[0, 3], 1)
  curves = axes.collections[0].get_segments()
  np.testing.assert_allclose(curves[1] - curves[0], np.ones((64, 2)))
  assert _names(picture.figure()) == ['ant', 'bee']


def test_planes_are_panels_of_their_own_frames(tmp_path):
  means = np.array([[0.0, 0.0], [1.0, 1.0]])
  chols = np.broadcast_to(0.5 * np.eye(2), (2, 2, 2))
  codes = {
    f'beta {k}': classifier_figures.Plane(
      k * means,
      chols,
      np.array([0, 1]),
      np.full((4, 4), math.log(2)),
      np.array([-k, 2 * k, -k, 2 * k], float),
      f'{k} %',
    )
    for k in (1, 2, 3)
  }
  picture = classifier_figures.planes(codes, ['ant', 'bee'])
  rows = _draw(picture, tmp_path)
  # Each code has two posteriors, the second one at its own scale.
  assert [row[0] for row in rows[1:]] == [k for k in codes for _ in range(2)]
  assert [row[4:6] for row in rows[2::2]] == [[f'{k}.0'] * 2 for k in (1, 2, 3)]
  figure = picture.figure()
  panels = figure.axes
  assert [axes.get_title('left') for axes in panels] == [
    f'beta {k}\n{k} %' for k in (1, 2, 3)
  ]
  assert [axes.get_xlim() for axes in panels] == [(-1, 2), (-2, 4), (-3, 6)]
  np.testing.assert_allclose(panels[2].images[0].get_array(), 1)
  assert _names(figure) == ['ant', 'bee']


def test_rates(tmp_path):
  bits = np.array([1.0, 3.0, 5.0, 11.0])
  by_dimension = np.array([0.05, 4.0, 0.95, 0.0])
  picture = classifier_figures.rates(
    bits * math.log(2),
    by_dimension * math.log(2),
    np.array([0, 0, 1, 1]),
    ['ant', 'bee'],
  )
  rows = _draw(picture, tmp_path)
  assert sum(int(row[6]) for row in rows if row[0] == 'example') == 4
  dimensions = [row for row in rows if row[0] == 'dimension']
  assert [row[1] for row in dimensions] == ['1', '2', '0', '3']
  np.testing.assert_allclose(
    [float(row[4]) for row in dimensions], [4, 0.95, 0.05, 0]
  )
  classes = [row for row in rows if row[0] == 'class']
  np.testing.assert_allclose(
    [[float(v) for v in row[4:]] for row in classes],
    [[2, math.sqrt(2), 2], [8, math.sqrt(18), 2]],
  )
  assert '2 of 4 above 0.1 bit' in picture.caption
  titles = [axes.get_title('left') for axes in picture.figure().axes]
  assert titles == ['mean 5.00', '2 of 4 above 0.1 bit', '']
  # A full covariance has no rate by dimension.
  undivided = classifier_figures.rates(
    bits, None, np.array([0, 0, 1, 1]), ['ant', 'bee']
  )
  assert {row[0] for row in undivided.rows} == {'example', 'class'}
  assert len(undivided.figure().axes) == 2


def test_highest_loss(tmp_path):
  images = np.zeros((4, 6, 6, 1), np.uint8)
  labels = np.array([0, 1, 1, 0])
  p = np.array([[0.75, 0.25], [0.5, 0.5], [0.875, 0.125], [0.25, 0.75]])
  loss = -np.log(p[np.arange(4), labels])
  rate = np.array([2.0, 8.0, 4.0, 1.0]) * math.log(2)
  picture = classifier_figures.highest_loss(
    images, labels, p, loss, rate, ['ant', 'bee'], count=2
  )
  rows = _draw(picture, tmp_path)
  short = [[row[0], *row[2:5]] for row in rows[1:]]
  assert short == [
    ['highest cross-entropy', '2', 'bee', 'ant'],
    ['highest cross-entropy', '3', 'ant', 'bee'],
    ['highest rate', '1', 'bee', 'ant'],
    ['lowest rate', '3', 'ant', 'bee'],
  ]
  np.testing.assert_allclose(
    [[float(v) for v in row[5:]] for row in rows[1:3]],
    [[0.875, 3, 4], [0.75, 2, 1]],
  )
  texts = _texts(picture.figure())
  assert texts[3:6] == ['is bee', '→ ant', '3.00 bits']
  without = classifier_figures.highest_loss(
    images, labels, p, loss, None, ['ant', 'bee'], count=2
  )
  assert [row[0] for row in without.rows] == ['highest cross-entropy'] * 2


def _attack(attack, loss, mode, epsilon, accuracy, norm='linf'):
  return {
    'attack': attack,
    'loss': loss,
    'mode': mode,
    'targeted': False,
    'norm': norm,
    'epsilon': epsilon,
    'accuracy': accuracy,
    'examples': 100,
  }


def test_attack_curve(tmp_path):
  ours = [
    _attack('pgd', 'margin', 'samples', 0.25, 40.0),
    _attack('pgd', 'margin', 'samples', 0.0, 98.0),
    _attack('pgd', 'margin', 'mean', 0.0, 98.0),
    _attack('pgd', 'margin', 'mean', 0.25, 20.0),
    _attack('cw', 'margin', 'samples', None, 1.0, 'l2'),
  ]
  other = [
    _attack('pgd', 'margin', 'samples', 0.0, 97.0),
    _attack('pgd', 'margin', 'samples', 0.25, 5.0),
  ]
  picture = classifier_figures.attack_curve({'vib': ours, 'plain': other}, 10.0)
  rows = _draw(picture, tmp_path)
  assert len(rows) == 1 + 6  # an attack without a strength has no place
  assert 'lowest 5.00 %: plain, PGD margin, samples, L∞ 0.25' in picture.alt
  figure = picture.figure()
  axes = figure.axes[0]
  drawn = {line.get_label(): line for line in axes.lines}
  names = ['vib, samples', 'vib, mean', 'plain, samples']
  assert sorted(_names(figure)) == sorted(['chance level 10 %', *names])
  line = drawn['vib, samples']
  np.testing.assert_array_equal(line.get_xdata(), [0, 0.25])
  np.testing.assert_array_equal(line.get_ydata(), [98, 40])
  assert [text.get_text() for text in axes.get_xticklabels()] == ['0', '0.25']
  assert drawn['chance level 10 %'].get_ydata()[0] == 10
  assert classifier_figures.attack_curve({'vib': ours[-1:]}) is None


def test_reliability(tmp_path):
  # Confidences 0.5, on an edge, 0.75, 0.75 and 1; four bins.
  p = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
  labels = np.array([0, 0, 0, 1])
  picture = classifier_figures.reliability(p, labels, bins=4)
  rows = _draw(picture, tmp_path)
  assert [row[:3] for row in rows[1:]] == [
    ['0.0', '0.25', '0'],
    ['0.25', '0.5', '1'],
    ['0.5', '0.75', '2'],
    ['0.75', '1.0', '1'],
  ]
  assert rows[3][3:] == ['0.75', '0.5']
  # (0.5 * 1 + 0.25 * 2 + 0 * 1) / 4 of a unit.
  assert 'calibration error on these images: 25.0 points' in picture.caption
