"""Pictures of energies and of what moves along them.

Log densities are in nats. Where a grid gives the normaliser they are of the
normalised density, so that panels compare; the caller sees to that.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.report import figures

# Nats below the peak down to which contours are drawn.
_DEPTH = 8
# Arrows along an axis of a picture: more would touch.
_ARROWS = 11


# Energies and their samples.


class Panel(NamedTuple):
  """A log density on a grid, with what was drawn from it.

  Attributes:
    label: above the panel; whose density it is.
    log_density: nats, shape [Y, X] of a plane, rows ascending in y, or [X] of a
      line.
    points: samples or data, shape [n, D].
    at: where scores were taken, shape [m, 2]; none if None.
    scores: gradients of the log density there, shape [m, 2], nats per unit.
  """

  label: str
  log_density: np.ndarray
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
  """Densities of the plane side by side: contours, points, score arrows.

  Args:
    panels: the truth first, as contours lie below its peak.
    x: the grid's columns, ascending, shape [X].
    y: the grid's rows, ascending, shape [Y].
    name: stem of the files.
    title: a few words.
    caption: what the points are.

  Returns:
    The picture; its rows are panel, kind ('point' or 'score'), x, y, and of a
    score its two parts. The grids are not among them.

  Raises:
    ValueError: there is no panel, or a grid of another shape.
  """
  _check_panels(panels, (len(y), len(x)))
  rows: list[tuple[Any, ...]] = []
  lengths = []
  for panel in panels:
    rows += [
      (panel.label, 'point', *_floats(p), None, None) for p in panel.points
    ]
    if panel.at is not None and panel.scores is not None:
      rows += [
        (panel.label, 'score', *_floats(p), *_floats(s))
        for p, s in zip(panel.at, panel.scores, strict=True)
      ]
      lengths += np.linalg.norm(panel.scores, axis=1).tolist()
  top = _top(panels[0].log_density)
  parts = [
    caption,
    f'Shaded: log density from {_short(top - _DEPTH)} nats up, all '
    f'panels alike; lines are two nats apart.',
  ]
  middle = _median(lengths)
  if lengths:
    parts.append(
      f'Arrows: the score s, the gradient of the log density, with lengths '
      f'|s| / (|s| + m), m = {figures.number(middle)} nats per unit.'
    )
  parts += _left_out(panels, x, y)
  peaks = '; '.join(
    f'{p.label}: {figures.number(_peak(p.log_density))}' for p in panels
  )
  return figures.Picture(
    name,
    title,
    ' '.join(part for part in parts if part),
    f'Contours of {len(panels)} log densities over the plane with their '
    f'points. Peaks in nats: {peaks}.',
    ('panel', 'kind', 'x', 'y', 'score_x', 'score_y'),
    rows,
    lambda theme: _draw_contours(rows, panels, x, y, top, middle, theme),
  )


def _draw_contours(
  rows: list[tuple[Any, ...]],
  panels: Sequence[Panel],
  x: np.ndarray,
  y: np.ndarray,
  top: float,
  middle: float,
  theme: figures.Theme,
) -> Any:
  columns = min(len(panels), 2)
  figure, every, bar = _panels(
    theme, len(panels), columns, _tall(x, y), shared=True, bar=True
  )
  shade = None
  for axes, panel in zip(every, panels, strict=True):
    shade = _shade(axes, x, y, panel.log_density, top, theme)
    mine = [row for row in rows if row[0] == panel.label]
    points = _columns(mine, 'point', 2, 4)
    axes.scatter(
      points[:, 0],
      points[:, 1],
      s=5,
      color=theme.colours[1],
      linewidths=0,
      alpha=0.8,
    )
    arrows = _columns(mine, 'score', 2, 6)
    if len(arrows):
      _arrows(axes, arrows, middle, x, theme)
    axes.set_title(panel.label, loc='left', fontsize=10)
  _plane(every, columns, x, y)
  _bar(figure, shade, bar, 'log density, nats', theme)
  return figure


def curves(
  panels: Sequence[Panel],
  x: np.ndarray,
  truth: np.ndarray,
  *,
  name: str = 'densities',
  title: str = 'Learned densities',
  caption: str = '',
) -> figures.Picture:
  """Densities of the line: each with the truth and its points' histogram.

  Args:
    panels: whose densities.
    x: the grid, ascending, shape [X].
    truth: the true log density on it, nats, shape [X].
    name: stem of the files.
    title: a few words.
    caption: what the points are.

  Returns:
    The picture; its rows are panel, kind ('model', 'truth' or 'bin'), left,
    right (equal but of bins) and density.

  Raises:
    ValueError: there is no panel, or a grid of another shape.
  """
  _check_panels(panels, (len(x),))
  rows: list[tuple[Any, ...]] = []
  for panel in panels:
    for kind, values in (('truth', truth), ('model', panel.log_density)):
      rows += [
        (panel.label, kind, float(a), float(a), float(d))
        for a, d in zip(x, np.exp(np.asarray(values, float)), strict=True)
      ]
    rows += [(panel.label, 'bin', *row) for row in _bins(panel.points, x)]
  parts = [
    caption,
    'Bold: the density; dashed: the truth; shaded: histogram of the points.',
  ]
  parts += _left_out(panels, x, None)
  return figures.Picture(
    name,
    title,
    ' '.join(part for part in parts if part),
    f'Density curves beside the truth: {", ".join(p.label for p in panels)}.',
    ('panel', 'kind', 'left', 'right', 'density'),
    rows,
    lambda theme: _draw_curves(rows, theme),
  )


def _draw_curves(rows: list[tuple[Any, ...]], theme: figures.Theme) -> Any:
  labels = list(dict.fromkeys(row[0] for row in rows))
  columns = min(len(labels), 2)
  figure, every, _ = _panels(theme, len(labels), columns, 0.6, shared=True)
  for axes, label in zip(every, labels, strict=True):
    mine = [row for row in rows if row[0] == label]
    _histogram(axes, _columns(mine, 'bin', 2, 5), 'samples', theme)
    for kind, look in (
      ('model', {'color': theme.colours[0], 'linewidth': 2.2}),
      (
        'truth',
        {'color': theme.ink, 'linewidth': 1.4, 'linestyle': (0, (4, 2))},
      ),
    ):
      found = _columns(mine, kind, 2, 5)
      axes.plot(found[:, 0], found[:, 2], label=kind, **look)
    axes.set_title(label, loc='left', fontsize=10)
  _line_axes(every, columns, rows)
  _names(figure, every[0], theme)
  return figure


# Particles.


def paths(
  iterations: Sequence[int],
  positions: np.ndarray,
  x: np.ndarray,
  y: np.ndarray,
  log_density: np.ndarray,
  *,
  name: str = 'paths',
  title: str = 'Paths of the particles',
  caption: str = '',
) -> figures.Picture:
  """Particles of the plane on their way, over their target.

  Args:
    iterations: when positions were recorded, ascending, length T.
    positions: shape [T, n, 2].
    x: the grid's columns, ascending, shape [X].
    y: the grid's rows, ascending, shape [Y].
    log_density: the target's, nats, shape [Y, X].
    name: stem of the files.
    title: a few words.
    caption: how they moved.

  Returns:
    The picture; its rows are iteration, particle, x and y.

  Raises:
    ValueError: a shape is another.
  """
  positions = np.asarray(positions, float)
  _check_positions(iterations, positions, 2)
  _check_panels([Panel('target', log_density, positions[0])], (len(y), len(x)))
  rows = _position_rows(iterations, positions)
  top = _top(log_density)
  parts = [
    caption,
    f'Paths of {positions.shape[1]} particles from iteration {iterations[0]} '
    f'(hollow) to {iterations[-1]} (filled), recorded {len(iterations)} times, '
    f'over the log density of the target from {_short(top - _DEPTH)} '
    f'nats up.',
    _lost(positions, x, y),
  ]
  return figures.Picture(
    name,
    title,
    ' '.join(part for part in parts if part),
    f'Paths of {positions.shape[1]} particles over contours of their target; '
    f'{_moments(positions[-1])}.',
    ('iteration', 'particle', 'x', 'y'),
    rows,
    lambda theme: _draw_paths(rows, x, y, log_density, top, theme),
  )


def _draw_paths(
  rows: list[tuple[Any, ...]],
  x: np.ndarray,
  y: np.ndarray,
  log_density: np.ndarray,
  top: float,
  theme: figures.Theme,
) -> Any:
  figure, (axes,), bar = _panels(theme, 1, 1, _tall(x, y), bar=True)
  shade = _shade(axes, x, y, log_density, top, theme)
  table = np.array(rows, float)
  count = int(table[:, 1].max()) + 1
  # [T, n, 2]: rows go particle by particle within an iteration.
  positions = table[:, 2:].reshape(-1, count, 2)
  axes.plot(
    positions[:, :, 0],
    positions[:, :, 1],
    color=theme.colours[1],
    linewidth=0.8,
    alpha=0.55,
  )
  for at, face in ((0, theme.ground), (-1, theme.colours[1])):
    axes.scatter(
      positions[at, :, 0],
      positions[at, :, 1],
      s=16,
      facecolors=face,
      edgecolors=theme.colours[1] if at == 0 else theme.ground,
      linewidths=1 if at == 0 else 0.5,
      zorder=3,
    )
  _plane([axes], 1, x, y)
  _bar(figure, shade, bar, 'log density of the target, nats', theme)
  return figure


def snapshots(
  iterations: Sequence[int],
  positions: np.ndarray,
  x: np.ndarray,
  log_density: np.ndarray,
  *,
  name: str = 'snapshots',
  title: str = 'The particles at some iterations',
  caption: str = '',
) -> figures.Picture:
  """Particles of the line at recorded iterations, one panel each.

  Args:
    iterations: when positions were recorded, ascending, length T.
    positions: shape [T, n, 1].
    x: the grid, ascending, shape [X].
    log_density: the target's, nats, normalised, shape [X].
    name: stem of the files.
    title: a few words.
    caption: how they moved.

  Returns:
    The picture; its rows are panel, kind ('particle', 'truth' or 'bin'), left,
    right (equal but of bins) and density (None of particles).

  Raises:
    ValueError: a shape is another.
  """
  positions = np.asarray(positions, float)
  _check_positions(iterations, positions, 1)
  _check_panels([Panel('target', log_density, positions[0])], (len(x),))
  rows: list[tuple[Any, ...]] = []
  for iteration, found in zip(iterations, positions, strict=True):
    label = f'iteration {iteration}'
    rows += [
      (label, 'truth', float(a), float(a), float(d))
      for a, d in zip(x, np.exp(np.asarray(log_density, float)), strict=True)
    ]
    rows += [(label, 'bin', *row) for row in _bins(found, x)]
    rows += [(label, 'particle', float(p), float(p), None) for p in found[:, 0]]
  parts = [
    caption,
    f'{positions.shape[1]} particles: histogram, and each as a tick below; '
    f'dashed: density of the target.',
    _lost(positions, x, None),
  ]
  return figures.Picture(
    name,
    title,
    ' '.join(part for part in parts if part),
    f'Histograms of {positions.shape[1]} particles at iterations '
    f'{", ".join(map(str, iterations))}; {_moments(positions[-1])}.',
    ('panel', 'kind', 'left', 'right', 'density'),
    rows,
    lambda theme: _draw_snapshots(rows, theme),
  )


def _draw_snapshots(rows: list[tuple[Any, ...]], theme: figures.Theme) -> Any:
  labels = list(dict.fromkeys(row[0] for row in rows))
  columns = min(len(labels), 2)
  figure, every, _ = _panels(theme, len(labels), columns, 0.55, shared=True)
  for axes, label in zip(every, labels, strict=True):
    mine = [row for row in rows if row[0] == label]
    _histogram(axes, _columns(mine, 'bin', 2, 5), 'particles', theme)
    truth = _columns(mine, 'truth', 2, 5)
    axes.plot(
      truth[:, 0],
      truth[:, 2],
      color=theme.ink,
      linewidth=1.4,
      linestyle=(0, (4, 2)),
      label='target',
    )
    ticks = _columns(mine, 'particle', 2, 3)[:, 0]
    axes.plot(
      ticks,
      np.full(len(ticks), 0.03),
      '|',
      color=theme.colours[1],
      markersize=6,
      markeredgewidth=0.8,
      transform=axes.get_xaxis_transform(),
    )
    axes.set_title(label, loc='left', fontsize=10)
  _line_axes(every, columns, rows)
  _names(figure, every[0], theme)
  return figure


def collapse(
  dimensions: Sequence[int],
  variances: Mapping[str, Sequence[float]],
  *,
  name: str = 'collapse',
  title: str = 'Spread of the particles by dimension',
  caption: str = '',
) -> figures.Picture:
  """Mean marginal variance over the dimension, beside the target's of one.

  Args:
    dimensions: ascending.
    variances: by the line's label, one for each dimension; NaN where there is
      none.
    name: stem of the files.
    title: a few words.
    caption: how they were made.

  Returns:
    The picture; its rows are line, dimension and variance.

  Raises:
    ValueError: a line has not one value for each dimension.
  """
  for label, values in variances.items():
    if len(values) != len(dimensions):
      raise ValueError(
        f'{label!r} must have a variance for each of {len(dimensions)} '
        f'dimensions, got {len(values)}.'
      )
  rows: list[tuple[Any, ...]] = [
    (label, int(d), float(v))
    for label, values in variances.items()
    for d, v in zip(dimensions, values, strict=True)
  ]
  ends = ', '.join(
    f'{label} {figures.number(float(values[-1]))}'
    for label, values in variances.items()
  )
  parts = [
    caption,
    'Dashed: the target’s variance of 1. The means say nothing of this: they '
    'stay right.',
  ]
  return figures.Picture(
    name,
    title,
    ' '.join(part for part in parts if part),
    f'Mean marginal variance over the dimension; at {dimensions[-1]}: {ends}.',
    ('line', 'dimension', 'variance'),
    rows,
    lambda theme: _draw_collapse(rows, theme),
  )


def _draw_collapse(rows: list[tuple[Any, ...]], theme: figures.Theme) -> Any:
  from matplotlib import ticker

  figure, axes = figures.blank(theme, figures.WIDTH, 3.3)
  axes.set_xscale('log')
  axes.axhline(1, color=theme.faint, linestyle=(0, (5, 3)), linewidth=1.4)
  texts = []
  for k, label in enumerate(dict.fromkeys(row[0] for row in rows)):
    colour = theme.colours[k % len(theme.colours)]
    x, y = (np.array([r[i] for r in rows if r[0] == label]) for i in (1, 2))
    axes.plot(x, y, color=colour, linewidth=2.2, marker='os^DvP'[k % 6])
    good = y[np.isfinite(y)]
    at = float(good[-1]) if len(good) else math.nan
    texts.append((at, f'{label}\n{figures.number(at)}', colour, 'bold'))
  axes.set_ylim(0, max([1.1, *(1.1 * r[2] for r in rows if r[2] == r[2])]))
  ticks = sorted({row[1] for row in rows})
  axes.set_xticks(ticks, [str(t) for t in ticks])
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.set_xlabel('dimension d')
  axes.set_ylabel('mean marginal variance')
  figures.label_right(figure, axes, texts, gap=29)
  return figure


def of_particles(
  toy: str, arrays: Mapping[str, np.ndarray]
) -> list[figures.Picture]:
  """The pictures of one toy of `experiments.studies.particles`.

  Args:
    toy: its name, which is the stem of the files.
    arrays: what its .npz holds: 'dimensions' with variances; or 'iterations',
      'grid', 'log_density' (of the plane [X, Y]) and particles.

  Returns:
    None, one, or one with and one without the self term.
  """
  if 'dimensions' in arrays:
    lines = {
      f'{name} self term': arrays[f'variance {name}'].tolist()
      for name in ('with', 'without')
    }
    return [collapse(arrays['dimensions'].tolist(), lines, name=toy)]
  if 'grid' not in arrays:
    return []
  pictures = []
  iterations = [int(i) for i in arrays['iterations']]
  grid, values = arrays['grid'], arrays['log_density']
  for name in ('with', 'without'):
    found = arrays[f'particles_{name}']
    settings = {
      'name': f'{toy}_{name}',
      'title': f'{toy.replace("_", " ")}, {name} the self term',
      'caption': f'Stein variational gradient descent {name} the self term.',
    }
    if found.shape[-1] == 1:
      pictures.append(snapshots(iterations, found, grid, values, **settings))
    else:
      pictures.append(
        paths(iterations, found, grid, grid, values.T, **settings)
      )
  return pictures


# Adversarial divergences as dynamics.


class Field(NamedTuple):
  """How a critic and a generator of one number each move.

  Attributes:
    label: of the divergence.
    directions: velocities (generator's, critic's) on the grid, shape
      [critics, generators, 2].
    trajectory: (generator, critic) from the start on, shape [T, 2].
    eigenvalues: of the velocity's Jacobian at the solution, shape [2], complex;
      None where it has none.
    note: what else to say beneath the label, or why it has none.
  """

  label: str
  directions: np.ndarray
  trajectory: np.ndarray
  eigenvalues: np.ndarray | None
  note: str = ''


def vector_fields(
  fields: Sequence[Field],
  generators: np.ndarray,
  critics: np.ndarray,
  *,
  name: str = 'vector_fields',
  title: str = 'Adversarial divergences as dynamics',
  caption: str = '',
) -> figures.Picture:
  """The plane of generator and critic, one panel a divergence.

  Args:
    fields: one a divergence.
    generators: the grid's columns, ascending, shape [X].
    critics: its rows, ascending, shape [Y].
    name: stem of the files.
    title: a few words.
    caption: how the trajectories were made.

  Returns:
    The picture; its rows are panel, kind ('direction' or 'trajectory'),
    generator, critic, and of a direction its two parts.

  Raises:
    ValueError: there is no field, or one of another shape.
  """
  shape = (len(critics), len(generators), 2)
  if not fields:
    raise ValueError('A picture needs at least one field, got none.')
  rows: list[tuple[Any, ...]] = []
  for field in fields:
    if np.shape(field.directions) != shape:
      raise ValueError(
        f'{field.label!r} must have directions of shape {list(shape)}, got '
        f'{list(np.shape(field.directions))}.'
      )
    rows += [
      (field.label, 'direction', float(a), float(b), *_floats(v))
      for b, line in zip(critics, field.directions, strict=True)
      for a, v in zip(generators, line, strict=True)
    ]
    rows += [
      (field.label, 'trajectory', *_floats(p), None, None)
      for p in field.trajectory
    ]
  said = {field.label: _said(field) for field in fields}
  return figures.Picture(
    name,
    title,
    ' '.join(
      part
      for part in (
        caption,
        'Arrows: the velocity v, with lengths |v| / (|v| + 1), all panels '
        'alike. Orange: a path, from the hollow to the filled dot. λ: '
        'eigenvalues of the Jacobian at the solution, the cross; a real part '
        'below 0 draws in, a real part of 0 leaves it to terms of higher '
        'order.',
      )
      if part
    ),
    'Vector fields: '
    + '; '.join(f'{label}, {text}' for label, text in said.items())
    + '.',
    ('panel', 'kind', 'generator', 'critic', 'd_generator', 'd_critic'),
    rows,
    lambda theme: _draw_fields(rows, said, generators, critics, theme),
  )


def eigenvalues(values: np.ndarray) -> str:
  """A pair of eigenvalues in print: '±0.5i', '−0.3 ± 0.4i' or '−0.8, −0.2'.

  Args:
    values: complex, shape [2]; conjugate or real.
  """
  values = np.asarray(values, complex)
  if not np.isfinite(values).all():
    return 'not finite'
  real = _near(values.real)
  turn = float(_near(np.abs(values.imag)).max())
  if not turn:
    low, high = sorted(real)
    if abs(low - high) < 1e-3:
      return _short(low)
    return f'{_short(low)}, {_short(high)}'
  imaginary = 'i' if abs(turn - 1) < 5e-4 else f'{_short(turn)}i'
  centre = float(_near(np.mean(values.real)))
  if not centre:
    return f'±{imaginary}'
  return f'{_short(centre)} ± {imaginary}'


def _near(values: Any) -> np.ndarray:
  """Without what is float32's rounding."""
  return np.where(np.abs(values) < 1e-4, 0.0, values)


def _short(value: float) -> str:
  return f'{value:.3g}'.replace('-', '−')


def _said(field: Field) -> str:
  parts = []
  if field.eigenvalues is not None:
    parts.append(f'λ = {eigenvalues(field.eigenvalues)}')
  if field.note:
    parts.append(field.note)
  return '; '.join(parts)


def _draw_fields(
  rows: list[tuple[Any, ...]],
  said: Mapping[str, str],
  generators: np.ndarray,
  critics: np.ndarray,
  theme: figures.Theme,
) -> Any:
  columns = min(len(said), 3)
  figure, every, _ = _panels(
    theme,
    len(said),
    columns,
    1.0,
    shared=True,
    head=0.5,
    width=1.2 * figures.WIDTH,
  )
  reach = 0.9 * (generators[-1] - generators[0]) / (len(generators) - 1)
  for axes, (label, text) in zip(every, said.items(), strict=True):
    mine = [row for row in rows if row[0] == label]
    arrows = _columns(mine, 'direction', 2, 6)
    speed = np.linalg.norm(arrows[:, 2:], axis=1)
    scale = 1.4 / (speed + 1)
    _quiver(axes, arrows, scale * reach, theme.faint, 0.009)
    path = _columns(mine, 'trajectory', 2, 4)
    axes.plot(
      path[:, 0], path[:, 1], color=theme.colours[1], linewidth=1.4, zorder=3
    )
    for at, face in ((0, theme.ground), (-1, theme.colours[1])):
      axes.plot(
        *path[at],
        'o',
        color=theme.colours[1],
        markerfacecolor=face,
        markersize=4.5,
        zorder=4,
      )
    axes.plot(0, 0, '+', color=theme.ink, markersize=9, zorder=5)
    axes.set_aspect('equal')
    axes.set_title(f'{label}\n{text}', loc='left', fontsize=8.5)
    axes.set_xlim(generators[0] - reach / 2, generators[-1] + reach / 2)
    axes.set_ylim(critics[0] - reach / 2, critics[-1] + reach / 2)
  _outer(every, columns, 'generator θ', 'critic ψ')
  return figure


# Images.


def image_grid(
  blocks: Mapping[str, np.ndarray],
  *,
  columns: int = 5,
  name: str = 'samples',
  title: str = 'Samples',
  caption: str = '',
) -> figures.Picture:
  """Images in blocks side by side, such as reals beside samples.

  Args:
    blocks: images by the name of their block, uint8 or float in [-1, 1], shape
      [n, H, W, C] with C of 1 or 3.
    columns: images in a row of a block.
    name: stem of the files.
    title: a few words.
    caption: whose images they are.

  Returns:
    The picture; its rows are block, index, and the least, mean and greatest of
    the pixels as they came.

  Raises:
    ValueError: there is no block, or one of another rank or without images.
  """
  if not blocks:
    raise ValueError('A grid needs at least one block of images, got none.')
  for label, images in blocks.items():
    if np.ndim(images) != 4 or not len(images):
      raise ValueError(
        f'{label!r} must be images [n, H, W, C], got shape '
        f'{list(np.shape(images))}.'
      )
  rows: list[tuple[Any, ...]] = [
    (label, i, float(m.min()), float(m.mean()), float(m.max()))
    for label, images in blocks.items()
    for i, m in enumerate(np.asarray(images))
  ]
  broken = [
    label
    for label, images in blocks.items()
    if not np.isfinite(np.asarray(images, float)).all()
  ]
  more = f'Not finite: pixels of {", ".join(broken)}.' if broken else ''
  return figures.Picture(
    name,
    title,
    ' '.join(part for part in (caption, 'In the order drawn.', more) if part),
    'Grids of images: '
    + ', '.join(f'{len(v)} {k}' for k, v in blocks.items())
    + '.',
    ('block', 'index', 'least', 'mean', 'greatest'),
    rows,
    lambda theme: _draw_images(blocks, columns, theme),
  )


def _draw_images(
  blocks: Mapping[str, np.ndarray], columns: int, theme: figures.Theme
) -> Any:
  step = 1.06
  most = max(-(-len(images) // columns) for images in blocks.values())
  sizes = [np.shape(images)[1:3] for images in blocks.values()]
  tall = max(h / w for h, w in sizes) * most / columns
  beside = min(len(blocks), 3)
  figure, every, _ = _panels(theme, len(blocks), beside, tall, labels=False)
  for axes, (label, images) in zip(every, blocks.items(), strict=True):
    shown = np.asarray(images)
    if shown.dtype == np.uint8:
      shown = shown / 255
    else:
      shown = np.clip((np.nan_to_num(shown.astype(float)) + 1) / 2, 0, 1)
    if shown.shape[-1] == 1:
      shown = np.repeat(shown, 3, -1)
    for i, image in enumerate(shown):
      row, column = divmod(i, columns)
      axes.imshow(
        image,
        extent=(column * step, column * step + 1, row * step + 1, row * step),
        interpolation='nearest',
        aspect='auto',
      )
    axes.set_axis_off()
    # imshow moves the limits.
    axes.set_xlim(-0.06, columns * step)
    axes.set_ylim(most * step, -0.06)
    axes.set_aspect(shown.shape[1] / shown.shape[2])
    axes.set_title(label, loc='left', fontsize=10)
  return figure


# Shared by several.


def _panels(
  theme: figures.Theme,
  count: int,
  columns: int,
  tall: float,
  *,
  shared: bool = False,
  bar: bool = False,
  labels: bool = True,
  head: float = 0.35,
  width: float = figures.WIDTH,
) -> tuple[Any, list[Any], Any]:
  """A figure of panels in rows, and axes below them for a bar of colours."""
  lines = -(-count // columns)
  left = 0.6 if labels else 0.1
  wide = (width - left - 0.15 * (columns - 1)) / columns
  height = lines * (wide * tall + head)
  height += 0.45 * labels + 0.55 * bar
  figure, found = figures.blank(
    theme, width, height, rows=count + bar, squeeze=False
  )
  grid = figure.add_gridspec(
    lines + bar, columns, height_ratios=[1] * lines + [0.05 / tall] * bar
  )
  every = list(found[:, 0])
  for k, axes in enumerate(every[:count]):
    axes.set_subplotspec(grid[k // columns, k % columns])
    if shared and k:
      axes.sharex(every[0])
      axes.sharey(every[0])
  if bar:
    every[-1].set_subplotspec(grid[-1, :])
  return figure, every[:count], every[-1] if bar else None


def _outer(
  every: Sequence[Any], columns: int, xlabel: str, ylabel: str
) -> None:
  """Labels and tick labels on the outer panels alone."""
  for k, axes in enumerate(every):
    lowest = k // columns == (len(every) - 1) // columns
    axes.tick_params(
      labelbottom=lowest, labelleft=k % columns == 0, labelsize=9
    )
    if lowest:
      axes.set_xlabel(xlabel, fontsize=10)
    if k % columns == 0:
      axes.set_ylabel(ylabel, fontsize=10)


def _plane(
  every: Sequence[Any], columns: int, x: np.ndarray, y: np.ndarray
) -> None:
  for axes in every:
    axes.set_aspect('equal')
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
  _outer(every, columns, 'x₁', 'x₂')


def _line_axes(
  every: Sequence[Any],
  columns: int,
  rows: Sequence[tuple[Any, ...]],
) -> None:
  truth = [row for row in rows if row[1] == 'truth']
  good = [row[4] for row in rows if row[4] is not None]
  good = [height for height in good if math.isfinite(height)]
  # One sharp peak must not press all else to the ground.
  most = 2.5 * max(row[4] for row in truth)
  every[0].set_xlim(truth[0][2], truth[-1][2])
  every[0].set_ylim(0, min(1.08 * max(good, default=1), most))
  _outer(every, columns, 'x', 'density')


def _shade(
  axes: Any,
  x: np.ndarray,
  y: np.ndarray,
  log_density: np.ndarray,
  top: float,
  theme: figures.Theme,
) -> Any:
  from matplotlib import colors

  ramp = colors.LinearSegmentedColormap.from_list(
    'density', [theme.ground, theme.colours[0]]
  )
  levels = top - _DEPTH + np.arange(_DEPTH + 1)
  values = np.ma.masked_invalid(np.asarray(log_density, float))
  shade = axes.contourf(
    x, y, values, levels, cmap=ramp, extend='max', alpha=0.6
  )
  # Lines vanish where nothing lies between the levels; Matplotlib would warn.
  if values.count() and values.min() < top - 2 and values.max() > top - _DEPTH:
    axes.contour(
      x,
      y,
      values,
      levels[:-1:2],
      colors=theme.colours[0],
      linewidths=0.6,
      linestyles='solid',
      alpha=0.7,
    )
  return shade


def _bar(
  figure: Any, shade: Any, axes: Any, label: str, theme: figures.Theme
) -> None:
  bar = figure.colorbar(shade, cax=axes, orientation='horizontal')
  bar.set_label(label, fontsize=10, color=theme.ink)
  marks = shade.levels[::2]
  bar.set_ticks(marks, labels=[f'{v:g}'.replace('-', '−') for v in marks])
  axes.tick_params(color=theme.faint, labelcolor=theme.ink, labelsize=9)
  bar.outline.set_visible(False)


def _arrows(
  axes: Any,
  arrows: np.ndarray,
  middle: float,
  x: np.ndarray,
  theme: figures.Theme,
) -> None:
  length = np.linalg.norm(arrows[:, 2:], axis=1)
  reach = 0.95 * (x[-1] - x[0]) / _ARROWS
  _quiver(axes, arrows, reach / (length + middle), theme.ink, 0.006)


def _quiver(
  axes: Any,
  arrows: np.ndarray,
  scale: np.ndarray,
  colour: str,
  width: float,
) -> None:
  good = np.isfinite(arrows).all(1)
  axes.quiver(
    *arrows[good, :2].T,
    *(arrows[good, 2:] * scale[good, None]).T,
    angles='xy',
    scale_units='xy',
    scale=1,
    color=colour,
    width=width,
    headwidth=3.6,
    headlength=4,
    headaxislength=3.6,
    zorder=2.5,
  )


def _histogram(
  axes: Any, bins: np.ndarray, label: str, theme: figures.Theme
) -> None:
  if len(bins):
    axes.stairs(
      bins[:, 2],
      (*bins[:, 0], bins[-1, 1]),
      fill=True,
      color=theme.colours[1],
      alpha=0.4,
      label=label,
    )


def _names(figure: Any, axes: Any, theme: figures.Theme) -> None:
  """What the lines are, once, above the panels."""
  figure.legend(
    *axes.get_legend_handles_labels(),
    loc='outside upper right',
    ncols=3,
    frameon=False,
    fontsize=9.5,
    labelcolor=theme.ink,
    borderpad=0,
  )


def _bins(
  points: np.ndarray, x: np.ndarray
) -> list[tuple[float, float, float]]:
  """Left, right and density of bins over the grid, of the points in them."""
  flat = np.asarray(points, float).ravel()
  edges = np.linspace(x[0], x[-1], 41)
  counts, _ = np.histogram(flat[np.isfinite(flat)], edges)
  if not len(flat):
    return []
  # By all points: those outside take their share.
  density = counts / len(flat) / (edges[1] - edges[0])
  return [
    (float(a), float(b), float(d))
    for a, b, d in zip(edges[:-1], edges[1:], density, strict=True)
  ]


def _columns(
  rows: Sequence[tuple[Any, ...]], kind: str, first: int, last: int
) -> np.ndarray:
  found = [row[first:last] for row in rows if row[1] == kind]
  return np.array(found, float).reshape(-1, last - first)


def _position_rows(
  iterations: Sequence[int], positions: np.ndarray
) -> list[tuple[Any, ...]]:
  return [
    (int(iteration), i, *_floats(p))
    for iteration, found in zip(iterations, positions, strict=True)
    for i, p in enumerate(found)
  ]


def _floats(values: Any) -> list[float]:
  return [float(v) for v in values]


def _tall(x: np.ndarray, y: np.ndarray) -> float:
  return float((y[-1] - y[0]) / (x[-1] - x[0]))


def _peak(log_density: np.ndarray) -> float:
  good = np.asarray(log_density, float)
  good = good[np.isfinite(good)]
  return float(good.max()) if len(good) else math.nan


def _top(log_density: np.ndarray) -> float:
  """The peak, rounded up to whole nats; 0 where there is none."""
  peak = _peak(log_density)
  return float(math.ceil(peak - 0.05)) if math.isfinite(peak) else 0.0


def _median(values: Sequence[float]) -> float:
  good = [v for v in values if math.isfinite(v) and v]
  return float(np.median(good)) if good else 1.0


def _outside(points: np.ndarray, x: np.ndarray, y: np.ndarray | None) -> int:
  """How many points the frame does not show, those not finite with them."""
  points = np.asarray(points, float)
  shown = (points[:, 0] >= x[0]) & (points[:, 0] <= x[-1])
  if y is not None:
    shown &= (points[:, 1] >= y[0]) & (points[:, 1] <= y[-1])
  return int((~shown).sum())


def _lost(positions: np.ndarray, x: np.ndarray, y: np.ndarray | None) -> str:
  count = _outside(positions[-1], x, y)
  return f'Outside the frame at the end: {count}.' if count else ''


def _moments(points: np.ndarray) -> str:
  return (
    'at the end mean ('
    + ', '.join(figures.number(float(v)) for v in points.mean(0))
    + '), variance ('
    + ', '.join(figures.number(float(v)) for v in points.var(0))
    + ')'
  )


def _left_out(
  panels: Sequence[Panel], x: np.ndarray, y: np.ndarray | None
) -> list[str]:
  """Sentences on what the panels do not show."""
  outside = {p.label: _outside(p.points, x, y) for p in panels}
  counts = ', '.join(f'{n} of {label}' for label, n in outside.items() if n)
  sentence = f'Points outside the frame: {counts}.' if counts else ''
  return [text for text in (sentence, _broken(panels)) if text]


def _broken(panels: Sequence[Panel]) -> str:
  found = [p.label for p in panels if not np.isfinite(_grid_of(p)).all()]
  return f'Not finite in places: {", ".join(found)}.' if found else ''


def _grid_of(panel: Panel) -> np.ndarray:
  return np.asarray(panel.log_density, float)


def _check_panels(panels: Sequence[Panel], shape: tuple[int, ...]) -> None:
  if not panels:
    raise ValueError('A picture needs at least one density, got none.')
  for panel in panels:
    if np.shape(panel.log_density) != shape:
      raise ValueError(
        f'{panel.label!r} must have a log density of shape {list(shape)}, got '
        f'{list(np.shape(panel.log_density))}.'
      )


def _check_positions(
  iterations: Sequence[int], positions: np.ndarray, size: int
) -> None:
  if positions.ndim != 3 or positions.shape[::2] != (len(iterations), size):
    raise ValueError(
      f'positions must have shape [{len(iterations)}, n, {size}], got '
      f'{list(positions.shape)}.'
    )
