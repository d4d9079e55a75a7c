"""Pictures of classifiers with a bottleneck: what they keep and how they err.

Information is drawn in bits; arrays that hold nats say so. Of n test images
`labels` has shape [n], `probabilities`, of the averaged prediction, [n,
classes], and `class_names` are those of the labels 0, 1 and on.

The rate, the mean KL divergence of the code's posterior from its marginal, is
an upper bound on I(Z;X) and can be a loose one: it is never called I(Z;X).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.evaluation import calibration
from dim_jax.report import figures
from dim_jax.report.figures import Rows
from dim_jax.report.parts import span

_LN2 = math.log(2)

RATE = 'rate (upper bound on I(Z;X))'
# Bits. A code of less has collapsed; how far would only stretch the axis.
_LEAST_RATE = 0.01
_LOSS_COLUMNS = (
  'group', 'rank', 'index', 'true', 'predicted', 'probability',
  'cross_entropy_bits', 'rate_bits',
)  # fmt: skip
_ATTACK_COLUMNS = (
  'model', 'norm', 'attack', 'mode', 'targeted', 'epsilon', 'accuracy_percent',
  'examples',
)  # fmt: skip


# Sweeps over beta.


def sample_errors(row: Mapping[str, Any]) -> dict[int, str]:
  """Finds fields error_S of a result or row by their number of samples S.

  They ascend, such as {1: 'error_1', 12: 'error_12'}.
  """
  matches = [re.fullmatch(r'error_(\d+)', key) for key in row]
  return dict(sorted((int(m[1]), m[0]) for m in matches if m))


def samples(count: int) -> str:
  """Formats a number of posterior samples."""
  return f'{count} sample{"" if count == 1 else "s"}'


def over_seeds(
  rows: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> Rows:
  """Computes means and standard deviations of a sweep's rows over its seeds.

  Returns:
    (field, split, beta, mean, standard deviation, n) in order of field, split
    and beta. The deviation divides by n - 1 and is NaN for one seed. Values
    that are not finite make a mean that is not.
  """
  result: Rows = []
  numbers = [
    (row['split'], float(row['beta']), *(row.get(key) for key in fields))
    for row in rows
  ]
  for i, field in enumerate(fields, 2):
    for split, mine in figures.grouped(numbers, 0).items():
      for beta, same in sorted(figures.grouped(mine, 1).items()):
        values = [figures.real(row[i]) for row in same]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        mean = float(np.mean(values))
        result.append((field, split, beta, mean, std, len(values)))
  return result


def least_error(numbers: Rows, field: str) -> tuple[Any, ...] | None:
  """Returns the row of `over_seeds` with the field's least mean on test."""
  test = [row for row in numbers if row[:2] == (field, 'test')]
  test = [row for row in test if math.isfinite(row[3])]
  return min(test, key=lambda row: row[3], default=None)


def beta_sweep(
  rows: Sequence[Mapping[str, Any]],
  *,
  classes: int | None = None,
  label_entropy_bits: float | None = None,
  log2_examples: float | None = None,
) -> figures.Picture:
  """Draws error and rate against beta: means and bars over seeds.

  The rows of a sweep.json are of one kind of weights. Beside the rate there
  are log2 of the number of classes, or else H(Y), and log2 N of the training
  examples, as far as they are given.
  """
  counts = sample_errors(rows[0])
  numbers = over_seeds(rows, [*counts.values(), 'rate_bits'])
  levels = {
    'log₂ C' if classes else 'H(Y)': (
      math.log2(classes) if classes else label_entropy_bits
    ),
    'log₂ N': log2_examples,
  }
  seeds = {row[5] for row in numbers}
  several = max(seeds) > 1
  ends = ', '.join(
    f'{figures.number(least[3])} % at beta {figures.power(least[2])} with '
    f'{samples(count)}'
    for count, field in counts.items()
    if (least := least_error(numbers, field))
  )
  return figures.Picture(
    'beta_sweep',
    'Error and rate against beta',
    f'{"Mean of" if several else "From"} {span(seeds)} '
    f'seed{"s; bars: one standard deviation" if several else ""}. Predictions '
    'average the probabilities of the stated number of samples of the code. '
    'Axes with a 0 are linear from it to their next tick, and logarithmic '
    'above. The rate bounds I(Z;X) from above and may exceed it by far: on N '
    'examples I(Z;X) is at most log₂ N.',
    f'Error and rate over beta. Least test error: {ends or "none"}.',
    ('quantity', 'split', 'beta', 'mean', 'std', 'n'),
    numbers,
    lambda: _draw_beta_sweep(numbers, counts, levels),
  )


def _draw_beta_sweep(
  rows: Rows,
  counts: Mapping[int, str],
  levels: Mapping[str, float | None],
) -> Any:
  figure, (errors, rates) = figures.blank(
    figures.WIDTH, 5.0, rows=2, sharex=True
  )
  lines = figures.grouped(rows, 0, 1)
  heights: dict[Any, list[float]] = {errors: [], rates: []}
  names = {field: samples(count) for count, field in counts.items()}
  for (field, split), mine in lines.items():
    x, y, std = np.array([row[2:5] for row in mine]).T
    bars = np.nan_to_num(std)
    look: dict[str, Any] = {'lw': 2.2, 'marker': 'o', 'ms': 4.5}
    # One sample is dashed and hollow where several are drawn too.
    if len(counts) > 1 and field == next(iter(names)):
      look |= {'lw': 1.6, 'ls': figures.DASHED, 'mfc': 'none'}
    look |= {'color': _split_colour(split), 'yerr': bars}
    if field in names:
      look['label'] = f'{split}, {names[field]}'
    axes = errors if field in names else rates
    axes.errorbar(x, y, **figures.BARS, **look)
    heights[axes] += np.concatenate([y, y + bars]).tolist()
  styles = (figures.DASHED, figures.DOTTED)
  for (name, level), dashes in zip(levels.items(), styles, strict=True):
    if level is not None:
      look = figures.LEVEL | {'ls': dashes, 'label': f'{name} = {level:.1f}'}
      rates.axhline(level, **look)
      heights[rates].append(level)
  figures.log_with_zero(errors.yaxis, heights[errors])
  figures.log_with_zero(rates.yaxis, heights[rates], _LEAST_RATE)
  figures.log_with_zero(rates.xaxis, [row[2] for row in rows])
  errors.set_ylabel('error, %')
  rates.set(xlabel='beta', ylabel='bits', title=RATE)
  figure.align_ylabels()
  return figure


def _split_colour(split: str) -> str:
  return figures.COLOURS[{'test': 0, 'train': 1}.get(split, 2)]


def information_plane(
  rows: Sequence[Mapping[str, Any]],
  label_entropy_bits: float,
  log2_examples: float | None = None,
) -> figures.Picture:
  """Draws what the code says of the label against its rate, in bits.

  The rows of a sweep.json are of one kind of weights. I(Z;Y) is at most the
  label entropy H(Y).
  """
  rates, bounds = (over_seeds(rows, [key]) for key in ('rate_bits', 'izy_bits'))
  numbers: Rows = [
    (*rate[1:5], *bound[3:]) for rate, bound in zip(rates, bounds, strict=True)
  ]
  test = [r for r in numbers if r[0] == 'test' and math.isfinite(r[4])]
  best = max(test, key=lambda row: row[4], default=None)
  alt = 'Information plane: lower bound on I(Z;Y) over rate.'
  if best:
    alt += (
      f' Highest on test: {best[4]:.2f} of H(Y) = {label_entropy_bits:.2f} '
      f'bits at beta {figures.power(best[1])}, rate '
      f'{figures.number(best[2])} bits.'
    )
  # Those that crowd below the ceiling: of two betas or more, but not all.
  near = [row for row in numbers if row[4] > label_entropy_bits - 0.5]
  if len(figures.grouped(near, 1)) < 2 or len(near) == len(numbers):
    near = []
  several = max(row[6] for row in numbers) > 1
  return figures.Picture(
    'information_plane',
    'Information plane',
    figures.sentences(
      'Lower bound on I(Z;Y), H(Y) minus the cross-entropy, against the rate, '
      'an upper bound on I(Z;X); points, in the colour of their beta, are '
      'joined in its order. Dotted: I(Z;Y) = rate, above which no code can '
      'lie.',
      near and 'Top: those within half a bit of H(Y), enlarged.',
      several and 'Means over seeds; bars: one standard deviation.',
    ),
    alt,
    ('split', 'beta', 'rate_bits', 'rate_std', 'izy_bits', 'izy_std', 'n'),
    numbers,
    lambda: _draw_plane(numbers, near, label_entropy_bits, log2_examples),
  )


def _draw_plane(
  rows: Rows, near: Rows, ceiling: float, log2_examples: float | None
) -> Any:
  from matplotlib import colors

  frames = [near, rows] if near else [rows]
  figure, grid = figures.blank(
    figures.WIDTH, 6.2 if near else 4.0, rows=len(frames), squeeze=False
  )
  panels = list(grid[:, 0])
  betas = [row[1] for row in rows]
  ticks = figures.zero_ticks(betas)
  low, high = min(b for b in betas + ticks if b > 0), max(*betas, *ticks)
  norm = colors.SymLogNorm(low, 0.3, 0 if ticks[0] == 0 else low, high)
  for axes, framed in zip(panels, frames, strict=True):
    points = _draw_plane_panel(axes, rows, framed, ceiling, norm)
    left, right = axes.get_xlim()
    if log2_examples is not None and left < log2_examples < right:
      look = figures.LEVEL | {'ls': (0, (3, 1, 1, 1))}
      text = f'log₂ N = {log2_examples:.1f}'
      axes.axvline(log2_examples, **look, label=text)
  panels[-1].set_xlabel(f'{RATE}, bits')
  figure.supylabel('lower bound on I(Z;Y), bits', fontsize=11)
  bar = figure.colorbar(points, ax=panels, aspect=40, label='beta')
  bar.set_ticks(ticks, labels=[figures.power(tick) for tick in ticks])
  bar.ax.minorticks_off()
  bar.outline.set_visible(False)
  return figure


def _draw_plane_panel(
  axes: Any, rows: Rows, framed: Rows, ceiling: float, norm: Any
) -> Any:
  """Draws all rows, in a frame around those `framed`; returns the points."""
  for split, mine in figures.grouped(rows, 0).items():
    beta, x, x_std, y, y_std = np.array([row[1:6] for row in mine]).T
    bars = {'xerr': np.nan_to_num(x_std), 'yerr': np.nan_to_num(y_std)}
    colour = _split_colour(split)
    axes.errorbar(x, y, **bars, color=colour, lw=1.6, zorder=2, label=split)
    look = {'s': 34, 'edgecolors': colour, 'linewidths': 1.4, 'zorder': 3}
    points = axes.scatter(x, y, c=beta, norm=norm, **look)
  rates = [row[2] for row in framed]
  figures.log_with_zero(axes.xaxis, rates, _LEAST_RATE)
  low = min((r[4] for r in framed if math.isfinite(r[4])), default=0.0)
  margin = 0.1 * max(ceiling - low, 1e-3)
  axes.set_ylim(low - margin, ceiling + margin)
  axes.axhline(ceiling, **figures.LEVEL, label=f'H(Y) = {ceiling:.2f}')
  left, right = axes.get_xlim()
  if left < ceiling:
    limit = np.linspace(max(left, 0), min(ceiling, right), 400)
    look = figures.LEVEL | {'ls': figures.DOTTED}
    axes.plot(limit, limit, **look, label='I(Z;Y) = rate')
  return points


# A code of two dimensions.


def radius(level: float) -> float:
  """Computes the radius that holds this part of a standard normal of the plane.

  Its square is exponential with mean 2.
  """
  return math.sqrt(-2 * math.log1p(-level))


def outlines(
  means: np.ndarray, chols: np.ndarray, level: float = 0.95, points: int = 64
) -> np.ndarray:
  """Computes closed curves that hold a part of two-dimensional normals.

  Args:
    means: shape [m, 2].
    chols: factors L of the covariances L L^T, shape [m, 2, 2].
    level: the fraction of the samples inside, below 1.
    points: of a curve; the last is the first.

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
) -> figures.Picture:
  """Draws posteriors of a two-dimensional code over the decoder's entropy.

  The posteriors of m images have means [m, 2] and covariances L L^T of factors
  L in `chols` [m, 2, 2]. The entropy of q(y|z) is in nats on a grid [G, G],
  whose rows ascend in the second coordinate; its extent is x0, x1, y0, y1.
  """
  rows: Rows = []
  numbers = np.hstack([means, chols.reshape(-1, 4)]).astype(float)
  for i, (label, line) in enumerate(zip(labels, numbers, strict=True)):
    name = figures.printable(class_names[label])
    rows.append((i, int(label), name, *line.tolist()))
  x0, x1, y0, y1 = (float(v) for v in extent)
  outside = sum(not (x0 <= row[3] <= x1 and y0 <= row[4] <= y1) for row in rows)
  area = math.pi * radius(0.95) ** 2 * np.abs(np.linalg.det(chols))
  count = len(figures.grouped(rows, 1))
  return figures.Picture(
    'ellipses',
    'The code, two dimensions',
    figures.sentences(
      f'Ellipses: 95 % of the posterior p(z|x) of each of {len(rows)} test '
      f'images, coloured by class. Background: entropy of the decoder q(y|z), '
      f'from 0 to log₂ {len(class_names)} = {math.log2(len(class_names)):.2f} '
      f'bits.',
      outside and f'Means outside the frame: {outside}.',
    ),
    f'Posterior ellipses of {len(rows)} images in {count} classes; median '
    f'area {figures.number(float(np.median(area)))}.',
    ('index', 'label', 'class', 'x', 'y', 'l11', 'l12', 'l21', 'l22'),
    rows,
    lambda: _draw_ellipses(
      rows, len(class_names), entropy / _LN2, (x0, x1, y0, y1)
    ),
  )


def _draw_ellipses(
  rows: Rows, classes: int, entropy: np.ndarray, extent: Sequence[float]
) -> Any:
  x0, x1, y0, y1 = extent
  tall = min(max((y1 - y0) / (x1 - x0), 0.4), 1.3)
  figure, axes = figures.blank(figures.WIDTH, 0.65 + 3.7 * tall)
  colours = figures.class_colours(classes)
  image = _draw_posteriors(axes, rows, colours, entropy, extent)
  # In the axes' own frame, so that it is as high as they are.
  bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.03, 1)))
  bar.set_label('entropy of q(y|z), bits')
  bar.outline.set_visible(False)
  figures.name_classes(axes, {row[1]: row[2] for row in rows}, colours)
  return figure


def _draw_posteriors(
  axes: Any,
  rows: Rows,
  colours: Sequence[Any],
  entropy: np.ndarray,
  extent: Sequence[float],
) -> Any:
  """Draws the rows of `ellipses`; returns the background, in bits."""
  from matplotlib import collections

  x0, x1, y0, y1 = extent
  look: dict[str, Any] = {
    'origin': 'lower',
    'vmin': 0,
    'vmax': math.log2(len(colours)),
  }
  look |= {'interpolation': 'bilinear', 'cmap': figures.ramp(figures.INK, 0.7)}
  image = axes.imshow(entropy, extent=extent, **look)
  numbers = np.array([row[3:] for row in rows], float).reshape(-1, 6)
  own = [colours[row[1]] for row in rows]
  curves = outlines(numbers[:, :2], numbers[:, 2:].reshape(-1, 2, 2))
  look = {'colors': own, 'linewidths': 0.7, 'alpha': 0.75}
  axes.add_collection(collections.LineCollection(list(curves), **look))
  # A posterior may be too narrow for its ellipse to be seen.
  axes.scatter(numbers[:, 0], numbers[:, 1], s=2, c=own, linewidths=0)
  axes.set(xlim=(x0, x1), ylim=(y0, y1), xlabel='z₁', ylabel='z₂')
  return image


class Plane(NamedTuple):
  """What `ellipses` takes of one classifier, and its errors in words.

  Attributes:
    means: [m, 2].
    chols: [m, 2, 2].
    labels: [m].
    entropy: nats, [G, G].
    extent: of that grid, x0, x1, y0, y1.
    note: beneath its name.
  """

  means: np.ndarray
  chols: np.ndarray
  labels: np.ndarray
  entropy: np.ndarray
  extent: np.ndarray
  note: str = ''


def planes(
  codes: Mapping[str, Plane], class_names: Sequence[str]
) -> figures.Picture:
  """Draws two-dimensional codes side by side, as `ellipses` draws one.

  Each has a frame of its own, as a code that keeps less is smaller. Alemi et
  al. 2017, figure 2, are three of beta 1e-3, 0.1 and 1.
  """
  pictures = {
    label: ellipses(
      p.means, p.chols, p.labels, class_names, p.entropy, p.extent.tolist()
    )
    for label, p in codes.items()
  }
  rows: Rows = [
    (label, *row) for label, picture in pictures.items() for row in picture.rows
  ]
  first = next(iter(pictures.values()))
  return figures.Picture(
    'planes',
    'Codes of two dimensions',
    first.caption + ' Each code has a frame of its own.',
    ' '.join(f'{label}: {p.alt}' for label, p in pictures.items()),
    ('code', *first.columns),
    rows,
    lambda: _draw_planes(codes, rows, len(class_names)),
  )


def _draw_planes(codes: Mapping[str, Plane], rows: Rows, classes: int) -> Any:
  columns = min(len(codes), 3)
  down = -(-len(codes) // columns)
  side = figures.WIDTH / columns
  figure, grid = figures.blank(
    figures.WIDTH, down * (side + 0.5), down, columns, squeeze=False
  )
  colours = figures.class_colours(classes)
  by = figures.grouped(rows, 0)
  for axes in grid.flat[len(codes) :]:
    axes.set_visible(False)
  for axes, (label, plane) in zip(grid.flat, codes.items(), strict=False):
    mine = [row[1:] for row in by[label]]
    extent = tuple(float(v) for v in plane.extent)
    _draw_posteriors(axes, mine, colours, plane.entropy / _LN2, extent)
    axes.set_aspect('auto')
    axes.set(xlabel='', ylabel='')
    axes.tick_params(labelsize=7)
    title = figures.shorten(figures.printable(label), 20)
    axes.set_title(f'{title}\n{plane.note}', fontsize=8)
  names = {row[2]: row[3] for row in rows}
  figures.name_classes(grid.flat[0], names, colours)
  return figure


# Rates and losses of single images.


def rates(
  rate: np.ndarray,
  rate_by_dimension: np.ndarray | None,
  labels: np.ndarray,
  class_names: Sequence[str],
) -> figures.Picture:
  """Draws the rate by image, by dimension of the code, and by class.

  The rate of each image, [n], and its mean by dimension, [K], are in nats. A
  full covariance and a marginal other than N(0, I) do not part it into these
  dimensions: None leaves them out.
  """
  bits = np.asarray(rate, float) / _LN2
  divided = rate_by_dimension is not None
  widths = np.asarray(rate_by_dimension if divided else (), float) / _LN2
  labels = np.asarray(labels)
  bins = min(50, max(10, round(math.sqrt(len(bits)))))
  count, edges = np.histogram(bits, bins=bins)
  rows: Rows = [
    ('example', '', left, right, None, None, int(c))
    for left, right, c in figures.bins(edges, count)
  ]
  rows += [
    ('dimension', str(k), None, None, float(widths[k]), None, None)
    for k in np.argsort(-widths, kind='stable')
  ]
  classes: Rows = []
  for k in sorted(set(labels.tolist())):
    mine = bits[labels == k]
    std = float(np.std(mine, ddof=1)) if len(mine) > 1 else math.nan
    start = ('class', figures.printable(class_names[k]), None, None)
    classes.append((*start, float(mine.mean()), std, len(mine)))
  rows += classes
  used = f'{int((widths > 0.1).sum())} of {len(widths)} above 0.1 bit'
  mean, low, high = (
    figures.number(float(v)) for v in (bits.mean(), bits.min(), bits.max())
  )
  most, least = (
    f'{row[1]} ({figures.number(row[4])})'
    for row in (find(classes, key=lambda row: row[4]) for find in (max, min))
  )
  return figures.Picture(
    'rates',
    f'Rate by image{", dimension" if divided else ""} and class',
    figures.sentences(
      f'Rate of {len(bits)} test images, an upper bound on what the code tells '
      f'of each. Top: histogram.',
      divided and f'Middle: mean by dimension of the code, sorted; {used}.',
      'Bottom: mean by class, bars one standard deviation over its images.',
    ),
    f'Rate: mean {mean}, from {low} to {high} bits an image'
    f'{f"; dimensions: {used}" if divided else ""}; most for {most}, '
    f'least for {least}.',
    ('part', 'name', 'left', 'right', 'bits', 'std', 'count'),
    rows,
    lambda: _draw_rates(rows, float(bits.mean())),
  )


def _draw_rates(rows: Rows, mean: float) -> Any:
  by = figures.grouped(rows, 0)
  # Many classes get thinner lines, and past fifty no names.
  many = len(by['class'])
  heights = [2.1] * (len(by) - 1) + [0.8 + min(0.2 * many, 6)]
  figure, (first, *middle, last) = figures.blank(
    figures.WIDTH, sum(heights), rows=len(heights), height_ratios=heights
  )
  bins = [(*row[2:4], row[6]) for row in by['example']]
  figures.stairs(first, bins, figures.COLOURS[0])
  first.axvline(mean, color=figures.INK, linewidth=1.4)
  first.set_title(f'mean {figures.number(mean)}')
  first.set(xlabel='rate of an image, bits', ylabel='images', ylim=(0, None))
  for axes in middle:
    _draw_dimensions(axes, [row[4] for row in by['dimension']])
  few = many <= 20
  size, cap = (6, 3) if few else (3, 0)
  look = {'color': figures.COLOURS[1], 'marker': 'o', 'ls': 'none'}
  values, std = np.array([row[4:6] for row in by['class']]).T
  bars = {'xerr': np.nan_to_num(std), 'capsize': cap}
  last.errorbar(values, range(many), **bars, **look, markersize=size)
  shown = [figures.shorten(row[1], 14) for row in by['class']]
  last.set_yticks(range(many), shown, fontsize=11 if few else 6)
  if many > 50:
    last.set_yticks([])
  last.tick_params(axis='y', length=0)
  last.set(ylim=(many - 0.5, -0.5), xlabel='rate by class, bits')
  return figure


def _draw_dimensions(axes: Any, values: list[float]) -> None:
  used = sum(value > 0.1 for value in values)
  bins = figures.bins(np.arange(len(values) + 1) + 0.5, np.array(values))
  figures.stairs(axes, bins, figures.COLOURS[2], alpha=0.6)
  axes.axhline(0.1, **figures.LEVEL)
  axes.set_title(f'{used} of {len(values)} above 0.1 bit')
  axes.set(xlabel='dimension of the code, sorted', ylabel='rate, bits')
  axes.set(xlim=(0.5, len(values) + 0.5), ylim=(min(0.0, *values), None))
  axes.xaxis.get_major_locator().set_params(integer=True)


def highest_loss(
  images: np.ndarray,
  labels: np.ndarray,
  probabilities: np.ndarray,
  cross_entropy: np.ndarray,
  rate: np.ndarray | None,
  class_names: Sequence[str],
  *,
  count: int = 10,
) -> figures.Picture:
  """Draws the images of highest loss, and those of highest and lowest rate.

  Cross-entropy and rate are in nats, [n]; a classifier without a bottleneck has
  no rate, which leaves its images out. Of highest loss there are `count`, of
  the others half as many.
  """
  predictions = np.asarray(probabilities).argmax(1)
  loss = np.asarray(cross_entropy, float)
  keys = {'highest cross-entropy': -loss}
  if rate is not None:
    rate = np.asarray(rate, float)
    keys |= {'highest rate': -rate, 'lowest rate': rate}
  names = [figures.printable(text) for text in class_names]
  rows: Rows = []
  for group, key in keys.items():
    most = max(1, count // 2) if 'rate' in group else count
    for rank, i in enumerate(key.argsort(kind='stable')[:most].tolist(), 1):
      k = predictions[i]
      texts = (group, rank, i, names[labels[i]], names[k])
      bits = None if rate is None else float(rate[i]) / _LN2
      numbers = (float(probabilities[i, k]), float(loss[i]) / _LN2, bits)
      rows.append((*texts, *numbers))
  first = figures.grouped(rows, 0)['highest cross-entropy']
  wrong = sum(predictions[row[2]] != labels[row[2]] for row in first)
  also = '' if rate is None else ', and of highest and lowest rate'
  return figures.Picture(
    'highest_loss',
    f'Images of highest loss{also}',
    figures.sentences(
      f'Of {len(labels)} test images those with the highest cross-entropy: '
      f'true class, predicted class (red: wrong) and cross-entropy.',
      also
      and 'Below: those with the highest and the lowest rate, labelled with '
      'their class and rate.',
    ),
    f'Grid of {len(first)} images of highest loss; {wrong} of them are '
    f'predicted wrongly. First: {rows[0][3]}, predicted {rows[0][4]}.',
    _LOSS_COLUMNS,
    rows,
    lambda: _draw_highest_loss(rows, images),
  )


def _draw_highest_loss(rows: Rows, images: np.ndarray) -> Any:
  # In units of an image: a line of text, the gap between columns.
  columns, line, step = 5, 0.2, 1.13
  titles, spots, y = [], [], 0.0
  for group, mine in figures.grouped(rows, 0).items():
    block = 1.15 + (2 if 'rate' in group else 3) * line
    titles.append((y, group))
    y += 0.3
    spots += [
      (i % columns * step, y + i // columns * block, row)
      for i, row in enumerate(mine)
    ]
    y += -(-len(mine) // columns) * block + 0.1
  figure, axes = figures.canvas(columns * step - 0.1, y)
  for top, text in titles:
    axes.text(0, top + 0.2, text, fontsize=10, fontweight='bold')
  for x, top, (group, _, index, true, predicted, _, loss, rate) in spots:
    figures.tile(axes, images[index], x, top)
    if 'rate' in group:
      texts = [figures.shorten(true, 12), f'{figures.number(rate)} bits']
    else:
      texts = [
        f'is {figures.shorten(true, 11)}',
        f'→ {figures.shorten(predicted, 11)}',
        f'{figures.number(loss)} bits',
      ]
    for i, text in enumerate(texts):
      wrong = text.startswith('→') and true != predicted
      colour = figures.BAD if wrong else figures.INK
      place = (x + 0.5, top + 1.05 + i * line)
      axes.text(*place, text, ha='center', va='top', fontsize=9, color=colour)
  return figure


# Attacks.


_PRINTED = {
  'fgsm': 'FGSM', 'pgd': 'PGD', 'cw': 'CW', 'cross_entropy': 'CE',
  'linf': 'L∞', 'l2': 'L2', 'l1': 'L1', 'l0': 'L0',
}  # fmt: skip
_MODES = {
  'samples': 'samples: gradients averaged over samples of the code',
  'mean': 'mean: gradients with the code at its mean',
  'transfer': 'transfer: made for another model',
}


def printed(*names: Any) -> str:
  """Returns names of attacks, losses and norms in print: 'PGD margin', 'L∞'."""
  return ' '.join(_PRINTED.get(name, str(name)) for name in names if name)


def attack_curve(
  models: Mapping[str, Sequence[Mapping[str, Any]]],
  chance: float | None = None,
) -> figures.Picture | None:
  """Draws accuracy against the strength of attacks: a line an attack.

  The attacks of classification.json are by the model's label; the accuracies,
  with that at chance level, are in percent. None if no attack has a strength.
  """
  rows: Rows = [
    (
      model,
      str(row['norm']),
      printed(row['attack'], row.get('loss')),
      str(row['mode']),
      bool(row.get('targeted')),
      float(row['epsilon']),
      figures.real(row['accuracy']),
      row.get('examples'),
    )
    for model, attacks in models.items()
    for row in attacks
    if row.get('epsilon') is not None
  ]
  rows.sort(key=lambda row: row[5])
  if not rows:
    return None
  counts = {row[7] for row in rows if row[7]}
  modes = [_MODES[m] for m in _MODES if m in figures.grouped(rows, 3)]
  low = min(rows, key=lambda row: row[6] if math.isfinite(row[6]) else 101)
  return figures.Picture(
    'attacks',
    'Accuracy under attack',
    figures.sentences(
      'Accuracy on attacked test images'
      + (f', {span(counts)} of them.' if counts else '.'),
      modes and f'{"; ".join(modes)}.',
      'The lowest line is the one that counts.',
    ),
    f'Accuracy over attack strength, lowest {figures.number(low[6])} %: '
    f'{low[0]}, {low[2]}, {low[3]}, {printed(low[1])} {low[5]:g}.',
    _ATTACK_COLUMNS,
    rows,
    lambda: _draw_attacks(rows, chance),
  )


def _draw_attacks(rows: Rows, chance: float | None) -> Any:
  norms = figures.grouped(rows, 1)
  figure, panels = figures.blank(
    figures.WIDTH, 2.8 * len(norms), rows=len(norms), squeeze=False
  )
  # A name says only what tells lines apart; so do colours.
  vary = [len(figures.grouped(rows, i)) > 1 for i in range(5)]
  hue = (0,) if vary[0] else (2, 4)
  hues = list(dict.fromkeys(tuple(row[i] for i in hue) for row in rows))
  marks = list(figures.grouped(rows, 2))
  dashes = {'samples': '-', 'mean': (0, (4, 2)), 'transfer': figures.DOTTED}
  for axes, (norm, on_panel) in zip(panels[:, 0], norms.items(), strict=True):
    if chance is not None:
      text = f'chance level {chance:.3g} %'
      axes.axhline(chance, **figures.LEVEL, label=text)
    for key, mine in figures.grouped(on_panel, *range(5)).items():
      k = hues.index(tuple(key[i] for i in hue))
      words = [
        key[0] if vary[0] else '',
        key[2] if vary[2] or not any(vary) else '',
        key[3] if vary[3] else '',
        'targeted' if key[4] else '',
      ]
      look = {
        'color': figures.COLOURS[k % len(figures.COLOURS)],
        'ls': dashes.get(key[3], (0, (3, 1, 1, 1))),
        'marker': 'osD^v<>'[marks.index(key[2]) % 7],
        'label': ', '.join(word for word in words if word) or key[2],
      }
      x, y = zip(*(row[5:7] for row in mine), strict=True)
      axes.plot(x, y, lw=2, ms=4.5, **look)
    strengths = sorted(figures.grouped(on_panel, 5))
    if len(strengths) < 7:
      axes.set_xticks(strengths, [f'{x:g}' for x in strengths])
    xlabel = f'{printed(norm)} norm of the attack, pixels from 0 to 1'
    axes.set(xlabel=xlabel, ylabel='accuracy, %', ylim=(-2, 102))
  return figure


# Calibration.


def reliability(
  probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> figures.Picture:
  """Draws how often predictions of a confidence are right.

  The mean confidence and the accuracy of an empty bin are NaN.
  """
  measured = calibration.reliability(probabilities, labels, bins)
  numbers = (measured.confidence.tolist(), measured.accuracy.tolist())
  counts = figures.bins(measured.edges, measured.examples)
  rows = [
    (left, right, int(count), x, y)
    for (left, right, count), x, y in zip(counts, *numbers, strict=True)
  ]
  error = figures.number(100 * measured.ece)
  return figures.Picture(
    'reliability',
    'Reliability',
    f'Accuracy of the predictions in {bins} bins of equal width of their '
    f'confidence, {len(labels)} test images; bars: one binomial standard '
    f'error. Below the diagonal they are too sure. Expected calibration error '
    f'on these images: {error} points.',
    f'Reliability diagram; expected calibration error {error} points.',
    ('left', 'right', 'count', 'confidence', 'accuracy'),
    rows,
    lambda: _draw_reliability(rows),
  )


def _draw_reliability(rows: Rows) -> Any:
  figure, (axes, below) = figures.blank(
    figures.WIDTH, 4.4, rows=2, sharex=True, height_ratios=[3, 1]
  )
  left, right, count, x, y = np.array([row for row in rows if row[2]]).T
  # The Laplace estimate, so that a bin that is all right has an error too.
  estimate = (y * count + 1) / (count + 2)
  axes.plot([0, 1], [0, 1], **figures.LEVEL)
  look = {'color': figures.COLOURS[0], 'lw': 1.8, 'marker': 'o', 'ms': 5}
  error = np.sqrt(estimate * (1 - estimate) / count)
  axes.errorbar(x, y, yerr=error, **look, **figures.BARS)
  axes.set(ylim=(-0.03, 1.03), ylabel='accuracy')
  below.set_yscale('log')
  look = {'align': 'edge', 'color': figures.COLOURS[0], 'alpha': 0.5}
  below.bar(left, count - 0.5, right - left, 0.5, **look)
  below.set_ylim(bottom=0.5)
  decades = [10**k for k in range(8) if 10**k <= count.max()]
  below.set_yticks(decades, [figures.power(tick) for tick in decades])
  below.set(xlabel='confidence', ylabel='images')
  below.set_xlim(left.min() - 0.02, 1.02)
  return figure
