"""Measuring two files: what is read, written and shown."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import special

from dim_jax.commands import measure as command
from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.data import pairs
from dim_jax.evaluation.information import estimate
from dim_jax.runs import measure


@pytest.fixture
def given(monkeypatch):
  """An estimate that is not fitted, and the arguments that asked for it."""
  calls = []

  def fake(x, y, **options):
    calls.append((x, y, options))
    return estimate.MIEstimate(
      value=0.4,
      standard_error=0.01,
      seed_std=0.002,
      interval=(0.38, 0.45),
      ceiling=6.5,
      control=0.001,
      critic='joint',
      settings={'learning_rate': 0.008, 'weight_decay': 0.01},
      selected={'joint': 0.41, 'separable': 0.4},
      history={
        'selection': np.array([[0.2, 0.4, np.nan]]),
        'training': np.array([[0.1, 0.3, np.nan]]),
      },
      sizes={'fit': 60, 'selection': 7, 'report': 33},
      warnings=('a note.',),
      pointwise=lambda x, y: x[:, 0],
    )

  monkeypatch.setattr(measure.dim_jax, 'estimate_mi', fake)
  return calls


def test_two_files(given, tmp_path, capsys):
  x, y = pairs.find('normal').sample(np.random.default_rng(0), 400)
  np.save(tmp_path / 'x.npy', x)
  np.savez(tmp_path / 'y.npz', y=y, other=x)
  out = tmp_path / 'out'
  command.main(
    argv=[
      f'--x={tmp_path}/x.npy',
      f'--y={tmp_path}/y.npz:y',
      f'--out={out}',
      '--seeds=1,2',
      '--nocontrol',
    ]
  )
  (got,) = given
  np.testing.assert_array_equal(got[0], x)
  np.testing.assert_array_equal(got[1], y)
  assert got[2] == {
    'report': None,
    'critic': 'auto',
    'bound': None,
    'folds': None,
    'seeds': (1, 2),
    'control': False,
  }
  results = json.loads((out / 'information.json').read_text())
  assert results['value'] == 0.4
  assert results['interval'] == [0.38, 0.45]
  assert results['columns'] == {'x': 1, 'y': 1}
  # The sample's own correlation tells the Gaussian's information, less its bias
  # of n rows: the mean log of 1 - rho^2 where there is none.
  rho = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
  psi = [special.digamma((len(x) - i) / 2) for i in (1, 2)]
  expected = -np.log1p(-(rho**2)) / 2 - (psi[0] - psi[1]) / 2
  assert results['beside']['Gaussian'] == pytest.approx(expected)
  assert results['beside']['KSG, k = 3'] == pytest.approx(expected, abs=0.1)
  shown = capsys.readouterr().out
  for text in ('0.4000', '0.3800 to 0.4500', '60 pairs fitted', 'a note.'):
    assert text in shown
  with Image.open(out / 'information.png') as image:
    assert image.size[0] > 500
  # 3 measurements, of which training reached two.
  lines = (out / 'information.csv').read_text().splitlines()
  assert lines[1].startswith('selection,25,0.2')
  assert len(lines) == 1 + 2 * 2


def test_pairs_to_report_on(given, tmp_path):
  rows = np.random.default_rng(0).normal(size=(50, 2))
  for name in ('a', 'b', 'c', 'd'):
    np.save(tmp_path / f'{name}.npy', rows)
  flags = [f'--x={tmp_path}/a.npy', f'--y={tmp_path}/b.npy']
  flags += [f'--report_x={tmp_path}/c.npy', f'--out={tmp_path}/out']
  with pytest.raises(SystemExit, match='give all of --report_x and --rep'):
    command.main(argv=flags)
  command.main(argv=[*flags, f'--report_y={tmp_path}/d.npy', '--noise_y=2'])
  of_x, of_y = given[0][2]['report']
  np.testing.assert_array_equal(of_x, rows)
  # Noise is of pairs to report on too: a hundred numbers, their std to 7 %.
  assert (of_y - rows).std() == pytest.approx(2 * rows.std(), rel=0.25)
  with pytest.raises(SystemExit, match='give --x=FILE and --y=FILE'):
    command.main(argv=flags[:1])


class _Encoder:
  """The mean of an image's upper half, of which the class is drawn."""

  config = ExperimentConfig(objective=None, data=DataConfig(image_size=8))
  variables = np.float32(1 / 255)

  def encode(self, variables, batch):
    half = batch['image'][:, :4].astype(np.float32) * variables
    return {'y': half.mean((1, 2)), 'map': half}


def test_parts_of_a_run(given, tmp_path, monkeypatch):
  monkeypatch.setattr(measure.dim_jax, 'load', lambda run_dir: _Encoder())
  run = str(tmp_path)
  out = str(tmp_path / 'out')
  measure.measure(f'{run}:inputs', f'{run}:y', out, noise={'y': 0.5})
  measure.measure(f'{run}:y', f'{run}:class', out, given=f'{run}:map')
  measure.measure(f'{run}:y', f'{run}:class', out, folds=3)
  (inputs, noisy, first), (clean, labels, second), (rows, _, third) = given
  # Folds take turns on all rows.
  np.testing.assert_array_equal(rows[:1438], clean)
  assert len(rows) == 1438 + 359
  assert third['report'] is None
  assert inputs.shape == (1438, 8, 8, 1)
  assert first['report'][0].shape == (359, 8, 8, 1)
  expected = inputs[:, :4].astype(np.float64).mean((1, 2)) / 255
  np.testing.assert_allclose(clean, expected, atol=1e-6)
  # Half a standard deviation of noise, independent of the feature, on the
  # pairs to report on too.
  for rows, of_clean in zip(
    (noisy, first['report'][1]), (clean, second['report'][0]), strict=True
  ):
    noise = rows - of_clean
    assert noise.std() == pytest.approx(0.5 * clean.std(), rel=0.15)
    assert abs(np.corrcoef(noise[:, 0], of_clean[:, 0])[0, 1]) < 0.2
  np.testing.assert_array_equal(np.unique(labels), np.arange(10))
  assert second['given'].shape == (1438, 4 * 8)
  assert len(second['report']) == 3
  assert len(second['report'][1]) == 359


@pytest.mark.parametrize(
  ('x', 'y', 'noise', 'match'),
  [
    ('', '', {}, 'is a folder; of a run give a part too'),
    (':z', ':y', {}, "'map', 'y', 'inputs', 'class', got 'z'"),
    (':y', '/rows.npy', {}, 'some sides are of a run and some of files'),
    (':y', ':class', {'z': 1.0}, "noise must be one of 'x', 'y', got 'z'"),
    (':y', ':class', {'x': 0.0}, 'noise must be > 0'),
    ('/no_run:y', ':y', {}, 'nor RUN:PART of the folder of a run: give'),
    ('/text.npy', '/rows.npy', {'x': 1.0}, 'what gets noise has dtype <U1'),
  ],
)
def test_parts_that_are_refused(tmp_path, monkeypatch, x, y, noise, match):
  monkeypatch.setattr(measure.dim_jax, 'load', lambda run_dir: _Encoder())
  np.save(tmp_path / 'rows.npy', np.ones(3))
  np.save(tmp_path / 'text.npy', np.array(list('abc')))
  with pytest.raises(ValueError, match=match):
    measure.measure(f'{tmp_path}{x}', f'{tmp_path}{y}', 'out', noise=noise)


def test_tables_of_text(tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text('height, weight,age\n1.5,60,30\n\n1.8,75,40\n')
  np.testing.assert_array_equal(
    measure.read_rows(f'{path}:age,height'), [[30, 1.5], [40, 1.8]]
  )
  assert measure.read_rows(str(path)).shape == (2, 3)
  bare = tmp_path / 'bare.csv'
  bare.write_text('1,2\n3,4\n')
  np.testing.assert_array_equal(measure.read_rows(f'{bare}:1'), [[2], [4]])


@pytest.mark.parametrize(
  ('name', 'content', 'part', 'match'),
  [
    ('t.csv', 'a,b\n1,2\n', ':c', 'has no column c: its columns are a, b'),
    ('t.csv', 'a,b\n1,x\n', '', "has 'x' in row 1 of column b"),
    ('t.csv', 'a,b\n1\n', '', "has '' in row 1 of column b"),
    ('t.csv', '0.5,\n1,2\n', '', "has '' in row 1 of column 1"),
    ('t.csv', '', '', 'is empty'),
    (
      't.txt',
      '1 2',
      '',
      r'neither a file of a kind that is accepted \(.npy, .npz and .csv',
    ),
  ],
)
def test_files_that_are_refused(tmp_path, name, content, part, match):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=match):
    measure.read_rows(f'{tmp_path / name}{part}')


def test_files_that_are_damaged(tmp_path):
  for name, content in (('a.npz', b'PK\x03\x04'), ('a.csv', b'\xff\xfe1')):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'{name} cannot be read'):
      measure.read_rows(str(tmp_path / name))


def test_what_cannot_stand_beside_an_estimate():
  rng = np.random.default_rng(0)
  # More columns than rows; then labels, which have no nearest neighbours.
  assert (
    measure._beside(rng.normal(size=(20, 15)), rng.normal(size=(20, 9))) == {}
  )
  labels = rng.integers(0, 3, (50, 1)).astype(float)
  assert set(measure._beside(labels, rng.normal(size=(50, 1)))) == {'Gaussian'}


def test_archives_that_are_refused(tmp_path):
  path = tmp_path / 'a.npz'
  np.savez(path, left=np.ones(3), right=np.ones(3))
  for part in ('', ':middle'):
    with pytest.raises(ValueError, match='has the arrays left, right; give'):
      measure.read_rows(f'{path}{part}')
  np.savez(path, only=np.ones(3))
  assert measure.read_rows(str(path)).shape == (3,)
