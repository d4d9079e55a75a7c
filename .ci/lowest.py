"""Prints the lowest versions of the direct dependencies, as constraints.

python .ci/lowest.py > lowest.txt
python -m pip install --constraint lowest.txt --editable '.[dev]'
"""

import pathlib
import re
import tomllib

PYPROJECT = pathlib.Path(__file__).resolve().parents[1] / 'pyproject.toml'
# NAME>=VERSION, and what platform it is for.
_LOWEST = re.compile(
  r'(?P<name>[\w.-]+)(\[\w+\])?>=(?P<version>[\w.]+)(?P<platform>;.*)?'
)


def lowest(requirements: list[str]) -> list[str]:
  """Pins each requirement to its lower bound.

  Raises:
    ValueError: one has no lower bound.
  """
  pins = []
  for requirement in requirements:
    match = _LOWEST.fullmatch(requirement)
    if not match:
      raise ValueError(f'{requirement!r} has no lower bound.')
    pins.append(f'{match["name"]}=={match["version"]}{match["platform"] or ""}')
  return pins


if __name__ == '__main__':
  project = tomllib.loads(PYPROJECT.read_text(encoding='utf-8'))['project']
  print(*lowest(project['dependencies']), sep='\n')  # noqa: T201
