"""Folders of runs in a bucket, which here is in memory."""

import os
import time
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dim_jax import config as config_lib
from dim_jax import files
from dim_jax.runs import train
from dim_jax.training import hosts, lock, loop, metrics
from tests.training import hosts_worker

RUN = 'gs://bucket/run'


class Bucket(MemoryFileSystem):
  protocol = ('gcs', 'gs')
  store: ClassVar[dict] = {}
  pseudo_dirs: ClassVar[list] = ['']

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix('gs://'))


@pytest.fixture(autouse=True)
def bucket(monkeypatch):
  monkeypatch.setattr(Bucket, 'store', {})
  monkeypatch.setattr(Bucket, 'pseudo_dirs', [''])
  fsspec.register_implementation('gcs', Bucket, clobber=True)
  # epath keeps the file system that it was given first.
  from etils.epath import backend

  backend.fsspec_backend._get_filesystem.cache_clear()
  yield
  backend.fsspec_backend._get_filesystem.cache_clear()


def test_files_are_written_whole_read_added_to_and_listed():
  files.make_folder(f'{RUN}/a')
  assert files.absolute(RUN) == RUN
  files.write_json(f'{RUN}/a/x.json', {'x': [1]})
  files.append(f'{RUN}/log', 'one\n')
  files.append(f'{RUN}/log', 'two\n')
  files.write_arrays(f'{RUN}/a/x.npz', {'x': np.arange(3)})
  assert files.read_json(f'{RUN}/a/x.json') == {'x': [1]}
  assert files.read_json(f'{RUN}/none.json') == {}
  assert files.at(f'{RUN}/log').read_text() == 'one\ntwo\n'
  with files.at(f'{RUN}/a/x.npz').open('rb') as file:
    np.testing.assert_array_equal(np.load(file)['x'], [0, 1, 2])
  assert files.names_below(RUN) == ['a/x.json', 'a/x.npz', 'log']
  with pytest.raises(RuntimeError), files.replacing(f'{RUN}/log') as file:
    file.write('half of it')
    raise RuntimeError
  assert files.at(f'{RUN}/log').read_text() == 'one\ntwo\n'


def test_a_config_and_metrics_of_a_run_are_there(monkeypatch):
  config = hosts_worker.get_config()
  files.make_folder(RUN)
  config_lib.save(config, RUN, (8, 8, 1))
  assert config_lib.load(RUN) == (config, (8, 8, 1))
  settings = loop.Settings(batch_size=4, steps=9, show_progress=False)
  for first, last in ((0, 6), (3, 9)):
    with metrics.Log(RUN, settings, 4) as log:
      log.start(first)
      for step in range(first + 3, last + 1, 3):
        log.write(step, 3, {'loss': 0.5})
  # What was logged behind the step where it went on is there once.
  steps = [line['step'] for line in metrics.read(f'{RUN}/metrics.jsonl')]
  assert steps == [3, 6, 9]
  with pytest.raises(ValueError, match='tensorboard=True writes to a local'):
    metrics.Log(RUN, settings._replace(tensorboard=True), 4)


def test_a_refused_start_leaves_nothing_in_a_bucket():
  files.make_folder(RUN)
  files.write(f'{RUN}/notes.txt', 'mine')
  with pytest.raises(ValueError, match='no'), train.claim(RUN):
    files.write(f'{RUN}/config.json', '{}')
    files.write(f'{RUN}/a/b', '')
    raise ValueError('no')
  assert files.names_below(RUN) == ['notes.txt']
  assert not train.has_checkpoint(RUN)
  files.write(f'{RUN}/checkpoints/3/contents.json', '{}')
  assert train.has_checkpoint(RUN)


def test_a_note_that_is_renewed_is_a_lock_and_one_of_a_killed_run_is_none(
  monkeypatch, capsys
):
  monkeypatch.setattr(lock, '_RENEWED', 0.3)
  files.make_folder(RUN)
  with lock.hold(RUN):
    assert lock.is_held(RUN)
    with (
      pytest.raises(ValueError, match=rf'by process {os.getpid()} on .* wait'),
      lock.hold(RUN),
    ):
      pass
    # Before a refused command would have written another config.json.
    with pytest.raises(ValueError, match='is being trained by'):
      with train.claim(RUN):
        files.write(f'{RUN}/config.json', '{}')
    assert files.names_below(RUN) == ['lock']
  assert not lock.is_held(RUN)
  files.write_json(f'{RUN}/lock', {'pid': 7, 'host': 'elsewhere'})
  began = time.monotonic()
  with lock.hold(RUN):
    assert time.monotonic() - began >= 0.6
    assert files.read_json(f'{RUN}/lock')['pid'] == os.getpid()
  assert 'of process 7 on elsewhere: waiting 1 s' in capsys.readouterr().err
  files.write_json(f'{RUN}/lock', {'pid': 7, 'host': 'elsewhere'})
  lock.check(RUN)
  with lock.hold(RUN):
    # It has been waited for once.
    assert capsys.readouterr().err.count('waiting') == 1


def test_what_process_0_wrote_is_seen():
  files.write(f'{RUN}/note', 'a')
  assert hosts._appears(f'{RUN}/note', 'a', 0)
  assert not hosts._appears(f'{RUN}/note', 'b', 0)
