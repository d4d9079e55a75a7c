"""What is said of a learned density, on energies whose density is known."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax import config as config_lib
from dim_jax.commands import density as density_command
from dim_jax.config import DataConfig, ExperimentConfig, PointConfig
from dim_jax.data import points
from dim_jax.objectives import dim, energy_model, vib
from dim_jax.runs import density, evaluate, train


class Truth(nn.Module):
  """The density of the points themselves, with a constant that is not zero."""

  of: str = 'gaussian'
  shift: float = 2.5

  @nn.compact
  def __call__(self, x):
    # A weight, so that there is something to train.
    scale = self.param('scale', nn.initializers.ones, ())
    return points.log_density(self.of, x) + self.shift * scale

  def features(self, x):
    return x


@pytest.fixture(scope='module')
def true_run(tmp_path_factory):
  """A run that is right from the start, as its weight has no gradient."""
  run_dir = tmp_path_factory.mktemp('truth')
  config = ExperimentConfig(
    objective=energy_model.Config(
      energy=Truth(), negatives='persistent', transition='mala', chains=300
    ),
    data=PointConfig(name='gaussian', count=1000),
    batch_size=50,
    steps=2,
    log_every=1,
    checkpoint_every=1,
  )
  train.train(config, str(run_dir), devices=1, show_progress=False)
  return run_dir


def test_the_truth_is_normalised_and_has_no_divergence(true_run, capsys):
  arguments = [
    str(true_run),
    '--ais',
    '--chains=50',
    '--temperatures=200',
    '--samples=400',
  ]
  density_command.main(arguments)
  assert 'AIS' in capsys.readouterr().out
  path = true_run / 'evaluation' / 'density.json'
  found = json.loads(path.read_text())
  model, annealed, gaussian, truth = found['rows']
  assert [row['by'] for row in found['rows']] == [
    'grid',
    'AIS',
    'exact',
    'exact',
  ]
  assert abs(annealed['log_z'] - 2.5) < 4 * annealed['log_z_error'] + 0.02
  assert 0 < annealed['log_z_error'] < 0.2
  # f is normalised but for its constant.
  assert model['log_z'] == pytest.approx(2.5, abs=1e-4)
  assert abs(model['box_change']) < 1e-4
  assert model['divergence'] == pytest.approx(0, abs=1e-4)
  assert truth['divergence'] == truth['divergence_error'] == 0
  # Minus the entropy, 1 + log(2 pi) + log(1 - 0.8^2) / 2, of 1,000 points.
  entropy = 1 + math.log(2 * math.pi) + 0.5 * math.log(1 - 0.64)
  assert truth['log_likelihood'] == pytest.approx(-entropy, abs=0.15)
  assert model['log_likelihood'] == pytest.approx(
    truth['log_likelihood'], abs=1e-4
  )
  # A fit to 900 points is off by about its 5 parameters / (2 * 900) nats, and
  # the mean over test points by its error.
  assert abs(gaussian['divergence']) < 0.003 + 4 * gaussian['divergence_error']
  # No more than the chains that are kept.
  assert found['samples']['count'] == 300
  with np.load(true_run / 'evaluation' / 'density.npz') as arrays:
    assert arrays['log_density'].shape == (101, 101)
    np.testing.assert_allclose(
      arrays['log_density'], arrays['true_log_density'], atol=1e-3
    )
    # The score of N((1, -1), [[1, .8], [.8, 1]]).
    off = arrays['score_points'] - np.array([1.0, -1.0])
    expected = -off @ np.linalg.inv([[1, 0.8], [0.8, 1]])
    np.testing.assert_allclose(arrays['score'], expected, rtol=1e-3, atol=1e-3)
    assert arrays['data'].shape == (1000, 2)
    assert arrays['samples'].shape == (300, 2)


def test_an_rbm_is_beside_a_single_gaussian(tmp_path):
  config = ExperimentConfig(
    objective=energy_model.Config(
      energy='rbm', hidden=3, input_range=(0.0, 1.0), negatives='exact'
    ),
    data=DataConfig(name='digits', image_size=8),
    batch_size=50,
    steps=1,
    log_every=1,
    checkpoint_every=1,
  )
  state = train.train(config, str(tmp_path), devices=1, show_progress=False)
  found = density.density(
    str(tmp_path), chains=20, temperatures=100, samples=50
  )
  exact, annealed, single = found['rows']
  assert (exact['by'], annealed['by']) == ('exact', 'AIS')
  # The energy from its formula, and log Z by all 8 states, in float64.
  params = jax.tree.map(
    lambda x: np.asarray(x, np.float64), dict(state.params['energy'])
  )
  states = np.array(list(itertools.product([-1, 1], repeat=3)))
  inner = params['visible'] + states @ params['weights'].T
  log_z = 32 * math.log(2 * math.pi) + np.log(
    np.exp(states @ params['hidden'] + (inner**2).sum(1) / 2).sum()
  )
  assert exact['log_z'] == pytest.approx(log_z, abs=1e-3)
  assert abs(annealed['log_z'] - log_z) < 5 * annealed['log_z_error'] + 0.05
  with np.load(tmp_path / 'evaluation' / 'density.npz') as arrays:
    x = arrays['data'].reshape(-1, 64).astype(np.float64)
    y = x @ params['weights'] + params['hidden']
    f = x @ params['visible'] - (x**2).sum(1) / 2
    f += np.log(2 * np.cosh(y)).sum(1)
    np.testing.assert_allclose(arrays['f_test'][: len(x)], f, rtol=1e-4)
    assert arrays['f_test'].mean() - log_z == pytest.approx(
      exact['log_likelihood'], abs=1e-3
    )
    assert x.min() == 0 and x.max() == 1
  # Digits lie within the unit cube, about their mean.
  assert -64 / 2 * math.log(2 * math.pi) - 32 < single['log_likelihood']
  assert single['log_likelihood'] < -64 / 2 * math.log(2 * math.pi)


def test_runs_without_a_density_are_named(tmp_path):
  with pytest.raises(SystemExit, match='nowhere'):
    density_command.main([str(tmp_path / 'nowhere')])
  config = ExperimentConfig(
    objective=dim.Config(encoder='small32'), data=DataConfig(image_size=8)
  )
  loaded = dataclasses.make_dataclass('Loaded', ['config', 'objective'])
  found = loaded(config, config_lib.make_objective(config))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(density.dim_jax, 'load', lambda run_dir, step: found)
    with pytest.raises(ValueError, match='Deep InfoMax, which has no dens'):
      density.density(str(tmp_path))


class Means(nn.Module):
  """Makes images, each of one brightness, which it takes from the noise."""

  @nn.compact
  def __call__(self, noise):
    scale = self.param('scale', nn.initializers.ones, ())
    return jnp.ones((1, 8, 8, 1)) * scale * noise[:, :1, None, None]


def test_a_classifier_scores_the_samples_of_a_gan(
  tmp_path, monkeypatch, capsys
):
  config = ExperimentConfig(
    objective=energy_model.Config(
      energy='mlp',
      units=(2,),
      input_range=(0.0, 1.0),
      negatives='generator',
      repulsion='none',
      contrast='jsd',
      generator=Means(),
      latent_size=2,
    ),
    data=DataConfig(name='digits', image_size=8),
    batch_size=50,
    steps=1,
    log_every=1,
    checkpoint_every=1,
  )
  train.train(config, str(tmp_path), devices=1, show_progress=False)
  own = density.dim_jax.load

  class Classifier:
    """Is sure whether the upper left pixel is below -0.5, or above."""

    config = ExperimentConfig(objective=vib.Config(), data=DataConfig())
    objective = config_lib.make_objective(config)
    step = 7
    input_shape = (8, 8, 1)

    def __call__(self, images):
      assert images.dtype == np.float32 and np.abs(images).max() <= 1
      low = images[:, 0, 0, 0] < -0.5
      return {'logits': 1e3 * np.stack([low, ~low], 1)}

  def load(run_dir, step=None):
    return Classifier() if run_dir == 'classifier' else own(run_dir, step)

  monkeypatch.setattr(density.dim_jax, 'load', load)
  density_command.main(
    [str(tmp_path), '--classifier=classifier', '--samples=400']
  )
  # Nothing is advised that cannot help.
  output = capsys.readouterr().out
  assert 'ratio of densities' in output and '--ais' not in output
  found = json.loads((tmp_path / 'evaluation' / 'density.json').read_text())
  # A ratio of densities is normalised by nothing.
  assert found['rows'] == []
  samples = found['samples']
  # Brightness is uniform on (-1, 1): a quarter is below -0.5.
  low, high = samples['classes']
  assert low == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 400))
  # Where the classifier is sure, I(X; Y) is the entropy of its classes.
  entropy = -low * math.log(low) - high * math.log(high)
  assert samples['classifier_score'] == pytest.approx(math.exp(entropy))
  # That pixel is black in all digits.
  assert samples['classifier_score_of_data'] == pytest.approx(1)
  with pytest.raises(ValueError, match='a run of GAN, which has no energy'):
    density.density(str(tmp_path), ais=True)
  monkeypatch.setattr(Classifier, 'input_shape', (28, 28, 1))
  with pytest.raises(ValueError, match=r'must classify .* \(8, 8, 1\)'):
    density.density(str(tmp_path), classifier='classifier')


def test_points_have_nothing_to_probe(true_run):
  with pytest.raises(ValueError, match=r'gaussian has no labels.*density'):
    evaluate.evaluate(str(true_run), show_progress=False)
