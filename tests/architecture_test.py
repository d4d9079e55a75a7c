"""Imports point down, and the rules that hold for every file of the package."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'dim_jax'
FILES = sorted(PACKAGE.rglob('*.py'))

# What each room may import of ours. The files beside the rooms (config.py,
# load.py, __init__.py) sit on top of them and may import any; those of GROUND
# lie below them.
GROUND = {'checks', 'files', 'progress', 'random', 'scale'}
MAY_IMPORT: dict = {
  'losses': {'losses'},
  'networks': {'losses', 'networks', 'scale'},
  'samplers': {'losses'},
  'objectives': {'objective', 'losses', 'networks', 'objectives', 'samplers'}
  | GROUND,
  'training': {'objective', 'losses', 'data', 'training'} | GROUND,
  'data': {'data'} | GROUND,
  'evaluation': {'data', 'losses', 'evaluation', 'samplers'} | GROUND,
  'report': {'losses', 'evaluation', 'training', 'report'} | GROUND,
  'objective': {'checks'},
  'configs': {'config', 'configs', 'objectives', 'networks'} | GROUND,
  **dict.fromkeys(GROUND, GROUND),
  # What a user runs stands on top: it may import any, and see the test below.
  'runs': None,
  'commands': None,
}
# Beyond ours, losses are mathematics on arrays.
LOSSES_MAY_IMPORT = {
  'chex',
  'collections',
  'dataclasses',
  'functools',
  'jax',
  'math',
  'numbers',
  'optax',
  'typing',
}


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
  return ast.parse(path.read_text(encoding='utf-8'), filename=str(path))


def _imports(tree: ast.Module) -> list[str]:
  """Dotted names of all that is imported, at any depth of the file."""
  names = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names.extend(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      if node.level:
        raise AssertionError('imports are absolute in this project')
      names.extend(f'{node.module}.{alias.name}' for alias in node.names)
    elif (
      # importlib.import_module('tensorflow') is an import too.
      isinstance(node, ast.Call)
      and ast.unparse(node.func).endswith(('import_module', '__import__'))
      and node.args
      and isinstance(node.args[0], ast.Constant)
    ):
      names.append(str(node.args[0].value))
  return names


def _room(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def _misplaced(room: str, imports: list[str]) -> list[str]:
  allowed = MAY_IMPORT[room]
  if allowed is None:
    return []
  return [
    name
    for name in imports
    if name.split('.')[0] == 'dim_jax'
    and (len(name.split('.')) < 2 or name.split('.')[1] not in allowed)
  ]


def _ids(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).as_posix()


def test_the_reader_sees_each_form_of_import():
  tree = ast.parse(
    'import dim_jax\n'
    'from dim_jax import training\n'
    'def f():\n'
    '  import dim_jax.networks.layers as layers\n'
    '  importlib.import_module("dim_jax.report")\n'
  )
  imports = _imports(tree)
  assert _misplaced('losses', imports) == [
    'dim_jax',
    'dim_jax.training',
    'dim_jax.networks.layers',
    'dim_jax.report',
  ]
  assert 'dim_jax.training' not in _misplaced('training', imports)


def test_nothing_but_the_front_door_imports_runs():
  beside = [path for path in FILES if path.parent == PACKAGE]
  imports = {path.name: _imports(_tree(path)) for path in beside}
  assert {
    name
    for name, names in imports.items()
    if any(dotted.startswith('dim_jax.runs') for dotted in names)
  } <= {'__init__.py'}


def test_every_room_has_a_rule():
  rooms = {_room(path) for path in FILES if path.parent != PACKAGE}
  assert rooms <= set(MAY_IMPORT)


@pytest.mark.parametrize(
  'path', [p for p in FILES if _room(p) in MAY_IMPORT], ids=_ids
)
def test_imports_point_down(path):
  assert not _misplaced(_room(path), _imports(_tree(path)))


@pytest.mark.parametrize(
  'path', [p for p in FILES if _room(p) == 'losses'], ids=_ids
)
def test_losses_are_mathematics_on_arrays(path):
  tops = {name.split('.')[0] for name in _imports(_tree(path))}
  assert tops - {'dim_jax'} <= LOSSES_MAY_IMPORT


@pytest.mark.parametrize('path', FILES, ids=_ids)
def test_the_package_knows_no_experiment_and_no_tensorflow(path):
  tops = {name.split('.')[0] for name in _imports(_tree(path))}
  forbidden = {'experiments', 'notebooks', 'tests', 'clu'}
  if path != PACKAGE / 'data' / 'prepare.py':
    forbidden.add('tensorflow')
  assert not tops & forbidden


@pytest.mark.parametrize('path', FILES, ids=_ids)
def test_no_bare_assert(path):
  # They vanish under `python -O`.
  found = [n for n in ast.walk(_tree(path)) if isinstance(n, ast.Assert)]
  assert not [f'line {node.lineno}' for node in found]


@pytest.mark.parametrize(
  # What is a command prints.
  'path',
  [
    p
    for p in FILES
    if p != PACKAGE / 'data' / 'prepare.py' and _room(p) != 'commands'
  ],
  ids=_ids,
)
def test_nothing_is_printed_to_stdout(path):
  # A library's standard output belongs to its caller; progress goes to stderr.
  found = [
    node
    for node in ast.walk(_tree(path))
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Name)
    and node.func.id == 'print'
    and not any(
      k.arg == 'file' and ast.unparse(k.value) == 'sys.stderr'
      for k in node.keywords
    )
  ]
  assert not [f'line {node.lineno}' for node in found]


@pytest.mark.parametrize('path', FILES, ids=_ids)
def test_public_definitions_have_docstrings(path):
  tree = _tree(path)
  assert ast.get_docstring(tree) or path.name == '__init__.py', 'the module'
  missing = [
    node.name
    for node in tree.body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
    and not node.name.startswith('_')
    # What a command does stands above it.
    and (node.name != 'main' or _room(path) != 'commands')
    and not ast.get_docstring(node)
  ]
  assert not missing


def test_nothing_is_called_utils():
  assert not [p for p in FILES if 'util' in p.stem or 'helper' in p.stem]
