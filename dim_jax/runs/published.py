"""What the Deep InfoMax paper measured of representations, in one table."""

from typing import Any

SOURCE = (
  'published, Hjelm et al. 2019 table 3, CIFAR-10; different training length'
)
COLUMNS = ('SVM conv', 'SVM fc', 'SVM Y', 'MS-SSIM', 'MINE', 'NDM')
# Accuracies in percent, mean and standard deviation over five runs, then what
# the paper calls MS-SSIM, and MINE and NDM in nats. NDM is of codes behind a
# sigmoid, in brackets without. MINE exceeds ln 50,000 = 10.8, the information
# that so many images can show: it ranks encoders and estimates nothing.
_TABLE = """
VAE      53.83±0.62  42.14±3.69  39.59±0.01  0.72   93.02  1.62
AAE      55.22±0.06  43.34±1.10  37.76±0.18  0.67   87.48  0.03
BiGAN    56.40±1.12  38.42±6.86  44.90±0.13  0.46   37.69  24.49
NAT      48.62±0.02  42.63±3.69  39.59±0.01  0.29    6.04  0.02
DIM(G)   46.80±2.29  28.79±7.29  29.08±0.24  0.49   49.63  0.35(9.96)
DIM(L+G) 57.55±1.44  45.56±4.18  18.63±4.79  0.53  101.65  0.50(22.89)
DIM(L)   63.25±0.86  54.06±3.60  49.62±0.30  0.37   45.09  0.18(9.18)
"""
ROWS = {
  name: tuple(cells)
  for name, *cells in map(str.split, _TABLE.split('\n')[1:-1])
}


def published(config: Any) -> dict[str, Any] | None:
  """Returns the table where a run stands for one of its rows, else None.

  Args:
    config: an `ExperimentConfig`.

  Returns:
    'row', the run's; 'source', 'columns', and 'rows', the cells by model.
  """
  row = str((config.paper or {}).get('row')).partition(' ')[0]
  # The paper's tables of other data have rows of these names too.
  if getattr(config.data, 'name', None) != 'cifar10' or row not in ROWS:
    return None
  return {'row': row, 'source': SOURCE, 'columns': COLUMNS, 'rows': ROWS}
