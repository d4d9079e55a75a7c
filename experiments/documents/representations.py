"""Tables of Deep InfoMax and of what it is compared with."""

import re
import statistics
from typing import Any

from experiments.documents import markdown
from experiments.documents.results import (
  CIFAR10_IMAGES,
  config_name,
  exists,
  grouped,
  load,
)

_FEATURES = ('conv', 'fc', 'y')
_NAMES = {
  'dv': 'DIM(L) DV',
  'jsd': 'DIM(L) JSD',
  'infonce': 'DIM(L) InfoNCE',
  'global': 'DIM(G)',
  'ae': 'AE',
  'vae': 'VAE',
  'beta_vae': 'beta-VAE',
  'aae': 'AAE',
  'bigan': 'BiGAN',
  'nat': 'noise as targets',
}
_PRIORS = {
  'none': 'none',
  'jsd_unpenalised': 'JSD, no penalty',
  'jsd': 'JSD, R1 and R2',
  'wgan': 'WGAN, clipped',
  'wgan_gp': 'WGAN-GP',
  'wgan_div': 'WGAN-div',
  'gan_qp_l1': 'GAN-QP, L1',
  'gan_qp_l2': 'GAN-QP, L2',
  'hinge': 'hinge, spectral norm',
  'rsgan': 'RSGAN',
  'kl': 'KL, stochastic code',
  'mmd': 'MMD',
  'stein': 'Stein, U-form',
}
# What is measured of a prior, its scale and digits.
_MEASURES = {
  'mmd': (1000, 0),
  'variance': (1, 2),
  'total_correlation': (1, 1),
  'probe': (100, 1),
}
_MEASURE_NAMES = [
  'MMD² x 1000',
  'variance',
  'total correlation, nats',
  'probe, %',
]


def _name(row: str) -> str:
  """The name of a row, which may say that its information is local."""
  return _NAMES.get(row.removeprefix('local_'), row)


def _measures(measured: dict[str, dict[str, float]]) -> list[str]:
  return [
    markdown.plus_minus(
      measured[name]['mean'], measured[name]['std'], digits, scale
    )
    for name, (scale, digits) in _MEASURES.items()
  ]


def _percent(row: dict[str, float]) -> str:
  return markdown.plus_minus(row['mean'], row['std'], scale=100)


def demo() -> str:
  """The demo's linear probe of few labels, trained and untrained."""
  results = load('dim_digits')['evaluation']['results']
  few = {
    (row['encoder'], row['feature']): row
    for row in results
    if row['probe'] == 'linear_few'
  }
  rows = [
    [
      feature,
      *(_percent(few[kind, feature]) for kind in ('trained', 'untrained')),
    ]
    for feature in _FEATURES
  ]
  raw = _percent(few['raw', 'pixels'])
  return markdown.table(
    ['features', 'trained, %', 'untrained, %'],
    [*rows, ['raw pixels', raw, raw]],
  )


def priors_later() -> str:
  """Prior terms of a newer version on digits, two of them again."""
  names = {
    'wgan_lp': 'WGAN-LP, one-sided',
    'lsgan': 'LSGAN, no penalty',
    'jsd': 'JSD, R1 and R2, again',
    'wgan_gp': 'WGAN-GP, again',
  }
  summary = load('priors_digits_lsgan')['summary']
  return markdown.table(
    ['prior term', *_MEASURE_NAMES],
    [[name, *_measures(summary[key])] for key, name in names.items()],
  )


def priors_matched() -> str:
  """Prior terms at chosen weights and length; nothing if not measured."""
  file = 'priors_digits_matched'
  if not exists(file):
    return ''
  reports = load(file)['test']
  rows = {
    name: [
      _PRIORS[name],
      f'{report["configs"][name]["objective"]["prior"]["weight"]:g}',
      *_measures(summary),
      markdown.plus_minus(summary['mi']['mean'], summary['mi']['std'], 2),
    ]
    for report in reports
    for name, summary in report['summary'].items()
  }
  floor = [
    f'{scale * reports[0]["floor"][name]:.{digits}f}'
    if name in reports[0]['floor']
    else '—'
    for name, (scale, digits) in _MEASURES.items()
  ]
  return markdown.table(
    ['prior term', 'weight', *_MEASURE_NAMES, 'information, nats'],
    [
      *(rows[name] for name in _PRIORS if name in rows),
      ['draws of the prior', '—', *floor, '—'],
    ],
  )


def _cells(table: str) -> dict[str, list[dict]]:
  """Groups a table's cells, one a seed, by row."""
  return grouped(load(table)['cells'], lambda cell: cell['row'])


def _accuracies(cells: list[dict], probe: str) -> list[str]:
  return [
    markdown.spread((c['accuracy'][probe][name] for c in cells), scale=100)
    for name in _FEATURES
  ]


def digits_table() -> str:
  """All methods on digits, by descending accuracy on the code."""
  cells = _cells('table_digits')
  order = sorted(
    cells,
    key=lambda row: (
      -statistics.mean(c['accuracy']['linear_few']['y'] for c in cells[row])
    ),
  )
  return markdown.table(
    ['method', *(f'{f}, 5 labels' for f in _FEATURES)]
    + [f'{f}, MLP' for f in _FEATURES],
    [
      [
        _name(row),
        *_accuracies(cells[row], 'linear_few'),
        *_accuracies(cells[row], 'mlp'),
      ]
      for row in order
    ],
  )


def cifar10_table() -> str:
  """One epoch of all methods on CIFAR-10, beside the published accuracies."""
  cells = _cells('table_cifar10')
  paper = {r['name']: r['paper'] or {} for r in load('table_cifar10')['rows']}
  rows = []
  order = sorted(
    cells, key=lambda row: -cells[row][0]['accuracy']['mlp']['conv']
  )
  for row in order:
    published = paper.get(row, {})
    if 'error_1' in published:
      text = f'{100 - published["error_1"]:.2f}'
    else:
      text = ' / '.join(
        f'{published[f]:.2f}' for f in _FEATURES if f in published
      )
    if 'unverified' in published.get('source', ''):
      text += ' (from memory)'
    ssim = statistics.mean(
      c['measures']['reconstruction']['multiscale_ssim'] for c in cells[row]
    )
    rows.append(
      [
        _name(row),
        *_accuracies(cells[row], 'mlp'),
        f'{ssim:.2f}',
        text or '—',
      ]
    )
  return markdown.table(
    ['method', *_FEATURES, 'MS-SSIM of y', 'published, 1000 epochs'], rows
  )


def cifar10_long() -> str:
  """The two longest runs of Deep InfoMax on CIFAR-10."""
  rows = []
  for bound in ('infonce', 'jsd'):
    result = load(f'dim_cifar10_local_{bound}')
    objective, evaluation = result['config']['objective'], result['evaluation']
    probe = {
      (row['features'], row['tap']): row['mean']
      for row in evaluation['results']
      if row['probe'] == 'mlp'
    }
    rows.append(
      [
        f'DIM(L) {_NAMES[bound].rpartition(" ")[2]}, '
        f'`{objective["critic"]}` critic of {objective["critic_units"]} units',
        *(f'{100 * probe["trained", name]:.1f}' for name in _FEATURES),
        f'{result["step"]:,}',
        markdown.minutes([result['train_seconds']]),
      ]
    )
  rows += [
    [
      'untrained',
      *(f'{100 * probe["untrained", name]:.1f}' for name in _FEATURES),
      '0',
      '',
    ],
    ['raw pixels', *[f'{100 * probe["raw", "pixels"]:.1f}'] * 3, '', ''],
  ]
  return markdown.table(['method', *_FEATURES, 'steps', 'time'], rows)


def cifar10_short() -> str:
  """Runs of 25,000 steps beside the published accuracies."""
  files = [f'dim_cifar10_short{end}' for end in ('', '_jsd')]
  rows = []
  for run in (run for x in filter(exists, files) for run in load(x)['runs']):
    probe = {
      (row['encoder'], row['feature']): row['mean']
      for row in run['evaluation']['results']
      if row['probe'] == 'mlp'
    }
    paper = run['config']['paper']
    augmented = ', flips and crops' if run['config']['data']['flip'] else ''
    rows.append(
      [
        f'`{run["row"]}`{augmented}',
        str(run['seed']),
        *(
          f'{100 * probe["trained", name]:.1f} ({paper[name]:.1f})'
          for name in _FEATURES
        ),
        f'{run["images"] / CIFAR10_IMAGES:.0f}',
        markdown.minutes([run['train_seconds']]),
      ]
    )
  if exists('dim_cifar10_torch'):
    rows.append(_torch_row(load('dim_cifar10_torch')))
  return markdown.table(
    [
      'row of `dim_cifar10`',
      'seed',
      *(f'{name}, % (published)' for name in _FEATURES),
      'epochs',
      'time',
    ],
    rows,
  )


def _torch_row(report: dict[str, Any]) -> list[str]:
  """The end of PyTorch's training for as long, by the same probe."""
  most = max(row['train_rows'] for row in report['rows'])
  last = {
    row['feature']: row for row in report['rows'] if row['train_rows'] == most
  }
  row = last['y']
  return [
    'PyTorch, the released recipe',
    str(report['asked']['seed']),
    *(f'{100 * last[name]["mean"]:.1f}' for name in _FEATURES),
    f'{row["examples"] / most:.0f}',
    markdown.minutes([row['training_seconds']]),
  ]


def cifar10_recipe() -> str:
  """Settings by validation accuracy after 600 steps."""
  return _settings('dim_cifar10_recipe', {'average', 'steps'})


def cifar10_variations() -> str:
  """Changes to the row short by validation accuracy after 192,000 images."""
  return _settings('dim_cifar10_variations', {'average', 'steps', 'seed'})


def _settings(name: str, hidden: set[str]) -> str:
  """The accuracies of a result file by the flags of their commands.

  Args:
    name: of the file, without its end.
    hidden: flags that are not shown, beside those of what is saved.
  """
  hidden = hidden | {'checkpoint_every', 'log_every', 'optimizer.decay_every'}
  rows = []
  for row in load(name)['rows']:
    flags = dict(re.findall(r'--config\.(\S+?)=(\S+)', row['command']))
    shown = ', '.join(
      f'{flag.rpartition(".")[2]} {value}'
      for flag, value in flags.items()
      if flag not in hidden
    )
    accuracies = [f'{100 * row[feature]:.1f}' for feature in _FEATURES]
    rows.append([shown or 'as it is', *accuracies])
  rows.sort(key=lambda row: -float(row[1]))
  return markdown.table(['settings', *(f'{f}, %' for f in _FEATURES)], rows)


def critics() -> str:
  """The factored critic against the paper's at equal steps."""
  return markdown.table(
    ['critic', 'seed', *(f'{f}, %' for f in _FEATURES)],
    [
      [
        f'`{row["critic"]}`',
        str(row['seed']),
        *(f'{100 * row[f"probe/{name}_accuracy"]:.1f}' for name in _FEATURES),
      ]
      for row in sorted(
        load('critic_cifar10')['results'],
        key=lambda row: (row['critic'], row['seed']),
      )
    ],
  )


def structure() -> str:
  """Deep InfoMax with the structure tasks, one seed."""
  names = {
    'plain': 'neither',
    'coordinates': 'coordinates',
    'occlude': 'occlusion',
    'structure': 'both',
  }
  rows = load('structure_digits')['rows']
  return markdown.table(
    ['tasks', *(f'{f}, %' for f in _FEATURES)],
    [
      [name, *(f'{rows[key][f"{f}/trained"]:.1f}' for f in _FEATURES)]
      for key, name in names.items()
    ],
  )


def _su(name: str) -> str:
  """What the terms of Su's variant are worth, by weight of the KL."""
  conditions = grouped(
    load(name)['rows'], lambda row: (row['terms'], row.get('kl_weight'))
  )
  columns = (
    ('linear_few', 100),
    ('linear', 100),
    ('neighbours_cosine', 100),
    ('kl', 1),
  )
  return markdown.table(
    [
      'information',
      'weight of the KL',
      '5 labels per class, %',
      'all labels, %',
      'neighbours of the same class, %',
      'KL, nats',
    ],
    [
      [
        terms.replace('_', ' and '),
        '—' if weight is None else f'{weight:g}',
        *(
          markdown.spread((row[column] for row in rows), scale=scale)
          if column in rows[0]
          else '—'
          for column, scale in columns
        ),
      ]
      for (terms, weight), rows in conditions.items()
    ],
  )


def su_digits() -> str:
  """The terms of Su's variant on digits."""
  return _su('su_digits')


def su_mnist() -> str:
  """The terms of Su's variant on MNIST."""
  return _su('su_mnist')


def few_labels() -> str:
  """Classifiers of one and ten labels per class."""
  names = {
    'scratch': 'from scratch',
    'finetune': 'fine-tuned from Deep InfoMax',
    'semi': 'both at once',
  }
  rows = {
    (row['start'], row['labels_per_class']): row['accuracy']
    for row in load('few_labels_digits')['rows']
  }
  return markdown.table(
    ['classifier', '1 label per class, %', '10 labels per class, %'],
    [
      [name, *(markdown.spread(rows[key, labels]) for labels in (1, 10))]
      for key, name in names.items()
    ],
  )


def masks() -> str:
  """Codes of half of each image, by mask, targets and evaluation."""
  kept: dict[tuple[str, str, str], dict[str, list[float]]] = {}
  for row in load('masks_digits')['rows']:
    if row['probe'] == 'linear_few':
      key = (row['mask'] or 'no mask', row['targets'], row['evaluation'])
      kept.setdefault(key, {}).setdefault(row['tap'], []).append(row['mean'])
  return markdown.table(
    ['mask', 'scored against', 'probed on', 'fc, %', 'y, %'],
    [
      [
        mask,
        {'all': 'all locations', 'hidden': 'hidden ones'}[targets],
        # The two evaluations differ for a token alone.
        {
          'consistent': 'the mean of image and token',
          'naive': 'images as they are',
        }[evaluation]
        if mask == 'token'
        else 'images as they are',
        *(markdown.spread(features[f], scale=100) for f in ('fc', 'y')),
      ]
      for (mask, targets, evaluation), features in sorted(
        kept.items(),
        key=lambda item: (item[0][1], item[0][0] != 'no mask', item[0]),
      )
    ],
  )


def priors() -> str:
  """What each prior term does to the code, on two data sets."""
  files = {'digits': load('priors_digits'), 'MNIST': load('priors_mnist')}
  rows = [
    [
      name,
      *(x for file in files.values() for x in _measures(file['summary'][key])),
    ]
    for key, name in _PRIORS.items()
  ]
  floor = [
    f'{scale * file["floor"][name]:.{digits}f}' if name in file['floor'] else ''
    for file in files.values()
    for name, (scale, digits) in _MEASURES.items()
  ]
  return markdown.table(
    [
      'prior term',
      *(f'{data}: {name}' for data in files for name in _MEASURE_NAMES),
    ],
    [*rows, ['draws of the prior', *floor]],
  )


def digits_of(row: str, feature: str = 'y') -> str:
  """A method's accuracy on digits, 5 labels per class."""
  cells = _cells('table_digits')[row]
  return markdown.spread(
    (c['accuracy']['linear_few'][feature] for c in cells), scale=100
  )


def cifar10_command() -> str:
  """The command of the two long runs, with the names of today."""
  text = load('dim_cifar10_local_infonce')['command'].split(' (')[0]
  return f'```text\n{config_name(text)}\n```'
