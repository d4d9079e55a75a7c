"""What all commands do alike with their arguments."""

import os
import pathlib

import pytest

from experiments.command import Command

CONFIG = 'experiments/configs/dim_digits.py'


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
    (['--config.steps=3'], 'Error: --config.FIELD=VALUE needs --config=FILE'),
    ([f'--config={CONFIG}', '--config.stps=3'], "Did you mean 'steps'"),
    ([f'--config={CONFIG}', '--config.steps=x'], 'takes a whole number'),
    (['--config=nowhere.py'], 'experiments.train --list shows all configs'),
    (['--steps=x'], 'steps'),
    (['--stesp=3'], 'Did you mean: steps? All'),
    (['--examples=3'], 'Error: --examples is no more: give --rows'),
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
  assert 'python -m experiments.demo c' in capsys.readouterr().err
  with pytest.raises(SystemExit, match='give the folder of a run'):
    command.run(found.extend, [])


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
  folder = pathlib.Path(__file__).parents[2] / 'experiments'
  for name in (
    *('train', 'evaluate', 'classify', 'density', 'layerwise'),
    *('report', 'represent', 'table', 'export', 'preview', 'list'),
  ):
    lines = (folder / f'{name}.py').read_text('utf-8').splitlines()
    assert len(lines) <= 60, name
    assert not [line for line in lines if 'argparse' in line], name
