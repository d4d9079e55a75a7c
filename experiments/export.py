"""Writes a run's encoder as one file of arrays, with a card that describes it.

  python -m experiments.export runs/digits
  python -m experiments.export runs/digits --out=encoder.npz

The file is read by `dim_jax.load`, or by NumPy alone; the card, encoder.md, has
the config, the data and the numbers that were measured of this very step.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from dim_jax.runs.model_card import export
from experiments import report


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m experiments.export',
    description=(__doc__ or '').splitlines()[0],
  )
  add = parser.add_argument
  add('run_dir', metavar='RUN', help='the --workdir of a run')
  add('--out', help='the file; RUN/encoder.npz if left out')
  add('--step', type=int, help='a checkpoint; the newest if left out')
  add(
    '--players',
    choices=('encode', 'all'),
    default='encode',
    help='what encoding reads, or critics, probes and the rest too',
  )
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns its exit status."""
  args = _parse(argv)
  try:
    paths = export(
      args.run_dir,
      args.out,
      step=args.step,
      all_players=args.players == 'all',
      command=report.train_command(args.run_dir),
    )
  except (OSError, ValueError) as error:
    if os.environ.get('DIM_JAX_TRACEBACK'):
      raise
    sys.stderr.write(f'export: {error}\n')
    return 1
  print(*paths, sep='\n')
  return 0


if __name__ == '__main__':
  sys.exit(main())
