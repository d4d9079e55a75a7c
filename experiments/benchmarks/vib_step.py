"""How long one VIB training step takes, beside the same step in PyTorch.

  python -m experiments.benchmarks.vib_step \
      --torch_python=/path/to/an/environment/bin/python

Prints one JSON line. The case is the paper's network on MNIST shapes: 784-1024-
1024, K = 256, batch 100, Adam and a moving average of all weights on both
sides. `--torch_python` is any interpreter that imports torch (`pip install
torch numpy`); by default this one.

Both sides run as processes of their own that wait for their turn, so they
alternate within one run and never compete; each has `--threads` threads. Times
are medians over turns, in seconds:

  ours_s, peer_s        one step, ours inside of the scan that `fit` dispatches;
                        ratio = peer_s / ours_s
  peer_fused_s          PyTorch's with its fused Adam
  samples_12_s          one step of ours with 12 posterior samples
  samples_12_own_s      the same where every sample draws its own noise
  compile_s             the first call of the scan less a later one
  sweep_step_s          one step of each of 5 x 3 runs (beta x seed) in one
                        compiled program, divided by 15
  sweep_bytes           what that program allocates at most, states included
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from typing import Any

from experiments.benchmarks import workers

FORMS = ('ours', 'samples_12', 'samples_12_own')
BETAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SEEDS = (0, 1, 2)


class Ours:
  """Our step in each form; made inside of the worker."""

  def __init__(self, args: argparse.Namespace) -> None:
    """Builds the objectives, the optimizer and the data.

    Args:
      args: the parsed command line.
    """
    import jax
    import numpy as np

    from dim_jax.training import loop, parallel

    self._batch_size = args.batch_size
    self._mesh = parallel.make_mesh(1)
    random = np.random.default_rng(0)
    data = {
      'image': random.integers(0, 256, (60000, 28, 28, 1), np.uint8),
      'label': random.integers(0, 10, 60000).astype(np.int32),
    }
    self._data = parallel.replicate(data, self._mesh)
    self._runs: dict[str, list[Any]] = {}
    self.compile_s = 0.0
    for name, fields in {
      'ours': {'samples': 1},
      'samples_12': {'samples': 12},
      'samples_12_own': {'samples': 12, 'share_noise': False},
    }.items():
      objective, optimizer, state = _build(args.code, data, fields)
      chunk = loop.make_chunk(objective, optimizer, self._mesh)
      state = parallel.replicate(state, self._mesh)
      self._runs[name] = [state, chunk]
      start = time.perf_counter()
      self.seconds(name, args.steps)
      first = time.perf_counter() - start
      if name == 'ours':
        self.compile_s = first - args.steps * self.seconds(name, args.steps)
    state = self._runs['ours'][0]
    self.parameters = sum(x.size for x in jax.tree.leaves(state.params))

  def seconds(self, name: str, steps: int) -> float:
    """Takes steps in one scan and returns the seconds of one.

    Args:
      name: one of FORMS.
      steps: how many.
    """
    import jax
    import numpy as np

    from dim_jax.training import parallel

    indices = np.arange(steps * self._batch_size, dtype=np.int32) % 60000
    indices = indices.reshape(steps, self._batch_size)
    state, chunk = self._runs[name]
    start = time.perf_counter()
    state, values = chunk(
      state, self._data, parallel.put_columns(indices, self._mesh)
    )
    jax.block_until_ready((state, values))
    self._runs[name][0] = state
    return (time.perf_counter() - start) / steps


def _build(code: int, data: Any, fields: Any) -> tuple[Any, Any, Any]:
  import jax

  from dim_jax.config import OptimizerConfig
  from dim_jax.objectives import vib
  from dim_jax.training import step

  objective = vib.make(vib.Config(code=code, **fields))
  example = {name: values[:2] for name, values in data.items()}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), example)
  optimizer = step.make_optimizer(OptimizerConfig(), {}, params, 0.999)
  init = jax.jit(
    lambda key: step.init_state(objective, optimizer, example, key)
  )
  return objective, optimizer, init(jax.random.key(0))


def sweep(args: argparse.Namespace) -> dict[str, float]:
  """Times the grid of runs, and reads what its one program allocates.

  Args:
    args: the parsed command line.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from dim_jax.runs import sweep as sweep_lib
  from dim_jax.training import grid, loop, parallel

  random = np.random.default_rng(0)
  data = {
    'image': jnp.asarray(random.integers(0, 256, (6000, 28, 28, 1), np.uint8)),
    'label': jnp.asarray(random.integers(0, 10, 6000), jnp.int32),
  }
  objective, optimizer, _ = _build(args.code, data, {})
  runs = [(beta, seed) for beta in BETAS for seed in SEEDS]
  betas, seeds = zip(*runs, strict=True)
  example = {name: values[:2] for name, values in data.items()}
  states = grid.init_states(
    objective, optimizer, example, grid.Runs(seeds, {'beta': betas})
  )
  indices = grid.batch_indices(
    seeds, 0, 10, batch_size=args.batch_size, num_examples=6000
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
    times.append((time.perf_counter() - start) / (10 * len(runs)))
  return {
    'sweep_runs': len(runs),
    'sweep_step_s': round(statistics.median(times[1:]), 5),
    'sweep_bytes': sweep_lib.peak_bytes(compiled),
  }


def work(args: argparse.Namespace) -> None:
  """The worker of our side: `FORM STEPS` on a line, seconds a step back."""
  ours = Ours(args)
  import jax

  versions = {
    name: __import__(name).__version__ for name in ('jax', 'jaxlib', 'flax')
  }
  ready = {
    'compile_s': ours.compile_s,
    'device': jax.devices()[0].device_kind,
    'parameters': ours.parameters,
    'versions': versions | {'python': platform.python_version()},
  }
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    form, steps = line.split()
    answer = sweep(args) if form == 'sweep' else ours.seconds(form, int(steps))
    print(json.dumps(answer), flush=True)


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line.

  Args:
    args: the parsed command line.
  """
  sizes = [
    f'--batch_size={args.batch_size}',
    f'--code={args.code}',
    f'--threads={args.threads}',
  ]
  ours_command = [
    *(sys.executable, '-m', 'experiments.benchmarks.vib_step', *sizes),
    *(f'--steps={args.steps}', '--work'),
  ]
  peer_command = [
    *(args.torch_python, 'experiments/benchmarks/torch_vib.py', *sizes)
  ]
  environment = {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(args.threads)}
  load = os.getloadavg()[0]
  times: dict[str, list[float]] = {
    name: [] for name in ('peer', 'peer_fused', *FORMS)
  }
  with contextlib.ExitStack() as stack:
    start = lambda command: stack.enter_context(  # noqa: E731
      workers.working(command, environment)
    )
    peer = start(peer_command)
    fused = start([*peer_command, '--adam=fused'])
    ours = start(ours_command)
    for _ in range(args.turns):
      times['peer'].append(peer.ask(args.steps))
      times['peer_fused'].append(fused.ask(args.steps))
      for form in FORMS:
        times[form].append(ours.ask(f'{form} {args.steps}'))
    found = ours.ask('sweep 0')
  median = {name: statistics.median(values) for name, values in times.items()}
  return {
    'name': f'vib_mnist_k{args.code}',
    **{f'{name}_s': round(value, 5) for name, value in median.items()},
    'ratio': round(median['peer'] / median['ours'], 3),
    'ratio_fused': round(median['peer_fused'] / median['ours'], 3),
    'ratio_samples_12': round(median['samples_12'] / median['ours'], 3),
    'spread': {
      f'{name}_s': [round(min(values), 5), round(max(values), 5)]
      for name, values in times.items()
    },
    'turns': args.turns,
    'steps': args.steps,
    'compile_s': round(ours.ready['compile_s'], 2),
    **found,
    'batch_size': args.batch_size,
    'code': args.code,
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
  parser.add_argument('--torch_python', default=sys.executable)
  parser.add_argument('--turns', type=int, default=7)
  parser.add_argument('--steps', type=int, default=100, help='steps a turn')
  parser.add_argument('--batch_size', type=int, default=100)
  parser.add_argument('--code', type=int, default=256)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--work', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    workers.pin(args.threads)
    work(args)
  else:
    print(json.dumps(compare(args)))


if __name__ == '__main__':
  main()
