"""What each term of Su's variant of Deep InfoMax is worth.

  python -m experiments.studies.su --workdir=runs/su --seeds=0,1,2

Trains local and global mutual information together, and each alone, with each
weight of the KL from N(0, I): weights of its mean over the code's dimensions,
as Su's code has it, 0.01 there. The weights and seeds of some terms are one
program, in WORKDIR/TERMS. Measured of the code, at its mean: linear probes with
few and with all labels, how many of the nearest neighbours among the test
images are of the same class, and the KL in nats; beside the untrained encoder
of each seed and the pixels. WORKDIR/su.json holds all; the same command
continues where it was interrupted.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.table

from dim_jax import checks, files, progress
from dim_jax import config as config_lib
from dim_jax.commands.command import Command, show
from dim_jax.data import load as data
from dim_jax.evaluation import features as features_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.evaluation import representations
from dim_jax.losses import priors
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import dim
from dim_jax.runs import provenance, represent
from dim_jax.training import grid, loop, metrics
from dim_jax.training import step as step_lib

TERMS = {
  'local_global': (True, True),
  'local': (True, False),
  'global': (False, True),
}
"""Which of local and global information have their weight."""
KL_WEIGHTS = (0.0, 0.01, 0.1, 1.0)
# All pairs of them are compared.
_QUERIES, _NEIGHBOURS = 2000, 8
_PROBES = ('linear_few', 'linear')


class _Setup(NamedTuple):
  """What every condition is measured on, and how."""

  train: data.Examples
  test: data.Examples
  protocol: probes_lib.Protocol
  summary: probes_lib.DataSummary


def su(
  config: config_lib.ExperimentConfig,
  workdir: str,
  *,
  terms: Sequence[str] = tuple(TERMS),
  kl_weights: Sequence[float] = KL_WEIGHTS,
  seeds: Sequence[int] = (0, 1, 2),
  max_examples: int | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains and measures every condition that is not finished.

  Args:
    config: a run of Su's variant, such as dim_digits:su; its weights of both
      kinds of information are those of every condition that has them.
    workdir: folder of the runs.
    terms: names of `TERMS`.
    kl_weights: of the KL's mean over dimensions.
    seeds: of the runs.
    max_examples: training images that probes see, drawn at random; all if None.
    show_progress: show bars, or lines.

  Returns:
    The contents of su.json; 'rows' has one a condition and seed, and those of
    'untrained' encoders and of 'pixels'.

  Raises:
    ValueError: the config has not all terms, a name or number cannot be used,
      or `workdir` holds other runs.
  """
  _check(config, terms, kl_weights, seeds)
  setup = _load(config, max_examples, show_progress)
  _claim(workdir, config, kl_weights, seeds, setup)
  keep = functools.partial(_kept, workdir, show_progress)
  fitted, tested = map(
    features_lib.raw, (setup.train.inputs, setup.test.inputs)
  )
  rows = [keep({'terms': 'pixels'}, lambda: _measure(fitted, tested, setup))]
  pairs = [(weight, seed) for weight in kl_weights for seed in seeds]
  for name in terms:
    own, run_dir = _of_terms(config, name), os.path.join(workdir, name)
    objective = make(own.objective)
    fresh, trained = _train(own, objective, pairs, run_dir, show_progress)
    if name == terms[0]:
      codes = _encode(objective, fresh, setup)
      for i, seed in enumerate(seeds):
        row = {'terms': 'untrained', 'seed': seed}
        rows.append(keep(row, functools.partial(_of_run, codes, i, setup)))
    codes = _encode(objective, trained, setup)
    last = metrics.read(os.path.join(run_dir, 'metrics.jsonl'))[-1]
    for i, (weight, seed) in enumerate(pairs):
      row = {'terms': name, 'kl_weight': weight, 'seed': seed}
      row = keep(row, functools.partial(_of_run, codes, i, setup))
      found = {k: last[k][i] for k in ('mi/local', 'mi/global') if k in last}
      rows.append(row | found)
  report = {
    'dataset': setup.test.name,
    'note': setup.test.note,
    'encoder': str(config.objective.encoder),
    'code': config.objective.code,
    'steps': config.steps,
    'seeds': list(seeds),
    'train_examples': len(setup.train.inputs),
    'neighbours': _NEIGHBOURS,
    'queries': min(_QUERIES, len(setup.test.inputs)),
    'same_class_chance': representations.same_class_chance(
      setup.test.labels['class'][:_QUERIES]
    ),
    'protocols': {
      setup.protocol.hash(n, setup.summary): setup.protocol.describe(
        n, setup.summary
      )
      for n in _PROBES
    },
    **provenance.session(),
    'rows': rows,
  }
  files.write_json(os.path.join(workdir, 'su.json'), report)
  return report


def _check(
  config: config_lib.ExperimentConfig,
  terms: Sequence[str],
  kl_weights: Sequence[float],
  seeds: Sequence[int],
) -> None:
  objective = config.objective
  has_all = (
    isinstance(objective, dim.Config)
    and objective.local_weight
    and objective.global_weight
    and objective.prior
    and objective.prior.distribution == 'kl'
  )
  if not has_all:
    raise ValueError(
      "a config of Deep InfoMax with both weights and the prior 'kl' is "
      'needed, such as dim_digits:su; got one without.'
    )
  for name in terms:
    checks.check_choice('terms', name, TERMS)
  for weight in kl_weights:
    checks.check_range('kl', weight, '[0, inf)')
  for name, values in (('terms', terms), ('kl', kl_weights), ('seeds', seeds)):
    if not values:
      raise ValueError(f'{name} is empty: give one at least.')


def _load(
  config: config_lib.ExperimentConfig,
  max_examples: int | None,
  show_progress: bool,
) -> _Setup:
  train_set, test = represent.load_examples(
    data.of_images(config.data), max_examples, progress=show_progress
  )
  summary = probes_lib.DataSummary(
    dataset=test.name,
    note=test.note,
    train_split='train + validation',
    train_rows=len(train_set.inputs),
    test_rows=len(test.inputs),
    image_size=int(test.inputs.shape[1]),
  )
  # Whoever wants an error bar gives several seeds of the run.
  protocol = probes_lib.Protocol(max_examples=max_examples, seeds=1)
  return _Setup(train_set, test, protocol, summary)


def _of_terms(
  config: config_lib.ExperimentConfig, name: str
) -> config_lib.ExperimentConfig:
  """Returns the run of some terms, without an online probe."""
  objective = config.objective
  is_local, is_global = TERMS[name]
  objective = dataclasses.replace(
    objective,
    local_weight=objective.local_weight if is_local else 0.0,
    global_weight=objective.global_weight if is_global else 0.0,
    num_classes=0,
  )
  groups = {k: v for k, v in config.groups.items() if k != 'probe'}
  return dataclasses.replace(config, objective=objective, groups=groups)


def make(config: dim.Config) -> Objective:
  """Makes Deep InfoMax whose weight of the KL is in the model state.

  So runs that differ in it alone are one program.

  Args:
    config: of the prior 'kl', whose weight is not used.

  Returns:
    The objective; its model state has 'kl_weight', of the sum over dimensions.
  """
  prior = dim.Prior(distribution='kl', weight=0.0)
  base = dim.make(dataclasses.replace(config, prior=prior))

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    params, state = base.init(rng, batch)
    return params, state | {'kl_weight': jnp.zeros(())}

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    value, (found, state) = base.loss(params, model_state, batch, rng)
    return value + state['kl_weight'] * found['prior/kl'], (found, state)

  return base._replace(init=init, loss=loss)


def _train(
  config: config_lib.ExperimentConfig,
  objective: Objective,
  pairs: Sequence[tuple[float, int]],
  run_dir: str,
  show_progress: bool,
) -> tuple[step_lib.TrainState, step_lib.TrainState]:
  """Trains all runs of some terms in one program, or continues them.

  Args:
    config: of the terms, but for the weight of the KL and the seed.
    objective: made of it.
    pairs: of each run, the weight of the KL's mean over dimensions, and seed.
    run_dir: folder of the runs.
    show_progress: show a bar, or lines.

  Returns:
    The states of each seed before the first step, and of all runs at the end.
  """
  images = data.load(config.data, 'train', progress=show_progress).inputs
  example: dict[str, Any] = {'image': images[:2]}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), example)
  groups = {k: v for k, v in config.groups.items() if k in params}
  optimizer = step_lib.make_optimizer(config.optimizer, groups, params)
  weights, seeds = zip(*pairs, strict=True)
  # Ours is of the sum over dimensions.
  kl = [weight / config.objective.code for weight in weights]
  trained = loop.fit(
    objective,
    optimizer,
    {'image': images},
    run_dir,
    loop.Settings.of(config, show_progress=show_progress),
    runs=grid.Runs(seeds, {'kl_weight': kl}),
  )
  each = grid.Runs(tuple(dict.fromkeys(seeds)))
  return grid.init_states(objective, optimizer, example, each), trained


def _encode(
  objective: Objective, state: step_lib.TrainState, setup: _Setup
) -> dict[str, np.ndarray]:
  """Codes and log-variances of all runs, [n, R, D], those for testing last."""

  def encode(variables: Any, batch: Batch) -> dict[str, jax.Array]:
    of_all = jax.vmap(objective.encode, in_axes=(0, 0, None), out_axes=1)
    params, model_state = variables
    return of_all(params, model_state, batch)

  runs = len(state.step)
  found = features_lib.extract(
    encode,
    (state.params, state.model_state),
    np.concatenate([setup.train.inputs, setup.test.inputs]),
    names=('y', 'log_variance'),
  )
  return {k: x.reshape(len(x), runs, -1) for k, x in found.items()}


def _of_run(
  codes: Mapping[str, np.ndarray], run: int, setup: _Setup
) -> dict[str, float]:
  """Measures the codes of a run."""
  count = len(setup.train.inputs)
  y, log_variance = (codes[name][:, run] for name in ('y', 'log_variance'))
  tested = map(jnp.asarray, (y[count:], log_variance[count:]))
  kl = priors.gaussian_kl(*tested)
  return _measure(y[:count], y[count:], setup) | {'kl': float(kl)}


def _claim(
  workdir: str,
  config: config_lib.ExperimentConfig,
  kl_weights: Sequence[float],
  seeds: Sequence[int],
  setup: _Setup,
) -> None:
  """Says in a folder what it holds.

  Raises:
    ValueError: it holds something else.
  """
  path = os.path.join(workdir, 'settings.json')
  own = {
    'config': config_lib.to_json(config),
    'kl_weights': list(kl_weights),
    'seeds': list(seeds),
    'protocols': [setup.protocol.hash(n, setup.summary) for n in _PROBES],
  }
  if os.path.exists(path):
    old = files.read_json(path)
    old['config'] = config_lib.migrate(old['config'])
    if old != own:
      raise ValueError(
        f'{workdir!r} holds runs of another config, protocol, seeds or weights '
        'of the KL: choose another folder, or delete that one.'
      )
  files.make_folder(workdir)
  files.write_json(path, own)


def _kept(
  workdir: str,
  show_progress: bool,
  row: dict[str, Any],
  measure: Callable[[], dict[str, float]],
) -> dict[str, Any]:
  """Completes a row by what was measured before, or else is now."""
  name = '_'.join(
    f'{x:g}' if isinstance(x, float) else str(x) for x in row.values()
  )
  path = os.path.join(workdir, f'{name}.json')
  if os.path.exists(path):
    return row | files.read_json(path)
  values = measure()
  files.write_json(path, values)
  with progress.Progress(show_progress) as bar:
    bar.say(f'{name}: linear probe {values["linear"]:.1%}')
  return row | values


def _measure(
  fitted: np.ndarray, tested: np.ndarray, setup: _Setup
) -> dict[str, float]:
  """Probes features, and compares those of test images with one another."""
  labels = setup.test.labels['class']
  parts = (
    probes_lib.Examples(fitted, setup.train.labels['class']),
    probes_lib.Examples(tested, labels),
  )
  row = {
    name: float(
      np.mean(probes_lib.PROBES[name](*parts, setup.protocol).accuracies)
    )
    for name in _PROBES
  }
  for metric in ('cosine', 'euclidean'):
    row[f'neighbours_{metric}'] = representations.same_class_fraction(
      tested[:_QUERIES], labels[:_QUERIES], _NEIGHBOURS, metric
    )
  return row


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Means and standard deviations over seeds, a row a condition.

  Args:
    report: what `su` returned.
  """
  shown = rich.table.Table(
    title=f'{report["dataset"]}, {report["steps"]:,} steps, '
    f'{len(report["seeds"])} seeds: of the code, at its mean',
    title_justify='left',
    caption=f'same class: of the {report["neighbours"]} nearest, by cosine, of '
    f'{report["queries"]:,} test images; of random ones '
    f'{report["same_class_chance"]:.1%}. KL: of test images',
    caption_justify='left',
    box=rich.box.SIMPLE,
  )
  columns = {
    'linear_few': ('few labels\n%', 100, 1),
    'linear': ('all labels\n%', 100, 1),
    'neighbours_cosine': ('same class\n%', 100, 1),
    'kl': ('KL\nnats', 1, 1),
  }
  shown.add_column('terms')
  for heading in (
    'weight\nof the KL',
    *(text for text, *_ in columns.values()),
  ):
    shown.add_column(heading, justify='right')
  rows = report['rows']
  for key in dict.fromkeys((r['terms'], r.get('kl_weight')) for r in rows):
    mine = [r for r in rows if (r['terms'], r.get('kl_weight')) == key]
    name, weight = key
    cells = [name.replace('_', ' + '), '' if weight is None else f'{weight:g}']
    for column, (_, scale, digits) in columns.items():
      values = [scale * row[column] for row in mine if column in row]
      cells.append(f'{np.mean(values):.{digits}f}' if values else '')
      if len(values) > 1:
        cells[-1] += f' ± {np.std(values, ddof=1):.{digits}f}'
    shown.add_row(*cells)
  return shown


_COMMAND = Command('studies.su', __doc__)
_WORKDIR = _COMMAND.folder('The folder of the runs.')
_CONFIG = _COMMAND.config('dim_digits:su')
_TERMS = _COMMAND.items('terms', tuple(TERMS), 'Which.')
_KL = _COMMAND.items('kl', KL_WEIGHTS, 'Weights of the KL.', float)
_SEEDS = _COMMAND.items('seeds', (0, 1, 2), 'A run each.', int)
_MAX_EXAMPLES = _COMMAND.integer(
  'max_examples', None, 'Training images that probes see; all by default.'
)


def main(argv: list[str] | None = None) -> None:
  """Runs the command line."""
  _COMMAND.run(_run, argv)


def _run() -> None:
  report = su(
    _CONFIG.value,
    _WORKDIR.value,
    terms=_TERMS.value,
    kl_weights=_KL.value,
    seeds=_SEEDS.value,
    max_examples=_MAX_EXAMPLES.value,
  )
  show(table(report), os.path.join(_WORKDIR.value, 'su.json'))


if __name__ == '__main__':
  main()
