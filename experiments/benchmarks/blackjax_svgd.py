"""SVGD in blackjax, for `svgd`: needs blackjax alone.

The paper's bandwidth from the particles of each step, Adam, and a standard
Gaussian.
"""

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.vi import svgd


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--particles', type=int, default=1000)
  parser.add_argument('--dimensions', type=int, default=50)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--threads', type=int, default=2)
  args = parser.parse_args()
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  shape = (args.particles, args.dimensions)
  x = np.random.default_rng(0).normal(1, 0.5, shape).astype(np.float32)
  score = jax.grad(lambda x: -0.5 * jnp.sum(jnp.square(x)))
  algorithm = svgd.as_top_level_api(score, optax.adam(0.05))
  # Its step uses the bandwidth that the step before found.
  state = algorithm.init(jnp.asarray(x), {'length_scale': jnp.ones(())})
  state = jax.jit(svgd.update_median_heuristic)(state)

  @jax.jit
  def run(state: svgd.SVGDState) -> svgd.SVGDState:
    step = lambda state, _: (algorithm.step(state), None)  # noqa: E731
    return jax.lax.scan(step, state, None, length=args.steps)[0]

  compiled = run.lower(state).compile()
  memory: Any = compiled.memory_analysis()
  state = jax.block_until_ready(compiled(state))
  ready = {
    'bytes': memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes,
    'variance': float(jnp.var(state.particles)),
    'versions': {
      'blackjax': blackjax.__version__,
      'jax': jax.__version__,
      'python': platform.python_version(),
    },
  }
  print(json.dumps(ready), flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    state = jax.block_until_ready(compiled(state))
    seconds = (time.perf_counter() - start) / args.steps
    print(json.dumps(seconds), flush=True)


if __name__ == '__main__':
  main()
