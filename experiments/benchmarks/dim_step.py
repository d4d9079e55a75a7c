"""How long one training step takes, beside the same step in PyTorch.

  python -m experiments.benchmarks.dim_step --critic=factored \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line. The case is DIM(L) with InfoNCE on basic32, 2048 units and
Adam, without prior and probe. `--peer_python` is any interpreter that imports
torch (`pip install torch numpy`); by default this one. PyTorch takes the step
of `torch_dim`, always with the paper's projection critic.

  ours_s, peer_s   one step, dispatched by itself; ratio = peer_s / ours_s
  fit_step_s       one step inside of the scan that `fit` dispatches
  compile_s        compiling that scan
  cold_start_s     a new process, until it has taken the first step of a scan,
                   with an empty compilation cache
  warm_start_s     the same, with the cache that the other left

and, of InfoNCE by itself, its value and gradient from scores [N, N, L]:

  infonce_peak_bytes          what XLA allocates at most, scores included
  infonce_materialised_bytes  one array [N, L, 1 + N * L] of float32
"""

import argparse
import tempfile
import time
from typing import Any

from experiments.benchmarks import harness

LOCATIONS = 64


def make(args: argparse.Namespace, steps: int) -> tuple[Any, Any, Any]:
  """Returns the objective, a batch, and the scan of the step.

  Args:
    args: the parsed flags.
    steps: of a scan.
  """
  import numpy as np

  from dim_jax.objectives import dim

  objective = dim.make(
    dim.Config(
      encoder='basic32',
      bound='infonce',
      critic=args.critic,
      critic_units=args.units,
      prior=None,
      num_classes=0,
    )
  )
  images = np.random.default_rng(0).integers(
    0, 256, (4 * args.batch_size, 32, 32, 3), np.uint8
  )
  scan = harness.Scan(objective, {'image': images}, args.batch_size, steps)
  return objective, {'image': images[: args.batch_size]}, scan


def infonce_peak_bytes(batch_size: int, locations: int) -> int:
  """Bytes that InfoNCE's value and gradient need at most, scores included.

  Args:
    batch_size: N, images.
    locations: L, locals of each.
  """
  import jax
  import jax.numpy as jnp

  from dim_jax.losses import bounds

  def loss(scores: jax.Array) -> jax.Array:
    positive, negative, where = bounds.split_pairs(scores)
    return -bounds.infonce(positive, negative, where=where)

  shape = jax.ShapeDtypeStruct((batch_size, batch_size, locations), jnp.float32)
  compiled = jax.jit(jax.value_and_grad(loss)).lower(shape).compile()
  memory: Any = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
  )


def work(args: argparse.Namespace) -> None:
  """Answers 'ours' and 'fit_step' with the seconds of a step."""
  if args.work == 'start':
    make(args, 1)
    return
  import functools

  import jax

  from dim_jax.training import parallel, step

  objective, batch, scan = make(args, args.steps)
  one = functools.partial(
    step.train_step, objective=objective, optimizer=scan.optimizer
  )
  mesh = parallel.make_mesh(1)
  batch = parallel.replicate(batch, mesh)
  # A state of its own, as the scan donates the other.
  state = jax.tree.map(lambda x: x.copy(), scan.state)
  single: Any = jax.jit(one, donate_argnums=0)

  def seconds() -> float:
    nonlocal state
    start = time.perf_counter()
    for _ in range(args.steps):
      state, values = single(state, batch)
    jax.block_until_ready((state, values))
    return (time.perf_counter() - start) / args.steps

  seconds()
  ready = {
    'compile_s': scan.compile_s,
    'parameters': scan.parameters,
    'flops': scan.flops,
    'infonce_peak_bytes': infonce_peak_bytes(args.batch_size, LOCATIONS),
  }
  harness.serve(
    ready, lambda form: seconds() if form == 'ours' else scan.seconds()
  )


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the two sides and returns the fields of the JSON line."""
  machine = harness.machine(args.threads)
  ours = harness.worker('dim_step', args, 'batch_size', 'units', 'critic')
  commands = {
    **harness.torch_peers('torch_dim', args, 'batch_size', 'units'),
    'ours': ours,
  }
  with tempfile.TemporaryDirectory() as cache:
    cached = {
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': cache,
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    cold, warm = (
      harness.start_seconds([*ours, '--work=start'], cached) for _ in range(2)
    )
  with harness.working(commands, args.threads) as workers:
    seconds = harness.alternate(
      {
        **{k: (worker, args.steps) for k, worker in workers.items()},
        'ours': (workers['ours'], 'ours'),
        'fit_step': (workers['ours'], 'fit_step'),
      },
      args.turns,
    )
    sides = harness.sides(workers, 'parameters')
    ready = workers['ours'].ready
  materialised = LOCATIONS * (1 + args.batch_size * LOCATIONS)
  fields = harness.summary(seconds)
  return {
    'name': f'dim_local_infonce_basic32_{args.critic}',
    **fields,
    **harness.rate(ready['flops'], fields['fit_step_s'], machine),
    'steps': args.steps,
    'compile_s': round(ready['compile_s'], 2),
    'cold_start_s': round(cold, 2),
    'warm_start_s': round(warm, 2),
    'infonce_peak_bytes': ready['infonce_peak_bytes'],
    'infonce_materialised_bytes': 4 * args.batch_size * materialised,
    'batch_size': args.batch_size,
    'units': args.units,
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, peer='torch', turns=7, steps=3)
  critics = ('projection', 'factored')
  parser.add_argument('--critic', choices=critics, default='factored')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--units', type=int, default=2048)
  harness.run(parser.parse_args(), compare, work)


if __name__ == '__main__':
  main()
