"""Lists all configs with the published row of each, or a field's values.

  python -m experiments.list
  python -m experiments.list --of=encoders

`python -m experiments.train --list` and `--list=encoders` do the same.
"""

from experiments import catalogue
from experiments.command import Command

_COMMAND = Command('list', __doc__)
_OF = _COMMAND.string('of', 'configs', 'Configs, or a field such as encoders.')


def main(argv: list[str] | None = None) -> None:
  _COMMAND.run(lambda: catalogue.show(_OF.value), argv)


if __name__ == '__main__':
  main()
