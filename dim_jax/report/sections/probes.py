"""Probes of frozen features beside untrained and raw: a table per label."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import (
  Fold,
  Pairs,
  Part,
  Table,
  Text,
  draw,
  fixed,
  with_error,
)
from dim_jax.report.runs import Run


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows the probes, label by label."""
  parts: list[Part] = []
  done = runs_lib.labelled(runs, 'probes')
  labels = dict.fromkeys(x for _, p in done for x in runs_lib.labels(p))
  for label in labels:
    mine = [(name, runs_lib.of_label(probes, label)) for name, probes in done]
    mine = [(name, probes) for name, probes in mine if probes['results']]
    parts.append(table(mine, label if len(labels) > 1 else ''))
    parts += _notes(label, mine)
    if len(runs) == 1:
      name = 'probes' if label == 'class' else f'probes_{label}'
      parts.append(draw(figures.probes, mine[0][1]['results'], name))
  if len(runs) > 1 and parts and all(map(runs_lib.has_modules, runs)):
    # Modules times seeds are many rows, and depth says the most.
    return [Fold('All probes of every run', parts)]
  return parts


def _notes(label: str, done: Pairs) -> list[Part]:
  notes = [
    'Test accuracy in percent, mean ± standard deviation over n seeds (over n '
    'draws of labelled examples for the probe with few labels).'
  ]
  hashes: dict[str, dict[str, None]] = {}
  for name, probes in done:
    who = f'{name}: ' if len(done) > 1 else ''
    text = f'{who}{probes.get("dataset")}, step {probes.get("step")}.'
    chance = 100 * figures.real(probes['chance'])
    if chance > 0:
      text += f' Always the commonest {label}: {chance:.1f} %.'
    notes.append(f'{text} {probes.get("note") or ""}'.strip())
    for r in probes['results']:
      known = r.get('protocol_hash') or probes.get('protocol_hash') or '–'
      hashes.setdefault(figures.probe_name(r['probe']), {})[str(known)] = None
    if paper := probes.get('paper'):
      ran = any(r['probe'] == paper.get('probe') for r in probes['results'])
      end = '' if ran else '; that probe was not run here, so no gap is given'
      used = figures.probe_name(str(paper.get('probe')))
      source = f'{paper.get("row")}, {paper.get("source")}'
      notes.append(f'{who}Paper: {source}, {used} probe{end}.')
  listed = [f'{name} {" / ".join(known)}' for name, known in hashes.items()]
  notes.append(f'Protocols: {", ".join(listed)}.')
  notes += [
    f'The {name} numbers come from different protocols: they do not compare.'
    for name, known in hashes.items()
    if len(known) > 1
  ]
  return [Text(note) for note in notes]


def table(runs: Pairs, title: str = '') -> Table:
  """Tabulates the probes of runs, the paper's numbers beside them.

  There is a row for each encoder, feature and run, (label, probes.json):
  accuracies in percent a probe and, where the run has a `paper`, its number and
  ours less it, in points.
  """
  results = [r for _, p in runs for r in p['results']]
  counts: dict[str, set[int]] = {}
  for r in results:
    counts.setdefault(r['probe'], set()).add(len(r['values']))
  titles = {}
  for probe, n in counts.items():
    few = {(p.get('protocol') or {}).get('few_labels') for _, p in runs}
    name = figures.probe_name(probe)
    if probe == 'linear_few' and len(few) == 1 and None not in few:
      name = f'linear, {few.pop()} labels per class'
    titles[probe] = f'{name} (n={min(n)})' if len(n) == 1 else name
  rows = []
  sources = dict.fromkeys((r['encoder'], r['feature']) for r in results)
  for encoder, feature in sources:
    for label, probes in runs:
      mine = {
        r['probe']: r
        for r in probes['results']
        if (r['encoder'], r['feature']) == (encoder, feature)
      }
      row = {'encoder': encoder, 'feature': feature, 'run': label}
      for probe, name in titles.items():
        counted = len(counts[probe]) > 1
        row[name] = _cell(mine[probe], counted) if probe in mine else '–'
      if encoder == 'trained':
        row |= _paper(feature, probes.get('paper') or {}, mine)
      if mine:
        rows.append(row)
  return Table(rows, title)


def _cell(result: Mapping[str, Any], counted: bool) -> str:
  n = len(result['values'])
  std = 100 * figures.real(result['std']) if n > 1 else None
  text = with_error(100 * figures.real(result['mean']), std, 1)
  return f'{text} (n={n})' if counted else text


def _paper(
  feature: str, paper: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, str]:
  """What the paper has of a feature, and the gap to it."""
  probe = str(paper.get('probe'))
  # The paper says which probe it used; the evaluation may not have run it.
  if probe not in results or paper.get(feature) is None:
    return {}
  gap = 100 * figures.real(results[probe]['mean']) - paper[feature]
  return {
    f'paper ({figures.probe_name(probe)})': f'{paper[feature]:.2f}',
    'gap, points': fixed(gap, 1, True),
  }


def _noise(result: Mapping[str, Any], rows: int) -> float:
  """The larger of the deviation over seeds and the binomial standard error."""
  mean, std = figures.real(result['mean']), figures.real(result.get('std'))
  error = math.sqrt(max(mean * (1 - mean), 0) / rows) if rows else 0.0
  return max(error, std if math.isfinite(std) else 0.0)


def warnings(run: Run) -> list[str]:
  """Says which features do no better than what needs no training.

  There is a sentence for each label and each linear probe, with all labels and
  with few, whose features are not above the untrained encoder's, the raw data
  or chance by more than both numbers' noise (see `_noise`).
  """
  sentences = []
  for label in runs_lib.labels(run.probes) if run.probes else ():
    probes = runs_lib.of_label(run.probes, label)
    # How many frames were tested, each with a phone, is not in the results.
    rows = probes.get('protocol', {}).get('test_rows', 0) * (label != 'phone')
    for probe in ('linear', 'linear_few'):
      mine = [r for r in probes['results'] if r['probe'] == probe]
      worse: dict[str, list[str]] = {}
      for r in (r for r in mine if r['encoder'] == 'trained'):
        rivals = {
          o['encoder'] if o['encoder'] != 'raw' else f'raw {o["feature"]}': o
          for o in mine
          if o['encoder'] == 'raw'
          or (o['encoder'], o['feature']) == ('untrained', r['feature'])
        }
        if probes['chance'] is not None:
          rivals['chance level'] = {'mean': probes['chance']}
        for name, other in rivals.items():
          gap = figures.real(r['mean']) - figures.real(other['mean'])
          if not gap > _noise(r, rows) + _noise(other, rows):
            worse.setdefault(name, []).append(r['feature'])
      if worse:
        listed = '; '.join(f'{k} at {", ".join(v)}' for k, v in worse.items())
        sentences.append(
          f'The {figures.probe_name(probe)} probe of {label} is not clearly '
          f'above {listed}.'
        )
  return sentences
