"""The table of configs: every file is in it, on a terminal or in a pipe."""

import io
import itertools
import pathlib
import subprocess
import sys

import pytest
import rich.console

from dim_jax import configs
from dim_jax.commands import catalogue

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def rows():
  return catalogue.rows()


def test_every_config_is_listed_and_told_apart(rows):
  folder = ROOT / 'dim_jax' / 'configs'
  names = {path.stem for path in folder.glob('[!_]*.py')}
  assert {row.name.partition(':')[0] for row in rows} == names
  # One line each, that no other config has.
  assert all(row.description.strip() for row in rows)
  assert len({row.description for row in rows}) == len(rows)
  # Grouped: a method's rows follow each other.
  methods = [row.method for row in rows]
  changes = sum(a != b for a, b in itertools.pairwise(methods))
  assert changes == len(set(methods)) - 1


def test_published_numbers_are_told_with_their_row_and_source(rows):
  found = {row.name: row.paper for row in rows}
  assert found['dim_cifar10:local_infonce'] == (
    'DIM(L) infoNCE, Hjelm et al. 2019, table 1: conv 75.21, fc 75.57, y 69.13'
  )
  assert found['dim_digits:infonce'] == ''
  assert catalogue.published({'source': 'Ours'}) == 'Ours'


def test_a_file_that_is_no_config_is_named(tmp_path, monkeypatch):
  (tmp_path / 'dim_broken.py').write_text('"""A file."""\n')
  monkeypatch.setattr(configs, 'CONFIGS', tmp_path)
  with pytest.raises(ValueError, match=r'dim_broken\.py.*does not import'):
    catalogue.rows()


def test_a_terminal_sees_tables_and_a_pipe_sees_lines(rows, monkeypatch):
  monkeypatch.setattr(catalogue, 'rows', lambda: rows)
  piped, shown = io.StringIO(), io.StringIO()
  catalogue.show(console=rich.console.Console(file=piped))
  lines = piped.getvalue().splitlines()
  assert [tuple(line.split('\t')) for line in lines] == rows
  terminal = rich.console.Console(file=shown, force_terminal=True, width=200)
  catalogue.show(console=terminal)
  text = shown.getvalue()
  for row in rows:
    assert row.name in text


def test_the_values_of_a_field_are_listed(capsys):
  for field in ('encoders', 'objective.encoder'):
    catalogue.show(field)
    names, where = capsys.readouterr().out.splitlines()[0].split('\t')[1:]
    assert 'resnet19_32' in names.split(', ') and where == 'networks.encoders'
  with pytest.raises(ValueError, match=r'--list=colours: there are .*encoders'):
    catalogue.show('colours')


def test_the_command_needs_neither_config_nor_workdir():
  def run(*flags):
    return subprocess.run(
      [sys.executable, '-m', 'experiments.train', *flags],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )

  listed = run('--list')
  assert listed.returncode == 0, listed.stderr
  assert 'Deep InfoMax\tdim_digits:infonce\tDeep InfoMax on' in listed.stdout
  without = run('--workdir=runs/x')
  assert without.returncode == 1
  assert 'give --config and --workdir; dim-jax train --list' in without.stderr
