"""Trains, measures and compares information-maximising representations.

  dim-jax list
  dim-jax train --config=dim_digits --workdir=runs/digits
  dim-jax evaluate runs/digits
  dim-jax report runs/digits

dim-jax COMMAND --help shows the flags of one; dim-jax --version, the version.
"""

import ast
import difflib
import importlib
import os
import pathlib
import sys

# In the order of --help; each is the module of its name, with a `main`.
COMMANDS = (
  'list',
  'train',
  'evaluate',
  'classify',
  'density',
  'couplet',
  'represent',
  'report',
  'runs',
  'measure',
  'table',
  'layerwise',
  'asynchronous',
  'preview',
  'export',
)


def main() -> None:
  """Runs the command that the program's first argument names.

  Raises:
    SystemExit: it names none, in one line that says which there are; or what
      the command itself raises.
  """
  words = sys.argv[1:]
  name = words[0] if words else '--help'
  if name in ('--help', '-h', '-help', 'help'):
    print(overview())
    return
  if name == '--version':
    import dim_jax

    print(f'dim-jax {dim_jax.__version__}')
    return
  if name not in COMMANDS:
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f' Did you mean {near[0]}?' if near else ''
    sys.exit(
      f'Error: unknown command {name!r}.{hint} There are '
      f'{", ".join(COMMANDS)}; dim-jax --help tells what each does.'
    )
  # Methods and encoders of one's own are imported from the current folder, as
  # `python -m` does; behind all others, none of which they can hide.
  sys.path.append(os.getcwd())
  # From here on it is a program of its own, whose results record its name.
  sys.argv[:2] = [f'dim-jax {name}']
  importlib.import_module(f'{__name__}.{name}').main()


def overview() -> str:
  """Lists the commands, with what the first line of each one's help says.

  Their files are read and not imported, which would take seconds.
  """
  folder = pathlib.Path(__file__).parent
  lines = []
  width = max(map(len, COMMANDS)) + 2
  for name in COMMANDS:
    source = (folder / f'{name}.py').read_text(encoding='utf-8')
    text = ast.get_docstring(ast.parse(source)) or ''
    lines.append(f'  {name:<{width}}{text.partition(chr(10))[0]}')
  return '\n'.join([(__doc__ or '').strip(), '\nCommands:', *lines])
