"""What a run says about itself, and what all results begin with."""

import json
import sys
import types

import numpy as np

from dim_jax.config import ExperimentConfig
from dim_jax.objectives import dim
from dim_jax.runs import provenance

PARAMS = {
  'encoder': {'conv': {'kernel': np.zeros((3, 4)), 'bias': np.zeros(4)}},
  'scale': np.zeros(()),
}


def write(folder):
  provenance.write(
    str(folder),
    ExperimentConfig(objective=dim.Config()),
    PARAMS,
    ('conv', 'y'),
    ('y',),
  )
  return json.loads((folder / 'run.json').read_text('utf-8'))


def test_a_run_says_how_it_was_made_and_what_it_consists_of(
  tmp_path, monkeypatch
):
  spec = types.SimpleNamespace(name='tools.train.__main__')
  program = types.SimpleNamespace(__spec__=spec, __file__='train.py')
  monkeypatch.setitem(sys.modules, '__main__', program)
  monkeypatch.setattr(sys, 'argv', ['train.py', '--name=a b'])
  about = write(tmp_path)
  assert about['title'] == 'Deep InfoMax' and about['noun'] == 'images'
  # 3 x 4 weights and 4 biases.
  assert about['parameters'] == {'encoder': {'conv': 16}, 'scale': 1}
  assert about['features'] == ['conv', 'y']
  assert about['representation'] == 'y'
  assert set(about['versions']) >= {'python', 'jax', 'dim_jax'}
  assert about['command'] == "python -m tools.train '--name=a b'"
  assert about['earlier'] == []
  assert provenance.read(str(tmp_path)) == about
  assert provenance.read(str(tmp_path / 'old')) == {}


def test_a_run_that_goes_on_keeps_what_other_sessions_said(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(provenance, 'command', lambda: 'python -m first')
  write(tmp_path)
  # The same command again is nothing new.
  assert write(tmp_path)['earlier'] == []
  monkeypatch.setattr(provenance, 'command', lambda: 'python -m second')
  about = write(tmp_path)
  assert about['command'] == 'python -m second'
  assert [x['command'] for x in about['earlier']] == ['python -m first']


def test_the_command_is_quoted_as_a_shell_reads_it(monkeypatch):
  spec = type('Spec', (), {'name': 'experiments.train'})
  main = type('Main', (), {'__spec__': spec, '__file__': 'train.py'})
  monkeypatch.setitem(provenance.sys.modules, '__main__', main)
  monkeypatch.setattr(provenance.sys, 'argv', ['x', '--workdir=my runs/$a'])
  assert provenance.command() == (
    "python -m experiments.train '--workdir=my runs/$a'"
  )
  # So `dim_jax.commands` names itself; any other script is its file.
  monkeypatch.setattr(main, '__spec__', None)
  for program, shown in {
    'dim-jax train': 'dim-jax train',
    'my/dim-jax': 'python my/dim-jax',
  }.items():
    monkeypatch.setattr(provenance.sys, 'argv', [program, '--list'])
    assert provenance.command() == f'{shown} --list'
  # What a notebook ran is in the notebook.
  monkeypatch.setitem(provenance.sys.modules, 'ipykernel', main)
  assert provenance.command() is None


def test_results_begin_alike():
  examples = types.SimpleNamespace(name='digits', note='a copy')
  found = provenance.header(examples, np.int32(7), 0.0)
  assert list(found) == [
    *('dataset', 'note', 'step', 'command', 'date', 'hardware', 'versions'),
    *('commit', 'seconds'),
  ]
  assert found['step'] == 7 and found['seconds'] > 0
  json.dumps(found)
