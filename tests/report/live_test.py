"""A page that follows runs while they train, and who is served it."""

import http.client
import json
import os
import pathlib
import threading
import time
import urllib.error
import urllib.request

import pytest

from dim_jax.commands import report as command
from dim_jax.report import live, page
from dim_jax.training import lock

CONFIG = {
  'objective': {'type': 'dim_jax.objectives.dim:Config'},
  'data': {'name': 'digits'},
  'steps': 40,
  'batch_size': 8,
  'input_shape': [8, 8, 1],
}


def log(run, *steps):
  with open(run / 'metrics.jsonl', 'a') as file:
    for step in steps:
      line = {'step': step, 'loss': 1 / step, 'images_per_s': 4.0}
      file.write(json.dumps(line) + '\n')


@pytest.fixture
def run(tmp_path):
  folder = tmp_path / 'one'
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  return folder


@pytest.fixture
def pages(monkeypatch):
  """All that is written, in place of a page that takes seconds to draw."""
  written = []

  def write(paths, out=None, live=None):
    folder = page.folder_of(paths, out)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, 'index.html')
    written.append(live)
    with open(path, 'w') as file:
      file.write(f'page {len(written)}')
    return path

  monkeypatch.setattr(page, 'write', write)
  monkeypatch.setattr(live.time, 'sleep', lambda seconds: None)
  return written


def test_the_page_of_a_live_run_says_so_and_loads_itself_again(run):
  log(run, 10)
  (index, *_) = live.watch([run], show_progress=False)
  text = pathlib.Path(index).read_text(encoding='utf-8')
  assert 'http-equiv="refresh"' not in text and 'Training:' not in text
  page.write([run], live=page.Live(12.4, 'Training: <far>.'))
  text = pathlib.Path(index).read_text(encoding='utf-8')
  assert '<meta http-equiv="refresh" content="12">' in text
  assert (
    'Training: &lt;far&gt;. This page loads itself again every 12 s' in text
  )


def test_it_is_written_when_the_run_logged_until_the_run_ends(run, pages):
  with lock.hold(run):
    watched = live.watch([run], every=1.0, show_progress=False)
    assert next(watched) == str(run / 'report' / 'index.html')
    log(run, 10)
    next(watched)
    (run / 'evaluation').mkdir()
    (run / 'evaluation' / 'probes.json').write_text('{}')
    next(watched)
  # 30 steps of 8 images are left, at 4 images a second.
  assert [page.status for page in pages] == [
    'Training: the first interval is not over.',
    'Training: step 10 of 40, 60 s left.',
    'Training: step 10 of 40, 60 s left.',
  ]
  assert len(list(watched)) == 1
  assert len(pages) == 4 and pages[-1] is None


def test_what_did_not_change_is_not_written_again(run, pages, monkeypatch):
  looks = []

  def sleep(seconds):
    looks.append(seconds)
    if len(looks) == 3:
      raise KeyboardInterrupt  # Ctrl-C ends it with a page that stays.

  monkeypatch.setattr(live.time, 'sleep', sleep)
  log(run, 10)
  with lock.hold(run):
    assert len(list(live.watch([run], every=5, show_progress=False))) == 2
  assert [page is None for page in pages] == [False, True]
  assert all(0 < seconds <= 5 for seconds in looks)


def test_several_runs_are_watched_until_the_last_ends(run, pages):
  other = run.parent / 'other'
  other.mkdir()
  (other / 'config.json').write_text(json.dumps(CONFIG | {'steps': 60}))
  log(run, 20, 40)
  log(other, 20)
  with lock.hold(other):
    watched = live.watch([run, other], show_progress=False)
    expected = run / 'report' / 'comparison' / 'index.html'
    assert next(watched) == str(expected)
  # 40 steps of 8 images are left to one of them, at 4 images a second.
  assert pages[0].status == 'Training: step 60 of 100, 80 s left.'
  assert len(list(watched)) == 1


def get(url, **headers):
  request = urllib.request.Request(url, headers=headers)
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(request) as answer:
      return answer.status, answer.read()
  except urllib.error.HTTPError as error:
    with error:
      return error.code, b''


def test_a_folder_is_served_to_this_computer_alone(tmp_path):
  folder = tmp_path / 'report'
  (folder / 'inner').mkdir(parents=True)
  (folder / 'index.html').write_text('the page')
  (tmp_path / 'secret').write_text('above it')
  with live.Server(folder, 0) as server:
    host, port = server.url.removeprefix('http://').rstrip('/').split(':')
    assert host == '127.0.0.1'
    assert get(server.url) == (200, b'the page')
    assert get(f'{server.url}index.html?x') == (200, b'the page')
    end = time.monotonic() + 10.0  # It is counted once it was sent.
    while server.loads < 2 and time.monotonic() < end:
      time.sleep(0.01)
    assert server.loads == 2
    assert get(f'{server.url}inner/')[0] == 404  # Nothing is listed.
    assert get(server.url, Host='localhost:1')[0] == 200
    assert get(server.url, Host='example.org')[0] == 403
    connection = http.client.HTTPConnection(host, int(port))
    connection.request('GET', '/../secret')
    assert connection.getresponse().status == 404
    connection.close()
    with pytest.raises(
      OSError, match=f'port {port} of 127.0.0.1 is in use: gi'
    ):
      live.Server(folder, int(port))
    # One more load ends the waiting, and so does the time.
    waiting = threading.Thread(target=server.wait, args=(60.0,))
    waiting.start()
    time.sleep(0.2)
    get(server.url)
    waiting.join(10.0)
    assert not waiting.is_alive()
    server.wait(0.0)
  with pytest.raises(ValueError, match='port must be a whole number in'):
    live.Server(folder, 70_000)


def test_the_command_serves_what_it_watches(run, pages, capsys, monkeypatch):
  log(run, 10)
  served = []
  monkeypatch.setattr(
    live.Server, 'wait', lambda server, seconds: served.append(get(server.url))
  )
  command.main([str(run), '--watch', '--serve', '--port=0', '--every=2'])
  assert served == [(200, b'page 1')]
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith('http://127.0.0.1:')
  assert lines[1] == str(run / 'report' / 'index.html')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--watch', '--every=0'], 'every must be >= 1'),
    (['--serve', '--port=-1'], 'port must be a whole number in'),
    (['nowhere', '--watch'], "'nowhere' is not a run"),
  ],
)
def test_what_cannot_be_watched_is_a_line(run, arguments, message):
  with pytest.raises(SystemExit) as refused:
    command.main([*([] if 'nowhere' in arguments else [str(run)]), *arguments])
  assert message in refused.value.code and '\n' not in refused.value.code


@pytest.mark.parametrize('flags', [[], ['--watch']])
def test_a_sweep_that_trains_is_told_from_a_folder_of_no_run(tmp_path, flags):
  (tmp_path / 'sweep_config.json').write_text('{}')
  with (
    lock.hold(tmp_path),
    pytest.raises(SystemExit, match='is a sweep, which has a page when it has'),
  ):
    command.main([str(tmp_path), *flags])
