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


def test_other_estimators_are_added(oracle, monkeypatch, tmp_path, capsys):
  forms = []

  def by_scores(x, y, *, report, seeds, form):
    assert len(x) == len(y) == 200
    forms.append((seeds, form))
    return types.SimpleNamespace(
      value=0.4,
      standard_error=0.02,
      interval=(0.41, 0.42),
      read_outs={'nll': 0.4},
      fitted={'nll': 0.5},
      moved={'nll': 0.1},
      settings={'steps': 20},
      warnings=('the estimate still moves',),
      pointwise=pairs.find('normal').pointwise,
    )

  monkeypatch.setattr(estimators.diffusion, 'estimate_by_scores', by_scores)
  flags = ['--tasks=normal', '--pairs=200', '--report=150']
  flags.append(f'--workdir={tmp_path}')
  estimators.main(argv=flags)
  estimators.main(argv=[*flags, '--estimators=critic,mmse,minde_j'])
  estimators.main(argv=[*flags, '--estimators=minde_j'])
  assert oracle == [(0,)]
  assert forms == [((0,), 'mmse'), ((0,), 'joint')]
  rows = json.loads((tmp_path / 'estimators.json').read_text())['rows']
  kinds = ['critic', 'KSG, k = 3', 'Gaussian', 'mmse', 'minde_j']
  assert [row['estimator'] for row in rows] == kinds
  assert rows[3]['error'] == pytest.approx(0.4 - rows[0]['exact'])
  assert rows[3]['moved'] == {'nll': 0.1}
  # The last command asked for one alone.
  assert 'KSG' not in capsys.readouterr().out.split('estimators.json')[-2]


def test_tasks_are_checked():
  with pytest.raises(SystemExit, match="got 'gauss'"):
    estimators.main(argv=['--tasks=gauss'])
  with pytest.raises(SystemExit, match="got 'minde'"):
    estimators.main(argv=['--estimators=minde'])
