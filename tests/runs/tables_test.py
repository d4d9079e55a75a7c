"""Tables for a terminal: what they show is data."""

import io

import rich.console

from dim_jax.runs import tables


def test_names_are_no_markup_and_numbers_are_to_the_right():
  table = tables.table(
    ('class [red]', 'n'),
    [('[bold]price $$[/bold]', 3), ('naïve', 12)],
    title='[x] of [y]',
    caption='[z]',
  )
  file = io.StringIO()
  rich.console.Console(file=file, width=60).print(table)
  text = file.getvalue()
  for part in ('[bold]price $$[/bold]   3', 'class [red]', '[x] of [y]', '[z]'):
    assert part in text
  assert 'naïve                  12' in text
