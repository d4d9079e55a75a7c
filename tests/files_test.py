"""Files that are replaced whole, and progress that is told."""

import os

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
