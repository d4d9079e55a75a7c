"""Pictures of densities and their samples.

Log densities are in nats. Where a grid gives the normaliser they are of the
normalised density, so that panels compare; the caller sees to that.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.report import figures
from dim_jax.report.figures import Rows

# Nats below the peak down to which contours are drawn.
DEPTH = 8
# Arrows along an axis of a picture: more would touch.
_ARROWS = 11


class Panel(NamedTuple):
  """A log density on a grid, with what was drawn from it.

  Attributes:
    label: above the panel; whose density it is.
    log_density: nats, shape [Y, X] of a plane, rows ascending in y, or [X] of a
      line; None where there are points of a line alone.
    points: samples or data, shape [n, D].
    at: where scores were taken, shape [m, 2]; none if None.
    scores: gradients of the log density there, shape [m, 2], nats per unit.
  """

  label: str
  log_density: np.ndarray | None
  points: np.ndarray
  at: np.ndarray | None = None
  scores: np.ndarray | None = None


def contours(
  panels: Sequence[Panel],
  x: np.ndarray,
  y: np.ndarray,
  *,
  name: str = 'energies',
  title: str = 'Learned densities',
  caption: str = '',
) -> figures.Picture:
  """Draws densities of the plane: contours, points, arrows of the score.

  The panels begin with the truth, as contours lie below its peak. The grid's
  columns x [X] and rows y [Y] ascend. Rows are of points, or of scores with
  their two parts; the grids are not among them.
  """
  peak = top(panels)
  rows: Rows = []
  lengths = []
  for panel in panels:
    points = np.asarray(panel.points, float).tolist()
    rows += [(panel.label, 'point', *p, None, None) for p in points]
    if panel.at is not None and panel.scores is not None:
      arrows = np.hstack([panel.at, panel.scores]).astype(float)
      rows += [(panel.label, 'score', *arrow) for arrow in arrows.tolist()]
      lengths += np.linalg.norm(panel.scores, axis=1).tolist()
  good = [v for v in lengths if math.isfinite(v) and v]
  middle = float(np.median(good)) if good else 1.0
  peaks = '; '.join(
    f'{p.label}: {figures.number(_peak(p.log_density))}' for p in panels
  )

  def draw() -> Any:
    count = len(panels)
    figure, grid = figures.panels(count, min(count, 2), tall(x, y), 'x₁', 'x₂')
    for axes, panel in zip(grid, panels, strict=True):
      shade = shaded(axes, x, y, panel.log_density, peak)
      mine = [row for row in rows if row[0] == panel.label]
      points = part(mine, 'point', 2, 4)
      axes.scatter(*points.T, s=5, color=figures.COLOURS[1], linewidths=0)
      arrows = part(mine, 'score', 2, 6)
      length = np.linalg.norm(arrows[:, 2:], axis=1)
      reach = 0.95 * (x[-1] - x[0]) / _ARROWS
      quiver(axes, arrows, reach / (length + middle), 0.006)
      axes.set_title(panel.label, fontsize=10)
    bar(figure, shade, grid, 'log density, nats')
    return figure

  return figures.Picture(
    name,
    title,
    figures.sentences(
      caption,
      f'Shaded: log density from {peak - DEPTH:g} nats up, all panels alike; '
      f'lines are two nats apart.'.replace('-', '−'),
      lengths
      and f'Arrows: the score s, the gradient of the log density, with lengths '
      f'|s| / (|s| + m), m = {figures.number(middle)} nats per unit.',
      *_left_out(panels, x, y),
    ),
    f'Contours of {len(panels)} log densities over the plane with their '
    f'points. Peaks in nats: {peaks}.',
    ('panel', 'kind', 'x', 'y', 'score_x', 'score_y'),
    rows,
    draw,
  )


def curves(
  panels: Sequence[Panel],
  x: np.ndarray,
  truth: np.ndarray,
  *,
  name: str = 'densities',
  title: str = 'Learned densities',
  caption: str = '',
  truth_name: str = 'truth',
  points_name: str = 'samples',
) -> figures.Picture:
  """Draws densities of the line: each with the truth and its points' histogram.

  Points of a panel without a density are ticks at the bottom. The grid x [X]
  ascends; `truth` is the true log density on it, in nats. Rows are of kind
  'model', 'truth', 'point' or 'bin', with left and right (equal but of bins)
  and the density (None of points).
  """
  rows: Rows = []
  for panel in panels:
    points = np.ravel(np.asarray(panel.points, float))
    lines = {'truth': truth, 'model': panel.log_density}
    for kind, values in lines.items():
      if values is not None:
        density = np.exp(np.asarray(values, float)).tolist()
        pairs = zip(np.asarray(x, float).tolist(), density, strict=True)
        rows += [(panel.label, kind, at, at, value) for at, value in pairs]
    if panel.log_density is None:
      rows += [(panel.label, 'point', p, p, None) for p in points.tolist()]
    edges = np.linspace(x[0], x[-1], 41)
    counts, _ = np.histogram(points[np.isfinite(points)], edges)
    # By all points: those outside take their part.
    heights = counts / max(len(points), 1) / (edges[1] - edges[0])
    rows += [(panel.label, 'bin', *bin) for bin in figures.bins(edges, heights)]
  modelled = any(row[1] == 'model' for row in rows)
  return figures.Picture(
    name,
    title,
    figures.sentences(
      caption,
      f'{"Bold: the density; d" if modelled else "D"}ashed: the {truth_name}; '
      f'shaded: histogram of the {points_name}'
      f'{"." if modelled else ", and each as a tick below."}',
      *_left_out(panels, x),
    ),
    f'Density curves beside the {truth_name}: '
    f'{", ".join(p.label for p in panels)}.',
    ('panel', 'kind', 'left', 'right', 'density'),
    rows,
    lambda: _draw_curves(rows, truth_name, points_name),
  )


def _draw_curves(rows: Rows, truth_name: str, points_name: str) -> Any:
  groups = figures.grouped(rows, 0)
  figure, grid = figures.panels(
    len(groups), min(len(groups), 2), 0.6, 'x', 'density'
  )
  first, second = figures.COLOURS[:2]
  for axes, (label, mine) in zip(grid, groups.items(), strict=True):
    if len(bins := part(mine, 'bin', 2, 5)):
      figures.stairs(axes, bins, second, points_name)
    if len(model := part(mine, 'model', 2, 5)):
      axes.plot(model[:, 0], model[:, 2], first, lw=2.2, label='model')
    truth = part(mine, 'truth', 2, 5)
    look = figures.LEVEL | {'zorder': 3}
    axes.plot(truth[:, 0], truth[:, 2], **look, label=truth_name)
    ticks = part(mine, 'point', 2, 3)[:, 0]
    look = {'color': second, 'ms': 6, 'transform': axes.get_xaxis_transform()}
    axes.plot(ticks, np.full(len(ticks), 0.03), '|', **look)
    axes.set_title(label, fontsize=10)
  heights = np.array([row[4] for row in rows], float)
  highest = max(heights[np.isfinite(heights)], default=1)
  # One sharp peak must not press all else to the ground.
  most = min(1.08 * highest, 2.5 * truth[:, 2].max())
  grid[0].set(xlim=(truth[0, 0], truth[-1, 0]), ylim=(0, most))
  return figure


def image_grid(
  blocks: Mapping[str, np.ndarray],
  *,
  columns: int = 5,
  across: int = 3,
  name: str = 'samples',
  title: str = 'Samples',
  caption: str = '',
) -> figures.Picture:
  """Draws images in blocks side by side, such as reals beside samples.

  A block has `columns` images a row, and a row of blocks at most `across`.
  Images are by the name of their block, uint8 or float in [-1, 1], of shape
  [n, H, W, C] with C of 1 or 3; rows have the least, mean and greatest of the
  pixels as they came.
  """
  rows: Rows = []
  broken = []
  for label, images in blocks.items():
    images = np.asarray(images)
    for i, pixels in enumerate(images):
      numbers = (pixels.min(), pixels.mean(), pixels.max())
      rows.append((label, i, *map(float, numbers)))
    if not np.isfinite(images.astype(float)).all():
      broken.append(label)
  return figures.Picture(
    name,
    title,
    figures.sentences(
      caption,
      'In the order drawn.',
      broken and f'Not finite: pixels of {", ".join(broken)}.',
    ),
    'Grids of images: '
    + ', '.join(f'{len(v)} {k}' for k, v in blocks.items())
    + '.',
    ('block', 'index', 'least', 'mean', 'greatest'),
    rows,
    lambda: _draw_images(blocks, columns, across),
  )


def _draw_images(
  blocks: Mapping[str, np.ndarray], columns: int, across: int
) -> Any:
  step = 1.06
  most = max(-(-len(images) // columns) for images in blocks.values())
  ratio = max(np.shape(v)[1] / np.shape(v)[2] for v in blocks.values())
  figure, grid = figures.panels(
    len(blocks), min(len(blocks), across), ratio * most / columns
  )
  for axes, (label, images) in zip(grid, blocks.items(), strict=True):
    shown = np.asarray(images)
    if shown.dtype != np.uint8:
      shown = np.clip((np.nan_to_num(shown.astype(float)) + 1) / 2, 0, 1)
    axes.set_axis_off()
    axes.set(xlim=(-0.06, columns * step), ylim=(most * step, -0.06))
    for i, image in enumerate(shown):
      row, column = divmod(i, columns)
      figures.tile(axes, image, column * step, row * step)
    axes.set_aspect(shown.shape[1] / shown.shape[2])
    axes.set_title(figures.shorten(label), fontsize=10)
  return figure


# Shared with the pictures of dynamics.


def shaded(
  axes: Any, x: np.ndarray, y: np.ndarray, log_density: Any, top: float
) -> Any:
  """Draws a log density of the plane, and sets the frame; returns the shade."""
  levels = top - DEPTH + np.arange(DEPTH + 1)
  values = np.ma.masked_invalid(np.asarray(log_density, float))
  colour = figures.COLOURS[0]
  look = {'cmap': figures.ramp(colour, 0.6), 'extend': 'max'}
  shade = axes.contourf(x, y, values, levels, **look)
  # Lines vanish where nothing lies between the levels; Matplotlib would warn.
  if values.count() and values.min() < top - 2 and values.max() > top - DEPTH:
    look = {'colors': colour, 'linewidths': 0.6, 'linestyles': 'solid'}
    axes.contour(x, y, values, levels[:-1:2], alpha=0.7, **look)
  axes.set(aspect='equal', xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
  return shade


def bar(figure: Any, shade: Any, grid: Sequence[Any], label: str) -> None:
  """Draws the bar of colours below the panels, which keep their size."""
  figure.set_figheight(figure.get_figheight() + 0.75)
  place = {'ax': list(grid), 'location': 'bottom', 'aspect': 40}
  bar = figure.colorbar(shade, label=label, **place)
  marks = shade.levels[::2]
  bar.set_ticks(marks, labels=[f'{v:g}'.replace('-', '−') for v in marks])
  bar.outline.set_visible(False)


def quiver(
  axes: Any, arrows: np.ndarray, scale: np.ndarray, width: float
) -> None:
  """Draws those arrows [n, 4] (x, y, dx, dy) that are finite, scaled [n]."""
  good = np.isfinite(arrows).all(1)
  if not good.any():
    return
  look = {'color': figures.INK, 'width': width, 'zorder': 2.5}
  look |= {'headwidth': 3.6, 'headlength': 4, 'headaxislength': 3.6}
  look |= {'angles': 'xy', 'scale_units': 'xy', 'scale': 1}
  shown = arrows[good, 2:] * scale[good, None]
  axes.quiver(*arrows[good, :2].T, *shown.T, **look)


def top(panels: Sequence[Panel]) -> float:
  """Returns the first panel's peak, up to whole nats; 0 where there is none."""
  peak = _peak(panels[0].log_density)
  return float(math.ceil(peak - 0.05)) if math.isfinite(peak) else 0.0


def part(rows: Rows, kind: str, first: int, last: int) -> np.ndarray:
  """Returns columns `first` to `last` of the rows of one kind."""
  chosen = [row[first:last] for row in rows if row[1] == kind]
  return np.array(chosen, float).reshape(-1, last - first)


def tall(x: np.ndarray, y: np.ndarray) -> float:
  """Returns height over width of a grid."""
  return float((y[-1] - y[0]) / (x[-1] - x[0]))


def outside(points: np.ndarray, *axes: np.ndarray) -> int:
  """Counts the points that a frame does not show, or that are not finite."""
  low, high = np.array([(axis[0], axis[-1]) for axis in axes]).T
  points = np.asarray(points, float)
  return int((~((points >= low) & (points <= high)).all(1)).sum())


def _left_out(panels: Sequence[Panel], *axes: np.ndarray) -> list[str]:
  """Sentences on what the panels do not show."""
  counts = ', '.join(
    f'{n} of {p.label}' for p in panels if (n := outside(p.points, *axes))
  )
  broken = ', '.join(
    p.label
    for p in panels
    if p.log_density is not None and not np.isfinite(p.log_density).all()
  )
  return [
    f'Points outside the frame: {counts}.' if counts else '',
    f'Not finite in places: {broken}.' if broken else '',
  ]


def _peak(log_density: Any) -> float:
  good = np.asarray(log_density, float)
  good = good[np.isfinite(good)]
  return float(good.max()) if len(good) else math.nan
