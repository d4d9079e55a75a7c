"""Tables of jobs of several processes."""

from typing import Any

from experiments.documents import markdown
from experiments.documents.results import load


def _behind(result: dict[str, Any]) -> str:
  """What the same command does behind a fault."""
  if 'resumed' not in result:
    left = 'a folder' if result['folder left'] else 'nothing'
    return f'refused at the start, {left} left'
  if not result['resumed']:
    return 'does not go on'
  equal = '' if result['bitwise equal'] else 'not '
  return f'goes on; the end is {equal}bitwise equal'


def faults() -> str:
  """What each fault does to a pair of processes."""
  rows = [
    [
      result['fault'],
      ' and '.join(map(str, result['statuses'])),
      f'{max(result["seconds"]):.1f} s',
      str(result.get('steps lost', '—')),
      _behind(result),
    ]
    for result in load('faults')['faults']
  ]
  return markdown.table(
    [
      'what happens',
      'exit statuses',
      'until all have ended',
      'steps lost',
      'the same command',
    ],
    rows,
  )


def _apart(difference: dict[str, float]) -> str:
  return ' / '.join(
    f'{difference[name]:.0e}'.replace('0e+00', '0')
    for name in ('loss', 'gradients')
  )


def layouts() -> str:
  """How far a step on several devices is from that on one."""
  file = load('layouts')
  rows = [
    [
      f'{result["method"]} (`{file["configs"][result["method"]]}`)',
      *map(_apart, result['differences'].values()),
    ]
    for result in file['methods']
  ]
  return markdown.table(
    ['method', '8 devices', '8, pmap', '2 processes of 4'], rows
  )
