"""The command that compares kinds of masks."""

import functools
import json

import numpy as np
import pytest

from dim_jax import config as config_lib
from dim_jax.configs import dim_digits
from dim_jax.networks import encoders
from dim_jax.objectives import vib
from dim_jax.runs import train
from experiments.studies import masks


def make_config():
  config = dim_digits.get_config('masked')
  config.data.image_size = 8
  config.objective.encoder = encoders.ConvEncoder(
    image_size=8,
    convs=(encoders.ConvLayer(4, 2, 2, 0),),
    fcs=(8,),
    local=0,
    code=4,
  )
  config.objective.mask.patch = 4
  config.objective.critic_units = 8
  config.objective.prior = None
  config.objective.num_classes = 0
  config.groups = {}
  config.steps, config.log_every, config.checkpoint_every = 1, 1, 1
  config.batch_size = 8
  return config


def run(workdir, config, monkeypatch):
  monkeypatch.setattr(masks, 'CONDITIONS', (('token', 'hidden'),))
  return masks.masks(
    config,
    str(workdir),
    seeds=(0,),
    probes=('knn',),
    show_progress=False,
  )


def test_finished_conditions_are_kept_and_not_made_again(tmp_path, monkeypatch):
  on_one = functools.partial(train.train, devices=1)
  monkeypatch.setattr(train, 'train', on_one)
  report = run(tmp_path, make_config(), monkeypatch)
  made = [(row['evaluation'], row['feature']) for row in report['rows']]
  assert made == [
    ('consistent', 'fc'),
    ('consistent', 'y'),
    ('naive', 'fc'),
    ('naive', 'y'),
  ]
  saved = config_lib.load(tmp_path / 'token_hidden_0')[0].objective
  assert (saved.mask.kind, saved.mask.targets) == ('token', 'hidden')
  with open(tmp_path / 'masks.json') as file:
    assert json.load(file) == report
  monkeypatch.setattr(train, 'train', None)
  assert run(tmp_path, make_config(), monkeypatch)['rows'] == report['rows']
  # As earlier versions wrote it.
  result = tmp_path / 'token_hidden_0' / 'condition.json'
  older = result.read_text().replace('"feature"', '"tap"')
  result.rename(result.with_name('cell.json')).write_text(older)
  assert run(tmp_path, make_config(), monkeypatch)['rows'] == report['rows']
  other = make_config()
  other.objective.mask.keep = 0.25
  with pytest.raises(ValueError, match='a condition of another config'):
    run(tmp_path, other, monkeypatch)


def test_table_averages_over_seeds():
  rows = [
    {
      'mask': mask,
      'targets': targets,
      'seed': seed,
      'evaluation': evaluation,
      'feature': feature,
      'probe': 'linear',
      'mean': 0.9 + 0.02 * seed,
    }
    for mask, targets in masks.CONDITIONS
    for seed in (0, 1)
    for evaluation in masks.EVALUATIONS[: 2 if mask == 'token' else 1]
    for feature in ('fc', 'y')
  ]
  report = {'dataset': 'digits', 'steps': 1, 'seeds': [0, 1], 'rows': rows}
  table = masks.table(report | {'keep': 0.5, 'patch': 8})
  consistent, naive = (list(table.columns[i].cells) for i in (3, 4))
  # 90 and 92 %: a mean of 91, and a deviation of sqrt(2).
  assert consistent == [f'91.0 ± {np.sqrt(2):.1f}'] * 14
  # Of the 7 kinds, those with a token are the second and third.
  assert naive == ['same'] * 2 + consistent[:4] + ['same'] * 8


def test_mistakes_are_named(tmp_path):
  config = make_config()
  config.objective = vib.Config()
  with pytest.raises(ValueError, match=r'a dim\.Config .*; got .*\.vib'):
    masks.masks(config, str(tmp_path), show_progress=False)
  with pytest.raises(SystemExit, match="got 'tree'"):
    masks.main([f'--workdir={tmp_path}', '--probes=tree'])
  with pytest.raises(SystemExit, match=r"no file 'none\.py'; .* list"):
    masks.main([f'--workdir={tmp_path}', '--config=none.py'])
  with pytest.raises(SystemExit, match='give --workdir=some/folder'):
    masks.main(['some/folder'])
