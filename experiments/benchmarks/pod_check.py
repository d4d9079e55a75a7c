"""What each method takes on TPU slices of 4 to 256 chips, without a TPU.

  make pod-check
  python -m experiments.benchmarks.pod_check --rows=runs/pod_check.jsonl \
      --only=vib_mnist --topologies=v5e:2x2,v5e:16x16
  python -m experiments.benchmarks.pod_check --rows=runs/pod_check.jsonl --table

Compiles one training step of each of `RUNS` for each of `TOPOLOGIES`, of the
examples a chip that the run says, read ahead rather than resident, and counts:
see `dim_jax.runs.slices`. Needs the extra [tpu]. A row takes minutes of a CPU
at most (4 to 116 s of those in the result), in a process of its own, and is
kept as a line of JSON in --rows: the same command goes on where it was stopped.
It prints the table, in Markdown; when nothing of all is left, or with --table,
it also writes all rows to experiments/results/pod_check.json. Hours for
everything; the most telling comes first.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from dim_jax import configs, files
from dim_jax.runs import dry_run, overrides, provenance, slices
from experiments.benchmarks import harness

TOPOLOGIES = (
  'v5e:2x2',
  'v5e:16x16',
  'v5e:8x8',
  'v5e:4x4',
  'v5p:4x4x4',
  'v6e:16x16',
)
RESULT = harness.ROOT / 'experiments' / 'results' / 'pod_check.json'


class Run(NamedTuple):
  """What is compiled.

  Attributes:
    config: a config by name, or a row of it.
    each: examples a chip.
    fields: of the config that are changed.
  """

  config: str
  each: int
  fields: Mapping[str, str] = {}


RUNS = {
  'vib_mnist': Run('vib_mnist', 100),
  'dim_cifar10_local_infonce': Run('dim_cifar10:local_infonce', 64),
  'gim_librispeech': Run('gim_librispeech:gim', 8),
  'stein_gan_mnist': Run('stein_gan_mnist', 50),
  # As on large slices: of a chip's own examples, or of as many as on four.
  'stein_gan_mnist_of_50': Run(
    'stein_gan_mnist', 50, {'objective.particles_of': '50'}
  ),
  'gim_librispeech_of_8': Run(
    'gim_librispeech:gim', 8, {'objective.negatives_of': '8'}
  ),
  'dim_cifar10_local_infonce_of_256': Run(
    'dim_cifar10:local_infonce', 64, {'objective.negatives_of': '256'}
  ),
  'dim_cifar10_local_infonce_256': Run('dim_cifar10:local_infonce', 256),
  'dim_cifar10_local_infonce_256_chunked': Run(
    'dim_cifar10:local_infonce', 256, {'objective.memory.score_chunk': '4096'}
  ),
  'dim_cifar10_local_jsd': Run('dim_cifar10:local_jsd', 64),
  'dim_stl10_local_infonce': Run('dim_stl10:local_infonce', 64),
  'dim_cifar10_supervised': Run('dim_cifar10:supervised', 64),
  'dim_cifar10_vae': Run('dim_cifar10:vae', 64),
  'dim_cifar10_aae': Run('dim_cifar10:aae', 64),
  'dim_cifar10_bigan': Run('dim_cifar10:bigan', 64),
  'dim_cifar10_nat': Run('dim_cifar10:nat', 64),
  'gim_librispeech_cpc': Run('gim_librispeech:cpc', 8),
  'gim_stl10': Run('gim_stl10:gim', 32),
  'gim_stl10_cpc': Run('gim_stl10:cpc', 32),
  'dim_cifar10_resnet19': Run(
    'dim_cifar10:local_infonce', 64, {'objective.encoder': 'resnet19_32'}
  ),
}


def measure(name: str, topology: str) -> dict[str, Any]:
  """Compiles a run for a slice.

  Args:
    name: of `RUNS`.
    topology: the slice.

  Returns:
    What `slices.compile_for` does, or with 'error' why it does not fit.
  """
  run = RUNS[name]
  config = overrides.apply(load(run), dict(run.fields))
  config.batch_size = run.each * slices.parse(topology)[1]
  if hasattr(config.data, 'stream'):
    config.data.stream = True
  row = {'run': name, 'topology': topology, 'batch_size': config.batch_size}
  try:
    return row | dry_run.on_slice(config, topology)
  except slices.DoesNotFitError as error:
    return row | {'error': str(error)}


def load(run: Run) -> Any:
  """Loads the config of a run."""
  return configs.load(run.config)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the rows that were kept; a line that was cut short is none."""
  rows = []
  if path.exists():
    for line in path.read_text(encoding='utf-8').splitlines():
      try:
        rows.append(json.loads(line))
      except ValueError:
        continue
  return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats rows in Markdown, in the order of `RUNS`, by the number of chips.

  Efficiencies are against the row of 4 chips of v5e, of the same run.
  """
  lines = [
    '| run (examples a chip) | slice | memory a chip, GB | TFLOP a chip '
    '| GB accessed | collectives: count, GB (in loops) | largest, MB '
    '| step at least, ms | FLOPs, bytes against 4 chips | compile, CPU s |',
    '| --- ' * 10 + '|',
  ]
  found = {(row['run'], row['topology']): row for row in rows}
  for name, run in RUNS.items():
    base = found.get((name, TOPOLOGIES[0]), {})
    for topology in sorted({row['topology'] for row in rows}, key=_order):
      if row := found.get((name, topology)):
        cells = _cells(row, base if 'flops' in base else None)
        lines.append(f'| {name} ({run.each}) | {topology} | {cells} |')
  return '\n'.join(lines)


def _order(topology: str) -> tuple[str, int]:
  return topology.partition(':')[0], slices.parse(topology)[1]


def _cells(row: Mapping[str, Any], base: Any) -> str:
  if 'error' in row:
    return f'{row["error"]}' + ' |' * 7
  count, size, looped = (
    sum(x[key] for x in row[part].values())
    for part, key in (
      ('collectives', 'count'),
      ('collectives', 'bytes'),
      ('looped', 'count'),
    )
  )
  seconds = row['seconds']
  slowest = max(seconds, key=lambda k: seconds[k])
  scaling = ''
  if base:
    against = slices.efficiency(row, base)
    scaling = f'{against["FLOPs"]:.2f}, {against["bytes"]:.2f}'
  largest = (row['largest'] or {'bytes': 0})['bytes']
  return ' | '.join(
    (
      f'{row["memory"]["total"] / 1e9:.2f}, peak '
      f'{row["memory"]["peak"] / 1e9:.2f} of {row["hbm"] / 1e9:.0f}',
      f'{row["flops"] / 1e12:.4f}',
      f'{row["bytes"] / 1e9:.1f}',
      f'{count:,}, {size / 1e9:.3f} ({looped:,})',
      f'{largest / 1e6:.1f}',
      f'{1e3 * seconds[slowest]:.2f} ({slowest})',
      scaling,
      f'{row["compile_seconds"]["cpu"]:.0f}',
    )
  )


def write(rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes the result."""
  # The compiler for TPUs would look for some.
  jax.config.update('jax_platforms', 'cpu')
  session = provenance.session()
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    session['versions']['libtpu'] = importlib.metadata.version('libtpu')
  files.write_json(str(RESULT), session | {'rows': list(rows)})


def main() -> None:
  """Compiles what is left, or one row for the process that does."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rows', type=pathlib.Path, help='where rows are kept')
  parser.add_argument('--only', help='names of runs, with commas between')
  parser.add_argument('--topologies', default=','.join(TOPOLOGIES))
  parser.add_argument('--table', action='store_true', help='compile nothing')
  parser.add_argument('--work', nargs=2, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    print(json.dumps(measure(*args.work)))
    return
  names = args.only.split(',') if args.only else list(RUNS)
  if unknown := [name for name in names if name not in RUNS]:
    parser.error(f'no run {unknown[0]!r}: there are {", ".join(RUNS)}.')
  topologies = args.topologies.split(',')
  try:
    for topology in topologies:
      slices.parse(topology)
  except ValueError as error:
    parser.error(str(error))
  if args.rows is None:
    parser.error('say where rows are kept: --rows=runs/pod_check.jsonl')
  args.rows.parent.mkdir(parents=True, exist_ok=True)
  known = {(row['run'], row['topology']) for row in read(args.rows)}
  for topology in () if args.table else topologies:
    for name in names:
      if (name, topology) in known:
        continue
      print(f'{name} on {topology}', file=sys.stderr, flush=True)
      words = (sys.executable, '-m', 'experiments.benchmarks.pod_check')
      done = subprocess.run(
        [*words, '--work', name, topology],
        cwd=harness.ROOT,
        stdout=subprocess.PIPE,
        text=True,
      )
      if done.returncode:
        sys.exit(f'Error: {name} on {topology} ended with {done.returncode}.')
      with args.rows.open('a', encoding='utf-8') as file:
        # What a kill left of a line before stays a line of its own.
        file.write('\n' + done.stdout.splitlines()[-1] + '\n')
  rows = read(args.rows)
  print(table(rows))
  known = {(row['run'], row['topology']) for row in rows}
  # Some alone leave the result as it is.
  if args.table or known >= set(itertools.product(RUNS, TOPOLOGIES)):
    write(rows)


if __name__ == '__main__':
  main()
