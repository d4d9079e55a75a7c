"""Where the time of a run goes: by hand, on a clock that the test turns."""

import json

import pytest

from dim_jax.training import timing


@pytest.fixture
def clock(monkeypatch):
  class Clock:
    now = 100.0

    def turn(self, seconds):
      self.now += seconds

  found = Clock()
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: found.now)
  return found


def compiled():
  timing.jax.monitoring.record_event_duration_secs(timing._COMPILED, 0.5)


def session(clock, run_dir, resume):
  with timing.Times() as times:
    clock.turn(1)  # other
    if resume:
      times.resume(run_dir)
    with times.part('data'):
      clock.turn(2)
    with times.part('step'):
      clock.turn(4)  # traces and compiles
      compiled()
      clock.turn(8)
      with times.part('data'):
        clock.turn(16)
      clock.turn(32)
    with times.part('monitor'):
      clock.turn(64)
      compiled()
      clock.turn(128)
    with times.part('save'):
      compiled()  # Not what is waited for.
      clock.turn(256)
    clock.turn(512)  # other
    times.write(run_dir, step=7)
    compiled()
  compiled()  # Nobody listens any more.
  return times


def test_each_moment_is_of_one_part(clock, tmp_path):
  times = session(clock, tmp_path, resume=False)
  expected = {
    'compile': 4 + 64,
    'data': 2 + 16,
    'step': 8 + 32,
    'monitor': 128,
    'save': 256,
    'other': 1 + 512,
    'total': 1023,
  }
  assert times.summary() == {'sessions': 1, 'programs': 1, 'seconds': expected}
  written = json.loads((tmp_path / 'summary.json').read_text())
  assert written == {'step': 7, **times.summary()}
  assert timing.line(written) == (
    '1023.0 s: compile 68.0, data 18.0, step 40.0, monitor 128.0, save 256.0, '
    'other 513.0'
  )
  again = session(clock, tmp_path, resume=True).summary()
  assert again['sessions'] == 2 and again['programs'] == 2
  assert again['seconds'] == {k: 2 * v for k, v in expected.items()}
  assert timing.line(again).startswith('2046.0 s in 2 sessions: compile 136.0')


@pytest.mark.parametrize('text', ['', '{"step": 3}', '[]', '{"sessions": "x"}'])
def test_a_summary_that_cannot_be_read_is_not_counted(clock, tmp_path, text):
  (tmp_path / 'summary.json').write_text(text)
  assert session(clock, tmp_path, resume=True).summary()['sessions'] == 1
