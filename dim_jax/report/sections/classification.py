"""Classifiers: errors, information, calibration, and examples of high loss."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax.report import classifier_figures as drawings
from dim_jax.report import figures
from dim_jax.report.parts import Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run, labelled

# Fields of a result that are in bits, their column's title, and decimals.
_BITS = {
  'cross_entropy_bits': ('cross-entropy, bits', 3),
  'rate_bits': ('rate, bits (≥ I(Z;X))', 1),
  'izy_bits': ('I(Z;Y) ≥, bits', 3),
}


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows errors, information and calibration."""
  done = labelled(runs, 'classification')
  if not done:
    return []
  notes = [
    'A prediction averages the probabilities of its samples of the code. The '
    'rate is an upper bound on I(Z;X); H(Y) minus the cross-entropy is a lower '
    'bound on I(Z;Y).'
  ]
  for label, c in done:
    who = f'{label}: ' if len(done) > 1 else ''
    entropy = of_split(c.get('label_entropy_bits'), 'test')
    text = f'{who}{c.get("dataset")}, step {c.get("step")}.'
    if math.isfinite(entropy):
      text += f' H(Y) on test: {entropy:.3f} bits.'
    notes.append(f'{text} {_standard_error(c)} {c.get("note") or ""}'.strip())
    if paper := c.get('paper'):
      notes.append(f'{who}Paper: {paper.get("row")}, {paper.get("source")}.')
  calibration = [
    _who(label, r)
    | {
      'NLL, nats': fixed(_likelihood(r), 4),
      'Brier score': fixed(r.get('brier'), 4),
      'calibration error (ECE)': fixed(r.get('ece'), 4),
      'bins': str(r.get('ece_bins', '–')),
    }
    for label, r in _results(done)
  ]
  parts: list[Part] = [
    error_table(done),
    *map(Text, notes),
    Table(calibration, 'Calibration'),
    Text('Of the averaged prediction; lower is better.'),
  ]
  arrays = (runs[0].classified if len(runs) == 1 else None) or {}
  p = arrays.get('probabilities', np.array([]))
  if len(p) and 'labels' in arrays and np.isfinite(p).all():
    bins = int((headline(done[0][1]) or {}).get('ece_bins') or 15)
    parts.append(draw(drawings.reliability, p, arrays['labels'], bins))
  return parts


def _standard_error(classification: Mapping[str, Any]) -> str:
  """The binomial standard error of the error on test, in words."""
  ours = headline(classification) or {}
  rate, count = error(ours) / 100, ours.get('examples')
  if not count or not 0 <= rate <= 1:
    return ''
  points = 100 * math.sqrt(rate * (1 - rate) / count)
  return (
    f'One standard error of the test error at {count:,} examples: '
    f'{points:.2f} points.'
  )


def error(result: Mapping[str, Any]) -> float:
  """The error in percent with the most samples of the code."""
  fields = drawings.sample_errors(result)
  return figures.real(result[fields[max(fields)]]) if fields else math.nan


def _results(
  done: Sequence[tuple[str, Mapping[str, Any]]],
) -> list[tuple[str, Mapping[str, Any]]]:
  """All results with their runs' labels, in order of weights and split."""
  results = [(label, r) for label, c in done for r in c['results']]
  order = list(dict.fromkeys((r['weights'], r['split']) for _, r in results))
  return sorted(
    results, key=lambda r: order.index((r[1]['weights'], r[1]['split']))
  )


def _who(label: str, result: Mapping[str, Any]) -> dict[str, str]:
  weights = str(result['weights']).replace('average', 'average (EMA)')
  return {'weights': weights, 'split': str(result['split']), 'run': label}


def error_table(done: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
  """Tabulates errors by weights and split, the paper's row below.

  Args:
    done: (label, classification.json) of each run.

  Returns:
    A row for each weights, split and run: errors in percent by samples of the
    code; cross-entropy, rate and the bound on I(Z;Y) in bits. A run whose
    `paper` has a field of the results, such as 'error_12', gets the paper's row
    and, in points or bits, what ours on test lies above it.
  """
  results = _results(done)
  counts = {
    k: v for _, r in results for k, v in drawings.sample_errors(r).items()
  }
  fields = {
    counts[k]: (f'error %, {k} sample{"" if k == 1 else "s"}', 2)
    for k in sorted(counts)
  }
  fields |= {'error_mean': ('error %, z = mean', 2)} | _BITS
  fields = {
    name: field
    for name, field in fields.items()
    if any(name in r for _, r in results)
  }
  rows = [
    _who(label, r)
    | {title: fixed(r.get(k), digits) for k, (title, digits) in fields.items()}
    for label, r in results
  ]
  for label, c in done:
    paper, ours = c.get('paper') or {}, headline(c)
    shared = [name for name in fields if name in paper]
    if ours is None or not shared:
      continue
    who = _who(label, ours)
    row = who | {'weights': 'paper', 'split': str(paper.get('row', ''))}
    gap = who | {'weights': 'gap', 'split': f'{who["weights"]} − paper'}
    for name in shared:
      title, digits = fields[name]
      theirs = figures.real(paper[name])
      row[title] = fixed(theirs, digits)
      gap[title] = fixed(figures.real(ours.get(name)) - theirs, digits, True)
    rows += [row, gap]
  return Table(rows)


def _likelihood(result: Mapping[str, Any]) -> Any:
  """nll_S with the most samples S."""
  counts = [m for name in result if (m := re.fullmatch(r'nll_(\d+)', name))]
  best = max(counts, key=lambda match: int(match[1]), default=None)
  return result[best[0]] if best else None


def headline(classification: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """Picks the result on test, of the averaged weights if there are any."""
  test = [r for r in classification['results'] if r['split'] == 'test']
  average = [r for r in test if r['weights'] == 'average']
  return next(iter(average or test), None)


def of_split(value: Any, split: str) -> float:
  """Picks a number that is given for each split, or for all."""
  return figures.real(value.get(split) if isinstance(value, dict) else value)


def chance(runs: Sequence[Run]) -> float | None:
  """The accuracy of guessing, percent, if the runs agree on the classes."""
  classes = {
    run.classified['probabilities'].shape[1]
    for run in runs
    if run.classified and 'probabilities' in run.classified
  }
  return 100 / classes.pop() if len(classes) == 1 else None


def warnings(run: Run) -> list[str]:
  """Says what would mislead a reader of the table.

  Returns:
    Sentences on errors no better than chance, on rates that are loose bounds or
    of collapsed codes, on bounds below zero, and on averages that lag.
  """
  c = run.classification
  ours = headline(c) if c else None
  if c is None or ours is None:
    return []
  sentences = []
  guess = 100 - (chance([run]) or math.nan)
  if error(ours) >= guess:
    sentences.append(
      f'The test error, {fixed(error(ours), 2)} %, is no better than chance '
      f'level, {fixed(guess, 1)} %.'
    )
  rate = figures.real(ours.get('rate_bits'))
  most = of_split(c.get('log2_examples'), 'test')
  if c.get('bottleneck') != 'none' and rate < 0.01:
    sentences.append(
      f'The code has collapsed: its rate is {figures.number(rate)} bits.'
    )
  elif c.get('bottleneck') != 'none' and rate > most:
    sentences.append(
      f'The rate, {figures.number(rate)} bits a test image, is a loose bound '
      f'on I(Z;X): on these images that is at most log₂ N = {most:.1f} bits.'
    )
  if figures.real(ours.get('izy_bits')) < 0:
    sentences.append(
      'The bound on I(Z;Y) is below zero, so it says nothing: the predictions '
      'cost more bits than the frequencies of the classes would.'
    )
  raw = [
    figures.real(r.get('cross_entropy_bits'))
    for r in c['results']
    if (r['split'], r['weights']) == (ours['split'], 'raw')
  ]
  mine = figures.real(ours.get('cross_entropy_bits'))
  if ours['weights'] == 'average' and raw and mine > 1.2 * raw[0]:
    sentences.append(
      'The averaged weights lag behind the raw ones, whose cross-entropy is '
      'lower: training was too short for the average.'
    )
  return sentences


def examples(runs: Sequence[Run]) -> list[Part]:
  """Shows where the rate of one run goes, and the examples of highest loss."""
  arrays = runs[0].classified or {}
  needed = {'images', 'labels', 'probabilities', 'cross_entropy'}
  if len(runs) > 1 or not needed <= arrays.keys():
    return []
  labels = arrays['labels']
  names = [str(name) for name in arrays.get('class_names', [])]
  names += [str(k) for k in range(len(names), arrays['probabilities'].shape[1])]
  kind = (runs[0].classification or {}).get('bottleneck')
  parts: list[Part] = []
  rate = arrays.get('rate') if kind != 'none' else None
  if rate is not None and not np.isfinite(rate).all():
    text = 'The rate is not drawn: it is not all finite.'
    parts.append(Text(text, 'missing'))
    rate = None
  if rate is not None:
    widths = arrays.get('rate_by_dimension')
    parts.append(draw(drawings.rates, rate, widths, labels, names))
  if {'means', 'chols', 'entropy', 'extent'} <= arrays.keys():
    means, entropy = arrays['means'], arrays['entropy']
    own, extent = labels[: len(means)], arrays['extent'].tolist()
    code = (means, arrays['chols'], own, names, entropy, extent)
    parts.append(draw(drawings.ellipses, *code))
  loss = (arrays['probabilities'], arrays['cross_entropy'], rate, names)
  parts.append(draw(drawings.highest_loss, arrays['images'], labels, *loss))
  return parts
