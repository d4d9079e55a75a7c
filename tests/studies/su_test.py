"""The study of the terms of Su's variant."""

import json

import numpy as np
import pytest

from dim_jax.configs import dim_digits
from dim_jax.evaluation import probes as probes_lib
from dim_jax.networks import encoders
from dim_jax.objectives import dim
from experiments.studies import su
from tests import small


def make_config():
  config = dim_digits.get_config('su')
  config.data.image_size = 8
  config.objective.encoder = encoders.ConvEncoder(
    image_size=8,
    convs=(encoders.ConvLayer(4, 2, 2, 0),),
    fcs=(8,),
    local=0,
    code=4,
    stochastic=True,
  )
  config.objective.code = 4
  config.objective.critic_units = config.objective.global_critic_units = 8
  config.steps, config.log_every, config.checkpoint_every = 1, 1, 1
  config.batch_size = 8
  return config


def run(workdir, config, **changes):
  chosen = {'terms': ('global',), 'kl_weights': (0.0, 0.1), 'seeds': (0, 1)}
  return su.su(
    config, str(workdir), show_progress=False, max_examples=200,
    **(chosen | changes),
  )  # fmt: skip


def test_every_condition_is_measured_once(tmp_path, monkeypatch):
  # The cheapest probe stands for those whose fits take long to compile.
  for name in su._PROBES:
    monkeypatch.setitem(probes_lib.PROBES, name, probes_lib.knn_probe)
  report = run(tmp_path, make_config())
  made = [
    (row['terms'], row.get('kl_weight'), row.get('seed'))
    for row in report['rows']
  ]
  assert made == [
    ('pixels', None, None),
    ('untrained', None, 0),
    ('untrained', None, 1),
    ('global', 0.0, 0),
    ('global', 0.0, 1),
    ('global', 0.1, 0),
    ('global', 0.1, 1),
  ]
  last = report['rows'][-1]
  assert {'linear', 'linear_few', 'kl', 'mi/global'} <= set(last)
  # Without its term the local critic is not there.
  assert 'mi/local' not in last
  with open(tmp_path / 'su.json') as file:
    assert json.load(file)['rows'] == report['rows']
  monkeypatch.setattr(su, '_measure', None)
  assert run(tmp_path, make_config())['rows'] == report['rows']
  with pytest.raises(ValueError, match='holds runs of another config'):
    run(tmp_path, make_config(), kl_weights=(0.0, 0.2))


def test_the_weight_in_the_state_is_that_of_the_config():
  config = make_config().objective
  config.num_classes = 0
  batch = {'image': small.images(6, size=8)['image']}
  config.prior.weight = 0.3
  expected = dim.make(config)
  params, state = small.start(expected, batch)
  value, grads = small.gradients(expected, (params, state), batch)
  weighed = state | {'kl_weight': np.float32(0.3)}
  (loss, _), found = small.gradients(su.make(config), (params, weighed), batch)
  np.testing.assert_allclose(loss, value[0], rtol=1e-5)
  small.assert_same(found, grads)


def test_terms_and_weights_of_a_condition():
  config = make_config()
  for name, weights in {
    'local_global': (1.5, 0.5), 'local': (1.5, 0.0), 'global': (0.0, 0.5)
  }.items():  # fmt: skip
    objective = su._of_terms(config, name).objective
    assert (objective.local_weight, objective.global_weight) == weights
  # The config of all terms stays as it was.
  assert config.objective.num_classes == 10


def test_table_averages_over_seeds():
  measured = {'linear': 0.5, 'linear_few': 0.4, 'neighbours_cosine': 0.3}
  rows = [{'terms': 'pixels', **measured}]
  for seed in (0, 1):
    rows.append(
      {
        'terms': 'local',
        'kl_weight': 0.1,
        'seed': seed,
        **measured,
        'linear': 0.9 + 0.02 * seed,
        'kl': 2.0,
      }
    )
  report = {
    'dataset': 'digits', 'steps': 1, 'seeds': [0, 1], 'rows': rows,
    'neighbours': 8, 'queries': 10, 'same_class_chance': 0.1,
  }  # fmt: skip
  columns = [list(column.cells) for column in su.table(report).columns]
  assert columns[0] == ['pixels', 'local'] and columns[1] == ['', '0.1']
  # 90 and 92 %: a mean of 91, and a deviation of sqrt(2).
  assert columns[3] == ['50.0', f'91.0 ± {np.sqrt(2):.1f}']
  assert columns[5] == ['', '2.0 ± 0.0']


def test_mistakes_are_named(tmp_path):
  with pytest.raises(SystemExit, match="prior 'kl' is needed"):
    su.main([f'--workdir={tmp_path}', '--config=dim_digits'])
  with pytest.raises(SystemExit, match="got 'none'"):
    su.main([f'--workdir={tmp_path}', '--terms=none'])
  with pytest.raises(SystemExit, match=r'kl must be .* got -1\.0'):
    su.main([f'--workdir={tmp_path}', '--kl=-1'])
  with pytest.raises(SystemExit, match='seeds is empty'):
    su.main([f'--workdir={tmp_path}', '--seeds='])
  with pytest.raises(SystemExit, match='give --workdir=FOLDER'):
    su.main([])
  assert not list(tmp_path.iterdir())
