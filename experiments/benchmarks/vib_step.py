"""How long one VIB training step takes, beside the same step in PyTorch.

  python -m experiments.benchmarks.vib_step \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line. The case is the paper's network on MNIST shapes: 784-1024-
1024, K = 256, batch 100, Adam and a moving average of all weights on both
sides. `--peer_python` is any interpreter that imports torch (`pip install
torch numpy`); by default this one.

  ours_s, peer_s        one step, ours inside of the scan that `fit` dispatches;
                        ratio = peer_s / ours_s
  peer_fused_s          PyTorch's with its fused Adam
  samples_12_s          one step of ours with 12 posterior samples
  samples_12_own_s      the same where every sample draws its own noise
  compile_s             compiling the scan
  sweep_step_s          one step of each of 5 x 3 runs (beta x seed) in one
                        compiled program, divided by 15
  sweep_bytes           what that program allocates at most, states included
"""

import argparse
import statistics
import time
from typing import Any

from experiments.benchmarks import harness

FORMS: dict[str, dict[str, Any]] = {
  'ours': {'samples': 1},
  'samples_12': {'samples': 12},
  'samples_12_own': {'samples': 12, 'share_noise': False},
}
BETAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SEEDS = (0, 1, 2)
STEPS = 10  # of the sweep's scan


def examples(count: int) -> dict[str, Any]:
  """Returns images of noise and labels."""
  import numpy as np

  random = np.random.default_rng(0)
  return {
    'image': random.integers(0, 256, (count, 28, 28, 1), np.uint8),
    'label': random.integers(0, 10, count).astype(np.int32),
  }


def sweep(args: argparse.Namespace, optimizer: Any) -> dict[str, float]:
  """Times a sweep, and reads what its one program allocates.

  Args:
    args: the parsed flags.
    optimizer: of its runs.
  """
  import jax
  import jax.numpy as jnp

  from dim_jax.objectives import vib
  from dim_jax.runs import sweep as sweep_lib
  from dim_jax.training import grid, loop, parallel

  data = {name: jnp.asarray(x) for name, x in examples(6000).items()}
  objective = vib.make(vib.Config(code=args.code))
  runs = [(beta, seed) for beta in BETAS for seed in SEEDS]
  betas, seeds = zip(*runs, strict=True)
  few = {name: values[:2] for name, values in data.items()}
  states = grid.init_states(
    objective, optimizer, few, grid.Runs(seeds, {'beta': betas})
  )
  indices = grid.batch_indices(
    seeds, 0, STEPS, batch_size=args.batch_size, num_examples=6000
  )
  chunk: Any = loop.make_chunk(
    objective, optimizer, parallel.make_mesh(1), form='grid'
  )
  compiled = chunk.lower(states, data, indices).compile()
  times = []
  for _ in range(4):
    start = time.perf_counter()
    states, _ = compiled(states, data, indices)
    jax.block_until_ready(states)
    times.append((time.perf_counter() - start) / (STEPS * len(runs)))
  return {
    'sweep_runs': len(runs),
    'sweep_step_s': round(statistics.median(times[1:]), 5),
    'sweep_bytes': sweep_lib.peak_bytes(compiled),
  }


def work(args: argparse.Namespace) -> None:
  """Answers a form with the seconds of a step, or 'sweep' with its figures."""
  from dim_jax.objectives import vib

  data = examples(60_000)
  scans = {
    name: harness.Scan(
      vib.make(vib.Config(code=args.code, **fields)),
      data,
      args.batch_size,
      args.steps,
      average=0.999,
    )
    for name, fields in FORMS.items()
  }
  ours = scans['ours']
  harness.serve(
    {
      'compile_s': ours.compile_s,
      'parameters': ours.parameters,
      'flops': ours.flops,
    },
    lambda form: (
      sweep(args, ours.optimizer) if form == 'sweep' else scans[form].seconds()
    ),
  )


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line."""
  machine = harness.machine(args.threads)
  peers = harness.torch_peers('torch_vib', args, 'batch_size', 'code')
  commands = {
    **peers,
    'peer_fused': [*peers['peer'], '--adam=fused'],
    'ours': harness.worker('vib_step', args, 'batch_size', 'code'),
  }
  with harness.working(commands, args.threads) as workers:
    requests: dict[str, Any] = {
      name: (worker, args.steps)
      for name, worker in workers.items()
      if name != 'ours'
    }
    requests |= {name: (workers['ours'], name) for name in FORMS}
    seconds = harness.alternate(requests, args.turns)
    figures = workers['ours'].ask('sweep')
    sides = harness.sides(workers, 'parameters')
    ready = workers['ours'].ready
  fields = harness.summary(seconds, digits=5)
  return {
    'name': f'vib_mnist_k{args.code}',
    **fields,
    **harness.rate(ready['flops'], fields['ours_s'], machine),
    'ratio_samples_12': round(fields['samples_12_s'] / fields['ours_s'], 3),
    'steps': args.steps,
    'compile_s': round(ready['compile_s'], 2),
    **figures,
    'batch_size': args.batch_size,
    'code': args.code,
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, peer='torch', turns=7, steps=100)
  parser.add_argument('--batch_size', type=int, default=100)
  parser.add_argument('--code', type=int, default=256)
  harness.run(parser.parse_args(), compare, work)


if __name__ == '__main__':
  main()
