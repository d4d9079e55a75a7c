"""The check of TPU slices: its runs, and how it goes on."""

import json
import subprocess
import sys
import types

import pytest

from dim_jax import config as config_lib
from dim_jax.runs import overrides, slices
from experiments.benchmarks import pod_check


@pytest.mark.parametrize('name', pod_check.RUNS)
def test_every_run_is_a_config_that_slices_take(name):
  run = pod_check.RUNS[name]
  config = overrides.apply(pod_check.load(run), dict(run.fields))
  config_lib.check(config)
  assert config.parallel == 'jit' and run.each > 1
  assert {slices.parse(x)[1] for x in pod_check.TOPOLOGIES} == {4, 16, 64, 256}


def row(name, topology, flops):
  return {
    'run': name,
    'topology': topology,
    'memory': {'total': 1.5e9, 'peak': 1.25e9},
    'hbm': 16e9,
    'flops': flops,
    'bytes': 2e9,
    'collectives': {'all-reduce': {'count': 3, 'bytes': 5_000_000}},
    'looped': {},
    'largest': {'kind': 'all-reduce', 'bytes': 4_000_000},
    'seconds': {'FLOPs': 1e-3, 'memory': 2e-3, 'interconnect': 0.0},
    'compile_seconds': {'wall': 9.0, 'cpu': 7.0},
  }


def test_a_row_in_markdown():
  name = 'vib_mnist'
  rows = [
    row(name, 'v5e:16x16', 4e12),
    row(name, 'v5e:2x2', 1e12),
    {'run': name, 'topology': 'v5e:8x8', 'error': 'too large'},
  ]
  lines = pod_check.table(rows).splitlines()
  assert len({line.count('|') for line in lines}) == 1
  assert [line.split('|')[2].strip() for line in lines[2:]] == [
    'v5e:2x2',
    'v5e:8x8',
    'v5e:16x16',
  ]
  assert lines[-1] == (
    '| vib_mnist (100) | v5e:16x16 | 1.50, peak 1.25 of 16 | 4.0000 | 2.0 | '
    '3, 0.005 (0) | 4.0 | 2.00 (memory) | 0.25, 1.00 | 7 |'
  )


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
  kept, result = tmp_path / 'rows.jsonl', tmp_path / 'result.json'
  first = json.dumps(row('vib_mnist', 'v5e:2x2', 1e12))
  kept.write_text(f'{first}\n{first[:40]}')  # A kill cut the second short.
  compiled = []

  def run(command, **_):
    compiled.append(command[-2:])
    text = 'noise\n' + json.dumps(row(*command[-2:], 2e12)) + '\n'
    return types.SimpleNamespace(returncode=0, stdout=text)

  monkeypatch.setattr(subprocess, 'run', run)
  monkeypatch.setattr(pod_check, 'RESULT', result)
  monkeypatch.setattr(pod_check.provenance, 'commit', lambda: None)
  arguments = [f'--rows={kept}', '--only=vib_mnist']
  arguments.append('--topologies=v5e:2x2,v5e:4x4')
  monkeypatch.setattr(sys, 'argv', ['pod_check', *arguments])
  pod_check.main()
  assert compiled == [['vib_mnist', 'v5e:4x4']]
  assert '| vib_mnist (100) | v5e:4x4 |' in capsys.readouterr().out
  pod_check.main()
  assert len(compiled) == 1
  # Some of all are the result only where one says so.
  assert not result.exists()
  monkeypatch.setattr(sys, 'argv', ['pod_check', f'--rows={kept}', '--table'])
  pod_check.main()
  written = json.loads(result.read_text())['rows']
  assert [x['topology'] for x in written] == ['v5e:2x2', 'v5e:4x4']
  result.unlink()
  monkeypatch.setattr(pod_check, 'TOPOLOGIES', ('v5e:2x2', 'v5e:4x4'))
  monkeypatch.setattr(
    pod_check, 'RUNS', {'vib_mnist': pod_check.RUNS['vib_mnist']}
  )
  monkeypatch.setattr(sys, 'argv', ['pod_check', f'--rows={kept}'])
  pod_check.main()
  assert result.exists() and len(compiled) == 1


def test_an_unknown_slice_is_refused_before_anything_is_compiled(
  tmp_path, monkeypatch, capsys
):
  arguments = [f'--rows={tmp_path}/rows.jsonl', '--topologies=v5e:2x2,v5e:3x3']
  monkeypatch.setattr(sys, 'argv', ['pod_check', *arguments])
  with pytest.raises(SystemExit):
    pod_check.main()
  assert "there is no slice 'v5e:3x3'" in capsys.readouterr().err
