"""The study of masked models of lines: one condition of a tiny run."""

import json

import numpy as np
import pytest

from dim_jax.config import ExperimentConfig, OptimizerConfig, TextConfig
from dim_jax.configs import couplets
from dim_jax.objectives import masked_lines
from experiments.studies import masked_lines as study_lib

FIRST, SECOND = '天地日月山', '海江星辰石'


@pytest.fixture
def config(tmp_path):
  """A masked model of pairs; sources of other style come first and last."""
  rng = np.random.default_rng(0)
  for name, count in (
    ('a_test', 9), ('tang_train', 40), ('tang_test', 6), ('x_test', 9)
  ):  # fmt: skip
    rows = rng.integers(0, 5, (count, 3))
    # Lines of the others are swapped: a probe of tang would be wrong of them.
    sides = (FIRST, SECOND) if 'tang' in name else (SECOND, FIRST)
    pairs = [
      '\t'.join(''.join(side[i] for i in row) for side in sides) for row in rows
    ]
    text = '\n'.join(pairs) + '\n'
    (tmp_path / f'{name}.tsv').write_text(text, encoding='utf-8')
  return ExperimentConfig(
    objective=masked_lines.Config(vocabulary=12, width=16, depth=1, length=3),
    data=TextConfig(
      name=str(tmp_path), length=3, vocabulary=12, validation=0.5
    ),
    optimizer=OptimizerConfig(learning_rate=0.01, b1=0.9),
    batch_size=8,
    steps=1,
    log_every=1,
    checkpoint_every=1,
  )


def run(config, workdir):
  return study_lib.study(
    config, str(workdir), seeds=(0,), pairs=16, steps=1, probed=20,
    show_progress=False,
  )  # fmt: skip


def test_a_condition_is_measured_once_on_lines_like_those_of_training(
  config, tmp_path, monkeypatch
):
  monkeypatch.setattr(study_lib, 'CONDITIONS', (('token', 0.5),))
  workdir = tmp_path / 'runs'
  report = run(config, workdir)
  assert report['test_sources'] == ['tang']
  made = [
    (row['mask'], row['evaluation'], row['measure']) for row in report['rows']
  ]
  assert made == [
    ('none', '', 'which line'),
    ('none', '', 'fine-tuned'),
    ('token', 'consistent', 'which line'),
    ('token', 'consistent', 'fine-tuned'),
    ('token', 'naive', 'which line'),
    ('token', 'naive', 'fine-tuned'),
  ]
  # No character stands in both lines, so that even random features tell them
  # apart; of swapped lines the probe would have been wrong.
  assert report['rows'][0]['accuracy'] > 0.8
  written = json.loads((workdir / 'masked_lines.json').read_text())
  assert written['rows'] == report['rows']
  # What is finished is not measured again.
  monkeypatch.setattr(study_lib, '_which_line', None)
  assert run(config, workdir)['rows'] == report['rows']
  config.batch_size = 4
  with pytest.raises(ValueError, match='a condition of another config'):
    run(config, workdir)
  assert study_lib.table(report).row_count == 3


def test_mistakes_are_named(tmp_path):
  with pytest.raises(ValueError, match='config of a masked model of lines'):
    study_lib.study(couplets.get_config('tagging'), str(tmp_path))
  with pytest.raises(SystemExit, match='give --workdir=FOLDER'):
    study_lib.main([])
