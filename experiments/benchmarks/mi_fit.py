r"""Estimates of mutual information beside torch-mist: time and error.

  python -m experiments.benchmarks.mi_fit --task=sparse_5 \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line. Both sides estimate the same draws of a task in turn:
--pairs to fit and select on, and 5,000 fresh ones to report on. Ours is
`dim_jax.estimate_mi` without its control; torch-mist's is `estimate_mi` as it
comes, its SMILE.

Fields:
  ours_cpu_s, peer_cpu_s    seconds of the processor, all cores added up; a
                            median, once compiled
  ours_wall_s, peer_wall_s  seconds
  first_cpu_s               of each side's first fit, with its compilation
  ratio                     peer_cpu_s / ours_cpu_s
  seeds_16_cpu_s            16 seeds of ours on one draw, in one program, and
  seeds_16_first_cpu_s      with its compilation
  ours_error, peer_error    mean of the values less those of the exact critic on
                            the same pairs, in nats
  programs                  that ours compiled for all fits of one seed
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np

from experiments.benchmarks import harness

REPORTED = 5_000
SEEDS = 16


def write_draws(args: argparse.Namespace, folder: pathlib.Path) -> list[float]:
  """Writes the draws of a task.

  Args:
    args: the parsed flags.
    folder: gets '0.npz' and so on, with x, y, report_x and report_y.

  Returns:
    What the exact critic reports of each draw, in nats.
  """
  from dim_jax.data import pairs

  task, exact = pairs.find(args.task), []
  for i in range(args.turns + 1):
    rng = np.random.default_rng(i)
    x, y = task.sample(rng, args.pairs)
    fresh = task.sample(rng, REPORTED)
    np.savez(
      folder / f'{i}.npz', x=x, y=y, report_x=fresh[0], report_y=fresh[1]
    )
    exact.append(float(task.pointwise(*fresh).mean()))
  return exact


def work(args: argparse.Namespace) -> None:
  """Answers 'DRAW SEEDS' with value, processor and wall time of a fit."""
  import warnings

  import dim_jax
  from dim_jax.evaluation.information import fit

  warnings.simplefilter('ignore', UserWarning)

  def answer(request: str) -> dict[str, float]:
    draw, seeds = map(int, request.split())
    with np.load(pathlib.Path(args.work) / f'{draw}.npz') as given:
      arrays = dict(given)
    start, began = time.process_time(), time.perf_counter()
    estimate = dim_jax.estimate_mi(
      arrays['x'],
      arrays['y'],
      report=(arrays['report_x'], arrays['report_y']),
      seeds=range(seeds),
      control=False,
    )
    return {
      'value': estimate.value,
      'cpu_s': time.process_time() - start,
      'wall_s': time.perf_counter() - began,
      'programs': fit.fit._cache_size(),  # type: ignore[attr-defined]
    }

  harness.serve({}, answer)


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line."""
  machine = harness.machine(args.threads)
  with tempfile.TemporaryDirectory() as name:
    exact = write_draws(args, pathlib.Path(name))
    module = 'experiments.benchmarks.mi_fit'
    commands = {
      'ours': [
        *(sys.executable, '-m', module, f'--work={name}'),
        *harness.flags(args, 'threads'),
      ],
      'peer': [*harness.peer('torch_mist_fit', args), f'--folder={name}'],
    }
    with harness.working(commands, args.threads) as workers:
      fits: dict[str, list[Any]] = {side: [] for side in workers}
      for draw in range(args.turns + 1):
        for side, worker in workers.items():
          fits[side].append(worker.ask(f'{draw} 1'))
      many = [workers['ours'].ask(f'{draw} {SEEDS}') for draw in (0, 1)]
      sides = harness.sides(workers)
  fields: dict[str, Any] = {}
  for side, mine in fits.items():
    for kind in ('cpu_s', 'wall_s'):
      values = [fit[kind] for fit in mine[1:]]
      fields[f'{side}_{kind}'] = round(statistics.median(values), 2)
    errors = [fit['value'] - e for fit, e in zip(mine, exact, strict=True)]
    fields[f'{side}_error'] = round(statistics.mean(errors), 4)
  return {
    'name': f'mi_fit_{args.task}_{args.pairs}',
    **fields,
    'ratio': round(fields['peer_cpu_s'] / fields['ours_cpu_s'], 2),
    'first_cpu_s': {s: round(mine[0]['cpu_s'], 2) for s, mine in fits.items()},
    'seeds_16_cpu_s': round(many[1]['cpu_s'], 2),
    'seeds_16_first_cpu_s': round(many[0]['cpu_s'], 2),
    'programs': fits['ours'][-1]['programs'],
    'turns': args.turns,
    'pairs': args.pairs,
    'reported': REPORTED,
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, peer='torch_mist', turns=5, steps=1)
  parser.add_argument('--task', default='sparse_5', help='in data.pairs.TASKS')
  parser.add_argument('--pairs', type=int, default=10_000)
  harness.run(parser.parse_args(), compare, work)


if __name__ == '__main__':
  main()
