"""Collects the commands of README.md and docs/, and runs them with few steps.

  python -m experiments.documents.commands
  python -m experiments.documents.commands docs/data.md

The fenced `sh` and `python` blocks of a document run in their order in one
temporary folder, shell commands with the flags of SMALL behind their own. A
block behind the comment `<!-- not run: WHY -->` is left out. A core has a
document at a time.
"""

import concurrent.futures
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import NamedTuple

from experiments.documents.markdown import ROOT, documents

_FENCE = re.compile(
  r'(?:<!-- not run: (?P<why>[^>]*) -->\n)?'
  r'^```(?P<language>sh|python)\n(?P<text>.*?)^```$',
  re.DOTALL | re.MULTILINE,
)
_STEPS = '--config.steps=4 --config.log_every=2 --config.checkpoint_every=4'
# Flags that keep a command short: of dim-jax by its name, of others by their
# module.
SMALL = {
  'train': _STEPS,
  'layerwise': _STEPS,
  'asynchronous': _STEPS,
  'evaluate': '--max_train=100 --num_seeds=1 --mlp_epochs=1 --probes=knn',
  'represent': '--max_examples=200 --measures=knn,rank',
  'classify': '--attacked=4',
  'table': '--steps=2 --seeds=0 --mlp_epochs=1 --methods=vae,bigan',
  'density': '--chains=4',
  'experiments.studies.forgetting': '--steps=4 --nats=4',
  'experiments.studies.su': f'{_STEPS} --terms=global --kl=0.1 --seeds=0',
  'experiments.studies.masks': f'{_STEPS} --seeds=0 --probes=linear_few',
  'experiments.studies.priors': '--steps=2 --seeds=0',
  'experiments.studies.particles': '--targets=variance',
  'experiments.studies.staircase': '--steps=5',
  'experiments.studies.estimators': '--pairs=200 --report=100',
}
# What makes a Python block short.
_PYTHON = {
  'steps=300': 'steps=4',
  "probes=['linear', 'knn']": "probes=['knn'], features=['y']",
}
_SWEEP = '--config.run.steps=4 --config.run.log_every=2'
_SWEEP += ' --config.run.checkpoint_every=4'
_COMMAND = re.compile(r'(dim-jax|python -m) (?P<name>[\w.]+)(?P<rest>.*)')
# Programs are run for a few steps, so that most of the time is that of
# compiling them: as tests/conftest.py does.
_QUICK = {
  'XLA_FLAGS': (
    '--xla_backend_optimization_level=0 '
    '--xla_cpu_parallel_codegen_split_count=1'
  ),
  'MPLBACKEND': 'Agg',
}
# The script that an installation has, of the checkout.
_PRELUDE = """dim-jax() {
  python -c 'from dim_jax.commands import main; main()' "$@"
}
"""


class Block(NamedTuple):
  """A fenced block of a document.

  Attributes:
    language: 'sh' or 'python'.
    text: its lines.
    line: where it begins.
    skipped: why it is not run; '' if it is.
  """

  language: str
  text: str
  line: int
  skipped: str


def blocks(text: str) -> list[Block]:
  """Lists the shell and Python blocks of a document."""
  return [
    Block(
      match['language'],
      match['text'],
      text.count('\n', 0, match.start('language')) + 1,
      match['why'] or '',
    )
    for match in _FENCE.finditer(text)
  ]


def lines(script: str) -> list[str]:
  """Splits a shell block into its commands, continued lines as one."""
  joined = script.replace('\\\n', ' ')
  return [
    re.sub(r'\s+#.*', '', line).strip()
    for line in joined.splitlines()
    if line.strip() and not line.lstrip().startswith('#')
  ]


def parsed(line: str) -> tuple[str, list[str]] | None:
  """Finds the module and arguments of `dim-jax NAME` or `python -m MODULE`."""
  match = _COMMAND.search(line)
  if not match:
    return None
  name = match['name']
  if match[1] == 'dim-jax':
    name = f'dim_jax.commands.{name}'
  return name, match['rest'].split()


def shortened(line: str) -> str:
  """Appends to a command the flags that keep it short."""
  match = _COMMAND.search(line)
  if not match or '--list' in line or '--dry_run' in line:
    return line
  flags = _SWEEP if ':sweep' in line else SMALL.get(match['name'], '')
  return f'{line} {flags}'.strip()


def run(document: pathlib.Path) -> list[str]:
  """Runs a document's blocks and returns what failed, a text each."""
  failed = []
  path = f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
  with tempfile.TemporaryDirectory() as folder:
    for name in ('dim_jax', 'experiments', 'Makefile'):
      os.symlink(ROOT / name, os.path.join(folder, name))
    for block in blocks(document.read_text(encoding='utf-8')):
      where = f'{document.relative_to(ROOT)}:{block.line}'
      if block.skipped:
        print(f'{where}: not run, {block.skipped}')
        continue
      start = time.perf_counter()
      done = subprocess.run(
        _process(block),
        cwd=folder,
        env=_QUICK | os.environ | {'PATH': path, 'PYTHONPATH': folder},
        capture_output=True,
        text=True,
        check=False,
      )
      seconds = time.perf_counter() - start
      print(f'{where}: status {done.returncode}, {seconds:.0f} s', flush=True)
      if done.returncode:
        failed.append(f'{where}\n{block.text}{done.stderr[-1500:]}')
  return failed


def _process(block: Block) -> list[str]:
  if block.language == 'python':
    text = block.text
    for long, short in _PYTHON.items():
      text = text.replace(long, short)
    return [sys.executable, '-c', text]
  script = '\n'.join(map(shortened, lines(block.text)))
  return ['bash', '-euo', 'pipefail', '-c', _PRELUDE + script]


def main(names: Iterable[str]) -> int:
  """Runs some documents, or all; returns how many blocks failed."""
  chosen = [pathlib.Path(name).resolve() for name in names] or documents()
  start = time.perf_counter()
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    failed = [text for texts in pool.map(run, chosen) for text in texts]
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  print(
    f'{len(chosen)} documents, {len(failed)} blocks failed: '
    f'{time.perf_counter() - start:.0f} s, of processors '
    f'{used.ru_utime + used.ru_stime:.0f} s'
  )
  print('\n'.join(failed), file=sys.stderr)
  return len(failed)


if __name__ == '__main__':
  sys.exit(bool(main(sys.argv[1:])))
