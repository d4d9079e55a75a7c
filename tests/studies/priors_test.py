"""The comparison of priors' divergences: its measures and command."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import config as config_lib
from dim_jax.networks import encoders
from experiments.studies import priors


def test_total_correlation_of_a_known_correlation():
  # Orthonormal columns around 0 are uncorrelated exactly; x and
  # r x + sqrt(1 - r^2) y then have the correlation r: -1/2 ln(1 - r^2) nats.
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(50, 3))
  x, y, z = np.linalg.qr(rows - rows.mean(0))[0].T
  mixed = 0.6 * x + 0.8 * y
  codes = np.stack([x, 5 * mixed + 2, -3 * z], axis=1)
  np.testing.assert_allclose(
    priors.total_correlation(codes), -math.log(1 - 0.36) / 2, rtol=1e-6
  )
  uncorrelated = np.stack([x, y, z], axis=1)
  np.testing.assert_allclose(
    priors.total_correlation(uncorrelated), 0, atol=1e-9
  )


def test_mode_coverage_counts_samples_at_their_nearest_mode():
  means = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
  samples = np.zeros((1000, 2))
  # 3 deviations are 1.5. 5 of 1,000 are too few for a mode; 10 are enough.
  samples[:5] = [4.0, 1.0]
  samples[5:15] = [0.0, 2.6]
  samples[15:35] = [9.0, 9.0]
  modes, near = priors.mode_coverage(samples, means, 0.5)
  assert modes == 2
  np.testing.assert_allclose(near, (1000 - 20) / 1000)


def test_every_condition_is_a_run_that_can_be_used():
  for points, dataset, conditions in (
    (False, 'digits', priors.CONDITIONS),
    (True, 'ring', priors.POINT_CONDITIONS),
  ):
    for name in conditions:
      config = priors.condition_config(
        name, points=points, dataset=dataset, steps=10, batch_size=8
      )
      config_lib.check(config)
      group = 'generator' if points else 'encoder'
      # All encoders take as many steps, whatever their adversaries do.
      assert config.steps // config.groups[group].every == 10
  with pytest.raises(ValueError, match=r"no condition 'kl'.*'stein'"):
    priors.condition_config(
      'kl', points=True, dataset='ring', steps=1, batch_size=8
    )


def test_weights_are_scaled_and_validation_images_held_out(tmp_path, capsys):
  def make(name, **changes):
    return priors.condition_config(
      name, points=False, dataset='digits', steps=1, batch_size=8, **changes
    )

  # 0.1 of Deep InfoMax, and MMD's own 10, times 3.
  assert make('kl', scale=3.0).objective.prior.weight == pytest.approx(0.3)
  assert make('mmd', scale=3.0).objective.prior.weight == pytest.approx(30)
  assert make('kl').data.validation == 0
  assert make('kl', validation=True).data.validation == 0.1
  command = [f'--workdir={tmp_path}', '--conditions=none', '--seeds=0']
  command += ['--steps=1', '--batch_size=50', '--validation', '--scale=2']
  priors.main(command)
  assert 'weights x 2, validation' in capsys.readouterr().out
  report = json.loads((tmp_path / 'priors.json').read_text())
  # Of 144 images, a tenth of 1,438 training images, a whole number is right;
  # of the 359 test images another fraction would be.
  (row,) = report['rows']
  assert row['probe'] * 144 == pytest.approx(
    round(row['probe'] * 144), abs=1e-3
  )
  with pytest.raises(ValueError, match='are of images, not of points'):
    priors.priors(str(tmp_path), points=True, scale=2.0)
  with pytest.raises(ValueError, match='scale must be > 0, got 0'):
    priors.priors(str(tmp_path), scale=0)


def test_encoder_of_the_comparison_has_the_features_of_its_objective():
  encoder = encoders.MLPCode(units=(5,), code=3, stochastic=True)
  images = jnp.ones((2, 4, 4, 1)) / 2
  features, variables = encoder.init_with_output(jax.random.key(0), images)
  assert {name: x.shape for name, x in features.items()} == {
    'input': (2, 16),
    'fc': (2, 5),
    'y': (2, 3),
    'log_variance': (2, 3),
  }
  np.testing.assert_array_equal(features['input'], 0.5)
  layer = variables['params']['y']
  np.testing.assert_allclose(
    features['y'],
    features['fc'] @ layer['kernel'] + layer['bias'][None],
    rtol=1e-6,
  )


def test_command_measures_codes_and_redoes_no_condition(tmp_path, capsys):
  command = [
    f'--workdir={tmp_path}',
    '--steps=2',
    '--seeds=0,1',
    '--batch_size=32',
  ]
  priors.main([*command, '--conditions=kl'])
  report = json.loads((tmp_path / 'priors.json').read_text())
  assert [(r['condition'], r['seed']) for r in report['rows']] == [
    ('kl', 0),
    ('kl', 1),
  ]
  for row in report['rows']:
    assert 0 < row['probe'] <= 1
    assert all(np.isfinite(v) for k, v in row.items() if k != 'condition')
  assert report['rows'][0]['mmd'] != report['rows'][1]['mmd']
  mean = np.mean([row['mmd'] for row in report['rows']])
  np.testing.assert_allclose(report['summary']['kl']['mmd']['mean'], mean)
  # Draws of the prior: (16 * 15) / (4 * 359) = 0.17 nats by chance.
  assert abs(report['floor']['mmd']) < 0.02
  assert 0.1 < report['floor']['total_correlation'] < 0.25
  assert 'kl' in capsys.readouterr().out
  condition = tmp_path / 'conditions' / 'kl.json'
  before = condition.stat().st_mtime_ns
  priors.main([*command, '--conditions=kl'])
  assert condition.stat().st_mtime_ns == before
  # As earlier versions wrote it.
  condition.write_text(condition.read_text().replace('"condition"', '"cell"'))
  condition.parent.rename(tmp_path / 'cells')
  priors.main([*command, '--conditions=kl'])
  assert (
    json.loads((tmp_path / 'priors.json').read_text())['rows']
    == (report['rows'])
  )
  with pytest.raises(SystemExit, match='no --cells: give --conditions'):
    priors.main([*command, '--cells=kl'])
  command[1] = '--steps=3'
  with pytest.raises(SystemExit, match='other settings'):
    priors.main([*command, '--conditions=kl'])
  with pytest.raises(SystemExit, match="no condition 'gan'"):
    priors.main([*command, '--conditions=gan'])


def test_command_generates_points(tmp_path, capsys):
  command = [
    f'--workdir={tmp_path}',
    '--points',
    '--steps=3',
    '--seeds=0',
    '--batch_size=16',
  ]
  priors.main([*command, '--conditions=hinge,stein'])
  report = json.loads((tmp_path / 'priors.json').read_text())
  assert list(report['summary']) == ['hinge', 'stein']
  for row in report['rows']:
    assert 0 <= row['modes'] <= 8
    assert row['mmd'] > report['floor']['mmd']
  assert report['floor']['modes'] == 8
  # Within 3 deviations in the plane: 1 - exp(-9 / 2).
  np.testing.assert_allclose(
    report['floor']['near'], 1 - math.exp(-4.5), atol=0.01
  )
  assert 'ring' in capsys.readouterr().out
