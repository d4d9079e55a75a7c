"""Tables of couplets: taggers, and encoders of both lines."""

from typing import Any

from experiments.documents import markdown
from experiments.documents.results import load

_BY = {'unigram': 'counts', 'bigram': 'counts of neighbours'}
_SOURCES = {'tang': 'Tang', 'couplets': 'modern'}


def couplets_tagging() -> str:
  """Second lines by character, beside counts."""
  return _table(
    'couplets_tagging',
    'accuracy',
    {
      'second lines': lambda row: _SOURCES[row['source']],
      'told by': lambda row: _BY.get(row['by'], '`couplets:tagging`'),
      'characters right, %': lambda row: f'{100 * row["accuracy"]:.2f}',
      'perplexity': lambda row: f'{row["perplexity"]:,.0f}',
    },
  )


def couplets_infonce() -> str:
  """The right second line among others."""
  return _table(
    'couplets_infonce',
    'retrieval',
    {
      'second lines': lambda row: _SOURCES[row['source']],
      'characters': lambda row: str(row['length']),
      'among': lambda row: f'{row["candidates"]:,}',
      'the first, %': lambda row: _beside_chance(row, '1'),
      'of the first ten, %': lambda row: _beside_chance(row, '10'),
      'information of the codes, nats': lambda row: _interval(
        row['information']
      ),
      'ceiling': lambda row: f'{row["information"]["ceiling"]:.2f}',
    },
  )


def _table(file: str, part: str, columns: dict[str, Any]) -> str:
  rows = load(file)['measured'][part]
  return markdown.table(
    list(columns), [[cell(row) for cell in columns.values()] for row in rows]
  )


def _beside_chance(row: dict[str, Any], most: str) -> str:
  recall, chance = (
    100 * row[f'{name}_{most}'] for name in ('recall', 'chance')
  )
  return f'{recall:.1f} (chance {chance:.1f})'


def _interval(found: dict[str, Any]) -> str:
  low, high = found['interval']
  return f'{found["nats"]:.2f}, {low:.2f} to {high:.2f}'
