"""What all commands do alike with their arguments."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

import dim_jax
from dim_jax import commands, configs
from dim_jax.commands.command import Command, show
from dim_jax.runs import tables

CONFIG = 'dim_digits'


def make(**options):
  command = Command('demo', 'A demo.', **options)
  flags = {
    'config': command.config(),
    'sizes': command.items('sizes', (1,), 'Of it.', int),
    'steps': command.integer('steps', 5, 'How many.'),
    'file': command.path('file', None, 'Where.'),
  }
  return command, flags


def test_every_form_of_a_field_of_the_config_is_read():
  command, flags = make()
  rest = command.parse(
    [
      'demo',
      'word',
      f'--config={CONFIG}',
      '--config.data.image_size=None',
      '--config.objective.encoder',
      'small32',
      '--config.tensorboard',
      '--noconfig.data.flip',
      '--sizes=3,4',
    ]
  )
  config = flags['config'].value
  assert rest == ['word']
  assert config.data.image_size is None
  assert config.objective.encoder == 'small32'
  assert config.tensorboard is True and config.data.flip is False
  assert flags['sizes'].value == (3, 4)
  # Nothing stays from one call to the next.
  command.parse(['demo', f'--config={CONFIG}'])
  assert flags['config'].value.data.image_size == 32
  assert flags['sizes'].value == (1,)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.steps=3'], 'Error: --config.FIELD=VALUE needs --config=NAME'),
    ([f'--config={CONFIG}', '--config.stps=3'], "Did you mean 'steps'"),
    ([f'--config={CONFIG}', '--config.steps=x'], 'takes a whole number'),
    (['--config=nowhere.py'], 'dim-jax list shows the built-in configs'),
    (['--steps=x'], 'steps'),
    (['--stesp=3'], 'Did you mean: steps? All'),
    (['--examples=3'], 'Error: there is no --examples: give --rows'),
  ],
)
def test_a_wrong_flag_ends_with_what_to_type(arguments, message):
  command, _ = make(old={'examples': '--rows'})
  with pytest.raises(SystemExit) as refused:
    command.parse(['demo', *arguments])
  assert message in refused.value.code and '\n' not in refused.value.code


def test_runs_are_words_and_their_old_flag_is_understood(capsys):
  command, _ = make(takes='RUN')
  found = []
  command.run(found.extend, ['a', '~/b'])
  command.run(found.extend, ['--workdir=c'])
  assert found == ['a', os.path.expanduser('~/b'), 'c']
  assert 'dim-jax demo c' in capsys.readouterr().err
  with pytest.raises(SystemExit, match='give the folder of a run'):
    command.run(found.extend, [])


def test_a_config_without_its_flag_is_answered_with_it():
  command, _ = make()
  command.string('workdir', None, 'Where.')
  for words in (['dim_digits:vae'], ['dim_digits:vae', '--workdir=x']):
    with pytest.raises(
      SystemExit, match=r'did you mean --config=dim_digits:va'
    ):
      command.run(lambda: None, words)
  with pytest.raises(SystemExit, match=r'give --workdir=digits'):
    command.run(lambda: None, ['digits'])
  with pytest.raises(SystemExit, match=r'did you mean --config\.batch_size\?'):
    command.run(lambda: None, ['--batch_size=3'])


def test_a_table_in_a_file_keeps_its_numbers(capsys, monkeypatch):
  monkeypatch.delenv('COLUMNS', raising=False)
  long = [f'{i}' * 20 for i in range(9)]
  show(tables.table([str(i) for i in range(9)], [long]))
  assert capsys.readouterr().out.strip().splitlines()[-1].split() == long
  # In a narrow terminal, they go on below.
  monkeypatch.setenv('COLUMNS', '80')
  show(tables.table([str(i) for i in range(9)], [long]))
  shown = capsys.readouterr().out
  # Each digit also names its column.
  assert [shown.count(str(i)) for i in range(9)] == [21] * 9


def test_a_home_is_expanded_and_an_error_is_a_line():
  command, flags = make()

  def fail():
    assert flags['file'].value == os.path.expanduser('~/x.npz')
    raise ValueError('no such thing')

  with pytest.raises(SystemExit, match=r'^Error: no such thing$'):
    command.run(fail, ['--file=~/x.npz'])


def test_help_is_the_text_and_all_flags(capsys):
  command, _ = make()
  with pytest.raises(SystemExit):
    command.run(lambda: None, ['--help'])
  shown = capsys.readouterr().out
  assert shown.startswith('A demo.') and '--steps' in shown


def test_commands_are_short_and_hold_no_library_code():
  folder = pathlib.Path(commands.__file__).parent
  for name in commands.COMMANDS:
    lines = (folder / f'{name}.py').read_text('utf-8').splitlines()
    assert len(lines) <= 70, name
    assert not [line for line in lines if 'argparse' in line], name


def dim_jax_command(*words):
  # What the console script runs.
  code = 'from dim_jax.commands import main; main()'
  return subprocess.run(
    [sys.executable, '-X', 'importtime', '-c', code, *words],
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_program_lists_its_commands_without_importing_jax():
  shown = dim_jax_command('--help')
  assert shown.returncode == 0, shown.stderr
  lines = shown.stdout.splitlines()
  for name in commands.COMMANDS:
    module = importlib.import_module(f'dim_jax.commands.{name}')
    (first, *_) = module.__doc__.splitlines()
    (line,) = (x for x in lines if x.startswith(f'  {name} '))
    assert line.removeprefix(f'  {name}').lstrip() == first
    assert callable(module.main) and len(first) <= 68
  imported = {line.split('|')[-1].strip() for line in shown.stderr.splitlines()}
  assert 'dim_jax.commands' in imported
  assert not imported & {'jax', 'flax', 'numpy', 'rich', 'matplotlib'}
  version = dim_jax_command('--version').stdout
  assert version == f'dim-jax {dim_jax.__version__}\n'


def test_each_command_is_one_of_a_checkout_too():
  folder = pathlib.Path(__file__).parents[2] / 'experiments'
  mains = {path.stem for path in folder.glob('*.py')}
  assert mains == {*commands.COMMANDS}
  for name in mains:
    lines = (folder / f'{name}.py').read_text('utf-8').splitlines()
    assert f'from dim_jax.commands.{name} import main' in lines
    assert len(lines) == 6


def test_a_program_imports_from_the_current_folder(tmp_path, monkeypatch):
  (tmp_path / 'mine_alone.py').write_text('')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.setattr('sys.argv', ['dim-jax', 'list'])

  def main():
    importlib.invalidate_caches()
    assert importlib.import_module('mine_alone').__file__
    # It hides nothing that is installed.
    assert sys.path.index(str(tmp_path)) == len(sys.path) - 1

  monkeypatch.setattr('dim_jax.commands.list.main', main)
  commands.main()


def test_an_unknown_command_is_answered_with_the_known_ones(monkeypatch):
  monkeypatch.setattr('sys.argv', ['dim-jax', 'trian'])
  with pytest.raises(SystemExit) as refused:
    commands.main()
  message = refused.value.code
  assert message.startswith(
    "Error: unknown command 'trian'. Did you mean train?"
  )
  assert all(name in message for name in commands.COMMANDS)
  assert '\n' not in message


def test_a_command_records_the_name_by_which_it_was_called(monkeypatch):
  argv = ['/usr/bin/dim-jax', 'list', '--of=configs']
  monkeypatch.setattr('sys.argv', argv)
  monkeypatch.setattr('dim_jax.commands.list.main', lambda: None)
  commands.main()
  assert argv == ['dim-jax list', '--of=configs']


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('digits', 'Did you mean dim_digits or gim_digits or'),
    ('dim_digit', 'Did you mean dim_digits'),
    ('dim_digits:vea', "No row 'vea': this file has infonce"),
    ('gim_digits:x', 'gim_digits is one config, without rows'),
    ('dim_cifar10_local_jsd', 'is now --config=dim_cifar10:local_jsd'),
    ('mine/dim_digits.py', 'is now --config=dim_digits'),
    ('mine/own.py', "no file 'mine/own.py'; dim-jax list shows"),
  ],
)
def test_a_config_that_is_not_there_is_answered_with_one_that_is(name, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    configs.load(name)


def test_a_config_is_a_name_a_file_or_as_recorded_commands_have_it(
  tmp_path, monkeypatch
):
  built_in = configs.load('dim_digits:vae')
  for folder in ('', '/somewhere/', '../'):
    once = f'{folder}experiments/configs/dim_digits.py:vae'
    assert configs.load(once) == built_in
  own = tmp_path / 'own.py'
  own.write_text(
    'from dim_jax import configs\n'
    "def get_config(): return configs.load('dim_digits:vae')\n"
  )
  assert configs.load(str(own)) == built_in
  assert configs.load('dim_digits') == configs.load('dim_digits:infonce')
  with pytest.raises(ValueError, match='one config, without rows'):
    configs.load(f'{own}:vae')
  # It may import what is beside it.
  (tmp_path / 'beside_own.py').write_text("NAME = 'dim_digits:jsd'\n")
  own.write_text(
    'import beside_own\nfrom dim_jax import configs\n'
    'def get_config(): return configs.load(beside_own.NAME)\n'
  )
  monkeypatch.setattr(sys, 'path', list(sys.path))
  assert configs.load(str(own)) == configs.load('dim_digits:jsd')
  own.write_text('import beside_nothing\n')
  with pytest.raises(ValueError, match="cannot be run: No module named 'besid"):
    configs.load(str(own))
  own.write_text('')
  with pytest.raises(ValueError, match='has no get_config'):
    configs.load(str(own))
