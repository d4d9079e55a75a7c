r"""Trains masked models of lines and measures what dropout's view is worth.

  python -m experiments.studies.masked_lines --workdir=runs/masked_lines \
      --seeds=0,1,2

A masked model's encoder meets lines without a mask when it is used. If the mask
is dropout of characters, the mean of its training input is then due:
p x + (1 - p) m where a token m stood for hidden characters ('consistent'), and
not x alone ('naive'); and nothing of the kind where hidden characters took no
part ('drop'). The images' form of this study is `experiments.studies.masks`.

Each of CONDITIONS with each seed is a run of `dim-jax train` in
WORKDIR/MASK_KEEP_SEED. Its frozen encoder is probed with either input: a linear
probe predicts from the mean over a line's characters whether it is the first or
the second one of its pair, of which second lines rhyme. And the tagger of
couplets is fine-tuned from it on few pairs, seeing either input in training and
at use. Beside them stand the untrained encoder and the tagger from scratch.
WORKDIR/masked_lines.json holds all; the same command continues where it was
interrupted.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.table

import dim_jax
from dim_jax import config as config_lib
from dim_jax import files
from dim_jax.commands.command import Command, show
from dim_jax.data import load as data
from dim_jax.evaluation import characters
from dim_jax.evaluation import features as features_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.objectives import lines, masked_lines, tagging
from dim_jax.runs import provenance, tables, train
from dim_jax.training import metrics

# Kind and fraction that stays visible: BERT's token and a harder one, and a
# masked autoencoder.
CONDITIONS = (('token', 0.85), ('token', 0.5), ('drop', 0.5))
MEASURES = ('which line', 'fine-tuned')
_UNTRAINED = ('none', 1.0)


def study(
  config: config_lib.ExperimentConfig,
  workdir: str,
  *,
  seeds: Sequence[int] = (0, 1, 2),
  pairs: int = 10_000,
  steps: int = 150,
  probed: int = 2000,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains, probes and fine-tunes every condition that is not finished.

  Args:
    config: a run of a masked model, of whose mask the kind, the fraction and
      the evaluation are not used.
    workdir: folder of the runs.
    seeds: of the runs.
    pairs: that fine-tuning has.
    steps: of fine-tuning.
    probed: pairs whose lines a probe is fitted on, of the validation set; it is
      tested on as many, of the sources that training has, if any are.
    show_progress: show bars, or lines.

  Returns:
    The contents of masked_lines.json; 'rows' has one a condition, evaluation,
    measure and seed.

  Raises:
    ValueError: no config of a masked model, or `workdir` holds other runs.
  """
  if not isinstance(config.objective, masked_lines.Config):
    raise ValueError(
      'a config of a masked model of lines is needed, such as '
      f'couplets:masked; got one of {type(config.objective).__module__}.'
    )
  validation, test = (
    data.load(config.data, split, progress=show_progress)
    for split in ('validation', 'test')
  )
  # Lines of another style would test something else.
  same = np.isin(test.labels['source'], validation.labels['source'])
  test = test.take(same if same.any() else slice(None))
  parts = {
    'validation': validation.inputs[:probed],
    'test': test.inputs[:probed],
  }
  rows = []
  for seed in seeds:
    for kind, keep in (_UNTRAINED, *CONDITIONS):
      rows += _condition(
        dataclasses.replace(config, seed=seed),
        os.path.join(workdir, f'{kind}_{keep:g}_{seed}'),
        (kind, keep),
        parts,
        _Tuning(pairs, steps),
        show_progress,
      )
  report = {
    'dataset': test.name,
    'note': test.note,
    'test_sources': sorted(
      {test.class_names['source'][i] for i in test.labels['source'][:probed]}
    ),
    'steps': config.steps,
    'fine_tuning': {'pairs': pairs, 'steps': steps},
    'probed_pairs': probed,
    'seeds': list(seeds),
    **provenance.session(),
    'rows': rows,
  }
  files.write_json(os.path.join(workdir, 'masked_lines.json'), report)
  return report


@dataclasses.dataclass(frozen=True)
class _Tuning:
  """How many pairs and steps fine-tuning has."""

  pairs: int
  steps: int


def _condition(
  config: config_lib.ExperimentConfig,
  run_dir: str,
  condition: tuple[str, float],
  parts: Mapping[str, np.ndarray],
  tuning: _Tuning,
  show_progress: bool,
) -> list[dict[str, Any]]:
  """The rows of one run, from its folder if they are there."""
  kind, keep = condition
  trained = condition != _UNTRAINED
  mask = lines.Mask(kind=kind, keep=keep) if trained else config.objective.mask
  objective = dataclasses.replace(config.objective, mask=mask)
  config = dataclasses.replace(config, objective=objective)
  path = os.path.join(run_dir, 'condition.json')
  made_by = {
    'config': config_lib.to_json(config),
    'tuning': dataclasses.asdict(tuning),
    'probed': len(parts['validation']),
  }
  if old := files.read_json(path):
    if any(old[name] != value for name, value in made_by.items()):
      raise ValueError(
        f'{run_dir!r} holds a condition of another config: choose another '
        'folder, or delete that one.'
      )
    return old['rows']
  started = time.process_time()
  about: dict[str, Any] = {}
  if trained:
    train.train(config, run_dir, show_progress=show_progress)
    last = metrics.read(os.path.join(run_dir, 'metrics.jsonl'))[-1]
    about['cross_entropy'] = last['decoder/cross_entropy']
    variables = dim_jax.load(run_dir).variables
  else:
    batch = {'text': parts['test'][:2]}
    made = config_lib.make_objective(config)
    variables = jax.jit(made.init)(jax.random.key(config.seed), batch)
  rows = []
  both = trained and kind == 'token'
  for evaluation in ('consistent', 'naive') if both else ('naive',):
    changed = _with_evaluation(config, evaluation)
    measured = {
      'which line': _which_line(changed, variables, parts),
      'fine-tuned': _fine_tune(
        changed, run_dir, trained, evaluation, parts, tuning, show_progress
      ),
    }
    for measure, values in measured.items():
      rows.append(
        {
          'mask': kind,
          'keep': keep,
          'evaluation': evaluation if both else '',
          'seed': config.seed,
          'measure': measure,
        }
        | values
        | about
      )
  seconds = {'cpu_seconds': time.process_time() - started}
  rows = [row | seconds for row in rows]
  files.make_folder(run_dir)
  files.write_json(path, made_by | {'rows': rows})
  return rows


def _with_evaluation(
  config: config_lib.ExperimentConfig, evaluation: str
) -> config_lib.ExperimentConfig:
  mask = dataclasses.replace(config.objective.mask, evaluation=evaluation)
  objective = dataclasses.replace(config.objective, mask=mask)
  return dataclasses.replace(config, objective=objective)


def _which_line(
  config: config_lib.ExperimentConfig,
  variables: Any,
  parts: Mapping[str, np.ndarray],
) -> dict[str, float]:
  """Probes which of a pair's lines one is; chance is a half."""
  objective = config_lib.make_objective(config)

  def encode(variables: Any, batch: Any) -> dict[str, Any]:
    params, model_state = variables
    return objective.encode(params, model_state, batch)

  examples = []
  for name in ('validation', 'test'):
    pairs = parts[name]
    # Each line as the first one of a pair.
    both = np.concatenate([pairs, pairs[:, ::-1]])
    found = features_lib.extract(
      encode, variables, both, kind='text', names=('y',)
    )
    labels = np.repeat(np.arange(2, dtype=np.int32), len(pairs))
    examples.append(probes_lib.Examples(found['y'], labels))
  probe = probes_lib.PROBES['linear']
  accuracies = probe(*examples, probes_lib.Protocol()).accuracies
  return {'accuracy': float(np.mean(accuracies))}


def _fine_tune(
  config: config_lib.ExperimentConfig,
  run_dir: str,
  trained: bool,
  evaluation: str,
  parts: Mapping[str, np.ndarray],
  tuning: _Tuning,
  show_progress: bool,
) -> dict[str, float]:
  """Trains a tagger from the encoder, or from scratch; tests it."""
  masked = config.objective
  shared = {
    field.name: getattr(masked, field.name)
    for field in dataclasses.fields(lines.LineConfig)
  }
  objective = tagging.Config(**shared, mask=masked.mask if trained else None)
  source: Any = config.data
  few = dataclasses.replace(source, pairs=tuning.pairs)
  changed = dataclasses.replace(
    config,
    objective=objective,
    data=few,
    init_from=run_dir if trained else None,
    steps=tuning.steps,
    log_every=tuning.steps,
    checkpoint_every=tuning.steps,
  )
  folder = os.path.join(run_dir, f'fine_tuned_{evaluation}')
  train.train(changed, folder, show_progress=show_progress)
  tuned = dim_jax.load(folder)
  tags = tuned.objective.tags
  if tags is None:
    raise TypeError('a tagger has tags.')
  test = parts['test']
  found = characters.of_model(tags, tuned.variables, test)
  return characters.summary(found, test[:, 1])


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Means and standard deviations over seeds, a row a condition and input.

  Args:
    report: what `study` returned.
  """
  rows: dict[tuple[Any, ...], dict[str, list[float]]] = {}
  for row in report['rows']:
    key = (row['mask'], row['keep'], row['evaluation'])
    rows.setdefault(key, {}).setdefault(row['measure'], []).append(
      100 * row['accuracy']
    )
  cells = []
  for (mask, keep, evaluation), found in rows.items():
    texts = []
    for name in MEASURES:
      values = found[name]
      text = f'{np.mean(values):.2f}'
      if len(values) > 1:
        text += f' ± {np.std(values, ddof=1):.2f}'
      texts.append(text)
    cells.append((mask, f'{keep:g}', evaluation or 'same', *texts))
  tuning = report['fine_tuning']
  return tables.table(
    ('mask', 'visible', 'seen at use', 'which line %', 'fine-tuned %'),
    cells,
    words=3,
    title=f'{report["dataset"]}, {report["steps"]:,} steps, '
    f'{len(report["seeds"])} seeds: test accuracy',
    caption=f'fine-tuned: {tuning["steps"]} steps on {tuning["pairs"]:,} pairs',
  )


_COMMAND = Command('studies.masked_lines', __doc__)
_WORKDIR = _COMMAND.folder('The folder of the runs.')
_CONFIG = _COMMAND.config('couplets:masked')
_SEEDS = _COMMAND.items('seeds', (0, 1, 2), 'A run each.', int)
_PAIRS = _COMMAND.integer('pairs', 10_000, 'That fine-tuning has.')
_STEPS = _COMMAND.integer('fine_tuning_steps', 150, 'Of fine-tuning.')


def main(argv: list[str] | None = None) -> None:
  """Runs the command line."""
  _COMMAND.run(_run, argv)


def _run() -> None:
  report = study(
    _CONFIG.value,
    _WORKDIR.value,
    seeds=_SEEDS.value,
    pairs=_PAIRS.value,
    steps=_STEPS.value,
  )
  show(table(report), os.path.join(_WORKDIR.value, 'masked_lines.json'))


if __name__ == '__main__':
  main()
