"""Pictures of bottlenecks: the numbers behind them, and what they draw."""

import csv
import math

import numpy as np
import pytest
from matplotlib import image as image_lib
from scipy import stats

from dim_jax.report import classifier_figures, figures


def _draw(picture, folder):
  """Saves a picture; its CSV rows as text. Both images have a clean corner."""
  paths = figures.save(picture, folder)
  light, dark = (image_lib.imread(paths[k]) for k in ('light', 'dark'))
  np.testing.assert_allclose(light[-1, -1, :3], 1.0)
  np.testing.assert_allclose(
    dark[-1, -1, :3], [0x16 / 255, 0x19 / 255, 0x1D / 255], atol=1e-3
  )
  assert light.shape == dark.shape
  assert light.shape[1] == figures.WIDTH * figures.DPI
  assert len(picture.alt) > 20
  with open(paths['csv'], newline='') as file:
    return list(csv.reader(file))


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
  found = classifier_figures.over_seeds(_ROWS, ['error_12'])
  assert [row[1:3] for row in found] == [
    ('train', 0.0), ('train', 1e-3), ('train', 1.0),
    ('test', 0.0), ('test', 1e-3), ('test', 1.0),
  ]  # fmt: skip
  # Of 1 and 1.5: mean 1.25, deviation sqrt(2 * 0.25^2 / (2 - 1)).
  assert found[4][3:] == (1.25, pytest.approx(math.sqrt(0.125)), 2)
  assert found[3][3] == 2.0 and math.isnan(found[3][4]) and found[3][5] == 1


def test_sample_errors_are_known_by_their_number():
  row = {'error_mean': 0, 'error_12': 0, 'error_1': 0, 'nll_12': 0}
  assert classifier_figures.sample_errors(row) == {1: 'error_1', 12: 'error_12'}
  assert list(classifier_figures.sample_errors(row)) == [1, 12]


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0, '0'),
    (1e-3, '10⁻³'),
    (3e-4, '3·10⁻⁴'),
    (0.1, '0.1'),
    (20.0, '20'),
    (1e5, '10⁵'),
  ],
)
def test_power(value, text):
  assert classifier_figures.power(value) == text


def test_beta_sweep(tmp_path):
  picture = classifier_figures.beta_sweep(
    _ROWS, classes=10, log2_examples=15.87
  )
  rows = _draw(picture, tmp_path)
  assert rows[0] == ['quantity', 'split', 'beta', 'mean', 'std', 'n']
  assert ['error_1', 'test', '0.001', '2.0', str(math.sqrt(0.5)), '2'] in rows
  assert ['rate_bits', 'train', '0.001', '23.0', str(math.sqrt(2)), '2'] in rows
  assert 'Mean of 1 to 2 seeds' in picture.caption
  assert 'Errors of 0 % stand at the bottom edge' in picture.caption
  assert 'Rates below 0.01 bits stand there' in picture.caption
  assert '2.00 % at beta 0 with 1 sample' in picture.alt
  assert '1.25 % at beta 10⁻³ with 12 samples' in picture.alt

  errors, rates = picture.draw(figures.LIGHT).axes
  assert rates.get_title('left') == 'rate (upper bound on I(Z;X))'
  levels = {
    text.get_text(): line.get_ydata()[0]
    for text, line in zip(rates.texts, rates.lines[-2:], strict=True)
  }
  assert levels == {'log₂ C 3.3': math.log2(10), 'log₂ N 15.9': 15.87}
  # Beta 0 has a place left of the smallest, under its own name.
  ticks = dict(
    zip(
      [text.get_text() for text in rates.get_xticklabels()],
      rates.get_xticks(),
      strict=True,
    )
  )
  assert 0 < ticks['0'] < ticks['10⁻³'] == 1e-3 < ticks['1'] == 1
  curve = next(
    line
    for line in errors.lines
    if len(line.get_xdata()) == 3 and line.get_ydata()[1] == 1.25
  )
  np.testing.assert_allclose(curve.get_xydata()[:, 0], [ticks['0'], 1e-3, 1])
  np.testing.assert_allclose(curve.get_xydata()[:, 1], [2, 1.25, 90])
  # A rate of 0 is the floor's, whatever the other rates are.
  collapsed = rates.lines[0].get_xydata()[-1]
  np.testing.assert_allclose(collapsed, [1, 0.01])


def test_a_sweep_needs_rows():
  with pytest.raises(ValueError, match='at least one row, got none'):
    classifier_figures.beta_sweep([])
  with pytest.raises(ValueError, match='at least one row, got none'):
    classifier_figures.information_plane([], 3.32)


def test_information_plane(tmp_path):
  picture = classifier_figures.information_plane(_ROWS, 3.3, 15.87)
  rows = _draw(picture, tmp_path)
  assert rows[5][:4] == ['test', '0.001', '22.0', str(math.sqrt(2))]
  assert rows[5][4] == '3.0625' and rows[5][6] == '2'
  assert '3.06 of H(Y) = 3.30 bits at beta 10⁻³' in picture.alt
  # Those near the ceiling have a panel of their own; each beta stands once.
  figure = picture.draw(figures.LIGHT)
  near, whole = figure.axes
  assert near.get_ylim()[0] > 2.5 and whole.get_ylim()[0] < -0.125
  texts = _texts(figure)
  for text in ('0', '10⁻³', '1'):
    assert texts.count(text) == 1
  assert texts.count('H(Y) 3.30') == 2
  assert 'log₂ N 15.9' in texts
  # Points are joined in order of beta.
  test = next(line for line in whole.lines if line.get_ydata()[-1] == -0.125)
  np.testing.assert_allclose(test.get_xydata()[:, 0], [800, 22, 0.01])


def test_radius_is_that_of_the_chi_distribution():
  for level in (0.05, 0.5, 0.95, 0.999):
    np.testing.assert_allclose(
      classifier_figures.radius(level), math.sqrt(stats.chi2.ppf(level, 2))
    )
  for level in (0, 1, 95):
    with pytest.raises(ValueError, match=f'between 0 and 1, got {level}'):
      classifier_figures.radius(level)


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
  # Four standard errors of a share.
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
  axes = picture.draw(figures.DARK).axes[0]
  assert axes.images[0].origin == 'lower'
  np.testing.assert_allclose(axes.images[0].get_array()[0, 3], 1)
  curves = axes.collections[0].get_segments()
  np.testing.assert_allclose(curves[1] - curves[0], np.ones((64, 2)))


def test_remembered(tmp_path):
  bits = np.array([1.0, 3.0, 5.0, 11.0])
  by_dimension = np.array([0.05, 4.0, 0.95, 0.0])
  picture = classifier_figures.remembered(
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
  texts = _texts(picture.draw(figures.LIGHT))
  assert texts == ['mean 5.00', '2 of 4 above 0.1 bit']
  # A full covariance has no rate by dimension.
  whole = classifier_figures.remembered(
    bits, None, np.array([0, 0, 1, 1]), ['ant', 'bee']
  )
  assert {row[0] for row in whole.rows} == {'example', 'class'}
  assert len(whole.draw(figures.LIGHT).axes) == 2


def test_hardest(tmp_path):
  images = np.zeros((4, 6, 6, 1), np.uint8)
  labels = np.array([0, 1, 1, 0])
  p = np.array([[0.75, 0.25], [0.5, 0.5], [0.875, 0.125], [0.25, 0.75]])
  loss = -np.log(p[np.arange(4), labels])
  rate = np.array([2.0, 8.0, 4.0, 1.0]) * math.log(2)
  picture = classifier_figures.hardest(
    images, labels, p, loss, rate, ['ant', 'bee'], count=2
  )
  rows = _draw(picture, tmp_path)
  short = [[row[0], *row[2:5]] for row in rows[1:]]
  assert short == [
    ['hardest', '2', 'bee', 'ant'],
    ['hardest', '3', 'ant', 'bee'],
    ['most bits', '1', 'bee', 'ant'],
    ['fewest bits', '3', 'ant', 'bee'],
  ]
  np.testing.assert_allclose(
    [[float(v) for v in row[5:]] for row in rows[1:3]],
    [[0.875, 3, 4], [0.75, 2, 1]],
  )
  texts = _texts(picture.draw(figures.DARK))
  assert texts[3:6] == ['is bee', '→ ant', '3.00 bits']
  without = classifier_figures.hardest(
    images, labels, p, loss, None, ['ant', 'bee'], count=2
  )
  assert [row[0] for row in without.rows] == ['hardest'] * 2


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
  axes = picture.draw(figures.LIGHT).axes[0]
  drawn = {
    text.get_text(): line
    for text, line in zip(axes.texts[1:], axes.lines[:3], strict=True)
  }
  assert set(drawn) == {'vib, samples', 'vib, mean', 'plain, samples'}
  line = drawn['vib, samples']
  np.testing.assert_array_equal(line.get_xdata(), [0, 0.25])
  np.testing.assert_array_equal(line.get_ydata(), [98, 40])
  assert axes.texts[0].get_text() == 'chance 10 %'
  assert axes.lines[3].get_ydata()[0] == 10
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
