"""Measures the density that a run of an energy learned, in nats.

  python -m experiments.density runs/mixture_2d
  python -m experiments.density runs/rbm runs/gan --ais

Points in one or two dimensions are normalised on a grid and compared with the
density that they were drawn from; an RBM has an exact partition function, and
annealed importance sampling (AIS) beside it. Other energies are normalised by
AIS alone, and only where --ais asks for it: it is wrong where chains do not
find all modes. Samples are compared with the test set.

Writes RUN/evaluation/density.json and .npz.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import rich.console

from dim_jax.runs.density import density, notes, table
from dim_jax.training import parallel


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns its exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.density',
    description=(__doc__ or '').splitlines()[0],
  )
  add = parser.add_argument
  add('runs', nargs='+', metavar='RUN', help='the --workdir of a run')
  add('--step', type=int, help='a checkpoint; the newest if left out')
  add('--ais', action='store_true', help='estimate log Z of any energy')
  add('--chains', type=int, default=100, help='of AIS')
  add('--temperatures', type=int, default=1000, help='of AIS')
  add('--samples', type=int, default=1000)
  add('--chain_steps', type=int, default=1000, help='to a sample from noise')
  add('--seed', type=int, default=0)
  options = vars(parser.parse_args(argv))
  console = rich.console.Console()
  for run_dir in options.pop('runs'):
    try:
      report = density(run_dir, **options)
    except (OSError, ValueError) as error:
      sys.stderr.write(f'density: {error}\n')
      return 1
    if report['rows']:
      console.print(table(report))
    console.print(notes(report))
    console.print(os.path.join(run_dir, 'evaluation', 'density.json'))
  return 0


if __name__ == '__main__':
  parallel.cache_compilations()
  sys.exit(main())
