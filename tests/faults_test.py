"""A run that is killed, damaged, or out of space ends as it would have."""

import inspect
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.objectives import vib
from dim_jax.runs import train
from dim_jax.training import metrics

ROOT = pathlib.Path(__file__).parents[1]


def get_config():
  return ExperimentConfig(
    objective=vib.Config(units=(8,), code=4, beta=1e-2),
    data=DataConfig(name='digits', image_size=8),
    batch_size=16,
    steps=60,
    log_every=3,
    checkpoint_every=3,
  )


def write_config(folder):
  path = folder / 'config.py'
  path.write_text(
    'from dim_jax.config import DataConfig, ExperimentConfig\n'
    'from dim_jax.objectives import vib\n' + inspect.getsource(get_config)
  )
  return path


def finish(run_dir):
  return train.train(get_config(), str(run_dir), devices=1, show_progress=False)


def numbers(run_dir):
  """The metrics, less the times."""
  lines = metrics.read(os.path.join(run_dir, 'metrics.jsonl'))
  timing = ('seconds', 'images_per_s')
  return [{k: v for k, v in ln.items() if k not in timing} for ln in lines]


def assert_same(a, b):
  def equal(x, y):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)

  jax.tree.map(equal, a, b)


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
  """Compiled programs, which the module's runs share."""
  folder = str(tmp_path_factory.mktemp('programs'))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('JAX_COMPILATION_CACHE_DIR', folder)
    before = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    yield
    jax.config.update('jax_compilation_cache_dir', before)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', seconds)


@pytest.fixture(scope='module')
def whole(programs, tmp_path_factory):
  """A run that nothing happened to, and its final state."""
  run_dir = tmp_path_factory.mktemp('runs') / 'whole'
  return run_dir, finish(run_dir)


def start(run_dir, config):
  command = [
    sys.executable,
    '-m',
    'experiments.train',
    f'--config={config}',
    f'--workdir={run_dir}',
    '--devices=1',
  ]
  return subprocess.Popen(
    command,
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for(condition, process):
  while not condition():
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.001)


def kill(process):
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  process.stderr.close()


def test_killed_in_a_save_then_between_two_it_ends_bitwise_identical(
  whole, tmp_path
):
  run_dir, state = whole
  config = write_config(tmp_path)
  cut = tmp_path / 'cut'
  process = start(cut, config)
  # Orbax writes beside a checkpoint's place until it is whole.
  saved = cut / 'checkpoints' / '6'
  wait_for(saved.exists, process)
  wait_for(lambda: any(cut.glob('checkpoints/*tmp*')), process)
  kill(process)
  reached = len(numbers(cut))
  process = start(cut, config)
  wait_for(lambda: len(numbers(cut)) != reached, process)
  # Whatever it is doing then.
  time.sleep(np.random.default_rng().uniform(0, 0.3))
  kill(process)
  assert not (cut / 'checkpoints' / '60').exists()
  assert_same(finish(cut), state)
  assert numbers(cut) == numbers(run_dir)


def test_a_run_whose_newest_checkpoint_is_damaged_falls_back(
  whole, tmp_path, capsys
):
  run_dir, state = whole
  cut = tmp_path / 'cut'
  shutil.copytree(run_dir, cut)
  arrays = max(
    (path for path in (cut / 'checkpoints' / '60').rglob('*')),
    key=os.path.getsize,
  )
  changed = bytearray(arrays.read_bytes())
  changed[len(changed) // 2] ^= 1
  arrays.write_bytes(changed)
  with open(cut / 'metrics.jsonl') as file:
    assert len(file.readlines()) == 20
  resumed = train.train(get_config(), str(cut), devices=1)
  lines = capsys.readouterr().out.splitlines()
  said = [line for line in lines if not line.endswith('compiling')]
  assert said[0].startswith('Checkpoint 60 is damaged (state')
  assert said[0].endswith('falling back to checkpoint 57.')
  assert said[1].endswith('at step 57 of 60')
  assert said[2].startswith('step 60/60')
  assert_same(resumed, state)
  assert numbers(cut) == numbers(run_dir)


def test_a_full_disk_keeps_the_last_checkpoint(whole, tmp_path):
  run_dir, state = whole
  cut = tmp_path / 'cut'
  shutil.copytree(run_dir, cut)
  # As of a kill after the save of step 57.
  shutil.rmtree(cut / 'checkpoints' / '60')
  largest = (cut / 'metrics.jsonl').stat().st_size
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  # All that is written up to here fits into files of this size; the last line
  # of metrics does not.
  resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 9, before[1]))
  try:
    with pytest.raises(OSError, match=r'Cannot write .*metrics.jsonl'):
      finish(cut)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert len(numbers(cut)) == 19
  assert_same(finish(cut), state)
  assert numbers(cut) == numbers(run_dir)


def test_a_second_process_is_refused_at_once(whole):
  run_dir, _ = whole
  holder = subprocess.Popen(
    [
      sys.executable,
      '-c',
      'import fcntl, sys, time; f = open(sys.argv[1], "a+");'
      'fcntl.flock(f, fcntl.LOCK_EX);'
      'f.write(sys.argv[2]); f.flush(); print(1, flush=True); time.sleep(99)',
      str(run_dir / 'lock'),
      json.dumps({'pid': 7, 'host': 'elsewhere'}),
    ],
    stdout=subprocess.PIPE,
  )
  with holder:
    holder.stdout.readline()
    with pytest.raises(ValueError) as refused:
      finish(run_dir)
    holder.kill()
  assert str(refused.value) == (
    f"'{run_dir}' is being trained by process 7 on elsewhere: wait for it, "
    'stop it, or choose another --workdir.'
  )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(
    OSError, match=r"Cannot write '.*/run' \(Not a directory;"
  ):
    finish(tmp_path / 'file' / 'run')
