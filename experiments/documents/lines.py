"""Tables of couplets: taggers, encoders of both lines, and masked models."""

from typing import Any

from experiments.documents import markdown
from experiments.documents.results import exists, grouped, load

_BY = {'unigram': 'counts', 'bigram': 'counts of neighbours'}
_SOURCES = {'tang': 'Tang', 'couplets': 'modern'}
_MASKS = {'token': 'a token', 'drop': 'nothing', 'none': 'untrained'}
_SEEN = {'consistent': 'the mean input', 'naive': 'the characters', '': ''}


def couplets_tagging() -> str:
  """Second lines by character, beside counts; mean ± std over seeds."""
  rows = grouped(
    _of_runs('couplets_tagging', 'accuracy'),
    lambda row: (row['source'], row['by']),
  )
  return markdown.table(
    ['second lines', 'predicted by', 'characters right, %', 'perplexity'],
    [
      [
        _SOURCES[source],
        _BY.get(by, '`couplets:tagging`'),
        # Counts know no seed.
        markdown.spread(
          [row['accuracy'] for row in (runs[:1] if by in _BY else runs)], 2, 100
        ),
        markdown.spread(
          [row['perplexity'] for row in (runs[:1] if by in _BY else runs)], 0
        ),
      ]
      for (source, by), runs in rows.items()
    ],
  )


def couplets_infonce() -> str:
  """The right second line among others; mean ± std over seeds."""
  rows = grouped(
    _of_runs('couplets_infonce', 'retrieval'),
    lambda row: (row['source'], row['length'], row['candidates']),
  )
  return markdown.table(
    [
      'second lines',
      'characters',
      'among',
      'the first, %',
      'of the first ten, %',
      'information of the codes, nats',
      'ceiling',
    ],
    [
      [
        _SOURCES[source],
        str(length),
        f'{candidates:,}',
        _beside_chance(runs, '1'),
        _beside_chance(runs, '10'),
        _interval([run['information'] for run in runs]),
        f'{runs[0]["information"]["ceiling"]:.2f}',
      ]
      for (source, length, candidates), runs in rows.items()
    ],
  )


def masked_lines() -> str:
  """What masked models of lines see at use; mean ± std over seeds."""
  if not exists('masked_lines'):
    return ''
  rows = grouped(
    load('masked_lines')['rows'],
    lambda row: (row['mask'], row['keep'], row['evaluation']),
  )
  cells = []
  for (mask, keep, evaluation), runs in rows.items():
    found = grouped(runs, lambda row: row['measure'])
    cells.append(
      [
        _MASKS[mask],
        '—' if mask == 'none' else f'{100 * keep:.0f}',
        _SEEN[evaluation],
        *(
          markdown.spread([row['accuracy'] for row in found[name]], 2, 100)
          for name in ('which line', 'fine-tuned')
        ),
      ]
    )
  return markdown.table(
    [
      'hidden characters become',
      'visible, %',
      'seen at use',
      'which line, %',
      'fine-tuned, characters right, %',
    ],
    cells,
  )


def _of_runs(file: str, part: str) -> list[dict[str, Any]]:
  """Returns the rows of all seeds of a result."""
  return [row for run in load(file)['runs'] for row in run['measured'][part]]


def _beside_chance(rows: list[dict[str, Any]], most: str) -> str:
  recall = markdown.spread([row[f'recall_{most}'] for row in rows], 1, 100)
  return f'{recall} (chance {100 * rows[0][f"chance_{most}"]:.1f})'


def _interval(found: list[dict[str, Any]]) -> str:
  """Writes the mean, and the interval that holds those of all seeds."""
  low = min(row['interval'][0] for row in found)
  high = max(row['interval'][1] for row in found)
  mean = markdown.spread([row['nats'] for row in found], 2)
  return f'{mean}, {low:.2f} to {high:.2f}'
