"""The study of PyTorch at equal time, with a peer that only says it trained."""

import json
import sys

import numpy as np
import pytest

from dim_jax.evaluation import probes
from experiments.benchmarks import time_to_accuracy
from experiments.studies import equal_time

# Each step takes a second; codes are the classes from the tenth step on.
_PEER = """
import json, pathlib, sys
import numpy as np
folder, taken = pathlib.Path(sys.argv[1]), 0
print(json.dumps({'versions': {'torch': 'none'}}), flush=True)
for line in sys.stdin:
  name, *words = line.split()
  answer = 0.0
  if name == 'train':
    begin, end = map(int, words)
    assert begin == taken, 'what was trained before is missing'
    answer, taken = float(end - begin), end
  elif name == 'save':
    pathlib.Path(words[0]).write_text(str(taken))
  elif name == 'load':
    taken = int(pathlib.Path(words[0]).read_text())
  else:
    labels = np.load(folder / 'probed.npy') * (taken >= 10)
    for feature in words[1:]:
      np.save(f'{words[0]}/{feature}.npy', np.eye(10, dtype='f4')[labels])
  print(json.dumps(answer), flush=True)
"""
_TRAIN, _TEST = np.arange(200) % 10, np.arange(50) % 10


@pytest.fixture
def study(tmp_path, monkeypatch):
  def write_inputs(case, folder, steps, probed):
    np.save(folder / 'probed.npy', np.concatenate([_TRAIN, _TEST]))
    return _TRAIN, _TEST

  few = dict(seeds=1, mlp_batch_size=10, mlp_learning_rate=0.01, mlp_epochs=5)
  few |= dict(mlp_decay_epochs=(4,), mlp_units=32, mlp_dropout=0.0)
  monkeypatch.setattr(
    equal_time, 'OFTEN', probes.Protocol(max_examples=100, **few)
  )
  monkeypatch.setattr(equal_time, 'LAST', probes.Protocol(**few))
  monkeypatch.setattr(equal_time, '_STEPS_A_REQUEST', 2)
  monkeypatch.setattr(time_to_accuracy, 'write_inputs', write_inputs)
  monkeypatch.setattr(
    time_to_accuracy,
    'peer',
    lambda case, args, folder: [sys.executable, '-c', _PEER, str(folder)],
  )

  def run(seconds=12.0):
    return equal_time.study(
      str(tmp_path), sys.executable, seconds, points=2, show_progress=False
    )

  return run


def test_points_are_of_equal_time_and_a_killed_study_goes_on(
  study, tmp_path, monkeypatch
):
  probe = probes.mlp_probe
  calls = []

  def killed(*args):
    calls.append(None)
    if len(calls) > 4:
      raise KeyboardInterrupt
    return probe(*args)

  # The first point is there, of the second one feature is.
  monkeypatch.setattr(probes, 'mlp_probe', killed)
  with pytest.raises(KeyboardInterrupt):
    study()
  report = json.loads((tmp_path / 'equal_time.json').read_text())
  assert [row['step'] for row in report['rows']] == [0] * 3
  monkeypatch.setattr(probes, 'mlp_probe', probe)
  report = study()
  found = [
    (row['training_seconds'], row['feature'], row['train_rows'])
    for row in report['rows']
  ]
  # Halves of 12 s at a second a step; at the end by all rows too.
  assert found == [
    (seconds, feature, rows)
    for seconds, rows in ((0.0, 100), (6.0, 100), (12.0, 100), (12.0, 200))
    for feature in ('conv', 'fc', 'y')
  ]
  for row in report['rows']:
    assert row['examples'] == 64 * row['step']
    # Codes that are all equal tell one class of ten.
    assert row['mean'] == (1.0 if row['step'] >= 10 else 0.1)
  # Only what the next call would go on from is kept.
  assert [x.name for x in tmp_path.glob('*.pt')] == ['peer_12.pt']
  assert study() == report


def test_points_that_one_request_passes_are_one(study):
  # A request takes two seconds, both points of one.
  report = study(1.0)
  found = [(row['step'], row['train_rows']) for row in report['rows']]
  assert found == [(0, 100)] * 3 + [(2, 100)] * 3 + [(2, 200)] * 3
  assert study(1.0) == report


def test_a_folder_holds_one_study(study):
  study()
  with pytest.raises(ValueError, match=r"'seconds': 12\.0.*another --workdir"):
    study(24.0)
  with pytest.raises(ValueError, match=r'--seconds must be .*got 0'):
    study(0.0)
