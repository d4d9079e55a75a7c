"""Classifiers: errors, information, calibration, and examples of high loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax.report import classifier_figures as drawings
from dim_jax.report import figures
from dim_jax.report.parts import Missing, Pairs, Part, Table, Text, draw, fixed
from dim_jax.report.runs import Run, class_names, labelled

_NOTE = (
  'A prediction averages the probabilities of its samples of the code. The '
  'rate is an upper bound on I(Z;X), and a loose one where it exceeds log₂ N; '
  'H(Y) minus the cross-entropy is a lower bound on I(Z;Y), and says nothing '
  'where it is below 0. Averaged weights lag behind the raw ones in a short '
  'training. NLL, Brier score and calibration error (ECE): lower is better.'
)


_PLANE = {'means', 'chols', 'entropy', 'extent', 'labels', 'probabilities'}


def section(runs: Sequence[Run]) -> list[Part]:
  """Shows errors, information and calibration."""
  done = labelled(runs, 'classification')
  if not done:
    return []
  notes = [_NOTE]
  for label, c in done:
    who = f'{label}: ' if len(done) > 1 else ''
    entropy, examples = c.get('label_entropy_bits'), c.get('log2_examples')
    notes.append(
      f'{who}{c.get("dataset")}, step {c.get("step")}. On test H(Y) '
      f'{fixed(of_split(entropy, "test"), 3)} bits, log₂ N '
      f'{fixed(of_split(examples, "test"), 1)} bits. {_standard_error(c)} '
      f'{c.get("note") or ""}'
    )
    if paper := c.get('paper'):
      notes.append(f'Paper: {paper.get("row")}, {paper.get("source")}.')
  parts: list[Part] = [table(done), *map(Text, notes)]
  arrays = runs[0].classified if len(runs) == 1 else {}
  p = arrays.get('probabilities', np.array([]))
  if len(p) and 'labels' in arrays and np.isfinite(p).all():
    bins = int(headline(done[0][1]).get('ece_bins') or 15)
    parts.append(draw(drawings.reliability, p, arrays['labels'], bins))
  return parts


def _standard_error(classification: Mapping[str, Any]) -> str:
  """The binomial standard error of the error on test, in words."""
  ours = headline(classification)
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


def _fields(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
  """Columns: fields of the results, with their titles and decimals."""
  known = {name: None for result in results for name in result}
  errors = drawings.sample_errors(known)
  fields = {
    name: (f'error %, {drawings.samples(k)}', 2) for k, name in errors.items()
  } | {
    'error_mean': ('error %, z = mean', 2),
    'cross_entropy_bits': ('cross-entropy, bits', 3),
    'rate_bits': ('rate, bits (≥ I(Z;X))', 1),
    'izy_bits': ('I(Z;Y) ≥, bits', 3),
    f'nll_{max(errors, default=1)}': ('NLL, nats', 4),
    'brier': ('Brier score', 4),
    'ece': ('ECE', 4),
    'ece_bins': ('bins', 0),
  }
  return {name: field for name, field in fields.items() if name in known}


def table(done: Pairs) -> Table:
  """Tabulates results by weights and split, the paper's row below.

  A run whose `paper` has a field of the results, such as 'error_12', gets the
  paper's row and, in points or bits, what ours on test lies above it.

  Args:
    done: (label, classification.json) of each run.
  """
  fields = _fields([r for _, c in done for r in c['results']])

  def who(label: str, r: Mapping[str, Any]) -> dict[str, str]:
    weights = str(r['weights']).replace('average', 'average (EMA)')
    return {'weights': weights, 'split': str(r['split']), 'run': label}

  rows = [
    who(label, r)
    | {title: fixed(r.get(k), digits) for k, (title, digits) in fields.items()}
    for label, c in done
    for r in c['results']
  ]
  kinds = [(row['weights'], row['split']) for row in rows]
  rows.sort(key=lambda row: kinds.index((row['weights'], row['split'])))
  for label, c in done:
    paper, ours = c.get('paper') or {}, headline(c)
    shared = [name for name in fields if name in paper]
    if not (ours and shared):
      continue
    weights = who(label, ours)['weights']
    row = who(label, {'weights': 'paper', 'split': paper.get('row', '')})
    gap = who(label, {'weights': 'gap', 'split': f'{weights} − paper'})
    for name in shared:
      title, digits = fields[name]
      theirs = figures.real(paper[name])
      row[title] = fixed(theirs, digits)
      gap[title] = fixed(figures.real(ours.get(name)) - theirs, digits, True)
    rows += [row, gap]
  return Table(rows)


def headline(classification: Mapping[str, Any]) -> Mapping[str, Any]:
  """Picks the result on test, of the averaged weights if there are any."""
  test = [r for r in classification['results'] if r['split'] == 'test']
  average = [r for r in test if r['weights'] == 'average']
  return next(iter(average or test), {})


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
  """Says whether errors are no better than chance, or the code collapsed."""
  if not run.classification:
    return []
  ours, sentences = headline(run.classification), []
  level = 100 - (chance([run]) or math.nan)
  if ours and error(ours) >= level:
    sentences.append(
      f'The test error, {fixed(error(ours), 2)} %, is no better than chance '
      f'level, {fixed(level, 1)} %.'
    )
  rate = figures.real(ours.get('rate_bits'))
  if run.classification.get('bottleneck') != 'none' and rate < 0.01:
    sentences.append(
      f'The code has collapsed: its rate is {figures.number(rate)} bits.'
    )
  return sentences


def examples(runs: Sequence[Run]) -> list[Part]:
  """Shows where the rate of one run goes, and the examples of highest loss."""
  if len(runs) > 1:
    return _planes(runs)
  arrays = runs[0].classified
  needed = {'images', 'labels', 'probabilities', 'cross_entropy'}
  if not needed <= arrays.keys():
    return []
  labels = arrays['labels']
  names = class_names(arrays, arrays['probabilities'].shape[1])
  kind = runs[0].classification.get('bottleneck')
  parts: list[Part] = []
  rate = arrays.get('rate') if kind != 'none' else None
  if rate is not None and not np.isfinite(rate).all():
    parts.append(Missing('The rate is not drawn: it is not all finite.'))
    rate = None
  if rate is not None:
    widths = arrays.get('rate_by_dimension')
    parts.append(draw(drawings.rates, rate, widths, labels, names))
  if arrays.keys() >= _PLANE:
    means, entropy = arrays['means'], arrays['entropy']
    own, extent = labels[: len(means)], arrays['extent'].tolist()
    code = (means, arrays['chols'], own, names, entropy, extent)
    parts.append(draw(drawings.ellipses, *code))
  loss = (arrays['probabilities'], arrays['cross_entropy'], rate, names)
  parts.append(draw(drawings.highest_loss, arrays['images'], labels, *loss))
  return parts


def _planes(runs: Sequence[Run]) -> list[Part]:
  """Draws the two-dimensional codes of several runs side by side."""
  codes: dict[str, drawings.Plane] = {}
  names: list[str] = []
  for run in runs:
    arrays = run.classified
    if not arrays.keys() >= _PLANE:
      continue
    ours = headline(run.classification)
    errors = [
      f'{fixed(figures.real(ours[field]), 2)} % ({drawings.samples(count)})'
      for count, field in drawings.sample_errors(ours).items()
    ]
    rate = f'{fixed(ours.get("rate_bits"), 1)} bits'
    codes[run.label] = drawings.Plane(
      arrays['means'],
      arrays['chols'],
      arrays['labels'][: len(arrays['means'])],
      arrays['entropy'],
      arrays['extent'],
      '\n'.join([*errors, rate]),
    )
    names = class_names(arrays, arrays['probabilities'].shape[1])
  return [draw(drawings.planes, codes, names)] if len(codes) > 1 else []
