"""Particles reach known answers, and are measured by the right ones."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies import particles


def test_particles_of_a_gaussian_have_its_mean_and_nearly_its_variance():
  start = np.random.default_rng(0).normal(4, 1, (50, 1))
  first, last = particles.svgd(
    lambda x: -0.5 * ((x[:, 0] - 1) / 2) ** 2,
    start,
    [0, 1000],
    learning_rate=0.1,
    self_term=True,
  )
  np.testing.assert_array_equal(first, start.astype(np.float32))
  assert abs(last.mean() - 1) < 0.02
  # N(1, 4); with so few particles the variance is a few percent less.
  assert 0.85 < last.var() / 4 < 1.02


def test_recorded_iterations_are_those_of_one_run():
  start = np.random.default_rng(0).normal(size=(5, 2))

  def run(iterations):
    return particles.svgd(
      lambda x: -(x**2).sum(1),
      start,
      iterations,
      learning_rate=0.1,
      self_term=False,
    )

  np.testing.assert_allclose(run([3, 7])[1], run([7])[0], rtol=1e-5)


def test_truths_of_the_mixture_are_those_of_many_draws(monkeypatch):
  # In the place of particles, so many draws that errors vanish as 1/sqrt(n).
  random = np.random.default_rng(1)
  count = 400_000
  draws = random.normal(np.where(random.random(count) < 1 / 3, -2, 2), 1)

  def fake(*arguments, **options):
    del arguments, options
    return draws[None, :, None]

  monkeypatch.setattr(particles, 'svgd', fake)
  found = particles.mixture_1d(particles=100, iterations=(0,))
  many, _, independent = found.rows
  assert many['mean error'] < 0.02
  assert many['square error'] < 0.04
  assert many['cosine error'] < 0.005
  # The same root mean square errors, by cutting the draws into parts of 100.
  parts = draws.reshape(-1, 100)
  for name, values, truth in (
    ('mean error', parts.mean(1), 2 / 3),
    ('square error', (parts**2).mean(1), 5),
  ):
    error = math.sqrt(np.mean((values - truth) ** 2))
    assert independent[name] == pytest.approx(error, rel=0.05)


def test_the_variance_shrinks_as_dimensions_grow():
  found = particles.variance(particles=40, dimensions=(10,), iterations=400)
  (row,) = found.rows
  # 100 particles keep 0.44 of it after 1,000 iterations, fewer less; in one
  # dimension see above.
  assert row['variance with'] < 0.44
  assert row['variance without'] > 1
  assert row['|mean| with'] < 0.02


def test_the_posterior_of_weights_is_the_models():
  task = particles.breast_cancer()
  (train, labels), (test, _) = task.train, task.test
  assert (len(train), len(test), train.shape[1]) == (456, 113, 31)
  np.testing.assert_allclose(train[:, :-1].mean(0), 0, atol=1e-12)
  np.testing.assert_allclose(train[:, :-1].std(0), 1, atol=1e-12)
  assert set(labels) == {-1.0, 1.0}
  theta = np.random.default_rng(0).normal(0, 0.3, (4, 32))
  found = task.log_density(jnp.asarray(theta, jnp.float32))
  expected = []
  for row in theta:
    weights, alpha = row[:31], math.exp(row[31])
    log_p = -np.log1p(np.exp(-labels * (train @ weights))).sum()
    # N(0, I / alpha), Gamma(1, rate 0.01), and d alpha / d log alpha.
    log_p += 31 / 2 * math.log(alpha) - alpha / 2 * (weights @ weights)
    expected.append(log_p - 0.01 * alpha + math.log(alpha))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # All weights 0 predict 1/2.
  accuracy, nats = task.predict(np.zeros((3, 32)))
  assert accuracy == 0
  assert nats == pytest.approx(-math.log(2))


def test_chains_find_a_gaussian_and_their_step():
  deviation = np.array([1.0, 3.0], np.float32)
  found = particles.chains(
    lambda x: -0.5 * ((x / deviation[None]) ** 2).sum(1),
    np.zeros((50, 2)),
    pilot=30,
    draws=60,
    thin=40,
  )
  flat = found.draws.reshape(-1, 2)
  np.testing.assert_allclose(flat.mean(0) / deviation, 0, atol=0.1)
  np.testing.assert_allclose(flat.std(0) / deviation, 1, atol=0.06)
  assert found.acceptance == pytest.approx(0.574, abs=0.1)
  assert 1 <= found.rhat + 0.02 < 1.1


def test_a_target_is_written_and_printed(tmp_path, monkeypatch, capsys):
  def target(*, seed):
    rows = [{'d': 1, 'error': np.float32(0.25)}, {'d': 2, 'error': seed}]
    return particles.Result('made up', rows, {'x': np.arange(3)})

  monkeypatch.setitem(particles.TARGETS, 'target', target)
  particles.main(['--targets=target', f'--out={tmp_path}', '--seed=7'])
  assert '0.250' in capsys.readouterr().out
  report = json.loads((tmp_path / 'target.json').read_text())
  assert report['rows'] == [{'d': 1, 'error': 0.25}, {'d': 2, 'error': 7}]
  with np.load(tmp_path / 'target.npz') as arrays:
    np.testing.assert_array_equal(arrays['x'], [0, 1, 2])
  with pytest.raises(SystemExit, match=r"one of 'mixture_1d', .* got 'none'"):
    particles.main(['--targets=none'])
