"""The study of the staircase: what it writes, compares and repeats."""

import json
import math

import numpy as np
import pytest

from dim_jax.runs import staircase as runs
from experiments.studies import staircase

FLAGS = [
  '--critics=conditional',
  '--distributions=gaussian',
  '--levels=1.386294,2.0',
  '--steps=4',
]


def test_a_finished_run_is_not_trained_again(tmp_path, capsys, monkeypatch):
  flags = [*FLAGS, f'--workdir={tmp_path}']
  staircase.main(argv=flags)
  path = tmp_path / 'staircase.json'
  written = json.loads(path.read_text())
  rows = written['rows']
  names = ['club'] * 2 + ['difference_of_entropies'] * 2
  assert [row['reading'] for row in rows] == names
  assert [row['truth'] for row in rows] == [1.386294, 2.0] * 2
  assert written['ceiling'] == pytest.approx(math.log(64))
  assert (tmp_path / 'staircase_gaussian_conditional.png').stat().st_size > 0
  # Means and deviations are of the curve's second half.
  with np.load(tmp_path / 'gaussian_conditional_likelihood.npz') as file:
    half = file['values'][1, 2:, 0].astype(float)
  assert rows[1]['mean'] == pytest.approx(half.mean())
  assert rows[1]['std'] == pytest.approx(half.std())
  assert f'{half.mean():.2f} ± {half.std():.2f}' in capsys.readouterr().out

  monkeypatch.setattr(runs, '_advance', None)  # Calling it would raise.
  staircase.main(argv=flags)
  assert json.loads(path.read_text())['rows'] == rows
  with pytest.raises(SystemExit, match=r'--steps=4 and --seed=0; give these'):
    staircase.main(argv=[*flags, '--steps=5'])


def test_published_numbers_stand_beside_the_same_level_alone():
  levels = [2.0, 8 * math.log(2)]
  curves = {'infonce': np.ones((2, 4)), 'jsd_nwj': np.ones((2, 4))}
  rows = staircase.rows_of('gaussian', 'joint', curves, levels)
  # 8 bits are the fourth of five levels.
  assert [row.get('published') for row in rows] == [
    None, {'mean': 3.59, 'std': 0.15}, None, None
  ]  # fmt: skip
  cubic = staircase.rows_of('cubic', 'joint', curves, levels)
  assert not any('published' in row for row in cubic)


def test_every_reading_has_a_name_and_a_panel():
  readings = [name for m in runs.METHODS.values() for name in m.readings]
  assert set(readings) == set(staircase.LABELS)
  assert len(readings) == len(set(readings))
  curves = {name: np.ones((2, 4)) for name in readings}
  picture = staircase.picture('gaussian', 'joint', curves, [1.0, 2.0], 64)
  assert len(picture.figure().axes) == len(readings)
  # A constant is its own average, and has no deviation.
  assert {row[2:4] for row in picture.rows} == {(1.0, 0.0)}
  assert [row[4] for row in picture.rows[:8]] == [1.0] * 4 + [2.0] * 4


def test_flags_are_checked(tmp_path):
  where = f'--workdir={tmp_path}'
  with pytest.raises(SystemExit, match=r"--critics must be .* got 'concat'"):
    staircase.main(argv=[where, '--critics=concat'])
  with pytest.raises(SystemExit, match=r'--steps must be .* got 1'):
    staircase.main(argv=[where, '--steps=1'])
