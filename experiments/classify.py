"""Measures a run that classifies: errors, information, attacks, calibration.

  python -m experiments.classify runs/vib_mnist
  python -m experiments.classify runs/vib_mnist --attacks=fgsm,pgd,cw \
      --examples=200 --surrogate=runs/deterministic --ood=noise,inverted

Prints the error of one posterior sample beside that of their averaged
prediction, of the averaged weights and of the last ones, and writes
RUN/evaluation/classification.json and .npz, which `experiments.report` shows.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import rich.console

from dim_jax.runs.classify import (
  ATTACKS,
  LOSSES,
  OOD,
  attack_table,
  classify,
  detection_table,
  table,
)
from dim_jax.training import parallel
from experiments import evaluate


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m experiments.classify',
    description=(__doc__ or '').splitlines()[0],
  )
  add = parser.add_argument

  def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in evaluate.names(text))

  add('run_dir', metavar='RUN', help='the --workdir of a run')
  add('--samples', type=int, default=12, help='posterior samples')
  add('--step', type=int, help='a checkpoint; the newest if left out')
  add('--attacks', type=evaluate.names, default=(), help=', '.join(ATTACKS))
  add('--losses', type=evaluate.names, default=LOSSES, help='of fgsm and pgd')
  add(
    '--epsilons',
    type=numbers,
    default=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
    help='Linf budgets, in pixels of [0, 1]',
  )
  add('--examples', type=int, default=1000, help='test images to attack')
  add('--surrogate', help='a run to make transferred attacks on')
  add('--cw_steps', type=int, default=200)
  add('--cw_searches', type=int, default=5)
  add('--ood', type=evaluate.names, default=(), help=', '.join(OOD))
  add('--seed', type=int, default=0)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns its exit status."""
  args = _parse(argv)
  try:
    report = classify(**vars(args))
  except (OSError, ValueError) as error:
    sys.stderr.write(f'classify: {error}\n')
    return 1
  console = rich.console.Console()
  console.print(table(report))
  if report['attacks']:
    console.print(attack_table(report))
  if report['ood']:
    console.print(detection_table(report))
  if report['note']:
    console.print(report['note'])
  console.print(os.path.join(args.run_dir, 'evaluation/classification.json'))
  return 0


if __name__ == '__main__':
  parallel.cache_compilations()
  sys.exit(main())
