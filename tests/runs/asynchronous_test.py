"""Modules at paces of their own: joint training's result, kills, staleness."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest
from flax import linen as nn

import dim_jax
from dim_jax import configs
from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.objectives import gim
from dim_jax.runs import asynchronous, train
from dim_jax.training import metrics, preemption, replay_buffer


class Pixelwise(nn.Module):
  """A user's module: a dense layer at each pixel."""

  features: int

  @nn.compact
  def __call__(self, x):
    return nn.tanh(nn.Dense(self.features, name='dense')(x))


def make_config(**changes):
  """16x16 digits in 3x3 patches of 8x8, each predicting two rows down."""
  fields = {
    'modules': (Pixelwise(4), Pixelwise(3), Pixelwise(5)),
    'patch_size': 8,
    'patch_stride': 4,
    'offsets': 1,
    'negatives': None,
  }
  run_fields = {k: changes.pop(k) for k in list(changes) if k not in fields}
  return ExperimentConfig(
    **(
      {
        'objective': gim.Config(**(fields | changes)),
        'data': DataConfig(name='digits', image_size=16),
        'optimizer': OptimizerConfig(learning_rate=1e-2),
        'batch_size': 8,
        'steps': 6,
        'log_every': 2,
        'checkpoint_every': 2,
        'seed': 3,
      }
      | run_fields
    )
  )


def run(config, workdir, **settings):
  return asynchronous.train_asynchronously(
    config,
    str(workdir),
    asynchronous.Settings(**settings, show_progress=False),
  )


def params_of(workdir):
  return dim_jax.load(workdir).variables[0]


def lines_of(workdir, module):
  return metrics.read(os.path.join(workdir, f'module_{module}/metrics.jsonl'))


@pytest.fixture(scope='module')
def unequal(tmp_path_factory):
  """A finished run in which module_1 takes two steps a round."""
  folder = tmp_path_factory.mktemp('unequal')
  run(make_config(), folder, pace=(1, 2, 1), size=2)
  return folder


def test_equal_paces_are_joint_training(tmp_path):
  # Module 1 starts a round later, so reads batch t with the features that the
  # parameters of step t gave it: no other numbers than in joint training.
  config = make_config()
  run(config, tmp_path / 'own', pace=(1, 1, 1))
  train.train(config, str(tmp_path / 'joint'), devices=1, show_progress=False)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    params_of(tmp_path / 'own'),
    params_of(tmp_path / 'joint'),
  )
  own, joint = (
    metrics.read(str(tmp_path / name / 'metrics.jsonl'))
    for name in ('own', 'joint')
  )
  assert [line['step'] for line in own] == [line['step'] for line in joint]
  for name in ('module_0/infonce', 'module_2/infonce', 'probe/module_1_loss'):
    assert own[-1][name] == pytest.approx(joint[-1][name], rel=1e-5)
  assert own[-1]['module_2/staleness'] == own[-1]['module_1/repeated'] == 0
  # What was trained together stays as it is.
  with pytest.raises(ValueError, match='modules were trained together'):
    run(config, tmp_path / 'joint', pace=(1, 1, 1))


def test_staleness_and_repeats_are_those_of_the_schedule(unequal):
  # Each round module_1 reads one new batch and then one again, of the two
  # newest: half of its steps are repeated. Its first round has nothing to read.
  lines = lines_of(unequal, 1)
  assert [line['step'] for line in lines] == [2, 4, 6]
  for line in lines:
    assert line['module_1/repeated'] == 0.5
    # A batch read again is the newest or the one before it.
    assert line['module_1/staleness'] in (0, 0.5)
  # Of two new batches a round module_2 reads the newest, and never waits.
  assert lines_of(unequal, 2)[-1]['module_2/repeated'] == 0
  assert 'module_0/staleness' not in lines_of(unequal, 0)[-1]


@pytest.mark.parametrize(
  ('part', 'is_hit'),
  [
    (asynchronous._Module, lambda x: x.number == 1),
    (replay_buffer.ReplayBuffer, lambda x: x.folder.endswith('module_2')),
  ],
  ids=['between two modules', 'before the batches of the last module'],
)
def test_a_killed_schedule_ends_with_the_same_bits(
  unequal, tmp_path, monkeypatch, part, is_hit
):
  # Some modules, or all but for the batches that wait, are ahead.
  save = part.save

  def killed(self, label, *rest):
    if label == 6 and is_hit(self):
      raise KeyboardInterrupt
    save(self, label, *rest)

  config = make_config(keep=1)
  monkeypatch.setattr(part, 'save', killed)
  with pytest.raises(KeyboardInterrupt):
    run(config, tmp_path, pace=(1, 2, 1), size=2)
  monkeypatch.setattr(part, 'save', save)
  begun = []
  monkeypatch.setattr(
    asynchronous._Module,
    'restore',
    lambda module, label, restore=asynchronous._Module.restore: (
      begun.append(label),
      restore(module, label),
    ),
  )
  run(config, tmp_path, pace=(1, 2, 1), size=2)
  assert begun == [4, 4, 4]
  jax.tree.map(
    np.testing.assert_array_equal, params_of(tmp_path), params_of(unequal)
  )
  untimed = [
    [
      {k: x for k, x in line.items() if k not in ('seconds', 'images_per_s')}
      for line in lines_of(folder, 1)
    ]
    for folder in (tmp_path, unequal)
  ]
  assert untimed[0] == untimed[1]


def test_a_finished_schedule_writes_no_checkpoint_again(unequal):
  checkpoints = unequal / 'module_1' / 'checkpoints'
  before = {
    path.name: path.stat().st_mtime_ns for path in checkpoints.iterdir()
  }
  run(make_config(), unequal, pace=(1, 2, 1), size=2)
  assert before == {
    path.name: path.stat().st_mtime_ns for path in checkpoints.iterdir()
  }


def test_threads_finish_and_make_a_run(tmp_path, monkeypatch):
  config = make_config()
  folder = run(config, tmp_path, size=2)
  for module in range(3):
    assert lines_of(tmp_path, module)[-1]['step'] == 6
  features = dim_jax.load(folder)(np.zeros((2, 16, 16, 1), np.uint8))
  assert features['module_2'].shape == (2, 5)
  # A finished run trains nothing again.
  monkeypatch.setattr(asynchronous._Module, 'advance', None)
  assert run(config, tmp_path, size=2) == folder


def test_ctrl_c_stops_the_threads(monkeypatch):
  stopped = []

  class Waiting:
    def run(self, is_stopped):
      until = time.monotonic() + 20
      while not is_stopped() and time.monotonic() < until:
        time.sleep(0.01)
      stopped.append(is_stopped())

  def interrupted(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(concurrent.futures, 'wait', interrupted)
  with pytest.raises(KeyboardInterrupt):
    asynchronous._by_threads([Waiting()] * 2, preemption.Preemption())
  assert stopped == [True, True]


def test_sigterm_saves_all_modules(tmp_path, monkeypatch):
  advance = asynchronous._Module.advance

  def signalled(module):
    if module.number == 0 and module.step == 3:
      preemption.Preemption.asked = True
    return advance(module)

  monkeypatch.setattr(asynchronous._Module, 'advance', signalled)
  monkeypatch.setattr(preemption.Preemption, 'asked', False)
  with pytest.raises(SystemExit) as error:
    run(make_config(steps=50), tmp_path, pace=(1, 1, 1))
  assert error.value.code == 128 + signal.SIGTERM
  # In the fourth round, in which module_1 takes its third step.
  assert sorted(os.listdir(tmp_path / 'module_1' / 'checkpoints')) == ['2', '4']


def test_a_process_for_each_module(tmp_path):
  script = textwrap.dedent(f"""
    import sys
    from dim_jax.config import DataConfig, ExperimentConfig
    from dim_jax.objectives import gim
    from dim_jax.runs import asynchronous
    config = ExperimentConfig(
      objective=gim.Config(
        modules='resnet_small', depth=2, patch_size=8, patch_stride=4,
        offsets=1, negatives=2,
      ),
      data=DataConfig(name='digits', image_size=16),
      batch_size=8, steps=4, log_every=2,
    )
    settings = asynchronous.Settings(
      module=int(sys.argv[1]), size=2, timeout=120, show_progress=False
    )
    asynchronous.train_asynchronously(config, {str(tmp_path)!r}, settings)
  """)
  workers = [
    subprocess.Popen([sys.executable, '-c', script, str(module)])
    for module in (1, 0)
  ]
  assert [worker.wait(240) for worker in workers] == [0, 0]
  for module in (0, 1):
    assert lines_of(tmp_path, module)[-1]['step'] == 4
  assert set(params_of(tmp_path)) == {'module_0', 'module_1', 'probe'}


def test_what_cannot_be_used_is_refused_in_a_line(tmp_path, unequal):
  config = make_config()
  for settings, message in (
    ({'pace': (1, 1)}, '--pace must be 3 whole numbers from 1'),
    ({'pace': (1, 0, 1)}, '--pace must be 3 whole numbers from 1'),
    ({'module': 3}, r'--module must be in 0\.\.2, got 3'),
    ({'module': 1, 'pace': (1, 1, 1)}, 'leave out one of them'),
    ({'size': 0}, '--buffer must be'),
  ):
    with pytest.raises(ValueError, match=message):
      run(config, tmp_path / 'run', **settings)
  with pytest.raises(ValueError, match="need parallel='jit', got 'pmap'"):
    run(make_config(parallel='pmap'), tmp_path / 'run')
  with pytest.raises(ValueError, match='one isolated module'):
    run(make_config(modules=(Pixelwise(4),)), tmp_path / 'run')
  with pytest.raises(ValueError, match='no isolated modules; paces'):
    run(configs.load('dim_digits'), tmp_path / 'run')
  with pytest.raises(ValueError, match='another run'):
    run(
      make_config(seed=4),
      tmp_path / 'run',
      pace=(1, 1, 1),
      buffer_dir=str(unequal / 'buffers'),
    )
  with pytest.raises(ValueError, match='seed = 3, this one has 4'):
    run(make_config(seed=4), unequal, pace=(1, 2, 1), size=2)
  for settings, message in (
    ({'pace': (1, 1, 1)}, r'pace = \[1, 2, 1\], these have \[1, 1, 1\]'),
    ({'pace': (1, 2, 1), 'size': 3}, 'buffer = 2, these have 3'),
    ({}, r'pace = \[1, 2, 1\], these have None'),
  ):
    with pytest.raises(ValueError, match=message):
      run(config, unequal, **settings)
  # Its batches that wait are not where they were.
  with pytest.raises(ValueError, match='give the --buffer_dir of the earlier'):
    run(
      make_config(steps=8),
      unequal,
      pace=(1, 2, 1),
      size=2,
      buffer_dir=str(tmp_path / 'buffers'),
    )
  assert lines_of(unequal, 1)[-1]['step'] == 6
  with pytest.raises(ValueError, match="not by 'gs://b/module_1': give --buf"):
    replay_buffer.ReplayBuffer('gs://b/module_1', 2, '')
  assert not (tmp_path / 'run').exists()
  with pytest.raises(TimeoutError, match='module_0 has passed on nothing for'):
    run(config, tmp_path / 'run', module=1, timeout=0.1)
