"""How long one step of SVGD takes, beside the same step in blackjax.

  python -m experiments.benchmarks.svgd \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line. The target is a standard Gaussian in 50 dimensions, the
optimizer Adam, and the bandwidth the paper's, from the particles of each step,
on both sides. `--peer_python` is any interpreter that imports blackjax (`pip
install blackjax`); by default this one.

Both sides run as processes of their own that wait for their turn, so they
alternate within one run and never compete; each has `--threads` threads. Times
are medians over turns, in seconds, bytes what a program allocates at most:

  ours_s, peer_s           one step of 1,000 particles inside of a scan; ratio =
                           peer_s / ours_s
  ours_bytes, peer_bytes   of that scan
  variance                 of both sides' particles after the first scan: equal,
                           if they compute the same
  large_s, large_bytes     one step of 10,000 particles in blocks of rows, with
                           a given bandwidth
  large_bandwidth_s        finding the paper's bandwidth of them, in blocks
  large_pairs_bytes        one float32 for each of their pairs
  mala_per_s               transitions of 1,000 chains in 50 dimensions, in one
                           scan, counted over all chains
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import workers

FORMS = ('ours', 'large', 'large_bandwidth', 'mala')


class Ours:
  """Our programs; made inside of the worker."""

  def __init__(self, args: argparse.Namespace) -> None:
    """Compiles each form and calls it once.

    Args:
      args: the parsed command line.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dim_jax import samplers
    from dim_jax.losses import kernel_stein
    from dim_jax.runs import sweep

    log_density = lambda x: -0.5 * jnp.sum(jnp.square(x), axis=1)  # noqa: E731
    score = jax.grad(lambda x: jnp.sum(log_density(x)))
    optimizer = optax.adam(0.05)

    def make(n: int) -> Any:
      shape = (n, args.dimensions)
      x = np.random.default_rng(0).normal(1, 0.5, shape).astype(np.float32)
      return jnp.asarray(x), optimizer.init(jnp.asarray(x))

    def steps(count: int, **fields: Any) -> Callable[[Any], Any]:
      def step(state: Any, unused: None) -> Any:
        x, memory = state
        phi = kernel_stein.svgd_direction(x, score(x), **fields)
        updates, memory = optimizer.update(-phi, memory)
        return (optax.apply_updates(x, updates), memory), None

      return lambda state: jax.lax.scan(step, state, None, length=count)[0]

    def move(rng: Any, x: Any) -> samplers.Step:
      return samplers.mala(rng, x, log_density, 0.1)

    def walk(state: Any) -> Any:
      end = samplers.run_chain(
        jax.random.key(0), state[0], move, args.transitions
      )
      return end.position, state[1]

    block = {'block_size': args.block_size}
    programs: dict[str, tuple[Any, int, int]] = {
      'ours': (steps(args.steps), args.particles, args.steps),
      'large': (steps(1, bandwidth=10.0, **block), args.large, 1),
      'large_bandwidth': (
        lambda state: kernel_stein.paper_bandwidth(state[0], **block),
        args.large,
        1,
      ),
      'mala': (walk, args.particles, args.transitions),
    }
    self.bytes = {}
    self._runs = {}
    for name, (program, n, count) in programs.items():
      state = make(n)
      compiled = jax.jit(program).lower(state).compile()
      self.bytes[name] = sweep.peak_bytes(compiled)
      self._runs[name] = (compiled, state, count)
    compiled, state, _ = self._runs['ours']
    self.variance = float(jnp.var(compiled(state)[0]))

  def seconds(self, name: str) -> float:
    """Calls a program and returns the seconds of one step.

    Args:
      name: one of FORMS.
    """
    import jax

    compiled, state, count = self._runs[name]
    start = time.perf_counter()
    jax.block_until_ready(compiled(state))
    return (time.perf_counter() - start) / count


def work(args: argparse.Namespace) -> None:
  """The worker of our side: a form on a line, seconds a step back."""
  ours = Ours(args)
  import jax

  ready = {
    'bytes': ours.bytes,
    'variance': ours.variance,
    'device': jax.devices()[0].device_kind,
    'versions': {
      'jax': jax.__version__,
      'python': platform.python_version(),
    },
  }
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    print(json.dumps(ours.seconds(line.strip())), flush=True)


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line.

  Args:
    args: the parsed command line.
  """
  sizes = [
    f'--particles={args.particles}',
    f'--dimensions={args.dimensions}',
    f'--steps={args.steps}',
    f'--threads={args.threads}',
  ]
  ours_command = [
    *(sys.executable, '-m', 'experiments.benchmarks.svgd', *sizes),
    *(f'--large={args.large}', f'--block_size={args.block_size}'),
    *(f'--transitions={args.transitions}', '--work'),
  ]
  peer_command = [
    *(args.peer_python, 'experiments/benchmarks/blackjax_svgd.py', *sizes)
  ]
  environment = {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(args.threads)}
  load = os.getloadavg()[0]
  times: dict[str, list[float]] = {name: [] for name in ('peer', *FORMS)}
  with contextlib.ExitStack() as stack:
    peer = stack.enter_context(workers.working(peer_command, environment))
    ours = stack.enter_context(workers.working(ours_command, environment))
    for _ in range(args.turns):
      times['peer'].append(peer.ask('step'))
      times['ours'].append(ours.ask('ours'))
    for name in FORMS[1:]:
      times[name] = [ours.ask(name) for _ in range(3)]
  median = {name: statistics.median(values) for name, values in times.items()}
  return {
    'name': f'svgd_n{args.particles}_d{args.dimensions}',
    'ours_s': round(median['ours'], 5),
    'peer_s': round(median['peer'], 5),
    'ratio': round(median['peer'] / median['ours'], 3),
    'ours_bytes': ours.ready['bytes']['ours'],
    'peer_bytes': peer.ready['bytes'],
    'variance': {
      'ours': ours.ready['variance'],
      'peer': peer.ready['variance'],
    },
    'large_s': round(median['large'], 4),
    'large_bytes': ours.ready['bytes']['large'],
    'large_bandwidth_s': round(median['large_bandwidth'], 3),
    'large_pairs_bytes': 4 * args.large**2,
    'mala_per_s': round(args.particles / median['mala']),
    'spread': {
      f'{name}_s': [round(min(values), 5), round(max(values), 5)]
      for name, values in times.items()
    },
    'turns': args.turns,
    'steps': args.steps,
    'particles': args.particles,
    'large': args.large,
    'dimensions': args.dimensions,
    'block_size': args.block_size,
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
  parser.add_argument('--peer_python', default=sys.executable)
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument('--steps', type=int, default=5, help='steps a turn')
  parser.add_argument('--particles', type=int, default=1000)
  parser.add_argument('--large', type=int, default=10_000)
  parser.add_argument('--dimensions', type=int, default=50)
  parser.add_argument('--block_size', type=int, default=500)
  parser.add_argument('--transitions', type=int, default=200)
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
