"""What is measured of densities, on the page."""

import json
import pathlib

import numpy as np
import pytest

from dim_jax.report import page, runs
from dim_jax.report.sections import curves, density


def _make_run(folder, negatives='cd', *, density=True, images=False, **more):
  folder.mkdir(parents=True)
  config = {
    'objective': {
      'type': 'dim_jax.objectives.energy_model:Config',
      'energy': 'mlp',
      'units': [128, 128],
      'negatives': negatives,
      'transition': 'langevin',
      'steps': 10,
      'step_size': 0.01,
      'noise': None,
      'stein_step': 0.1,
      'bandwidth': 'svgd',
      'self_term': False,
      'kernel': 'data',
      'repulsion': 'all',
      'input_range': [0.0, 1.0],
    },
    'data': {'name': 'mixture_2d'},
    'seed': 0,
    'batch_size': 4,
    'steps': 20,
    'input_shape': [4, 4, 1] if images else [2],
  }
  (folder / 'config.json').write_text(json.dumps(config))
  lines = [
    {
      'step': 10 * (t + 1),
      'images': 40 * (t + 1),
      'energy/data': 2.0,
      'energy/negatives': 1.5,
      'energy/gap': 0.5,
      'energy/acceptance': 0.75,
      'energy/temperature': 1.0,
      'generator/surrogate': 7.0,
    }
    | more
    for t in range(2)
  ]
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  if density:
    (folder / 'evaluation').mkdir()
    _measure(folder / 'evaluation', images)
  return runs.read(folder)


def _measure(folder, images):
  rows = [
    {
      'density': 'model',
      'by': 'grid',
      'log_z': 3.25,
      'box_change': 1e-4,
      'log_likelihood': -3.0,
      'log_likelihood_error': 0.125,
      'divergence': 0.5,
      'divergence_error': 0.0625,
    },
    {
      'density': 'N(train mean, I)',
      'by': 'exact',
      'log_likelihood': -2.75,
      'log_likelihood_error': 0.125,
      'divergence': 0.25,
      'divergence_error': 0.0625,
    },
    {
      'density': 'truth',
      'by': 'exact',
      'log_likelihood': -2.5,
      'log_likelihood_error': 0.125,
      'divergence': 0.0,
      'divergence_error': 0.0,
    },
  ]
  report = {
    'dataset': 'mixture_2d',
    'step': 20,
    'rows': rows,
    'samples': {
      'count': 8,
      'mmd': 0.25,
      'mmd_of_data': 0.01,
      'variance_ratio': 0.5,
    },
  }
  (folder / 'density.json').write_text(json.dumps(report))
  random = np.random.default_rng(0)
  if images:
    arrays = {
      'data': np.zeros((8, 4, 4, 1)),
      'samples': np.full((8, 4, 4, 1), 0.75),
    }
  else:
    arrow = np.linspace(-2.0, 2.0, 21)
    points = np.stack(np.meshgrid(arrow, arrow, indexing='ij'), -1)
    axis_0, axis_1 = np.linspace(-2.0, 2.0, 41), np.linspace(-1.0, 3.0, 41)
    # Depends on the first coordinate alone; its slope is -x.
    values = np.repeat(-0.5 * axis_0[:, None] ** 2, 41, 1)
    arrays = {
      'axis_0': axis_0,
      'axis_1': axis_1,
      'log_density': values,
      'true_log_density': values,
      'score_points': points.reshape(-1, 2),
      'score': -points.reshape(-1, 2),
      'data': random.normal(size=(30, 2)),
      'samples': random.normal(size=(20, 2)),
    }
  np.savez(folder / 'density.npz', **arrays)


def _text(run):
  return pathlib.Path(page.write([run])).read_text(encoding='utf-8')


def test_page_of_an_energy(tmp_path):
  _make_run(tmp_path / 'run')
  text = _text(tmp_path / 'run')
  for part in (
    'Log density of data and negatives',
    'Gap between data and negatives',
    'Acceptance of the chains',
    'energy mlp, units 128 128, negatives cd, transition langevin, steps 10',
    'log likelihood, nats',
    'The model’s log likelihood is below that of N(train mean, I).',
    '<td class="n">0.5000</td><td class="n">0.2500</td>',
    '<td class="n">0.0100</td>',
  ):
    assert part in text, part
  # What means nothing has no curve; no other evaluation is asked for.
  assert 'surrogate' not in text.split('<details>')[0]
  assert 'dim-jax evaluate' not in text
  assert (tmp_path / 'run/report/density.png').exists()


def test_a_gans_f_is_no_density(tmp_path):
  folder = tmp_path / 'run'
  _make_run(folder)
  config = json.loads((folder / 'config.json').read_text())
  config['objective']['contrast'] = 'jsd'
  (folder / 'config.json').write_text(json.dumps(config))
  text = _text(folder)
  assert 'Scores of data and samples' in text
  assert 'Gap between data and samples' in text
  assert 'Log density of data' not in text


def test_page_asks_for_the_measurement(tmp_path):
  _make_run(tmp_path / 'run', density=False)
  text = _text(tmp_path / 'run')
  assert f'dim-jax density {tmp_path / "run"}' in text
  assert 'No features are stored' not in text


def test_page_of_an_energy_that_is_not_normalised(tmp_path):
  _make_run(tmp_path / 'run', images=True)
  path = tmp_path / 'run/evaluation/density.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'rows': []}))
  text = _text(tmp_path / 'run')
  assert 'No log likelihood: the energy is not normalised' in text
  assert 'log likelihood, nats' not in text
  assert 'test images' in text


def test_measured_runs_stand_side_by_side(tmp_path):
  a = _make_run(tmp_path / 'a')
  b = _make_run(tmp_path / 'b', 'generator')
  picture = density.section([a, b])[-1]
  panels = list(dict.fromkeys(row[0] for row in picture.rows))
  assert panels == ['truth', 'a, KL 0.500', 'b, KL 0.500']
  # The truth's arrows are slopes of its grid: -x along x, 0 along y; the
  # slope of a parabola is exact within the grid.
  for row in picture.rows:
    if row[:2] == ('truth', 'score'):
      assert row[4:] == pytest.approx((-row[2], 0), abs=1e-9)
    elif row[1] == 'score':
      assert row[4:] == (-row[2], -row[3])
  count = [row[1] for row in picture.rows].count('score')
  assert count == 3 * 10 * 10
  page.write([a.path, b.path], tmp_path / 'out')
  assert (tmp_path / 'out/density.png').exists()


def test_likelihoods_name_what_is_shared_once(tmp_path):
  a = _make_run(tmp_path / 'a')
  table = density.likelihoods([a])
  assert table.header == [
    'density',
    'normalised by',
    'log Z, nats',
    'log likelihood, nats',
    'KL(data ‖ it), nats',
  ]
  assert table.rows[0][2:4] == ['3.250', '−3.000\u00a0±\u00a00.125']
  b = _make_run(tmp_path / 'b', 'stein')
  table = density.likelihoods([a, b])
  assert [[row[0], row[1], row[2]] for row in table.rows] == [
    ['a', 'model', 'grid'],
    ['b', 'model', 'grid'],
    ['all', 'N(train mean, I)', 'exact'],
    ['all', 'truth', 'exact'],
  ]
  assert table.rows[2][3] == '–'


def test_samples_of_images_are_scaled_from_the_range_of_the_energy(tmp_path):
  run = _make_run(tmp_path / 'run', 'generator', images=True)
  picture = density.section([run])[-1]
  # From [0, 1] to [-1, 1]: 0 to -1 and 0.75 to 0.5.
  assert picture.rows[0] == ('test images', 0, -1.0, -1.0, -1.0)
  assert picture.rows[-1] == ('energy_model, KL 0.500', 7, 0.5, 0.5, 0.5)


def test_another_temperature_is_a_warning(tmp_path):
  hot = _make_run(
    tmp_path / 'run', density=False, **{'energy/temperature': 5e-5}
  )
  assert 'T = 5.0e−05 and not the model' in curves.warnings(hot)[0]
  assert density.warnings(hot) == []
