"""Lists the configs with their published rows, or a field's values.

  dim-jax list
  dim-jax list --of=encoders

`dim-jax train --list` and `--list=encoders` do the same.
"""

from dim_jax.commands import catalogue
from dim_jax.commands.command import Command

_COMMAND = Command('list', __doc__)
_OF = _COMMAND.string('of', 'configs', 'Configs, or a field such as encoders.')


def main(argv: list[str] | None = None) -> None:
  _COMMAND.run(lambda: catalogue.show(_OF.value), argv)
