"""Information-maximising representations on JAX: train them, measure them.

Letters in shapes: N images (the batch), H and W pixels, C channels, L local
positions, M globals an image, D features, A = N*M anchors, P positives and K
negatives an anchor. Information is in nats.
"""

import importlib
import os
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

# Here and below: what trains and draws takes seconds to import, and
# `dim-jax --help` has none of it.
if TYPE_CHECKING:
  from dim_jax.config import ExperimentConfig, SweepConfig
  from dim_jax.evaluation.information.estimate import MIEstimate
  from dim_jax.load import Encoder, load
  from dim_jax.objective import Objective

__all__ = [
  'Encoder',
  'Objective',
  'estimate_mi',
  'evaluate',
  'load',
  'report',
  'total_correlation',
  'train',
]
__version__ = '0.2.0'


_HOMES = {
  'Encoder': 'dim_jax.load',
  'Objective': 'dim_jax.objective',
  'load': 'dim_jax.load',
}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOMES[name]), name)


class _Package(types.ModuleType):
  """Keeps two functions, after which modules are called too.

  Python binds the name of a module in its package when it is first imported.
  """

  def __setattr__(self, name: str, value: Any) -> None:
    if name in ('load', 'report') and isinstance(value, types.ModuleType):
      return
    super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def train(
  config: 'ExperimentConfig | SweepConfig | str',
  workdir: str | os.PathLike,
  **options: Any,
) -> Any:
  """Trains a run or a sweep, or continues it.

  Args:
    config: what to train, or its name as `dim_jax.configs.load` takes it, such
      as 'dim_digits'; it is saved beside what it trains.
    workdir: the folder of the run or sweep.
    **options: of `dim_jax.runs.train.train`, such as `devices` and
      `show_progress`, or of `dim_jax.runs.sweep.sweep`.

  Returns:
    The final state of a run, or the results of a sweep.

  Raises:
    ValueError: the config cannot be trained, or `workdir` holds another run.
    FloatingPointError: a metric is not finite.
  """
  from dim_jax import config as config_lib
  from dim_jax import configs
  from dim_jax.runs import sweep as sweep_lib
  from dim_jax.runs import train as train_lib

  workdir = os.fspath(workdir)
  made = configs.load(config) if isinstance(config, str) else config
  if isinstance(made, config_lib.SweepConfig):
    return sweep_lib.sweep(made, workdir, **options)
  return train_lib.train(made, workdir, **options)


def evaluate(run: str | os.PathLike, **options: Any) -> dict[str, Any]:
  """Probes a run's frozen encoder, beside the untrained one and the raw data.

  Args:
    run: its folder, where the results are written.
    **options: of `dim_jax.runs.evaluate.evaluate`, such as `probes` and
      `show_progress`.

  Returns:
    The contents of evaluation/probes.json.

  Raises:
    FileNotFoundError: the folder is not a run.
    ValueError: an option is not accepted, or the data have no labels.
  """
  from dim_jax.runs import evaluate as evaluate_lib

  return evaluate_lib.evaluate(os.fspath(run), **options)


def estimate_mi(x: Any, y: Any, **options: Any) -> 'MIEstimate':
  """Estimates the mutual information of paired rows, with its error, in nats.

  Args:
    x: rows [n, D] or [n], numbers, or images [n, H, W, C].
    y: likewise; row i belongs to row i of x.
    **options: of `dim_jax.evaluation.information.estimate.estimate_mi`, such as
      `given`, for conditional information, `report`, `folds` and `seeds`.

  Returns:
    The estimate, its interval and ceiling, a control, and what speaks against
    it.

  Raises:
    ValueError: the rows or an option are not accepted.
  """
  from dim_jax.evaluation.information import estimate

  return estimate.estimate_mi(x, y, **options)


def total_correlation(x: Any, **options: Any) -> 'MIEstimate':
  """Estimates how far columns are from independent, with its error, in nats.

  Args:
    x: rows [n, D], numbers.
    **options: of
      `dim_jax.evaluation.information.estimate.total_correlation`, such as
      `report` and `seeds`.

  Returns:
    The estimate, as of `estimate_mi`.

  Raises:
    ValueError: the rows or an option are not accepted.
  """
  from dim_jax.evaluation.information import estimate

  return estimate.total_correlation(x, **options)


def report(
  runs: str | os.PathLike | Sequence[str | os.PathLike],
  out: str | os.PathLike | None = None,
) -> str:
  """Writes the page of a run or a sweep, or one that compares several runs.

  Args:
    runs: a folder, or several.
    out: the folder to write into; by default RUN/report, and for several runs
      report/comparison in the first one's.

  Returns:
    The path of index.html.

  Raises:
    FileNotFoundError: a folder is no run.
    ValueError: a file of one is damaged, or a sweep is given with others.
  """
  from dim_jax.report import page

  if isinstance(runs, str | os.PathLike):
    runs = [runs]
  return page.write(runs, out)
