"""What a user gets from a wheel, and what an import costs."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

PROGRAM = 'dim_jax.commands:main'
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
  # The program, its built-in configs and the templates of what it writes.
  (scripts,) = (n for n in metadata if n.endswith('/entry_points.txt'))
  text = zipfile.ZipFile(wheel).read(scripts).decode()
  assert text.split() == ['[console_scripts]', 'dim-jax', '=', PROGRAM]
  assert {
    'dim_jax/configs/dim_digits.py',
    'dim_jax/commands/train.py',
    'dim_jax/report/page.html.j2',
    'dim_jax/runs/model_card.md.j2',
  } <= package
  _use(wheel, tmp_path)


# All that a notebook needs, in a folder without the checkout.
_NOTEBOOK = """
import json, pathlib, dim_jax
from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.networks import encoders
from dim_jax.objectives import dim

assert str(pathlib.Path.cwd()) in dim_jax.__file__, dim_jax.__file__
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
  batch_size=32, steps=2, log_every=1, checkpoint_every=2,
)
dim_jax.train(config, 'run', show_progress=False)
about = json.loads(pathlib.Path('run/run.json').read_text())
assert about['parameters']['encoder'] and about['features'], about
dim_jax.evaluate('run', probes=('knn',), features=('y',), show_progress=False)
page = pathlib.Path(dim_jax.report('run')).read_text(encoding='utf-8')
assert 'Deep InfoMax' in page and 'knn' in page.lower()
assert callable(dim_jax.report) and dim_jax.load('run').step == 2

# What the console script calls.
import sys
from dim_jax import commands

for words in (['list'], ['runs', '.']):
  sys.argv = ['dim-jax', *words]
  commands.main()
import experiments
"""


def _use(wheel, folder):
  """Trains, evaluates and reports digits with what the wheel holds alone."""
  zipfile.ZipFile(wheel).extractall(folder / 'site')
  done = subprocess.run(
    [sys.executable, '-c', _NOTEBOOK],
    cwd=folder / 'site',
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert '\tdim_digits:vae\t' in done.stdout, done.stderr
  assert ' finished ' in done.stdout, done.stdout
  # There is no `experiments` beside it.
  assert "ModuleNotFoundError: No module named 'experiments'" in done.stderr, (
    done.stderr
  )
