"""Writes the page of a run or a sweep, or one that compares runs.

  dim-jax report runs/digits
  dim-jax report runs/infonce runs/jsd --out=report
  dim-jax report runs/digits --watch --serve

One run or sweep gives its folder's report/index.html, several runs give
report/comparison/index.html in the first; --out names another folder. Runs of
modules, such as Greedy InfoMax, that differ in their seed alone are one method
and drawn as one line. The PNG and CSV files of every picture lie beside the
page, which holds all that it shows.

--watch writes the page again while a run trains, as often as it logs; the page
loads itself again. It ends with the run, or by Ctrl-C, which leaves the run
alone. --serve shows the page at http://127.0.0.1:8642/, to browsers of this
computer alone, until the watched run has ended or Ctrl-C.
"""

import contextlib
import os

import dim_jax
from dim_jax.commands.command import Command, show
from dim_jax.report import live

_COMMAND = Command('report', __doc__, takes='RUN')
_OUT = _COMMAND.path('out', None, 'The folder to write into.')
_WATCH = _COMMAND.boolean('watch', False, 'Write it again while a run trains.')
_EVERY = _COMMAND.real('every', 10.0, 'Seconds between two looks.')
_SERVE = _COMMAND.boolean('serve', False, 'Show it to browsers here.')
_PORT = _COMMAND.integer('port', live.PORT, 'Of --serve; 0 takes a free one.')


@_COMMAND.main
def main(runs: list[str]) -> None:
  if not _WATCH.value:
    pages = iter([dim_jax.report(runs, _OUT.value)])
  else:
    pages = live.watch(runs, _OUT.value, every=_EVERY.value)
  server = None
  with contextlib.ExitStack() as stack:
    for path in pages:
      if _SERVE.value and server is None:
        server = live.Server(os.path.dirname(path), _PORT.value)
        stack.enter_context(server)
        show(f'{server.url} (Ctrl-C ends it)')
    show(path)
    if server:
      # An open page loads itself once more, and then has the last numbers.
      server.wait(2 * _EVERY.value if _WATCH.value else None)
