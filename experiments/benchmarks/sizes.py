"""How fast each encoder trains, and in how much memory, by batch size.

  python -m experiments.benchmarks.sizes > sizes.json
  python -m experiments.benchmarks.sizes --quick
  python -m experiments.benchmarks.sizes --encoders=basic32,resnet50 \
      --batch_sizes=64,256 --budget_s=60

Prints one JSON line, and its table on stderr. It takes 10 to 15 minutes on two
cores. A row is a full training step of DIM(L) with InfoNCE, for each of
`networks.encoders.ENCODERS`: the encoder, the factored critic of 2,048 units,
the uniform prior and its adversary, Adam, no probe; or one of Greedy InfoMax,
for each of `networks.greedy_modules.MODULES`, on the examples of `gim_step`.
Images and sounds are noise. Each row is a process of its own, with `--threads`
threads, so that its peak is its own:

  step_s            one step inside of a scan, the median over turns
  examples_per_s    batch_size / step_s
  compile_s         of that scan
  peak_bytes        of the process on a CPU, with what Python and JAX take; what
                    the device's allocator held at most elsewhere
  start_bytes       of the process before the network was made
  argument_bytes    of the compiled scan by XLA: parameters, moments, examples
  temporary_bytes   likewise: activations, scores, gradients

`--budget_s` ends a row, its start and compilation included. Such a row says
'over_budget', and larger batches of its encoder are not tried but say so too. A
row that failed, as one without enough memory does, has the 'error'.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from experiments.benchmarks import gim_step, harness

BATCH_SIZES = (8, 64, 256)
QUICK = {'encoders': ('small32', 'resnet_small'), 'batch_sizes': (8,)}


def names() -> tuple[str, ...]:
  """All encoders, Deep InfoMax's first."""
  from dim_jax.networks import encoders, greedy_modules

  return (*encoders.ENCODERS, *greedy_modules.MODULES)


def case(name: str) -> tuple[Any, tuple[int, ...], str]:
  """The objective of an encoder, and the shape and dtype of an example.

  Args:
    name: of `names`.
  """
  from dim_jax.networks import encoders, greedy_modules
  from dim_jax.objectives import dim, gim

  if name in encoders.ENCODERS:
    size = encoders.make(name).image_size
    config = dim.Config(
      encoder=name, bound='infonce', critic='factored', num_classes=0
    )
    if name.startswith('foldmulti'):  # These have several globals and no code.
      config.global_feature = 'globals'
    channels = 1 if size == 28 else 3
    return dim.make(config), (size, size, channels), 'uint8'
  crops = greedy_modules.MODULES[name]()[0]
  if isinstance(crops, greedy_modules.CropEncoder):
    size = encoders.make(crops.encoder).image_size
    crop = encoders.of_crops(crops.encoder).image_size
    crop_config = gim.Config(
      modules=name,
      patch_size=crop,
      patch_stride=crop // 2,
      stop_gradient_after=(),
      negatives=None,
      num_classes=0,
    )
    return gim.make(crop_config), (size, size, 3), 'uint8'
  # A context changes neither the examples nor the fields, but for
  # where the gradient stops.
  plain = name.removesuffix('_cpc')
  like = {
    'resnet50': 'vision',
    'resnet34': 'vision',
    'resnet_small': 'vision_small',
    'patch_small': 'vision_patch_small',
  }.get(plain, plain)
  fields, shape, dtype, _ = gim_step.CASES[like]
  fields = fields | {'modules': name}
  if name != plain:
    fields['stop_gradient_after'] = ()
  return gim.make(gim.Config(num_classes=0, **fields)), shape, dtype


def measure(
  name: str, batch_size: int, *, steps: int, turns: int
) -> dict[str, Any]:
  """Takes steps and returns a row.

  Args:
    name: of `names`.
    batch_size: N.
    steps: of a turn, one scan.
    turns: how many are measured.
  """
  import jax

  device = jax.devices()[0]
  start_bytes = _resident_peak()
  objective, shape, dtype = case(name)
  examples = gim_step.examples(2 * batch_size, shape, dtype)
  scan = harness.Scan(objective, examples, batch_size, steps)
  times = [scan.seconds() for _ in range(turns)]
  step_s = statistics.median(times)
  allocated = scan.compiled.memory_analysis()
  stats = device.memory_stats() if device.platform != 'cpu' else None
  return {
    'step_s': round(step_s, 5),
    'examples_per_s': round(batch_size / step_s, 2),
    'range_s': [round(min(times), 5), round(max(times), 5)],
    'compile_s': round(scan.compile_s, 2),
    'peak_bytes': stats['peak_bytes_in_use'] if stats else _resident_peak(),
    'start_bytes': start_bytes,
    'argument_bytes': allocated.argument_size_in_bytes,
    'temporary_bytes': allocated.temp_size_in_bytes,
    'parameters': scan.parameters,
    'example': list(shape),
    'device': device.device_kind,
    'versions': harness.versions(),
  }


def _resident_peak() -> int:
  """Bytes that this process held at most."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak


def row(command: Sequence[str], budget_s: float) -> dict[str, Any]:
  """What a process that measures prints, or why it did not.

  Args:
    command: of the process.
    budget_s: seconds after which it ends.
  """
  try:
    done = subprocess.run(
      command,
      cwd=harness.ROOT,
      capture_output=True,
      text=True,
      timeout=budget_s,
    )
  except subprocess.TimeoutExpired:
    return {'over_budget': budget_s}
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ['']
    return {'error': f'status {done.returncode}: {lines[-1][:200]}'}
  return json.loads(done.stdout.splitlines()[-1])


def table(args: argparse.Namespace) -> dict[str, Any]:
  """Measures every row and returns the fields of the JSON line.

  Args:
    args: the parsed command line.
  """
  machine = harness.machine(args.threads)
  rows, shared = [], {}
  start = time.perf_counter()
  for name in args.encoders:
    over = False
    for batch_size in sorted(args.batch_sizes):
      measured: dict[str, Any] = {'over_budget': args.budget_s, 'tried': False}
      if not over:
        measured = row(
          [
            *(sys.executable, '-m', 'experiments.benchmarks.sizes'),
            *('--work=row', f'--encoders={name}'),
            *(f'--batch_sizes={batch_size}', f'--turns={args.turns}'),
            *harness.flags(args, 'steps', 'threads'),
          ],
          args.budget_s,
        )
      over = 'over_budget' in measured
      for key in ('device', 'versions'):
        if key in measured:
          shared[key] = measured.pop(key)
      rows.append({'encoder': name, 'batch_size': batch_size} | measured)
      print(line(rows[-1]), file=sys.stderr, flush=True)
  return {
    'name': 'sizes',
    'rows': rows,
    'seconds': round(time.perf_counter() - start, 1),
    'turns': args.turns,
    'steps': args.steps,
    'budget_s': args.budget_s,
    'critic': 'factored, 2048 units',
    'device': shared.get('device'),
    'machine': machine,
    'versions': {'ours': shared.get('versions')},
  }


def line(row: dict[str, Any]) -> str:
  """A row of the table, of one width.

  Args:
    row: as of `table`.
  """
  text = f'{row["encoder"]:22}{row["batch_size"]:>6}  '
  if 'error' in row:
    return f'{text}{row["error"]}'
  if 'over_budget' in row:
    tried = '' if row.get('tried', True) else ', as a smaller batch was'
    return f'{text}over {row["over_budget"]:g} s{tried}'
  return (
    f'{text}{row["examples_per_s"]:10.1f} examples/s'
    f'{row["peak_bytes"] / 2**20:10.0f} MiB at most'
    f'{row["temporary_bytes"] / 2**20:10.0f} MiB of temporaries'
  )


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split(','))


def _sizes(text: str) -> tuple[int, ...]:
  sizes = tuple(int(word) for word in text.split(','))
  if min(sizes) < 2:
    raise argparse.ArgumentTypeError('needs batches of two or more')
  return sizes


def work(args: argparse.Namespace) -> None:
  """Prints the row of one encoder and batch size."""
  (name,), (size,) = args.encoders, args.batch_sizes
  print(json.dumps(measure(name, size, steps=args.steps, turns=args.turns)))


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, turns=3, steps=1)
  parser.add_argument('--encoders', type=_words, help='all, if left out')
  parser.add_argument('--batch_sizes', type=_sizes)
  parser.add_argument(
    '--budget_s', type=float, default=45.0, help='seconds of a row'
  )
  parser.add_argument('--quick', action='store_true', help='two small rows')
  args = parser.parse_args()
  known = names()
  quick = QUICK if args.quick else {}
  args.encoders = args.encoders or quick.get('encoders', known)
  args.batch_sizes = args.batch_sizes or quick.get('batch_sizes', BATCH_SIZES)
  if unknown := [name for name in args.encoders if name not in known]:
    parser.error(f'no encoder {unknown[0]!r}: there are {", ".join(known)}.')
  harness.run(args, table, work)


if __name__ == '__main__':
  main()
