"""Two real processes over loopback, of four simulated devices each."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from dim_jax import config as config_lib
from dim_jax.data import batches
from dim_jax.training import connections, hosts, metrics
from experiments.studies import rehearsal
from tests.training import hosts_worker as worker

_ENVIRONMENT = {hosts.SECONDS: '100'}


def start(folder, part):
  address = f'127.0.0.1:{rehearsal.free_port()}'
  program = ['-m', 'tests.training.hosts_worker', str(folder)]
  commands = [[*program, f'{address},2,{i}', part] for i in range(2)]
  cache = {'JAX_COMPILATION_CACHE_DIR': str(folder / 'programs')}
  return rehearsal.start(
    commands,
    folder / part,
    devices=4,
    distributed=False,
    environment=_ENVIRONMENT | cache,
  )


def numbers(run_dir):
  """Losses by step."""
  lines = metrics.read(run_dir / 'metrics.jsonl')
  return {line['step']: line['decoder/cross_entropy'] for line in lines}


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """The folder of a pair that agreed, and what each process saw."""
  folder = tmp_path_factory.mktemp('pair')
  worker.run(folder / 'one', worker.get_config(), devices=1)
  # The config says one model, the checkpoints hold another.
  shutil.copytree(folder / 'one', folder / 'mixed')
  config_lib.save(worker.other_model(), folder / 'mixed', (8, 8, 1))
  processes = start(folder, 'agree')
  statuses = rehearsal.wait(processes, 300)
  assert statuses == [0, 0], rehearsal.errors(folder / 'agree', 0)
  seen = [json.loads((folder / f'{i}.json').read_text()) for i in range(2)]
  return folder, seen


def test_a_pair_trains_what_one_process_does_and_takes_over_its_run(
  pair, tmp_path
):
  folder, seen = pair
  assert [each['devices'] for each in seen] == [[4, 8], [4, 8]]
  assert seen[1]['read'] == 2 * worker.STEPS
  twice = dataclasses.replace(worker.get_config(), steps=2 * worker.STEPS)
  worker.run(tmp_path, twice, devices=8)
  alone = numbers(tmp_path)
  # Sums over eight devices round otherwise than sums over one.
  for name, last in (('two', worker.STEPS), ('one', 2 * worker.STEPS)):
    run = numbers(folder / name)
    assert list(run) == list(range(3, last + 1, 3))
    for step, loss in run.items():
      np.testing.assert_allclose(loss, alone[step], rtol=1e-4)
  # And back, on this process.
  worker.run(folder / 'two', twice, devices=1)
  np.testing.assert_allclose(numbers(folder / 'two')[12], alone[12], rtol=1e-4)


@pytest.mark.parametrize('source', ['memory', 'stream'])
def test_the_examples_of_a_step_do_not_depend_on_the_processes(pair, source):
  _, seen = pair
  rows = batches.batch_indices(
    0,
    0,
    worker.STEPS,
    batch_size=worker.BATCH,
    num_examples=worker.EXAMPLES,
  )
  columns = {int(k): v for each in seen for k, v in each[source].items()}
  # Two of sixteen columns on each of eight devices.
  assert sorted(columns) == list(range(0, 16, 2))
  whole = np.concatenate([columns[k] for k in sorted(columns)], axis=1)
  np.testing.assert_array_equal(whole, rows)


@pytest.mark.parametrize(
  ('difference', 'parts'),
  [
    ('config', ['config.seed is 0 in process 0 on', '1 in process 1 on']),
    ('data', ['the examples is "5 of hash', 'in process 1 on']),
    ('folder', ['is not one folder', 'disk_0', 'disk_1', 'process 1 on']),
    ('devices', ['devices=4 of 8 in 2 processes', 'leave it out']),
    ('batch', ['batch_size 12', '8 devices in 2 processes', 'multiple of 8']),
    ('model', ['objective.units = [8]', 'has [9]', 'another --workdir']),
    ('checkpoint', ['Checkpoint 6 in', 'does not fit', 'another --workdir']),
  ],
)
def test_what_does_not_fit_is_one_line_on_every_host(pair, difference, parts):
  _, seen = pair
  for each in seen:
    line = each['refused'][difference]
    assert '\n' not in line
    assert all(part in line for part in parts), line


def test_each_host_says_that_it_agrees(pair):
  folder, _ = pair
  for i in range(2):
    assert f'process {i} of 2 on ' in rehearsal.errors(folder / 'agree', i)


def wait_for(condition, processes, seconds=200):
  until = time.monotonic() + seconds
  while not condition():
    assert all(p.poll() is None for p in processes)
    assert time.monotonic() < until
    time.sleep(0.05)


def test_signals_and_kills_of_one_process(pair):
  folder, _ = pair
  run = folder / 'two'

  def steps():
    return max(numbers(run), default=0)

  # SIGTERM to one: both save the same step, and say that they were stopped.
  reached = steps()
  processes = start(folder, 'signal')
  wait_for(lambda: steps() > reached + 9, processes)
  processes[1].send_signal(signal.SIGTERM)
  assert rehearsal.wait(processes, 120) == [143, 143]
  saved = steps()
  assert (run / 'checkpoints' / str(saved)).is_dir()
  # SIGKILL of one: the other names it in one line, and goes at once.
  processes = start(folder, 'signal')
  wait_for(lambda: steps() > saved + 9, processes)
  assert list(numbers(run)) == list(range(3, steps() + 1, 3))
  processes[1].kill()
  began = time.monotonic()
  assert rehearsal.wait(processes, 60) == [1, -signal.SIGKILL]
  assert time.monotonic() - began < 30  # JAX's own service takes 100.
  *_, last = rehearsal.errors(folder / 'signal', 0).splitlines()
  assert last.startswith('Error: process 1 of 2 on')
  assert 'is gone' in last and last.endswith('from the newest checkpoint.')


def test_a_missing_process_and_wrong_numbers_are_named():
  address = f'127.0.0.1:{rehearsal.free_port()}'
  with pytest.raises(connections.Lost, match=r'1 s .* for processes 1, 2 of 3'):
    connections.meet(address, 3, 0, 1.0)
  with pytest.raises(connections.Lost, match=r'waited 1 s for process 0 at'):
    connections.meet(address, 3, 1, 1.0)


def meet(address, count, process, found):
  try:
    found[process] = connections.meet(address, count, process, 20.0)
  except connections.Lost as error:
    found[process] = str(error)


@pytest.mark.parametrize(
  ('others', 'words'),
  [
    ([(3, 1)], 'process 0 .* as one of 2, process 1 .* as one of 3'),
    ([(2, 2)], 'process 2 of 2: give each process its own number, 0 to 1'),
  ],
)
def test_processes_that_were_started_otherwise_are_refused(others, words):
  address, found = f'127.0.0.1:{rehearsal.free_port()}', {}
  threads = [
    threading.Thread(target=meet, args=(address, count, process, found))
    for count, process in [(2, 0), *others]
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 2
  for line in found.values():
    assert re.search(words, line), line


def test_a_process_that_went_while_it_waited_is_awaited_anew():
  address, found = f'127.0.0.1:{rehearsal.free_port()}', {}
  threads = [
    threading.Thread(target=meet, args=(address, 3, process, found))
    for process in (0, 2, 1)
  ]
  threads[0].start()
  hello = {'process': 1, 'count': 3, 'host': 'gone'}
  with connections._dial('127.0.0.1', int(address[10:]), 1e9, 0, hello) as gone:
    connections._send(gone, hello)
    time.sleep(0.5)  # Until it has been let in.
  threads[1].start()
  time.sleep(0.5)
  assert not found
  threads[2].start()
  for thread in threads:
    thread.join()
  for sockets, names in found.values():
    assert len(names) == 3 and 'gone' not in names
    for each in sockets.values():
      each.close()


def test_a_process_that_is_killed_while_it_joins_is_named(tmp_path):
  code = (
    'import os, sys, jax\n'
    'from dim_jax.training import hosts\n'
    'if sys.argv[1].endswith("1"):\n'
    '  jax.distributed.initialize = lambda *_, **__: os._exit(3)\n'
    'hosts.join(sys.argv[1])\n'
  )
  address = f'127.0.0.1:{rehearsal.free_port()}'
  processes = rehearsal.start(
    [['-c', code, f'{address},2,{i}'] for i in range(2)],
    tmp_path,
    devices=1,
    distributed=False,
    environment=_ENVIRONMENT,
  )
  # Before the 100 s that JAX waits for it.
  assert rehearsal.wait(processes, 60) == [1, 3]
  *_, last = rehearsal.errors(tmp_path, 0).splitlines()
  assert last.startswith('Error: process 1 of 2 on') and 'is gone' in last


def test_a_second_sigterm_ends_a_process_that_hangs(tmp_path):
  # As in a save: within C code no handler of Python's runs.
  code = (
    'import ctypes\n'
    'from dim_jax.training import preemption\n'
    'with preemption.Preemption():\n'
    '  print(1, flush=True)\n'
    '  while True:\n'
    '    ctypes.CDLL(None).sleep(100)\n'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  with process:
    process.stdout.readline()
    process.terminate()
    process.terminate()  # As `timeout` does: one of them.
    time.sleep(2.5)
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 143
    assert process.stderr.read().startswith('Error: a second SIGTERM ended')


@pytest.mark.parametrize(
  ('variables', 'words'),
  [
    ({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2'}, 'behind srun'),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, r'--distributed=HOST:PORT,\$OMPI'),
    ({'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '2'}, 'COUNT and ID'),
    ({hosts.SECONDS: 'soon'}, 'must be a number of seconds'),
  ],
)
def test_a_launch_that_cannot_work_says_what_to_give(
  monkeypatch, variables, words
):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=words) as refused:
    hosts.join()
  assert '\n' not in str(refused.value)


def test_a_step_of_slurm_is_detected_as_jax_does(monkeypatch):
  step = {
    'SLURM_JOB_ID': '4097',
    'SLURM_STEP_NODELIST': 'node[003-004]',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '0',
  }
  for name, value in step.items():
    monkeypatch.setenv(name, value)
  # The port is the job's number modulo 2**12, above 61440.
  assert hosts._detected(trains=True) == ('node003:61441', 2, 1, [0])
  monkeypatch.setenv('SLURM_NTASKS', '1')
  hosts.join()
  assert jax.process_count() == 1 and not hosts.are_several()


def test_a_single_process_is_left_alone():
  began = time.monotonic()
  hosts.join()
  hosts.join('localhost:8476,1,0')
  assert time.monotonic() - began < 5 and not hosts.are_several()
