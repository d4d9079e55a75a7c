r"""A step of each baseline, beside the least that its work could take.

  python -m experiments.benchmarks.baseline_step

Prints one JSON line. All methods of the Deep InfoMax paper's table that add
networks to its encoder take steps inside of the scan of `fit`, in turn, on the
rows of dim_jax/configs/dim_cifar10.py. The floor of a method is a step of
the supervised one, which is the encoder forward and backward with its
optimizer, and the products that the method adds to it (those of decoder,
generator and discriminator) at the machine's own product rate.

Fields:
  METHOD_s         seconds a step
  floor_s          by method
  ratio_to_floor   METHOD_s / floor_s
  step_gflop       of products, by method
"""

import argparse
import time
from typing import Any

from experiments.benchmarks import harness

ENCODER = 'supervised'
METHODS = (ENCODER, 'ae', 'vae', 'aae', 'bigan', 'nat')


def work(args: argparse.Namespace) -> None:
  """Answers the name of a method with the seconds of its step."""
  import jax
  import numpy as np

  from dim_jax.config import make_objective
  from dim_jax.configs import dim_cifar10

  random = np.random.default_rng(0)
  count = 4 * args.batch_size
  examples = {
    'image': random.integers(0, 256, (count, 32, 32, 3), np.uint8),
    'label': random.integers(0, 10, count).astype(np.int32),
    'index': np.arange(count, dtype=np.int32),
  }
  scans = {}
  for name in METHODS:
    config = dim_cifar10.get_config(name)
    config.objective.probe_features = ()
    objective = make_objective(config)
    scans[name] = harness.Scan(objective, examples, args.batch_size, args.steps)
  one = jax.random.normal(jax.random.key(0), (2048, 2048))
  product = jax.jit(lambda x: x @ x)

  def answer(request: str) -> float:
    if request in scans:
      return scans[request].seconds()
    start = time.perf_counter()
    product(one).block_until_ready()
    return time.perf_counter() - start

  answer('product')
  flops = {name: scan.flops for name, scan in scans.items()}
  harness.serve({'flops': flops}, answer)


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Asks for all methods in turn and returns the fields of the JSON line."""
  machine = harness.machine(args.threads)
  command = harness.worker('baseline_step', args, 'batch_size')
  with harness.working({'ours': command}, args.threads) as workers:
    (worker,) = workers.values()
    requests = {name: (worker, name) for name in (*METHODS, 'product')}
    seconds = harness.alternate(requests, args.turns)
    flops, sides = worker.ready['flops'], harness.sides(workers)
  fields = harness.summary(seconds)
  # Of this run, because other work slows both alike.
  per_s = 2 * 2048**3 / fields['product_s']
  floors = {
    name: fields[f'{ENCODER}_s'] + (flops[name] - flops[ENCODER]) / per_s
    for name in METHODS
  }
  return {
    'name': 'baselines_basic32',
    **fields,
    'floor_s': {name: round(x, 4) for name, x in floors.items()},
    'ratio_to_floor': {
      name: round(fields[f'{name}_s'] / x, 3) for name, x in floors.items()
    },
    'step_gflop': {name: round(x / 1e9, 2) for name, x in flops.items()},
    'steps': args.steps,
    'batch_size': args.batch_size,
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, turns=5, steps=4)
  parser.add_argument('--batch_size', type=int, default=64)
  harness.run(parser.parse_args(), compare, work)


if __name__ == '__main__':
  main()
