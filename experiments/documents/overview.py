"""The table of methods, with one measured number each."""

from experiments.documents import (
  bottleneck,
  energies,
  information,
  markdown,
  modules,
  representations,
)


def methods(folder: str = '') -> str:
  """Writes the table.

  Args:
    folder: of the pages that it links to, from where the table stands.
  """
  digits = representations.digits_of
  untrained = digits('untrained', 'fc')
  few = 'digits, linear probe with 5 labels per class'
  rows = [
    (
      'Deep InfoMax, local, InfoNCE',
      'methods/deep_infomax.md',
      'dim_digits:infonce',
      f'{few}, fc: {digits("infonce", "fc")} %, untrained {untrained} %',
    ),
    (
      'Deep InfoMax, global',
      'methods/deep_infomax.md',
      'dim_digits:global',
      f'the same: {digits("global", "fc")} %',
    ),
    *(
      (
        name,
        'methods/baselines.md',
        f'dim_digits:{row}',
        f'the same: {digits(row, "fc")} %',
      )
      for name, row in (('VAE', 'vae'), ('BiGAN', 'bigan'))
    ),
    (
      'Noise as targets',
      'methods/baselines.md',
      'dim_digits:nat',
      f'the same: {digits("nat", "fc")} %, without augmentation',
    ),
    (
      'Variational information bottleneck',
      'methods/bottleneck.md',
      'vib_mnist:short',
      f'MNIST, test error: {bottleneck.error_of("short")} % in 25 epochs',
    ),
    (
      'Greedy InfoMax',
      'methods/greedy_infomax.md',
      'gim_spoken_digits',
      'spoken digits, linear probe of the digit, last module: '
      f'{modules.module_of("gim", "digit", "module_5")} %',
    ),
    (
      'CPC',
      'methods/greedy_infomax.md',
      'gim_spoken_digits:cpc',
      f'the same: {modules.module_of("cpc", "digit", "module_5")} %',
    ),
    (
      'Energy model, SteinCD',
      'methods/energy_models.md',
      'stein_rbm_mnist:stein',
      'RBM on MNIST, exact log likelihood: '
      f'{energies.rbm_of("stein")} nats an image, of exact training '
      f'{energies.rbm_of("exact")}',
    ),
    (
      'Mutual information',
      'measuring.md',
      '`dim_jax.estimate_mi`',
      'two informative columns of five, 5,000 pairs to fit and 2,500 to '
      'report on: 95 % intervals cover the truth in '
      f'{information.coverage_of("sparse_5", 5000)} draws',
    ),
  ]
  return markdown.table(
    ['method', 'config', 'measured'],
    [
      [f'[{name}]({folder}{page})', f'`{config.strip("`")}`', measured]
      for name, page, config, measured in rows
    ],
  )
