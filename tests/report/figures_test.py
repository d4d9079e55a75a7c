"""Pictures: the numbers behind them, and that they draw what they say."""

import csv
import math

import matplotlib
import numpy as np
import pytest
from matplotlib import colors, font_manager, ft2font
from matplotlib import image as image_lib
from matplotlib import text as text_lib

from dim_jax.report import figures

# The page's grounds, in light and in dark.
GROUNDS = (1.0, 0.0085)


def _draw(picture, folder):
  """Saves a picture; its CSV rows as text, and its figure."""
  paths = figures.save(picture, folder)
  assert sorted(paths) == ['csv', 'png'] and len(picture.alt) > 20
  pixels = image_lib.imread(paths['png'])
  assert pixels.shape[1] == figures.WIDTH * figures.DPI
  # The corner shows what is behind the picture.
  assert pixels[0, 0, 3] == pixels[-1, -1, 3] == 0
  with open(paths['csv'], newline='', encoding='utf-8') as file:
    return list(csv.reader(file)), picture.figure()


def _names(figure):
  """What the legend says."""
  (legend,) = figure.legends
  return [text.get_text() for text in legend.get_texts()]


def _luminance(colour):
  """Relative luminance of the Web Content Accessibility Guidelines."""
  r, g, b = (
    v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
    for v in colors.to_rgb(colour)
  )
  return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize('colour', [figures.INK, figures.BAD, *figures.COLOURS])
def test_colours_are_read_on_white_and_on_the_dark_ground(colour):
  for ground in GROUNDS:
    low, high = sorted([_luminance(colour), ground])
    # What the guidelines ask of graphics and of large texts.
    assert (high + 0.05) / (low + 0.05) > 3


def test_a_notebook_shows_the_picture():
  line = figures.Line('a', [1, 2], [1.0, 2.0])
  picture = figures.curves('x', 'X', [line], unit='nats')
  assert picture._repr_png_().startswith(b'\x89PNG')
  columns = 'line, step, value, average, ceiling'
  assert repr(picture) == f"Picture('x', 2 rows of {columns})"


ODD_NAMES = ['price $$', '$x_1$', '=1+1', '猫', 'कुत्ता', b'\xff'.decode(
  'utf-8', 'surrogateescape'
)]  # fmt: skip


def test_names_are_data(tmp_path):
  labels = np.arange(24) % 6
  x = np.random.default_rng(0).normal(size=(24, 3)) + labels[:, None]
  images = np.zeros((24, 4, 4, 1), np.uint8)
  for picture in (
    figures.principal_components(
      x, labels, ODD_NAMES, name='a/b $', title='$$ y'
    ),
    figures.retrieval(images, labels, ODD_NAMES, {'$$': x}, count=2),
    figures.spectrum({'$a$ $$': x}, name='s', title='$$'),
  ):
    _, figure = _draw(picture, tmp_path)
    shown = [text for text in figure.findobj(text_lib.Text) if text.get_text()]
    assert shown and not any(text.get_parse_math() for text in shown)
  rows, figure = _draw(
    figures.principal_components(x, labels, ODD_NAMES, name='a/b', title='y'),
    tmp_path,
  )
  escaped = [*ODD_NAMES[:5], '\\udcff']
  assert _names(figure) == escaped
  # A spreadsheet would compute what begins with '='.
  assert [row[2] for row in rows[1:7]] == [*escaped[:2], "'=1+1", *escaped[3:]]
  assert (tmp_path / 'a_b.png').exists()


def test_fonts_have_the_glyphs_where_one_is_installed():
  # Matplotlib comes with STIX, which has this sign that DejaVu Sans lacks.
  sign = '\u20dd'
  with figures.style('a'):
    assert matplotlib.rcParams['font.family'] == ['DejaVu Sans']
  with figures.style(f'a{sign}'):
    first, *others = matplotlib.rcParams['font.family']
  assert first == 'DejaVu Sans' and others
  paths = [font_manager.findfont(name) for name in others]
  assert any(ord(sign) in ft2font.FT2Font(path).get_charmap() for path in paths)


@pytest.mark.parametrize(
  ('values', 'least', 'ticks'),
  [
    # No zero: decades, or 1, 2 and 5 over less than two of them.
    ([0.01, 10.0], 0.0, [0.01, 0.1, 1, 10]),
    ([1.0, 20.0], 0.0, [1, 2, 5, 10, 20]),
    ([0.0, 0.1, 100.0], 0.0, [0, 0.1, 1, 10, 100]),
    # What is below the least is in the linear part, as 0 is.
    ([1e-9, 0.02, 20.0], 0.01, [0, 0.1, 1, 10]),
    # Less than five times: round numbers.
    ([61.0, 88.0], 0.0, [64, 72, 80, 88]),
    ([0.0, math.nan], 0.0, [0, 1]),
  ],
)
def test_zero_ticks(values, least, ticks):
  np.testing.assert_allclose(figures.zero_ticks(values, least), ticks)


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
  assert figures.power(value) == text


def test_curves_csv_holds_the_numbers_drawn(tmp_path):
  lines = [
    figures.Line('local', [10, 20], [0.5, 1.0], [4.0, 4.0]),
    figures.Line('global', [10, 20], [0.25, 0.125]),
  ]
  picture = figures.curves('mi', 'MI', lines, unit='nats', scale=2.0)
  rows, figure = _draw(picture, tmp_path)
  assert rows == [
    ['line', 'step', 'value', 'average', 'ceiling'],
    ['local', '10', '1.0', '1.0', '8.0'],
    ['local', '20', '2.0', '2.0', '8.0'],
    ['global', '10', '0.5', '0.5', ''],
    ['global', '20', '0.25', '0.25', ''],
  ]
  drawn = figure.axes[0].lines
  np.testing.assert_array_equal(drawn[0].get_ydata(), [1.0, 2.0])
  np.testing.assert_array_equal(drawn[1].get_ydata(), [0.5, 0.25])
  np.testing.assert_array_equal(drawn[2].get_ydata(), [8.0, 8.0])
  assert _names(figure) == ['local 2.00', 'global 0.250', 'ceiling 8.00']


def test_curves_show_what_is_not_finite(tmp_path):
  values = [1.0, math.nan, 2.0, math.inf]
  picture = figures.curves(
    'x', 'X', [figures.Line('a', [1, 2, 3, 4], values)], unit='nats'
  )
  _draw(picture, tmp_path)
  assert (
    'a was not finite at 2 of 4 logged steps, first at 2' in picture.caption
  )
  crosses = picture.figure().axes[0].lines[-1]
  np.testing.assert_array_equal(crosses.get_xdata(), [2, 4])


def test_curves_of_nothing_but_nan(tmp_path):
  line = figures.Line('a', [1, 2], [math.nan, math.nan])
  picture = figures.curves('x', 'X', [line], unit='nats')
  _draw(picture, tmp_path)
  assert picture.alt.endswith('at the end: a (no number).')


def test_probes_csv(tmp_path):
  results = [
    {'encoder': f, 'feature': feature, 'probe': probe, 'mean': mean,
     'std': 0.25, 'values': [mean] * n}
    for f, feature, probe, mean, n in [
      ('trained', 'y', 'linear', 0.75, 3),
      ('untrained', 'y', 'linear', 0.5, 3),
      ('raw', 'pixels', 'linear', 0.625, 3),
      ('trained', 'y', 'knn', math.nan, 1),
    ]
  ]  # fmt: skip
  rows, _ = _draw(figures.probes(results), tmp_path)
  assert rows[1:] == [
    ['linear', 'y', 'trained', '75.0', '25.0', '3'],
    ['linear', 'y', 'untrained', '50.0', '25.0', '3'],
    ['linear', 'pixels', 'raw', '62.5', '25.0', '3'],
    ['knn', 'y', 'trained', 'nan', '25.0', '1'],
  ]


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
    rows, figure = _draw(picture, tmp_path)
    assert [row[1:3] for row in rows[1:3]] == [['0', 'cat'], ['1', 'dog']]
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(
      points, [[float(v) for v in row[3:]] for row in rows[1:]]
    )
    # Two classes eight deviations apart do not mix in either map.
    across = points[labels == 0].mean(0) - points[labels == 1].mean(0)
    side = (points - points.mean(0)) @ across > 0
    np.testing.assert_array_equal(side, labels == 0)
  assert 'perplexity 13, seed 0' in picture.caption


def test_colours_of_many_classes_differ():
  for count in (10, 100):
    assert len(set(figures.class_colours(count))) == count


def test_retrieval(tmp_path):
  # Pixels pair 0 with 1 and 2 with 3; the labels agree with the features, which
  # pair 0 with 2 and 1 with 3.
  images = np.array([0, 10, 200, 210], np.uint8).reshape(4, 1, 1, 1)
  images = np.broadcast_to(images, (4, 6, 6, 1))
  labels = np.array([1, 0, 1, 0])
  y = np.array([[1, 0.1], [0.1, 1], [1, 0], [0, 1]])
  picture = figures.retrieval(images, labels, ['a', 'b'], {'y': y}, count=1)
  rows, figure = _draw(picture, tmp_path)
  short = [[row[i] for i in (0, 1, 3, 5, 6, 7)] for row in rows[1:]]
  # All four are queries, in an order that was drawn.
  assert sorted(short, key=lambda row: row[:2]) == [
    ['0', 'pixels', '1', 'b', 'a', '0'],
    ['0', 'y', '2', 'b', 'b', '1'],
    ['1', 'pixels', '0', 'a', 'b', '0'],
    ['1', 'y', '3', 'a', 'a', '1'],
    ['2', 'pixels', '3', 'b', 'a', '0'],
    ['2', 'y', '0', 'b', 'b', '1'],
    ['3', 'pixels', '2', 'a', 'b', '0'],
    ['3', 'y', '1', 'a', 'a', '1'],
  ]
  assert float(rows[2][4]) == 60.0  # 36 pixels that differ by 10
  assert '4 of 8 are of the same class' in picture.alt
  frames = figure.axes[0].patches
  good, bad = (patch.get_edgecolor() for patch in frames[:2])
  assert [patch.get_edgecolor() for patch in frames] == [good, bad] * 4
  assert good[1] > good[0] and bad[0] > bad[1]
  # Neighbours by the pixels are right of those by y, in the query's line.
  for by_y, by_pixels in zip(frames[::2], frames[1::2], strict=True):
    assert (
      by_y.get_x() < by_pixels.get_x() and by_y.get_y() == by_pixels.get_y()
    )


def test_scores(tmp_path):
  positive = np.array([1.0, 2.0, 3.0, math.nan], np.float32)
  negative = np.array([-1.0, 0.0, 0.5], np.float32)
  picture = figures.scores(positive, negative, name='s', title='trained')
  rows, _ = _draw(picture, tmp_path)
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
  rows, _ = _draw(picture, tmp_path)
  assert [r[:2] for r in rows[1:]] == [['trained', '1'], ['trained', '2']]
  np.testing.assert_allclose([float(r[2]) for r in rows[1:]], [4, 2])
  np.testing.assert_allclose([float(r[3]) for r in rows[1:]], [1, 0.5])
  # Shares 2/3 and 1/3: exp(2/3 ln 3/2 + 1/3 ln 3) = 3 / 2^(2/3) = 1.89.
  assert 'trained 1.9 of 2' in picture.caption


def test_views_stand_beside_their_originals(tmp_path):
  random = np.random.default_rng(0)
  originals = random.integers(0, 256, (2, 6, 6, 3), np.uint8)
  changed = random.integers(0, 256, (2, 4, 5, 5, 3), np.uint8)
  caption = 'Words that need several lines. ' * 8
  figure = figures.views(originals, changed, title='$$', caption=caption)
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
  figures.write(figure, tmp_path / 'x.png')
  assert image_lib.imread(tmp_path / 'x.png')[0, 0, 3] == 0
