"""One self-contained HTML page a run or sweep, or one that compares runs.

It reads a run's folder (config.json, metrics.jsonl, evaluation/) or a sweep's
(sweep.json) and writes index.html with every picture inside it, and beside it
the PNG and CSV files. It needs no network, no script and no other file, follows
the reader's light or dark setting, and fits a phone.
"""

import base64
import html
import itertools
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax.report import classifier_figures, density_figures, figures, greedy
from dim_jax.report import runs as runs_lib
from dim_jax.report.runs import Run, read

_TSNE_EXAMPLES = 1000


def write(
  paths: Sequence[str | os.PathLike],
  out: str | os.PathLike | None = None,
  *,
  command: str | None = None,
) -> str:
  """Writes the page, and the PNG and CSV files of its pictures.

  Args:
    paths: folders of runs. One gives the run's page, several a comparison:
      curves overlaid, probes in one table. Or the folder of one sweep.
    out: the folder to write into. By default RUN/report, and for several runs
      report/comparison in the first one's.
    command: what trained the run, for the page of one.

  Returns:
    The path of index.html.

  Raises:
    FileNotFoundError: a folder is no run.
    ValueError: no run is given, a file of one is damaged, or a sweep is given
      with others.
  """
  if not paths:
    raise ValueError('Give the folder of at least one run.')
  sweeps = [path for path in paths if os.path.isfile(_sweep_file(path))]
  if sweeps and len(paths) > 1:
    raise ValueError(
      f'A sweep has a page of its own: give {os.fspath(sweeps[0])!r} alone, '
      f'got {len(paths)} folders.'
    )
  runs = [] if sweeps else _with_labels([read(path) for path in paths])
  if out is None:
    out = os.path.join(paths[0], 'report')
    if len(runs) > 1:
      out = os.path.join(out, 'comparison')
  os.makedirs(out, exist_ok=True)

  def show(picture: figures.Picture) -> str:
    return _figure(picture, figures.save(picture, out))

  if sweeps:
    label = os.path.basename(os.path.abspath(sweeps[0]))
    title = f'Sweep {label}'
    body = _sweep(label, sweeps[0], show)
  elif len(runs) == 1:
    title = f'Run {runs[0].label}'
    body = _one_run(runs[0], show, command)
  else:
    title = 'Runs ' + ', '.join(run.label for run in runs)
    body = _several_runs(runs, show)
  path = os.path.join(out, 'index.html')
  # The page appears whole or not at all.
  with open(path + '.tmp', 'w', encoding='utf-8') as file:
    file.write(
      _PAGE.format(title=_escape(title), style=_STYLE, body='\n'.join(body))
    )
  os.replace(path + '.tmp', path)
  return path


def _with_labels(runs: Sequence[Run]) -> list[Run]:
  labels = [run.label for run in runs]
  if len(set(labels)) < len(labels):
    labels = [run.path.rstrip(os.sep) for run in runs]
  if len(set(labels)) < len(labels):
    raise ValueError(f'The same run is given twice: {labels}.')
  return [
    run._replace(label=label) for run, label in zip(runs, labels, strict=True)
  ]


# The page of one run.

_Show = Callable[[figures.Picture], str]


def _one_run(run: Run, show: _Show, command: str | None) -> list[str]:
  parts = [
    f'<h1>{_escape(run.label)}</h1>',
    *_findings([run]),
    _summary(run, command),
    *_section('Density', _density([run], show)),
    *_section('Training', _curves([run], show)),
    *_section('Classification', _classification([run], show)),
    *_section('Rate and hardest images', _remembered(run, show)),
    *_section('Attacks', _attacks([run], show)),
    *_section('Out-of-distribution data', _ood([run])),
    *_section('Depth', _depth([run], show)),
    *_section('Probes', _probes([run], show)),
    *_section('Embeddings', _embeddings(run, show)),
    *_section('Nearest neighbours', _retrieval(run, show)),
    *_section('Critic scores', _scores(run, show)),
    *_section('Spectrum', _spectra(run, show)),
    '<h2>Settings</h2>',
  ]
  if run.probes:
    parts.append(
      _details(
        'Protocol of the probes',
        run.probes.get('protocols') or run.probes.get('protocol', {}),
      )
    )
  parts.append(_details('Config of the run', run.config))
  return parts


def _several_runs(runs: Sequence[Run], show: _Show) -> list[str]:
  names = ', '.join(_escape(run.label) for run in runs)
  return [
    f'<h1>{len(runs)} runs</h1>',
    f'<p>{names}. Embeddings and neighbours are on each run’s own page.</p>',
    *_findings(runs),
    '<h2>What differs</h2>',
    _differences(runs),
    *_section('Density', _density(runs, show)),
    *_section('Training', _curves(runs, show)),
    *_section('Classification', _classification(runs, show)),
    *_section('Attacks', _attacks(runs, show)),
    *_section('Out-of-distribution data', _ood(runs)),
    *_section('Depth', _depth(runs, show)),
    *_section('Probes', _probes_of_all(runs, show)),
    *_section('Spectrum', _overlaid_spectra(runs, show)),
  ]


def _section(title: str, parts: Iterable[str]) -> list[str]:
  parts = [part for part in parts if part]
  return [f'<h2>{title}</h2>', *parts] if parts else []


def _say(text: str) -> str:
  """A sentence in place of what is missing; `code` in backticks."""
  text = re.sub('`([^`]*)`', r'<code>\1</code>', _escape(text))
  return f'<p class="missing">{text}</p>'


def _evaluate(run: Run) -> str:
  return f'`python -m experiments.evaluate {run.path}`'


def _evaluator(run: Run) -> str:
  """Which of the experiments evaluates the run first."""
  if run.classification is not None or runs_lib.objective(run.config) == 'vib':
    return 'classify'
  return 'density' if density_figures.is_energy(run) else 'evaluate'


# Findings and summary.


def _findings(runs: Sequence[Run]) -> list[str]:
  modular = [run for run in runs if greedy.is_greedy(run)]
  sentences = greedy.findings(modular, named=True) if len(runs) > 1 else []
  for run in runs:
    found = [*classification_findings(run.classification)]
    if not greedy.is_greedy(run):
      found += probe_findings(run.probes)
    elif len(runs) == 1:
      found += greedy.findings([run]) + greedy.loss_findings(run)
    if density_figures.is_energy(run):
      found += density_figures.findings(run)
      found += density_figures.training_findings(run)
    found += _curve_findings(run)
    if len(runs) > 1 and found:
      sentences.append(f'{run.label}: {" ".join(found)}')
    else:
      sentences += found
  return _bullets(sentences)


def _bullets(sentences: Sequence[str]) -> list[str]:
  if not sentences:
    return []
  items = ''.join(f'<li>{_escape(text)}</li>' for text in sentences)
  return [f'<ul class="findings">{items}</ul>']


def probe_findings(probes: Mapping[str, Any] | None) -> list[str]:
  """What the probes say, in sentences made from their numbers.

  Args:
    probes: a probes.json, or None.

  Returns:
    A sentence each for the linear probe with all labels and with few.
  """
  sentences = []
  for label, probe in itertools.product(
    runs_lib.labels(probes) if probes else (), ('linear', 'linear_few')
  ):
    results = runs_lib.of_label(probes or {}, label)['results']
    mine = [r for r in results if r['probe'] == probe]
    trained = {r['tap']: r for r in mine if r['features'] == 'trained'}
    if not trained:
      continue
    untrained = {r['tap']: r for r in mine if r['features'] == 'untrained'}
    raw = next((r for r in mine if r['features'] == 'raw'), None)
    name = 'with few labels' if probe == 'linear_few' else 'with all labels'
    of = '' if label == 'class' else f'of {label} '
    text = f'Linear probe {of}{name}: ' + ', '.join(
      f'{tap} {percent(r)}' for tap, r in trained.items()
    )
    if untrained:
      text += '; the same encoder untrained: ' + ', '.join(
        f'{tap} {percent(r)}' for tap, r in untrained.items()
      )
    if raw:
      text += f'; raw {raw["tap"]} {percent(raw)}'
    rivals = {
      tap: [r for r in (untrained.get(tap), raw) if r] for tap in trained
    }
    above = [
      tap
      for tap, r in trained.items()
      if rivals[tap] and all(_clearly_above(r, other) for other in rivals[tap])
    ]
    if any(rivals.values()):
      verdict = ' and '.join(above) if above else 'no tap'
      text += (
        f'. Above {"both" if untrained and raw else "that"} by more than the '
        f'spreads together: {verdict}'
      )
    sentences.append(text + '.')
  return sentences


def _clearly_above(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
  gap = _number(a['mean']) - _number(b['mean'])
  return gap > _number(a['std']) + _number(b['std'])


def _curve_findings(run: Run) -> list[str]:
  sentences = []
  for key in _keys([run], lambda k: f'{k}_ceiling' in run.metrics[-1]):
    # The number that stands at the curve's end.
    values = [_number(line[key]) for line in run.metrics if key in line]
    average = figures.ema(values, figures.smoothing(len(values)))
    good = average[np.isfinite(average)]
    last = float(good[-1]) if len(good) else math.nan
    ceiling = _number(run.metrics[-1].get(f'{key}_ceiling'))
    bound = (run.config.get('objective') or {}).get('bound')
    sentences.append(
      f'{key} ends at {figures.number(last)} nats of at most '
      f'{figures.number(ceiling)}{f" ({bound})" if bound else ""}.'
    )
  for key in _keys([run], lambda k: True):
    bad = [
      line['step']
      for line in run.metrics
      if key in line and not math.isfinite(_number(line[key]))
    ]
    if bad:
      sentences.append(
        f'{key} was not finite at {len(bad)} of {len(run.metrics)} logged '
        f'steps, first at {bad[0]}.'
      )
  return sentences


def _summary(run: Run, command: str | None) -> str:
  config = run.config
  data = config.get('data') or {}
  probes = run.classification or run.density or run.probes or {}
  rows: list[tuple[str, str]] = []
  if data:
    shape = config.get('input_shape') or ()
    # How long a piece of sound is, is with the method.
    size = f', {"x".join(map(str, shape))} pixels' if len(shape) > 1 else ''
    rows.append(('Data', f'{data.get("name")}{size}'))
    if probes.get('note'):
      rows.append(('', str(probes['note'])))
  if greedy.is_greedy(run):
    rows += greedy.summary(run)
  elif density_figures.is_energy(run):
    rows += density_figures.summary(run)
  else:
    rows.append(('Method', _method(config)))
  optimizer = config.get('optimizer')
  if isinstance(optimizer, dict):
    rows.append(('Optimizer', f'Adam: {_scalars(optimizer)}'))
  if run.metrics:
    last = run.metrics[-1]
    of = config.get('steps')
    text = f'{last["step"]:,}'
    if of and of != last['step']:
      text += f' of {of:,} (unfinished, or continuing)'
    if 'images' in last:
      text += f', {last["images"]:,} {runs_lib.noun(config)} seen'
    if 'batch_size' in config:
      text += f', batch {config["batch_size"]}'
    rows.append(('Steps', f'{text}, seed {config.get("seed")}'))
    rates = [
      _number(line['images_per_s'])
      for line in run.metrics
      if 'images_per_s' in line
    ]
    if 'seconds' in last:
      text = _duration(_number(last['seconds']))
      if rates:
        text += f', median {statistics.median(rates):,.0f} '
        text += f'{runs_lib.noun(config)}/s'
      rows.append(('Training time', text))
  if run.summary:
    spent = {k: _number(v) for k, v in run.summary['seconds'].items()}
    text = ', '.join(f'{k} {_duration(v)}' for k, v in spent.items())
    rows.append(('Where the time went', text))
  if probes:
    text = f'step {probes.get("step")}'
    if 'seconds' in probes:
      text += f', {_duration(_number(probes["seconds"]))}'
    rows.append(('Evaluated at', text))
    if probes.get('hardware'):
      rows.append(('Hardware (evaluation)', str(probes['hardware'])))
    if probes.get('versions'):
      versions = probes['versions']
      rows.append(
        ('Versions', ', '.join(f'{k} {versions[k]}' for k in versions))
      )
  items = ''.join(
    f'<dt>{_escape(key)}</dt><dd>{_escape(value)}</dd>' for key, value in rows
  )
  train = command or (
    f'python -m experiments.train --config=CONFIG --workdir={run.path}'
  )
  steps = [_evaluator(run)]
  if run.probes and 'evaluate' not in steps:
    steps.append('evaluate')
  text = '\n'.join(
    [
      train,
      *(f'python -m experiments.{step} {run.path}' for step in steps),
      f'python -m experiments.report {run.path}',
    ]
  )
  note = ''
  if not command:
    note = (
      '<p class="note">CONFIG: a file that makes the config shown at the end '
      'of this page.</p>'
    )
  return f'<dl>{items}</dl><pre>{_escape(text)}</pre>{note}'


# What a summary says of an objective, by its module.
_METHOD = {
  'dim': (
    'encoder',
    'bound',
    'critic',
    'critic_units',
    'local_weight',
    'global_weight',
    'prior_weight',
    'prior',
  ),
  'vib': (
    'encoder',
    'covariance',
    'code',
    'beta',
    'marginal',
    'samples',
    'dropout',
    'label_smoothing',
    'confidence_penalty',
  ),
}


def _method(config: Mapping[str, Any]) -> str:
  objective = config.get('objective') or {}
  module = runs_lib.objective(config)
  known = {k: objective[k] for k in _METHOD.get(module, ()) if k in objective}
  text = _scalars(known or objective)
  return f'{module}: {text}' if module else text


def _scalars(values: Mapping[str, Any]) -> str:
  return ', '.join(
    f'{key.replace("_", " ")} {runs_lib.plain(value)}'
    for key, value in values.items()
    if key != 'type' and value is not None and not isinstance(value, list)
  )


def _duration(seconds: float) -> str:
  if not math.isfinite(seconds):
    return 'unknown'
  if seconds < 120:
    return f'{seconds:.0f} s'
  minutes = round(seconds / 60)
  if minutes < 120:
    return f'{minutes} min'
  return f'{minutes // 60} h {minutes % 60} min'


def _differences(runs: Sequence[Run]) -> str:
  flat = [dict(runs_lib.flatten(run.config)) for run in runs]
  # The paper's numbers are no setting; the table of probes has them.
  keys = dict.fromkeys(
    key for values in flat for key in values if not key.startswith('paper')
  )
  rows = []
  for key in keys:
    values = [runs_lib.plain(v[key]) if key in v else '–' for v in flat]
    if len(set(values)) > 1:
      rows.append([key, *values])
  ends = [str(r.metrics[-1]['step']) if r.metrics else '–' for r in runs]
  if len(set(ends)) > 1:
    rows.append(['last logged step', *ends])
  if not rows:
    return '<p>Nothing: the configs are equal.</p>'
  return _table(['setting', *(run.label for run in runs)], rows)


# Curves.


def _keys(runs: Sequence[Run], accept: Callable[[str], Any]) -> list[str]:
  keys = dict.fromkeys(
    key for run in runs for line in run.metrics for key in line
  )
  return [
    key
    for key in keys
    if '/' in key and not re.search('[_/]ceiling$', key) and accept(key)
  ]


def _families(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Panels of curves: the terms in each, with their unit and title."""
  found: list[dict[str, Any]] = []
  taken: set[str] = set()
  noun = _noun(runs)

  def add(
    name: str, title: str, unit: str, accept: Callable[[str], Any], **more: Any
  ) -> None:
    keys = _keys(runs, lambda key: key not in taken and accept(key))
    taken.update(keys)
    if keys:
      found.append(
        {'name': name, 'title': title, 'unit': unit, 'keys': keys} | more
      )

  bounds = sorted(
    {
      str(bound)
      for run in runs
      if (bound := (run.config.get('objective') or {}).get('bound'))
    }
  )
  add(
    'mi',
    'Mutual information',
    'nats',
    lambda key: key.startswith('mi/'),
    caption=f'Estimator: {", ".join(bounds)}; higher is better.'
    if bounds
    else '',
  )
  add(
    'cross_entropy',
    'Cross-entropy',
    'nats',
    lambda key: key == 'decoder/cross_entropy',
    caption='On training batches; codes of a bottleneck are sampled.',
  )
  add(
    'accuracy',
    'Accuracy',
    'accuracy, %',
    lambda key: key == 'decoder/accuracy',
    scale=100.0,
    caption='On training batches; codes of a bottleneck are sampled.',
  )
  add(
    'rate',
    'Rate',
    'nats',
    lambda key: key == 'encoder/rate',
    caption='An upper bound on I(Z;X): the code’s divergence from its '
    'marginal, summed over dimensions.',
  )
  taken.update(density_figures.UNDRAWN)
  for family in (*greedy.FAMILIES, *density_figures.FAMILIES):
    add(accept=re.compile(family['pattern']).fullmatch, **family)
  # A constant says less than the config does.
  if not _moves(runs, 'encoder/beta'):
    taken.add('encoder/beta')
  add('beta', 'Price of the rate', 'beta', lambda key: key == 'encoder/beta')
  add('kl', 'Prior: KL', 'nats', lambda key: key == 'prior/kl')
  add('prior', 'Prior matching', 'nats', lambda key: key.startswith('prior/'))
  add(
    'probe',
    'Online probe',
    'accuracy, %',
    lambda key: key.startswith('probe/') and key.endswith('_accuracy'),
    scale=100.0,
    caption='On training batches, by a linear probe that sends no gradient to '
    'the encoder; the table below is what counts.',
  )
  # The probe's losses say what its accuracies say.
  taken.update(_keys(runs, lambda key: key.startswith('probe/')))
  add(
    'rank',
    'Collapse: effective rank',
    'effective rank',
    lambda key: key == 'encoder/effective_rank',
    caption=f'Of the code on held-out {noun}; near 1, all {noun} differ along '
    f'one direction only.',
  )
  add(
    'std',
    'Collapse: spread of the code',
    'standard deviation',
    lambda key: key == 'encoder/std',
    caption=f'Over held-out {noun}, mean over dimensions; near 0, all {noun} '
    f'look alike.',
  )
  while rest := _keys(runs, lambda key: key not in taken):
    player = rest[0].split('/')[0]
    add(
      re.sub(r'\W+', '_', player),
      player,
      'value',
      lambda key, player=player: key.split('/')[0] == player,  # type: ignore[misc]
    )
  return found


def _noun(runs: Sequence[Run]) -> str:
  nouns = {runs_lib.noun(run.config) for run in runs}
  return nouns.pop() if len(nouns) == 1 else 'examples'


def _moves(runs: Sequence[Run], key: str) -> bool:
  return any(
    len({line[key] for line in run.metrics if key in line}) > 1 for run in runs
  )


def _line(run: Run, key: str, label: str) -> figures.Line | None:
  lines = [line for line in run.metrics if key in line]
  if not lines:
    return None
  ceiling = None
  top = greedy.ceiling(key) or f'{key}_ceiling'
  if top in lines[-1]:
    ceiling = [_number(line.get(top)) for line in lines]
  return figures.Line(
    label,
    [line['step'] for line in lines],
    [_number(line[key]) for line in lines],
    ceiling,
  )


def _term(key: str) -> str:
  if module := greedy.module_of(key):
    return module
  return key.split('/', 1)[1].removesuffix('_accuracy').replace('_', ' ')


def _curves(runs: Sequence[Run], show: _Show) -> list[str]:
  parts = [
    _say(
      f'{run.label} has no metrics yet: continue its training, '
      f'`python -m experiments.train ... --workdir={run.path}`.'
    )
    for run in runs
    if not run.metrics
  ]
  sizes = {run.config.get('batch_size') for run in runs}
  xlabel = 'step'
  if len(sizes) == 1 and (size := sizes.pop()):
    xlabel = f'step ({size} {_noun(runs)} each)'
  pictures = []
  modular = all(map(greedy.is_greedy, runs))
  for family in _families(runs):
    settings = {
      'unit': family['unit'],
      'xlabel': xlabel,
      'scale': family.get('scale', 1.0),
      'caption': family.get('caption', ''),
      'dashed': family.get('dashed', figures.CEILING),
    }
    if len(runs) == 1:
      lines = [_line(runs[0], key, _term(key)) for key in family['keys']]
      panels = [(family['name'], family['title'], lines)]
    elif modular:
      panels = [_by_method(runs, family)]
      settings['palette'] = list(greedy.methods(runs))
      if len(settings['palette']) < len(runs):
        settings['caption'] += ' Mean over the runs of a method.'
    else:
      panels = [
        (
          f'{family["name"]}_{re.sub(r"[^A-Za-z0-9]+", "_", _term(key))}',
          f'{family["title"]}: {_term(key)}'
          if len(family['keys']) > 1
          else family['title'],
          [_line(run, key, run.label) for run in runs],
        )
        for key in family['keys']
      ]
    for name, title, lines in panels:
      drawn = [line for line in lines if line]
      pictures.append(show(figures.curves(name, title, drawn, **settings)))
  return [*parts, _grid(pictures)]


def _by_method(
  runs: Sequence[Run], family: Mapping[str, Any]
) -> tuple[str, str, list[figures.Line | None]]:
  """One panel: of each method the mean curve, of its last module."""
  means: list[figures.Line | None] = []
  for name, members in greedy.methods(runs).items():
    lines = []
    for run in members:
      logged = {key for line in run.metrics for key in line}
      mine = [key for key in family['keys'] if key in logged]
      lines += [_line(run, key, name) for key in mine[-1:]]
    if drawn := [line for line in lines if line]:
      means.append(greedy.mean_line(drawn, name))
  last = ', last module' if greedy.module_of(family['keys'][0]) else ''
  return family['name'], f'{family["title"]}{last}', means


# Depth.


def _depth(runs: Sequence[Run], show: _Show) -> list[str]:
  modular = [run for run in runs if greedy.is_greedy(run)]
  pictures, tables = [], []
  for label in greedy.labels(modular):
    names = greedy.probes(modular, label)
    if not names:
      continue
    probe = 'linear' if 'linear' in names else names[0]
    pictures.append(show(greedy.depth(modular, label, probe)))
    if len(modular) > 1:
      tables.append(f'<h3>Error in %: {_escape(label)}</h3>')
      tables.append(_table(*greedy.table(modular, label), 2))
  if tables:
    tables.append(
      '<p class="note">Test error, mean ± standard deviation over n runs that '
      'differ in their seed alone. An untrained encoder counts once a seed.</p>'
    )
    tables += [
      f'<p class="note">{_escape(name)}: '
      f'{_escape(", ".join(run.label for run in members))}.</p>'
      for name, members in greedy.methods(modular).items()
    ]
  return [_grid(pictures), *tables]


# Probes.


def percent(result: Mapping[str, Any]) -> str:
  """A result of probes.json as percent, with its spread where it has one."""
  mean, std = _number(result['mean']), _number(result['std'])
  if not math.isfinite(mean):
    return 'not finite'
  text = f'{100 * mean:.1f}'
  if len(result['values']) > 1:
    text += f' ± {100 * std:.1f}' if math.isfinite(std) else ' ± ?'
  # Unbreakable, or a phone parts the number from its unit.
  return f'{text} %'.replace(' ', '\u00a0')


def probe_table(
  runs: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[list[str], list[list[str]]]:
  """The probes of runs as a table, the paper's row beside them.

  Args:
    runs: (label, probes.json) of each; with one, its label is left out.

  Returns:
    Header and rows. A row is (features, tap, [run], one cell a probe, [the
    paper's number, gap]): accuracies in percent, and the gap is ours minus the
    paper's, in points. The last row has the protocols' hashes.
  """
  several = len(runs) > 1
  results = [(label, r) for label, p in runs for r in p['results']]
  names = list(dict.fromkeys(r['probe'] for _, r in results))
  counts = {
    probe: {len(r['values']) for _, r in results if r['probe'] == probe}
    for probe in names
  }
  papers = {label: p['paper'] for label, p in runs if p.get('paper')}
  # The paper says which probe it used; the evaluation may not have run it.
  papers = {k: v for k, v in papers.items() if v.get('probe') in names}
  header = ['features', 'tap', *(['run'] if several else [])]
  for probe in names:
    n = f' (n={min(counts[probe])})' if len(counts[probe]) == 1 else ''
    header.append(f'{_probe_title(probe, [p for _, p in runs])}{n}')
  if papers:
    probes = ', '.join(
      dict.fromkeys(figures.probe_name(p['probe']) for p in papers.values())
    )
    header += [f'paper ({probes})', 'gap, points']
  rows = []
  for features, tap in dict.fromkeys(
    (r['features'], r['tap']) for _, r in results
  ):
    for label, _ in runs:
      cells = {
        r['probe']: r
        for owner, r in results
        if (owner, r['features'], r['tap']) == (label, features, tap)
      }
      if not cells:
        continue
      row = [features, tap, *([label] if several else [])]
      for probe in names:
        text = percent(cells[probe]) if probe in cells else '–'
        if probe in cells and len(counts[probe]) > 1:
          text += f' (n={len(cells[probe]["values"])})'
        row.append(text.replace('\u00a0%', ''))
      if papers:
        paper = papers.get(label, {})
        published = paper.get(tap) if features == 'trained' else None
        ours = cells.get(paper.get('probe', ''))
        if published is None:
          row += ['', '']
        elif ours is None:
          row += [f'{published:.2f}', '–']
        else:
          gap = 100 * _number(ours['mean']) - published
          sign = f'{gap:+.1f}'.replace('-', '−')
          row += [f'{published:.2f}', sign if math.isfinite(gap) else '–']
      rows.append(row)
  last = ['protocol', '', *([''] if several else [])]
  last += [' / '.join(_hashes(probe, [p for _, p in runs])) for probe in names]
  rows.append(last + [''] * (len(header) - len(last)))
  return header, rows


def _probe_title(probe: str, probes: Sequence[Mapping[str, Any]]) -> str:
  counts = {(p.get('protocol') or {}).get('few_labels') for p in probes}
  if probe == 'linear_few' and len(counts) == 1 and (count := counts.pop()):
    return f'linear, {count} labels a class'
  return figures.probe_name(probe)


def _hashes(probe: str, probes: Sequence[Mapping[str, Any]]) -> list[str]:
  """The protocols behind a probe's numbers; one, if they compare."""
  return list(
    dict.fromkeys(
      str(r.get('protocol_hash') or p.get('protocol_hash', '–'))
      for p in probes
      for r in p['results']
      if r['probe'] == probe
    )
  )


def _probes(runs: Sequence[Run], show: _Show) -> list[str]:
  parts = [
    _say(f'{run.label} is not evaluated yet: run {_evaluate(run)}.')
    for run in runs
    if run.probes is None and _evaluator(run) == 'evaluate'
  ]
  done = [(run, run.probes) for run in runs if run.probes is not None]
  labels = dict.fromkeys(x for _, p in done for x in runs_lib.labels(p))
  for label in labels:
    if len(labels) > 1:
      parts.append(f'<h3>{_escape(label)}</h3>')
    mine = [(run, runs_lib.of_label(probes, label)) for run, probes in done]
    mine = [(run, probes) for run, probes in mine if probes['results']]
    parts += _probes_of(label, mine, show)
  return parts


def _probes_of_all(runs: Sequence[Run], show: _Show) -> list[str]:
  parts = _probes(runs, show)
  if not all(map(greedy.is_greedy, runs)):
    return parts
  # Modules times seeds are many rows, and the section before says the most.
  return [
    f'<details><summary>All probes of every run</summary>{"".join(parts)}'
    f'</details>'
  ]


def _probes_of(
  label: str, done: Sequence[tuple[Run, dict[str, Any]]], show: _Show
) -> list[str]:
  header, rows = probe_table([(run.label, probes) for run, probes in done])
  parts = [_table(header, rows, text_columns=3 if len(done) > 1 else 2)]
  notes = [
    'Test accuracy in percent, mean ± standard deviation over n seeds (over n '
    'draws of labelled examples for the probe with few labels).'
  ]
  for run, probes in done:
    who = f'{run.label}: ' if len(done) > 1 else ''
    note = f' {probes["note"]}' if probes.get('note') else ''
    chance = ''
    if 'chance' in probes:
      chance = f' Always the commonest {label}: {100 * probes["chance"]:.1f} %.'
    notes.append(
      f'{who}{probes.get("dataset")}, step {probes.get("step")}.{chance}{note}'
    )
    if paper := probes.get('paper'):
      ran = any(r['probe'] == paper.get('probe') for r in probes['results'])
      notes.append(
        f'{who}Paper: {paper.get("row")}, {paper.get("source")}, '
        f'{figures.probe_name(str(paper.get("probe")))} probe'
        + ('.' if ran else '; that probe was not run here, so no gap is given.')
      )
  names = dict.fromkeys(r['probe'] for _, p in done for r in p['results'])
  notes += [
    f'The {figures.probe_name(name)} numbers come from different protocols: '
    f'they do not compare.'
    for name in names
    if len(_hashes(name, [p for _, p in done])) > 1
  ]
  parts += [f'<p class="note">{_escape(note)}</p>' for note in notes]
  if len(done) == 1:
    picture = figures.probes(done[0][1]['results'])
    if label != 'class':
      picture = picture._replace(
        name=f'probes_{label}', title=f'{picture.title}: {label}'
      )
    parts.append(_grid([show(picture)]))
  return parts


# Densities.


def _density(runs: Sequence[Run], show: _Show) -> list[str]:
  energies = [run for run in runs if density_figures.is_energy(run)]
  parts = [
    _say(
      f'{run.label} is not measured yet: run '
      f'`python -m experiments.density {run.path}`.'
    )
    for run in energies
    if not run.density
  ]
  done = [run for run in energies if run.density]
  if not done:
    return parts
  header, rows = density_figures.likelihoods(done)
  if rows:
    parts += [
      _table(header, rows, text_columns=3 if len(done) > 1 else 2),
      '<p class="note">Mean of a test example, ± its standard error; of log Z, '
      'the standard error over chains. AIS is a lower bound on log Z in the '
      'mean, so that its log likelihoods flatter. KL is estimated on the test '
      'points.</p>',
    ]
  else:
    parts.append(
      _say('No log likelihood: the energy is not normalised (`--ais`).')
    )
  return [*parts, _grid([show(p) for p in density_figures.measured(done)])]


# Classification.

# Fields of a result, and what they are called at the head of a column.
_COSTS = {
  'cross_entropy_bits': 'cross-entropy, bits',
  'rate_bits': 'rate, bits (≥ I(Z;X))',
  'izy_bits': 'I(Z;Y) ≥, bits',
}


def _error_fields(
  classifications: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
  """Fields of error rates, and their columns' titles; 'error_mean' is last."""
  results = [r for c in classifications for r in c['results']]
  counts = {
    k: v
    for r in results
    for k, v in classifier_figures.sample_errors(r).items()
  }
  fields = {
    counts[k]: f'error %, {k} sample{"" if k == 1 else "s"}'
    for k in sorted(counts)
  }
  if any('error_mean' in r for r in results):
    fields['error_mean'] = 'error %, z = mean'
  return fields


def _weights(name: Any) -> str:
  return 'average (EMA)' if name == 'average' else str(name)


def _fixed(value: Any, digits: int, signed: bool = False) -> str:
  number = _number(value)
  if not math.isfinite(number):
    return '–'
  return f'{number:{"+" if signed else ""}.{digits}f}'.replace('-', '−')


def error_table(
  runs: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[list[str], list[list[str]]]:
  """Errors of classifiers, by weights and split, the paper's row below.

  Args:
    runs: (label, classification.json) of each; with one, its label is left out.

  Returns:
    Header and rows. A row is (weights, split, [run], errors in percent by
    samples of the code, cross-entropy, rate and the bound on I(Z;Y) in bits).
    A run whose `paper` has a field of the results, such as 'error_12', gets the
    paper's row and, in points or bits, what ours on test lies above it.
  """
  several = len(runs) > 1
  errors = _error_fields([c for _, c in runs])
  fields = [(name, 2) for name in errors]
  fields += [
    (name, 3 if name != 'rate_bits' else 1)
    for name in _COSTS
    if any(name in r for _, c in runs for r in c['results'])
  ]
  header = ['weights', 'split', *(['run'] if several else [])]
  header += [errors.get(name) or _COSTS[name] for name, _ in fields]
  rows = []
  for weights, split in dict.fromkeys(
    (r['weights'], r['split']) for _, c in runs for r in c['results']
  ):
    for label, classification in runs:
      for r in classification['results']:
        if (r['weights'], r['split']) == (weights, split):
          rows.append(
            [
              _weights(weights),
              split,
              *([label] if several else []),
              *(_fixed(r.get(name), digits) for name, digits in fields),
            ]
          )
  for label, classification in runs:
    paper = classification.get('paper') or {}
    ours = _headline(classification)
    if ours is None or not any(name in paper for name, _ in fields):
      continue
    owner = [label] if several else []
    rows.append(
      [
        'paper',
        str(paper.get('row', '')),
        *owner,
        *(
          _fixed(paper[name], digits) if name in paper else ''
          for name, digits in fields
        ),
      ]
    )
    rows.append(
      [
        'gap',
        f'{_weights(ours["weights"])} − paper',
        *owner,
        *(
          _fixed(_number(ours.get(name)) - _number(paper[name]), digits, True)
          if name in paper
          else ''
          for name, digits in fields
        ),
      ]
    )
  return header, rows


def _headline(classification: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """The result on test, of the averaged weights if there are any."""
  test = [r for r in classification['results'] if r['split'] == 'test']
  average = [r for r in test if r['weights'] == 'average']
  return next(iter(average or test), None)


def classification_findings(
  classification: Mapping[str, Any] | None,
) -> list[str]:
  """What a classification.json says, in sentences made from its numbers.

  Args:
    classification: a classification.json, or None.

  Returns:
    A sentence each on the error, the rate, and the strongest attacks.
  """
  ours = _headline(classification) if classification else None
  if classification is None or ours is None:
    return []
  fields = classifier_figures.sample_errors(ours)
  # Without noise in the code all samples are the same.
  if classification.get('bottleneck') == 'none' and fields:
    fields = {1: fields[min(fields)]}
  sentences = []
  parts = [
    f'{_fixed(ours[name], 2)} %'
    + (
      f' with {count} sample{"" if count == 1 else "s"}'
      if len(fields) > 1
      else ''
    )
    for count, name in sorted(fields.items(), reverse=True)
  ]
  if parts:
    text = (
      f'Test error, {_weights(ours["weights"])} weights: {", ".join(parts)}'
    )
    share = _number(ours[fields[max(fields)]]) / 100
    if (n := ours.get('examples')) and 0 <= share <= 1:
      error = 100 * math.sqrt(share * (1 - share) / n)
      text += f' (one standard error at {n:,} examples: {error:.2f} points)'
    sentences.append(text + '.')
  rate = _number(ours.get('rate_bits'))
  if classification.get('bottleneck') != 'none' and math.isfinite(rate):
    text = (
      f'The rate is {figures.number(rate)} bits a test image, an upper bound '
      f'on I(Z;X)'
    )
    most = _of_split(classification.get('log2_examples'), 'test')
    if math.isfinite(most) and rate > most:
      text += (
        f'; a loose one, for on these images I(Z;X) is at most log₂ N = '
        f'{most:.1f} bits'
      )
    sentences.append(text + '.')
  for norm in dict.fromkeys(
    a['norm'] for a in classification.get('attacks', [])
  ):
    mine = [
      a
      for a in classification['attacks']
      if a['norm'] == norm
      and not a.get('targeted')
      and math.isfinite(_number(a['accuracy']))
    ]
    if not mine:
      continue
    worst = min(mine, key=lambda a: _number(a['accuracy']))
    size = ''
    if worst.get('epsilon') is not None:
      size = f' of at most {worst["epsilon"]:g}'
    sentences.append(
      f'Least accuracy under untargeted '
      f'{classifier_figures.norm_name(norm)} attacks: '
      f'{_fixed(worst["accuracy"], 1)} % '
      f'({classifier_figures.attack_name(worst)}{size}, {worst["mode"]}).'
    )
  return sentences


def _of_split(value: Any, split: str) -> float:
  """A number that is given for each split, or for all."""
  return _number(value.get(split) if isinstance(value, dict) else value)


def _done(runs: Sequence[Run]) -> list[tuple[str, dict[str, Any]]]:
  return [
    (run.label, run.classification)
    for run in runs
    if run.classification is not None
  ]


def _classification(runs: Sequence[Run], show: _Show) -> list[str]:
  parts = [
    _say(
      f'{run.label} is not evaluated yet: run '
      f'`python -m experiments.classify {run.path}`.'
    )
    for run in runs
    if run.classification is None and _evaluator(run) == 'classify'
  ]
  done = _done(runs)
  if not done:
    return parts
  several = len(done) > 1
  header, rows = error_table(done)
  text_columns = 3 if several else 2
  parts.append(_table(header, rows, text_columns))
  notes = [
    'A prediction averages the probabilities of its samples of the code. The '
    'rate is an upper bound on I(Z;X); H(Y) minus the cross-entropy is a lower '
    'bound on I(Z;Y).'
  ]
  for label, c in done:
    who = f'{label}: ' if several else ''
    entropy = _of_split(c.get('label_entropy_bits'), 'test')
    text = f'{who}{c.get("dataset")}, step {c.get("step")}.'
    if math.isfinite(entropy):
      text += f' H(Y) on test: {entropy:.3f} bits.'
    notes.append(f'{text} {c.get("note") or ""}'.strip())
    if paper := c.get('paper'):
      notes.append(f'{who}Paper: {paper.get("row")}, {paper.get("source")}.')
  parts += [f'<p class="note">{_escape(note)}</p>' for note in notes]

  parts.append('<h3>Calibration</h3>')
  header = ['weights', 'split', *(['run'] if several else [])]
  header += ['NLL, nats', 'Brier score', 'calibration error (ECE)', 'bins']
  rows = [
    [
      _weights(r['weights']),
      r['split'],
      *([label] if several else []),
      _fixed(_likelihood(r), 4),
      _fixed(r.get('brier'), 4),
      _fixed(r.get('ece'), 4),
      str(r.get('ece_bins', '–')),
    ]
    for weights, split in dict.fromkeys(
      (r['weights'], r['split']) for _, c in done for r in c['results']
    )
    for label, c in done
    for r in c['results']
    if (r['weights'], r['split']) == (weights, split)
  ]
  parts.append(_table(header, rows, text_columns))
  parts.append(
    '<p class="note">Of the averaged prediction; lower is better.</p>'
  )
  arrays = runs[0].classified if len(runs) == 1 else None
  if arrays and {'probabilities', 'labels'} <= arrays.keys():
    bins = int((_headline(done[0][1]) or {}).get('ece_bins') or 15)
    p = arrays['probabilities']
    if len(p) and np.isfinite(p).all():
      picture = classifier_figures.reliability(p, arrays['labels'], bins)
      parts.append(_grid([show(picture)]))
  return parts


def _likelihood(result: Mapping[str, Any]) -> Any:
  """nll_S with the most samples."""
  found = {
    int(name.removeprefix('nll_')): value
    for name, value in result.items()
    if re.fullmatch(r'nll_\d+', name)
  }
  return found[max(found)] if found else None


def _remembered(run: Run, show: _Show) -> list[str]:
  arrays = run.classified or {}
  if (
    not {'images', 'labels', 'probabilities', 'cross_entropy'} <= arrays.keys()
  ):
    return []
  labels = arrays['labels']
  names = [str(name) for name in arrays.get('class_names', [])]
  names += [str(k) for k in range(len(names), arrays['probabilities'].shape[1])]
  kind = (run.classification or {}).get('bottleneck')
  parts, pictures = [], []
  rate = arrays.get('rate') if kind != 'none' else None
  if rate is not None and not np.isfinite(rate).all():
    parts.append(_say('The rate is not drawn: it is not all finite.'))
    rate = None
  if rate is not None:
    widths = arrays.get('rate_by_dimension')
    pictures.append(
      show(classifier_figures.remembered(rate, widths, labels, names))
    )
  if {'means', 'chols', 'entropy', 'extent'} <= arrays.keys():
    means = arrays['means']
    pictures.append(
      show(
        classifier_figures.ellipses(
          means,
          arrays['chols'],
          labels[: len(means)],
          names,
          arrays['entropy'],
          arrays['extent'].tolist(),
        )
      )
    )
  pictures.append(
    show(
      classifier_figures.hardest(
        arrays['images'],
        labels,
        arrays['probabilities'],
        arrays['cross_entropy'],
        rate,
        names,
      )
    )
  )
  return [*parts, _grid(pictures)]


def _attacks(runs: Sequence[Run], show: _Show) -> list[str]:
  done = [(label, c) for label, c in _done(runs) if c.get('attacks')]
  if not done:
    return []
  several = len(done) > 1
  header = [*(['run'] if several else []), 'attack', 'mode', 'norm', 'at most']
  text_columns = len(header)
  header += ['accuracy, %', 'success, %', 'zero gradients, %']
  header += ['mean L0', 'mean L2', 'mean L∞', 'n']
  rows = [
    [
      *([label] if several else []),
      classifier_figures.attack_name(a)
      + (', targeted' if a.get('targeted') else ''),
      str(a['mode']),
      classifier_figures.norm_name(a['norm']),
      '–' if a.get('epsilon') is None else f'{a["epsilon"]:g}',
      _fixed(a.get('accuracy'), 1),
      _fixed(a.get('success'), 1),
      _fixed(100 * _number(a.get('zero_gradients')), 1),
      _fixed(a.get('l0'), 0),
      _fixed(a.get('l2'), 2),
      _fixed(a.get('linf'), 3),
      str(a.get('examples', '–')),
    ]
    for label, c in done
    for a in c['attacks']
  ]
  table = _table(header, rows, text_columns)
  if len(rows) > 12:
    table = (
      f'<details><summary>All {len(rows)} attacks</summary>{table}</details>'
    )
  parts = [
    table,
    '<p class="note">Norms are of pixels from 0 to 1. A model resists no '
    'better than its worst row says. Where transferred examples do more harm '
    'than white-box ones, or many gradients are exactly zero, the gradients '
    'are hidden: the attack is weak, not the model strong.</p>',
  ]
  classes = {
    run.classified['probabilities'].shape[1]
    for run in runs
    if run.classified and 'probabilities' in run.classified
  }
  chance = 100 / classes.pop() if len(classes) == 1 else None
  picture = classifier_figures.attack_curve(
    {label: c['attacks'] for label, c in done}, chance
  )
  return [_grid([show(picture)] if picture else []), *parts]


def _ood(runs: Sequence[Run]) -> list[str]:
  done = [(label, c) for label, c in _done(runs) if c.get('ood')]
  if not done:
    return []
  several = len(done) > 1
  header = ['other data', *(['run'] if several else []), 'score']
  text_columns = len(header)
  header += ['AUROC', 'AUPR', 'FPR at 95 % TPR']
  rows = [
    [
      name,
      *([label] if several else []),
      str(o['score']).replace('_', ' '),
      _fixed(o.get('auroc'), 3),
      _fixed(o.get('aupr'), 3),
      _fixed(o.get('fpr95'), 3),
    ]
    for name in dict.fromkeys(o['dataset'] for _, c in done for o in c['ood'])
    for label, c in done
    for o in c['ood']
    if o['dataset'] == name
  ]
  return [
    _table(header, rows, text_columns),
    '<p class="note">How well a score of an image tells other data from test '
    'images. AUROC: 0.5 is a guess, 1 is perfect.</p>',
  ]


# Sweeps.


def _sweep_file(path: str | os.PathLike) -> str:
  return os.path.join(path, 'sweep.json')


def _sweep(label: str, path: str | os.PathLike, show: _Show) -> list[str]:
  sweep = runs_lib.read_json(_sweep_file(path))
  rows = sweep.get('rows') or []
  # The averaged weights are the ones to report.
  rows = [r for r in rows if r.get('weights') == 'average'] or rows
  if not rows:
    raise ValueError(f'{_sweep_file(path)!r} has no rows.')
  settings: list[tuple[str, str]] = [('Data', str(sweep.get('dataset')))]
  if sweep.get('note'):
    settings.append(('', str(sweep['note'])))
  settings.append(('Code', f'{sweep.get("code")} dimensions'))
  settings.append(
    ('Betas', ', '.join(f'{b:g}' for b in sweep.get('betas', [])))
  )
  settings.append(('Seeds', ', '.join(map(str, sweep.get('seeds', [])))))
  if 'seconds' in sweep:
    settings.append(('Time', _duration(_number(sweep['seconds']))))
  if sweep.get('memory_bytes'):
    gigabytes = _number(sweep['memory_bytes']) / 1e9
    settings.append(('Memory', f'{gigabytes:.2f} GB'))
  items = ''.join(
    f'<dt>{_escape(key)}</dt><dd>{_escape(value)}</dd>'
    for key, value in settings
  )
  commands = [f'python -m experiments.report {os.fspath(path)}']
  if sweep.get('command'):
    commands.insert(0, str(sweep['command']))
  header, table = sweep_table(rows)
  entropy = _of_split(sweep.get('label_entropy_bits'), 'test')
  examples = _of_split(sweep.get('log2_examples'), 'train')
  pictures = [
    classifier_figures.beta_sweep(
      rows,
      classes=sweep.get('classes'),
      label_entropy_bits=entropy if math.isfinite(entropy) else None,
      log2_examples=examples if math.isfinite(examples) else None,
    )
  ]
  if math.isfinite(entropy):
    pictures.append(
      classifier_figures.information_plane(
        rows, entropy, examples if math.isfinite(examples) else None
      )
    )
  shown = {k: v for k, v in sweep.items() if k != 'rows'}
  return [
    f'<h1>{_escape(label)}</h1>',
    *_bullets(_sweep_findings(rows)),
    f'<dl>{items}</dl><pre>{_escape(chr(10).join(commands))}</pre>',
    *_section('Error and information', [_grid([show(p) for p in pictures])]),
    *_section(
      'Numbers',
      [
        _table(header, table, 2),
        '<p class="note">Mean ± standard deviation over n seeds. The rate is '
        'an upper bound on I(Z;X).</p>',
      ],
    ),
    '<h2>Settings</h2>',
    _details('Settings of the sweep', shown),
  ]


def sweep_table(
  rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
  """A sweep's means and deviations over seeds.

  Args:
    rows: the rows of a sweep.json, of one kind of weights.

  Returns:
    Header and rows. A row is (split, beta, n, errors, rate, bound on I(Z;Y)).
  """
  counts = classifier_figures.sample_errors(rows[0])
  fields = {
    name: f'error %, {k} sample{"" if k == 1 else "s"}'
    for k, name in counts.items()
  }
  fields |= {'rate_bits': 'rate, bits', 'izy_bits': 'I(Z;Y) ≥, bits'}
  found = {
    (name, split, beta): (mean, std, n)
    for name, split, beta, mean, std, n in classifier_figures.over_seeds(
      rows, [*fields]
    )
  }
  keys = dict.fromkeys((split, beta) for _, split, beta in found)
  table: list[list[str]] = []
  for split, beta in keys:
    cells = [found[name, split, beta] for name in fields]
    row = [split, f'{beta:g}', f'{cells[0][2]}']
    for (mean, std, _), name in zip(cells, fields, strict=True):
      text = _fixed(mean, 3 if name == 'izy_bits' else 2)
      if math.isfinite(std):
        text += f' ± {_fixed(std, 3 if name == "izy_bits" else 2)}'
      row.append(text.replace(' ', '\u00a0'))
    table.append(row)
  return ['split', 'beta', 'n', *fields.values()], table


def _sweep_findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  counts = classifier_figures.sample_errors(rows[0])
  if not counts:
    return []
  count = max(counts)
  found = [
    row
    for row in classifier_figures.over_seeds(rows, [counts[count], 'rate_bits'])
    if row[1] == 'test' and math.isfinite(row[3])
  ]
  errors = [row for row in found if row[0] == counts[count]]
  rates = {row[2]: row[3] for row in found if row[0] == 'rate_bits'}
  if not errors:
    return []
  best = min(errors, key=lambda row: row[3])
  spread = f' ± {best[4]:.2f}' if math.isfinite(best[4]) else ''
  text = (
    f'Least test error with {count} samples: {best[3]:.2f}{spread} % at beta '
    f'{best[2]:g}'
  )
  if best[2] in rates:
    text += f', rate {figures.number(rates[best[2]])} bits'
  return [
    f'{text}. This beta is chosen on the test set, so its error is a little '
    f'too low.'
  ]


# Features.


def _taps(run: Run, prefix: str = 'trained_') -> list[str]:
  return [
    key.removeprefix(prefix)
    for key in run.features or {}
    if key.startswith(prefix) and 'scores' not in key
  ]


def _code(run: Run) -> str:
  taps = _taps(run)
  return 'y' if 'y' in taps else taps[-1]


def _both(run: Run, tap: str) -> dict[str, np.ndarray]:
  """Features of a tap by 'trained' and 'untrained'; those that are there."""
  features = run.features or {}
  return {
    kind: features[f'{kind}_{tap}'].reshape(len(features['labels']), -1)
    for kind in ('trained', 'untrained')
    if f'{kind}_{tap}' in features
  }


def _bad(features: np.ndarray) -> str:
  """Why nothing can be drawn of the features; empty if it can."""
  if len(features) < 10:
    return 'there are fewer than ten examples'
  if not np.isfinite(features).all():
    return 'they are not all finite'
  if np.ptp(features, axis=0).max() <= 1e-6 * np.abs(features).max():
    return 'they are the same for all images: the encoder has collapsed'
  return ''


def _class_names(run: Run) -> list[str]:
  features = run.features or {}
  count = int(features['labels'].max()) + 1
  names = [str(name) for name in features.get('class_names', [])]
  return names + [str(k) for k in range(len(names), count)]


def _embeddings(run: Run, show: _Show) -> list[str]:
  if not run.features or not _taps(run):
    if _evaluator(run) != 'evaluate':
      return []
    return [
      _say(
        f'No features are stored yet, so there are no embeddings, neighbours '
        f'or spectra: run {_evaluate(run)}.'
      )
    ]
  tap, parts, pictures = _code(run), [], []
  labels, names = run.features['labels'], _class_names(run)
  usable = {}
  for kind, x in _both(run, tap).items():
    if reason := _bad(x):
      parts.append(_say(f'The {kind} {tap} features are not drawn: {reason}.'))
    else:
      usable[kind] = x
  for kind, x in usable.items():
    pictures.append(
      show(
        figures.principal_components(
          x,
          labels,
          names,
          name=f'pca_{kind}',
          title=f'{kind} {tap}',
          noun=runs_lib.noun(run.config),
        )
      )
    )
  for kind, x in usable.items():
    pictures.append(
      show(
        figures.tsne(
          x[:_TSNE_EXAMPLES],
          labels[:_TSNE_EXAMPLES],
          names,
          name=f'tsne_{kind}',
          title=f'{kind} {tap}',
          noun=runs_lib.noun(run.config),
        )
      )
    )
  return [*parts, _grid(pictures)]


def _retrieval(run: Run, show: _Show) -> list[str]:
  if not run.features or 'images' not in run.features or not _taps(run):
    return []
  tap = _code(run)
  usable = {
    f'{kind} {tap}': x for kind, x in _both(run, tap).items() if not _bad(x)
  }
  if not usable:
    return []
  picture = figures.retrieval(
    run.features['images'],
    run.features['labels'],
    _class_names(run),
    usable,
    title=f'By the code, {tap}',
  )
  return [_grid([show(picture)])]


def _scores(run: Run, show: _Show) -> list[str]:
  pictures = []
  for kind, prefix in (('trained', ''), ('untrained', 'untrained_')):
    found = [
      (run.features or {}).get(f'{prefix}scores_{sign}')
      for sign in ('positive', 'negative')
    ]
    positive, negative = found
    if positive is None or negative is None:
      continue
    if np.isfinite(positive).any() and np.isfinite(negative).any():
      pictures.append(
        show(
          figures.scores(
            positive.ravel(),
            negative.ravel(),
            name=f'scores_{kind}',
            title=kind,
          )
        )
      )
  return [_grid(pictures)] if pictures else []


def _spectra(run: Run, show: _Show) -> list[str]:
  pictures = []
  for tap in _taps(run):
    usable = {k: x for k, x in _both(run, tap).items() if not _bad(x)}
    if usable:
      pictures.append(
        show(
          figures.spectrum(
            usable, name=f'spectrum_{tap}', title=f'Spectrum of {tap}'
          )
        )
      )
  return [_grid(pictures)] if pictures else []


def _overlaid_spectra(runs: Sequence[Run], show: _Show) -> list[str]:
  taps = dict.fromkeys(tap for run in runs for tap in _taps(run))
  pictures = []
  for tap in taps:
    usable = {
      run.label: _both(run, tap)['trained']
      for run in runs
      if tap in _taps(run) and not _bad(_both(run, tap)['trained'])
    }
    if usable:
      pictures.append(
        show(
          figures.spectrum(
            usable, name=f'spectrum_{tap}', title=f'Spectrum of trained {tap}'
          )
        )
      )
  return [_grid(pictures)] if pictures else []


# HTML.


def _escape(text: Any) -> str:
  return html.escape(str(text))


def _number(value: Any) -> float:
  return math.nan if value is None else float(value)


def _grid(parts: Sequence[str]) -> str:
  return f'<div class="grid">{"".join(parts)}</div>' if parts else ''


def _figure(picture: figures.Picture, paths: Mapping[str, str]) -> str:
  uris = {
    kind: f'data:{"text/csv" if kind == "csv" else "image/png"};base64,'
    + _base64(path)
    for kind, path in paths.items()
  }
  return (
    f'<figure id="{_escape(picture.name)}"><h3>{_escape(picture.title)}</h3>'
    f'<picture><source media="(prefers-color-scheme: dark)" '
    f'srcset="{uris["dark"]}"><img src="{uris["light"]}" '
    f'alt="{_escape(picture.alt)}"></picture>'
    f'<figcaption>{_escape(picture.caption)} '
    f'<a download="{_escape(picture.name)}.csv" href="{uris["csv"]}">'
    f'Numbers (CSV)</a></figcaption></figure>'
  )


def _base64(path: str) -> str:
  with open(path, 'rb') as file:
    return base64.b64encode(file.read()).decode('ascii')


def _table(
  header: Sequence[str],
  rows: Sequence[Sequence[str]],
  text_columns: int = 99,
) -> str:
  def cells(row: Sequence[str], tag: str) -> str:
    return ''.join(
      f'<{tag}{"" if i < text_columns else " class=n"}>{_escape(cell)}</{tag}>'
      for i, cell in enumerate(row)
    )

  body, before = [], rows[0][0] if rows else ''
  for row in rows:
    rule = ' class="rule"' if row[0] != before else ''
    before = row[0]
    body.append(f'<tr{rule}>{cells(row, "td")}</tr>')
  return (
    f'<div class="table" tabindex="0"><table><thead><tr>{cells(header, "th")}'
    f'</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
  )


def _details(title: str, value: Any) -> str:
  text = _escape(json.dumps(value, indent=2))
  return (
    f'<details><summary>{_escape(title)}</summary><pre>{text}</pre></details>'
  )


_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --ink: #1d2126; --faint: #5d656e; --line: #d5d9de;
  --box: #f4f5f7; --link: #0060a0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #16191d; --ink: #e6e8eb; --faint: #9aa2ab; --line: #363c44;
    --box: #20242a; --link: #7cc4f0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 76rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 {
  font-size: 1.25rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 0 0 0.4rem; }
p, li { max-width: 48rem; }
a { color: var(--link); }
.findings {
  margin: 0 0 1.5rem; padding: 0.8rem 1rem 0.8rem 2rem;
  background: var(--box); border-radius: 6px;
}
dl {
  display: grid; grid-template-columns: max-content 1fr;
  gap: 0.2rem 1.2rem; margin: 0 0 1rem;
}
dt { color: var(--faint); }
dd { margin: 0; min-width: 0; }
pre {
  overflow-x: auto; padding: 0.7rem 0.9rem; background: var(--box);
  border-radius: 6px; font-size: 0.85rem; line-height: 1.45;
}
code { font-size: 0.9em; background: var(--box); padding: 0.1em 0.3em; }
.grid {
  display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
}
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; max-width: 40rem; height: auto; }
figcaption, .note { font-size: 0.9rem; color: var(--faint); }
figcaption { margin-top: 0.4rem; }
.note { margin: 0.4rem 0; }
.missing { padding: 0.6rem 0.9rem; border-left: 3px solid var(--line); }
.table { overflow-x: auto; margin-bottom: 0.8rem; }
table {
  border-collapse: collapse; font-variant-numeric: tabular-nums;
  white-space: nowrap;
}
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; }
th {
  font-weight: 600; border-bottom: 1px solid var(--faint);
  white-space: normal; vertical-align: bottom; max-width: 9rem;
}
.n { text-align: right; }
.rule td { border-top: 1px solid var(--line); }
.grid + h3, .table + h3, .note + h3 { margin-top: 1.5rem; }
summary { cursor: pointer; padding: 0.3rem 0; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.5rem; }
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
