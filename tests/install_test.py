"""What a user gets from a wheel, and what an import costs."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_import_stays_light():
  # Each of these takes seconds, or is there for one purpose only.
  heavy = ['tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib']
  code = (
    'import sys, dim_jax\n'
    f'print([name for name in {heavy} if name in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == '[]'


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
  # From a copy, so that an earlier build/ folder cannot leak into the wheel and
  # the checkout stays clean.
  source = tmp_path / 'source'
  source.mkdir()
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source / name)
  for name in ('dim_jax', 'experiments', 'tests'):
    shutil.copytree(
      ROOT / name,
      source / name,
      ignore=shutil.ignore_patterns('__pycache__'),
    )
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index'),
      *('--no-build-isolation', '--wheel-dir', str(tmp_path), str(source)),
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  (wheel,) = tmp_path.glob('dim_jax-*.whl')
  names = set(zipfile.ZipFile(wheel).namelist())
  package = {n for n in names if n.startswith('dim_jax/')}
  metadata = {n for n in names if n.split('/')[0].endswith('.dist-info')}
  assert names == package | metadata
  expected = {
    path.relative_to(source).as_posix()
    for path in (source / 'dim_jax').rglob('*')
    if path.suffix in ('.py', '.j2') or path.name == 'py.typed'
  }
  assert package == expected
  assert any(name.endswith('licenses/LICENSE') for name in metadata)
