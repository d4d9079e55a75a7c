"""Pictures: the numbers behind them, and that they draw what they say."""

import csv
import math

import numpy as np
import pytest
from matplotlib import image as image_lib

from dim_jax.report import figures


def _draw(picture, folder):
  """Saves a picture; its CSV rows as text, and its two images."""
  paths = figures.save(picture, folder)
  with open(paths['csv'], newline='') as file:
    rows = list(csv.reader(file))
  return rows, image_lib.imread(paths['light']), image_lib.imread(paths['dark'])


def test_ema_by_hand():
  # Span 3: decay 1/2. (1/2 * 1 + 2) / (3/2), (1/4 * 1 + 1/2 * 2 + 4) / (7/4).
  np.testing.assert_allclose(
    figures.ema([1.0, 2.0, 4.0], 3), [1.0, 2.5 / 1.5, 5.25 / 1.75]
  )


def test_ema_of_span_one_is_the_values():
  np.testing.assert_array_equal(figures.ema([3.0, -1.0, 2.0], 1), [3, -1, 2])


def test_ema_leaves_gaps_and_ages_what_is_before_them():
  # After the gap: (1/4 * 1 + 4) / (1/4 + 1).
  average = figures.ema([1.0, math.nan, 4.0], 3)
  np.testing.assert_allclose(average, [1.0, math.nan, 4.25 / 1.25])


def test_ema_rejects_a_short_span():
  with pytest.raises(ValueError, match=r'span must be >= 1, got 0\.5'):
    figures.ema([1.0], 0.5)


@pytest.mark.parametrize(
  ('wishes', 'expected'),
  [
    ([0.2, 0.8], [0.2, 0.8]),
    # Two at one place part evenly around it.
    ([0.5, 0.5], [0.45, 0.55]),
    # Order of the input is kept in the output.
    ([0.55, 0.5], [0.575, 0.475]),
    # At the edge the block moves inside as a whole.
    ([1.0, 1.0, 0.0], [0.9, 1.0, 0.0]),
    # Two that part meet a third: three around their mean.
    ([0.5, 0.5, 0.56], [0.42, 0.52, 0.62]),
  ],
)
def test_spread(wishes, expected):
  np.testing.assert_allclose(
    figures.spread(wishes, 0.1, 0, 1), expected, atol=1e-12
  )


def test_spread_squeezes_what_does_not_fit():
  np.testing.assert_allclose(
    figures.spread([0.0, 0.0, 0.0], 1, 0, 1), [0, 0.5, 1]
  )


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (8.3023, '8.30'),
    (44.51, '44.5'),
    (1234.5, '1234'),
    (0.0234, '0.023'),
    (-0.5, '−0.500'),
    (0.0, '0.000'),
    (2e-5, '2.0e−05'),
    (math.nan, 'not finite'),
  ],
)
def test_number(value, text):
  assert figures.number(value) == text


def test_curves_csv_holds_the_numbers_drawn(tmp_path):
  lines = [
    figures.Line('local', [10, 20], [0.5, 1.0], [4.0, 4.0]),
    figures.Line('global', [10, 20], [0.25, 0.125]),
  ]
  picture = figures.curves('mi', 'MI', lines, unit='nats', scale=2.0)
  rows, light, dark = _draw(picture, tmp_path)
  assert rows == [
    ['line', 'step', 'value', 'average', 'ceiling'],
    ['local', '10', '1.0', '1.0', '8.0'],
    ['local', '20', '2.0', '2.0', '8.0'],
    ['global', '10', '0.5', '0.5', ''],
    ['global', '20', '0.25', '0.25', ''],
  ]
  drawn = picture.draw(figures.LIGHT).axes[0].lines
  np.testing.assert_array_equal(drawn[0].get_ydata(), [1.0, 2.0])
  np.testing.assert_array_equal(drawn[1].get_ydata(), [0.5, 0.25])
  np.testing.assert_array_equal(drawn[2].get_ydata(), [8.0, 8.0])
  texts = [text.get_text() for text in picture.draw(figures.DARK).axes[0].texts]
  assert texts == ['local 2.00', 'global 0.250', 'ceiling 8.00']
  # The ground is the theme's, in a corner where nothing is drawn.
  np.testing.assert_allclose(light[0, 0, :3], 1.0)
  np.testing.assert_allclose(
    dark[0, 0, :3], [0x16 / 255, 0x19 / 255, 0x1D / 255], atol=1e-3
  )
  assert light.shape[1] == figures.WIDTH * figures.DPI


def test_curves_show_what_is_not_finite(tmp_path):
  values = [1.0, math.nan, 2.0, math.inf]
  picture = figures.curves(
    'x', 'X', [figures.Line('a', [1, 2, 3, 4], values)], unit='nats'
  )
  _draw(picture, tmp_path)
  assert (
    'a was not finite at 2 of 4 logged steps, first at 2' in picture.caption
  )
  crosses = picture.draw(figures.LIGHT).axes[0].lines[-1]
  np.testing.assert_array_equal(crosses.get_xdata(), [2, 4])


def test_curves_of_nothing_but_nan(tmp_path):
  line = figures.Line('a', [1, 2], [math.nan, math.nan])
  picture = figures.curves('x', 'X', [line], unit='nats')
  _draw(picture, tmp_path)
  assert picture.alt.endswith('at the end: a no number.')


def test_probes_csv(tmp_path):
  results = [
    {'features': f, 'tap': tap, 'probe': probe, 'mean': mean, 'std': 0.25,
     'values': [mean] * n}
    for f, tap, probe, mean, n in [
      ('trained', 'y', 'linear', 0.75, 3),
      ('untrained', 'y', 'linear', 0.5, 3),
      ('raw', 'pixels', 'linear', 0.625, 3),
      ('trained', 'y', 'knn', math.nan, 1),
    ]
  ]  # fmt: skip
  rows, _, _ = _draw(figures.probes(results), tmp_path)
  assert rows[1:] == [
    ['linear', 'y', 'trained', '75.0', '25.0', '3'],
    ['linear', 'y', 'untrained', '50.0', '25.0', '3'],
    ['linear', 'pixels', 'raw', '62.5', '25.0', '3'],
    ['knn', 'y', 'trained', 'nan', '25.0', '1'],
  ]


def test_pca_by_hand():
  # Along (3, 4) / 5 at -5, 0, 5, and 1 off it: variances 50 and 2 of 3 points
  # would mix, so the off-axis points are placed symmetrically.
  axis, other = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
  x = np.stack([-5 * axis, 5 * axis, other, -other]) + 7
  points, share = figures.pca(x)
  np.testing.assert_allclose(share, [50 / 52, 2 / 52])
  np.testing.assert_allclose(np.abs(points[:, 0]), [5, 5, 0, 0], atol=1e-12)
  np.testing.assert_allclose(np.abs(points[:, 1]), [0, 0, 1, 1], atol=1e-12)
  # The sign is fixed: mirrored features give the same picture.
  np.testing.assert_allclose(np.abs(figures.pca(-x)[0]), np.abs(points))
  assert points[np.abs(points[:, 0]).argmax(), 0] > 0


def test_maps(tmp_path):
  random = np.random.default_rng(0)
  labels = np.arange(40) % 2
  x = random.normal(size=(40, 5)) + 8 * labels[:, None]
  for picture in (
    figures.principal_components(
      x, labels, ['cat', 'dog'], name='pca', title='y'
    ),
    figures.tsne(x, labels, ['cat', 'dog'], name='tsne', title='y'),
  ):
    rows, _, _ = _draw(picture, tmp_path)
    assert [row[1:3] for row in rows[1:3]] == [['0', 'cat'], ['1', 'dog']]
    points = picture.draw(figures.LIGHT).axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(
      points, [[float(v) for v in row[3:]] for row in rows[1:]]
    )
    # Two classes eight deviations apart do not mix in either map.
    across = points[labels == 0].mean(0) - points[labels == 1].mean(0)
    side = (points - points.mean(0)) @ across > 0
    np.testing.assert_array_equal(side, labels == 0)
  assert 'perplexity 13, seed 0' in picture.caption


def test_class_names_do_not_overlap():
  labels = np.arange(60) % 6
  x = np.random.default_rng(0).normal(size=(60, 3))
  names = [f'class {k}' for k in range(6)]
  picture = figures.principal_components(x, labels, names, name='p', title='y')
  figure = picture.draw(figures.LIGHT)
  boxes = [text.get_window_extent() for text in figure.axes[0].texts]
  assert len(boxes) == 6
  assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_colours_of_many_classes_differ():
  for count in (10, 100):
    assert len(set(figures.class_colours(count))) == count


def test_neighbours_by_hand():
  # Directions 0, 10, 25 and 100 degrees; lengths must not matter.
  angles = np.deg2rad([0, 10, 25, 100])
  x = np.stack([np.cos(angles), np.sin(angles)], 1)
  x = x * np.array([1, 9, 2, 5])[:, None]
  order, distance = figures.neighbours(x, 3)
  np.testing.assert_array_equal(
    order, [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
  )
  np.testing.assert_allclose(distance[0], 1 - np.cos(np.deg2rad([10, 25, 100])))


@pytest.mark.parametrize('metric', ['cosine', 'euclidean'])
def test_neighbours_against_brute_force(metric):
  x = np.random.default_rng(1).normal(size=(12, 4))

  def distance(a, b):
    if metric == 'euclidean':
      return math.dist(a, b)
    return 1 - a @ b / (math.hypot(*a) * math.hypot(*b))

  order, found = figures.neighbours(x, 5, metric)
  for i in range(12):
    others = sorted((distance(x[i], x[j]), j) for j in range(12) if j != i)
    assert order[i].tolist() == [j for _, j in others[:5]]
    np.testing.assert_allclose(found[i], [d for d, _ in others[:5]])


def test_neighbours_errors():
  with pytest.raises(ValueError, match='between 1 and 2 for 3 examples, got 3'):
    figures.neighbours(np.eye(3), 3)
  with pytest.raises(ValueError, match="'cosine' or 'euclidean', got 'l1'"):
    figures.neighbours(np.eye(3), 1, 'l1')


def test_retrieval(tmp_path):
  # Pixels pair 0 with 1 and 2 with 3; the labels agree with the features, which
  # pair 0 with 2 and 1 with 3.
  images = np.array([0, 10, 200, 210], np.uint8).reshape(4, 1, 1, 1)
  images = np.broadcast_to(images, (4, 6, 6, 1))
  labels = np.array([1, 0, 1, 0])
  y = np.array([[1, 0.1], [0.1, 1], [1, 0], [0, 1]])
  picture = figures.retrieval(images, labels, ['a', 'b'], {'y': y}, count=1)
  rows, _, _ = _draw(picture, tmp_path)
  short = [[row[i] for i in (0, 1, 3, 5, 6, 7)] for row in rows[1:]]
  assert short == [
    ['0', 'y', '2', 'b', 'b', '1'],
    ['0', 'pixels', '1', 'b', 'a', '0'],
    ['1', 'y', '3', 'a', 'a', '1'],
    ['1', 'pixels', '0', 'a', 'b', '0'],
  ]
  assert float(rows[2][4]) == 60.0  # 36 pixels that differ by 10
  assert 'y 100.0 %, pixels 0.0 %; by chance 50.0 %' in picture.caption
  frames = [
    p.get_edgecolor() for p in picture.draw(figures.LIGHT).axes[0].patches
  ]
  good, bad = frames[0], frames[1]
  assert (
    frames == [good, bad, good, bad] and good[1] > good[0] and bad[0] > bad[1]
  )


def test_auc_by_hand():
  # Pairs (2 > 1), (2 = 2) half, (3 > 1), (3 > 2): 3.5 of 4.
  value = figures.auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
  assert value == 3.5 / 4


def test_scores(tmp_path):
  positive = np.array([1.0, 2.0, 3.0, math.nan], np.float32)
  negative = np.array([-1.0, 0.0, 0.5], np.float32)
  picture = figures.scores(positive, negative, name='s', title='trained')
  rows, _, _ = _draw(picture, tmp_path)
  for kind, inside in (('positive', [1, 2, 3]), ('negative', [-1, 0, 0.5])):
    bins = np.array([r[1:] for r in rows[1:] if r[0] == kind], float)
    left, right, density = bins.T
    assert left[0] == -1 and right[-1] == 3
    np.testing.assert_allclose(((right - left) * density).sum(), 1)
    for value in inside:
      home = (left <= value) & (value <= right)
      assert density[home].max() > 0
  assert '100.0 % of cases' in picture.caption
  assert '1 scores were not finite' in picture.caption


def test_spectrum(tmp_path):
  # Centred columns of norm 4 and 2: those are the singular values.
  x = np.array([[2, 1], [2, -1], [-2, 1], [-2, -1]]) + 5.0
  picture = figures.spectrum({'trained': x}, name='s', title='Spectrum')
  rows, _, _ = _draw(picture, tmp_path)
  assert [r[:2] for r in rows[1:]] == [['trained', '1'], ['trained', '2']]
  np.testing.assert_allclose([float(r[2]) for r in rows[1:]], [4, 2])
  np.testing.assert_allclose([float(r[3]) for r in rows[1:]], [1, 0.5])
  # Shares 2/3 and 1/3: exp(2/3 ln 3/2 + 1/3 ln 3) = 3 / 2^(2/3) = 1.89.
  assert 'trained 1.9 of 2' in picture.caption


def test_effective_rank():
  np.testing.assert_allclose(figures.effective_rank(np.full(5, 0.3)), 5)
  np.testing.assert_allclose(
    figures.effective_rank(np.array([2.0, 1.0])), 3 / 2 ** (2 / 3)
  )
  assert figures.effective_rank(np.zeros(3)) == 0


def test_views_stand_beside_their_originals(tmp_path):
  random = np.random.default_rng(0)
  originals = random.integers(0, 256, (2, 6, 6, 3), np.uint8)
  changed = random.integers(0, 256, (2, 4, 5, 5, 3), np.uint8)
  caption = 'Words that need several lines. ' * 8
  for theme, ground in ((figures.LIGHT, 255), (figures.DARK, 0x16)):
    figure = figures.views(
      originals, changed, title='Views', caption=caption, theme=theme
    )
    axes = figure.axes[0]
    drawn = [np.asarray(image.get_array()) for image in axes.images]
    for i in range(2):
      np.testing.assert_array_equal(drawn[5 * i], originals[i])
      np.testing.assert_array_equal(drawn[5 * i + 1 : 5 * i + 5], changed[i])
    places = np.array([image.get_extent() for image in axes.images])
    # Equal squares that do not touch; a row's images have one top.
    np.testing.assert_allclose(places[:, 1] - places[:, 0], 1)
    assert (np.diff(places[:5, 0]) > 1).all()
    assert len(set(places[:5, 3])) == 1 and places[5, 3] > 1
    assert figure.get_supxlabel().replace('\n', ' ') == caption.strip()
    figures.write(figure, tmp_path / 'x.png', theme)
    pixels = image_lib.imread(tmp_path / 'x.png')
    np.testing.assert_allclose(pixels[0, 0, 0], ground / 255, atol=1e-3)
