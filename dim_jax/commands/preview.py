r"""Draws what a config's augmentation makes of training images.

  dim-jax preview --file=preview.png --config.data.jitter=0.5 \
      --config=dim_cifar10:local_jsd

Each row is an image as it is stored, then views of it as training may see them.
The same seed and config draw the same picture.
"""

import os

from dim_jax import config as config_lib
from dim_jax.commands.command import Command, show
from dim_jax.report import figures
from dim_jax.runs.preview import preview

_COMMAND = Command('preview', __doc__, old={'out': '--file=FILE'})
_CONFIG = _COMMAND.config()
_FILE = _COMMAND.path('file', 'preview.png', 'The PNG to write.')
_EXAMPLES = _COMMAND.integer('examples', 8, 'How many, a row each.')
_VIEWS = _COMMAND.integer('views', 8, 'Of each example.')


@_COMMAND.main
def main() -> None:
  config = _CONFIG.value
  if config is None:
    raise ValueError('give a config, --config=NAME')
  if isinstance(config, config_lib.SweepConfig):
    config = config.run
  folder = os.path.dirname(os.path.abspath(_FILE.value))
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'no folder {folder!r} for --file.')
  figure = preview(config, examples=_EXAMPLES.value, views=_VIEWS.value)
  figures.write(figure, _FILE.value)
  show(_FILE.value)
