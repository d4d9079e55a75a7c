"""Files that are replaced whole, and progress that is told."""

import os
import pty
import re
import select
import sys
import termios
import types

import pytest

from dim_jax import files, progress


def test_a_failed_write_leaves_the_file_and_nothing_else(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'name': 'Grüße'}, sync=True)
  assert path.read_bytes() == b'{\n  "name": "Gr\\u00fc\\u00dfe"\n}\n'
  with pytest.raises(KeyError), files.replacing(path) as file:
    file.write('half')
    raise KeyError
  assert os.listdir(tmp_path) == ['a.json']
  files.write(path, 'ü')
  assert path.read_bytes() == 'ü'.encode()
  with files.replacing(path, 'wb') as file:
    file.write(b'\0')
  assert path.read_bytes() == b'\0'
  with pytest.raises(OSError, match=r"Cannot write '.*b/c' \(No such file"):
    files.write(tmp_path / 'b' / 'c', '')


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
  with progress.Progress(stderr=False) as shown:
    shown.say('[bold] is data')
    with shown.task('step', 4, seconds=0) as task:
      task.advance()
      task.update(4, 'loss 1')
    # Its first line comes after some seconds, or at the end.
    with shown.task('encode', 2) as task:
      task.advance()
      task.advance()
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == '[bold] is data'
  assert lines[1].startswith('step 1/4  0 s  ETA')
  assert lines[2] == 'step 4/4  0 s  ETA 0 s  loss 1'
  assert lines[3:] == ['encode 2/2  0 s  ETA 0 s']
  with progress.Progress(False) as shown:
    shown.say('nothing')
  assert capsys.readouterr() == ('', '')


def test_progress_fits_a_terminal(monkeypatch):
  leader, follower = pty.openpty()
  termios.tcsetwinsize(follower, (24, 60))
  monkeypatch.setenv('COLUMNS', '60')
  text = '  '.join(f'probe/{name}_accuracy 0.5' for name in 'abcd')
  with open(follower, 'w') as stream:
    monkeypatch.setattr('sys.stdout', stream)
    with progress.Progress(stderr=False) as shown:
      with shown.task('step', 40) as task:
        task.phase('compiling')
        shown.bar.refresh()
        task.restart(10)
        task.update(20, text)
        shown.bar.refresh()
      shown.say('a line ' * 20)
    stream.flush()
    told = b''
    while select.select([leader], [], [], 0.0)[0]:
      told += os.read(leader, 4096)
  os.close(leader)
  plain = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', told.decode())
  assert 'compiling' in plain and 'ETA -:--:--' in plain
  lines = [line.strip() for line in re.split(r'[\r\n]+', plain)]
  assert any(line.startswith('step 20/40 ') for line in lines)
  # Each name stands beside its number, and no line of the bar is cut.
  for name in 'abcd':
    assert any(f'probe/{name}_accuracy 0.5' in line for line in lines)
  said = ('a line ' * 20).strip()
  assert said in lines
  assert max(len(line) for line in lines if line != said) <= 60


def test_the_time_left_is_that_of_what_is_compiled(capsys, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
  with (
    progress.Progress(stderr=False) as shown,
    shown.task('step', 50, seconds=0) as task,
  ):
    for clock[0], done in ((100.0, 10), (110.0, 20), (130.0, 30)):
      task.update(done)
  # 40 at 10 s each of the first; then 30 at 1 s each, 20 at 30 s for 20.
  lines = capsys.readouterr().out.splitlines()
  assert [line.partition('ETA ')[2] for line in lines] == [
    '400 s',
    '30 s',
    '30 s',
  ]


def test_a_notebook_shows_bars_where_it_has_widgets(monkeypatch):
  assert progress.Progress().bar is None
  kernel = type('ZMQInteractiveShell', (), {})()
  monkeypatch.setattr('builtins.get_ipython', lambda: kernel, raising=False)
  monkeypatch.setitem(sys.modules, 'IPython', types.ModuleType('IPython'))
  for found in (None, object()):
    monkeypatch.setattr(
      progress.importlib.util, 'find_spec', lambda name, found=found: found
    )
    assert (progress.Progress().bar is not None) == bool(found)
