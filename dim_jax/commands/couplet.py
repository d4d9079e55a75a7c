"""Measures a run on pairs of lines, or answers a line.

  dim-jax couplet runs/couplets
  dim-jax couplet runs/couplets --line=明月松间照

Of a tagger the accuracy and perplexity a character beside those of counts, the
information that each place gets from the first line, and ten answers; of
encoders of both lines how often the right second line is found among 1,000,
and the mutual information. Test pairs of each source are reported apart.
RUN/evaluation/couplets.json holds all, which `dim-jax report` shows.
"""

import os
import sys

from dim_jax.commands.command import Command, show
from dim_jax.runs import couplet

_COMMAND = Command('couplet', __doc__, takes='RUN')
_LINE = _COMMAND.string('line', None, 'Answer this line, and measure nothing.')
_STEP = _COMMAND.integer('step', None, 'A checkpoint; the newest if left out.')


@_COMMAND.main
def main(runs: list[str]) -> None:
  for run in runs:
    if _LINE.value is None:
      show(*couplet.summary(couplet.measure(run, step=_STEP.value)))
      show(os.path.join(run, 'evaluation', 'couplets.json'))
      continue
    answer, note = couplet.answer(run, _LINE.value)
    show(answer)
    if note:
      sys.stderr.write(f'{note}\n')
