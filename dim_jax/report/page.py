"""One self-contained HTML page a run, sweep, table or comparison of runs.

It reads a run's folder (config.json, run.json, metrics.jsonl, evaluation/), a
sweep's (sweep.json) or a table's (table.json) and writes index.html with every
picture inside it, and beside it the PNG and CSV files. It needs no network, no
script and no other file, follows the reader's light or dark setting, and fits a
phone.

A section of `sections` is a function from runs to plain data (`parts`), empty
where the runs lack what it shows. page.html.j2 holds all HTML.
"""

import base64
import dataclasses
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from dim_jax import files
from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Fold, Part, attempt
from dim_jax.report.runs import Run
from dim_jax.report.sections import (
  attacks,
  classification,
  comparison,
  couplets,
  curves,
  density,
  depth,
  embeddings,
  generator,
  information,
  probes,
  representation,
  summary,
  sweep,
  units,
)

# In the order of the page.
SECTIONS = {
  'Runs': summary.overview,
  'What differs': summary.differences,
  'Not evaluated': summary.unevaluated,
  'Density': density.section,
  'Training': curves.section,
  'Information': information.section,
  'Classification': classification.section,
  'Rate and examples of the highest loss': classification.examples,
  'Units of the code': units.section,
  'Couplets': couplets.section,
  'Attacks': attacks.section,
  'Out-of-distribution data': attacks.detection,
  'Depth': depth.section,
  'Probes': probes.section,
  'Representation': representation.section,
  'Generator': generator.section,
  'Embeddings': embeddings.maps,
  'Nearest neighbours': embeddings.neighbours,
  'Critic scores': embeddings.scores,
  'Spectrum': embeddings.spectra,
  'Settings': summary.settings,
}
_WITH_WARNINGS = (
  summary,
  curves,
  information,
  classification,
  attacks,
  probes,
  density,
)


class Live(NamedTuple):
  """What a page says of runs that still train, see `dim_jax.report.live`.

  Attributes:
    every: seconds after which a browser loads it again.
    status: how far they are.
  """

  every: float
  status: str


def write(
  paths: Sequence[str | os.PathLike],
  out: str | os.PathLike | None = None,
  live: Live | None = None,
) -> str:
  """Writes the page, and the PNG and CSV files of its pictures.

  Args:
    paths: folders of runs. One gives the run's page, several a comparison:
      curves overlaid, probes in one table. Or the folder of one sweep or table.
    out: the folder to write into. By default RUN/report, and for several runs
      report/comparison in the first one's.
    live: makes it a page that reloads itself.

  Returns:
    The path of index.html.

  Raises:
    FileNotFoundError: a folder is no run.
    ValueError: no run is given, a file of one is damaged, or a sweep or table
      is given with others.
  """
  view = _read(paths)
  paths = [os.path.expanduser(path) for path in paths]
  out = folder_of(paths, out)
  report = ['dim-jax', 'report', *map(str, paths)]
  view['commands'].append(shlex.join(report))
  view['live'] = live
  files.make_folder(out)
  view['sections'] = {
    title: _rendered(parts, out)
    for title, parts in view['sections'].items()
    if parts
  }
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('dim_jax.report', ''),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  path = os.path.join(out, 'index.html')
  html = environment.get_template('page.html.j2').render(view)
  files.write(path, figures.printable(html))
  return path


def pictures(
  paths: str | os.PathLike | Sequence[str | os.PathLike],
) -> dict[str, figures.Picture]:
  """Makes the pictures of the page, for a notebook or a paper.

  A notebook shows each as it is, and `figure()` gives it as a matplotlib
  figure, of a ground that is transparent:

    drawn = page.pictures('runs/digits')
    drawn['probes']
    drawn['probes'].figure().savefig('probes.pdf')

  The functions of `figures`, which make them, take arrays as well.

  Args:
    paths: as of `write`, or one path.

  Returns:
    The pictures by name, which is that of their files, in the page's order.

  Raises:
    FileNotFoundError: a folder is no run.
    ValueError: as of `write`.
  """
  if isinstance(paths, str | os.PathLike):
    paths = [paths]
  found: dict[str, figures.Picture] = {}

  def collect(parts: Sequence[Any]) -> None:
    for part in parts:
      if isinstance(part, figures.Picture):
        found[part.name] = part
      elif isinstance(part, Fold):
        collect(part.parts)

  for parts in _read(paths)['sections'].values():
    collect(parts)
  return found


def folder_of(
  paths: Sequence[str | os.PathLike], out: str | os.PathLike | None = None
) -> str:
  """Returns the folder that `write` writes into."""
  if out is None:
    out = os.path.join(paths[0], 'report', *['comparison'] * (len(paths) > 1))
  return os.path.expanduser(out)


def _read(paths: Sequence[str | os.PathLike]) -> dict[str, Any]:
  """Reads runs, or one sweep or table, as what the template shows."""
  if not paths:
    raise ValueError('Give the folder of at least one run.')
  paths = [os.path.expanduser(path) for path in paths]
  own = [
    (kind, path)
    for kind, path in itertools.product((sweep, comparison), paths)
    if os.path.isfile(kind.file_of(path))
  ]
  if own and len(paths) > 1:
    raise ValueError(
      f'A sweep or table has a page of its own: give {os.fspath(own[0][1])!r} '
      f'alone, got {len(paths)} folders.'
    )
  if own:
    return own[0][0].view(paths[0])
  return _view(runs_lib.read_all(paths))


def _view(runs: Sequence[Run]) -> dict[str, Any]:
  """What the template shows of one run, or of several that are compared."""
  names = ', '.join(run.label for run in runs)
  single = len(runs) == 1
  sections: dict[str, list[Part]] = {}
  for title, function in SECTIONS.items():
    parts = attempt(f'The section “{title}”', function, runs)
    sections[title] = parts if isinstance(parts, list) else [parts]
  warnings = []
  for run, module in itertools.product(runs, _WITH_WARNINGS):
    sentences = attempt(f'A check of {run.label}', module.warnings, run)
    if not isinstance(sentences, list):
      sentences = [sentences.text]
    who = '' if single else f'{run.label}: '
    warnings += [f'{who}{sentence}' for sentence in sentences]
  return {
    'title': f'Run {names}' if single else f'Runs {names}',
    'heading': names if single else f'{len(runs)} runs',
    'warnings': warnings,
    'facts': summary.facts(runs[0]) if single else {},
    'commands': summary.commands(runs),
    'sections': sections,
  }


def _rendered(
  parts: Sequence[Any], folder: str | os.PathLike
) -> list[Part | Mapping[str, str]]:
  """Saves pictures, in whose place their texts and files stand."""
  result: list[Any] = []
  for part in parts:
    if isinstance(part, figures.Picture):
      part = attempt(f'The picture “{part.title}”', _figure, part, folder)
    elif isinstance(part, Fold):
      part = dataclasses.replace(part, parts=_rendered(part.parts, folder))
    result.append(part)
  return result


def _figure(
  picture: figures.Picture, folder: str | os.PathLike
) -> dict[str, str]:
  """A picture's texts, and its files as data URIs."""
  texts = {k: getattr(picture, k) for k in ('name', 'title', 'caption', 'alt')}
  media = {'csv': 'text/csv', 'png': 'image/png'}
  for kind, path in figures.save(picture, folder).items():
    with open(path, 'rb') as file:
      data = base64.b64encode(file.read()).decode('ascii')
    texts[kind] = f'data:{media[kind]};base64,{data}'
  return {'kind': 'figure'} | texts
