"""Tables of energy models and of particles."""

from typing import Any

from experiments.documents import markdown
from experiments.documents.results import config_name, grouped, load, row_name


def _groups(file: str) -> dict[str, list[dict[str, Any]]]:
  """Groups runs that differ in the seed alone, by what they override."""
  return grouped(
    load(file)['runs'],
    lambda run: config_name(run['command']).partition(' ')[2],
  )


def _density(run: dict[str, Any], name: str, by: str | None = None) -> Any:
  (row,) = (
    row
    for row in run['density']['rows']
    if row['density'] == name and by in (None, row['by'])
  )
  return row


_RBM = {
  '--config.objective.negatives=exact': ('exact', 'exact likelihood'),
  '--config.objective.transition=gibbs --config.objective.steps=10': (
    'cd_10',
    'CD-10 (Gibbs)',
  ),
  '--config.objective.negatives=stein': ('stein', 'SteinCD'),
  '--config.objective.transition=gibbs': ('cd_1', 'CD-1 (Gibbs)'),
  '': ('langevin', 'CD-1 (Langevin)'),
}


def rbm() -> str:
  """Log likelihoods of the Boltzmann machine, exact and by AIS."""
  groups = _groups('stein_rbm_mnist')
  rows = []
  for overrides, (row, name) in _RBM.items():
    runs = groups[overrides]
    rows.append(
      [
        name,
        f'`{row}`',
        *(
          markdown.spread(
            _density(run, 'model', by)['log_likelihood'] for run in runs
          )
          for by in ('exact', 'AIS')
        ),
        markdown.minutes(run['train_seconds'] for run in runs),
      ]
    )
  gaussian = _density(runs[0], 'N(mean, I)')['log_likelihood']
  rows.append(['N(train mean, I)', '—', f'{gaussian:.1f}', '—', '—'])
  return markdown.table(
    [
      'negatives',
      'row of `stein_rbm_mnist`',
      'log likelihood, nats an image',
      'the same by AIS',
      'training',
    ],
    rows,
  )


_MIXTURES = {
  '': ('cd_10', 'CD-10 (MALA)'),
  '--config.objective.negatives=stein': ('stein', 'SteinCD'),
  '--config.objective.negatives=generator '
  '--config.optimizer.learning_rate=1e-4 '
  '--config.objective.energy_penalty=0.01': ('generator', 'SteinGAN'),
  '--config.objective.negatives=mixture --config.optimizer.learning_rate=1e-4 '
  '--config.objective.energy_penalty=0.01': ('mixture', 'SteinCD and SteinGAN'),
}


def mixtures() -> str:
  """Divergences from the truth of energies on mixtures."""
  line, plane = (_groups(f'stein_mixture_{d}d') for d in (1, 2))
  rows = []
  for overrides, (row, name) in _MIXTURES.items():
    cells = []
    for groups in (plane, line):
      runs = groups[overrides]
      cells += [
        markdown.spread(
          (_density(run, 'model')['divergence'] for run in runs), 3
        ),
        markdown.minutes(run['train_seconds'] for run in runs),
      ]
    rows.append([name, f'`{row}`', *cells])
  one = [
    f'{_density(groups[""][0], "N(mean, covariance)")["divergence"]:.3f}'
    for groups in (plane, line)
  ]
  rows.append(['one Gaussian', '—', one[0], '—', one[1], '—'])
  return markdown.table(
    [
      'negatives',
      'row',
      'plane: KL, nats',
      'training',
      'line: KL, nats',
      'training',
    ],
    rows,
  )


_GENERATORS = {
  'nearest': 'SteinGAN, the nearest repels',
  'no_repulsion': 'SteinGAN, none repels',
  'mixture': 'SteinGAN and SteinCD in turn',
  'stein_cd': 'SteinCD',
  'cd': 'CD-10 by Langevin steps',
  'gan': 'DCGAN of the same generator',
}


def stein_gan() -> str:
  """Samples of SteinGAN and others beside the test images."""
  groups = grouped(
    load('stein_gan_mnist')['runs'], lambda run: row_name(run['command'])
  )
  rows = []
  for row, name in _GENERATORS.items():
    if row not in groups:
      continue
    runs = groups[row]
    samples = [run['density']['samples'] for run in runs]
    rows.append(
      [
        name,
        f'`{row}`',
        str(len(runs)),
        f'{runs[0]["step"]:,}',
        *(
          markdown.spread((x[key] for x in samples), digits)
          for key, digits in (
            ('mmd', 4),
            ('variance_ratio', 2),
            ('classifier_score', 2),
          )
        ),
        markdown.minutes(run['train_seconds'] for run in runs),
      ]
    )
  rows.append(
    [
      'images',
      '—',
      '—',
      '—',
      f'{samples[0]["mmd_of_data"]:.4f}',
      '1',
      f'{samples[0]["classifier_score_of_data"]:.2f}',
      '—',
    ]
  )
  return markdown.table(
    [
      'method',
      'row of `stein_gan_mnist`',
      'seeds',
      'steps',
      'MMD² to the test set',
      'variance ratio',
      'classifier score',
      'training',
    ],
    rows,
  )


def svgd_variance() -> str:
  """The variance of SVGD's particles by dimension, truth 1."""
  (toy,) = (t for t in load('particles')['toys'] if t['toy'] == 'variance')
  return markdown.table(
    ['dimensions', 'with the self term', 'without it'],
    [
      [
        str(row['dimensions']),
        *(f'{row[f"variance {kind}"]:.2f}' for kind in ('with', 'without')),
      ]
      for row in toy['rows']
    ],
  )


def svgd_posterior() -> str:
  """SVGD on the posterior of a logistic regression, against long chains."""
  (toy,) = (t for t in load('particles')['toys'] if t['toy'] == 'logistic')
  return markdown.table(
    [
      'self term',
      'iterations',
      'standard deviation, of the chains',
      'accuracy, %',
    ],
    [
      [
        row['self term'],
        str(row['iteration']),
        f'{row["deviation"]:.2f}',
        f'{100 * row["accuracy"]:.1f}',
      ]
      for row in toy['rows']
      if row['iteration']
    ],
  )


def rbm_of(row: str) -> str:
  """The exact log likelihood of a row of the Boltzmann machine."""
  (overrides,) = (key for key, value in _RBM.items() if value[0] == row)
  return markdown.spread(
    _density(run, 'model', 'exact')['log_likelihood']
    for run in _groups('stein_rbm_mnist')[overrides]
  )
