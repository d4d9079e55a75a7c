"""The information plane: its numbers, and that it draws them."""

import math

import pytest

from dim_jax.report import page, runs
from dim_jax.report.sections import curves, information


def line(step, name='y', **changes):
  """A line of metrics in which only what the plane needs is given."""
  values = {
    'lower': 2.0 + step,
    'upper': 9.0,
    'gaussian': 4.5,
    'label_lower': 0.5,
    'label_upper': 1.0,
    'lower_ceiling': 5.0,
    'label_entropy': 1.1,
    'noise_std': 0.7,
    'error': 0.1,
    'label_error': 0.1,
  } | changes
  return {f'information/{name}_{key}': value for key, value in values.items()}


def make_run(label='a', metrics=(), **config):
  lines = [{'step': step, **values} for step, values in metrics]
  config = {'information': {'noise': 2.0}, 'data': {}} | config
  empty = {name: {} for name in runs.Run._fields[4:]}
  return runs.Run(label, label, config, lines, **empty)


def test_paths_of_one_run_from_the_start_to_the_end():
  run = make_run(
    metrics=[
      (0, line(0) | line(0, 'code', rate=30.0)),
      (10, {'loss': 1.0}),
      (20, line(1, label_lower=-0.3) | line(1, 'code', rate=3.5)),
    ],
    data={'validation': 0.1},
  )
  (plane,) = information.section([run])
  assert plane.name == 'information_plane'
  rows = [dict(zip(plane.columns, row, strict=True)) for row in plane.rows]
  assert [(r['feature'], r['step'], r['lower']) for r in rows] == [
    ('y', 0, 2.0), ('y', 20, 3.0), ('code', 0, 2.0), ('code', 20, 3.0),
  ]  # fmt: skip
  assert [r['rate'] for r in rows[2:]] == [30.0, 3.5]
  assert all(math.isnan(r['rate']) for r in rows[:2])
  # The table has bounds as they are, the sentence the least upper one.
  assert rows[1]['label_lower'] == -0.3
  assert 'y: input 3.00 to 9.00, labels −0.300 to 1.00' in plane.alt
  assert 'code: input 3.00 to 3.50' in plane.alt and 'rate 3.50' in plane.alt
  assert 'Noise: 2.0 standard deviations' in plane.caption
  assert 'Of validation images' in plane.caption
  assert (
    'Dashed: 5.00' in plane.caption and '1.10, the entropy' in plane.caption
  )
  (axes,) = plane.figure().axes
  # Dots at lower bounds, which no information is below 0 for; then the start,
  # the end.
  path, start, end, *others = axes.lines
  assert path.get_xydata().tolist() == [[2.0, 0.5], [3.0, 0.0]]
  assert start.get_xydata().tolist() == [[2.0, 0.5]]
  assert start.get_markerfacecolor() == 'none'
  assert end.get_xydata().tolist() == [[3.0, 0.0]]
  assert end.get_markerfacecolor() == end.get_markeredgecolor()
  assert [30.0, 3.5] in [list(other.get_xdata()) for other in others]
  bars = [bar.get_segments() for bar in axes.collections]
  assert [s.tolist() for s in bars[0]] == [
    [[2.0, 0.5], [9.0, 0.5]], [[3.0, 0.0], [9.0, 0.0]],
  ]  # fmt: skip
  assert bars[1][0].tolist() == [[2.0, 0.5], [2.0, 1.0]]


def test_several_runs_have_a_plane_for_each_feature():
  first = make_run('first', [(0, line(0) | line(0, 'fc'))])
  second = make_run('second', [(0, line(1))], information={'noise': 1.0})
  other = make_run('other', [(0, {'loss': 1.0})])
  planes = information.section([first, second, other])
  assert [plane.name for plane in planes] == [
    'information_plane_y',
    'information_plane_fc',
  ]
  assert [row[0] for row in planes[0].rows] == ['first', 'second']
  # The runs do not agree on it.
  assert 'Noise' not in planes[0].caption
  names = planes[0].figure().legends[0].get_texts()
  assert [text.get_text() for text in names] == ['first', 'second']
  assert information.section([other]) == []


def test_curves_of_lower_bounds_alone():
  run = make_run(metrics=[(0, line(0)), (10, line(1))])
  parts = {part.name: part for part in curves.section([run])}
  assert list(parts) == ['information', 'label_information']
  assert {row[0] for row in parts['information'].rows} == {'y'}
  assert [row[2] for row in parts['information'].rows] == [2.0, 3.0]
  assert [row[-1] for row in parts['information'].rows] == [5.0, 5.0]


@pytest.mark.parametrize('lower', [4.7, 4.8])
def test_what_is_at_the_ceiling_is_said(lower):
  run = make_run(metrics=[(0, line(3)), (10, line(0, lower=lower))])
  sentences = information.warnings(run)
  # 95 % of 5 nats are 4.75.
  assert len(sentences) == (lower > 4.75)
  assert all('of the input in y is near the most' in s for s in sentences)


def test_it_is_a_section_of_the_page():
  assert page.SECTIONS['Information'] is information.section
  assert information in page._WITH_WARNINGS
