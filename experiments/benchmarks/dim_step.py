"""How long one training step takes, beside the same step in PyTorch.

  python -m experiments.benchmarks.dim_step --critic=factored \
      --torch_python=/path/to/an/environment/bin/python

Prints one JSON line. The case is DIM(L) with InfoNCE on basic32, 2048 units and
Adam, without prior and probe. `--torch_python` is any interpreter that imports
torch (`pip install torch numpy`); by default this one. PyTorch takes the step
of `torch_dim`, always with the paper's projection critic.

Both sides run as processes of their own that wait for their turn, so they
alternate within one run and never compete; each has `--threads` threads. Times
are medians over turns, in seconds:

  ours_s, peer_s   one step, dispatched by itself; ratio = peer_s / ours_s
  fit_step_s       one step inside of the scan that `fit` dispatches
  compile_s        the first call of the step less a later one, without a cache
  cold_start_s     a new process, until it has taken the first step of a scan,
                   with an empty compilation cache
  warm_start_s     the same, with the cache that the other left

and, of InfoNCE by itself, its value and gradient from scores [N, N, L]:

  infonce_peak_bytes          what XLA allocates at most, scores included
  infonce_materialised_bytes  one array [N, L, 1 + N * L] of float32
"""

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from typing import Any

from experiments.benchmarks import workers

FORMS = ('step', 'fit')


class Ours:
  """Our step, by itself and in a scan; made inside of the worker."""

  def __init__(self, args: argparse.Namespace) -> None:
    """Builds the objective, the optimizer and the data.

    Args:
      args: the parsed command line.
    """
    import jax
    import numpy as np

    from dim_jax.config import OptimizerConfig
    from dim_jax.objectives import dim
    from dim_jax.training import loop, parallel, step

    objective = dim.make(
      dim.Config(
        encoder='basic32',
        bound='infonce',
        critic=args.critic,
        critic_units=args.units,
        prior_weight=0.0,
        num_classes=0,
      )
    )
    images = np.random.default_rng(0).integers(
      0, 256, (4 * args.batch_size, 32, 32, 3), np.uint8
    )
    mesh = parallel.make_mesh(1)
    self._mesh = mesh
    self._batch_size = args.batch_size
    self._data = parallel.replicate({'image': images}, mesh)
    self._batch = parallel.replicate({'image': images[: args.batch_size]}, mesh)
    params, _ = jax.eval_shape(objective.init, jax.random.key(0), self._batch)
    optimizer = step.make_optimizer(OptimizerConfig(), {}, params)
    self.parameters = sum(x.size for x in jax.tree.leaves(params))
    init = jax.jit(
      lambda key: step.init_state(objective, optimizer, self._batch, key)
    )
    self.state = parallel.replicate(init(jax.random.key(0)), mesh)
    self._step = step.jit_step(
      functools.partial(
        step.train_step, objective=objective, optimizer=optimizer
      ),
      mesh,
    )
    self._chunk = loop.make_chunk(objective, optimizer, mesh)

  def seconds(self, form: str, steps: int) -> float:
    """Takes steps and returns the seconds of one.

    Args:
      form: 'step', a dispatch each, or 'fit', one scan of them all.
      steps: how many.
    """
    import jax
    import numpy as np

    from dim_jax.training import parallel

    start = time.perf_counter()
    if form == 'step':
      for _ in range(steps):
        self.state, values = self._step(self.state, self._batch)
    else:
      indices = np.arange(steps * self._batch_size, dtype=np.int32)
      indices = indices.reshape(steps, -1) % len(self._data['image'])
      self.state, values = self._chunk(
        self.state, self._data, parallel.put_columns(indices, self._mesh)
      )
    jax.block_until_ready((self.state, values))
    return (time.perf_counter() - start) / steps


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
  """The worker of our side: `FORM STEPS` on a line, seconds a step back."""
  ours = Ours(args)
  first = ours.seconds('step', 1)
  ours.seconds('fit', args.steps)
  import jax

  versions = {
    name: __import__(name).__version__ for name in ('jax', 'jaxlib', 'flax')
  }
  ready = {
    'compile_s': first - ours.seconds('step', 1),
    'device': jax.devices()[0].device_kind,
    'parameters': ours.parameters,
    'infonce_peak_bytes': infonce_peak_bytes(args.batch_size, 64),
    'versions': versions | {'python': platform.python_version()},
  }
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    form, steps = line.split()
    print(json.dumps(ours.seconds(form, int(steps))), flush=True)


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the two sides and returns the fields of the JSON line.

  Args:
    args: the parsed command line.
  """
  sizes = [f'--batch_size={args.batch_size}', f'--units={args.units}']
  ours_command = [
    *(sys.executable, '-m', 'experiments.benchmarks.dim_step', *sizes),
    *(f'--critic={args.critic}', f'--steps={args.steps}'),
    f'--threads={args.threads}',
  ]
  peer_command = [
    *(args.torch_python, 'experiments/benchmarks/torch_dim.py', *sizes),
    f'--threads={args.threads}',
  ]
  environment = {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(args.threads)}
  with tempfile.TemporaryDirectory() as cache:
    cached = environment | {
      'JAX_COMPILATION_CACHE_DIR': cache,
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    cold, warm = (
      workers.start_seconds([*ours_command, '--work=start'], cached)
      for _ in range(2)
    )

  times: dict[str, list[float]] = {name: [] for name in ('peer', *FORMS)}
  load = os.getloadavg()[0]
  with (
    workers.working(peer_command, environment) as peer,
    workers.working([*ours_command, '--work=turns'], environment) as ours,
  ):
    for _ in range(args.turns):
      times['peer'].append(peer.ask(args.steps))
      for form in FORMS:
        times[form].append(ours.ask(f'{form} {args.steps}'))
  median = {name: statistics.median(values) for name, values in times.items()}
  locations = 64
  materialised = locations * (1 + args.batch_size * locations)
  return {
    'name': f'dim_local_infonce_basic32_{args.critic}',
    'ours_s': round(median['step'], 4),
    'peer_s': round(median['peer'], 4),
    'ratio': round(median['peer'] / median['step'], 3),
    'fit_step_s': round(median['fit'], 4),
    'spread': {
      {'step': 'ours_s', 'fit': 'fit_step_s', 'peer': 'peer_s'}[name]: [
        round(min(values), 4),
        round(max(values), 4),
      ]
      for name, values in times.items()
    },
    'turns': args.turns,
    'steps': args.steps,
    'compile_s': round(ours.ready['compile_s'], 2),
    'cold_start_s': round(cold, 2),
    'warm_start_s': round(warm, 2),
    'infonce_peak_bytes': ours.ready['infonce_peak_bytes'],
    'infonce_materialised_bytes': 4 * args.batch_size * materialised,
    'batch_size': args.batch_size,
    'units': args.units,
    'parameters': {
      'ours': ours.ready['parameters'],
      'peer': peer.ready['parameters'],
    },
    'machine': workers.machine(args.threads, load),
    'versions': {
      'ours': ours.ready['versions'],
      'peer': peer.ready['versions'],
    },
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--critic', choices=('projection', 'factored'), default='factored'
  )
  parser.add_argument('--torch_python', default=sys.executable)
  parser.add_argument('--turns', type=int, default=7)
  parser.add_argument('--steps', type=int, default=3, help='steps a turn')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--units', type=int, default=2048)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument(
    '--work', choices=('turns', 'start'), help=argparse.SUPPRESS
  )
  args = parser.parse_args()
  if args.work:
    workers.pin(args.threads)
  if args.work == 'turns':
    work(args)
  elif args.work == 'start':
    Ours(args).seconds('fit', 1)
  else:
    print(json.dumps(compare(args)))


if __name__ == '__main__':
  main()
