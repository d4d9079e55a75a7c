"""Pairs of lines: files in both forms, the vocabulary, splits and bad input."""

import itertools

import numpy as np
import pytest

from dim_jax.config import TextConfig
from dim_jax.data import load, text

# 白日依山尽，黄河入海流 and others: Tang poems, public domain.
PAIRS = (
  ('白日依山尽', '黄河入海流'),
  ('明月松间照', '清泉石上流'),
  ('两个黄鹂鸣翠柳', '一行白鹭上青天'),
  ('大漠孤烟直', '长河落日圆'),
)


def write(folder, pairs=PAIRS, name='tang_train.tsv'):
  folder.mkdir(exist_ok=True)
  lines = ''.join(f'{a}\t{b}\n' for a, b in pairs)
  (folder / name).write_text(lines, encoding='utf-8')
  return folder


def lines_of(examples):
  return [
    tuple(text.decode(line, examples.vocabulary) for line in pair)
    for pair in examples.inputs
  ]


def test_a_tabbed_file_and_two_files_hold_the_same(tmp_path):
  tabbed = write(tmp_path / 'tabbed')
  write(tabbed, PAIRS[:2], 'tang_test.tsv')
  write(tabbed, PAIRS[3:], 'couplets_test.tsv')
  two = tmp_path / 'two'
  for part, pairs in (('train', PAIRS), ('test', PAIRS[:2])):
    (two / part).mkdir(parents=True)
    for k, name in enumerate(('in.txt', 'out.txt')):
      lines = ''.join(' '.join(pair[k]) + ' \r\n' for pair in pairs)
      (two / part / name).write_text(lines, encoding='utf-8-sig', newline='')
  options = {'length': 7, 'vocabulary': 100, 'validation': 0.0}
  first, second = (text.load(x, 'train', **options) for x in (tabbed, two))
  assert lines_of(first) == lines_of(second) == list(PAIRS)
  assert first.vocabulary == second.vocabulary
  # Padding is 0, behind the end alone.
  assert first.inputs.dtype == np.int32 and first.inputs.shape == (4, 2, 7)
  np.testing.assert_array_equal(first.inputs[0, :, 5:], 0)
  assert (first.inputs[2] >= text.SPECIAL).all()
  test = text.load(tabbed, 'test', **options)
  assert test.class_names['source'] == ('couplets', 'tang')
  np.testing.assert_array_equal(test.labels['source'], [0, 1, 1])
  assert text.load(two, 'test', **options).class_names == {'source': ('two',)}


def test_the_vocabulary_is_of_the_training_lines_and_by_frequency(tmp_path):
  folder = write(tmp_path / 'x', [('春春花', '秋秋月'), ('春月夜', '秋花天')])
  write(folder, [('春雪花', '秋花□')], 'x_test.tsv')
  # 春 3, 秋 3, 月 2, 花 2, 夜 1, 天 1: equals by code point.
  examples = text.load(folder, 'train', vocabulary=7, validation=0)
  assert examples.vocabulary == '春秋月花夜'
  # 天 is left out: the number of unknown characters, 1.
  np.testing.assert_array_equal(
    examples.inputs[1], [[2, 4, 6], [3, 5, text.UNKNOWN]]
  )
  # And 雪, which only a test line has.
  test = text.load(folder, 'test', vocabulary=7)
  np.testing.assert_array_equal(test.inputs[0], [[2, 1, 5], [3, 5, 1]])
  assert test.vocabulary == examples.vocabulary
  # Numbers 2 to 6 are characters; a model of more may answer with 7.
  assert text.decode([2, 1, 6, 7, 0], examples.vocabulary) == '春□夜□'
  # Where a part of the pairs is for testing, its characters are unknown too.
  characters = [chr(0x4E00 + i) for i in range(10)]
  own = write(tmp_path / 'own', [(x, x) for x in characters])
  examples = text.load(own, 'train', vocabulary=99, validation=0)
  assert len(examples.inputs) == len(examples.vocabulary) == 8
  test = text.load(own, 'test', vocabulary=99)
  np.testing.assert_array_equal(test.inputs, np.full((2, 2, 1), text.UNKNOWN))


def test_splits_are_fixed_and_do_not_depend_on_what_is_kept(tmp_path):
  rng = np.random.default_rng(0)
  # So few that the training pairs have each of them.
  characters = [chr(0x4E00 + i) for i in range(10)]
  pairs = [
    tuple(''.join(rng.choice(characters, 4)) for _ in range(2))
    for _ in range(60)
  ]
  folder = write(tmp_path / 'x', pairs, 'train.tsv')
  options = {'vocabulary': 60, 'length': 4}
  parts = {
    split: lines_of(text.load(folder, split, validation=0.25, **options))
    for split in text.SPLITS
  }
  # A fifth to test on, of the rest a quarter held out: 12, 12 and 36.
  assert {k: len(v) for k, v in parts.items()} == {
    'train': 36, 'validation': 12, 'test': 12
  }  # fmt: skip
  assert sorted(itertools.chain(*parts.values())) == sorted(pairs)
  few = text.load(folder, 'train', validation=0.25, pairs=5, **options)
  assert len(few.inputs) == 5 and set(lines_of(few)) <= set(parts['train'])
  more = text.load(folder, 'train', validation=0.25, pairs=9, **options)
  assert set(lines_of(few)) <= set(lines_of(more))
  held = text.load(folder, 'validation', validation=0.25, pairs=5, **options)
  assert lines_of(held) == parts['validation']
  # Of the pairs that are not too long: 20 of 40 characters beside these.
  long = [(20 * a, 20 * b) for a, b in pairs[:20]]
  mixed = write(tmp_path / 'mixed', pairs + long, 'train.tsv')
  some = text.load(mixed, 'train', validation=0.25, pairs=30, **options)
  assert len(some.inputs) == len(some.labels['source']) == 30
  # Through the one entry of all data.
  config = TextConfig(name=str(folder), length=4, vocabulary=60, pairs=5)
  assert load.load(config, 'train').inputs.shape == (5, 2, 4)
  assert set(load.train_set(config)) == {'text'}


def test_longer_pairs_are_left_out_and_counted(tmp_path):
  folder = write(tmp_path / 'x')
  examples = text.load(folder, 'train', length=5, vocabulary=90, validation=0)
  assert len(examples.inputs) == 2  # One of three is for testing.
  assert 'longer than 5 characters left out: 1 of 3' in examples.note
  with pytest.raises(ValueError, match=r'at most data\.length=2 .* up to 7'):
    text.load(folder, 'train', length=2, vocabulary=90, validation=0)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('白日\t黄河\n\n明月\t清泉\n'.encode(), 'line 2, is empty: a pair is two'),
    ('白日\t黄河入\n'.encode(), r'line 1: the lines have 2 and 3 characters'),
    ('白日 黄河\n'.encode(), 'line 1, has 1 parts'),
    ('白日\t \n'.encode(), 'line 1: the second line is empty'),
    (
      '白日\t黄河\n'.encode('gb18030'),
      'line 1, is not UTF-8: it may be GB1803',
    ),
    (b'\xff\xff\xff\n', r'line 1, is not UTF-8: save it as UTF-8'),
    (b'\n\n', 'holds no pairs'),
  ],
)
def test_a_bad_file_is_named_with_its_line_in_one_line(
  tmp_path, content, message
):
  (tmp_path / 'x_train.tsv').write_bytes(content)
  with pytest.raises(ValueError, match=message) as refused:
    text.load(tmp_path, 'train', vocabulary=9)
  assert 'x_train.tsv' in str(refused.value) and '\n' not in str(refused.value)


def test_what_is_not_there_is_said(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no folder .*data\.name'):
    text.load(tmp_path / 'none', 'train', vocabulary=9)
  with pytest.raises(FileNotFoundError, match='no pairs to train on'):
    text.load(tmp_path, 'train', vocabulary=9)
  (tmp_path / 'train').mkdir()
  (tmp_path / 'train/in.txt').write_text('白 日\n', encoding='utf-8')
  with pytest.raises(FileNotFoundError, match=r'out\.txt, which belongs'):
    text.load(tmp_path, 'train', vocabulary=9)
  (tmp_path / 'train/out.txt').write_text('黄 河\n明 月\n', encoding='utf-8')
  with pytest.raises(ValueError, match=r'has 1 lines and out\.txt 2'):
    text.load(tmp_path, 'train', vocabulary=9)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('', 'the line is empty'),
    (' \t　', 'the line is empty'),
    ('明\x07月', r"holds '\\x07', which cannot be printed"),
    ('明月明月', 'has 4 characters: give at most 3'),
    ('ab😀', 'no training line has a character of'),
  ],
)
def test_a_typed_line_that_cannot_be_answered_is_refused(line, message):
  with pytest.raises(ValueError, match=message) as refused:
    text.typed(line, '明月', 3)
  assert '\n' not in str(refused.value)


def test_a_typed_line_may_have_unseen_characters():
  np.testing.assert_array_equal(
    text.typed('月x 明', '明月', 3), [[[3, 1, 2], [1, 1, 1]]]
  )
