"""Lists runs: state, step, method, data, headline probe and age.

  dim-jax runs
  dim-jax runs FOLDER --sort=probe
  dim-jax runs --where objective.bound=infonce --where state=finished --csv

All runs in FOLDER ('runs' if left out) and in folders of it, as their own files
tell. A run is training; finished; stopped (interrupted, and continued by the
command that began it); died (its process was killed; the same command
continues); started (nothing logged yet); or damaged. Its probe is the accuracy
that was measured last of its representation, by the first of linear, mlp,
linear_few, svm and knn; or that of its classifier; or the online probe's.
"""

import sys

from dim_jax.commands.command import Command, show
from dim_jax.runs import listing

_COMMAND = Command('runs', __doc__, takes='[FOLDER]')
_WHERE = _COMMAND.repeated(
  'where', 'FIELD=VALUE, of a column or a config; all must hold.'
)
_SORT = _COMMAND.string('sort', 'run', f'One of {", ".join(listing.COLUMNS)}.')
_CSV = _COMMAND.boolean('csv', False, 'Print CSV, with age in seconds.')


@_COMMAND.main
def main(words: list[str]) -> None:
  if len(words) > 1:
    raise ValueError(f'give one folder, got {" ".join(words)}.')
  runs, skipped = listing.find(*words or ['runs'])
  chosen = listing.select(runs, _WHERE.value or (), _SORT.value)
  if _CSV.value:
    sys.stdout.write(listing.as_csv(chosen))
  elif chosen:
    show(listing.table(chosen))
  else:
    show(f'None of {len(runs)} runs: {" ".join(_WHERE.value or ())}')
  notes = [f'{x.run} is damaged: {x.problem}' for x in chosen if x.problem]
  for note in [*notes, *skipped]:
    print(note, file=sys.stderr)
