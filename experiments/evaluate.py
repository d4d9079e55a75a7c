"""Probes a run's frozen encoder beside the untrained one and the raw data.

  python -m experiments.evaluate runs/digits
  python -m experiments.evaluate runs/cifar10 --probes=linear,knn \
      --taps=fc,y --max_train=20000

Results go to RUN/evaluation/probes.json, where a later call with other probes
or taps adds to them, and features for figures to RUN/evaluation/features.npz.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import rich.console

from dim_jax.evaluation import probes as probes_lib
from dim_jax.runs.evaluate import FEATURES, evaluate, table
from dim_jax.training import parallel


def names(text: str) -> tuple[str, ...]:
  """A flag's value 'a,b' as its parts."""
  return tuple(filter(None, text.split(',')))


def whole(text: str) -> tuple[int, ...]:
  """A flag's value '0,1' as whole numbers."""
  return tuple(int(part) for part in names(text))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  default = probes_lib.Protocol()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.evaluate',
    description=(__doc__ or '').splitlines()[0],
  )
  add = parser.add_argument

  add('run_dir', metavar='RUN', help='the --workdir of a run')
  add('--probes', type=names, default=tuple(probes_lib.PROBES))
  add('--taps', type=names, help='conv, fc, y, module_0, ... that there are')
  add(
    '--features',
    type=names,
    default=FEATURES,
    help=f'of {",".join(FEATURES)} what to probe',
  )
  add('--labels', type=names, help='such as speaker,digit; all if left out')
  add('--step', type=int, help='a checkpoint; the newest if left out')
  add('--seeds', type=int, default=default.seeds)
  add('--max_train', type=int, help='keep so many training rows, at random')
  add('--few_labels', type=int, default=default.few_labels, help='a class')
  add('--few_draws', type=int, default=default.few_draws)
  add('--mlp_epochs', type=int, default=default.mlp_epochs)
  add(
    '--mlp_decay_epochs',
    type=whole,
    help='rate x 0.1 at these; at a half and three quarters if left out',
  )
  add('--mlp_learning_rate', type=float, default=default.mlp_learning_rate)
  add(
    '--mlp_average_epochs',
    type=int,
    default=default.mlp_average_epochs,
    help='mean test accuracy over so many last epochs',
  )
  add('--svm_max_examples', type=int, default=default.svm_max_examples)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns its exit status."""
  args = _parse(argv)
  try:
    epochs = args.mlp_epochs
    protocol = probes_lib.Protocol(
      seeds=args.seeds,
      max_examples=args.max_train,
      few_labels=args.few_labels,
      few_draws=args.few_draws,
      mlp_epochs=epochs,
      mlp_decay_epochs=args.mlp_decay_epochs
      or tuple(sorted({max(1, epochs // 2), max(1, 3 * epochs // 4)})),
      mlp_learning_rate=args.mlp_learning_rate,
      mlp_average_epochs=args.mlp_average_epochs,
      svm_max_examples=args.svm_max_examples,
    )
    report = evaluate(
      args.run_dir,
      probes=args.probes,
      taps=args.taps,
      labels=args.labels,
      features=args.features,
      protocol=protocol,
      step=args.step,
    )
  except (OSError, RuntimeError, ValueError) as error:
    sys.stderr.write(f'evaluate: {error}\n')
    return 1
  console = rich.console.Console()
  console.print(table(report))
  if report['note']:
    console.print(report['note'])
  console.print(os.path.join(args.run_dir, 'evaluation', 'probes.json'))
  return 0


if __name__ == '__main__':
  parallel.cache_compilations()
  sys.exit(main())
