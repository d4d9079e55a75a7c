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
      times.resume(run_dir, step=7)
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
    'restore': 0,
    'lost': 0,
    'other': 1 + 512,
    'total': 1023,
  }
  assert times.summary() == {
    'sessions': 1,
    'programs': 1,
    'goodput': round(40 / 1023, 4),
    'seconds': expected,
  }
  written = json.loads((tmp_path / 'summary.json').read_text())
  assert written == {'step': 7, **times.summary()}
  assert timing.line(written) == (
    '1023.0 s, 3.9 % in steps: compile 68.0, data 18.0, step 40.0, monitor '
    '128.0, save 256.0, other 513.0'
  )
  again = session(clock, tmp_path, resume=True).summary()
  assert again['sessions'] == 2 and again['programs'] == 2
  assert again['seconds'] == {k: 2 * v for k, v in expected.items()}
  assert timing.line(again).startswith(
    '2046.0 s in 2 sessions, 3.9 % in steps: '
  )


def _log(run_dir, *lines):
  text = [json.dumps({'step': s, 'seconds': t}) + '\n' for s, t in lines]
  (run_dir / 'metrics.jsonl').write_text(''.join(text))


@pytest.mark.parametrize(
  ('found', 'lost', 'kept'),
  [
    # After its save at step 20 it was killed at step 40, 9 - 4 seconds later.
    (20, 5, 60),
    # Nothing is there but the checkpoint at step 10: 4 - 2 of the seconds that
    # the summary has as steps went to waste too.
    (10, 7, 58),
    # Nothing at all: all 4 seconds until its save did.
    (0, 9, 56),
  ],
)
def test_what_a_killed_session_loses(clock, tmp_path, found, lost, kept):
  seconds = dict.fromkeys(timing.PARTS, 0.0) | {'step': 60.0, 'save': 35.0}
  summary = {'step': 20, 'sessions': 2, 'programs': 3, 'seconds': seconds}
  (tmp_path / 'summary.json').write_text(json.dumps(summary))
  _log(tmp_path, (10, 2.0), (20, 4.0), (30, 7.0), (40, 9.0))
  with timing.Times() as times:
    with times.part('restore'):
      clock.turn(3)
    times.resume(tmp_path, found)
    with times.part('step'):
      clock.turn(20)
    result = times.summary()
  parts = result['seconds']
  assert (parts['lost'], parts['step']) == (lost, kept + 20)
  assert parts['restore'] == 3 and parts['save'] == 35
  # The wall time of all sessions, of the killed one to its last line.
  assert parts['total'] == 60 + 35 + 5 + 3 + 20
  assert result['goodput'] == round((kept + 20) / 123, 4)
  assert 'restore 3.0, lost' in timing.line(result)


def test_a_session_that_was_killed_before_its_first_save(clock, tmp_path):
  _log(tmp_path, (10, 2.0), (20, 4.0))
  with timing.Times() as times:
    times.resume(tmp_path, 0)
    with times.part('step'):
      clock.turn(12)
    assert times.summary()['goodput'] == 12 / 16


@pytest.mark.parametrize('text', ['', '{"step": 3}', '[]', '{"sessions": "x"}'])
def test_a_summary_that_cannot_be_read_is_not_counted(clock, tmp_path, text):
  (tmp_path / 'summary.json').write_text(text)
  assert session(clock, tmp_path, resume=True).summary()['sessions'] == 1
