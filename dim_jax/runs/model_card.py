"""Writes a run's encoder as one file of arrays, with a card that describes it.

  python -m experiments.export runs/digits
  python -m experiments.export runs/digits --file=encoder.npz

The file is read by `dim_jax.load`, or by NumPy alone; the card, encoder.md, has
the config, the data and the numbers that were measured of this very step.
"""

import json
import os
from collections.abc import Mapping
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
  measured, note = _measured(run_dir, header)
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('dim_jax.runs', '.'),
    # Markdown, not HTML.
    autoescape=False,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters['quoted'] = repr
  environment.filters['cell'] = lambda text: str(text).replace('|', r'\|')
  return environment.get_template('model_card.md.j2').render(
    name=os.path.splitext(os.path.basename(path))[0],
    file=os.path.basename(path),
    header=header,
    data=header['config']['data']['name'],
    facts=_facts(header, sizes),
    note=note,
    measured=measured,
    first=min(sizes),
    command=provenance.read(run_dir).get('command'),
    config=json.dumps(header['config'], indent=2),
  )


def _facts(header: dict[str, Any], sizes: Mapping[str, int]) -> dict[str, str]:
  """Lists what a file of arrays is, by term."""
  config = header['config']
  kind, shape = header['input']['kind'], header['input']['shape']
  stored = header['input']['dtype']
  given = stored if stored == 'float32' else f'{stored}, or float in [-1, 1]'
  params = {k: size for k, size in sizes.items() if k.startswith('params/')}
  groups = ', '.join(sorted({name.split('/')[1] for name in params}))
  weights = 'the last of training'
  if header['averaged']:
    weights = f'a moving average, decay {config["average"]}'
  versions = header['versions'].items()
  return {
    'method': provenance.title(config_lib.from_json(config['objective'])),
    'input': f"'{kind}', N x {shape}, {given}",
    'features': ', '.join(f'`{k}` {v}' for k, v in header['features'].items()),
    'groups': f'{groups}: {sum(params.values()):,} parameters',
    'trained': f'{header["step"]:,} steps of {config["batch_size"]} examples, '
    f'seed {config["seed"]}',
    'parameters': weights,
    'exported with': ', '.join(f'{k} {v}' for k, v in versions),
    'commit': provenance.commit()
    or 'not known: the package is in no git checkout',
    'checksum': f'`{header["checksum"]}`',
  }


def _measured(run_dir: str, header: dict[str, Any]) -> tuple[list[str], str]:
  """Lines of what evaluation found of this step, and the note on the data."""
  lines: list[str] = []
  note = ''
  for name, describe in (
    ('probes', _probes),
    ('classification', _classification),
    ('density', _density),
  ):
    path = os.path.join(run_dir, 'evaluation', f'{name}.json')
    if not os.path.exists(path):
      continue
    with open(path, encoding='utf-8') as file:
      found = json.load(file)
    if (step := found.get('step')) != header['step']:
      lines += [f'{name}.json is of step {step} and left out.', '']
      continue
    note = found.get('note') or note
    lines += [*describe(found, header), '']
    lines += [f'Hardware: {found["hardware"]}; {found.get("date", "")}.', '']
  if not lines:
    lines = ['Nothing yet: measure the run, delete this card, export again.']
  return lines, note


def _probes(found: dict[str, Any], header: dict[str, Any]) -> list[str]:
  del header
  rows = [
    f'| {r["label"]} | {r["feature"]} | {r["encoder"]} | '
    f'{r["probe"]} | {100 * r["mean"]:.1f} ± {100 * r["std"]:.1f} | '
    f'{len(r["values"])} | {r.get("protocol_hash", "")} |'
    for r in probes_lib.migrate_rows(found['results'])
  ]
  return [
    f'Accuracy of probes in % on the test split of {found["dataset"]}, mean ± '
    'standard deviation over seeds (or draws of labels):',
    '',
    '| label | feature | encoder | probe | % | seeds | protocol |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    *rows,
    '',
    *(
      f'Protocol {key}: `{json.dumps(value)}`'
      for key, value in found.get('protocols', {}).items()
    ),
  ]


def _classification(found: dict[str, Any], header: dict[str, Any]) -> list[str]:
  weights = 'average' if header['averaged'] else 'raw'
  rows = [
    f'| {r["split"]} | {r["examples"]} | {name.removeprefix("error_")} | '
    f'{value:.2f} |'
    for r in probes_lib.migrate_rows(found['results'])
    if r['weights'] == weights
    for name, value in r.items()
    if name.startswith('error_')
  ]
  return [
    f'Errors of the classifier in % on {found["dataset"]}, by how many samples '
    f'of the code, or its mean ({weights} weights):',
    '',
    '| split | examples | samples | % |',
    '| --- | --- | --- | --- |',
    *rows,
  ]


def _density(found: dict[str, Any], header: dict[str, Any]) -> list[str]:
  del header
  rows = [
    f'| {r["density"]} | {r["by"]} | {r["log_likelihood"]:.3f} ± '
    f'{r["log_likelihood_error"]:.3f} |'
    for r in found['rows']
    if 'log_likelihood' in r
  ]
  return [
    f'Log likelihood in nats of {found["test_examples"]} test examples, ± '
    'standard error:',
    '',
    '| density | by | nats |',
    '| --- | --- | --- |',
    *rows,
  ]
