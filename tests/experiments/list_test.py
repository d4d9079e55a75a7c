"""The table of configs: every file is in it, on a terminal or in a pipe."""

import io
import itertools
import pathlib
import subprocess
import sys

import pytest
import rich.console

from experiments import list as listing

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def rows():
  return listing.rows()


def test_every_config_is_listed_and_told_apart(rows):
  files = {path.stem for path in (ROOT / 'experiments' / 'configs').iterdir()}
  files.discard('__pycache__')
  assert sorted(row.name for row in rows) == sorted(files)
  # One line each, that no other config has.
  assert all(row.description.strip() for row in rows)
  assert len({row.description for row in rows}) == len(rows)
  assert {row.method for row in rows} == set(listing.METHODS)
  # Grouped: a method's rows follow each other.
  methods = [row.method for row in rows]
  changes = sum(a != b for a, b in itertools.pairwise(methods))
  assert changes == len(set(methods)) - 1


def test_published_numbers_are_told_with_their_row_and_source(rows):
  found = {row.name: row.paper for row in rows}
  assert found['dim_cifar10_local_infonce'] == (
    'DIM(L) infoNCE, Hjelm et al. 2019, table 1: conv 75.21, fc 75.57, y 69.13'
  )
  assert found['dim_digits'] == ''
  assert listing.published({'source': 'Ours'}) == 'Ours'


def test_a_file_that_is_no_config_is_named(tmp_path, monkeypatch):
  (tmp_path / 'dim_broken.py').write_text('"""A file."""\n')
  monkeypatch.setattr(listing, 'CONFIGS', tmp_path)
  with pytest.raises(ValueError, match=r'dim_broken\.py.*does not import'):
    listing.rows()


def test_a_terminal_sees_tables_and_a_pipe_sees_lines(rows, monkeypatch):
  monkeypatch.setattr(listing, 'rows', lambda: rows)
  piped, shown = io.StringIO(), io.StringIO()
  listing.show(rich.console.Console(file=piped))
  lines = piped.getvalue().splitlines()
  assert [tuple(line.split('\t')) for line in lines] == rows
  listing.show(rich.console.Console(file=shown, force_terminal=True, width=200))
  text = shown.getvalue()
  for title in listing.METHODS.values():
    assert text.count(title) == 1
  for row in rows:
    assert f'{row.name}.py' in text


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
  assert 'dim\tdim_digits\tDIM(L) with InfoNCE' in listed.stdout
  without = run('--workdir=runs/x')
  assert without.returncode == 1
  assert (
    'give --config and --workdir; python -m experiments.train --list'
    in without.stderr
  )
