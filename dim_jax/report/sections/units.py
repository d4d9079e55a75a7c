"""What each unit of a stochastic code keeps, and which images cost most."""

from collections.abc import Sequence

from dim_jax.evaluation import units as units_lib
from dim_jax.report import code_figures as drawings
from dim_jax.report.parts import Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run

_NOTE = (
  f'A unit is active where its mean varies by more than {units_lib.ACTIVE:g}. '
  'Capacity and rate are nats of all units, on test examples: what they can '
  'tell at their signal-to-noise ratio, and what they cost against N(0, I).'
)


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows active units, their capacity and their rate."""
  codes, rated = {}, {}
  for run in runs:
    # Both commands measure the same code.
    for arrays in (run.classified, run.reconstructions):
      if 'unit_variance' in arrays:
        names = (f'unit_{name}' for name in units_lib.Units._fields)
        codes[run.label] = units_lib.Units(*(arrays[name] for name in names))
      if 'rated_nats' in arrays:
        rated[run.label] = arrays['rated_images'], arrays['rated_nats']
  if not codes:
    return []
  rows = [
    {
      'run': label,
      'active units': str(code.active),
      'of': str(len(code.variance)),
      'largest Var(μ)': fixed(code.variance.max(), 3),
      'capacity, nats': fixed(code.capacity.sum(), 2),
      'rate, nats': fixed(code.rate.sum(), 2),
    }
    for label, code in codes.items()
  ]
  parts = [Table(rows), Text(_NOTE), draw(drawings.units, codes)]
  return parts + ([draw(drawings.rated, rated)] if rated else [])
