"""Tables for a terminal, in which names are data and no markup."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import rich.box
import rich.table
import rich.text


def table(
  columns: Sequence[str],
  rows: Iterable[Sequence[Any]],
  *,
  words: int = 1,
  title: str | None = None,
  caption: str | None = None,
) -> rich.table.Table:
  """Makes a table, whose cells are shown as they are.

  The first `words` columns are to the left, the numbers behind them to the
  right.
  """
  shown = rich.table.Table(
    title=title and rich.text.Text(title),
    caption=caption and rich.text.Text(caption),
    title_justify='left',
    caption_justify='left',
    box=rich.box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
    pad_edge=False,
  )
  for i, name in enumerate(columns):
    shown.add_column(
      rich.text.Text(name),
      justify='left' if i < words else 'right',
      # A number without its end would be another one.
      overflow='fold',
    )
  for row in rows:
    shown.add_row(*(rich.text.Text(str(cell)) for cell in row))
  return shown


def numbers(row: Mapping[str, Any], formats: Mapping[str, str]) -> list[str]:
  """Formats the numbers of a row, by name; one that is None is left empty."""
  return [
    '' if row[name] is None else f'{row[name]:{form}}'
    for name, form in formats.items()
  ]


def notes(report: Mapping[str, Any]) -> list[str]:
  """Lists what a report says below its tables: what was skipped, and a note."""
  skipped = report.get('skipped', ())
  lines = [f'Skipped: {x["what"]}: {x["reason"]}' for x in skipped]
  return [*lines, *filter(None, [report['note']])]
