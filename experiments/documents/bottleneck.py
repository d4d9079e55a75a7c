"""Tables of the variational information bottleneck."""

import itertools
from typing import Any

from dim_jax import configs
from experiments.documents import markdown
from experiments.documents.results import grouped, load


def _test(evaluation: dict[str, Any]) -> dict[str, Any]:
  """Finds the row of averaged weights on the test images."""
  (row,) = (
    row
    for row in evaluation['results']
    if (row['weights'], row['split']) == ('average', 'test')
  )
  return row


def _epochs(run: dict[str, Any]) -> int:
  return run['metrics']['images'] // 60_000


def _row(config: str, runs: list[dict[str, Any]]) -> list[str]:
  tests = [_test(run['evaluation']) for run in runs]
  paper = configs.load(f'vib_mnist:{config}').paper
  has_rate = runs[0]['evaluation']['bottleneck'] != 'none'
  return [
    f'`{config}`',
    f'{runs[0]["evaluation"]["beta"]:g}' if has_rate else '—',
    str(*{_epochs(run) for run in runs}),
    str(len(runs)),
    markdown.spread((test['error_12'] for test in tests), 2),
    # Figure 2 is no row of the paper's table.
    {'plane': '3.18 (one sample 3.24)'}.get(
      config, f'{paper["error_12"]:.2f}' if paper else '—'
    ),
    markdown.spread((test['error_1'] for test in tests), 2),
    markdown.spread(t['rate_bits'] for t in tests) if has_rate else '—',
    markdown.minutes(run['train_seconds'] for run in runs),
  ]


def vib() -> str:
  """Test errors on MNIST of the bottleneck and of what it is compared with."""
  first = load('vib_mnist_deterministic')['runs'][0] | {'row': 'deterministic'}
  plain = grouped(
    [first, *load('vib_mnist_baselines')['runs']], lambda run: run['row']
  )
  planes = grouped(load('vib_mnist_plane')['runs'], lambda run: run['row'])
  rows = [
    _row('vib', load('vib_mnist')['runs']),
    *(_row(x, load(f'vib_mnist_{x}')['runs']) for x in ('short', 'annealed')),
    *(
      _row(name, runs)
      for name, of_row in [*plain.items(), *planes.items()]
      for runs in grouped(of_row, _epochs).values()
    ),
  ]
  return markdown.table(
    [
      'row of `vib_mnist`',
      'beta',
      'epochs',
      'seeds',
      'error, 12 samples, %',
      'published, %',
      'one sample, %',
      'rate, bits',
      'time a run',
    ],
    rows,
  )


def vib_sweep() -> str:
  """Error and rate by beta and length, K = 2 and K = 256."""
  runs = sorted(load('vib_mnist_sweep')['runs'], key=lambda run: run['code'])
  by_steps = grouped(runs, lambda run: run['steps'])
  rows = []
  for steps, beta in itertools.product(by_steps, runs[0]['betas']):
    sweeps = by_steps[steps]
    row = [f'{beta:g}', f'{steps / 600:g}', str(len(sweeps[0]['seeds']))]
    for sweep in sweeps:
      tests = [
        r
        for r in sweep['rows']
        if (r['beta'], r['split'], r['weights']) == (beta, 'test', 'average')
      ]
      row += [
        markdown.spread((test['error_12'] for test in tests), 2),
        markdown.spread((test['error_1'] for test in tests), 2),
        markdown.spread(test['rate_bits'] for test in tests),
      ]
    rows.append(row)
  return markdown.table(
    [
      'beta',
      'epochs',
      'seeds',
      *(
        f'K = {sweep["code"]}: {name}'
        for sweep in by_steps[runs[0]['steps']]
        for name in ('error, %', 'one sample, %', 'rate, bits')
      ),
    ],
    rows,
  )


def vib_attacks() -> str:
  """What attacks leave right, with and without a bottleneck."""
  kept: dict[tuple[str, str, float], list[str]] = {}
  for name in ('short', 'deterministic'):
    (run, *_) = load(f'vib_mnist_{name}')['runs']
    for row in run['evaluation']['attacks']:
      if row['norm'] == 'linf' and row['mode'] == 'samples':
        key = row['attack'], row['loss'], row['epsilon']
        kept.setdefault(key, []).append(f'{row["accuracy"]:.1f}')
  return markdown.table(
    ['attack', 'loss', 'epsilon (Linf)', 'bottleneck, %', 'deterministic, %'],
    [
      [attack.upper(), loss.replace('_', ' '), f'{epsilon:g}', *accuracies]
      for (attack, loss, epsilon), accuracies in sorted(kept.items())
    ],
  )


def forgetting() -> str:
  """What VAEs keep of digits whose rate is held at few nats."""
  report = load('forgetting_digits')
  return markdown.table(
    [
      'budget, nats',
      'rate, nats',
      'active units',
      'capacity, nats',
      'squared error',
    ],
    [
      [
        f'{row["nats"]:g}',
        markdown.plus_minus(row['rate'], row['rate_std'], 2),
        f'{row["active"]} of {row["units"]}',
        f'{row["capacity"]:.2f}',
        f'{row["squared_error"]:.3f}',
      ]
      for row in report['rows']
    ]
    + [
      ['0, the mean image', *'———', f'{report["mean_image_error"]:.3f}'],
    ],
  )


def error_of(row: str) -> str:
  """Returns the test error of a row, with 12 samples."""
  runs = load(f'vib_mnist_{row}')['runs']
  return markdown.spread(
    (_test(run['evaluation'])['error_12'] for run in runs), 2
  )
