"""Pictures of classifiers with a bottleneck: what they keep and how they err.

Information is drawn in bits; arrays that hold nats say so. The rate, the mean
KL divergence of the code's posterior from its marginal, is an upper bound on
I(Z;X) and can be a loose one: it is never called I(Z;X) itself.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax.report import figures

_LN2 = math.log(2)

RATE = 'rate (upper bound on I(Z;X))'
# Bits. A code of less has collapsed; how far would only stretch the axis.
_LEAST_RATE = 0.01


# Sweeps over beta.


def sample_errors(row: Mapping[str, Any]) -> dict[int, str]:
  """Fields error_S of a row by their number of posterior samples S, ascending.

  Args:
    row: a result of a classification.json, or a row of a sweep.json.

  Returns:
    Such as {1: 'error_1', 12: 'error_12'}.
  """
  found = [re.fullmatch(r'error_(\d+)', key) for key in row]
  return dict(sorted((int(m[1]), m[0]) for m in found if m))


def over_seeds(
  rows: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> list[tuple[str, str, float, float, float, int]]:
  """Means and deviations of a sweep's rows over its seeds.

  Args:
    rows: the rows of a sweep.json.
    fields: what to average.

  Returns:
    (field, split, beta, mean, standard deviation, n) in order of field, split
    and beta. The deviation is the sample's (n - 1), NaN for one seed. Values
    that are not finite make a mean that is not.
  """
  result = []
  splits = dict.fromkeys(row['split'] for row in rows)
  betas = sorted({float(row['beta']) for row in rows})
  for field in fields:
    for split in splits:
      for beta in betas:
        values = [
          figures.real(row.get(field))
          for row in rows
          if row['split'] == split and float(row['beta']) == beta
        ]
        if values:
          std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
          mean = float(np.mean(values))
          result.append((field, split, beta, mean, std, len(values)))
  return result


def power(value: float) -> str:
  """A number as a label of a logarithmic axis: 10⁻³, 3·10⁻⁴, 0.5."""
  if value == 0 or 0.01 <= abs(value) < 1e4:
    return f'{value:g}'.replace('-', '−')
  mantissa, exponent = f'{value:.2e}'.split('e')
  mantissa = f'{float(mantissa):g}'.replace('-', '−')
  high = str(int(exponent)).translate(
    str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')
  )
  return f'10{high}' if mantissa == '1' else f'{mantissa}·10{high}'


def beta_sweep(
  rows: Sequence[Mapping[str, Any]],
  *,
  classes: int | None = None,
  label_entropy_bits: float | None = None,
  log2_examples: float | None = None,
  name: str = 'beta_sweep',
) -> figures.Picture:
  """Error and rate against beta, mean and deviation over seeds.

  Args:
    rows: the rows of a sweep.json, of one kind of weights.
    classes: how many; draws log2 C beside the rate.
    label_entropy_bits: H(Y), drawn where `classes` is not given.
    log2_examples: of the training examples; draws log2 N beside the rate.
    name: stem of the files.

  Returns:
    The picture; its rows are quantity, split, beta, mean, std and n.

  Raises:
    ValueError: there are no rows.
  """
  if not rows:
    raise ValueError('A sweep needs at least one row, got none.')
  counts = sample_errors(rows[0])
  numbers = over_seeds(rows, [*counts.values(), 'rate_bits'])
  lines = []
  if classes:
    lines.append((math.log2(classes), f'log₂ C {math.log2(classes):.1f}'))
  elif label_entropy_bits is not None:
    lines.append((label_entropy_bits, f'H(Y) {label_entropy_bits:.1f}'))
  if log2_examples is not None:
    lines.append((log2_examples, f'log₂ N {log2_examples:.1f}'))
  seeds = {row[5] for row in numbers}
  said = [
    f'{"Mean of" if max(seeds) > 1 else "From"} {_span(seeds)} '
    f'seed{"s" if max(seeds) > 1 else ""}'
    + ('; bars: one standard deviation.' if max(seeds) > 1 else '.'),
    'Predictions average the probabilities of the stated number of samples of '
    'the code. Both vertical axes are logarithmic.',
    'The rate bounds I(Z;X) from above and may exceed it by far: on N examples '
    'I(Z;X) is at most log₂ N.',
  ]
  if any(row[0] != 'rate_bits' and row[3] <= 0 for row in numbers):
    said.append('Errors of 0 % stand at the bottom edge.')
  if any(row[0] == 'rate_bits' and row[3] < _LEAST_RATE for row in numbers):
    said.append(f'Rates below {_LEAST_RATE:g} bits stand there.')
  best = [
    min(mine, key=lambda row: row[3])
    for field in counts.values()
    if (
      mine := [
        row
        for row in numbers
        if row[:2] == (field, 'test') and math.isfinite(row[3])
      ]
    )
  ]
  ends = ', '.join(
    f'{figures.number(row[3])} % at beta {power(row[2])} with '
    f'{_samples(int(row[0].removeprefix("error_")))}'
    for row in best
  )
  return figures.Picture(
    name,
    'Error and rate against beta',
    ' '.join(said),
    f'Error and rate over beta. Least test error: {ends or "none"}.',
    ('quantity', 'split', 'beta', 'mean', 'std', 'n'),
    [tuple(row) for row in numbers],
    lambda theme: _draw_beta_sweep(numbers, lines, theme),
  )


def _draw_beta_sweep(
  rows: list[tuple[str, str, float, float, float, int]],
  lines: list[tuple[float, str]],
  theme: figures.Theme,
) -> Any:
  from matplotlib import ticker

  figure, (errors, rates) = figures.blank(
    theme, figures.WIDTH, 5.6, rows=2, sharex=True
  )
  place, ticks = _beta_axis(sorted({row[2] for row in rows}))
  fields = sorted({row[0] for row in rows} - {'rate_bits'}, key=_count)
  splits = list(dict.fromkeys(row[1] for row in rows))
  for axes, shown in ((errors, fields), (rates, ['rate_bits'])):
    panel = [row for row in rows if row[0] in shown]
    axes.set_yscale('log', nonpositive='clip')
    floor = _rate_floor if axes is rates else _floor
    bottom = floor(row[3] for row in panel)
    for field in shown:
      for split in splits:
        mine = [row for row in panel if row[:2] == (field, split)]
        # One sample is dashed and hollow where several are drawn too.
        hollow = len(shown) > 1 and field == shown[0]
        axes.errorbar(
          [place[row[2]] for row in mine],
          [max(row[3], bottom) for row in mine],
          yerr=[np.nan_to_num(row[4]) for row in mine],
          color=_split_colour(split, theme),
          linewidth=1.6 if hollow else 2.2,
          linestyle=(0, (4, 2)) if hollow else '-',
          marker='o',
          markersize=4.5,
          markerfacecolor=theme.ground if hollow else None,
          capsize=2.5,
          elinewidth=1.2,
        )
    # Long bars down to 0 must not stretch a logarithmic axis.
    tops = [row[3] + np.nan_to_num(row[4]) for row in panel]
    top = max((value for value in tops if math.isfinite(value)), default=1.0)
    # The levels are seen, too, whatever the rates are.
    levels = [value for value, _ in lines] if axes is rates else []
    axes.set_ylim(
      min([bottom, *levels]) / 1.25, max([top, bottom, *levels]) * 1.25
    )
    log_ticks(axes.yaxis)
  for value, text in lines:
    rates.axhline(value, color=theme.faint, linestyle=(0, (5, 3)), zorder=1)
    _inside(rates, 0.99, value, text, theme, ha='right')
  # The names stand over the panels, with their marks and in their colours.
  names = [(f'■ {s}', _split_colour(s, theme)) for s in splits]
  for k, field in enumerate(fields):
    mark = '○' if k == 0 and len(fields) > 1 else '●'
    names.append((f'{mark} {_samples(_count(field))}', theme.ink))
  for k, (text, colour) in enumerate(names):
    errors.text(
      k / len(names),
      1.03,
      text,
      transform=errors.transAxes,
      color=colour,
      fontsize=10,
    )
  rates.set_xscale('log')
  errors.set_ylabel('error, %')
  rates.set_ylabel('bits')
  rates.set_title(RATE, loc='left', fontsize=11)
  rates.set_xlabel('beta')
  rates.set_xticks(list(ticks), [power(beta) for beta in ticks.values()])
  rates.xaxis.set_minor_locator(ticker.NullLocator())
  # Ticks beyond the data are of no use.
  pad = (max(place.values()) / min(place.values())) ** 0.04 * 1.1
  rates.set_xlim(min(place.values()) / pad, max(place.values()) * pad)
  figure.align_ylabels()
  return figure


def _inside(
  axes: Any,
  x: float,
  y: float,
  text: str,
  theme: figures.Theme,
  above: bool = True,
  **settings: Any,
) -> None:
  """Writes along a level line, x as a share of the width."""
  from matplotlib import patheffects

  axes.annotate(
    text,
    (x, y),
    xycoords=('axes fraction', 'data'),
    xytext=(0, 2 if above else -2),
    textcoords='offset points',
    va='bottom' if above else 'top',
    fontsize=10,
    color=theme.faint,
    path_effects=[
      patheffects.withStroke(linewidth=2.5, foreground=theme.ground)
    ],
    **settings,
  )


def _beta_axis(
  betas: Sequence[float],
) -> tuple[dict[float, float], dict[float, float]]:
  """Where each beta stands on a log axis, and a beta for each tick's place.

  Zero has no place there: it stands a step left of the smallest.
  """
  known = [beta for beta in betas if beta > 0] or [1.0]
  place = {beta: beta for beta in known}
  low = math.floor(math.log10(min(known)) + 1e-9)
  high = math.ceil(math.log10(max(known)) - 1e-9)
  step = 1 + (high - low) // 7
  ticks = {10.0**k: 10.0**k for k in range(high, low - 1, -step)}
  if len(betas) > len(known) or not any(beta > 0 for beta in betas):
    zero = min(known) / 10 ** max(0.5, (high - low) / 8)
    place[0.0] = zero
    ticks[zero] = 0.0
  if not any(beta > 0 for beta in betas):
    place.pop(1.0)
  return place, ticks


def _floor(values: Iterable[float]) -> float:
  """The least place on a log axis: for 0 half the least positive value."""
  good = [value for value in values if math.isfinite(value)]
  positive = min((value for value in good if value > 0), default=1.0)
  return positive / (2 if min(good, default=0) <= 0 else 1)


def _rate_floor(values: Iterable[float]) -> float:
  good = [value for value in values if math.isfinite(value)]
  return max(min(good, default=0), _LEAST_RATE)


def log_ticks(axis: Any) -> None:
  """Plain numbers at 1, 2, 5 over two decades or fewer, else at decades."""
  from matplotlib import ticker

  low, high = axis.get_view_interval()
  decades = math.log10(high / low)
  subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
  axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=12))
  axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: power(value)))
  axis.set_minor_formatter(ticker.NullFormatter())


def _split_colour(split: str, theme: figures.Theme) -> str:
  return theme.colours[{'test': 0, 'train': 1}.get(split, 2)]


def _count(field: str) -> int:
  return int(field.removeprefix('error_'))


def _samples(count: int) -> str:
  return f'{count} sample{"" if count == 1 else "s"}'


def _span(values: Iterable[int]) -> str:
  low, high = min(values), max(values)
  return str(low) if low == high else f'{low} to {high}'


def information_plane(
  rows: Sequence[Mapping[str, Any]],
  label_entropy_bits: float,
  log2_examples: float | None = None,
  *,
  name: str = 'information_plane',
) -> figures.Picture:
  """What the code says of the label against what it costs, in bits.

  Args:
    rows: the rows of a sweep.json, of one kind of weights.
    label_entropy_bits: H(Y), the ceiling of I(Z;Y).
    log2_examples: log2 N of the training examples, or None.
    name: stem of the files.

  Returns:
    The picture; its rows are split, beta, the rate's mean and std, the mean and
    std of the bound on I(Z;Y), and n.

  Raises:
    ValueError: there are no rows.
  """
  if not rows:
    raise ValueError('A sweep needs at least one row, got none.')
  found = over_seeds(rows, ['rate_bits', 'izy_bits'])
  numbers: list[tuple[Any, ...]] = [
    (*a[1:3], *a[3:5], *b[3:5], a[5])
    for a in found
    for b in found
    if a[0] == 'rate_bits' and b[0] == 'izy_bits' and a[1:3] == b[1:3]
  ]
  test = [r for r in numbers if r[0] == 'test' and math.isfinite(r[4])]
  best = max(test, key=lambda row: row[4], default=None)
  alt = 'Information plane: lower bound on I(Z;Y) over rate.'
  if best:
    alt += (
      f' Highest on test: {best[4]:.2f} of H(Y) = {label_entropy_bits:.2f} '
      f'bits at beta {power(best[1])}, rate {figures.number(best[2])} bits.'
    )
  more = ''
  if len(_crowd(numbers, label_entropy_bits)) not in (0, len(numbers)):
    more = ' Top: those within half a bit of H(Y), enlarged.'
  if max(row[6] for row in numbers) > 1:
    more += ' Means over seeds; bars: one standard deviation.'
  return figures.Picture(
    name,
    'Information plane',
    'Lower bound on I(Z;Y), H(Y) minus the cross-entropy, against the rate, an '
    'upper bound on I(Z;X); points are joined in order of beta, which stands '
    'at the test points. Dotted: I(Z;Y) = rate, above which no code can lie.'
    + more,
    alt,
    (
      'split',
      'beta',
      'rate_bits',
      'rate_std',
      'izy_bits',
      'izy_std',
      'n',
    ),
    numbers,
    lambda theme: _draw_plane(
      numbers, label_entropy_bits, log2_examples, theme
    ),
  )


def _draw_plane(
  rows: list[tuple[Any, ...]],
  ceiling: float,
  log2_examples: float | None,
  theme: figures.Theme,
) -> Any:
  high = _crowd(rows, ceiling)
  zoomed = bool(high) and len(high) < len(rows)
  figure, panels = figures.blank(
    theme, figures.WIDTH, 6.6 if zoomed else 4.2, rows=1 + zoomed
  )
  panels = np.atleast_1d(panels)
  marked = {
    split: {row[1] for row in rows if row[0] == split}
    for split in dict.fromkeys(row[0] for row in rows)
  }
  owner = 'test' if 'test' in marked else next(iter(marked))
  for axes, near in zip(panels, [zoomed, False], strict=False):
    named = [row for row in rows if row[0] == owner]
    if zoomed:
      named = [row for row in named if (row in high) == near]
    _draw_plane_panel(
      figure, axes, rows, named, high if near else rows, ceiling, theme
    )
    left, right = axes.get_xlim()
    if log2_examples is not None and left < log2_examples < right:
      axes.axvline(
        log2_examples, color=theme.faint, linestyle=(0, (1, 2)), zorder=1
      )
      axes.text(
        log2_examples,
        1.01,
        f'log₂ N {log2_examples:.1f}',
        transform=axes.get_xaxis_transform(),
        ha='center',
        va='bottom',
        fontsize=10,
        color=theme.faint,
      )
  panels[-1].set_xlabel(f'{RATE}, bits')
  figure.supylabel('lower bound on I(Z;Y), bits', fontsize=11, color=theme.ink)
  return figure


def _crowd(
  rows: list[tuple[Any, ...]], ceiling: float
) -> list[tuple[Any, ...]]:
  """The rows that crowd below the ceiling; none if fewer than two betas do."""
  high = [row for row in rows if row[4] > ceiling - 0.5]
  return high if len({row[1] for row in high}) > 1 else []


def _draw_plane_panel(
  figure: Any,
  axes: Any,
  rows: list[tuple[Any, ...]],
  named: list[tuple[Any, ...]],
  framed: list[tuple[Any, ...]],
  ceiling: float,
  theme: figures.Theme,
) -> None:
  """Draws all rows, writes beta at those `named`, and frames those `framed`."""
  from matplotlib import patheffects

  axes.set_xscale('log', nonpositive='clip')
  bottom = _rate_floor(row[2] for row in rows)
  labels = []
  for split in dict.fromkeys(row[0] for row in rows):
    mine = sorted((row for row in rows if row[0] == split), key=lambda r: r[1])
    x = [max(row[2], bottom) for row in mine]
    axes.errorbar(
      x,
      [row[4] for row in mine],
      xerr=[np.nan_to_num(row[3]) for row in mine],
      yerr=[np.nan_to_num(row[5]) for row in mine],
      color=_split_colour(split, theme),
      linewidth=2,
      marker='o',
      markersize=5,
      elinewidth=1,
      zorder=3,
    )
    # The text stands at the right end, that of the least beta.
    good = [(a, row[4]) for a, row in zip(x, mine, strict=True)]
    good = [point for point in good if np.isfinite(point).all()]
    end = max(good, default=(0.0, math.nan))[1]
    labels.append((end, split, _split_colour(split, theme), 'bold'))
  wide = [max(row[2], bottom) for row in framed if math.isfinite(row[2])]
  wide = wide or [1.0]
  pad = (max(wide) / min(wide)) ** 0.06 * 1.05
  left, right = min(wide) / pad, max(wide) * pad
  low = min((r[4] for r in framed if math.isfinite(r[4])), default=0.0)
  span = max(ceiling - low, 1e-3)
  axes.set_xlim(left, right)
  # Room for the betas below the lowest point.
  axes.set_ylim(low - 0.22 * span, ceiling + 0.1 * span)
  axes.axhline(ceiling, color=theme.faint, linestyle=(0, (5, 3)), zorder=1)
  labels.append((ceiling, f'H(Y) {ceiling:.2f}', theme.faint, 'normal'))
  if left < ceiling:
    limit = np.geomspace(left, min(ceiling, right), 200)
    axes.plot(
      limit, limit, color=theme.faint, linestyle=':', linewidth=1.4, zorder=1
    )
  log_ticks(axes.xaxis)
  figures.label_right(figure, axes, labels)
  lines = np.concatenate([_pixels(line) for line in axes.lines])
  texts = []
  for row in named:
    if math.isfinite(row[2]) and math.isfinite(row[4]):
      at = axes.transData.transform((max(row[2], bottom), row[4]))
      spots = at + np.array(
        [(0, -18), (16, -14), (-16, -14), (24, 0), (0, 18), (-20, 12)]
      )
      # The roomiest of the places around the point.
      room = [np.hypot(*(lines - spot).T).min() for spot in spots]
      spot = spots[int(np.argmax(np.minimum(room, 17)))]
      texts.append(
        axes.text(
          *axes.transData.inverted().transform(spot),
          power(row[1]),
          fontsize=9,
          color=theme.ink,
          ha='center',
          va='center',
          zorder=4,
          path_effects=[
            patheffects.withStroke(linewidth=2.5, foreground=theme.ground)
          ],
        )
      )
  figures.push_apart(figure, axes, texts)


def _pixels(line: Any) -> np.ndarray:
  """Points all along a drawn line, in pixels; shape [n, 2]."""
  corners = line.get_transform().transform(line.get_xydata())
  share = np.linspace(0, 1, 40)[None, :, None]
  ends = corners[:-1, None], corners[1:, None]
  between = (ends[0] + share * (ends[1] - ends[0])).reshape(-1, 2)
  points = np.concatenate([corners, between])
  return points[np.isfinite(points).all(1)]


# A code of two dimensions.


def radius(level: float) -> float:
  """Radius within which a standard normal in two dimensions has this share.

  Args:
    level: a probability.

  Returns:
    sqrt(-2 ln(1 - level)): the squared radius is exponential with mean 2.

  Raises:
    ValueError: level is not between 0 and 1.
  """
  if not 0 < level < 1:
    raise ValueError(f'level must lie between 0 and 1, got {level}.')
  return math.sqrt(-2 * math.log1p(-level))


def outlines(
  means: np.ndarray, chols: np.ndarray, level: float = 0.95, points: int = 64
) -> np.ndarray:
  """Closed curves that hold a share of two-dimensional normal distributions.

  Args:
    means: shape [m, 2].
    chols: factors L of the covariances L L^T, shape [m, 2, 2].
    level: the share of the samples inside.
    points: how many points a curve has; the last is the first.

  Returns:
    Shape [m, points, 2].
  """
  angle = np.linspace(0, 2 * math.pi, points)
  circle = radius(level) * np.stack([np.cos(angle), np.sin(angle)])
  return means[:, None] + np.swapaxes(chols @ circle[None], 1, 2)


def ellipses(
  means: np.ndarray,
  chols: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  entropy: np.ndarray,
  extent: Sequence[float],
  level: float = 0.95,
  *,
  name: str = 'ellipses',
) -> figures.Picture:
  """Posteriors of a two-dimensional code over the decoder's entropy.

  Args:
    means: shape [m, 2].
    chols: factors L of the posteriors' covariances L L^T, shape [m, 2, 2].
    labels: shape [m].
    class_names: the classes' names.
    entropy: of q(y|z) in nats on a grid, shape [G, G]; rows ascend in the
      second coordinate.
    extent: the grid's x0, x1, y0, y1.
    level: the share of each posterior within its ellipse.
    name: stem of the files.

  Returns:
    The picture; its rows are index, label, class, mean and the factor's four
    entries.

  Raises:
    ValueError: level is not between 0 and 1.
  """
  radius(level)
  rows: list[tuple[Any, ...]] = [
    (
      i,
      int(label),
      class_names[label],
      *(float(v) for v in mean),
      *(float(v) for v in chol.ravel()),
    )
    for i, (label, mean, chol) in enumerate(
      zip(labels, means, chols, strict=True)
    )
  ]
  x0, x1, y0, y1 = (float(v) for v in extent)
  outside = sum(not (x0 <= row[3] <= x1 and y0 <= row[4] <= y1) for row in rows)
  area = math.pi * radius(level) ** 2 * np.abs(np.linalg.det(chols))
  caption = (
    f'Ellipses: {100 * level:g} % of the posterior p(z|x) of each of '
    f'{len(rows)} test images, coloured by class. Background: entropy of the '
    f'decoder q(y|z), from 0 to log₂ {len(class_names)} = '
    f'{math.log2(len(class_names)):.2f} bits.'
  )
  if outside:
    caption += f' Means outside the frame: {outside}.'
  return figures.Picture(
    name,
    'The code, two dimensions',
    caption,
    f'Posterior ellipses of {len(rows)} images in '
    f'{len(set(np.asarray(labels).tolist()))} classes; median area '
    f'{figures.number(float(np.median(area)))}.',
    ('index', 'label', 'class', 'x', 'y', 'l11', 'l12', 'l21', 'l22'),
    rows,
    lambda theme: _draw_ellipses(
      rows, class_names, entropy / _LN2, (x0, x1, y0, y1), level, theme
    ),
  )


def _draw_ellipses(
  rows: list[tuple[Any, ...]],
  class_names: Sequence[str],
  entropy: np.ndarray,
  extent: tuple[float, float, float, float],
  level: float,
  theme: figures.Theme,
) -> Any:
  from matplotlib import collections, colors

  x0, x1, y0, y1 = extent
  tall = min(max((y1 - y0) / (x1 - x0), 0.4), 1.3)
  figure, axes = figures.blank(theme, figures.WIDTH, 0.65 + 3.7 * tall)
  figure.get_layout_engine().set(w_pad=0.1)
  shade = colors.LinearSegmentedColormap.from_list(
    'entropy',
    [theme.ground, '#aab2bb' if theme is figures.LIGHT else '#5c6570'],
  )
  image = axes.imshow(
    entropy,
    extent=extent,
    origin='lower',
    interpolation='bilinear',
    cmap=shade,
    vmin=0,
    vmax=math.log2(len(class_names)),
  )
  numbers = np.array([row[3:] for row in rows], float).reshape(-1, 6)
  label = np.array([row[1] for row in rows], int)
  table = figures.class_colours(len(class_names))
  colours = [table[k] for k in label]
  axes.add_collection(
    collections.LineCollection(
      list(outlines(numbers[:, :2], numbers[:, 2:].reshape(-1, 2, 2), level)),
      colors=colours,
      linewidths=0.7,
      alpha=0.75,
    )
  )
  # A posterior may be too narrow for its ellipse to be seen.
  axes.scatter(numbers[:, 0], numbers[:, 1], s=2, c=colours, linewidths=0)
  axes.set_xlim(x0, x1)
  axes.set_ylim(y0, y1)
  axes.set_xlabel('z₁')
  axes.set_ylabel('z₂')
  # In the axes' own frame, so that it is as high as they are.
  bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.03, 1)))
  bar.set_label('entropy of q(y|z), bits', color=theme.ink)
  bar.ax.tick_params(color=theme.faint, labelcolor=theme.ink, labelsize=10)
  bar.outline.set_visible(False)
  inside = np.clip(numbers[:, :2], [[x0, y0]], [[x1, y1]])
  if len(set(label.tolist())) <= 20:
    names = {row[1]: row[2] for row in rows}
    figures.name_groups(
      figure, axes, inside[:, 0], inside[:, 1], label, names, theme, table
    )
  return figure


# What is remembered.


def remembered(
  rate: np.ndarray,
  rate_by_dimension: np.ndarray | None,
  labels: np.ndarray,
  class_names: Sequence[str],
  *,
  name: str = 'remembered',
) -> figures.Picture:
  """Bits kept of each image, in each dimension of the code, and of each class.

  Args:
    rate: of each image, nats, shape [n].
    rate_by_dimension: mean over images, nats, shape [K]; None where a full
      covariance does not part it into dimensions, which leaves them out.
    labels: shape [n].
    class_names: the classes' names.
    name: stem of the files.

  Returns:
    The picture; its rows are part ('example': a bin of the histogram,
    'dimension', 'class'), name, left and right edge, bits, std and count.
  """
  bits = np.asarray(rate, float) / _LN2
  split = () if rate_by_dimension is None else rate_by_dimension
  widths = np.asarray(split, float) / _LN2
  labels = np.asarray(labels)
  bins = min(50, max(10, round(math.sqrt(len(bits)))))
  count, edges = np.histogram(bits, bins=bins)
  rows: list[tuple[Any, ...]] = [
    ('example', '', float(a), float(b), None, None, int(c))
    for a, b, c in zip(edges[:-1], edges[1:], count, strict=True)
  ]
  rows += [
    ('dimension', str(k), None, None, float(widths[k]), None, None)
    for k in np.argsort(-widths, kind='stable')
  ]
  for k in sorted(set(labels.tolist())):
    mine = bits[labels == k]
    std = float(np.std(mine, ddof=1)) if len(mine) > 1 else math.nan
    mean = float(mine.mean())
    rows.append(('class', class_names[k], None, None, mean, std, len(mine)))
  middle = used = ''
  if len(widths):
    used = f'{int((widths > 0.1).sum())} of {len(widths)}'
    middle = (
      f' Middle: mean by dimension of the code, sorted; {used} above 0.1 bit.'
    )
    used = f'; {used} dimensions above 0.1 bit'
  classes = [row for row in rows if row[0] == 'class']
  most = max(classes, key=lambda row: row[4])
  least = min(classes, key=lambda row: row[4])
  return figures.Picture(
    name,
    f'Rate by image{", dimension" if used else ""} and class',
    f'Rate of {len(bits)} test images, an upper bound on what the code tells '
    f'of each. Top: histogram.{middle} Bottom: mean by class, bars one '
    f'standard deviation over its images.',
    f'Rate: mean {figures.number(float(bits.mean()))}, from '
    f'{figures.number(float(bits.min()))} to '
    f'{figures.number(float(bits.max()))} bits an image{used}; most for '
    f'{most[1]} ({figures.number(most[4])}), least for {least[1]} '
    f'({figures.number(least[4])}).',
    ('part', 'name', 'left', 'right', 'bits', 'std', 'count'),
    rows,
    lambda theme: _draw_remembered(rows, theme),
  )


def _draw_remembered(rows: list[tuple[Any, ...]], theme: figures.Theme) -> Any:
  by = {
    part: [row for row in rows if row[0] == part]
    for part in ('example', 'dimension', 'class')
  }
  # Many classes get thinner lines, and past fifty no names.
  many = len(by['class'])
  tall = 0.8 + min(0.2 * many, 6)
  heights = [2.3] * (1 + bool(by['dimension'])) + [tall]
  figure, panels = figures.blank(
    theme,
    figures.WIDTH,
    sum(heights),
    rows=len(heights),
    height_ratios=heights,
  )
  first, *middle, third = panels
  _, _, left, right, _, _, count = zip(*by['example'], strict=True)
  first.stairs(
    count, (*left, right[-1]), fill=True, color=theme.colours[0], alpha=0.35
  )
  first.stairs(count, (*left, right[-1]), color=theme.colours[0], linewidth=1.6)
  total = sum(row[4] * row[6] for row in by['class'])
  mean = total / sum(row[6] for row in by['class'])
  first.axvline(mean, color=theme.ink, linewidth=1.4)
  first.annotate(
    f'mean {figures.number(mean)}',
    (mean, 1),
    xycoords=('data', 'axes fraction'),
    xytext=(0, 2),
    textcoords='offset points',
    ha='center',
    va='bottom',
    fontsize=10,
    color=theme.ink,
  )
  first.set_xlabel('rate of an image, bits')
  first.set_ylabel('images')
  first.set_ylim(bottom=0)

  for second in middle:
    _draw_dimensions(second, [row[4] for row in by['dimension']], theme)

  y = np.arange(many)
  third.errorbar(
    [row[4] for row in by['class']],
    y,
    xerr=[np.nan_to_num(row[5]) for row in by['class']],
    linestyle='none',
    color=theme.colours[1],
    marker='o',
    markersize=6 if many <= 20 else 3,
    capsize=3 if many <= 20 else 0,
  )
  if many <= 50:
    names = [figures.shorten(row[1], 14) for row in by['class']]
    third.set_yticks(y, names, fontsize=11 if many <= 20 else 6)
  else:
    third.set_yticks([])
  third.tick_params(axis='y', length=0)
  third.set_ylim(many - 0.5, -0.5)
  third.set_xlabel('rate by class, bits')
  return figure


def _draw_dimensions(
  axes: Any, values: list[float], theme: figures.Theme
) -> None:
  used = sum(value > 0.1 for value in values)
  edges = np.arange(len(values) + 1) + 0.5
  if len(values) > 32:
    axes.stairs(values, edges, fill=True, color=theme.colours[2], alpha=0.8)
  else:
    axes.bar(edges[:-1] + 0.5, values, color=theme.colours[2], alpha=0.8)
  axes.axhline(0.1, color=theme.faint, linestyle=(0, (5, 3)), linewidth=1.2)
  axes.text(
    1,
    1.02,
    f'{used} of {len(values)} above 0.1 bit',
    transform=axes.transAxes,
    ha='right',
    va='bottom',
    fontsize=10,
    color=theme.ink,
  )
  axes.set_xlim(0.5, len(values) + 0.5)
  axes.set_ylim(bottom=min(0.0, *values))
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.set_xlabel('dimension of the code, sorted')
  axes.set_ylabel('rate, bits')


def hardest(
  images: np.ndarray,
  labels: np.ndarray,
  probabilities: np.ndarray,
  cross_entropy: np.ndarray,
  rate: np.ndarray | None,
  class_names: Sequence[str],
  *,
  count: int = 10,
  name: str = 'hardest',
) -> figures.Picture:
  """The images of highest loss, and those most and least remembered.

  Args:
    images: uint8, shape [n, H, W, C].
    labels: shape [n].
    probabilities: of the averaged prediction, shape [n, classes].
    cross_entropy: nats, shape [n].
    rate: nats, shape [n]; None for a classifier without a bottleneck, which
      leaves out the most and least remembered.
    class_names: the classes' names.
    count: how many of the hardest; half as many of the others.
    name: stem of the files.

  Returns:
    The picture; its rows are group, rank, index, true and predicted class, the
    prediction's probability, and cross-entropy and rate in bits.
  """
  said = np.asarray(probabilities).argmax(1)
  nats = {'hardest': np.asarray(cross_entropy, float)}
  chosen = {'hardest': (-nats['hardest']).argsort(kind='stable')[:count]}
  if rate is not None:
    rate = np.asarray(rate, float)
    few = max(1, count // 2)
    chosen['most bits'] = (-rate).argsort(kind='stable')[:few]
    chosen['fewest bits'] = rate.argsort(kind='stable')[:few]
  rows: list[tuple[Any, ...]] = [
    (
      group,
      rank + 1,
      int(i),
      class_names[labels[i]],
      class_names[said[i]],
      float(probabilities[i, said[i]]),
      float(cross_entropy[i]) / _LN2,
      None if rate is None else float(rate[i]) / _LN2,
    )
    for group, order in chosen.items()
    for rank, i in enumerate(order)
  ]
  wrong = sum(row[0] == 'hardest' and row[3] != row[4] for row in rows)
  more = ''
  if rate is not None:
    more = (
      ' Below: those with the highest and the lowest rate, labelled with their '
      'class and rate.'
    )
  return figures.Picture(
    name,
    'Hardest images' + ('' if rate is None else ', most and least remembered'),
    f'Of {len(labels)} test images those with the highest cross-entropy: true '
    f'class, predicted class (red: wrong) and cross-entropy.{more}',
    f'Grid of {len(chosen["hardest"])} images of highest loss; {wrong} of them '
    f'are predicted wrongly. First: {rows[0][3]}, predicted {rows[0][4]}.',
    (
      'group',
      'rank',
      'index',
      'true',
      'predicted',
      'probability',
      'cross_entropy_bits',
      'rate_bits',
    ),
    rows,
    lambda theme: _draw_hardest(rows, images, theme),
  )


def _draw_hardest(
  rows: list[tuple[Any, ...]], images: np.ndarray, theme: figures.Theme
) -> Any:
  if images.shape[-1] == 1:
    images = np.repeat(images, 3, -1)
  heads = {
    'hardest': 'highest cross-entropy',
    'most bits': 'most remembered',
    'fewest bits': 'least remembered',
  }
  # In units of an image: a line of text, the gap between columns.
  columns, line, step = 5, 0.2, 1.13
  titles, spots, y = [], [], 0.0
  for group in dict.fromkeys(row[0] for row in rows):
    mine = [row for row in rows if row[0] == group]
    block = 1.15 + (3 if group == 'hardest' else 2) * line
    titles.append((y, heads[group]))
    y += 0.3
    spots += [
      (i % columns * step, y + i // columns * block, row)
      for i, row in enumerate(mine)
    ]
    y += -(-len(mine) // columns) * block + 0.1
  wide, high = columns * step - 0.13, y
  figure, axes = figures.blank(
    theme, figures.WIDTH, figures.WIDTH * high / wide
  )
  axes.set_axis_off()
  figure.get_layout_engine().set(w_pad=0.04, h_pad=0.02)
  for top, text in titles:
    axes.text(
      0, top + 0.2, text, fontsize=10, fontweight='bold', color=theme.ink
    )
  for x, top, row in spots:
    axes.imshow(
      images[row[2]],
      extent=(x, x + 1, top + 1, top),
      interpolation='nearest',
      aspect='auto',
    )
    wrong = row[3] != row[4]
    if row[0] == 'hardest':
      texts = [
        (f'is {figures.shorten(row[3], 11)}', theme.ink),
        (
          f'→ {figures.shorten(row[4], 11)}',
          theme.bad if wrong else theme.ink,
        ),
        (f'{figures.number(row[6])} bits', theme.faint),
      ]
    else:
      texts = [
        (figures.shorten(row[3], 12), theme.ink),
        (f'{figures.number(row[7])} bits', theme.faint),
      ]
    for i, (text, colour) in enumerate(texts):
      axes.text(
        x + 0.5,
        top + 1.05 + i * line,
        text,
        ha='center',
        va='top',
        fontsize=9,
        color=colour,
      )
  # imshow moves the limits.
  axes.set_xlim(-0.02, wide + 0.02)
  axes.set_ylim(high, 0)
  return figure


# Attacks.


_ATTACKS = {'fgsm': 'FGSM', 'pgd': 'PGD', 'cw': 'CW'}
_LOSSES = {'cross_entropy': 'CE', 'margin': 'margin'}
_NORMS = {'linf': 'L∞', 'l2': 'L2', 'l1': 'L1', 'l0': 'L0'}


def attack_name(row: Mapping[str, Any]) -> str:
  """An attack and its loss in print, such as 'PGD margin'."""
  attack, loss = str(row['attack']), str(row.get('loss') or '')
  words = [_ATTACKS.get(attack, attack), _LOSSES.get(loss, loss)]
  return ' '.join(word for word in words if word)


def norm_name(norm: Any) -> str:
  """A norm in print, such as 'L∞'."""
  return _NORMS.get(str(norm), str(norm))


def attack_curve(
  models: Mapping[str, Sequence[Mapping[str, Any]]],
  chance: float | None = None,
  *,
  name: str = 'attacks',
) -> figures.Picture | None:
  """Accuracy against the strength of attacks: a line a model, attack and mode.

  Args:
    models: the 'attacks' of classification.json by the model's label.
    chance: accuracy of guessing, percent.
    name: stem of the files.

  Returns:
    The picture; its rows are model, norm, attack (with its loss), mode,
    targeted, epsilon, accuracy and examples. None if no attack has a strength.
  """
  rows: list[tuple[Any, ...]] = sorted(
    (
      (
        model,
        str(row['norm']),
        attack_name(row),
        str(row['mode']),
        bool(row.get('targeted')),
        float(row['epsilon']),
        figures.real(row['accuracy']),
        row.get('examples'),
      )
      for model, attacks in models.items()
      for row in attacks
      if row.get('epsilon') is not None
    ),
    key=lambda row: row[5],
  )
  if not rows:
    return None
  counts = {row[7] for row in rows if row[7]}
  modes = dict.fromkeys(row[3] for row in rows)
  told = [
    text
    for mode, text in (
      ('samples', 'samples: gradients averaged over samples of the code'),
      ('mean', 'mean: gradients with the code at its mean'),
      ('transfer', 'transfer: made for another model'),
    )
    if mode in modes
  ]
  low = min(rows, key=lambda row: row[6] if math.isfinite(row[6]) else 101)
  caption = 'Accuracy on attacked test images'
  if counts:
    caption += f', {_span(counts)} of them'
  caption += f'. {"; ".join(told)}. ' if told else '. '
  caption += 'The lowest line is the one that counts.'
  return figures.Picture(
    name,
    'Accuracy under attack',
    caption,
    f'Accuracy over attack strength, lowest {figures.number(low[6])} %: '
    f'{low[0]}, {low[2]}, {low[3]}, {norm_name(low[1])} {low[5]:g}.',
    (
      'model',
      'norm',
      'attack',
      'mode',
      'targeted',
      'epsilon',
      'accuracy_percent',
      'examples',
    ),
    rows,
    lambda theme: _draw_attacks(rows, chance, theme),
  )


def _draw_attacks(
  rows: list[tuple[Any, ...]], chance: float | None, theme: figures.Theme
) -> Any:
  norms = list(dict.fromkeys(row[1] for row in rows))
  keys = {
    norm: list(dict.fromkeys(row[:5] for row in rows if row[1] == norm))
    for norm in norms
  }
  tall = [max(3.0, 0.8 + 0.22 * len(found)) for found in keys.values()]
  figure, panels = figures.blank(
    theme,
    figures.WIDTH,
    sum(tall),
    rows=len(norms),
    height_ratios=tall,
  )
  # A name says only what tells lines apart; so do colours.
  vary = [len({row[i] for row in rows}) > 1 for i in range(5)]
  hue = (0,) if vary[0] else (2, 4)
  hues = list(dict.fromkeys(tuple(row[i] for i in hue) for row in rows))
  marks = list(dict.fromkeys(row[2] for row in rows))
  dashes = {'samples': '-', 'mean': (0, (4, 2)), 'transfer': (0, (1, 1.5))}
  for axes, norm in zip(np.atleast_1d(panels), norms, strict=True):
    labels = []
    for key in keys[norm]:
      mine = [row for row in rows if row[:5] == key]
      k = hues.index(tuple(key[i] for i in hue))
      colour = theme.colours[k % len(theme.colours)]
      axes.plot(
        [row[5] for row in mine],
        [row[6] for row in mine],
        color=colour,
        linestyle=dashes.get(key[3], (0, (3, 1, 1, 1))),
        linewidth=2,
        marker='osD^v<>'[marks.index(key[2]) % 7],
        markersize=4.5,
      )
      words = [
        figures.shorten(key[0], 14) if vary[0] else '',
        key[2] if vary[2] or not any(vary) else '',
        key[3] if vary[3] else '',
        'targeted' if key[4] else '',
      ]
      text = ', '.join(word for word in words if word)
      good = [row[6] for row in mine if math.isfinite(row[6])]
      end = good[-1] if good else math.nan
      labels.append((end, text or key[2], colour, 'bold'))
    if chance is not None:
      axes.axhline(chance, color=theme.faint, linestyle=(0, (5, 3)), zorder=1)
      _inside(
        axes, 0.02, chance, f'chance {chance:.3g} %', theme, False, ha='left'
      )
    axes.set_ylim(-2, 102)
    axes.set_xlabel(f'{norm_name(norm)} norm of the attack, pixels from 0 to 1')
    axes.set_ylabel('accuracy, %')
    figures.label_right(figure, axes, labels)
  return figure


# Calibration.


def calibration_bins(
  probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> list[tuple[float, float, int, float, float]]:
  """Confidence against accuracy in bins of equal width.

  Args:
    probabilities: shape [n, classes].
    labels: shape [n].
    bins: how many; a confidence on an edge belongs to the bin below it.

  Returns:
    (left, right, count, mean confidence, accuracy) of each bin; NaN in the last
    two where it is empty.
  """
  confidence = np.asarray(probabilities).max(1)
  right = np.asarray(probabilities).argmax(1) == np.asarray(labels)
  edges = np.arange(bins + 1) / bins
  # A float32 that stands for 0.2 is on the edge at 0.2.
  home = np.searchsorted(edges.astype(confidence.dtype), confidence, 'left') - 1
  home = np.clip(home, 0, bins - 1)
  result = []
  for k in range(bins):
    mine = home == k
    some = mine.any()
    result.append(
      (
        float(edges[k]),
        float(edges[k + 1]),
        int(mine.sum()),
        float(confidence[mine].mean(dtype=float)) if some else math.nan,
        float(right[mine].mean()) if some else math.nan,
      )
    )
  return result


def reliability(
  probabilities: np.ndarray,
  labels: np.ndarray,
  bins: int = 15,
  *,
  name: str = 'reliability',
) -> figures.Picture:
  """How often predictions of a confidence are right.

  Args:
    probabilities: of the averaged prediction, shape [n, classes].
    labels: shape [n].
    bins: how many bins of equal width.
    name: stem of the files.

  Returns:
    The picture; its rows are left and right edge, count, mean confidence and
    accuracy of each bin.
  """
  rows: list[tuple[Any, ...]] = list(
    calibration_bins(probabilities, labels, bins)
  )
  total = sum(row[2] for row in rows)
  error = sum(row[2] * abs(row[3] - row[4]) for row in rows if row[2]) / total
  return figures.Picture(
    name,
    'Reliability',
    f'Accuracy of the predictions in {bins} bins of equal width of their '
    f'confidence, {total} test images; bars: one binomial standard error. '
    f'Below the diagonal they are too sure. Expected calibration error on '
    f'these images: {figures.number(100 * error)} points.',
    f'Reliability diagram; expected calibration error '
    f'{figures.number(100 * error)} points.',
    ('left', 'right', 'count', 'confidence', 'accuracy'),
    rows,
    lambda theme: _draw_reliability(rows, theme),
  )


def _draw_reliability(rows: list[tuple[Any, ...]], theme: figures.Theme) -> Any:
  figure, (axes, below) = figures.blank(
    theme, figures.WIDTH, 4.4, rows=2, sharex=True, height_ratios=[3, 1]
  )
  edges = [row[0] for row in rows] + [rows[-1][1]]
  full = [row for row in rows if row[2]]
  count, x, y = (np.array([row[i] for row in full]) for i in (2, 3, 4))
  # The Laplace estimate, so that a bin that is all right has an error too.
  share = (y * count + 1) / (count + 2)
  axes.plot([0, 1], [0, 1], color=theme.faint, linestyle=(0, (5, 3)))
  axes.errorbar(
    x,
    y,
    yerr=np.sqrt(share * (1 - share) / count),
    color=theme.colours[0],
    linewidth=1.8,
    marker='o',
    markersize=5,
    capsize=2.5,
    elinewidth=1.2,
  )
  axes.set_ylim(-0.03, 1.03)
  axes.set_ylabel('accuracy')
  below.set_yscale('log')
  below.stairs(
    [max(row[2], 0.5) for row in rows],
    edges,
    baseline=0.5,
    fill=True,
    color=theme.colours[0],
    alpha=0.5,
  )
  below.set_ylim(bottom=0.5)
  log_ticks(below.yaxis)
  below.set_ylabel('images')
  below.set_xlabel('confidence')
  left = min((row[0] for row in full), default=0.0)
  below.set_xlim(left - 0.02, 1.02)
  return figure
