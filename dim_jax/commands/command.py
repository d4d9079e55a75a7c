"""What all commands share: their flags, the config, errors as one line."""

import dataclasses
import functools
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import rich.console
from absl import flags, logging

from dim_jax import config as config_lib
from dim_jax import configs
from dim_jax.runs import overrides
from dim_jax.training import hosts, parallel

RUN = 'RUN'
_NO = 'no'  # `--noflag` is False, as everywhere in absl.
_FIELDS = {x.name for x in dataclasses.fields(config_lib.ExperimentConfig)}


class Command:
  """The flags of a program, and how it runs.

  Each has flags of its own (and not absl's global ones), so that commands can
  import one another, and tests can call several.
  """

  def __init__(
    self,
    name: str,
    doc: str | None,
    *,
    takes: str = '',
    old: Mapping[str, str] | None = None,
    on_all_hosts: bool = False,
  ):
    """Makes a command that has but --help and --distributed.

    Args:
      name: what is typed behind dim-jax; of a study, its module in
        experiments.
      doc: the text that --help shows.
      takes: what the words after it are, such as 'RUN' for the folders of
        runs; '[FOLDER]' where they may be left out; '' for a command without.
      old: by the name of a flag that was or is elsewhere, what to give
        instead.
      on_all_hosts: whether several processes share its work; else process 0
        does it, and the others wait.
    """
    self._on_all_hosts = on_all_hosts
    self._name, self._doc, self._takes = name, doc or '', takes
    self._old, self._flags = dict(old or {}), flags.FlagValues()
    self._needs_folder = False
    self.boolean('help', False, 'Show this.')
    self.string(
      'distributed',
      None,
      'COORDINATOR:PORT,COUNT,ID of a job of several processes, where none is '
      'detected.',
    )
    if takes == RUN:
      # What train calls it, so that one may repeat its command.
      self.path('workdir', None, 'The folder of a run, which needs no flag.')

  # absl lists flags by the file that calls it, so that it is called here.

  def integer(self, name: str, default: int | None, text: str) -> Any:
    """Adds a whole number."""
    return flags.DEFINE_integer(name, default, text, flag_values=self._flags)

  def real(self, name: str, default: float | None, text: str) -> Any:
    """Adds a number."""
    return flags.DEFINE_float(name, default, text, flag_values=self._flags)

  def boolean(self, name: str, default: bool, text: str) -> Any:
    """Adds a switch."""
    return flags.DEFINE_bool(name, default, text, flag_values=self._flags)

  def string(self, name: str, default: str | None, text: str) -> Any:
    """Adds a word."""
    return flags.DEFINE_string(name, default, text, flag_values=self._flags)

  def path(self, name: str, default: str | None, text: str) -> Any:
    """Adds a file or folder; '~' is the user's home."""
    return self._define(name, default, text, _Parser(os.path.expanduser))

  def folder(self, text: str) -> Any:
    """Adds --workdir, which has to be given."""
    self._needs_folder = True
    return self.path('workdir', None, text)

  def repeated(self, name: str, text: str) -> Any:
    """Adds a word that may be given several times, a list."""
    return flags.DEFINE_multi_string(name, None, text, flag_values=self._flags)

  def items(
    self,
    name: str,
    default: Sequence[Any] | None,
    text: str,
    kind: Callable[[str], Any] = str,
  ) -> Any:
    """Adds several values with commas between, a tuple."""

    def read(argument: str) -> tuple[Any, ...]:
      return tuple(kind(part) for part in filter(None, argument.split(',')))

    shown = None if default is None else ','.join(map(str, default))
    return self._define(name, shown, text, _Parser(read))

  def config(self, default: str | None = None) -> Any:
    """Adds --config=NAME, with --config.a.b=VALUE for each of its fields."""
    text = (
      'NAME or NAME:ROW of `dim-jax list`, or FILE.py with a get_config(); '
      '--config.FIELD=VALUE changes a field.'
    )
    return self._define('config', default, text, _Parser(configs.load))

  def _define(self, name: str, default: Any, text: str, parser: Any) -> Any:
    return flags.DEFINE(parser, name, default, text, flag_values=self._flags)

  def parse(self, argv: Sequence[str]) -> list[str]:
    """Parses the program's name and arguments; returns those that are no flags.

    Raises:
      SystemExit: one is wrong, in one line that ends with what to type.
    """
    for name in self._flags:
      self._flags[name].unparse()
    argv, fields = _split(argv)
    try:
      _, *rest = self._flags(argv)
      if fields:
        if self._flags.config is None:
          raise ValueError('--config.FIELD=VALUE needs --config=NAME too.')
        flag = self._flags['config']
        flag.value = overrides.apply(flag.value, fields)
    except flags.UnrecognizedFlagError as error:
      if new := self._old.get(error.flagname):
        sys.exit(f'Error: there is no --{error.flagname}: give {new}.')
      if 'config' in self._flags and error.flagname in _FIELDS:
        name = f'--config.{error.flagname}'
        sys.exit(
          f'Error: unknown flag {error.flagname!r}: did you mean {name}?'
        )
      text = str(error).replace('command line ', '').replace(' ?', '?')
      text += '' if text.endswith('?') else '.'
      sys.exit(f'Error: {text} All flags: {self._invocation("--help")}')
    except (flags.Error, ValueError) as error:
      sys.exit(f'Error: {error}')
    if self._flags.help:
      text = self._flags.get_help().replace(f'{__name__}:', 'Flags:')
      text = text.partition('\nabsl.flags:')[0]  # Those that absl adds.
      print(f'{self._doc.strip()}\n\n{text.strip()}')
      sys.exit(0)
    return rest

  def main(self, function: Callable[..., None]) -> Callable[..., None]:
    """Makes a program of a function, as a decorator; see `run`."""
    return functools.partial(self.run, function)

  def _invocation(self, arguments: str) -> str:
    study = '.' in self._name
    program = 'python -m experiments.' if study else 'dim-jax '
    return f'{program}{self._name} {arguments}'

  def run(
    self, main: Callable[..., None], argv: Sequence[str] | None = None
  ) -> None:
    """Parses the flags and runs the program, a user's mistakes as one line.

    Args:
      main: gets the words of a command that takes some, else nothing.
      argv: arguments; those of the process if None.

    Raises:
      SystemExit: something is wrong. DIM_JAX_TRACEBACK=1 shows where.
    """
    words = self.parse([self._name, *(sys.argv[1:] if argv is None else argv)])
    workdir = self._flags['workdir'].value if 'workdir' in self._flags else None
    if self._takes == RUN and workdir:
      words.append(workdir)
      line = self._invocation(workdir)
      sys.stderr.write(f'A run needs no flag: {line}\n')
    if self._takes and not words and not self._takes.startswith('['):
      what = 'the folder of a run' if self._takes == RUN else 'one'
      sys.exit(f'Error: give {what}: {self._invocation(self._takes)}')
    if words and not self._takes:
      named = words[0].partition(':')[0] in configs.names()
      if named and 'config' in self._flags:
        advice = f'did you mean --config={words[0]}?'
        sys.exit(f'Error: unknown argument {words[0]!r}: {advice}')
      if 'workdir' in self._flags and not workdir:
        advice = f'to make that folder, give --workdir={words[0]}'
        sys.exit(f'Error: unknown argument {words[0]!r}; {advice}')
      line = self._invocation('--help')
      sys.exit(f'Error: unknown arguments {words}; all flags: {line}')
    if self._needs_folder and not workdir:
      sys.exit('Error: give --workdir=FOLDER.')
    # Orbax tells of every file that it writes.
    logging.set_verbosity(logging.WARNING)
    try:
      if argv is None:
        where = self._flags['distributed'].value
        hosts.join(where, trains=self._on_all_hosts)
        parallel.cache_compilations()
      arguments = [list(map(os.path.expanduser, words))] if self._takes else []
      if self._on_all_hosts or hosts.is_first():
        with parallel.one_blas_thread():
          main(*arguments)
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
      if os.environ.get('DIM_JAX_TRACEBACK'):
        raise
      # What the devices raise may be the end of another process.
      unsure = isinstance(error, RuntimeError)
      hosts.end(f'Error: {error}', unsure=unsure)
      sys.exit(f'Error: {error}')
    except SystemExit:
      raise
    except BaseException as error:
      if hosts.are_several():
        traceback.print_exc()
        hosts.end(f'Error: {type(error).__name__}: {error}')
      raise


class _Parser(flags.ArgumentParser):
  """Reads a flag by a function that raises ValueError."""

  def __init__(self, read: Callable[[str], Any]):
    self._read = read

  def parse(self, argument: str) -> Any:
    return self._read(argument)


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
  """Takes the fields of the config, by path, out of a program's arguments."""
  rest: list[str] = []
  fields: dict[str, str] = {}
  words = list(argv)
  while words:
    word = words.pop(0)
    name, equals, value = word.lstrip('-').partition('=')
    if not word.startswith('-') or not name.removeprefix(_NO).startswith(
      'config.'
    ):
      # What is listed by default.
      rest.append('--list=configs' if word == '--list' else word)
      continue
    if name.startswith(_NO):
      value = 'False'
    elif not equals:
      given = words and not words[0].startswith('--')
      value = words.pop(0) if given else 'True'
    fields[name.removeprefix(_NO).removeprefix('config.')] = value
  return rest, fields


def show(*parts: Any) -> None:
  """Prints tables and plain texts, on the first of several hosts."""
  # Asking alone would take the accelerator, which a run may be using.
  if jax.distributed.is_initialized() and jax.process_index():
    return
  console = rich.console.Console()
  if not console.is_terminal and 'COLUMNS' not in os.environ:
    # A file has no width that would wrap a table.
    console = rich.console.Console(width=1000)
  for part in parts:
    # A text is data: brackets in a path are no markup, and it may be piped.
    console.print(
      part, markup=False, highlight=False, soft_wrap=isinstance(part, str)
    )
