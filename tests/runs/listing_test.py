"""Runs are listed as their folders tell, whatever state they are in."""

import csv
import io
import json
import math
import os
import shutil

import pytest

import dim_jax
from dim_jax.commands import runs as command
from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.networks import encoders
from dim_jax.objectives import dim
from dim_jax.runs import listing
from dim_jax.training import lock, metrics

# Of a process that has ended: the kernel gives out no such number.
DEAD = {'pid': 2**22 + 1, 'host': os.uname().nodename, 'began': '1'}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of two steps that really trained."""
  config = ExperimentConfig(
    objective=dim.Config(
      encoder=encoders.MLPCode(units=(8,), code=4),
      critic='concat',
      critic_units=4,
      local_feature='input',
      map_feature='fc',
      prior=None,
    ),
    data=DataConfig(name='digits', image_size=8),
    batch_size=32,
    steps=2,
    log_every=1,
    checkpoint_every=2,
  )
  folder = tmp_path_factory.mktemp('trained') / 'first'
  dim_jax.train(config, folder, devices=1, show_progress=False)
  return folder


@pytest.fixture
def folder(run, tmp_path):
  shutil.copytree(run, tmp_path / 'runs' / 'first')
  return tmp_path / 'runs'


def copy(folder, name, **changes):
  """Makes another run of `first`, with other fields of its config."""
  new = folder / name
  shutil.copytree(folder / 'first', new)
  config = json.loads((new / 'config.json').read_text())
  objective = changes.pop('objective', {})
  config |= changes
  config['objective'] |= objective
  (new / 'config.json').write_text(json.dumps(config))
  return new


def states(folder):
  runs, _ = listing.find(folder)
  return {os.path.relpath(run.run, folder): run.state for run in runs}


def test_a_run_is_what_it_logged(folder):
  ((one,), skipped) = listing.find(folder)
  assert not skipped and one.run == str(folder / 'first')
  assert (one.state, one.step, one.steps) == ('finished', 2, 2)
  assert (one.method, one.data) == ('Deep InfoMax', 'digits')
  last = metrics.read(folder / 'first' / 'metrics.jsonl')[-1]
  assert one.probe == 100 * last['probe/y_accuracy']
  assert one.measured == 'online y'
  logged = folder / 'first' / 'metrics.jsonl'
  os.utime(logged, (0, os.path.getmtime(logged) - 3600))
  ((one,), _) = listing.find(folder / 'first')
  assert 3600 <= one.age < 3700


def test_a_measured_probe_stands_before_the_online_one(folder):
  results = folder / 'first' / 'evaluation' / 'probes.json'
  results.parent.mkdir()
  rows = [
    {'encoder': encoder, 'feature': feature, 'probe': probe, 'mean': mean}
    for encoder, feature, probe, mean in (
      ('untrained', 'y', 'linear', 0.1),
      ('trained', 'fc', 'linear', 0.9),
      ('trained', 'y', 'knn', 0.8),
      ('trained', 'y', 'linear', 0.75),
    )
  ]
  results.write_text(json.dumps({'results': rows}))
  ((one,), _) = listing.find(folder)
  assert (one.probe, one.measured) == (75.0, 'linear y')
  # Older files have other names for two of the keys.
  names = {'encoder': 'features', 'feature': 'tap'}
  older = [{names.get(k, k): v for k, v in row.items()} for row in rows]
  results.write_text(json.dumps({'results': older}))
  ((one,), _) = listing.find(folder)
  assert (one.problem, one.measured) == ('', 'linear y')
  # A classifier's own accuracy is 100 less the error of most samples.
  results.unlink()
  results.with_name('classification.json').write_text(
    json.dumps(
      {
        'results': [
          {'split': split, 'weights': 'last', 'error_1': 9.0, 'error_12': error}
          for split, error in (('train', 1.0), ('test', 4.5))
        ]
      }
    )
  )
  ((one,), _) = listing.find(folder)
  assert (one.probe, one.measured) == (95.5, 'classifier, test')


def test_each_state_is_told_from_the_others(folder):
  live = copy(folder, 'live', steps=9)
  (copy(folder, 'killed', steps=9) / 'lock').write_text(json.dumps(DEAD))
  copy(folder, 'interrupted', steps=9)
  os.remove(copy(folder, 'new', steps=9) / 'metrics.jsonl')
  (copy(folder, 'deep/er') / 'lock').write_text('')
  with lock.hold(live):
    expected = {
      'first': 'finished',
      'live': 'training',
      'killed': 'died',
      'interrupted': 'stopped',
      'new': 'started',
      'deep/er': 'finished',
    }
    assert states(folder) == expected
    # Looking leaves the lock as it is.
    with pytest.raises(ValueError, match='is being trained by'):
      lock.check(live)
  assert states(folder)['live'] == 'stopped'
  assert json.loads((folder / 'killed' / 'lock').read_text()) == DEAD


def test_damaged_runs_are_shown_and_foreign_folders_named(
  folder, capsys, monkeypatch
):
  (copy(folder, 'cut') / 'config.json').write_text('{"objective": ')
  (copy(folder, 'mixed') / 'metrics.jsonl').write_text('{"step": 1}\nx\n')
  (copy(folder, 'odd') / 'run.json').write_text('[]')
  for name, text in (('theirs', '{"model_type": "bert"}'), ('list', '[]')):
    (folder / name).mkdir()
    (folder / name / 'config.json').write_text(text)
  (folder / 'empty').mkdir()
  damaged = {x: 'damaged' for x in ('cut', 'mixed', 'odd')}
  assert states(folder) == {'first': 'finished'} | damaged
  monkeypatch.chdir(folder.parent)
  command.main([])
  told = capsys.readouterr()
  rows = [line.split() for line in told.out.splitlines()]
  assert ['runs/cut', 'damaged'] in [row[:2] for row in rows]
  assert ['runs/first', 'finished'] in [row[:2] for row in rows]
  notes = told.err.splitlines()
  assert len(notes) == 5
  for name, what in {
    'cut': 'cannot be read',
    'mixed': 'metrics.jsonl line 2 is not JSON',
    'odd': 'is damaged',
    'theirs': 'its config.json is of something else',
    'list': 'its config.json is of something else',
  }.items():
    (note,) = (note for note in notes if f'runs/{name}' in note)
    assert what in note


def test_conditions_and_order(folder):
  copy(folder, 'a', objective={'bound': 'jsd'}, steps=9)
  copy(folder, 'b', objective={'bound': 'jsd'}, seed=3, batch_size=64)
  with open(folder / 'a' / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 5}\n')  # Of no probe.
  runs, _ = listing.find(folder)

  def chosen(*where, sort='run'):
    return [
      os.path.basename(run.run) for run in listing.select(runs, where, sort)
    ]

  assert chosen() == ['a', 'b', 'first']
  assert chosen('objective.bound=jsd') == ['a', 'b']
  assert chosen('objective.bound=jsd', 'seed=3') == ['b']
  assert chosen('state=stopped') == ['a']
  assert chosen('batch_size=64.0') == ['b']  # As numbers compare.
  assert chosen('objective.prior=None') == ['a', 'b', 'first']
  assert chosen('objective.prior=null', 'seed=9') == []
  assert chosen(sort='step') == ['a', 'b', 'first']
  assert chosen(sort='probe') == ['b', 'first', 'a']
  os.utime(folder / 'b' / 'metrics.jsonl', (0, 0))
  runs, _ = listing.find(folder)
  assert chosen(sort='age')[-1] == 'b'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['{}/nowhere'], 'no folder'),
    (['{}/first/evaluation'], 'no runs in'),
    (['{}', '--where', 'objective.bond=jsd'], "Did you mean 'objective.bound'"),
    (['{}', '--where=jsd'], 'give FIELD=VALUE'),
    (['{}', '--sort=size'], 'give one of run, state, step'),
    (['{}', '{}'], 'give one folder'),
  ],
)
def test_what_cannot_be_listed_is_a_line(folder, arguments, message):
  (folder / 'first' / 'evaluation').mkdir()
  arguments = [word.format(folder) for word in arguments]
  with pytest.raises(SystemExit) as refused:
    command.main(arguments)
  assert message in refused.value.code and '\n' not in refused.value.code


def test_csv_is_read_back(folder, capsys):
  os.remove(copy(folder, 'new') / 'metrics.jsonl')
  command.main([str(folder), '--csv'])
  rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
  assert [row['state'] for row in rows] == ['finished', 'started']
  ((first, new), _) = listing.find(folder)
  assert float(rows[0]['probe']) == pytest.approx(first.probe, abs=1e-3)
  assert float(rows[0]['age']) >= 0 and rows[1]['probe'] == ''
  assert math.isnan(new.probe)


def test_a_sweep_is_one_line(folder):
  sweep = copy(folder, 'sweep')
  config = json.loads((sweep / 'config.json').read_text())
  os.rename(sweep / 'config.json', sweep / 'sweep_config.json')
  (sweep / 'sweep_config.json').write_text(json.dumps({'run': config}))
  runs, _ = listing.find(folder)
  assert [run.method for run in runs] == ['Deep InfoMax', 'Deep InfoMax, sweep']
