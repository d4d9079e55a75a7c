"""Pictures of runs: each a table of numbers, and a drawing of that table.

A `Picture` holds the rows that its CSV file has and draws itself from these
rows alone, on a light or a dark ground. Colours are Okabe and Ito's, told apart
by colour-blind readers; lines are labelled at their right end instead of in a
box. Matplotlib and scikit-learn are imported when a picture is made, not
before.
"""

import colorsys
import csv
import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Inches. Wide enough for a label beside the axes, narrow enough that 11 points
# are still read on a phone.
WIDTH = 5.0
DPI = 200


class Theme(NamedTuple):
  """Colours of a ground and of what is drawn on it."""

  name: str
  ground: str
  ink: str
  faint: str
  colours: tuple[str, ...]
  good: str
  bad: str


LIGHT = Theme(
  'light',
  '#ffffff',
  '#1d2126',
  '#8a9199',
  ('#0072b2', '#d55e00', '#009e73', '#b3589a', '#a97300', '#3a9bd5'),
  '#009e73',
  '#d0342c',
)
DARK = Theme(
  'dark',
  '#16191d',
  '#e6e8eb',
  '#858d96',
  ('#56b4e9', '#f28a3c', '#2bc79a', '#e39ac6', '#e6b422', '#9aa7ff'),
  '#2bc79a',
  '#ff6b5e',
)
THEMES = (LIGHT, DARK)


class Picture(NamedTuple):
  """A drawing with the numbers behind it.

  Attributes:
    name: stem of its files.
    title: a few words above it.
    caption: what it shows, and under which settings.
    alt: what a reader who cannot see it should know.
    columns: names of the numbers.
    rows: the numbers; all that is drawn comes from here, but for images.
    draw: makes the matplotlib figure for a theme.
  """

  name: str
  title: str
  caption: str
  alt: str
  columns: tuple[str, ...]
  rows: list[tuple[Any, ...]]
  draw: Callable[[Theme], Any]


def save(picture: Picture, folder: str | os.PathLike) -> dict[str, str]:
  """Writes NAME.csv, NAME.png and NAME-dark.png.

  Args:
    picture: what to write.
    folder: where; it must exist.

  Returns:
    The paths, by 'csv', 'light' and 'dark'.
  """
  stem = os.path.join(folder, picture.name)
  paths = {'csv': f'{stem}.csv'}
  with open(paths['csv'], 'w', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(picture.columns)
    writer.writerows(picture.rows)
  for theme in THEMES:
    path = f'{stem}{"" if theme is LIGHT else "-" + theme.name}.png'
    write(picture.draw(theme), path, theme)
    paths[theme.name] = path
  return paths


def write(figure: Any, path: str | os.PathLike, theme: Theme = LIGHT) -> None:
  """Writes a figure as PNG; the same figure gives the same bytes."""
  import matplotlib

  with matplotlib.rc_context(_settings(theme)):
    figure.savefig(path, dpi=DPI, format='png', metadata={'Software': None})


# Curves over steps.


def ema(values: Sequence[float] | np.ndarray, span: float) -> np.ndarray:
  """Exponential moving average without a start-up bias; gaps stay gaps.

  With a = 2 / (span + 1), the average after t values is
  sum_i (1 - a)^(t - i) x_i / sum_i (1 - a)^(t - i). Values that are not finite
  have no weight.

  Args:
    values: shape [n].
    span: about how many values it averages; 1 returns the values.

  Returns:
    Shape [n]; NaN where the value is not finite.

  Raises:
    ValueError: span is below 1.
  """
  if span < 1:
    raise ValueError(f'span must be >= 1, got {span}.')
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
  """The span of the average that is drawn of so many values: a tenth."""
  return max(1, count // 10)


def spread(
  positions: Sequence[float], gap: float, low: float, high: float
) -> list[float]:
  """Moves labels apart, as little as it takes, within [low, high].

  Args:
    positions: where the labels would like to be.
    gap: least distance between two of them; less if they do not fit.
    low: least position.
    high: greatest position.

  Returns:
    Positions in the order given, whose ranks are those of the wishes.
  """
  if len(positions) > 1:
    gap = min(gap, (high - low) / (len(positions) - 1))
  order = sorted(range(len(positions)), key=lambda i: positions[i])
  # Blocks of touching labels, each centred on the mean of its wishes: with the
  # offsets within the block taken off, that is the least-squares answer.
  blocks: list[list[Any]] = []
  for i in order:
    blocks.append([[i], min(max(positions[i], low), high)])
    while len(blocks) > 1:
      (first, a), (second, b) = blocks[-2:]
      if b - a >= gap * (len(first) + len(second)) / 2:
        break
      both = first + second
      centre = (a * len(first) + b * len(second)) / len(both)
      half = gap * (len(both) - 1) / 2
      blocks[-2:] = [[both, min(max(centre, low + half), high - half)]]
  result = [0.0] * len(positions)
  for members, centre in blocks:
    for rank, i in enumerate(members):
      result[i] = centre + gap * (rank - (len(members) - 1) / 2)
  return result


def number(value: float) -> str:
  """A number in three significant digits, for labels."""
  if not math.isfinite(value):
    return 'not finite'
  if value == 0 or 1e-3 <= abs(value) < 1e4:
    digits = 3 - len(str(int(abs(value)))) if abs(value) >= 1 else 3
    return f'{value:.{max(digits, 0)}f}'.replace('-', '−')
  return f'{value:.1e}'.replace('-', '−')


# What a dashed line is, unless said otherwise: its name and its meaning.
CEILING = ('ceiling', 'the most that the estimator can say')


class Line(NamedTuple):
  """One curve: logged values of one term of one run.

  Attributes:
    label: what stands at its right end.
    steps: shape [n].
    values: shape [n]; NaN where there is none.
    ceiling: shape [n], the most that the value can be, or None.
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
  """Values over steps: raw faint, moving average bold, ceilings dashed.

  Args:
    name: stem of the files.
    title: a few words.
    lines: the curves, in the order of their colours.
    unit: label of the vertical axis.
    xlabel: label of the horizontal axis.
    caption: what to say beside how it is drawn.
    scale: what the values are multiplied with before anything else, such as 100
      for percent.
    dashed: what the lines' ceilings are called, and what they mean.
    palette: labels in the order of the colours, where the lines are some of
      those that other pictures show.

  Returns:
    The picture; its rows are line, step, value, average and ceiling.
  """
  rows: list[tuple[Any, ...]] = []
  spans, gaps, ends = [], [], []
  for line in lines:
    values = [value * scale for value in line.values]
    span = smoothing(len(values))
    average = ema(values, span)
    tops: Sequence[float | None] = line.ceiling or [None] * len(values)
    rows += [
      (
        line.label,
        step,
        value,
        float(mean),
        top if top is None else top * scale,
      )
      for step, value, mean, top in zip(
        line.steps, values, average, tops, strict=True
      )
    ]
    spans.append(span)
    bad = [
      step
      for step, value in zip(line.steps, values, strict=True)
      if not math.isfinite(value)
    ]
    if bad:
      gaps.append(
        f'{line.label} was not finite at {len(bad)} of {len(values)} logged '
        f'steps, first at {bad[0]} (crosses).'
      )
    good = average[np.isfinite(average)]
    ends.append(
      f'{line.label} {number(good[-1]) if len(good) else "no number"}'
    )
  if max(spans, default=1) > 1:
    drawn = f'Faint: as logged; bold: moving average over {max(spans)} values.'
  else:
    drawn = 'As logged.'
  if any(line.ceiling for line in lines):
    drawn += f' Dashed: {dashed[1]}.'
  return Picture(
    name,
    title,
    ' '.join([part for part in (caption, drawn, *gaps) if part]),
    f'{title} over {xlabel}; at the end: {", ".join(ends)}.',
    ('line', 'step', 'value', 'average', 'ceiling'),
    rows,
    lambda theme: _draw_curves(rows, unit, xlabel, dashed[0], palette, theme),
  )


def _draw_curves(
  rows: list[tuple[Any, ...]],
  unit: str,
  xlabel: str,
  dashed: str,
  palette: Sequence[str],
  theme: Theme,
) -> Any:
  figure, axes = blank(theme, WIDTH, 3.3)
  labels, ceilings = [], []
  bottom = axes.get_xaxis_transform()
  names = list(dict.fromkeys(row[0] for row in rows))
  order = {name: k for k, name in enumerate(dict.fromkeys([*palette, *names]))}
  for name in names:
    k = order[name]
    colour = theme.colours[k % len(theme.colours)]
    _, steps, values, means, tops = zip(
      *(row for row in rows if row[0] == name), strict=True
    )
    x, y, mean = (np.asarray(v, float) for v in (steps, values, means))
    y = np.where(np.isfinite(y), y, np.nan)
    if np.nanmax(np.abs(y - mean), initial=0) > 0:
      axes.plot(x, y, color=colour, alpha=0.35, linewidth=1)
    # A gap on both sides of a point would hide it, so it gets a dot.
    lone = len(x) == 1 or np.isnan(y).any()
    axes.plot(
      x, mean, color=colour, linewidth=2.2, marker='.' if lone else None
    )
    bad = x[~np.isfinite(y)]
    if len(bad):
      axes.plot(
        bad,
        np.full(len(bad), 0.02),
        'x',
        color=theme.bad,
        markersize=6,
        transform=bottom,
        clip_on=False,
      )
    good = mean[np.isfinite(mean)]
    at = good[-1] if len(good) else np.nan
    text = f'{shorten(name)} {number(at) if len(good) else "(no number)"}'
    labels.append((at, text, colour, 'bold'))
    if tops[0] is not None:
      top = np.asarray(tops, float)
      known = top[np.isfinite(top)]
      if len(known):
        ceilings.append((k, name, x, top, known[-1]))
  # Equal ceilings are one line, in nobody's colour.
  for value in sorted({round(float(c[-1]), 9) for c in ceilings}):
    same = [c for c in ceilings if round(float(c[-1]), 9) == value]
    k, name, x, top, last = same[0]
    shared = len(same) == len(ceilings)
    colour = theme.faint if shared else theme.colours[k % len(theme.colours)]
    axes.plot(x, top, color=colour, linestyle=(0, (5, 3)), linewidth=1.4)
    owner = '' if shared else f' of {shorten(name)}'
    labels.append((last, f'{dashed}{owner} {number(last)}', colour, 'normal'))
  if max(row[1] for row in rows) >= 10_000:
    # Five digits at every tick would touch.
    axes.xaxis.set_major_formatter(
      lambda step, _: f'{step / 1000:g}k' if step else '0'
    )
  axes.set_xlabel(xlabel)
  axes.set_ylabel(unit)
  axes.margins(x=0.01, y=0.08)
  label_right(figure, axes, labels)
  return figure


def label_right(
  figure: Any,
  axes: Any,
  labels: Sequence[tuple[float, str, str, str]],
  gap: float = 13,
) -> None:
  """Writes texts beside the axes, at the heights of the lines' ends.

  Args:
    figure: what is drawn on.
    axes: with their limits as they stay.
    labels: height in the data's unit, text, colour and weight of each.
    gap: points between the middles of two texts.
  """
  texts = [
    axes.text(
      1.02,
      0.5,
      text,
      transform=axes.transAxes,
      color=colour,
      va='center',
      fontsize=10,
      fontweight=weight,
    )
    for _, text, colour, weight in labels
  ]
  # The layout depends on the texts' widths and decides the axes' height.
  figure.draw_without_rendering()
  height = axes.get_window_extent().height / figure.dpi * 72
  share = axes.transScale + axes.transLimits
  right = axes.get_xlim()[1]
  wishes = [
    float(share.transform((right, at))[1]) if math.isfinite(at) else 0.0
    for at, *_ in labels
  ]
  for text, y in zip(texts, spread(wishes, gap / height, 0, 1), strict=True):
    text.set_y(y)
  # A later pass of the layout must not choose longer ticks than this one did.
  low, high = axes.get_ylim()
  axes.set_yticks([t for t in axes.get_yticks() if low <= t <= high])


# Probes.


def probe_name(probe: str) -> str:
  """What a probe of probes.json is called in print."""
  return {
    'linear': 'linear',
    'mlp': 'MLP',
    'knn': 'kNN',
    'svm': 'SVM',
    'linear_few': 'linear, few labels',
  }.get(probe, probe.replace('_', ' '))


def probes(
  results: Sequence[Mapping[str, Any]], name: str = 'probes'
) -> Picture:
  """Accuracy of every probe at every tap, beside untrained and raw data.

  Args:
    results: the 'results' of a probes.json.
    name: stem of the files.

  Returns:
    The picture; its rows are probe, tap, features, mean, std (percent) and n.
  """
  rows: list[tuple[Any, ...]] = [
    (
      r['probe'],
      r['tap'],
      r['features'],
      100 * real(r['mean']),
      100 * real(r['std']),
      len(r['values']),
    )
    for r in results
  ]
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
    f'Probe accuracy by probe and tap. {"; ".join(best)}.',
    ('probe', 'tap', 'features', 'mean_percent', 'std_percent', 'n'),
    rows,
    lambda theme: _draw_probes(rows, theme),
  )


def _draw_probes(rows: list[tuple[Any, ...]], theme: Theme) -> Any:
  groups: dict[str, list[str]] = {}
  for probe, tap, features, *_ in rows:
    taps = groups.setdefault(probe, [])
    if features != 'raw' and tap not in taps:
      taps.append(tap)
  count = sum(len(taps) or 1 for taps in groups.values())
  figure, axes = blank(
    theme, WIDTH, 1.3 + 0.3 * count + 0.25 * len(groups), rows=len(groups)
  )
  panels = np.atleast_1d(axes)
  looks = {
    'untrained': (theme.colours[1], 's', 'untrained'),
    'trained': (theme.colours[0], 'o', 'trained'),
  }
  for axes, (probe, taps) in zip(panels, groups.items(), strict=True):
    for row in rows:
      if row[0] != probe:
        continue
      _, tap, features, mean, std, _ = row
      if features == 'raw':
        axes.axvline(mean, color=theme.faint, linestyle=(0, (4, 2)), zorder=1)
        continue
      colour, marker, _ = looks.get(features, (theme.colours[2], '^', ''))
      axes.errorbar(
        mean,
        taps.index(tap),
        xerr=std if math.isfinite(std) else None,
        color=colour,
        marker=marker,
        markersize=7,
        capsize=3,
        zorder=3,
      )
    axes.set_yticks(range(len(taps)), taps)
    axes.set_ylim(len(taps) - 0.4, -0.6)
    axes.set_title(probe_name(probe), loc='left', fontsize=11)
    axes.tick_params(axis='y', length=0)
    if axes is not panels[-1]:
      axes.tick_params(axis='x', labelbottom=False)
  panels[-1].set_xlabel('test accuracy, %')
  low, high = zip(*(axes.get_xlim() for axes in panels), strict=True)
  for axes in panels:
    axes.set_xlim(min(low), min(max(high), 100.5))
  # The names stand over the panels in their colours, with their marks.
  shown = {row[2] for row in rows}
  names = [('● trained', looks['trained'][0])] * ('trained' in shown)
  names += [('■ untrained', looks['untrained'][0])] * ('untrained' in shown)
  raw = next((row[1] for row in rows if row[2] == 'raw'), '')
  names += [(f'┆ raw {raw}', theme.faint)] * ('raw' in shown)
  for i, (text, colour) in enumerate(names):
    panels[0].annotate(
      text,
      (1, 1),
      xycoords='axes fraction',
      color=colour,
      ha='right',
      xytext=(-80 * (len(names) - 1 - i), 5),
      textcoords='offset points',
      fontsize=10,
    )
  return figure


# Embeddings.


def pca(features: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
  """Principal components, with a sign that does not depend on the machine.

  Args:
    features: shape [n, D].
    count: how many components.

  Returns:
    Coordinates [n, count], whose largest entry by magnitude is positive, and
    the share of the variance [count] that each explains.
  """
  centred = features - features.mean(0, keepdims=True)
  u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
  points = u[:, :count] * s[None, :count]
  peaks = points[np.abs(points).argmax(0), np.arange(points.shape[1])]
  points = points * np.where(peaks < 0, -1.0, 1.0)[None]
  total = float((s**2).sum())
  return points, s[:count] ** 2 / (total if total > 0 else 1.0)


def principal_components(
  features: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  *,
  name: str,
  title: str,
  noun: str = 'images',
) -> Picture:
  """The first two principal components, coloured by class.

  Args:
    features: shape [n, D].
    labels: shape [n].
    class_names: the classes' names.
    name: stem of the files.
    title: whose features these are.
    noun: what the examples are.

  Returns:
    The picture; its rows are index, label, class, x and y.
  """
  points, share = pca(features)
  axes = tuple(
    f'component {i + 1}: {100 * v:.1f} % of the variance'
    for i, v in enumerate(share)
  )
  return _map(
    name,
    f'PCA, {title}',
    f'The first two principal components of {len(labels)} test {noun}; they '
    f'hold {100 * share.sum():.1f} % of the variance.',
    points,
    labels,
    class_names,
    axes,
  )


def tsne(
  features: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  *,
  name: str,
  title: str,
  noun: str = 'images',
  perplexity: float = 30.0,
  seed: int = 0,
) -> Picture:
  """A t-SNE map, coloured by class.

  Args:
    features: shape [n, D].
    labels: shape [n].
    class_names: the classes' names.
    name: stem of the files.
    title: whose features these are.
    noun: what the examples are.
    perplexity: about how many neighbours count; lowered for few images.
    seed: of the optimisation.

  Returns:
    The picture; its rows are index, label, class, x and y.
  """
  # scikit-learn depends on it; it has no type hints.
  import threadpoolctl  # type: ignore[import-untyped]
  from sklearn import manifold

  perplexity = min(perplexity, (len(labels) - 1) / 3)
  model = manifold.TSNE(
    perplexity=perplexity, random_state=seed, init='pca', learning_rate='auto'
  )
  # Its threads wait by spinning: on a busy machine eight times the work.
  with threadpoolctl.threadpool_limits(1):
    points = model.fit_transform(np.asarray(features, np.float32))
  return _map(
    name,
    f't-SNE, {title}',
    f't-SNE of {len(labels)} test {noun}: perplexity {perplexity:g}, seed '
    f'{seed}, PCA start. Distances between groups, and their sizes, mean '
    f'nothing.',
    points,
    labels,
    class_names,
    None,
  )


def _map(
  name: str,
  title: str,
  caption: str,
  points: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  axes: tuple[str, ...] | None,
) -> Picture:
  rows: list[tuple[Any, ...]] = [
    (i, int(label), class_names[label], float(x), float(y))
    for i, (label, (x, y)) in enumerate(zip(labels, points, strict=True))
  ]
  return Picture(
    name,
    title,
    caption,
    f'Scatter plot, {title}; {len(set(labels.tolist()))} classes in colours.',
    ('index', 'label', 'class', 'x', 'y'),
    rows,
    lambda theme: _draw_map(rows, len(class_names), axes, theme),
  )


def class_colours(count: int) -> list[tuple[float, float, float]]:
  """Colours of classes: tab10 up to ten, hues around the circle beyond."""
  import matplotlib

  if count <= 10:
    table = matplotlib.colormaps['tab10']
    return [table(i)[:3] for i in range(count)]
  return [
    colorsys.hls_to_rgb(i / count, (0.5, 0.65)[i % 2], 0.7)
    for i in range(count)
  ]


def _draw_map(
  rows: list[tuple[Any, ...]],
  classes: int,
  axes_names: tuple[str, ...] | None,
  theme: Theme,
) -> Any:
  figure, axes = blank(theme, WIDTH, WIDTH - 0.4)
  colours = class_colours(classes)
  x, y = (np.array([row[i] for row in rows]) for i in (3, 4))
  label = np.array([row[1] for row in rows])
  axes.scatter(
    x,
    y,
    c=[colours[k] for k in label],
    s=9,
    linewidths=0,
    alpha=0.85 if theme is DARK else 0.7,
  )
  if axes_names:
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1] if len(axes_names) > 1 else '')
  else:
    for side in ('left', 'bottom'):
      axes.spines[side].set_visible(False)
  axes.set_xticks([])
  axes.set_yticks([])
  # More names than this would hide the points; the CSV has them.
  if classes <= 20:
    name_groups(
      figure,
      axes,
      x,
      y,
      label,
      {row[1]: row[2] for row in rows},
      theme,
      colours,
    )
  return figure


def name_groups(
  figure: Any,
  axes: Any,
  x: np.ndarray,
  y: np.ndarray,
  label: np.ndarray,
  names: Mapping[int, str],
  theme: Theme,
  colours: Sequence[tuple[float, float, float]],
) -> None:
  """Writes each class's name amid its points, moved apart where they overlap.

  Args:
    figure: what is drawn on.
    axes: with their limits as they stay.
    x: shape [n].
    y: shape [n].
    label: each point's class, shape [n].
    names: the classes' names.
    theme: of the picture.
    colours: the classes' colours.
  """
  from matplotlib import patheffects

  texts = []
  for k in sorted(set(label.tolist())):
    mine = np.flatnonzero(label == k)
    # The example nearest the median: a median may lie in another class.
    distance = (x[mine] - np.median(x[mine])) ** 2
    distance += (y[mine] - np.median(y[mine])) ** 2
    at = mine[distance.argmin()]
    texts.append(
      axes.text(
        x[at],
        y[at],
        names[k],
        ha='center',
        va='center',
        fontsize=12 if len(names[k]) > 2 else 16,
        fontweight='bold',
        color=readable(colours[k], theme),
        path_effects=[
          patheffects.withStroke(linewidth=3.5, foreground=theme.ground)
        ],
      )
    )
  push_apart(figure, axes, texts)


def readable(
  colour: tuple[float, float, float], theme: Theme
) -> tuple[float, ...]:
  """A class colour, darker on white and lighter on black, for text."""
  other = 0.0 if theme is LIGHT else 1.0
  share = 0.3 if theme is LIGHT else 0.5
  return tuple((1 - share) * c + share * other for c in colour)


def push_apart(figure: Any, axes: Any, texts: Sequence[Any]) -> None:
  """Moves overlapping texts apart, within the axes."""
  figure.draw_without_rendering()
  frame = axes.get_window_extent()
  boxes = [text.get_window_extent() for text in texts]
  half = np.array([[b.width / 2 + 2, b.height / 2 + 1] for b in boxes])
  centre = np.array([[(b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2] for b in boxes])
  low = np.array([frame.x0, frame.y0])[None] + half
  high = np.array([frame.x1, frame.y1])[None] - half
  for _ in range(300):
    moved = False
    for i in range(len(texts)):
      for j in range(i):
        away = centre[i] - centre[j]
        overlap = half[i] + half[j] - np.abs(away)
        if (overlap <= 0).any():
          continue
        moved = True
        axis = int(overlap.argmin())
        push = overlap[axis] / 2 + 0.5
        sign = 1.0 if away[axis] >= 0 else -1.0
        centre[i, axis] += sign * push
        centre[j, axis] -= sign * push
    centre = np.clip(centre, low, high)
    if not moved:
      break
  back = axes.transData.inverted()
  for text, point in zip(texts, centre, strict=True):
    text.set_position(back.transform(point))


# Retrieval.


def neighbours(
  features: np.ndarray, count: int, metric: str = 'cosine'
) -> tuple[np.ndarray, np.ndarray]:
  """Every example's nearest others; ties go to the lower index.

  Args:
    features: shape [n, D].
    count: how many neighbours, below n.
    metric: 'cosine', or 'euclidean'.

  Returns:
    Indices [n, count], nearest first, and their distances [n, count]: one minus
    the cosine, or Euclidean.

  Raises:
    ValueError: count or metric cannot be used.
  """
  x = np.asarray(features, np.float64).reshape(len(features), -1)
  if not 1 <= count < len(x):
    raise ValueError(
      f'count must be between 1 and {len(x) - 1} for {len(x)} examples, got '
      f'{count}.'
    )
  if metric == 'cosine':
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = x / np.maximum(length, np.finfo(np.float64).tiny)
    distance = 1 - x @ x.T
  elif metric == 'euclidean':
    square = (x**2).sum(1)
    distance = square[:, None] + square[None] - 2 * x @ x.T
    distance = np.sqrt(np.maximum(distance, 0))
  else:
    raise ValueError(f"metric is 'cosine' or 'euclidean', got {metric!r}.")
  np.fill_diagonal(distance, np.inf)
  order = distance.argsort(1, kind='stable')[:, :count]
  return order, np.take_along_axis(distance, order, 1)


def retrieval(
  images: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  features: Mapping[str, np.ndarray],
  *,
  queries: int = 6,
  count: int = 8,
  name: str = 'neighbours',
  title: str = 'Nearest neighbours',
) -> Picture:
  """Test images with their nearest neighbours in each of several features.

  The queries are the first image of each class in order, until there are
  enough: nobody chose them for their looks.

  Args:
    images: uint8, shape [n, H, W, C].
    labels: shape [n].
    class_names: the classes' names.
    features: shape [n, D] by the name of their row; compared by cosine. A last
      row, the control, compares the pixels by Euclidean distance.
    queries: how many images.
    count: how many neighbours.
    name: stem of the files.
    title: a few words.

  Returns:
    The picture; its rows are query, features, rank, neighbour, distance, the
    two labels, and whether they agree.
  """
  flat = images.reshape(len(images), -1)
  found = {key: neighbours(x, count) for key, x in features.items()}
  found['pixels'] = neighbours(flat, count, 'euclidean')
  _, first = np.unique(labels, return_index=True)
  chosen = sorted(first.tolist())[:queries]
  rows: list[tuple[Any, ...]] = [
    (
      query,
      key,
      rank + 1,
      int(index[query, rank]),
      float(distance[query, rank]),
      class_names[labels[query]],
      class_names[labels[index[query, rank]]],
      int(labels[query] == labels[index[query, rank]]),
    )
    for query in chosen
    for key, (index, distance) in found.items()
    for rank in range(count)
  ]
  shares = {
    key: float((labels[index] == labels[:, None]).mean())
    for key, (index, _) in found.items()
  }
  text = ', '.join(f'{key} {100 * v:.1f} %' for key, v in shares.items())
  frequency = np.bincount(labels) / len(labels)
  return Picture(
    name,
    title,
    f'Left: the query, the first test image of its class. Right: its {count} '
    f'nearest among the {len(labels) - 1} others, by cosine (pixels: '
    f'Euclidean). Solid green frame: same class; dashed red: another. Share of '
    f'neighbours of the same class, over all {len(labels)} images as queries: '
    f'{text}; by chance {100 * float((frequency**2).sum()):.1f} %.',
    f'Grid of {len(chosen)} query images with {count} neighbours each. '
    f'Correct neighbours: {text}.',
    (
      'query',
      'features',
      'rank',
      'neighbour',
      'distance',
      'query_class',
      'neighbour_class',
      'correct',
    ),
    rows,
    lambda theme: _draw_retrieval(rows, images, theme),
  )


def _draw_retrieval(
  rows: list[tuple[Any, ...]], images: np.ndarray, theme: Theme
) -> Any:
  from matplotlib import patches

  if images.shape[-1] == 1:
    images = np.repeat(images, 3, -1)
  queries = list(dict.fromkeys(row[0] for row in rows))
  keys = list(dict.fromkeys(row[1] for row in rows))
  count = max(row[2] for row in rows)
  # In units of an image: the query, a margin for the rows' names, the
  # neighbours; and a gap between queries.
  size, start, step, gap = 1.7, 3.95, 1.14, 0.45
  block = max(len(keys) * step, size + 0.5) + gap
  wide, high = start + count * step, len(queries) * block - gap
  figure, axes = blank(theme, WIDTH, WIDTH * high / wide)
  axes.set_axis_off()
  axes.set_xlim(-0.05, wide)
  axes.set_ylim(high, 0)
  figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)

  def place(index: int, x: float, y: float, size: float = 1) -> None:
    axes.imshow(
      images[index],
      extent=(x, x + size, y + size, y),
      interpolation='nearest',
      aspect='auto',
    )

  for q, query in enumerate(queries):
    top = q * block
    place(query, 0, top, size)
    for k, key in enumerate(keys):
      axes.text(
        start - 0.12,
        top + k * step + 0.5,
        key,
        ha='right',
        va='center',
        fontsize=9,
        color=theme.ink if k == 0 else theme.faint,
        fontweight='bold' if k == 0 else 'normal',
      )
    for row in rows:
      if row[0] != query:
        continue
      x = start + (row[2] - 1) * step
      y = top + keys.index(row[1]) * step
      place(row[3], x, y)
      axes.add_patch(
        patches.Rectangle(
          (x, y),
          1,
          1,
          fill=False,
          linewidth=2,
          edgecolor=theme.good if row[7] else theme.bad,
          linestyle='-' if row[7] else (0, (2, 1)),
        )
      )
    name = next(row[5] for row in rows if row[0] == query)
    axes.text(
      size / 2,
      top + size + 0.08,
      shorten(name, 14),
      ha='center',
      va='top',
      fontsize=9,
      color=theme.ink,
    )
  # imshow moves the limits.
  axes.set_xlim(-0.05, wide)
  axes.set_ylim(high, -0.05)
  return figure


# Images.


def views(
  originals: np.ndarray,
  changed: np.ndarray,
  *,
  title: str,
  caption: str,
  theme: Theme = LIGHT,
) -> Any:
  """Images, a row each, beside what augmentation makes of them.

  Args:
    originals: uint8, shape [n, H, W, C], of one or three channels.
    changed: uint8, shape [n, views, h, w, C], drawn as large as originals.
    title: a few words above.
    caption: sentences below, of any length.
    theme: its colours.

  Returns:
    The matplotlib figure.
  """
  if originals.shape[-1] == 1:
    originals, changed = (np.repeat(x, 3, -1) for x in (originals, changed))
  rows, count = changed.shape[:2]
  # In units of an image, with a wider gap behind the original.
  step, start = 1.06, 1.3
  wide, high = start + count * step - 0.06, rows * step - 0.06
  # As wide as other pictures of eight views; text needs half of that.
  inches = 1.35 * WIDTH / 9.8
  width = max(wide * inches, 0.7 * WIDTH)
  lines = textwrap.wrap(caption, round(15 * width))
  text = 0.16 * len(lines) + 0.15
  figure, axes = blank(theme, width, high * inches + text + 0.4)
  axes.set_axis_off()
  for i in range(rows):
    for j in range(count + 1):
      image = originals[i] if j == 0 else changed[i, j - 1]
      x = 0 if j == 0 else start + (j - 1) * step
      axes.imshow(
        image,
        extent=(x, x + 1, i * step + 1, i * step),
        interpolation='nearest',
      )
  # imshow moves the limits.
  axes.set_xlim(-0.02, wide + 0.02)
  axes.set_ylim(high + 0.02, -0.02)
  place = {'va': 'bottom', 'fontsize': 9, 'color': theme.faint}
  axes.text(0.5, -0.1, 'original', ha='center', **place)
  axes.text(start, -0.1, 'views', ha='left', **place)
  figure.suptitle(title, x=0.01, ha='left', fontsize=11, color=theme.ink)
  figure.supxlabel(
    '\n'.join(lines), x=0.01, ha='left', fontsize=8.5, color=theme.ink
  )
  return figure


# Scores and spectra.


def scores(
  positive: np.ndarray, negative: np.ndarray, *, name: str, title: str
) -> Picture:
  """How the critic scores joint pairs against pairs of different images.

  Args:
    positive: scores of pairs from one image, shape [p].
    negative: scores of pairs from two images, shape [k].
    name: stem of the files.
    title: whose critic this is.

  Returns:
    The picture; its rows are kind, left and right edge of a bin, and density.
  """
  groups = {'positive': positive, 'negative': negative}
  dropped = sum(int((~np.isfinite(v)).sum()) for v in groups.values())
  groups = {k: v[np.isfinite(v)].astype(float) for k, v in groups.items()}
  both = np.concatenate(list(groups.values()))
  edges = np.histogram_bin_edges(both, bins=60)
  rows: list[tuple[Any, ...]] = []
  for kind, values in groups.items():
    if len(values):
      density, _ = np.histogram(values, edges, density=True)
      rows += [
        (kind, float(a), float(b), float(d))
        for a, b, d in zip(edges[:-1], edges[1:], density, strict=True)
      ]
  share = auc(groups['positive'], groups['negative'])
  caption = (
    f'Scores of {len(positive)} pairs from one image (positive) and '
    f'{len(negative)} pairs from two (negative). A positive pair outscores a '
    f'negative one in {100 * share:.1f} % of cases (50 % = no information).'
  )
  if dropped:
    caption += f' {dropped} scores were not finite.'
  return Picture(
    name,
    f'Critic scores, {title}',
    caption,
    f'Histograms of critic scores, {title}: mean '
    f'{number(_mean(groups["positive"]))} for positive and '
    f'{number(_mean(groups["negative"]))} for negative pairs.',
    ('kind', 'left', 'right', 'density'),
    rows,
    lambda theme: _draw_scores(rows, theme),
  )


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
  """Probability that a positive score exceeds a negative one, ties half.

  Args:
    positive: shape [p].
    negative: shape [k].

  Returns:
    A number from 0 to 1; NaN if either is empty.
  """
  if not len(positive) or not len(negative):
    return math.nan
  order = np.sort(negative)
  below = np.searchsorted(order, positive, 'left')
  upto = np.searchsorted(order, positive, 'right')
  return float((below + upto).mean() / 2 / len(negative))


def _draw_scores(rows: list[tuple[Any, ...]], theme: Theme) -> Any:
  figure, axes = blank(theme, WIDTH, 3.0)
  centres = {}
  looks = {'positive': theme.colours[0], 'negative': theme.colours[1]}
  for kind, colour in looks.items():
    mine = [row for row in rows if row[0] == kind]
    if mine:
      _, left, right, density = zip(*mine, strict=True)
      axes.stairs(
        density, (*left, right[-1]), fill=True, color=colour, alpha=0.3
      )
      axes.stairs(density, (*left, right[-1]), color=colour, linewidth=1.8)
      middle = (np.array(left) + np.array(right)) / 2
      centres[kind] = float(np.average(middle, weights=density))
  axes.set_xlabel('score')
  axes.set_ylabel('density')
  axes.set_ylim(bottom=0)
  axes.margins(x=0.01)
  # Each name on the side where its histogram lies.
  for i, kind in enumerate(sorted(centres, key=lambda k: centres[k])):
    axes.text(
      0.98 if i else 0.02,
      1.02,
      f'{kind}, mean {number(centres[kind])}',
      transform=axes.transAxes,
      ha='right' if i else 'left',
      va='bottom',
      color=looks[kind],
      fontweight='bold',
      fontsize=11,
    )
  return figure


def spectrum(
  features: Mapping[str, np.ndarray], *, name: str, title: str
) -> Picture:
  """Singular values of centred features: how many directions they use.

  Args:
    features: shape [n, D] by the label of the line.
    name: stem of the files.
    title: a few words.

  Returns:
    The picture; its rows are line, index, singular value, and its ratio to the
    largest.
  """
  rows: list[tuple[Any, ...]] = []
  ranks = {}
  for label, x in features.items():
    centred = x - x.mean(0, keepdims=True)
    values = np.linalg.svd(centred.astype(np.float64), compute_uv=False)
    largest = values.max() if values.max() > 0 else 1.0
    rows += [
      (label, i + 1, float(v), float(v / largest)) for i, v in enumerate(values)
    ]
    ranks[label] = (effective_rank(values), len(values))
  text = ', '.join(f'{k} {r:.1f} of {d}' for k, (r, d) in ranks.items())
  return Picture(
    name,
    title,
    f'Singular values of the centred features, relative to the largest. '
    f'Effective rank (exponential of their entropy): {text}.',
    f'{title}: falling singular values. Effective rank: {text}.',
    ('line', 'index', 'singular_value', 'relative'),
    rows,
    lambda theme: _draw_spectrum(
      rows, {k: r for k, (r, _) in ranks.items()}, theme
    ),
  )


def effective_rank(values: np.ndarray) -> float:
  """Exponential of the entropy of normalised singular values; 0 if all are 0.

  Args:
    values: singular values, shape [d].

  Returns:
    A number between 1 and d.
  """
  if not values.sum() > 0:
    return 0.0
  share = values[values > 0] / values.sum()
  return float(np.exp(-(share * np.log(share)).sum()))


def _draw_spectrum(
  rows: list[tuple[Any, ...]], ranks: Mapping[str, float], theme: Theme
) -> Any:
  figure, axes = blank(theme, WIDTH, 3.3)
  labels = []
  for k, (label, rank) in enumerate(ranks.items()):
    colour = theme.colours[k % len(theme.colours)]
    x = np.array([row[1] for row in rows if row[0] == label])
    y = np.array([row[3] for row in rows if row[0] == label])
    # Rounding noise and dead units would stretch the axis to nothing.
    y = np.where(y > 1e-6, y, np.nan)
    axes.semilogy(x, y, color=colour, linewidth=2.2)
    good = y[np.isfinite(y)]
    text = f'{shorten(label)}\neff. rank {rank:.1f}'
    at = float(good[-1]) if len(good) else math.nan
    labels.append((at, text, colour, 'bold'))
  axes.set_xlabel('index of the singular value')
  axes.set_ylabel('relative to the largest')
  axes.margins(x=0.01)
  label_right(figure, axes, labels, gap=28)
  return figure


# Shared by all.


def _settings(theme: Theme) -> dict[str, Any]:
  return {
    'font.family': 'DejaVu Sans',
    'font.size': 11,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': theme.faint,
    'axes.labelcolor': theme.ink,
    'axes.titlecolor': theme.ink,
    'axes.facecolor': theme.ground,
    'axes.formatter.useoffset': False,
    'figure.facecolor': theme.ground,
    'savefig.facecolor': theme.ground,
    'text.color': theme.ink,
    'text.usetex': False,
    'xtick.color': theme.faint,
    'ytick.color': theme.faint,
    'xtick.labelcolor': theme.ink,
    'ytick.labelcolor': theme.ink,
  }


def blank(
  theme: Theme, width: float, height: float, rows: int = 1, **grid: Any
) -> tuple[Any, Any]:
  """A figure outside pyplot: no global state, no window, nothing to close.

  Args:
    theme: its colours.
    width: in inches.
    height: in inches.
    rows: how many axes, one above another.
    **grid: more for `Figure.subplots`, such as height_ratios.

  Returns:
    The figure, and its axes or array of axes.
  """
  import matplotlib
  from matplotlib import figure as figure_lib
  from matplotlib.backends import backend_agg

  with matplotlib.rc_context(_settings(theme)):
    figure = figure_lib.Figure((width, height), layout='constrained')
    backend_agg.FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1, **grid)


def shorten(text: str, length: int = 22) -> str:
  """The text, its middle left out where it is too long for a margin."""
  if len(text) <= length:
    return text
  half = (length - 1) // 2
  return f'{text[: length - 1 - half]}…{text[-half:]}'


def real(value: float | None) -> float:
  """The number; NaN where JSON has none."""
  return math.nan if value is None else float(value)


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if len(values) else math.nan
