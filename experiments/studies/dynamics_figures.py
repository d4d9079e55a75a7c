"""Pictures of dynamics: particles on their way, and fields of velocities."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.report import density_figures as densities
from dim_jax.report import figures

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
  """Draws particles of the plane on their way, over their target.

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
  positions = _checked_positions(iterations, positions, 2)
  target = densities.Panel('target', log_density, positions[-1])
  top = densities.top([target])
  rows = [
    (int(iteration), i, float(a), float(b))
    for iteration, points in zip(iterations, positions, strict=True)
    for i, (a, b) in enumerate(points)
  ]
  return figures.Picture(
    name,
    title,
    figures.sentences(
      caption,
      f'Paths of {positions.shape[1]} particles from iteration '
      f'{iterations[0]} (hollow) to {iterations[-1]} (filled), recorded '
      f'{len(iterations)} times, over the log density of the target from '
      f'{_short(top - densities.DEPTH)} nats up.',
      _lost(positions, x, y),
    ),
    f'Paths of {positions.shape[1]} particles over contours of their target; '
    f'{_moments(positions[-1])}.',
    ('iteration', 'particle', 'x', 'y'),
    rows,
    lambda: _draw_paths(positions, x, y, log_density, top),
  )


def _draw_paths(
  positions: np.ndarray,
  x: np.ndarray,
  y: np.ndarray,
  log_density: np.ndarray,
  top: float,
) -> Any:
  figure, (axes,) = figures.panels(1, 1, densities.tall(x, y), 'x₁', 'x₂')
  shade = densities.shaded(axes, x, y, log_density, top)
  colour = figures.COLOURS[1]
  axes.plot(
    positions[:, :, 0],
    positions[:, :, 1],
    color=colour,
    linewidth=0.8,
    alpha=0.55,
  )
  for at, face in ((0, 'none'), (-1, colour)):
    axes.scatter(
      *positions[at].T, s=16, facecolors=face, edgecolors=colour, zorder=3
    )
  densities.bar(figure, shade, [axes], 'log density of the target, nats')
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
  """Draws particles of the line at recorded iterations, one panel each.

  Args:
    iterations: when positions were recorded, ascending, length T.
    positions: shape [T, n, 1].
    x: the grid, ascending, shape [X].
    log_density: the target's, nats, normalised, shape [X].
    name: stem of the files.
    title: a few words.
    caption: how they moved.

  Returns:
    The picture; its rows are those of `density_figures.curves`.

  Raises:
    ValueError: a shape is another.
  """
  positions = _checked_positions(iterations, positions, 1)
  return densities.curves(
    [
      densities.Panel(f'iteration {iteration}', None, points)
      for iteration, points in zip(iterations, positions, strict=True)
    ],
    x,
    log_density,
    name=name,
    title=title,
    caption=figures.sentences(
      caption, f'At the end {_moments(positions[-1])}.'
    ),
    truth_name='target',
    points_name='particles',
  )


def collapse(
  dimensions: Sequence[int],
  variances: Mapping[str, Sequence[float]],
  *,
  name: str = 'collapse',
  title: str = 'Variance of the particles by dimension',
  caption: str = '',
) -> figures.Picture:
  """Draws the mean marginal variance over the dimension; the target's is 1.

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
  return figures.Picture(
    name,
    title,
    figures.sentences(caption, 'The means do not show it: they stay right.'),
    f'Mean marginal variance over the dimension; at {dimensions[-1]}: {ends}.',
    ('line', 'dimension', 'variance'),
    rows,
    lambda: _draw_collapse(rows),
  )


def _draw_collapse(rows: list[tuple[Any, ...]]) -> Any:
  figure, axes = figures.blank(figures.WIDTH, 3.0)
  axes.axhline(1, **figures.LEVEL, label='target 1')
  for k, label in enumerate(dict.fromkeys(row[0] for row in rows)):
    x, y = np.array([row[1:] for row in rows if row[0] == label], float).T
    good = y[np.isfinite(y)]
    end = figures.number(good[-1]) if len(good) else '(no number)'
    axes.plot(
      x,
      y,
      color=figures.COLOURS[k % len(figures.COLOURS)],
      linewidth=2.2,
      marker='os^DvP'[k % 6],
      label=f'{label} {end}',
    )
  figures.log_with_zero(axes.xaxis, [row[1] for row in rows])
  axes.set_ylim(0, max([1.1, *(1.1 * r[2] for r in rows if r[2] == r[2])]))
  axes.set_xlabel('dimension d')
  axes.set_ylabel('mean marginal variance')
  return figure


def of_particles(
  target: str, arrays: Mapping[str, np.ndarray]
) -> list[figures.Picture]:
  """Draws one target of the study of particles.

  Args:
    target: its name, which is the stem of the files.
    arrays: what its .npz holds: 'dimensions' with variances; or 'iterations',
      'grid', 'log_density' (of the plane [X, Y]) and particles.

  Returns:
    None, one, or one picture with and one without the self term.
  """
  if 'dimensions' in arrays:
    lines = {
      f'{name} self term': arrays[f'variance {name}'].tolist()
      for name in ('with', 'without')
    }
    return [collapse(arrays['dimensions'].tolist(), lines, name=target)]
  if 'grid' not in arrays:
    return []
  pictures = []
  iterations = [int(i) for i in arrays['iterations']]
  grid, values = arrays['grid'], arrays['log_density']
  for name in ('with', 'without'):
    positions = arrays[f'particles_{name}']
    settings = {
      'name': f'{target}_{name}',
      'title': f'{target.replace("_", " ")}, {name} the self term',
      'caption': f'Stein variational gradient descent {name} the self term.',
    }
    if positions.shape[-1] == 1:
      picture = snapshots(iterations, positions, grid, values, **settings)
    else:
      picture = paths(iterations, positions, grid, grid, values.T, **settings)
    pictures.append(picture)
  return pictures


def _checked_positions(
  iterations: Sequence[int], positions: np.ndarray, size: int
) -> np.ndarray:
  positions = np.asarray(positions, float)
  if positions.ndim != 3 or positions.shape[::2] != (len(iterations), size):
    raise ValueError(
      f'positions must have shape [{len(iterations)}, n, {size}], got '
      f'{list(positions.shape)}.'
    )
  return positions


def _lost(positions: np.ndarray, x: np.ndarray, y: np.ndarray) -> str:
  count = densities.outside(positions[-1], x, y)
  return f'Outside the frame at the end: {count}.' if count else ''


def _moments(points: np.ndarray) -> str:
  mean, variance = (
    ', '.join(figures.number(float(v)) for v in values)
    for values in (points.mean(0), points.var(0))
  )
  return f'mean ({mean}), variance ({variance})'


# Adversarial divergences.


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
  """Draws the plane of generator and critic, one panel a divergence.

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
      (field.label, 'direction', *map(float, (a, b, *v)))
      for b, line in zip(critics, field.directions, strict=True)
      for a, v in zip(generators, line, strict=True)
    ]
    rows += [
      (field.label, 'trajectory', *map(float, p), None, None)
      for p in field.trajectory
    ]
  notes = {field.label: _note(field) for field in fields}
  return figures.Picture(
    name,
    title,
    figures.sentences(
      caption,
      'Arrows: the velocity v, with lengths |v| / (|v| + 1), all panels alike. '
      'Orange: a path, from the hollow to the filled dot. λ: eigenvalues of '
      'the Jacobian at the solution, the cross; a real part below 0 draws in, '
      'a real part of 0 leaves it to terms of higher order.',
    ),
    'Vector fields: '
    + '; '.join(f'{label}, {text}' for label, text in notes.items())
    + '.',
    ('panel', 'kind', 'generator', 'critic', 'd_generator', 'd_critic'),
    rows,
    lambda: _draw_fields(rows, notes, generators, critics),
  )


def _draw_fields(
  rows: list[tuple[Any, ...]],
  notes: Mapping[str, str],
  generators: np.ndarray,
  critics: np.ndarray,
) -> Any:
  figure, grid = figures.panels(
    len(notes),
    min(len(notes), 3),
    1.0,
    'generator θ',
    'critic ψ',
    head=0.5,
    width=1.2 * figures.WIDTH,
  )
  reach = 0.9 * (generators[-1] - generators[0]) / (len(generators) - 1)
  colour = figures.COLOURS[1]
  for axes, (label, text) in zip(grid, notes.items(), strict=True):
    mine = [row for row in rows if row[0] == label]
    arrows = densities.part(mine, 'direction', 2, 6)
    speed = np.linalg.norm(arrows[:, 2:], axis=1)
    densities.quiver(axes, arrows, 1.4 * reach / (speed + 1), 0.009)
    path = densities.part(mine, 'trajectory', 2, 4)
    axes.plot(*path.T, color=colour, linewidth=1.4, zorder=3)
    for at, face in ((0, 'none'), (-1, colour)):
      axes.plot(
        *path[at],
        'o',
        color=colour,
        markerfacecolor=face,
        markersize=4.5,
        zorder=4,
      )
    axes.plot(0, 0, '+', color=figures.INK, markersize=9, zorder=5)
    axes.set_aspect('equal')
    axes.set_title(f'{label}\n{text}', fontsize=8.5)
    axes.set_xlim(generators[0] - reach / 2, generators[-1] + reach / 2)
    axes.set_ylim(critics[0] - reach / 2, critics[-1] + reach / 2)
  return figure


def eigenvalues(values: np.ndarray) -> str:
  """Formats a pair of eigenvalues: '±0.5i', '−0.3 ± 0.4i' or '−0.8, −0.2'.

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


def _note(field: Field) -> str:
  parts = []
  if field.eigenvalues is not None:
    parts.append(f'λ = {eigenvalues(field.eigenvalues)}')
  if field.note:
    parts.append(field.note)
  return '; '.join(parts)
