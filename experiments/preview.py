"""Draws what a config's augmentation makes of its first training images.

  python -m experiments.preview --out=preview.png --config.data.jitter=0.5 \
      --config=experiments/configs/dim_cifar10_local_jsd.py

Each row is an image as it is stored, then views of it as training may see them.
The same seed and config draw the same picture.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from absl import flags

from dim_jax import config as config_lib
from dim_jax.report import figures
from dim_jax.runs.preview import preview
from experiments import train


def main(argv: Sequence[str]) -> int:
  """Runs the command line and returns its exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.preview',
    description=(__doc__ or '').splitlines()[0],
    epilog='--config=FILE and --config.a.b=VALUE are those of '
    'experiments.train.',
    allow_abbrev=False,
  )
  parser.add_argument('--out', default='preview.png', help='the PNG to write')
  parser.add_argument('--examples', type=int, default=8, help='rows')
  parser.add_argument('--views', type=int, default=8, help='of each example')
  args, rest = parser.parse_known_args(argv[1:])
  train.parse([argv[0], *rest])
  config = flags.FLAGS.config
  try:
    if config is None:
      raise ValueError('give a config, --config=experiments/configs/NAME.py.')
    if isinstance(config, config_lib.SweepConfig):
      config = config.run
    folder = os.path.dirname(os.path.abspath(args.out))
    if not os.path.isdir(folder):
      raise FileNotFoundError(f'no folder {folder!r} for --out.')
    figure = preview(config, examples=args.examples, views=args.views)
    figures.write(figure, args.out)
  except (ValueError, OSError) as error:
    sys.stderr.write(f'preview: {error}\n')
    return 1
  print(args.out)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))
