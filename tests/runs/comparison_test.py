"""Tables of methods: their order, what a second call does, and their page."""

import csv

import pytest

import dim_jax
from dim_jax import configs as configs_lib
from dim_jax import files
from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.evaluation.probes import Protocol
from dim_jax.objectives import dim
from dim_jax.report.sections import comparison as section
from dim_jax.runs import comparison

# In percent, of conv, fc and y: published, and of seeds 0 and 1.
PAPER = {'a': (60.0, 50.0, 40.0), 'b': (70.0, 55.0, 45.0)}
OURS = {
  ('a', 0): (81.0, 50.0, 30.0),
  ('a', 1): (79.0, 50.0, 32.0),
  ('b', 0): (70.0, 51.0, 30.0),
  ('b', 1): (70.0, 53.0, 30.0),
  ('untrained', 0): (20.0, 20.0, 20.0),
  ('untrained', 1): (20.0, 20.0, 20.0),
}


def configs(**changes):
  made = {}
  for name, percent in PAPER.items():
    paper = dict(zip(('conv', 'fc', 'y'), percent, strict=True))
    paper |= {'row': name.upper(), 'source': 'A paper', 'probe': 'mlp'}
    made[name] = ExperimentConfig(
      objective=dim.Config(encoder='small32'),
      data=DataConfig(name='digits', image_size=32),
      batch_size=8,
      steps=20,
      paper=paper,
      **changes.get(name, {}),
    )
  return made


@pytest.fixture
def calls(monkeypatch):
  """What was trained, probed and measured, in place of doing so."""
  done = []

  def train(config, folder, *, show_progress):
    del show_progress
    done.append(('train', folder.rpartition('/')[2], config.seed, config.steps))

  def evaluate(folder, *, probes, encoders, labels, protocol, show_progress):
    del labels, show_progress
    method, _, seed = folder.rpartition('/')[2].rpartition('_seed')
    names = {'trained': method, 'untrained': 'untrained'}
    results = [
      {
        'encoder': kind,
        'probe': probe,
        'feature': feature,
        'mean': OURS[names[kind], int(seed)][k]
        / (100 if probe == 'mlp' else 200),
      }
      for kind in encoders
      for probe in probes
      for k, feature in enumerate(('conv', 'fc', 'y'))
    ]
    return {
      'dataset': 'things',
      'note': 'A copy.',
      'protocol_hash': protocol.hash(),
      'results': results,
      'skipped': [],
    }

  def represent(
    folder, *, measures, features, encoders, max_examples, show_progress
  ):
    del show_progress
    assert features == ('y',) and max_examples is None
    done.append(('represent', folder.rpartition('/')[2], encoders, *measures))
    rows = [
      {'measure': 'svm', 'values': {'accuracy': 0.25}},
      {'measure': 'dependence', 'values': {'value': 3.0, 'ceiling': 4.5}},
    ]
    results = [row | {'encoder': 'trained', 'feature': 'y'} for row in rows]
    # Of a call for other features, which the file keeps.
    results.append(results[0] | {'feature': 'conv', 'values': {'accuracy': 1}})
    return {'results': results, 'skipped': [{'what': 'y', 'reason': 'No.'}]}

  monkeypatch.setattr(comparison.train, 'train', train)
  monkeypatch.setattr(comparison.evaluate, 'evaluate', evaluate)
  monkeypatch.setattr(comparison.represent, 'represent', represent)
  return done


def compare(folder, made=None, **settings):
  return comparison.compare(
    'things',
    made or configs(),
    folder,
    comparison.Settings(**settings),
    show_progress=False,
  )


def test_means_gaps_and_orders_that_differ(calls, tmp_path):
  report = compare(tmp_path, seeds=(0, 1))
  assert [call[1:3] for call in calls] == [
    ('a_seed0', 0), ('b_seed0', 0), ('a_seed1', 1), ('b_seed1', 1),
  ]  # fmt: skip
  lines = {(x['name'], x['feature']): x for x in section.records(report)}
  a = lines['a', 'conv']
  # Of 81 and 79: the mean 80, and a standard deviation of sqrt(1 + 1).
  assert (a['mean'], a['n'], a['published']) == (80.0, 2, 60.0)
  assert a['std'] == pytest.approx(2**0.5)
  assert a['few_mean'] == pytest.approx(40.0)
  assert lines['untrained', 'y']['mean'] == 20.0
  # conv: A is 10 above B, published 10 below. fc: as published. y: A is 1
  # above B, which is less than the standard deviation of 31, sqrt(2).
  assert report['disagreements'] == [
    'conv: A reads 10.0 points above B; published, it is 10.0 below.'
  ]
  assert '160 images (20 steps of 8)' in section.describe(report)
  # Of 25 test rows the standard errors are sqrt(80 * 20 / 25) = 8 and
  # sqrt(70 * 30 / 25) = 9.2 points: 10 is no difference.
  few = report | {'protocol': {'test_rows': 25}}
  assert section.disagreements(few) == []


def test_a_table_goes_on_where_it_was(calls, tmp_path, monkeypatch):
  train = comparison.train.train

  def killed(config, folder, **options):
    if folder.endswith('b_seed0'):
      raise KeyboardInterrupt
    return train(config, folder, **options)

  monkeypatch.setattr(comparison.train, 'train', killed)
  with pytest.raises(KeyboardInterrupt):
    compare(tmp_path)
  monkeypatch.setattr(comparison.train, 'train', train)
  first = files.read_json(str(tmp_path / 'table.json'))
  assert {cell['row'] for cell in first['cells']} == {'a', 'untrained'}
  report = compare(tmp_path)
  assert [call[1] for call in calls] == ['a_seed0', 'b_seed0']
  assert [x for x in report['cells'] if x['row'] == 'a'] == first['cells'][:1]
  # Tables of before do not say which method's encoder was untrained.
  for cell in report['cells']:
    cell.pop('method')
  files.write_json(str(tmp_path / 'table.json'), report)
  # Another seed, and measures of all, train nothing again.
  report = compare(tmp_path, seeds=(0, 1), methods=('b',), measures=('svm',))
  # What a cell left out is still named when nothing is left to do for it.
  for again in (report, compare(tmp_path)):
    assert again['skipped'] == [
      {'what': f'b, seed {seed}, y', 'reason': 'No.'} for seed in (0, 1)
    ]
  # The untrained encoder is measured once, of the method whose probes it has,
  # or of the first method that is asked.
  both = 'trained', 'untrained'
  assert calls[2:] == [
    ('represent', 'b_seed0', ('trained',), 'svm'),
    ('train', 'b_seed1', 1, 20),
    ('represent', 'b_seed1', both, 'svm'),
  ]
  compare(tmp_path, measures=('svm',))
  assert calls[5:] == [
    ('represent', 'a_seed0', ('trained', 'untrained'), 'svm')
  ]


def test_a_method_that_diverges_is_named_and_the_rest_goes_on(
  calls, tmp_path, monkeypatch
):
  train = comparison.train.train

  def diverges(config, folder, **options):
    if folder.endswith('a_seed0'):
      raise FloatingPointError('mi/local is NaN.')
    return train(config, folder, **options)

  monkeypatch.setattr(comparison.train, 'train', diverges)
  report = compare(tmp_path)
  assert report['skipped'] == [
    {'what': 'a, seed 0', 'reason': 'mi/local is NaN.'}
  ]
  assert [cell['row'] for cell in report['cells']] == ['b']


def test_measures_that_fail_cost_no_probes(calls, tmp_path, monkeypatch):
  def fails(*args, **options):
    raise MemoryError

  measure = comparison.represent.represent
  monkeypatch.setattr(comparison.represent, 'represent', fails)
  with pytest.raises(MemoryError):
    compare(tmp_path, methods=('b',), measures=('svm',))
  monkeypatch.setattr(comparison.represent, 'represent', measure)
  compare(tmp_path, methods=('b',), measures=('svm',))
  assert [call[0] for call in calls] == ['train', 'represent']


def test_another_protocol_or_length_is_refused_in_a_line(calls, tmp_path):
  compare(tmp_path)
  for settings, words in (
    ({'steps': 40}, 'steps = 20, this one has 40'),
    ({'protocol': Protocol(seeds=2)}, 'seeds = 1, this one has 2'),
  ):
    with pytest.raises(ValueError, match=f'{words}.*--workdir') as refused:
      compare(tmp_path, **settings)
    assert '\n' not in str(refused.value)
  assert len(calls) == 2


@pytest.mark.parametrize(
  ('made', 'settings', 'words'),
  [
    ({'a': {'accumulate': 3}}, {}, 'does not divide'),
    (None, {'measures': ('svn',)}, 'measures'),
    (None, {'methods': ('c',)}, 'methods'),
    (None, {'seeds': ()}, 'a method and a seed'),
  ],
)
def test_what_cannot_be_trained_is_refused_before_there_is_a_folder(
  calls, tmp_path, made, settings, words
):
  folder = tmp_path / 'table'
  with pytest.raises(ValueError, match=words):
    compare(folder, configs(**(made or {})), **settings)
  assert not folder.exists() and not calls


def test_methods_see_equally_many_images(tmp_path):
  made = configs()
  made['b'].steps = 30
  with pytest.raises(ValueError, match=r'equally many images.*--steps'):
    compare(tmp_path / 'table', made)


def test_files_page_and_terminal_say_the_same(calls, tmp_path):
  report = compare(tmp_path, measures=('svm',))
  with open(tmp_path / 'table.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 9  # Two methods and the untrained encoder.
  assert rows[0]['mean'] == '81.0' and rows[0]['published'] == '60.0'
  parts = comparison.summary(report)
  cells = [list(column.cells) for column in parts[0].columns]
  assert [str(x[0]) for x in cells[:4]] == ['A', '81.0', '60.0', '+21.0']
  html = (tmp_path / 'report').joinpath('index.html')
  assert dim_jax.report(tmp_path) == str(html)
  text = html.read_text('utf-8')
  for words in (
    '+21.0',
    'A copy.',
    'reads 11.0 points above',
    '25.00',
    '3.00 of 4.50',
  ):
    assert words in text
  with pytest.raises(ValueError, match='a page of its own'):
    dim_jax.report([tmp_path, tmp_path])


def test_tables_are_files_of_configs(tmp_path):
  with pytest.raises(ValueError, match=r"no table 'dim_digit'.*dim_digits"):
    configs_lib.table(['dim_digit'])
  for name, module in configs_lib.families().items():
    if hasattr(module, 'TABLE'):
      made = configs_lib.table([name])
      assert list(made) == list(module.TABLE)
      size = {config.steps * config.batch_size for config in made.values()}
      assert len(size) == 1
