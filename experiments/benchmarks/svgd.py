"""How long one step of SVGD takes, beside the same step in blackjax.

  python -m experiments.benchmarks.svgd \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line. The target is a standard Gaussian in 50 dimensions, the
optimizer Adam, and the bandwidth the paper's, from the particles of each step,
on both sides. `--peer_python` is any interpreter that imports blackjax (`pip
install blackjax`); by default this one.

Bytes are what a program allocates at most:

  ours_s, peer_s           one step of 1,000 particles inside of a scan; ratio =
                           peer_s / ours_s
  bytes                    of that scan, and of the programs below
  variance                 of both sides' particles after the first scan: equal,
                           if they compute the same
  large_s                  one step of 10,000 particles in blocks of rows, with
                           a given bandwidth
  large_bandwidth_s        finding the paper's bandwidth of them, in blocks
  large_pairs_bytes        one float32 for each of their pairs
  mala_per_s               transitions of 1,000 chains in 50 dimensions, in one
                           scan, counted over all chains
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import harness

FORMS = ('ours', 'large', 'large_bandwidth', 'mala')


class Ours:
  """Our programs; made inside of the worker."""

  def __init__(self, args: argparse.Namespace) -> None:
    """Compiles each form and calls it once.

    Args:
      args: the parsed flags.
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
  """Answers a form with the seconds of a step."""
  ours = Ours(args)
  harness.serve({'bytes': ours.bytes, 'variance': ours.variance}, ours.seconds)


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line."""
  machine = harness.machine(args.threads)
  sizes = ('particles', 'dimensions', 'steps')
  more = ('large', 'block_size', 'transitions')
  commands = {
    'peer': harness.peer('blackjax_svgd', args, *sizes),
    'ours': harness.worker('svgd', args, *sizes[:2], *more),
  }
  with harness.working(commands, args.threads) as workers:
    peer, ours = workers['peer'], workers['ours']
    seconds = harness.alternate(
      {'peer': (peer, 'step'), 'ours': (ours, 'ours')}, args.turns
    )
    seconds |= harness.alternate({name: (ours, name) for name in FORMS[1:]}, 3)
    sides = harness.sides(workers, 'variance', 'bytes')
  fields = harness.summary(seconds, digits=5)
  return {
    'name': f'svgd_n{args.particles}_d{args.dimensions}',
    **fields,
    'large_pairs_bytes': 4 * args.large**2,
    'mala_per_s': round(args.particles / fields['mala_s']),
    **{name: getattr(args, name) for name in (*sizes, 'large', 'block_size')},
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, peer='blackjax', turns=5, steps=5)
  for name, default in {
    'particles': 1000,
    'large': 10_000,
    'dimensions': 50,
    'block_size': 500,
    'transitions': 200,
  }.items():
    parser.add_argument(f'--{name}', type=int, default=default)
  harness.run(parser.parse_args(), compare, work)


if __name__ == '__main__':
  main()
