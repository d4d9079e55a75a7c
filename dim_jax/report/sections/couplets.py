"""Second lines of pairs: how well they are predicted, and ten answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import figures
from dim_jax.report.parts import Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run, labelled

_BY = {'unigram': 'unigram', 'bigram': 'bigram', 'model': 'this run'}


def section(runs: Sequence[Run]) -> list[Part]:
  """Tabulates what `dim-jax couplet` measured, and shows answers."""
  done = labelled(runs, 'couplets')
  accuracy = [
    {'run': label} | row for label, found in done for row in _accuracy(found)
  ]
  retrieval = [
    {'run': label} | row for label, found in done for row in _retrieval(found)
  ]
  parts: list[Part] = []
  if accuracy:
    parts += [Table(accuracy, 'Second lines, by character'), _NOTE]
  if retrieval:
    parts += [Table(retrieval, 'The right second line among others')]
  for label, found in done:
    if found.get('places'):
      parts.append(draw(places, found['places'], label))
    if found.get('answers'):
      who = f'Answers of {label}' if len(done) > 1 else 'Answers'
      columns = ('source', 'first', 'answer', 'second')
      rows = [{k: x[k] for k in columns} for x in found['answers']]
      parts.append(Table(rows, who))
  return parts


_NOTE = Text(
  'Right: of all characters, those outside of the vocabulary counting as '
  'wrong. Perplexity: of characters in the vocabulary. The unigram knows how '
  'frequent characters are, the bigram the character above too, smoothed by '
  'the unigram.'
)


def _accuracy(found: Mapping[str, Any]) -> list[dict[str, str]]:
  return [
    {
      'source': row['source'],
      'by': _BY.get(row['by'], row['by']),
      'right, %': fixed(100 * row['accuracy'], 2),
      'perplexity': fixed(row['perplexity'], 0),
      'characters': f'{row["characters"]:,}',
      'unknown, %': fixed(100 * row['unknown'], 1),
    }
    for row in found.get('accuracy') or ()
  ]


def _retrieval(found: Mapping[str, Any]) -> list[dict[str, str]]:
  rows = []
  for row in found.get('retrieval') or ():
    cells = {
      'source': row['source'],
      'characters': str(row['length']),
      'candidates': f'{row["candidates"]:,}',
    }
    for k in (1, 10):
      cells[f'recall@{k}, %'] = fixed(100 * row[f'recall_{k}'], 1)
      cells[f'chance@{k}, %'] = fixed(100 * row[f'chance_{k}'], 1)
    cells['InfoNCE, nats'] = fixed(row['infonce'], 2)
    cells['at most'] = fixed(row['infonce_ceiling'], 2)
    if information := row.get('information'):
      low, high = (fixed(x, 2) for x in information['interval'])
      cells['I(first; second), nats'] = fixed(information['nats'], 2)
      cells['interval'] = f'{low} to {high}'
      cells['ceiling'] = fixed(information['ceiling'], 2)
    rows.append(cells)
  return rows


def places(
  measured: Sequence[Mapping[str, Any]], label: str
) -> figures.Picture:
  """Draws the pointwise information of each place, a line a source and length.

  Args:
    measured: 'places' of couplets.json.
    label: of the run.
  """
  columns = ('source', 'length', 'place', 'nats', 'error', 'lines')
  rows: figures.Rows = [tuple(row[k] for k in columns) for row in measured]
  # Lengths that training lines hardly had would hide the others.
  words = '; '.join(
    f'{source}, {length} characters: '
    + ' '.join(figures.number(row[3]) for row in mine)
    for (source, length), mine in figures.grouped(rows, 0, 1).items()
  )
  return figures.Picture(
    f'couplet_places_{label}',
    'Information of each place',
    'Mean of ln q(y|first line) / p(y) over test pairs, in nats: q is the '
    "run's, p the distribution of the characters at this place of training "
    'lines of this length. Bars: standard errors.',
    f'Nats of the first line on each character of the second one: {words}.',
    columns,
    rows,
    lambda: _draw(rows),
  )


def _draw(rows: figures.Rows) -> Any:
  figure, axes = figures.blank(figures.WIDTH, 3.0)
  lines = figures.grouped(rows, 0, 1)
  for k, ((source, length), mine) in enumerate(lines.items()):
    axes.errorbar(
      [row[2] for row in mine],
      [row[3] for row in mine],
      [row[4] for row in mine],
      label=f'{source}, {length} characters',
      color=figures.COLOURS[k % len(figures.COLOURS)],
      marker='o',
      **figures.BARS,
    )
  axes.set_xlabel('place in the line')
  axes.set_ylabel('nats')
  axes.set_xticks(sorted({row[2] for row in rows}))
  return figure
