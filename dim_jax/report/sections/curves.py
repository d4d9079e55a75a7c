"""Training curves: a panel for each family of metrics that the runs have.

What a curve is compared with comes from the run: the metric 'X_ceiling' beside
'X', but for the names in _REFERENCES, and of an adversarial loss its value
where all scores are equal.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dim_jax.losses import adversarial
from dim_jax.report import figures
from dim_jax.report import runs as runs_lib
from dim_jax.report.parts import Missing, Part, draw
from dim_jax.report.runs import Run, module_of


class Family(NamedTuple):
  """Metrics that share a panel: its files' stem, title, unit and so on.

  The pattern is of whole names; a metric is drawn once. In the caption {noun}
  is what an example is called, {bound} the estimator. `dashed` names and
  explains the dashed line, `scale` is multiplied with.
  """

  name: str
  title: str
  unit: str
  pattern: str
  caption: str = ''
  scale: float = 1.0
  dashed: tuple[str, str] = figures.CEILING


_MEAN = ' Mean over the runs of a method.'
_BATCHES = 'On training batches; codes of a bottleneck are sampled.'
_PERCENT = 100.0
_ACCURACY = 'accuracy, %'
_STD = 'standard deviation'

# fmt: off
FAMILIES = (
  Family('mi', 'Mutual information', 'nats', 'mi/.*',
         'Estimator: {bound}; higher is better.'),
  Family('cross_entropy', 'Cross-entropy', 'nats', 'decoder/cross_entropy',
         _BATCHES),
  Family('accuracy', 'Accuracy', _ACCURACY, 'decoder/accuracy', _BATCHES,
         _PERCENT),
  Family('distortion', 'Distortion', 'nats', 'decoder/distortion',
         '−ln p(x|z) of an image, on training batches; lower is better.'),
  Family('elbo', 'Evidence lower bound', 'nats', 'decoder/elbo',
         'On ln p(x), a density of pixels in [-1, 1], on training batches; '
         'higher is better.'),
  Family('squared_error', 'Squared error of reconstructions',
         'mean square of a pixel', 'decoder/squared_error',
         'Of pixels in [-1, 1], on training batches.'),
  Family('rate', 'Rate', 'nats', 'encoder/rate',
         'An upper bound on {bounded}: the KL divergence of the code from its '
         'marginal, summed over dimensions.'),
  Family('module_infonce', 'Loss of the modules: InfoNCE', 'nats',
         r'module_\d+/infonce',
         'On training batches, mean over offsets; lower is better.',
         dashed=('chance level', 'ln(K + 1), chance level between the target '
         'and K negatives; what a loss lies below it bounds information from '
         'below')),
  Family('module_cross_entropy', 'Loss of the modules: cross-entropy', 'nats',
         r'module_\d+/cross_entropy',
         'Of labels, on training batches; lower is better.'),
  Family('module_accuracy', 'Accuracy of the modules in their own task',
         _ACCURACY, r'module_\d+/accuracy',
         'On training batches. With InfoNCE: how often the target outscores '
         'all negatives, mean over offsets; supervised: of labels.', _PERCENT),
  Family('energy', 'Log density of data and negatives', 'f, nats',
         'energy/(data|negatives)',
         'Mean f, the log of the unnormalised density, on training batches. '
         'Data far below their negatives, or both unbounded, mean divergence.'),
  Family('energy_gap', 'Gap between data and negatives', 'nats', 'energy/gap',
         'Mean f of data less mean f of negatives; near 0 where the negatives '
         'are as likely as the data.'),
  Family('energy_log_likelihood', 'Log likelihood in training', 'nats',
         'energy/log_likelihood',
         'On training batches, with the exact normaliser.'),
  Family('energy_acceptance', 'Acceptance of the chains', 'accepted, %',
         'energy/acceptance',
         'Of the proposals; Langevin steps without a test count as accepted.',
         _PERCENT),
  Family('energy_penalty', 'Size of f', 'f², nats²', 'energy/penalty',
         'Mean square over data plus that over negatives; penalised.'),
  Family('generator_std', 'Standard deviation of the generator’s samples',
         _STD, 'generator/(spread|std)',
         'Over a batch, mean over dimensions; near 0, all are alike.'),
  Family('beta', 'Beta, the weight of the rate', 'beta', 'encoder/beta'),
  Family('kl', 'Prior: KL', 'nats', 'prior/kl'),
  Family('prior', 'Prior matching', 'nats', 'prior/.*', dashed=(
         'matched', 'where codes and prior cannot be told apart, all scores '
         'being equal')),
  Family('probe', 'Online probe', _ACCURACY, 'probe/.*_accuracy',
         'On training batches, by a linear probe that sends no gradient to the '
         'encoder; the table of probes is what counts.', _PERCENT),
  Family('information', 'Information of the input in noisy features', 'nats',
         'information/(?!.*_label_).*_lower',
         'Lower bounds, with stated noise.'),
  Family('label_information', 'Information of the labels in noisy features',
         'nats', 'information/.*_label_lower',
         'Lower bounds, with stated noise.'),
  Family('rank', 'Collapse: effective rank', 'effective rank',
         'encoder/effective_rank',
         'Of the code on {watched} {noun}; near 1, all {noun} differ along one '
         'direction only.'),
  Family('std', 'Collapse: standard deviation of the code', _STD,
         'encoder/std',
         'Over {watched} {noun}, mean over dimensions; near 0, all {noun} look '
         'alike.'),
)
# fmt: on

# The probe's losses say what its accuracies say, a surrogate's value means
# nothing, another temperature is among the warnings, and what goes with a bound
# on information is in its plane.
_UNDRAWN = (
  'generator/surrogate|energy/temperature|probe/.*_loss|'
  'information/.*_(upper|gaussian|error|rate|noise_std|label_entropy)'
)

# Of the bound names, those whose value bounds no information, or has no unit.
_WITHOUT_UNIT = {'squared_hellinger', 'chi_squared'}
_NO_INFORMATION = {*_WITHOUT_UNIT, 'reverse_kl'}
# A GAN's f is the log of a ratio, and no density.
_OF_RATIO = {
  'energy': (
    'Scores of data and samples',
    'Mean f, on training batches: the log of the ratio of the density of data '
    'to that of the generator, for the best f.',
  ),
  'energy_gap': (
    'Gap between data and samples',
    'Mean f of data less mean f of samples; 0 where f cannot tell them apart.',
  ),
}

# Metrics that have another name than NAME_ceiling in their group for what to
# compare them with, by the last part of their own.
_REFERENCES = {'infonce': 'ceiling'}
# What the last part of a metric's name is called, where not as it is.
_TERMS = {'spread': _STD}


def section(runs: Sequence[Run]) -> list[Part]:
  """Draws every family; runs of modules as one line a method, the mean."""
  parts: list[Part] = [
    Missing(f'{run.label} has no metrics yet: continue its training.')
    for run in runs
    if not run.metrics
  ]
  xlabel, sizes = 'step', {run.config.get('batch_size') for run in runs}
  if len(sizes) == 1:
    xlabel += f' ({sizes.pop()} {runs_lib.noun(runs)} each)'
  modular = len(runs) > 1 and all(map(runs_lib.has_modules, runs))
  palette = list(runs_lib.methods(runs)) if modular else []
  averaged = modular and len(palette) < len(runs)
  for family, keys in _families(runs):
    settings: dict[str, Any] = {'unit': family.unit, 'xlabel': xlabel}
    settings |= {'scale': family.scale, 'dashed': family.dashed}
    settings['caption'] = family.caption + (_MEAN if averaged else '')
    settings['palette'] = palette
    for panel in _panels(runs, family, keys, modular):
      parts.append(draw(figures.curves, *panel, **settings))
  return parts


def _keys(runs: Sequence[Run], pattern: str = '.*') -> list[str]:
  """The names of metrics that are curves, as far as they match."""
  keys = dict.fromkeys(k for run in runs for line in run.metrics for k in line)
  return [
    key
    for key in keys
    if '/' in key
    and not re.search('[_/]ceiling$', key)
    and re.fullmatch(pattern, key)
  ]


def _values(run: Run, key: str) -> list[float]:
  return [figures.real(line[key]) for line in run.metrics if key in line]


def _families(runs: Sequence[Run]) -> list[tuple[Family, list[str]]]:
  """The panels that the runs have metrics for, those of unknown names last."""
  bounds = {str(b) for run in runs if (b := run.objective.get('bound'))}
  words = {'noun': runs_lib.noun(runs), 'bound': ', '.join(sorted(bounds))}
  words |= _stated(runs)
  groups = dict.fromkeys(key.split('/')[0] for key in _keys(runs))
  unknown = [
    Family(re.sub(r'\W+', '_', name), name, 'value', f'{re.escape(name)}/.*')
    for name in groups
  ]
  taken = set(_keys(runs, _UNDRAWN))
  # A constant says less than the config does.
  if not any(len(set(_values(run, 'encoder/beta'))) > 1 for run in runs):
    taken.add('encoder/beta')
  panels = []
  for family in (*FAMILIES, *unknown):
    keys = [key for key in _keys(runs, family.pattern) if key not in taken]
    taken.update(keys)
    caption = family.caption.format_map(words)
    if '{bound}' in family.caption and not bounds:
      caption = ''
    if keys:
      own = family._replace(caption=caption)
      panels.append((_renamed(own, bounds, runs), keys))
  return panels


def _stated(runs: Sequence[Run]) -> dict[str, str]:
  """What captions say of runs, as far as these agree."""
  by_class = {run.objective.get('marginal') == 'class' for run in runs}
  bounded = {frozenset([True]): 'I(X;Z|Y)', frozenset([False]): 'I(Z;X)'}
  held_out = {
    bool((run.config.get('data') or {}).get('validation')) for run in runs
  }
  watched = {frozenset([True]): 'held-out', frozenset([False]): 'training'}
  return {
    'bounded': bounded.get(
      frozenset(by_class), 'I(Z;X), or I(X;Z|Y) of a marginal by class'
    ),
    'watched': watched.get(frozenset(held_out), 'the watched'),
  }


def _renamed(family: Family, bounds: set[str], runs: Sequence[Run]) -> Family:
  """A family under the name of what its metrics are of these runs."""
  if family.name == 'mi' and bounds and bounds <= _NO_INFORMATION:
    unit = '' if bounds <= _WITHOUT_UNIT else family.unit
    return family._replace(title='Divergence of pairs', unit=unit)
  ratios = {run.objective.get('contrast') == 'jsd' for run in runs}
  if family.name in _OF_RATIO and ratios == {True}:
    title, caption = _OF_RATIO[family.name]
    return family._replace(title=title, caption=caption)
  return family


def _ceiling(key: str) -> str:
  """The metric that another is compared with."""
  group, _, name = key.rpartition('/')
  return f'{group}/{_REFERENCES.get(name, f"{name}_ceiling")}'


def _matched(run: Run) -> dict[str, float]:
  """The adversarial losses of a prior by metric, all scores being equal."""
  # The options of a prior are a group of their own in new configs.
  prior = run.objective.get('prior')
  options = prior if isinstance(prior, dict) else run.objective
  losses = adversarial.ADVERSARIAL.get(str(options.get('divergence')))
  if losses is None:
    return {}
  terms = {'adversary': losses.critic_loss, 'encoder': losses.encoder_loss}
  levels = {
    # Zero is added for its sign.
    name: [float(f(*np.full((2, 1), x, np.float32))) + 0.0 for x in (0, 0.5)]
    for name, f in terms.items()
  }
  # Of some, equal scores may be any number, and the encoder's loss with them.
  if levels['adversary'][0] == levels['adversary'][1]:
    levels = {k: x for k, x in levels.items() if x[0] == x[1]}
  return {f'prior/{name}': x for name, (x, _) in levels.items()}


def _line(run: Run, key: str, label: str) -> list[figures.Line]:
  """The curve of a metric, if the run has it."""
  lines = [line for line in run.metrics if key in line]
  if not lines:
    return []
  level = None
  if _ceiling(key) in lines[-1]:
    level = [figures.real(line.get(_ceiling(key))) for line in lines]
  elif key in (matched := _matched(run)):
    level = [matched[key]] * len(lines)
  steps = [line['step'] for line in lines]
  return [figures.Line(label, steps, _values(run, key), level)]


def _term(key: str) -> str:
  term = re.sub('_(accuracy|(label_)?lower)$', '', key.split('/', 1)[1])
  return module_of(key) or _TERMS.get(term, term.replace('_', ' '))


def _panels(
  runs: Sequence[Run], family: Family, keys: Sequence[str], modular: bool
) -> list[tuple[str, str, list[figures.Line]]]:
  """Name, title and lines of the pictures of one family."""
  name, title = family.name, family.title
  if len(runs) == 1:
    lines = [line for key in keys for line in _line(runs[0], key, _term(key))]
    return [(name, title, lines)]
  if modular:
    last = ', last module' if module_of(keys[0]) else ''
    return [(name, f'{title}{last}', _by_method(runs, keys))]
  return [
    (
      f'{name}_{re.sub(r"[^A-Za-z0-9]+", "_", _term(key))}',
      f'{title}: {_term(key)}' if len(keys) > 1 else title,
      [line for run in runs for line in _line(run, key, run.label)],
    )
    for key in keys
  ]


def _by_method(runs: Sequence[Run], keys: Sequence[str]) -> list[figures.Line]:
  """Of each method the mean curve, of its last module."""
  means = []
  for name, members in runs_lib.methods(runs).items():
    lines = []
    for run in members:
      logged = [k for k in keys if any(k in line for line in run.metrics)]
      lines += [line for key in logged[-1:] for line in _line(run, key, name)]
    if lines:
      means.append(mean_line(lines, name))
  return means


def mean_line(lines: Sequence[figures.Line], label: str) -> figures.Line:
  """Averages curves at the steps that all of them have logged."""
  steps = sorted(set(lines[0].steps).intersection(*(ln.steps for ln in lines)))

  def mean(values: Sequence[tuple[list[int], list[float]]]) -> list[float]:
    known = [dict(zip(*pair, strict=True)) for pair in values]
    return np.mean([[x[t] for t in steps] for x in known], axis=0).tolist()

  ceilings = [(line.steps, line.ceiling) for line in lines if line.ceiling]
  values = mean([(line.steps, line.values) for line in lines])
  return figures.Line(
    label, steps, values, mean(ceilings) if ceilings else None
  )


def warnings(run: Run) -> list[str]:
  """Says what the curves show that went wrong."""
  sentences = []
  for key in _keys([run]):
    values = np.array(_values(run, key))
    steps = [line['step'] for line in run.metrics if key in line]
    if len(bad := np.flatnonzero(~np.isfinite(values))):
      sentences.append(
        f'{key} was not finite at {len(bad)} of {len(steps)} logged steps, '
        f'first at {steps[bad[0]]}.'
      )
    average = figures.ema(values, figures.smoothing(len(values)))
    end = float([math.nan, *average[np.isfinite(average)]][-1])
    ceiling = figures.real(run.metrics[-1].get(_ceiling(key)))
    # Of information, the section of its plane says it.
    if end > 0.99 * ceiling and not key.startswith('information/'):
      what = 'all that its estimator can say, so there may be more'
      if module_of(key):
        what = 'no better than chance level'
      sentences.append(
        f'{key} ends at {figures.number(end)} nats of '
        f'{figures.number(ceiling)}, {what}.'
      )
  rank = [math.nan, *_values(run, 'encoder/effective_rank')][-1]
  # One dimension has rank 1, and two of unequal spread may have less than 1.5.
  few = (run.objective.get('code') or math.inf) <= 2
  if rank < 1.5 and not few:
    sentences.append(
      f'The code has collapsed: its effective rank ends at '
      f'{figures.number(rank)}, where 1 is a single direction.'
    )
  temperature = [1.0, *_values(run, 'energy/temperature')][-1]
  if abs(temperature - 1) > 0.01:
    sentences.append(
      f'The chains sampled exp(f / T) at T = {figures.number(temperature)} and '
      f'not the model, which is T = 1.'
    )
  return sentences
