"""Runs on pairs of lines: resumed, measured, answered and shown."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

import dim_jax
from dim_jax import config as config_lib
from dim_jax.config import ExperimentConfig, OptimizerConfig, TextConfig
from dim_jax.data import text
from dim_jax.objectives import paired_lines, tagging
from dim_jax.report import page
from dim_jax.runs import couplet, dry_run, train

FIRST = '天地日月山水风云花草'
SECOND = '海江星辰石泉雨雪鸟虫'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Pairs in which the character above tells the one below."""
  root = tmp_path_factory.mktemp('couplets')
  rng = np.random.default_rng(0)
  for name, count in (('tang_train', 80), ('tang_test', 12), ('x_test', 3)):
    rows = rng.integers(0, 10, (count, 3))
    lines = [
      f'{"".join(FIRST[i] for i in row)}\t{"".join(SECOND[i] for i in row)}\n'
      for row in rows
    ]
    (root / f'{name}.tsv').write_text(''.join(lines), encoding='utf-8')
  # One of another length, and with a character that no training line has.
  with open(root / 'x_test.tsv', 'a', encoding='utf-8') as file:
    file.write('天地日月\t海江星龘\n')
  return root


def make_config(folder, objective, steps=4):
  return ExperimentConfig(
    objective=objective,
    data=TextConfig(name=str(folder), length=3, vocabulary=24),
    optimizer=OptimizerConfig(learning_rate=0.05, b1=0.9),
    batch_size=24,
    steps=steps,
    log_every=20,
    checkpoint_every=20,
  )


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
  """A tagger that was stopped after 20 of 40 steps, and went on."""
  objective = tagging.Config(vocabulary=24, width=8, depth=1, dropout=0.1)
  workdir = str(tmp_path_factory.mktemp('runs') / 'tagger')
  for steps in (20, 40):
    train.train(
      make_config(folder, objective, steps), workdir, show_progress=False
    )
  return workdir


def test_a_run_that_went_on_is_bitwise_the_one_that_was_not_stopped(
  folder, run, tmp_path
):
  config, shape = config_lib.load(run)
  assert shape == (2, 3)
  whole = train.train(config, str(tmp_path / 'whole'), show_progress=False)
  resumed = dim_jax.load(run).variables[0]
  for a, b in zip(*map(jax.tree.leaves, (whole.params, resumed)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_tagger_is_measured_and_shown(run):
  report = couplet.measure(run, show_progress=False)
  rows = {(row['source'], row['by']): row for row in report['accuracy']}
  assert {source for source, _ in rows} == {'tang', 'x'}
  # The character above says all, which the unigram does not use.
  assert rows['tang', 'bigram']['accuracy'] == 1
  assert rows['tang', 'unigram']['accuracy'] < 0.4
  # Of 13 characters one is not in the vocabulary, and counts as wrong.
  about = rows['x', 'bigram']
  assert about['characters'] == 13
  assert about['unknown'] == pytest.approx(1 / 13)
  assert about['accuracy'] == pytest.approx(12 / 13)
  assert (
    rows['tang', 'model']['perplexity'] < rows['tang', 'unigram']['perplexity']
  )
  # Five of each source, of which x has but four, one of them longer.
  lengths = [len(x['answer']) for x in report['answers']]
  assert lengths == 5 * [3] + [3, 3, 3, 4]
  html = pathlib.Path(page.write([run])).read_text(encoding='utf-8')
  answer = report['answers'][0]
  assert answer['first'] in html and answer['answer'] in html
  assert 'is not evaluated yet' not in html and '2x3 characters' in html
  assert couplet.summary(report)


def test_a_line_is_answered_with_as_many_characters(run, folder):
  # The run knows its characters, without the data.
  answer, note = couplet.answer(run, '天 地日月山')
  assert len(answer) == 5 and not note
  answer, note = couplet.answer(run, '天x😀')
  assert len(answer) == 3 and 'read as unknown: x 😀' in note
  with pytest.raises(ValueError, match='the line is empty'):
    couplet.answer(run, ' ')


def test_encoders_of_both_lines_are_measured_by_retrieval(folder, tmp_path):
  objective = paired_lines.Config(
    vocabulary=24, width=8, depth=1, dropout=0.0, code=4, critic_units=4
  )
  config = make_config(folder, objective, 20)
  run = str(tmp_path / 'run')
  train.train(config, run, show_progress=False)
  report = couplet.measure(run, show_progress=False)
  rows = {row['source']: row for row in report['retrieval']}
  row = rows['tang']
  # Of one length alone; the pair of four characters is left out of x.
  assert (row['length'], row['candidates']) == (3, 12)
  assert rows['x']['candidates'] == 3
  assert row['chance_1'] == pytest.approx(1 / 12)
  assert row['infonce_ceiling'] == pytest.approx(np.log(12))
  # Against the scores themselves.
  encoder = dim_jax.load(run)
  pairs = text.load(folder, 'test', length=3, vocabulary=24)
  pairs = pairs.inputs[pairs.labels['source'] == 0]
  scores = encoder.objective.scores(encoder.variables, {'text': pairs})
  scores = np.asarray(scores['global'])[..., 0]
  best = scores.argmax(1) == np.arange(12)
  assert row['recall_1'] == pytest.approx(best.mean())
  assert row['recall_1'] > 1 / 12
  with pytest.raises(ValueError, match='is no tagger, which alone answers'):
    couplet.answer(run, '天地')
  assert couplet.summary(report)


def test_lines_longer_than_attention_knows_are_left_out_and_counted(
  folder, tmp_path
):
  objective = tagging.Config(
    vocabulary=24, width=4, depth=1, encoder='attention', length=3
  )
  run = str(tmp_path / 'run')
  train.train(make_config(folder, objective, 1), run, show_progress=False)
  report = couplet.measure(run, show_progress=False)
  # The last pair of x has four characters.
  assert report['note'] == 'pairs longer than 3 characters left out: 1 of 16'
  row = next(row for row in report['accuracy'] if row['source'] == 'x')
  assert row['pairs'] == 3
  with pytest.raises(ValueError, match='has 4 characters: give at most 3'):
    couplet.answer(run, '天地日月')


def test_vocabularies_that_differ_are_refused_before_training(folder, tmp_path):
  config = make_config(folder, tagging.Config(vocabulary=99))
  with pytest.raises(ValueError, match=r'is 99 and data\.vocabulary 24'):
    train.train(config, str(tmp_path / 'run'), show_progress=False)


def test_a_dry_run_needs_no_data():
  config = make_config('nowhere/', tagging.Config(vocabulary=24))
  config = dataclasses.replace(
    config, objective=tagging.Config(vocabulary=24, width=8, depth=1)
  )
  shapes = dry_run.shapes(config.data)
  assert shapes.seen == (2, 3) and shapes.dtype == np.int32
