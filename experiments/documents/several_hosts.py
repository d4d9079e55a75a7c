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


def slices() -> str:
  """What a step takes of a chip of a TPU slice, by its compiler."""
  rows = load('pod_check')['rows']
  of_four = {
    row['run']: row for row in rows if row['chips'] == 4 and 'flops' in row
  }
  cells = []
  for row in sorted(rows, key=lambda row: (row['run'], row['chips'])):
    base = of_four.get(row['run'])
    scaling = '—'
    if base and row is not base:
      shares = (base[name] / row[name] for name in ('flops', 'bytes'))
      scaling = ' / '.join(f'{100 * share:.0f}' for share in shares)
    sent = sum(x['bytes'] for x in row['collectives'].values())
    looped = sum(x['count'] for x in row['looped'].values())
    cells.append(
      [
        f'`{row["run"]}`, {row["batch_size"] // row["chips"]}',
        f'{row["topology"]}, {row["chips"]}',
        f'{row["memory"]["total"] / 1e9:.2f}',
        f'{row["flops"] / 1e12:.3f}',
        f'{row["bytes"] / 1e9:.1f}',
        f'{sent / 1e9:.3f}, {looped} in loops',
        scaling,
      ]
    )
  return markdown.table(
    [
      'run, examples a chip',
      'slice, chips',
      'GB a chip',
      'TFLOP',
      'GB accessed',
      'exchanged, GB',
      'FLOPs / bytes against 4 chips, %',
    ],
    cells,
  )
