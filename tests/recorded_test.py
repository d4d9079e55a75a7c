"""The first steps of five runs are those that earlier versions made of them.

`recorded/` holds configs as an earlier version saved them and the metrics of
their first three steps, made with this suite's compiler flags. So no change may
move what a seed draws (parameters, batches, augmentation, noise, chains), and
old configs load. Values differ between processors in their last digits.
"""

import json
import pathlib

import pytest

import dim_jax
from dim_jax import config as config_lib
from dim_jax.training import metrics

RECORDED = sorted(pathlib.Path(__file__).with_name('recorded').glob('*.json'))


@pytest.mark.parametrize('path', RECORDED, ids=lambda path: path.stem)
def test_first_steps_are_as_recorded(path, tmp_path):
  recorded = json.loads(path.read_text(encoding='utf-8'))
  (tmp_path / 'old').mkdir()
  (tmp_path / 'old' / 'config.json').write_text(json.dumps(recorded['config']))
  config, _ = config_lib.load(tmp_path / 'old')

  run = tmp_path / 'run'
  dim_jax.train(config, str(run), devices=1, show_progress=False)

  lines = metrics.read(run / 'metrics.jsonl')
  assert len(lines) == len(recorded['metrics']) == 3
  for line, expected in zip(lines, recorded['metrics'], strict=True):
    assert expected.keys() <= line.keys()
    actual = {name: line[name] for name in expected}
    assert actual == pytest.approx(expected, rel=2e-4, abs=2e-5)
