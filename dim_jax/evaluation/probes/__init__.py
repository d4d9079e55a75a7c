"""Probes: how well simple classifiers do on frozen features.

Every probe is a function `(train, test, protocol) -> Result` of arrays. It fits
on the training rows, selects on training rows that it held out, and meets the
test labels only when the accuracy of its final predictions is counted. The
`Protocol` holds every choice that defines the number, and hashes it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dim_jax.evaluation.probes.examples import Examples, Progress, Result
from dim_jax.evaluation.probes.knn import knn_probe
from dim_jax.evaluation.probes.linear import linear_few_probe, linear_probe
from dim_jax.evaluation.probes.mlp import mlp_probe
from dim_jax.evaluation.probes.protocol import (
  DataSummary,
  Protocol,
  decay_epochs,
)
from dim_jax.evaluation.probes.svm import svm_probe

PROBES: dict[str, Callable[..., Result]] = {
  'linear': linear_probe,
  'linear_few': linear_few_probe,
  'mlp': mlp_probe,
  'knn': knn_probe,
  'svm': svm_probe,
}
"""Probes by the name that tables and protocols use."""


def migrate_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rewrites results of any version under today's names.

  Args:
    rows: the 'results' of a probes.json. Older ones call the encoder
      'features' and the feature 'tap', and may name no label.
  """
  names = {'features': 'encoder', 'tap': 'feature'}
  return [
    {'label': 'class'} | {names.get(k, k): value for k, value in row.items()}
    for row in rows
  ]


__all__ = [
  'PROBES',
  'DataSummary',
  'Examples',
  'Progress',
  'Protocol',
  'Result',
  'decay_epochs',
  'knn_probe',
  'linear_few_probe',
  'linear_probe',
  'migrate_rows',
  'mlp_probe',
  'svm_probe',
]
