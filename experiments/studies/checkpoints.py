r"""Probes a run's checkpoints: accuracy against examples seen and against time.

  python -m experiments.studies.checkpoints runs/cifar10 \
      --probes=linear --max_train=10000

Each checkpoint that the run has kept (`config.keep` says how many) and the
untrained encoder are probed as by `dim-jax evaluate`, into
RUN/evaluation/checkpoints/HASH/STEP, where HASH stands for the probes, the
features, the split and the protocol. RUN/evaluation/checkpoints.json has a row
for each step, feature, label and probe, with the examples that training had
seen by then, and its seconds; checkpoints.png beside it draws them, with the
published accuracies of the same probe where the config has them. What is there
is not measured again: the same command goes on where it was stopped, or where
the run was.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import rich.table

import dim_jax
from dim_jax import files
from dim_jax.commands.command import RUN, Command, show
from dim_jax.evaluation import probes as probes_lib
from dim_jax.runs import evaluate, provenance, tables
from dim_jax.training import checkpoint, metrics


def study(
  run_dir: str,
  *,
  probes: Sequence[str] = ('linear',),
  features: Sequence[str] | None = None,
  split: str = 'test',
  protocol: probes_lib.Protocol | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Probes the checkpoints that were not probed yet.

  Args:
    run_dir: the run.
    probes: names of `probes.PROBES`.
    features: of the encoder; None for those that the objective names.
    split: what probes are tested on, 'test' or 'validation'.
    protocol: how to probe; with one seed if None.
    show_progress: show bars, or lines.

  Returns:
    The contents of checkpoints.json; accuracies are fractions.

  Raises:
    FileNotFoundError: the folder is not a run.
    ValueError: as of `evaluate.evaluate`, or metrics.jsonl lacks a step.
  """
  run_dir = os.path.expanduser(run_dir)
  config = dim_jax.load(run_dir, 0).config
  protocol = protocol or probes_lib.Protocol(seeds=1)
  asked = {
    'probes': probes,
    'features': features,
    'split': split,
    'protocol': dataclasses.asdict(protocol),
  }
  asked = json.loads(json.dumps(asked))  # As it is read back.
  with checkpoint.Checkpoints(run_dir, config.keep) as checkpoints:
    steps = {0, *checkpoints.steps}
  # Each request has its own folder: `evaluate` adds to what is there.
  text = json.dumps(asked, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:12]
  folder = os.path.join(run_dir, 'evaluation', 'checkpoints', digest)
  measured = _measured(folder, split)
  lines = metrics.read(os.path.join(run_dir, 'metrics.jsonl'))
  # Training may have deleted a checkpoint that was probed before.
  progress = {
    step: _by_then(lines, step) for step in sorted(steps | measured.keys())
  }
  rows = []
  for step, by_then in progress.items():
    if step not in measured:
      measured[step] = evaluate.evaluate(
        run_dir,
        probes=probes,
        features=features,
        encoders=('trained',),
        split=split,
        protocol=protocol,
        step=step,
        folder=os.path.join(folder, str(step)),
        show_progress=show_progress,
      )['results']
    rows += [{'step': step} | by_then | row for row in measured[step]]
  report = {
    'trained_by': provenance.read(run_dir).get('command'),
    'seed': config.seed,
    'paper': config.paper,
    **asked,
    **provenance.session(),
    'rows': rows,
  }
  path = os.path.join(run_dir, 'evaluation', 'checkpoints.json')
  files.write_json(path, report)
  draw([report]).savefig(path.replace('.json', '.png'), dpi=120)
  return report


def _measured(folder: str, split: str) -> dict[int, list[dict[str, Any]]]:
  """Reads the results of earlier calls, by step."""
  results = {}
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    path = os.path.join(folder, name, evaluate.results_name(split))
    if report := files.read_json(path):
      results[int(name)] = report['results']
  return results


def _by_then(lines: Sequence[Mapping[str, Any]], step: int) -> dict[str, Any]:
  """Returns the examples seen, and the seconds of training, by a step."""
  if not step:
    return {'examples': 0, 'training_seconds': 0.0}
  for line in lines:
    if line['step'] == step:
      return {'examples': line['images'], 'training_seconds': line['seconds']}
  raise ValueError(f'metrics.jsonl of the run has no line of step {step}.')


def draw(
  reports: Sequence[Mapping[str, Any]],
  beside: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> matplotlib.figure.Figure:
  """Draws accuracy against examples seen and against minutes of training.

  Args:
    reports: of `study`, one a seed of the same run; a line is their mean, in
      the band of all of them. Accuracies published for the first one's row are
      drawn beside the probe that they are of.
    beside: rows of another training by its name, such as 'PyTorch', which the
      same probes measured; dashed.

  Returns:
    A figure of two panels, with a colour for each feature.
  """
  figure = matplotlib.figure.Figure((10, 4), layout='constrained')
  panels = figure.subplots(1, 2, sharey=True)
  keys = dict.fromkeys(
    _key(row) for report in reports for row in report['rows']
  )
  several = len({key[1:] for key in keys}) > 1
  paper = reports[0]['paper'] or {}
  for number, key in enumerate(keys):
    curves = [
      [row for row in report['rows'] if _key(row) == key] for report in reports
    ]
    # Seeds may be at different steps.
    steps = sorted(
      set.intersection(*({row['step'] for row in curve} for curve in curves))
    )
    curves = [[r for r in curve if r['step'] in steps] for curve in curves]
    values = [[100 * row['mean'] for row in curve] for curve in curves]
    mean, low, high = (
      [of(column) for column in zip(*values, strict=True)]
      for of in (lambda x: sum(x) / len(x), min, max)
    )
    for panel, name, unit in (
      (panels[0], 'examples', 1e6),
      (panels[1], 'training_seconds', 60),
    ):
      x = [
        sum(row[name] for row in column) / len(column) / unit
        for column in zip(*curves, strict=True)
      ]
      label = ', '.join(key if several else key[:1])
      panel.plot(x, mean, 'o-', ms=3, color=f'C{number}', label=label)
      panel.fill_between(x, low, high, color=f'C{number}', alpha=0.2)
      same_probe = paper.get('probe', key[2]) == key[2]
      if same_probe and isinstance(paper.get(key[0]), int | float):
        panel.axhline(
          paper[key[0]],
          color=f'C{number}',
          ls=':',
          label=f'{key[0]}, published',
        )
      for other, others in (beside or {}).items():
        curve = [row for row in others if _key(row) == key]
        panel.plot(
          [row[name] / unit for row in curve],
          [100 * row['mean'] for row in curve],
          's--',
          ms=3,
          color=f'C{number}',
          label=f'{label}, {other}',
        )
  panels[0].set(xlabel='million examples seen', ylabel='accuracy, %')
  panels[1].set(xlabel='minutes of training')
  for panel in panels:
    panel.grid(alpha=0.3)
  # Beside the panels, whose curves may go anywhere.
  figure.legend(
    *panels[1].get_legend_handles_labels(),
    loc='outside right center',
    fontsize='small',
  )
  return figure


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
  return row['feature'], row['label'], row['probe']


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Tabulates accuracies in percent, a row a checkpoint.

  Args:
    report: what `study` returned.
  """
  keys = list(dict.fromkeys(map(_key, report['rows'])))
  cells: dict[int, dict[Any, Mapping[str, Any]]] = {}
  for row in report['rows']:
    cells.setdefault(row['step'], {})[_key(row)] = row
  rows = []
  for step, found in cells.items():
    first = next(iter(found.values()))
    rows.append(
      [
        f'{step:,}',
        f'{first["examples"]:,}',
        f'{first["training_seconds"]:,.0f}',
        # A probe may have failed at this step.
        *(
          f'{100 * found[key]["mean"]:.1f}' if key in found else ''
          for key in keys
        ),
      ]
    )
  names = [' '.join(key) for key in keys]
  return tables.table(('step', 'examples', 'seconds', *names), rows, words=0)


_COMMAND = Command('studies.checkpoints', __doc__, takes=RUN)
_PROBES = _COMMAND.items('probes', ('linear',), 'Which.')
_FEATURES = _COMMAND.items('features', None, 'Such as fc,y; all if left out.')
_SPLIT = _COMMAND.string('split', 'test', 'test, or validation.')
_SEEDS = _COMMAND.integer('num_seeds', 1, 'Repeats of a probe.')
_MAX_TRAIN = _COMMAND.integer('max_train', None, 'Training rows kept.')
_EPOCHS = _COMMAND.integer('mlp_epochs', 20, 'Of the probe mlp.')


@_COMMAND.main
def main(runs: list[str]) -> None:
  for run in runs:
    report = study(
      run,
      probes=_PROBES.value,
      features=_FEATURES.value,
      split=_SPLIT.value,
      protocol=probes_lib.Protocol(
        seeds=_SEEDS.value,
        max_examples=_MAX_TRAIN.value,
        mlp_epochs=_EPOCHS.value,
        mlp_decay_epochs=probes_lib.decay_epochs(_EPOCHS.value),
      ),
    )
    path = os.path.join(run, 'evaluation', 'checkpoints.json')
    show(table(report), path)


if __name__ == '__main__':
  main()
