"""Writes the page of a run or a sweep, or one that compares runs.

  dim-jax report runs/digits
  dim-jax report runs/infonce runs/jsd --out=report

One run or sweep gives its folder's report/index.html, several runs give
report/comparison/index.html in the first; --out names another folder. Runs of
modules, such as Greedy InfoMax, that differ in their seed alone are one method
and drawn as one line. The PNG and CSV files of every picture lie beside the
page, which holds all that it shows.
"""

import dim_jax
from dim_jax.commands.command import Command, show

_COMMAND = Command('report', __doc__, takes='RUN')
_OUT = _COMMAND.path('out', None, 'The folder to write into.')


def main(argv: list[str] | None = None) -> None:
  _COMMAND.run(lambda runs: show(dim_jax.report(runs, _OUT.value)), argv)
