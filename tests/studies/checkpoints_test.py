"""The study of a run's checkpoints, of a tiny run."""

import json

import numpy as np
import pytest

from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.evaluation import probes
from dim_jax.objectives import vib
from dim_jax.runs import evaluate, train
from experiments.studies import checkpoints

_PROTOCOL = probes.Protocol(seeds=1, max_examples=100, knn_neighbours=5)


def make_config(steps):
  return ExperimentConfig(
    objective=vib.Config(units=(8,), code=4),
    data=DataConfig(image_size=None),
    batch_size=16,
    steps=steps,
    log_every=2,
    checkpoint_every=2,
    keep=2,
    paper={'source': 'a paper', 'row': 'a row', 'y': 90.0},
  )


def study(run):
  return checkpoints.study(
    run, probes=('knn',), features=('y',), protocol=_PROTOCOL,
    show_progress=False,
  )  # fmt: skip


@pytest.fixture(scope='module')
def reports(tmp_path_factory):
  """Of a run of four steps, and of the same run after two more."""
  run = str(tmp_path_factory.mktemp('run'))
  found = []
  for steps in (4, 6):
    train.train(make_config(steps), run, show_progress=False)
    found.append(study(run))
  return run, found


def test_each_checkpoint_is_probed_as_evaluation_does(reports):
  run, (_, report) = reports
  steps = [row['step'] for row in report['rows']]
  # Two are kept, but what was measured of step 2 stays.
  assert steps == [0, 2, 4, 6]
  for row in report['rows'][-2:]:
    expected = evaluate.evaluate(
      run, probes=('knn',), features=('y',), encoders=('trained',),
      protocol=_PROTOCOL, step=row['step'], show_progress=False,
    )  # fmt: skip
    assert row['mean'] == expected['results'][0]['mean']
    assert row['examples'] == 16 * row['step']
  seconds = [row['training_seconds'] for row in report['rows']]
  assert seconds[0] == 0 and seconds == sorted(set(seconds))
  with open(f'{run}/evaluation/checkpoints.json') as file:
    assert json.load(file) == report
  assert checkpoints.table(report).row_count == 4


def test_what_is_there_is_not_measured_again(reports, monkeypatch):
  run, (_, report) = reports

  def measure(*_, **arguments):
    raise RuntimeError(f'step {arguments["step"]} again')

  monkeypatch.setattr(evaluate, 'evaluate', measure)
  assert study(run)['rows'] == report['rows']
  # Of another protocol it is, but only where there is a checkpoint.
  with pytest.raises(RuntimeError, match='step 0 again'):
    checkpoints.study(run, probes=('linear',), show_progress=False)


def test_another_request_neither_mixes_in_nor_replaces(reports, monkeypatch):
  run, (_, report) = reports
  other = checkpoints.study(
    run, probes=('knn',), features=('fc',), protocol=_PROTOCOL,
    show_progress=False,
  )  # fmt: skip
  # Step 2 is no more.
  assert [(row['step'], row['feature']) for row in other['rows']] == [
    (step, 'fc') for step in (0, 4, 6)
  ]
  monkeypatch.setattr(evaluate, 'evaluate', None)
  assert study(run)['rows'] == report['rows']


def test_a_probe_that_failed_leaves_its_cell_empty(reports):
  _, (_, report) = reports
  first, second, *_ = report['rows']
  rows = [first | {'mean': 0.25}, first | {'probe': 'svm', 'mean': 0.5}]
  rows += [second | {'probe': 'svm', 'mean': 0.75}]
  table = checkpoints.table({'rows': rows})
  knn, svm = ([str(x) for x in c.cells] for c in table.columns[3:])
  assert (knn, svm) == (['25.0', ''], ['50.0', '75.0'])


def test_a_step_without_a_line_is_named_before_any_work(reports, monkeypatch):
  run, _ = reports
  monkeypatch.setattr(checkpoints.metrics, 'read', lambda path: [])
  monkeypatch.setattr(evaluate, 'evaluate', None)
  with pytest.raises(ValueError, match='has no line of step 4'):
    checkpoints.study(run, probes=('linear',), show_progress=False)


def test_a_curve_is_the_mean_of_seeds_in_their_band(reports):
  _, (_, report) = reports
  other = report | {
    'rows': [row | {'mean': row['mean'] + 0.2} for row in report['rows'][:-1]]
  }
  figure = checkpoints.draw([report, other])
  means = [row['mean'] for row in report['rows'][:-1]]
  for panel in figure.axes:
    curve, published = panel.get_lines()
    np.testing.assert_allclose(
      curve.get_ydata(), [100 * (mean + 0.1) for mean in means]
    )
    assert set(published.get_ydata()) == {90.0}
    (band,) = panel.collections
    edges = band.get_paths()[0].vertices[:, 1]
    # From the lower seed's to that of the other, 20 points above.
    assert edges.min() == pytest.approx(100 * min(means))
    assert edges.max() == pytest.approx(100 * max(means) + 20)
  # What was published of another probe says nothing of this one.
  of_mlp = report | {'paper': report['paper'] | {'probe': 'mlp'}}
  assert len(checkpoints.draw([of_mlp]).axes[0].get_lines()) == 1
  x = figure.axes[0].get_lines()[0].get_xdata()
  # Steps that both have, of 16 examples.
  np.testing.assert_allclose(x, [0, 32e-6, 64e-6])


def test_another_training_is_dashed_where_the_probe_is_the_same(reports):
  _, (_, report) = reports
  first, *_ = report['rows']
  rows = [
    first | {'examples': 2_000_000, 'training_seconds': 120.0, 'mean': 0.5},
    first | {'probe': 'svm'},
  ]
  panels = checkpoints.draw([report | {'paper': None}], {'PyTorch': rows}).axes
  for panel, x in zip(panels, (2.0, 2.0), strict=True):  # Millions, minutes.
    _, other = panel.get_lines()
    assert other.get_linestyle() == '--'
    np.testing.assert_allclose(other.get_xydata(), [(x, 50.0)])
