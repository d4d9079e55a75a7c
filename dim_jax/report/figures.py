"""Pictures of runs: each a table of numbers, and a drawing of that table.

A `Picture` holds the rows that its CSV file has and draws itself from them. It
has no ground of its own: its grays and colours (Okabe and Ito's, told apart by
colour-blind readers, at a middle lightness) are read on white and on black
alike. Matplotlib and scikit-learn are imported when a picture is made, not
before.

A function that makes a picture says with `columns` what its rows are. It may
take the `name` that is the stem of the files, and the `title` above. Features
have shape [n, D], labels [n], images [n, H, W, C] as uint8, and `class_names`
the names of the labels 0, 1 and on.
"""

import colorsys
import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import math
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.evaluation import representations

Rows = list[tuple[Any, ...]]

# Inches. Narrow enough that 11 points are still read on a phone.
WIDTH = 5.0
DPI = 200

# Contrast of 4 to 1 or so to white, and to the dark ground of the page.
INK = '#767d86'
# For what stands behind the data, such as levels and axes.
FAINT = '#767d86a0'
COLOURS = ('#2b83c4', '#d55e00', '#0f9a70', '#b3589a', '#a97300', '#7b6fd0')
GOOD, BAD = COLOURS[2], '#e04a3f'
# Line styles, with gaps in units of the line's width.
DASHED, DOTTED = (0, (5, 3)), (0, (1, 1.6))
# Looks of levels to compare with, and of error bars.
LEVEL: dict[str, Any] = {'color': INK, 'ls': DASHED, 'lw': 1.4, 'zorder': 1}
BARS: dict[str, Any] = {'capsize': 2.5, 'elinewidth': 1.2}

_FONT = 'DejaVu Sans'
_STYLE = {
  'font.size': 11,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': FAINT,
  'axes.labelcolor': INK,
  'axes.titlecolor': INK,
  'axes.titlelocation': 'left',
  'axes.titlesize': 11,
  'axes.facecolor': 'none',
  'axes.formatter.useoffset': False,
  'figure.facecolor': 'none',
  'savefig.facecolor': 'none',
  'legend.frameon': False,
  'legend.fontsize': 9.5,
  'legend.columnspacing': 1.2,
  'legend.handlelength': 1.8,
  'legend.labelcolor': INK,
  'text.color': INK,
  'text.usetex': False,
  # Names are data: what stands between two dollar signs is no formula.
  'text.parse_math': False,
  'xtick.color': FAINT,
  'ytick.color': FAINT,
  'xtick.labelcolor': INK,
  'ytick.labelcolor': INK,
}


@dataclasses.dataclass(frozen=True, repr=False)
class Picture:
  """A drawing with the numbers behind it; a notebook shows the drawing.

  Attributes:
    name: stem of its files.
    title: a few words above it.
    caption: what it shows, and under which settings.
    alt: what a reader who cannot see it should know.
    columns: names of the numbers.
    rows: the numbers; all that is drawn comes from here, but for images.
    draw: makes the matplotlib figure, within `style`; the legend is added.
  """

  name: str
  title: str
  caption: str
  alt: str
  columns: tuple[str, ...]
  rows: Rows
  draw: Callable[[], Any]

  def figure(self) -> Any:
    """Draws the matplotlib figure."""
    with style(self._text()):
      figure = self.draw()
      _legend(figure)
    return figure

  def _text(self) -> str:
    cells = [cell for row in self.rows for cell in row]
    return ''.join({self.title, *(c for c in cells if isinstance(c, str))})

  def _repr_png_(self) -> bytes:
    file = io.BytesIO()
    write(self.figure(), file, self._text())
    return file.getvalue()

  def __repr__(self) -> str:
    columns = ', '.join(self.columns)
    return f'Picture({self.name!r}, {len(self.rows)} rows of {columns})'


def save(picture: Picture, folder: str | os.PathLike) -> dict[str, str]:
  """Writes NAME.csv and NAME.png into a folder that exists.

  Characters of the name that a file name should not have become '_'. Returns
  the paths, by 'csv' and 'png'.
  """
  stem = os.path.join(folder, re.sub(r'[^\w.-]+', '_', picture.name))
  paths = {kind: f'{stem}.{kind}' for kind in ('csv', 'png')}
  with open(paths['csv'], 'w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(picture.columns)
    writer.writerows([_cell(cell) for cell in row] for row in picture.rows)
  write(picture.figure(), paths['png'], picture._text())
  return paths


def _cell(value: Any) -> Any:
  """Guards a text that a spreadsheet would take for a formula."""
  if isinstance(value, str):
    value = printable(value)
    if value.startswith(('=', '+', '-', '@', '\t', '\r')):
      return f"'{value}"
  return value


def write(figure: Any, file: Any, text: str = '') -> None:
  """Writes a figure as PNG; the same figure gives the same bytes.

  The file is a path, or takes bytes; the text on the figure is for its fonts.
  """
  with style(text):
    figure.savefig(file, dpi=DPI, format='png', metadata={'Software': None})


@contextlib.contextmanager
def style(text: str = '') -> Iterator[None]:
  """Sets the look of all pictures, with fonts that have the text's glyphs."""
  import matplotlib

  fonts = _fonts(frozenset(c for c in text if ord(c) > 127))
  settings = {**_STYLE, 'font.family': list(fonts)}
  with matplotlib.rc_context(settings), warnings.catch_warnings():
    # A glyph that no installed font has is drawn as a box with its number.
    warnings.filterwarnings('ignore', 'Glyph .* missing from')
    warnings.filterwarnings('ignore', '.* not support .* natively')
    yield


@functools.cache
def _fonts(characters: frozenset[str]) -> tuple[str, ...]:
  """Families that together have the characters, as far as any is installed."""
  from matplotlib import font_manager, ft2font

  def glyphs(path: str) -> set[int]:
    return set(ft2font.FT2Font(path).get_charmap())

  families = [_FONT]
  missing = {ord(c) for c in characters if c.isprintable()}
  missing -= glyphs(font_manager.findfont(_FONT)) if missing else set()
  # Sans serif first; the font of last resort has boxes for all characters.
  upright = [
    font
    for font in font_manager.fontManager.ttflist
    if font.style == 'normal'
    and font.weight in (400, 'normal', 'regular')
    and not font.name.startswith(('Last Resort', 'STIXSize', 'STIXNon', 'cm'))
  ]
  for font in sorted(upright, key=lambda f: ('Sans' not in f.name, f.name)):
    if not missing:
      break
    if covered := missing & glyphs(font.fname):
      families.append(font.name)
      missing -= covered
  return tuple(families)


def blank(
  width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Any, Any]:
  """Makes a figure outside pyplot: no global state, nothing to close.

  Width and height are in inches, rows and columns of axes; `grid` is for
  `Figure.subplots`, such as height_ratios.

  Returns:
    The figure, and its axes or array of axes.
  """
  from matplotlib.backends import backend_agg

  figure = _shown()((width, height), layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  return figure, figure.subplots(rows, columns, **grid)


@functools.cache
def _shown() -> Any:
  """The class of figures that a notebook shows, though pyplot made none."""
  from matplotlib import figure as figure_lib

  class Shown(figure_lib.Figure):
    def _repr_png_(self) -> bytes:
      file = io.BytesIO()
      write(self, file)
      return file.getvalue()

  return Shown


def panels(
  count: int,
  columns: int,
  tall: float,
  xlabel: str = '',
  ylabel: str = '',
  *,
  head: float = 0.35,
  width: float = WIDTH,
) -> tuple[Any, list[Any]]:
  """Makes a figure of panels with common axes, labelled on the outer ones.

  There are `columns` side by side, `tall` times as high as wide, each with
  `head` inches for its title. The width of all is in inches.
  """
  rows = -(-count // columns)
  height = rows * ((width - 0.7) / columns * tall + head) + 0.5
  figure, grid = blank(
    width, height, rows, columns, squeeze=False, sharex=True, sharey=True
  )
  for k, axes in enumerate(grid.flat):
    axes.set_visible(k < count)
    axes.tick_params(labelbottom=k + columns >= count, labelsize=9)
    if k + columns >= count:
      axes.set_xlabel(xlabel, fontsize=10)
    if k % columns == 0:
      axes.set_ylabel(ylabel, fontsize=10)
  return figure, list(grid.flat[:count])


def _legend(figure: Any) -> None:
  """Names what is labelled, once, below the panels, which keep their size."""
  named: dict[str, Any] = {}
  for axes in figure.axes:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      named.setdefault(label, handle)
  if not named:
    return
  labels = [shorten(label, 58) for label in named]
  # Inches of an entry: its mark, and its letters.
  width = 0.5 + 0.065 * max(map(len, labels))
  rows = -(-len(labels) // max(1, int(figure.get_figwidth() / width)))
  figure.set_figheight(figure.get_figheight() + 0.2 * rows + 0.1)
  columns = -(-len(labels) // rows)
  figure.legend(named.values(), labels, loc='outside lower left', ncols=columns)


def canvas(width: float, height: float, inches: float = WIDTH) -> Any:
  """Makes a figure and its axes for `tile`: no ticks, ordinates downwards.

  Width and height of the axes are in units of an image's side.
  """
  figure, axes = blank(inches, inches * height / width)
  axes.set_axis_off()
  axes.set(xlim=(-0.05, width), ylim=(height, -0.05))
  figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02)
  return figure, axes


def tile(
  axes: Any, image: np.ndarray, x: float, y: float, size: float = 1
) -> None:
  """Draws an image of one or three channels as a square; (x, y) is its top."""
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, -1)
  look = {'interpolation': 'nearest', 'aspect': 'auto'}
  axes.imshow(image, extent=(x, x + size, y + size, y), **look)


def ramp(colour: str, most: float = 1.0) -> Any:
  """Makes a colour map from nothing to a colour of opacity `most`."""
  from matplotlib import colors

  ends = [colors.to_rgba(colour, alpha) for alpha in (0, most)]
  return colors.LinearSegmentedColormap.from_list('ramp', ends)


# Texts.


def number(value: float) -> str:
  """Formats a number in three significant digits, for labels."""
  if not math.isfinite(value):
    return 'not finite'
  if value == 0 or 1e-3 <= abs(value) < 1e4:
    digits = 3 - len(str(int(abs(value)))) if abs(value) >= 1 else 3
    return f'{value:.{max(digits, 0)}f}'.replace('-', '−')
  return f'{value:.1e}'.replace('-', '−')


def power(value: float) -> str:
  """Formats a tick of a logarithmic axis: 10⁻³, 3·10⁻⁴, 0.5."""
  if value == 0 or 0.01 <= abs(value) < 1e4:
    return f'{value:g}'.replace('-', '−')
  digits, exponent = f'{value:.2e}'.split('e')
  mantissa = f'{float(digits):g}'.replace('-', '−')
  raised = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')
  high = str(int(exponent)).translate(raised)
  return f'10{high}' if mantissa == '1' else f'{mantissa}·10{high}'


def zero_ticks(values: Sequence[float], least: float = 0.0) -> list[float]:
  """Returns ticks of an axis that is logarithmic but has a place for 0.

  They are 0 if any of the values is below `least`; then powers of ten, or 1, 2
  and 5 times these, from the least value above it to the greatest.
  """
  from matplotlib import ticker

  good = [v for v in values if math.isfinite(v)]
  positive = [v for v in good if v > 0 and v >= least] or [least or 1.0]
  low, high = min(positive), max(positive)
  decades = math.log10(high / low)
  if 0 < decades < 0.7:
    ticks = list(map(float, ticker.MaxNLocator(4).tick_values(low, high)))
  else:
    subs = (1, 2, 5) if decades < 2 else (1,)
    exponents = range(
      math.floor(math.log10(low)),
      math.ceil(math.log10(high)) + 1,
      1 + int(decades) // 7,
    )
    ticks = [m * 10.0**e for e in exponents for m in subs]
  shown = [t for t in ticks if low * 0.999 <= t <= high * 1.001] or [low]
  return [0.0] * (min(good, default=low) < low) + shown


def log_with_zero(
  axis: Any, values: Sequence[float], least: float = 0.0
) -> None:
  """Makes an axis logarithmic, and linear from its least positive value to 0.

  It shows the values; positive ones below `least` are in the linear part.
  """
  from matplotlib import ticker

  ticks = zero_ticks(values, least)
  good = [v for v in values if math.isfinite(v) and v >= least and v > 0]
  low, high = min(good, default=least or 1.0), max(good, default=1.0)
  pad = max(high / low, 3) ** 0.06
  scale: dict[str, Any] = {'value': 'log'}
  bottom = low / pad
  if ticks[0] == 0:
    # The linear part is as long as an eighth of the others, or a third of one.
    span = max(0.35, math.log10(high / low) / 8)
    scale = {'value': 'symlog', 'linthresh': low, 'linscale': span}
    bottom = -0.15 * low
  x = axis.axis_name == 'x'
  (axis.axes.set_xscale if x else axis.axes.set_yscale)(**scale)
  (axis.axes.set_xlim if x else axis.axes.set_ylim)(bottom, high * pad)
  axis.set_ticks(ticks, [power(tick) for tick in ticks])
  axis.set_minor_locator(ticker.NullLocator())


def shorten(text: str, length: int = 22) -> str:
  """Leaves out a text's middle where it is too long for its place."""
  text = printable(text)
  if len(text) <= length:
    return text
  half = (length - 1) // 2
  return f'{text[: length - 1 - half]}…{text[-half:]}'


def printable(text: Any) -> str:
  """Returns a text that UTF-8 can hold: undecodable bytes become escapes."""
  return str(text).encode('utf-8', 'backslashreplace').decode('utf-8')


def sentences(*parts: Any) -> str:
  """Joins those sentences that are not empty or false."""
  return ' '.join(part for part in parts if part)


def real(value: float | None) -> float:
  """Returns the number; NaN where JSON has none."""
  return math.nan if value is None else float(value)


def last(values: np.ndarray) -> str:
  """Formats the last number that is finite."""
  good = values[np.isfinite(values)]
  return number(good[-1]) if len(good) else '(no number)'


# Rows.


def grouped(rows: Rows, *columns: int) -> dict[Any, Rows]:
  """Parts rows by the value in a column, or by the values in several."""
  groups: dict[Any, Rows] = {}
  for row in rows:
    key = tuple(row[i] for i in columns)
    groups.setdefault(key if len(columns) > 1 else key[0], []).append(row)
  return groups


def bins(edges: np.ndarray, heights: np.ndarray) -> Rows:
  """Returns the left edge, the right edge and the height of each bin."""
  numbers = (edges[:-1].tolist(), edges[1:].tolist(), heights.tolist())
  return list(zip(*numbers, strict=True))


# Curves over steps.


def ema(values: Sequence[float] | np.ndarray, span: float) -> np.ndarray:
  """Computes an exponential moving average without a start-up bias.

  With a = 2 / (span + 1), the average after t values is
  sum_i (1 - a)^(t - i) x_i / sum_i (1 - a)^(t - i). Values that are not finite
  have no weight, and NaN for their average. A span of 1 returns the values.
  """
  decay = 1 - 2 / (span + 1)
  total = weight = 0.0
  result = np.full(len(values), np.nan)
  for i, value in enumerate(values):
    total, weight = decay * total, decay * weight
    if math.isfinite(value):
      total, weight = total + value, weight + 1
      result[i] = total / weight
  return result


def smoothing(count: int) -> int:
  """Returns the span of the average that is drawn: a tenth of the values."""
  return max(1, count // 10)


# The default name and meaning of a dashed line.
CEILING = ('ceiling', 'the most that the estimator can say')


class Line(NamedTuple):
  """One curve: logged values of one term of one run.

  Attributes:
    label: its name in the legend.
    steps: shape [n].
    values: shape [n]; NaN where there is none.
    ceiling: shape [n], the level to compare the value with, or None.
  """

  label: str
  steps: list[int]
  values: list[float]
  ceiling: list[float] | None = None


def curves(
  name: str,
  title: str,
  lines: Sequence[Line],
  *,
  unit: str,
  xlabel: str = 'step',
  caption: str = '',
  scale: float = 1.0,
  dashed: tuple[str, str] = CEILING,
  palette: Sequence[str] = (),
) -> Picture:
  """Draws values over steps: raw faint, moving average bold, ceilings dashed.

  The values are multiplied with `scale` before anything else, such as 100 for
  percent; `dashed` is what the lines' ceilings are called, and what they mean;
  `palette` has labels in the order of the colours, where the lines are some of
  those that other pictures show.
  """
  rows: Rows = []
  spans, gaps, ends = [1], [], []
  for line in lines:
    values = scale * np.array(line.values, float)
    count = len(values)
    spans.append(smoothing(count))
    average = ema(values, spans[-1])
    tops = scale * np.array(line.ceiling or [math.nan] * count)
    top = tops.tolist() if line.ceiling else [None] * count
    columns = (line.steps, values.tolist(), average.tolist(), top)
    rows += [(line.label, *row) for row in zip(*columns, strict=True)]
    if len(bad := np.flatnonzero(~np.isfinite(values))):
      gaps.append(
        f'{line.label} was not finite at {len(bad)} of {count} logged steps, '
        f'first at {line.steps[bad[0]]} (crosses).'
      )
    ends.append(f'{line.label} {last(average)}')
  drawn = 'As logged.'
  if max(spans) > 1:
    drawn = f'Faint: as logged; bold: moving average over {max(spans)} values.'
  if any(line.ceiling for line in lines):
    drawn += f' Dashed: {dashed[1]}.'
  return Picture(
    name,
    title,
    sentences(caption, drawn, *gaps),
    f'{title} over {xlabel}; at the end: {", ".join(ends)}.',
    ('line', 'step', 'value', 'average', 'ceiling'),
    rows,
    lambda: _draw_curves(rows, unit, xlabel, dashed[0], palette),
  )


def _draw_curves(
  rows: Rows, unit: str, xlabel: str, dashed: str, palette: Sequence[str]
) -> Any:
  figure, axes = blank(WIDTH, 3.0)
  lines = grouped(rows, 0)
  names = dict.fromkeys([*palette, *lines])
  colours = dict(zip(names, itertools.cycle(COLOURS), strict=False))
  ceilings: dict[float, tuple[str, np.ndarray, np.ndarray]] = {}
  for name, mine in lines.items():
    x, y, mean, top = np.array([row[1:] for row in mine], float).T
    y = np.where(np.isfinite(y), y, np.nan)
    look: dict[str, Any] = {'color': colours[name]}
    if np.nanmax(np.abs(y - mean), initial=0) > 0:
      axes.plot(x, y, alpha=0.35, lw=1, **look)
    # A gap on both sides of a point would hide it, so it gets a dot.
    lone = len(x) == 1 or np.isnan(y).any()
    look |= {'lw': 2.2, 'marker': '.' if lone else None}
    axes.plot(x, mean, label=f'{name} {last(mean)}', **look)
    if len(bad := x[np.isnan(y)]):
      look = {'color': BAD, 'clip_on': False, 'ls': '', 'marker': 'x'}
      bottom = axes.get_xaxis_transform()
      axes.plot(bad, np.full(len(bad), 0.02), transform=bottom, **look)
    if len(known := top[np.isfinite(top)]):
      ceilings.setdefault(round(known[-1], 9), (name, x, top))
  # Equal ceilings are one line, in nobody's colour.
  for value, (name, x, top) in sorted(ceilings.items()):
    shared = len(ceilings) == 1
    label = f'{dashed}{"" if shared else f" of {name}"} {number(value)}'
    colour = INK if shared else colours[name]
    axes.plot(x, top, **LEVEL | {'color': colour}, label=label)
  if max(row[1] for row in rows) >= 10_000:
    # Five digits at every tick would touch.
    axes.xaxis.set_major_formatter(
      lambda step, _: f'{step / 1000:g}k' if step else '0'
    )
  axes.set(xlabel=xlabel, ylabel=unit)
  axes.margins(x=0.01, y=0.08)
  return figure


# Probes.


def probe_name(probe: str) -> str:
  """Returns what a probe of probes.json is called in print."""
  names = {'mlp': 'MLP', 'knn': 'kNN', 'svm': 'SVM'}
  names['linear_few'] = 'linear, few labels'
  return names.get(probe, probe.replace('_', ' '))


def probes(
  results: Sequence[Mapping[str, Any]], name: str = 'probes'
) -> Picture:
  """Draws the accuracy of every probe, beside untrained and raw data.

  The results are those of a probes.json.
  """
  rows: Rows = []
  for r in results:
    numbers = (100 * real(r['mean']), 100 * real(r['std']), len(r['values']))
    rows.append((r['probe'], r['feature'], r['encoder'], *numbers))
  best = [
    f'{row[2]} {row[1]}, {probe_name(row[0])}: {number(row[3])} %'
    for row in rows
    if row[2] == 'trained'
  ]
  return Picture(
    name,
    'Probe accuracy',
    'Test accuracy of probes on frozen features; bars are one standard '
    'deviation over seeds. The same numbers as in the table.',
    f'Probe accuracy by probe and feature. {"; ".join(best)}.',
    ('probe', 'feature', 'encoder', 'mean_percent', 'std_percent', 'n'),
    rows,
    lambda: _draw_probes(rows),
  )


def _draw_probes(rows: Rows) -> Any:
  features = {
    probe: list(dict.fromkeys(row[1] for row in mine if row[2] != 'raw'))
    for probe, mine in grouped(rows, 0).items()
  }
  sizes = [len(names) or 1 for names in features.values()]
  height = 1 + 0.3 * sum(sizes) + 0.25 * len(sizes)
  look: dict[str, Any] = {'squeeze': False, 'sharex': True}
  look['height_ratios'] = sizes
  figure, grid = blank(WIDTH, height, rows=len(sizes), **look)
  panels = grid[:, 0]
  looks = {
    'trained': {'color': COLOURS[0], 'marker': 'o'},
    'untrained': {'color': COLOURS[1], 'marker': 's'},
  }
  for axes, (probe, names) in zip(panels, features.items(), strict=True):
    for _, feature, encoder, mean, std, _ in grouped(rows, 0)[probe]:
      if encoder == 'raw':
        axes.axvline(mean, **LEVEL, label=f'raw {feature}')
        continue
      look = BARS | {'ls': '', 'ms': 7, 'zorder': 3} | looks.get(encoder, {})
      bar = std if math.isfinite(std) else None
      axes.errorbar(mean, names.index(feature), xerr=bar, label=encoder, **look)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6), title=probe_name(probe))
    axes.tick_params(axis='y', length=0)
  low, high = panels[0].get_xlim()
  panels[-1].set(xlabel='test accuracy, %', xlim=(low, min(high, 100.5)))
  return figure


# Embeddings.


def principal_components(
  features: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  *,
  name: str,
  title: str,
  noun: str = 'images',
) -> Picture:
  """Draws the first two principal components, coloured by class.

  The title says whose features these are, the noun what the examples are.
  """
  points, fractions = representations.pca(features)
  if points.shape[1] == 1:
    points = np.pad(points, ((0, 0), (0, 1)))
  axes = [
    f'component {i + 1}: {100 * v:.1f} % of the variance'
    for i, v in enumerate(fractions)
  ]
  caption = (
    f'The first two principal components of {len(labels)} test {noun}; they '
    f'hold {100 * fractions.sum():.1f} % of the variance.'
  )
  texts = (name, f'PCA, {title}', caption)
  return _map(texts, points, labels, class_names, [*axes, ''][:2])


def tsne(
  features: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  *,
  name: str,
  title: str,
  noun: str = 'images',
) -> Picture:
  """Draws a t-SNE map, coloured by class.

  Its perplexity, about how many neighbours count, is 30 or less, where there
  are few examples. Title and noun are as of `principal_components`.
  """
  import threadpoolctl  # type: ignore[import-untyped]
  from sklearn import manifold

  perplexity = min(30.0, (len(labels) - 1) / 3)
  model = manifold.TSNE(
    perplexity=perplexity, random_state=0, init='pca', learning_rate='auto'
  )
  # Its threads wait by spinning: on a busy machine eight times the work.
  with threadpoolctl.threadpool_limits(1):
    points = model.fit_transform(np.asarray(features, np.float32))
  caption = (
    f't-SNE of {len(labels)} test {noun}: perplexity {perplexity:g}, seed 0, '
    f'PCA start. Distances between groups, and their sizes, mean nothing.'
  )
  return _map((name, f't-SNE, {title}', caption), points, labels, class_names)


def _map(
  texts: tuple[str, str, str],
  points: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  axes_names: Sequence[str] = (),
) -> Picture:
  """Draws points by class; the texts are name, title and caption."""
  rows: Rows = [
    (i, int(label), printable(class_names[label]), float(x), float(y))
    for i, (label, (x, y)) in enumerate(zip(labels, points, strict=True))
  ]
  colours = class_colours(len(class_names))

  def draw() -> Any:
    figure, axes = blank(WIDTH, WIDTH - 0.6)
    x, y = ([row[i] for row in rows] for i in (3, 4))
    table = [colours[row[1]] for row in rows]
    axes.scatter(x, y, s=10, c=table, linewidths=0, alpha=0.8)
    axes.set(xticks=[], yticks=[])
    if axes_names:
      axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
    else:
      axes.spines[['left', 'bottom']].set_visible(False)
    name_classes(axes, {row[1]: row[2] for row in rows}, colours)
    return figure

  count = len(set(labels.tolist()))
  alt = f'Scatter plot, {texts[1]}; {count} classes in colours.'
  return Picture(*texts, alt, ('index', 'label', 'class', 'x', 'y'), rows, draw)


def class_colours(count: int) -> list[tuple[float, float, float]]:
  """Returns colours: tab10 up to ten, hues around the circle beyond."""
  import matplotlib

  if count <= 10:
    table = matplotlib.colormaps['tab10']
    return [table(i)[:3] for i in range(count)]
  return [
    colorsys.hls_to_rgb(i / count, (0.42, 0.58)[i % 2], 0.7)
    for i in range(count)
  ]


def name_classes(
  axes: Any, names: Mapping[int, str], colours: Sequence[Any]
) -> None:
  """Names up to twenty classes in the legend; more would fill the page."""
  for k in sorted(names) if len(names) <= 20 else ():
    axes.plot([], [], 'o', color=colours[k], label=shorten(names[k]))


# Retrieval.

_NEIGHBOUR_COLUMNS = (
  'query', 'features', 'rank', 'neighbour', 'distance', 'query_class',
  'neighbour_class', 'correct',
)  # fmt: skip
_QUERIES = 10


def retrieval(
  images: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  features: Mapping[str, np.ndarray],
  *,
  count: int = 5,
  title: str = 'Nearest neighbours',
) -> Picture:
  """Draws random test images, each with its nearest neighbours side by side.

  Ten queries, drawn by a fixed seed: nobody chose them for their looks. There
  are so many neighbours by the cosine of each of the features, under its name;
  the last ones, the control, are by the Euclidean distance of the pixels.
  """
  find = representations.nearest_neighbours
  nearest = {key: find(x, count) for key, x in features.items()}
  nearest['pixels'] = find(images, count, 'euclidean')
  names = [printable(class_names[label]) for label in labels]
  random = np.random.default_rng(0)
  queries = random.choice(len(labels), min(_QUERIES, len(labels)), False)
  rows: Rows = []
  for query in queries.tolist():
    for key, (indices, distances) in nearest.items():
      found = zip(indices[query].tolist(), distances[query], strict=True)
      for rank, (i, distance) in enumerate(found, 1):
        same = int(labels[query] == labels[i])
        classes = (names[query], names[i], same)
        rows.append((query, key, rank, i, float(distance), *classes))
  return Picture(
    'neighbours',
    title,
    f'Left: random test images (seed 0). Beside each its {count} nearest among '
    f'the {len(labels) - 1} others, by cosine (pixels: Euclidean). Solid green '
    f'frame: same class; dashed red: another.',
    f'Grid of {len(queries)} query images with {count} neighbours each by '
    f'{" and by ".join(nearest)}; {sum(row[-1] for row in rows)} of '
    f'{len(rows)} are of the same class.',
    _NEIGHBOUR_COLUMNS,
    rows,
    lambda: _draw_retrieval(rows, images),
  )


def _draw_retrieval(rows: Rows, images: np.ndarray) -> Any:
  from matplotlib import patches

  queries, keys = grouped(rows, 0, 5), list(grouped(rows, 1))
  count = max(row[2] for row in rows)
  # In units of an image: the queries' names and images, and a block of
  # neighbours a key, below its name.
  step, top, query_x, gap = 1.14, 0.8, 3.1, 0.4
  block = count * step + gap
  start = query_x + step + gap
  figure, axes = canvas(start + len(keys) * block, top + len(queries) * step)
  look = {'ha': 'center', 'va': 'center', 'fontsize': 8}
  for k, key in enumerate(keys):
    middle = start + k * block + count * step / 2
    axes.text(middle, top / 2, key, **look)
  look['ha'] = 'right'
  for q, ((query, class_name), mine) in enumerate(queries.items()):
    y = top + q * step
    axes.text(query_x - 0.15, y + 0.5, shorten(class_name, 11), **look)
    tile(axes, images[query], query_x, y)
    for _, key, rank, index, *_, same in mine:
      x = start + keys.index(key) * block + (rank - 1) * step
      tile(axes, images[index], x, y)
      frame: dict[str, Any] = {'fill': False, 'lw': 1.5}
      frame |= {'ec': GOOD if same else BAD, 'ls': '-' if same else (0, (2, 1))}
      axes.add_patch(patches.Rectangle((x, y), 1, 1, **frame))
  return figure


# Images.

TEST = 'test images'


def views(
  originals: np.ndarray, changed: np.ndarray, *, title: str, caption: str
) -> Any:
  """Draws images, a row each, beside what augmentation makes of them.

  Args:
    originals: uint8, shape [n, H, W, C], of one or three channels.
    changed: uint8, shape [n, views, h, w, C], drawn as large as originals.
    title: a few words above.
    caption: sentences below, of any length.

  Returns:
    The matplotlib figure.
  """
  rows, count = changed.shape[:2]
  # In units of an image, with a wider gap behind the original.
  step, start = 1.06, 1.3
  wide, high = start + count * step - 0.04, rows * step - 0.04
  # As wide as other pictures of eight views; text needs half of that.
  inches = 1.35 * WIDTH / 9.8
  width = max(wide * inches, 0.7 * WIDTH)
  lines = textwrap.wrap(caption, round(15 * width))
  with style(title + caption):
    figure, axes = canvas(wide, high, width)
    figure.set_figheight(high * inches + 0.16 * len(lines) + 0.55)
    axes.set_aspect('equal')
    for i in range(rows):
      tile(axes, originals[i], 0, i * step)
      for j in range(count):
        tile(axes, changed[i, j], start + j * step, i * step)
    axes.set_aspect('equal')
    axes.text(0.5, -0.1, 'original', ha='center', va='bottom', fontsize=9)
    axes.text(start, -0.1, 'views', ha='left', va='bottom', fontsize=9)
    figure.suptitle(title, x=0.01, ha='left', fontsize=11)
    figure.supxlabel('\n'.join(lines), x=0.01, ha='left', fontsize=8.5)
  return figure


def reconstructions(
  arrays: Mapping[str, np.ndarray],
  *,
  name: str = 'reconstructions',
  caption: str = '',
) -> Picture:
  """Draws test images, and below them what decoders make of their features.

  Args:
    arrays: uint8 [n, H, W, C]: 'test images', and by the name of their row
      those that decoders made; others are not drawn.
    name: stem of the files.
    caption: by default that of decoders of frozen features.
  """
  images = {
    k: x
    for k, x in arrays.items()
    if x.ndim == 4 and k not in (TEST, 'rated_images')
  }
  count = len(arrays[TEST])
  rows: Rows = []
  for label, others in images.items():
    differences = (others.astype(float) - arrays[TEST]) / 127.5
    errors = np.mean(differences**2, axis=(1, 2, 3))
    rows += [(label, i, float(errors[i])) for i in range(count)]
  means = {
    label: number(float(np.mean([row[-1] for row in mine])))
    for label, mine in grouped(rows, 0).items()
  }
  listed = ', '.join(f'{label} {mean}' for label, mean in means.items())
  return Picture(
    name,
    'Reconstructions',
    caption
    or f'The first {count} test images, and below them what a decoder makes of '
    'their features; the mean image needs none.',
    f'Grid of {count} test images and their reconstructions, whose mean '
    f'squared errors of pixels in [-1, 1] are: {listed}.',
    ('features', 'image', 'squared error'),
    rows,
    lambda: _draw_reconstructions({TEST: arrays[TEST], **images}),
  )


def _draw_reconstructions(images: Mapping[str, np.ndarray]) -> Any:
  # In units of an image: a margin for the rows' names, then the images.
  start, step = 2.6, 1.06
  count = max(map(len, images.values()))
  figure, axes = canvas(start + count * step, len(images) * step)
  for r, (name, row) in enumerate(images.items()):
    look = {'ha': 'right', 'va': 'center', 'fontsize': 9}
    label = shorten(printable(name), 18)
    axes.text(start - 0.15, r * step + 0.5, label, **look)
    for i, image in enumerate(row):
      tile(axes, image, start + i * step, r * step)
  return figure


# Scores and spectra.


def scores(
  positive: np.ndarray, negative: np.ndarray, *, name: str, title: str
) -> Picture:
  """Draws how the critic scores joint pairs and pairs of different images.

  Raises:
    ValueError: there is no finite score of one kind.
  """
  given = {'positive': positive, 'negative': negative}
  groups = {k: v[np.isfinite(v)].astype(float) for k, v in given.items()}
  for kind, values in groups.items():
    if not len(values):
      raise ValueError(f'None of the {kind} scores is finite.')
  dropped = len(positive) + len(negative) - sum(map(len, groups.values()))
  both = np.concatenate(list(groups.values()))
  edges = np.histogram_bin_edges(both, bins=60)
  densities = {
    kind: bins(edges, np.histogram(values, edges, density=True)[0])
    for kind, values in groups.items()
  }
  area = representations.auroc(groups['positive'], groups['negative'])
  means = {kind: number(float(v.mean())) for kind, v in groups.items()}
  caption = (
    f'Scores of {len(positive)} pairs from one image (positive) and '
    f'{len(negative)} pairs from two (negative). A positive pair outscores a '
    f'negative one in {100 * area:.1f} % of cases (50 % = no information).'
  )
  if dropped:
    caption += f' {dropped} scores were not finite.'

  def draw() -> Any:
    figure, axes = blank(WIDTH, 2.8)
    for (kind, mean), colour in zip(means.items(), COLOURS, strict=False):
      stairs(axes, densities[kind], colour, f'{kind}, mean {mean}')
    axes.set(xlabel='score', ylabel='density')
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    return figure

  return Picture(
    name,
    f'Critic scores, {title}',
    caption,
    f'Histograms of critic scores, {title}: mean {means["positive"]} for '
    f'positive and {means["negative"]} for negative pairs.',
    ('kind', 'left', 'right', 'density'),
    [(kind, *row) for kind, mine in densities.items() for row in mine],
    draw,
  )


def stairs(
  axes: Any, rows: Any, colour: str, label: str = '', alpha: float = 0.35
) -> None:
  """Draws a histogram of rows (left, right, height), filled and outlined."""
  left, right, height = np.array(rows, float).T
  edges = (*left, right[-1])
  axes.stairs(height, edges, fill=True, color=colour, alpha=alpha, label=label)
  axes.stairs(height, edges, color=colour, linewidth=1.6)


def spectrum(
  features: Mapping[str, np.ndarray], *, name: str, title: str
) -> Picture:
  """Draws singular values of centred features: the directions they use.

  The features are by the label of their line.
  """
  rows: Rows = []
  ranks, words = {}, []
  for label, x in features.items():
    values = representations.singular_values(np.asarray(x))
    relative = (values / (values.max() or 1.0)).tolist()
    numbers = enumerate(zip(values.tolist(), relative, strict=True), 1)
    rows += [(label, i, *pair) for i, pair in numbers]
    ranks[label] = float(representations.effective_rank_of_spectrum(values))
    words.append(f'{label} {ranks[label]:.1f} of {len(values)}')

  def draw() -> Any:
    figure, axes = blank(WIDTH, 3.0)
    # Rounding noise and dead units would stretch the axis to nothing.
    shown = [row for row in rows if row[3] > 1e-6]
    for k, (label, mine) in enumerate(grouped(shown, 0).items()):
      _, x, _, y = zip(*mine, strict=True)
      name = f'{label}, effective rank {ranks[label]:.1f}'
      axes.plot(x, y, COLOURS[k % len(COLOURS)], lw=2.2, label=name)
    log_with_zero(axes.yaxis, [row[3] for row in shown])
    axes.set_xlabel('index of the singular value')
    axes.set_ylabel('relative to the largest')
    axes.margins(x=0.01)
    return figure

  text = ', '.join(words)
  return Picture(
    name,
    title,
    f'Singular values of the centred features, relative to the largest. '
    f'Effective rank (exponential of their entropy): {text}.',
    f'{title}: falling singular values. Effective rank: {text}.',
    ('line', 'index', 'singular_value', 'relative'),
    rows,
    draw,
  )
