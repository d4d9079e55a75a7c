"""Writes a run's encoder as a file of arrays, with a card that describes it."""

import json
import os
from typing import Any

import jinja2
import numpy as np

import dim_jax
from dim_jax import config as config_lib
from dim_jax import files
from dim_jax.evaluation import probes as probes_lib
from dim_jax.runs import provenance


def export(
  run_dir: str,
  out: str | None = None,
  *,
  step: int | None = None,
  all_groups: bool = False,
) -> tuple[str, str]:
  """Writes the file and its card.

  Args:
    run_dir: the run.
    out: the file, by default encoder.npz in the run's folder; the card is
      beside it, with the suffix .md.
    step: which checkpoint; the newest if None.
    all_groups: see `dim_jax.Encoder.export`.

  Returns:
    The paths of the file and of the card.

  Raises:
    FileNotFoundError: the folder is no run, or has no such checkpoint.
    FileExistsError: the file or the card is there already.
    ValueError: the file would have the card's name.
  """
  run_dir = os.path.expanduser(run_dir)
  out = os.path.expanduser(out or os.path.join(run_dir, 'encoder.npz'))
  described = os.path.splitext(out)[0] + '.md'
  if described == out:
    raise ValueError(
      f'--file={out!r} is the name of the card, which lies beside the file: '
      'give the file another suffix, such as .npz.'
    )
  for path in (out, described):
    if os.path.exists(path):
      raise FileExistsError(
        f'{path!r} exists already: choose another --file, or delete it first.'
      )
  dim_jax.load(run_dir, step).export(out, all_groups=all_groups)
  try:
    files.write(described, card(out, run_dir))
  except BaseException:
    os.remove(out)  # Or the next try would find it in its way.
    raise
  return out, described


def card(path: str, run_dir: str) -> str:
  """Writes what is known of an exported encoder, as Markdown.

  Args:
    path: the file.
    run_dir: the run that it comes from, whose measurements are shown.
  """
  with np.load(path, allow_pickle=False) as file:
    header = json.loads(str(file['json']))
    sizes = {name: file[name].size for name in file.files if name != 'json'}
  params = [name for name in sizes if name.startswith('params/')]
  measured = _measured(run_dir)
  notes = [
    found['note']
    for found in measured.values()
    if found.get('step') == header['step'] and found.get('note')
  ]
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('dim_jax.runs', '.'),
    # Markdown, not HTML.
    autoescape=False,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters |= {
    'cell': lambda text: str(text).replace('|', r'\|'),
    'json': json.dumps,
    'quoted': repr,
  }
  return environment.get_template('model_card.md.j2').render(
    name=os.path.splitext(os.path.basename(path))[0],
    file=os.path.basename(path),
    header=header,
    config=header['config'],
    method=provenance.title(
      config_lib.from_json(header['config']['objective'])
    ),
    groups=sorted({name.split('/')[1] for name in params}),
    parameters=sum(sizes[name] for name in params),
    commit=provenance.commit(),
    note=notes[-1] if notes else '',
    measured=measured,
    weights='average' if header['averaged'] else 'raw',
    first=min(sizes),
    command=provenance.read(run_dir).get('command'),
  )


def _measured(run_dir: str) -> dict[str, Any]:
  """Reads what evaluation found, by the name of its file."""
  measured = {}
  for name in ('probes', 'classification', 'density'):
    path = os.path.join(run_dir, 'evaluation', f'{name}.json')
    if found := files.read_json(path):
      if 'results' in found:
        found['results'] = probes_lib.migrate_rows(found['results'])
      measured[name] = found
  return measured
