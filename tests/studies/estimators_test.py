"""The study of estimators: what it measures, and that it goes on."""

import json
import types

import numpy as np
import pytest

from dim_jax.data import pairs
from experiments.studies import estimators


@pytest.fixture
def oracle(monkeypatch):
  """The best critic in the place of one that is fitted."""
  calls = []

  def estimate(x, y, *, report, seeds, control):
    del x, y, control
    calls.append(seeds)
    values = pairs.find('normal').pointwise(*report)
    return types.SimpleNamespace(
      value=values.mean() + 0.01,
      standard_error=0.02,
      interval=(0.3, 0.5),
      critic='joint',
      warnings=(),
      pointwise=pairs.find('normal').pointwise,
    )

  monkeypatch.setattr(estimators.dim_jax, 'estimate_mi', estimate)
  return calls


def test_errors_are_against_the_exact_critic(oracle):
  rows = estimators.measure('normal', 3, 300, 200)
  kinds = ['critic', 'KSG, k = 3', 'Gaussian']
  assert [row['estimator'] for row in rows] == kinds
  assert rows[0]['chosen'] == 'joint'
  assert rows[0]['error'] == pytest.approx(0.01)
  assert rows[0]['correlation'] == pytest.approx(1)
  assert rows[0]['covers']
  assert rows[0]['truth'] == pytest.approx(0.4133, abs=1e-4)
  # 200 pairs: the exact mean is off by 0.75 / sqrt(200) in the mean.
  assert abs(rows[0]['exact'] - 0.4133) < 4 * 0.75 / np.sqrt(200)
  # Of the other two, whose pairs were 300 others; KSG's own noise is as large.
  assert abs(rows[1]['error']) < 0.1
  assert abs(rows[2]['error']) < 0.1
  assert oracle == [(3,)]


def test_an_interrupted_study_goes_on(oracle, tmp_path, capsys):
  flags = ['--tasks=normal', '--pairs=200', '--report=150']
  flags.append(f'--workdir={tmp_path}')
  estimators.main(argv=[*flags, '--seeds=1'])
  estimators.main(argv=[*flags, '--seeds=2'])
  assert oracle == [(0,), (1,)]
  rows = json.loads((tmp_path / 'estimators.json').read_text())['rows']
  assert [row['seed'] for row in rows] == [0] * 3 + [1] * 3
  assert '2 of 2' in capsys.readouterr().out
  with pytest.raises(SystemExit, match='--pairs=200 and --report=150'):
    estimators.main(argv=[*flags[:1], *flags[2:], '--pairs=300'])


def test_tasks_are_checked():
  with pytest.raises(SystemExit, match="got 'gauss'"):
    estimators.main(argv=['--tasks=gauss'])
