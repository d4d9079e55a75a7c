"""One trainer a run, also after a kill and where nothing can be locked."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import types

import pytest

from dim_jax.training import lock

HOLD = (
  'import fcntl, os, json, sys, time\n'
  'f = open(sys.argv[1], "a+")\n'
  'fcntl.flock(f, fcntl.LOCK_EX)\n'
  'json.dump({"pid": os.getpid(), "host": "elsewhere"}, f)\n'
  'f.flush()\n'
  'print("held", flush=True)\n'
  'time.sleep(60)\n'
)


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
  lock.check(tmp_path)
  assert not os.listdir(tmp_path)
  command = [sys.executable, '-c', HOLD, str(tmp_path / 'lock')]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
    assert owner.stdout.readline() == b'held\n'
    refused = f'being trained by process {owner.pid} on elsewhere: wait for it'
    with pytest.raises(ValueError, match=refused):
      lock.check(tmp_path)
    with pytest.raises(ValueError, match=refused), lock.hold(tmp_path):
      pass
    owner.send_signal(signal.SIGKILL)
  lock.check(tmp_path)
  with lock.hold(tmp_path):
    owner = json.loads((tmp_path / 'lock').read_text())
    assert owner.pop('began').isdigit()
    assert owner == {'pid': os.getpid(), 'host': socket.gethostname()}
    with pytest.raises(ValueError, match=f'process {os.getpid()} on'):
      lock.check(tmp_path)
  lock.check(tmp_path)


def test_files_are_locked_as_nfs_wants_them(tmp_path, monkeypatch):
  # It gives no exclusive lock of a file that was opened only to be read.
  modes = []

  def note(file, operation):
    del operation
    modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE)

  with lock.hold(tmp_path):
    pass
  monkeypatch.setattr(lock.fcntl, 'flock', note)
  lock.check(tmp_path)
  with lock.hold(tmp_path):
    pass
  assert modes == [os.O_RDWR, os.O_RDWR]


def test_without_locks_a_living_process_of_this_host_counts(
  tmp_path, monkeypatch
):
  def none(file, operation):
    del file, operation
    raise OSError(errno.ENOLCK, 'no locks')

  monkeypatch.setattr(lock.fcntl, 'flock', none)
  path = tmp_path / 'lock'
  with subprocess.Popen(
    [sys.executable, '-c', 'input()'], stdin=subprocess.PIPE
  ) as owner:
    here = {'pid': owner.pid, 'host': socket.gethostname()}
    path.write_text(json.dumps(here))
    with pytest.raises(ValueError, match=f'process {owner.pid}'):
      lock.check(tmp_path)
    # A later process of the same number is another one.
    path.write_text(json.dumps(here | {'began': '0'}))
    lock.check(tmp_path)
    # Whether it lives on another host cannot be seen from here.
    path.write_text(json.dumps(here | {'host': 'elsewhere'}))
    lock.check(tmp_path)
  path.write_text(json.dumps(here))
  with lock.hold(tmp_path):
    pass
  assert path.read_text() == ''


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
  (tmp_path / 'lock').mkdir()
  with (
    pytest.raises(OSError, match=r"Cannot write '.*lock' \(Is a directory; "),
    lock.hold(tmp_path),
  ):
    pass


def test_a_stale_lock_without_kernel_locks_is_passed_over(
  tmp_path, monkeypatch
):
  def kill(pid, number):
    # What Windows says of a process that is gone.
    raise OSError(22, 'The parameter is incorrect')

  monkeypatch.setattr(lock, 'fcntl', None)
  monkeypatch.setattr(os, 'kill', kill)
  owner = {'pid': 999_999, 'host': socket.gethostname()}
  (tmp_path / 'lock').write_text(json.dumps(owner))
  with lock.hold(tmp_path):
    pass


def test_on_windows_a_byte_is_locked_and_no_process_is_signalled(
  tmp_path, monkeypatch
):
  places = []

  def locking(descriptor, mode, count):
    places.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, count))
    if len(places) > 1:
      raise OSError(errno.EACCES, 'Permission denied')

  fake = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
  monkeypatch.setattr(lock, 'fcntl', None)
  monkeypatch.setattr(lock, 'msvcrt', fake)
  monkeypatch.setattr(os, 'kill', lambda *_: pytest.fail('signalled'))
  with (
    lock.hold(tmp_path),
    pytest.raises(ValueError, match=f'by process {os.getpid()} on'),
  ):
    lock.check(tmp_path)
  # Far behind what the file says, which others may so read.
  assert places == [(2**30, 2, 1)] * 2
